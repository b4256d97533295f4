//! Trouble with real servers: lost answers, statements forgotten, deadlocks, read-only servers, missing tables, changed passwords, TLS.
#![cfg(all(feature = "conformance", feature = "pgsql", feature = "mysql"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod sql;

use std::time::Duration;

use forebay_engine::{Lsn, QoS};
use forebay_services::certificates::certificates;
use forebay_services::mysql::MySql;
use forebay_services::toxiproxy::Link;
use forebay_sinks::Sinks;
use forebay_sinks::conformance::MemoryLog;
use forebay_sinks::rule::{Function, Hook, RuleSet};
use sql::{Scratch, Server, done, error, guide, options, parts, shows, start, statements, stop};

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
    answers_lost_in_the_middle_of_anything_store_once,
    a_transaction_of_a_lost_connection_is_waited_for,
    a_deadlock_is_tried_again,
    a_missing_table_waits_for_its_operator,
    a_dropped_table_is_created_again,
    a_changed_password_is_shown_and_waited_out,
    one_bad_message_among_ten_thousand,
);

const STORE: &[(Hook, Option<&str>, Function)] = &[(Hook::MessagePublish, Some("#"), Function::MessagePublish)];

/// The link is cut, silenced and reset at moments that nobody chose; on tables without a unique key a repetition would show.
async fn answers_lost_in_the_middle_of_anything_store_once(server: Server) {
    let scratch = Scratch::new(server).await;
    scratch.script(guide(server)).await;
    scratch.run("create table counted (n integer)").await;
    scratch.run("insert into counted values (0)").await;
    let (host, port, ..) = parts(&scratch.url);
    let link = Link::to(&format!("{host}:{port}")).unwrap();
    let mut rules = scratch.rules(STORE);
    rules.rules.push(statements(&scratch, 2, &["update counted set n = n + 1"]));
    let place = format!("127.0.0.1:{}", link.port());
    rules.pools = vec![scratch.pool(&[("server", &place), ("pool_size", "1")])];
    let log = MemoryLog::default();
    let mut options = options();
    options.runtime.request_deadline = Duration::from_millis(400);
    let sinks = Sinks::start(std::sync::Arc::new(log.clone()), &rules, &options).unwrap();
    let mut count = 0;
    let mut publish = |n: usize| {
        let mut last = Lsn::NONE;
        for _ in 0..n {
            count += 1;
            last = log.publish(&format!("t/{}", count % 5), count.to_string().as_bytes(), QoS::AtLeastOnce);
        }
        last
    };
    let last = publish(50);
    done(&log, &sinks, last).await;
    for round in 0..9u64 {
        let last = publish(200);
        tokio::time::sleep(Duration::from_millis(3 + round * 7 % 23)).await;
        match round % 3 {
            0 => link.cut().unwrap(),
            1 => link.silence().unwrap(),
            _ => link.reset_after(0).unwrap(),
        }
        tokio::time::sleep(Duration::from_millis(30)).await;
        publish(50);
        link.heal().unwrap();
        done(&log, &sinks, last).await;
    }
    let last = publish(1);
    done(&log, &sinks, last).await;
    let total = (50 + 9 * 250 + 1).to_string();
    assert_eq!(scratch.rows("count(*),count(distinct msgid)", "from mqtt_msg").await, [format!("{total}|{total}")]);
    assert_eq!(scratch.rows("n", "from counted").await, [total], "a counter is moved once a message");
    assert!(sinks.dead_letters(&scratch.sink()).unwrap().is_empty());
    for topic in 0..5 {
        let order = scratch.rows("msgid", &format!("from mqtt_msg where topic = 't/{topic}' order by id")).await;
        assert!(order.is_sorted(), "topic {topic}");
    }
    stop(sinks).await;
}

/// What a lost connection's transaction brings, once it ends, is what the position says: nothing of it is stored again.
async fn a_transaction_of_a_lost_connection_is_waited_for(server: Server) {
    let scratch = Scratch::new(server).await;
    scratch.script(guide(server)).await;
    let log = MemoryLog::default();
    let rules = scratch.rules(STORE);
    let sinks = start(&log, &rules);
    let last = log.publish("a", b"1", QoS::AtLeastOnce);
    done(&log, &sinks, last).await;
    stop(sinks).await;
    let last = log.publish("a", b"2", QoS::AtLeastOnce);
    let mut lost = scratch.open().await;
    lost.run("begin").await;
    lost.run("insert into mqtt_msg (msgid, topic, qos, payload, arrived) values ('lost', 'a', 1, '2', '2024-01-01 00:00:00')").await;
    lost.run(&format!("update forebay_position set lsn = {} where lane < 64 and lsn > 0", last.0 + 1)).await;
    let sinks = start(&log, &rules);
    // Time enough to read an older position and store the message, were it not for the rows' locks.
    tokio::time::sleep(Duration::from_millis(400)).await;
    lost.run("commit").await;
    done(&log, &sinks, last).await;
    assert_eq!(scratch.rows("payload", "from mqtt_msg order by id").await, ["1", "2"]);
    let last = log.publish("a", b"3", QoS::AtLeastOnce);
    done(&log, &sinks, last).await;
    assert_eq!(scratch.rows("payload", "from mqtt_msg order by id").await, ["1", "2", "3"]);
    stop(sinks).await;
}

async fn a_deadlock_is_tried_again(server: Server) {
    let scratch = Scratch::new(server).await;
    scratch.run("create table d (id integer primary key, n integer)").await;
    scratch.run("insert into d values (1, 0), (2, 0)").await;
    scratch.run("create table heavy (id integer)").await;
    scratch.run("insert into heavy values (1), (2), (3), (4), (5), (6), (7), (8)").await;
    let rules = RuleSet {
        pools: vec![scratch.pool(&[("pool_size", "1")])],
        rules: vec![statements(
            &scratch,
            1,
            &["update d set n = n + 1 where id = 1", "update d set n = n + 1 where id = 2"],
        )],
    };
    let log = MemoryLog::default();
    let sinks = start(&log, &rules);
    let last = log.publish("x", b"1", QoS::AtLeastOnce);
    done(&log, &sinks, last).await;
    let mut theirs = 0;
    let mut records = 1;
    for _ in 0..5 {
        let mut other = scratch.open().await;
        other.run("begin").await;
        // The servers choose the one that has less to lose, or waits for longer: the sink.
        other.run("insert into heavy select id from heavy").await;
        other.run("update d set n = n + 100 where id = 2").await;
        let last = log.publish("x", b"1", QoS::AtLeastOnce);
        records += 1;
        // The sink has row 1 by now and waits for row 2.
        tokio::time::sleep(Duration::from_millis(150)).await;
        // One of the two is chosen as the victim.
        if other.try_run("update d set n = n + 100 where id = 1").await.is_ok() {
            other.run("commit").await;
            theirs += 1;
        } else {
            other.run("rollback").await;
        }
        done(&log, &sinks, last).await;
    }
    let n = (records + 100 * theirs).to_string();
    assert_eq!(scratch.rows("n", "from d order by id").await, [n.clone(), n]);
    assert!(error(&sinks).to_lowercase().contains("deadlock"), "the sink was never the victim: {}", error(&sinks));
    assert!(sinks.dead_letters(&scratch.sink()).unwrap().is_empty());
    stop(sinks).await;
}

async fn a_missing_table_waits_for_its_operator(server: Server) {
    let scratch = Scratch::new(server).await;
    let mut rules = scratch.rules(STORE);
    rules.rules.push(statements(&scratch, 2, &["insert into elsewhere (p) values (${payload})"]));
    let log = MemoryLog::default();
    let last = log.publish("a", b"1", QoS::AtLeastOnce);
    let sinks = start(&log, &rules);
    shows(&sinks, "create the table or column").await;
    assert!(sinks.dead_letters(&scratch.sink()).unwrap().is_empty());
    scratch.run("create table elsewhere (p varchar(10))").await;
    done(&log, &sinks, last).await;
    assert_eq!(scratch.rows("p", "from elsewhere").await, ["1"]);
    assert_eq!(scratch.rows("count(*)", "from mqtt_msg").await, ["1"]);
    stop(sinks).await;
}

async fn a_dropped_table_is_created_again(server: Server) {
    let scratch = Scratch::new(server).await;
    let log = MemoryLog::default();
    let sinks = start(&log, &scratch.rules(STORE));
    let last = log.publish("a", b"1", QoS::AtLeastOnce);
    done(&log, &sinks, last).await;
    scratch.run("drop table mqtt_msg").await;
    let last = log.publish("a", b"2", QoS::AtLeastOnce);
    done(&log, &sinks, last).await;
    assert_eq!(scratch.rows("topic", "from mqtt_msg").await, ["a"]);
    stop(sinks).await;
}

async fn a_changed_password_is_shown_and_waited_out(server: Server) {
    let scratch = Scratch::new(server).await;
    let (name, at) =
        (scratch.name.clone(), if server == Server::Pgsql { String::new() } else { "@'127.0.0.1'".to_owned() });
    let mut admin = scratch.open().await;
    let password = |word: &str| match server {
        Server::Pgsql => format!("alter role u_{name} password '{word}'"),
        _ => format!("alter user 'u_{name}'{at} identified by '{word}'"),
    };
    match server {
        Server::Pgsql => {
            // Roles outlive databases.
            admin.run(&format!("create role u_{name} login password 'one'")).await;
            admin.run(&format!("grant all on schema public to u_{name}")).await;
        }
        _ => {
            admin.run(&format!("create user 'u_{name}'{at} identified by 'one'")).await;
            admin.run(&format!("grant all on {name}.* to 'u_{name}'{at}")).await;
        }
    }
    let mut rules = scratch.rules(STORE);
    let user = format!("u_{name}");
    rules.pools = vec![scratch.pool(&[("username", &user), ("password", "one"), ("pool_size", "1")])];
    let log = MemoryLog::default();
    let sinks = start(&log, &rules);
    let last = log.publish("a", b"1", QoS::AtLeastOnce);
    done(&log, &sinks, last).await;
    admin.run(&password("two")).await;
    let end = match server {
        Server::Pgsql => format!("select pg_terminate_backend(pid) from pg_stat_activity where usename = '{user}'"),
        _ => {
            let id = scratch.rows("id", &format!("from information_schema.processlist where user = '{user}'")).await;
            format!("kill {}", id[0])
        }
    };
    admin.run(&end).await;
    let last = log.publish("a", b"2", QoS::AtLeastOnce);
    shows(&sinks, "check the pool's username and password").await;
    admin.run(&password("one")).await;
    done(&log, &sinks, last).await;
    assert_eq!(scratch.rows("count(*)", "from mqtt_msg").await, ["2"]);
    stop(sinks).await;
    if server == Server::Pgsql {
        admin.run(&format!("drop owned by u_{name}")).await;
        admin.run(&format!("drop role u_{name}")).await;
    } else {
        admin.run(&format!("drop user 'u_{name}'{at}")).await;
    }
}

async fn one_bad_message_among_ten_thousand(server: Server) {
    let scratch = Scratch::new(server).await;
    let mut rules = scratch.rules(STORE);
    // The database's own words are wanted: a check that only the server knows.
    let check = if server == Server::Pgsql { "payload <> 'bad'::bytea" } else { "payload <> 'bad'" };
    rules.pools = vec![scratch.pool(&[("pool_size", "2")])];
    let log = MemoryLog::default();
    let sinks = start(&log, &rules);
    let last = log.publish("t/0", b"first", QoS::AtLeastOnce);
    done(&log, &sinks, last).await;
    // MySQL 8.0.15 has no checks yet.
    let guard = match server {
        Server::Mysql => "create trigger guard before insert on mqtt_msg for each row begin \
             if new.payload = 'bad' then signal sqlstate '45000' set message_text = 'no bad ones'; end if; end"
            .to_owned(),
        _ => format!("alter table mqtt_msg add constraint no_bad_ones check ({check})"),
    };
    scratch.run(&guard).await;
    sinks.pause(&scratch.sink());
    let mut bad = Lsn::NONE;
    for n in 0..10_000 {
        let payload = if n == 6_543 { "bad".to_owned() } else { n.to_string() };
        let lsn = log.publish(&format!("t/{}", n % 9), payload.as_bytes(), QoS::AtLeastOnce);
        if n == 6_543 {
            bad = lsn;
        }
    }
    let last = log.publish("t/0", b"last", QoS::AtLeastOnce);
    sinks.resume(&scratch.sink());
    done(&log, &sinks, last).await;
    let letters = sinks.dead_letters(&scratch.sink()).unwrap().ls(0, 10).unwrap();
    assert_eq!(letters.iter().map(|letter| letter.lsn).collect::<Vec<_>>(), [bad.0]);
    let letter = &letters[0];
    assert!(letter.reason.contains("bad") && !letter.statement.is_empty() && letter.rule == 1, "{letter:?}");
    assert_eq!(scratch.rows("count(*),count(distinct msgid)", "from mqtt_msg").await, ["10001|10001"]);
    for topic in 0..9 {
        let order = scratch.rows("msgid", &format!("from mqtt_msg where topic = 't/{topic}' order by id")).await;
        assert!(order.is_sorted(), "topic {topic}");
    }
    assert!(sinks.replay(&scratch.sink(), letter.id).await.is_err());
    let remedy =
        if server == Server::Mysql { "drop trigger guard" } else { "alter table mqtt_msg drop constraint no_bad_ones" };
    scratch.run(remedy).await;
    sinks.replay(&scratch.sink(), letter.id).await.unwrap();
    assert_eq!(scratch.rows("count(*)", "from mqtt_msg").await, ["10002"]);
    stop(sinks).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statements_that_postgres_has_forgotten_are_prepared_again() {
    let scratch = Scratch::new(Server::Pgsql).await;
    let mut rules = scratch.rules(STORE);
    rules.rules.push(statements(&scratch, 2, &["deallocate all"]));
    rules.rules.push(statements(
        &scratch,
        3,
        &["insert into mqtt_sub (clientid) select ${payload} on conflict do nothing"],
    ));
    rules.pools = vec![scratch.pool(&[("pool_size", "1")])];
    for cache in ["on", "off"] {
        rules.pools[0] = scratch.pool(&[("pool_size", "1"), ("statement_cache", cache)]);
        scratch.run("drop table if exists forebay_position").await;
        let log = MemoryLog::default();
        let sinks = start(&log, &rules);
        for n in 0..5 {
            let last = log.publish(&format!("{cache}/{n}"), n.to_string().as_bytes(), QoS::AtLeastOnce);
            done(&log, &sinks, last).await;
        }
        assert_eq!(sinks.status()[0].last_error, None, "with the cache {cache}");
        stop(sinks).await;
    }
    assert_eq!(scratch.rows("count(*)", "from mqtt_sub").await, ["10"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_only_postgres_is_waited_out() {
    let scratch = Scratch::new(Server::Pgsql).await;
    let log = MemoryLog::default();
    let sinks = start(&log, &scratch.rules(STORE));
    let last = log.publish("a", b"1", QoS::AtLeastOnce);
    done(&log, &sinks, last).await;
    let end = format!(
        "select pg_terminate_backend(pid) from pg_stat_activity where datname = '{}' and pid <> pg_backend_pid()",
        scratch.name
    );
    let mut admin = scratch.open().await;
    for (value, stored) in [("on", false), ("off", true)] {
        admin.run("set session default_transaction_read_only = off").await;
        admin.run(&format!("alter database {} set default_transaction_read_only = {value}", scratch.name)).await;
        admin.run(&end).await;
        let last = log.publish("a", b"2", QoS::AtLeastOnce);
        if stored {
            done(&log, &sinks, last).await;
        } else {
            shows(&sinks, "read-only").await;
        }
    }
    assert_eq!(scratch.rows("count(*)", "from mqtt_msg").await, ["3"]);
    stop(sinks).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_only_mysql_and_one_whose_ids_have_run_out_are_waited_out() {
    let server = forebay_services::private(&MySql).unwrap();
    let scratch = Scratch::at(Server::Mysql, &server.address).await;
    scratch.script(guide(Server::Mysql)).await;
    let log = MemoryLog::default();
    let sinks = start(&log, &scratch.rules(STORE));
    let last = log.publish("a", b"1", QoS::AtLeastOnce);
    done(&log, &sinks, last).await;
    scratch.run("set global super_read_only = 1").await;
    let last = log.publish("a", b"2", QoS::AtLeastOnce);
    shows(&sinks, "read-only").await;
    scratch.run("set global super_read_only = 0, global read_only = 0").await;
    done(&log, &sinks, last).await;
    scratch.run("alter table mqtt_msg auto_increment = 4294967295").await;
    log.publish("a", b"3", QoS::AtLeastOnce);
    let last = log.publish("a", b"4", QoS::AtLeastOnce);
    shows(&sinks, "bigint unsigned").await;
    assert!(sinks.dead_letters(&scratch.sink()).unwrap().is_empty());
    scratch.run("alter table mqtt_msg modify id bigint unsigned not null auto_increment").await;
    done(&log, &sinks, last).await;
    assert_eq!(scratch.rows("payload", "from mqtt_msg order by id").await, ["1", "2", "3", "4"]);
    stop(sinks).await;
    drop(scratch);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_that_differ_in_case_are_kept_apart_or_refused() {
    for guides in [true, false] {
        let scratch = Scratch::new(Server::Mariadb).await;
        if guides {
            scratch.script(guide(Server::Mariadb)).await;
        }
        let rules = scratch.rules(&[(Hook::ClientConnected, None, Function::ClientConnected)]);
        let log = MemoryLog::default();
        let sinks = start(&log, &rules);
        for client in ["Pump", "pump", "other"] {
            let last = log.connect(client, 1);
            done(&log, &sinks, last).await;
        }
        let letters = sinks.dead_letters(&scratch.sink()).unwrap().ls(0, 10).unwrap();
        let clients = scratch.rows("clientid", "from mqtt_client order by id").await;
        if guides {
            assert_eq!(clients, ["Pump", "other"]);
            assert!(letters.len() == 1 && letters[0].reason.contains("utf8mb4_bin"), "{letters:?}");
        } else {
            assert_eq!(clients, ["Pump", "pump", "other"]);
        }
        stop(sinks).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_is_spoken_where_it_is_asked_for() {
    let files = certificates().unwrap();
    let text = |path: &std::path::Path| path.to_str().unwrap().to_owned();
    let (authority, certificate, key) = (text(&files.authority), text(&files.client), text(&files.client_key));
    for server in [Server::Pgsql, Server::Mariadb] {
        let scratch = Scratch::new(server).await;
        if server == Server::Pgsql {
            for role in ["tlsonly", "forebay_cert"] {
                scratch.run(&format!("grant all on schema public to {role}")).await;
            }
        }
        let log = MemoryLog::default();
        let mut count = 0;
        let tls = [("ssl", "true"), ("cacertfile", authority.as_str())];
        let mut logins = vec![(vec![("username", "tlsonly"), ("password", "pw")], "password")];
        if server == Server::Pgsql {
            let own = vec![
                ("username", "forebay_cert"),
                ("password", ""),
                ("certfile", certificate.as_str()),
                ("keyfile", key.as_str()),
            ];
            logins.push((own, "certificate"));
        }
        for (login, _) in &logins {
            // Each role makes tables of its own.
            scratch.run("drop table if exists mqtt_client, mqtt_sub, mqtt_msg, mqtt_retain, mqtt_acked, forebay_position, forebay_imported, forebay_expiry").await;
            let mut rules = scratch.rules(STORE);
            rules.pools = vec![scratch.pool(&[&tls[..], login].concat())];
            let sinks = start(&log, &rules);
            count += 1;
            let last = log.publish("a", b"x", QoS::AtLeastOnce);
            done(&log, &sinks, last).await;
            assert_eq!(scratch.rows("count(*)", "from mqtt_msg").await, [count.to_string()]);
            stop(sinks).await;
        }
        // Without TLS the user is refused; with another authority the server is.
        let mut rules = scratch.rules(STORE);
        rules.pools = vec![scratch.pool(&[("username", "tlsonly"), ("password", "pw")])];
        let sinks = start(&log, &rules);
        shows(&sinks, "check the pool's username and password").await;
        stop(sinks).await;
        rules.pools = vec![scratch.pool(&[("username", "tlsonly"), ("password", "pw"), ("ssl", "true")])];
        let sinks = start(&log, &rules);
        shows(&sinks, "cacertfile").await;
        stop(sinks).await;
        scratch.run("drop table if exists mqtt_client, mqtt_sub, mqtt_msg, mqtt_retain, mqtt_acked, forebay_position, forebay_imported, forebay_expiry").await;
        if server == Server::Pgsql {
            for role in ["tlsonly", "forebay_cert"] {
                scratch.run(&format!("drop owned by {role}")).await;
            }
        }
    }
}
