//! MongoDB: single servers, replica sets, sharded clusters.
//!
#![doc = concat!("```text\n", include_str!("collections.txt"), "```")]
//!
//! Messages are inserted under a number that is a function of their record; everything else is an upsert by its natural key, with an
//! `_id` made of that key, so that two attempts at once never leave two documents. Where the deployment has transactions a batch and
//! its position are one; elsewhere the position follows the batch, and what is repeated changes nothing.
//!
//! All writes are raw `insert`, `update` and `delete` commands, which every version of the server has. The driver repeats none of them by
//! itself (`retryWrites` is off): the runtime does, from the position the database has.

mod apply;
mod command;
mod config;
mod conn;
mod connect;
mod encode;
mod error;
mod fold;
mod inspect;
mod json;
mod lookup;
mod op;
mod position;
mod schema;
mod write;

pub use config::{Deployment, MongoConfig, SchemaMode, Secret, Tls, Transactions};
pub use conn::MongoConn;
pub use connect::MongoSink;
pub use op::{MessageRow, MongoOp};

/// The collections, as `forebay schema mongo` prints them.
pub(crate) fn schema_text() -> String {
    include_str!("collections.txt").to_owned()
}
