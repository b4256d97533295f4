//! The session that all connections of a sink share: the driver keeps `size` connections to each node.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::RwLock;
use scylla::client::PoolSize;
use scylla::client::execution_profile::ExecutionProfile;
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use scylla::statement::batch::{Batch, BatchType};
use scylla::statement::prepared::PreparedStatement;
use scylla::value::CqlValue;
use tokio::sync::Mutex;

use super::bind;
use super::config::CassandraConfig;
use super::error::{self, Failure};
use super::position::Epoch;
use super::schema::{self, Found};
use super::tls;
use crate::sink::WriteError;
use crate::sql::statements::{Placeholders, Statements};
use crate::sql::{BinaryPayload, Value};

/// How long a node may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(5);

/// How long a session may be in the making, its tables included.
const MAKING: Duration = Duration::from_secs(30);

/// How often idle connections are asked whether they are still there, and how long the answer may take.
const KEEPALIVE: Duration = Duration::from_secs(10);

/// Statements that stay prepared. A configuration has fewer.
const STATEMENTS: usize = 1_024;

/// Cassandra as a sink. Clones share the session.
#[derive(Clone, Debug)]
pub struct CassandraSink {
    pub(super) config: CassandraConfig,
    pub(super) statements: Statements,
    pub(super) epoch: Arc<Epoch>,
    slot: Arc<Mutex<Option<Arc<Link>>>>,
}

/// A turn at the session.
#[derive(Debug)]
pub struct CassandraConn {
    pub(super) link: Arc<Link>,
    /// Positions of another epoch are those of before a reset.
    pub(super) epoch: i64,
}

/// A session, and what is known of its server.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) session: Session,
    found: RwLock<Arc<Found>>,
    prepared: RwLock<HashMap<Arc<str>, PreparedStatement>>,
    /// A table was not there: look again before the next batch.
    stale: AtomicBool,
    /// Given up: the next connect makes another session.
    broken: AtomicBool,
    /// Rows of other programs became records, at some time.
    imports: AtomicBool,
    binary: BinaryPayload,
}

/// A statement with its values, ready to be sent.
#[derive(Clone, Debug)]
pub(super) struct Step {
    pub(super) statement: PreparedStatement,
    pub(super) values: Vec<Option<CqlValue>>,
}

impl CassandraSink {
    /// A sink with these settings. Opens nothing.
    #[must_use]
    pub fn new(config: CassandraConfig) -> Self {
        let statements = Statements::new(Placeholders::Question);
        CassandraSink { config, statements, epoch: Arc::default(), slot: Arc::default() }
    }

    /// A session that has looked at nothing.
    pub(super) async fn session(&self) -> Result<Session, WriteError> {
        let config = &self.config;
        let profile = ExecutionProfile::builder()
            .consistency(config.consistency)
            // Each request has the runtime's deadline.
            .request_timeout(None)
            .build();
        let mut builder = SessionBuilder::new()
            .known_nodes(&config.nodes)
            .pool_size(PoolSize::PerHost(config.connections))
            .disallow_shard_aware_port(true)
            .connection_timeout(CONNECT)
            .keepalive_interval(KEEPALIVE)
            .keepalive_timeout(KEEPALIVE)
            .keyspaces_to_fetch([config.keyspace.as_str()])
            .default_execution_profile_handle(profile.into_handle());
        if let Some(name) = &config.username {
            builder = builder.user(name, config.password.as_deref().unwrap_or_default());
        }
        if let Some(files) = &config.tls {
            builder = builder.tls_context(Some(tls::context(files)?));
        }
        builder.build().await.map_err(|e| error::session(&e))
    }

    /// The session in use, or a new one where it was given up. It is made to its end though the caller gives up: the next one finds it.
    pub(super) async fn link(&self) -> Result<Arc<Link>, WriteError> {
        let sink = self.clone();
        let making = tokio::spawn(async move {
            let made = tokio::time::timeout(MAKING, sink.current()).await;
            made.unwrap_or_else(|_| Err(WriteError::Disconnected("no session within 30 s".into())))
        });
        making.await.unwrap_or_else(|error| Err(WriteError::Disconnected(error.into())))
    }

    async fn current(&self) -> Result<Arc<Link>, WriteError> {
        let mut slot = self.slot.lock().await;
        if let Some(link) = slot.as_ref().filter(|link| !link.broken.load(Ordering::Relaxed)) {
            return Ok(link.clone());
        }
        let session = self.session().await?;
        let found = schema::prepare(&session, &self.config).await?;
        let link = Arc::new(Link {
            session,
            found: RwLock::new(Arc::new(found)),
            prepared: RwLock::default(),
            stale: AtomicBool::new(false),
            broken: AtomicBool::new(false),
            imports: AtomicBool::new(false),
            binary: self.config.binary_payload,
        });
        if link.found().has("forebay_imported") {
            let some: Vec<(String,)> = link.rows("select topic from forebay_imported limit 1", &[]).await?;
            link.imports.store(!some.is_empty(), Ordering::Relaxed);
        }
        *slot = Some(link.clone());
        Ok(link)
    }

    /// Looks at the tables again where one was missing.
    pub(super) async fn refresh(&self, link: &Link) -> Result<(), WriteError> {
        if !link.stale.load(Ordering::Relaxed) {
            return Ok(());
        }
        // One looks, for all.
        let _looking = self.slot.lock().await;
        if link.stale.load(Ordering::Relaxed) {
            let found = schema::prepare(&link.session, &self.config).await?;
            *link.found.write() = Arc::new(found);
            link.prepared.write().clear();
            link.stale.store(false, Ordering::Relaxed);
        }
        Ok(())
    }
}

impl Link {
    /// The tables as they were found.
    pub(super) fn found(&self) -> Arc<Found> {
        self.found.read().clone()
    }

    /// The statement, prepared once for all connections.
    pub(super) async fn prepared(&self, cql: &str) -> Result<PreparedStatement, Failure> {
        if let Some(known) = self.prepared.read().get(cql) {
            return Ok(known.clone());
        }
        let mut statement = self.session.prepare(cql).await.map_err(|e| self.noted(error::prepare(&e)))?;
        // The same with the same time changes nothing, so the driver may ask another node.
        statement.set_is_idempotent(true);
        let mut prepared = self.prepared.write();
        if prepared.len() < STATEMENTS {
            prepared.insert(cql.into(), statement.clone());
        }
        Ok(statement)
    }

    /// A statement with its values, each as the type that the server says.
    pub(super) async fn step(&self, cql: &str, values: &[Value]) -> Result<Step, Failure> {
        let statement = self.prepared(cql).await?;
        let columns = statement.get_variable_col_specs();
        if columns.len() != values.len() {
            return Err(Failure::Own(format!("{} values for {} places of {cql}", values.len(), columns.len())));
        }
        let bound = columns.iter().zip(values).map(|(column, value)| match value {
            Value::Null => Ok(None),
            _ => bind::bind(value, column.typ(), column.name(), self.binary).map(Some).map_err(Failure::Own),
        });
        let values = bound.collect::<Result<Vec<_>, Failure>>()?;
        Ok(Step { statement, values })
    }

    /// Sends one statement.
    pub(super) async fn run(&self, step: &Step) -> Result<(), Failure> {
        let sent = self.session.execute_unpaged(&step.statement, &step.values).await;
        sent.map(|_| ()).map_err(|e| self.noted(error::execution(&e)))
    }

    /// Sends statements of one partition: all of them take effect, or none.
    pub(super) async fn run_all(&self, steps: &[Step]) -> Result<(), Failure> {
        if let [step] = steps {
            return self.run(step).await;
        }
        let mut batch = Batch::new(BatchType::Unlogged);
        batch.set_is_idempotent(true);
        for step in steps {
            batch.append_statement(step.statement.clone());
        }
        let values: Vec<&Vec<Option<CqlValue>>> = steps.iter().map(|step| &step.values).collect();
        let sent = self.session.batch(&batch, values).await;
        sent.map(|_| ()).map_err(|e| self.noted(error::execution(&e)))
    }

    /// Rows of a query.
    pub(super) async fn rows<R>(&self, cql: &str, values: &[Value]) -> Result<Vec<R>, WriteError>
    where
        R: for<'a, 'b> scylla::deserialize::row::DeserializeRow<'a, 'b>,
    {
        let step = self.step(cql, values).await.map_err(Failure::into_write)?;
        let answer = self.session.execute_unpaged(&step.statement, &step.values).await;
        super::lookup::typed(answer.map_err(|e| self.noted(error::execution(&e)).into_write())?)
    }

    /// True where rows of other programs became records. Where none ever did, nothing needs to be asked about any.
    pub(super) fn imports(&self) -> bool {
        self.imports.load(Ordering::Relaxed)
    }

    /// A row of another program has become a record.
    pub(super) fn has_imports(&self) {
        self.imports.store(true, Ordering::Relaxed);
    }

    fn noted(&self, failure: Failure) -> Failure {
        match &failure {
            Failure::Missing(_) => self.stale.store(true, Ordering::Relaxed),
            Failure::Other(WriteError::Disconnected(_)) => self.broken.store(true, Ordering::Relaxed),
            _ => {}
        }
        failure
    }

    /// Takes note that a call was given up before its answer.
    pub(super) fn watch(&self) -> Watch<'_> {
        Watch { link: self, answered: false }
    }
}

/// Dropped without an answer it gives the session up: the server is silent, or the link is.
pub(super) struct Watch<'a> {
    link: &'a Link,
    answered: bool,
}

impl Watch<'_> {
    pub(super) fn answered(mut self) {
        self.answered = true;
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        if !self.answered {
            self.link.broken.store(true, Ordering::Relaxed);
        }
    }
}
