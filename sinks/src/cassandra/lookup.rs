//! What EMQ X rules read from Cassandra: subscriptions, messages of other programs, retained messages.

use bytes::Bytes;
use forebay_engine::{Lsn, MsgId, QoS};
use scylla::deserialize::row::DeserializeRow;
use scylla::response::query_result::QueryResult;
use scylla::value::CqlValue;

use super::connect::{CassandraConn, CassandraSink, Link};
use super::write::now_us;
use crate::lookup::{ForeignRow, Lookup, OfflineQuery};
use crate::sink::WriteError;
use crate::sql::Value;

/// Rows looked at in one request.
const PAGE: usize = 256;

/// Rows between our own that are looked at, newest first, for names of other programs that happen to sort among them.
const AMONG_OURS: usize = 4_096;

/// Requests of one answer at most.
const REQUESTS: usize = 64;

/// 2020-01-01, us since 1970: no message of ours is older.
const OLDEST_US: u64 = 1_577_836_800_000_000;

/// A day, us.
const DAY_US: u64 = 86_400_000_000;

/// Sorts behind any name.
const LAST: &str = "\u{10FFFF}\u{10FFFF}\u{10FFFF}\u{10FFFF}";

/// Rows of an answer, each as the type asked for.
pub(super) fn typed<R>(answer: QueryResult) -> Result<Vec<R>, WriteError>
where
    R: for<'a, 'b> DeserializeRow<'a, 'b>,
{
    let wrong = |e: &dyn std::fmt::Display| WriteError::busy(format!("an answer has other columns than expected: {e}"));
    let rows = answer.into_rows_result().map_err(|e| wrong(&e))?;
    let rows = rows.rows::<R>().map_err(|e| wrong(&e))?;
    rows.map(|row| row.map_err(|e| wrong(&e))).collect()
}

/// A stretch of a topic's rows: names below `below`, from `from` on, `most` of them at most.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stretch {
    below: String,
    from: String,
    most: usize,
}

/// The topic's rows from the end, in three parts: behind our names, among them, before them; only what comes before `before`.
fn stretches(now_us: u64, before: Option<&str>) -> Vec<Stretch> {
    let low = MsgId::new(OLDEST_US, 0, Lsn::NONE).to_string();
    let high = MsgId::new(now_us.max(OLDEST_US).saturating_add(DAY_US), 0, Lsn::NONE).to_string();
    [(LAST, high.as_str(), usize::MAX), (&high, &low, AMONG_OURS), (&low, "", usize::MAX)]
        .into_iter()
        .map(|(below, from, most)| (before.map_or(below, |before| before.min(below)), from, most))
        .filter(|(below, from, _)| below > from)
        .map(|(below, from, most)| Stretch { below: below.to_owned(), from: from.to_owned(), most })
        .collect()
}

/// Twenty letters and digits: one of ours, or of another Forebay.
fn is_own(id: &str) -> bool {
    id.len() == MsgId::LEN && id.bytes().all(|b| b.is_ascii_alphanumeric())
}

type Row = (String, Option<CqlValue>, Option<CqlValue>, Option<CqlValue>, Option<CqlValue>, Option<CqlValue>);

const COLUMNS: &str = "select msgid, payload, qos, retain, sender, arrived from msg where topic = ?";

fn text(text: &str) -> Value {
    Value::Text(text.into())
}

impl CassandraSink {
    async fn was_imported(&self, link: &Link, topic: &str, id: &str) -> Result<bool, WriteError> {
        if !link.imports() {
            return Ok(false);
        }
        let cql = "select value from forebay_imported where topic = ? and name = ?";
        let rows: Vec<(Option<String>,)> = link.rows(cql, &[text(topic), text(&format!("k:{id}"))]).await?;
        Ok(!rows.is_empty())
    }
}

impl Lookup for CassandraSink {
    async fn subscriptions<'a>(
        &'a self,
        conn: &'a mut CassandraConn,
        client: &'a str,
    ) -> Result<Vec<(String, u8)>, WriteError> {
        self.refresh(&conn.link).await?;
        let cql = format!("select topic, qos from sub where {} = ?", conn.link.found().client("sub"));
        let rows: Vec<(String, Option<CqlValue>)> = conn.link.rows(&cql, &[text(client)]).await?;
        let qos = |value: Option<CqlValue>| u8::try_from(number(value.as_ref()).unwrap_or(0)).unwrap_or(u8::MAX);
        Ok(rows.into_iter().map(|(filter, value)| (filter, qos(value))).collect())
    }

    async fn offline<'a>(
        &'a self,
        conn: &'a mut CassandraConn,
        query: OfflineQuery<'a>,
    ) -> Result<Vec<ForeignRow>, WriteError> {
        self.refresh(&conn.link).await?;
        let link = &conn.link;
        let cql = format!("select msgid from acked where {} = ? and topic = ?", link.found().client("acked"));
        let acked: Vec<(Option<String>,)> = link.rows(&cql, &[text(query.client), text(query.topic)]).await?;
        let acked = acked.into_iter().find_map(|(msgid,)| msgid);
        // Names of two kinds can't be compared: a position among ours says nothing about theirs.
        let read = |id: &str| acked.as_deref().is_some_and(|acked| !is_own(acked) && id <= acked);
        let (mut found, mut bytes, mut requests) = (Vec::new(), 0, 0);
        for mut stretch in stretches(now_us(), query.before) {
            let mut looked_at = 0;
            while looked_at < stretch.most && requests < REQUESTS {
                requests += 1;
                let cql = format!("{COLUMNS} and msgid >= ? and msgid < ? order by msgid desc limit {PAGE}");
                let values = [text(query.topic), text(&stretch.from), text(&stretch.below)];
                let rows: Vec<Row> = link.rows(&cql, &values).await?;
                looked_at += rows.len();
                let full = rows.len() == PAGE;
                let Some((last, ..)) = rows.last() else { break };
                stretch.below.clone_from(last);
                for row in rows {
                    if is_own(&row.0) || read(&row.0) || self.was_imported(link, query.topic, &row.0).await? {
                        continue;
                    }
                    let row = foreign(row, query.topic);
                    if row.time_us < query.since_us {
                        continue;
                    }
                    bytes += row.payload.len();
                    found.push(row);
                    if found.len() >= query.limit || bytes >= query.bytes {
                        return Ok(found);
                    }
                }
                if !full {
                    break;
                }
            }
        }
        Ok(found)
    }

    async fn retained<'a>(
        &'a self,
        conn: &'a mut CassandraConn,
        topic: &'a str,
    ) -> Result<Option<ForeignRow>, WriteError> {
        self.refresh(&conn.link).await?;
        let link = &conn.link;
        let rows: Vec<(Option<String>,)> =
            link.rows("select msgid from retain where topic = ?", &[text(topic)]).await?;
        let Some(id) = rows.into_iter().find_map(|(msgid,)| msgid) else { return Ok(None) };
        let rows: Vec<Row> = link.rows(&format!("{COLUMNS} and msgid = ?"), &[text(topic), text(&id)]).await?;
        // A retained message is replaced in place: each is a row of its own to the log.
        Ok(rows.into_iter().next().map(|row| {
            let row = foreign(row, topic);
            let key = format!("retain:{topic}:{id}:{}", row.time_us);
            ForeignRow { key, retain: true, ..row }
        }))
    }
}

fn number(value: Option<&CqlValue>) -> Option<i64> {
    match value? {
        CqlValue::Int(n) => Some(i64::from(*n)),
        CqlValue::SmallInt(n) => Some(i64::from(*n)),
        CqlValue::TinyInt(n) => Some(i64::from(*n)),
        CqlValue::BigInt(n) => Some(*n),
        CqlValue::Boolean(b) => Some(i64::from(*b)),
        CqlValue::Timestamp(at) => Some(at.0),
        CqlValue::Text(text) | CqlValue::Ascii(text) => text.trim().parse().ok(),
        _ => None,
    }
}

fn foreign(row: Row, topic: &str) -> ForeignRow {
    let (id, payload, qos, retain, sender, arrived) = row;
    let payload = match payload {
        Some(CqlValue::Blob(bytes)) => Bytes::from(bytes),
        Some(CqlValue::Text(text) | CqlValue::Ascii(text)) => Bytes::from(text),
        other => number(other.as_ref()).map(|n| Bytes::from(n.to_string())).unwrap_or_default(),
    };
    let sender = match sender {
        Some(CqlValue::Text(text) | CqlValue::Ascii(text)) => text,
        _ => String::new(),
    };
    let qos = number(qos.as_ref()).and_then(|n| QoS::from_u8(u8::try_from(n).ok()?)).unwrap_or_default();
    let millis = number(arrived.as_ref()).and_then(|ms| u64::try_from(ms).ok()).unwrap_or(0);
    ForeignRow {
        key: id.clone(),
        msgid: Some(id),
        topic: topic.to_owned(),
        sender,
        qos,
        retain: number(retain.as_ref()).unwrap_or(0) != 0,
        payload,
        time_us: millis.saturating_mul(1_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_of_a_topic_leave_out_nothing_and_end_where_the_last_page_began() {
        let now = 1_790_000_000_000_000;
        let all = stretches(now, None);
        assert_eq!(all.len(), 3);
        assert_eq!((all[0].below.as_str(), all[2].from.as_str()), (LAST, ""));
        for pair in all.windows(2) {
            assert_eq!(pair[0].from, pair[1].below);
        }
        assert_eq!(stretches(now, Some("zebra")).len(), 3);
        assert_eq!(stretches(now, Some("zebra"))[0].below, "zebra");
        let below = stretches(now, Some("1"));
        assert_eq!((below.len(), below[0].below.as_str()), (1, "1"));
        let ours = MsgId::new(now, 3, Lsn(9)).to_string();
        let among = stretches(now, Some(&ours));
        assert_eq!((among.len(), among[0].most), (2, AMONG_OURS));
    }
}
