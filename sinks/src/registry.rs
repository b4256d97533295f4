//! From a configuration to running sinks: the one `match` over databases.

#![cfg_attr(
    not(any(feature = "sqlite", feature = "mysql", feature = "pgsql")),
    allow(unused, reason = "without a driver nothing is started")
)]

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use forebay_engine::Lsn;

use crate::dead_letter::{DeadLetterError, DeadLetters, LetterStore};
use crate::lookup::{self, Lookup, Lookups};
use crate::rule::{Database, Location, Pool, RuleSet};
use crate::runtime::plan::Plan;
use crate::runtime::{self, ResetError, ResetTo, RuntimeOptions, SinkHandle, SinkStatus};
use crate::source::Source;

/// Opens the store of a sink's dead letters; the argument is the sink's name.
pub type OpenLetters = Arc<dyn Fn(&str) -> Result<Arc<dyn LetterStore>, String> + Send + Sync>;

/// Settings for all sinks.
#[derive(Clone)]
pub struct SinksOptions {
    /// Relative paths of database files are taken from here.
    pub data_dir: PathBuf,
    /// The node's name in the databases.
    pub node_name: String,
    /// How long a lookup may keep a client waiting.
    pub lookup_deadline: Duration,
    /// Settings of each sink's runtime.
    pub runtime: RuntimeOptions,
    /// Opens dead letters.
    pub open_letters: OpenLetters,
}

impl fmt::Debug for SinksOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SinksOptions")
            .field("data_dir", &self.data_dir)
            .field("node_name", &self.node_name)
            .finish_non_exhaustive()
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
        for rule in &rules.rules {
            let name = sink_name(rule.database, &rule.pool);
            if sinks.contains_key(&name) {
                continue;
            }
            let Some(pool) = rules.pools.iter().find(|p| p.database == rule.database && p.name == rule.pool) else {
                let database = rule.database.name().to_owned();
                return Err(StartError::NoPool { at: rule.at.clone(), pool: rule.pool.clone(), database });
            };
            let plan = Plan::of_pool(rules, rule.database, &rule.pool, &name);
            let (handle, entry) = start_one(&name, pool, plan, &source, options, &rule.at)?;
            lookups.extend(entry);
            sinks.insert(name, handle);
        }
        Ok(Sinks { sinks, lookups: Lookups::new(lookups) })
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
        let all = self.sinks.values().map(|s| s.shutdown(deadline));
        futures_util::future::join_all(all).await;
    }
}

type Started = (Arc<SinkHandle>, Option<lookup::Entry>);

fn start_one(
    name: &str,
    pool: &Pool,
    plan: Plan,
    source: &Arc<dyn Source>,
    options: &SinksOptions,
    at: &Location,
) -> Result<Started, StartError> {
    let no_driver = |remedy| StartError::NoDriver {
        at: at.clone(),
        what: format!("the rule for pool {}", pool.name),
        database: pool.database.name().to_owned(),
        remedy,
    };
    match pool.database {
        #[cfg(feature = "sqlite")]
        Database::Sqlite => {
            let config = crate::sqlite::SqliteConfig::from_pool(pool, &options.data_dir, &options.node_name);
            start_with_lookups(crate::sqlite::SqliteSink::new(config), name, plan, source, options)
        }
        #[cfg(not(feature = "sqlite"))]
        Database::Sqlite => Err(no_driver("build with the feature `sqlite`")),
        _ => Err(no_driver("its driver is not built yet; remove the rule or use sqlite")),
    }
}

/// Starts a sink whose database is also read from.
fn start_with_lookups<S: Lookup>(
    sink: S,
    name: &str,
    plan: Plan,
    source: &Arc<dyn Source>,
    options: &SinksOptions,
) -> Result<Started, StartError> {
    let failed = |reason: String| StartError::Letters { sink: name.to_owned(), reason };
    let store = (options.open_letters)(name).map_err(failed)?;
    let letters = DeadLetters::open(name, store).map_err(|e| failed(e.to_string()))?;
    let rules = plan.rules().to_vec();
    let sink = Arc::new(sink);
    let handle = Arc::new(runtime::spawn(name, sink.clone(), plan, source.clone(), letters, options.runtime));
    let entry = lookup::Entry::new(sink, handle.clone(), source.clone(), rules, options.lookup_deadline);
    Ok((handle, Some(entry)))
}

/// The name of a pool's sink.
#[must_use]
pub fn sink_name(database: Database, pool: &str) -> String {
    format!("{}/{pool}", database.name())
}
