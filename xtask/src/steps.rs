//! The steps of `cargo xtask test`, and the table at its end.
//!
//! Everything is compiled in one profile, `dev`: clippy and the documentation share its metadata, unit and end-to-end tests
//! its code. A second, optimised build of all dependencies would take longer than it saves; the few crates whose speed
//! decides how long tests take are optimised in `dev` (see the root `Cargo.toml`).

use std::io::{BufRead, BufReader, Write};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use crate::counts::Counter;
use crate::provision::{self, Provisioned};
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
    /// Licences and advisories of the dependencies.
    Deny,
}

enum Outcome {
    Passed,
    Failed(anyhow::Error),
    NotRun(String),
}

/// Runs the steps (all where `only` is empty) and prints the table.
///
/// # Errors
/// Where a step failed. Later steps still ran, so that one run shows everything; without provisioning nothing is run.
pub fn test(only: &[Step], rounds: u32) -> Result<()> {
    let mut counter = Counter::default();
    let mut rows = Vec::new();
    let mut tools = None;
    for step in Step::value_variants() {
        if !only.is_empty() && !only.contains(step) && *step != Step::Provision {
            continue;
        }
        let start = Instant::now();
        let outcome = match step {
            Step::Provision if !only.is_empty() && !only.contains(&Step::Test) && !only.contains(step) => continue,
            Step::Provision => provision::provision().map(|ready| {
                tools = Some(ready);
                Outcome::Passed
            }),
            Step::Fmt => shell::run(shell::cargo().args(["fmt", "--all", "--check"])).map(|()| Outcome::Passed),
            Step::Clippy => shell::run(shell::cargo().args([
                "clippy",
                "--workspace",
                "--all-targets",
                "--locked",
                "--",
                "--deny",
                "warnings",
            ]))
            .map(|()| Outcome::Passed),
            Step::Doc => shell::run(
                shell::cargo()
                    .args(["doc", "--workspace", "--no-deps", "--locked", "--document-private-items"])
                    .env("RUSTDOCFLAGS", "--deny warnings"),
            )
            .map(|()| Outcome::Passed),
            Step::Test => workspace_tests(&mut counter, rounds, tools.as_ref()).map(|()| Outcome::Passed),
            Step::Deny => deny(),
        };
        let outcome = outcome.unwrap_or_else(Outcome::Failed);
        let stop = matches!((step, &outcome), (Step::Provision, Outcome::Failed(_)));
        rows.push((*step, outcome, start.elapsed()));
        if stop {
            break;
        }
    }
    report(&rows, &counter)
}

/// Runs the crash test alone.
///
/// # Errors
/// Where it failed.
pub fn crash(rounds: u32) -> Result<()> {
    let tools = provision::provision()?;
    let mut command = shell::cargo();
    command.args(["test", "--package", "forebay", "--test", "crash", "--locked", "--", "--nocapture"]);
    shell::run(test_environment(&mut command, rounds, Some(&tools)))
}

fn test_environment<'c>(command: &'c mut Command, rounds: u32, tools: Option<&Provisioned>) -> &'c mut Command {
    command.env("FOREBAY_TEST_CRASH_ROUNDS", rounds.to_string());
    if let Some(tools) = tools {
        command.env("FOREBAY_TEST_PYTHON", &tools.python);
    }
    command
}

/// `cargo test` of the workspace, shown as it comes and counted.
fn workspace_tests(counter: &mut Counter, rounds: u32, tools: Option<&Provisioned>) -> Result<()> {
    let mut command = shell::cargo();
    command.args(["test", "--workspace", "--locked", "--no-fail-fast"]);
    test_environment(&mut command, rounds, tools);
    // Both streams go through one pipe: cargo names the target on stderr, the target counts its tests on stdout.
    let (reader, writer) = std::io::pipe().context("making a pipe")?;
    command.stdout(writer.try_clone().context("duplicating a pipe")?).stderr(writer);
    eprintln!("$ cargo test --workspace --locked --no-fail-fast");
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
    if !shell::succeeds(shell::cargo().args(["deny", "--version"])) {
        return Ok(Outcome::NotRun("cargo-deny is not installed (`cargo install cargo-deny`)".into()));
    }
    let home = std::env::var_os("CARGO_HOME")
        .map(std::path::PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| std::path::PathBuf::from(home).join(".cargo")));
    let database = home.is_some_and(|home| home.join("advisory-dbs").exists());
    let checks: &[&str] = if database { &["licenses", "advisories"] } else { &["licenses"] };
    shell::run(shell::cargo().args(["deny", "--offline", "check"]).args(checks))?;
    if database {
        Ok(Outcome::Passed)
    } else {
        let what = "licences passed; advisories not checked: no database on this machine (`cargo deny fetch`)";
        Ok(Outcome::NotRun(what.into()))
    }
}

fn report(rows: &[(Step, Outcome, Duration)], counter: &Counter) -> Result<()> {
    println!("\n{:<12} {:>8}  result", "step", "minutes");
    let mut failed = Vec::new();
    for (step, outcome, time) in rows {
        let name = format!("{step:?}").to_lowercase();
        let result = match outcome {
            Outcome::Passed => "passed".to_owned(),
            Outcome::NotRun(why) => format!("NOT RUN: {why}"),
            Outcome::Failed(fault) => {
                failed.push(name.clone());
                format!("FAILED: {fault:#}")
            }
        };
        println!("{name:<12} {:>8.1}  {result}", minutes(*time));
    }
    println!("{:<12} {:>8.1}", "all", rows.iter().map(|(_, _, time)| minutes(*time)).sum::<f64>());
    if !counter.counts().is_empty() {
        println!("\n{:<24} {:>6} {:>6} {:>8}", "crate", "passed", "failed", "ignored");
        for (package, count) in counter.counts() {
            println!("{package:<24} {:>6} {:>6} {:>8}", count.passed, count.failed, count.ignored);
        }
    }
    if !failed.is_empty() {
        bail!("failed: {}", failed.join(", "));
    }
    Ok(())
}

fn minutes(time: Duration) -> f64 {
    time.as_secs_f64() / 60.0
}
