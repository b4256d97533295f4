//! PostgreSQL, MySQL and MariaDB pass the conformance suite on real servers.
#![cfg(all(feature = "conformance", feature = "pgsql", feature = "mysql"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod sql;

use std::collections::BTreeMap;
use std::sync::Arc;

use forebay_sinks::conformance::{self, Fault, Faulty, Subject};
use forebay_sinks::mysql::MysqlSink;
use forebay_sinks::pgsql::PgsqlSink;
use forebay_sinks::rule::{Database, Param, Part, Statement};
use forebay_sinks::sink::Sink;
use forebay_sinks::sql::ServerConfig;
use sql::{Scratch, Server, guide};

struct Base<S: Sink> {
    scratch: Scratch,
    guides: bool,
    sink: Faulty<S>,
}

/// With tables by the guide's own DDL, or such as Forebay makes them.
async fn base<S: Sink>(server: Server, connections: usize, guides: bool, make: fn(ServerConfig) -> S) -> Base<S> {
    let scratch = Scratch::new(server).await;
    if guides {
        scratch.script(guide(server)).await;
    }
    let sink = Faulty::new(make(ServerConfig { connections, ..scratch.config() }));
    Base { scratch, guides, sink }
}

impl<S: Sink + Clone> Subject for Base<S> {
    type Sink = Faulty<S>;
    fn sink(&self) -> Arc<Faulty<S>> {
        Arc::new(self.sink.clone())
    }
    fn database(&self) -> Database {
        self.scratch.server.database()
    }
    fn fault(&self, fault: Fault) {
        self.sink.set(fault);
    }
    async fn stored(&self) -> BTreeMap<Vec<u8>, u64> {
        let mut stored = BTreeMap::new();
        for payload in self.scratch.rows("payload_text", self.messages("order by id").as_str()).await {
            *stored.entry(payload.into_bytes()).or_default() += 1;
        }
        stored
    }
    async fn order(&self, topic: &str) -> Vec<Vec<u8>> {
        let rest = self.messages(&format!("where topic = '{topic}' order by id"));
        self.scratch.rows("payload_text", &rest).await.into_iter().map(String::into_bytes).collect()
    }
    /// A statement that fails for the payload "poison" and stores nothing else.
    fn poison_rule(&self) -> Option<Vec<Statement>> {
        let source = if self.scratch.server == Server::Pgsql {
            "insert into mqtt_sub (qos) select 1 / case when ${payload} = 'poison' then 0 else 1 end where ${payload} = 'poison'"
        } else {
            "insert into mqtt_msg (topic, arrived) select null, now() from (select 1) t where ${payload} = 'poison'"
        };
        let mut pieces = source.split("${payload}").map(|text| Part::Text(text.into()));
        let mut parts: Vec<Part> = pieces.next().into_iter().collect();
        for piece in pieces {
            parts.extend([Part::Param(Param::Payload), piece]);
        }
        Some(vec![Statement { source: source.into(), parts }])
    }
    async fn acknowledged(&self, client: &str) -> usize {
        self.scratch.rows("id", &format!("from mqtt_acked where clientid = '{client}'")).await.len()
    }
    fn stores_once(&self) -> bool {
        true
    }
}

impl<S: Sink> Base<S> {
    /// Payloads as text, whether the column holds text or bytes.
    fn messages(&self, rest: &str) -> String {
        let text = match (self.scratch.server, self.guides) {
            (Server::Pgsql, false) => "convert_from(payload, 'UTF8')",
            (Server::Pgsql, true) => "payload",
            _ => "cast(payload as char)",
        };
        format!("from (select id, topic, {text} as payload_text from mqtt_msg) m {rest}")
    }
}

macro_rules! suite {
    ($server:ident: $make:expr; $($clause:ident),* $(,)?) => {
        $(mod $clause {
            use super::*;
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn with_one_connection_on_the_guide_s_tables() {
                conformance::$clause(&base(Server::$server, 1, true, $make).await).await;
            }
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn with_three_connections() {
                conformance::$clause(&base(Server::$server, 3, false, $make).await).await;
            }
        })*
    };
}

macro_rules! on_each {
    ($($clause:ident),* $(,)?) => {
        mod pgsql {
            use super::*;
            suite!(Pgsql: PgsqlSink::new; $($clause),*);
        }
        mod mysql {
            use super::*;
            suite!(Mysql: MysqlSink::new; $($clause),*);
        }
        mod mariadb {
            use super::*;
            suite!(Mariadb: MysqlSink::new; $($clause),*);
        }
    };
}

on_each!(
    reconnects,
    survives_dying_in_mid_batch,
    survives_being_killed,
    replaying_the_log_gives_the_same_rows,
    keeps_the_order_of_each_key,
    buries_poison_and_stores_the_rest,
    gives_up_on_silence,
    sends_less_at_once_where_more_is_not_answered,
    waits_for_slow_and_busy,
    shuts_down_in_mid_batch,
    positions_survive,
    a_position_beyond_the_log_is_shown_and_reset,
    pauses_and_resumes,
    a_wildcard_unsubscribe_is_a_barrier,
    catches_up_after_an_outage_under_load,
    goes_on_behind_a_recorded_gap,
    lets_go_when_asked,
);
