//! Live fan-out: messages that do not wait for the disk, to sessions that are online.
//!
//! It carries QoS 0 publishes, and those with QoS 1 or 2 that no subscription above QoS 0, queue, rule or retained flag
//! wants. Either way they arrive with QoS 0, so there is nothing to acknowledge and nothing to remember. Subscriptions
//! that a queue governs are not entered here: the queue hands each message to one of them. Shared subscriptions stand in `groups`:
//! one member that is online gets the message, and nobody where none is.

mod groups;
mod inbox;
pub(crate) mod router_link;
mod rumqttd;
mod trie;

use std::sync::Arc;

use forebay_engine::Message;
use forebay_engine::event::SubscriptionOptions;

pub(crate) use groups::LiveGroups;
pub use inbox::{LiveInbox, LiveMessage};
pub use rumqttd::RumqttdBus;
pub use trie::TrieBus;

/// Carries messages to the inboxes of matching subscriptions.
pub trait LiveBus: Send + Sync {
    /// Adds or replaces the subscription of (inbox, filter). The filter has been checked.
    fn subscribe(&self, filter: &str, inbox: &Arc<LiveInbox>, options: SubscriptionOptions);

    /// Removes the subscription of (inbox, filter); nothing happens where there is none.
    fn unsubscribe(&self, filter: &str, inbox: &LiveInbox);

    /// Hands the message to every matching inbox, once or (by an implementation's choice) once for each of its matching
    /// filters. Never waits. Messages of one caller arrive in order.
    fn publish(&self, message: &Arc<Message>);
}

#[cfg(test)]
mod tests;
