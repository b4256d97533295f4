//! The running server's parts, and the only code that puts them together: engine, then sinks, then broker; stopped in the
//! reverse order, so that nobody is acknowledged whose record has no reader, and no reader sees the log closed under it.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use forebay_engine::Engine;
use forebay_engine::ids::Lsn;

use crate::admin::control::{Control, ControlError};
use crate::admin::operate::Which;
use crate::admin::rows::{ClientRow, Page, PublishRequest, PublishedRow, RetainedRow, SessionRow, SubscriptionRow};
use crate::admin::status::{
    Cursor, DeadLetterRow, Done, ListenerStatus, LogStatus, RecordRow, ResetTo, SegmentRow, SinkStatus, Status,
};
use crate::config::Settings;
use crate::exit::Failure;
use crate::offline;

pub mod access;
mod broker;
pub mod engine;
mod operate;
mod orders;
mod rules;
mod sinks;

pub use broker::BrokerSide;
pub use rules::{RuleSource, load as load_rules};
pub use sinks::{SinkSide, databases};

/// Engine, sinks and broker, running.
pub struct Stack {
    engine: Engine,
    sinks: Box<dyn SinkSide>,
    broker: Box<dyn BrokerSide>,
    facts: Facts,
}

/// What does not change while it runs.
struct Facts {
    settings: Settings,
    node_number: u16,
    recovery: String,
    replicated: Vec<String>,
    started: Instant,
}

impl Stack {
    /// Opens the log, starts the sinks, then the listeners: the first client finds everything in place.
    ///
    /// # Errors
    /// Where a part does not start; parts that did are stopped again.
    pub async fn start(settings: &Settings, rules: &RuleSource, node_number: u16) -> Result<Stack, Failure> {
        let options = engine::options(settings, rules, node_number);
        let folder = settings.data.clone();
        let opened = tokio::task::spawn_blocking(move || Engine::open(options)).await;
        let (engine, report) = opened
            .map_err(|source| Failure::new(crate::exit::Exit::Failure, format!("opening the log: {source}")))?
            .map_err(|source| engine::refused(&folder, source))?;
        let sinks = match sinks::start(&engine, rules, settings).await {
            Ok(sinks) => sinks,
            Err(failure) => {
                engine.close();
                return Err(failure);
            }
        };
        let broker = match broker::start(&engine, settings, sinks.store()).await {
            Ok(broker) => broker,
            Err(failure) => {
                sinks.shutdown(Duration::from_secs(settings.shutdown_deadline_s)).await;
                engine.close();
                return Err(failure);
            }
        };
        sinks.obey(broker.clients());
        let facts = Facts {
            settings: settings.clone(),
            node_number,
            recovery: engine::recovered(&report),
            replicated: if settings.sinks.enabled { rules.pools(&settings.data) } else { Vec::new() },
            started: Instant::now(),
        };
        Ok(Stack { engine, sinks, broker, facts })
    }

    /// Where the broker listens; the first is the one that is told to others.
    pub fn mqtt(&self) -> Vec<ListenerStatus> {
        self.broker.listeners()
    }

    /// What opening found, in words.
    pub fn recovery(&self) -> &str {
        &self.facts.recovery
    }

    /// Databases that are written to, in words.
    pub fn replicated(&self) -> &[String] {
        &self.facts.replicated
    }

    /// Reads the files again that may change while it runs: users and rules. Waits for the disk.
    pub fn reload(&self) {
        self.broker.reload();
    }

    /// Stops taking clients, lets the sinks write what is in the log within `deadline`, syncs and closes the log. What a
    /// sink did not get to write it writes after the next start.
    pub async fn shutdown(&self, deadline: Duration) {
        let end = Instant::now() + deadline;
        self.broker.shutdown(deadline).await;
        self.sinks.shutdown(end.saturating_duration_since(Instant::now())).await;
        let engine = self.engine.clone();
        if let Err(source) = tokio::task::spawn_blocking(move || engine.close()).await {
            tracing::error!("closing the log: {source}");
        }
    }

    fn log_dir(&self) -> std::path::PathBuf {
        self.facts.settings.data.join("log")
    }
}

impl Control for Arc<Stack> {
    fn status(&self) -> Status {
        let sinks = self.sinks.status();
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            node: self.facts.settings.node.name.clone(),
            node_number: self.facts.node_number,
            data: self.facts.settings.data.display().to_string(),
            uptime_s: self.facts.started.elapsed().as_secs(),
            log: LogStatus {
                first: self.engine.log().first().0,
                durable_end: self.engine.durable_end().0,
                bytes: folder_bytes(&self.log_dir()),
                durability: engine::durability_name(&self.facts.settings).to_owned(),
                when_full: engine::when_full(&self.facts.settings).to_owned(),
                index_off: self.engine.state_index_is_off(),
                no_space: engine::no_space(&self.engine),
            },
            connections: self.broker.connections(),
            listeners: self.broker.listeners(),
            sessions: self.engine.session_count() as u64,
            sinks,
            recovery: self.facts.recovery.clone(),
        }
    }

    fn not_ready(&self) -> Vec<String> {
        let limit = self.facts.settings.ready.sink_lag_records_max;
        let behind = |sink: &SinkStatus| limit > 0 && sink.lag_records > limit;
        self.sinks
            .status()
            .iter()
            .filter(|sink| behind(sink))
            .map(|sink| format!("sink {} lags {} records behind (limit {limit})", sink.name, sink.lag_records))
            .chain(engine::not_ready(&self.engine, &self.facts.settings))
            .collect()
    }

    fn sinks(&self) -> Vec<SinkStatus> {
        self.sinks.status()
    }

    fn pause(&self, sink: &str) -> Result<Done, ControlError> {
        self.sinks.pause(sink)
    }

    fn resume(&self, sink: &str) -> Result<Done, ControlError> {
        self.sinks.resume(sink)
    }

    fn reset(&self, sink: &str, to: ResetTo) -> Result<Done, ControlError> {
        self.sinks.reset(sink, to)
    }

    fn dead_letters(&self, sink: &str) -> Result<Vec<DeadLetterRow>, ControlError> {
        self.sinks.dead_letters(sink)
    }

    fn dead_letter(&self, sink: &str, id: u64) -> Result<DeadLetterRow, ControlError> {
        self.sinks.dead_letter(sink, id)
    }

    fn replay(&self, sink: &str, ids: &[u64]) -> Result<Done, ControlError> {
        self.sinks.replay(sink, ids)
    }

    fn drop_letters(&self, sink: &str, ids: &[u64]) -> Result<Done, ControlError> {
        self.sinks.drop_letters(sink, ids)
    }

    fn cursors(&self) -> Vec<Cursor> {
        let sinks = self.sinks.status().into_iter().map(|sink| Cursor {
            kind: "sink".into(),
            active: sink.state == "running",
            gap: sink.gap,
            owner: sink.name,
            filter: String::new(),
            position: Some(sink.position),
            ..Cursor::default()
        });
        engine::subscriber_cursors(&self.engine).into_iter().chain(sinks).collect()
    }

    fn segments(&self) -> Result<Vec<SegmentRow>, ControlError> {
        offline::segments_in(&self.log_dir()).map_err(|failure| ControlError::Failed(failure.message))
    }

    fn records(&self, from: u64, limit: u64) -> Result<Vec<RecordRow>, ControlError> {
        let from = Lsn(from.max(self.engine.log().first().0));
        engine::records(&self.engine, from, limit, self.facts.node_number).map_err(ControlError::Failed)
    }

    fn clients(&self, which: &Which) -> Page<ClientRow> {
        operate::clients(&self.broker.operator(), which)
    }

    fn client(&self, client: &str) -> Result<ClientRow, ControlError> {
        operate::client(&self.broker.operator(), client)
    }

    fn kick(&self, client: &str) -> Result<Done, ControlError> {
        operate::kick(&self.broker.operator(), client)
    }

    fn sessions(&self, which: &Which) -> Page<SessionRow> {
        operate::sessions(&self.engine, which)
    }

    fn session(&self, client: &str) -> Result<SessionRow, ControlError> {
        operate::session(&self.engine, client)
    }

    fn drop_session(&self, client: &str) -> Result<Done, ControlError> {
        operate::drop_session(&self.broker.operator(), client)
    }

    fn subscriptions(&self, which: &Which) -> Result<Page<SubscriptionRow>, ControlError> {
        operate::subscriptions(&self.engine, which)
    }

    fn retained(&self, which: &Which) -> Result<Page<RetainedRow>, ControlError> {
        operate::retained(&self.engine, which)
    }

    fn retained_message(&self, topic: &str) -> Result<RetainedRow, ControlError> {
        operate::retained_message(&self.engine, topic)
    }

    fn clear_retained(&self, topic: &str) -> Result<Done, ControlError> {
        operate::clear_retained(&self.broker.operator(), topic)
    }

    fn publish(&self, request: PublishRequest) -> Result<PublishedRow, ControlError> {
        operate::publish(&self.engine, &self.broker.operator(), request)
    }
}

fn folder_bytes(dir: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    entries
        .flatten()
        .filter_map(|entry| entry.metadata().ok())
        .filter(|data| data.is_file())
        .map(|data| data.len())
        .sum()
}
