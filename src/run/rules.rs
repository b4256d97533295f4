//! The lines that know how rules are loaded.

use std::fmt::Write as _;
use std::path::Path;

use forebay_engine::Rules;
use forebay_sinks::rule::{self, RuleSet};

use crate::config::load::Loaded;
use crate::exit::{self, Exit, Failure};

/// The file of the default sink. Relative files are in the data folder, as those of all SQLite pools.
const DEFAULT_FILE: &str = "forebay.db";

/// The rules of this run.
#[derive(Clone, Debug)]
pub struct RuleSource {
    /// Rules and pools.
    pub set: RuleSet,
}

impl RuleSource {
    /// How many rules there are.
    pub fn count(&self) -> usize {
        self.set.rules.len()
    }

    /// What the engine has to know of them.
    pub fn engine_rules(&self) -> Rules {
        self.set.engine_rules()
    }

    /// The databases, in words; `data` is the data folder.
    pub fn pools(&self, data: &Path) -> Vec<String> {
        let file = |pool: &rule::Pool| pool.value("file").map(|file| data.join(file).display().to_string());
        let servers = ["nodes", "http.server", "udp.server", "server"];
        let server = |pool: &rule::Pool| servers.iter().find_map(|name| pool.value(name)).map(str::to_owned);
        let shown = |pool: &rule::Pool| match file(pool).or_else(|| server(pool)) {
            Some(place) => format!("{}/{} ({place})", pool.database, pool.name),
            None => format!("{}/{}", pool.database, pool.name),
        };
        self.set.pools.iter().map(shown).collect()
    }
}

/// Reads the rules of `forebay.toml` and of all `.conf` files; without any, everything goes to a SQLite file in the data
/// folder. The second value is what is legal but suspect.
///
/// # Errors
/// All faults of all files; a rule for a database that this build has no driver for is one.
pub fn load(loaded: &Loaded) -> Result<(RuleSource, Vec<String>), Failure> {
    let toml = loaded.file.as_ref().map(|(path, text)| (path.as_path(), text.as_str()));
    let read = rule::load(&loaded.settings.backends, toml).map_err(|faults| {
        Failure::new(Exit::Usage, format!("{}; nothing was started", faults.to_string().trim_end()))
    })?;
    let missing = read.rules.unavailable(forebay_sinks::AVAILABLE);
    if !missing.is_empty() {
        let mut text = String::new();
        for fault in &missing {
            let _ = writeln!(text, "{fault}");
        }
        return Err(Failure::new(Exit::Usage, format!("{text}{}", exit::nothing_started(missing.len()))));
    }
    let warnings = read.warnings.iter().map(ToString::to_string).collect();
    let set = if read.rules.pools.is_empty() && read.rules.rules.is_empty() {
        RuleSet::default_sqlite(Path::new(DEFAULT_FILE))
    } else {
        read.rules
    };
    Ok((RuleSource { set }, warnings))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pools_are_shown_with_the_servers_that_they_name() {
        let text = "backend.ecql.pool1.nodes = 10.0.0.1:9043\nbackend.influxdb.pool1.http.server = 10.0.0.2:8087\n\
                    backend.redis.pool1.server = 10.0.0.3:6380\nbackend.sqlite.pool1.file = a.db\n";
        let parsed = rule::parse_conf(Path::new("test.conf"), text);
        assert_eq!(parsed.faults, []);
        let mut shown = RuleSource { set: parsed.rules }.pools(Path::new("/data"));
        shown.sort();
        let expected = [
            "cassa/pool1 (10.0.0.1:9043)",
            "influxdb/pool1 (10.0.0.2:8087)",
            "redis/pool1 (10.0.0.3:6380)",
            "sqlite/pool1 (/data/a.db)",
        ];
        assert_eq!(shown, expected);
    }
}
