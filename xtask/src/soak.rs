//! `cargo xtask soak`: the outages of `tests/outages.rs`, for longer.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};

use crate::{services, shell, steps};

/// How long, on what, and what happens.
#[derive(Debug, Args)]
pub struct Options {
    /// Rounds of kills for each database.
    #[arg(long, default_value_t = 200)]
    rounds: u32,
    /// How long a database is down under heavy load, s.
    #[arg(long, default_value_t = 60)]
    seconds: u32,
    /// Messages a second meanwhile; what each database can bear where it is not given.
    #[arg(long)]
    rate: Option<u32>,
    /// Only this database (may be given several times).
    #[arg(long, value_enum)]
    database: Vec<Database>,
    /// Only this outage (may be given several times).
    #[arg(long, value_enum)]
    outage: Vec<Outage>,
    /// Decides moments and blows; from the clock where it is not given.
    #[arg(long)]
    seed: Option<u64>,
    /// Databases at a time: while one of them is down its cores are idle.
    #[arg(long, default_value_t = 2)]
    jobs: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Database {
    Mariadb,
    Mysql,
    Postgresql,
    Redis,
    RedisSentinel,
    RedisCluster,
    Mongodb,
    Cassandra,
    Influxdb,
    Opentsdb,
    Dynamodb,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Outage {
    /// Forebay is killed.
    KillForebay,
    /// The server that takes writes is killed.
    KillDatabase,
    /// It accepts connections and answers nothing.
    SuspendDatabase,
    /// Both are killed.
    KillBoth,
    /// All servers of the database are down for `--seconds` under load.
    Down,
}

/// A value's name on the command line.
fn name(value: &impl ValueEnum) -> String {
    value.to_possible_value().map(|known| known.get_name().to_owned()).unwrap_or_default()
}

/// Runs them; each story ends with a line of counts.
///
/// # Errors
/// Where one failed.
pub fn run(options: &Options) -> Result<()> {
    let databases = if options.database.is_empty() { Database::value_variants() } else { options.database.as_slice() };
    let outages = if options.outage.is_empty() { Outage::value_variants() } else { options.outage.as_slice() };
    let kills: Vec<String> = outages.iter().filter(|outage| **outage != Outage::Down).map(name).collect();
    let seed = match options.seed {
        Some(seed) => seed,
        None => SystemTime::now().duration_since(UNIX_EPOCH).context("reading the clock")?.as_micros().try_into()?,
    };
    println!("seed {seed}");
    let _servers = services::ForTests::swept()?;
    let mut command = shell::cargo()?;
    // With the feature, as `cargo xtask test` compiles it: nothing is built twice.
    command.args(["test", "--package", "forebay", "--features", steps::SUITE, "--test", "outages", "--locked"]);
    command.args(["--", "--nocapture"]);
    command.args(["--test-threads", &options.jobs.to_string()]);
    for database in databases {
        let module = name(database).replace('-', "_");
        if !kills.is_empty() && options.rounds > 0 {
            command.arg(format!("{module}::holds_exactly_the_logs_messages_after_kills"));
        }
        if outages.contains(&Outage::Down) {
            command.arg(format!("{module}::holds_exactly_the_logs_messages_after_it_was_down"));
        }
    }
    command.env("FOREBAY_TEST_OUTAGE_ROUNDS", options.rounds.to_string());
    command.env("FOREBAY_TEST_OUTAGE_SECONDS", options.seconds.to_string());
    if let Some(rate) = options.rate {
        command.env("FOREBAY_TEST_OUTAGE_RATE", rate.to_string());
    }
    command.env("FOREBAY_TEST_SEED", seed.to_string());
    if !kills.is_empty() {
        command.env("FOREBAY_TEST_OUTAGES", kills.join(","));
    }
    shell::run(&mut command)
}
