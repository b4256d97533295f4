//! SIGKILL at random moments under load: nothing acknowledged is lost, nothing is stored or delivered twice that must not be.
//!
//! `FOREBAY_TEST_CRASH_ROUNDS` (default 30) rounds on one data folder: four publishers keep 64 messages in flight each, QoS 1
//! and 2 in turn, and two persistent sessions subscribe, with QoS 1 and QoS 2. After the last round everything is counted in
//! the log, at the subscribers and in SQLite.
//!
//! What a client sends again after a broken connection is, with QoS 1, a new message to the server if its acknowledgement
//! was lost: such a message is twice in the log, and rightly so. Therefore the log is the measure: SQLite and the QoS 2
//! subscriber must have each message as often as the log, and QoS 2 publishes must be in the log once.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

mod support;

use support::client::{Event, Session};
use support::{PATIENCE, Server};

const PUBLISHERS: u64 = 4;
const IN_FLIGHT: usize = 64;
const POLL: Duration = Duration::from_millis(20);

/// What a publisher did.
#[derive(Default)]
struct Published {
    sent: u64,
    acknowledged: Vec<String>,
}

fn payload(publisher: u64, number: u64) -> String {
    format!("p{publisher}-q{}-{number}", qos_of(number))
}

fn qos_of(number: u64) -> u8 {
    if number.is_multiple_of(2) { 2 } else { 1 }
}

/// Publishes until `stop`, then waits until everything in flight is complete.
fn publisher(number: u64, server: SocketAddr, stop: Arc<AtomicBool>) -> JoinHandle<Published> {
    std::thread::spawn(move || {
        let mut session = Session::new(&format!("publisher-{number}"), false);
        let mut done = Published::default();
        let topic = format!("crash/{number}");
        while !(stop.load(Ordering::Relaxed) && session.in_flight() == 0) {
            let Ok(mut connection) = session.connect(server) else {
                std::thread::sleep(POLL);
                continue;
            };
            loop {
                let stopping = stop.load(Ordering::Relaxed);
                let mut broken = false;
                while !stopping && !broken && connection.in_flight() < IN_FLIGHT {
                    let text = payload(number, done.sent);
                    let tag = done.sent;
                    done.sent += 1;
                    broken = connection.publish(&topic, text.as_bytes(), qos_of(tag), tag).is_err();
                }
                // Acknowledgements that arrived before the connection broke count.
                match connection.poll(POLL) {
                    Ok(events) => {
                        for event in events {
                            if let Event::Acknowledged(tag) = event {
                                done.acknowledged.push(payload(number, tag));
                            }
                        }
                    }
                    Err(_) => break,
                }
                if broken || stopping && connection.in_flight() == 0 {
                    break;
                }
            }
        }
        done
    })
}

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

/// Waits until `missing` is 0; gives up when it has not changed for [`PATIENCE`].
fn drain(what: &str, mut missing: impl FnMut() -> usize) {
    let mut last = (usize::MAX, Instant::now());
    loop {
        let now = missing();
        if now == 0 {
            return;
        }
        if now != last.0 {
            last = (now, Instant::now());
        }
        assert!(last.1.elapsed() < PATIENCE, "{what}: {now} messages are missing and none comes any more");
        std::thread::sleep(POLL);
    }
}

/// A moment to kill at. The seed is printed: it names the moments, though not what the machine did meanwhile.
struct Moments(u64);

impl Moments {
    fn new() -> Moments {
        let from_clock = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
        let seed =
            std::env::var("FOREBAY_TEST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(from_clock);
        println!("FOREBAY_TEST_SEED={seed}");
        Moments(seed | 1)
    }

    fn next(&mut self) -> Duration {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        Duration::from_millis(20 + self.0 % 480)
    }
}

#[test]
fn nothing_acknowledged_is_lost_or_doubled_by_sigkill_under_load() {
    let rounds: u32 = std::env::var("FOREBAY_TEST_CRASH_ROUNDS").map_or(30, |rounds| rounds.parse().unwrap());
    let mut moments = Moments::new();
    let mut server = Server::start();
    let stop_subscribers = Arc::new(AtomicBool::new(false));
    let stop_publishers = Arc::new(AtomicBool::new(false));
    let (at_qos1, thread1) = subscriber(1, server.mqtt, Arc::clone(&stop_subscribers));
    let (at_qos2, thread2) = subscriber(2, server.mqtt, Arc::clone(&stop_subscribers));
    let publishers: Vec<_> =
        (0..PUBLISHERS).map(|number| publisher(number, server.mqtt, Arc::clone(&stop_publishers))).collect();
    for _ in 0..rounds {
        std::thread::sleep(moments.next());
        server.kill();
        server.restart();
    }
    stop_publishers.store(true, Ordering::Relaxed);
    let mut sent = 0;
    let mut acknowledged = Vec::new();
    for publisher in publishers {
        let published = publisher.join().unwrap();
        sent += published.sent;
        acknowledged.extend(published.acknowledged);
    }
    for (name, received) in [("QoS 1 subscriber", &at_qos1), ("QoS 2 subscriber", &at_qos2)] {
        drain(name, || {
            let received = received.lock().unwrap();
            acknowledged.iter().filter(|payload| !received.contains_key(*payload)).count()
        });
    }
    server.wait_stored();
    stop_subscribers.store(true, Ordering::Relaxed);
    thread1.join().unwrap();
    thread2.join().unwrap();
    assert!(server.stop().success(), "{}", server.messages());

    let mut in_log: BTreeMap<String, u32> = BTreeMap::new();
    for record in server.logged() {
        *in_log.entry(record["payload"].as_str().unwrap().to_owned()).or_default() += 1;
    }
    let stored = server.stored();
    let mut in_database: BTreeMap<String, u32> = BTreeMap::new();
    let mut msgids: BTreeMap<String, u32> = BTreeMap::new();
    for (msgid, _, payload) in stored {
        *in_database.entry(payload).or_default() += 1;
        *msgids.entry(msgid).or_default() += 1;
    }
    let at_qos2 = at_qos2.lock().unwrap();
    let count = |of: &dyn Fn(&String) -> bool| acknowledged.iter().filter(|payload| of(payload)).count();
    let lost = [
        ("acknowledged but not in the log", count(&|payload| !in_log.contains_key(payload))),
        ("acknowledged but not in SQLite", count(&|payload| !in_database.contains_key(payload))),
        (
            "acknowledged but not at the QoS 1 subscriber",
            count(&|payload| !at_qos1.lock().unwrap().contains_key(payload)),
        ),
        ("acknowledged but not at the QoS 2 subscriber", count(&|payload| !at_qos2.contains_key(payload))),
        ("msgids more than once in SQLite", msgids.values().filter(|count| **count > 1).count()),
        ("not as often in SQLite as in the log", in_log.iter().filter(|(p, n)| in_database.get(*p) != Some(n)).count()),
        (
            "QoS 2 publishes more than once in the log",
            in_log.iter().filter(|(payload, n)| payload.contains("-q2-") && **n > 1).count(),
        ),
        (
            "QoS 2 publishes more than once at the QoS 2 subscriber",
            at_qos2.iter().filter(|(payload, n)| payload.contains("-q2-") && **n > 1).count(),
        ),
    ];
    println!(
        "{rounds} rounds: {sent} sent, {} acknowledged, {} different in the log, {} in SQLite",
        acknowledged.len(),
        in_log.len(),
        in_database.len()
    );
    assert!(acknowledged.len() as u64 > u64::from(rounds), "the load did not run");
    assert!(lost.iter().all(|(_, count)| *count == 0), "{lost:#?}");
}
