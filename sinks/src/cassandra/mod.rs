//! Cassandra.
//!
//! Every statement carries its record's time, which strictly increases over the log, as its timestamp: a write that comes again, or late
//! from a connection that was given up, never replaces a newer one. So batches may be sent again, and a lane's position is written after
//! its batch. What has the same partition is one unlogged batch; partitions are written side by side.
//!
//! Tables:
//!
//! ```text
#![doc = include_str!("tables.cql")]
//! ```

mod bind;
mod config;
mod connect;
mod encode;
mod error;
mod inspect;
mod lookup;
mod op;
mod outgoing;
mod partition;
mod position;
mod schema;
mod tls;
mod topic;
mod write;

pub use config::CassandraConfig;
pub use connect::{CassandraConn, CassandraSink};
pub use op::CassandraOp;
pub(crate) use schema::schema_text;
