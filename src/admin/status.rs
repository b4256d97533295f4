//! What admin HTTP answers: JSON for programs, `Display` for people.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::out::one_line;

/// The whole server.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Status {
    /// Version of the program.
    pub version: String,
    /// Name of the node.
    pub node: String,
    /// Number of the node in msgids.
    pub node_number: u16,
    /// Data folder.
    pub data: String,
    /// Time since the start, seconds.
    pub uptime_s: u64,
    /// The log.
    pub log: LogStatus,
    /// Open MQTT connections.
    pub connections: u64,
    /// The MQTT listeners.
    #[serde(default)]
    pub listeners: Vec<ListenerStatus>,
    /// Sessions, connected or not.
    pub sessions: u64,
    /// The sinks.
    pub sinks: Vec<SinkStatus>,
    /// What opening found, in words.
    pub recovery: String,
}

/// An MQTT listener.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ListenerStatus {
    /// Where it listens.
    pub address: SocketAddr,
    /// What lies between TCP and MQTT: `tcp` (nothing), `tls`, `ws` or `wss`.
    pub kind: String,
    /// Connections through it, those that have not sent CONNECT too.
    pub connections: u64,
}

/// The log.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct LogStatus {
    /// First record there is.
    pub first: u64,
    /// The durable watermark: every record below is on disk.
    pub durable_end: u64,
    /// Bytes of all segments on disk.
    pub bytes: u64,
    /// What an acknowledgement means: `synced`, `every` or `buffered`.
    pub durability: String,
    /// What happens to a sink that lags while there is no room: `block` or `drop_oldest`.
    #[serde(default)]
    pub when_full: String,
    /// True while the index of state can't be written: a start would replay more of the log.
    #[serde(default)]
    pub index_off: bool,
    /// Set while there is no room for new messages.
    #[serde(default)]
    pub no_space: Option<NoSpaceStatus>,
}

/// Why the log has no room for new messages.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct NoSpaceStatus {
    /// `disk`: the device is full. `budget`: `log.disk_budget_bytes` is used up.
    pub reason: String,
    /// In words, with figures.
    pub why: String,
    /// For how long, seconds.
    pub since_s: u64,
}

/// A sink.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct SinkStatus {
    /// Its name.
    pub name: String,
    /// What it does: `running`, `paused`, `waiting` for its database, …
    pub state: String,
    /// Why it is not running.
    pub reason: Option<String>,
    /// The next record it looks at; everything below is done.
    pub position: u64,
    /// Durable records it has not dealt with.
    pub lag_records: u64,
    /// Age of the oldest record it has not dealt with, seconds; 0 when there is none.
    pub lag_seconds: u64,
    /// Operations stored since the server started.
    pub stored: u64,
    /// Its dead letters.
    pub dead_letters: u64,
    /// Its last failure since the server started.
    pub last_error: Option<String>,
    /// What a named policy took from it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gap: Option<GapRow>,
}

/// Where a sink is to begin anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResetTo {
    /// At the log's first record.
    Earliest,
    /// At the log's end.
    Latest,
    /// At this record.
    Record(u64),
}

impl FromStr for ResetTo {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<ResetTo, &'static str> {
        match text {
            "earliest" => Ok(ResetTo::Earliest),
            "latest" => Ok(ResetTo::Latest),
            number => number.parse().map(ResetTo::Record).map_err(|_| "expected a record's number, earliest or latest"),
        }
    }
}

/// A cursor.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Cursor {
    /// `subscriber`, `sink`, `group` for a shared subscription, or `queue` for a queue that lost messages to a policy.
    pub kind: String,
    /// Client id, sink, topic or shared subscription.
    pub owner: String,
    /// Filter of a session's cursor.
    pub filter: String,
    /// The next record it looks at, where it is known; of a group the oldest message it owes.
    pub position: Option<u64>,
    /// True when the client or a member is connected, or the sink runs.
    pub active: bool,
    /// Of a group: clients whose sessions subscribe, and how many of them are connected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub members: Option<Members>,
    /// Of a group: messages it owes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag: Option<u64>,
    /// What a named policy took from it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gap: Option<GapRow>,
}

/// The members of a shared subscription's group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Members {
    /// Sessions that subscribe.
    pub sessions: usize,
    /// Those that are connected.
    pub connected: usize,
}

/// What a named policy took from a cursor, a sink, a queue or a group: the newest range, and the total of all.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct GapRow {
    /// First record of the newest range.
    pub from: u64,
    /// First record behind it.
    pub to: u64,
    /// Messages lost in it.
    pub count: u64,
    /// The policy: see `docs/OPERATIONS.md`.
    pub reason: String,
    /// When, us since 1970.
    pub time_us: u64,
    /// Messages lost in all ranges.
    pub total: u64,
}

/// A segment of the log.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct SegmentRow {
    /// File name.
    pub file: String,
    /// First record.
    pub first: u64,
    /// Last record, where the segment is sealed and not empty.
    pub last: Option<u64>,
    /// Size, bytes.
    pub bytes: u64,
    /// True when nothing is appended to it any more.
    pub sealed: bool,
}

/// A record.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct RecordRow {
    /// Its number.
    pub lsn: u64,
    /// Its time, us since 1970.
    pub time_us: u64,
    /// Its kind.
    pub kind: String,
    /// Its body's size, bytes.
    pub bytes: u64,
    /// The public name of a message.
    pub msgid: Option<String>,
    /// The topic of a message.
    pub topic: Option<String>,
    /// The payload of a message; bytes that are no UTF-8 are replaced.
    pub payload: Option<String>,
    /// Everything in it, in words.
    pub event: String,
}

/// A dead letter.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct DeadLetterRow {
    /// Its number.
    pub id: u64,
    /// The record.
    pub lsn: u64,
    /// When it was given up, us since 1970.
    pub time_us: u64,
    /// Why.
    pub reason: String,
    /// The rule.
    pub rule: String,
    /// Attempts made.
    pub attempts: u64,
    /// The statement as it was to be executed, and the record.
    pub detail: String,
}

/// What a command did.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Done {
    /// In words.
    pub done: String,
    /// How many things it did it to.
    pub count: u64,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "forebay {}  {} (number {})  up {} s", self.version, self.node, self.node_number, self.uptime_s)?;
        writeln!(f, "data         {}", self.data)?;
        let log = &self.log;
        writeln!(
            f,
            "log          records {}..{} durable, {} bytes, {}",
            log.first, log.durable_end, log.bytes, log.durability
        )?;
        if let Some(NoSpaceStatus { reason, why, since_s }) = &log.no_space {
            let policy = &log.when_full;
            writeln!(
                f,
                "FULL         {reason}, for {since_s} s: {why}; new messages are refused, acknowledgements go on"
            )?;
            writeln!(f, "             log.when_full = {policy}")?;
        }
        if log.index_off {
            writeln!(f, "index        can't be written now; a start would replay more of the log; it is tried again")?;
        }
        writeln!(f, "recovery     {}", self.recovery)?;
        write!(f, "clients      {} connections, {} sessions", self.connections, self.sessions)?;
        for listener in &self.listeners {
            write!(f, "\nlistener     {listener}  {} connections", listener.connections)?;
        }
        for sink in &self.sinks {
            write!(f, "\nsink         {sink}")?;
        }
        Ok(())
    }
}

impl fmt::Display for ListenerStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.address)?;
        if self.kind == "tcp" { Ok(()) } else { write!(f, " ({})", self.kind) }
    }
}

impl fmt::Display for SinkStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, state) = (&self.name, &self.state);
        write!(
            f,
            "{name}  {state}  position {}  lag {} records, {} s  ",
            self.position, self.lag_records, self.lag_seconds
        )?;
        write!(f, "stored {}  dead letters {}", self.stored, self.dead_letters)?;
        if let Some(GapRow { from, to, reason, total, .. }) = &self.gap {
            write!(f, "  lost {total} (newest: in {from}..{to}, {reason})")?;
        }
        self.reason.iter().try_for_each(|reason| write!(f, "  ({reason})"))
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let position = self.position.map_or_else(|| "-".to_owned(), |lsn| lsn.to_string());
        let active = if self.active { "active" } else { "idle" };
        let (owner, filter) = (one_line(&self.owner), one_line(&self.filter));
        write!(f, "{:<10} {owner:<24} {filter:<24} {position:>12}  {active}", self.kind)?;
        if let Some(Members { sessions, connected }) = self.members {
            write!(f, "  {connected} of {sessions} members connected, {} messages owed", self.lag.unwrap_or(0))?;
        }
        match &self.gap {
            None => Ok(()),
            Some(GapRow { from, to, count, reason, total, .. }) => {
                write!(f, "  lost {total} (newest: {count} of {from}..{to}, {reason})")
            }
        }
    }
}

impl fmt::Display for SegmentRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let last = self.last.map_or_else(|| "-".to_owned(), |lsn| lsn.to_string());
        let state = if self.sealed { "sealed" } else { "active" };
        write!(f, "{}  {:>12} {last:>12} {:>12} bytes  {state}", self.file, self.first, self.bytes)
    }
}

impl fmt::Display for RecordRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>10}  {}  {:<20} {}", self.lsn, self.time_us, self.kind, one_line(&self.event))
    }
}

impl fmt::Display for DeadLetterRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let DeadLetterRow { id, lsn, rule, attempts, .. } = self;
        let reason = one_line(&self.reason);
        write!(f, "{id:>6}  record {lsn}  rule {rule}  {attempts} attempts  {reason}")
    }
}

impl fmt::Display for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.done)
    }
}
