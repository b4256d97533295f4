//! A run: every cell of the plan in every round, the engines of a cell one after the other, each in a process and a folder of its own.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::cell::{Measured, SERVER, Work};
use crate::engines::{self, Engine};

/// One measurement.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    /// Round, from 0.
    pub round: usize,
    /// What was done, see [`Work`].
    pub work: String,
    /// Bytes of a record.
    pub size: usize,
    /// Engine.
    pub engine: String,
    /// Figures.
    #[serde(flatten)]
    pub measured: Measured,
}

/// All of a run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Results {
    /// Kernel, processors, processor model.
    pub machine: String,
    /// Load averages (1 minute) before and after.
    pub load: (f64, f64),
    /// Seconds of a cell.
    pub seconds: f64,
    /// Rounds.
    pub rounds: usize,
    /// Measurements.
    pub rows: Vec<Row>,
}

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Rounds.
    pub rounds: usize,
    /// Seconds of a cell.
    pub seconds: f64,
    /// Where the folders of the cells are made.
    pub folder: PathBuf,
    /// The server's program, for `publish`; without it that is left out.
    pub server: Option<PathBuf>,
    /// Only these engines; all where empty.
    pub engines: Vec<String>,
    /// Only these works; all where empty.
    pub works: Vec<Work>,
    /// Only these sizes; all where empty.
    pub sizes: Vec<usize>,
}

/// What a full run does.
const CELLS: [(Work, usize); 15] = [
    (Work::Blocked(1), 128),
    (Work::Grouped(1), 128),
    (Work::Publish, 128),
    (Work::Blocked(16), 128),
    (Work::Blocked(64), 128),
    (Work::Blocked(256), 128),
    (Work::Blocked(1), 1024),
    (Work::Blocked(16), 1024),
    (Work::Blocked(64), 1024),
    (Work::Blocked(256), 1024),
    (Work::Flight(1024), 128),
    (Work::Flight(1024), 1024),
    (Work::Unsynced(100), 128),
    (Work::Read, 128),
    (Work::Read, 1024),
];

impl Plan {
    fn cells(&self) -> Vec<(Work, usize)> {
        let mut cells = CELLS.to_vec();
        // What is asked for by name may be something that a full run does not do.
        for work in &self.works {
            if !cells.iter().any(|(other, _)| other == work) {
                cells.extend([(*work, 128), (*work, 1024)]);
            }
        }
        cells.retain(|(work, size)| {
            (self.server.is_some() || *work != Work::Publish)
                && (self.works.is_empty() || self.works.contains(work))
                && (self.sizes.is_empty() || self.sizes.contains(size))
        });
        cells
    }

    fn engines(&self, work: Work) -> Vec<Engine> {
        let chosen = |engine: &Engine| self.engines.is_empty() || self.engines.iter().any(|name| name == engine.name);
        // One record at a time through a writer thread is there for its latency beside the log's own.
        let compared = |engine: &Engine| !matches!(work, Work::Grouped(_)) || matches!(engine.name, "raw" | "forebay");
        engines::all().into_iter().filter(|e| work.suits(e) && chosen(e) && compared(e)).collect()
    }
}

/// Does all of it.
///
/// # Errors
/// A cell failed; nothing is left out silently.
pub fn run(plan: &Plan) -> Result<Results> {
    let cells = plan.cells();
    let total: usize = cells.iter().map(|(work, _)| plan.engines(*work).len()).sum::<usize>() * plan.rounds;
    let mut rows = Vec::with_capacity(total);
    let (begun, before) = (Instant::now(), load());
    for round in 0..plan.rounds {
        for (work, size) in &cells {
            let engines = plan.engines(*work);
            for turn in 0..engines.len() {
                // The order goes round, so that nobody always comes after the same one.
                let Some(engine) = engines.get((turn + round) % engines.len()) else { continue };
                let measured = one(plan, engine, *work, *size)?;
                rows.push(Row { round, work: work.to_string(), size: *size, engine: engine.name.to_owned(), measured });
                if std::io::stderr().is_terminal() {
                    eprint!("\r{}/{total} cells, {:.0} s ", rows.len(), begun.elapsed().as_secs_f64());
                }
            }
        }
    }
    Ok(Results { machine: machine(), load: (before, load()), seconds: plan.seconds, rounds: plan.rounds, rows })
}

/// Runs a cell in a process of its own.
fn one(plan: &Plan, engine: &Engine, work: Work, size: usize) -> Result<Measured> {
    let dir = tempfile::Builder::new().prefix("peers").tempdir_in(&plan.folder)?;
    let mut command = Command::new(std::env::current_exe()?);
    if let Some(server) = &plan.server {
        command.env(SERVER, server);
    }
    let output = command
        .args(["cell", engine.name, &work.to_string(), &size.to_string(), &plan.seconds.to_string()])
        .arg(dir.path())
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .output()?;
    let what = || format!("{} {work} {size}", engine.name);
    if !output.status.success() {
        bail!("{}: {}: {}", what(), output.status, String::from_utf8_lossy(&output.stderr));
    }
    serde_json::from_slice(&output.stdout).with_context(what)
}

/// The load average of the last minute.
#[must_use]
pub fn load() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|first| first.parse().ok()).unwrap_or(f64::NAN)
}

fn machine() -> String {
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cpus = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let models: Vec<_> = cpus.lines().filter(|line| line.starts_with("model name")).collect();
    let model = models.first().and_then(|line| line.split_once(": ")).map_or("unknown processor", |(_, model)| model);
    format!("{} x {model}, Linux {}", models.len(), kernel.trim())
}
