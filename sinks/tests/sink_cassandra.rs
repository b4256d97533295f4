//! Cassandra passes the conformance suite on a real server.
#![cfg(all(feature = "conformance", feature = "cassandra"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod cassandra_support;

use std::collections::BTreeMap;
use std::sync::Arc;

use cassandra_support::{View, connected, shared};
use forebay_sinks::cassandra::CassandraSink;
use forebay_sinks::conformance::{self, Fault, Faulty, Subject};
use forebay_sinks::rule::{Database, Param, Part, Statement};

struct One {
    view: View,
    sink: Faulty<CassandraSink>,
}

/// An element of a list is set, which only payloads that are there beforehand have: `poison` is none.
async fn one(connections: usize) -> One {
    let view = View::new(&shared()).await;
    view.run("create table guard (p int, payload text, l list<int>, primary key (p, payload))").await;
    view.run("create table seen (payload text primary key)").await;
    let rows = (1..=200).map(|n| format!("insert into guard (p, payload, l) values (1, 'm{n}', [0]);"));
    view.run(&format!("begin unlogged batch {} apply batch", rows.collect::<String>())).await;
    let sink = CassandraSink::new(view.config(connections));
    // The clauses have a short deadline for each connect; a session lasts.
    connected(&sink).await;
    One { sink: Faulty::new(sink), view }
}

impl Subject for One {
    type Sink = Faulty<CassandraSink>;
    fn sink(&self) -> Arc<Faulty<CassandraSink>> {
        Arc::new(self.sink.clone())
    }
    fn database(&self) -> Database {
        Database::Cassandra
    }
    fn fault(&self, fault: Fault) {
        self.sink.set(fault);
    }
    async fn stored(&self) -> BTreeMap<Vec<u8>, u64> {
        self.view.stored().await
    }
    async fn order(&self, topic: &str) -> Vec<Vec<u8>> {
        self.view.payloads(topic).await
    }
    fn poison_rule(&self) -> Option<Vec<Statement>> {
        let text = |text: &str| Part::Text(text.into());
        Some(vec![
            Statement {
                source: "insert into seen (payload) values (${payload})".into(),
                parts: vec![text("insert into seen (payload) values ("), Part::Param(Param::Payload), text(")")],
            },
            Statement {
                source: "update guard set l[0] = 1 where p = 1 and payload = ${payload}".into(),
                parts: vec![text("update guard set l[0] = 1 where p = 1 and payload = "), Part::Param(Param::Payload)],
            },
        ])
    }
    async fn acknowledged(&self, client: &str) -> usize {
        let cql = format!("select topic from acked where client_id = '{client}'");
        self.view.rows::<(String,)>(&cql).await.len()
    }
    fn stores_once(&self) -> bool {
        true
    }
}

macro_rules! suite {
    ($($clause:ident),* $(,)?) => {
        $(mod $clause {
            use super::*;
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn with_one_connection() {
                let subject = one(1).await;
                conformance::$clause(&subject).await;
                subject.view.drop().await;
            }
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn with_three_connections() {
                let subject = one(3).await;
                conformance::$clause(&subject).await;
                subject.view.drop().await;
            }
        })*
    };
}

suite!(
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
