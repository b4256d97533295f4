//! What EMQ X rules read from Redis: subscriptions, messages of other programs, retained messages.

use std::collections::HashMap;

use bytes::Bytes;
use forebay_engine::{Lsn, MsgId, QoS};
use redis::Value;

use super::conn::{RedisConn, Request};
use super::keys;
use super::link::{pairs, string};
use super::write::RedisSink;
use crate::lookup::{ForeignRow, Lookup, OfflineQuery};
use crate::sink::WriteError;

/// Members of a sorted set looked at in one request.
const PAGE: usize = 256;

/// Members between our own that are looked at, newest first, for ids of other programs that happen to sort among them.
const AMONG_OURS: usize = 4_096;

/// Requests of one answer at most.
const REQUESTS: usize = 64;

/// 2020-01-01, us since 1970: no message of ours is older.
const OLDEST_US: u64 = 1_577_836_800_000_000;

/// A day, us.
const DAY_US: u64 = 86_400_000_000;

/// Our ids stand between those of the first and the last moment; other programs' hardly ever do.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stretch {
    /// Upper end, as ZREVRANGEBYLEX takes it.
    from: Vec<u8>,
    /// Lower end.
    to: Vec<u8>,
    /// Members looked at, at most.
    most: usize,
}

fn bound(kind: u8, name: &str) -> Vec<u8> {
    let mut bound = vec![kind];
    bound.extend_from_slice(name.as_bytes());
    bound
}

/// The sorted set from its end, in three parts: above our ids, among them, below them; only what is below `before`.
fn stretches(now_us: u64, before: Option<&str>) -> Vec<Stretch> {
    let low = MsgId::new(OLDEST_US, 0, Lsn::NONE).to_string();
    let high = MsgId::new(now_us.max(OLDEST_US).saturating_add(DAY_US), 0, Lsn::NONE).to_string();
    let parts = [
        (None, Some(high.as_str()), usize::MAX),
        (Some(high.as_str()), Some(low.as_str()), AMONG_OURS),
        (Some(low.as_str()), None, usize::MAX),
    ];
    let cut = |(from, to, most): (Option<&str>, Option<&str>, usize)| {
        // Below `before`, where that is below the part's own upper end.
        let from = match (from, before) {
            (Some(from), Some(before)) if before < from => Some(before),
            (None, Some(before)) => Some(before),
            (from, _) => from,
        };
        if matches!((from, to), (Some(from), Some(to)) if from <= to) {
            return None;
        }
        let from = from.map_or(b"+".to_vec(), |name| bound(b'(', name));
        Some(Stretch { from, to: to.map_or(b"-".to_vec(), |name| bound(b'[', name)), most })
    };
    parts.into_iter().filter_map(cut).collect()
}

/// Twenty letters and digits: one of ours, or of another Forebay.
fn is_own(id: &str) -> bool {
    id.len() == MsgId::LEN && id.bytes().all(|b| b.is_ascii_alphanumeric())
}

impl RedisSink {
    /// Of these members, newest first, those that other programs wrote, that were not imported and still have their hash.
    async fn foreign(
        &self,
        conn: &mut RedisConn,
        query: &OfflineQuery<'_>,
        acked: Option<&str>,
        members: &[String],
    ) -> Result<Vec<ForeignRow>, WriteError> {
        // Ids of two kinds can't be compared: a position among ours says nothing about theirs.
        let read = |id: &str| acked.is_some_and(|acked| !is_own(acked) && id <= acked);
        let ids: Vec<&String> = members.iter().filter(|id| !is_own(id) && !read(id)).collect();
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let mut requests = Vec::with_capacity(ids.len() * 2);
        for id in &ids {
            requests.push(Request::new("HEXISTS", keys::imported(query.topic)).arg(format!("k:{id}")));
            requests.push(Request::new("HGETALL", keys::message(id)));
        }
        let answers = conn.run(&requests).await?;
        let (chunks, _) = answers.as_chunks::<2>();
        let mut rows = Vec::new();
        for (id, [imported, hash]) in ids.into_iter().zip(chunks) {
            if matches!(imported, Value::Int(1)) {
                continue;
            }
            match row(hash, query.topic, id) {
                Some(row) if row.time_us >= query.since_us => rows.push(row),
                Some(_) => {}
                None => tracing::debug!(topic = query.topic, msgid = id, "a message of another program has no hash"),
            }
        }
        Ok(rows)
    }
}

impl Lookup for RedisSink {
    async fn subscriptions<'a>(
        &'a self,
        conn: &'a mut RedisConn,
        client: &'a str,
    ) -> Result<Vec<(String, u8)>, WriteError> {
        let answer = conn.one(Request::new("HGETALL", keys::subscriptions(client))).await?;
        let one = |(filter, qos): (&[u8], &[u8])| {
            let qos = std::str::from_utf8(qos).ok().and_then(|q| q.trim().parse().ok()).unwrap_or(u8::MAX);
            (String::from_utf8_lossy(filter).into_owned(), qos)
        };
        Ok(pairs(&answer).into_iter().map(one).collect())
    }

    async fn offline<'a>(
        &'a self,
        conn: &'a mut RedisConn,
        query: OfflineQuery<'a>,
    ) -> Result<Vec<ForeignRow>, WriteError> {
        let now_us = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |now| u64::try_from(now.as_micros()).unwrap_or(u64::MAX));
        let acked = conn.one(Request::new("GET", keys::acked(query.client, query.topic))).await?;
        let acked = string(&acked);
        let (mut found, mut bytes, mut requests) = (Vec::new(), 0, 0);
        for mut stretch in stretches(now_us, query.before) {
            let mut looked_at = 0;
            while looked_at < stretch.most && requests < REQUESTS {
                requests += 1;
                let page = Request::new("ZREVRANGEBYLEX", keys::message(query.topic));
                let page = page.arg(&stretch.from).arg(&stretch.to).arg("LIMIT").arg(0).arg(PAGE);
                let Value::Array(members) = conn.one(page).await? else { break };
                let full = members.len() == PAGE;
                looked_at += members.len();
                let Some(last) = members.last().and_then(|last| match last {
                    Value::BulkString(last) => Some(last.clone()),
                    _ => None,
                }) else {
                    break;
                };
                let names: Vec<String> = members.iter().filter_map(string).collect();
                for row in self.foreign(conn, &query, acked.as_deref(), &names).await? {
                    bytes += row.payload.len();
                    found.push(row);
                    if found.len() >= query.limit || bytes >= query.bytes {
                        return Ok(found);
                    }
                }
                if !full {
                    break;
                }
                stretch.from = [b"(".as_slice(), &last].concat();
            }
        }
        Ok(found)
    }

    async fn retained<'a>(&'a self, conn: &'a mut RedisConn, topic: &'a str) -> Result<Option<ForeignRow>, WriteError> {
        let key = keys::retain(topic);
        // Both shapes are read, whichever this pool writes: the other may have been there before.
        let kind = conn.one(Request::new("TYPE", key.as_str())).await?;
        let hash = match string(&kind).as_deref() {
            Some("hash") => conn.one(Request::new("HGETALL", key)).await?,
            Some("zset") => {
                let newest = conn.one(Request::new("ZREVRANGE", key).arg(0).arg(0)).await?;
                let Value::Array(newest) = newest else { return Ok(None) };
                let Some(id) = newest.first().and_then(string) else { return Ok(None) };
                conn.one(Request::new("HGETALL", keys::message(&id))).await?
            }
            _ => return Ok(None),
        };
        // A retained message is replaced in place: each is a row of its own to the log.
        Ok(row(&hash, topic, "").map(|row| {
            let key = format!("retain:{topic}:{}:{}", row.msgid.as_deref().unwrap_or_default(), row.time_us);
            ForeignRow { key, retain: true, ..row }
        }))
    }
}

/// A message's hash as a row; nothing where it is gone.
fn row(hash: &Value, topic: &str, key: &str) -> Option<ForeignRow> {
    let fields: HashMap<&[u8], &[u8]> = pairs(hash).into_iter().collect();
    if fields.is_empty() {
        return None;
    }
    let text = |name: &str| fields.get(name.as_bytes()).map(|v| String::from_utf8_lossy(v).into_owned());
    let number = |name: &str| text(name).and_then(|v| v.trim().parse::<u64>().ok());
    Some(ForeignRow {
        key: key.to_owned(),
        msgid: text("id").or_else(|| Some(key.to_owned())),
        topic: topic.to_owned(),
        sender: text("from").unwrap_or_default(),
        qos: number("qos").and_then(|q| QoS::from_u8(u8::try_from(q).ok()?)).unwrap_or_default(),
        retain: matches!(text("retain").as_deref(), Some("true" | "1")),
        payload: Bytes::from(fields.get("payload".as_bytes()).map(|v| v.to_vec()).unwrap_or_default()),
        time_us: number("ts").unwrap_or(0).saturating_mul(1_000_000),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_of_a_sorted_set_leave_out_nothing_and_end_where_the_last_page_began() {
        let now = 1_790_000_000_000_000;
        let all = stretches(now, None);
        assert_eq!(all.len(), 3);
        assert_eq!(all.first().map(|s| s.from.as_slice()), Some(&b"+"[..]));
        assert_eq!(all.last().map(|s| s.to.as_slice()), Some(&b"-"[..]));
        // What is the lower end of one, included, is the upper end of the next, excluded.
        for pair in all.windows(2) {
            assert_eq!(pair[0].to[1..], pair[1].from[1..]);
            assert_eq!((pair[0].to[0], pair[1].from[0]), (b'[', b'('));
        }
        assert_eq!(stretches(now, Some("zebra")).len(), 3);
        assert_eq!(stretches(now, Some("1")).len(), 1);
        assert_eq!(stretches(now, Some("1"))[0].from, b"(1");
        let ours = MsgId::new(now, 3, Lsn(9)).to_string();
        let among = stretches(now, Some(&ours));
        assert_eq!(among.len(), 2);
        assert_eq!(among[0].most, AMONG_OURS);
    }
}
