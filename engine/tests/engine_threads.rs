//! State and delivery with the engine's own threads and real files: the simulator (`simulator/`) tries the orders of things on a disk of
//! its own and without threads; this is one busy run of what it leaves out.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::*;
use forebay_engine::delivery::Delivery;
use forebay_engine::event::*;
use forebay_engine::{Engine, EngineOptions, Lsn};

const PUBLISHERS: usize = 2;
const MESSAGES: usize = 300;
const TOPICS: [&str; 4] = ["plain/x", "pubsub/x", "queue/q", "queue/r"];
/// Clients and what they subscribe.
const CLIENTS: [(&str, &[&str]); 2] =
    [("a", &["plain/#", "pubsub/#", "queue/#"]), ("b", &["plain/x", "queue/q", "queue/r"])];

/// What a client has settled.
type Settled = BTreeSet<Lsn>;

fn settings(dir: &Path) -> EngineOptions {
    let mut options = options(dir);
    options.log.segment_bytes = 64 * 1024;
    options.checkpoint_bytes = 16 * 1024;
    options
}

/// A folder's files as a killed process leaves them.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let (path, to) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            copy(&path, &to);
        } else {
            fs::copy(&path, &to).unwrap();
        }
    }
}

/// Takes and settles three of four deliveries until `stop`, and keeps the others.
fn consume(client: &mut Client, stop: &AtomicBool) -> Settled {
    let (mut settled, mut kept) = (Settled::new(), Vec::<Delivery>::new());
    while !stop.load(Ordering::Relaxed) {
        let mailbox = client.mailbox.as_mut().unwrap();
        if !mailbox.ready_within(Duration::from_millis(20)) {
            continue;
        }
        let mut out = Vec::new();
        mailbox.take(4, &mut out);
        kept.extend(out.pop());
        if kept.len() > 4 {
            out.append(&mut kept);
        }
        client.settle(&out);
        for delivery in out {
            assert!(settled.insert(delivery.lsn), "{} is given {} twice", client.id, delivery.lsn);
        }
    }
    settled
}

/// Publishes from several threads while the clients take and settle, and answers what was published.
fn busy(engine: &Engine, clients: &mut [Client]) -> (BTreeMap<Lsn, &'static str>, Vec<Settled>) {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let consumers: Vec<_> = clients.iter_mut().map(|client| scope.spawn(|| consume(client, &stop))).collect();
        let publish = |n: usize| {
            move || {
                let body = "x".repeat(100 + n);
                let all = (0..MESSAGES).map(|i| TOPICS[(n + i) % TOPICS.len()]);
                all.map(|topic| (publish(engine, topic, &body, 1), topic)).collect::<Vec<_>>()
            }
        };
        let publishers: Vec<_> = (0..PUBLISHERS).map(|n| scope.spawn(publish(n))).collect();
        let published = publishers.into_iter().flat_map(|publisher| publisher.join().unwrap()).collect();
        stop.store(true, Ordering::Relaxed);
        (published, consumers.into_iter().map(|consumer| consumer.join().unwrap()).collect())
    })
}

#[test]
fn a_busy_engine_that_is_killed_loses_nothing_and_repeats_nothing_that_was_settled() {
    let root = tempfile::tempdir().unwrap();
    let (engine, _) = Engine::open(settings(&root.path().join("busy"))).unwrap();
    let mut clients: Vec<Client> = CLIENTS.iter().map(|(id, _)| Client::connect(&engine, id, false, 3600)).collect();
    for (client, (_, filters)) in clients.iter().zip(CLIENTS) {
        filters.iter().for_each(|filter| client.subscribe(filter, 1));
    }
    let (published, mut settled) = busy(&engine, &mut clients);
    assert_eq!(published.len(), PUBLISHERS * MESSAGES);
    // Every acknowledgement is in the log; the engine goes on while it is copied, and is not asked.
    block_on(engine.applied(Lsn(engine.log().end().0 - 1))).unwrap();
    let ways = ["index", "checkpoint", "log"].map(|name| root.path().join(name));
    ways.iter().for_each(|way| copy(&root.path().join("busy"), way));
    fs::remove_file(ways[1].join("state/index.redb")).unwrap();
    fs::remove_dir_all(ways[2].join("state")).unwrap();

    let opened = ways.each_ref().map(|way| Engine::open(settings(way)).unwrap().0);
    assert!(opened[0].state_rows() == opened[1].state_rows(), "state from the checkpoint is another one");
    assert!(opened[0].state_rows() == opened[2].state_rows(), "state from the log is another one");
    let engine = &opened[0];
    for view in engine.sessions() {
        let gone = ClientDisconnected {
            client: view.client,
            epoch: view.epoch,
            reason: DisconnectReason::ServerDied,
            superseded: false,
            cancel_will: true,
            expiry_s: None,
            positions: vec![],
        };
        apply(engine, &[Event::ClientDisconnected(gone)]);
    }
    let mut clients: Vec<Client> = CLIENTS.iter().map(|(id, _)| Client::connect(engine, id, true, 3600)).collect();
    let is_queue = |lsn: &Lsn| published[lsn].starts_with("queue/");
    // Of the topics that everybody gets for himself.
    let owed = |client: usize| {
        let own = if client == 0 { ["plain/x", "pubsub/x"] } else { ["plain/x", "plain/x"] };
        published.iter().filter(move |(_, topic)| own.contains(topic)).map(|(lsn, _)| *lsn)
    };
    let missing = |settled: &[Settled]| {
        let queued = published.keys().filter(|lsn| is_queue(lsn) && !settled.iter().any(|all| all.contains(lsn)));
        let own = (0..settled.len()).flat_map(|client| owed(client).filter(move |lsn| !settled[client].contains(lsn)));
        own.count() + queued.count()
    };
    let end = Instant::now() + Duration::from_secs(60);
    while missing(&settled) > 0 {
        assert!(Instant::now() < end, "{} messages do not come", missing(&settled));
        for n in 0..clients.len() {
            let mailbox = clients[n].mailbox.as_mut().unwrap();
            let mut out = Vec::new();
            if mailbox.ready_within(Duration::from_millis(20)) {
                mailbox.take(10, &mut out);
            }
            for delivery in &out {
                let by_others = is_queue(&delivery.lsn) && settled.iter().any(|all| all.contains(&delivery.lsn));
                assert!(!by_others, "the queue message {} comes again", delivery.lsn);
                assert!(settled[n].insert(delivery.lsn), "{} comes again to {}", delivery.lsn, clients[n].id);
            }
            clients[n].settle(&out);
        }
    }
    clients.iter_mut().for_each(|client| client.expect_nothing_but("plain/x"));
}
