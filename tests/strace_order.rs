//! What is durable before what is sent, as the kernel saw it: the table "What a crash may cost" of `ARCHITECTURE.md`, row by row.
//!
//! The server runs under strace. For each packet that must wait for the disk, in this order: its cause was read; the very record
//! it waits for was written to the active segment; an `fdatasync` of that file began afterwards and returned; the packet's
//! `send` began. Writes and syncs of anything else (segments being prepared, the dead letters' log, SQLite) do not count.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::process::{Command, Stdio};

use forebay_engine::Event as Record;
use forebay_engine::event::{Origin, Published};

#[path = "support/trace.rs"]
mod trace;

mod support;

use support::client::{Connection, Event, Session};
use support::{PATIENCE, Server};
use trace::{Step, steps};

/// True for the record that is meant.
type Wanted = Box<dyn Fn(&Record) -> bool>;

/// A packet that has to wait, and for what.
struct Row {
    name: &'static str,
    /// What the server read (or that a connection ended).
    cause: Step,
    /// Port and first byte of what it sent.
    packet: (u16, u8),
    /// The records that must be durable before it, in order.
    records: Vec<Wanted>,
}

fn row(name: &'static str, cause: Step, packet: (u16, u8), record: impl Fn(&Record) -> bool + 'static) -> Row {
    Row { name, cause, packet, records: vec![Box::new(record)] }
}

impl Row {
    fn then(mut self, record: impl Fn(&Record) -> bool + 'static) -> Row {
        self.records.push(Box::new(record));
        self
    }

    /// True when the packet waited.
    fn check(&self, steps: &[Step]) -> Result<(), String> {
        let name = self.name;
        let caused = steps.iter().position(|step| *step == self.cause);
        let caused = caused.ok_or_else(|| format!("{name}: {:x?} is not in the trace", self.cause))?;
        let sent = Step::Send(self.packet.0, self.packet.1);
        let sent = steps[caused..].iter().position(|step| *step == sent).map(|at| caused + at);
        let sent = sent.ok_or_else(|| format!("{name}: its packet is not in the trace behind its cause"))?;
        let mut at = caused;
        for (number, record) in self.records.iter().enumerate() {
            at = durable(steps, at, sent, record)
                .ok_or_else(|| format!("{name}: sent before record {number} of {} was durable", self.records.len()))?;
        }
        Ok(())
    }
}

/// The step at which a record of this kind, written after `from`, is durable; `None` where that is not before `to`.
fn durable(steps: &[Step], from: usize, to: usize, wanted: &dyn Fn(&Record) -> bool) -> Option<usize> {
    let (written, file) = steps.iter().enumerate().take(to).skip(from).find_map(|(at, step)| match step {
        Step::Written { file, records } if records.iter().any(wanted) => Some((at, file)),
        _ => None,
    })?;
    steps.iter().enumerate().take(to).skip(written).find_map(|(at, step)| match step {
        Step::Synced { file: synced, began } if synced == file && *began > written => Some(at),
        _ => None,
    })
}

/// Waits for an event.
fn until(connection: &mut Connection<'_>, wanted: impl Fn(&Event) -> bool) {
    loop {
        let events = connection.poll(PATIENCE).unwrap();
        assert!(!events.is_empty(), "nothing came for {PATIENCE:?}");
        if events.iter().any(&wanted) {
            return;
        }
    }
}

fn message(event: &Event) -> bool {
    matches!(event, Event::Message { .. })
}

fn trace_of(server: &mut Server) -> std::path::PathBuf {
    let trace = server.dir.path().join("trace");
    let inner = server.command();
    let child = Command::new("strace")
        .args(["-f", "-yy", "-xx", "-s", "8192", "-e"])
        .arg("trace=read,readv,recvfrom,recvmsg,write,writev,sendto,sendmsg,pwrite64,pwritev,pwritev2,fdatasync,fsync")
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
    trace
}

/// Client ports of the story, by who connected.
struct Ports {
    subscriber: u16,
    publisher: u16,
    testator: u16,
    discarding: u16,
}

/// One client after the other does one thing at a time, so that each packet has one cause.
fn story(server: &Server) -> Ports {
    let mut session = Session::new("subscriber", false);
    let mut subscriber = session.connect(server.mqtt).unwrap();
    subscriber.subscribe("order/#", 2).unwrap();
    let mut session = Session::new("publisher", false);
    let mut publisher = session.connect(server.mqtt).unwrap();
    publisher.publish("order/1", b"one", 1, 1).unwrap();
    until(&mut publisher, |event| *event == Event::Completed(1));
    until(&mut subscriber, message);
    publisher.publish("order/2", b"two", 2, 2).unwrap();
    until(&mut publisher, |event| *event == Event::Completed(2));
    until(&mut subscriber, |event| *event == Event::Released);
    // A connection with a will breaks.
    let mut session = Session::new("testator", false).with_will("order/will", "three");
    let testator = session.connect(server.mqtt).unwrap();
    let testator_port = testator.port().unwrap();
    drop(testator);
    until(&mut subscriber, message);
    subscriber.unsubscribe("order/#").unwrap();
    let ports = (subscriber.port().unwrap(), publisher.port().unwrap());
    publisher.disconnect().unwrap();
    // The publisher's session is discarded by a clean start.
    let mut session = Session::new("publisher", true);
    let discarding = session.connect(server.mqtt).unwrap();
    let discarding_port = discarding.port().unwrap();
    subscriber.disconnect().unwrap();
    Ports { subscriber: ports.0, publisher: ports.1, testator: testator_port, discarding: discarding_port }
}

fn is_published(record: &Record, payload: &str) -> bool {
    matches!(record, Record::Published(e) if e.message.payload == payload.as_bytes())
}

fn is_will(record: &Record) -> bool {
    matches!(record, Record::Published(Published { message, .. }) if message.origin == Origin::Will)
}

fn rows(ports: &Ports) -> Vec<Row> {
    let (s, p, t, d) = (ports.subscriber, ports.publisher, ports.testator, ports.discarding);
    let opened = |client: &'static str, clean: bool, will: bool| {
        move |record: &Record| {
            matches!(record, Record::SessionOpened(e)
                if e.client == client && (e.expiry_s == 0) == clean && e.will.is_some() == will && !e.resumed)
        }
    };
    vec![
        row("CONNACK of a persistent session", Step::Read(s, 0x10), (s, 0x20), opened("subscriber", false, false)),
        row("CONNACK with a will", Step::Read(t, 0x10), (t, 0x20), opened("testator", false, true)),
        row("CONNACK of a clean start that discards", Step::Read(d, 0x10), (d, 0x20), opened("publisher", true, false)),
        row("SUBACK", Step::Read(s, 0x82), (s, 0x90), |r| matches!(r, Record::Subscribed(_))),
        row("UNSUBACK", Step::Read(s, 0xa2), (s, 0xb0), |r| matches!(r, Record::Unsubscribed(_))),
        row("PUBACK", Step::Read(p, 0x32), (p, 0x40), |r| is_published(r, "one")),
        row("PUBREC", Step::Read(p, 0x34), (p, 0x50), |r| {
            is_published(r, "two") && matches!(r, Record::Published(Published { packet_id: Some(_), .. }))
        }),
        row("PUBCOMP to a publisher", Step::Read(p, 0x62), (p, 0x70), |r| matches!(r, Record::Released(_))),
        row("PUBLISH QoS 1 to a subscriber", Step::Read(p, 0x32), (s, 0x32), |r| is_published(r, "one")),
        row("PUBLISH QoS 2 to a subscriber", Step::Read(p, 0x34), (s, 0x34), |r| is_published(r, "two"))
            .then(|r| matches!(r, Record::Sent(_))),
        row("PUBREL to a subscriber", Step::Read(s, 0x50), (s, 0x62), |r| matches!(r, Record::Received(_))),
        row("PUBLISH of a will", Step::Closed(t), (s, 0x32), is_will),
    ]
}

#[test]
fn every_packet_that_promises_something_is_sent_after_the_sync_that_makes_it_true() {
    let mut server = Server::stopped();
    // A small segment: its preparation is in the trace too.
    server.configure("[log]\nsegment_bytes = 4194304\n");
    let trace = trace_of(&mut server);
    let ports = story(&server);
    server.kill_traced();

    let steps = steps(&std::fs::read_to_string(&trace).unwrap());
    let mut faults = Vec::new();
    for row in rows(&ports) {
        match row.check(&steps) {
            Ok(()) => println!("{}: after the sync", row.name),
            Err(fault) => faults.push(fault),
        }
    }
    assert!(faults.is_empty(), "{}\n{steps:x?}", faults.join("\n"));

    // The will's publication is also its removal: a server that dies right after it does not publish it again.
    server.restart();
    assert!(server.stop().success());
    let wills = server.logged().into_iter().filter(|row| row["topic"] == "order/will").count();
    assert_eq!(wills, 1);
}

#[test]
fn the_reader_of_the_trace_sees_an_acknowledgement_before_its_sync() {
    use trace::fixture::{fdatasync, frame, pwrite, recv, send};
    let published = |payload: &'static str| {
        let message = forebay_engine::Message { payload: payload.into(), ..forebay_engine::Message::default() };
        frame(&Record::Published(Published { message, packet_id: None, epoch: 0 }))
    };
    let (read, acknowledged) = (recv(5000, &[0x32, 0]), send(5000, &[0x40, 2, 0, 1]));
    let (segment, other) = ("/d/data/log/1.seg", "/d/data/dead-letters/x/1.seg");
    let write = pwrite(segment, &published("one"));
    let (begins, ends) = fdatasync(segment);
    let (other_begins, other_ends) = fdatasync(other);
    let puback = row("PUBACK", Step::Read(5000, 0x32), (5000, 0x40), |r| is_published(r, "one"));
    let check = |lines: &[&str]| puback.check(&steps(&lines.join("\n")));
    assert_eq!(check(&[&read, &write, &begins, &ends, &acknowledged]), Ok(()));
    assert!(check(&[&read, &write, &begins, &acknowledged, &ends]).is_err(), "the sync has not returned");
    assert!(check(&[&read, &begins, &write, &ends, &acknowledged]).is_err(), "the sync began before the write");
    assert!(check(&[&read, &write, &other_begins, &other_ends, &acknowledged]).is_err(), "a sync of another file");
    let another = pwrite(segment, &published("two"));
    assert!(check(&[&read, &another, &begins, &ends, &acknowledged]).is_err(), "another record");
    let elsewhere = pwrite(other, &published("one"));
    assert!(check(&[&read, &elsewhere, &begins, &ends, &acknowledged]).is_err(), "another log");
}
