//! The log against the least a durable log has to do (`raw_log`), round by round in one run, in alternating order.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use clap::Parser;
use forebay_benches::raw_log::{RawFile, RawGroups};
use forebay_benches::stats::Spread;
use forebay_engine::log::{Log, LogOptions, NewRecord};

/// Bytes that the log adds to a record; the raw log writes as many.
const FRAME: usize = 32;
/// Records of the one caller that does not wait for each.
const IN_FLIGHT: usize = 1024;

/// Durable appends per second.
#[derive(Parser)]
struct Options {
    /// Rounds.
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Seconds of a cell.
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// Records, bytes.
    #[arg(long, value_delimiter = ',', default_value = "128,1024")]
    sizes: Vec<usize>,
    /// Where the logs are written; a temporary folder unless set.
    #[arg(long)]
    folder: Option<PathBuf>,
}

/// Who appends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Callers {
    /// Threads that wait for each of their records.
    Blocked(usize),
    /// One thread with 1,024 records in flight.
    Pipelined,
}

const CALLERS: [Callers; 4] = [Callers::Blocked(1), Callers::Blocked(16), Callers::Blocked(64), Callers::Pipelined];

impl Callers {
    fn name(self) -> String {
        match self {
            Callers::Blocked(1) => "1 producer".into(),
            Callers::Blocked(n) => format!("{n} producers"),
            Callers::Pipelined => format!("1 caller, {IN_FLIGHT} in flight"),
        }
    }

    fn bar(self) -> f64 {
        match self {
            Callers::Blocked(1) => 0.9,
            Callers::Blocked(_) => 0.85,
            Callers::Pipelined => 0.7,
        }
    }
}

fn main() -> Result<()> {
    let options = Options::parse();
    let time = Duration::from_secs_f64(options.seconds);
    println!("Records per second, {} rounds of {} s; median (smallest..largest)\n", options.rounds, options.seconds);
    println!("| callers | bytes | log/s | raw/s | log/raw | bar |\n|---|---|---|---|---|---|");
    for callers in CALLERS {
        for size in &options.sizes {
            let (mut logs, mut raws) = (Vec::new(), Vec::new());
            for round in 0..options.rounds {
                let folder = match &options.folder {
                    Some(folder) => tempfile::tempdir_in(folder)?,
                    None => tempfile::tempdir()?,
                };
                for turn in 0..2 {
                    if (round + turn) % 2 == 0 {
                        logs.push(log_rate(folder.path(), callers, *size, time)?);
                    } else {
                        raws.push(raw_rate(folder.path(), callers, *size, time)?);
                    }
                }
            }
            let ratios = logs.iter().zip(&raws).map(|(log, raw)| log / raw).collect();
            println!(
                "| {} | {size} | {} | {} | {:.2} | {} |",
                callers.name(),
                Spread::of(logs),
                Spread::of(raws),
                Spread::of(ratios),
                callers.bar()
            );
        }
    }
    Ok(())
}

fn log_rate(folder: &Path, callers: Callers, size: usize, time: Duration) -> Result<f64> {
    let (log, _) = Log::open(LogOptions::new(folder.join("log")))?;
    let record = || vec![NewRecord { kind: 1, body: vec![b'x'; size] }];
    // The first records and the preparation of the next segment are not measured.
    std::thread::sleep(Duration::from_millis(300));
    log.append_durable(record())?;
    let rate = match callers {
        Callers::Blocked(threads) => blocked(threads, time, || Ok(log.append_durable(record()).map(drop)?)),
        Callers::Pipelined => {
            let mut waiting = VecDeque::with_capacity(IN_FLIGHT);
            pipelined(time, || {
                waiting.push_back(log.append_batch(record())?.last);
                match waiting.len() < IN_FLIGHT {
                    true => Ok(()),
                    false => waiting.pop_front().map_or(Ok(()), |lsn| Ok(log.wait_durable_blocking(lsn)?)),
                }
            })
        }
    };
    log.close();
    std::fs::remove_dir_all(folder.join("log"))?;
    rate
}

fn raw_rate(folder: &Path, callers: Callers, size: usize, time: Duration) -> Result<f64> {
    let path = folder.join("raw");
    let mut file = RawFile::create(&path)?;
    let record = vec![b'x'; size + FRAME];
    std::thread::sleep(Duration::from_millis(300));
    file.append(&record)?;
    let rate = match callers {
        Callers::Blocked(1) => pipelined(time, || file.append(&record)),
        Callers::Blocked(threads) => {
            let log = RawGroups::start(file);
            let rate = blocked(threads, time, || {
                let (number, group) = log.give(&record);
                log.wait(number, group)
            });
            log.close()?;
            rate
        }
        Callers::Pipelined => {
            let log = RawGroups::start(file);
            let mut waiting = VecDeque::with_capacity(IN_FLIGHT);
            let rate = pipelined(time, || {
                waiting.push_back(log.give(&record));
                match waiting.len() < IN_FLIGHT {
                    true => Ok(()),
                    false => waiting.pop_front().map_or(Ok(()), |(number, group)| log.wait(number, group)),
                }
            });
            log.close()?;
            rate
        }
    };
    std::fs::remove_file(path)?;
    rate
}

/// Calls of one thread per second.
fn pipelined(time: Duration, mut append: impl FnMut() -> Result<()>) -> Result<f64> {
    let (begun, mut count) = (Instant::now(), 0u64);
    while begun.elapsed() < time {
        append()?;
        count += 1;
    }
    Ok(count as f64 / begun.elapsed().as_secs_f64())
}

/// Calls of all threads per second.
fn blocked(threads: usize, time: Duration, append: impl Fn() -> Result<()> + Sync) -> Result<f64> {
    let (stop, count) = (AtomicBool::new(false), AtomicU64::new(0));
    let begun = Instant::now();
    std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads)
            .map(|_| {
                scope.spawn(|| {
                    let mut mine = 0;
                    let result = loop {
                        if stop.load(Ordering::Relaxed) {
                            break Ok(());
                        }
                        if let Err(error) = append() {
                            break Err(error);
                        }
                        mine += 1;
                    };
                    count.fetch_add(mine, Ordering::Relaxed);
                    result
                })
            })
            .collect();
        std::thread::sleep(time);
        stop.store(true, Ordering::Relaxed);
        running.into_iter().try_for_each(|thread| thread.join().map_err(|_| anyhow!("a producer panicked"))?)
    })?;
    Ok(count.into_inner() as f64 / begun.elapsed().as_secs_f64())
}
