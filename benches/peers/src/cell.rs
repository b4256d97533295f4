//! One cell: one engine doing one thing, in a process and a folder of its own.

use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use crate::engines::{Engine, Flight, Mode, Native};
use crate::front::{Front, Window};
use crate::publish::Publisher;
use crate::stats::percentile;

/// What is done before the clock runs, seconds.
const WARM_UP: f64 = 0.1;
/// Bytes of records that are written to be read back.
const READ_BYTES: usize = 96 << 20;

/// What a cell does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Work {
    /// So many threads append and wait for each record to be durable.
    Blocked(usize),
    /// The same, through the front even with one producer or an engine that groups.
    Grouped(usize),
    /// One thread has so many records in flight.
    Flight(usize),
    /// One thread appends batches of so many records, unsynced.
    Unsynced(usize),
    /// Reads everything in order, from the page cache.
    Read,
    /// One MQTT client publishes with QoS 1 and waits for each PUBACK; needs the server's program, see [`SERVER`].
    Publish,
}

/// The variable that names the server's program.
pub const SERVER: &str = "PEERS_SERVER";

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Work::Blocked(n) => write!(f, "blocked-{n}"),
            Work::Grouped(n) => write!(f, "grouped-{n}"),
            Work::Flight(n) => write!(f, "flight-{n}"),
            Work::Unsynced(n) => write!(f, "unsynced-{n}"),
            Work::Read => write!(f, "read"),
            Work::Publish => write!(f, "publish"),
        }
    }
}

impl FromStr for Work {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Work> {
        let (what, n) = text.split_once('-').unwrap_or((text, "0"));
        let n = n.parse().with_context(|| format!("the number in {text}"))?;
        Ok(match what {
            "blocked" => Work::Blocked(n),
            "grouped" => Work::Grouped(n),
            "flight" => Work::Flight(n),
            "unsynced" => Work::Unsynced(n),
            "read" => Work::Read,
            "publish" => Work::Publish,
            _ => bail!("no cell does {text}"),
        })
    }
}

impl Work {
    /// Whether an engine can do it honestly. What can't be made durable is shown with one producer, and compared with nobody.
    #[must_use]
    pub fn suits(self, engine: &Engine) -> bool {
        match self {
            Work::Blocked(n) => engine.native.is_some() && (engine.durable || n == 1),
            Work::Grouped(_) => engine.store.is_some() && engine.durable,
            Work::Flight(_) => engine.durable,
            Work::Unsynced(_) => engine.unsynced,
            Work::Read => engine.reads,
            Work::Publish => engine.name == "forebay",
        }
    }
}

/// What a cell measured.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Measured {
    /// Records a second.
    pub rate: f64,
    /// Median wait of a call, us.
    pub p50_us: f64,
    /// Its 99th percentile.
    pub p99_us: f64,
    /// Processor time of the whole process a record, us.
    pub cpu_us: f64,
    /// Records counted.
    pub records: u64,
}

/// Begun, end, processor time and latencies of what was counted.
struct Counted {
    seconds: f64,
    cpu_seconds: f64,
    records: u64,
    /// ns.
    latencies: Vec<u32>,
}

impl Counted {
    fn measured(mut self) -> Measured {
        self.latencies.sort_unstable();
        Measured {
            rate: self.records as f64 / self.seconds,
            p50_us: f64::from(percentile(&self.latencies, 0.5)) / 1e3,
            p99_us: f64::from(percentile(&self.latencies, 0.99)) / 1e3,
            cpu_us: self.cpu_seconds * 1e6 / self.records.max(1) as f64,
            records: self.records,
        }
    }
}

fn cpu() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

fn nanos(time: Duration) -> u32 {
    time.as_nanos().min(u128::from(u32::MAX)) as u32
}

/// Runs a cell in `dir` for about `seconds`.
///
/// # Errors
/// What the engine said.
pub fn run(engine: &Engine, work: Work, size: usize, seconds: f64, dir: &Path) -> Result<Measured> {
    let time = Duration::from_secs_f64(seconds);
    let store = || engine.store.ok_or_else(|| anyhow!("{} has no batches", engine.name));
    let native = || engine.native.ok_or_else(|| anyhow!("{} has no appends of single records", engine.name));
    let counted = match work {
        Work::Blocked(n) if n == 1 || engine.groups => {
            let native = native()?(dir, n)?;
            blocked(n, size, time, &*native)?
        }
        Work::Blocked(n) | Work::Grouped(n) => {
            let front = Front::start(store()?(dir, Mode::Synced)?, size);
            let counted = blocked(n, size, time, &Through(&front))?;
            front.close()?;
            counted
        }
        Work::Flight(window) => match engine.flight {
            Some(open) => in_flight(window, size, time, &*open(dir)?)?,
            None => {
                let front = Front::start(store()?(dir, Mode::Synced)?, size);
                let counted = in_flight(window, size, time, &front)?;
                front.close()?;
                counted
            }
        },
        Work::Unsynced(batch) => {
            let mut store = store()?(dir, Mode::Unsynced)?;
            let records = vec![b'x'; size * batch];
            one_thread(batch as u64, 1, time, || store.write(&records, size, false))?
        }
        Work::Publish => {
            let program = std::env::var_os(SERVER).ok_or_else(|| anyhow!("{SERVER} names no server program"))?;
            let mut publisher = Publisher::start(Path::new(&program), dir, size)?;
            one_thread(1, 1, time, || publisher.publish())?
        }
        Work::Read => {
            let mut store = store()?(dir, Mode::Kept)?;
            let batch = vec![b'x'; size * 1000];
            for _ in 0..READ_BYTES / batch.len() {
                store.write(&batch, size, false)?;
            }
            store.prepare_read()?;
            let (begun, cpu_begun) = (Instant::now(), cpu());
            let (records, bytes) = store.read_all()?;
            let (seconds, cpu_seconds) = (begun.elapsed().as_secs_f64(), cpu() - cpu_begun);
            let written = (READ_BYTES / batch.len() * 1000) as u64;
            if (records, bytes) != (written, written * size as u64) {
                bail!("{} gave {records} records with {bytes} bytes of {written} records of {size}", engine.name);
            }
            Counted { seconds, cpu_seconds, records, latencies: Vec::new() }
        }
    };
    Ok(counted.measured())
}

/// The front as a producer sees it.
struct Through<'a>(&'a Front);

impl Native for Through<'_> {
    fn append(&self, _: usize, record: &[u8]) -> Result<()> {
        let ticket = self.0.give(record)?;
        self.0.wait(ticket)
    }
}

const WARMING: u8 = 0;
const COUNTING: u8 = 1;
const OVER: u8 = 2;

/// Threads that wait for each record.
fn blocked(producers: usize, size: usize, time: Duration, native: &dyn Native) -> Result<Counted> {
    if producers == 1 {
        let record = vec![b'x'; size];
        return one_thread(1, 1, time, || native.append(0, &record));
    }
    let phase = AtomicU8::new(WARMING);
    std::thread::scope(|scope| {
        let phase = &phase;
        let running: Vec<_> = (0..producers)
            .map(|producer| {
                scope.spawn(move || -> Result<Vec<u32>> {
                    let record = vec![b'x'; size];
                    let mut latencies = Vec::with_capacity(1 << 14);
                    let mut begun = Instant::now();
                    loop {
                        native.append(producer, &record)?;
                        let now = Instant::now();
                        match phase.load(Ordering::Relaxed) {
                            WARMING => {}
                            COUNTING => latencies.push(nanos(now - begun)),
                            _ => return Ok(latencies),
                        }
                        begun = now;
                    }
                })
            })
            .collect();
        std::thread::sleep(Duration::from_secs_f64(WARM_UP));
        let (begun, cpu_begun) = (Instant::now(), cpu());
        phase.store(COUNTING, Ordering::Relaxed);
        std::thread::sleep(time);
        phase.store(OVER, Ordering::Relaxed);
        let (seconds, cpu_seconds) = (begun.elapsed().as_secs_f64(), cpu() - cpu_begun);
        let mut latencies = Vec::new();
        for thread in running {
            latencies.extend(thread.join().map_err(|_| anyhow!("a producer panicked"))??);
        }
        Ok(Counted { seconds, cpu_seconds, records: latencies.len() as u64, latencies })
    })
}

/// One thread whose calls append `count` records each; every `every`-th call's time is taken.
fn one_thread(count: u64, every: u64, time: Duration, mut call: impl FnMut() -> Result<()>) -> Result<Counted> {
    let begun = Instant::now();
    while begun.elapsed().as_secs_f64() < WARM_UP {
        call()?;
    }
    let mut latencies = Vec::with_capacity(1 << 16);
    let (begun, cpu_begun) = (Instant::now(), cpu());
    let (mut last, mut records) = (begun, 0);
    while last - begun < time {
        for _ in 1..every {
            call()?;
        }
        call()?;
        records += every * count;
        let now = Instant::now();
        latencies.push(nanos(now - last));
        last = now;
    }
    let (seconds, cpu_seconds) = (begun.elapsed().as_secs_f64(), cpu() - cpu_begun);
    Ok(Counted { seconds, cpu_seconds, records, latencies })
}

/// One thread with a window of records in flight. What one of them waits for is not taken: that would cost as much as an append.
fn in_flight(window: usize, size: usize, time: Duration, flight: &dyn Flight) -> Result<Counted> {
    let record = vec![b'x'; size];
    let mut waiting = Window::new(flight, window);
    while !waiting.append(&record)? {}
    let counted = one_thread(1, 16, time, || waiting.append(&record).map(drop))?;
    waiting.finish()?;
    Ok(Counted { latencies: Vec::new(), ..counted })
}
