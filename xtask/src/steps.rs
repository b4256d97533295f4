//! The steps of `cargo xtask test`, and the table at its end.
//!
//! Everything is compiled in one profile, `dev`: clippy and the documentation share its metadata, unit and end-to-end tests
//! its code. A second, optimised build of all dependencies would take longer than it saves; the few crates whose speed
//! decides how long tests take are optimised in `dev` (see the root `Cargo.toml`).

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use forebay_services::packages;

use crate::counts::Counter;
use crate::provision;
use crate::services;
use crate::shell;

/// A step of `cargo xtask test`, in running order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Step {
    /// Installs what tests need.
    Provision,
    /// rustfmt, checking only.
    Fmt,
    /// clippy on all targets, warnings denied.
    Clippy,
    /// The documentation, warnings denied.
    Doc,
    /// Unit, property, crash and end-to-end tests of the workspace.
    Test,
    /// The sinks as an embedder with SQLite alone builds them.
    Reduced,
    /// TLS to Cassandra, which no other build has.
    CassandraTls,
    /// The orders in which the log's threads may run.
    Interleavings,
    /// Schedules of the engine on a simulated disk.
    Simulate,
    /// Licences and advisories of the dependencies.
    Deny,
}

enum Outcome {
    Passed,
    Failed(anyhow::Error),
    NotRun(String),
}

/// Runs the steps (all where `only` is empty), prints the table and, as the last line, how much passed and failed. Later steps
/// run though an earlier one failed, so that one run shows everything; without provisioning nothing is run.
///
/// # Errors
/// Where the output can't be written. False where a step failed.
pub fn test(only: &[Step], rounds: u32) -> Result<bool> {
    let mut counter = Counter::default();
    let mut rows = Vec::new();
    for step in Step::value_variants() {
        // The tests can't do without what is provisioned for them.
        let needed = *step == Step::Provision && only.contains(&Step::Test);
        if !(needed || only.is_empty() || only.contains(step)) {
            continue;
        }
        let start = Instant::now();
        let outcome = run(*step, &mut counter, rounds).unwrap_or_else(Outcome::Failed);
        let stop = matches!((step, &outcome), (Step::Provision, Outcome::Failed(_)));
        rows.push((*step, outcome, start.elapsed()));
        if stop {
            break;
        }
    }
    Ok(report(&rows, &counter))
}

fn run(step: Step, counter: &mut Counter, rounds: u32) -> Result<Outcome> {
    let clippy =
        ["clippy", "--workspace", "--all-targets", "--features", SUITE, "--locked", "--", "--deny", "warnings"];
    let doc = ["doc", "--workspace", "--no-deps", "--locked", "--document-private-items"];
    match step {
        Step::Provision => provision::provision()?,
        Step::Fmt => shell::run(shell::cargo()?.args(["fmt", "--all", "--check"]))?,
        Step::Clippy => shell::run(shell::cargo()?.args(clippy))?,
        Step::Doc => shell::run(shell::cargo()?.args(doc).env("RUSTDOCFLAGS", "--deny warnings"))?,
        Step::Test => workspace_tests(counter, rounds)?,
        Step::Reduced => reduced()?,
        Step::CassandraTls => cassandra_tls()?,
        Step::Interleavings => interleavings()?,
        Step::Simulate => simulate(&["--schedules".to_owned(), SCHEDULES.to_string()])?,
        Step::Deny => return deny(),
    }
    Ok(Outcome::Passed)
}

/// Runs the crash test alone.
///
/// # Errors
/// Where it failed.
pub fn crash(rounds: u32) -> Result<()> {
    let mut command = shell::cargo()?;
    command.args(["test", "--package", "forebay", "--test", "crash", "--locked", "--", "--nocapture"]);
    shell::run(command.env(ROUNDS, rounds.to_string()))
}

/// Compiles the sinks with one database, and has the others refused.
fn reduced() -> Result<()> {
    let mut command = shell::cargo()?;
    command.args(["test", "--package", "forebay-sinks", "--no-default-features", "--features", "conformance,sqlite"]);
    shell::run(command.args(["--locked", "--test", "sink_sqlite_tables", "a_database_without_a_driver"]))
}

/// Compiles the sinks with TLS to Cassandra, and runs its tests on a server of their own.
fn cassandra_tls() -> Result<()> {
    let _servers = services::ForTests::swept()?;
    let mut command = shell::cargo()?;
    command.args(["test", "--package", "forebay-sinks", "--no-default-features"]);
    command.args(["--features", "conformance,cassandra-tls", "--locked", "--test", "sink_cassandra_tls"]);
    shell::run(&mut command)
}

/// Runs the tests of the log's threads under a scheduler of their own: a build of its own, in a folder of its own.
fn interleavings() -> Result<()> {
    const CFG: &str = "--cfg forebay_interleavings";
    let flags = std::env::var("RUSTFLAGS").map_or_else(|_| CFG.to_owned(), |flags| format!("{flags} {CFG}"));
    let target = match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => PathBuf::from(dir),
        None => packages::cache()?.join("target"),
    };
    let mut command = shell::cargo()?;
    command.args(["test", "--package", "forebay-engine", "--lib", "--locked", "log::interleavings"]);
    shell::run(command.env("RUSTFLAGS", flags).env("CARGO_TARGET_DIR", target.join("interleavings")))
}

/// Runs the simulator, optimised: its speed decides how much it finds.
///
/// # Errors
/// Where it found something.
pub fn simulate(arguments: &[String]) -> Result<()> {
    let mut command = shell::cargo()?;
    command.args(["run", "--quiet", "--profile", "fast", "--package", "forebay-simulator", "--locked", "--"]);
    shell::run(command.args(arguments))
}

/// Schedules that every run of the tests simulates.
const SCHEDULES: u32 = 2_000;

/// The suite that every sink must pass is compiled only where it is asked for.
pub const SUITE: &str = "forebay-sinks/conformance";

/// The environment variable that tells the crash test how long to go on.
const ROUNDS: &str = "FOREBAY_TEST_CRASH_ROUNDS";

/// `cargo test` of the workspace, shown as it comes and counted.
fn workspace_tests(counter: &mut Counter, rounds: u32) -> Result<()> {
    let _servers = services::ForTests::start()?;
    let mut command = shell::cargo()?;
    command
        .args(["test", "--workspace", "--features", SUITE, "--locked", "--no-fail-fast"])
        .env(ROUNDS, rounds.to_string());
    // Both streams go through one pipe: cargo names the target on stderr, the target counts its tests on stdout.
    let (reader, writer) = std::io::pipe().context("making a pipe")?;
    command.stdout(writer.try_clone().context("duplicating a pipe")?).stderr(writer);
    eprintln!("$ cargo test --workspace --features {SUITE} --locked --no-fail-fast");
    let mut child = command.spawn().context("starting cargo test")?;
    // `command` holds the writing end, and the reader sees the end of the output only when every writer is gone.
    drop(command);
    let mut stdout = std::io::stdout().lock();
    for line in BufReader::new(reader).split(b'\n') {
        let line = line.context("reading the output of cargo test")?;
        let line = String::from_utf8_lossy(&line);
        counter.line(&line);
        writeln!(stdout, "{line}").context("writing the output of cargo test")?;
    }
    let status = child.wait().context("waiting for cargo test")?;
    if !status.success() {
        bail!("`cargo test --workspace` failed: {status}");
    }
    Ok(())
}

/// cargo-deny, where it is installed and can work without the network.
fn deny() -> Result<Outcome> {
    if !shell::succeeds(shell::cargo()?.args(["deny", "--version"])) {
        return Ok(Outcome::NotRun("cargo-deny is not installed (`cargo install cargo-deny`)".into()));
    }
    let home = std::env::var_os("CARGO_HOME")
        .map(std::path::PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| std::path::PathBuf::from(home).join(".cargo")));
    let database = home.is_some_and(|home| home.join("advisory-dbs").exists());
    let checks: &[&str] = if database { &["licenses", "advisories"] } else { &["licenses"] };
    shell::run(shell::cargo()?.args(["deny", "--offline", "check"]).args(checks))?;
    if database {
        Ok(Outcome::Passed)
    } else {
        let what = "licences passed; advisories not checked: no database on this machine (`cargo deny fetch`)";
        Ok(Outcome::NotRun(what.into()))
    }
}

/// Prints the tables; true where nothing failed.
fn report(rows: &[(Step, Outcome, Duration)], counter: &Counter) -> bool {
    let (mut passed, mut failed) = counter.total();
    println!("\n{:<12} {:>8}  result", "step", "minutes");
    for (step, outcome, time) in rows {
        let name = format!("{step:?}").to_lowercase();
        let result = match outcome {
            Outcome::Passed => "passed".to_owned(),
            Outcome::NotRun(why) => format!("NOT RUN: {why}"),
            Outcome::Failed(fault) => format!("FAILED: {fault:#}"),
        };
        println!("{name:<12} {:>8.1}  {result}", minutes(*time));
        // A step other than the tests counts as one; so do tests that did not come to be counted.
        match outcome {
            Outcome::Passed if *step != Step::Test => passed += 1,
            Outcome::Failed(_) if *step != Step::Test || counter.total().1 == 0 => failed += 1,
            _ => {}
        }
    }
    println!("{:<12} {:>8.1}", "all", rows.iter().map(|(_, _, time)| minutes(*time)).sum::<f64>());
    if !counter.counts().is_empty() {
        println!("\n{:<24} {:>6} {:>6} {:>8}", "crate", "passed", "failed", "ignored");
        for (package, count) in counter.counts() {
            println!("{package:<24} {:>6} {:>6} {:>8}", count.passed, count.failed, count.ignored);
        }
    }
    println!("\n{passed} passed, {failed} failed");
    failed == 0
}

fn minutes(time: Duration) -> f64 {
    time.as_secs_f64() / 60.0
}
