//! What a cluster does otherwise: a batch in phases, the position when all of them have been answered, going back after a
//! failover.
//!
//! ```text
//! read      what imported messages were called, topics of a wildcard unsubscribe, nodes of clients
//! hashes    messages' hashes
//! members   everything else, in order for each key
//! removed   hashes of messages that have left their sorted sets
//! check     every master is what it was
//! position  fenced by the epoch: a connection from before a reset or a failover moves nothing
//! ```

use std::collections::{BTreeMap, HashSet};

use redis::Value;

use super::config::RetainLayout;
use super::conn::{Links, RedisConn, Request, refusal};
use super::encode::{MessageRow, RedisOp, What};
use super::error;
use super::keys::{self, Home};
use super::link::string;
use super::write::{RedisSink, Stored, forgotten, own_fault};
use crate::sink::{Batch, Kept, Positions, Verdict, WriteError};
use forebay_engine::Lsn;

/// Makes `ARGV[1]` the newest of a sorted set, or none of it with ''; returns what left.
const ONLY: &str = "local out = {} \
    for _, id in ipairs(redis.call('ZRANGE', KEYS[1], 0, 999)) do \
    if id ~= ARGV[1] then redis.call('ZREM', KEYS[1], id) out[#out + 1] = id end end \
    if ARGV[1] ~= '' then redis.call('ZADD', KEYS[1], 1, ARGV[1]) end return out";

/// Adds a message to its topic and removes older ones; returns what left.
const LATEST: &str = "local out = {} redis.call('ZADD', KEYS[1], 1, ARGV[1]) \
    local own = redis.call('ZRANGEBYLEX', KEYS[1], '-', '(' .. ARGV[1], 'LIMIT', 0, 1000) \
    for _, id in ipairs(own) do redis.call('ZREM', KEYS[1], id) out[#out + 1] = id end \
    local newest = redis.call('ZREVRANGE', KEYS[1], 0, 0)[1] \
    if newest ~= ARGV[1] and #newest == 20 then redis.call('ZREM', KEYS[1], ARGV[1]) out[#out + 1] = ARGV[1] end \
    return out";

/// Moves a read position forward.
const ACKED: &str = "local function own(id) return #id == 20 and not string.find(id, '[^0-9A-Za-z]') end \
    local function less(a, b) for i = 1, math.min(#a, #b) do local x, y = string.byte(a, i), string.byte(b, i) \
    if x ~= y then return x < y end end return #a < #b end \
    local before = redis.call('GET', KEYS[1]) \
    if not before or own(before) ~= own(ARGV[1]) or less(before, ARGV[1]) then redis.call('SET', KEYS[1], ARGV[1]) end";

const OFFLINE: &str = "redis.call('HSETNX', KEYS[1], 'state', 0) redis.call('HSETNX', KEYS[1], 'online_at', 'undefined') \
    return redis.call('HSET', KEYS[1], 'state', 0, 'offline_at', ARGV[1])";

const POSITION: &str = "if redis.call('HGET', KEYS[1], 'epoch') ~= ARGV[1] then return 'stale' end \
    for i = 3, #ARGV, 2 do if tonumber(ARGV[i + 1]) > tonumber(redis.call('HGET', KEYS[1], ARGV[i]) or 0) then \
    redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1]) end end \
    if tonumber(ARGV[2]) > tonumber(redis.call('HGET', KEYS[1], 'prefix') or 0) then \
    redis.call('HSET', KEYS[1], 'prefix', ARGV[2]) end return 'ok'";

/// Notes the prefix once a second, for ten minutes.
const HISTORY: &str = "local t = redis.call('TIME') local now = t[1] * 1000 + math.floor(t[2] / 1000) \
    local last = redis.call('ZREVRANGE', KEYS[1], 0, 0, 'WITHSCORES')[2] \
    if not last or now - tonumber(last) >= 1000 then redis.call('ZADD', KEYS[1], now, now .. ':' .. ARGV[1]) \
    redis.call('ZREMRANGEBYSCORE', KEYS[1], 0, now - 600000) end";

const WAIT_MS: u64 = 1_000;

/// A batch's commands and whose they are.
#[derive(Default)]
struct Phase {
    requests: Vec<Request>,
    /// The operation each belongs to, and the topic whose messages it may name as gone.
    about: Vec<(usize, Option<String>)>,
}

impl Phase {
    fn add(&mut self, entry: usize, request: Request) {
        self.requests.push(request);
        self.about.push((entry, None));
    }

    /// A command that answers which messages of a topic left a sorted set.
    fn removes(&mut self, entry: usize, request: Request, topic: &str) {
        self.requests.push(request);
        self.about.push((entry, Some(topic.to_owned())));
    }

    /// Runs it; refusals that are operations' own are noted, others end the batch.
    async fn run(&self, conn: &mut RedisConn, refused: &mut BTreeMap<usize, String>) -> Result<Vec<Value>, WriteError> {
        if self.requests.is_empty() {
            return Ok(Vec::new());
        }
        let answers = conn.run(&self.requests).await?;
        for ((entry, _), answer) in self.about.iter().zip(&answers) {
            if let Some(text) = refusal(answer) {
                if !error::is_own_fault(&text) {
                    return Err(error::answered(&text));
                }
                refused.entry(*entry).or_insert(text);
            }
        }
        Ok(answers)
    }
}

pub(super) async fn write(
    sink: &RedisSink,
    conn: &mut RedisConn,
    batch: &Batch<'_, RedisOp>,
) -> Result<(), WriteError> {
    let Some((home, epoch)) = conn.home.clone() else {
        return Err(WriteError::Disconnected("the position was not read on this connection".into()));
    };
    let mut refused = BTreeMap::new();
    let wildcards = forgotten(conn, batch.entries).await?;
    let known = known(conn, batch).await?;
    let (mut hashes, mut members) = (Phase::default(), Phase::default());
    let mut here = HashSet::new();
    for (index, entry) in batch.entries.iter().enumerate() {
        let topics = wildcards.get(&index).map_or(&[][..], Vec::as_slice);
        add(sink, &home, index, &entry.op.what, known.get(&index), topics, &mut hashes, &mut members, &mut here);
    }
    hashes.run(conn, &mut refused).await?;
    let answers = members.run(conn, &mut refused).await?;
    removed(sink, conn, &members, &answers).await?;
    if !refused.is_empty() {
        let items = refused.into_iter().map(|(index, why)| (index, Verdict::Bury(own_fault(&why)))).collect();
        return Err(WriteError::Items(items));
    }
    let Links::Cluster(cluster) = &mut conn.links else { return Ok(()) };
    cluster.unchanged().await?;
    if sink.config.wait_replicas > 0 {
        for answer in cluster.wait(sink.config.wait_replicas, WAIT_MS).await? {
            sink.enough_replicas(&answer)?;
        }
    }
    match batch.positions {
        Some(positions) => position(conn, &home, &epoch, positions).await,
        None => Ok(()),
    }
}

/// What the database knows of acknowledged messages (their names where they were imported) and of clients (their node).
async fn known(conn: &mut RedisConn, batch: &Batch<'_, RedisOp>) -> Result<BTreeMap<usize, String>, WriteError> {
    let mut phase = Phase::default();
    for (index, entry) in batch.entries.iter().enumerate() {
        match &entry.op.what {
            What::Acked { topic, msgid, .. } | What::Remove { topic, msgid } => {
                phase.add(index, Request::new("HGET", keys::imported(topic)).arg(format!("m:{msgid}")));
            }
            What::Offline { client, .. } => phase.add(index, Request::new("GET", keys::at(client))),
            _ => {}
        }
    }
    let answers = phase.run(conn, &mut BTreeMap::new()).await?;
    let about = phase.about.iter().map(|(index, _)| *index);
    Ok(about.zip(&answers).filter_map(|(index, answer)| Some((index, string(answer)?))).collect())
}

#[expect(clippy::too_many_arguments, reason = "what an operation may need, once")]
fn add(
    sink: &RedisSink,
    home: &Home,
    index: usize,
    what: &What,
    known: Option<&String>,
    topics: &[Vec<u8>],
    hashes: &mut Phase,
    members: &mut Phase,
    here: &mut HashSet<String>,
) {
    let zset = sink.config.retain == RetainLayout::Zset;
    match what {
        What::Message(row) => {
            message(home, index, row, 'm', hashes);
            members.add(index, Request::new("ZADD", keys::message(&row.topic)).arg(1).arg(&row.msgid));
        }
        What::Latest(row) => {
            message(home, index, row, 'm', hashes);
            members.removes(index, Request::eval(LATEST, keys::message(&row.topic)).arg(&row.msgid), &row.topic);
        }
        What::Retain(row) if zset => {
            message(home, index, row, 'r', hashes);
            if row.expires_ms.is_none() {
                hashes.add(index, Request::new("PERSIST", keys::message(&row.msgid)));
            }
            members.removes(index, Request::eval(ONLY, keys::retain(&row.topic)).arg(&row.msgid), &row.topic);
        }
        What::Retain(row) => {
            let key = keys::retain(&row.topic);
            members.add(index, fields(&key, row));
            members.add(
                index,
                match row.expires_ms {
                    Some(ms) => Request::new("PEXPIREAT", key).arg(ms),
                    None => Request::new("PERSIST", key),
                },
            );
        }
        What::RetainDelete { topic } if zset => {
            members.removes(index, Request::eval(ONLY, keys::retain(topic)).arg(""), topic);
        }
        What::RetainDelete { topic } => members.add(index, Request::new("DEL", keys::retain(topic))),
        What::Acked { client, topic, msgid } => {
            members.add(index, Request::new("SADD", keys::acked_topics(client)).arg(&**topic));
            members.add(index, Request::eval(ACKED, keys::acked(client, topic)).arg(known.unwrap_or(msgid)));
        }
        What::Remove { topic, msgid } => {
            let id = known.unwrap_or(msgid);
            let source = "redis.call('ZREM', KEYS[1], ARGV[1]) return {ARGV[1]}";
            members.removes(index, Request::eval(source, keys::message(topic)).arg(id), topic);
            if let Some(foreign) = known {
                let forget = Request::new("HDEL", keys::imported(topic));
                members.add(index, forget.arg(format!("m:{msgid}")).arg(format!("k:{foreign}")));
            }
        }
        What::AckedDelete { client, filter } => {
            for topic in topics.iter().map(Vec::as_slice).chain([filter.as_bytes().as_ref()]) {
                let name = String::from_utf8_lossy(topic);
                members.add(index, Request::new("DEL", keys::acked(client, &name)));
                members.add(index, Request::new("SREM", keys::acked_topics(client)).arg(topic));
            }
        }
        What::Imported { topic, msgid, key } => {
            let remember = Request::new("HSET", keys::imported(topic));
            members.add(index, remember.arg(format!("m:{msgid}")).arg(&**key).arg(format!("k:{key}")).arg(msgid));
        }
        What::Online { client, at } => {
            here.insert(client.to_string());
            let status = Request::new("HSET", keys::client(client)).arg("state").arg(1).arg("online_at").arg(*at);
            members.add(index, status.arg("offline_at").arg("undefined"));
            members.add(index, Request::new("HSET", keys::node(&sink.config.node_name)).arg(&**client).arg(*at));
            members.add(index, Request::new("SET", keys::at(client)).arg(&sink.config.node_name));
        }
        What::Offline { client, at } => {
            let ours = known.is_none_or(|node| *node == sink.config.node_name) || here.contains(&**client);
            if ours {
                members.add(index, Request::eval(OFFLINE, keys::client(client)).arg(*at));
                members.add(index, Request::new("DEL", keys::at(client)));
            }
            members.add(index, Request::new("HDEL", keys::node(&sink.config.node_name)).arg(&**client));
        }
        What::Command(words) => {
            let mut words = words.iter();
            let mut cmd = redis::Cmd::new();
            let name = words.next();
            let key = words.next().or(name).map(|k| k.to_vec()).unwrap_or_default();
            for word in name.into_iter().chain(what.arguments()) {
                cmd.arg(word.as_ref());
            }
            members.add(index, Request { key, cmd });
        }
    }
}

impl What {
    fn arguments(&self) -> &[bytes::Bytes] {
        match self {
            What::Command(words) => words.get(1..).unwrap_or_default(),
            _ => &[],
        }
    }
}

/// A message's hash, with its end.
fn message(home: &Home, index: usize, row: &MessageRow, kind: char, hashes: &mut Phase) {
    let key = keys::message(&row.msgid);
    hashes.add(index, fields(&key, row));
    if let Some(ms) = row.expires_ms {
        hashes.add(index, Request::new("PEXPIREAT", key).arg(ms));
        let member = format!("{kind}{}{}", row.msgid, row.topic);
        hashes.add(index, Request::new("ZADD", home.expiry.as_str()).arg(ms).arg(member));
    }
}

fn fields(key: &str, row: &MessageRow) -> Request {
    let request = Request::new("HSET", key).arg("id").arg(&row.msgid).arg("from").arg(&*row.sender);
    let request =
        request.arg("qos").arg(row.qos).arg("topic").arg(&*row.topic).arg("payload").arg(row.payload.as_ref());
    request.arg("ts").arg(row.ts).arg("retain").arg(if row.retain { "true" } else { "false" })
}

/// Deletes the hashes of messages that have left; those that another sorted set still names stay.
async fn removed(sink: &RedisSink, conn: &mut RedisConn, members: &Phase, answers: &[Value]) -> Result<(), WriteError> {
    let mut gone = Vec::new();
    let mut beside = Vec::new();
    for ((_, topic), answer) in members.about.iter().zip(answers) {
        let (Some(topic), Value::Array(ids)) = (topic, answer) else { continue };
        for id in ids.iter().filter_map(string) {
            gone.push(Request::new("DEL", keys::message(&id)));
            beside.push(Request::new("ZSCORE", keys::message(topic)).arg(&id));
            beside.push(Request::new("ZSCORE", keys::retain(topic)).arg(&id));
        }
    }
    if gone.is_empty() {
        return Ok(());
    }
    if sink.config.retain == RetainLayout::Zset {
        let scores = conn.run(&beside).await?;
        let (pairs, _) = scores.as_chunks::<2>();
        let mut named =
            pairs.iter().map(|pair| pair.iter().any(|s| matches!(s, Value::BulkString(_) | Value::Double(_))));
        gone.retain(|_| !named.next().unwrap_or(false));
    }
    conn.ask(&gone).await.map(|_| ())
}

async fn position(conn: &mut RedisConn, home: &Home, epoch: &str, positions: &Positions) -> Result<(), WriteError> {
    let mut set = Request::eval(POSITION, home.positions.as_str()).arg(epoch).arg(positions.prefix.0);
    for (lane, lsn) in &positions.lanes {
        set = set.arg(*lane).arg(lsn.0);
    }
    let note = Request::eval(HISTORY, home.history.as_str()).arg(positions.prefix.0);
    let answers = conn.ask(&[set, note]).await?;
    match answers.first().and_then(string).as_deref() {
        Some("ok") => Ok(()),
        _ => {
            let why = "the sink's position in Redis was reset or is gone: reading it again";
            Err(WriteError::Disconnected(why.into()))
        }
    }
}

/// Other masters than those the position was stored under: what a replaced one had not yet replicated is lost, so the sink goes
/// back by the pool's `rewind`. Everything from there on is stored again.
pub(super) async fn masters_changed(
    sink: &RedisSink,
    conn: &mut RedisConn,
    home: &Home,
    stored: Stored,
    masters: &str,
    log_id: u64,
    name: &str,
) -> Result<Kept, WriteError> {
    let before: HashSet<&str> = stored.masters.split(',').collect();
    let lost = !stored.masters.is_empty() && masters.split(',').any(|id| !before.contains(id));
    if !lost {
        conn.one(Request::new("HSET", home.positions.as_str()).arg("masters").arg(masters)).await?;
        return Ok(stored.kept(log_id, name));
    }
    let empty = match &mut conn.links {
        Links::Cluster(cluster) => cluster.came_back_empty(&before).await?,
        Links::One(_) => false,
    };
    // No position at all: everything that the log has is stored again.
    let prefix = if empty { None } else { Some(earlier(sink, conn, home, &stored).await?) };
    let to = prefix.map_or_else(|| "the log's first record".to_owned(), |p| p.to_string());
    tracing::warn!(sink = name, to, "a master of the cluster was replaced: storing again from there");
    let epoch = format!("{:016x}", rand::random::<u64>());
    let source = "if redis.call('HGET', KEYS[1], 'epoch') ~= ARGV[1] then return 'stale' end redis.call('DEL', KEYS[1]) \
                  redis.call('HSET', KEYS[1], 'epoch', ARGV[2], 'masters', ARGV[3]) \
                  if ARGV[4] then redis.call('HSET', KEYS[1], 'prefix', ARGV[4]) end return 'ok'";
    let request = Request::eval(source, home.positions.as_str());
    let mut request = request.arg(&stored.epoch).arg(&epoch).arg(masters);
    if let Some(prefix) = prefix {
        request = request.arg(prefix.0);
    }
    if string(&conn.one(request).await?).as_deref() != Some("ok") {
        return Err(WriteError::Disconnected("another connection has set the position back: reading it again".into()));
    }
    conn.home = Some((home.clone(), epoch));
    Ok(Stored { prefix, ..Stored::default() }.kept(log_id, name))
}

/// Where the sink was some time before its last position.
async fn earlier(sink: &RedisSink, conn: &mut RedisConn, home: &Home, stored: &Stored) -> Result<Lsn, WriteError> {
    let history = conn.one(Request::new("ZRANGE", home.history.as_str()).arg(0).arg(-1)).await?;
    let rewind = u64::try_from(sink.config.rewind.as_millis()).unwrap_or(u64::MAX);
    let known = stored.prefix.unwrap_or(Lsn::FIRST);
    Ok(rewound(&noted(&history), rewind).unwrap_or(Lsn::FIRST).min(known))
}

/// `time:prefix`, oldest first.
fn noted(history: &Value) -> Vec<(u64, Lsn)> {
    let Value::Array(members) = history else { return Vec::new() };
    let one = |text: String| {
        let (at, prefix) = text.split_once(':')?;
        Some((at.parse().ok()?, Lsn(prefix.parse().ok()?)))
    };
    members.iter().filter_map(string).filter_map(one).collect()
}

/// The prefix of `rewind` ms before the last note; the oldest where none is that old.
fn rewound(notes: &[(u64, Lsn)], rewind: u64) -> Option<Lsn> {
    let until = notes.last()?.0.saturating_sub(rewind);
    let old = notes.iter().rev().find(|(at, _)| *at <= until);
    old.or(notes.first()).map(|(_, prefix)| *prefix)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn going_back_ends_at_the_note_before_the_window() {
        let notes = [(1_000, Lsn(5)), (2_000, Lsn(50)), (12_500, Lsn(500)), (13_000, Lsn(600))];
        assert_eq!(rewound(&notes, 10_000), Some(Lsn(50)));
        assert_eq!(rewound(&notes, 60_000), Some(Lsn(5)));
        assert_eq!(rewound(&notes, 0), Some(Lsn(600)));
        assert_eq!(rewound(&[], 10_000), None);
    }
}
