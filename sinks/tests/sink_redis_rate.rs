//! Measurements, run by hand in an optimised build: how fast a log drains into Redis, beside `redis-cli --pipe` with the same keys.
//! They alternate, so that what else the machine does hits both.
//!
//!     cargo test --profile fast -p forebay-sinks --features conformance --test sink_redis_rate -- --ignored --nocapture
#![cfg(all(feature = "conformance", feature = "redis"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod redis_support;

use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use forebay_engine::QoS;
use forebay_services::private;
use forebay_services::redis::{PASSWORD, Redis};
use forebay_sinks::conformance::{MemoryLog, until};
use forebay_sinks::dead_letter::{DeadLetters, MemoryLetters};
use forebay_sinks::redis::{Deployment, RedisSink};
use forebay_sinks::rule::{Action, Database as Kind, Function, Hook, RuleSet};
use forebay_sinks::runtime::plan::Plan;
use forebay_sinks::runtime::{self, RuntimeOptions};
use redis_support::{View, config};

const MESSAGES: usize = 200_000;
const PAYLOAD: [u8; 128] = [b'x'; 128];

fn topic(n: usize) -> String {
    format!("device/{}/state", n % 1_000)
}

async fn through_the_sink(log: &MemoryLog, port: u16) -> f64 {
    let action = Action::Function(Function::MessagePublish);
    let rule = forebay_sinks::conformance::rule(Kind::Redis, Hook::MessagePublish, 1, None, action);
    let plan = Plan::of_pool(&RuleSet { pools: Vec::new(), rules: vec![rule] }, Kind::Redis, "pool1", "rate");
    let letters = DeadLetters::open("rate", Arc::new(MemoryLetters::default())).unwrap();
    let sink = Arc::new(RedisSink::new(config(&[("127.0.0.1", port)], Deployment::Single, 8)));
    let began = Instant::now();
    let handle = runtime::spawn("rate", sink, plan, Arc::new(log.clone()), letters, RuntimeOptions::default());
    until("everything is stored", || handle.status().stored >= MESSAGES as u64).await;
    let took = began.elapsed();
    handle.shutdown(Duration::from_secs(5)).await;
    MESSAGES as f64 / took.as_secs_f64()
}

fn command(out: &mut Vec<u8>, words: &[&[u8]]) {
    out.extend_from_slice(format!("*{}\r\n", words.len()).as_bytes());
    for word in words {
        out.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        out.extend_from_slice(word);
        out.extend_from_slice(b"\r\n");
    }
}

fn by_pipe(port: u16) -> f64 {
    let mut input = Vec::new();
    for n in 0..MESSAGES {
        let (id, topic) = (format!("{n:020}"), topic(n));
        let fields: [&[u8]; 16] = [
            b"HSET",
            &[b"mqtt:msg:", id.as_bytes()].concat(),
            b"id",
            id.as_bytes(),
            b"from",
            b"publisher",
            b"qos",
            b"1",
            b"topic",
            topic.as_bytes(),
            b"payload",
            &PAYLOAD,
            b"ts",
            b"1704067200",
            b"retain",
            b"false",
        ];
        command(&mut input, &fields);
        command(&mut input, &[b"ZADD", &[b"mqtt:msg:", topic.as_bytes()].concat(), b"1", id.as_bytes()]);
    }
    let began = Instant::now();
    let mut cli = Command::new("redis-cli")
        .args(["-p", &port.to_string(), "-a", PASSWORD, "--no-auth-warning", "--pipe"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    cli.stdin.take().unwrap().write_all(&input).unwrap();
    assert!(cli.wait().unwrap().success());
    MESSAGES as f64 / began.elapsed().as_secs_f64()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement, not a test"]
async fn a_drain_beside_redis_cli_pipe() {
    let log = MemoryLog::default();
    for n in 0..MESSAGES {
        log.publish(&topic(n), &PAYLOAD, QoS::AtLeastOnce);
    }
    let server = private(&Redis { tls: false, durable: false }).unwrap();
    let port = server.members[0].port();
    let view = View::of("127.0.0.1", port, 0).await;
    for _ in 0..5 {
        let _ok: String = view.ask("FLUSHALL").await;
        let pipe = tokio::task::spawn_blocking(move || by_pipe(port)).await.unwrap();
        let _ok: String = view.ask("FLUSHALL").await;
        let sink = through_the_sink(&log, port).await;
        println!("redis-cli --pipe {pipe:.0} messages/s, sink {sink:.0} messages/s, ratio {:.2}", sink / pipe);
    }
}
