//! Redis passes the conformance suite on a real server.
#![cfg(all(feature = "conformance", feature = "redis"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod redis_support;

use std::collections::BTreeMap;
use std::sync::Arc;

use forebay_sinks::conformance::{self, Fault, Faulty, Subject};
use forebay_sinks::redis::RedisSink;
use forebay_sinks::rule::{self, Param, Part, Statement};
use redis_support::Database;

struct Single {
    database: Database,
    sink: Faulty<RedisSink>,
}

/// A list stands where the poison rule wants a text, for one payload.
async fn single(connections: usize) -> Single {
    let database = Database::take();
    let _length: i64 = database.view().await.ask("RPUSH guard:poison x").await;
    Single { sink: Faulty::new(RedisSink::new(database.config(connections))), database }
}

impl Subject for Single {
    type Sink = Faulty<RedisSink>;
    fn sink(&self) -> Arc<Faulty<RedisSink>> {
        Arc::new(self.sink.clone())
    }
    fn database(&self) -> rule::Database {
        rule::Database::Redis
    }
    fn fault(&self, fault: Fault) {
        self.sink.set(fault);
    }
    async fn stored(&self) -> BTreeMap<Vec<u8>, u64> {
        self.database.view().await.stored("t/*").await
    }
    async fn order(&self, topic: &str) -> Vec<Vec<u8>> {
        self.database.view().await.payloads(topic).await.into_iter().flatten().collect()
    }
    fn poison_rule(&self) -> Option<Vec<Statement>> {
        let text = |text: &str| Part::Text(text.into());
        Some(vec![
            Statement {
                source: "SADD seen ${payload}".into(),
                parts: vec![text("SADD seen "), Part::Param(Param::Payload)],
            },
            Statement {
                source: "APPEND guard:${payload} x".into(),
                parts: vec![text("APPEND guard:"), Part::Param(Param::Payload), text(" x")],
            },
        ])
    }
    async fn acknowledged(&self, client: &str) -> usize {
        self.database.view().await.ask::<Vec<String>>(&format!("KEYS mqtt:acked:{client}:*")).await.len()
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
                conformance::$clause(&single(1).await).await;
            }
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn with_three_connections() {
                conformance::$clause(&single(3).await).await;
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
