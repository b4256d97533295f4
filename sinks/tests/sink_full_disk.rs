//! Databases whose disk is full: the real servers on a small tmpfs. The sink waits and says what to do, nothing is buried, and it goes on by
//! itself when there is room.
//!
//! It needs the right to mount a tmpfs (root). Without it the tests fail and say so.
#![cfg(all(feature = "conformance", feature = "pgsql", feature = "mysql", feature = "redis"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod redis_support;
mod sql;

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use forebay_engine::{Lsn, QoS};
use forebay_services::mariadb::MariaDb;
use forebay_services::mysql::MySql;
use forebay_services::postgres::Postgres;
use forebay_services::redis::Redis;
use forebay_services::{Service, private, private_in};
use forebay_sinks::conformance::{Bench, MemoryLog, caught_up, until};
use forebay_sinks::redis::{Deployment, RedisSink};
use forebay_sinks::rule::{Database, Function, Hook};
use forebay_sinks::runtime::SinkState;
use redis_support::{View, config};
use sql::{Other, Scratch, Server, done, shows, start, stop};

/// What is left free when the disk is made small.
const LEFT: u64 = 12 << 20;
/// More than that in messages.
const MESSAGES: usize = 1_200;
const PAYLOAD: usize = 20_000;

/// A file system of memory, whose size can be changed. Unmounted when dropped.
struct Small(tempfile::TempDir);

impl Small {
    fn mount() -> Small {
        // Servers that run as another user have to get there.
        let dir = tempfile::tempdir_in(forebay_services::base().unwrap()).unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let small = Small(dir);
        run(Command::new("mount").args(["-t", "tmpfs", "-o", "size=1g,mode=755", "tmpfs"]).arg(small.path()));
        small
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn resize(&self, bytes: u64) {
        let size = format!("remount,size={}k", bytes.div_ceil(1024));
        run(Command::new("mount").args(["-o", &size]).arg(self.path()));
    }

    /// Leaves so many bytes free beyond what files hold by now. Files that are prepared with holes get their blocks first.
    fn leave(&self, bytes: u64) {
        let (mut folders, mut used) = (vec![self.path().to_owned()], 0);
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let (path, meta) = (entry.as_ref().unwrap().path(), entry.unwrap().metadata().unwrap());
                if meta.is_dir() {
                    folders.push(path);
                } else if meta.is_file() {
                    if meta.blocks() * 512 < meta.len() {
                        run(Command::new("fallocate").args(["-l", &meta.len().to_string()]).arg(path));
                    }
                    used += meta.len().next_multiple_of(4096).max(meta.blocks() * 512);
                }
            }
        }
        self.resize(used + bytes);
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _gone = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(
        output.status.success(),
        "{command:?}: this test needs the right to mount a tmpfs (run it as root, or with `unshare -rm cargo test …`): {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

fn publish(log: &MemoryLog, count: usize, length: usize) -> Lsn {
    // PostgreSQL makes short what can be.
    let mut dice = 0x9e37_79b9_7f4a_7c15_u64;
    let mut letter = || {
        dice ^= dice << 13;
        dice ^= dice >> 7;
        dice ^= dice << 17;
        b'0' + (dice % 64) as u8
    };
    let mut last = Lsn::NONE;
    for n in 0..count {
        let payload: String = (0..length).map(|_| char::from(letter())).collect();
        last = log.publish(&format!("t/{}", n % 50), payload.as_bytes(), QoS::AtLeastOnce);
    }
    last
}

/// The server is `scratch`'s, its rows are on `small`.
async fn fills(scratch: &Scratch, small: &Small) {
    let mut rules = scratch.rules(&[(Hook::MessagePublish, Some("#"), Function::MessagePublish)]);
    rules.pools = vec![scratch.pool(&[("pool_size", "2")])];
    let log = MemoryLog::default();
    let sinks = start(&log, &rules);
    let last = publish(&log, 50, 100);
    done(&log, &sinks, last).await;
    let mut count = 50;
    for _ in 0..2 {
        small.leave(LEFT);
        let last = publish(&log, MESSAGES, PAYLOAD);
        count += MESSAGES;
        shows(&sinks, "the server's disk is full: make room").await;
        // It tries again and again, and is held up again and again.
        let tried = sinks.status()[0].stored;
        until("it waits", || matches!(sinks.status()[0].state, SinkState::Waiting { .. })).await;
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        assert!(sinks.status()[0].position <= last && sinks.status()[0].stored < tried + MESSAGES as u64);
        assert!(sinks.dead_letters(&scratch.sink()).unwrap().is_empty(), "the disk is no record's fault");
        small.resize(1 << 30);
        done(&log, &sinks, last).await;
        let rows = scratch.rows("count(*),count(distinct msgid)", "from mqtt_msg").await;
        assert_eq!(rows, [format!("{count}|{count}")]);
    }
    assert!(sinks.dead_letters(&scratch.sink()).unwrap().is_empty());
    stop(sinks).await;
}

async fn on_a_small_disk(server: Server, service: &dyn Service) {
    let small = Small::mount();
    let servers = private_in(service, small.path()).unwrap();
    let scratch = Scratch::at(server, &servers.address).await;
    fills(&scratch, &small).await;
    drop(scratch);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mariadb_on_a_full_disk_holds_the_sink_until_there_is_room() {
    on_a_small_disk(Server::Mariadb, &MariaDb).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mysql_on_a_full_disk_holds_the_sink_until_there_is_room() {
    on_a_small_disk(Server::Mysql, &MySql).await;
}

/// Tables on a disk of their own. (PostgreSQL that has no room for its write-ahead log ends, and does not start before it has.)
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgresql_on_a_full_disk_holds_the_sink_until_there_is_room() {
    let small = Small::mount();
    let servers = private(&Postgres).unwrap();
    run(Command::new("chown").arg("postgres").arg(small.path()));
    let mut admin = Other::open(Server::Pgsql, &servers.address, None).await;
    admin.run(&format!("create tablespace small location '{}'", small.path().display())).await;
    let scratch = Scratch::at(Server::Pgsql, &servers.address).await;
    admin.run(&format!("alter database {} set tablespace small", scratch.name)).await;
    fills(&scratch, &small).await;
    drop(scratch);
    drop(admin);
}

/// The server's own log is on the disk that is full: it ends, and is started again when there is room.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgresql_that_ends_because_its_log_has_no_room_is_waited_for() {
    let small = Small::mount();
    let mut servers = private_in(&Postgres, small.path()).unwrap();
    let scratch = Scratch::at(Server::Pgsql, &servers.address).await;
    let rules = scratch.rules(&[(Hook::MessagePublish, Some("#"), Function::MessagePublish)]);
    let log = MemoryLog::default();
    let sinks = start(&log, &rules);
    done(&log, &sinks, publish(&log, 50, 100)).await;
    small.leave(LEFT);
    // Whatever gives up first, the tables or the log: it is more than both can take.
    let last = publish(&log, MESSAGES * 2, PAYLOAD);
    until("it waits", || matches!(sinks.status()[0].state, SinkState::Waiting { .. })).await;
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    assert!(sinks.status()[0].position <= last);
    small.resize(1 << 30);
    servers.process().restart().unwrap();
    done(&log, &sinks, last).await;
    let count = 50 + MESSAGES * 2;
    let rows = scratch.rows("count(*),count(distinct msgid)", "from mqtt_msg").await;
    assert_eq!(rows, [format!("{count}|{count}")]);
    assert!(sinks.dead_letters(&scratch.sink()).unwrap().is_empty());
    stop(sinks).await;
    drop(scratch);
}

/// Redis refuses writes when it can't write its file (`everysec`), or ends (`always`) and is started again when there is room.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_on_a_full_disk_holds_the_sink_until_there_is_room() {
    for policy in ["everysec", "always"] {
        let small = Small::mount();
        let mut servers = private_in(&Redis { tls: false, durable: true }, small.path()).unwrap();
        let port = servers.process().port();
        let view = View::of("127.0.0.1", port, 0).await;
        for words in [&["CONFIG", "SET", "appendfsync", policy][..], &["CONFIG", "REWRITE"]] {
            assert_eq!(view.words::<String>(words).await, "OK");
        }
        let bench = Bench::new(Database::Redis);
        let sink = bench.start_sink(
            Arc::new(RedisSink::new(config(&[("127.0.0.1", port)], Deployment::Single, 2))),
            Database::Redis,
        );
        caught_up(&bench, &sink, publish(&bench.log, 50, 100)).await;
        small.leave(LEFT);
        let last = publish(&bench.log, MESSAGES, PAYLOAD);
        let says = if policy == "always" { "refused" } else { "Redis can't save to its disk: make room" };
        until(&format!("with {policy} the sink says: {says}"), || match sink.status().state {
            SinkState::Waiting { why, .. } => why.contains(says),
            _ => false,
        })
        .await;
        assert!(sink.dead_letters().is_empty(), "the disk is no record's fault");
        small.resize(1 << 30);
        if policy == "always" {
            servers.process().restart().unwrap();
        }
        caught_up(&bench, &sink, last).await;
        let view = View::of("127.0.0.1", port, 0).await;
        let topics: Vec<String> = view.ask("KEYS mqtt:msg:t/*").await;
        let mut stored = 0;
        for topic in &topics {
            let payloads = view.payloads(topic.strip_prefix("mqtt:msg:").unwrap()).await;
            assert!(payloads.iter().all(Option::is_some), "a member of a topic has its hash");
            stored += payloads.len();
        }
        assert_eq!(stored, 50 + MESSAGES, "with {policy}");
        assert!(sink.dead_letters().is_empty());
        sink.shutdown(std::time::Duration::from_secs(20)).await;
    }
}
