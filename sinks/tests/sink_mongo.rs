//! MongoDB's sink passes the conformance suite.
//!
//! On the shared server, which is a real one where `FOREBAY_TEST_MONGO_URL` names it: without transactions on the stand-in, with them on a
//! replica set. On NX-27017 with transactions, as far as a server goes whose transactions are not isolated from one another.
#![cfg(all(feature = "conformance", feature = "mongo"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod mongo_support;

use std::collections::BTreeMap;
use std::sync::Arc;

use forebay_sinks::conformance::{self, Fault, Faulty, Subject};
use forebay_sinks::mongo::{MongoConfig, MongoSink, SchemaMode, Transactions};
use forebay_sinks::rule::{Database, Statement};
use mongo_support::{Place, Scratch, bytes};
use mongodb::IndexModel;
use mongodb::bson::{Document, doc};
use mongodb::options::IndexOptions;

struct Base {
    scratch: Scratch,
    sink: Faulty<MongoSink>,
    /// Batches and positions are one.
    once: bool,
}

impl Base {
    async fn shared(connections: usize) -> Base {
        let scratch = Scratch::new().await;
        let sink = Faulty::new(MongoSink::new(scratch.config(connections)));
        Base { scratch, sink, once: true }
    }

    /// It can't index `_id` together with another field.
    async fn nx() -> Base {
        let scratch = Scratch::at(Place::of(&forebay_services::address("mongo-nx").unwrap())).await;
        let config = MongoConfig { transactions: Transactions::On, schema: SchemaMode::Off, ..scratch.config(1) };
        Base { scratch, sink: Faulty::new(MongoSink::new(config)), once: true }
    }

    /// Another program's document stands in the way of the payload `poison`, and of no other.
    async fn poisoned(self) -> Base {
        let unique = IndexOptions::builder().unique(true).sparse(true).build();
        let index = IndexModel::builder().keys(doc! { "payload": 1 }).options(unique).build();
        let messages = self.scratch.db.collection::<Document>("mqtt_msg");
        messages.insert_one(doc! { "_id": "in the way", "payload": "poison" }).await.unwrap();
        messages.create_index(index).await.unwrap();
        self
    }

    /// True where the shared server has transactions.
    async fn is_atomic(&self) -> bool {
        let hello = self.scratch.db.run_command(doc! { "hello": 1 }).await.unwrap();
        hello.contains_key("setName")
    }
}

impl Subject for Base {
    type Sink = Faulty<MongoSink>;
    fn sink(&self) -> Arc<Faulty<MongoSink>> {
        Arc::new(self.sink.clone())
    }
    fn database(&self) -> Database {
        Database::Mongo
    }
    fn fault(&self, fault: Fault) {
        self.sink.set(fault);
    }
    async fn stored(&self) -> BTreeMap<Vec<u8>, u64> {
        self.scratch.payloads().await
    }
    async fn order(&self, topic: &str) -> Vec<Vec<u8>> {
        let found = self.scratch.find("mqtt_msg", doc! { "topic": topic }).await;
        found.iter().map(|message| bytes(message.get("payload").unwrap())).collect()
    }
    fn poison_rule(&self) -> Option<Vec<Statement>> {
        None
    }
    async fn acknowledged(&self, client: &str) -> usize {
        self.scratch.find("mqtt_acked", doc! { "clientid": client }).await.len()
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
                conformance::$clause(&Base::shared(1).await).await;
            }
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn with_three_connections() {
                conformance::$clause(&Base::shared(3).await).await;
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
async fn buries_poison_and_stores_the_rest() {
    for connections in [1, 3] {
        conformance::buries_poison_and_stores_the_rest(&Base::shared(connections).await.poisoned().await).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lets_go_when_asked() {
    for connections in [1, 3] {
        let mut base = Base::shared(connections).await;
        // Without transactions what was under way may be stored behind the position.
        base.once = base.is_atomic().await;
        conformance::lets_go_when_asked(&base).await;
    }
}

/// Clauses in which no transaction is given up: this server takes what others do meanwhile for part of it.
mod with_transactions {
    use super::*;

    macro_rules! on_nx {
        ($($clause:ident),* $(,)?) => {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $clause() {
                conformance::$clause(&Base::nx().await).await;
            })*
        };
    }

    on_nx!(
        reconnects,
        replaying_the_log_gives_the_same_rows,
        keeps_the_order_of_each_key,
        waits_for_slow_and_busy,
        positions_survive,
        a_position_beyond_the_log_is_shown_and_reset,
        pauses_and_resumes,
        a_wildcard_unsubscribe_is_a_barrier,
        goes_on_behind_a_recorded_gap,
    );

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn buries_poison_and_stores_the_rest() {
        conformance::buries_poison_and_stores_the_rest(&Base::nx().await.poisoned().await).await;
    }
}
