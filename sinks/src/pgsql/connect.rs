//! Connections: options, sessions, and finding out whether an idle one is still there.

use std::time::{Duration, Instant};

use forebay_engine::Lsn;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgSslMode};
use sqlx::query::Query;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Executor, Postgres};

use super::error::map;
use super::schema::{self, Found};
use super::statement::Known;
use crate::sink::WriteError;
use crate::sql::ServerConfig;
use crate::sql::layout::TABLES;
use crate::sql::statements::{Placeholders, Statements};

/// After so long without use a connection is asked whether it is still there: firewalls forget idle ones.
const IDLE: Duration = Duration::from_secs(30);

/// What the server quotes where a column's type is another one than it was found with.
pub(super) const ALTERED: &str = "the type of the column payload was altered";

/// Statements that stay prepared in a connection.
const STATEMENTS: usize = 256;

/// PostgreSQL as a sink.
#[derive(Clone, Debug)]
pub struct PgsqlSink {
    pub(super) config: ServerConfig,
    pub(super) statements: Statements,
    /// Tables that are looked at, and made where the pool says so.
    pub(super) tables: &'static [&'static str],
    /// Insertions of one statement that follow one another go as several rows of one.
    pub(super) several: bool,
}

/// A connection, and what is known of its server's tables.
#[derive(Debug)]
pub struct PgsqlConn {
    pub(super) inner: PgConnection,
    pub(super) found: Found,
    /// Users' statements.
    pub(super) statements: Known,
    /// Many messages go by COPY.
    pub(super) copies: bool,
    /// A COPY is under way, or was refused.
    pub(super) copying: bool,
    /// How a transaction begins.
    pub(super) begin: &'static str,
    /// Records below may have been stored before a reset.
    pub(super) ceiling: Lsn,
    used: Instant,
    cache: bool,
}

/// What each transaction sets for itself: a pooler may give each to another session. `plan_cache_mode`: a plan made for a small table
/// must not outlive it.
macro_rules! begin {
    ($more:literal) => {
        concat!(
            "begin isolation level read committed; set local lock_timeout = '10s'; ",
            "set local idle_in_transaction_session_timeout = '60s'; set local synchronous_commit = on; ",
            "set local timezone = 'UTC'; set local standard_conforming_strings = on",
            $more
        )
    };
}

impl PgsqlSink {
    /// A sink with these settings. Opens nothing.
    #[must_use]
    pub fn new(config: ServerConfig) -> Self {
        PgsqlSink { config, statements: Statements::new(Placeholders::Dollar), tables: &TABLES, several: false }
    }

    /// A sink that runs users' statements only: of the tables it needs its positions'. Opens nothing.
    pub(crate) fn of_statements(config: ServerConfig) -> Self {
        PgsqlSink { tables: &["forebay_position"], several: true, ..PgsqlSink::new(config) }
    }

    fn options(&self) -> PgConnectOptions {
        let config = &self.config;
        let mut options = PgConnectOptions::new_without_pgpass()
            .host(&config.host)
            .port(config.port)
            .database(&config.database)
            .application_name("forebay")
            .extra_float_digits(None)
            .statement_cache_capacity(if config.statement_cache { STATEMENTS } else { 0 })
            .disable_statement_logging();
        if let Some(name) = &config.username {
            options = options.username(name);
        }
        if let Some(password) = &config.password {
            options = options.password(password);
        }
        let Some(tls) = &config.tls else { return options.ssl_mode(PgSslMode::Disable) };
        options = options.ssl_mode(PgSslMode::VerifyFull);
        if let Some(file) = &tls.authority {
            options = options.ssl_root_cert(file);
        }
        if let Some(file) = &tls.certificate {
            options = options.ssl_client_cert(file);
        }
        if let Some(file) = &tls.key {
            options = options.ssl_client_key(file);
        }
        options
    }

    /// A connection that has looked at nothing.
    pub(crate) async fn link(&self) -> Result<PgConnection, WriteError> {
        PgConnection::connect_with(&self.options()).await.map_err(map)
    }

    pub(super) async fn open(&self) -> Result<PgsqlConn, WriteError> {
        let mut inner = self.link().await?;
        let begin = match inner.server_version_num() {
            Some(version) if version < 120_000 => begin!(""),
            _ => begin!("; set local plan_cache_mode = force_custom_plan"),
        };
        let found = schema::prepare(&mut inner, &self.config, self.tables).await?;
        Ok(PgsqlConn {
            inner,
            copies: found.copies,
            copying: false,
            found,
            statements: Known::default(),
            begin,
            ceiling: Lsn::NONE,
            used: Instant::now(),
            cache: self.config.statement_cache,
        })
    }

    /// Makes sure that a connection that was idle is still there. Its last answer has arrived, so that nothing of it is in doubt, and
    /// another one may take its place.
    pub(super) async fn refresh(&self, conn: &mut PgsqlConn) -> Result<(), WriteError> {
        if conn.used.elapsed() > IDLE && conn.inner.ping().await.is_err() {
            let ceiling = conn.ceiling;
            *conn = self.open().await?;
            conn.ceiling = ceiling;
        }
        conn.used = Instant::now();
        Ok(())
    }
}

impl PgsqlConn {
    /// A statement of Forebay's own.
    pub(super) fn query<'q>(&self, sql: impl Into<String>) -> Query<'q, Postgres, sqlx::postgres::PgArguments> {
        sqlx::query(AssertSqlSafe(sql.into())).persistent(self.cache)
    }

    pub(super) fn is_cached(&self) -> bool {
        self.cache
    }

    pub(super) async fn begin(&mut self) -> sqlx::Result<()> {
        self.inner.execute(self.begin).await.map(|_| ())
    }

    /// Ends the transaction of a batch, unless a payload's column has another type than it was found with: written as bytes into a column that
    /// is text by now a payload would be another one, unnoticed. The batch's own locks keep its tables as they are until it ends.
    pub(super) async fn commit(&mut self) -> sqlx::Result<()> {
        let altered: Vec<String> = ["mqtt_msg", "mqtt_retain"]
            .into_iter()
            .filter_map(|table| Some((table, &self.found.layout.column(table, "payload")?.cast)))
            .map(|(table, cast)| {
                format!(
                    "attrelid = to_regclass('{table}') and format_type(atttypid, null) <> '{}'",
                    cast.replace('\'', "''")
                )
            })
            .collect();
        if altered.is_empty() {
            return self.inner.execute("commit").await.map(|_| ());
        }
        // An error ends the list of statements before the commit.
        let sql = format!(
            "select cast(case when exists (select from pg_catalog.pg_attribute where attname = 'payload' and not attisdropped \
             and ({})) then '{ALTERED}' else '0' end as integer); commit",
            altered.join(" or ")
        );
        self.inner.execute(AssertSqlSafe(sql)).await.map(|_| ())
    }

    /// Begins a few queries. Behind a pooler, which may give each transaction to another session, they need one.
    pub(super) async fn enter(&mut self) -> Result<(), WriteError> {
        if self.cache { Ok(()) } else { self.begin().await.map_err(map) }
    }

    /// Ends what [`PgsqlConn::enter`] began. After an error the connection is given up.
    pub(super) async fn leave(&mut self) -> Result<(), WriteError> {
        if self.cache { Ok(()) } else { self.inner.execute("commit").await.map(|_| ()).map_err(map) }
    }

    /// Ends the transaction so that nothing of it stays. A connection that can't even do that is of no use any more.
    pub(super) async fn rollback(&mut self, error: WriteError) -> WriteError {
        match self.inner.execute("rollback").await {
            Ok(_) => error,
            Err(failed) => WriteError::Disconnected(format!("{error}; rollback: {failed}").into()),
        }
    }
}
