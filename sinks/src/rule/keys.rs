//! The settings of pools: one table per database. The documentation and the checks follow these tables.

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

const fn key(name: &'static str, kind: ValueKind, default: Option<&'static str>, doc: &'static str) -> KeySpec {
    KeySpec { name, aliases: &[], kind, default, instead: None, doc }
}

const fn replaced(name: &'static str, kind: ValueKind, instead: &'static str, doc: &'static str) -> KeySpec {
    KeySpec { name, aliases: &[], kind, default: None, instead: Some(instead), doc }
}

const fn alias(spec: KeySpec, aliases: &'static [&'static str]) -> KeySpec {
    KeySpec { aliases, ..spec }
}

const ANY_COUNT: ValueKind = ValueKind::Integer(0, u32::MAX as u64);
const PORT: ValueKind = ValueKind::Integer(1, 65_535);
const POOL_SIZE: KeySpec =
    alias(key("pool_size", ValueKind::Integer(1, 1_024), Some("8"), "connections"), &["size", "c_pool_size"]);
const USERNAME: KeySpec = alias(key("username", ValueKind::Text, None, "user name"), &["user"]);
const PASSWORD: KeySpec = key("password", ValueKind::Secret, None, "password");
const SSL: KeySpec =
    key("ssl", ValueKind::Boolean, Some("false"), "TLS; the server's certificate and name are always checked");
const KEYFILE: KeySpec = key("keyfile", ValueKind::Text, None, "file with the client's private key (PEM)");
const CERTFILE: KeySpec = key("certfile", ValueKind::Text, None, "file with the client's certificate (PEM)");
const CACERTFILE: KeySpec = key(
    "cacertfile",
    ValueKind::Text,
    None,
    "file with the certificates that servers are checked against (PEM); absent = the public authorities",
);
const BINARY_PAYLOAD: KeySpec = key(
    "binary_payload",
    ValueKind::OneOf(&["none", "base64", "hex"]),
    Some("none"),
    "how payloads are stored that a text column can't hold; with none they go to the dead letters",
);

const SCHEMA: KeySpec = key(
    "schema",
    ValueKind::OneOf(&["create", "verify", "off"]),
    Some("create"),
    "tables (collections) and indexes that are missing are created; or are an error; or are not looked for",
);
const STATEMENT_CACHE: KeySpec = key(
    "statement_cache",
    ValueKind::OneOf(&["on", "off"]),
    Some("on"),
    "statements stay prepared in a connection; off for poolers that hand each transaction to another one",
);

const SQLITE: &[KeySpec] = &[
    alias(
        key("file", ValueKind::Text, Some("forebay.db"), "the database file; relative paths are in the data folder"),
        &["path", "database"],
    ),
    alias(
        key("pool_size", ValueKind::Integer(1, 64), Some("1"), "connections; SQLite has one writer at a time"),
        &["size", "c_pool_size"],
    ),
    key("retention", ValueKind::DurationOrOff, Some("off"), "rows of mqtt_msg older than this are deleted"),
];

const REDIS: &[KeySpec] = &[
    key("type", ValueKind::OneOf(&["single", "sentinel", "cluster"]), Some("single"), "kind of deployment"),
    key("server", ValueKind::Servers, Some("127.0.0.1:6379"), "servers, or sentinels with type = sentinel"),
    key("sentinel", ValueKind::Text, None, "name of the master; required with type = sentinel"),
    POOL_SIZE,
    key("database", ANY_COUNT, Some("0"), "number of the database"),
    USERNAME,
    PASSWORD,
    key(
        "channel",
        ValueKind::Text,
        Some("mqtt_channel"),
        "channel with subscribe and unsubscribe orders; none with type = cluster",
    ),
    key("retain_layout", ValueKind::OneOf(&["hash", "zset"]), Some("hash"), "shape of mqtt:retain:${topic}"),
    key(
        "wait_replicas",
        ValueKind::Integer(0, 16),
        Some("0"),
        "replicas that must have a batch before it counts as stored; 0 = the master's answer is enough",
    ),
    key(
        "rewind",
        ValueKind::DurationOrOff,
        Some("10s"),
        "with type = cluster: how far back what was stored is stored again after a master was replaced",
    ),
    SSL,
    KEYFILE,
    CERTFILE,
    CACERTFILE,
];

const MYSQL: &[KeySpec] = &[
    key("server", ValueKind::Servers, Some("127.0.0.1:3306"), "server"),
    POOL_SIZE,
    USERNAME,
    PASSWORD,
    key("database", ValueKind::Text, Some("mqtt"), "database"),
    SSL,
    KEYFILE,
    CERTFILE,
    CACERTFILE,
    BINARY_PAYLOAD,
    SCHEMA,
    STATEMENT_CACHE,
];

const PGSQL: &[KeySpec] = &[
    key("server", ValueKind::Servers, Some("127.0.0.1:5432"), "server"),
    POOL_SIZE,
    USERNAME,
    PASSWORD,
    key("database", ValueKind::Text, Some("mqtt"), "database"),
    SSL,
    KEYFILE,
    CERTFILE,
    CACERTFILE,
    BINARY_PAYLOAD,
    SCHEMA,
    STATEMENT_CACHE,
];

const MONGO: &[KeySpec] = &[
    key("type", ValueKind::OneOf(&["single", "unknown", "sharded", "rs"]), Some("single"), "kind of deployment"),
    key("rs_set_name", ValueKind::Text, None, "name of the replica set; required with type = rs"),
    key("server", ValueKind::Servers, Some("127.0.0.1:27017"), "servers"),
    key("srv_record", ValueKind::Boolean, Some("false"), "server is a DNS name with SRV records"),
    POOL_SIZE,
    key("database", ValueKind::Text, Some("mqtt"), "database"),
    alias(key("username", ValueKind::Text, None, "user name"), &["login", "user"]),
    PASSWORD,
    key("auth_source", ValueKind::Text, Some("admin"), "database that knows the user"),
    SSL,
    KEYFILE,
    CERTFILE,
    CACERTFILE,
    key(
        "w_mode",
        ValueKind::OneOf(&["safe", "unsafe"]),
        Some("safe"),
        "what counts as stored: what a majority of the servers has in its journal, or what one has answered",
    ),
    key("r_mode", ValueKind::OneOf(&["master", "slave_ok", "slaver_ok"]), Some("master"), "where lookups may read"),
    key(
        "transactions",
        ValueKind::OneOf(&["auto", "on", "off"]),
        Some("auto"),
        "batches and the sink's position are stored in transactions; auto = where the deployment has them",
    ),
    SCHEMA,
    replaced("topology.pool_size", ANY_COUNT, "the pool's `pool_size`", "connections of the Erlang driver's monitor"),
    replaced(
        "topology.max_overflow",
        ANY_COUNT,
        "never more than `pool_size` connections",
        "connections beyond the pool",
    ),
    replaced("topology.overflow_ttl", ANY_COUNT, "never more than `pool_size` connections", "their life in ms"),
    replaced(
        "topology.overflow_check_period",
        ANY_COUNT,
        "never more than `pool_size` connections",
        "their check in ms",
    ),
    key("topology.local_threshold_ms", ANY_COUNT, Some("15"), "servers this much slower than the nearest are not read"),
    key("topology.connect_timeout_ms", ANY_COUNT, Some("20000"), "time to connect"),
    replaced("topology.socket_timeout_ms", ANY_COUNT, "the sink's own deadline of each request", "time of a request"),
    key("topology.server_selection_timeout_ms", ANY_COUNT, Some("5000"), "time to find a server that can be used"),
    replaced(
        "topology.wait_queue_timeout_ms",
        ANY_COUNT,
        "the sink's own deadline of each request",
        "wait for a connection",
    ),
    key("topology.heartbeat_frequency_ms", ANY_COUNT, Some("10000"), "time between checks of the servers"),
    replaced(
        "topology.min_heartbeat_frequency_ms",
        ANY_COUNT,
        "the driver's fixed 500 ms",
        "least time between checks",
    ),
];

const CASSANDRA: &[KeySpec] = &[
    alias(key("nodes", ValueKind::Servers, Some("127.0.0.1:9042"), "nodes to connect to first"), &["server"]),
    POOL_SIZE,
    replaced(
        "auto_reconnect",
        ANY_COUNT,
        "reconnecting at once, then at growing intervals",
        "seconds between attempts",
    ),
    USERNAME,
    PASSWORD,
    key("keyspace", ValueKind::Text, Some("mqtt"), "keyspace"),
    key(
        "consistency",
        ValueKind::OneOf(&["one", "two", "three", "quorum", "all", "local_quorum", "each_quorum", "local_one"]),
        Some("local_quorum"),
        "how many replicas must have a write before it counts as stored, and are asked for a read",
    ),
    replaced(
        "serial_consistency",
        ValueKind::OneOf(&["serial", "local_serial"]),
        "no conditional statement: rules can't have any",
        "replicas of conditional statements",
    ),
    replaced("logger", ValueKind::Text, "Forebay's own log", "log level of the Erlang driver"),
    BINARY_PAYLOAD,
    SCHEMA,
];

const DYNAMO: &[KeySpec] = &[
    key("server", ValueKind::Url, None, "endpoint; the region's own where absent"),
    alias(
        key("pool_size", ValueKind::Integer(1, 1_024), Some("8"), "batches under way, each with up to 8 requests"),
        &["size", "c_pool_size"],
    ),
    key("region", ValueKind::Text, Some("us-west-2"), "region"),
    key(
        "aws_access_key_id",
        ValueKind::Secret,
        None,
        "access key; where absent what the environment, the profile or the machine has",
    ),
    key("aws_secret_access_key", ValueKind::Secret, None, "secret of the access key"),
    key(
        "billing",
        ValueKind::OneOf(&["on_demand", "provisioned"]),
        Some("on_demand"),
        "how tables that are created are paid for: by request, or by the throughput of the next two settings",
    ),
    key(
        "read_capacity",
        ValueKind::Integer(1, 40_000),
        Some("5"),
        "with provisioned: read units of each table that is created",
    ),
    key(
        "write_capacity",
        ValueKind::Integer(1, 40_000),
        Some("5"),
        "with provisioned: write units of each table that is created",
    ),
    key(
        "map_ids",
        ValueKind::Integer(10, 10_000),
        Some("1000"),
        "names of messages in an item of mqtt_topic_msg_map before another is begun",
    ),
    key(
        "binary_payload",
        ValueKind::OneOf(&["none", "base64", "hex"]),
        Some("none"),
        "how payloads that are no text are stored: with none as type B, else as type S in these digits",
    ),
    SCHEMA,
];

const PRECISIONS: ValueKind = ValueKind::OneOf(&["ns", "us", "u", "ms", "s", "m", "h"]);

const SAME_TIME: KeySpec = key(
    "same_time",
    ValueKind::OneOf(&["bump", "dead_letter"]),
    Some("bump"),
    "a second message of a series in one unit of time is moved to the next free one; or goes to the dead letters",
);

const INFLUXDB: &[KeySpec] = &[
    alias(
        key(
            "write_protocol",
            ValueKind::OneOf(&["udp", "http"]),
            None,
            "how points are sent; UDP can lose them unnoticed",
        ),
        &["common.write_protocol"],
    ),
    alias(key("batch_size", ValueKind::Integer(1, 100_000), Some("1000"), "points in a write"), &["common.batch_size"]),
    alias(
        key("pool_size", ValueKind::Integer(1, 1_024), Some("8"), "connections"),
        &["size", "c_pool_size", "common.pool_size"],
    ),
    key("server", ValueKind::Servers, None, "UDP server (the keys of EMQ X 3.2)"),
    key(
        "template_file",
        ValueKind::Text,
        Some("templates/emqx_backend_influxdb.tmpl"),
        "how messages become points (TEMPLATES.md); relative paths are in the data folder",
    ),
    key(
        "field_type",
        ValueKind::OneOf(&["native", "compat_string"]),
        Some("native"),
        "fields are numbers, booleans and texts as they come; or all of them texts, as EMQ X wrote them",
    ),
    SAME_TIME,
    replaced("set_timestamp", ValueKind::Boolean, "the record's own time on every point", "points carry a time"),
    key("udp.server", ValueKind::Servers, None, "UDP server"),
    key("udp.host", ValueKind::Text, Some("127.0.0.1"), "UDP host"),
    key("udp.port", PORT, Some("8089"), "UDP port"),
    key("udp.pool_size", ValueKind::Integer(1, 1_024), None, "sockets for UDP"),
    key("udp.precision", PRECISIONS, Some("ms"), "unit of timestamps: what the server's [[udp]] section says"),
    key("http.server", ValueKind::Servers, None, "HTTP server"),
    key("http.host", ValueKind::Text, Some("127.0.0.1"), "HTTP host"),
    key("http.port", PORT, Some("8086"), "HTTP port"),
    key("http.pool_size", ValueKind::Integer(1, 1_024), None, "connections for HTTP"),
    key("http.database", ValueKind::Text, Some("mydb"), "database"),
    alias(key("http.username", ValueKind::Text, None, "user name"), &["http.user"]),
    key("http.password", ValueKind::Secret, None, "password"),
    key(
        "http.precision",
        PRECISIONS,
        Some("ns"),
        "unit of timestamps; from ms on messages of one series may fall together",
    ),
    key("http.token", ValueKind::Secret, None, "token of the second API"),
    key("http.org", ValueKind::Text, None, "organisation, for the second API"),
    key("http.bucket", ValueKind::Text, None, "bucket; with it the second API is used (`/api/v2/write`)"),
    key("http.gzip", ValueKind::Boolean, Some("false"), "bodies are compressed"),
    key("http.https_enabled", ValueKind::Boolean, Some("false"), "TLS"),
    key(
        "http.ssl.version",
        ValueKind::OneOf(&["tlsv1", "tlsv1.1", "tlsv1.2", "tlsv1.3"]),
        Some("tlsv1.2"),
        "lowest version of TLS; never below 1.2",
    ),
    key("http.ssl.keyfile", ValueKind::Text, None, "file with the client's private key (PEM)"),
    key("http.ssl.certfile", ValueKind::Text, None, "file with the client's certificate (PEM)"),
    key("http.ssl.cacertfile", ValueKind::Text, None, "file with the certificates servers are checked against (PEM)"),
];

const OPENTSDB: &[KeySpec] = &[
    key("server", ValueKind::Servers, Some("127.0.0.1:4242"), "HTTP server"),
    POOL_SIZE,
    replaced("summary", ValueKind::Boolean, "`details`, which say more", "ask for counts of stored and refused points"),
    replaced(
        "details",
        ValueKind::Boolean,
        "details, always: they tell the bad points from the good",
        "ask which points were refused",
    ),
    key("sync", ValueKind::Boolean, Some("true"), "answers wait for storage; without, what was answered may be lost"),
    key(
        "sync_timeout",
        ANY_COUNT,
        Some("10000"),
        "longest such wait in ms; 0 = the sink's own deadline of each request",
    ),
    key("max_batch_size", ValueKind::Integer(1, 10_000), Some("20"), "points in a write"),
    key(
        "template_file",
        ValueKind::Text,
        Some("templates/emqx_backend_opentsdb.tmpl"),
        "how messages become points (TEMPLATES.md); relative paths are in the data folder",
    ),
    key("precision", ValueKind::OneOf(&["ms", "s"]), Some("ms"), "unit of timestamps"),
    SAME_TIME,
    key("gzip", ValueKind::Boolean, Some("false"), "bodies are compressed"),
    USERNAME,
    PASSWORD,
    SSL,
    KEYFILE,
    CERTFILE,
    CACERTFILE,
];

const TIMESCALE: &[KeySpec] = &[
    key("server", ValueKind::Servers, Some("127.0.0.1:5432"), "server"),
    POOL_SIZE,
    USERNAME,
    PASSWORD,
    key("database", ValueKind::Text, Some("mqtt"), "database"),
    key(
        "template_file",
        ValueKind::Text,
        Some("templates/emqx_backend_timescale.tmpl"),
        "how messages become statements (TEMPLATES.md); relative paths are in the data folder",
    ),
    SSL,
    KEYFILE,
    CERTFILE,
    CACERTFILE,
    BINARY_PAYLOAD,
    key(
        "schema",
        ValueKind::OneOf(&["create", "verify", "off"]),
        Some("create"),
        "the sink's own table of positions is created where it is missing; or is an error; or is not looked for. The templates' tables are \
         the operator's",
    ),
    STATEMENT_CACHE,
];

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
