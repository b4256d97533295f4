//! Connections: options, sessions, and finding out whether an idle one is still there.

use std::time::{Duration, Instant};

use forebay_engine::Lsn;
use sqlx::mysql::{MySqlArguments, MySqlConnectOptions, MySqlConnection, MySqlSslMode};
use sqlx::query::Query;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Executor, MySql, Row};

use super::error::map;
use super::schema::{self, Found};
use crate::sink::WriteError;
use crate::sql::ServerConfig;
use crate::sql::statements::{Placeholders, Statements};

/// After so long without use a connection is asked whether it is still there: servers and firewalls drop idle ones.
const IDLE: Duration = Duration::from_secs(30);

/// Statements that stay prepared in a connection.
const STATEMENTS: usize = 256;

/// MySQL or MariaDB as a sink.
#[derive(Clone, Debug)]
pub struct MysqlSink {
    pub(super) config: ServerConfig,
    pub(super) statements: Statements,
}

/// A connection, and what is known of its server.
#[derive(Debug)]
pub struct MysqlConn {
    pub(super) inner: MySqlConnection,
    pub(super) found: Found,
    /// The server takes no longer packet, bytes.
    pub(super) packet: usize,
    /// Records below may have been stored before a reset.
    pub(super) ceiling: Lsn,
    used: Instant,
    cache: bool,
}

impl MysqlSink {
    /// A sink with these settings. Opens nothing.
    #[must_use]
    pub fn new(config: ServerConfig) -> Self {
        MysqlSink { config, statements: Statements::new(Placeholders::Question) }
    }

    fn options(&self) -> MySqlConnectOptions {
        let config = &self.config;
        let mut options = MySqlConnectOptions::new()
            .host(&config.host)
            .port(config.port)
            .database(&config.database)
            .charset("utf8mb4")
            .pipes_as_concat(false)
            .no_engine_substitution(false)
            .timezone(None)
            .statement_cache_capacity(if config.statement_cache { STATEMENTS } else { 0 })
            .disable_statement_logging();
        if let Some(name) = &config.username {
            options = options.username(name);
        }
        if let Some(password) = &config.password {
            options = options.password(password);
        }
        let Some(tls) = &config.tls else { return options.ssl_mode(MySqlSslMode::Disabled) };
        options = options.ssl_mode(MySqlSslMode::VerifyIdentity);
        if let Some(file) = &tls.authority {
            options = options.ssl_ca(file);
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
    pub(super) async fn link(&self) -> Result<MySqlConnection, WriteError> {
        MySqlConnection::connect_with(&self.options()).await.map_err(map)
    }

    pub(super) async fn open(&self) -> Result<MysqlConn, WriteError> {
        let mut inner = self.link().await?;
        let facts = "select cast(@@max_allowed_packet as signed) as packet, \
             cast(@@innodb_flush_log_at_trx_commit as signed) as flush, cast(version() as char) as version";
        let row = inner.fetch_one(facts).await.map_err(map)?;
        let packet: i64 = row.try_get("packet").map_err(map)?;
        let flush: i64 = row.try_get("flush").map_err(map)?;
        let version: String = row.try_get("version").map_err(map)?;
        if flush != 1 {
            let remedy =
                "with innodb_flush_log_at_trx_commit other than 1 the server forgets what it confirmed when it crashes";
            tracing::warn!(database = self.config.database, flush, remedy);
        }
        let mut session = "set session sql_mode = concat(@@sql_mode, ',STRICT_ALL_TABLES,STRICT_TRANS_TABLES,NO_ENGINE_SUBSTITUTION'), \
             time_zone = '+00:00', innodb_lock_wait_timeout = 10, autocommit = 1"
            .to_owned();
        if version.contains("MariaDB") {
            session.push_str(", idle_transaction_timeout = 60");
        }
        inner.execute(AssertSqlSafe(session)).await.map_err(map)?;
        inner.execute("set session transaction isolation level read committed").await.map_err(map)?;
        let found = schema::prepare(&mut inner, &self.config).await?;
        Ok(MysqlConn {
            inner,
            found,
            packet: usize::try_from(packet).unwrap_or(1 << 20),
            ceiling: Lsn::NONE,
            used: Instant::now(),
            cache: self.config.statement_cache,
        })
    }

    /// Makes sure that a connection that was idle is still there. Its last answer has arrived, so that nothing of it is in doubt, and
    /// another one may take its place.
    pub(super) async fn refresh(&self, conn: &mut MysqlConn) -> Result<(), WriteError> {
        if conn.used.elapsed() > IDLE && conn.inner.ping().await.is_err() {
            self.reopen(conn).await?;
        }
        conn.used = Instant::now();
        Ok(())
    }

    /// Another connection in place of one whose last answer has arrived.
    pub(super) async fn reopen(&self, conn: &mut MysqlConn) -> Result<(), WriteError> {
        let ceiling = conn.ceiling;
        *conn = self.open().await?;
        conn.ceiling = ceiling;
        Ok(())
    }
}

impl MysqlConn {
    /// A statement with placeholders.
    pub(super) fn query<'q>(&self, sql: impl Into<String>) -> Query<'q, MySql, MySqlArguments> {
        sqlx::query(AssertSqlSafe(sql.into())).persistent(self.cache)
    }

    pub(super) async fn begin(&mut self) -> sqlx::Result<()> {
        self.inner.execute("start transaction").await.map(|_| ())
    }

    /// Ends the transaction so that nothing of it stays. A connection that can't even do that is of no use any more.
    pub(super) async fn rollback(&mut self, error: WriteError) -> WriteError {
        match self.inner.execute("rollback").await {
            Ok(_) => error,
            Err(failed) => WriteError::Disconnected(format!("{error}; rollback: {failed}").into()),
        }
    }
}
