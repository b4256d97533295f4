//! The bounded queue of live messages of one connection.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytestring::ByteString;
use forebay_engine::Message;
use forebay_engine::event::SubscriptionOptions;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::metrics::DROPPED;

/// A message to be sent with QoS 0.
#[derive(Clone, Debug)]
pub struct LiveMessage {
    /// The message.
    pub message: Arc<Message>,
    /// The retain flag to send.
    pub retain: bool,
    /// Identifiers of the matching subscriptions.
    pub identifiers: Vec<u32>,
}

/// A connection's bounded queue of live messages. When it is full, messages are shed and counted.
#[derive(Debug)]
pub struct LiveInbox {
    id: u64,
    client: ByteString,
    bound: usize,
    queue: Mutex<VecDeque<LiveMessage>>,
    filled: Notify,
    shed: AtomicU64,
}

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

impl LiveInbox {
    /// An inbox for a connection of `client` that holds at most `bound` messages.
    #[must_use]
    pub fn new(client: ByteString, bound: usize) -> Arc<LiveInbox> {
        Arc::new(LiveInbox {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            client,
            bound,
            queue: Mutex::new(VecDeque::new()),
            filled: Notify::new(),
            shed: AtomicU64::new(0),
        })
    }

    /// The oldest message.
    pub fn pop(&self) -> Option<LiveMessage> {
        self.queue.lock().pop_front()
    }

    /// Resolves when there may be a message (may be early). Cancellation safe.
    pub async fn ready(&self) {
        let filled = self.filled.notified();
        if self.queue.lock().is_empty() {
            filled.await;
        }
    }

    /// Messages shed because the inbox was full.
    #[must_use]
    pub fn shed(&self) -> u64 {
        self.shed.load(Ordering::Relaxed)
    }

    pub(super) fn id(&self) -> u64 {
        self.id
    }

    /// Puts a message in for the subscriptions that match it; no local is decided here.
    pub(super) fn push(&self, message: &Arc<Message>, matching: impl Iterator<Item = SubscriptionOptions>) {
        let own = message.publisher == self.client;
        let (mut wanted, mut as_published, mut identifiers) = (false, false, Vec::new());
        for options in matching.filter(|o| !(own && o.no_local)) {
            wanted = true;
            as_published |= options.retain_as_published;
            if options.identifier != 0 && !identifiers.contains(&options.identifier) {
                identifiers.push(options.identifier);
            }
        }
        if !wanted {
            return;
        }
        {
            let mut queue = self.queue.lock();
            if queue.len() >= self.bound {
                drop(queue);
                self.shed.fetch_add(1, Ordering::Relaxed);
                metrics::counter!(DROPPED, "reason" => "live_queue_full").increment(1);
                return;
            }
            queue.push_back(LiveMessage {
                message: Arc::clone(message),
                retain: message.retain && as_published,
                identifiers,
            });
        }
        self.filled.notify_one();
    }
}
