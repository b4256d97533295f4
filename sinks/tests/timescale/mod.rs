//! Databases of a test's own on TimescaleDB, where `FOREBAY_TEST_TIMESCALE_URL` leads to one, else on PostgreSQL with ordinary tables.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::sync::Arc;

use forebay_sinks::conformance::{MemoryLog, nowhere, rule};
use forebay_sinks::rule::{Action, Database, Function, Hook, Pool, RuleSet, Setting};
use forebay_sinks::timescale::{TimescaleConfig, TimescaleSink};
use forebay_sinks::{Sinks, SinksOptions};
use tempfile::TempDir;

use crate::sql::{Scratch, Server, options};

pub const SINK: &str = "timescale/pool1";

/// A database and the folder of its template.
pub struct Base {
    pub scratch: Scratch,
    dir: TempDir,
}

impl Base {
    pub async fn new(template: &str) -> Base {
        let url = std::env::var("FOREBAY_TEST_TIMESCALE_URL").unwrap_or_else(|_| Server::Pgsql.url());
        Base::at(&url, template).await
    }

    /// On a server of one's own.
    pub async fn at(url: &str, template: &str) -> Base {
        let base = Base { scratch: Scratch::at(Server::Pgsql, url).await, dir: tempfile::tempdir().unwrap() };
        base.template(template);
        base
    }

    /// Another template in place of the one there is; sinks made from now on have it.
    pub fn template(&self, template: &str) {
        std::fs::write(self.file(), template).unwrap();
    }

    fn file(&self) -> std::path::PathBuf {
        self.dir.path().join("t.tmpl")
    }

    /// Makes a hypertable of a table where the server is TimescaleDB; false where it is not.
    pub async fn hypertable(&self, table: &str, column: &str) -> bool {
        let there = "from pg_available_extensions where name = 'timescaledb'";
        if self.scratch.rows("name", there).await.is_empty() {
            return false;
        }
        self.scratch.run("create extension if not exists timescaledb").await;
        self.scratch.run(&format!("select create_hypertable('{table}', '{column}')")).await;
        true
    }

    /// The pool with more settings.
    pub fn pool(&self, more: &[(&str, &str)]) -> Pool {
        let mut pool = Pool { database: Database::Timescale, ..self.scratch.pool(more) };
        let value = self.file().to_str().unwrap().to_owned();
        let setting = Setting { value, secret: false, at: nowhere() };
        pool.settings.entry("template_file".into()).or_insert(setting);
        pool
    }

    /// One rule for all topics.
    pub fn rules(&self, more: &[(&str, &str)]) -> RuleSet {
        let action = Action::Function(Function::MessageStore);
        let rules = vec![rule(Database::Timescale, Hook::MessagePublish, 1, Some("#"), action)];
        RuleSet { pools: vec![self.pool(more)], rules }
    }

    pub fn sink(&self, more: &[(&str, &str)]) -> TimescaleSink {
        let pool = self.pool(more);
        TimescaleSink::new(TimescaleConfig::from_pool(&pool, self.dir.path(), "node@test").unwrap())
    }

    pub fn start(&self, log: &MemoryLog, more: &[(&str, &str)]) -> Sinks {
        self.start_with(log, more, &options())
    }

    pub fn start_with(&self, log: &MemoryLog, more: &[(&str, &str)], options: &SinksOptions) -> Sinks {
        Sinks::start(Arc::new(log.clone()), &self.rules(more), options).unwrap()
    }

    pub async fn rows(&self, columns: &str, rest: &str) -> Vec<String> {
        self.scratch.rows(columns, rest).await
    }

    pub async fn run(&self, sql: &str) {
        self.scratch.run(sql).await;
    }
}
