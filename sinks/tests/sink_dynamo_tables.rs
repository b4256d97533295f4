//! What DynamoDB's tables hold after each function, and what lookups read from them.
#![cfg(all(feature = "conformance", feature = "dynamodb"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod dynamo_support;

use std::time::Duration;

use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::{
    AttributeDefinition, AttributeValue, BillingMode, KeySchemaElement, KeyType, ScalarAttributeType,
};
use dynamo_support::{AT_S, Item, SINK, View, account, done, item, n, options, s, shared, shows, start, stop, text};
use forebay_engine::event::{Message, Origin};
use forebay_engine::{Event, Lsn, QoS};
use forebay_sinks::conformance::{BEGIN_US, MemoryLog};
use forebay_sinks::inspect::inspect;
use forebay_sinks::rule::{Function, Hook, OfflineOpts, RuleSet, parse_conf};
use forebay_sinks::runtime::ResetTo;
use forebay_sinks::sink::{AtWorst, Finding, Severity};

fn message(topic: &str, payload: &[u8], publisher: &str) -> Message {
    Message {
        topic: topic.into(),
        payload: payload.to_vec().into(),
        qos: QoS::AtLeastOnce,
        publisher: publisher.into(),
        ..Message::default()
    }
}

/// The rules of the documented file; its address and its key are all that is changed.
fn documented(view: &View) -> RuleSet {
    let text = include_str!("fixtures/conf/emqx_backend_dynamo.conf")
        .replace("http://localhost:8000", &view.endpoint)
        .replace("example-id", &view.account);
    let parsed = parse_conf(std::path::Path::new("emqx_backend_dynamo.conf"), &text);
    assert_eq!(parsed.faults, []);
    parsed.rules
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_documented_configuration_and_its_items() {
    let view = View::new();
    let rules = documented(&view);
    let log = MemoryLog::default();
    let sinks = start(&log, &rules);
    log.connect("test", 1);
    let queued = log.message(message("queue/a", b"Hello world!", "test"));
    log.message(message("world", b"Hello world!", "test"));
    log.message(Message { retain: true, ..message("t/retain", b"kept", "test") });
    log.message(Message { retain: true, ..message("gone", b"x", "test") });
    log.message(Message { retain: true, ..message("gone", b"", "test") });
    let last = log.publish("world", b"QoS 0 is not stored", QoS::AtMostOnce);
    done(&log, &sinks, last).await;
    let online = |state: u8, gone: u64| {
        item([
            ("clientid", s("test")),
            ("connect_state", n(state)),
            ("node", s("forebay@here")),
            ("online_at", n(AT_S)),
            ("offline_at", n(gone)),
        ])
    };
    assert_eq!(view.scan("mqtt_client").await, [online(1, 0)]);
    let stored = view.scan("mqtt_msg").await;
    let of = |topic: &str| stored.iter().filter(|m| text(m, "topic") == topic).cloned().collect::<Vec<Item>>();
    let row = |msgid: String, topic: &str, payload: &str, retain: u8| {
        item([
            ("msgid", s(&msgid)),
            ("topic", s(topic)),
            ("sender", s("test")),
            ("payload", s(payload)),
            ("qos", n(1)),
            ("retain", n(retain)),
            ("arrived", n(AT_S)),
        ])
    };
    for (topic, payload, retain) in
        [("queue/a", "Hello world!", 0), ("world", "Hello world!", 0), ("t/retain", "kept", 1)]
    {
        let found = of(topic);
        let msgid = text(&found[0], "msgid");
        assert_eq!((msgid.len(), found), (20, vec![row(msgid.clone(), topic, payload, retain)]), "{topic}");
        assert_eq!(view.map().await[topic], [msgid], "the map names it");
    }
    let kept = text(&of("t/retain")[0], "msgid");
    assert_eq!(view.scan("mqtt_retain").await, [row(kept, "t/retain", "kept", 1)]);
    // An acknowledgement takes the message of a queue, and its name; the client goes.
    log.ack("test", "queue/a", queued);
    let last = log.disconnect("test", 1, false);
    done(&log, &sinks, last).await;
    assert_eq!(view.scan("mqtt_client").await, [online(0, AT_S)]);
    assert!(view.scan("mqtt_msg").await.iter().all(|m| text(m, "topic") != "queue/a"));
    assert!(!view.map().await.contains_key("queue/a"), "no empty item is left");
    assert!(sinks.dead_letters(SINK).unwrap().is_empty());
    stop(sinks).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn client_status() {
    let view = View::new();
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
    log.disconnect("b", 3, false);
    // Whose coming nobody has stored.
    let last = log.disconnect("c", 4, false);
    done(&log, &sinks, last).await;
    let clients = async || {
        let row = |c: &Item| {
            let seen = |name| text(c, name).parse::<u64>().unwrap().saturating_sub(AT_S - 1);
            let state = text(c, "connect_state");
            format!("{}|{}|{}|{}|{state}", text(c, "clientid"), seen("online_at"), seen("offline_at"), text(c, "node"))
        };
        let mut found: Vec<String> = view.scan("mqtt_client").await.iter().map(row).collect();
        found.sort();
        found
    };
    let expected = ["a|1|0|forebay@here|1", "b|1|1|forebay@here|0", "c|0|1|forebay@here|0"];
    assert_eq!(clients().await, expected);
    // The whole log again ends the same.
    assert_eq!(sinks.reset(SINK, ResetTo::Earliest, Duration::from_secs(20)).await, Some(Ok(Lsn::FIRST)));
    done(&log, &sinks, last).await;
    assert_eq!(clients().await, expected);
    // The client moves to another node, and its going here is seen late.
    let moved = [("connect_state", n(1)), ("node", s("other")), ("online_at", n(AT_S)), ("offline_at", n(0))];
    view.put(
        "mqtt_client",
        moved.into_iter().map(|(k, v)| (k.to_owned(), v)).chain([("clientid".into(), s("a"))]).collect(),
    )
    .await;
    log.disconnect("a", 2, false);
    let last = log.connect("b", 5);
    done(&log, &sinks, last).await;
    assert_eq!(clients().await, ["a|1|0|other|1", "b|1|0|forebay@here|1", "c|0|1|forebay@here|0"]);
    // Nor does an older state replace a newer one of this node.
    let newer =
        [("connect_state", n(1)), ("node", s("forebay@here")), ("online_at", n(AT_S + 9)), ("offline_at", n(0))];
    view.put(
        "mqtt_client",
        newer.into_iter().map(|(k, v)| (k.to_owned(), v)).chain([("clientid".into(), s("b"))]).collect(),
    )
    .await;
    log.connect("b", 6);
    let last = log.disconnect("b", 6, false);
    done(&log, &sinks, last).await;
    assert_eq!(clients().await[1], "b|10|0|forebay@here|1");
    stop(sinks).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_and_acknowledgements() {
    let view = View::new();
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
    assert_eq!(view.payloads("pubsub/a").await, [&b"one"[..], b"a\0b", b"zero"]);
    assert_eq!(view.scan("mqtt_msg").await.len(), 3, "each stored once, the queue's removed");
    let names = view.names("pubsub/a").await;
    let acked = async || {
        let found = view.scan("mqtt_acked").await;
        assert_eq!(found.len(), 1);
        assert_eq!((text(&found[0], "clientid"), text(&found[0], "topic")), ("c".into(), "pubsub/a".into()));
        assert_eq!(found[0].len(), 3);
        text(&found[0], "msgid")
    };
    assert_eq!(acked().await, names[1]);
    // An acknowledgement never goes backwards, in a batch of its own either.
    let last = log.ack("c", "pubsub/a", first);
    done(&log, &sinks, last).await;
    assert_eq!(acked().await, names[1]);
    let last = log.ack("c", "pubsub/a", zero);
    done(&log, &sinks, last).await;
    assert_eq!(acked().await, names[2]);
    stop(sinks).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retained_messages() {
    let view = View::new();
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
        let row = |found: &Item| format!("{}|{}", text(found, "topic"), text(found, "payload"));
        let mut found: Vec<String> = view.scan("mqtt_retain").await.iter().map(row).collect();
        found.sort();
        found
    };
    assert_eq!(kept().await, ["a|new", "c|1"]);
    retained("c", "2");
    let last = retained("a", "");
    done(&log, &sinks, last).await;
    assert_eq!(kept().await, ["c|2"]);
    // Another program's item is replaced, whatever its name.
    view.put("mqtt_retain", item([("topic", s("c")), ("msgid", s("~~~")), ("payload", s("theirs"))])).await;
    let last = retained("c", "3");
    done(&log, &sinks, last).await;
    assert_eq!(kept().await, ["c|3"]);
    // What an earlier attempt sends late replaces nothing newer.
    let newest = view.scan("mqtt_retain").await.remove(0);
    let mut later = newest.clone();
    later.insert("msgid".into(), s("zzzzzzzzzzzzzzzzzzzz"));
    later.insert("payload".into(), s("newer"));
    view.put("mqtt_retain", later).await;
    retained("c", "4");
    let last = retained("c", "");
    done(&log, &sinks, last).await;
    assert_eq!(kept().await, ["c|newer"]);
    stop(sinks).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keep_latest_and_unsubscribes() {
    let view = View::new();
    let rules = view.rules(&[
        (Hook::MessagePublish, Some("last/#"), Function::MessageStoreKeepLatest),
        (Hook::MessagePublish, Some("t/#"), Function::MessageStore),
        (Hook::MessageAcked, Some("#"), Function::MessageAcked),
        (Hook::SessionUnsubscribed, Some("#"), Function::AckedDelete),
    ]);
    let log = MemoryLog::default();
    let sinks = start(&log, &rules);
    for round in 0..3 {
        for number in 0..5 {
            log.publish("last/a", format!("{round}.{number}").as_bytes(), QoS::AtMostOnce);
        }
        let last = log.publish("last/b", b"b", QoS::AtMostOnce);
        done(&log, &sinks, last).await;
        assert_eq!(view.payloads("last/a").await, [format!("{round}.4").as_bytes()]);
        assert_eq!(view.scan("mqtt_msg").await.len(), 2, "nothing is left that no name leads to");
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
    let left = async || {
        let row = |found: &Item| format!("{}|{}", text(found, "clientid"), text(found, "topic"));
        let mut rows: Vec<String> = view.scan("mqtt_acked").await.iter().map(row).collect();
        rows.sort();
        let mut by_client: Vec<String> = view.scan("forebay_acked").await.iter().map(row).collect();
        by_client.sort();
        assert_eq!(rows, by_client, "what is looked for by client is what is there");
        rows
    };
    assert_eq!(left().await, ["c|t/x/3", "d|t/1", "d|t/x/3", "d|t/y"]);
    // What comes after the deletion stands, and another process finds it too.
    let last = log.ack("c", "t/1", acks[0].1);
    done(&log, &sinks, last).await;
    assert_eq!(left().await, ["c|t/1", "c|t/x/3", "d|t/1", "d|t/x/3", "d|t/y"]);
    stop(sinks).await;
    let sinks = start(&log, &rules);
    let last = log.unsubscribe("c", "#");
    done(&log, &sinks, last).await;
    assert_eq!(left().await, ["d|t/1", "d|t/x/3", "d|t/y"]);
    stop(sinks).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_map_is_kept_small_and_runs_empty() {
    let view = View::new();
    let mut rules = view.rules(&[
        (Hook::MessagePublish, Some("#"), Function::MessagePublish),
        (Hook::MessageAcked, Some("#"), Function::MessageAckedForQueue),
    ]);
    rules.pools = vec![view.pool(&[("map_ids", "10")])];
    let log = MemoryLog::default();
    let mut published = Vec::new();
    let mut sinks = start(&log, &rules);
    for round in 0..6 {
        for number in 0..17 {
            published.push(log.publish("queue/a", format!("{round}.{number:02}").as_bytes(), QoS::AtLeastOnce));
        }
        done(&log, &sinks, *published.last().unwrap()).await;
        if round % 2 == 1 {
            // A process that knows nothing of its items.
            stop(sinks).await;
            sinks = start(&log, &rules);
        }
    }
    let map = view.map().await;
    assert!(map.len() > 5 && map.contains_key("queue/a#"), "{map:?}");
    assert!(map.values().all(|names| names.len() <= 20), "{map:?}");
    let expected: Vec<Vec<u8>> =
        (0..6).flat_map(|round| (0..17).map(move |number| format!("{round}.{number:02}").into_bytes())).collect();
    assert_eq!(view.payloads("queue/a").await, expected, "each name is there once");
    // The whole log again: the same items.
    assert_eq!(sinks.reset(SINK, ResetTo::Earliest, Duration::from_secs(20)).await, Some(Ok(Lsn::FIRST)));
    let stored = sinks.status()[0].stored;
    let last = log.publish("queue/b", b"b", QoS::AtLeastOnce);
    done(&log, &sinks, last).await;
    assert!(sinks.status()[0].stored > stored + 100);
    assert_eq!(view.payloads("queue/a").await, expected);
    // Acknowledged out of order; items go as they run empty, and what comes then has the first one again.
    let every_second = |first: usize| published.iter().copied().skip(first).step_by(2).collect::<Vec<Lsn>>();
    let (odd, even) = (every_second(1), every_second(0));
    for lsn in odd.iter().chain(&even[..even.len() / 2]) {
        log.ack("c", "queue/a", *lsn);
    }
    let last = log.publish("queue/b", b"c", QoS::AtLeastOnce);
    done(&log, &sinks, last).await;
    let left = even.len() - even.len() / 2;
    assert_eq!(view.names("queue/a").await.len(), left);
    assert!(view.map().await.len() < map.len());
    for lsn in &even[even.len() / 2..] {
        log.ack("c", "queue/a", *lsn);
    }
    let last = log.publish("queue/b", b"d", QoS::AtLeastOnce);
    done(&log, &sinks, last).await;
    let map = view.map().await;
    assert_eq!(map.keys().collect::<Vec<_>>(), ["queue/b"]);
    assert_eq!(view.scan("mqtt_msg").await.len(), 3);
    let last = log.publish("queue/a", b"again", QoS::AtLeastOnce);
    done(&log, &sinks, last).await;
    assert_eq!(view.map().await["queue/a"].len(), 1);
    stop(sinks).await;
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

/// What an application does to have a message fetched: the message, and its name in the map.
async fn insert(view: &View, topic: &str, msgid: &str, payload: &str, arrived: u64) {
    let row = [("msgid", s(msgid)), ("topic", s(topic)), ("sender", s("app")), ("payload", s(payload)), ("qos", n(1))];
    let row = row.into_iter().chain([("retain", n(0)), ("arrived", n(arrived))]);
    view.put("mqtt_msg", row.map(|(k, v)| (k.to_owned(), v)).collect()).await;
    let add = view.client.update_item().table_name("mqtt_topic_msg_map").key("topic", s(topic));
    let add =
        add.update_expression("add MsgId :m").expression_attribute_values(":m", AttributeValue::Ss(vec![msgid.into()]));
    add.send().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn items_of_other_programs() {
    let view = View::new();
    let rules = view.rules(&[
        (Hook::ClientConnected, None, Function::SubscribeLookup),
        (Hook::SessionSubscribed, Some("#"), Function::MessageFetchForQueue),
        (Hook::SessionSubscribed, Some("#"), Function::RetainLookup),
        (Hook::MessagePublish, Some("#"), Function::MessagePublish),
        (Hook::MessageAcked, Some("queue/#"), Function::MessageAckedForQueue),
        (Hook::MessageAcked, Some("cmd/#"), Function::MessageAckedForPubsub),
    ]);
    let log = MemoryLog::default();
    let own = log.publish("queue/c", b"own", QoS::AtLeastOnce);
    let sinks = start(&log, &rules);
    done(&log, &sinks, own).await;
    insert(&view, "queue/c", "Mjg4MTk1MTU5MTQ0MzE0MTIz", "restart", AT_S - 9).await;
    insert(&view, "queue/c", "a-1", "reboot", AT_S - 10).await;
    insert(&view, "cmd/c", "b-1", "first", AT_S - 10).await;
    insert(&view, "cmd/c", "a-2", "second", AT_S - 9).await;
    let kept = [("topic", s("state/c")), ("msgid", s("kept-1")), ("sender", s("app")), ("payload", s("kept"))];
    let kept = kept.into_iter().chain([("qos", n(1)), ("retain", n(1)), ("arrived", n(AT_S - 8))]);
    view.put("mqtt_retain", kept.map(|(k, v)| (k.to_owned(), v)).collect()).await;
    for (client, filter, qos) in [("c", "cmd/c", 2), ("c", "not/#/valid", 1), ("d", "x", 1)] {
        view.put("mqtt_sub", item([("clientid", s(client)), ("topic", s(filter)), ("qos", n(qos))])).await;
    }
    let lookups = sinks.lookups();
    assert_eq!(lookups.proxy_subscriptions("c").await, [("cmd/c".into(), QoS::ExactlyOnce)]);
    for topic in ["queue/c", "queue/c", "cmd/c", "state/c", "state/c"] {
        lookups.before_subscribe("c", topic).await;
    }
    let rows = imported(&log);
    let payloads: Vec<&[u8]> = rows.iter().map(|(_, m)| &m.payload[..]).collect();
    assert_eq!(payloads, [&b"reboot"[..], b"restart", b"first", b"second", b"kept"], "oldest first, each once");
    assert_eq!((&*rows[0].1.publisher, rows[4].1.retain), ("app", true));
    // A queue's is removed under the name it has; a read position has the item's own name.
    log.ack("c", "queue/c", rows[0].0);
    let last = log.ack("c", "cmd/c", rows[3].0);
    done(&log, &sinks, last).await;
    let mut names: Vec<String> = view.scan("mqtt_msg").await.iter().map(|m| text(m, "msgid")).collect();
    names.retain(|name| name.len() != 20);
    names.sort();
    assert_eq!(names, ["Mjg4MTk1MTU5MTQ0MzE0MTIz", "a-2", "b-1"], "not written back");
    assert!(!view.map().await["queue/c"].contains(&"a-1".to_owned()));
    assert_eq!(text(&view.scan("mqtt_acked").await[0], "msgid"), "a-2");
    stop(sinks).await;
    // Another process, another memory: the database knows.
    let sinks = start(&log, &rules);
    done(&log, &sinks, last).await;
    let before = imported(&log).len();
    insert(&view, "queue/c", "c-3", "late", AT_S).await;
    sinks.lookups().before_subscribe("d", "queue/c").await;
    let rows = imported(&log);
    assert_eq!(rows.len(), before + 1);
    assert_eq!(&rows[before].1.payload[..], b"late");
    // What EMQ X says was read is not given again.
    view.put("mqtt_acked", item([("topic", s("cmd/e")), ("clientid", s("d")), ("msgid", s("e-1"))])).await;
    insert(&view, "cmd/e", "e-1", "read", AT_S - 5).await;
    insert(&view, "cmd/e", "a-9", "unread", AT_S - 4).await;
    sinks.lookups().before_subscribe("d", "cmd/e").await;
    assert_eq!(imported(&log).last().map(|(_, m)| m.payload.to_vec()), Some(b"unread".to_vec()));
    assert_eq!(imported(&log).len(), before + 2);
    stop(sinks).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn offline_options_and_pages() {
    let view = View::new();
    let mut rules = view.rules(&[(Hook::SessionSubscribed, Some("#"), Function::MessageFetch)]);
    let log = MemoryLog::default();
    let last = log.publish("x", b"x", QoS::AtLeastOnce);
    let sinks = start(&log, &rules);
    done(&log, &sinks, last).await;
    // More than one page, and more than one read takes.
    for number in 0..300 {
        insert(&view, "many", &format!("m{}-{number}", number % 7), &number.to_string(), AT_S - 1_000 + number).await;
    }
    sinks.lookups().before_subscribe("c", "many").await;
    let expected: Vec<String> = (0..300).map(|number| number.to_string()).collect();
    let found: Vec<String> =
        imported(&log).iter().map(|(_, m)| String::from_utf8_lossy(&m.payload).into_owned()).collect();
    assert_eq!(found, expected);
    stop(sinks).await;
    rules.rules[0].offline = OfflineOpts { max_returned_count: Some(2), time_range: Some(Duration::from_secs(7_200)) };
    let sinks = start(&log, &rules);
    done(&log, &sinks, last).await;
    // The log's clock stands at the beginning of 2024.
    for (number, ago) in [(0, 14_400), (1, 3_600), (2, 3_000), (3, 2_400)] {
        insert(&view, "t", &format!("app-{number}"), &number.to_string(), AT_S - ago).await;
    }
    let before = imported(&log).len();
    sinks.lookups().before_subscribe("c", "t").await;
    let rows = imported(&log);
    let payloads: Vec<&[u8]> = rows[before..].iter().map(|(_, m)| &m.payload[..]).collect();
    assert_eq!(payloads, [b"2", b"3"], "the newest two, the older first");
    stop(sinks).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn payloads_and_what_is_too_large() {
    let view = View::new();
    let rules = view.rules(&[
        (Hook::MessagePublish, Some("#"), Function::MessagePublish),
        (Hook::MessagePublish, Some("#"), Function::MessageRetain),
    ]);
    let log = MemoryLog::default();
    log.message(Message { retain: true, ..message("b", b"\xff\xfe", "p") });
    let large = log.publish("large", "x".repeat(409_600).as_bytes(), QoS::AtLeastOnce);
    log.publish("large", "y".repeat(400_000).as_bytes(), QoS::AtLeastOnce);
    let long = log.publish(&"t".repeat(2_028), b"x", QoS::AtLeastOnce);
    log.publish(&"t".repeat(2_027), b"long", QoS::AtLeastOnce);
    let last = log.publish("empty", b"", QoS::AtLeastOnce);
    let sinks = start(&log, &rules);
    done(&log, &sinks, last).await;
    let letters = sinks.dead_letters(SINK).unwrap().ls(0, 10).unwrap();
    let reasons: Vec<String> = letters.iter().map(|letter| letter.reason.clone()).collect();
    assert_eq!(letters.iter().map(|letter| letter.lsn).collect::<Vec<_>>(), [large.0, long.0], "{reasons:?}");
    assert!(reasons[0].contains("400 KB") && reasons[1].contains("2027"), "{reasons:?}");
    let binary = AttributeValue::B(Blob::new(*b"\xff\xfe"));
    assert_eq!(view.scan("mqtt_retain").await[0]["payload"], binary);
    let stored = view.stored().await;
    assert_eq!(stored.keys().map(Vec::len).collect::<Vec<_>>(), [0, 4, 400_000, 2]);
    stop(sinks).await;
    for (kind, expected) in [("base64", "//4="), ("hex", "fffe")] {
        let view = View::new();
        let mut rules = view.rules(&[(Hook::MessagePublish, None, Function::MessagePublish)]);
        rules.pools = vec![view.pool(&[("binary_payload", kind)])];
        let log = MemoryLog::default();
        let last = log.publish(kind, b"\xff\xfe", QoS::AtLeastOnce);
        let sinks = start(&log, &rules);
        done(&log, &sinks, last).await;
        assert_eq!(view.scan("mqtt_msg").await[0]["payload"], s(expected));
        stop(sinks).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_expired_goes() {
    let view = View::new();
    let mut rules = view.rules(&[
        (Hook::MessagePublish, Some("short/#"), Function::MessagePublish),
        (Hook::MessagePublish, Some("long/#"), Function::MessagePublish),
        (Hook::MessagePublish, Some("#"), Function::MessageRetain),
    ]);
    // The log's clock goes on by a microsecond a record.
    rules.rules[0].expired_time = Some(Duration::from_micros(100));
    rules.rules[1].expired_time = Some(Duration::from_secs(3_600));
    rules.rules[2].expired_time = Some(Duration::from_micros(100));
    let log = MemoryLog::default();
    let sinks = start(&log, &rules);
    for number in 0..9 {
        log.publish("short/a", &[b'0' + number], QoS::AtLeastOnce);
    }
    log.publish("long/a", b"stays", QoS::AtLeastOnce);
    let last = log.message(Message { retain: true, ..message("long/b", b"stays, but not retained", "p") });
    done(&log, &sinks, last).await;
    assert_eq!(view.scan("mqtt_msg").await.len(), 11);
    assert_eq!(view.scan("forebay_expiry").await.len(), 12);
    for _ in 0..200 {
        log.publish("else", b"x", QoS::AtMostOnce);
    }
    stop(sinks).await;
    // Upkeep comes about every ten seconds.
    let sinks = start(&log, &rules);
    let end = tokio::time::Instant::now() + Duration::from_secs(60);
    while view.scan("forebay_expiry").await.len() > 2 {
        assert!(tokio::time::Instant::now() < end, "nothing expires");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(view.scan("mqtt_msg").await.len(), 2);
    assert_eq!(view.scan("mqtt_retain").await, Vec::<Item>::new());
    assert_eq!(view.map().await.into_keys().collect::<Vec<_>>(), ["long/a", "long/b"]);
    stop(sinks).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_are_made_as_asked() {
    let store = [(Hook::MessagePublish, Some("#"), Function::MessagePublish)];
    let view = View::new();
    let mode = async |view: &View, table: &str| {
        let found = view.client.describe_table().table_name(table).send().await.unwrap().table.unwrap();
        let units = found.provisioned_throughput().unwrap().write_capacity_units().unwrap();
        (found.billing_mode_summary().and_then(|mode| mode.billing_mode().cloned()), units)
    };
    let log = MemoryLog::default();
    let last = log.publish("a", b"1", QoS::AtLeastOnce);
    let sinks = start(&log, &view.rules(&store));
    done(&log, &sinks, last).await;
    assert_eq!(mode(&view, "mqtt_msg").await.0, Some(BillingMode::PayPerRequest));
    let names = view.client.list_tables().send().await.unwrap();
    assert_eq!(names.table_names().len(), 10);
    stop(sinks).await;
    let guide = View::new();
    let log = MemoryLog::default();
    let last = log.publish("a", b"1", QoS::AtLeastOnce);
    let mut rules = guide.rules(&store);
    rules.pools = vec![guide.pool(&[("billing", "provisioned")])];
    let sinks = start(&log, &rules);
    done(&log, &sinks, last).await;
    let (billing, units) = mode(&guide, "mqtt_acked").await;
    assert!(billing != Some(BillingMode::PayPerRequest) && units == 5, "{billing:?} {units}");
    stop(sinks).await;
    // What only is to be looked for waits, with the lines to be run.
    let verified = View::new();
    let mut rules = verified.rules(&store);
    rules.pools = vec![verified.pool(&[("schema", "verify")])];
    let sinks = start(&log, &rules);
    shows(&sinks, "aws dynamodb create-table --table-name mqtt_client").await;
    assert_eq!(verified.client.list_tables().send().await.unwrap().table_names().len(), 0);
    stop(sinks).await;
    let off = View::new();
    let mut rules = off.rules(&store);
    rules.pools = vec![off.pool(&[("schema", "off")])];
    let sinks = start(&log, &rules);
    shows(&sinks, "the table is not there").await;
    stop(sinks).await;
}

/// A table whose key is a number, or has another name, is nobody's to overwrite.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_look_at_the_tables_changes_nothing() {
    let view = View::new();
    let mut rules = view.rules(&[(Hook::MessagePublish, Some("#"), Function::MessagePublish)]);
    let look = async |rules: &RuleSet| {
        let found = inspect(rules, &options().databases, Duration::from_secs(60)).await.unwrap();
        found.into_iter().flat_map(|one| one.findings).collect::<Vec<Finding>>()
    };
    let of = |findings: &[Finding], severity: Severity| {
        findings.iter().filter(|f| f.severity == severity).map(|f| f.text.clone()).collect::<Vec<_>>()
    };
    let new = look(&rules).await;
    assert_eq!(of(&new, Severity::Fine).len(), 10, "{new:?}");
    assert!(new[0].text.contains("is not there yet"), "{new:?}");
    rules.pools = vec![view.pool(&[("schema", "verify")])];
    assert!(of(&look(&rules).await, Severity::Fault)[0].contains("aws dynamodb create-table"));
    assert_eq!(view.client.list_tables().send().await.unwrap().table_names().len(), 0, "a look makes no table");
    let log = MemoryLog::default();
    let last = log.publish("a", b"1", QoS::AtLeastOnce);
    rules.pools = vec![view.pool(&[("billing", "provisioned")])];
    let sinks = start(&log, &rules);
    done(&log, &sinks, last).await;
    stop(sinks).await;
    let found = look(&rules).await;
    assert_eq!((of(&found, Severity::Fault), of(&found, Severity::Warning).len()), (vec![], 10), "5 units are few");
    // Another program's table of that name.
    let other = View::new();
    let key = KeySchemaElement::builder().attribute_name("id").key_type(KeyType::Hash).build().unwrap();
    let of_type = AttributeDefinition::builder().attribute_name("id").attribute_type(ScalarAttributeType::N);
    let create = other.client.create_table().table_name("mqtt_msg").billing_mode(BillingMode::PayPerRequest);
    create.key_schema(key).attribute_definitions(of_type.build().unwrap()).send().await.unwrap();
    let rules = other.rules(&[(Hook::MessagePublish, Some("#"), Function::MessagePublish)]);
    let faults = of(&look(&rules).await, Severity::Fault);
    assert!(faults.len() == 1 && faults[0].contains("mqtt_msg has other keys"), "{faults:?}");
    let sinks = start(&log, &rules);
    shows(&sinks, "mqtt_msg has other keys").await;
    stop(sinks).await;
    // A key that nobody has.
    let nobody = View::at(&shared(), &format!("{}-no", account()));
    let rules = nobody.rules(&[(Hook::MessagePublish, Some("#"), Function::MessagePublish)]);
    let refused = of(&look(&rules).await, Severity::Fault);
    assert!(refused.len() == 1 && refused[0].contains("aws_access_key_id"), "{refused:?}");
}

#[test]
fn explain_shows_the_requests() {
    let text = include_str!("fixtures/conf/emqx_backend_dynamo.conf");
    let parsed = parse_conf(std::path::Path::new("emqx_backend_dynamo.conf"), text);
    let asked = Message { retain: true, ..message("a/b", b"\xff\x00", "me") };
    let explained = forebay_sinks::explain::explain(&parsed.rules, &asked, BEGIN_US, &options().databases).unwrap();
    let operations: Vec<_> = explained.iter().flat_map(|e| &e.operations).collect();
    assert!(operations.iter().all(|operation| operation.at_worst == AtWorst::SameAgain));
    let texts: Vec<&str> = operations.iter().map(|operation| operation.text.as_str()).collect();
    for expected in [
        "PutItem mqtt_client {clientid: \"me\", connect_state: 1, node: \"forebay@here\", online_at: 1704067200, offline_at: 0}",
        "topic: \"a/b\", sender: \"me\", payload: B ff00 (2 bytes), qos: 1, retain: 1, arrived: 1704067200}",
        "UpdateItem mqtt_topic_msg_map {topic: \"a/b\"} add MsgId {\"",
        "PutItem mqtt_retain {",
        "DeleteItem mqtt_acked {topic, clientid: \"me\"} of the topics that match \"a/b\"",
    ] {
        assert!(texts.iter().any(|text| text.contains(expected)), "{expected}: {texts:#?}");
    }
    assert!(!texts.iter().any(|text| text.contains("example-secret")));
}
