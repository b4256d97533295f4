//! Looking at a Redis without changing it: login, rights, room, shapes.

use redis::Value;

use super::config::{Deployment, RedisConfig};
use super::conn::{RedisConn, Request, refusal};
use super::link::string;
use crate::sink::Finding;

/// Commands that every pool needs.
const NEEDED: &[&str] = &["evalsha", "script|load", "hset", "hget", "zadd", "zrem", "del", "set", "sadd", "pexpireat"];

pub(super) async fn inspect(config: &RedisConfig) -> Vec<Finding> {
    let mut conn = match RedisConn::open(config).await {
        Ok(conn) => conn,
        Err(error) => return vec![Finding::fault(error.to_string())],
    };
    let mut findings = Vec::new();
    // Any key tells the way to a server; of a cluster one master answers for all.
    let key = "forebay:check";
    let info = |section: &str| {
        let mut cmd = redis::cmd("INFO");
        cmd.arg(section);
        Request { key: key.into(), cmd }
    };
    let mut who = redis::cmd("ACL");
    who.arg("WHOAMI");
    let asked = [info("replication"), info("memory"), Request { key: key.into(), cmd: who }];
    let answers = match conn.run(&asked).await {
        Ok(answers) => answers,
        Err(error) => return vec![Finding::fault(error.to_string())],
    };
    let text = |n: usize| answers.get(n).and_then(string).unwrap_or_default();
    let field = |text: &str, name: &str| {
        text.lines().find_map(|line| line.trim_end().strip_prefix(name).map(str::to_owned)).unwrap_or_default()
    };
    if field(&text(0), "role:") == "slave" {
        findings.push(Finding::fault("the server is a replica: name the master, or use `type = sentinel`"));
    }
    let replicas: u64 = field(&text(0), "connected_slaves:").parse().unwrap_or(0);
    if replicas < config.wait_replicas {
        let wanted = config.wait_replicas;
        findings
            .push(Finding::fault(format!("{replicas} replicas are connected, the pool's `wait_replicas` is {wanted}")));
    }
    let policy = field(&text(1), "maxmemory_policy:");
    if field(&text(1), "maxmemory:") != "0" && policy.starts_with("allkeys") {
        findings.push(Finding::warning(format!(
            "maxmemory-policy is {policy}: Redis may drop messages and the sink's position; `noeviction` keeps them"
        )));
    }
    findings.extend(rights(&mut conn, &text(2)).await);
    if findings.is_empty() {
        let kind = match &config.deployment {
            Deployment::Single => "one server".to_owned(),
            Deployment::Sentinel(name) => format!("the master of {name}"),
            Deployment::Cluster => "a cluster".to_owned(),
        };
        findings.push(Finding::fine(format!(
            "{kind}, {replicas} replicas, as {}; keys are made as they are needed",
            text(2)
        )));
    }
    findings
}

/// What the user may not do, where the server can say so (Redis 7 and later).
async fn rights(conn: &mut RedisConn, user: &str) -> Vec<Finding> {
    let mut missing = Vec::new();
    for name in NEEDED {
        let mut cmd = redis::cmd("ACL");
        cmd.arg("DRYRUN").arg(user);
        let words: &[&str] = match *name {
            "evalsha" => &["EVALSHA", "x", "0"],
            "script|load" => &["SCRIPT", "LOAD", "x"],
            "hset" => &["HSET", "mqtt:msg:x", "a", "b"],
            "hget" => &["HGET", "forebay:x", "a"],
            "zadd" => &["ZADD", "mqtt:msg:x", "1", "a"],
            "zrem" => &["ZREM", "mqtt:msg:x", "a"],
            "del" => &["DEL", "mqtt:retain:x"],
            "set" => &["SET", "mqtt:acked:x", "a"],
            "sadd" => &["SADD", "forebay:acked:x", "a"],
            _ => &["PEXPIREAT", "mqtt:msg:x", "1"],
        };
        let request = Request { key: b"forebay:check".to_vec(), cmd: cmd.arg(words).take() };
        match conn.run(&[request]).await {
            Ok(answers) => match answers.first() {
                Some(Value::Okay) => {}
                // An older server, or a user who may not ask.
                Some(answer) if refusal(answer).is_some() => return Vec::new(),
                Some(answer) => missing.push(string(answer).unwrap_or_else(|| (*name).to_owned())),
                None => return Vec::new(),
            },
            Err(_) => return Vec::new(),
        }
    }
    let finding = |why: String| Finding::fault(format!("{why} (ACL SETUSER {user} …)"));
    missing.into_iter().map(finding).collect()
}
