//! The rule model: what every syntax is turned into, and the way there.
//!
//! ```text
//! .conf text ── conf ──┐                                                  ┌─> RuleSet ── engine_rules ──> what the engine must know
//!                      ├─> document ── draft ── assemble (across files) ──┤
//! .toml text ── toml ──┘   (spans)     (names, values, statements)        └─> faults, warnings (check)
//! ```
//!
//! Every stage reports all it finds instead of stopping at the first fault; a [`Fault`] knows its place to the column.

mod assemble;
mod check;
mod conf;
mod defaults;
pub(crate) mod document;
mod draft;
mod duration;
mod engine_rules;
mod fault;
pub(crate) mod json;
mod key_tables;
mod keys;
mod load;
pub(crate) mod names;
pub(crate) mod source;
mod statement;
mod toml;

pub use self::toml::{TOML_TABLES, parse_toml};
pub use assemble::Parsed;
pub use check::{WarningCode, check};
pub use conf::parse_conf;
pub use defaults::DEFAULT_POOL;
pub use duration::parse_duration;
pub use fault::{Excerpt, Fault, Faults, Level, Warning};
pub use keys::{KeySpec, ValueKind, keys};
pub use load::{Loaded, load};
pub(crate) use statement::{fuzzed as fuzzed_statement, template_faults as statement_faults};

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// All pools and rules of a configuration, in the order they are to run.
#[derive(Clone, Debug, Default)]
pub struct RuleSet {
    /// Databases to connect to.
    pub pools: Vec<Pool>,
    /// Rules, ordered by database, pool, hook and number.
    pub rules: Vec<Rule>,
}

/// The databases rules can name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Database {
    /// SQLite: no server, the default.
    Sqlite,
    /// Redis.
    Redis,
    /// MySQL and MariaDB.
    Mysql,
    /// PostgreSQL.
    Pgsql,
    /// MongoDB.
    Mongo,
    /// Cassandra (rules `backend.cassa.…`, pools `backend.ecql.…`).
    Cassandra,
    /// DynamoDB.
    Dynamo,
    /// InfluxDB.
    Influxdb,
    /// OpenTSDB.
    Opentsdb,
    /// TimescaleDB.
    Timescale,
}

/// A database with its connections.
#[derive(Clone, Debug)]
pub struct Pool {
    /// Which database.
    pub database: Database,
    /// Its name in rules (`pool1`).
    pub name: String,
    /// Settings by canonical key (aliases resolved: `pool_size`, `username`, …), values as written.
    pub settings: BTreeMap<String, Setting>,
    /// Where it is first named.
    pub at: Location,
}

/// A setting's value and where it stands.
#[derive(Clone)]
pub struct Setting {
    /// The value as written, unquoted.
    pub value: String,
    /// True for passwords and keys: never printed.
    pub secret: bool,
    /// Where it stands.
    pub at: Location,
}

impl fmt::Debug for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.secret { "***" } else { &self.value })
    }
}

/// A place in a configuration file. Lines and columns count from 1; columns count characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    /// The file; `<defaults>` for what Forebay brings along.
    pub file: Arc<PathBuf>,
    /// Line.
    pub line: u32,
    /// Column.
    pub column: u32,
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file.display(), self.line, self.column)
    }
}

/// One rule.
#[derive(Clone, Debug)]
pub struct Rule {
    /// The database it belongs to.
    pub database: Database,
    /// The hook it runs on.
    pub hook: Hook,
    /// Its number among the rules of that hook; they run in this order.
    pub number: u32,
    /// Topic filter; `None` = every topic.
    pub topic: Option<String>,
    /// What it does.
    pub action: Action,
    /// The pool it does it with.
    pub pool: String,
    /// `expired_time`: stored messages live this long.
    pub expired_time: Option<Duration>,
    /// `offline_opts`: bounds of what a fetch gives.
    pub offline: OfflineOpts,
    /// `payload_format`.
    pub payload_format: PayloadFormat,
    /// Where it stands.
    pub at: Location,
}

/// Hook points.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Hook {
    /// `client.connected`
    ClientConnected,
    /// `client.disconnected`
    ClientDisconnected,
    /// `session.created`
    SessionCreated,
    /// `session.subscribed`
    SessionSubscribed,
    /// `session.unsubscribed`
    SessionUnsubscribed,
    /// `message.publish`
    MessagePublish,
    /// `message.deliver` (`message.delivered` is the same)
    MessageDeliver,
    /// `message.acked`
    MessageAcked,
}

/// What a rule does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// A function of the guide.
    Function(Function),
    /// Redis `commands`, SQL `sql` or CQL `cql`, run in order.
    Statements(Vec<Statement>),
}

/// The guide's functions. `on_subscription_lookup` is the Cassandra spelling of [`Function::SubscribeLookup`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Function {
    /// `on_client_connected`
    ClientConnected,
    /// `on_client_disconnected`
    ClientDisconnected,
    /// `on_subscribe_lookup`, `on_subscription_lookup`
    SubscribeLookup,
    /// `on_message_fetch`
    MessageFetch,
    /// `on_message_fetch_for_queue`
    MessageFetchForQueue,
    /// `on_message_fetch_for_pubsub`
    MessageFetchForPubsub,
    /// `on_message_fetch_for_keep_latest`
    MessageFetchForKeepLatest,
    /// `on_retain_lookup`
    RetainLookup,
    /// `on_acked_delete`
    AckedDelete,
    /// `on_message_publish` (QoS > 0)
    MessagePublish,
    /// `on_message_store` (QoS 0 too)
    MessageStore,
    /// `on_message_store_keep_latest`
    MessageStoreKeepLatest,
    /// `on_message_retain`
    MessageRetain,
    /// `on_retain_delete`
    RetainDelete,
    /// `on_message_acked`
    MessageAcked,
    /// `on_message_acked_for_queue`
    MessageAckedForQueue,
    /// `on_message_acked_for_pubsub`
    MessageAckedForPubsub,
    /// `on_message_acked_for_keep_latest`
    MessageAckedForKeepLatest,
}

/// A user-written statement, split at its `${…}` parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// As written.
    pub source: String,
    /// Text and parameters in order.
    pub parts: Vec<Part>,
}

/// A piece of a statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// Literal text.
    Text(String),
    /// A `${…}` parameter.
    Param(Param),
}

/// The `${…}` parameters; which of them a hook has is checked at load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Param {
    /// `${clientid}`
    ClientId,
    /// `${topic}`
    Topic,
    /// `${qos}`
    Qos,
    /// `${msgid}`
    MsgId,
    /// `${payload}`
    Payload,
    /// `${message}`: the whole message as JSON (Redis).
    Message,
}

/// Bounds of what a fetch gives a subscriber without a position.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OfflineOpts {
    /// The newest N messages, delivered oldest first.
    pub max_returned_count: Option<u64>,
    /// Only messages this young.
    pub time_range: Option<Duration>,
}

/// How a payload is stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PayloadFormat {
    /// As it is.
    #[default]
    PlainText,
    /// As a document when it parses as JSON, else as a string (MongoDB).
    MongoJson,
}
