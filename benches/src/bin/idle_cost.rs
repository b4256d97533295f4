//! What idle things cost: bytes of memory of a read position, a topic and a sleeping session, the append rate with and without them,
//! how long delivery waits while state is copied for a checkpoint, and how long the next opening takes. Everything is made through
//! the public API, by events.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};
use forebay_benches::alloc::{Counting, Held};
use forebay_benches::cpu::thread_ms;
use forebay_benches::stats::Spread;
use forebay_engine::event::{
    ClientDisconnected, DisconnectReason, Published, SessionOpened, Subscribed, SubscriptionOptions,
};
use forebay_engine::log::AppendError;
use forebay_engine::rules::{PubsubRule, Rules, StartAt};
use forebay_engine::{Engine, EngineOptions, Event, Message, QoS};
use metrics::{Counter, Gauge, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder, SharedString, Unit};

/// The newest pause that a checkpoint made, us.
static PAUSE_US: AtomicU64 = AtomicU64::new(0);

/// A recorder of that alone.
struct Pauses;
struct Pause;

impl HistogramFn for Pause {
    fn record(&self, seconds: f64) {
        PAUSE_US.store((seconds * 1e6) as u64 + 1, Ordering::Relaxed);
    }
}

impl Recorder for Pauses {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn register_counter(&self, _: &Key, _: &Metadata<'_>) -> Counter {
        Counter::noop()
    }
    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }
    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        if key.name() == forebay_engine::metrics::CHECKPOINT_PAUSE {
            Histogram::from_arc(Arc::new(Pause))
        } else {
            Histogram::noop()
        }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Records of a batch, and in flight.
const BATCH: usize = 64;
const IN_FLIGHT: u64 = 1024;

/// Memory of idle things and the append rate beside them.
#[derive(Parser)]
struct Options {
    /// Which things; all, one after the other in folders of their own, unless given.
    #[arg(long, value_delimiter = ',')]
    only: Vec<Thing>,
    /// Read positions and topics.
    #[arg(long, default_value_t = 1_000_000)]
    many: u64,
    /// Sessions.
    #[arg(long, default_value_t = 100_000)]
    sessions: u64,
    /// Rounds of the append rate.
    #[arg(long, default_value_t = 9)]
    rounds: usize,
    /// Seconds of one measurement.
    #[arg(long, default_value_t = 0.5)]
    seconds: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Thing {
    /// Read positions of a rule, one a client, on 1,000 filters.
    Cursors,
    /// Read positions of a rule, one a client, each on a filter of its own.
    OwnCursors,
    /// Topics published to once.
    Topics,
    /// Topics with a retained message of 16 bytes.
    Retained,
    /// Sleeping persistent sessions with one subscription, on 1,000 filters.
    Sessions,
    /// Sleeping persistent sessions with one subscription, each on a filter of its own.
    OwnSessions,
}

impl Thing {
    fn bar(self) -> &'static str {
        match self {
            Thing::Cursors | Thing::OwnCursors => "200",
            Thing::Sessions | Thing::OwnSessions => "1024",
            Thing::Topics | Thing::Retained => "-",
        }
    }

    fn events(self, i: u64) -> Vec<Event> {
        let client = format!("client-{i:07}");
        match self {
            Thing::Cursors => visit(&client, &format!("pubsub/room/{:03}", i % 1000), 0),
            Thing::OwnCursors => visit(&client, &format!("pubsub/of/{i:07}"), 0),
            Thing::Sessions => visit(&client, &format!("devices/{:03}/commands", i % 1000), 86_400),
            Thing::OwnSessions => visit(&client, &format!("devices/{i:07}/commands"), 86_400),
            Thing::Topics => vec![publish(&format!("topics/{i:07}"), 16, false)],
            Thing::Retained => vec![publish(&format!("topics/{i:07}"), 16, true)],
        }
    }
}

/// A client comes, subscribes and goes. Without an expiry its session ends, and only a rule's read position stays.
fn visit(client: &str, filter: &str, expiry_s: u32) -> Vec<Event> {
    let n: u32 = client.bytes().fold(0, |n, b| n.wrapping_mul(31).wrapping_add(b.into()));
    let opened = SessionOpened {
        client: client.into(),
        epoch: 1,
        resumed: false,
        expiry_s,
        will: None,
        username: "device".into(),
        peer: format!("10.{}.{}.{}:{}", n >> 24 & 255, n >> 16 & 255, n >> 8 & 255, 10_000 + n % 50_000).into(),
    };
    let subscribed = Subscribed {
        client: client.into(),
        epoch: 1,
        filter: filter.into(),
        options: SubscriptionOptions::of_qos(QoS::AtLeastOnce),
        by_proxy: false,
    };
    let gone = ClientDisconnected {
        client: client.into(),
        epoch: 1,
        reason: DisconnectReason::ConnectionLost,
        superseded: false,
        cancel_will: true,
        expiry_s: None,
        positions: vec![],
    };
    vec![Event::SessionOpened(opened), Event::Subscribed(subscribed), Event::ClientDisconnected(gone)]
}

fn publish(topic: &str, bytes: usize, retain: bool) -> Event {
    let message = Message {
        topic: topic.into(),
        payload: vec![b'x'; bytes].into(),
        qos: QoS::AtLeastOnce,
        retain,
        publisher: "publisher".into(),
        ..Message::default()
    };
    Event::Published(Published { message, packet_id: None, epoch: 0 })
}

fn open(dir: &Path) -> Result<Engine> {
    let mut options = EngineOptions::new(dir);
    options.log.tail_cache_bytes = 1 << 20; // Its records come and go; they are not what is measured.
    options.checkpoint_bytes = 16 << 20;
    options.rules = Rules {
        pubsub: vec![PubsubRule {
            filter: "pubsub/#".into(),
            start: StartAt::Latest,
            max_returned: None,
            time_range: None,
        }],
        publish: vec![("#".into(), 1)],
        ..Rules::default()
    };
    Ok(Engine::open(options)?.0)
}

/// Appends, and waits while the log has no room.
fn append(engine: &Engine, events: &[Event]) -> Result<u64> {
    loop {
        match engine.append(events) {
            Ok(appended) => return Ok(appended.last.0),
            Err(AppendError::Full { .. }) => std::thread::sleep(Duration::from_millis(1)),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Waits until all is applied and the index has taken in what changed.
fn settle(engine: &Engine) {
    while engine.applied_end() < engine.log().end() {
        std::thread::sleep(Duration::from_millis(5));
    }
    let mut before = Held::default();
    for _ in 0..60 {
        std::thread::sleep(Duration::from_secs(1));
        let now = Held::now();
        if now.asked.abs_diff(before.asked) < 64 * 1024 {
            break;
        }
        before = now;
    }
}

/// Durable appends per second: one caller, batches of 64, 1,024 in flight, 128 bytes, on a topic that concerns nothing idle.
fn rate(engine: &Engine, time: Duration) -> Result<f64> {
    let batch: Vec<Event> = (0..BATCH).map(|_| publish("load/topic", 128, false)).collect();
    let begun = Instant::now();
    let first = engine.durable_end().0;
    while begun.elapsed() < time {
        let last = append(engine, &batch)?;
        while last.saturating_sub(engine.durable_end().0) > IN_FLIGHT {
            std::thread::yield_now();
        }
    }
    let done = engine.durable_end().0 - first;
    Ok(done as f64 / begun.elapsed().as_secs_f64())
}

fn resident() -> Result<usize> {
    let status = std::fs::read_to_string("/proc/self/status").context("reading /proc/self/status")?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<usize>()? * 1024)
}

fn measure(thing: Thing, options: &Options) -> Result<()> {
    let n = if matches!(thing, Thing::Sessions | Thing::OwnSessions) { options.sessions } else { options.many };
    let (with_dir, without_dir) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let (with, without) = (open(with_dir.path())?, open(without_dir.path())?);
    // What has a bound of its own (the log's tail in memory, the index's pages) is filled before the first look.
    for engine in [&with, &without] {
        rate(engine, Duration::from_secs(1))?;
        settle(engine);
    }
    let (before, resident_before) = (Held::now(), resident()?);
    let mut events = Vec::new();
    for i in 0..n {
        events.extend(thing.events(i));
        if events.len() >= 300 {
            append(&with, &events)?;
            events.clear();
        }
    }
    if !events.is_empty() {
        append(&with, &events)?;
    }
    settle(&with);
    drop(events);
    rate(&with, Duration::from_secs(1))?;
    settle(&with);
    let (after, resident_after) = (Held::now(), resident()?);
    let each = |before: usize, after: usize| after.saturating_sub(before) as f64 / n as f64;
    let time = Duration::from_secs_f64(options.seconds);
    let (mut withs, mut withouts) = (Vec::new(), Vec::new());
    for round in 0..options.rounds {
        for turn in 0..2 {
            let (engine, rates) = if (round + turn) % 2 == 0 { (&with, &mut withs) } else { (&without, &mut withouts) };
            rates.push(rate(engine, time)?);
            while engine.applied_end() < engine.log().end() {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }
    PAUSE_US.store(0, Ordering::Relaxed);
    let patience = Instant::now();
    while PAUSE_US.load(Ordering::Relaxed) == 0 && patience.elapsed() < Duration::from_secs(60) {
        rate(&with, time)?;
    }
    let pause_ms = PAUSE_US.load(Ordering::Relaxed) as f64 / 1e3;
    drop(with);
    let (begun, cpu) = (Instant::now(), thread_ms()?);
    let reopened = open(with_dir.path())?;
    let (opening_ms, opening_cpu_ms) = (begun.elapsed().as_secs_f64() * 1e3, thread_ms()? - cpu);
    drop(reopened);
    let ratio = Spread::of(withs.iter().zip(&withouts).map(|(with, without)| with / without).collect());
    println!(
        "| {thing:?} | {n} | {:.0} | {:.0} | {:.0} | {} | {:.0} | {:.0} | {ratio:.2} | {pause_ms:.0} | {opening_ms:.0} | {opening_cpu_ms:.0} |",
        each(before.asked, after.asked),
        each(before.taken, after.taken),
        each(resident_before, resident_after),
        thing.bar(),
        Spread::of(withouts),
        Spread::of(withs),
    );
    Ok(())
}

fn main() -> Result<()> {
    let options = Options::parse();
    if metrics::set_global_recorder(Pauses).is_err() {
        anyhow::bail!("a recorder of metrics is there already");
    }
    println!(
        "Append rate: {} rounds of {} s in turns, one caller, 1,024 in flight, 128 B; median (smallest..largest)\n",
        options.rounds, options.seconds
    );
    println!(
        "| thing | how many | bytes each, asked for | with the allocator's own | resident | bar | appends/s without | with | with/without | pause of a checkpoint ms | next opening ms | of it processor |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|---|");
    let all = [Thing::Cursors, Thing::OwnCursors, Thing::Topics, Thing::Retained, Thing::Sessions, Thing::OwnSessions];
    let chosen = if options.only.is_empty() { &all[..] } else { &options.only };
    for thing in chosen {
        measure(*thing, &options)?;
    }
    Ok(())
}
