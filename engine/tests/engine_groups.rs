//! Shared subscriptions, through the public API: each message to one member, whoever comes and goes, over restarts, trims and bounds.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytestring::ByteString;
use common::*;
use forebay_engine::delivery::{AttachOptions, Delivery};
use forebay_engine::event::*;
use forebay_engine::{Engine, EngineOptions, Lsn, StateSource};

const SHARE: &str = "$share/g/jobs/+";

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < end, "{what}: it did not happen");
        std::thread::yield_now();
    }
}

fn owed(engine: &Engine) -> u64 {
    engine.groups().iter().map(|group| group.messages).sum()
}

fn payloads(deliveries: &[Delivery]) -> Vec<String> {
    deliveries.iter().map(|d| String::from_utf8_lossy(&d.message.payload).into_owned()).collect()
}

fn publish_all(engine: &Engine, payloads: &[&str], qos: u8) {
    let events: Vec<Event> = payloads.iter().map(|p| published(message("jobs/x", p, qos))).collect();
    apply(engine, &events);
}

/// A client of a lasting session that is back with these in flight; what it has lost of them.
fn back(engine: &Engine, id: &str, in_flight: &[&Delivery]) -> (Client, Vec<Lsn>) {
    let epoch = engine.next_epoch();
    let opened = SessionOpened {
        client: id.into(),
        epoch,
        resumed: true,
        expiry_s: 3600,
        will: None,
        username: "".into(),
        peer: "".into(),
    };
    apply(engine, &[Event::SessionOpened(opened)]);
    let attach = AttachOptions { client: id.into(), epoch, window: 20, in_flight: vec![] };
    let in_flight: Vec<(Lsn, ByteString)> = in_flight.iter().map(|d| (d.lsn, d.share.clone().unwrap())).collect();
    let mailbox = engine.attach_shared(&attach, &in_flight);
    let lost = mailbox.revoked_shared().iter().map(|(lsn, _)| *lsn).collect();
    (Client { engine: engine.clone(), id: id.into(), epoch, mailbox: Some(mailbox) }, lost)
}

/// A member with a lasting session.
fn member(engine: &Engine, id: &str, qos: u8) -> Client {
    let client = Client::connect_with(engine, id, false, 3600, 100, vec![], None);
    client.subscribe(SHARE, qos);
    client
}

/// Nothing (more) comes to a client: the next is a marker that takes the same way, through a group of its own.
fn expect_nothing(client: &mut Client) {
    let marker = format!("marker/{}", client.id);
    client.subscribe(&format!("$share/marker/{marker}"), 1);
    client.expect_nothing_but(&marker);
    client.unsubscribe(&format!("$share/marker/{marker}"));
}

#[test]
fn each_message_goes_to_one_member_and_own_subscriptions_get_their_own_copy() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    publish_all(&engine, &["before"], 1);
    apply(&engine, &[published(Message { retain: true, ..message("jobs/kept", "retained", 1) })]);
    let mut members: Vec<Client> = ["a", "b", "c"].map(|id| member(&engine, id, 1)).into();
    members[0].subscribe_with(
        "jobs/#",
        SubscriptionOptions { identifier: 7, ..SubscriptionOptions::of_qos(QoS::AtLeastOnce) },
    );
    let own = members[0].take(1);
    assert_eq!((payloads(&own), own[0].retain), (vec!["retained".into()], true));
    members[0].settle(&own);
    let names: Vec<String> = (0..30).map(|n| n.to_string()).collect();
    publish_all(&engine, &names.iter().map(String::as_str).collect::<Vec<_>>(), 1);
    publish_all(&engine, &["live"], 0);
    let mut shared: Vec<String> = Vec::new();
    for (n, member) in members.iter_mut().enumerate() {
        let all = member.take(if n == 0 { 10 + 30 } else { 10 });
        let (of_group, own): (Vec<Delivery>, Vec<Delivery>) = all.into_iter().partition(|d| d.share.is_some());
        assert_eq!(of_group.len(), 10, "round robin");
        assert!(of_group.windows(2).all(|two| two[0].lsn < two[1].lsn), "in order");
        assert_eq!(own.iter().filter(|d| d.identifiers == [7]).count(), own.len());
        assert_eq!(own.len(), if n == 0 { 30 } else { 0 });
        shared.extend(payloads(&of_group));
        member.settle(&of_group);
        member.settle(&own);
    }
    shared.sort_by_key(|n| n.parse::<u32>().unwrap());
    assert_eq!(shared, names);
    until("all is acknowledged", || owed(&engine) == 0);
    expect_nothing(&mut members[1]);
}

#[test]
fn messages_wait_for_a_member_while_all_are_away_also_over_a_crash() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    member(&engine, "a", 1).disconnect();
    member(&engine, "b", 2).disconnect();
    publish_all(&engine, &["1", "2"], 1);
    publish_all(&engine, &["3"], 2);
    publish_all(&engine, &["dropped as any QoS 0 with nobody there"], 0);
    let group = &engine.groups()[0];
    assert_eq!((&*group.share, group.messages, group.bytes), (SHARE, 3, 21));
    assert_eq!(group.members, [("a".into(), false), ("b".into(), false)]);
    let rows = engine.state_rows();
    drop(engine);
    let engine = open(dir.path());
    assert_eq!(engine.state_rows(), rows);
    let (mut b, _) = back(&engine, "b", &[]);
    let got = b.take(3);
    assert_eq!(payloads(&got), ["1", "2", "3"]);
    assert_eq!(got.iter().map(|d| d.qos).collect::<Vec<_>>(), [QoS::AtLeastOnce, QoS::AtLeastOnce, QoS::ExactlyOnce]);
    b.settle(&got);
    until("all is acknowledged", || owed(&engine) == 0);
    drop((b, engine));
    let engine = open(dir.path());
    let (mut a, _) = back(&engine, "a", &[]);
    expect_nothing(&mut a);
}

#[test]
fn whatever_there_is_of_state_on_disk_the_same_group_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let with = EngineOptions { checkpoint_bytes: 1, ..options(dir.path()) };
    let engine = Engine::open(with.clone()).unwrap().0;
    member(&engine, "a", 1).disconnect();
    let mut b = member(&engine, "b", 2);
    publish_all(&engine, &["1", "2", "3", "4"], 2);
    let got = b.take(4);
    let sent =
        |n: usize| SharedSent { client: "b".into(), packet_id: n as u16 + 1, lsn: got[n].lsn, share: SHARE.into() };
    apply(&engine, &[Event::SharedSent(sent(1)), Event::SharedSent(sent(2))]);
    apply(&engine, &[Event::Received(Received { client: "b".into(), packet_id: 2 })]);
    b.settle(&got[3..]);
    until("one is acknowledged", || owed(&engine) == 3);
    b.disconnect();
    engine.close();
    let rows = engine.state_rows();
    assert_eq!(rows.keys().filter(|key| key[0] == b'H').count(), 3);
    drop(engine);
    let nothing: &[&str] = &[];
    for (remove, source) in [
        (nothing, StateSource::Index),
        (&["index.redb"], StateSource::Checkpoint),
        (&["checkpoint"], StateSource::Index),
        (&["index.redb", "checkpoint"], StateSource::Log),
    ] {
        for entry in std::fs::read_dir(dir.path().join("state")).unwrap() {
            let path = entry.unwrap().path();
            if remove.iter().any(|name| path.file_name().unwrap().to_string_lossy().starts_with(name)) {
                std::fs::remove_file(path).unwrap();
            }
        }
        let (engine, report) = Engine::open(with.clone()).unwrap();
        assert_eq!((engine.state_rows(), report.state), (rows.clone(), source), "without {remove:?}");
        let group = &engine.groups()[0];
        assert_eq!((group.messages, group.members.len()), (3, 2));
        engine.close();
    }
    let engine = open(dir.path());
    let (mut a, _) = back(&engine, "a", &[]);
    publish_all(&engine, &["5"], 1);
    a.expect(&["1", "5"]);
    expect_nothing(&mut a);
    let view = engine.session("b").unwrap();
    let kept: Vec<_> = view.outbound.iter().map(|o| (o.packet_id, o.received, o.share.as_deref())).collect();
    assert_eq!(kept, [(2, true, Some(SHARE)), (3, false, Some(SHARE))]);
}

#[test]
fn a_group_begins_with_its_first_member_and_ends_with_its_last() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    publish_all(&engine, &["before"], 1);
    let a = member(&engine, "a", 1);
    let b = Client::connect(&engine, "b", false, 0);
    b.subscribe(SHARE, 1);
    a.unsubscribe(SHARE);
    publish_all(&engine, &["held by b, who leaves"], 1);
    b.disconnect(); // A clean session: the group ends.
    assert!(engine.groups().is_empty() && !engine.state_rows().keys().any(|key| key[0] == b'H'));
    publish_all(&engine, &["nobody's"], 1);
    let mut c = member(&engine, "c", 1);
    publish_all(&engine, &["c's"], 1);
    c.expect(&["c's"]);
    expect_nothing(&mut c);
    // Two names, and two filters, are groups of their own.
    let mut d = Client::connect(&engine, "d", false, 3600);
    d.subscribe("$share/other/jobs/+", 1);
    d.subscribe("$share/g/jobs/#", 1);
    assert_eq!(engine.groups().len(), 3);
    publish_all(&engine, &["for all"], 1);
    c.expect(&["for all"]);
    d.expect(&["for all", "for all"]);
    until("all is acknowledged", || owed(&engine) == 0);
}

#[test]
fn what_a_member_did_not_acknowledge_goes_to_another_in_the_old_order_and_is_revoked() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    let mut a = member(&engine, "a", 1);
    publish_all(&engine, &["1", "2", "3", "4"], 1);
    let held = a.take(4);
    a.settle(&held[1..2]);
    a.disconnect();
    publish_all(&engine, &["5"], 1);
    // It is back before anybody else came: what it has in flight is its own, the rest follows.
    let (mut a, lost) = back(&engine, "a", &[&held[0], &held[2]]);
    assert!(lost.is_empty());
    a.expect(&["4", "5"]);
    a.settle(&held[..1]);
    a.disconnect();
    let mut b = member(&engine, "b", 1);
    let taken = b.take(1);
    assert_eq!(payloads(&taken), ["3"]);
    let (mut a, lost) = back(&engine, "a", &[&held[2]]);
    assert_eq!(lost, [held[2].lsn]);
    b.settle(&taken);
    until("all is acknowledged", || owed(&engine) == 0);
    expect_nothing(&mut a);
    expect_nothing(&mut b);
    publish_all(&engine, &["6", "7"], 1);
    let both = [a.take(1), b.take(1)].concat();
    assert_eq!(payloads(&both).into_iter().collect::<BTreeSet<_>>(), ["6".into(), "7".into()].into());
}

#[test]
fn a_message_that_was_sent_with_qos_2_stays_with_its_member_and_goes_with_its_session() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    let mut a = member(&engine, "a", 2);
    publish_all(&engine, &["1", "2", "3"], 2);
    let held = a.take(3);
    let sent = |packet_id, n: usize| {
        Event::SharedSent(SharedSent { client: "a".into(), packet_id, lsn: held[n].lsn, share: SHARE.into() })
    };
    apply(&engine, &[sent(1, 0), sent(2, 1)]);
    let mut b = member(&engine, "b", 2);
    let mailbox = a.mailbox.take();
    drop(mailbox);
    expect_nothing(&mut b); // Not the third either: a record of its sending may be under way.
    let gone = ClientDisconnected {
        client: "a".into(),
        epoch: a.epoch,
        reason: DisconnectReason::ConnectionLost,
        superseded: false,
        cancel_will: false,
        expiry_s: None,
        positions: vec![],
    };
    apply(&engine, &[Event::ClientDisconnected(gone)]);
    b.expect(&["3"]); // It was handed out and not sent.
    until("two are owed", || owed(&engine) == 2);
    b.disconnect();
    drop((a, engine));
    let engine = open(dir.path());
    let (mut b, _) = back(&engine, "b", &[]);
    expect_nothing(&mut b);
    let (mut a, lost) = back(&engine, "a", &[&held[0], &held[1]]);
    assert!(lost.is_empty());
    a.mailbox.as_mut().unwrap().settle_shared(&[(held[0].lsn, SHARE.into(), Some(1), AckOutcome::Acknowledged)]);
    until("one is acknowledged", || owed(&engine) == 1);
    a.disconnect();
    let epoch = engine.session("a").unwrap().epoch;
    apply(&engine, &[Event::SessionClosed(SessionClosed { client: "a".into(), epoch })]);
    assert_eq!(owed(&engine), 0);
    let gaps: BTreeMap<_, _> = engine.gaps().into_iter().collect();
    let gap = gaps[&DropOwner::Group(SHARE.into())];
    assert_eq!((gap.reason, gap.from, gap.total), (DropReason::SessionEndedQos2, held[1].lsn, 1));
    expect_nothing(&mut b);
}

#[test]
fn what_a_clean_session_was_sent_with_qos_2_is_given_to_nobody_else_when_it_ends() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    let mut a = Client::connect(&engine, "a", false, 0);
    a.subscribe(SHARE, 2);
    publish_all(&engine, &["sent", "not sent"], 2);
    let held = a.take(2);
    let sent = SharedSent { client: "a".into(), packet_id: 1, lsn: held[0].lsn, share: SHARE.into() };
    apply(&engine, &[Event::SharedSent(sent)]);
    let mut b = member(&engine, "b", 2);
    a.mailbox = None;
    expect_nothing(&mut b);
    let epoch = a.epoch;
    let gone = ClientDisconnected {
        client: "a".into(),
        epoch,
        reason: DisconnectReason::ConnectionLost,
        superseded: false,
        cancel_will: false,
        expiry_s: None,
        positions: vec![],
    };
    apply(&engine, &[Event::ClientDisconnected(gone)]);
    b.expect(&["not sent"]);
    until("all is done", || owed(&engine) == 0);
    expect_nothing(&mut b);
}

#[test]
fn a_refused_message_is_done_for_the_group() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    let mut a = member(&engine, "a", 1);
    publish_all(&engine, &["1"], 1);
    let got = a.take(1);
    a.mailbox.as_mut().unwrap().settle_shared(&[(got[0].lsn, SHARE.into(), None, AckOutcome::Refused)]);
    let mut b = member(&engine, "b", 1);
    until("it is done", || owed(&engine) == 0);
    a.disconnect();
    expect_nothing(&mut b);
}

#[test]
fn members_are_given_no_more_than_their_windows_and_each_its_own_qos() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    let mut members: Vec<Client> = Vec::new();
    for (id, window, qos) in [("one", 1, 1), ("two", 2, 2), ("five", 5, 1)] {
        let client = Client::connect_with(&engine, id, false, 3600, window, vec![], None);
        client.subscribe(SHARE, qos);
        members.push(client);
    }
    let names: Vec<String> = (0..20).map(|n| n.to_string()).collect();
    publish_all(&engine, &names.iter().map(String::as_str).collect::<Vec<_>>(), 2);
    for (member, window) in members.iter_mut().zip([1, 2, 5]) {
        let got = member.take(window);
        // What the client is owed besides shares the window.
        member.subscribe("own", 1);
        publish(&engine, "own", "x", 1);
        let mut more = Vec::new();
        member.mailbox.as_mut().unwrap().take(10, &mut more);
        assert!(more.is_empty(), "the window of {} is full", member.id);
        let granted = if window == 2 { QoS::ExactlyOnce } else { QoS::AtLeastOnce };
        assert!(got.iter().all(|d| d.qos == granted));
    }
    // One that takes QoS 0 needs no window; the message is done once it is written.
    let mut zero = Client::connect_with(&engine, "zero", false, 3600, 1, vec![], None);
    zero.subscribe(SHARE, 0);
    let rest = zero.take(12);
    assert!(rest.iter().all(|d| d.qos == QoS::AtMostOnce));
    zero.settle(&rest);
    until("the rest is done", || owed(&engine) == 8);
}

#[test]
fn nothing_is_lost_and_nothing_comes_twice_while_nobody_breaks() {
    const MESSAGES: usize = 5000;
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    let members: Vec<Client> = [1, 7, 100]
        .into_iter()
        .map(|window| {
            let client = Client::connect_with(&engine, &format!("w{window}"), false, 3600, window, vec![], None);
            client.subscribe(SHARE, 1);
            client
        })
        .collect();
    let done = AtomicUsize::new(0);
    let mut got: Vec<Lsn> = std::thread::scope(|scope| {
        let engine = &engine;
        let done = &done;
        let takers: Vec<_> = members
            .into_iter()
            .map(|mut member| {
                scope.spawn(move || {
                    let mut got = Vec::new();
                    while done.load(Ordering::SeqCst) < MESSAGES {
                        let mut taken = Vec::new();
                        let mailbox = member.mailbox.as_mut().unwrap();
                        mailbox.ready_within(Duration::from_millis(20));
                        mailbox.take(10, &mut taken);
                        member.settle(&taken);
                        done.fetch_add(taken.len(), Ordering::SeqCst);
                        got.extend(taken.iter().map(|d| d.lsn));
                    }
                    got
                })
            })
            .collect();
        for chunk in 0..MESSAGES / 50 {
            let events: Vec<Event> =
                (0..50).map(|n| published(message("jobs/x", &(chunk * 50 + n).to_string(), 1))).collect();
            engine.append(&events).unwrap();
        }
        takers.into_iter().flat_map(|taker| taker.join().unwrap()).collect()
    });
    got.sort_unstable();
    got.dedup();
    assert_eq!(got.len(), MESSAGES);
    until("all is acknowledged", || owed(&engine) == 0);
}

#[test]
fn a_group_beyond_its_bounds_lets_its_oldest_go_and_counts_them() {
    let dir = tempfile::tempdir().unwrap();
    let mut with = options(dir.path());
    with.bounds.queue_messages_max = 10;
    with.bounds.queue_bytes_max = 1000;
    let engine = Engine::open(with.clone()).unwrap().0;
    member(&engine, "a", 1).disconnect();
    let names: Vec<String> = (0..25).map(|n| n.to_string()).collect();
    publish_all(&engine, &names.iter().map(String::as_str).collect::<Vec<_>>(), 1);
    until("the oldest go", || owed(&engine) == 10);
    let gap = engine.gaps()[0].clone();
    assert_eq!(gap.0, DropOwner::Group(SHARE.into()));
    assert_eq!((gap.1.total, gap.1.reason), (15, DropReason::QueueMessages));
    engine.close();
    let rows = engine.state_rows();
    drop(engine);
    let engine = Engine::open(with).unwrap().0;
    assert_eq!(engine.state_rows(), rows);
    let (mut a, _) = back(&engine, "a", &[]);
    a.expect(&names[15..].iter().map(String::as_str).collect::<Vec<_>>());
    publish_all(&engine, &["x".repeat(600).as_str(), "y".repeat(600).as_str()], 1);
    until("the larger ones go", || owed(&engine) <= 1);
}

/// Small segments, a checkpoint every few of them, and retention that keeps almost nothing.
fn tight(dir: &Path) -> EngineOptions {
    let mut options = options(dir);
    options.log.segment_bytes = 64 * 1024;
    options.checkpoint_bytes = 64 * 1024;
    options.retention.bytes = 128 * 1024;
    options
}

fn trim_beyond(engine: &Engine, lsn: Lsn) {
    let filler = "x".repeat(1000);
    until("the segment goes", || {
        let batch: Vec<Event> = (0..50).map(|_| published(message("filler", &filler, 1))).collect();
        apply(engine, &batch);
        engine.log().first() > lsn
    });
}

#[test]
fn what_a_group_owes_is_carried_out_of_segments_that_go() {
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::open(tight(dir.path())).unwrap().0;
    member(&engine, "a", 2).disconnect();
    let names: Vec<String> = (0..40).map(|n| n.to_string()).collect();
    for name in &names {
        publish(&engine, "jobs/x", name, 1);
        publish(&engine, "other", &"y".repeat(500), 1);
    }
    trim_beyond(&engine, engine.log().end());
    drop(engine);
    let engine = Engine::open(tight(dir.path())).unwrap().0;
    assert_eq!(owed(&engine), 40);
    assert!(engine.log().first() > Lsn(80));
    let (mut a, _) = back(&engine, "a", &[]);
    for part in names.chunks(10) {
        a.expect(&part.iter().map(String::as_str).collect::<Vec<_>>());
    }
    until("all is acknowledged", || owed(&engine) == 0);
    let residue = || {
        let entries = std::fs::read_dir(dir.path().join("log")).unwrap();
        entries.filter(|e| e.as_ref().unwrap().path().extension().is_some_and(|x| x == "residue")).count()
    };
    let filler = "x".repeat(1000);
    until("residue that nobody is owed goes", || {
        apply(&engine, &(0..50).map(|_| published(message("filler", &filler, 1))).collect::<Vec<_>>());
        residue() == 0
    });
}

#[test]
fn leases_that_were_not_handed_out_go_back_when_a_member_unsubscribes() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    let mut a = member(&engine, "a", 1);
    publish_all(&engine, &["1", "2", "3"], 1);
    let handed = a.take(1);
    let b = Client::connect_with(&engine, "b", false, 3600, 1, vec![], None);
    b.subscribe("$share/g/jobs/none", 1);
    let mut b = b;
    b.subscribe(SHARE, 1);
    a.unsubscribe(SHARE);
    b.expect(&["2"]);
    b.expect(&["3"]);
    a.settle(&handed); // What was handed out ends as it would have.
    until("all is acknowledged", || owed(&engine) == 0);
    expect_nothing(&mut a);
}
