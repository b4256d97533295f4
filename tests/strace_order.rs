//! What is durable before what is sent, as the kernel saw it: design section 6, row by row.
//!
//! The server runs under strace. For each packet that must wait for the disk, its `send` must begin after an `fdatasync` of a
//! segment returned that itself followed a write to a segment made after the packet's cause was read.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::HashMap;
use std::process::{Command, Stdio};
use std::time::Duration;

mod support;

use support::client::{Event, Session};
use support::{PATIENCE, Server};

/// A step of the server, in the order in which it happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// A read from this client's port returned; the first byte.
    Read(u16, u8),
    /// A write to a segment began.
    LogWrite,
    /// A sync of a segment returned.
    LogSynced,
    /// A send to this client's port began; the first byte.
    Send(u16, u8),
}

/// Reads the trace. Reads and syncs count when they return, writes and sends when they begin.
fn steps(trace: &str) -> Vec<Step> {
    let mut unfinished: HashMap<&str, String> = HashMap::new();
    let mut steps = Vec::new();
    for line in trace.lines() {
        let Some((pid, rest)) = line.split_once(' ') else { continue };
        let rest = rest.trim_start();
        if let Some(begun) = rest.strip_suffix(" <unfinished ...>") {
            steps.extend(begins(begun));
            unfinished.insert(pid, begun.to_owned());
        } else if rest.starts_with("<... ") {
            let Some(begun) = unfinished.remove(pid) else { continue };
            let tail = rest.split_once("resumed>").map_or("", |(_, tail)| tail);
            steps.extend(ends(&format!("{begun}{tail}")));
        } else {
            steps.extend(begins(rest));
            steps.extend(ends(rest));
        }
    }
    steps
}

fn hex(text: &str) -> String {
    text.bytes().map(|byte| format!("\\x{byte:02x}")).collect()
}

fn is_segment(call: &str) -> bool {
    call.split_once('>').is_some_and(|(file, _)| file.ends_with(&hex(".seg")))
}

/// The client's port of a call on a TCP connection.
fn port(call: &str) -> Option<u16> {
    call.split_once("<TCP:[")?.1.split_once("->")?.1.split_once("]>")?.0.rsplit(':').next()?.parse().ok()
}

fn first_byte(call: &str) -> Option<u8> {
    u8::from_str_radix(call.split_once("\"\\x")?.1.get(..2)?, 16).ok()
}

fn begins(call: &str) -> Option<Step> {
    if (call.starts_with("sendto(")
        || call.starts_with("write(")
        || call.starts_with("writev(")
        || call.starts_with("sendmsg("))
        && let (Some(port), Some(byte)) = (port(call), first_byte(call))
    {
        return Some(Step::Send(port, byte));
    }
    let write = call.starts_with("pwrite") || call.starts_with("write");
    (write && is_segment(call)).then_some(Step::LogWrite)
}

fn ends(call: &str) -> Option<Step> {
    if call.starts_with("recvfrom(") || call.starts_with("read(") || call.starts_with("readv(") {
        return Some(Step::Read(port(call)?, first_byte(call)?));
    }
    (call.starts_with("fdatasync(") && is_segment(call) && call.trim_end().ends_with("= 0")).then_some(Step::LogSynced)
}

/// True when `send` began after `syncs` rounds of write and sync that followed `read`.
fn waited(steps: &[Step], read: Step, send: Step, syncs: usize) -> Result<(), String> {
    let after = |from: usize, step: Step| steps[from..].iter().position(|s| *s == step).map(|at| from + at);
    let read_at = after(0, read).ok_or_else(|| format!("{read:x?} is not in the trace"))?;
    let send_at = after(read_at, send).ok_or_else(|| format!("{send:x?} is not in the trace after {read:x?}"))?;
    let mut at = Some(read_at);
    for _ in 0..syncs {
        at = at.and_then(|at| after(at, Step::LogWrite)).and_then(|at| after(at, Step::LogSynced));
    }
    let in_time = at.is_some_and(|at| at < send_at);
    if in_time { Ok(()) } else { Err(format!("between them:\n{:x?}", &steps[read_at..=send_at])) }
}

#[test]
fn every_packet_that_promises_something_is_sent_after_the_sync_that_makes_it_true() {
    let mut server = Server::stopped();
    let trace = server.dir.path().join("trace");
    let inner = server.command();
    let child = Command::new("strace")
        .args(["-f", "-yy", "-xx", "-s", "8", "-e"])
        .arg("trace=read,readv,recvfrom,write,writev,sendto,sendmsg,pwrite64,pwritev,pwritev2,fdatasync")
        .arg("-o")
        .arg(&trace)
        .arg(inner.get_program())
        .args(inner.get_args())
        .current_dir(server.dir.path())
        .stdin(Stdio::null())
        .stderr(std::fs::File::create(server.dir.path().join("stderr")).unwrap())
        .spawn()
        .expect("strace is needed: `cargo xtask test` installs it");
    server.adopt(child);

    let until = |connection: &mut support::client::Connection<'_>, wanted: &dyn Fn(&Event) -> bool| {
        while !connection.poll(PATIENCE).unwrap().iter().any(wanted) {}
    };
    // A persistent session that subscribes with QoS 2 ...
    let mut session = Session::new("subscriber", false);
    let mut subscriber = session.connect(server.mqtt).unwrap();
    let s = subscriber.port().unwrap();
    subscriber.subscribe("order/#", 2).unwrap();
    // ... and a publisher, one message at a time, QoS 1 and then QoS 2.
    let mut session = Session::new("publisher", false);
    let mut publisher = session.connect(server.mqtt).unwrap();
    let p = publisher.port().unwrap();
    publisher.publish("order/1", b"one", 1, 1).unwrap();
    until(&mut publisher, &|event| *event == Event::Completed(1));
    until(&mut subscriber, &|event| matches!(event, Event::Message { .. }));
    publisher.publish("order/2", b"two", 2, 2).unwrap();
    until(&mut publisher, &|event| *event == Event::Completed(2));
    until(&mut subscriber, &|event| matches!(event, Event::Message { .. }));
    // Lets the QoS 2 handshake with the subscriber come to its end.
    while !subscriber.poll(Duration::from_millis(500)).unwrap().is_empty() {}
    subscriber.unsubscribe("order/#").unwrap();
    subscriber.disconnect().unwrap();
    publisher.disconnect().unwrap();
    server.kill_traced();

    let steps = steps(&std::fs::read_to_string(&trace).unwrap());
    // The message for a QoS 2 subscriber waits twice: for its own record, then for the packet id it goes out under.
    let rows = [
        ("CONNACK of a persistent session", Step::Read(s, 0x10), Step::Send(s, 0x20), 1),
        ("SUBACK", Step::Read(s, 0x82), Step::Send(s, 0x90), 1),
        ("PUBACK", Step::Read(p, 0x32), Step::Send(p, 0x40), 1),
        ("PUBREC", Step::Read(p, 0x34), Step::Send(p, 0x50), 1),
        ("PUBCOMP to a publisher", Step::Read(p, 0x62), Step::Send(p, 0x70), 1),
        ("PUBLISH QoS 2 to a subscriber", Step::Read(p, 0x34), Step::Send(s, 0x34), 2),
        ("PUBREL to a subscriber", Step::Read(s, 0x50), Step::Send(s, 0x62), 1),
        ("UNSUBACK", Step::Read(s, 0xa2), Step::Send(s, 0xb0), 1),
    ];
    let mut faults = Vec::new();
    for (row, read, send, syncs) in rows {
        match waited(&steps, read, send, syncs) {
            Ok(()) => println!("{row}: after the sync"),
            Err(fault) => faults.push(format!("{row} did not wait for the sync: {fault}")),
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn the_reader_of_the_trace_sees_an_acknowledgement_before_its_sync() {
    let seg = hex("/d/log/1.seg");
    let read = r#"7 recvfrom(9<TCP:[127.0.0.1:1883->127.0.0.1:5000]>, "\x32\x02", 8192, 0, NULL, NULL) = 2"#;
    let send = r#"7 sendto(9<TCP:[127.0.0.1:1883->127.0.0.1:5000]>, "\x40\x02\x00\x01", 4, 0, NULL, 0) = 4"#;
    let write = format!("8 pwrite64(4<{seg}>, \"\\x00\", 1, 0) = 1");
    let sync_begins = format!("8 fdatasync(4<{seg}> <unfinished ...>");
    let sync_ends = "8 <... fdatasync resumed>) = 0";
    let (cause, answer) = (Step::Read(5000, 0x32), Step::Send(5000, 0x40));
    let good = [read, &write, &sync_begins, sync_ends, send].join("\n");
    assert_eq!(waited(&steps(&good), cause, answer, 1), Ok(()));
    let early = [read, &write, &sync_begins, send, sync_ends].join("\n");
    assert!(waited(&steps(&early), cause, answer, 1).is_err());
}
