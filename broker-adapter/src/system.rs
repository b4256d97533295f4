//! `$SYS`: the broker on itself, in topics, for programs that watch brokers this way.
//!
//! Each value is a message of QoS 0 for those who are subscribed when it is published. None is logged, retained or kept for a
//! session, so a watcher costs the disk nothing; filters that begin with a wildcard do not match them. Clients can't publish there.

use std::fmt::Display;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use forebay_engine::event::Origin;
use forebay_engine::{Message, QoS};
use tokio::time::{Instant, MissedTickBehavior};

use crate::broker::Shared;

/// What passed through connections since the start, from the end of their CONNECT on.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    messages_received: AtomicU64,
    messages_sent: AtomicU64,
    bytes_received: AtomicU64,
    bytes_sent: AtomicU64,
}

/// PUBLISH packets that one connection has counted and not yet added to [`Traffic`]: once a turn, not once a packet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) received: u64,
    pub(crate) sent: u64,
}

impl Traffic {
    pub(crate) fn add(&self, tally: Tally) {
        self.messages_received.fetch_add(tally.received, Ordering::Relaxed);
        self.messages_sent.fetch_add(tally.sent, Ordering::Relaxed);
    }

    pub(crate) fn received(&self, bytes: usize) {
        self.bytes_received.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn sent(&self, bytes: usize) {
        self.bytes_sent.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

/// Publishes all topics at each interval, until the broker stops.
pub(crate) async fn run(shared: Arc<Shared>) {
    let started = Instant::now();
    let interval = shared.options.system_interval;
    if interval.is_zero() {
        return;
    }
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = shared.stopped() => return,
            _ = ticks.tick() => publish_all(&shared, started.elapsed().as_secs()),
        }
    }
}

fn publish_all(shared: &Shared, uptime_s: u64) {
    let publish = |topic: &str, value: &dyn Display| {
        let message = Message {
            topic: format!("$SYS/broker/{topic}").into(),
            payload: Bytes::from(value.to_string()),
            qos: QoS::AtMostOnce,
            origin: Origin::Operator,
            ..Message::default()
        };
        shared.fan_out(message);
    };
    let (engine, traffic) = (&shared.engine, &shared.traffic);
    let total = |count: &AtomicU64| count.load(Ordering::Relaxed);
    publish("version", &concat!("forebay ", env!("CARGO_PKG_VERSION")));
    publish("uptime", &format_args!("{uptime_s} seconds"));
    publish("clients/connected", &shared.registry.len());
    publish("clients/total", &engine.session_count());
    publish("messages/received", &total(&traffic.messages_received));
    publish("messages/sent", &total(&traffic.messages_sent));
    publish("bytes/received", &total(&traffic.bytes_received));
    publish("bytes/sent", &total(&traffic.bytes_sent));
    publish("subscriptions/count", &engine.subscription_count());
    publish("retained messages/count", &engine.retained_count());
    publish("log/end", &engine.durable_end().0);
    publish("log/lag", &engine.sink_lag());
}
