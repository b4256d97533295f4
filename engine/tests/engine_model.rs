//! Random schedules of state and delivery against a model that knows what each client must get, may get and must not get.
//!
//! `FOREBAY_MODEL_SCHEDULES` sets how many schedules run, `FOREBAY_MODEL_SEED` the first seed; a failure names its seed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::*;
use forebay_engine::delivery::Delivery;
use forebay_engine::event::*;
use forebay_engine::{Engine, EngineOptions, Lsn, topic};

const TOPICS: [&str; 7] = ["a/x", "a/y", "pubsub/x", "pubsub/y", "queue/q", "queue/r", "latest/x"];
const FILTERS: [&str; 9] = ["a/x", "a/#", "pubsub/x", "pubsub/#", "queue/q", "queue/#", "latest/x", "+/x", "#"];
const CLIENTS: usize = 3;

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
    fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }
}

fn is_rule(filter: &str) -> bool {
    filter.starts_with("pubsub") || filter.starts_with("latest")
}

fn is_queue(filter: &str) -> bool {
    filter.starts_with("queue")
}

/// One subscription, from the record that made it until what wipes its position.
#[derive(Clone, Default)]
struct Instance {
    since: Lsn,
    done: BTreeSet<Lsn>,
}

#[derive(Default)]
struct Known {
    lasting: bool,
    session: bool,
    connected: Option<Client>,
    subscriptions: BTreeSet<&'static str>,
    /// Plain subscriptions of the session, and read positions, which outlive it.
    instances: HashMap<&'static str, Instance>,
    /// Taken and not settled.
    held: Vec<Delivery>,
    /// Settled, and perhaps not durable yet.
    maybe: Vec<Lsn>,
    /// Settled before a crash, and perhaps lost with it: may come again, and need not.
    uncertain: BTreeSet<Lsn>,
    last_of_topic: HashMap<String, Lsn>,
    /// False once a read position was added beside others: its history comes behind what these have had.
    ordered: bool,
}

struct Model {
    seed: u64,
    random: Random,
    root: tempfile::TempDir,
    generation: usize,
    engine: Option<Engine>,
    clients: Vec<Known>,
    messages: BTreeMap<Lsn, Message>,
    queue_settled: BTreeSet<Lsn>,
    trace: Vec<String>,
}

fn settings(dir: &Path, trimming: bool) -> EngineOptions {
    let mut options = options(dir);
    options.log.segment_bytes = 64 * 1024;
    options.rules.pubsub.retain(|rule| rule.max_returned.is_none());
    options.checkpoint_bytes = if trimming { 8 * 1024 } else { u64::MAX };
    options
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    let mut entries: Vec<_> = match fs::read_dir(from) {
        Ok(entries) => entries.filter_map(Result::ok).collect(),
        Err(_) => return,
    };
    // The log before the state: a checkpoint is never newer than the log it is copied with.
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let (path, to) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            copy(&path, &to);
        } else if let Err(error) = fs::copy(&path, &to) {
            assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
        }
    }
}

impl Model {
    fn new(seed: u64) -> Model {
        let root = tempfile::tempdir().unwrap();
        let engine = Engine::open(settings(&root.path().join("0"), seed.is_multiple_of(2))).unwrap().0;
        let clients = (0..CLIENTS).map(|_| Known::default()).collect();
        Model {
            seed,
            random: Random(seed),
            root,
            generation: 0,
            engine: Some(engine),
            clients,
            messages: BTreeMap::new(),
            queue_settled: BTreeSet::new(),
            trace: Vec::new(),
        }
    }

    fn engine(&self) -> &Engine {
        self.engine.as_ref().unwrap()
    }

    fn fail(&self, what: &str) -> ! {
        panic!("seed {}: {what}\n{}", self.seed, self.trace.join("\n"));
    }

    /// Something was applied after all that was settled so far.
    fn barrier(&mut self) {
        for client in &mut self.clients {
            client.maybe.clear();
        }
    }

    fn publish(&mut self) {
        let topic = TOPICS[self.random.below(TOPICS.len())];
        let qos = self.random.below(3) as u8;
        let message = Message { retain: self.random.chance(10), ..message(topic, "x", qos) };
        let lsn = apply(self.engine(), &[published(message.clone())]);
        self.trace.push(format!("publish {topic} qos {qos} at {lsn}"));
        self.messages.insert(lsn, message);
        self.barrier();
    }

    fn connect(&mut self, c: usize) {
        let lasting = self.random.chance(70);
        let clean = self.random.chance(20);
        let resumed = self.clients[c].session && !clean;
        let keep = resumed && self.random.chance(50);
        let client = &mut self.clients[c];
        if !resumed {
            client.subscriptions.clear();
            client.instances.retain(|filter, _| is_rule(filter));
        }
        if !keep {
            client.held.clear();
        }
        client.held.retain(|d| d.qos > QoS::AtMostOnce);
        let in_flight: Vec<Lsn> = client.held.iter().map(|d| d.lsn).collect();
        client.lasting = if resumed { client.lasting } else { lasting };
        client.session = true;
        client.last_of_topic.clear();
        client.ordered = true;
        self.trace.push(format!("connect {c} resumed {resumed} lasting {} in flight {in_flight:?}", client.lasting));
        let expiry = if client.lasting { 3600 } else { 0 };
        let window = 4 + (self.seed % 8) as u16;
        let engine = self.engine().clone();
        let connected = Client::connect_with(&engine, &format!("c{c}"), resumed, expiry, window, in_flight, None);
        let revoked = connected.mailbox.as_ref().unwrap().revoked().to_vec();
        self.clients[c].held.retain(|d| !revoked.contains(&d.lsn));
        self.clients[c].connected = Some(connected);
        self.barrier();
    }

    fn subscribe(&mut self, c: usize, filter: &'static str) {
        let Some(client) = &self.clients[c].connected else { return };
        let before = self.engine().log().end();
        let options = SubscriptionOptions { retain_handling: 2, ..SubscriptionOptions::of_qos(QoS::ExactlyOnce) };
        client.subscribe_with(filter, options);
        self.trace.push(format!("subscribe {c} {filter}"));
        let known = &mut self.clients[c];
        known.ordered &= !is_rule(filter) || known.subscriptions.is_empty();
        if known.subscriptions.insert(filter) && !is_queue(filter) {
            let since = if is_rule(filter) { Lsn::FIRST } else { before };
            known.instances.entry(filter).or_insert_with(|| Instance { since, ..Instance::default() });
        }
        self.barrier();
    }

    fn unsubscribe(&mut self, c: usize) {
        let filter = FILTERS[self.random.below(FILTERS.len())];
        let Some(client) = &self.clients[c].connected else { return };
        client.unsubscribe(filter);
        self.trace.push(format!("unsubscribe {c} {filter}"));
        let known = &mut self.clients[c];
        known.subscriptions.remove(filter);
        known.instances.remove(filter);
        // What only this subscription was owed is owed no more.
        if is_rule(filter) {
            known.ordered = false;
        }
        self.barrier();
    }

    /// Takes what is ready (without waiting for more) and checks each delivery.
    fn take(&mut self, c: usize) -> usize {
        let Some(client) = &mut self.clients[c].connected else { return 0 };
        let (mut out, max) = (Vec::new(), 1 + self.random.below(6));
        client.mailbox.as_mut().unwrap().take(max, &mut out);
        for delivery in &out {
            self.check(c, delivery);
        }
        let n = out.len();
        self.clients[c].held.extend(out);
        n
    }

    fn check(&mut self, c: usize, delivery: &Delivery) {
        let lsn = delivery.lsn;
        self.trace.push(format!("take {c} {lsn} {} {:?}", delivery.message.topic, delivery.qos));
        let Some(message) = self.messages.get(&lsn) else { self.fail("a message that was never published") };
        if message.topic != delivery.message.topic {
            self.fail("another message than the one that was published");
        }
        let known = &self.clients[c];
        if known.held.iter().any(|d| d.lsn == lsn) {
            self.fail("given twice to one connection");
        }
        let mut reasons = known.subscriptions.iter().filter(|f| topic::matches(f, &message.topic));
        let allowed = reasons.any(|filter| {
            if is_queue(filter) {
                return !self.queue_settled.contains(&lsn);
            }
            let instance = &known.instances[filter];
            lsn >= instance.since && (!instance.done.contains(&lsn) || known.maybe.contains(&lsn))
        });
        if !allowed {
            self.fail("given to a client that is not owed it");
        }
        let topic = message.topic.to_string();
        if !is_queue(&topic) && !topic.starts_with("latest") {
            let last = self.clients[c].last_of_topic.insert(topic, lsn);
            if self.clients[c].ordered && last.is_some_and(|last| last >= lsn) {
                self.fail("out of order");
            }
        }
    }

    fn settle_one(&mut self, c: usize, at: usize) {
        let known = &mut self.clients[c];
        let delivery = known.held.swap_remove(at);
        let Some(client) = &mut known.connected else { return };
        let (lsn, topic) = (delivery.lsn, delivery.message.topic.clone());
        client.settle(&[delivery]);
        self.trace.push(format!("settle {c} {lsn}"));
        for filter in known.subscriptions.iter().filter(|f| topic::matches(f, &topic)) {
            if let Some(instance) = known.instances.get_mut(filter) {
                instance.done.insert(lsn);
            }
        }
        known.maybe.push(lsn);
        // Where it was leased is not visible here: once the queue owes it no more, nobody may get it.
        let end = Lsn(self.engine().log().end().0 - 1);
        block_on(self.engine().applied(end)).unwrap();
    }

    fn settle(&mut self, c: usize) {
        if self.clients[c].connected.is_none() || self.clients[c].held.is_empty() {
            return;
        }
        let at = self.random.below(self.clients[c].held.len());
        self.settle_one(c, at);
    }

    fn disconnect(&mut self, c: usize) {
        let Some(client) = self.clients[c].connected.take() else { return };
        self.trace.push(format!("disconnect {c}"));
        client.disconnect();
        let known = &mut self.clients[c];
        if !known.lasting {
            known.session = false;
            known.subscriptions.clear();
            known.instances.retain(|filter, _| is_rule(filter));
            known.held.clear();
        }
        self.barrier();
    }

    /// The engine goes without a word: the folder is copied while it runs, and opened from the index, from checkpoint and log, and
    /// from the log alone.
    fn crash(&mut self) {
        let now = self.root.path().join(self.generation.to_string());
        let base = self.generation + 1;
        let ways: Vec<_> = (base..base + 3).map(|n| self.root.path().join(n.to_string())).collect();
        let close = self.random.chance(20);
        self.trace.push(format!("crash {}", if close { "(closed)" } else { "" }));
        if close {
            self.engine().close();
        }
        copy(&now, &ways[0]);
        for client in &mut self.clients {
            client.connected = None;
            client.held.clear();
        }
        self.engine = None;
        copy(&ways[0], &ways[1]);
        copy(&ways[0], &ways[2]);
        let _ = fs::remove_dir_all(ways[1].join("state/index"));
        let _ = fs::remove_dir_all(ways[2].join("state"));
        let chosen = self.random.below(3);
        let (mut expected, mut kept) = (None, None);
        for (i, dir) in ways.iter().enumerate() {
            let options = settings(dir, self.seed.is_multiple_of(2));
            let (engine, report) = match Engine::open(options) {
                Ok(opened) => opened,
                Err(forebay_engine::OpenError::StateLost { .. }) if i == 2 => continue,
                Err(error) => self.fail(&error.to_string()),
            };
            let rows = engine.state_rows();
            self.trace.push(format!("opened from {:?}, {} replayed", report.state, report.replayed));
            match &expected {
                None => expected = Some(rows),
                Some(expected) if *expected != rows => self.fail("state differs with where it came from"),
                Some(_) => {}
            }
            if i == chosen || kept.is_none() {
                kept = Some((base + i, engine));
            }
        }
        let (generation, engine) = kept.unwrap();
        self.generation = generation;
        self.engine = Some(engine);
        for (i, dir) in ways.iter().enumerate() {
            if base + i != generation {
                let _ = fs::remove_dir_all(dir);
            }
        }
        let _ = fs::remove_dir_all(now);
        self.end_open_sessions();
    }

    fn end_open_sessions(&mut self) {
        for view in self.engine().sessions().into_iter().filter(|view| view.connected) {
            let gone = ClientDisconnected {
                client: view.client,
                epoch: view.epoch,
                reason: DisconnectReason::ServerDied,
                superseded: false,
                cancel_will: true,
                expiry_s: None,
                positions: vec![],
            };
            apply(self.engine(), &[Event::ClientDisconnected(gone)]);
        }
        for known in &mut self.clients {
            // Acknowledgements that had not reached the disk are lost.
            let maybe = std::mem::take(&mut known.maybe);
            for instance in known.instances.values_mut() {
                instance.done.retain(|lsn| !maybe.contains(lsn));
            }
            known.uncertain.extend(maybe);
            if !known.lasting {
                known.session = false;
                known.subscriptions.clear();
                known.instances.retain(|filter, _| is_rule(filter));
            }
        }
    }

    /// Messages that this client has to get as its subscriptions are.
    fn owed(&self, c: usize) -> BTreeSet<Lsn> {
        let known = &self.clients[c];
        let mut owed = BTreeSet::new();
        for filter in known.subscriptions.iter().filter(|f| !is_queue(f)) {
            let instance = &known.instances[filter];
            let matching: Vec<_> = self
                .messages
                .iter()
                .filter(|(lsn, m)| **lsn >= instance.since && topic::matches(filter, &m.topic))
                .collect();
            let wanted: Vec<_> = match filter.starts_with("latest") {
                true => matching.last().copied().into_iter().collect(),
                false => matching,
            };
            for (lsn, message) in wanted {
                let had = known.instances.values().any(|other| other.done.contains(lsn));
                if message.qos > QoS::AtMostOnce && !had && !known.uncertain.contains(lsn) {
                    owed.insert(*lsn);
                }
            }
        }
        owed
    }

    /// All that is owed is given.
    fn drain(&mut self) {
        self.trace.push("drain".into());
        for c in 0..CLIENTS {
            if self.clients[c].connected.is_none() {
                self.connect(c);
            }
        }
        self.subscribe(0, "queue/#");
        let end = Instant::now() + Duration::from_secs(20);
        loop {
            let mut taken = 0;
            for c in 0..CLIENTS {
                taken += self.take(c);
                while !self.clients[c].held.is_empty() {
                    self.settle_one(c, 0);
                }
            }
            let owed: Vec<_> = (0..CLIENTS).map(|c| self.owed(c)).collect();
            if taken == 0 && owed.iter().all(BTreeSet::is_empty) && self.engine().queued() == 0 {
                break;
            }
            if Instant::now() > end {
                let queued = self.engine().queued();
                self.fail(&format!("owed and not given after 20 s: {owed:?}, {queued} in queues"));
            }
            if taken == 0 {
                std::thread::yield_now();
            }
        }
    }

    fn step(&mut self) {
        let c = self.random.below(CLIENTS);
        match self.random.below(100) {
            0..30 => self.publish(),
            30..50 => {
                self.take(c);
            }
            50..68 => self.settle(c),
            68..78 if self.clients[c].connected.is_none() => self.connect(c),
            68..86 => {
                let filter = FILTERS[self.random.below(FILTERS.len())];
                self.subscribe(c, filter);
            }
            86..89 => self.unsubscribe(c),
            89..96 => self.disconnect(c),
            96..98 => self.crash(),
            _ => self.barrier_without_change(),
        }
    }

    fn barrier_without_change(&mut self) {
        apply(self.engine(), &[Event::SinkPosition(SinkPosition { sink: "s".into(), next: Lsn(1) })]);
        self.barrier();
    }
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[test]
fn random_schedules_lose_nothing_repeat_nothing_and_give_the_same_state_whatever_it_is_rebuilt_from() {
    let first = number("FOREBAY_MODEL_SEED", 1);
    let (end, next) = (first + number("FOREBAY_MODEL_SCHEDULES", 200), AtomicU64::new(first));
    // A schedule spends most of its time waiting for syncs: several at once.
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end {
                        return;
                    }
                    let mut model = Model::new(seed);
                    for _ in 0..120 {
                        model.step();
                    }
                    model.drain();
                }
            });
        }
    });
}
