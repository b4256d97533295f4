//! `cargo xtask fuzz`: every target for some seconds under libFuzzer, with its seeds and the corpus of earlier runs.
//!
//! The instrumentation that libFuzzer needs is in the stable compiler; only the address sanitizer is not. It is off by default:
//! no target reaches `unsafe` code of the project, and without it twice as many inputs run. `--sanitizer address` turns it on by
//! `RUSTC_BOOTSTRAP=1`, so that no second toolchain is needed.

mod output;
mod tool;

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};

use self::output::Progress;
use crate::shell;
use forebay_services::packages;

/// What to fuzz, and how.
#[derive(Debug, Args)]
pub struct Options {
    /// Seconds for each target.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Only this target (may be given several times); all of `fuzz/fuzz_targets/` without it.
    #[arg(long)]
    target: Vec<String>,
    /// Targets at the same time.
    #[arg(long, default_value_t = 1)]
    jobs: usize,
    /// Watches memory too.
    #[arg(long, value_enum, default_value_t = Sanitizer::None)]
    sanitizer: Sanitizer,
}

/// A sanitizer of the compiler.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Sanitizer {
    /// None: panics, endless loops and memory above 2 GiB are found.
    None,
    /// The address sanitizer.
    Address,
}

/// An input that takes longer than this, in seconds, is a finding.
const TIMEOUT_S: u32 = 20;
/// A target that takes more memory than this, in MiB, is a finding.
const MEMORY_MB: u32 = 2048;
/// Longer inputs, in bytes, are not tried.
const INPUT_BYTES_MAX: u32 = 8192;

/// Folders of a target: what is kept between runs is in the cache folder.
struct Places {
    corpus: PathBuf,
    findings: PathBuf,
    log: PathBuf,
}

struct Ran {
    target: String,
    progress: Progress,
    findings: Vec<PathBuf>,
    log: PathBuf,
    /// How the fuzzer ended, where it ended badly.
    failed: Option<String>,
}

/// Runs the targets and prints what came of it. False where something was found.
///
/// # Errors
/// What fuzzing needs is missing, a target does not compile or is not there.
pub fn run(options: &Options) -> Result<bool> {
    let targets = targets(&options.target)?;
    let tool = tool::provision()?;
    let host = tool::host()?;
    let binaries = tool::build(&tool, &host, options.sanitizer)?;
    let next = AtomicUsize::new(0);
    let ran = Mutex::new(Vec::new());
    let worker = || -> Result<()> {
        while let Some(target) = targets.get(next.fetch_add(1, Ordering::Relaxed)) {
            let result = fuzz(&binaries.join(target), target, options)?;
            ran.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(result);
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..options.jobs.max(1)).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().try_for_each(|worker| match worker.join() {
            Ok(result) => result,
            Err(_) => bail!("a thread that watched a fuzzer panicked"),
        })
    })?;
    let ran = ran.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    Ok(report(&ran, options.seconds))
}

fn folder() -> PathBuf {
    shell::root().join("fuzz")
}

/// The targets asked for, or all there are, by name.
fn targets(wanted: &[String]) -> Result<Vec<String>> {
    let dir = folder().join("fuzz_targets");
    let mut there = Vec::new();
    for entry in std::fs::read_dir(&dir).with_context(|| format!("listing {}", dir.display()))? {
        let path = entry.with_context(|| format!("listing {}", dir.display()))?.path();
        if path.extension().is_some_and(|extension| extension == "rs")
            && let Some(name) = path.file_stem().and_then(|name| name.to_str())
        {
            there.push(name.to_owned());
        }
    }
    there.sort();
    if let Some(unknown) = wanted.iter().find(|name| !there.contains(name)) {
        bail!("there is no target `{unknown}`; there are: {}", there.join(", "));
    }
    Ok(if wanted.is_empty() { there } else { wanted.to_vec() })
}

fn places(target: &str) -> Result<Places> {
    let dir = packages::cache()?.join("fuzz");
    let places = Places {
        corpus: dir.join("corpus").join(target),
        findings: dir.join("findings").join(target),
        log: dir.join(format!("{target}.log")),
    };
    for dir in [&places.corpus, &places.findings] {
        std::fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
    }
    Ok(places)
}

/// Files that are there now and were not before.
fn list(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(dir).with_context(|| format!("listing {}", dir.display()))?;
    Ok(entries.filter_map(|entry| entry.ok().map(|entry| entry.path())).collect())
}

/// Runs one target to the end of its time or to its first finding.
fn fuzz(binary: &Path, target: &str, options: &Options) -> Result<Ran> {
    let places = places(target)?;
    let before = list(&places.findings)?;
    let mut command = Command::new(binary);
    command
        .arg(format!("-max_total_time={}", options.seconds))
        .arg(format!("-timeout={TIMEOUT_S}"))
        .arg(format!("-rss_limit_mb={MEMORY_MB}"))
        .arg(format!("-max_len={INPUT_BYTES_MAX}"))
        .arg("-print_final_stats=1")
        .arg(format!("-artifact_prefix={}/", places.findings.display()))
        .arg(&places.corpus)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let (seeds, words) =
        (folder().join("seeds").join(target), folder().join("dictionaries").join(format!("{target}.dict")));
    if seeds.is_dir() {
        command.arg(seeds);
    }
    if words.is_file() {
        command.arg(format!("-dict={}", words.display()));
    }
    let mut child = command.spawn().with_context(|| format!("starting {}", binary.display()))?;
    let mut log = std::fs::File::create(&places.log).with_context(|| format!("creating {}", places.log.display()))?;
    let (mut progress, started) = (Progress::default(), Instant::now());
    let mut shown = Duration::ZERO;
    if let Some(stderr) = child.stderr.take() {
        for line in BufReader::new(stderr).split(b'\n') {
            let line = line.with_context(|| format!("reading the output of {target}"))?;
            log.write_all(&line).and_then(|()| log.write_all(b"\n")).context("writing the fuzzer's log")?;
            progress.line(&String::from_utf8_lossy(&line));
            if started.elapsed() >= shown + Duration::from_secs(15) {
                shown = started.elapsed();
                eprintln!("{target}: {} of {} s, {}", shown.as_secs(), options.seconds, progress.in_words());
            }
        }
    }
    let status = child.wait().with_context(|| format!("waiting for {target}"))?;
    let mut findings = list(&places.findings)?;
    findings.retain(|file| !before.contains(file));
    let failed = (!status.success()).then(|| status.to_string());
    Ok(Ran { target: target.to_owned(), progress, findings, log: places.log, failed })
}

/// Prints the table and each finding; true where there is none.
fn report(ran: &[Ran], seconds: u64) -> bool {
    println!(
        "\n{:<14} {:>12} {:>8} {:>9} {:>7} {:>10} {:>9}",
        "target", "executions", "exec/s", "coverage", "corpus", "bytes", "findings"
    );
    for Ran { target, progress, findings, .. } in ran {
        let Progress { executions, per_second, coverage, inputs, bytes, .. } = progress;
        let count = findings.len();
        println!("{target:<14} {executions:>12} {per_second:>8} {coverage:>9} {inputs:>7} {bytes:>10} {count:>9}");
    }
    for Ran { target, progress, findings, log, failed } in ran {
        for file in findings {
            println!("\n{target}: {}", progress.panic.as_deref().unwrap_or("stopped"));
            println!("  input   {}", file.display());
            println!("  replay  cargo run -p forebay-fuzz-checks -- replay {target} {}", file.display());
            println!("  log     {}", log.display());
        }
        if let (true, Some(how)) = (findings.is_empty(), failed) {
            println!("\n{target}: the fuzzer ended with {how} and left no input; its log is {}", log.display());
        }
    }
    let bad = ran.iter().filter(|ran| ran.failed.is_some() || !ran.findings.is_empty()).count();
    println!("\n{} targets, {seconds} s each, {} clean, {bad} with findings", ran.len(), ran.len() - bad);
    bad == 0
}
