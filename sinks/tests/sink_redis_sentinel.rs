//! Redis under sentinels passes the conformance suite: every clause, one after the other, on one group of servers.
#![cfg(all(feature = "conformance", feature = "redis"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod redis_support;

use std::collections::BTreeMap;
use std::sync::Arc;

use forebay_services::private;
use forebay_services::redis::{MASTER, Sentinel};
use forebay_sinks::conformance::{self, Fault, Faulty, Subject};
use forebay_sinks::redis::{Deployment, RedisSink};
use forebay_sinks::rule::{self, Param, Part, Statement};
use redis_support::{View, config};

struct Group {
    master: u16,
    sink: Faulty<RedisSink>,
}

impl Group {
    async fn view(&self) -> View {
        View::of("127.0.0.1", self.master, 0).await
    }
}

impl Subject for Group {
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
        self.view().await.stored("t/*").await
    }
    async fn order(&self, topic: &str) -> Vec<Vec<u8>> {
        self.view().await.payloads(topic).await.into_iter().flatten().collect()
    }
    fn poison_rule(&self) -> Option<Vec<Statement>> {
        let text = |text: &str| Part::Text(text.into());
        Some(vec![Statement {
            source: "APPEND guard:${payload} x".into(),
            parts: vec![text("APPEND guard:"), Part::Param(Param::Payload), text(" x")],
        }])
    }
    async fn acknowledged(&self, client: &str) -> usize {
        self.view().await.ask::<Vec<String>>(&format!("KEYS mqtt:acked:{client}:*")).await.len()
    }
    fn stores_once(&self) -> bool {
        true
    }
}

macro_rules! suite {
    ($group:ident: $($clause:ident),* $(,)?) => {
        $(
            let view = $group.view().await;
            let _ok: String = view.ask("FLUSHALL").await;
            // A list stands where the poison rule wants a text, for one payload.
            let _length: i64 = view.ask("RPUSH guard:poison x").await;
            println!("{}", stringify!($clause));
            conformance::$clause(&$group).await;
            $group.fault(Fault::None);
        )*
    };
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_sentinels_the_suite_holds() {
    let servers = private(&Sentinel).unwrap();
    let sentinels: Vec<(&str, u16)> = servers.members[2..].iter().map(|member| ("127.0.0.1", member.port())).collect();
    let pool = config(&sentinels, Deployment::Sentinel(MASTER.to_owned()), 3);
    let group = Group { master: servers.members[0].port(), sink: Faulty::new(RedisSink::new(pool)) };
    suite!(
        group:
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
}
