//! What is particular about one database.

use std::fmt::Debug;
use std::future::Future;
use std::pin::Pin;

use anyhow::{Result, bail};
use forebay_services::Private;

use super::rows::Rows;

/// Something that takes a while.
pub(super) type Work<'a, T> = Pin<Box<dyn Future<Output = Result<T>> + 'a>>;

/// One database: its server, a pool of it, and its own bulk way. Everything is at a port of 127.0.0.1.
pub(super) trait Side: Debug {
    /// Its name, and what its own bulk way is.
    fn names(&self) -> (&'static str, &'static str);

    /// The least that the sink's rate may be of the bulk way's.
    fn bar(&self) -> f64 {
        0.8
    }

    /// How many messages are enough to be measured: what takes it some tens of seconds at most.
    fn most(&self) -> u64 {
        u64::MAX
    }

    /// Its server; nothing where it has none.
    fn start(&self) -> Result<Option<Private>>;

    /// Its names in a configuration: of its pools and of its hooks.
    fn words(&self) -> (&'static str, &'static str);

    /// Settings of a pool besides its size, `name = value` each.
    fn pool(&self, port: u16) -> Vec<String>;

    /// Makes what a sink does not.
    fn create(&self, _port: u16) -> Work<'_, ()> {
        Box::pin(async { Ok(()) })
    }

    /// Removes all messages and the sink's position.
    fn clear(&self, port: u16) -> Work<'_, ()>;

    /// How many messages it has.
    fn count(&self, port: u16) -> Work<'_, u64>;

    /// Makes what the bulk way sends, over so many connections where it has several.
    fn prepare(&mut self, _rows: Rows, _connections: usize) -> Result<()> {
        bail!("{} has no bulk way here", self.names().0)
    }

    /// Stores all rows in the bulk way; returns the seconds it took.
    fn bulk(&self, _port: u16) -> Work<'_, f64> {
        Box::pin(async { bail!("{} has no bulk way here", self.names().0) })
    }

    /// Stores the first rows one by one, each with a statement of its own that is waited for; returns the seconds it took.
    fn plain(&self, _port: u16, _rows: Rows) -> Work<'_, f64> {
        Box::pin(async { bail!("{} has no plain writer here", self.names().0) })
    }
}
