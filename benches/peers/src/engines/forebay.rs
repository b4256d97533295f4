//! Forebay's log, with its defaults. A thread trims behind the writer, so that segments go round as the raw log's do.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use forebay_engine::Lsn;
use forebay_engine::log::{Durability, Log, LogOptions, NewRecord, RecordRef};

use super::{Engine, Flight, Mode, Native, Store};
use crate::front::Ticket;

pub const ENGINE: Engine = Engine {
    name: "forebay",
    groups: true,
    durable: true,
    unsynced: true,
    reads: true,
    native: Some(|dir, _| Ok(Box::new(Forebay::open(dir, Mode::Synced)?))),
    store: Some(|dir, mode| Ok(Box::new(Forebay::open(dir, mode)?))),
    flight: Some(|dir| Ok(Box::new(Forebay::open(dir, Mode::Synced)?))),
};

/// Nothing is being prepared for so long: all is.
const REST: Duration = Duration::from_millis(100);

struct Forebay {
    log: Log,
    dir: PathBuf,
    stop: Arc<AtomicBool>,
    trimmer: Option<JoinHandle<()>>,
}

impl Forebay {
    fn open(dir: &Path, mode: Mode) -> Result<Forebay> {
        let dir = dir.join("log");
        let mut options = LogOptions::new(&dir);
        if mode != Mode::Synced {
            options.durability = Durability::Buffered;
        }
        let (log, _) = Log::open(options)?;
        await_spare(&dir)?;
        let stop = Arc::new(AtomicBool::new(false));
        let trimmer = (mode != Mode::Kept).then(|| {
            let (log, stop) = (log.clone(), Arc::clone(&stop));
            std::thread::spawn(move || trim(&log, &stop))
        });
        Ok(Forebay { log, dir, stop, trimmer })
    }
}

/// Segments are prepared in the background, those of the reserve too; what is measured begins when that has come to rest.
fn await_spare(dir: &Path) -> Result<()> {
    let (begun, mut rest) = (Instant::now(), Instant::now());
    let mut before = 0;
    while begun.elapsed() < Duration::from_secs(60) {
        let (mut spares, mut making) = (0, false);
        for entry in std::fs::read_dir(dir)? {
            let path = entry?.path();
            let extension = path.extension().unwrap_or_default();
            spares += usize::from(extension == "spare");
            making |= extension == "making";
        }
        if making || spares != before || spares == 0 {
            (before, rest) = (spares, Instant::now());
        } else if rest.elapsed() > REST {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    bail!("no segment was prepared in {}", dir.display());
}

/// What retention does: removes what is behind the segment that is written.
fn trim(log: &Log, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        std::thread::park_timeout(Duration::from_millis(10));
        if log.trim_to(log.durable_end()).is_err() {
            return;
        }
    }
}

impl Drop for Forebay {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(trimmer) = self.trimmer.take() {
            trimmer.thread().unpark();
            let _ = trimmer.join();
        }
        self.log.close();
    }
}

fn new(record: &[u8]) -> NewRecord<&[u8]> {
    NewRecord { kind: 1, body: record }
}

impl Native for Forebay {
    fn append(&self, _: usize, record: &[u8]) -> Result<()> {
        self.log.append_durable([new(record)])?;
        Ok(())
    }
}

impl Store for Forebay {
    fn write(&mut self, records: &[u8], size: usize, _: bool) -> Result<()> {
        self.log.append_durable(records.chunks_exact(size).map(new).collect::<Vec<_>>())?;
        Ok(())
    }

    /// Opens it anew: the newest records shall come from the segments too, not from the cache of the log's tail.
    fn prepare_read(&mut self) -> Result<()> {
        self.log.close();
        (self.log, _) = Log::open(LogOptions::new(&self.dir))?;
        await_spare(&self.dir)
    }

    fn read_all(&mut self) -> Result<(u64, u64)> {
        let mut reader = self.log.reader(self.log.first())?;
        let (mut count, mut bytes) = (0, 0);
        let mut visit = |record: RecordRef<'_>| {
            count += 1;
            bytes += record.body.len() as u64;
        };
        while reader.visit(usize::MAX, 1 << 20, &mut visit)? > 0 {}
        Ok((count, bytes))
    }
}

impl Flight for Forebay {
    fn give(&self, record: &[u8]) -> Result<Ticket> {
        let given = self.log.append_batch([new(record)])?;
        Ok(Ticket { number: given.last.0, group: 0 })
    }

    fn wait(&self, ticket: Ticket) -> Result<()> {
        Ok(self.log.wait_durable_blocking(Lsn(ticket.number))?)
    }
}
