//! Operations of a batch by the partition they write, and what is sent for each.

use std::collections::{BTreeMap, HashMap, HashSet};

use forebay_engine::{MsgId, topic};

use super::connect::{CassandraSink, Link};
use super::encode::adds;
use super::op::CassandraOp;
use super::outgoing::Outgoing;
use crate::sink::{Entry, Verdict, WriteError};
use crate::source::BoxFuture;
use crate::sql::Value;

/// The operations of one partition, or of one lane's users' statements, with their places in the batch.
#[derive(Debug)]
pub(super) enum Part<'a> {
    Topic(&'a str, Vec<(usize, &'a Entry<CassandraOp>)>),
    Client(&'a str, Vec<(usize, &'a Entry<CassandraOp>)>),
    Acks(&'a str, Vec<(usize, &'a Entry<CassandraOp>)>),
    Statements(Vec<(usize, &'a Entry<CassandraOp>)>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Key<'a> {
    Topic(&'a str),
    Client(&'a str),
    Acks(&'a str),
    Statements(u16),
}

/// A batch by partitions; the order within each is the log's.
pub(super) fn parts(entries: &[Entry<CassandraOp>]) -> Vec<Part<'_>> {
    let mut by_key: BTreeMap<Key<'_>, Vec<(usize, &Entry<CassandraOp>)>> = BTreeMap::new();
    for (index, entry) in entries.iter().enumerate() {
        let key = match &entry.op {
            CassandraOp::Message(row) | CassandraOp::Latest(row) | CassandraOp::Retain(row) => Key::Topic(&row.topic),
            CassandraOp::RetainDelete { topic }
            | CassandraOp::Remove { topic, .. }
            | CassandraOp::Imported { topic, .. } => Key::Topic(topic),
            CassandraOp::Online { client, .. } | CassandraOp::Offline { client, .. } => Key::Client(client),
            CassandraOp::Acked { client, .. } | CassandraOp::AckedDelete { client, .. } => Key::Acks(client),
            CassandraOp::Statement { lane, .. } => Key::Statements(*lane),
        };
        by_key.entry(key).or_default().push((index, entry));
    }
    let part = |(key, list)| match key {
        Key::Topic(topic) => Part::Topic(topic, list),
        Key::Client(client) => Part::Client(client, list),
        Key::Acks(client) => Part::Acks(client, list),
        Key::Statements(_) => Part::Statements(list),
    };
    by_key.into_iter().map(part).collect()
}

/// A batch's way to the server.
#[derive(Clone, Copy, Debug)]
pub(super) struct Writer<'a> {
    pub(super) sink: &'a CassandraSink,
    pub(super) link: &'a Link,
    /// us since 1970.
    pub(super) now_us: u64,
}

pub(super) fn time(us: u64) -> Value {
    Value::Int(us.cast_signed())
}

pub(super) fn millis(us: u64) -> Value {
    Value::Int((us / 1_000).cast_signed())
}

pub(super) fn text(text: &str) -> Value {
    Value::Text(text.into())
}

impl<'a> Writer<'a> {
    /// Writes a partition; which operations were refused.
    pub(super) fn begin(self, part: Part<'a>) -> BoxFuture<'a, Result<Vec<(usize, Verdict)>, WriteError>> {
        Box::pin(async move {
            match part {
                Part::Topic(topic, entries) => self.topic(topic, &entries).await,
                Part::Client(client, entries) => self.client(client, &entries).await,
                Part::Acks(client, entries) => self.acks(client, &entries).await,
                Part::Statements(entries) => self.statements(&entries).await,
            }
        })
    }

    /// The row of another program that a message of ours was imported from.
    pub(super) async fn foreign(&self, topic: &str, msgid: &str) -> Result<Option<String>, WriteError> {
        if !self.link.imports() {
            return Ok(None);
        }
        let cql = "select value from forebay_imported where topic = ? and name = ?";
        let rows: Vec<(Option<String>,)> = self.link.rows(cql, &[text(topic), text(&format!("m:{msgid}"))]).await?;
        Ok(rows.into_iter().find_map(|(value,)| value))
    }

    async fn client(
        &self,
        client: &str,
        entries: &[(usize, &Entry<CassandraOp>)],
    ) -> Result<Vec<(usize, Verdict)>, WriteError> {
        let (link, mut out) = (self.link, Outgoing::default());
        let name = link.found().client("client");
        let here = &self.sink.config.node_name;
        let mut came_us = None;
        for (index, entry) in entries {
            match &entry.op {
                CassandraOp::Online { .. } => {
                    came_us = Some(entry.time_us.cast_signed());
                    let cql = format!(
                        "insert into client ({name}, connected, disconnected, node, state) values (?, ?, null, ?, ?) using timestamp ?"
                    );
                    let at = entry.time_us;
                    let values = [text(client), millis(at), text(here), Value::Int(1), time(at)];
                    out.add(link, &cql, &values, &[*index]).await?;
                }
                CassandraOp::Offline { .. } => {
                    let cql = format!("select node, writetime(node) from client where {name} = ?");
                    let rows: Vec<(Option<String>, Option<i64>)> = link.rows(&cql, &[text(client)]).await?;
                    let elsewhere = rows.into_iter().any(|(node, written_us)| {
                        node.is_some_and(|node| node != *here) && came_us.is_none_or(|came| written_us > Some(came))
                    });
                    // Its session is another node's by now.
                    if elsewhere {
                        continue;
                    }
                    let cql =
                        format!("update client using timestamp ? set disconnected = ?, state = ? where {name} = ?");
                    let at = entry.time_us;
                    let values = [time(at), millis(at), Value::Int(0), text(client)];
                    out.add(link, &cql, &values, &[*index]).await?;
                }
                _ => {}
            }
        }
        out.send(link).await?;
        Ok(out.refused)
    }

    async fn acks(
        &self,
        client: &str,
        entries: &[(usize, &Entry<CassandraOp>)],
    ) -> Result<Vec<(usize, Verdict)>, WriteError> {
        let (link, mut out) = (self.link, Outgoing::default());
        let name = link.found().client("acked");
        // Between two deletions only the furthest of each topic matters.
        let mut acks: Vec<Ack<'_>> = Vec::new();
        let mut newest: HashMap<&str, usize> = HashMap::new();
        let mut forgotten: Vec<(String, u64, usize)> = Vec::new();
        for (index, entry) in entries {
            match &entry.op {
                CassandraOp::Acked { topic, msgid, .. } => {
                    if let Some(ack) = newest.get(&**topic).and_then(|place| acks.get_mut(*place)) {
                        ack.msgid = ack.msgid.max(msgid);
                        ack.at_us = entry.time_us;
                        ack.of.push(*index);
                        continue;
                    }
                    newest.insert(topic, acks.len());
                    let begins_anew = !forgotten.is_empty();
                    acks.push(Ack { topic, msgid, at_us: entry.time_us, begins_anew, of: vec![*index] });
                }
                CassandraOp::AckedDelete { filter, .. } => {
                    newest.clear();
                    if !topic::has_wildcard(filter) {
                        forgotten.push((filter.to_string(), entry.time_us, *index));
                        continue;
                    }
                    let cql = format!("select topic from acked where {name} = ?");
                    let stored: Vec<(String,)> = link.rows(&cql, &[text(client)]).await?;
                    let mut topics: HashSet<String> = stored.into_iter().map(|(topic,)| topic).collect();
                    topics.extend(acks.iter().map(|ack| ack.topic.to_owned()));
                    topics.retain(|topic| topic::matches(filter, topic));
                    forgotten.extend(topics.into_iter().map(|topic| (topic, entry.time_us, *index)));
                }
                _ => {}
            }
        }
        for ack in &acks {
            // One of an older message, sent again, does not take the position back.
            let cql = format!("select msgid from acked where {name} = ? and topic = ?");
            if !ack.begins_anew
                && let [(Some(stored),)] =
                    &*link.rows::<(Option<String>,)>(&cql, &[text(client), text(ack.topic)]).await?
                && MsgId::parse(stored).is_some()
                && **stored > *ack.msgid
            {
                continue;
            }
            let key = self.foreign(ack.topic, ack.msgid).await?;
            let msgid = key.as_deref().unwrap_or(ack.msgid);
            let cql = format!("insert into acked ({name}, topic, msgid) values (?, ?, ?) using timestamp ?");
            out.add(link, &cql, &[text(client), text(ack.topic), text(msgid), time(ack.at_us)], &ack.of).await?;
        }
        for (topic, at_us, index) in forgotten {
            let cql = format!("delete from acked using timestamp ? where {name} = ? and topic = ?");
            out.add(link, &cql, &[time(at_us), text(client), text(&topic)], &[index]).await?;
        }
        out.send(link).await?;
        Ok(out.refused)
    }

    /// Users' statements, one after the other, each with its record's time.
    async fn statements(&self, entries: &[(usize, &Entry<CassandraOp>)]) -> Result<Vec<(usize, Verdict)>, WriteError> {
        let mut out = Outgoing::default();
        for (index, entry) in entries {
            let CassandraOp::Statement { cql, values, .. } = &entry.op else { continue };
            let mut step = match self.link.step(cql, values).await {
                Ok(step) => step,
                Err(failure) => {
                    out.refuse(failure, &[*index])?;
                    continue;
                }
            };
            step.statement.set_timestamp(Some(entry.time_us.cast_signed()));
            step.statement.set_is_idempotent(!adds(cql));
            if let Err(failure) = self.link.run(&step).await {
                out.refuse(failure, &[*index])?;
            }
        }
        Ok(out.refused)
    }
}

/// The furthest acknowledgement of a topic.
struct Ack<'a> {
    topic: &'a str,
    msgid: &'a str,
    at_us: u64,
    /// After a deletion in the same batch: what is stored does not count.
    begins_anew: bool,
    of: Vec<usize>,
}
