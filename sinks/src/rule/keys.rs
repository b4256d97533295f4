//! The settings of pools: what they are and what they take. Documentation and checks follow the tables of `key_tables`, one per database.

use super::key_tables::{CASSANDRA, DYNAMO, INFLUXDB, MONGO, MYSQL, OPENTSDB, PGSQL, REDIS, SQLITE, TIMESCALE};
use super::names::nearest;
use super::{Database, Pool, Setting, parse_duration};

/// A setting that pools of a database have.
#[derive(Clone, Copy, Debug)]
pub struct KeySpec {
    /// Its canonical name, as in [`Pool::settings`].
    pub name: &'static str,
    /// Other spellings.
    pub aliases: &'static [&'static str],
    /// What values it takes.
    pub kind: ValueKind,
    /// What holds when it is not written.
    pub default: Option<&'static str>,
    /// For a setting of the Erlang drivers that has no counterpart here: what is used instead.
    pub instead: Option<&'static str>,
    /// What it does.
    pub doc: &'static str,
}

/// The values a setting takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueKind {
    /// Any text.
    Text,
    /// Any text, never shown.
    Secret,
    /// A whole number in this range, both ends included.
    Integer(u64, u64),
    /// `true` or `false`.
    Boolean,
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// A duration (`7d`, `2h`, `500ms`; a bare number is seconds) or `off`.
    DurationOrOff,
    /// A list of `host:port`, separated by commas.
    Servers,
    /// `http://…` or `https://…`.
    Url,
}

/// The settings that pools of a database have.
#[must_use]
pub fn keys(database: Database) -> &'static [KeySpec] {
    match database {
        Database::Sqlite => SQLITE,
        Database::Redis => REDIS,
        Database::Mysql => MYSQL,
        Database::Pgsql => PGSQL,
        Database::Mongo => MONGO,
        Database::Cassandra => CASSANDRA,
        Database::Dynamo => DYNAMO,
        Database::Influxdb => INFLUXDB,
        Database::Opentsdb => OPENTSDB,
        Database::Timescale => TIMESCALE,
    }
}

impl KeySpec {
    /// The setting of a name or alias.
    pub(super) fn find(database: Database, name: &str) -> Option<&'static KeySpec> {
        keys(database).iter().find(|spec| spec.name == name || spec.aliases.contains(&name))
    }
}

impl Pool {
    /// The value of a setting by canonical name: as written, else its documented default.
    #[must_use]
    pub fn value(&self, name: &str) -> Option<&str> {
        let written = self.settings.get(name).map(|setting: &Setting| setting.value.as_str());
        written.or_else(|| KeySpec::find(self.database, name).and_then(|spec| spec.default))
    }

    /// [`Pool::value`] of a setting of kind [`ValueKind::Integer`].
    #[must_use]
    pub fn integer(&self, name: &str) -> Option<u64> {
        self.value(name)?.parse().ok()
    }

    /// [`Pool::value`] of a setting of kind [`ValueKind::Boolean`].
    #[must_use]
    pub fn boolean(&self, name: &str) -> Option<bool> {
        self.value(name)?.parse().ok()
    }

    /// [`Pool::value`] of a setting of kind [`ValueKind::DurationOrOff`]; `None` for `off`.
    #[must_use]
    pub fn duration(&self, name: &str) -> Option<std::time::Duration> {
        parse_duration(self.value(name)?)
    }
}

impl ValueKind {
    /// Says what was expected where the value is none of this kind.
    pub(super) fn check(self, value: &str) -> Result<(), String> {
        let ok = match self {
            ValueKind::Text | ValueKind::Secret => true,
            ValueKind::Integer(min, max) => {
                is_digits(value) && value.parse::<u64>().is_ok_and(|n| n >= min && n <= max)
            }
            ValueKind::Boolean => matches!(value, "true" | "false"),
            ValueKind::OneOf(words) => words.contains(&value),
            ValueKind::DurationOrOff => value == "off" || parse_duration(value).is_some_and(|time| !time.is_zero()),
            ValueKind::Servers => return value.split(',').try_for_each(|server| check_server(server.trim())),
            ValueKind::Url => {
                value.strip_prefix("http://").or(value.strip_prefix("https://")).is_some_and(|h| !h.is_empty())
            }
        };
        if ok { Ok(()) } else { Err(self.expectation(value)) }
    }

    fn expectation(self, value: &str) -> String {
        match self {
            ValueKind::Integer(min, max) => format!("expected a whole number from {min} to {max}"),
            ValueKind::Boolean => "expected `true` or `false`".to_owned(),
            ValueKind::OneOf(words) => match nearest(value, words.iter().copied()) {
                Some(near) => format!("expected one of {}; did you mean `{near}`?", words.join(", ")),
                None => format!("expected one of {}", words.join(", ")),
            },
            ValueKind::DurationOrOff => "expected a duration such as `7d`, `2h` or `90s`, or `off`".to_owned(),
            ValueKind::Url => "expected `http://host:port` or `https://host:port`".to_owned(),
            ValueKind::Servers => "expected `host:port`, several separated by commas".to_owned(),
            ValueKind::Text | ValueKind::Secret => "expected text".to_owned(),
        }
    }
}

fn is_digits(value: &str) -> bool {
    !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit())
}

/// `host`, `host:port`, `[v6]` or `[v6]:port`.
fn check_server(server: &str) -> Result<(), String> {
    let expected = || "expected `host:port`, several separated by commas".to_owned();
    let (host, port) = match server.strip_prefix('[') {
        Some(rest) => {
            let (host, after) = rest.split_once(']').ok_or_else(expected)?;
            (host, if after.is_empty() { None } else { Some(after.strip_prefix(':').ok_or_else(expected)?) })
        }
        None => match server.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (server, None),
        },
    };
    if host.is_empty() || host.contains(|c: char| c.is_whitespace() || c == '/') {
        return Err(expected());
    }
    match port {
        Some(port) if !is_digits(port) || !port.parse::<u16>().is_ok_and(|n| n > 0) => {
            Err(format!("`{port}` is no port: expected a whole number from 1 to 65535"))
        }
        _ => Ok(()),
    }
}

/// True for names that look as if they held a secret, misspelt ones too.
pub(super) fn is_secret_name(name: &str) -> bool {
    let name = name.rsplit('.').next().unwrap_or(name).to_ascii_lowercase();
    ["pass", "pwd", "secret", "token", "access_key"].iter().any(|word| name.contains(word))
        || nearest(&name, ["password"]).is_some()
}

/// A line for showing: what follows a name that looks secret is `***`.
pub(super) fn mask_line(line: &str) -> String {
    for (equals, _) in line.match_indices('=') {
        let Some((before, _)) = line.split_at_checked(equals) else { continue };
        let name = before.trim_end().trim_end_matches(['"', '\'']);
        let name = name.rsplit(|c: char| !(c.is_alphanumeric() || matches!(c, '_' | '-' | '.'))).next().unwrap_or(name);
        // A rule's line is JSON with statements in it: no pool's secret.
        if name.contains(".hook.") {
            return line.to_owned();
        }
        if is_secret_name(name) {
            return format!("{before}= ***");
        }
    }
    line.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_lists_of_host_and_port() {
        for good in ["127.0.0.1:6379", "a:1, b:2", "redis", "[::1]:6379", "[::1]"] {
            assert_eq!(ValueKind::Servers.check(good), Ok(()), "{good}");
        }
        for bad in ["", "a:0", "a:65536", "a:x", ":1", "a:1,", "a b:1", "[::1", "http://a:1"] {
            assert!(ValueKind::Servers.check(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn secrets_are_masked_in_lines_misspelt_ones_too() {
        for line in
            ["backend.redis.p.password = hunter2", "backend.redis.p.pasword=hunter2", "p = { password = \"hunter2\" }"]
        {
            let shown = mask_line(line);
            assert!(!shown.contains("hunter2") && shown.ends_with("= ***"), "{shown}");
        }
        assert_eq!(mask_line("backend.redis.p.server = a:1"), "backend.redis.p.server = a:1");
    }

    #[test]
    fn every_default_is_a_valid_value_and_no_name_is_used_twice() {
        for db in Database::ALL {
            let mut names = Vec::new();
            for spec in keys(db) {
                if let Some(default) = spec.default {
                    assert_eq!(spec.kind.check(default), Ok(()), "{db} {}", spec.name);
                }
                names.push(spec.name);
                names.extend(spec.aliases);
            }
            let count = names.len();
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), count, "{db}");
        }
    }
}
