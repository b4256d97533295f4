//! Redis: single servers, sentinels, clusters.
//!
#![doc = concat!("```text\n", include_str!("keys.txt"), "```")]
//!
//! One server and sentinels: a batch is one Lua script with its position, so it is stored once, users' commands included. After
//! a failover the promoted replica's data and position are of the same moment, and the sink goes on from there. Cluster: commands
//! go to their slots' masters, in phases, and the position follows when all have answered; everything can be repeated, and when a
//! master was replaced the sink goes back by `rewind`.

mod channel;
mod cluster;
mod cluster_write;
mod config;
mod conn;
mod encode;
mod error;
mod inspect;
mod keys;
mod link;
mod lookup;
mod script;
mod write;

pub use config::{Deployment, RedisConfig, RetainLayout, Secret, Server, Tls};
pub use conn::RedisConn;
pub use encode::{MessageRow, RedisOp, What};
pub use write::RedisSink;

/// The keys, as `forebay schema redis` prints them.
pub(crate) fn schema_text() -> String {
    include_str!("keys.txt").to_owned()
}
