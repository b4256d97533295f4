//! Rates of MQTT servers in one run: Mosquitto, Forebay, NATS' MQTT and the rumqttd crate, every QoS, one and many in flight, one to
//! many, many to one, and many filters.
//!
//! Each cell has a server of its own, started for it and killed after it, so that nothing runs beside what is measured. The
//! order rotates from round to round. Bars are ratios within a round: the machine's noise hits all of a round alike.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::Parser;
use forebay_benches::rates::{Cell, Comparison};
use forebay_benches::rivals::{Programs, Rival};
use forebay_benches::works::{WORKS, Work};
use forebay_benches::{bare, load};

/// How long the disk is measured alone in each round.
const BARE: Duration = Duration::from_secs(2);

/// Compares rates, latencies, processor time, and what is lost or comes twice.
#[derive(Parser)]
struct Options {
    /// Forebay's program.
    #[arg(long, env = "FOREBAY_BIN", default_value = "../target/release/forebay")]
    forebay: PathBuf,
    /// Mosquitto's program.
    #[arg(long, default_value = "/usr/sbin/mosquitto")]
    mosquitto: PathBuf,
    /// A nats-server; without it NATS is left out.
    #[arg(long)]
    nats: Option<PathBuf>,
    /// The program of the package `rumqttd/`.
    #[arg(long, default_value = "rumqttd/target/release/forebay-rumqttd")]
    rumqttd: PathBuf,
    /// Rounds.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Measured seconds of a cell.
    #[arg(long, default_value_t = 2.5)]
    seconds: f64,
    /// Seconds of load before measuring.
    #[arg(long, default_value_t = 1.0)]
    warm_up: f64,
    /// Works by their names: `qos<Q>-<publishers>x<in flight each>-<bytes>[-to<subscribers>][-filters<N>]`.
    #[arg(long, value_delimiter = ',', default_values_t = WORKS.map(str::to_owned))]
    works: Vec<String>,
    /// Whom to measure.
    #[arg(long, value_delimiter = ',', value_enum, default_values_t = [Rival::Mosquitto, Rival::Forebay, Rival::NatsAlways, Rival::Nats, Rival::Rumqttd])]
    rivals: Vec<Rival>,
}

fn main() -> Result<()> {
    let options = Options::parse();
    let works = options.works.iter().map(|name| name.parse()).collect::<Result<Vec<Work>>>()?;
    let programs = Programs {
        forebay: options.forebay.clone(),
        mosquitto: options.mosquitto.clone(),
        nats: options.nats.clone(),
        rumqttd: options.rumqttd.clone(),
    };
    let (mut measured, mut left_out) = (Vec::new(), Vec::new());
    for rival in &options.rivals {
        match rival.missing(&programs) {
            None => measured.push(*rival),
            Some(why) => left_out.push(format!("{} is left out: {why}", rival.name())),
        }
    }
    for line in &left_out {
        eprintln!("{line}");
    }
    anyhow::ensure!(!measured.is_empty(), "nobody is left to measure");
    let mut run = Comparison::default();
    for round in 0..options.rounds {
        run.bare.push(bare::write_and_sync_p50_us(BARE)?);
        for work in &works {
            for turn in 0..measured.len() {
                let Some(rival) = measured.get((round + turn) % measured.len()) else { continue };
                let cell = measure(&options, &programs, work, *rival, round);
                say(&cell);
                run.cells.push(cell);
            }
        }
    }
    println!(
        "{} rounds of {} s after {} s; median (smallest..largest). End to end: acknowledged and arrived everywhere, the lower of both \
         rates; ratios are those of it, within a round",
        options.rounds, options.seconds, options.warm_up
    );
    for line in &left_out {
        println!("\n{line}");
    }
    for work in &works {
        print!("{}", run.table(work, &measured));
    }
    print!("{}", run.bars(&works));
    print!("{}", run.behind(&works, &measured));
    Ok(())
}

/// A server that fails a work is reported with its reason, and the others go on.
fn measure(options: &Options, programs: &Programs, work: &Work, rival: Rival, round: usize) -> Cell {
    let report = || {
        let server = rival.start(programs)?;
        let (warm_up, time) = (Duration::from_secs_f64(options.warm_up), Duration::from_secs_f64(options.seconds));
        load::run_metered(&work.load(server.mqtt, warm_up, time), &|| server.cpu_seconds())
    };
    Cell { work: work.clone(), rival, round, report: report().map_err(|error| format!("{error:#}")) }
}

fn say(cell: &Cell) {
    let (round, work, name) = (cell.round + 1, cell.work.to_string(), cell.rival.name());
    match &cell.report {
        Ok(report) => eprintln!(
            "round {round}  {work:<27} {name:<23} {:>8.0}/s  p99 {:>8} us  {:>7.1} us CPU  {} lost  {} repeated",
            cell.work.rate(report),
            report.end_to_end_p99,
            Cell::cpu_us(report),
            report.lost,
            report.repeated
        ),
        Err(why) => eprintln!("round {round}  {work:<27} {name:<23} failed: {why}"),
    }
}
