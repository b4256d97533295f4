//! The engines behind one interface, each configured for the same guarantee: a durable append has returned from `fdatasync` or
//! `fsync` before it returns.

use std::path::Path;

use anyhow::{Result, anyhow};

use crate::front::Ticket;

mod commitlog;
mod fjall;
mod forebay;
mod okaywal;
mod raft;
mod raw;
mod redb;
#[cfg(feature = "rocksdb")]
mod rocksdb;
mod sled;
mod sqlite;

/// Appends from several threads, each waiting for its record to be durable.
pub trait Native: Send + Sync {
    /// Appends a record of producer `producer` (0..); durable when it returns.
    ///
    /// # Errors
    /// What the engine said.
    fn append(&self, producer: usize, record: &[u8]) -> Result<()>;
}

/// One caller at a time, many records a call.
pub trait Store: Send {
    /// Writes records of `size` bytes that lie one after the other, in one call of the engine. With `sync` they are durable when it
    /// returns, else handed to the operating system.
    ///
    /// # Errors
    /// What the engine said.
    fn write(&mut self, records: &[u8], size: usize, sync: bool) -> Result<()>;

    /// What has to be done before everything is read, and is not measured.
    ///
    /// # Errors
    /// What the engine said.
    fn prepare_read(&mut self) -> Result<()> {
        Ok(())
    }

    /// Reads everything in order, checksums on where the engine has them; the number of records and their bytes.
    ///
    /// # Errors
    /// What the engine said.
    fn read_all(&mut self) -> Result<(u64, u64)>;
}

/// Appends without waiting, and waiting for them.
pub trait Flight: Send + Sync {
    /// Queues a record.
    ///
    /// # Errors
    /// What the engine said.
    fn give(&self, record: &[u8]) -> Result<Ticket>;

    /// Blocks until a record is durable.
    ///
    /// # Errors
    /// What the engine said.
    fn wait(&self, ticket: Ticket) -> Result<()>;
}

/// What a store is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Every append is synced.
    Synced,
    /// None is.
    Unsynced,
    /// None is, and everything is kept to be read.
    Kept,
}

type OpenNative = fn(&Path, usize) -> Result<Box<dyn Native>>;
type OpenStore = fn(&Path, Mode) -> Result<Box<dyn Store>>;
type OpenFlight = fn(&Path) -> Result<Box<dyn Flight>>;

/// An engine.
#[derive(Clone, Copy)]
pub struct Engine {
    /// Its name in the results.
    pub name: &'static str,
    /// Several producers call it directly; else through the front. (One producer always calls it directly.)
    pub groups: bool,
    /// An append can be durable.
    pub durable: bool,
    /// Has an append that is not synced.
    pub unsynced: bool,
    /// Can read everything back through its public interface while it is open.
    pub reads: bool,
    /// Direct appends; the second argument is the number of producers.
    pub native: Option<OpenNative>,
    /// Batches.
    pub store: Option<OpenStore>,
    /// Its own appends in flight, where it has them; else the front's.
    pub flight: Option<OpenFlight>,
}

/// All of them, the two that are compared with the others first.
#[must_use]
pub fn all() -> Vec<Engine> {
    vec![
        forebay::ENGINE,
        raw::ENGINE,
        raft::ENGINE,
        okaywal::ENGINE,
        #[cfg(feature = "rocksdb")]
        rocksdb::ENGINE,
        fjall::ENGINE,
        redb::ENGINE,
        sqlite::ENGINE,
        sled::ENGINE,
        commitlog::ENGINE,
    ]
}

/// The engine of a name.
///
/// # Errors
/// There is none.
pub fn named(name: &str) -> Result<Engine> {
    all().into_iter().find(|engine| engine.name == name).ok_or_else(|| anyhow!("no engine is called {name}"))
}
