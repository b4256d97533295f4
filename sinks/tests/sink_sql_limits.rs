//! Servers' limits: connections, packets, prepared statements; and what an operator does to tables, rights and servers while a sink runs.
#![cfg(all(feature = "conformance", feature = "pgsql", feature = "mysql"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod sql;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use forebay_engine::{Event, Lsn, QoS};
use forebay_services::certificates::certificates;
use forebay_services::mariadb::MariaDb;
use forebay_services::mysql::MySql;
use forebay_services::pgbouncer::PgBouncer;
use forebay_services::{Private, private};
use forebay_sinks::conformance::{MemoryLog, until};
use forebay_sinks::rule::{Function, Hook};
use forebay_sinks::{SinkState, Sinks};
use sql::relay::{Do, Relay};
use sql::{Other, Scratch, Server, done, guide, parts, shows, start, statements, stop};

macro_rules! on_each {
    ($($name:ident),* $(,)?) => {
        $(mod $name {
            use super::*;
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn pgsql() {
                super::$name(Server::Pgsql).await;
            }
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn mysql() {
                super::$name(Server::Mysql).await;
            }
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn mariadb() {
                super::$name(Server::Mariadb).await;
            }
        })*
    };
}

on_each!(
    lost_answers_to_commits_store_once,
    rights_withdrawn_are_waited_for,
    columns_altered_under_the_sink_are_looked_at_again,
    a_serialization_failure_is_tried_again,
    too_many_connections_are_waited_out,
);

const STORE: &[(Hook, Option<&str>, Function)] = &[(Hook::MessagePublish, Some("#"), Function::MessagePublish)];

fn publish(log: &MemoryLog, count: usize, length: usize) -> Lsn {
    let mut last = Lsn::NONE;
    for n in 0..count {
        last = log.publish(&format!("t/{}", n % 5), "x".repeat(length).as_bytes(), QoS::AtLeastOnce);
    }
    last
}

/// Messages in the log.
fn published(log: &MemoryLog) -> usize {
    log.events().iter().filter(|event| matches!(event, Event::Published(_))).count()
}

/// Every message of the log is stored, each once, and none was buried.
async fn stored_once(log: &MemoryLog, scratch: &Scratch, sinks: &Sinks) {
    let count = published(log);
    let found = scratch.rows("count(*),count(distinct msgid)", "from mqtt_msg").await;
    assert_eq!(found, [format!("{count}|{count}")]);
    assert!(sinks.dead_letters(&scratch.sink()).unwrap().is_empty());
}

/// The server has committed, and nobody has heard it: on tables without a unique key a repetition would show.
async fn lost_answers_to_commits_store_once(server: Server) {
    let scratch = Scratch::new(server).await;
    scratch.script(guide(server)).await;
    scratch.run("create table counted (n integer)").await;
    scratch.run("insert into counted values (0)").await;
    let (host, port, ..) = parts(&scratch.url);
    let (lose, lost) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let (armed, count) = (Arc::clone(&lose), Arc::clone(&lost));
    let relay = Relay::to(&format!("{host}:{port}"), move |bytes| {
        let text = bytes.strip_suffix(&[0]).unwrap_or(bytes);
        let commit = text.len() >= 6 && text[text.len() - 6..].eq_ignore_ascii_case(b"commit");
        if commit && armed.swap(false, Ordering::Relaxed) {
            count.fetch_add(1, Ordering::Relaxed);
            return Do::LoseAnswer;
        }
        Do::Pass
    })
    .await;
    let mut rules = scratch.rules(STORE);
    rules.rules.push(statements(&scratch, 2, &["update counted set n = n + 1"]));
    let place = format!("127.0.0.1:{}", relay.port);
    rules.pools = vec![scratch.pool(&[("server", &place), ("pool_size", "1")])];
    let log = MemoryLog::default();
    let sinks = start(&log, &rules);
    done(&log, &sinks, publish(&log, 50, 10)).await;
    for round in 0..10 {
        lose.store(true, Ordering::Relaxed);
        done(&log, &sinks, publish(&log, 30, 10)).await;
        until("the answer is lost", || lost.load(Ordering::Relaxed) > round).await;
    }
    done(&log, &sinks, publish(&log, 1, 10)).await;
    stored_once(&log, &scratch, &sinks).await;
    assert_eq!(scratch.rows("n", "from counted").await, [published(&log).to_string()]);
    stop(sinks).await;
}

/// A user who has no more rights than a sink needs. Goes with the test.
struct User<'a> {
    scratch: &'a Scratch,
    name: String,
    admin: Other,
}

impl<'a> User<'a> {
    async fn new(scratch: &'a Scratch, demands: &str) -> User<'a> {
        let (name, mut admin) = (format!("u_{}", scratch.name), scratch.open().await);
        if scratch.server == Server::Pgsql {
            admin.run(&format!("create role {name} login password 'pw' {demands}")).await;
            admin.run(&format!("grant all on schema public to {name}")).await;
        } else {
            admin.run(&format!("create user '{name}'@'127.0.0.1' identified by 'pw' {demands}")).await;
            admin.run(&format!("grant all on {}.* to '{name}'@'127.0.0.1'", scratch.name)).await;
        }
        User { scratch, name, admin }
    }

    /// As statements call it.
    fn called(&self) -> String {
        if self.scratch.server == Server::Pgsql { self.name.clone() } else { format!("'{}'@'127.0.0.1'", self.name) }
    }

    async fn end(mut self) {
        if self.scratch.server == Server::Pgsql {
            self.admin.run(&format!("drop owned by {}", self.name)).await;
            self.admin.run(&format!("drop role {}", self.name)).await;
        } else {
            self.admin.run(&format!("drop user {}", self.called())).await;
        }
    }
}

async fn rights_withdrawn_are_waited_for(server: Server) {
    let scratch = Scratch::new(server).await;
    scratch.script(guide(server)).await;
    let mut user = User::new(&scratch, "").await;
    let called = user.called();
    let mut rules = scratch.rules(STORE);
    rules.pools = vec![scratch.pool(&[("username", &user.name), ("password", "pw"), ("pool_size", "2")])];
    let tables = ["mqtt_client", "mqtt_sub", "mqtt_msg", "mqtt_retain", "mqtt_acked"];
    if server == Server::Pgsql {
        for table in tables {
            user.admin.run(&format!("grant all on {table} to {called}")).await;
            user.admin.run(&format!("grant all on {table}_id_seq to {called}")).await;
        }
        // Indexes on tables of somebody else are made by their owner.
        user.admin.run(&format!("alter table mqtt_msg owner to {called}")).await;
    }
    let log = MemoryLog::default();
    let sinks = start(&log, &rules);
    done(&log, &sinks, publish(&log, 20, 10)).await;
    let (take, give) = match server {
        Server::Pgsql => {
            (format!("revoke insert on mqtt_msg from {called}"), format!("grant insert on mqtt_msg to {called}"))
        }
        _ => {
            let all = format!("{}.*", scratch.name);
            (format!("revoke insert on {all} from {called}"), format!("grant insert on {all} to {called}"))
        }
    };
    user.admin.run(&take).await;
    if server != Server::Pgsql {
        // Rights on a database are looked up when it is entered.
        let id = scratch.rows("id", &format!("from information_schema.processlist where user = '{}'", user.name)).await;
        for id in id {
            let _ended_meanwhile = user.admin.try_run(&format!("kill {id}")).await;
        }
    }
    let last = publish(&log, 20, 10);
    shows(&sinks, "grant the user the right").await;
    assert!(sinks.dead_letters(&scratch.sink()).unwrap().is_empty());
    user.admin.run(&give).await;
    done(&log, &sinks, last).await;
    stored_once(&log, &scratch, &sinks).await;
    stop(sinks).await;
    user.end().await;
}

/// Wider, narrower, of another type, with one column more, and back: between batches and in them.
async fn columns_altered_under_the_sink_are_looked_at_again(server: Server) {
    let scratch = Scratch::new(server).await;
    scratch.script(guide(server)).await;
    let log = MemoryLog::default();
    let sinks = start(&log, &scratch.rules(STORE));
    let mut admin = scratch.open().await;
    done(&log, &sinks, publish(&log, 20, 10)).await;
    let steps: &[&str] = match server {
        Server::Pgsql => &[
            "alter table mqtt_msg alter payload type bytea using convert_to(payload, 'UTF8')",
            "alter table mqtt_msg add column node character varying(64) not null default 'unset'",
            "alter table mqtt_msg alter id type bigint",
            "alter table mqtt_msg alter qos type smallint",
            "alter table mqtt_msg alter payload type text using convert_from(payload, 'UTF8')",
            "alter table mqtt_msg drop column node",
        ],
        _ => &[
            "alter table mqtt_msg modify payload longtext",
            "alter table mqtt_msg add column more int not null default 7",
            "alter table mqtt_msg modify id bigint unsigned not null auto_increment",
            "alter table mqtt_msg modify topic varchar(512) not null",
            "alter table mqtt_msg modify payload mediumblob",
            "alter table mqtt_msg drop column node",
            "alter table mqtt_msg add column node varchar(64) default null",
        ],
    };
    // Written in another way into bytes than into text.
    let odd = "\\x41 \\\\ é";
    let odd_ones = |count: usize| {
        for _ in 0..count {
            log.publish("odd", odd.as_bytes(), QoS::AtLeastOnce);
        }
    };
    let mut count = 0;
    for step in steps {
        odd_ones(300);
        admin.run(step).await;
        odd_ones(200);
        count += 500;
        done(&log, &sinks, publish(&log, 20, 10)).await;
    }
    let text = if server == Server::Pgsql { "payload" } else { "convert(payload using utf8mb4)" };
    let same = scratch
        .rows(
            "count(*)",
            &format!(
                "from mqtt_msg where {text} = '{}'",
                odd.replace('\\', if server == Server::Pgsql { "\\" } else { "\\\\" })
            ),
        )
        .await;
    let kinds = scratch.rows("payload,count(*)", "from mqtt_msg group by payload").await;
    assert_eq!(same, [count.to_string()], "payloads as they were published: {kinds:?}");
    // A column that every row has to fill holds the sink; it is no record's fault.
    let must = if server == Server::Pgsql { "default 1" } else { "" };
    admin.run(&format!("alter table mqtt_msg add column must integer not null {must}")).await;
    if server == Server::Pgsql {
        admin.run("alter table mqtt_msg alter must drop default").await;
    }
    let last = publish(&log, 20, 10);
    shows(&sinks, "give the column a default").await;
    assert!(sinks.dead_letters(&scratch.sink()).unwrap().is_empty());
    admin.run("alter table mqtt_msg alter must set default 1").await;
    done(&log, &sinks, last).await;
    // What did not fit before fits now: the topic column was widened meanwhile.
    let topic = format!("t/{}", "x".repeat(400));
    let last = log.publish(&topic, b"x", QoS::AtLeastOnce);
    if server == Server::Pgsql {
        done(&log, &sinks, last).await;
        let letters = sinks.dead_letters(&scratch.sink()).unwrap();
        let letter = letters.ls(0, 10).unwrap().remove(0);
        admin.run("alter table mqtt_msg alter topic type character varying(1024)").await;
        sinks.replay(&scratch.sink(), letter.id).await.unwrap();
    } else {
        done(&log, &sinks, last).await;
    }
    stored_once(&log, &scratch, &sinks).await;
    stop(sinks).await;
}

/// Raised by a trigger, as a server would that checks at the end: the sink's own transactions are read committed and meet none.
async fn a_serialization_failure_is_tried_again(server: Server) {
    let scratch = Scratch::new(server).await;
    scratch.script(guide(server)).await;
    scratch.run("create table raised (n integer)").await;
    let log = MemoryLog::default();
    let sinks = start(&log, &scratch.rules(STORE));
    done(&log, &sinks, publish(&log, 20, 10)).await;
    let mut admin = scratch.open().await;
    if server == Server::Pgsql {
        admin
            .run(
                "create function refuse() returns trigger language plpgsql as $$ begin \
                 raise exception 'could not serialize access' using errcode = '40001'; end $$",
            )
            .await;
        admin.run("create trigger refuse before insert on mqtt_msg for each row execute function refuse()").await;
    } else {
        admin
            .run(
                "create trigger refuse before insert on mqtt_msg for each row begin \
                 signal sqlstate '40001' set message_text = 'could not serialize access'; end",
            )
            .await;
    }
    let last = publish(&log, 200, 10);
    shows(&sinks, "could not serialize access").await;
    assert!(matches!(sinks.status()[0].state, SinkState::Waiting { .. } | SinkState::Running));
    assert!(sinks.dead_letters(&scratch.sink()).unwrap().is_empty());
    admin.run(if server == Server::Pgsql { "drop trigger refuse on mqtt_msg" } else { "drop trigger refuse" }).await;
    done(&log, &sinks, last).await;
    stored_once(&log, &scratch, &sinks).await;
    stop(sinks).await;
}

fn own(server: Server) -> Private {
    match server {
        Server::Mysql => private(&MySql).unwrap(),
        _ => private(&MariaDb).unwrap(),
    }
}

async fn too_many_connections_are_waited_out(server: Server) {
    // PostgreSQL counts a role's by itself; the others only all of a server's.
    let servers = (server != Server::Pgsql).then(|| own(server));
    let url = servers.as_ref().map_or_else(|| server.url(), |servers| servers.address.clone());
    let scratch = Scratch::at(server, &url).await;
    scratch.script(guide(server)).await;
    let mut user = User::new(&scratch, "").await;
    let (host, port, ..) = parts(&url);
    let guest = format!("x://{}:pw@{host}:{port}", user.name);
    let database = (server == Server::Pgsql).then_some(scratch.name.as_str());
    let limit = match server {
        Server::Pgsql => format!("alter role {} connection limit 12", user.name),
        _ => "set global max_connections = 12".to_owned(),
    };
    user.admin.run(&limit).await;
    let mut others = Vec::new();
    while let Ok(other) = Other::try_open(server, &guest, database).await {
        others.push(other);
    }
    assert!(!others.is_empty());
    if server == Server::Pgsql {
        user.admin.run(&format!("alter table mqtt_msg owner to {}", user.called())).await;
        user.admin.run(&format!("grant all on all tables in schema public to {}", user.called())).await;
    }
    let mut rules = scratch.rules(STORE);
    rules.pools = vec![scratch.pool(&[("username", &user.name), ("password", "pw"), ("pool_size", "3")])];
    let log = MemoryLog::default();
    let last = publish(&log, 50, 10);
    let sinks = start(&log, &rules);
    shows(&sinks, "lower pool_size or raise the server's limit").await;
    // With room for one connection of three the sink stores what it can through it, and waits with the rest.
    others.pop();
    until("one connection stores", || sinks.status()[0].stored > 0).await;
    others.clear();
    done(&log, &sinks, last).await;
    stored_once(&log, &scratch, &sinks).await;
    stop(sinks).await;
    user.end().await;
    drop(scratch);
}

/// Smaller than a batch, smaller than a record, changed while the sink runs; and no room for prepared statements.
async fn packets_and_statements(server: Server) {
    let servers = own(server);
    let scratch = Scratch::at(server, &servers.address).await;
    let mut admin = Other::open(server, &servers.address, None).await;
    admin.run("set global max_allowed_packet = 65536").await;
    let log = MemoryLog::default();
    // 4 MB in one batch.
    let last = publish(&log, 400, 10_000);
    let sinks = start(&log, &scratch.rules(STORE));
    done(&log, &sinks, last).await;
    stored_once(&log, &scratch, &sinks).await;
    publish(&log, 5, 10);
    log.publish("t/1", "long".repeat(25_000).as_bytes(), QoS::AtLeastOnce);
    done(&log, &sinks, publish(&log, 5, 10)).await;
    let letters = sinks.dead_letters(&scratch.sink()).unwrap();
    let letter = letters.ls(0, 10).unwrap().remove(0);
    assert!(letter.reason.contains("max_allowed_packet"), "{}", letter.reason);
    assert_eq!(scratch.rows("count(*)", "from mqtt_msg").await, ["410"]);
    assert!(sinks.replay(&scratch.sink(), letter.id).await.is_err());
    // The remedy is what the letter says, and no restart.
    admin.run("set global max_allowed_packet = 16777216").await;
    sinks.replay(&scratch.sink(), letter.id).await.unwrap();
    stored_once(&log, &scratch, &sinks).await;
    // Lowered under the connection, which keeps its own until it is lost.
    admin.run("set global max_allowed_packet = 65536").await;
    for id in admin.rows("id", "from information_schema.processlist where db is not null").await {
        let _ended_meanwhile = admin.try_run(&format!("kill {id}")).await;
    }
    done(&log, &sinks, publish(&log, 400, 10_000)).await;
    stored_once(&log, &scratch, &sinks).await;
    stop(sinks).await;
    // Statements of others have taken all places.
    admin.run("set global max_prepared_stmt_count = 0").await;
    let last = publish(&log, 20, 10);
    let sinks = start(&log, &scratch.rules(STORE));
    shows(&sinks, "max_prepared_stmt_count").await;
    admin.run("set global max_prepared_stmt_count = 16382").await;
    done(&log, &sinks, last).await;
    stored_once(&log, &scratch, &sinks).await;
    stop(sinks).await;
    drop(scratch);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn packets_smaller_than_a_batch_or_a_record_and_no_room_for_statements_mysql() {
    packets_and_statements(Server::Mysql).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn packets_smaller_than_a_batch_or_a_record_and_no_room_for_statements_mariadb() {
    packets_and_statements(Server::Mariadb).await;
}

/// The server answers 1243 to statements that it does not know: as after a proxy has handed the session on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statements_that_mysql_has_forgotten_are_prepared_again() {
    const EXECUTE: u8 = 0x17;
    for server in [Server::Mysql, Server::Mariadb] {
        let scratch = Scratch::new(server).await;
        let (host, port, ..) = parts(&scratch.url);
        let (due, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (armed, changed) = (Arc::clone(&due), Arc::clone(&count));
        let relay = Relay::to(&format!("{host}:{port}"), move |bytes| {
            if bytes.len() > 9 && bytes[3] == 0 && bytes[4] == EXECUTE && armed.swap(false, Ordering::Relaxed) {
                bytes[5..9].copy_from_slice(&0x00ff_ffff_u32.to_le_bytes());
                changed.fetch_add(1, Ordering::Relaxed);
            }
            Do::Pass
        })
        .await;
        let mut rules = scratch.rules(STORE);
        // Users' statements are prepared; rows of the guide's tables travel in the statement's text.
        let named = "insert into mqtt_sub (clientid, topic) values (${payload}, 'x') on duplicate key update qos = 1";
        rules.rules.push(statements(&scratch, 2, &[named]));
        rules.pools = vec![scratch.pool(&[("server", &format!("127.0.0.1:{}", relay.port)), ("pool_size", "1")])];
        let log = MemoryLog::default();
        let sinks = start(&log, &rules);
        done(&log, &sinks, publish(&log, 20, 10)).await;
        for _ in 0..10 {
            due.store(true, Ordering::Relaxed);
            done(&log, &sinks, publish(&log, 20, 10)).await;
        }
        assert!(count.load(Ordering::Relaxed) >= 5, "nothing was forgotten");
        // Upkeep, which comes every ten seconds, may meet it too; it is done the next time.
        let noticed = sinks.status()[0].last_error.clone().filter(|error| !error.starts_with("upkeep: "));
        assert_eq!(noticed, None);
        stored_once(&log, &scratch, &sinks).await;
        stop(sinks).await;
    }
}

/// PgBouncer hands each transaction to whichever session is free; other clients see to it that it is another one each time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn behind_a_pooler_of_transactions_everything_works_without_a_cache_of_statements() {
    let scratch = Scratch::new(Server::Pgsql).await;
    scratch.script(guide(Server::Pgsql)).await;
    let (.., port, _, _) = parts(&scratch.url);
    let pooler = private(&PgBouncer { server: port }).unwrap();
    let place = format!("127.0.0.1:{}", pooler.members[0].port());
    let stop_others = Arc::new(AtomicBool::new(false));
    let mut others = Vec::new();
    for _ in 0..3 {
        let mut other = Other::open(Server::Pgsql, &pooler.address, Some(&scratch.name)).await;
        let stop = Arc::clone(&stop_others);
        others.push(tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                other.run("begin; select pg_sleep(0.003); commit").await;
            }
        }));
    }
    let mut rules = scratch.rules(&[
        (Hook::MessagePublish, Some("#"), Function::MessagePublish),
        (Hook::MessagePublish, Some("#"), Function::MessageRetain),
        (Hook::MessageAcked, Some("#"), Function::MessageAcked),
        (Hook::ClientConnected, None, Function::ClientConnected),
        (Hook::ClientConnected, None, Function::SubscribeLookup),
        (Hook::SessionSubscribed, Some("#"), Function::MessageFetch),
        (Hook::SessionSubscribed, Some("#"), Function::RetainLookup),
    ]);
    rules.rules.push(statements(
        &scratch,
        8,
        &["insert into mqtt_sub (clientid, topic) values (${payload}, 'x') on conflict do nothing"],
    ));
    rules.pools = vec![scratch.pool(&[("server", &place), ("pool_size", "3"), ("statement_cache", "off")])];
    let log = MemoryLog::default();
    let sinks = start(&log, &rules);
    for round in 0..20 {
        log.connect(&format!("c{round}"), 1);
        let lsn = publish(&log, 100, 10);
        let last = log.ack(&format!("c{round}"), "t/4", lsn);
        done(&log, &sinks, last).await;
        let row =
            format!("insert into mqtt_msg (topic, qos, payload, arrived) values ('t/4', 1, 'theirs {round}', now())");
        scratch.run(&row).await;
        let before = published(&log);
        sinks.lookups().before_subscribe("d", "t/4").await;
        assert_eq!(published(&log), before + 1, "a row of another program is read once");
        assert_eq!(sinks.lookups().proxy_subscriptions("xxxxxxxxxx").await.len(), 1);
    }
    done(&log, &sinks, publish(&log, 1, 10)).await;
    assert_eq!(scratch.rows("count(*),count(distinct clientid)", "from mqtt_acked").await, ["20|20"]);
    assert_eq!(sinks.status()[0].last_error, None, "nothing is lost between sessions");
    let own = "from mqtt_msg where msgid is not null";
    assert_eq!(scratch.rows("count(*),count(distinct msgid)", own).await, ["2001|2001"]);
    stop(sinks).await;
    stop_others.store(true, Ordering::Relaxed);
    for other in others {
        other.await.unwrap();
    }
    drop(pooler);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mariadb_is_logged_into_with_a_client_s_certificate_and_read_only_is_waited_out() {
    let files = certificates().unwrap();
    let text = |path: &std::path::Path| path.to_str().unwrap().to_owned();
    let (authority, certificate, key) = (text(&files.authority), text(&files.client), text(&files.client_key));
    let servers = own(Server::Mariadb);
    let scratch = Scratch::at(Server::Mariadb, &servers.address).await;
    let mut user = User::new(&scratch, "require x509").await;
    let login = [("username", user.name.as_str()), ("password", "pw"), ("ssl", "true"), ("cacertfile", &authority)];
    let with_key = [("certfile", certificate.as_str()), ("keyfile", &key)];
    let log = MemoryLog::default();
    let mut rules = scratch.rules(STORE);
    rules.pools = vec![scratch.pool(&login)];
    let sinks = start(&log, &rules);
    shows(&sinks, "check the pool's username and password").await;
    stop(sinks).await;
    rules.pools = vec![scratch.pool(&[&login[..], &with_key].concat())];
    let sinks = start(&log, &rules);
    done(&log, &sinks, publish(&log, 20, 10)).await;
    // An ordinary user is held up by a server that is a replica for a while.
    user.admin.run("set global read_only = 1").await;
    let last = publish(&log, 20, 10);
    shows(&sinks, "read-only").await;
    user.admin.run("set global read_only = 0").await;
    done(&log, &sinks, last).await;
    stored_once(&log, &scratch, &sinks).await;
    stop(sinks).await;
    user.end().await;
    drop(scratch);
}
