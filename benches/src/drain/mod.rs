//! Draining a log into a database, beside the database's own bulk way on the same rows.
//!
//! ```text
//!  Backlog (a log of N messages) --Sinks::start--> Database <--Side::bulk (COPY, multi-row INSERT, redis-cli --pipe, insert_many, …)
//!                                     \--Counter--/        <--Side::plain: a statement for each message
//! ```
//!
//! A database is a file of this folder that implements [`side::Side`], and a line in `Kind` and its table (`database.rs`).

mod backlog;
mod cassandra;
mod database;
mod dynamo;
mod http;
mod influxdb;
mod mix;
mod mongo;
mod opentsdb;
mod proxy;
mod redis;
mod rows;
mod side;
mod sql;
mod sqlite;
mod template;

pub use backlog::{Backlog, Draining};
pub use database::{Database, Kind};
pub use mix::{Mix, UNITS};
pub use proxy::Counter;
pub use rows::Rows;
