//! From a configuration to running sinks: the one `match` over databases.

#![cfg_attr(
    not(any(
        feature = "cassandra",
        feature = "dynamodb",
        feature = "mongo",
        feature = "redis",
        feature = "sqlite",
        feature = "mysql",
        feature = "pgsql",
        feature = "http"
    )),
    allow(unused, reason = "without a driver nothing is started")
)]

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use forebay_engine::Lsn;
use parking_lot::Mutex;
use tokio::task::JoinSet;

use crate::dead_letter::{DeadLetterError, DeadLetters, LetterStore};
use crate::lookup::{self, Lookup, Lookups};
use crate::orders::{Clients, Listen, Listeners};
use crate::rule::{Database, Location, Pool, Rule, RuleSet};
use crate::runtime::plan::Plan;
use crate::runtime::{self, ResetError, ResetTo, RuntimeOptions, SinkHandle, SinkStatus};
use crate::source::Source;
#[cfg(any(feature = "mysql", feature = "pgsql"))]
use crate::sql::ServerConfig;

/// Opens the store of a sink's dead letters; the argument is the sink's name.
pub type OpenLetters = Arc<dyn Fn(&str) -> Result<Arc<dyn LetterStore>, String> + Send + Sync>;

/// What a database has to know besides its pool's settings.
#[derive(Clone, Debug)]
pub struct DatabaseOptions {
    /// Relative paths of database files are taken from here.
    pub data_dir: PathBuf,
    /// The node's name in the databases.
    pub node_name: String,
}

/// Settings for all sinks.
#[derive(Clone)]
pub struct SinksOptions {
    /// What the databases have to know.
    pub databases: DatabaseOptions,
    /// How long a lookup may keep a client waiting.
    pub lookup_deadline: Duration,
    /// Settings of each sink's runtime.
    pub runtime: RuntimeOptions,
    /// Opens dead letters.
    pub open_letters: OpenLetters,
}

impl fmt::Debug for SinksOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SinksOptions").field("databases", &self.databases).finish_non_exhaustive()
    }
}

impl SinksOptions {
    /// The deadline of lookups unless set otherwise.
    pub const LOOKUP_DEADLINE: Duration = Duration::from_millis(250);
}

/// Why the sinks did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A rule or pool names a database that this program can't write to.
    #[error("{at}: {what} needs the database {database}, which is not in this program: {remedy}")]
    NoDriver {
        /// Where it stands.
        at: Location,
        /// The rule or pool.
        what: String,
        /// The database.
        database: String,
        /// What to do.
        remedy: &'static str,
    },
    /// A rule names a pool that does not exist.
    #[error("{at}: the rule's pool {pool} of {database} is not configured")]
    NoPool {
        /// Where the rule stands.
        at: Location,
        /// The pool.
        pool: String,
        /// The database.
        database: String,
    },
    /// A pool's setting can't be used.
    #[error("{at}: {reason}")]
    Setting {
        /// Where the pool is first named.
        at: Location,
        /// What is wrong and what to do.
        reason: String,
    },
    /// The dead letters can't be opened.
    #[error("dead letters of {sink}: {reason}")]
    Letters {
        /// The sink.
        sink: String,
        /// What happened.
        reason: String,
    },
}

/// All running sinks.
#[derive(Debug)]
pub struct Sinks {
    sinks: BTreeMap<String, Arc<SinkHandle>>,
    lookups: Lookups,
    listeners: Listeners,
    /// The listeners that run.
    listening: Mutex<JoinSet<()>>,
}

impl Sinks {
    /// Starts a sink for every pool that a rule names, on the current tokio runtime. Connecting happens in the background: a
    /// database that is down is no reason not to start. Opens the dead letters (blocking reads).
    ///
    /// # Errors
    /// Where a rule can't be served; nothing is running then.
    pub fn start(source: Arc<dyn Source>, rules: &RuleSet, options: &SinksOptions) -> Result<Sinks, StartError> {
        let mut sinks = BTreeMap::new();
        let mut lookups = Vec::new();
        let mut listeners = Vec::new();
        for rule in &rules.rules {
            let name = sink_name(rule.database, &rule.pool);
            if sinks.contains_key(&name) {
                continue;
            }
            let pool = pool_of(rules, rule)?;
            let plan = Plan::of_pool(rules, rule.database, &rule.pool, &name);
            let start = Start { name: &name, plan, source: &source, options };
            let Started { handle, lookup, listen } = visit(pool, &options.databases, &rule.at, start)??;
            lookups.push(lookup);
            listeners.push(listen);
            sinks.insert(name, handle);
        }
        let (lookups, listeners) = (Lookups::new(lookups), Listeners(listeners));
        Ok(Sinks { sinks, lookups, listeners, listening: Mutex::default() })
    }

    /// Every sink as it stands, by name.
    #[must_use]
    pub fn status(&self) -> Vec<SinkStatus> {
        self.sinks.values().map(|s| s.status()).collect()
    }

    /// The reading side.
    #[must_use]
    pub fn lookups(&self) -> Lookups {
        self.lookups.clone()
    }

    /// Carries out what other programs order on the databases' channels, until the shutdown. To be called once, when the broker runs.
    pub fn obey(&self, clients: &Arc<dyn Clients>) {
        let mut listening = self.listening.lock();
        for listen in &self.listeners.0 {
            if let Some(listener) = listen(clients.clone()) {
                listening.spawn(listener);
            }
        }
    }

    /// The sink of that name (`sqlite/pool1`): pause, resume, reset, replay.
    #[must_use]
    pub fn sink(&self, name: &str) -> Option<&Arc<SinkHandle>> {
        self.sinks.get(name)
    }

    /// Pauses a sink; false when there is none of that name.
    pub fn pause(&self, name: &str) -> bool {
        self.sink(name).map(|s| s.pause()).is_some()
    }

    /// Resumes a sink; false when there is none of that name.
    pub fn resume(&self, name: &str) -> bool {
        self.sink(name).map(|s| s.resume()).is_some()
    }

    /// Sets a sink's position; `None` when there is none of that name.
    ///
    /// # Errors
    /// See [`SinkHandle::reset`].
    pub async fn reset(&self, name: &str, to: ResetTo, deadline: Duration) -> Option<Result<Lsn, ResetError>> {
        match self.sink(name) {
            Some(sink) => Some(sink.reset(to, deadline).await),
            None => None,
        }
    }

    /// The dead letters of a sink.
    #[must_use]
    pub fn dead_letters(&self, name: &str) -> Option<&DeadLetters> {
        self.sink(name).map(|s| s.dead_letters())
    }

    /// Sends a dead letter to its database again.
    ///
    /// # Errors
    /// See [`SinkHandle::replay`]; also where there is no such sink.
    pub async fn replay(&self, name: &str, id: u64) -> Result<(), DeadLetterError> {
        match self.sink(name) {
            Some(sink) => sink.replay(id).await,
            None => Err(DeadLetterError::Unknown { sink: name.to_owned(), id }),
        }
    }

    /// Stops all sinks within the deadline, all at once. What was not stored stays in the log.
    pub async fn shutdown(&self, deadline: Duration) {
        self.listening.lock().abort_all();
        let all = self.sinks.values().map(|s| s.shutdown(deadline));
        futures_util::future::join_all(all).await;
    }
}

struct Started {
    handle: Arc<SinkHandle>,
    lookup: lookup::Entry,
    listen: Listen,
}

/// What is done with a pool's database, of whichever type it is.
pub(crate) trait Visit {
    /// What comes of it.
    type Out;
    /// Does it.
    fn with<S: Lookup>(self, sink: S) -> Self::Out;
}

/// The one `match` over databases. Connects to nothing.
pub(crate) fn visit<V: Visit>(
    pool: &Pool,
    options: &DatabaseOptions,
    at: &Location,
    visitor: V,
) -> Result<V::Out, StartError> {
    #[allow(unused_variables, reason = "a build with every driver refuses none")]
    let no_driver = |remedy| StartError::NoDriver {
        at: at.clone(),
        what: format!("the rule for pool {}", pool.name),
        database: pool.database.name().to_owned(),
        remedy,
    };
    #[cfg(any(
        feature = "mongo",
        feature = "cassandra",
        feature = "dynamodb",
        feature = "mysql",
        feature = "pgsql",
        feature = "http"
    ))]
    let setting = |reason| StartError::Setting { at: pool.at.clone(), reason };
    match pool.database {
        #[cfg(feature = "redis")]
        Database::Redis => {
            let config = crate::redis::RedisConfig::from_pool(pool, &options.node_name);
            Ok(visitor.with(crate::redis::RedisSink::new(config)))
        }
        #[cfg(not(feature = "redis"))]
        Database::Redis => Err(no_driver("build with the feature `redis`")),
        #[cfg(feature = "sqlite")]
        Database::Sqlite => {
            let config = crate::sqlite::SqliteConfig::from_pool(pool, &options.data_dir, &options.node_name);
            Ok(visitor.with(crate::sqlite::SqliteSink::new(config)))
        }
        #[cfg(feature = "mysql")]
        Database::Mysql => {
            let config = ServerConfig::from_pool(pool, crate::mysql::PORT, &options.node_name).map_err(setting)?;
            Ok(visitor.with(crate::mysql::MysqlSink::new(config)))
        }
        #[cfg(not(feature = "mysql"))]
        Database::Mysql => Err(no_driver("build with the feature `mysql`")),
        #[cfg(feature = "pgsql")]
        Database::Pgsql => {
            let config = ServerConfig::from_pool(pool, crate::pgsql::PORT, &options.node_name).map_err(setting)?;
            Ok(visitor.with(crate::pgsql::PgsqlSink::new(config)))
        }
        #[cfg(feature = "pgsql")]
        Database::Timescale => {
            let config = crate::timescale::TimescaleConfig::from_pool(pool, &options.data_dir, &options.node_name);
            Ok(visitor.with(crate::timescale::TimescaleSink::new(config.map_err(setting)?)))
        }
        #[cfg(not(feature = "pgsql"))]
        Database::Pgsql | Database::Timescale => Err(no_driver("build with the feature `pgsql`")),
        #[cfg(feature = "influxdb")]
        Database::Influxdb => {
            let config = crate::influxdb::InfluxConfig::from_pool(pool, &options.data_dir).map_err(setting)?;
            Ok(visitor.with(crate::influxdb::InfluxSink::new(config)))
        }
        #[cfg(not(feature = "influxdb"))]
        Database::Influxdb => Err(no_driver("build with the feature `influxdb`")),
        #[cfg(feature = "opentsdb")]
        Database::Opentsdb => {
            let config = crate::opentsdb::OpentsdbConfig::from_pool(pool, &options.data_dir).map_err(setting)?;
            Ok(visitor.with(crate::opentsdb::OpentsdbSink::new(config)))
        }
        #[cfg(not(feature = "opentsdb"))]
        Database::Opentsdb => Err(no_driver("build with the feature `opentsdb`")),
        #[cfg(feature = "mongo")]
        Database::Mongo => {
            let config = crate::mongo::MongoConfig::from_pool(pool, &options.node_name).map_err(setting)?;
            Ok(visitor.with(crate::mongo::MongoSink::new(config)))
        }
        #[cfg(not(feature = "mongo"))]
        Database::Mongo => Err(no_driver("build with the feature `mongo`")),
        #[cfg(not(feature = "sqlite"))]
        Database::Sqlite => Err(no_driver("build with the feature `sqlite`")),
        #[cfg(feature = "cassandra")]
        Database::Cassandra => {
            let config = crate::cassandra::CassandraConfig::from_pool(pool, &options.node_name).map_err(setting)?;
            Ok(visitor.with(crate::cassandra::CassandraSink::new(config)))
        }
        #[cfg(not(feature = "cassandra"))]
        Database::Cassandra => Err(no_driver("build with the feature `cassandra`")),
        #[cfg(feature = "dynamodb")]
        Database::Dynamo => {
            let config = crate::dynamo::DynamoConfig::from_pool(pool, &options.node_name).map_err(setting)?;
            Ok(visitor.with(crate::dynamo::DynamoSink::new(config)))
        }
        #[cfg(not(feature = "dynamodb"))]
        Database::Dynamo => Err(no_driver("build with the feature `dynamodb`")),
    }
}

/// What a database's tables, keys or collections are expected to be, as `forebay schema` prints it; `None` where this build has no
/// driver for it.
#[must_use]
pub fn schema(database: Database) -> Option<String> {
    match database {
        #[cfg(feature = "redis")]
        Database::Redis => Some(crate::redis::schema_text()),
        #[cfg(feature = "sqlite")]
        Database::Sqlite => Some(crate::sqlite::schema_text()),
        #[cfg(feature = "mysql")]
        Database::Mysql => Some(crate::mysql::schema_text()),
        #[cfg(feature = "influxdb")]
        Database::Influxdb => Some(crate::influxdb::schema_text()),
        #[cfg(feature = "opentsdb")]
        Database::Opentsdb => Some(crate::opentsdb::schema_text()),
        #[cfg(feature = "pgsql")]
        Database::Pgsql => Some(crate::pgsql::schema_text()),
        #[cfg(feature = "pgsql")]
        Database::Timescale => Some(crate::timescale::schema_text()),
        #[cfg(feature = "cassandra")]
        Database::Cassandra => Some(crate::cassandra::schema_text()),
        #[cfg(feature = "mongo")]
        Database::Mongo => Some(crate::mongo::schema_text()),
        #[cfg(feature = "dynamodb")]
        Database::Dynamo => Some(crate::dynamo::schema_text()),
        #[allow(unreachable_patterns, reason = "a build with every driver knows all")]
        _ => None,
    }
}

/// Finds what would keep the sinks of these rules from being started, without starting or connecting any.
///
/// # Errors
/// The first such fault.
pub fn verify(rules: &RuleSet, options: &DatabaseOptions) -> Result<(), StartError> {
    struct Nothing;
    impl Visit for Nothing {
        type Out = ();
        fn with<S: Lookup>(self, _sink: S) {}
    }
    let mut seen: Vec<String> = Vec::new();
    for rule in &rules.rules {
        let name = sink_name(rule.database, &rule.pool);
        if !seen.contains(&name) {
            visit(pool_of(rules, rule)?, options, &rule.at, Nothing)?;
            seen.push(name);
        }
    }
    Ok(())
}

/// The pool that a rule names.
pub(crate) fn pool_of<'a>(rules: &'a RuleSet, rule: &Rule) -> Result<&'a Pool, StartError> {
    rules.pools.iter().find(|p| p.database == rule.database && p.name == rule.pool).ok_or_else(|| StartError::NoPool {
        at: rule.at.clone(),
        pool: rule.pool.clone(),
        database: rule.database.name().to_owned(),
    })
}

/// Starts a sink.
struct Start<'a> {
    name: &'a str,
    plan: Plan,
    source: &'a Arc<dyn Source>,
    options: &'a SinksOptions,
}

impl Visit for Start<'_> {
    type Out = Result<Started, StartError>;

    fn with<S: Lookup>(self, sink: S) -> Self::Out {
        let Start { name, plan, source, options } = self;
        let failed = |reason: String| StartError::Letters { sink: name.to_owned(), reason };
        let store = (options.open_letters)(name).map_err(failed)?;
        let letters = DeadLetters::open(name, store).map_err(|e| failed(e.to_string()))?;
        let rules = plan.rules().to_vec();
        let sink = Arc::new(sink);
        let handle = Arc::new(runtime::spawn(name, sink.clone(), plan, source.clone(), letters, options.runtime));
        let lookup = lookup::Entry::new(sink.clone(), handle.clone(), source.clone(), rules, options.lookup_deadline);
        let name = name.to_owned();
        let listen: Listen = Box::new(move |clients| sink.orders(&name, clients));
        Ok(Started { handle, lookup, listen })
    }
}

/// The name of a pool's sink.
#[must_use]
pub fn sink_name(database: Database, pool: &str) -> String {
    format!("{}/{pool}", database.name())
}
