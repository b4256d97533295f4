//! SIGKILL at random moments under load: nothing acknowledged is lost, nothing is stored or delivered twice that must not be.
//!
//! `FOREBAY_TEST_CRASH_ROUNDS` (default 30) rounds on one data folder: four publishers keep 64 messages in flight each, QoS 1
//! and 2 in turn, and two persistent sessions subscribe, with QoS 1 and QoS 2. The server is killed while they run and started
//! again at once. After the last round everything is counted in the log, at the subscribers and in SQLite.
//!
//! What a client sends again after a broken connection is, with QoS 1, a new message to the server if its acknowledgement
//! was lost: such a message is twice in the log, and rightly so. Therefore the log is the measure: SQLite must hold exactly
//! the log's messages, each msgid once; and QoS 2 publishes must be once in the log and once at the QoS 2 subscriber.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

mod support;

use support::client::{Event, Session};
use support::load::{Load, Moments, worded};
use support::{PATIENCE, Server};

const PUBLISHERS: u64 = 4;
const IN_FLIGHT: usize = 64;
/// From one kill to the next, ms.
const BETWEEN: Range<u64> = 20..500;
const POLL: Duration = Duration::from_millis(20);
/// Small segments: the log goes from one to the next within a few rounds, and a start reads little.
const CONFIGURATION: &str = "[log]\nsegment_bytes = 4194304\n";
/// Published when everything else is complete: what a subscriber gets after it, or not at all, it does not get any more.
const LAST: &str = "last";

type Received = Arc<Mutex<HashMap<String, u32>>>;

/// Receives until `stop`.
fn subscriber(qos: u8, server: SocketAddr, stop: Arc<AtomicBool>) -> (Received, JoinHandle<()>) {
    let received = Received::default();
    let counts = Arc::clone(&received);
    let mut session = Session::new(&format!("subscriber-{qos}"), false);
    // The subscription is made before the first message, so that every message is for this session.
    let mut first = session.connect(server).unwrap();
    first.subscribe("crash/#", qos).unwrap();
    first.disconnect().unwrap();
    let thread = std::thread::spawn(move || {
        while !stop.load(Ordering::Relaxed) {
            let Ok(mut connection) = session.connect(server) else {
                std::thread::sleep(POLL);
                continue;
            };
            assert!(connection.session_present, "the session of subscriber-{qos} was lost");
            while !stop.load(Ordering::Relaxed) {
                let Ok(events) = connection.poll(POLL) else { break };
                let mut counts = counts.lock().unwrap();
                for event in events {
                    if let Event::Message { payload, .. } = event {
                        *counts.entry(String::from_utf8(payload).unwrap()).or_default() += 1;
                    }
                }
            }
        }
    });
    (received, thread)
}

/// Waits until the last message has come; gives up when nothing has come for [`PATIENCE`].
fn drain(what: &str, received: &Received) {
    let mut last = (0, Instant::now());
    loop {
        let (now, complete) = {
            let received = received.lock().unwrap();
            (received.values().sum::<u32>(), received.contains_key(LAST))
        };
        if complete {
            return;
        }
        if now != last.0 {
            last = (now, Instant::now());
        }
        assert!(
            last.1.elapsed() < PATIENCE,
            "{what}: the last message is missing and none comes any more ({now} came)"
        );
        std::thread::sleep(POLL);
    }
}

/// Publishes the last message and waits until it is complete.
fn publish_last(server: &Server) {
    let mut session = Session::new("publisher-last", true);
    let mut connection = session.connect(server.mqtt).unwrap();
    connection.publish("crash/last", LAST.as_bytes(), 2, 0).unwrap();
    while connection.in_flight() > 0 {
        assert!(!connection.poll(PATIENCE).unwrap().is_empty(), "the last message is not acknowledged");
    }
}

/// What the clients know after the last round.
struct Outcome {
    sent: u64,
    acknowledged: Vec<String>,
    at_qos1: HashMap<String, u32>,
    at_qos2: HashMap<String, u32>,
}

/// Runs the rounds, and then waits until every message has arrived everywhere.
fn play(server: &mut Server, rounds: u32) -> Outcome {
    let mut moments = Moments::new();
    let load = Load { topic: "crash", in_flight: IN_FLIGHT, pause: Duration::ZERO, rate: u64::MAX, payload: worded };
    let stop_subscribers = Arc::new(AtomicBool::new(false));
    let stop_publishers = Arc::new(AtomicBool::new(false));
    let (at_qos1, thread1) = subscriber(1, server.mqtt, Arc::clone(&stop_subscribers));
    let (at_qos2, thread2) = subscriber(2, server.mqtt, Arc::clone(&stop_subscribers));
    let publishers: Vec<_> =
        (0..PUBLISHERS).map(|number| load.publisher(number, server.mqtt, Arc::clone(&stop_publishers))).collect();
    for _ in 0..rounds {
        std::thread::sleep(moments.within(BETWEEN));
        server.kill();
        server.restart();
    }
    stop_publishers.store(true, Ordering::Relaxed);
    let mut outcome = Outcome { sent: 0, acknowledged: Vec::new(), at_qos1: HashMap::new(), at_qos2: HashMap::new() };
    for publisher in publishers {
        let published = publisher.join().unwrap();
        outcome.sent += published.sent;
        outcome.acknowledged.extend(published.acknowledged);
    }
    publish_last(server);
    drain("QoS 1 subscriber", &at_qos1);
    drain("QoS 2 subscriber", &at_qos2);
    server.wait_stored();
    stop_subscribers.store(true, Ordering::Relaxed);
    thread1.join().unwrap();
    thread2.join().unwrap();
    outcome.at_qos1 = std::mem::take(&mut at_qos1.lock().unwrap());
    outcome.at_qos2 = std::mem::take(&mut at_qos2.lock().unwrap());
    outcome
}

/// Messages as (msgid, payload), in order of msgid.
fn sorted(mut messages: Vec<(String, String)>) -> Vec<(String, String)> {
    messages.sort();
    messages
}

/// How often each payload is there.
fn counted(messages: &[(String, String)]) -> BTreeMap<&str, u32> {
    let mut counts = BTreeMap::new();
    for (_, payload) in messages {
        *counts.entry(payload.as_str()).or_default() += 1;
    }
    counts
}

#[test]
fn nothing_acknowledged_is_lost_or_doubled_by_sigkill_under_load() {
    let rounds: u32 = std::env::var("FOREBAY_TEST_CRASH_ROUNDS").map_or(30, |rounds| rounds.parse().unwrap());
    let mut server = Server::stopped();
    server.configure(CONFIGURATION);
    server.restart();
    let Outcome { sent, acknowledged, at_qos1, at_qos2 } = play(&mut server, rounds);
    assert!(server.stop().success(), "{}", server.messages());

    let text = |row: &serde_json::Value, field: &str| row[field].as_str().unwrap().to_owned();
    let logged = sorted(server.logged().iter().map(|row| (text(row, "msgid"), text(row, "payload"))).collect());
    let stored = sorted(server.stored().into_iter().map(|(msgid, _, payload)| (msgid, payload)).collect());
    let (in_log, in_database) = (counted(&logged), counted(&stored));
    let missing = |has: &dyn Fn(&str) -> bool| acknowledged.iter().filter(|payload| !has(payload)).count();
    let twice = stored.chunk_by(|a, b| a.0 == b.0).filter(|rows| rows.len() > 1).count();
    let qos2_twice = |payload: &str, count: u32| payload.contains("-q2-") && count > 1;
    let faults = [
        ("acknowledged but not in the log", missing(&|payload| in_log.contains_key(payload))),
        ("acknowledged but not in SQLite", missing(&|payload| in_database.contains_key(payload))),
        ("acknowledged but not at the QoS 1 subscriber", missing(&|payload| at_qos1.contains_key(payload))),
        ("acknowledged but not at the QoS 2 subscriber", missing(&|payload| at_qos2.contains_key(payload))),
        ("in the log but not at the QoS 1 subscriber", in_log.keys().filter(|p| !at_qos1.contains_key(**p)).count()),
        ("in the log but not at the QoS 2 subscriber", in_log.keys().filter(|p| !at_qos2.contains_key(**p)).count()),
        ("msgids more than once in SQLite", twice),
        ("QoS 2 publishes more than once in the log", in_log.iter().filter(|(p, n)| qos2_twice(p, **n)).count()),
        ("QoS 2 messages more than once at the QoS 2 subscriber", {
            at_qos2.iter().filter(|(p, n)| qos2_twice(p, **n)).count()
        }),
    ];
    println!(
        "{rounds} rounds: {sent} sent, {} acknowledged, {} in the log ({} different), {} in SQLite",
        acknowledged.len(),
        logged.len(),
        in_log.len(),
        stored.len()
    );
    faults.iter().for_each(|(what, count)| println!("{count:>6} {what}"));
    assert!(acknowledged.len() as u64 > u64::from(rounds), "the load did not run");
    assert!(faults.iter().all(|(_, count)| *count == 0), "{faults:#?}");
    assert!(logged == stored, "SQLite does not hold exactly the log's messages");
}
