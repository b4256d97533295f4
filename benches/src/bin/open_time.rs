//! How long opening takes after the writer was killed under load, for a log of 1 GiB and one of 8 GiB, beside a sequential scan of
//! 1 GiB of the same log: the least that a log without seals has to do.
//!
//! This program starts itself: as the writer that is killed, and as the opener whose memory is looked at.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::{Parser, ValueEnum};
use forebay_benches::cpu::thread_ms;
use forebay_benches::stats::Spread;
use forebay_engine::event::{Published, SessionOpened, Subscribed, SubscriptionOptions};
use forebay_engine::log::AppendError;
use forebay_engine::rules::Rules;
use forebay_engine::{Engine, EngineOptions, Event, Log, LogOptions, Message, NewRecord, QoS};

/// Opening after SIGKILL.
#[derive(Parser)]
struct Options {
    /// Sizes of the log, MiB.
    #[arg(long, value_delimiter = ',', default_value = "1024,8192")]
    sizes: Vec<u64>,
    /// Opens of each, in turns.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// What is opened.
    #[arg(long, value_delimiter = ',', default_value = "log,engine")]
    what: Vec<What>,
    /// Persistent sessions with a subscription each that the engine's state holds.
    #[arg(long, default_value_t = 10_000)]
    sessions: u64,
    /// Where the logs are written; a temporary folder unless set.
    #[arg(long)]
    folder: Option<PathBuf>,
    /// Fills a folder until it has so many MiB, says so, and goes on for ever.
    #[arg(long, hide = true, requires = "in_folder")]
    fill: Option<u64>,
    /// Opens a folder once and says what it took.
    #[arg(long, hide = true, requires = "in_folder")]
    open: bool,
    #[arg(long, hide = true)]
    in_folder: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum What {
    Log,
    Engine,
}

impl What {
    fn name(self) -> &'static str {
        if self == What::Log { "log" } else { "engine" }
    }
}

fn engine_options(folder: &Path) -> EngineOptions {
    let mut options = EngineOptions::new(folder);
    options.rules = Rules { publish: vec![("#".into(), 1)], ..Rules::default() };
    options.retention.bytes = 1 << 40;
    options
}

/// Body sizes between 128 B and 1 KiB, in an order that repeats.
fn sizes() -> impl Iterator<Item = usize> {
    let mut state = 0x2545_f491_u32;
    std::iter::repeat_with(move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        128 + (state >> 16) as usize % 897
    })
}

/// Appends for ever; says once that the log has `mib`.
fn fill(what: What, folder: &Path, mib: u64, sessions: u64) -> Result<()> {
    let mut sizes = sizes();
    let mut written = 0u64;
    let mut said = false;
    let mut grown = |bytes: u64| {
        written += bytes;
        if !said && written >= mib << 20 {
            said = true;
            println!("filled");
        }
    };
    match what {
        What::Log => {
            let (log, _) = Log::open(LogOptions::new(folder.join("log")))?;
            loop {
                let batch: Vec<NewRecord> =
                    (0..64).map(|_| NewRecord { kind: 7, body: vec![b'x'; sizes.next().unwrap_or(128)] }).collect();
                let bytes = batch.iter().map(|r| r.body.len() as u64 + 40).sum();
                match log.append_batch(batch) {
                    Ok(_) => grown(bytes),
                    Err(AppendError::Full { .. }) => std::thread::sleep(Duration::from_micros(200)),
                    Err(error) => return Err(error.into()),
                }
            }
        }
        What::Engine => {
            let (engine, _) = Engine::open(engine_options(folder))?;
            if engine.session_count() == 0 {
                make_sessions(&engine, sessions)?;
            }
            let mut n = 0u64;
            loop {
                let batch: Vec<Event> = (0..64)
                    .map(|_| {
                        n += 1;
                        publish(&format!("sensors/{}", n % 1000), sizes.next().unwrap_or(128))
                    })
                    .collect();
                let bytes = 64 * (576 + 80);
                match engine.append(&batch) {
                    Ok(_) => grown(bytes),
                    Err(AppendError::Full { .. }) => std::thread::sleep(Duration::from_micros(200)),
                    Err(error) => return Err(error.into()),
                }
            }
        }
    }
}

fn make_sessions(engine: &Engine, sessions: u64) -> Result<()> {
    for i in 0..sessions {
        let client = format!("client-{i:07}");
        let opened = SessionOpened {
            client: client.as_str().into(),
            epoch: 1,
            resumed: false,
            expiry_s: 86_400,
            will: None,
            username: "device".into(),
            peer: "10.0.0.1:1000".into(),
        };
        let subscribed = Subscribed {
            client: client.as_str().into(),
            epoch: 1,
            filter: format!("devices/{i:07}/commands").into(),
            options: SubscriptionOptions::of_qos(QoS::AtLeastOnce),
            by_proxy: false,
        };
        while let Err(error) =
            engine.append(&[Event::SessionOpened(opened.clone()), Event::Subscribed(subscribed.clone())])
        {
            if !matches!(error, AppendError::Full { .. }) {
                return Err(error.into());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    Ok(())
}

fn publish(topic: &str, bytes: usize) -> Event {
    let message = Message {
        topic: topic.into(),
        payload: vec![b'x'; bytes].into(),
        qos: QoS::AtLeastOnce,
        publisher: "publisher".into(),
        ..Message::default()
    };
    Event::Published(Published { message, packet_id: None, epoch: 0 })
}

/// Opens, and says: milliseconds, milliseconds of the log's part, processor milliseconds, records replayed, peak memory in KiB.
fn open(what: What, folder: &Path) -> Result<()> {
    let (begun, cpu) = (Instant::now(), thread_ms()?);
    let (log_ms, replayed) = match what {
        What::Log => {
            let (log, report) = Log::open(LogOptions::new(folder.join("log")))?;
            std::mem::forget(log);
            (report.took, 0)
        }
        What::Engine => {
            let (engine, report) = Engine::open(engine_options(folder))?;
            std::mem::forget(engine);
            (report.log.took, report.replayed)
        }
    };
    let (took, cpu) = (begun.elapsed(), thread_ms()? - cpu);
    let status = fs::read_to_string("/proc/self/status")?;
    let peak = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).context("no VmHWM")?;
    let peak = peak.trim().trim_end_matches(" kB");
    println!("opened {} {} {cpu} {replayed} {peak}", took.as_secs_f64() * 1e3, log_ms.as_secs_f64() * 1e3);
    Ok(())
}

/// Starts this program once more, and waits for its line.
fn start(what: What, folder: &Path, arguments: &[&str]) -> Result<(Child, String)> {
    let mut child = Command::new(std::env::current_exe()?)
        .args(["--what", what.name(), "--in-folder"])
        .arg(folder)
        .args(arguments)
        .stdout(Stdio::piped())
        .spawn()?;
    let mut line = String::new();
    BufReader::new(child.stdout.take().context("no stdout")?).read_line(&mut line)?;
    if line.is_empty() {
        bail!("the child said nothing: {}", child.wait()?);
    }
    Ok((child, line))
}

fn kill(mut child: Child) -> Result<()> {
    child.kill()?; // SIGKILL
    child.wait()?;
    Ok(())
}

#[derive(Clone, Debug)]
struct Opened {
    ms: f64,
    log_ms: f64,
    cpu_ms: f64,
    replayed: f64,
    peak_mib: f64,
}

fn measure(what: What, folder: &Path) -> Result<Opened> {
    let (child, line) = start(what, folder, &["--open"])?;
    kill(child)?;
    let numbers: Vec<f64> = line.split_whitespace().skip(1).filter_map(|n| n.parse().ok()).collect();
    let [ms, log_ms, cpu_ms, replayed, peak] = numbers[..] else { bail!("the child said {line:?}") };
    Ok(Opened { ms, log_ms, cpu_ms, replayed, peak_mib: peak / 1024.0 })
}

#[derive(Clone, Copy, Debug)]
struct Scanned {
    ms: f64,
    cpu_ms: f64,
}

/// Reads 1 GiB of segments in order, in pieces of 1 MiB; with `check` their checksums too.
fn scan(folder: &Path, check: bool) -> Result<Scanned> {
    let mut files: Vec<PathBuf> = fs::read_dir(folder.join("log"))?.flatten().map(|entry| entry.path()).collect();
    files.retain(|path| path.extension().is_some_and(|e| e == "seg"));
    files.sort();
    let mut piece = vec![0; 1 << 20];
    let (mut left, mut hasher) = (1usize << 30, crc32fast::Hasher::new());
    let (begun, cpu) = (Instant::now(), thread_ms()?);
    for path in files {
        let mut file = File::open(path)?;
        while left > 0 {
            let n = file.read(&mut piece)?;
            if n == 0 {
                break;
            }
            if check {
                hasher.update(piece.get(..n).unwrap_or_default());
            }
            left = left.saturating_sub(n);
        }
    }
    std::hint::black_box(hasher.finalize());
    Ok(Scanned { ms: begun.elapsed().as_secs_f64() * 1e3, cpu_ms: thread_ms()? - cpu })
}

fn main() -> Result<()> {
    let options = Options::parse();
    if let (Some(folder), Some(what)) = (&options.in_folder, options.what.first()) {
        return match options.fill {
            Some(mib) => fill(*what, folder, mib, options.sessions),
            None => open(*what, folder),
        };
    }
    println!(
        "{} opens of each in turns, each after a SIGKILL under load; median (smallest..largest)\n",
        options.rounds
    );
    println!(
        "| what | log MiB | open ms | of it the log | processor ms | replayed records | peak MiB | scan of 1 GiB, read only, ms | with checksums, ms | open / checked scan | the same, processor time |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|");
    for what in &options.what {
        let mut folders = Vec::new();
        for mib in &options.sizes {
            let folder = match &options.folder {
                Some(folder) => tempfile::tempdir_in(folder)?,
                None => tempfile::tempdir()?,
            };
            let sessions = options.sessions.to_string();
            let (child, _) = start(*what, folder.path(), &["--fill", &mib.to_string(), "--sessions", &sessions])?;
            kill(child)?;
            folders.push((folder, *mib, Vec::new(), Vec::new(), Vec::new()));
        }
        for round in 0..options.rounds {
            for turn in 0..folders.len() {
                let at = (round + turn) % folders.len();
                let Some((folder, _, opened, reads, checks)) = folders.get_mut(at) else { continue };
                if round > 0 {
                    // At least a segment more, so that the kill comes in the midst of what a run does.
                    let (child, _) = start(*what, folder.path(), &["--fill", "100"])?;
                    kill(child)?;
                }
                opened.push(measure(*what, folder.path())?);
                reads.push(scan(folder.path(), false)?);
                checks.push(scan(folder.path(), true)?);
            }
        }
        for (_, mib, opened, reads, checks) in folders {
            let of = |f: fn(&Opened) -> f64| Spread::of(opened.iter().map(f).collect());
            let ratio = |of: fn(&Opened) -> f64, by: fn(&Scanned) -> f64| {
                Spread::of(opened.iter().zip(&checks).map(|(opened, scan)| of(opened) / by(scan)).collect())
            };
            let scanned = |scans: &[Scanned]| Spread::of(scans.iter().map(|scan| scan.ms).collect());
            println!(
                "| {} | {mib} | {:.0} | {:.0} | {:.0} | {:.0} | {:.0} | {:.0} | {:.0} | {:.2} | {:.2} |",
                what.name(),
                of(|o| o.ms),
                of(|o| o.log_ms),
                of(|o| o.cpu_ms),
                of(|o| o.replayed),
                of(|o| o.peak_mib),
                scanned(&reads),
                scanned(&checks),
                ratio(|o| o.ms, |s| s.ms),
                ratio(|o| o.cpu_ms, |s| s.cpu_ms),
            );
        }
    }
    Ok(())
}
