//! How fast waiting messages are stored, beside each database's own bulk way on the same rows, and beside a plain writer.
//!
//! A log is filled once. In each round every database of the list gets its turn: the sink of a rule `on_message_publish` with the settings
//! that a user has without any drains the log into the server's empty table, and the server's own bulk way fills the same table; who
//! begins changes from round to round. Both wait for the last commit, on the same server with the same settings.

use std::time::Duration;

use anyhow::{Result, ensure};
use clap::Parser;
use forebay_benches::drain::{Backlog, Counter, Database, Draining, Kind, Rows};
use forebay_benches::stats::Spread;
use tempfile::TempDir;

/// Drains a log into databases, in turns with their own bulk ways.
#[derive(Parser)]
struct Options {
    /// Messages in the log; fewer for databases that would take minutes.
    #[arg(long, default_value_t = 1_000_000)]
    messages: u64,
    /// Topics.
    #[arg(long, default_value_t = 1_000)]
    topics: u64,
    /// Bytes of a payload.
    #[arg(long, default_value_t = 200)]
    payload: usize,
    /// Rounds.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Messages of the plain writer, which stores them one by one.
    #[arg(long, default_value_t = 10_000)]
    plain: u64,
    /// Servers.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "postgres,mysql,mariadb,redis,mongo-durable,cassandra,dynamodb,influxdb,opentsdb"
    )]
    databases: Vec<Kind>,
    /// The pool's connections.
    #[arg(long, default_value_t = 8)]
    pool_size: usize,
    /// Repeats the sink's turn only, to look at it with other tools.
    #[arg(long)]
    sink_only: bool,
}

/// One database's turns.
struct Turns {
    database: Database,
    messages: f64,
    sink: Vec<Draining>,
    bulk: Vec<f64>,
    /// Processor time of the server for each message, us: of the sink's turns and of the bulk way's.
    server_us: [Vec<f64>; 2],
    plain: f64,
    trips: f64,
}

fn main() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(run(Options::parse()))
}

async fn run(options: Options) -> Result<()> {
    let mut done = Vec::new();
    let mut log: Option<(TempDir, Backlog)> = None;
    for kind in &options.databases {
        // One server at a time, so that none costs the others memory or time.
        let database = Database::start(*kind).await?;
        let messages = options.messages.min(database.most());
        let (folder, backlog) = match log.take().filter(|(_, backlog)| backlog.rows().messages == messages) {
            Some(same) => same,
            None => {
                let folder = tempfile::tempdir()?;
                let rows = Rows { messages, topics: options.topics, payload: options.payload };
                let backlog = Backlog::fill(folder.path(), rows).await?;
                eprintln!("{} messages of {} B are in the log", rows.messages, rows.payload);
                (folder, backlog)
            }
        };
        let mut turns = turns(database, &backlog, &options).await?;
        turns.database.stop();
        done.push(turns);
        log = Some((folder, backlog));
    }
    report(&options, &done);
    Ok(())
}

async fn turns(mut database: Database, backlog: &Backlog, options: &Options) -> Result<Turns> {
    let (rows, name) = (backlog.rows(), database.names().0);
    if !options.sink_only {
        database.prepare(rows, options.pool_size)?;
    }
    // The sink makes the tables. This turn counts round trips as well, through a link that costs time.
    let counter = Counter::to(database.address()).await?;
    let (mut first, mut last) = (None, (0, 0));
    let wanted = rows.messages.min(300_000);
    let through = database.conf(Some(counter.port()), options.pool_size);
    let counted = backlog.drain_watched(&through, wanted, |stored| {
        if stored > wanted / 4 && first.is_none() {
            first = Some((stored, counter.trips()));
        }
        last = (stored, counter.trips());
    });
    counted.await?;
    let first = first.unwrap_or_default();
    let trips = (last.1 - first.1) as f64 / (last.0 - first.0).max(1) as f64 * 1_000.0;
    drop(counter);
    let messages = rows.messages as f64;
    let (sink, bulk, server_us) = (Vec::new(), Vec::new(), Default::default());
    let mut turns = Turns { database, messages, sink, bulk, server_us, plain: 0.0, trips };
    for round in 0..options.rounds {
        for turn in 0..2 {
            let database = &turns.database;
            let sink = (turn + round) % 2 == 0;
            if options.sink_only && !sink {
                continue;
            }
            database.clear().await?;
            let conf = database.conf(None, options.pool_size);
            let cpu = database.cpu_ms()?;
            if sink {
                turns.sink.push(backlog.drain(&conf, rows.messages).await?);
            } else {
                turns.bulk.push(database.bulk().await?);
            }
            // Connections that end are counted once they are gone.
            tokio::time::sleep(Duration::from_millis(50)).await;
            let used = (database.cpu_ms()? - cpu) * 1_000.0 / messages;
            let [of_sink, of_bulk] = &mut turns.server_us;
            if sink {
                of_sink.push(used)
            } else {
                of_bulk.push(used)
            }
            let count = database.count().await?;
            ensure!(count == rows.messages, "{name} has {count} messages of {}", rows.messages);
        }
        if let Some(sink) = turns.sink.last() {
            let bulk = turns.bulk.last().map_or(0.0, |seconds| messages / seconds);
            let us = turns.server_us.each_ref().map(|all| all.last().copied().unwrap_or_default());
            eprintln!(
                "{name}, round {round}: sink {:.0}/s, bulk {bulk:.0}/s, ratio {:.2}; processor us a message: sink {:.2}, its server {:.2}, bulk's {:.2}",
                sink.rate(),
                sink.rate() / bulk,
                sink.cpu_ms * 1_000.0 / messages,
                us[0],
                us[1]
            );
        }
    }
    if !options.sink_only && options.plain > 0 {
        turns.database.clear().await?;
        let few = Rows { messages: options.plain.min((rows.messages / 50).max(1)), ..rows };
        turns.plain = few.messages as f64 / turns.database.plain(few).await?;
    }
    Ok(turns)
}

fn report(options: &Options, all: &[Turns]) {
    println!(
        "\nUp to {} messages of {} B over {} topics, on_message_publish, pool_size {}, {} rounds; median (smallest..largest)\n",
        options.messages, options.payload, options.topics, options.pool_size, options.rounds
    );
    println!(
        "| database | messages | its own way | sink/s | its own/s | sink / its own | bar | plain writer/s | sink / plain | round trips per 1,000 | sink's CPU us/message | server's CPU us/message, sink | its own |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|---|---|");
    for turns in all {
        let ((name, way), messages) = (turns.database.names(), turns.messages);
        let rates: Vec<f64> = turns.sink.iter().map(Draining::rate).collect();
        let bulk: Vec<f64> = turns.bulk.iter().map(|seconds| messages / seconds).collect();
        let ratios = Spread::of(rates.iter().zip(&bulk).map(|(sink, bulk)| sink / bulk).collect());
        let cpu = Spread::of(turns.sink.iter().map(|sink| sink.cpu_ms * 1_000.0 / messages).collect());
        let [of_sink, of_bulk] = turns.server_us.each_ref().map(|all| Spread::of(all.clone()));
        let rate = Spread::of(rates);
        println!(
            "| {name} | {messages} | {way} | {rate} | {} | {ratios:.2} | {} | {:.0} | {:.1} | {:.1} | {cpu:.2} | {of_sink:.2} | {of_bulk:.2} |",
            Spread::of(bulk),
            turns.database.bar(),
            turns.plain,
            rate.median / turns.plain,
            turns.trips,
        );
    }
    println!("\nBars (issues): PostgreSQL 0.6 of COPY, DynamoDB 0.5, the others 0.8.");
}
