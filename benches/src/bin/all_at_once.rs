//! All databases at once on one log, one of them down at a time: whether the others notice.
//!
//! First it is seen what each server bears: sinks drain a log into all of them for some seconds, at once, for they share one machine. Then
//! messages come at a steady rate, each sink has rules for a share of what its server bore (of topics by halves, see `drain/mix.rs`), and
//! the servers are killed and started again, one after the other. At the end the lag is 0 and each database has all messages of its rules.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use forebay_benches::drain::{Backlog, Database, Kind, Mix, Rows, UNITS};
use forebay_benches::stats::percentile;
use forebay_sinks::Sinks;

/// All databases at once, one of them down at a time.
#[derive(Parser)]
struct Options {
    /// Messages a second on the log.
    #[arg(long, default_value_t = 5_000)]
    rate: u64,
    /// Seconds of that at least.
    #[arg(long, default_value_t = 180)]
    seconds: u64,
    /// What each sink takes, of what its server bore.
    #[arg(long, default_value_t = 0.3)]
    share: f64,
    /// Seconds for which it is measured what they bear.
    #[arg(long, default_value_t = 10)]
    measured: u64,
    /// Seconds for which a server is down before it is started again.
    #[arg(long, default_value_t = 10)]
    down: u64,
    /// Bytes of a payload.
    #[arg(long, default_value_t = 200)]
    payload: usize,
    /// Each pool's connections.
    #[arg(long, default_value_t = 4)]
    pool_size: usize,
    /// Databases. Those whose servers forget what they have stored when they are killed are none for this.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "sqlite,redis-aof,mysql,postgres,mongo-durable,cassandra,dynamodb-durable,influxdb,opentsdb"
    )]
    databases: Vec<Kind>,
    /// Seconds of a row of the table.
    #[arg(long, default_value_t = 5)]
    step: u64,
}

/// Between two looks at the lags.
const LOOK: Duration = Duration::from_millis(250);

/// How long the sinks may take at the end.
const CATCH_UP: Duration = Duration::from_secs(600);

/// A database and its part of the messages.
struct Part {
    database: Database,
    name: &'static str,
    bears: f64,
    units: u64,
    outage: Option<Outage>,
}

/// When its servers were down, s since the beginning.
#[derive(Clone, Copy)]
struct Outage {
    down: f64,
    up: f64,
    /// When its lag was below a second again.
    over: f64,
}

/// The lags at one moment, in records.
struct Look {
    at: f64,
    lags: Vec<u64>,
}

fn main() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(run(Options::parse()))
}

async fn run(options: Options) -> Result<()> {
    let mut parts = Vec::new();
    for kind in &options.databases {
        let database = Database::start(*kind).await?;
        let name = database.names().0.split([',', ' ']).next().unwrap_or_default();
        let sink = database.sink();
        ensure!(parts.iter().all(|part: &Part| part.database.sink() != sink), "two databases for the sink {sink}");
        parts.push(Part { database, name, bears: 0.0, units: 0, outage: None });
    }
    measure(&mut parts, &options).await?;

    let folder = tempfile::tempdir()?;
    let rows = Rows { messages: 0, topics: 50, payload: options.payload };
    let log = Backlog::empty(folder.path(), rows)?;
    let conf: String = parts
        .iter()
        .map(|part| part.database.conf_for(None, options.pool_size, &Mix::filters(part.units)))
        .collect::<Vec<_>>()
        .join("\n");
    let sinks = Arc::new(log.start(&conf)?);
    let order: Vec<String> = parts.iter().map(|part| part.database.sink()).collect();
    let begun = Instant::now();
    let (stop, ended) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let looking = tokio::spawn(look(sinks.clone(), order, begun, ended.clone()));
    let (engine, told, rate) = (log.engine().clone(), stop.clone(), options.rate);
    let publishing = tokio::spawn(async move { Mix::new(rows).publish(engine, rate, &told).await });

    let victims = parts.iter().filter(|part| part.database.has_server()).count();
    let slot = options.seconds as f64 / (victims + 1) as f64;
    until(begun, slot).await;
    for part in parts.iter_mut().filter(|part| part.database.has_server()) {
        let down = begun.elapsed().as_secs_f64();
        part.database.set_killed(true)?;
        until(begun, down + options.down as f64).await;
        // This thread is no worker of the runtime: the sinks go on meanwhile.
        part.database.set_killed(false)?;
        let up = begun.elapsed().as_secs_f64();
        part.outage = Some(Outage { down, up, over: f64::INFINITY });
        eprintln!("{} was down from {down:.0} to {up:.0} s", part.name);
        until(begun, down + slot).await;
    }
    until(begun, options.seconds as f64).await;
    stop.store(true, Ordering::Relaxed);
    let mix = publishing.await??;
    let run = Run { rate: mix.all() as f64 / begun.elapsed().as_secs_f64(), published_for: begun.elapsed() };
    let caught_up = caught_up(&sinks).await?;
    tokio::time::sleep(2 * LOOK).await;
    ended.store(true, Ordering::Relaxed);
    let looks = looking.await?;
    let letters: u64 = sinks.status().iter().map(|sink| sink.dead_letters).sum();
    ensure!(letters == 0, "{letters} dead letters");
    Arc::into_inner(sinks).context("somebody else has the sinks")?.shutdown(Duration::from_secs(20)).await;

    for (index, part) in parts.iter_mut().enumerate() {
        if let Some(outage) = &mut part.outage {
            let over = looks.iter().find(|look| look.at > outage.up && run.seconds(look, index) < 1.0);
            outage.over = over.map_or(f64::INFINITY, |look| look.at);
        }
    }
    over_time(&parts, &looks, &run, options.step as f64);
    effects(&parts, &looks, &run);
    println!(
        "\n{} messages at {:.0}/s in {:.0} s; {:.1} s after the last all lags were 0; load average at the end {}",
        mix.all(),
        run.rate,
        run.published_for.as_secs_f64(),
        caught_up.as_secs_f64(),
        std::fs::read_to_string("/proc/loadavg")?.split(' ').take(3).collect::<Vec<_>>().join(" ")
    );
    for part in &parts {
        let (due, found) = (mix.matched(part.units), part.database.count().await?);
        ensure!(due == found, "{} has {found} messages of {due}", part.name);
    }
    println!("Every database has all messages of its rules, each once.");
    Ok(())
}

/// What was measured of the whole.
struct Run {
    rate: f64,
    published_for: Duration,
}

impl Run {
    /// A lag as time: how long the log took to grow by it.
    fn seconds(&self, look: &Look, index: usize) -> f64 {
        look.lags.get(index).map_or(0.0, |lag| *lag as f64 / self.rate)
    }
}

async fn until(begun: Instant, seconds: f64) {
    tokio::time::sleep_until((begun + Duration::from_secs_f64(seconds)).into()).await;
}

/// What each server bears beside the others, and so what its sink will take.
async fn measure(parts: &mut [Part], options: &Options) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let messages = options.measured.max(1) * 60_000;
    let log = Backlog::fill(folder.path(), Rows { messages, topics: 350, payload: options.payload }).await?;
    let conf: String = parts.iter().map(|part| part.database.conf(None, options.pool_size) + "\n").collect();
    let sinks: Vec<String> = parts.iter().map(|part| part.database.sink()).collect();
    let rates = log.drain_for(&conf, &sinks, Duration::from_secs(options.measured)).await?;
    println!("\n| database | bears/s | takes/s | of the log |\n|---|---|---|---|");
    for (part, rate) in parts.iter_mut().zip(rates) {
        part.bears = rate;
        part.database.clear().await?;
        let wanted = (part.bears * options.share / options.rate as f64).min(1.0);
        part.units = ((wanted * UNITS as f64) as u64).max(1);
        let takes = options.rate * part.units / UNITS;
        println!("| {} | {:.0} | {takes} | {} of {UNITS} |", part.name, part.bears, part.units);
    }
    Ok(())
}

/// Looks at all lags until it is told to end.
async fn look(sinks: Arc<Sinks>, order: Vec<String>, begun: Instant, ended: Arc<AtomicBool>) -> Vec<Look> {
    let mut looks = Vec::new();
    while !ended.load(Ordering::Relaxed) {
        let status = sinks.status();
        let lag = |name: &String| status.iter().find(|sink| sink.name == *name).map_or(0, |sink| sink.lag_records);
        looks.push(Look { at: begun.elapsed().as_secs_f64(), lags: order.iter().map(lag).collect() });
        tokio::time::sleep(LOOK).await;
    }
    looks
}

async fn caught_up(sinks: &Sinks) -> Result<Duration> {
    let begun = Instant::now();
    while sinks.status().iter().any(|sink| sink.lag_records > 0) {
        ensure!(begun.elapsed() < CATCH_UP, "not all sinks have caught up: {:?}", sinks.status());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(begun.elapsed())
}

/// The largest lag of each database in each stretch of time.
fn over_time(parts: &[Part], looks: &[Look], run: &Run, step: f64) {
    let names: Vec<&str> = parts.iter().map(|part| part.name).collect();
    println!("\nLargest lag, s of the log:\n\n| s | down | {} |", names.join(" | "));
    println!("|---|---|{}", "---|".repeat(parts.len()));
    let end = looks.last().map_or(0.0, |look| look.at);
    let mut from = 0.0;
    while from < end {
        let to = from + step;
        let within: Vec<&Look> = looks.iter().filter(|look| (from..to).contains(&look.at)).collect();
        let down = parts.iter().filter(|part| part.outage.is_some_and(|outage| outage.down < to && from < outage.up));
        let down: Vec<&str> = down.map(|part| part.name).collect();
        let mut row = format!("| {to:.0} | {} |", down.join(", "));
        for index in 0..parts.len() {
            let most = within.iter().map(|look| run.seconds(look, index)).fold(0.0, f64::max);
            // Writing into a String can't fail.
            let _ = write!(row, " {most:.2} |");
        }
        println!("{row}");
        from = to;
    }
}

/// Each database's lag while all are up, and while another one is down or starts.
fn effects(parts: &[Part], looks: &[Look], run: &Run) {
    println!("\nLag, s of the log, while messages come; without the database's own outage:\n");
    println!(
        "| database | all up: median | p99 | most | another is down: median | p99 | most | itself down for s | most | caught up after s |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|");
    for (index, part) in parts.iter().enumerate() {
        let (mut quiet, mut others) = (Vec::new(), Vec::new());
        for look in looks.iter().filter(|look| look.at < run.published_for.as_secs_f64()) {
            let own = part.outage.is_some_and(|outage| (outage.down..outage.over).contains(&look.at));
            // While a server that is back is filled it takes processor time, and is a part of the outage.
            let some = parts.iter().filter_map(|part| part.outage).any(|o| (o.down..o.over).contains(&look.at));
            let lag = (run.seconds(look, index) * 1e6) as u32;
            match (own, some) {
                (true, _) => {}
                (_, true) => others.push(lag),
                _ => quiet.push(lag),
            }
        }
        let cells = |lags: &mut Vec<u32>| {
            let at = [0.5, 0.99, 1.0].map(|q| format!("{:.3}", f64::from(percentile(lags, q)) / 1e6));
            at.join(" | ")
        };
        let own = part.outage.map_or("- | - | -".to_owned(), |outage| {
            let during = looks.iter().filter(|look| (outage.down..outage.over).contains(&look.at));
            let most = during.map(|look| run.seconds(look, index)).fold(0.0, f64::max);
            format!("{:.1} | {most:.1} | {:.1}", outage.up - outage.down, outage.over - outage.up)
        });
        println!("| {} | {} | {} | {own} |", part.name, cells(&mut quiet), cells(&mut others));
    }
}
