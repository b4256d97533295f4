//! Settings of an SQLite pool.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::rule::{Location, Pool};

/// An SQLite pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SqliteConfig {
    /// The file (`path`, also spelled `file` or `database`); created when missing.
    pub path: PathBuf,
    /// Connections. SQLite has one writer at a time, so 1 is the fastest.
    pub connections: usize,
    /// Messages older than this are deleted (`retention`: `7d`, `12h`, `30m`, `45s` or `off`); `None` keeps all.
    pub retention: Option<Duration>,
    /// The node's name in `mqtt_client.node`, `mqtt_msg.node` and `mqtt_retain.node`.
    pub node_name: String,
}

/// A setting that can't be used.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{at}: {key} = {value}: {expected}")]
pub struct ConfigError {
    /// Where it stands.
    pub at: Location,
    /// The setting.
    pub key: String,
    /// Its value.
    pub value: String,
    /// What was expected.
    pub expected: &'static str,
}

impl SqliteConfig {
    /// Reads a pool's settings. Relative paths are taken from `data_dir`; without a path the file is `forebay.db` there.
    ///
    /// # Errors
    /// Names the first value that can't be used, with its place.
    pub fn from_pool(pool: &Pool, data_dir: &Path, node_name: &str) -> Result<SqliteConfig, ConfigError> {
        let text = |keys: &[&str]| keys.iter().find_map(|k| pool.settings.get(*k)).map(|s| s.value.as_str());
        let bad = |key: &str, expected| {
            let setting = pool.settings.get(key);
            ConfigError {
                at: setting.map_or_else(|| pool.at.clone(), |s| s.at.clone()),
                key: key.to_owned(),
                value: setting.map(|s| s.value.clone()).unwrap_or_default(),
                expected,
            }
        };
        let connections = match text(&["pool_size"]) {
            None => 1,
            Some(n) => n
                .parse()
                .ok()
                .filter(|n| (1..=64).contains(n))
                .ok_or_else(|| bad("pool_size", "a number from 1 to 64"))?,
        };
        let retention = match text(&["retention"]) {
            None | Some("off") => None,
            Some(t) => {
                Some(duration(t).ok_or_else(|| bad("retention", "a duration such as 7d, 12h, 30m or 45s, or off"))?)
            }
        };
        let path = data_dir.join(text(&["path", "file", "database"]).unwrap_or("forebay.db"));
        Ok(SqliteConfig { path, connections, retention, node_name: node_name.to_owned() })
    }
}

fn duration(text: &str) -> Option<Duration> {
    let unit = text.char_indices().find(|(_, c)| !c.is_ascii_digit()).map_or(text.len(), |(at, _)| at);
    let (number, unit) = text.split_at(unit);
    let seconds = match unit {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(seconds).filter(|s| *s > 0).map(Duration::from_secs)
}
