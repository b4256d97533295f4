//! Reading a trace of strace (`-f -yy -xx`): what came from clients, what went to them, and what the log's writer did between.

use std::collections::HashMap;

use forebay_engine::Event as Record;

/// Bytes in front of a record's body in a segment; `docs/FORMAT.md`, "Frame".
const FRAME_HEADER: usize = 32;

/// A step of the server. Reads, writes to the log and syncs stand where they returned, sends where they began.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// A packet came from this client's port; its first byte.
    Read(u16, u8),
    /// The connection from this client's port ended.
    Closed(u16),
    /// Records were written to a segment of the log.
    Written {
        /// Its file descriptor.
        file: u32,
        /// The records.
        records: Vec<Record>,
    },
    /// A sync of a segment of the log returned without a fault.
    Synced {
        /// Its file descriptor.
        file: u32,
        /// How many steps there were when it began.
        began: usize,
    },
    /// A packet went to this client's port; its first byte.
    Send(u16, u8),
}

/// A system call that has begun: its text, and how many steps there were then.
struct Begun {
    text: String,
    at: usize,
}

/// All steps of a trace, in order.
pub fn steps(trace: &str) -> Vec<Step> {
    let mut unfinished: HashMap<&str, Begun> = HashMap::new();
    let mut steps = Vec::new();
    for line in trace.lines() {
        let Some((thread, rest)) = line.split_once(' ') else { continue };
        let rest = rest.trim_start();
        if let Some(text) = rest.strip_suffix(" <unfinished ...>") {
            unfinished.insert(thread, Begun { text: text.to_owned(), at: steps.len() });
            begins(text, &mut steps);
        } else if rest.starts_with("<... ") {
            let Some(Begun { text, at }) = unfinished.remove(thread) else { continue };
            let tail = rest.split_once("resumed>").map_or("", |(_, tail)| tail);
            ends(&format!("{text}{tail}"), at, &mut steps);
        } else {
            let at = steps.len();
            begins(rest, &mut steps);
            ends(rest, at, &mut steps);
        }
    }
    steps
}

fn begins(call: &str, steps: &mut Vec<Step>) {
    let sends = ["sendto(", "sendmsg(", "write(", "writev("].iter().any(|name| call.starts_with(name));
    if let Some(port) = port(call).filter(|_| sends) {
        steps.extend(packets(&bytes(call)).map(|first| Step::Send(port, first)));
    }
}

fn ends(call: &str, began: usize, steps: &mut Vec<Step>) {
    let reads = ["recvfrom(", "recvmsg(", "read(", "readv("].iter().any(|name| call.starts_with(name));
    let result = call.rsplit_once(" = ").map_or("", |(_, result)| result.trim());
    if let Some(port) = port(call).filter(|_| reads) {
        if result == "0" || result.starts_with("-1 ECONNRESET") {
            steps.push(Step::Closed(port));
        } else {
            steps.extend(packets(&bytes(call)).map(|first| Step::Read(port, first)));
        }
    } else if let Some(file) = segment(call) {
        if call.starts_with("pwrite64(") {
            steps.push(Step::Written { file, records: records(&bytes(call)) });
        } else if call.starts_with("fdatasync(") && result == "0" {
            steps.push(Step::Synced { file, began });
        }
    }
}

/// The client's port of a call on a TCP connection.
fn port(call: &str) -> Option<u16> {
    call.split_once("<TCP:[")?.1.split_once("->")?.1.split_once("]>")?.0.rsplit(':').next()?.parse().ok()
}

/// The file descriptor of a call on a segment of the log; those of other logs are not meant.
fn segment(call: &str) -> Option<u32> {
    let (number, rest) = call.split_once('(')?.1.split_once('<')?;
    let path = String::from_utf8(unhex(rest.split_once('>')?.0)).ok()?;
    (path.contains("/data/log/") && path.ends_with(".seg")).then(|| number.parse().ok())?
}

/// The bytes of the call's buffers, as far as strace shows them.
fn bytes(call: &str) -> Vec<u8> {
    call.split('"').skip(1).step_by(2).flat_map(unhex).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    text.split("\\x").skip(1).filter_map(|digits| u8::from_str_radix(digits.get(..2)?, 16).ok()).collect()
}

/// First bytes of the MQTT packets that begin in `bytes`, which begin with one.
fn packets(mut bytes: &[u8]) -> impl Iterator<Item = u8> {
    let mut firsts = Vec::new();
    while let Some(first) = bytes.first() {
        firsts.push(*first);
        let digits = bytes.iter().skip(1).take(4).take_while(|byte| **byte & 0x80 != 0).count() + 1;
        let length = bytes.iter().skip(1).take(digits).rev().fold(0, |sum, byte| sum << 7 | usize::from(byte & 0x7f));
        bytes = bytes.get(1 + digits + length..).unwrap_or_default();
    }
    firsts.into_iter()
}

/// The records whose frames `bytes` hold. Bytes that are no frames (a segment's header, zeros) have none.
fn records(mut bytes: &[u8]) -> Vec<Record> {
    let mut records = Vec::new();
    while let Some(header) = bytes.first_chunk::<FRAME_HEADER>() {
        let length = u32::from_le_bytes([header[4], header[5], header[6], header[7]]) as usize;
        let Some(body) = bytes.get(FRAME_HEADER..FRAME_HEADER + length) else { break };
        let Ok(record) = Record::decode(header[28], body.to_vec().into()) else { break };
        records.push(record);
        bytes = &bytes[FRAME_HEADER + length..];
    }
    records
}

/// Lines as strace writes them.
pub mod fixture {
    use super::{FRAME_HEADER, Record};

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("\\x{byte:02x}")).collect()
    }

    /// A record's frame, its checksum aside.
    pub fn frame(record: &Record) -> Vec<u8> {
        let mut body = Vec::new();
        record.encode(&mut body);
        let mut frame = vec![0; FRAME_HEADER];
        frame[4..8].copy_from_slice(&(body.len() as u32).to_le_bytes());
        frame[28] = record.kind();
        frame.extend_from_slice(&body);
        frame
    }

    /// Bytes from a client.
    pub fn recv(port: u16, bytes: &[u8]) -> String {
        let (n, bytes) = (bytes.len(), hex(bytes));
        format!("7 recvfrom(9<TCP:[127.0.0.1:1883->127.0.0.1:{port}]>, \"{bytes}\", 8192, 0, NULL, NULL) = {n}")
    }

    /// Bytes to a client.
    pub fn send(port: u16, bytes: &[u8]) -> String {
        let (n, bytes) = (bytes.len(), hex(bytes));
        format!("7 sendto(9<TCP:[127.0.0.1:1883->127.0.0.1:{port}]>, \"{bytes}\", {n}, 0, NULL, 0) = {n}")
    }

    /// A write to a file.
    pub fn pwrite(path: &str, bytes: &[u8]) -> String {
        let (path, n, bytes) = (hex(path.as_bytes()), bytes.len(), hex(bytes));
        format!("8 pwrite64(4<{path}>, \"{bytes}\", {n}, 64) = {n}")
    }

    /// The beginning and the end of a sync.
    pub fn fdatasync(path: &str) -> (String, String) {
        let begins = format!("8 fdatasync(4<{}> <unfinished ...>", hex(path.as_bytes()));
        (begins, "8 <... fdatasync resumed>) = 0".to_owned())
    }
}
