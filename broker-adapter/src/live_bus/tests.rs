//! The contract of [`LiveBus`], held to both implementations.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use forebay_engine::event::SubscriptionOptions;
use forebay_engine::{Message, QoS};

use super::{LiveBus, LiveInbox, LiveMessage, RumqttdBus, TrieBus};

fn options() -> SubscriptionOptions {
    SubscriptionOptions::of_qos(QoS::AtMostOnce)
}

fn message(topic: &str, payload: &str) -> Arc<Message> {
    let payload = Bytes::copy_from_slice(payload.as_bytes());
    Arc::new(Message { topic: topic.into(), payload, publisher: "p".into(), ..Message::default() })
}

/// Everything the inbox gets before a message published last has arrived.
async fn until_last(inbox: &LiveInbox) -> Vec<LiveMessage> {
    let mut seen = Vec::new();
    loop {
        tokio::time::timeout(Duration::from_secs(10), inbox.ready()).await.expect("the last message arrives");
        while let Some(live) = inbox.pop() {
            if live.message.payload == "last" {
                return seen;
            }
            seen.push(live);
        }
    }
}

async fn contract(bus: &dyn LiveBus) {
    messages_reach_exactly_the_matching_filters(bus).await;
    odd_topics_and_system_topics(bus).await;
    order_unsubscribe_and_replacement(bus).await;
    options_are_honoured(bus).await;
    a_full_inbox_sheds_and_counts(bus).await;
}

async fn messages_reach_exactly_the_matching_filters(bus: &dyn LiveBus) {
    let topics = ["a", "a/b", "a/b/c", "b/b", "/a", "a/"];
    for filter in ["a", "a/b", "a/+", "a/#", "#", "+", "+/b", "+/+", "/+", "a/+/c"] {
        let inbox = LiveInbox::new("s".into(), 100, 1 << 20);
        bus.subscribe(filter, &inbox, options());
        let control = LiveInbox::new("s".into(), 100, 1 << 20);
        bus.subscribe("control", &control, options());
        bus.subscribe("control", &inbox, options());
        for topic in topics {
            bus.publish(&message(topic, "x"));
        }
        bus.publish(&message("control", "last"));
        let seen: BTreeSet<_> = until_last(&inbox).await.iter().map(|l| l.message.topic.to_string()).collect();
        let expected = topics.iter().filter(|t| forebay_engine::topic::matches(filter, t));
        assert!(until_last(&control).await.is_empty());
        // The router delivers filter by filter, so the control message may overtake; what is missing then comes after it, as
        // long as the subscription is there.
        let mut seen = seen;
        let expected: BTreeSet<_> = expected.map(ToString::to_string).collect();
        while !expected.is_subset(&seen) {
            tokio::time::timeout(Duration::from_secs(10), inbox.ready()).await.expect(filter);
            seen.extend(std::iter::from_fn(|| inbox.pop()).map(|l| l.message.topic.to_string()));
        }
        bus.unsubscribe(filter, &inbox);
        bus.unsubscribe("control", &inbox);
        bus.unsubscribe("control", &control);
        seen.remove("control");
        assert_eq!(seen, expected, "{filter}");
    }
}

async fn odd_topics_and_system_topics(bus: &dyn LiveBus) {
    let (all, system) = (LiveInbox::new("s".into(), 10, 1 << 20), LiveInbox::new("s".into(), 10, 1 << 20));
    bus.subscribe("#", &all, options());
    bus.subscribe("$SYS/#", &system, options());
    bus.publish(&message("$SYS/x", "x"));
    bus.publish(&message("état/1", "x"));
    bus.publish(&message("$SYS/x", "last"));
    bus.publish(&message("end", "last"));
    assert_eq!(until_last(&system).await.len(), 1);
    let seen = until_last(&all).await;
    assert_eq!(seen.iter().map(|l| &*l.message.topic).collect::<Vec<_>>(), ["état/1"]);
    bus.unsubscribe("#", &all);
    bus.unsubscribe("$SYS/#", &system);
}

async fn order_unsubscribe_and_replacement(bus: &dyn LiveBus) {
    let inbox = LiveInbox::new("s".into(), 10_000, 1 << 20);
    bus.subscribe("o", &inbox, options());
    bus.subscribe("o", &inbox, options());
    for n in 0..1000 {
        bus.publish(&message("o", &n.to_string()));
    }
    bus.publish(&message("o", "last"));
    let seen = until_last(&inbox).await;
    let expected: Vec<_> = (0..1000).map(|n| n.to_string()).collect();
    assert_eq!(
        seen.iter().map(|l| String::from_utf8_lossy(&l.message.payload).into_owned()).collect::<Vec<_>>(),
        expected
    );
    bus.unsubscribe("o", &inbox);
    bus.unsubscribe("never", &inbox);
    bus.subscribe("p", &inbox, options());
    bus.publish(&message("o", "x"));
    bus.publish(&message("p", "last"));
    assert!(until_last(&inbox).await.is_empty(), "an unsubscribed filter gets nothing");
    bus.unsubscribe("p", &inbox);
}

async fn options_are_honoured(bus: &dyn LiveBus) {
    let own = LiveInbox::new("p".into(), 10, 1 << 20);
    bus.subscribe("own", &own, SubscriptionOptions { no_local: true, ..options() });
    bus.subscribe("r", &own, SubscriptionOptions { retain_as_published: true, identifier: 7, ..options() });
    bus.subscribe("r2", &own, options());
    bus.publish(&message("own", "x"));
    for topic in ["r", "r2"] {
        bus.publish(&Arc::new(Message { retain: true, ..(*message(topic, topic)).clone() }));
    }
    let mut seen = Vec::new();
    while seen.len() < 2 {
        tokio::time::timeout(Duration::from_secs(10), own.ready()).await.expect("both arrive");
        seen.extend(std::iter::from_fn(|| own.pop()));
    }
    seen.sort_by_key(|l| l.message.topic.len());
    let flags: Vec<_> = seen.iter().map(|l| (&*l.message.topic, l.retain, l.identifiers.as_slice())).collect();
    assert_eq!(flags, [("r", true, &[7][..]), ("r2", false, &[])], "no local, retain as published, identifiers");
    for filter in ["own", "r", "r2"] {
        bus.unsubscribe(filter, &own);
    }
}

async fn a_full_inbox_sheds_and_counts(bus: &dyn LiveBus) {
    let (small, large) = (LiveInbox::new("s".into(), 2, 1 << 20), LiveInbox::new("s".into(), 100, 1 << 20));
    bus.subscribe("f", &small, options());
    bus.subscribe("f", &large, options());
    for _ in 0..5 {
        bus.publish(&message("f", "x"));
    }
    bus.publish(&message("f", "last"));
    assert_eq!(until_last(&large).await.len(), 5, "one slow client costs the others nothing");
    assert_eq!(small.shed(), 4);
    assert!(small.pop().is_some() && small.pop().is_some() && small.pop().is_none());
    bus.unsubscribe("f", &small);
    bus.unsubscribe("f", &large);
}

#[tokio::test]
async fn the_trie_keeps_the_contract() {
    contract(&TrieBus::default()).await;
}

#[tokio::test]
async fn rumqttds_router_keeps_the_contract() {
    contract(&RumqttdBus::new()).await;
}
