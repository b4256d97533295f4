//! What the engine has to know of the rules: which topics are queues, which are read positions, what must be logged.
//!
//! The rules themselves (functions, statements, pools) belong to the sinks; they are reduced to this.

use std::time::Duration;

/// How subscriptions to stored topics behave, and which events somebody wants in the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// One-to-one: filters whose topics are queues (`on_message_fetch_for_queue`).
    pub queue: Vec<String>,
    /// One-to-many: filters whose subscribers keep a read position (`on_message_fetch`, `on_message_fetch_for_pubsub`).
    pub pubsub: Vec<PubsubRule>,
    /// Only the newest message of each topic is kept for a subscriber (`…_for_keep_latest`).
    pub latest: Vec<String>,
    /// Publishes to be logged whoever subscribes: filter and lowest QoS.
    pub publish: Vec<(String, u8)>,
    /// Retained publishes (and their deletion) to be logged whoever subscribes.
    pub retain: Vec<String>,
    /// Acknowledgements to be logged though no cursor needs them.
    pub acked: Vec<String>,
    /// Deliveries to be logged.
    pub deliver: Vec<String>,
}

/// A one-to-many rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PubsubRule {
    /// The filter; subscriptions inside it are governed by this rule.
    pub filter: String,
    /// Where a subscriber without a position begins.
    pub start: StartAt,
    /// At most this many stored messages for a new position, the newest ones (`max_returned_count`).
    pub max_returned: Option<u64>,
    /// Only stored messages this young (`time_range`).
    pub time_range: Option<Duration>,
}

/// Where a subscriber without a position begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StartAt {
    /// At the earliest stored message.
    #[default]
    Earliest,
    /// At messages published after the subscription.
    Latest,
}

mod index;

pub(crate) use index::{Kind, RuleIndex};
