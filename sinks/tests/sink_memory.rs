//! The reference sink passes the conformance suite, with and without positions of its own.
#![cfg(feature = "conformance")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use forebay_engine::QoS;
use forebay_sinks::conformance::{self, Bench, Fault, Subject, caught_up, until};
use forebay_sinks::memory::{Faults, MemoryDatabase, MemorySink};
use forebay_sinks::rule::{Database, Statement};
use forebay_sinks::runtime::SinkState;

struct Memory {
    database: MemoryDatabase,
    transactional: bool,
    connections: usize,
    whole: bool,
}

fn memory(transactional: bool, connections: usize, whole: bool) -> Memory {
    let subject = Memory { database: MemoryDatabase::default(), transactional, connections, whole };
    subject.fault(Fault::None);
    subject
}

impl Subject for Memory {
    type Sink = MemorySink;
    fn sink(&self) -> Arc<MemorySink> {
        let (transactional, connections) = (self.transactional, self.connections);
        Arc::new(MemorySink { database: self.database.clone(), transactional, connections })
    }
    fn database(&self) -> Database {
        Database::Sqlite
    }
    fn fault(&self, fault: Fault) {
        let mut faults = Faults { poison: Some(b"poison".to_vec()), whole: self.whole, ..Faults::default() };
        match fault {
            Fault::None => {}
            Fault::Down => faults.down = true,
            Fault::DieInBatch => faults.die_in_batch = 1,
            Fault::DieAfterCommit => faults.die_after_commit = 1,
            Fault::Hang => faults.hang_from = Some(0),
            Fault::HangIfLarge => faults.hang_from = Some(conformance::PROMPT + 1),
            Fault::Slow => faults.slow = Duration::from_millis(20),
            Fault::Busy => faults.busy = 3,
        }
        self.database.faults(|f| *f = faults);
    }
    async fn stored(&self) -> BTreeMap<Vec<u8>, u64> {
        let mut stored = BTreeMap::new();
        for row in self.database.rows() {
            *stored.entry(row.value).or_default() += 1;
        }
        stored
    }
    async fn order(&self, topic: &str) -> Vec<Vec<u8>> {
        let arrived = self.database.arrivals();
        arrived.into_iter().filter(|(key, _)| key == topic).map(|(_, lsn)| format!("m{lsn}").into_bytes()).collect()
    }
    fn poison_rule(&self) -> Option<Vec<Statement>> {
        None
    }
    async fn acknowledged(&self, client: &str) -> usize {
        // Rows are stored in the order operations arrive: what comes after the last unsubscribe counts.
        let rows: BTreeMap<u64, Vec<u8>> = self.database.rows().into_iter().map(|r| (r.key.0, r.value)).collect();
        let arrivals = self.database.arrivals();
        let barrier = arrivals.iter().rposition(|(key, _)| key.contains('#')).map_or(0, |n| n + 1);
        arrivals[barrier..].iter().filter(|(_, lsn)| rows[lsn] == client.as_bytes()).count()
    }
    fn stores_once(&self) -> bool {
        self.transactional
    }
}

macro_rules! suite {
    ($($clause:ident),* $(,)?) => {
        $(mod $clause {
            use super::*;
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn with_positions() {
                conformance::$clause(&memory(true, 1, false)).await;
            }
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn with_positions_over_several_connections() {
                conformance::$clause(&memory(true, 4, true)).await;
            }
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn without_positions() {
                conformance::$clause(&memory(false, 3, false)).await;
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

/// Upkeep that failed has no connection left, and nothing that is to be stored opens another.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_sink_goes_on_with_its_upkeep_after_an_error() {
    for transactional in [true, false] {
        let subject = memory(transactional, 1, false);
        subject.database.faults(|faults| faults.upkeep = 1);
        let bench = Bench::new(subject.database());
        let sink = bench.start(&subject);
        until("upkeep failed", || sink.status().last_error.is_some_and(|error| error.starts_with("upkeep: "))).await;
        until("upkeep was done after all", || subject.database.upkeeps() > 0).await;
        assert_eq!(subject.database.connects(), 2, "positions: {transactional}");
        assert_eq!(sink.status().state, SinkState::Running);
        sink.shutdown(Duration::from_secs(20)).await;
    }
}

/// Other connections store between a database's answer and its coming: it has not been set back by that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_comes_back_while_others_store_begins_nothing_again() {
    let subject = memory(true, 4, false);
    let bench = Bench::new(subject.database());
    let sink = bench.start(&subject);
    let publish = |n: u64| bench.log.publish(&format!("t/{}", n % 64), format!("m{n}").as_bytes(), QoS::AtLeastOnce);
    let last = (0..64).map(publish).max().unwrap();
    caught_up(&bench, &sink, last).await;
    let connects = subject.database.connects();
    subject
        .database
        .faults(|faults| (faults.late_positions, faults.die_after_commit) = (Duration::from_millis(200), 1));
    let mut n = 64;
    until("a connection came back", || {
        (0..64).for_each(|_| {
            publish(n);
            n += 1;
        });
        subject.database.connects() > connects
    })
    .await;
    for _ in 0..150 {
        publish(n);
        n += 1;
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let last = publish(n);
    caught_up(&bench, &sink, last).await;
    assert_eq!(subject.database.connects(), connects + 1, "{:?}", sink.status().last_error);
    assert_eq!(subject.database.rows().len() as u64, n + 1);
    sink.shutdown(Duration::from_secs(20)).await;
}
