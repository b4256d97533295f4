//! `forebay log verify` and `forebay log repair`: every log of the data folder, and the checkpoints of its state. The server is stopped.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use forebay_engine::Lsn;
use forebay_engine::disk::RealDisk;
use forebay_engine::log::{self, Damage, Decision, OpenError, Progress, RepairReport, RepairStep, VerifyReport};
use forebay_engine::state::checkpoint::{self, CheckpointError};
use serde_json::{Value, json};

use crate::config::Settings;
use crate::datadir::{self, Lock};
use crate::exit::{Exit, Failure};

/// How often a long run says how far it has come.
const TELL_EVERY: Duration = Duration::from_secs(2);

/// Runs `forebay log verify`: reads every byte and says what is damaged.
///
/// # Errors
/// [`Exit::Damaged`] where something is; [`Exit::Locked`] where a server runs.
pub fn verify(settings: &Settings, json: bool) -> Result<(), Failure> {
    let lock = datadir::lock(&settings.data)?;
    let (mut logs, mut places) = (Vec::new(), 0);
    for dir in log_folders(&lock)? {
        let mut teller = Teller::new("verify", &dir);
        let report = log::verify_with(&RealDisk, &dir, &mut |progress| teller.tell(progress)).map_err(failed)?;
        places += report.damage.len();
        if !json {
            print_verified(&dir, &report);
        }
        logs.push((dir, report));
    }
    let checkpoints = check_checkpoints(&lock, logs.first().map(|(_, report)| report))?;
    let unusable = checkpoints.iter().filter(|checkpoint| checkpoint.fault.is_some()).count();
    if json {
        let rows: Vec<Value> = logs.iter().map(|(dir, report)| verified_json(dir, report)).collect();
        let checkpoints: Vec<Value> = checkpoints.iter().map(Checkpoint::to_json).collect();
        println!("{}", json!({ "ok": places + unusable == 0, "logs": rows, "checkpoints": checkpoints }));
    } else {
        checkpoints.iter().for_each(|checkpoint| println!("{checkpoint}"));
    }
    if places > 0 {
        let plural = if places == 1 { "place" } else { "places" };
        let text = format!(
            "{places} damaged {plural}; put the files back from a backup, or see what `forebay log repair` would do"
        );
        return Err(Failure::new(Exit::Damaged, text));
    }
    if unusable > 0 {
        let text = "a checkpoint of the state can't be used: the next start takes the one before it, or the log from its beginning, and says so where neither is enough";
        return Err(Failure::new(Exit::Damaged, text));
    }
    Ok(())
}

/// Runs `forebay log repair`: shows what is to be done, and does it with `apply`.
///
/// # Errors
/// [`Exit::Damaged`] where there is something to do and `apply` is not given, or what can't be repaired.
pub fn repair(settings: &Settings, apply: bool, json: bool) -> Result<(), Failure> {
    let lock = datadir::lock(&settings.data)?;
    let (mut rows, mut steps, mut lost) = (Vec::new(), 0, 0);
    for dir in log_folders(&lock)? {
        let mut teller = Teller::new("repair", &dir);
        let report = log::repair(&RealDisk, &dir, apply, &mut |progress| teller.tell(progress)).map_err(failed)?;
        steps += report.steps.len();
        lost += report.records_lost();
        let written = if apply && !report.steps.is_empty() { Some(write_report(&dir, &report)?) } else { None };
        if json {
            rows.push(repaired_json(&dir, &report));
        } else {
            print_repaired(&dir, &report, written.as_deref());
        }
    }
    if json {
        println!("{}", json!({ "applied": apply, "steps": steps, "records_lost": lost, "logs": rows }));
    }
    if steps > 0 && !apply {
        let text = format!(
            "{steps} {} to do, nothing was changed; `forebay log repair --apply` does it and keeps every file as it was",
            if steps == 1 { "thing" } else { "things" }
        );
        return Err(Failure::new(Exit::Damaged, text));
    }
    Ok(())
}

fn failed(source: OpenError) -> Failure {
    let exit = match &source {
        OpenError::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull => Exit::DiskFull,
        OpenError::Io { .. } => Exit::Failure,
        _ => Exit::Damaged,
    };
    Failure::new(exit, source.to_string())
}

/// The log, and the dead letters' logs.
fn log_folders(lock: &Lock) -> Result<Vec<PathBuf>, Failure> {
    let mut folders = vec![lock.join("log")];
    let dead = lock.join("dead-letters");
    let entries = match fs::read_dir(&dead) {
        Ok(entries) => entries,
        Err(source) if source.kind() == io::ErrorKind::NotFound => return Ok(folders),
        Err(source) => return Err(Failure::io(dead.display(), &source)),
    };
    for entry in entries {
        let path = entry.map_err(|source| Failure::io(dead.display(), &source))?.path();
        if path.is_dir() {
            folders.push(path);
        }
    }
    folders.sort();
    // The log itself comes first.
    folders.sort_by_key(|folder| folder.starts_with(&dead));
    Ok(folders)
}

/// Says on stderr how far a long run has come.
struct Teller {
    what: &'static str,
    dir: PathBuf,
    next: Instant,
}

impl Teller {
    fn new(what: &'static str, dir: &Path) -> Teller {
        Teller { what, dir: dir.to_owned(), next: Instant::now() + TELL_EVERY }
    }

    fn tell(&mut self, progress: Progress<'_>) {
        let now = Instant::now();
        if now >= self.next {
            self.next = now + TELL_EVERY;
            let (done, total) = (progress.done >> 20, progress.total >> 20);
            eprintln!("{}: {}: {done} of {total} MiB", self.what, self.dir.display());
        }
    }
}

fn print_verified(dir: &Path, report: &VerifyReport) {
    for damage in &report.damage {
        println!("{damage}");
    }
    let records: u64 = report.segments.iter().map(|segment| segment.records).sum();
    let bytes: u64 = report.segments.iter().map(|segment| segment.used).sum();
    let (count, dir) = (report.segments.len(), dir.display());
    let verdict = if report.is_sound() { "is sound" } else { "is damaged" };
    println!("{dir}: log {} {verdict}: {records} records in {count} segments, {bytes} bytes", report.log_id);
    if let Some((file, from, to)) = &report.torn {
        println!(
            "{}: bytes {from}..{to}: a torn tail that was never acknowledged; the next start cuts it",
            file.display()
        );
    }
    if report.trimmed > 0 {
        println!(
            "{dir}: {} segments are left over from an interrupted trim; the next start removes them",
            report.trimmed
        );
    }
    if report.floor_unreadable {
        println!(
            "{dir}: trim.intent does not read: whether the first segments are missing can't be told; `forebay log repair` writes it anew"
        );
    }
}

fn damage_json(damage: &Damage) -> Value {
    json!({
        "file": damage.file.display().to_string(),
        "at": damage.at,
        "end": damage.end,
        "first": damage.first.0,
        "next": damage.next.0,
        "records_lost": damage.records(),
        "at_most": damage.at_most,
        "what": damage.what,
        "remedy": damage.reason.remedy(),
    })
}

fn verified_json(dir: &Path, report: &VerifyReport) -> Value {
    let torn = report
        .torn
        .as_ref()
        .map(|(file, from, to)| json!({ "file": file.display().to_string(), "at": from, "end": to }));
    json!({
        "folder": dir.display().to_string(),
        "log_id": report.log_id,
        "ok": report.is_sound(),
        "segments": report.segments.len(),
        "records": report.segments.iter().map(|segment| segment.records).sum::<u64>(),
        "bytes": report.segments.iter().map(|segment| segment.used).sum::<u64>(),
        "next": report.segments.last().map(|segment| segment.next.0),
        "damage": report.damage.iter().map(damage_json).collect::<Vec<_>>(),
        "torn": torn,
        "cut_at_start": report.decision == Some(Decision::Cut),
        "left_by_trim": report.trimmed,
        "floor_unreadable": report.floor_unreadable,
    })
}

fn print_repaired(dir: &Path, report: &RepairReport, written: Option<&Path>) {
    let dir = dir.display();
    if report.steps.is_empty() {
        println!("{dir}: log {} is sound; there is nothing to repair", report.log_id);
        return;
    }
    for step in &report.steps {
        print_step(step);
    }
    let lost = report.records_lost();
    let (done, count) = (if report.applied { "done" } else { "to do" }, report.steps.len());
    println!("{dir}: log {}: {count} steps {done}; {lost} record numbers are lost", report.log_id);
    if let Some(written) = written {
        println!("{dir}: the report is in {}", written.display());
    }
}

fn print_step(step: &RepairStep) {
    let RepairStep { action, file, to, why, records, lost, kept } = step;
    print!("{}: {}: {why}", action.name(), file.display());
    if let Some(to) = to {
        print!("; becomes {}", to.display());
    }
    if *records > 0 {
        print!("; {records} records are kept");
    }
    if let Some(kept) = kept {
        print!("; as it was: {} ({} bytes, CRC-32 {:08x})", kept.file.display(), kept.bytes, kept.crc);
    }
    println!();
    for damage in lost {
        let (first, n, at_most) = (damage.first, damage.records(), if damage.at_most { "at most " } else { "" });
        println!("  bytes {}..{}: {}; lost from record {first} on: {at_most}{n}", damage.at, damage.end, damage.what);
    }
}

fn repaired_json(dir: &Path, report: &RepairReport) -> Value {
    let step = |step: &RepairStep| {
        let kept = step.kept.as_ref().map(|kept| {
            let crc = format!("{:08x}", kept.crc);
            json!({ "file": kept.file.display().to_string(), "bytes": kept.bytes, "crc32": crc })
        });
        json!({
            "action": step.action.name(),
            "file": step.file.display().to_string(),
            "to": step.to.as_ref().map(|to| to.display().to_string()),
            "why": step.why,
            "records_kept": step.records,
            "lost": step.lost.iter().map(damage_json).collect::<Vec<_>>(),
            "kept_as": kept,
        })
    };
    json!({
        "folder": dir.display().to_string(),
        "log_id": report.log_id,
        "applied": report.applied,
        "records_lost": report.records_lost(),
        "steps": report.steps.iter().map(step).collect::<Vec<_>>(),
    })
}

/// Puts the report beside the segments, durably.
fn write_report(dir: &Path, report: &RepairReport) -> Result<PathBuf, Failure> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros());
    let path = dir.join(format!("repair-{now}.json"));
    let write = || {
        let making = dir.join(format!("repair-{now}.making"));
        let mut file = File::create(&making)?;
        writeln!(file, "{:#}", repaired_json(dir, report))?;
        file.sync_all()?;
        fs::rename(&making, &path)?;
        File::open(dir)?.sync_all()
    };
    write().map_err(|source| Failure::io(path.display(), &source))?;
    Ok(path)
}

/// A checkpoint of the state, and what is wrong with it.
struct Checkpoint {
    file: PathBuf,
    applied: Lsn,
    fault: Option<String>,
}

impl std::fmt::Display for Checkpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.fault {
            None => write!(f, "{}: sound, includes all records below {}", self.file.display(), self.applied),
            Some(fault) => f.write_str(fault),
        }
    }
}

impl Checkpoint {
    fn to_json(&self) -> Value {
        json!({
            "file": self.file.display().to_string(),
            "applied": self.applied.0,
            "ok": self.fault.is_none(),
            "fault": self.fault,
        })
    }
}

fn check_checkpoints(lock: &Lock, log: Option<&VerifyReport>) -> Result<Vec<Checkpoint>, Failure> {
    let dir = lock.join("state");
    let (Some(report), true) = (log, dir.is_dir()) else { return Ok(Vec::new()) };
    let Some(log_id) = parse_id(&report.log_id) else { return Ok(Vec::new()) };
    let found = checkpoint::list(&RealDisk, &dir).map_err(|source| Failure::io(dir.display(), &source))?;
    let end = report.segments.last().map(|segment| segment.next);
    let check = |(applied, file): (Lsn, PathBuf)| {
        let fault = match checkpoint::read(&RealDisk, &file, log_id) {
            Err(CheckpointError::Io { file, source }) => Some(format!("{}: {source}", file.display())),
            Err(error) => Some(error.to_string()),
            Ok(_) if end.is_some_and(|end| applied > end) => Some(format!(
                "{}: includes records up to {applied}, and the log ends before record {}: the log's last records are lost",
                file.display(),
                end.unwrap_or_default()
            )),
            Ok(_) => None,
        };
        Checkpoint { file, applied, fault }
    };
    Ok(found.into_iter().map(check).collect())
}

fn parse_id(hex: &str) -> Option<[u8; 16]> {
    u128::from_str_radix(hex, 16).ok().map(u128::to_be_bytes)
}
