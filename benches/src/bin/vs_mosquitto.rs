//! The same load for Mosquitto, Forebay without a sink and Forebay with its SQLite sink, round by round in one run.
//!
//! Each cell has a server of its own, started for it and killed after it, so that nothing runs beside what is measured. The
//! order rotates from round to round. Bars are ratios within a round: the machine's noise hits all of a round alike.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::Parser;
use forebay_benches::load::{self, Load, Report};
use forebay_benches::servers::Server;
use forebay_benches::stats::Spread;

/// Compares acknowledged messages per second and latencies.
#[derive(Parser)]
struct Options {
    /// Forebay's program.
    #[arg(long, env = "FOREBAY_BIN", default_value = "target/release/forebay")]
    forebay: PathBuf,
    /// Mosquitto's program.
    #[arg(long, default_value = "/usr/sbin/mosquitto")]
    mosquitto: PathBuf,
    /// Rounds.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Measured seconds of a cell.
    #[arg(long, default_value_t = 2.5)]
    seconds: f64,
    /// Seconds of load before measuring.
    #[arg(long, default_value_t = 1.0)]
    warm_up: f64,
    /// Publishers.
    #[arg(long, default_value_t = 4)]
    publishers: u32,
    /// Publishes of each that may wait for their PUBACK.
    #[arg(long, default_value_t = 64)]
    window: usize,
    /// Payloads, bytes.
    #[arg(long, value_delimiter = ',', default_value = "128,1024")]
    payloads: Vec<usize>,
    /// No subscriber: publishing only.
    #[arg(long)]
    publish_only: bool,
}

/// Who is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rival {
    Mosquitto,
    ForebayAlone,
    ForebayWithSqlite,
}

const RIVALS: [Rival; 3] = [Rival::Mosquitto, Rival::ForebayAlone, Rival::ForebayWithSqlite];

impl Rival {
    fn name(self) -> &'static str {
        match self {
            Rival::Mosquitto => "mosquitto, persistence",
            Rival::ForebayAlone => "forebay, no sink",
            Rival::ForebayWithSqlite => "forebay, SQLite sink",
        }
    }

    fn start(self, options: &Options) -> Result<Server> {
        match self {
            Rival::Mosquitto => Server::mosquitto(&options.mosquitto),
            Rival::ForebayAlone => Server::forebay(&options.forebay.canonicalize()?, false),
            Rival::ForebayWithSqlite => Server::forebay(&options.forebay.canonicalize()?, true),
        }
    }
}

/// One measurement.
struct Cell {
    rival: Rival,
    payload: usize,
    round: usize,
    report: Report,
    /// Processor time of the server per acknowledged message, microseconds.
    cpu_us: f64,
}

fn main() -> Result<()> {
    let options = Options::parse();
    let mut cells = Vec::new();
    for round in 0..options.rounds {
        for payload in &options.payloads {
            for turn in 0..RIVALS.len() {
                let rival = RIVALS[(round + turn) % RIVALS.len()];
                let cell = measure(&options, rival, *payload, round)?;
                eprintln!(
                    "round {} {payload:>5} B  {:<24} {:>7.0}/s  p99 {:>6} us  {:.1} us CPU",
                    round + 1,
                    rival.name(),
                    cell.report.acknowledged,
                    cell.report.ack_p99,
                    cell.cpu_us
                );
                cells.push(cell);
            }
        }
    }
    for payload in &options.payloads {
        print_table(&options, &cells, *payload);
    }
    Ok(())
}

fn measure(options: &Options, rival: Rival, payload: usize, round: usize) -> Result<Cell> {
    let server = rival.start(options)?;
    let before = server.cpu_seconds()?;
    let report = load::run(&Load {
        server: server.mqtt,
        publishers: options.publishers,
        window: options.window,
        payload,
        warm_up: Duration::from_secs_f64(options.warm_up),
        time: Duration::from_secs_f64(options.seconds),
        subscriber: !options.publish_only,
        rate: None,
    })?;
    let cpu_us = (server.cpu_seconds()? - before) * 1e6 / report.total.max(1) as f64;
    Ok(Cell { rival, payload, round, report, cpu_us })
}

fn print_table(options: &Options, cells: &[Cell], payload: usize) {
    let of = |rival: Rival| cells.iter().filter(move |cell| cell.rival == rival && cell.payload == payload);
    println!(
        "\n{payload} B, {} publishers x {} in flight, QoS 1, {}, {} rounds of {} s; median (smallest..largest)\n",
        options.publishers,
        options.window,
        if options.publish_only { "no subscriber" } else { "one subscriber QoS 1" },
        options.rounds,
        options.seconds
    );
    println!(
        "| server | acknowledged/s | of mosquitto | delivered/s | ack p50 us | ack p99 us | e2e p99 us | CPU us/message | lost |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    for rival in RIVALS {
        let over = |value: fn(&Cell) -> f64| Spread::of(of(rival).map(value).collect());
        let ratios = of(rival).filter_map(|cell| {
            let base = of(Rival::Mosquitto).find(|other| other.round == cell.round)?;
            Some(cell.report.acknowledged / base.report.acknowledged)
        });
        let lost: u64 = of(rival).map(|cell| cell.report.lost).sum();
        println!(
            "| {} | {} | {:.2} | {} | {} | {} | {} | {:.1} | {lost} |",
            rival.name(),
            over(|cell| cell.report.acknowledged),
            Spread::of(ratios.collect()),
            over(|cell| cell.report.delivered),
            over(|cell| f64::from(cell.report.ack_p50)),
            over(|cell| f64::from(cell.report.ack_p99)),
            over(|cell| f64::from(cell.report.end_to_end_p99)),
            over(|cell| cell.cpu_us),
        );
    }
}
