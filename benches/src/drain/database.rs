//! The servers: how they are started, emptied and asked, and what their own bulk way is.

use std::net::SocketAddr;
use std::time::Instant;

use anyhow::{Context, Result};
use clap::ValueEnum;
use forebay_services::mariadb::MariaDb;
use forebay_services::mysql::MySql;
use forebay_services::postgres::Postgres;
use forebay_services::redis::{PASSWORD, Redis};
use forebay_services::{Private, Process, private};

use super::redis::{self, Resp};
use super::rows::Rows;
use super::sql::{self, Sql};

/// Which server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// PostgreSQL.
    Postgres,
    /// MySQL 8.0.
    Mysql,
    /// MariaDB.
    Mariadb,
    /// Redis without a file, as it comes.
    Redis,
    /// Redis with every write in its append-only file, synced, before it is answered.
    RedisAof,
}

impl Kind {
    /// Its name, and what its own bulk way is.
    #[must_use]
    pub fn names(self) -> (&'static str, &'static str) {
        match self {
            Kind::Postgres => ("PostgreSQL", "COPY mqtt_msg FROM STDIN"),
            Kind::Mysql => ("MySQL", "INSERT of many rows"),
            Kind::Mariadb => ("MariaDB", "INSERT of many rows"),
            Kind::Redis => ("Redis", "redis-cli --pipe"),
            Kind::RedisAof => ("Redis, appendfsync always", "redis-cli --pipe"),
        }
    }

    /// The least that the sink's rate may be of the bulk way's.
    #[must_use]
    pub fn bar(self) -> f64 {
        if self == Kind::Postgres { 0.6 } else { 0.8 }
    }
}

/// A server of this program's own, with an empty database `mqtt`.
#[derive(Debug)]
pub struct Database {
    kind: Kind,
    server: Option<Private>,
    bulk: Bulk,
}

/// What the bulk way sends, made before it is measured.
#[derive(Debug)]
enum Bulk {
    None,
    Sql(Vec<sql::Piece>),
    Redis(tempfile::NamedTempFile),
}

impl Database {
    /// Starts it.
    ///
    /// # Errors
    /// Where it can't be had.
    pub async fn start(kind: Kind) -> Result<Database> {
        let server = match kind {
            Kind::Postgres => private(&Postgres),
            Kind::Mysql => private(&MySql),
            Kind::Mariadb => private(&MariaDb),
            Kind::Redis => private(&Redis { tls: false, durable: false }),
            Kind::RedisAof => private(&Redis { tls: false, durable: true }),
        }?;
        let database = Database { kind, server: Some(server), bulk: Bulk::None };
        if let Some(sql) = Sql::of(kind) {
            sql.create(database.port()?).await?;
        }
        Ok(database)
    }

    /// Which it is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// SIGKILL, or its start with the data it had.
    ///
    /// # Errors
    /// Where it does not start again.
    pub fn set_killed(&mut self, killed: bool) -> Result<()> {
        let process = self.process_mut()?;
        if killed {
            process.kill();
            return Ok(());
        }
        process.restart()
    }

    /// It accepts connections and answers nothing, or goes on.
    ///
    /// # Errors
    /// Where it was ended.
    pub fn set_suspended(&mut self, suspended: bool) -> Result<()> {
        let process = self.process()?;
        if suspended {
            process.suspend()
        } else {
            process.resume()
        }
        Ok(())
    }

    fn process_mut(&mut self) -> Result<&mut Process> {
        self.server.as_mut().and_then(|server| server.members.first_mut()).context("the server was ended")
    }

    /// Ends it; all that is left is its kind.
    pub fn stop(&mut self) {
        (self.server, self.bulk) = (None, Bulk::None);
    }

    fn process(&self) -> Result<&Process> {
        self.server.as_ref().and_then(|server| server.members.first()).context("the server was ended")
    }

    fn port(&self) -> Result<u16> {
        Ok(self.process()?.port())
    }

    /// Where it listens.
    ///
    /// # Errors
    /// Where it was ended.
    pub fn address(&self) -> Result<SocketAddr> {
        Ok(SocketAddr::from(([127, 0, 0, 1], self.port()?)))
    }

    /// Processor time of its processes, ms.
    ///
    /// # Errors
    /// Where the kernel does not tell.
    pub fn cpu_ms(&self) -> Result<f64> {
        crate::cpu::family_ms(self.process()?.pid())
    }

    /// A configuration with one rule that stores all messages here, reached at this port (the server's own unless given); all else is left at its default.
    ///
    /// # Errors
    /// Where it was ended.
    pub fn conf(&self, port: Option<u16>, pool_size: usize) -> Result<String> {
        let port = port.map_or_else(|| self.port(), Ok)?;
        let (name, login) = match self.kind {
            Kind::Postgres => ("pgsql", "username = forebay\n@password = pw\n@database = mqtt".to_owned()),
            Kind::Mysql | Kind::Mariadb => ("mysql", "user = forebay\n@password = pw\n@database = mqtt".to_owned()),
            Kind::Redis | Kind::RedisAof => ("redis", format!("type = single\n@password = {PASSWORD}")),
        };
        let pool = format!("backend.{name}.pool1.");
        let login = login.replace('@', &pool);
        Ok(format!(
            "{pool}server = 127.0.0.1:{port}\n{pool}pool_size = {pool_size}\n{pool}{login}\nbackend.{name}.hook.message.publish.1 = \
             {{\"topic\": \"#\", \"action\": {{\"function\": \"on_message_publish\"}}, \"pool\": \"pool1\"}}\n"
        ))
    }

    /// Removes all messages and the sink's position.
    ///
    /// # Errors
    /// Where the server refuses.
    pub async fn clear(&self) -> Result<()> {
        match Sql::of(self.kind) {
            Some(sql) => sql.clear(self.port()?).await,
            None => redis::clear(self.port()?),
        }
    }

    /// How many messages it has.
    ///
    /// # Errors
    /// Where the server refuses.
    pub async fn count(&self) -> Result<u64> {
        match Sql::of(self.kind) {
            Some(sql) => sql.count(self.port()?).await,
            None => redis::count(self.port()?),
        }
    }

    /// Makes what the bulk way sends.
    ///
    /// # Errors
    /// Where a file can't be written.
    pub fn prepare(&mut self, rows: Rows) -> Result<()> {
        self.bulk = match Sql::of(self.kind) {
            Some(sql) => Bulk::Sql(sql.pieces(rows)),
            None => Bulk::Redis(redis::file(rows)?),
        };
        Ok(())
    }

    /// Stores all rows in the bulk way; returns the seconds it took.
    ///
    /// # Errors
    /// Where the server refuses.
    pub async fn bulk(&self) -> Result<f64> {
        match (&self.bulk, Sql::of(self.kind)) {
            (Bulk::Sql(pieces), Some(sql)) => sql.bulk(self.port()?, pieces).await,
            (Bulk::Redis(file), _) => redis::pipe(self.port()?, file.path()),
            _ => anyhow::bail!("the bulk way was not prepared"),
        }
    }

    /// Stores the first rows one by one, each with a statement of its own that is waited for; returns the seconds it took.
    ///
    /// # Errors
    /// Where the server refuses.
    pub async fn plain(&self, rows: Rows) -> Result<f64> {
        match Sql::of(self.kind) {
            Some(sql) => sql.plain(self.port()?, rows).await,
            None => {
                let mut link = Resp::open(self.port()?)?;
                let begun = Instant::now();
                for n in 0..rows.messages {
                    for command in redis::commands(&rows, n) {
                        link.ask(&command)?;
                    }
                }
                Ok(begun.elapsed().as_secs_f64())
            }
        }
    }
}
