//! Draining a log into a database, beside the database's own bulk way on the same rows.
//!
//! ```text
//!  Backlog (a log of N messages) --Sinks::start--> Database <--Bulk (COPY, multi-row INSERT, redis-cli --pipe)
//!                                     \--Counter--/           <--plain: a statement for each message
//! ```

mod backlog;
mod database;
mod proxy;
mod redis;
mod rows;
mod sql;

pub use backlog::{Backlog, Draining};
pub use database::{Database, Kind};
pub use proxy::Counter;
pub use rows::Rows;
