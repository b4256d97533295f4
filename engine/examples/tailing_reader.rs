//! Follows a log as a sink does: reads what is durable, stores it together with its own position, and goes on from there after a
//! crash. Nothing is stored twice and nothing is left out, for position and data change in one step.
//!
//! `cargo run -p forebay-engine --example tailing_reader [folder]`

use std::error::Error;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use forebay_engine::log::{Log, LogOptions, NewRecord, ReadError};
use forebay_engine::{Lsn, Record};

/// A database of one file: its first line is the position, the next record to read; the others are what is stored.
pub struct Store {
    file: PathBuf,
    position: Lsn,
    rows: Vec<String>,
}

impl Store {
    /// Opens it, or begins an empty one.
    ///
    /// # Errors
    /// Where the file does not read.
    pub fn open(file: PathBuf) -> Result<Store, Box<dyn Error>> {
        let text = match fs::read_to_string(&file) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => "1".into(),
            Err(e) => return Err(e.into()),
        };
        let mut lines = text.lines();
        let position = Lsn(lines.next().ok_or("no position")?.parse()?);
        Ok(Store { file, position, rows: lines.map(str::to_owned).collect() })
    }

    /// Stores rows and the position behind them, in one step: the new file takes the old one's name when it is on disk.
    fn commit(&mut self, records: &[Record], position: Lsn) -> Result<(), Box<dyn Error>> {
        self.rows
            .extend(records.iter().map(|record| format!("{} {}", record.lsn, String::from_utf8_lossy(&record.body))));
        self.position = position;
        let making = self.file.with_extension("making");
        let mut out = fs::File::create(&making)?;
        writeln!(out, "{position}")?;
        self.rows.iter().try_for_each(|row| writeln!(out, "{row}"))?;
        out.sync_all()?;
        fs::rename(&making, &self.file)?;
        Ok(())
    }

    /// What is stored.
    #[must_use]
    pub fn rows(&self) -> &[String] {
        &self.rows
    }
}

/// Follows the log until nothing new comes for a while, at most `batches` batches of four records.
///
/// # Errors
/// Where the store does not take a batch, or the log does not read.
pub fn follow(log: &Log, store: &mut Store, batches: usize) -> Result<(), Box<dyn Error>> {
    let mut reader = match log.reader(store.position) {
        // The log was trimmed while this reader was away: it says so and goes on with what is left.
        Err(ReadError::Trimmed { first }) => {
            println!("records {} to {first} are gone", store.position);
            log.reader(first)?
        }
        other => other?,
    };
    let mut records = Vec::new();
    for _ in 0..batches {
        if !reader.wait(Duration::from_millis(50))? {
            break;
        }
        records.clear();
        reader.read_batch(4, 1 << 20, &mut records)?;
        // What comes before the position is stored; the position is never ahead of the data.
        store.commit(&records, reader.position())?;
    }
    Ok(())
}

/// Appends ten records, follows with a reader that "crashes" after its first batch, and with one that goes on.
///
/// # Errors
/// Of log and store.
pub fn run(dir: &Path) -> Result<Vec<String>, Box<dyn Error>> {
    let (log, report) = Log::open(LogOptions::new(dir.join("log")))?;
    println!("log {} goes on with record {}", report.log_id, report.next);
    let record = |n: u32| NewRecord { kind: 1, body: format!("measurement {n}").into_bytes() };
    log.append_durable((0..10).map(record).collect::<Vec<_>>())?;

    let mut store = Store::open(dir.join("store.txt"))?;
    follow(&log, &mut store, 1)?;
    drop(store);

    let mut store = Store::open(dir.join("store.txt"))?;
    println!("the reader goes on with record {}", store.position);
    follow(&log, &mut store, usize::MAX)?;
    // Everything before its position may go; a log is trimmed by whole segments.
    log.trim_to(store.position)?;
    log.close();
    Ok(store.rows)
}

fn main() -> Result<(), Box<dyn Error>> {
    let dir = std::env::args().nth(1).map_or_else(|| std::env::temp_dir().join("forebay-tailing"), Into::into);
    for row in run(&dir)? {
        println!("{row}");
    }
    Ok(())
}
