//! What Cassandra's tables hold after each function of the guide, and what lookups read from them.
#![cfg(all(feature = "conformance", feature = "cassandra"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod cassandra_support;

use std::time::Duration;

use cassandra_support::{AT_MS, SINK, View, done, name, options, shared, shows, start, stop};
use forebay_engine::event::{Message, Origin};
use forebay_engine::{Event, Lsn, QoS};
use forebay_sinks::conformance::MemoryLog;
use forebay_sinks::inspect::inspect;
use forebay_sinks::rule::{Function, Hook, OfflineOpts, RuleSet, parse_conf};
use forebay_sinks::runtime::ResetTo;
use forebay_sinks::sink::{Finding, Severity};
use scylla::value::CqlTimestamp;

fn message(topic: &str, payload: &[u8], publisher: &str) -> Message {
    Message {
        topic: topic.into(),
        payload: payload.to_vec().into(),
        qos: QoS::AtLeastOnce,
        publisher: publisher.into(),
        ..Message::default()
    }
}

type Client = (String, Option<CqlTimestamp>, Option<CqlTimestamp>, Option<String>, Option<i32>);

/// Rows of `client` as text; moments are seconds since the log's begin.
async fn clients(view: &View) -> Vec<String> {
    let rows: Vec<Client> = view.rows("select client_id, connected, disconnected, node, state from client").await;
    let at = |at: Option<CqlTimestamp>| at.map_or("-".to_owned(), |at| ((at.0 - AT_MS) / 1_000).to_string());
    let mut shown: Vec<String> = rows
        .into_iter()
        .map(|(id, on, off, node, state)| {
            format!("{id}|{}|{}|{}|{}", at(on), at(off), node.unwrap_or("-".into()), state.unwrap())
        })
        .collect();
    shown.sort();
    shown
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_guide_s_configuration_and_its_rows() {
    let node = shared();
    let view = View::empty(&node, &name("guide")).await;
    // Addresses and names are all that is changed, and the quotation mark that the guide's own line lacks.
    let text = include_str!("fixtures/conf/emqx_backend_cassa.conf")
        .replace("127.0.0.1:9042", &node)
        .replace("keyspace = mqtt", &format!("keyspace = {}", view.keyspace))
        .replace(", action\":", ", \"action\":");
    let parsed = parse_conf(std::path::Path::new("emqx_backend_cassa.conf"), &text);
    assert_eq!(parsed.faults, []);
    let log = MemoryLog::default();
    let sinks = start(&log, &parsed.rules);
    log.connect("test", 1);
    let hello = log.message(message("hello", b"Hello world!", "test"));
    log.message(message("world", b"Hello world!", "test"));
    log.message(Message { retain: true, ..message("t/retain", b"kept", "test") });
    log.message(Message { retain: true, ..message("gone", b"x", "test") });
    log.message(Message { retain: true, ..message("gone", b"", "test") });
    let last = log.ack("test", "hello", hello);
    // The rule's own table is the operator's to make.
    shows(&sinks, "conn").await;
    let view = View::of(&node, &view.keyspace).await;
    view.run("create table conn (clientid text primary key)").await;
    done(&log, &sinks, last).await;
    assert_eq!(clients(&view).await, ["test|0|-|forebay@here|1"]);
    let messages = |topic: &'static str| {
        let cql = format!("select msgid, arrived, payload, qos, retain, sender from msg where topic = '{topic}'");
        let view = &view;
        async move { view.rows::<(String, CqlTimestamp, String, i32, i32, String)>(&cql).await }
    };
    for (topic, payload, retain) in
        [("hello", "Hello world!", 0), ("world", "Hello world!", 0), ("t/retain", "kept", 1)]
    {
        let rows = messages(topic).await;
        let (msgid, arrived, stored, qos, retained, sender) = &rows[0];
        assert_eq!((rows.len(), msgid.len(), arrived.0), (1, 20, AT_MS), "{topic}");
        assert_eq!((stored.as_str(), *qos, *retained, sender.as_str()), (payload, 1, retain, "test"));
    }
    let kept = messages("t/retain").await[0].0.clone();
    assert_eq!(view.rows::<(String, String)>("select topic, msgid from retain").await, [("t/retain".into(), kept)]);
    let acked = view.rows::<(String, String, String)>("select client_id, topic, msgid from acked").await;
    assert_eq!(acked, [("test".into(), "hello".into(), messages("hello").await[0].0.clone())]);
    assert_eq!(view.rows::<(String,)>("select clientid from conn").await, [("test".to_owned(),)]);
    log.unsubscribe("test", "hello");
    let last = log.disconnect("test", 1, false);
    done(&log, &sinks, last).await;
    assert_eq!(clients(&view).await, ["test|0|0|forebay@here|0"]);
    assert_eq!(view.count("acked").await, 0);
    assert!(sinks.dead_letters(SINK).unwrap().is_empty());
    stop(sinks).await;
    view.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn client_status() {
    let view = View::new(&shared()).await;
    let rules = view.rules(&[
        (Hook::ClientConnected, None, Function::ClientConnected),
        (Hook::ClientDisconnected, None, Function::ClientDisconnected),
    ]);
    let log = MemoryLog::default();
    let sinks = start(&log, &rules);
    log.connect("a", 1);
    log.connect("a", 2);
    log.disconnect("a", 1, true);
    log.connect("b", 3);
    let last = log.disconnect("b", 3, false);
    done(&log, &sinks, last).await;
    assert_eq!(clients(&view).await, ["a|0|-|forebay@here|1", "b|0|0|forebay@here|0"]);
    // The client moves to another node, and its going here is seen late.
    view.run("update client set node = 'other' where client_id = 'a'").await;
    log.disconnect("a", 2, false);
    let last = log.connect("b", 4);
    done(&log, &sinks, last).await;
    assert_eq!(clients(&view).await, ["a|0|-|other|1", "b|0|-|forebay@here|1"]);
    // The whole log again: an older state never replaces a newer one.
    assert_eq!(sinks.reset(SINK, ResetTo::Earliest, Duration::from_secs(20)).await, Some(Ok(Lsn::FIRST)));
    done(&log, &sinks, last).await;
    assert_eq!(clients(&view).await, ["a|0|-|other|1", "b|0|-|forebay@here|1"]);
    stop(sinks).await;
    view.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_and_acknowledgements() {
    let view = View::new(&shared()).await;
    let rules = view.rules(&[
        (Hook::MessagePublish, Some("#"), Function::MessagePublish),
        (Hook::MessagePublish, Some("#"), Function::MessageStore),
        (Hook::MessageAcked, Some("queue/#"), Function::MessageAckedForQueue),
        (Hook::MessageAcked, Some("pubsub/#"), Function::MessageAckedForPubsub),
    ]);
    let log = MemoryLog::default();
    let queued = log.publish("queue/a", b"gone", QoS::AtLeastOnce);
    let first = log.publish("pubsub/a", b"one", QoS::ExactlyOnce);
    let second = log.publish("pubsub/a", b"a\0b", QoS::AtLeastOnce);
    let zero = log.publish("pubsub/a", b"zero", QoS::AtMostOnce);
    log.ack("c", "queue/a", queued);
    let last = log.ack("c", "pubsub/a", second);
    let sinks = start(&log, &rules);
    done(&log, &sinks, last).await;
    let rows: Vec<(String, i32)> =
        view.rows("select payload, qos from msg where topic = 'pubsub/a' order by msgid asc").await;
    assert_eq!(rows, [("one".to_owned(), 2), ("a\0b".to_owned(), 1), ("zero".to_owned(), 0)]);
    assert_eq!(view.count("msg").await, 3, "each stored once, the queue's removed");
    let ids: Vec<(String,)> = view.rows("select msgid from msg where topic = 'pubsub/a' order by msgid asc").await;
    let acked =
        async || view.rows::<(String,)>("select msgid from acked where client_id = 'c' and topic = 'pubsub/a'").await;
    assert_eq!(acked().await, [ids[1].clone()]);
    // An acknowledgement never goes backwards, in a batch of its own either.
    let last = log.ack("c", "pubsub/a", first);
    done(&log, &sinks, last).await;
    assert_eq!(acked().await, [ids[1].clone()]);
    let last = log.ack("c", "pubsub/a", zero);
    done(&log, &sinks, last).await;
    assert_eq!(acked().await, [ids[2].clone()]);
    stop(sinks).await;
    view.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retained_messages() {
    let view = View::new(&shared()).await;
    let rules = view.rules(&[
        (Hook::MessagePublish, Some("#"), Function::MessageRetain),
        (Hook::MessagePublish, Some("#"), Function::RetainDelete),
    ]);
    let log = MemoryLog::default();
    let sinks = start(&log, &rules);
    let retained =
        |topic: &str, payload: &str| log.message(Message { retain: true, ..message(topic, payload.as_bytes(), "p") });
    for (topic, payload) in [("a", "old"), ("a", "new"), ("b", "x"), ("b", ""), ("c", "1")] {
        retained(topic, payload);
    }
    let last = log.message(message("d", b"not retained", "p"));
    done(&log, &sinks, last).await;
    let kept = async || {
        let mut found = Vec::new();
        for (topic, msgid) in view.rows::<(String, String)>("select topic, msgid from retain").await {
            let cql = format!("select payload from msg where topic = '{topic}' and msgid = '{msgid}'");
            found.push(format!("{topic}|{}", view.rows::<(String,)>(&cql).await[0].0));
        }
        found.sort();
        found
    };
    assert_eq!(kept().await, ["a|new", "c|1"]);
    retained("c", "2");
    let last = retained("a", "");
    done(&log, &sinks, last).await;
    assert_eq!(kept().await, ["c|2"]);
    stop(sinks).await;
    view.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keep_latest_and_unsubscribes() {
    let view = View::new(&shared()).await;
    let rules = view.rules(&[
        (Hook::MessagePublish, Some("last/#"), Function::MessageStoreKeepLatest),
        (Hook::MessagePublish, Some("t/#"), Function::MessageStore),
        (Hook::MessageAcked, Some("#"), Function::MessageAcked),
        (Hook::SessionUnsubscribed, Some("#"), Function::AckedDelete),
    ]);
    let log = MemoryLog::default();
    let sinks = start(&log, &rules);
    for n in 0..5 {
        log.publish("last/a", format!("{n}").as_bytes(), QoS::AtMostOnce);
    }
    let mut acks = Vec::new();
    for topic in ["t/1", "t/2", "t/x/3", "t/y"] {
        acks.push((topic, log.publish(topic, b"x", QoS::AtLeastOnce)));
    }
    for (topic, lsn) in &acks {
        log.ack("c", topic, *lsn);
        log.ack("d", topic, *lsn);
    }
    log.unsubscribe("c", "t/+");
    let last = log.unsubscribe("d", "t/2");
    done(&log, &sinks, last).await;
    assert_eq!(view.payloads("last/a").await, [b"4"]);
    let left = async || {
        let rows = view.rows::<(String, String)>("select client_id, topic from acked").await;
        let mut rows: Vec<String> = rows.into_iter().map(|(client, topic)| format!("{client}|{topic}")).collect();
        rows.sort();
        rows
    };
    assert_eq!(left().await, ["c|t/x/3", "d|t/1", "d|t/x/3", "d|t/y"]);
    // What comes after the deletion stands.
    let last = log.ack("c", "t/1", acks[0].1);
    done(&log, &sinks, last).await;
    assert_eq!(left().await, ["c|t/1", "c|t/x/3", "d|t/1", "d|t/x/3", "d|t/y"]);
    stop(sinks).await;
    view.drop().await;
}

fn imported(log: &MemoryLog) -> Vec<(Lsn, Message)> {
    let events = log.events().into_iter().enumerate();
    let imports = events.filter_map(|(n, event)| match event {
        Event::Published(p) if matches!(p.message.origin, Origin::Import { .. }) => {
            Some((Lsn(n as u64 + 1), p.message))
        }
        _ => None,
    });
    imports.collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_of_other_programs() {
    let view = View::new(&shared()).await;
    let rules = view.rules(&[
        (Hook::ClientConnected, None, Function::SubscribeLookup),
        (Hook::SessionSubscribed, Some("#"), Function::MessageFetch),
        (Hook::SessionSubscribed, Some("#"), Function::RetainLookup),
        (Hook::MessagePublish, Some("#"), Function::MessagePublish),
        (Hook::MessageAcked, Some("#"), Function::MessageAcked),
    ]);
    let log = MemoryLog::default();
    let own = log.publish("cmd/c", b"own", QoS::AtLeastOnce);
    let sinks = start(&log, &rules);
    done(&log, &sinks, own).await;
    let foreign = "53F98F80F66017005000004A60003";
    for cql in [
        "insert into msg (topic, msgid, qos, payload, arrived) values ('cmd/c', 'a-1', 1, 'reboot', '2023-12-31 00:00:00Z')",
        &format!(
            "insert into msg (topic, msgid, sender, qos, payload, arrived) values ('cmd/c', '{foreign}', 'app', 1, 'restart', '2023-12-31 00:00:01Z')"
        ),
        &format!(
            "insert into msg (topic, msgid, qos, payload, arrived) values ('CMD/c', '{foreign}', 1, 'other', '2023-12-31 00:00:01Z')"
        ),
        "insert into msg (topic, msgid, qos, payload, arrived) values ('state/c', 'kept-1', 1, 'kept', '2023-12-31 00:00:02Z')",
        "insert into retain (topic, msgid) values ('state/c', 'kept-1')",
        "insert into sub (client_id, topic, qos) values ('c', 'cmd/c', 2)",
        "insert into sub (client_id, topic, qos) values ('c', 'not/#/valid', 1)",
        "insert into sub (client_id, topic, qos) values ('d', 'x', 1)",
    ] {
        view.run(cql).await;
    }
    let lookups = sinks.lookups();
    assert_eq!(lookups.proxy_subscriptions("c").await, [("cmd/c".into(), QoS::ExactlyOnce)]);
    for topic in ["cmd/c", "cmd/c", "state/c", "state/c"] {
        lookups.before_subscribe("c", topic).await;
    }
    let rows = imported(&log);
    let mut payloads: Vec<String> =
        rows.iter().map(|(_, m)| String::from_utf8_lossy(&m.payload).into_owned()).collect();
    payloads.sort();
    assert!(
        payloads.starts_with(&["kept".into()]) && payloads.ends_with(&["reboot".into(), "restart".into()]),
        "{payloads:?}"
    );
    let (lsn, restart) = rows.iter().find(|(_, m)| &m.payload[..] == b"restart").unwrap();
    assert_eq!(restart.publisher, "app");
    let last = log.ack("c", "cmd/c", *lsn);
    done(&log, &sinks, last).await;
    assert_eq!(view.count("msg").await, 5, "not written back");
    let acked = view.rows::<(String, String, String)>("select client_id, topic, msgid from acked").await;
    assert_eq!(acked, [("c".into(), "cmd/c".into(), foreign.into())], "the row's own name");
    stop(sinks).await;
    // Another process, another memory: the database knows.
    let sinks = start(&log, &rules);
    done(&log, &sinks, last).await;
    let before = log.events().len();
    sinks.lookups().before_subscribe("d", "cmd/c").await;
    assert_eq!(log.events().iter().skip(before).filter(|e| matches!(e, Event::Published(_))).count(), 0);
    stop(sinks).await;
    view.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn offline_options() {
    let view = View::new(&shared()).await;
    let mut rules = view.rules(&[(Hook::SessionSubscribed, Some("#"), Function::MessageFetch)]);
    rules.rules[0].offline = OfflineOpts { max_returned_count: Some(2), time_range: Some(Duration::from_secs(7_200)) };
    let log = MemoryLog::default();
    let last = log.publish("x", b"x", QoS::AtLeastOnce);
    let sinks = start(&log, &rules);
    done(&log, &sinks, last).await;
    // The log's clock stands at the beginning of 2024.
    for (n, at) in [(0, "20:00:00"), (1, "23:00:00"), (2, "23:10:00"), (3, "23:20:00")] {
        let cql = format!(
            "insert into msg (topic, msgid, qos, payload, arrived) values ('t', 'app-{n}', 1, '{n}', '2023-12-31 {at}Z')"
        );
        view.run(&cql).await;
    }
    sinks.lookups().before_subscribe("c", "t").await;
    let rows = imported(&log);
    let payloads: Vec<&[u8]> = rows.iter().map(|(_, m)| &m.payload[..]).collect();
    assert_eq!(payloads, [b"2", b"3"], "the newest two, the older first");
    stop(sinks).await;
    view.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statements_of_users() {
    let view = View::new(&shared()).await;
    for cql in [
        "create table seen (clientid text, topic text, qos int, n bigint, f double, t text, b blob, primary key (topic, n))",
        "create table total (id text primary key, n counter)",
        "create table last (topic text primary key, p text)",
    ] {
        view.run(cql).await;
    }
    let rules = view.conf(
        r#"backend.cassa.hook.message.publish.1 = {"topic": "n/#", "action": {"cql": ["insert into seen (clientid, topic, qos, n, f, t, b) values (${clientid}, ${topic}, ${qos}, ${payload}, ${payload}, ${payload}, ${payload})", "update total set n = n + 1 where id = ${topic}", "insert into last (topic, p) values (${topic}, ${payload}) using ttl 86400"]}, "pool": "pool1"}
backend.cassa.hook.session.subscribed.1 = {"action": {"cql": "insert into last (topic) values (${topic})"}, "pool": "pool1"}"#,
    );
    let log = MemoryLog::default();
    for payload in ["42", "no number", "-7"] {
        log.publish("n/x", payload.as_bytes(), QoS::AtLeastOnce);
    }
    let last = log.publish("other", b"1", QoS::AtLeastOnce);
    let sinks = start(&log, &rules);
    done(&log, &sinks, last).await;
    type Seen = (String, String, i32, i64, f64, String, Vec<u8>);
    let seen: Vec<Seen> = view.rows("select clientid, topic, qos, n, f, t, b from seen where topic = 'n/x'").await;
    let row =
        |n: i64| ("publisher".to_owned(), "n/x".to_owned(), 1, n, n as f64, n.to_string(), n.to_string().into_bytes());
    assert_eq!(seen, [row(-7), row(42)]);
    let total: Vec<(scylla::value::Counter,)> = view.rows("select n from total where id = 'n/x'").await;
    assert_eq!(total[0].0.0, 3, "the next statement runs, whatever became of the one before");
    // The record's time is the time of a user's statement, too: the newest record wins, and a later hand's word over all.
    let times: Vec<(i64, String)> = view.rows("select writetime(p), p from last").await;
    assert_eq!(times, [(AT_MS * 1_000 + 3, "-7".to_owned())]);
    let letters = sinks.dead_letters(SINK).unwrap().ls(0, 10).unwrap();
    assert_eq!(letters.len(), 1, "{letters:?}");
    assert!(letters[0].reason.contains("column n (bigint)"), "{letters:?}");
    assert!(letters[0].statement.contains("insert into seen") && letters[0].statement.contains("no number"));
    stop(sinks).await;
    view.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn expiry_counts_from_the_record_s_time() {
    let view = View::new(&shared()).await;
    let mut rules = view.rules(&[
        (Hook::MessagePublish, Some("minute/#"), Function::MessagePublish),
        (Hook::MessagePublish, Some("decade/#"), Function::MessagePublish),
        (Hook::MessagePublish, Some("ever/#"), Function::MessagePublish),
        (Hook::MessagePublish, Some("#"), Function::MessageRetain),
    ]);
    let decade = Duration::from_secs(10 * 365 * 86_400);
    rules.rules[0].expired_time = Some(Duration::from_secs(60));
    rules.rules[1].expired_time = Some(decade);
    rules.rules[3].expired_time = Some(decade);
    let log = MemoryLog::default();
    for topic in ["minute/a", "decade/a"] {
        log.publish(topic, b"x", QoS::AtLeastOnce);
    }
    let last = log.message(Message { retain: true, ..message("ever/a", b"x", "p") });
    let sinks = start(&log, &rules);
    done(&log, &sinks, last).await;
    let mut lives: Vec<(String, Option<i32>)> = view.rows("select topic, ttl(payload) from msg").await;
    lives.sort();
    // The log's records are of the beginning of 2024: a minute has passed since.
    assert_eq!(lives.iter().map(|row| &*row.0).collect::<Vec<_>>(), ["decade/a", "ever/a"]);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() as i64;
    let left = AT_MS / 1_000 + decade.as_secs() as i64 - now;
    assert!((i64::from(lives[0].1.unwrap()) - left).abs() < 120, "{lives:?}, expected {left}");
    assert_eq!(lives[1].1, None, "of two rules the longer life");
    let retained: Vec<(Option<i32>,)> = view.rows("select ttl(msgid) from retain").await;
    assert!((i64::from(retained[0].0.unwrap()) - left).abs() < 120);
    stop(sinks).await;
    view.drop().await;
}

/// What a column can't hold goes to the dead letters with the remedy, is never altered, and is stored after it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_fit() {
    let view = View::new(&shared()).await;
    let rules = view.rules(&[
        (Hook::MessagePublish, Some("#"), Function::MessagePublish),
        (Hook::MessagePublish, Some("#"), Function::MessageRetain),
    ]);
    let log = MemoryLog::default();
    log.message(Message { retain: true, ..message("b", b"\xff\xfe", "p") });
    let large = "x".repeat(forebay_services::cassandra::MAX_MUTATION + 1);
    log.publish("large", large.as_bytes(), QoS::AtLeastOnce);
    log.publish("large", b"small", QoS::AtLeastOnce);
    let last = log.publish("b", b"good", QoS::AtLeastOnce);
    let sinks = start(&log, &rules);
    done(&log, &sinks, last).await;
    let letters = sinks.dead_letters(SINK).unwrap().ls(0, 10).unwrap();
    let reasons: Vec<String> = letters.iter().map(|letter| format!("{}: {}", letter.lsn, letter.reason)).collect();
    assert_eq!(letters.iter().map(|letter| letter.lsn).collect::<Vec<_>>(), [1, 1, 2], "{reasons:?}");
    assert!(reasons[0].contains("binary_payload") && reasons[2].contains("oversized mutation"), "{reasons:?}");
    assert_eq!(view.stored().await.into_keys().collect::<Vec<_>>(), [b"good".to_vec(), b"small".to_vec()]);
    assert_eq!(view.count("retain").await, 0, "nothing names a message that is not there");
    stop(sinks).await;
    // A text column and a pool that says how bytes are to be written; a blob takes them as they are.
    for (kind, expected) in [("base64", "//4="), ("hex", "fffe")] {
        let mut rules = view.rules(&[(Hook::MessagePublish, Some(kind), Function::MessagePublish)]);
        rules.pools = vec![view.pool(&[("binary_payload", kind)])];
        let log = MemoryLog::default();
        view.run("truncate forebay_position").await;
        let last = log.publish(kind, b"\xff\xfe", QoS::AtLeastOnce);
        let sinks = start(&log, &rules);
        done(&log, &sinks, last).await;
        assert_eq!(view.payloads(kind).await, [expected.as_bytes()]);
        stop(sinks).await;
    }
    view.run("drop table msg").await;
    view.run("create table msg (topic text, msgid text, arrived bigint, payload blob, qos smallint, retain boolean, sender text, primary key (topic, msgid))").await;
    view.run("truncate forebay_position").await;
    let log = MemoryLog::default();
    let last = log.publish("b", b"\xff\xfe", QoS::AtLeastOnce);
    let sinks = start(&log, &view.rules(&[(Hook::MessagePublish, None, Function::MessagePublish)]));
    done(&log, &sinks, last).await;
    let rows: Vec<(Vec<u8>, i64, i16, bool)> = view.rows("select payload, arrived, qos, retain from msg").await;
    assert_eq!(rows, [(vec![0xff, 0xfe], AT_MS, 1, false)]);
    stop(sinks).await;
    view.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn columns_called_clientid_are_taken_as_they_are() {
    let view = View::empty(&shared(), &name("other")).await;
    view.run(&format!(
        "create keyspace {} with replication = {{'class': 'SimpleStrategy', 'replication_factor': 1}}",
        view.keyspace
    ))
    .await;
    let view = View::of(&view.node, &view.keyspace).await;
    for cql in [
        "create table client (clientid text primary key, connected timestamp, disconnected timestamp, node text, state int)",
        "create table sub (clientid text, topic text, qos int, primary key (clientid, topic))",
        "create table acked (clientid text, topic text, msgid text, primary key (clientid, topic))",
    ] {
        view.run(cql).await;
    }
    view.run("insert into sub (clientid, topic, qos) values ('c', 't', 1)").await;
    let rules = view.rules(&[
        (Hook::ClientConnected, None, Function::ClientConnected),
        (Hook::ClientConnected, None, Function::SubscribeLookup),
        (Hook::ClientDisconnected, None, Function::ClientDisconnected),
        (Hook::MessagePublish, Some("#"), Function::MessagePublish),
        (Hook::MessageAcked, Some("#"), Function::MessageAcked),
        (Hook::SessionUnsubscribed, Some("#"), Function::AckedDelete),
    ]);
    let log = MemoryLog::default();
    log.connect("c", 1);
    let one = log.publish("t", b"1", QoS::AtLeastOnce);
    let two = log.publish("u", b"2", QoS::AtLeastOnce);
    log.ack("c", "t", one);
    log.ack("c", "u", two);
    log.unsubscribe("c", "t");
    let last = log.disconnect("c", 1, false);
    let sinks = start(&log, &rules);
    done(&log, &sinks, last).await;
    assert_eq!(view.rows::<(String, i32)>("select clientid, state from client").await, [("c".to_owned(), 0)]);
    assert_eq!(view.rows::<(String, String)>("select clientid, topic from acked").await, [("c".into(), "u".into())]);
    assert_eq!(sinks.lookups().proxy_subscriptions("c").await, [("t".into(), QoS::AtLeastOnce)]);
    stop(sinks).await;
    view.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schema_that_is_only_verified() {
    let view = View::empty(&shared(), &name("verified")).await;
    let mut rules = view.rules(&[(Hook::MessagePublish, Some("#"), Function::MessagePublish)]);
    rules.pools = vec![view.pool(&[("schema", "verify")])];
    let log = MemoryLog::default();
    let last = log.publish("a", b"1", QoS::AtLeastOnce);
    let sinks = start(&log, &rules);
    // What it says is what is to be run.
    for what in ["CREATE KEYSPACE", "CREATE TABLE"] {
        shows(&sinks, what).await;
        let why = sinks.status()[0].last_error.clone().unwrap();
        for cql in why.split_once("run: ").unwrap().1.split(';').map(str::trim).filter(|cql| !cql.is_empty()) {
            view.run(cql).await;
        }
        view.session.use_keyspace(&view.keyspace, true).await.unwrap();
    }
    done(&log, &sinks, last).await;
    assert_eq!(view.count("msg").await, 1);
    stop(sinks).await;
    view.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_look_at_the_tables_changes_nothing() {
    let view = View::empty(&shared(), &name("looked_at")).await;
    let mut rules = view.rules(&[(Hook::MessagePublish, Some("#"), Function::MessagePublish)]);
    let look = async |rules: &RuleSet| {
        let found = inspect(rules, &options().databases, Duration::from_secs(60)).await.unwrap();
        found.into_iter().flat_map(|one| one.findings).collect::<Vec<Finding>>()
    };
    let of = |findings: &[Finding], severity: Severity| {
        findings.iter().filter(|f| f.severity == severity).map(|f| f.text.clone()).collect::<Vec<_>>()
    };
    let new = look(&rules).await;
    assert_eq!(of(&new, Severity::Fine).len(), new.len(), "{new:?}");
    assert!(new[0].text.contains("is not there yet"), "{new:?}");
    rules.pools = vec![view.pool(&[("schema", "verify")])];
    assert!(of(&look(&rules).await, Severity::Fault)[0].contains("CREATE KEYSPACE"));
    let there = "select keyspace_name from system_schema.keyspaces";
    let all: Vec<(String,)> = view.rows(there).await;
    assert!(!all.contains(&(view.keyspace.clone(),)), "a look makes no keyspace");
    let made = View::new(&view.node).await;
    rules.pools = vec![made.pool(&[])];
    let found = look(&rules).await;
    assert_eq!((of(&found, Severity::Fault), of(&found, Severity::Warning)), (vec![], vec![]));
    made.run("alter table msg drop arrived").await;
    assert!(of(&look(&rules).await, Severity::Fault)[0].contains("msg.arrived"));
    rules.pools = vec![made.pool(&[("password", "wrong")])];
    let refused = of(&look(&rules).await, Severity::Fault);
    assert!(refused.len() == 1 && refused[0].contains("the pool's `username` and `password`"), "{refused:?}");
    made.drop().await;
}
