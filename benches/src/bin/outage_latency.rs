//! What publishers notice of a database that is down: nothing. Time from PUBLISH to PUBACK at a moderate rate, with the database up and
//! with it down, in turns on the same running Forebay.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use clap::Parser;
use forebay_benches::drain::{Database, Kind};
use forebay_benches::load::{self, Load, Report};
use forebay_benches::servers::Server;
use forebay_benches::stats::Spread;

/// Publisher latency with the database up and down.
#[derive(Parser)]
struct Options {
    /// The program.
    #[arg(long, default_value = "../target/release/forebay")]
    forebay: PathBuf,
    /// Rounds; in odd ones the database is suspended (it accepts connections and answers nothing), in the others killed.
    #[arg(long, default_value_t = 10)]
    rounds: usize,
    /// Seconds of each cell.
    #[arg(long, default_value_t = 4.0)]
    seconds: f64,
    /// Publishes a second.
    #[arg(long, default_value_t = 3_000)]
    rate: u32,
    /// Bytes of a payload.
    #[arg(long, default_value_t = 200)]
    payload: usize,
    /// Servers.
    #[arg(long, value_delimiter = ',', default_value = "postgres,mariadb,redis-aof")]
    databases: Vec<Kind>,
}

/// How long the sink may take to catch up between two cells.
const CATCH_UP: Duration = Duration::from_secs(120);

fn main() -> Result<()> {
    let options = Options::parse();
    let mut rows = Vec::new();
    for kind in &options.databases {
        rows.push(measure(*kind, &options)?);
    }
    println!(
        "\n{} publishes/s of {} B with QoS 1, {} rounds of {} s; median (smallest..largest)\n",
        options.rate, options.payload, options.rounds, options.seconds
    );
    println!("| database | p50 us up | down | down / up | p99 us up | down | down / up |");
    println!("|---|---|---|---|---|---|---|");
    rows.iter().for_each(|row| println!("{row}"));
    println!("\nBars (issue): p50 at most 1.1, p99 at most 1.5.");
    Ok(())
}

/// One figure of a report.
type Figure = fn(&Report) -> u32;

fn measure(kind: Kind, options: &Options) -> Result<String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut database = runtime.block_on(Database::start(kind))?;
    let server = Server::forebay_replicating(&options.forebay, tempfile::tempdir()?, &database.conf(None, 8))?;
    let cell = |seconds: f64| {
        load::run(&Load {
            server: server.mqtt,
            publishers: 4,
            window: 1_000,
            payload: options.payload,
            warm_up: Duration::from_millis(500),
            time: Duration::from_secs_f64(seconds),
            subscribers: 0,
            rate: Some(options.rate),
            ..Load::default()
        })
    };
    cell(options.seconds)?;
    let (mut up, mut down): (Vec<Report>, Vec<Report>) = (Vec::new(), Vec::new());
    for round in 0..options.rounds {
        for turn in 0..2 {
            let is_down = (turn + round) % 2 == 1;
            if !is_down {
                up.push(cell(options.seconds)?);
                continue;
            }
            let suspended = round % 2 == 1;
            if suspended {
                database.set_suspended(true)?
            } else {
                database.set_killed(true)?
            }
            down.push(cell(options.seconds)?);
            if suspended {
                database.set_suspended(false)?
            } else {
                database.set_killed(false)?
            }
            caught_up(&server)?;
        }
        if let (Some(up), Some(down)) = (up.last(), down.last()) {
            eprintln!(
                "{}, round {round}: p50 {} up, {} down; p99 {} up, {} down us",
                database.names().0,
                up.ack_p50,
                down.ack_p50,
                up.ack_p99,
                down.ack_p99
            );
        }
    }
    let of = |all: &[Report], value: fn(&Report) -> u32| Spread::of(all.iter().map(|r| f64::from(value(r))).collect());
    let ratio = |value: fn(&Report) -> u32| {
        let ratios = down.iter().zip(&up).map(|(down, up)| f64::from(value(down)) / f64::from(value(up).max(1)));
        Spread::of(ratios.collect())
    };
    let (p50, p99): (Figure, Figure) = (|r| r.ack_p50, |r| r.ack_p99);
    Ok(format!(
        "| {} | {} | {} | {:.2} | {} | {} | {:.2} |",
        database.names().0,
        of(&up, p50),
        of(&down, p50),
        ratio(p50),
        of(&up, p99),
        of(&down, p99),
        ratio(p99)
    ))
}

/// Waits until nothing waits for the database.
fn caught_up(server: &Server) -> Result<()> {
    let begun = Instant::now();
    loop {
        let lags = server.sink_metric("forebay_sink_lag_records")?;
        if !lags.is_empty() && lags.iter().all(|(_, lag)| *lag == 0.0) {
            return Ok(());
        }
        ensure!(begun.elapsed() < CATCH_UP, "the sink has not caught up within {CATCH_UP:?}: {lags:?}");
        std::thread::sleep(Duration::from_millis(200));
    }
}
