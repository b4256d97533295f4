//! One-to-one, one-to-many, keep latest, persistent and clean sessions, through the public API.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use common::*;
use forebay_engine::Lsn;
use forebay_engine::event::*;

#[test]
fn a_pubsub_subscriber_gets_what_was_stored_before_it_and_its_position_outlives_the_session() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    for payload in ["1", "2", "3"] {
        publish(&engine, "pubsub/a", payload, 1);
        publish(&engine, "other", "x", 1);
    }
    let mut first = Client::connect(&engine, "first", false, 0);
    first.subscribe("pubsub/a", 1);
    first.expect(&["1", "2", "3"]);
    first.disconnect();
    publish(&engine, "pubsub/a", "4", 1);

    let mut first = Client::connect(&engine, "first", false, 0);
    first.subscribe("pubsub/a", 1);
    first.expect(&["4"]);
    let mut second = Client::connect(&engine, "second", false, 0);
    second.subscribe("pubsub/#", 1);
    second.expect(&["1", "2", "3", "4"]);
    publish(&engine, "pubsub/a", "5", 1);
    first.expect(&["5"]);
    second.expect(&["5"]);
}

#[test]
fn unsubscribing_wipes_the_read_position() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    publish(&engine, "pubsub/a", "1", 1);
    let mut client = Client::connect(&engine, "c", false, 0);
    client.subscribe("pubsub/a", 1);
    client.expect(&["1"]);
    client.unsubscribe("pubsub/a");
    client.subscribe("pubsub/a", 1);
    client.expect(&["1"]);
}

#[test]
fn qos_0_publishes_that_were_missed_are_given_to_read_positions_only() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    publish(&engine, "pubsub/a", "stored", 0);
    let mut client = Client::connect(&engine, "c", false, 100);
    client.subscribe("#", 1);
    client.subscribe("pubsub/a", 1);
    client.expect(&["stored"]);
    publish(&engine, "pubsub/a", "given live by the broker", 0);
    client.expect_nothing_but("marker");
}

#[test]
fn offline_opts_give_the_newest_messages_oldest_first() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    for payload in ["1", "2", "3", "4", "5"] {
        publish(&engine, "pubsub/few/a", payload, 1);
    }
    let mut client = Client::connect(&engine, "c", false, 0);
    client.subscribe("pubsub/few/a", 1);
    client.expect(&["3", "4", "5"]);
    publish(&engine, "pubsub/few/a", "6", 1);
    client.expect(&["6"]);
}

#[test]
fn keep_latest_gives_only_the_newest_message_of_each_topic() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    for (topic, payload) in
        [("latest/a", "a1"), ("latest/b", "b1"), ("latest/a", "a2"), ("latest/b", "b2"), ("latest/a", "a3")]
    {
        publish(&engine, topic, payload, 1);
    }
    let mut client = Client::connect(&engine, "c", false, 0);
    client.subscribe("latest/#", 1);
    client.expect(&["b2", "a3"]);
}

#[test]
fn a_queue_message_goes_to_one_subscriber_and_to_the_next_when_that_one_leaves() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    for payload in ["1", "2", "3", "4"] {
        publish(&engine, "queue/a", payload, 1);
    }
    let mut first = Client::connect(&engine, "first", false, 0);
    first.subscribe("queue/a", 1);
    let held = first.take(4);
    first.settle(&held[..1]);
    let mut second = Client::connect(&engine, "second", false, 0);
    second.subscribe("queue/+", 1);
    assert_eq!(engine.queued(), 4 - 1);
    first.disconnect();
    second.expect(&["2", "3", "4"]);
    publish(&engine, "queue/a", "5", 1);
    second.expect(&["5"]);
    let mut third = Client::connect(&engine, "third", false, 0);
    third.subscribe("queue/a", 1);
    let mut got = Vec::new();
    for payload in ["6", "7", "8", "9"] {
        publish(&engine, "queue/a", payload, 1);
    }
    for client in [&mut second, &mut third] {
        let two = client.take(2);
        got.extend(two.iter().map(|d| d.message.payload.clone()));
        client.settle(&two);
    }
    got.sort();
    assert_eq!(got, ["6", "7", "8", "9"]);
}

#[test]
fn a_broader_subscription_consumes_nothing_of_a_queue() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    let mut all = Client::connect(&engine, "all", false, 0);
    all.subscribe("#", 1);
    publish(&engine, "queue/a", "1", 1);
    all.expect(&["1"]);
    assert_eq!(engine.queued(), 1);
    let mut worker = Client::connect(&engine, "worker", false, 0);
    worker.subscribe("queue/a", 1);
    worker.expect(&["1"]);
    worker.expect_nothing_but("queue/a");
    let end = engine.log().end();
    block_on(engine.applied(Lsn(end.0 - 1))).unwrap();
    assert_eq!(engine.queued(), 0);
}

#[test]
fn a_persistent_session_gets_what_it_missed_and_nothing_from_before() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    publish(&engine, "a", "before", 1);
    let mut client = Client::connect(&engine, "c", false, 3600);
    client.subscribe("a", 2);
    publish(&engine, "a", "1", 1);
    publish(&engine, "a", "2", 2);
    let held = client.take(2);
    assert_eq!(held.iter().map(|d| d.qos).collect::<Vec<_>>(), [QoS::AtLeastOnce, QoS::ExactlyOnce]);
    client.settle(&held[1..]);
    client.disconnect();
    publish(&engine, "a", "3", 1);
    let mut client = Client::connect(&engine, "c", true, 3600);
    client.expect(&["1", "3"]);
    client.expect_nothing_but("a");
}

#[test]
fn overlapping_filters_give_one_copy_with_the_highest_qos_and_all_identifiers() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    let mut client = Client::connect(&engine, "c", false, 100);
    let with = |qos, identifier| SubscriptionOptions { identifier, ..SubscriptionOptions::of_qos(qos) };
    client.subscribe_with("a/#", with(QoS::AtLeastOnce, 7));
    client.subscribe_with("a/+", with(QoS::ExactlyOnce, 8));
    publish(&engine, "a/b", "1", 2);
    let got = client.take(1);
    assert_eq!(got[0].qos, QoS::ExactlyOnce);
    let mut identifiers = got[0].identifiers.clone();
    identifiers.sort_unstable();
    assert_eq!(identifiers, [7, 8]);
    client.settle(&got);
    client.expect_nothing_but("a/x");
}

#[test]
fn the_window_bounds_what_is_handed_out_and_acknowledgements_may_come_in_any_order() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    let mut client = Client::connect_with(&engine, "c", false, 100, 3, vec![], None);
    client.subscribe("a", 1);
    let events: Vec<_> = (0..10).map(|i| published(message("a", &i.to_string(), 1))).collect();
    apply(&engine, &events);
    let mut held = client.take(3);
    let mut more = Vec::new();
    client.mailbox.as_mut().unwrap().take(10, &mut more);
    assert!(more.is_empty(), "the window is full");
    held.reverse();
    client.settle(&held);
    client.expect(&["3", "4", "5"]);
}

#[test]
fn thousands_of_messages_for_a_subscriber_that_does_not_take_them_wait_in_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    let mut client = Client::connect_with(&engine, "c", false, 100, 10, vec![], None);
    client.subscribe("a/#", 1);
    let expected: Vec<String> = (0..5000).map(|i| i.to_string()).collect();
    for chunk in expected.chunks(100) {
        let events: Vec<_> = chunk.iter().map(|i| published(message("a/b", i, 1))).collect();
        engine.append(&events).unwrap();
    }
    let mut got = Vec::new();
    while got.len() < expected.len() {
        let some = client.take(1);
        got.push(String::from_utf8_lossy(&some[0].message.payload).into_owned());
        client.settle(&some);
    }
    assert_eq!(got, expected);
}

#[test]
fn retained_messages_come_first_and_once_even_when_they_are_stored_too() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    publish(&engine, "pubsub/a", "1", 1);
    apply(&engine, &[published(Message { retain: true, ..message("pubsub/a", "kept", 1) })]);
    publish(&engine, "pubsub/a", "2", 1);
    let mut client = Client::connect(&engine, "c", false, 0);
    client.subscribe("pubsub/a", 1);
    let got = client.take(3);
    let seen: Vec<_> = got.iter().map(|d| (d.message.payload.clone(), d.retain)).collect();
    assert_eq!(seen, [("kept".into(), true), ("1".into(), false), ("2".into(), false)]);
    client.settle(&got);
    client.expect_nothing_but("pubsub/a");
    apply(&engine, &[published(Message { retain: true, ..message("pubsub/a", "", 1) })]);
    assert!(engine.retained("pubsub/a").is_none());
}

#[test]
fn no_local_and_retain_as_published_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    let mut client = Client::connect(&engine, "c", false, 0);
    let base = SubscriptionOptions::of_qos(QoS::AtLeastOnce);
    client.subscribe_with("a", SubscriptionOptions { no_local: true, retain_as_published: true, ..base });
    apply(&engine, &[published(Message { publisher: "c".into(), ..message("a", "own", 1) })]);
    apply(&engine, &[published(Message { retain: true, ..message("a", "flagged", 1) })]);
    let got = client.take(1);
    assert_eq!((got[0].message.payload.clone(), got[0].retain), ("flagged".into(), true));
}

#[test]
fn what_a_session_has_in_flight_is_not_given_again_and_may_be_settled_before_the_log_is_read_up_to_it() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    let mut client = Client::connect(&engine, "c", false, 100);
    client.subscribe("a", 2);
    for payload in ["1", "2", "3"] {
        publish(&engine, "a", payload, 2);
    }
    let held = client.take(2);
    let in_flight: Vec<Lsn> = held.iter().map(|d| d.lsn).collect();
    client.disconnect();
    let mut client = Client::connect_with(&engine, "c", true, 100, 20, in_flight, None);
    client.settle(&held);
    client.expect(&["3"]);
    client.expect_nothing_but("a");
    client.disconnect();
    drop(engine);
    let engine = open(dir.path());
    let mut client = Client::connect(&engine, "c", true, 100);
    client.expect_nothing_but("a");
}

#[test]
fn a_message_leased_from_a_queue_goes_back_when_its_subscription_ends_though_a_later_one_matches_too() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    let mut first = Client::connect(&engine, "first", false, 100);
    first.subscribe("queue/#", 1);
    publish(&engine, "queue/a", "1", 1);
    block_on(first.mailbox.as_ref().unwrap().ready()); // leased, and not taken
    first.subscribe("#", 1);
    first.unsubscribe("queue/#");
    first.expect_nothing_but("marker");
    let mut second = Client::connect(&engine, "second", false, 100);
    second.subscribe("queue/#", 1);
    second.expect(&["1"]);
}
