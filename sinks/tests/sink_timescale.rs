//! TimescaleDB's sink passes the conformance suite on a real server (see `timescale/mod.rs`).
#![cfg(all(feature = "conformance", feature = "pgsql", feature = "mysql"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod sql;
mod timescale;

use std::collections::BTreeMap;
use std::sync::Arc;

use forebay_sinks::conformance::{self, Fault, Faulty, Subject};
use forebay_sinks::rule::{Database, Statement};
use forebay_sinks::timescale::TimescaleSink;
use timescale::Base;

const TABLE: &str = "create table messages (id bigserial, at timestamptz not null, msgid text not null, topic text, qos integer, \
     payload text check (payload <> 'poison'))";

/// Nothing but the sink keeps a row out that is there already.
const PLAIN: &str = r#"{"t/#": {"name": "store", "sql": "insert into messages (at, msgid, topic, qos, payload) values ($1, $2, $3, $4, $5)",
    "param_keys": ["$timestamp", "$id", "$topic", "$qos", "$payload"]}}"#;

struct Subjected {
    base: Base,
    connections: &'static str,
    sink: Faulty<TimescaleSink>,
}

async fn subject(template: &str, connections: &'static str) -> Subjected {
    let base = Base::new(template).await;
    base.run(TABLE).await;
    let sink = Faulty::new(base.sink(&[("pool_size", connections)]));
    Subjected { base, connections, sink }
}

async fn plain() -> Subjected {
    subject(PLAIN, "1").await
}

/// The table refuses a second row of a message, and the statement goes on where there is one.
async fn unique() -> Subjected {
    let subject = subject(&PLAIN.replace("$5)", "$5) on conflict do nothing"), "3").await;
    subject.base.run("create unique index on messages (msgid)").await;
    subject
}

impl Subject for Subjected {
    type Sink = Faulty<TimescaleSink>;
    fn sink(&self) -> Arc<Faulty<TimescaleSink>> {
        Arc::new(self.sink.anew(self.base.sink(&[("pool_size", self.connections)])))
    }
    fn database(&self) -> Database {
        Database::Timescale
    }
    fn fault(&self, fault: Fault) {
        self.sink.set(fault);
    }
    async fn stored(&self) -> BTreeMap<Vec<u8>, u64> {
        let mut stored = BTreeMap::new();
        for payload in self.base.rows("payload", "from messages").await {
            *stored.entry(payload.into_bytes()).or_default() += 1;
        }
        stored
    }
    async fn order(&self, topic: &str) -> Vec<Vec<u8>> {
        let rows = self.base.rows("payload", &format!("from messages where topic = '{topic}' order by id")).await;
        rows.into_iter().map(String::into_bytes).collect()
    }
    fn poison_rule(&self) -> Option<Vec<Statement>> {
        None
    }
    async fn acknowledged(&self, _client: &str) -> usize {
        0
    }
    fn stores_once(&self) -> bool {
        true
    }
}

macro_rules! suite {
    ($subject:ident: $($clause:ident),* $(,)?) => {
        mod $subject {
            use super::*;
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $clause() {
                conformance::$clause(&super::$subject().await).await;
            })*
        }
    };
}

suite!(plain:
    reconnects,
    survives_dying_in_mid_batch,
    survives_being_killed,
    keeps_the_order_of_each_key,
    buries_poison_and_stores_the_rest,
    gives_up_on_silence,
    sends_less_at_once_where_more_is_not_answered,
    waits_for_slow_and_busy,
    shuts_down_in_mid_batch,
    positions_survive,
    a_position_beyond_the_log_is_shown_and_reset,
    pauses_and_resumes,
    catches_up_after_an_outage_under_load,
    goes_on_behind_a_recorded_gap,
    lets_go_when_asked,
);

suite!(unique:
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
    catches_up_after_an_outage_under_load,
    goes_on_behind_a_recorded_gap,
    lets_go_when_asked,
);
