//! Redis as a sink: one server. What a cluster does otherwise is in `cluster_write`.

use std::collections::BTreeMap;
use std::sync::Arc;

use forebay_engine::{Lsn, topic};
use redis::{Value, cmd};

use super::config::{Deployment, RedisConfig, RetainLayout};
use super::conn::{Links, One, RedisConn, Request};
use super::encode::{self, RedisOp, What};
use super::keys::{self, Home};
use super::link::{pairs, string};
use super::script::{self, Answer, BATCH, Step};
use super::{channel, cluster_write, error, inspect};
use crate::orders::Clients;
use crate::rule::Rule;
use crate::sink::{
    AtWorst, Batch, BatchLimits, EncodeError, Entry, Finding, Kept, Positions, Sink, SinkRecord, Verdict, WriteError,
};
use crate::source::BoxFuture;

/// Operations in one batch. The server does nothing else while it runs: some milliseconds.
const OPERATIONS: usize = 1_024;

/// Expired messages that upkeep removes in one step.
const UPKEEP: usize = 500;

/// How long `WAIT` waits, ms.
const WAIT_MS: u64 = 1_000;

/// Redis as a sink.
#[derive(Clone, Debug)]
pub struct RedisSink {
    pub(super) config: RedisConfig,
}

impl RedisSink {
    /// A sink with these settings. Opens nothing.
    #[must_use]
    pub fn new(config: RedisConfig) -> Self {
        RedisSink { config }
    }

    /// One server: the batch and its position are one script.
    async fn write_one(&self, conn: &mut RedisConn, batch: &Batch<'_, RedisOp>) -> Result<(), WriteError> {
        let forgotten = forgotten(conn, batch.entries).await?;
        let (home, epoch) = conn.home.clone().ok_or_else(unread)?;
        let mut command = script::command(&conn.sha, &home, &epoch, &self.config.node_name, self.config.retain);
        script::positions(&mut command, batch.positions, batch.entries.iter().map(|e| (e.op.lane, e.lsn)));
        let mut index = 0;
        let runs = batch.entries.chunk_by(|a, b| script::is_plain(&a.op.what) && script::is_plain(&b.op.what));
        for run in runs {
            match run {
                [first, ..] if script::is_plain(&first.op.what) => {
                    script::messages(&mut command, run.iter().map(|entry| step(entry, &[])));
                }
                others => {
                    for (entry, index) in others.iter().zip(index..) {
                        let topics = forgotten.get(&index).map_or(&[][..], Vec::as_slice);
                        script::step(&mut command, &step(entry, topics));
                    }
                }
            }
            index += run.len();
        }
        let Links::One(One(link)) = &mut conn.links else { return Err(unread()) };
        let value = link.send_packed_command(&command).await.map_err(error::map)?;
        match script::answer(&value).ok_or_else(|| error::unexpected("the batch", &value))? {
            Answer::Stored => {}
            Answer::Stale => {
                let why = "the sink's position in Redis was reset or is gone: reading it again";
                return Err(WriteError::Disconnected(why.into()));
            }
            Answer::Failed(failed) => {
                return Err(WriteError::Items(
                    failed.into_iter().map(|(index, why)| (index, Verdict::Bury(own_fault(&why)))).collect(),
                ));
            }
            Answer::Stopped(index, why) => {
                let op = batch.entries.get(index).map(|e| encode::render(&e.op)).unwrap_or_default();
                return Err(match error::answered(&why) {
                    WriteError::Busy { wait, cause } => {
                        WriteError::Busy { wait, cause: format!("{cause}; at {op}").into() }
                    }
                    other => other,
                });
            }
        }
        if self.config.wait_replicas > 0 {
            let mut wait = cmd("WAIT");
            wait.arg(self.config.wait_replicas).arg(WAIT_MS);
            let value = link.send_packed_command(&wait).await.map_err(error::map)?;
            self.enough_replicas(&value)?;
        }
        Ok(())
    }

    /// What `WAIT` answered. The batch is stored, and is sent again until the replicas have it: it is then left out by its position.
    pub(super) fn enough_replicas(&self, value: &Value) -> Result<(), WriteError> {
        let wanted = self.config.wait_replicas;
        match value {
            Value::Int(n) if u64::try_from(*n).is_ok_and(|n| n >= wanted) => Ok(()),
            Value::Int(n) => Err(WriteError::busy(format!(
                "{n} of {wanted} replicas have the batch (the pool's `wait_replicas`): see `INFO replication`"
            ))),
            other => Err(error::unexpected("WAIT", other)),
        }
    }
}

fn step<'a>(entry: &'a Entry<RedisOp>, topics: &'a [Vec<u8>]) -> Step<'a> {
    let Entry { lsn, rule, place, op, .. } = entry;
    Step { lane: op.lane, lsn: lsn.0, rule: *rule, place: *place, what: &op.what, topics }
}

/// True for a command that may do more when it is run again. Those that are known to set something are not.
fn adds(words: &[bytes::Bytes]) -> bool {
    let name = words.first().map(|name| String::from_utf8_lossy(name).to_ascii_uppercase()).unwrap_or_default();
    !SETTING.contains(&name.as_str())
}

/// Commands whose second run leaves what the first one left.
const SETTING: [&str; 21] = [
    "DEL",
    "EXPIREAT",
    "GEOADD",
    "HDEL",
    "HMSET",
    "HSET",
    "HSETNX",
    "LREM",
    "LSET",
    "MSET",
    "PERSIST",
    "PEXPIREAT",
    "PFADD",
    "SADD",
    "SET",
    "SETBIT",
    "SETNX",
    "SETRANGE",
    "SREM",
    "UNLINK",
    "ZREM",
];

/// A refusal that is the record's or the rule's own.
pub(super) fn own_fault(why: &str) -> crate::sink::BoxError {
    if why.trim_start_matches('-').starts_with("WRONGTYPE") {
        return format!("{why} (something else is stored under one of its keys: remove it, then replay)").into();
    }
    why.into()
}

fn unread() -> WriteError {
    WriteError::Disconnected("the position was not read on this connection".into())
}

/// Topics of which clients that unsubscribe with a wildcard have a read position, by operation.
pub(super) async fn forgotten(
    conn: &mut RedisConn,
    entries: &[Entry<RedisOp>],
) -> Result<BTreeMap<usize, Vec<Vec<u8>>>, WriteError> {
    let mut asked = Vec::new();
    let mut requests = Vec::new();
    for (index, entry) in entries.iter().enumerate() {
        if let What::AckedDelete { client, filter } = &entry.op.what
            && topic::has_wildcard(filter)
        {
            asked.push((index, filter));
            requests.push(Request::new("SMEMBERS", keys::acked_topics(client)));
        }
    }
    let mut found = BTreeMap::new();
    if requests.is_empty() {
        return Ok(found);
    }
    for ((index, filter), answer) in asked.into_iter().zip(conn.ask(&requests).await?) {
        let Value::Array(members) = answer else { continue };
        let matching = members.into_iter().filter_map(|member| match member {
            Value::BulkString(name) => {
                std::str::from_utf8(&name).is_ok_and(|name| topic::matches(filter, name)).then_some(name)
            }
            _ => None,
        });
        found.insert(index, matching.collect());
    }
    Ok(found)
}

impl Sink for RedisSink {
    type Op = RedisOp;
    type Conn = RedisConn;

    fn limits(&self) -> BatchLimits {
        BatchLimits { operations: OPERATIONS, bytes: 4 << 20 }
    }

    fn connections(&self) -> usize {
        self.config.connections
    }

    fn encode(&self, record: &SinkRecord, rule: &Rule, out: &mut Vec<RedisOp>) -> Result<(), EncodeError> {
        encode::encode(record, rule, out)
    }

    fn imported(&self, record: &SinkRecord) -> Option<RedisOp> {
        encode::imported(record)
    }

    fn weight(&self, op: &RedisOp) -> usize {
        encode::weight(op)
    }

    fn render(&self, op: &RedisOp) -> String {
        encode::render(op)
    }

    fn at_worst(&self, op: &RedisOp) -> AtWorst {
        match (&op.what, &self.config.deployment) {
            (What::Command(words), Deployment::Cluster) if adds(words) => AtWorst::AtLeastOnce,
            (_, Deployment::Cluster) => AtWorst::SameAgain,
            _ => AtWorst::Once,
        }
    }

    async fn inspect(&self) -> Vec<Finding> {
        inspect::inspect(&self.config).await
    }

    fn orders(&self, sink: &str, clients: Arc<dyn Clients>) -> Option<BoxFuture<'static, ()>> {
        let channel = self.config.channel.clone()?;
        Some(Box::pin(channel::listen(self.config.clone(), channel, sink.to_owned(), clients)))
    }

    async fn connect(&self) -> Result<RedisConn, WriteError> {
        let mut conn = RedisConn::open(&self.config).await?;
        if let Links::One(One(link)) = &mut conn.links {
            let mut load = cmd("SCRIPT");
            load.arg("LOAD").arg(BATCH);
            let value = link.send_packed_command(&load).await.map_err(error::map)?;
            conn.sha = string(&value).ok_or_else(|| error::unexpected("SCRIPT LOAD", &value))?;
        }
        Ok(conn)
    }

    async fn write<'a>(&'a self, conn: &'a mut RedisConn, batch: Batch<'a, RedisOp>) -> Result<(), WriteError> {
        match conn.links {
            Links::One(_) => self.write_one(conn, &batch).await,
            Links::Cluster(_) => cluster_write::write(self, conn, &batch).await,
        }
    }

    async fn positions<'a>(&'a self, conn: &'a mut RedisConn, log_id: u64, sink: &'a str) -> Result<Kept, WriteError> {
        let home = Home::new(log_id, sink);
        let fresh = format!("{:016x}", rand::random::<u64>());
        let answers = conn
            .ask(&[
                Request::new("HSETNX", home.positions.as_str()).arg("epoch").arg(&fresh),
                Request::new("HGETALL", home.positions.as_str()),
            ])
            .await?;
        let stored = Stored::read(answers.get(1).unwrap_or(&Value::Nil));
        conn.home = Some((home.clone(), stored.epoch.clone()));
        if let Links::Cluster(cluster) = &conn.links
            && stored.masters != cluster.masters()
        {
            let masters = cluster.masters();
            return cluster_write::masters_changed(self, conn, &home, stored, &masters, log_id, sink).await;
        }
        Ok(stored.kept(log_id, sink))
    }

    async fn reset<'a>(
        &'a self,
        conn: &'a mut RedisConn,
        log_id: u64,
        sink: &'a str,
        to: Lsn,
    ) -> Result<(), WriteError> {
        let home = Home::new(log_id, sink);
        let masters = if let Links::Cluster(cluster) = &conn.links { cluster.masters() } else { String::new() };
        let epoch = format!("{:016x}", rand::random::<u64>());
        // The new epoch first: whoever still writes on an old connection is refused from here on.
        conn.ask(&[
            Request::new("HSET", home.positions.as_str()).arg("epoch").arg(&epoch),
            Request::new("DEL", home.partial.as_str()),
            Request::new("DEL", home.history.as_str()),
            Request::eval(
                "redis.call('DEL', KEYS[1]) \
                 return redis.call('HSET', KEYS[1], 'epoch', ARGV[1], 'prefix', ARGV[2], 'masters', ARGV[3])",
                home.positions.as_str(),
            )
            .arg(&epoch)
            .arg(to.0)
            .arg(&masters),
        ])
        .await
        .map(|_| ())
    }

    async fn maintain<'a>(&'a self, conn: &'a mut RedisConn, now_us: u64) -> Result<u64, WriteError> {
        let Some((home, _)) = conn.home.clone() else { return Ok(0) };
        let due = Request::new("ZRANGEBYSCORE", home.expiry.as_str())
            .arg("-inf")
            .arg(now_us / 1_000)
            .arg("LIMIT")
            .arg(0)
            .arg(UPKEEP);
        let Value::Array(members) = conn.one(due).await? else { return Ok(0) };
        let members: Vec<String> = members.iter().filter_map(string).collect();
        let parts = members.iter().filter_map(|m| Some((m.get(..1)?, m.get(1..21)?, m.get(21..)?)));
        let (mut leave, mut other, mut gone) = (Vec::new(), Vec::new(), Vec::new());
        for (kind, msgid, topic) in parts {
            let (from, beside) = match kind {
                "r" => (keys::retain(topic), keys::message(topic)),
                _ => (keys::message(topic), keys::retain(topic)),
            };
            leave.push(Request::new("ZREM", from).arg(msgid));
            other.push(Request::new("ZSCORE", beside).arg(msgid));
            gone.push(Request::new("DEL", keys::message(msgid)));
        }
        if leave.is_empty() {
            return Ok(0);
        }
        // The member first, then what it names. Where another program has put something else, that stays.
        conn.run(&leave).await?;
        if self.config.retain == RetainLayout::Zset {
            let beside = conn.run(&other).await?;
            let mut beside = beside.iter();
            gone.retain(|_| !matches!(beside.next(), Some(Value::BulkString(_) | Value::Double(_))));
        }
        conn.run(&gone).await?;
        let mut done = Request::new("ZREM", home.expiry.as_str());
        for member in &members {
            done = done.arg(member);
        }
        conn.one(done).await?;
        Ok(members.len() as u64)
    }
}

/// The position's hash.
#[derive(Clone, Debug, Default)]
pub(super) struct Stored {
    pub(super) epoch: String,
    pub(super) masters: String,
    pub(super) prefix: Option<Lsn>,
    pub(super) lanes: Vec<(u16, Lsn)>,
}

impl Stored {
    fn read(value: &Value) -> Stored {
        let mut stored = Stored::default();
        for (field, value) in pairs(value) {
            let (field, value) = (String::from_utf8_lossy(field), String::from_utf8_lossy(value));
            match (&*field, field.parse::<u16>(), value.parse::<u64>()) {
                ("epoch", ..) => stored.epoch = value.into_owned(),
                ("masters", ..) => stored.masters = value.into_owned(),
                ("prefix", _, Ok(lsn)) => stored.prefix = Some(Lsn(lsn)),
                (_, Ok(lane), Ok(lsn)) => stored.lanes.push((lane, Lsn(lsn))),
                _ => {}
            }
        }
        stored
    }

    pub(super) fn kept(self, log_id: u64, sink: &str) -> Kept {
        if self.prefix.is_none() && self.lanes.is_empty() {
            return Kept::Nothing;
        }
        let prefix = self.prefix.unwrap_or(Lsn::NONE);
        Kept::At(Positions { log_id, sink: sink.to_owned(), lanes: self.lanes, prefix })
    }
}
