//! The lines that know the sinks.

use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytestring::ByteString;
use forebay_broker_adapter::Store;
use forebay_engine::{Engine, Log, LogOptions, Lsn, QoS};
use forebay_sinks::dead_letter::{DeadLetter, DeadLetterError, DeadLetters, LetterStore};
use forebay_sinks::rule::RuleSet;
use forebay_sinks::runtime::RuntimeOptions;
use forebay_sinks::source::EngineSource;
use forebay_sinks::{Clients, DatabaseOptions, Lookups, SinkState, Sinks, SinksOptions};
use tokio::runtime::Handle;

use super::RuleSource;
use crate::admin::control::ControlError;
use crate::admin::status::{DeadLetterRow, Done, ResetTo, SinkStatus};
use crate::config::Settings;
use crate::exit::{Exit, Failure};

/// A boxed future.
pub type Waiting<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

/// Size of a segment of a dead-letter log, bytes: these logs are small and grow in place.
const LETTER_SEGMENT_BYTES: u64 = 4 << 20;

/// How long an operator's reset waits for the database.
const RESET_DEADLINE: Duration = Duration::from_secs(20);

/// The database side of the server.
pub trait SinkSide: Send + Sync {
    /// What the broker asks of the databases.
    fn store(&self) -> Arc<dyn Store>;
    /// Carries out the orders of the databases' channels for the broker's clients, from now on.
    fn obey(&self, clients: Arc<dyn Clients>);
    /// All sinks.
    fn status(&self) -> Vec<SinkStatus>;
    /// Stops one; records wait in the log.
    fn pause(&self, sink: &str) -> Result<Done, ControlError>;
    /// Lets it go on.
    fn resume(&self, sink: &str) -> Result<Done, ControlError>;
    /// Sets its position.
    fn reset(&self, sink: &str, to: ResetTo) -> Result<Done, ControlError>;
    /// Its dead letters.
    fn dead_letters(&self, sink: &str) -> Result<Vec<DeadLetterRow>, ControlError>;
    /// One of them.
    fn dead_letter(&self, sink: &str, id: u64) -> Result<DeadLetterRow, ControlError>;
    /// Gives them to the database again.
    fn replay(&self, sink: &str, ids: &[u64]) -> Result<Done, ControlError>;
    /// Forgets them.
    fn drop_letters(&self, sink: &str, ids: &[u64]) -> Result<Done, ControlError>;
    /// Writes what is in the log within the deadline, then ends.
    fn shutdown(&self, deadline: Duration) -> Waiting<'_>;
}

struct Running {
    sinks: Sinks,
    runtime: Handle,
}

/// The databases as the broker sees them.
struct Databases(Lookups);

impl Store for Databases {
    fn proxy_subscriptions<'a>(
        &'a self,
        client: &'a str,
        _username: &'a str,
    ) -> Pin<Box<dyn Future<Output = Vec<(ByteString, QoS)>> + Send + 'a>> {
        Box::pin(async move { self.0.proxy_subscriptions(&ByteString::from(client)).await })
    }

    fn before_subscribe<'a>(
        &'a self,
        client: &'a str,
        filter: &'a str,
    ) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>> {
        Box::pin(async move { self.0.before_subscribe(&ByteString::from(client), &ByteString::from(filter)).await })
    }
}

/// What the databases have to know besides their pools' settings.
pub fn databases(settings: &Settings) -> DatabaseOptions {
    DatabaseOptions { data_dir: settings.data.clone(), node_name: settings.node.name.clone() }
}

/// Starts a sink for each pool; none where `sinks.enabled` is false. The rules decide what is logged in either case.
///
/// # Errors
/// Where a pool's settings can't be used.
pub async fn start(engine: &Engine, rules: &RuleSource, settings: &Settings) -> Result<Box<dyn SinkSide>, Failure> {
    let letters = settings.data.join("dead-letters");
    let options = SinksOptions {
        databases: databases(settings),
        lookup_deadline: Duration::from_millis(settings.sinks.lookup_deadline_ms),
        runtime: RuntimeOptions {
            request_deadline: Duration::from_millis(settings.sinks.request_deadline_ms),
            linger: Duration::from_millis(settings.sinks.batch_age_ms),
            memory_bytes: usize::try_from(settings.sinks.memory_bytes_max).unwrap_or(usize::MAX),
            ..RuntimeOptions::default()
        },
        open_letters: Arc::new(move |sink| open_letters(&letters, sink)),
    };
    // The first 8 of the identity's 16 random bytes are enough to tell logs apart in a database's column.
    let log_id = engine.log().id().iter().take(8).fold(0u64, |id, byte| (id << 8) | u64::from(*byte));
    let source = Arc::new(EngineSource::new(engine.clone(), log_id));
    let none = RuleSet::default();
    let served = if settings.sinks.enabled { &rules.set } else { &none };
    let sinks = Sinks::start(source, served, &options)
        .map_err(|source| Failure::new(Exit::Failure, format!("starting the sinks: {source}")))?;
    let names: Vec<String> = sinks.status().into_iter().map(|sink| sink.name).collect();
    engine.hold_for_sinks(&names);
    Ok(Box::new(Running { sinks, runtime: Handle::current() }))
}

/// The dead letters of a sink are a log of their own, never trimmed.
fn open_letters(folder: &Path, sink: &str) -> Result<Arc<dyn LetterStore>, String> {
    let mut options = LogOptions::new(folder.join(sink.replace('/', "-")));
    options.segment_bytes = LETTER_SEGMENT_BYTES;
    options.record_bytes_max = usize::MAX;
    options.prepare_ahead = false;
    match Log::open(options) {
        Ok((log, _)) => Ok(Arc::new(log)),
        Err(source) => Err(source.to_string()),
    }
}

impl Running {
    fn letters(&self, sink: &str) -> Result<&DeadLetters, ControlError> {
        self.sinks.dead_letters(sink).ok_or_else(|| unknown(sink))
    }

    /// The letters meant: those named, or all.
    fn ids(&self, sink: &str, ids: &[u64]) -> Result<Vec<u64>, ControlError> {
        if !ids.is_empty() {
            return Ok(ids.to_vec());
        }
        let all = self.letters(sink)?.ls(0, usize::MAX).map_err(failed)?;
        Ok(all.into_iter().map(|letter| letter.id).collect())
    }
}

fn unknown(sink: &str) -> ControlError {
    ControlError::Unknown(format!("there is no sink {sink}; `forebay sink ls` lists them"))
}

fn failed(source: DeadLetterError) -> ControlError {
    match source {
        DeadLetterError::Unknown { .. } => ControlError::Unknown(source.to_string()),
        other => ControlError::Failed(other.to_string()),
    }
}

fn row(letter: &DeadLetter) -> DeadLetterRow {
    DeadLetterRow {
        id: letter.id,
        lsn: letter.lsn,
        time_us: letter.last_seen_us,
        reason: letter.reason.clone(),
        rule: format!("{}.{} ({})", letter.hook, letter.rule, letter.rule_at),
        attempts: u64::from(letter.attempts),
        detail: letter.statement.clone(),
    }
}

impl SinkSide for Running {
    fn store(&self) -> Arc<dyn Store> {
        Arc::new(Databases(self.sinks.lookups()))
    }

    fn obey(&self, clients: Arc<dyn Clients>) {
        self.sinks.obey(&clients);
    }

    fn status(&self) -> Vec<SinkStatus> {
        let shown = |sink: forebay_sinks::SinkStatus| {
            let (state, reason) = match sink.state {
                SinkState::Connecting { attempt } => ("connecting", Some(format!("attempt {attempt}"))),
                SinkState::Running => ("running", None),
                SinkState::Waiting { why, .. } => ("waiting", Some(why)),
                SinkState::Paused => ("paused", None),
                SinkState::Stopped => ("stopped", None),
            };
            SinkStatus {
                name: sink.name,
                state: state.into(),
                reason,
                position: sink.position.0,
                lag_records: sink.lag_records,
                lag_seconds: sink.lag_seconds,
                stored: sink.stored,
                last_error: sink.last_error,
                dead_letters: sink.dead_letters,
                gap: sink.gap.as_ref().map(super::engine::gap_row),
            }
        };
        self.sinks.status().into_iter().map(shown).collect()
    }

    fn pause(&self, sink: &str) -> Result<Done, ControlError> {
        if !self.sinks.pause(sink) {
            return Err(unknown(sink));
        }
        Ok(Done { done: format!("{sink} is paused; records wait in the log"), count: 1 })
    }

    fn resume(&self, sink: &str) -> Result<Done, ControlError> {
        if !self.sinks.resume(sink) {
            return Err(unknown(sink));
        }
        Ok(Done { done: format!("{sink} goes on"), count: 1 })
    }

    fn reset(&self, sink: &str, to: ResetTo) -> Result<Done, ControlError> {
        let place = match to {
            ResetTo::Earliest => forebay_sinks::ResetTo::Earliest,
            ResetTo::Latest => forebay_sinks::ResetTo::Latest,
            ResetTo::Record(lsn) => forebay_sinks::ResetTo::At(Lsn(lsn)),
        };
        match self.runtime.block_on(self.sinks.reset(sink, place, RESET_DEADLINE)) {
            None => Err(unknown(sink)),
            Some(Err(source)) => Err(ControlError::Failed(source.to_string())),
            Some(Ok(at)) => Ok(Done { done: format!("{sink} begins anew at record {at}"), count: 1 }),
        }
    }

    fn dead_letters(&self, sink: &str) -> Result<Vec<DeadLetterRow>, ControlError> {
        Ok(self.letters(sink)?.ls(0, usize::MAX).map_err(failed)?.iter().map(row).collect())
    }

    fn dead_letter(&self, sink: &str, id: u64) -> Result<DeadLetterRow, ControlError> {
        self.letters(sink)?.show(id).map(|letter| row(&letter)).map_err(failed)
    }

    fn replay(&self, sink: &str, ids: &[u64]) -> Result<Done, ControlError> {
        let ids = self.ids(sink, ids)?;
        for id in &ids {
            self.runtime.block_on(self.sinks.replay(sink, *id)).map_err(failed)?;
        }
        Ok(Done { done: format!("{} dead letters of {sink} stored", ids.len()), count: ids.len() as u64 })
    }

    fn drop_letters(&self, sink: &str, ids: &[u64]) -> Result<Done, ControlError> {
        let (ids, letters) = (self.ids(sink, ids)?, self.letters(sink)?);
        for id in &ids {
            self.runtime.block_on(letters.drop_letter(*id)).map_err(failed)?;
        }
        Ok(Done { done: format!("{} dead letters of {sink} dropped", ids.len()), count: ids.len() as u64 })
    }

    fn shutdown(&self, deadline: Duration) -> Waiting<'_> {
        Box::pin(self.sinks.shutdown(deadline))
    }
}
