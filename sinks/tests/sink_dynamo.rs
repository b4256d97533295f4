//! DynamoDB's sink passes the conformance suite on DynamoDB Local.
#![cfg(all(feature = "conformance", feature = "dynamodb"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod dynamo_support;

use std::collections::BTreeMap;
use std::sync::Arc;

use dynamo_support::{View, text};
use forebay_engine::Event;
use forebay_sinks::conformance::{self, Fault, Faulty, Subject};
use forebay_sinks::dynamo::{DynamoOp, DynamoSink, MessageRow, Payload};
use forebay_sinks::rule::{Database, Statement};
use forebay_sinks::sink::{Sink, SinkRecord};

struct One {
    view: View,
    sink: Faulty<DynamoSink>,
    once: bool,
}

/// `poison` is stored as more than an item takes: only DynamoDB says so.
fn spoil(record: &SinkRecord, op: &mut DynamoOp) {
    let Event::Published(published) = &record.event else { return };
    if let DynamoOp::Message(row) = op
        && &published.message.payload[..] == b"poison"
    {
        *row = Arc::new(MessageRow { payload: Payload::Text("x".repeat(450_000).into()), ..(**row).clone() });
    }
}

async fn one(connections: usize) -> One {
    let view = View::new();
    let sink = DynamoSink::new(view.config(connections));
    // The clauses have a short deadline for each connect; tables last.
    sink.connect().await.unwrap();
    One { sink: Faulty::new(sink).spoiling(spoil), view, once: true }
}

impl Subject for One {
    type Sink = Faulty<DynamoSink>;
    fn sink(&self) -> Arc<Faulty<DynamoSink>> {
        Arc::new(self.sink.clone())
    }
    fn database(&self) -> Database {
        Database::Dynamo
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
        None
    }
    async fn acknowledged(&self, client: &str) -> usize {
        let found = self.view.scan("mqtt_acked").await;
        found.iter().filter(|acked| text(acked, "clientid") == client).count()
    }
    fn stores_once(&self) -> bool {
        self.once
    }
}

macro_rules! suite {
    ($($clause:ident),* $(,)?) => {
        $(mod $clause {
            use super::*;
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn with_one_connection() {
                conformance::$clause(&one(1).await).await;
            }
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn with_three_connections() {
                conformance::$clause(&one(3).await).await;
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
);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lets_go_when_asked() {
    for connections in [1, 3] {
        let mut one = one(connections).await;
        // What was under way may be stored behind the position.
        one.once = false;
        conformance::lets_go_when_asked(&one).await;
    }
}
