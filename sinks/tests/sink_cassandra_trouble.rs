//! Trouble with a real Cassandra: killed, silent, reset, another password, no rights, no table, one bad message among many.
#![cfg(all(feature = "conformance", feature = "cassandra"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod cassandra_support;

use std::time::Duration;

use cassandra_support::{SINK, View, done, options, place, shared, shows, start, stop};
use forebay_engine::{Lsn, QoS};
use forebay_services::Private;
use forebay_services::cassandra::{Cassandra, MAX_MUTATION};
use forebay_services::toxiproxy::Link;
use forebay_sinks::Sinks;
use forebay_sinks::conformance::{MemoryLog, rule};
use forebay_sinks::rule::{Action, Database, Function, Hook, Param, Part, RuleSet, Statement};
use scylla::client::session_builder::SessionBuilder;

const STORE: &[(Hook, Option<&str>, Function)] = &[(Hook::MessagePublish, Some("#"), Function::MessagePublish)];

/// Publishes numbered messages to five topics.
#[derive(Default)]
struct Publisher {
    log: MemoryLog,
    count: usize,
}

impl Publisher {
    fn publish(&mut self, n: usize) -> Lsn {
        let mut last = Lsn::NONE;
        for _ in 0..n {
            self.count += 1;
            let topic = format!("t/{}", self.count % 5);
            last = self.log.publish(&topic, self.count.to_string().as_bytes(), QoS::AtLeastOnce);
        }
        last
    }

    /// Each message is there once, and nothing else, in the order of each topic.
    async fn all_stored_once(&self, view: &View) {
        let stored = view.stored().await;
        let missing: Vec<usize> =
            (1..=self.count).filter(|n| stored.get(n.to_string().as_bytes()) != Some(&1)).collect();
        assert!(missing.is_empty(), "{} of {} missing or twice: {missing:?}", missing.len(), self.count);
        assert_eq!(stored.len(), self.count);
        for topic in 0..5 {
            let order = view.payloads(&format!("t/{topic}")).await;
            let numbers: Vec<usize> = order.iter().map(|p| std::str::from_utf8(p).unwrap().parse().unwrap()).collect();
            assert!(numbers.is_sorted(), "topic {topic}: {numbers:?}");
        }
    }
}

/// Starts the sinks with a short deadline for each request.
fn impatient(log: &MemoryLog, rules: &RuleSet) -> Sinks {
    let mut options = options();
    options.runtime.request_deadline = Duration::from_secs(3);
    Sinks::start(std::sync::Arc::new(log.clone()), rules, &options).unwrap()
}

fn server() -> Private {
    forebay_services::private(&Cassandra { tls: false }).unwrap_or_else(|error| panic!("{error:#}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_killed_again_and_again_and_one_that_never_answers_miss_nothing() {
    let mut server = server();
    let view = View::new(&place(&server.address)).await;
    let mut publisher = Publisher::default();
    let sinks = impatient(&publisher.log, &view.rules(STORE));
    let last = publisher.publish(100);
    done(&publisher.log, &sinks, last).await;
    for round in 0..3u64 {
        publisher.publish(3_000);
        tokio::time::sleep(Duration::from_millis(20 + round * 40)).await;
        server.process().kill();
        let last = publisher.publish(500);
        server.process().restart().unwrap();
        done(&publisher.log, &sinks, last).await;
    }
    publisher.publish(1_000);
    server.process().suspend();
    let last = publisher.publish(500);
    shows(&sinks, "no answer").await;
    server.process().resume();
    done(&publisher.log, &sinks, last).await;
    assert!(sinks.dead_letters(SINK).unwrap().is_empty());
    stop(sinks).await;
    let view = View::of(&view.node, &view.keyspace).await;
    publisher.all_stored_once(&view).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_that_breaks_falls_silent_or_is_reset_misses_nothing() {
    let node = shared();
    let view = View::new(&node).await;
    let link = Link::to(&node).unwrap();
    let mut rules = view.rules(STORE);
    rules.pools = vec![view.pool(&[("nodes", &format!("127.0.0.1:{}", link.port()))])];
    let mut publisher = Publisher::default();
    let sinks = impatient(&publisher.log, &rules);
    let last = publisher.publish(50);
    done(&publisher.log, &sinks, last).await;
    for round in 0..6u64 {
        let last = publisher.publish(600);
        tokio::time::sleep(Duration::from_millis(5 + round * 7 % 23)).await;
        match round % 3 {
            0 => link.cut().unwrap(),
            1 => link.silence().unwrap(),
            _ => link.reset_after(0).unwrap(),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        publisher.publish(50);
        link.heal().unwrap();
        done(&publisher.log, &sinks, last).await;
    }
    let last = publisher.publish(1);
    done(&publisher.log, &sinks, last).await;
    assert!(sinks.dead_letters(SINK).unwrap().is_empty());
    stop(sinks).await;
    publisher.all_stored_once(&view).await;
    view.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_password_and_rights_that_were_taken_are_shown_and_waited_out() {
    let view = View::new(&shared()).await;
    let role = format!("u_{}", view.keyspace);
    view.run(&format!("create role {role} with password = 'one' and login = true")).await;
    view.run(&format!("grant all on keyspace {} to {role}", view.keyspace)).await;
    let mut rules = view.rules(STORE);
    rules.pools = vec![view.pool(&[("username", &role), ("password", "one")])];
    let mut publisher = Publisher::default();
    let sinks = start(&publisher.log, &rules);
    let last = publisher.publish(10);
    done(&publisher.log, &sinks, last).await;
    view.run(&format!("revoke modify on keyspace {} from {role}", view.keyspace)).await;
    view.run(&format!("revoke all on keyspace {} from {role}", view.keyspace)).await;
    let last = publisher.publish(10);
    shows(&sinks, "GRANT").await;
    view.run(&format!("grant all on keyspace {} to {role}", view.keyspace)).await;
    done(&publisher.log, &sinks, last).await;
    stop(sinks).await;
    view.run(&format!("alter role {role} with password = 'two'")).await;
    // The server remembers for some seconds whom it let in.
    while SessionBuilder::new().known_node(&view.node).user(&role, "one").build().await.is_ok() {
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let sinks = start(&publisher.log, &rules);
    let last = publisher.publish(10);
    shows(&sinks, "the pool's `username` and `password`").await;
    view.run(&format!("alter role {role} with password = 'one'")).await;
    done(&publisher.log, &sinks, last).await;
    assert!(sinks.dead_letters(SINK).unwrap().is_empty());
    stop(sinks).await;
    publisher.all_stored_once(&view).await;
    view.run(&format!("drop role {role}")).await;
    view.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_is_missing_waits_for_its_operator_and_a_dropped_one_is_made_again() {
    let view = View::new(&shared()).await;
    let mut rules = view.rules(STORE);
    let text = |text: &str| Part::Text(text.into());
    let statement = Statement {
        source: "insert into elsewhere (p) values (${payload})".into(),
        parts: vec![text("insert into elsewhere (p) values ("), Part::Param(Param::Payload), text(")")],
    };
    let action = Action::Statements(vec![statement]);
    rules.rules.push(rule(Database::Cassandra, Hook::MessagePublish, 2, Some("else/#"), action));
    let log = MemoryLog::default();
    let sinks = start(&log, &rules);
    let last = log.publish("else/a", b"1", QoS::AtLeastOnce);
    shows(&sinks, "create it").await;
    view.run("create table elsewhere (p text primary key)").await;
    done(&log, &sinks, last).await;
    assert_eq!(view.rows::<(String,)>("select p from elsewhere").await, [("1".to_owned(),)]);
    view.run("drop table msg").await;
    let last = log.publish("a", b"2", QoS::AtLeastOnce);
    done(&log, &sinks, last).await;
    assert_eq!(view.payloads("a").await, [b"2"]);
    // Positions that somebody deletes are begun anew, and go on.
    view.run(&format!(
        "delete from forebay_position where log_id = {} and sink = '{SINK}'",
        0xf0f0_f0f0_f0f0_f0f0_u64.cast_signed()
    ))
    .await;
    stop(sinks).await;
    let sinks = start(&log, &rules);
    let last = log.publish("a", b"3", QoS::AtLeastOnce);
    done(&log, &sinks, last).await;
    stop(sinks).await;
    assert!(view.count("forebay_position").await > 0);
    assert_eq!(view.payloads("a").await, [b"2", b"3"]);
    assert!(view.count("msg").await >= 2);
    view.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_bad_message_among_ten_thousand() {
    let view = View::new(&shared()).await;
    let log = MemoryLog::default();
    let sinks = start(&log, &view.rules(STORE));
    let last = log.publish("t/0", b"first", QoS::AtLeastOnce);
    done(&log, &sinks, last).await;
    sinks.pause(SINK);
    let mut bad = Lsn::NONE;
    for n in 0..10_000 {
        // Only the server knows that it is too large.
        let payload = if n == 6_543 { "x".repeat(MAX_MUTATION) } else { n.to_string() };
        let lsn = log.publish(&format!("t/{}", n % 9), payload.as_bytes(), QoS::AtLeastOnce);
        if n == 6_543 {
            bad = lsn;
        }
    }
    let last = log.publish("t/0", b"last", QoS::AtLeastOnce);
    sinks.resume(SINK);
    done(&log, &sinks, last).await;
    let letters = sinks.dead_letters(SINK).unwrap().ls(0, 10).unwrap();
    assert_eq!(letters.iter().map(|letter| letter.lsn).collect::<Vec<_>>(), [bad.0]);
    assert!(letters[0].reason.contains("oversized mutation"), "{}", letters[0].reason);
    assert!(letters[0].statement.contains("insert into msg"));
    assert_eq!(view.stored().await.len(), 10_001);
    assert!(sinks.replay(SINK, letters[0].id).await.is_err());
    assert_eq!(sinks.dead_letters(SINK).unwrap().len(), 1);
    stop(sinks).await;
    view.drop().await;
}
