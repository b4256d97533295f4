//! What operators look through, with very many entries and while they change.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use bytestring::ByteString;
use common::*;
use forebay_engine::engine::SubscriptionsOf;
use forebay_engine::event::*;
use forebay_engine::{Engine, Listed};

const MANY: usize = 100_000;

/// Not in order, each once: 7919 is prime to 100,000.
fn scattered(n: usize) -> usize {
    n * 7919 % MANY
}

fn append_all(engine: &Engine, events: impl Iterator<Item = Event>) {
    let mut events = events.peekable();
    let mut last = None;
    while events.peek().is_some() {
        let some: Vec<Event> = events.by_ref().take(1000).collect();
        last = Some(block_on(engine.append_wait(&some)).unwrap().last);
    }
    // State may be some way behind: nothing is wrong while it gets on.
    let last = last.unwrap();
    while engine.applied_end() <= last {
        std::thread::yield_now();
    }
}

fn retained(topic: String) -> Event {
    published(Message { retain: true, ..message(&topic, "r", 1) })
}

fn opened(client: &str, epoch: Epoch) -> Event {
    let (username, peer) = ("somebody".into(), "192.0.2.1".into());
    let client = client.into();
    Event::SessionOpened(SessionOpened {
        client,
        epoch,
        resumed: false,
        expiry_s: NEVER_EXPIRES,
        will: None,
        username,
        peer,
    })
}

fn gone(client: &str, epoch: Epoch) -> Event {
    Event::ClientDisconnected(ClientDisconnected {
        client: client.into(),
        epoch,
        reason: DisconnectReason::ConnectionLost,
        superseded: false,
        cancel_will: false,
        expiry_s: None,
        positions: Vec::new(),
    })
}

/// A session with a subscription, whose client is away.
fn sleeping(engine: &Engine, client: &str, filter: &str) -> [Event; 3] {
    let epoch = engine.next_epoch();
    let options = SubscriptionOptions::of_qos(QoS::AtLeastOnce);
    let subscribed = Subscribed { client: client.into(), epoch, filter: filter.into(), options, by_proxy: false };
    [opened(client, epoch), Event::Subscribed(subscribed), gone(client, epoch)]
}

/// Goes through all parts of a list.
fn walk<T, K: Clone>(mut part: impl FnMut(Option<&K>) -> Listed<T, K>) -> Vec<T> {
    let (mut all, mut behind) = (Vec::new(), None);
    loop {
        let listed = part(behind.as_ref());
        all.extend(listed.rows);
        match listed.next {
            Some(next) => behind = Some(next),
            None => return all,
        }
    }
}

fn assert_in_order<K: Ord + std::fmt::Debug>(names: &[K]) {
    for pair in names.windows(2) {
        assert!(pair[0] < pair[1], "{pair:?}");
    }
}

/// Publishes, and lets sessions come and go, until it is told to stop.
fn change(engine: &Engine, stop: &AtomicBool, rounds: &AtomicUsize) {
    let mut n = 0;
    while !stop.load(Ordering::Relaxed) {
        let client = format!("x{}", n % 3000);
        let mut events = vec![
            retained(format!("t/{:06}", scattered(n))),
            retained(format!("t/{:06}/more", n % 5000)),
            published(Message { retain: true, ..message(&format!("t/{:06}/more", (n + 2500) % 5000), "", 1) }),
            published(message("a/b", "x", 0)),
        ];
        events.extend(sleeping(engine, &client, "x/#"));
        // Of three thousand that come half go again: the table of sessions is filled from its end all the while.
        if let Some(view) = engine.session(&format!("x{}", (n + 1500) % 3000)) {
            events.push(Event::SessionClosed(SessionClosed { client: view.client, epoch: view.epoch }));
        }
        block_on(engine.append_wait(&events)).unwrap();
        rounds.fetch_add(1, Ordering::Relaxed);
        n += 1;
    }
}

#[test]
fn a_hundred_thousand_of_each_are_walked_in_order_each_once_while_publishing_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = options(dir.path());
    options.log.segment_bytes = 16 << 20;
    let engine = Engine::open(options).unwrap().0;
    append_all(&engine, (0..MANY).map(|n| retained(format!("t/{:06}", scattered(n)))));
    append_all(
        &engine,
        (0..MANY).flat_map(|n| {
            let n = scattered(n);
            sleeping(&engine, &format!("c{n:06}"), &format!("s/{}/#", n % 100))
        }),
    );
    let (stop, rounds) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| change(&engine, &stop, &rounds));
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| look(&engine, &rounds)));
        stop.store(true, Ordering::Relaxed);
        if let Err(panic) = result {
            std::panic::resume_unwind(panic);
        }
    });
}

fn look(engine: &Engine, rounds: &AtomicUsize) {
    let clients: Vec<String> = (0..MANY).map(|n| format!("c{n:06}")).collect();
    let topics: Vec<String> = (0..MANY).map(|n| format!("t/{n:06}")).collect();

    while rounds.load(Ordering::Relaxed) == 0 {
        std::thread::yield_now();
    }
    let before = rounds.load(Ordering::Relaxed);
    for limit in [999, 10_000] {
        let rows = walk(|after: Option<&ByteString>| engine.retained_after(None, after.map_or("", |a| &**a), limit));
        let names: Vec<&str> = rows.iter().map(|row| &*row.message.topic).collect();
        assert_in_order(&names);
        assert!(names.iter().filter(|name| name.len() == 8).eq(&topics), "retained, {limit} at a time");
    }
    let limit = 9999;
    let rows = walk(|after: Option<&ByteString>| engine.sessions_after(after.map_or("", |a| &**a), limit, true));
    let names: Vec<&str> = rows.iter().map(|row| &*row.client).collect();
    assert_in_order(&names);
    assert!(names.iter().filter(|name| name.starts_with('c')).eq(&clients), "sessions");
    let mut lasting = rows.iter().filter(|row| row.client.starts_with('c'));
    assert!(lasting.all(|row| row.subscriptions == 1 && row.username == "somebody" && !row.connected));

    let of = SubscriptionsOf::default();
    let rows = walk(|after: Option<&(ByteString, ByteString)>| {
        engine.subscriptions_after(&of, after.map_or(("", ""), |(c, f)| (&**c, &**f)), limit)
    });
    let names: Vec<(&str, &str)> = rows.iter().map(|row| (&*row.client, &*row.filter)).collect();
    assert_in_order(&names);
    let lasting = names.iter().map(|(client, _)| client).filter(|client| client.starts_with('c'));
    assert!(lasting.eq(&clients), "subscriptions");
    assert!(rounds.load(Ordering::Relaxed) > before, "publishing went on");

    // Filters: of a topic, of a client, to the letter; what begins with a prefix, and what nothing matches.
    let one_of_hundred: Vec<String> = (0..MANY).filter(|n| n % 100 == 7).map(|n| format!("c{n:06}")).collect();
    for of in [
        SubscriptionsOf { topic: Some("s/7/x".into()), ..SubscriptionsOf::default() },
        SubscriptionsOf { filter: Some("s/7/#".into()), ..SubscriptionsOf::default() },
    ] {
        let rows = walk(|after: Option<&(ByteString, ByteString)>| {
            engine.subscriptions_after(&of, after.map_or(("", ""), |(c, f)| (&**c, &**f)), 300)
        });
        assert!(rows.iter().map(|row| &*row.client).eq(one_of_hundred.iter().map(String::as_str)), "{of:?}");
    }
    let of = SubscriptionsOf { client: Some("c000042".into()), ..SubscriptionsOf::default() };
    let listed = engine.subscriptions_after(&of, ("", ""), 10);
    assert_eq!((listed.rows.len(), &*listed.rows[0].filter, listed.next), (1, "s/42/#", None));
    let topics = |filter: &str, after: &str| {
        let listed = engine.retained_after(Some(filter), after, 10);
        (listed.rows.iter().map(|row| row.message.topic.to_string()).collect::<Vec<_>>(), listed.next.is_some())
    };
    assert_eq!(topics("t/099999", ""), (vec!["t/099999".to_owned()], false));
    assert_eq!(topics("t/099999/#", "t/0999").0.first().unwrap(), "t/099999");
    assert_eq!(topics("+/09999", ""), (Vec::new(), false));
    assert_eq!(topics("z/#", ""), (Vec::new(), false));
    assert_eq!(topics("t/+", "t/099998"), (vec!["t/099999".to_owned()], false));
    let (first, more) = topics("+/+", "");
    assert!(more && first.len() == 10 && first.iter().collect::<HashSet<_>>().len() == 10);
}
