//! PostgreSQL, MySQL and MariaDB by hand.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Result;
use forebay_services::mariadb::MariaDb;
use forebay_services::mysql::MySql;
use forebay_services::postgres::Postgres;
use forebay_services::{Private, private};
use sqlx::mysql::{MySqlConnectOptions, MySqlConnection, MySqlSslMode};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Executor, Row};

use super::rows::{ARRIVED, Rows, SENDER};
use super::side::{Side, Work};

/// Rows of one INSERT, and INSERTs of one transaction.
const ROWS: u64 = 1_000;
const STATEMENTS: usize = 10;

/// Bytes of one message of COPY, about.
const PIECE: usize = 64 << 10;

/// A part of what the bulk way sends: a piece of COPY's data, or a statement.
type Piece = Arc<str>;

const COLUMNS: &str = "msgid, sender, topic, qos, retain, payload, arrived";

/// A server that speaks SQL.
#[derive(Debug)]
pub(super) struct Sql {
    name: &'static str,
    dialect: Dialect,
    pieces: Vec<Piece>,
}

impl Sql {
    pub(super) fn postgres() -> Sql {
        Sql { name: "PostgreSQL", dialect: Dialect::Pgsql, pieces: Vec::new() }
    }

    pub(super) fn mysql() -> Sql {
        Sql { name: "MySQL", dialect: Dialect::Mysql, pieces: Vec::new() }
    }

    pub(super) fn mariadb() -> Sql {
        Sql { name: "MariaDB", dialect: Dialect::Mysql, pieces: Vec::new() }
    }
}

impl Side for Sql {
    fn names(&self) -> (&'static str, &'static str) {
        match self.dialect {
            Dialect::Pgsql => (self.name, "COPY mqtt_msg FROM STDIN"),
            Dialect::Mysql => (self.name, "INSERT of many rows"),
        }
    }

    fn bar(&self) -> f64 {
        match self.dialect {
            Dialect::Pgsql => 0.6,
            Dialect::Mysql => 0.8,
        }
    }

    fn start(&self) -> Result<Option<Private>> {
        let server = match self.name {
            "PostgreSQL" => private(&Postgres),
            "MySQL" => private(&MySql),
            _ => private(&MariaDb),
        };
        server.map(Some)
    }

    fn words(&self) -> (&'static str, &'static str) {
        match self.dialect {
            Dialect::Pgsql => ("pgsql", "pgsql"),
            Dialect::Mysql => ("mysql", "mysql"),
        }
    }

    fn pool(&self, port: u16) -> Vec<String> {
        let user = match self.dialect {
            Dialect::Pgsql => "username = forebay",
            Dialect::Mysql => "user = forebay",
        };
        let server = format!("server = 127.0.0.1:{port}");
        vec![server, user.to_owned(), "password = pw".to_owned(), "database = mqtt".to_owned()]
    }

    fn create(&self, port: u16) -> Work<'_, ()> {
        Box::pin(self.dialect.create(port))
    }

    fn clear(&self, port: u16) -> Work<'_, ()> {
        Box::pin(self.dialect.clear(port))
    }

    fn count(&self, port: u16) -> Work<'_, u64> {
        Box::pin(self.dialect.count(port))
    }

    fn prepare(&mut self, rows: Rows, _connections: usize) -> Result<()> {
        self.pieces = self.dialect.pieces(rows);
        Ok(())
    }

    fn bulk(&self, port: u16) -> Work<'_, f64> {
        Box::pin(self.dialect.bulk(port, &self.pieces))
    }

    fn plain(&self, port: u16, rows: Rows) -> Work<'_, f64> {
        Box::pin(self.dialect.plain(port, rows))
    }
}

#[derive(Clone, Copy, Debug)]
enum Dialect {
    Pgsql,
    Mysql,
}

impl Dialect {
    async fn create(self, port: u16) -> Result<()> {
        match self {
            Dialect::Pgsql => pgsql(port, "postgres").await?.execute("create database mqtt").await.map(|_| ())?,
            Dialect::Mysql => mysql(port, "").await?.execute("create database mqtt").await.map(|_| ())?,
        }
        Ok(())
    }

    async fn clear(self, port: u16) -> Result<()> {
        match self {
            Dialect::Pgsql => {
                let mut conn = pgsql(port, "mqtt").await?;
                conn.execute("truncate mqtt_msg, forebay_position").await?;
                // Nobody's turn pays for what another's left.
                conn.execute("checkpoint").await?;
            }
            Dialect::Mysql => {
                let mut conn = mysql(port, "mqtt").await?;
                conn.execute("truncate table mqtt_msg").await?;
                conn.execute("delete from forebay_position").await?;
            }
        }
        Ok(())
    }

    async fn count(self, port: u16) -> Result<u64> {
        let sql = "select count(*) from mqtt_msg";
        let rows: i64 = match self {
            Dialect::Pgsql => pgsql(port, "mqtt").await?.fetch_one(sql).await?.try_get(0)?,
            Dialect::Mysql => mysql(port, "mqtt").await?.fetch_one(sql).await?.try_get(0)?,
        };
        Ok(rows.unsigned_abs())
    }

    fn pieces(self, rows: Rows) -> Vec<Piece> {
        let mut pieces: Vec<Piece> = Vec::new();
        let mut text = String::new();
        for n in 0..rows.messages {
            let (id, topic, payload) = (Rows::msgid(n), rows.topic(n), rows.payload(n));
            let full = match self {
                Dialect::Pgsql => {
                    // Neither holds a tab or a backslash. Writing into a String can't fail.
                    let _ = writeln!(text, "{id}\t{SENDER}\t{topic}\t1\t0\t{payload}\t{ARRIVED}");
                    text.len() > PIECE
                }
                Dialect::Mysql => {
                    if text.is_empty() {
                        let _ = write!(text, "insert into mqtt_msg ({COLUMNS}, node) values ");
                    } else {
                        text.push(',');
                    }
                    let _ = write!(text, "('{id}','{SENDER}','{topic}',1,0,'{payload}','{ARRIVED}','bench@127.0.0.1')");
                    (n + 1) % ROWS == 0
                }
            };
            if full {
                pieces.push(std::mem::take(&mut text).into());
            }
        }
        if !text.is_empty() {
            pieces.push(text.into());
        }
        pieces
    }

    /// All rows on one connection; the answer to the last commit ends the time.
    async fn bulk(self, port: u16, pieces: &[Piece]) -> Result<f64> {
        match self {
            Dialect::Pgsql => {
                let mut conn = pgsql(port, "mqtt").await?;
                let begun = Instant::now();
                let mut copy = conn.copy_in_raw(&format!("copy mqtt_msg ({COLUMNS}) from stdin")).await?;
                for piece in pieces {
                    copy.send(piece.as_bytes()).await?;
                }
                copy.finish().await?;
                Ok(begun.elapsed().as_secs_f64())
            }
            Dialect::Mysql => {
                let mut conn = mysql(port, "mqtt").await?;
                let begun = Instant::now();
                for transaction in pieces.chunks(STATEMENTS) {
                    conn.execute("start transaction").await?;
                    for statement in transaction {
                        conn.execute(AssertSqlSafe(statement.clone())).await?;
                    }
                    conn.execute("commit").await?;
                }
                Ok(begun.elapsed().as_secs_f64())
            }
        }
    }

    /// Each row with a statement and a commit of its own.
    async fn plain(self, port: u16, rows: Rows) -> Result<f64> {
        macro_rules! one_by_one {
            ($conn:expr, $places:literal) => {{
                let mut conn = $conn;
                let begun = Instant::now();
                for n in 0..rows.messages {
                    let query = sqlx::query(concat!(
                        "insert into mqtt_msg (msgid, sender, topic, qos, retain, payload, arrived) values ",
                        $places
                    ));
                    let query = query.bind(Rows::msgid(n)).bind(SENDER).bind(rows.topic(n)).bind(1).bind(0);
                    query.bind(rows.payload(n).into_bytes()).bind(ARRIVED).execute(&mut conn).await?;
                }
                Ok(begun.elapsed().as_secs_f64())
            }};
        }
        match self {
            Dialect::Pgsql => {
                one_by_one!(pgsql(port, "mqtt").await?, "($1, $2, $3, $4, $5, $6, cast($7::text as timestamp))")
            }
            Dialect::Mysql => one_by_one!(mysql(port, "mqtt").await?, "(?, ?, ?, ?, ?, ?, ?)"),
        }
    }
}

async fn pgsql(port: u16, database: &str) -> Result<PgConnection> {
    let options =
        PgConnectOptions::new_without_pgpass().host("127.0.0.1").port(port).username("forebay").password("pw");
    let options = options.database(database).disable_statement_logging();
    Ok(PgConnection::connect_with(&options).await?)
}

async fn mysql(port: u16, database: &str) -> Result<MySqlConnection> {
    let options = MySqlConnectOptions::new().host("127.0.0.1").port(port).username("forebay").password("pw");
    let options = if database.is_empty() { options } else { options.database(database) };
    let options = options.ssl_mode(MySqlSslMode::Disabled).charset("utf8mb4").disable_statement_logging();
    Ok(MySqlConnection::connect_with(&options).await?)
}
