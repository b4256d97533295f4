//! Settings of an SQLite pool.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::rule::Pool;

/// An SQLite pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SqliteConfig {
    /// The file (`file`); created when missing.
    pub path: PathBuf,
    /// Connections. SQLite has one writer at a time, so 1 is the fastest.
    pub connections: usize,
    /// Messages older than this are deleted (`retention`); `None` keeps all.
    pub retention: Option<Duration>,
    /// The node's name in `mqtt_client.node`, `mqtt_msg.node` and `mqtt_retain.node`.
    pub node_name: String,
}

impl SqliteConfig {
    /// The settings of a pool, as [rules](crate::rule) have checked them. Relative paths are taken from `data_dir`.
    #[must_use]
    pub fn from_pool(pool: &Pool, data_dir: &Path, node_name: &str) -> SqliteConfig {
        SqliteConfig {
            path: data_dir.join(pool.value("file").unwrap_or("forebay.db")),
            connections: pool.integer("pool_size").and_then(|n| usize::try_from(n).ok()).unwrap_or(1).max(1),
            retention: pool.duration("retention"),
            node_name: node_name.to_owned(),
        }
    }
}
