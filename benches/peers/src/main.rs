//! Forebay's log against other logs and stores. See `benches/peers/README.md`.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};

mod cell;
mod engines;
mod front;
mod plot;
mod publish;
mod report;
mod run;
mod stats;
mod syscalls;

/// Forebay's log against other logs and stores, interleaved in one run.
#[derive(Parser)]
struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs the cells, prints bars and tables.
    Run {
        /// Rounds; at least 5 for a verdict.
        #[arg(long, default_value_t = 5)]
        rounds: usize,
        /// Seconds of a cell.
        #[arg(long, default_value_t = 0.35)]
        seconds: f64,
        /// Where the logs are written; the system's temporary folder unless set.
        #[arg(long)]
        folder: Option<PathBuf>,
        /// Forebay's program (built with `--release`), for one publish at a time over MQTT; left out unless set.
        #[arg(long)]
        server: Option<PathBuf>,
        /// Only these engines.
        #[arg(long, value_delimiter = ',')]
        engines: Vec<String>,
        /// Only these works: blocked-N, grouped-N, flight-N, unsynced-N, read, publish.
        #[arg(long, value_delimiter = ',')]
        works: Vec<cell::Work>,
        /// Only these sizes of a record, bytes.
        #[arg(long, value_delimiter = ',')]
        sizes: Vec<usize>,
        /// Writes every measurement there, as JSON.
        #[arg(long)]
        json: Option<PathBuf>,
    },
    /// Prints bars and tables of an earlier run.
    Report {
        /// Its JSON.
        json: PathBuf,
    },
    /// Draws an earlier run.
    Plot {
        /// Its JSON.
        json: PathBuf,
        /// Folder of the pictures.
        folder: PathBuf,
    },
    /// Counts the syncs of each engine with strace.
    CheckSyscalls,
    /// Runs one cell in this process; what `run` does for each.
    #[command(hide = true)]
    Cell {
        /// Engine.
        engine: String,
        /// Work.
        work: cell::Work,
        /// Bytes of a record.
        size: usize,
        /// Seconds.
        seconds: f64,
        /// An empty folder.
        dir: PathBuf,
    },
}

fn main() -> Result<()> {
    match Options::parse().command {
        Command::Run { rounds, seconds, folder, server, engines, works, sizes, json } => {
            for name in &engines {
                engines::named(name)?;
            }
            let folder = folder.unwrap_or_else(std::env::temp_dir);
            let results = run::run(&run::Plan { rounds, seconds, folder, server, engines, works, sizes })?;
            print(&results);
            if let Some(path) = json {
                std::fs::write(&path, serde_json::to_string_pretty(&results)?)
                    .with_context(|| format!("writing {}", path.display()))?;
            }
        }
        Command::Report { json } => print(&load(&json)?),
        Command::Plot { json, folder } => plot::draw(&load(&json)?, &folder)?,
        Command::CheckSyscalls => print!("{}", syscalls::table()?),
        Command::Cell { engine, work, size, seconds, dir } => {
            let measured = cell::run(&engines::named(&engine)?, work, size, seconds, &dir)?;
            println!("{}", serde_json::to_string(&measured)?);
        }
    }
    Ok(())
}

fn load(path: &std::path::Path) -> Result<run::Results> {
    let text = std::fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("{} is not a run's JSON", path.display()))
}

fn print(results: &run::Results) {
    println!(
        "{}; load average {:.1} before, {:.1} after; {} rounds of {} s\n",
        results.machine, results.load.0, results.load.1, results.rounds, results.seconds
    );
    println!("{}\n{}", report::bars(results), report::tables(results));
}
