//! The tables of pools' settings, one for each database.

use super::keys::{KeySpec, ValueKind};

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

pub(super) const SQLITE: &[KeySpec] = &[
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

pub(super) const REDIS: &[KeySpec] = &[
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

pub(super) const MYSQL: &[KeySpec] = &[
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

pub(super) const PGSQL: &[KeySpec] = &[
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

pub(super) const MONGO: &[KeySpec] = &[
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

pub(super) const CASSANDRA: &[KeySpec] = &[
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
    key(
        "ssl",
        ValueKind::Boolean,
        Some("false"),
        "TLS, in a build with the feature `cassandra-tls`; the server's certificate and address are always checked",
    ),
    KEYFILE,
    CERTFILE,
    CACERTFILE,
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

pub(super) const DYNAMO: &[KeySpec] = &[
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

pub(super) const INFLUXDB: &[KeySpec] = &[
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

pub(super) const OPENTSDB: &[KeySpec] = &[
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

pub(super) const TIMESCALE: &[KeySpec] = &[
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
