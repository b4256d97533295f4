//! A topic's partition: its messages, then what names them.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use super::op::CassandraOp;
use super::outgoing::Outgoing;
use super::partition::{Writer, millis, text, time};
use crate::sink::{Entry, Verdict, WriteError};
use crate::sql::{MessageRow, Value};

/// Longest life of a row, s: Cassandra's 20 years.
const LONGEST: u64 = 630_720_000;

/// Cassandra before version 5 keeps the end of a row's life in 31 bits, s since 1970.
const LATEST_S: u64 = (1 << 31) - 2;

/// A message with the operations that store it. Two rules that store the same message store it once, for the longer of their times.
struct Stored<'a> {
    row: &'a Arc<MessageRow>,
    expires_us: Option<u64>,
    of: Vec<usize>,
}

impl Writer<'_> {
    /// How long a row still lives, s: `Some(None)` for ever, `None` not at all.
    fn life(&self, expires_us: Option<u64>) -> Option<Option<u64>> {
        let Some(expires_us) = expires_us else { return Some(None) };
        let left = expires_us.checked_sub(self.now_us)?.div_ceil(1_000_000);
        let most = LATEST_S.saturating_sub(self.now_us / 1_000_000).clamp(1, LONGEST);
        (left > 0).then_some(Some(left.min(most)))
    }

    pub(super) async fn topic(
        &self,
        topic: &str,
        entries: &[(usize, &Entry<CassandraOp>)],
    ) -> Result<Vec<(usize, Verdict)>, WriteError> {
        let link = self.link;
        let mut out = Outgoing::default();
        let mut messages: BTreeMap<&str, Stored<'_>> = BTreeMap::new();
        for (index, entry) in entries {
            let (CassandraOp::Message(row) | CassandraOp::Latest(row) | CassandraOp::Retain(row)) = &entry.op else {
                continue;
            };
            let stored =
                messages.entry(&row.msgid).or_insert(Stored { row, expires_us: row.expires_us, of: Vec::new() });
            stored.of.push(*index);
            stored.expires_us = stored.expires_us.zip(row.expires_us).map(|(a, b)| a.max(b));
        }
        for stored in messages.into_values() {
            let row = stored.row;
            let Some(life) = self.life(stored.expires_us) else { continue };
            let mut values = vec![
                text(topic),
                text(&row.msgid),
                millis(row.at_us),
                row.payload.clone(),
                Value::Int(i64::from(row.qos)),
                Value::Int(i64::from(row.retain)),
                Value::Text(row.sender.clone()),
                time(row.at_us),
            ];
            let insert = "insert into msg (topic, msgid, arrived, payload, qos, retain, sender) values (?, ?, ?, ?, ?, ?, ?) using timestamp ?";
            match life {
                None => out.add(link, insert, &values, &stored.of).await?,
                Some(seconds) => {
                    values.push(Value::Int(seconds.cast_signed()));
                    out.add(link, &format!("{insert} and ttl ?"), &values, &stored.of).await?;
                }
            }
        }
        for (index, entry) in entries {
            match &entry.op {
                CassandraOp::Latest(row) => {
                    let cql = "delete from msg using timestamp ? where topic = ? and msgid < ?";
                    out.add(link, cql, &[time(entry.time_us), text(topic), text(&row.msgid)], &[*index]).await?;
                }
                CassandraOp::Remove { msgid, .. } => {
                    let cql = "delete from msg using timestamp ? where topic = ? and msgid = ?";
                    out.add(link, cql, &[time(entry.time_us), text(topic), text(msgid)], &[*index]).await?;
                    if let Some(key) = self.foreign(topic, msgid).await? {
                        out.add(link, cql, &[time(entry.time_us), text(topic), text(&key)], &[*index]).await?;
                    }
                }
                _ => {}
            }
        }
        // Messages first, then what names them.
        out.send(link).await?;
        let refused: HashSet<usize> = out.refused.iter().map(|(index, _)| *index).collect();
        for (index, entry) in entries.iter().filter(|(index, _)| !refused.contains(index)) {
            self.beside(&mut out, topic, *index, entry).await?;
        }
        out.send(link).await?;
        Ok(out.refused)
    }

    /// What a topic's operation writes into other tables than `msg`.
    async fn beside(
        &self,
        out: &mut Outgoing,
        topic: &str,
        index: usize,
        entry: &Entry<CassandraOp>,
    ) -> Result<(), WriteError> {
        let link = self.link;
        match &entry.op {
            CassandraOp::Retain(row) => {
                let Some(life) = self.life(row.expires_us) else { return Ok(()) };
                let insert = "insert into retain (topic, msgid) values (?, ?) using timestamp ?";
                let mut values = vec![text(topic), text(&row.msgid), time(entry.time_us)];
                match life {
                    None => out.add(link, insert, &values, &[index]).await,
                    Some(seconds) => {
                        values.push(Value::Int(seconds.cast_signed()));
                        out.add(link, &format!("{insert} and ttl ?"), &values, &[index]).await
                    }
                }
            }
            CassandraOp::RetainDelete { .. } => {
                let cql = "delete from retain using timestamp ? where topic = ?";
                out.add(link, cql, &[time(entry.time_us), text(topic)], &[index]).await
            }
            CassandraOp::Imported { msgid, key, .. } => {
                let cql = "insert into forebay_imported (topic, name, value) values (?, ?, ?) using timestamp ?";
                link.has_imports();
                for (name, value) in [(format!("k:{key}"), &**msgid), (format!("m:{msgid}"), &**key)] {
                    out.add(link, cql, &[text(topic), text(&name), text(value), time(entry.time_us)], &[index]).await?;
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}
