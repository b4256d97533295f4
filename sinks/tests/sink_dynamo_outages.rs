//! Trouble with DynamoDB: killed, silent, reset, throttled, out of order, wrong keys, missing tables, one bad message among many.
#![cfg(all(feature = "conformance", feature = "dynamodb"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod dynamo_support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use dynamo_support::wire::{Say, Wire};
use dynamo_support::{SINK, View, account, done, options, shared, shows, start, stop, text};
use forebay_engine::event::Message;
use forebay_engine::{Lsn, QoS};
use forebay_services::dynamodb::DynamoDb;
use forebay_services::influxdb::InfluxDb;
use forebay_services::toxiproxy::Link;
use forebay_sinks::Sinks;
use forebay_sinks::conformance::MemoryLog;
use forebay_sinks::rule::{Function, Hook, RuleSet};

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

    /// Each message is there once and named once, and nothing else, in the order of each topic.
    async fn all_stored_once(&self, view: &View) {
        let stored = view.stored().await;
        let missing: Vec<usize> =
            (1..=self.count).filter(|n| stored.get(n.to_string().as_bytes()) != Some(&1)).collect();
        assert!(missing.is_empty(), "{} of {} missing or twice: {missing:?}", missing.len(), self.count);
        assert_eq!(stored.len(), self.count);
        let mut named = 0;
        for topic in 0..5 {
            let order = view.payloads(&format!("t/{topic}")).await;
            let numbers: Vec<usize> = order.iter().map(|p| std::str::from_utf8(p).unwrap().parse().unwrap()).collect();
            assert!(numbers.is_sorted(), "topic {topic}: {numbers:?}");
            named += numbers.len();
        }
        assert_eq!(named, self.count, "names in the map");
    }
}

/// Starts the sinks with a short deadline for each request.
fn impatient(log: &MemoryLog, rules: &RuleSet) -> Sinks {
    let mut options = options();
    options.runtime.request_deadline = Duration::from_secs(4);
    Sinks::start(Arc::new(log.clone()), rules, &options).unwrap()
}

/// The rules on the same tables by another way.
fn through(view: &View, endpoint: &str) -> RuleSet {
    let mut rules = view.rules(STORE);
    rules.pools = vec![view.pool(&[("server", endpoint)])];
    rules
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_killed_again_and_again_and_one_that_never_answers_miss_nothing() {
    let mut server = forebay_services::private(&DynamoDb { durable: true }).unwrap_or_else(|error| panic!("{error:#}"));
    let view = View::at(&server.address, &account());
    let mut publisher = Publisher::default();
    let sinks = impatient(&publisher.log, &view.rules(STORE));
    let last = publisher.publish(50);
    done(&publisher.log, &sinks, last).await;
    for round in 0..3u64 {
        publisher.publish(500);
        tokio::time::sleep(Duration::from_millis(100 + round * 150)).await;
        server.process().kill();
        let last = publisher.publish(100);
        server.process().restart().unwrap();
        done(&publisher.log, &sinks, last).await;
    }
    publisher.publish(200);
    server.process().suspend();
    let last = publisher.publish(100);
    shows(&sinks, "no answer").await;
    server.process().resume();
    done(&publisher.log, &sinks, last).await;
    assert!(sinks.dead_letters(SINK).unwrap().is_empty());
    stop(sinks).await;
    publisher.all_stored_once(&view).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_that_breaks_falls_silent_or_is_reset_misses_nothing() {
    let view = View::new();
    let link = Link::to(view.endpoint.strip_prefix("http://").unwrap()).unwrap();
    let mut publisher = Publisher::default();
    let sinks = impatient(&publisher.log, &through(&view, &format!("http://127.0.0.1:{}", link.port())));
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
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_dynamodb_has_not_taken_is_sent_again_and_throttling_is_waited_out() {
    let view = View::new();
    let wire = Wire::to(&view.endpoint).await;
    let mut publisher = Publisher::default();
    let sinks = start(&publisher.log, &through(&view, &wire.endpoint));
    let last = publisher.publish(20);
    done(&publisher.log, &sinks, last).await;
    // Of each batch a half is left unprocessed, again and again.
    let halves = Arc::new(AtomicUsize::new(0));
    let counted = halves.clone();
    wire.judge(move |operation| {
        if operation == "BatchWriteItem" {
            counted.fetch_add(1, Ordering::Relaxed);
        }
        Say::Half
    });
    let last = publisher.publish(300);
    done(&publisher.log, &sinks, last).await;
    assert!(halves.load(Ordering::Relaxed) > 300 / 25 * 3, "halves of halves were sent again");
    // Every second request is throttled; the sink gets on, and has nothing to show.
    for code in ["ProvisionedThroughputExceededException", "ThrottlingException", "RequestLimitExceeded"] {
        let number = AtomicUsize::new(0);
        wire.judge(move |_| match number.fetch_add(1, Ordering::Relaxed) % 2 {
            0 => Say::Refuse(400, code),
            _ => Say::Nothing,
        });
        let last = publisher.publish(100);
        done(&publisher.log, &sinks, last).await;
    }
    // Nothing at all goes through: the operator is told.
    wire.judge(|_| Say::Refuse(400, "ProvisionedThroughputExceededException"));
    let last = publisher.publish(100);
    shows(&sinks, "DynamoDB throttles").await;
    wire.judge(|_| Say::Nothing);
    done(&publisher.log, &sinks, last).await;
    assert!(sinks.dead_letters(SINK).unwrap().is_empty());
    stop(sinks).await;
    publisher.all_stored_once(&view).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_keys_rights_and_a_service_in_trouble_hold_the_sink_with_the_remedy() {
    let view = View::new();
    let wire = Wire::to(&view.endpoint).await;
    let mut publisher = Publisher::default();
    let sinks = start(&publisher.log, &through(&view, &wire.endpoint));
    let last = publisher.publish(10);
    done(&publisher.log, &sinks, last).await;
    for (status, code, remedy) in [
        (400, "AccessDeniedException", "dynamodb:BatchWriteItem"),
        (400, "ExpiredTokenException", "aws_access_key_id"),
        (403, "SignatureDoesNotMatch", "this machine's clock"),
        (500, "InternalServerError", "InternalServerError"),
        (503, "ServiceUnavailable", "ServiceUnavailable"),
        (400, "NobodyKnowsThis", "NobodyKnowsThis"),
    ] {
        wire.judge(move |_| Say::Refuse(status, code));
        let last = publisher.publish(10);
        shows(&sinks, remedy).await;
        wire.judge(|_| Say::Nothing);
        done(&publisher.log, &sinks, last).await;
    }
    assert!(sinks.dead_letters(SINK).unwrap().is_empty());
    stop(sinks).await;
    // A key that DynamoDB does not know.
    let mut rules = view.rules(STORE);
    rules.pools = vec![view.pool(&[("aws_access_key_id", "no-such-key")])];
    let sinks = start(&publisher.log, &rules);
    let last = publisher.publish(10);
    shows(&sinks, "aws_access_key_id").await;
    let said = sinks.status()[0].last_error.clone().unwrap();
    assert!(!said.contains("s3cret"), "{said}");
    assert!(sinks.dead_letters(SINK).unwrap().is_empty());
    stop(sinks).await;
    let sinks = start(&publisher.log, &view.rules(STORE));
    done(&publisher.log, &sinks, last).await;
    stop(sinks).await;
    publisher.all_stored_once(&view).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_that_are_dropped_are_made_again_and_an_account_that_is_emptied_is_filled_again() {
    let view = View::new();
    let mut publisher = Publisher::default();
    let sinks = start(&publisher.log, &view.rules(STORE));
    let last = publisher.publish(30);
    done(&publisher.log, &sinks, last).await;
    let drop_table = async |name: &str| {
        view.client.delete_table().table_name(name).send().await.unwrap();
    };
    drop_table("mqtt_topic_msg_map").await;
    let last = publisher.publish(5);
    done(&publisher.log, &sinks, last).await;
    assert_eq!(view.map().await.values().map(Vec::len).sum::<usize>(), 5, "what is new is named again");
    for table in view.client.list_tables().send().await.unwrap().table_names() {
        drop_table(table).await;
    }
    let last = publisher.publish(5);
    done(&publisher.log, &sinks, last).await;
    assert!(sinks.dead_letters(SINK).unwrap().is_empty());
    stop(sinks).await;
    publisher.all_stored_once(&view).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_item_of_400_kb_among_a_thousand() {
    let view = View::new();
    let log = MemoryLog::default();
    let sinks = start(&log, &view.rules(STORE));
    let last = log.publish("t/0", b"first", QoS::AtLeastOnce);
    done(&log, &sinks, last).await;
    sinks.pause(SINK);
    let mut bad = Lsn::NONE;
    for n in 0..1_000 {
        let payload = if n == 654 { "x".repeat(400 << 10) } else { n.to_string() };
        let lsn = log.publish(&format!("t/{}", n % 9), payload.as_bytes(), QoS::AtLeastOnce);
        if n == 654 {
            bad = lsn;
        }
    }
    let last = log.publish("t/0", b"last", QoS::AtLeastOnce);
    sinks.resume(SINK);
    done(&log, &sinks, last).await;
    let letters = sinks.dead_letters(SINK).unwrap().ls(0, 10).unwrap();
    assert_eq!(letters.iter().map(|letter| letter.lsn).collect::<Vec<_>>(), [bad.0]);
    assert!(letters[0].reason.contains("400 KB"), "{}", letters[0].reason);
    let stored = view.stored().await;
    assert!(stored.len() == 1_001 && stored.values().all(|times| *times == 1));
    assert_eq!(view.map().await.values().map(Vec::len).sum::<usize>(), 1_001);
    assert!(sinks.replay(SINK, letters[0].id).await.is_err());
    assert_eq!(sinks.dead_letters(SINK).unwrap().len(), 1);
    stop(sinks).await;
}

/// Messages and retained messages that are over 100 us after their record: the log's clock goes on by a microsecond a record.
fn short_lived(view: &View, endpoint: &str) -> RuleSet {
    let mut rules = view.rules(&[STORE[0], (Hook::MessagePublish, Some("#"), Function::MessageRetain)]);
    rules.pools = vec![view.pool(&[("server", endpoint)])];
    rules.rules.iter_mut().for_each(|rule| rule.expired_time = Some(Duration::from_micros(100)));
    rules
}

/// Waits until a table has so many items.
async fn has(view: &View, table: &str, items: usize) {
    let end = tokio::time::Instant::now() + Duration::from_secs(120);
    loop {
        let found = view.scan(table).await;
        if found.len() == items {
            return;
        }
        assert!(
            tokio::time::Instant::now() < end,
            "{table} has {} items and should have {items}: {found:?}",
            found.len()
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_goes_some_time_is_noted_behind_its_name_and_when_it_is_not_removed_its_note_stays() {
    let view = View::new();
    let wire = Wire::to(&view.endpoint).await;
    let log = MemoryLog::default();
    let sinks = start(&log, &short_lived(&view, &wire.endpoint));
    // An entry that is there before what it removes would be carried out too early, by another connection's upkeep.
    for (operation, code) in [("UpdateItem", "InternalServerError"), ("PutItem", "ServiceUnavailable")] {
        wire.judge(move |now| if now == operation { Say::Refuse(500, code) } else { Say::Nothing });
        let last = log.message(Message {
            topic: operation.into(),
            payload: b"for a while".to_vec().into(),
            qos: QoS::AtLeastOnce,
            retain: true,
            ..Message::default()
        });
        shows(&sinks, code).await;
        let named = view.scan("forebay_expiry").await;
        assert!(named.iter().all(|entry| text(entry, "topic") != operation), "{operation}: {named:?}");
        wire.judge(|_| Say::Nothing);
        done(&log, &sinks, last).await;
    }
    for n in 0..20 {
        log.publish("t/0", n.to_string().as_bytes(), QoS::AtLeastOnce);
    }
    // DynamoDB removes everything but one message.
    has(&view, "mqtt_msg", 22).await;
    has(&view, "forebay_expiry", 22 + 2).await;
    let kept = view.names("t/0").await.remove(7);
    let (named, asked) = (kept.clone(), Arc::new(AtomicUsize::new(0)));
    let counted = asked.clone();
    wire.judge_requests(move |operation, body| {
        let body = String::from_utf8_lossy(body);
        if operation == "BatchWriteItem" && body.contains("\"mqtt_msg\"") && body.contains(&named) {
            counted.fetch_add(1, Ordering::Relaxed);
            return Say::Refuse(400, "ValidationException");
        }
        Say::Nothing
    });
    for _ in 0..200 {
        log.publish("else", b"x", QoS::AtMostOnce);
    }
    has(&view, "forebay_expiry", 1).await;
    shows(&sinks, "forebay_expiry: what slot").await;
    let stays = |items: Vec<dynamo_support::Item>| items.iter().map(|found| text(found, "msgid")).collect::<Vec<_>>();
    assert_eq!(stays(view.scan("mqtt_msg").await), [kept.as_str()]);
    assert_eq!(stays(view.scan("forebay_expiry").await), [kept.as_str()]);
    assert!(asked.load(Ordering::Relaxed) > 1, "in its batch, then by itself");
    wire.judge(|_| Say::Nothing);
    // Connections that were given up are made again for the next batches.
    let topics: Vec<String> = (1..=8).map(|n| format!("t/{n}")).collect();
    let mut last = Lsn::NONE;
    for topic in &topics {
        last = log.publish(topic, b"new", QoS::AtLeastOnce);
    }
    done(&log, &sinks, last).await;
    has(&view, "forebay_expiry", topics.len()).await;
    assert_eq!(view.scan("mqtt_msg").await.len(), topics.len());
    assert!(view.scan("mqtt_retain").await.is_empty());
    assert_eq!(view.map().await.into_keys().collect::<Vec<_>>(), topics);
    stop(sinks).await;
}

/// Without a key in the pool the SDK's chain is asked, which has none here.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_key_at_all_is_shown_with_what_to_do() {
    let view = View::at(&shared(), &account());
    let mut rules = view.rules(STORE);
    let settings = &mut rules.pools[0].settings;
    settings.remove("aws_access_key_id");
    settings.remove("aws_secret_access_key");
    let mut publisher = Publisher::default();
    publisher.publish(1);
    let sinks = start(&publisher.log, &rules);
    shows(&sinks, "no credentials").await;
    stop(sinks).await;
}

/// A server that speaks TLS, though not DynamoDB's API: it answers, and that is what is asked for here.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn https_checks_the_server_s_certificate() {
    let server = forebay_services::private(&InfluxDb { tls: true }).unwrap_or_else(|error| panic!("{error:#}"));
    let endpoint = format!("https://127.0.0.1:{}", server.members[0].port());
    let log = MemoryLog::default();
    log.publish("a", b"1", QoS::AtLeastOnce);
    let sinks = start(&log, &through(&View::at(&endpoint, &account()), &endpoint));
    shows(&sinks, "certificate").await;
    stop(sinks).await;
    // A process that trusts the tests' authority.
    let authority = forebay_services::certificates::certificates().unwrap().authority;
    let mut trusting = std::process::Command::new(std::env::current_exe().unwrap());
    trusting.args(["--ignored", "--exact", "https_with_a_known_authority"]);
    trusting.env("SSL_CERT_FILE", authority).env("FOREBAY_TEST_HTTPS_ENDPOINT", &endpoint);
    let output = tokio::task::spawn_blocking(move || trusting.output()).await.unwrap().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "https_checks_the_server_s_certificate runs it in a process of its own"]
async fn https_with_a_known_authority() {
    let endpoint = std::env::var("FOREBAY_TEST_HTTPS_ENDPOINT").unwrap();
    let log = MemoryLog::default();
    log.publish("a", b"1", QoS::AtLeastOnce);
    let sinks = start(&log, &through(&View::at(&endpoint, &account()), &endpoint));
    // An answer of InfluxDB's, which is none of DynamoDB's.
    shows(&sinks, "no code").await;
    stop(sinks).await;
}
