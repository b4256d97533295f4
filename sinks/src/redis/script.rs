//! The batch script: how operations are put into its arguments, and what it answers.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use forebay_engine::Lsn;
use redis::{Cmd, Value};

use super::config::RetainLayout;
use super::encode::{MessageRow, What};
use super::keys::Home;
use super::link::string;
use crate::sink::Positions;

/// See the script's own words.
pub(super) const BATCH: &str = include_str!("batch.lua");

/// An operation as the script is told of it.
pub(super) struct Step<'a> {
    pub(super) lane: u16,
    pub(super) lsn: u64,
    pub(super) rule: usize,
    pub(super) place: u32,
    pub(super) what: &'a What,
    /// Topics that an unsubscribe with a wildcard forgets.
    pub(super) topics: &'a [Vec<u8>],
}

/// What the script answered.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// All is stored.
    Stored,
    /// The position was reset, or is gone: this connection no longer knows what is done.
    Stale,
    /// These were refused, the others are stored, the position waits.
    Failed(Vec<(usize, String)>),
    /// The server refuses for a reason that is not one operation's: what was stored before is remembered.
    Stopped(usize, String),
}

/// The command that runs the script.
pub(super) fn command(sha: &str, home: &Home, epoch: &str, node: &str, layout: RetainLayout) -> Cmd {
    let mut cmd = redis::cmd("EVALSHA");
    cmd.arg(sha).arg(3).arg(&home.positions).arg(&home.partial).arg(&home.expiry).arg(epoch).arg(node);
    cmd.arg(if layout == RetainLayout::Zset { "zset" } else { "hash" });
    cmd
}

/// Adds the position. `records` are the batch's, with their lanes.
pub(super) fn positions(cmd: &mut Cmd, positions: Option<&Positions>, records: impl Iterator<Item = (u16, Lsn)>) {
    let Some(positions) = positions else {
        cmd.arg("").arg(0);
        return;
    };
    let mut firsts: BTreeMap<u16, Lsn> = positions.lanes.iter().copied().collect();
    for (lane, lsn) in records {
        if let Some(first) = firsts.get_mut(&lane) {
            *first = lsn.min(*first);
        }
    }
    cmd.arg(positions.prefix.0).arg(positions.lanes.len());
    for (lane, lsn) in &positions.lanes {
        cmd.arg(*lane).arg(lsn.0).arg(firsts.get(lane).unwrap_or(lsn).0);
    }
}

/// True for messages that [`messages`] takes.
pub(super) fn is_plain(what: &What) -> bool {
    matches!(what, What::Message(row) if row.expires_ms.is_none())
}

/// Adds several [plain](is_plain) messages at once.
pub(super) fn messages<'a>(cmd: &mut Cmd, steps: impl ExactSizeIterator<Item = Step<'a>> + Clone) {
    let mut names = String::with_capacity(steps.len() * 20);
    for step in steps.clone() {
        if !names.is_empty() {
            names.push(' ');
        }
        step.name(&mut names);
    }
    cmd.arg("messages").arg(names).arg(steps.len() * FIELDS);
    for step in steps {
        if let What::Message(row) = step.what {
            fields(cmd, row);
        }
    }
}

/// Adds an operation.
pub(super) fn step(cmd: &mut Cmd, step: &Step<'_>) {
    let head = |cmd: &mut Cmd, tag: &str, arguments: usize| {
        let mut name = String::new();
        step.name(&mut name);
        cmd.arg(tag).arg(name).arg(arguments);
    };
    match step.what {
        What::Message(row) => {
            head(cmd, "message", FIELDS + 1);
            message(cmd, row);
        }
        What::Latest(row) => {
            head(cmd, "latest", FIELDS + 1);
            message(cmd, row);
        }
        What::Retain(row) => {
            head(cmd, "retain", FIELDS + 1);
            message(cmd, row);
        }
        What::RetainDelete { topic } => {
            head(cmd, "unretain", 1);
            cmd.arg(topic.as_bytes().as_ref());
        }
        What::Acked { client, topic, msgid } => {
            head(cmd, "acked", 3);
            cmd.arg(&**client).arg(&**topic).arg(msgid);
        }
        What::Remove { topic, msgid } => {
            head(cmd, "remove", 2);
            cmd.arg(&**topic).arg(msgid);
        }
        What::AckedDelete { client, filter } => {
            head(cmd, "forget", 2 + step.topics.len());
            cmd.arg(&**client).arg(&**filter);
            for topic in step.topics {
                cmd.arg(topic);
            }
        }
        What::Imported { topic, msgid, key } => {
            head(cmd, "imported", 3);
            cmd.arg(&**topic).arg(msgid).arg(&**key);
        }
        What::Online { client, at } => {
            head(cmd, "online", 2);
            cmd.arg(&**client).arg(*at);
        }
        What::Offline { client, at } => {
            head(cmd, "offline", 2);
            cmd.arg(&**client).arg(*at);
        }
        What::Command(fields) => {
            head(cmd, "command", fields.len());
            for field in fields {
                cmd.arg(field.as_ref());
            }
        }
    }
}

impl Step<'_> {
    /// Its name among the batch's: `lane:record:rule.place`.
    fn name(&self, out: &mut String) {
        // Writing into a String can't fail.
        let _infallible = write!(out, "{}:{}:{}.{}", self.lane, self.lsn, self.rule, self.place);
    }
}

/// Arguments of a message that does not expire.
const FIELDS: usize = 7;

fn fields(cmd: &mut Cmd, row: &MessageRow) {
    cmd.arg(&row.msgid).arg(&*row.topic).arg(&*row.sender).arg(row.qos).arg(row.payload.as_ref()).arg(row.ts);
    cmd.arg(if row.retain { "true" } else { "false" });
}

fn message(cmd: &mut Cmd, row: &MessageRow) {
    fields(cmd, row);
    match row.expires_ms {
        Some(ms) => cmd.arg(ms),
        None => cmd.arg(""),
    };
}

/// Reads the script's answer; `None` where it is none.
pub(super) fn answer(value: &Value) -> Option<Answer> {
    let Value::Array(parts) = value else { return None };
    let index = |value: &Value| match value {
        Value::Int(n) => usize::try_from(*n).ok(),
        _ => None,
    };
    Some(match string(parts.first()?)?.as_str() {
        "ok" => Answer::Stored,
        "stale" => Answer::Stale,
        "stop" => Answer::Stopped(index(parts.get(1)?)?, string(parts.get(2)?)?),
        "failed" => {
            let (chunks, _) = parts.get(1..)?.as_chunks::<2>();
            let failed = chunks.iter().map(|[n, text]| Some((index(n)?, string(text)?)));
            Answer::Failed(failed.collect::<Option<_>>()?)
        }
        _ => return None,
    })
}
