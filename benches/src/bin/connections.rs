//! Thousands of connections at once: a storm of connects, memory of each, keep alives and time to PUBACK; and storms of clients with passwords.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use forebay_benches::crowd::{self, PASSWORD, Storm, Who, user};
use forebay_benches::servers::Server;
use forebay_benches::stats::percentile;
use tokio::runtime::Runtime;

/// Many connections at once.
#[derive(Parser)]
struct Options {
    /// Forebay's program.
    #[arg(long, env = "FOREBAY_BIN", default_value = "../target/release/forebay")]
    forebay: PathBuf,
    /// Connections.
    #[arg(long, default_value_t = 10_000)]
    connections: usize,
    /// Those of them that publish once a second with QoS 1; the others are idle.
    #[arg(long, default_value_t = 5_000)]
    talking: usize,
    /// Seconds for which they stay.
    #[arg(long, default_value_t = 300)]
    seconds: u64,
    /// Keep alive of all, s.
    #[arg(long, default_value_t = 60)]
    keep_alive: u16,
    /// Payload, bytes.
    #[arg(long, default_value_t = 128)]
    payload: usize,
    /// Connects a second.
    #[arg(long, default_value_t = 2_000)]
    per_s: u64,
    /// Clients with a password and a user of their own each; 0 = no such storm.
    #[arg(long, default_value_t = 500)]
    users: usize,
}

fn main() -> Result<()> {
    let options = Options::parse();
    let program =
        options.forebay.canonicalize().with_context(|| format!("looking for {}", options.forebay.display()))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    crowd(&options, &program, &runtime)?;
    if options.users > 0 {
        passwords(&options, &program, &runtime)?;
    }
    Ok(())
}

fn crowd(options: &Options, program: &Path, runtime: &Runtime) -> Result<()> {
    let server = Server::forebay(program, false)?;
    let (empty, cpu) = (server.resident_kib()?, server.cpu_seconds()?);
    let connecting = crowd::connect(server.mqtt, options.connections, options.per_s, options.keep_alive, Who::Anybody);
    let (storm, streams) = runtime.block_on(connecting)?;
    let of_connects = server.cpu_seconds()? - cpu;
    print("without passwords", options.connections, storm);
    // What is done for new connections afterwards is no part of the stay.
    std::thread::sleep(Duration::from_secs(2));
    let (connected, cpu) = (server.resident_kib()?, server.cpu_seconds()?);
    let time = Duration::from_secs(options.seconds);
    let staying = crowd::stay(streams, options.talking, options.keep_alive, options.payload, time);
    let mut stay = runtime.block_on(staying)?;
    let (end, used) = (server.resident_kib()?, server.cpu_seconds()? - cpu);
    let per = |kib: u64| (kib.saturating_sub(empty) * 1024) as f64 / options.connections as f64;
    println!(
        "memory: {empty} KiB without a connection; {:.0} B a connection once connected, {:.0} B at the end",
        per(connected),
        per(end)
    );
    println!(
        "{} connections for {} s, {} of them at 1 msg/s: {} acknowledged, p50 {} us, p99 {} us, most {} us; {} PINGRESP; {} connections lost",
        options.connections,
        options.seconds,
        options.talking,
        stay.micros.len(),
        percentile(&mut stay.micros, 0.5),
        percentile(&mut stay.micros, 0.99),
        percentile(&mut stay.micros, 1.0),
        stay.pings,
        stay.lost.len()
    );
    println!(
        "processor: {:.0} us a connect, {:.1} ms a second while they stay",
        of_connects * 1e6 / options.connections as f64,
        used * 1e3 / options.seconds as f64
    );
    ensure!(stay.lost.is_empty(), "the first that were lost: {:?}", stay.lost.get(..stay.lost.len().min(5)));
    Ok(())
}

fn passwords(options: &Options, program: &Path, runtime: &Runtime) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let users = folder.path().join("users");
    write_users(program, &users, options.users)?;
    let server = Server::forebay_asking(program, &users)?;
    for what in ["with passwords, none remembered", "with passwords, all remembered"] {
        let connecting = crowd::connect(server.mqtt, options.users, options.per_s, options.keep_alive, Who::Users);
        let (storm, streams) = runtime.block_on(connecting)?;
        print(what, options.users, storm);
        drop(streams);
        std::thread::sleep(Duration::from_secs(1));
    }
    Ok(())
}

/// All with the same hash, so that it is made once: comparing costs as much as ever.
fn write_users(program: &Path, file: &Path, users: usize) -> Result<()> {
    let secret = file.with_extension("password");
    std::fs::write(&secret, PASSWORD)?;
    let mut add = Command::new(program);
    add.args(["user", "add", "first", "--users"]).arg(file).arg("--password-file").arg(&secret);
    ensure!(add.stdout(Stdio::null()).status()?.success(), "no user could be added");
    let text = std::fs::read_to_string(file)?;
    let (_, hash) = text.lines().find_map(|line| line.split_once("first:")).context("no line of the user")?;
    let lines: Vec<String> = (0..users).map(|n| format!("{}:{hash}\n", user(n))).collect();
    std::fs::write(file, lines.concat())?;
    Ok(())
}

fn print(what: &str, clients: usize, mut storm: Storm) {
    println!(
        "{clients} connects {what}: {:.2} s, {:.0}/s; CONNACK p50 {} us, p99 {} us; {} tries refused and made again",
        storm.took.as_secs_f64(),
        clients as f64 / storm.took.as_secs_f64(),
        percentile(&mut storm.micros, 0.5),
        percentile(&mut storm.micros, 0.99),
        storm.refused
    );
}
