//! The servers: how they are started, emptied and asked, and what their own bulk way is.

use std::fmt::Write as _;
use std::net::SocketAddr;

use anyhow::{Context, Result};
use clap::ValueEnum;
use forebay_services::{Private, Process};

use super::cassandra::Cassandra;
use super::dynamo::Dynamo;
use super::influxdb::InfluxDb;
use super::mongo::Mongo;
use super::opentsdb::OpenTsdb;
use super::redis::Redis;
use super::rows::Rows;
use super::side::Side;
use super::sql::Sql;
use super::sqlite::Sqlite;

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
    /// The stand-in for MongoDB, in memory.
    Mongo,
    /// The same with every write on the disk before it is answered.
    MongoDurable,
    /// Cassandra, with every write on the disk before it is answered.
    Cassandra,
    /// DynamoDB Local in memory.
    Dynamodb,
    /// The same with its tables on the disk.
    DynamodbDurable,
    /// InfluxDB 1.6.
    Influxdb,
    /// OpenTSDB on HBase.
    Opentsdb,
    /// SQLite, which has no server.
    Sqlite,
}

impl Kind {
    /// The one table of databases.
    fn side(self) -> Result<Box<dyn Side>> {
        let side: Box<dyn Side> = match self {
            Kind::Postgres => Box::new(Sql::postgres()),
            Kind::Mysql => Box::new(Sql::mysql()),
            Kind::Mariadb => Box::new(Sql::mariadb()),
            Kind::Redis => Box::new(Redis::new(false)),
            Kind::RedisAof => Box::new(Redis::new(true)),
            Kind::Mongo => Box::new(Mongo::new(false)),
            Kind::MongoDurable => Box::new(Mongo::new(true)),
            Kind::Cassandra => Box::new(Cassandra::default()),
            Kind::Dynamodb => Box::new(Dynamo::new(false)),
            Kind::DynamodbDurable => Box::new(Dynamo::new(true)),
            Kind::Influxdb => Box::new(InfluxDb::new()?),
            Kind::Opentsdb => Box::new(OpenTsdb::new()?),
            Kind::Sqlite => Box::new(Sqlite::new()?),
        };
        Ok(side)
    }
}

/// A server of this program's own, with an empty database `mqtt`.
#[derive(Debug)]
pub struct Database {
    side: Box<dyn Side>,
    server: Option<Private>,
}

impl Database {
    /// Starts it.
    ///
    /// # Errors
    /// Where it can't be had.
    pub async fn start(kind: Kind) -> Result<Database> {
        let side = kind.side()?;
        let server = side.start()?;
        let database = Database { side, server };
        database.side.create(database.port()).await?;
        Ok(database)
    }

    /// Its name, and what its own bulk way is.
    #[must_use]
    pub fn names(&self) -> (&'static str, &'static str) {
        self.side.names()
    }

    /// The name of its sink.
    #[must_use]
    pub fn sink(&self) -> String {
        format!("{}/pool1", self.side.words().1)
    }

    /// The least that the sink's rate may be of the bulk way's.
    #[must_use]
    pub fn bar(&self) -> f64 {
        self.side.bar()
    }

    /// How many messages are enough to be measured.
    #[must_use]
    pub fn most(&self) -> u64 {
        self.side.most()
    }

    /// False where it is a file of this process.
    #[must_use]
    pub fn has_server(&self) -> bool {
        self.server.is_some()
    }

    fn members(&mut self) -> Result<&mut Vec<Process>> {
        Ok(&mut self.server.as_mut().context("there is no server, or it was ended")?.members)
    }

    /// SIGKILL to all its processes, or their start with the data they had.
    ///
    /// # Errors
    /// Where they do not start again.
    pub fn set_killed(&mut self, killed: bool) -> Result<()> {
        let members = self.members()?;
        if killed {
            members.iter_mut().for_each(Process::kill);
            return Ok(());
        }
        // One that others need comes after them.
        members.iter_mut().rev().try_for_each(Process::restart)
    }

    /// It accepts connections and answers nothing, or goes on.
    ///
    /// # Errors
    /// Where it was ended.
    pub fn set_suspended(&mut self, suspended: bool) -> Result<()> {
        self.members()?.iter().for_each(|member| if suspended { member.suspend() } else { member.resume() });
        Ok(())
    }

    /// Ends it.
    pub fn stop(&mut self) {
        self.server = None;
    }

    /// 0 where it has none.
    fn port(&self) -> u16 {
        self.server.as_ref().and_then(|server| server.members.first()).map_or(0, Process::port)
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port()))
    }

    /// Processor time of its processes, ms.
    ///
    /// # Errors
    /// Where the kernel does not tell.
    pub fn cpu_ms(&self) -> Result<f64> {
        let members = self.server.iter().flat_map(|server| &server.members);
        members.map(|member| crate::cpu::family_ms(member.pid())).sum()
    }

    /// A configuration with one rule that stores all messages here, reached at this port (the server's own unless given); all else is left at
    /// its default.
    #[must_use]
    pub fn conf(&self, port: Option<u16>, pool_size: usize) -> String {
        self.conf_for(port, pool_size, &["#".to_owned()])
    }

    /// The same with a rule for each of these topic filters.
    #[must_use]
    pub fn conf_for(&self, port: Option<u16>, pool_size: usize, filters: &[String]) -> String {
        let (pool, hook) = self.side.words();
        let mut lines = self.side.pool(port.unwrap_or_else(|| self.port()));
        lines.push(format!("pool_size = {pool_size}"));
        let mut conf: String = lines.iter().map(|line| format!("backend.{pool}.pool1.{line}\n")).collect();
        for (n, filter) in (1..).zip(filters) {
            // Writing into a String can't fail.
            let _ = writeln!(
                conf,
                "backend.{hook}.hook.message.publish.{n} = {{\"topic\": \"{filter}\", \"action\": {{\"function\": \
                 \"on_message_publish\"}}, \"pool\": \"pool1\"}}"
            );
        }
        conf
    }

    /// Removes all messages and the sink's position. A [`Database::conf`] made before stands for what was removed: make another.
    ///
    /// # Errors
    /// Where the server refuses.
    pub async fn clear(&self) -> Result<()> {
        self.side.clear(self.port()).await
    }

    /// How many messages it has.
    ///
    /// # Errors
    /// Where the server refuses.
    pub async fn count(&self) -> Result<u64> {
        self.side.count(self.port()).await
    }

    /// Makes what the bulk way sends, over so many connections where it has several.
    ///
    /// # Errors
    /// Where a file can't be written.
    pub fn prepare(&mut self, rows: Rows, connections: usize) -> Result<()> {
        self.side.prepare(rows, connections)
    }

    /// Stores all rows in the bulk way; returns the seconds it took.
    ///
    /// # Errors
    /// Where the server refuses.
    pub async fn bulk(&self) -> Result<f64> {
        self.side.bulk(self.port()).await
    }

    /// Stores the first rows one by one, each with a statement of its own that is waited for; returns the seconds it took.
    ///
    /// # Errors
    /// Where the server refuses.
    pub async fn plain(&self, rows: Rows) -> Result<f64> {
        self.side.plain(self.port(), rows).await
    }
}
