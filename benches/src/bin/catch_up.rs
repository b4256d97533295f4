//! What catching up costs: ten thousand lasting sessions that were away, each with ten messages of its own, spread through a log of
//! other people's records. The cost should be that of their own messages, not of the log.

use std::fs;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Parser;
use forebay_benches::counting::Counting;
use forebay_benches::cpu::process_ms;
use forebay_benches::stats::Spread;
use forebay_engine::delivery::{AttachOptions, Mailbox};
use forebay_engine::event::{
    AckOutcome, ClientDisconnected, DisconnectReason, Event, Published, SessionOpened, Subscribed, SubscriptionOptions,
};
use forebay_engine::{Engine, EngineOptions, Lsn, Message, QoS, metrics};

/// Catch-up of many subscribers over logs of different length.
#[derive(Parser)]
struct Options {
    /// Subscribers that were away.
    #[arg(long, default_value_t = 10_000)]
    subscribers: u32,
    /// Messages of each.
    #[arg(long, default_value_t = 10)]
    messages: u32,
    /// Other records in the log, one log for each number.
    #[arg(long, value_delimiter = ',', default_value = "1000000,4000000")]
    others: Vec<u64>,
    /// Topics of the other records.
    #[arg(long, default_value_t = 20_000)]
    topics: u64,
    /// Rounds.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Where the logs are written; a temporary folder unless set.
    #[arg(long)]
    folder: Option<PathBuf>,
}

/// What a round took.
struct Round {
    seconds: f64,
    /// Processor time of all threads, seconds.
    cpu: f64,
    /// Bytes asked of the disk by readers of the log, for each subscriber; bytes that the process asked for, whatever for.
    log_bytes: f64,
    process_bytes: f64,
}

fn main() -> Result<()> {
    let options = Options::parse();
    let counting = Counting::install()?;
    let folder = match &options.folder {
        Some(folder) => tempfile::tempdir_in(folder)?,
        None => tempfile::tempdir()?,
    };
    let mut logs = Vec::new();
    for others in &options.others {
        let begun = Instant::now();
        let dir = folder.path().join(others.to_string());
        build(&dir, *others, &options)?;
        eprintln!("a log with {others} other records: built in {:.0} s", begun.elapsed().as_secs_f64());
        logs.push((dir, *others, Vec::new()));
    }
    for round in 0..options.rounds {
        let count = logs.len();
        for turn in 0..count {
            // Who begins changes from round to round.
            let Some((dir, others, rounds)) = logs.get_mut((turn + round) % count) else { continue };
            let copy = folder.path().join("round");
            link(dir, &copy)?;
            let took = catch_up(&copy, &options, &counting)?;
            eprintln!(
                "round {round}, {others}: {:.2} s, CPU {:.2} s, {:.0} bytes a subscriber",
                took.seconds, took.cpu, took.log_bytes
            );
            rounds.push(took);
            fs::remove_dir_all(&copy)?;
        }
    }
    report(&options, &logs);
    Ok(())
}

fn report(options: &Options, logs: &[(PathBuf, u64, Vec<Round>)]) {
    println!(
        "\n{} subscribers with {} messages each, {} rounds; median (smallest..largest)\n",
        options.subscribers, options.messages, options.rounds
    );
    println!(
        "| other records | seconds | of the first | CPU s | of the first | bytes read a subscriber | bytes asked by the process a subscriber |"
    );
    println!("|---|---|---|---|---|---|---|");
    for (_, others, rounds) in logs {
        let first = logs.first().map(|(_, _, first)| first.as_slice()).unwrap_or_default();
        let ratio = |of: fn(&Round) -> f64| rounds.iter().zip(first).map(|(a, b)| of(a) / of(b)).collect();
        let spread = |of: fn(&Round) -> f64| Spread::of(rounds.iter().map(of).collect());
        println!(
            "| {others} | {:.2} | {:.2} | {:.2} | {:.2} | {:.0} | {:.0} |",
            spread(|r| r.seconds),
            Spread::of(ratio(|r| r.seconds)),
            spread(|r| r.cpu),
            Spread::of(ratio(|r| r.cpu)),
            spread(|r| r.log_bytes),
            spread(|r| r.process_bytes),
        );
    }
    println!("\nBars: at most 1.5 times the time, at most 65,536 bytes read for each subscriber.");
}

fn open(dir: &Path) -> Result<Engine> {
    Ok(Engine::open(EngineOptions::new(dir))?.0)
}

fn client(n: u32) -> String {
    format!("away-{n}")
}

fn topic(n: u32) -> String {
    format!("away/{n}/inbox")
}

fn publish(topic: String, payload: Vec<u8>) -> Event {
    let message = Message {
        topic: topic.into(),
        payload: payload.into(),
        qos: QoS::AtLeastOnce,
        publisher: "publisher".into(),
        ..Message::default()
    };
    Event::Published(Published { message, packet_id: None, epoch: 0 })
}

/// Appends, waiting for room.
fn append(engine: &Engine, events: &[Event]) -> Result<Lsn> {
    for chunk in events.chunks(1000) {
        block_on(engine.append_wait(chunk))?;
    }
    Ok(Lsn(engine.log().end().0 - 1))
}

/// Writes a log in which everybody was away while it grew.
fn build(dir: &Path, others: u64, options: &Options) -> Result<()> {
    let engine = open(dir)?;
    let mut events = Vec::new();
    for n in 0..options.subscribers {
        let epoch = engine.next_epoch();
        events.push(opened(n, epoch, false));
        events.push(Event::Subscribed(Subscribed {
            client: client(n).into(),
            epoch,
            filter: topic(n).into(),
            options: SubscriptionOptions::of_qos(QoS::AtLeastOnce),
            by_proxy: false,
        }));
        events.push(Event::ClientDisconnected(ClientDisconnected {
            client: client(n).into(),
            epoch,
            reason: DisconnectReason::Normal,
            superseded: false,
            cancel_will: true,
            expiry_s: None,
            positions: Vec::new(),
        }));
    }
    append(&engine, &events)?;
    events.clear();
    let own = u64::from(options.subscribers) * u64::from(options.messages);
    let mut given = 0u64;
    for n in 0..others {
        let mut payload = vec![b'x'; 100];
        payload.splice(..8, n.to_le_bytes());
        events.push(publish(format!("plant/{}/state", n % options.topics.max(1)), payload));
        while given * others < (n + 1) * own && given < own {
            // A stride that is prime to the number of subscribers: whose turn it is looks like chance.
            let who = (given * 7_919 % u64::from(options.subscribers)) as u32;
            let mut payload = vec![b'o'; 100];
            payload.splice(..4, who.to_le_bytes());
            payload.splice(4..8, ((given / u64::from(options.subscribers)) as u32).to_le_bytes());
            events.push(publish(topic(who), payload));
            given += 1;
        }
        if events.len() >= 10_000 {
            append(&engine, &events)?;
            events.clear();
        }
    }
    let last = append(&engine, &events)?;
    block_on(engine.applied(last))?;
    engine.close();
    drop(engine);
    // The last segment was sealed by closing: it gets its index in the next run.
    let engine = open(dir)?;
    let patience = Instant::now();
    while !indexed(&dir.join("log"))? {
        ensure!(patience.elapsed() < Duration::from_secs(120), "the segments got no indexes in 120 s");
        std::thread::sleep(Duration::from_millis(50));
    }
    engine.close();
    Ok(())
}

/// True when every segment but the one that is written has an index.
fn indexed(log: &Path) -> Result<bool> {
    let (mut segments, mut indexes) = (0, 0);
    for entry in fs::read_dir(log)? {
        match entry?.path().extension().and_then(|e| e.to_str()) {
            Some("seg") => segments += 1,
            Some("idx") => indexes += 1,
            _ => {}
        }
    }
    Ok(indexes + 1 >= segments)
}

/// The same log again: segments that have an index do not change any more and are linked with it; the rest, the segment that is
/// written on among it, is copied.
fn link(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let (path, name) = entry.map(|e| (e.path(), e.file_name()))?;
        let target = to.join(name);
        let extension = path.extension().and_then(|e| e.to_str());
        if path.is_dir() {
            link(&path, &target)?;
        } else if extension == Some("idx") || extension == Some("seg") && path.with_extension("idx").exists() {
            fs::hard_link(&path, &target).with_context(|| path.display().to_string())?;
        } else {
            fs::copy(&path, &target)?;
        }
    }
    Ok(())
}

fn opened(n: u32, epoch: u64, resumed: bool) -> Event {
    Event::SessionOpened(SessionOpened {
        client: client(n).into(),
        epoch,
        resumed,
        expiry_s: 3600,
        will: None,
        username: "".into(),
        peer: "".into(),
    })
}

/// One who takes and settles.
struct Subscriber {
    mailbox: Mailbox,
    waker: Waker,
    taken: u32,
}

struct Bell {
    number: usize,
    rung: Sender<usize>,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        let _ = self.rung.send(self.number);
    }
}

/// All of them come back at once; measured until the last has settled its last message, durably.
fn catch_up(dir: &Path, options: &Options, counting: &Counting) -> Result<Round> {
    let engine = open(dir)?;
    let (log_before, process_before) = (counting.get(metrics::LOG_READ_BYTES), process_read()?);
    let (begun, cpu_before) = (Instant::now(), process_ms()?);
    let epochs: Vec<u64> = (0..options.subscribers).map(|_| engine.next_epoch()).collect();
    let events: Vec<Event> = (0..).zip(&epochs).map(|(n, epoch)| opened(n, *epoch, true)).collect();
    let last = append(&engine, &events)?;
    block_on(engine.applied(last))?;
    let (rung, bells) = channel();
    let mut subscribers = Vec::new();
    for (n, epoch) in (0..).zip(&epochs) {
        let attach = AttachOptions { client: client(n).into(), epoch: *epoch, window: 20, in_flight: vec![] };
        let mailbox = engine.attach(&attach);
        let waker = Waker::from(Arc::new(Bell { number: n as usize, rung: rung.clone() }));
        subscribers.push(Subscriber { mailbox, waker, taken: 0 });
        rung.send(n as usize)?;
    }
    let mut left = subscribers.len();
    while left > 0 {
        let number = bells.recv_timeout(Duration::from_secs(60)).context("nobody got anything for 60 s")?;
        let Some(subscriber) = subscribers.get_mut(number) else { continue };
        if subscriber.take_and_settle(number as u32, options.messages)? {
            left -= 1;
        }
    }
    let last = Lsn(engine.log().end().0 - 1);
    block_on(engine.applied(last))?;
    let (seconds, cpu) = (begun.elapsed().as_secs_f64(), (process_ms()? - cpu_before) / 1e3);
    let each = |bytes: u64| bytes as f64 / f64::from(options.subscribers);
    let log_bytes = each(counting.get(metrics::LOG_READ_BYTES) - log_before);
    let process_bytes = each(process_read()? - process_before);
    drop(subscribers);
    engine.close();
    Ok(Round { seconds, cpu, log_bytes, process_bytes })
}

impl Subscriber {
    /// Takes what there is until it has to wait. True when this was the last of it.
    fn take_and_settle(&mut self, number: u32, messages: u32) -> Result<bool> {
        let mut taken = Vec::new();
        loop {
            if pin!(self.mailbox.ready()).as_mut().poll(&mut Context::from_waker(&self.waker)).is_pending() {
                return Ok(false);
            }
            self.mailbox.take(20, &mut taken);
            for delivery in &taken {
                let expected = [number.to_le_bytes(), self.taken.to_le_bytes()].concat();
                if !delivery.message.payload.starts_with(&expected) {
                    bail!("subscriber {number} got record {} as its message {}", delivery.lsn, self.taken);
                }
                self.taken += 1;
            }
            let settled: Vec<_> = taken.drain(..).map(|d| (d.lsn, None, AckOutcome::Acknowledged)).collect();
            self.mailbox.settle(&settled);
            if self.taken == messages {
                return Ok(true);
            }
        }
    }
}

/// Bytes that this process has asked of the operating system so far.
fn process_read() -> Result<u64> {
    let text = fs::read_to_string("/proc/self/io")?;
    let line = text.lines().find_map(|line| line.strip_prefix("rchar: ")).context("no rchar in /proc/self/io")?;
    Ok(line.trim().parse()?)
}

struct Unpark(std::thread::Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(value) => return value,
            Poll::Pending => std::thread::park(),
        }
    }
}
