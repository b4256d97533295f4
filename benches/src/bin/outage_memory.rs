//! What a long outage costs in memory, and what sinks cost that have nothing to do: processor time of a Forebay whose sinks are connected
//! and idle, then its resident memory every ten seconds while all databases are down and publishers go on.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use forebay_benches::drain::{Database, Kind};
use forebay_benches::load::{self, Load};
use forebay_benches::servers::Server;

/// Memory during an outage, processor time of idle sinks.
#[derive(Parser)]
struct Options {
    /// The program.
    #[arg(long, default_value = "../target/release/forebay")]
    forebay: PathBuf,
    /// Seconds of the outage.
    #[arg(long, default_value_t = 600)]
    seconds: u64,
    /// Seconds of it that do not count for the slope: caches fill.
    #[arg(long, default_value_t = 120)]
    warm_up: u64,
    /// Seconds of idleness before it.
    #[arg(long, default_value_t = 60)]
    idle: u64,
    /// Publishes a second.
    #[arg(long, default_value_t = 20_000)]
    rate: u32,
    /// Bytes of a payload.
    #[arg(long, default_value_t = 64)]
    payload: usize,
    /// Where the log is written; a temporary folder unless set. Ten minutes take some 3 GB.
    #[arg(long)]
    folder: Option<PathBuf>,
    /// Servers: a sink to each.
    #[arg(long, value_delimiter = ',', default_value = "postgres,mysql,redis")]
    databases: Vec<Kind>,
}

/// How long the sinks may take to connect.
const CONNECT: Duration = Duration::from_secs(60);

fn main() -> Result<()> {
    let options = Options::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut databases, mut conf) = (Vec::new(), String::new());
    for kind in &options.databases {
        let database = runtime.block_on(Database::start(*kind))?;
        conf.push_str(&database.conf(None, 8));
        databases.push(database);
    }
    let folder = match &options.folder {
        Some(folder) => tempfile::tempdir_in(folder)?,
        None => tempfile::tempdir()?,
    };
    let server = Server::forebay_replicating(&options.forebay, folder, &conf)?;
    let load = Load {
        server: server.mqtt,
        publishers: 4,
        window: 1_000,
        payload: options.payload,
        warm_up: Duration::ZERO,
        time: Duration::from_secs(1),
        subscribers: 0,
        rate: Some(1_000),
        ..Load::default()
    };
    load::run(&load)?;
    let begun = Instant::now();
    loop {
        let lags = server.sink_metric("forebay_sink_lag_records")?;
        if lags.len() == databases.len() && lags.iter().all(|(_, lag)| *lag == 0.0) {
            break;
        }
        ensure!(begun.elapsed() < CONNECT, "not all sinks have stored their messages: {lags:?}");
        std::thread::sleep(Duration::from_millis(200));
    }
    // Upkeep of what has just been stored.
    std::thread::sleep(Duration::from_secs(3));
    let cpu = server.cpu_seconds()?;
    std::thread::sleep(Duration::from_secs(options.idle));
    let idle_ms = (server.cpu_seconds()? - cpu) * 1_000.0 / options.idle.max(1) as f64;
    println!(
        "idle, {} sinks connected: {idle_ms:.2} ms of processor time a second over {} s",
        databases.len(),
        options.idle
    );

    for database in &mut databases {
        database.set_killed(true)?;
    }
    let outage = Load { time: Duration::from_secs(options.seconds), rate: Some(options.rate), ..load };
    let cpu = server.cpu_seconds()?;
    let publishing = std::thread::spawn(move || load::run(&outage));
    let begun = Instant::now();
    let mut samples = Vec::new();
    println!("\n| s | resident MiB |\n|---|---|");
    while !publishing.is_finished() {
        let second = begun.elapsed().as_secs_f64();
        let resident = server.resident_kib()? as f64 / 1_024.0;
        println!("| {second:.0} | {resident:.1} |");
        samples.push((second, resident));
        let next = begun + Duration::from_secs(10) * u32::try_from(samples.len())?;
        while Instant::now() < next && !publishing.is_finished() {
            std::thread::sleep(Duration::from_millis(100));
        }
    }
    let report = publishing.join().ok().context("the publishers panicked")??;
    let us = (server.cpu_seconds()? - cpu) * 1e6 / report.total.max(1) as f64;
    println!(
        "\n{} messages in {} s ({:.0}/s), ack p50 {} us, p99 {} us, processor us a message {us:.2}",
        report.total, options.seconds, report.acknowledged, report.ack_p50, report.ack_p99
    );
    let counted: Vec<(f64, f64)> =
        samples.into_iter().filter(|(second, _)| *second >= options.warm_up as f64).collect();
    let most = counted.iter().map(|(_, mib)| *mib).fold(0.0, f64::max);
    let least = counted.iter().map(|(_, mib)| *mib).fold(f64::MAX, f64::min);
    let growth = slope(&counted) * 60.0;
    println!(
        "after {} s: {least:.1} to {most:.1} MiB resident, slope {growth:.2} MiB a minute ({:.2} bytes a message)",
        options.warm_up,
        growth * f64::from(1 << 20) / 60.0 / report.acknowledged.max(1.0)
    );
    println!("\nBars (issue): memory flat, processor time of idle sinks 0 (below 1 ms a second).");
    Ok(())
}

/// Least squares.
fn slope(samples: &[(f64, f64)]) -> f64 {
    let count = samples.len().max(1) as f64;
    let (x, y) = samples.iter().fold((0.0, 0.0), |(x, y), sample| (x + sample.0 / count, y + sample.1 / count));
    let (over, under) = samples.iter().fold((0.0, 0.0), |(over, under), sample| {
        (over + (sample.0 - x) * (sample.1 - y), under + (sample.0 - x).powi(2))
    });
    if under == 0.0 { 0.0 } else { over / under }
}
