//! Databases of a test's own on the shared servers, and sinks on them.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

pub mod relay;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use forebay_engine::Lsn;
use forebay_services::address;
use forebay_sinks::conformance::{MemoryLog, nowhere, rule, until};
use forebay_sinks::dead_letter::{LetterStore, MemoryLetters};
use forebay_sinks::registry::DatabaseOptions;
use forebay_sinks::rule::{
    Action, Database, Function, Hook, Param, Part, Pool, Rule, RuleSet, Setting, Statement, parse_conf,
};
use forebay_sinks::runtime::RuntimeOptions;
use forebay_sinks::runtime::backoff::Backoff;
use forebay_sinks::source::Source;
use forebay_sinks::sql::ServerConfig;
use forebay_sinks::{Sinks, SinksOptions};
use sqlx::mysql::{MySqlConnectOptions, MySqlConnection};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Executor, Row};

/// The servers of the tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Server {
    Pgsql,
    Mysql,
    Mariadb,
}

impl Server {
    pub fn database(self) -> Database {
        if self == Server::Pgsql { Database::Pgsql } else { Database::Mysql }
    }

    /// Where the shared one is; a missing one fails the test with the command that starts it.
    pub fn url(self) -> String {
        let name = match self {
            Server::Pgsql => "postgres",
            Server::Mysql => "mysql",
            Server::Mariadb => "mariadb",
        };
        address(name).unwrap_or_else(|error| panic!("{error:#}"))
    }
}

/// Host, port, user and password of `scheme://user:password@host:port[/…]`.
pub fn parts(url: &str) -> (String, u16, String, String) {
    let rest = url.split_once("://").unwrap().1;
    let (login, place) = rest.split_once('@').unwrap();
    let (user, password) = login.split_once(':').unwrap();
    let (host, port) = place.split('/').next().unwrap().rsplit_once(':').unwrap();
    (host.to_owned(), port.parse().unwrap(), user.to_owned(), password.to_owned())
}

/// A database that goes with the test.
pub struct Scratch {
    pub server: Server,
    pub url: String,
    pub name: String,
}

/// The tables as the guide's own DDL makes them.
pub fn guide(server: Server) -> &'static str {
    match server {
        Server::Pgsql => include_str!("../fixtures/sql/emqx_backend_pgsql.sql"),
        Server::Mysql | Server::Mariadb => include_str!("../fixtures/sql/emqx_backend_mysql.sql"),
    }
}

/// A connection of a test's own.
pub enum Other {
    Pgsql(PgConnection),
    Mysql(MySqlConnection),
}

impl Scratch {
    pub async fn new(server: Server) -> Scratch {
        Scratch::at(server, &server.url()).await
    }

    /// On a server of one's own.
    pub async fn at(server: Server, url: &str) -> Scratch {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("t_{}_{number}", std::process::id());
        let scratch = Scratch { server, url: url.to_owned(), name };
        let mut admin = Other::open(server, url, None).await;
        admin.run(&format!("drop database if exists {}", scratch.name)).await;
        admin.run(&format!("create database {}", scratch.name)).await;
        scratch
    }

    pub async fn open(&self) -> Other {
        Other::open(self.server, &self.url, Some(&self.name)).await
    }

    pub async fn run(&self, sql: &str) {
        self.open().await.run(sql).await;
    }

    /// Rows as text in the order of the table's ids, columns joined by `|`; NULL as `-`.
    pub async fn rows(&self, columns: &str, rest: &str) -> Vec<String> {
        self.open().await.rows(columns, rest).await
    }

    /// Several statements, each ended by `;` at a line's end.
    pub async fn script(&self, text: &str) {
        let mut other = self.open().await;
        for statement in text.split(";\n").map(str::trim).filter(|s| !s.is_empty()) {
            other.run(statement).await;
        }
    }

    pub fn config(&self) -> ServerConfig {
        let pool = self.pool(&[("pool_size", "1")]);
        ServerConfig::from_pool(&pool, 0, "node@test").unwrap()
    }

    /// The pool of this database, with more settings.
    pub fn pool(&self, more: &[(&str, &str)]) -> Pool {
        let (host, port, user, password) = parts(&self.url);
        let server = format!("{host}:{port}");
        let setting = |value: &str| Setting { value: value.to_owned(), secret: false, at: nowhere() };
        let mut settings: BTreeMap<String, Setting> =
            [("server", &*server), ("username", &*user), ("password", &*password), ("database", &*self.name)]
                .into_iter()
                .map(|(name, value)| (name.to_owned(), setting(value)))
                .collect();
        settings.extend(more.iter().map(|(name, value)| ((*name).to_owned(), setting(value))));
        Pool { database: self.server.database(), name: "pool1".into(), settings, at: nowhere() }
    }

    pub fn rules(&self, rules: &[(Hook, Option<&str>, Function)]) -> RuleSet {
        let database = self.server.database();
        let rules = rules.iter().enumerate().map(|(n, (hook, topic, function))| {
            rule(database, *hook, n as u32 + 1, *topic, Action::Function(*function))
        });
        RuleSet { pools: vec![self.pool(&[])], rules: rules.collect() }
    }

    /// The rules and pools of a `.conf` text.
    pub fn parse(&self, text: &str) -> RuleSet {
        let parsed = parse_conf(std::path::Path::new("guide.conf"), text);
        assert_eq!(parsed.faults, []);
        parsed.rules
    }

    /// The rules of a `.conf` text on this database.
    pub fn conf(&self, text: &str) -> RuleSet {
        RuleSet { pools: vec![self.pool(&[])], ..self.parse(text) }
    }

    /// The sink's name.
    pub fn sink(&self) -> String {
        format!("{}/pool1", self.server.database().name())
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let (server, url, name) = (self.server, self.url.clone(), self.name.clone());
        let remove = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let force = if server == Server::Pgsql { " with (force)" } else { "" };
                // What is left of a server that the test has killed goes with it.
                if let Ok(mut admin) = Other::try_open(server, &url, None).await {
                    let _gone = admin.try_run(&format!("drop database if exists {name}{force}")).await;
                }
            });
        });
        let _done = remove.join();
    }
}

impl Other {
    pub async fn open(server: Server, url: &str, database: Option<&str>) -> Other {
        Other::try_open(server, url, database).await.unwrap()
    }

    pub async fn try_open(server: Server, url: &str, database: Option<&str>) -> sqlx::Result<Other> {
        let (host, port, user, password) = parts(url);
        if server == Server::Pgsql {
            let options =
                PgConnectOptions::new_without_pgpass().host(&host).port(port).username(&user).password(&password);
            let options = options.database(database.unwrap_or("postgres")).disable_statement_logging();
            return PgConnection::connect_with(&options).await.map(Other::Pgsql);
        }
        let options = MySqlConnectOptions::new().host(&host).port(port).username(&user).password(&password);
        let options = database.map_or(options.clone(), |name| options.database(name)).disable_statement_logging();
        let options = options.ssl_mode(sqlx::mysql::MySqlSslMode::Disabled);
        MySqlConnection::connect_with(&options).await.map(Other::Mysql)
    }

    pub async fn try_run(&mut self, sql: &str) -> sqlx::Result<()> {
        match self {
            Other::Pgsql(conn) => conn.execute(AssertSqlSafe(sql)).await.map(|_| ()),
            Other::Mysql(conn) => conn.execute(AssertSqlSafe(sql)).await.map(|_| ()),
        }
    }

    pub async fn run(&mut self, sql: &str) {
        self.try_run(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }

    pub async fn rows(&mut self, columns: &str, rest: &str) -> Vec<String> {
        let kind = if matches!(self, Other::Pgsql(_)) { "text" } else { "char" };
        let shown: Vec<String> =
            split(columns).into_iter().map(|c| format!("coalesce(cast({c} as {kind}),'-')")).collect();
        let sql = format!("select concat_ws('|',{}) as r {rest}", shown.join(","));
        match self {
            Other::Pgsql(conn) => {
                let rows = sqlx::query(AssertSqlSafe(sql)).fetch_all(conn).await.unwrap();
                rows.iter().map(|row| row.get("r")).collect()
            }
            Other::Mysql(conn) => {
                let rows = sqlx::query(AssertSqlSafe(sql)).fetch_all(conn).await.unwrap();
                rows.iter().map(|row| row.get("r")).collect()
            }
        }
    }

    /// The one column of a query, as bytes.
    pub async fn bytes(&mut self, sql: &str) -> Vec<Vec<u8>> {
        match self {
            Other::Pgsql(conn) => {
                let rows = sqlx::query(AssertSqlSafe(sql)).fetch_all(conn).await.unwrap();
                rows.iter().map(|row| row.get(0)).collect()
            }
            Other::Mysql(conn) => {
                let rows = sqlx::query(AssertSqlSafe(sql)).fetch_all(conn).await.unwrap();
                rows.iter().map(|row| row.get(0)).collect()
            }
        }
    }
}

/// Columns separated by commas that stand in no brackets.
fn split(columns: &str) -> Vec<String> {
    let (mut all, mut depth) = (vec![String::new()], 0);
    for c in columns.chars() {
        depth += i32::from(c == '(') - i32::from(c == ')');
        if c == ',' && depth == 0 {
            all.push(String::new());
        } else {
            all.last_mut().unwrap().push(c);
        }
    }
    all
}

/// Settings of the tests' sinks.
pub fn options() -> SinksOptions {
    SinksOptions {
        databases: DatabaseOptions { data_dir: std::env::temp_dir(), node_name: "forebay@here".into() },
        lookup_deadline: Duration::from_secs(20),
        runtime: RuntimeOptions {
            backoff: Backoff { first: Duration::from_millis(5), longest: Duration::from_millis(200) },
            request_deadline: Duration::from_secs(10),
            ..RuntimeOptions::default()
        },
        open_letters: Arc::new(|_| Ok(Arc::new(MemoryLetters::default()) as Arc<dyn LetterStore>)),
    }
}

pub fn start(log: &MemoryLog, rules: &RuleSet) -> Sinks {
    Sinks::start(Arc::new(log.clone()), rules, &options()).unwrap()
}

pub async fn done(log: &MemoryLog, sinks: &Sinks, last: Lsn) {
    let what = format!("the sink has caught up with {last}: {:?}", sinks.status());
    until(&what, || sinks.status()[0].position > last).await;
    assert!(log.durable_end() > last);
}

pub async fn stop(sinks: Sinks) {
    sinks.shutdown(Duration::from_secs(10)).await;
}

/// What the sink said last.
pub fn error(sinks: &Sinks) -> String {
    sinks.status()[0].last_error.clone().unwrap_or_default()
}

/// Waits until the sink says that.
pub async fn shows(sinks: &Sinks, what: &str) {
    let end = tokio::time::Instant::now() + Duration::from_secs(60);
    while !error(sinks).contains(what) {
        assert!(tokio::time::Instant::now() < end, "it should say `{what}` and says: {}", error(sinks));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A rule of users' statements, as the loader would split them.
pub fn statements(scratch: &Scratch, number: u32, sources: &[&str]) -> Rule {
    let all = sources.iter().map(|source| {
        let mut pieces = source.split("${payload}").map(|text| Part::Text(text.into()));
        let mut parts: Vec<Part> = pieces.next().into_iter().collect();
        for piece in pieces {
            parts.extend([Part::Param(Param::Payload), piece]);
        }
        Statement { source: (*source).to_owned(), parts }
    });
    rule(scratch.server.database(), Hook::MessagePublish, number, Some("#"), Action::Statements(all.collect()))
}
