//! The bounded queue of live messages of one connection.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use bytes::Bytes;
use bytestring::ByteString;
use forebay_engine::Message;
use forebay_engine::event::SubscriptionOptions;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::metrics::DROPPED;

/// What a message costs in a queue besides its own bytes, about.
const OVERHEAD: usize = 160;
/// From so many messages on the queue keeps copies. A message is a part of what was read from its publisher's socket, and keeps all
/// of that in memory: of a queue that grows each message is to cost its own size and no more.
const COPIES_FROM: usize = 256;

/// A message to be sent with QoS 0.
#[derive(Clone, Debug)]
pub struct LiveMessage {
    /// The message.
    pub message: Arc<Message>,
    /// The retain flag to send.
    pub retain: bool,
    /// Identifiers of the matching subscriptions.
    pub identifiers: Vec<u32>,
    /// Since when it waits, where it expires.
    since: Option<Instant>,
}

impl LiveMessage {
    /// Seconds of its expiry that are left, rounded up; 0 = it has expired, `None` = it does not expire.
    #[must_use]
    pub fn remaining_expiry_s(&self) -> Option<u32> {
        let waited = u32::try_from(self.since?.elapsed().as_secs()).unwrap_or(u32::MAX);
        self.message.properties.expiry_s.map(|expiry_s| expiry_s.saturating_sub(waited))
    }
}

#[derive(Debug, Default)]
struct Queue {
    messages: VecDeque<LiveMessage>,
    bytes: usize,
}

/// A connection's bounded queue of live messages. When it is full, messages are shed and counted.
#[derive(Debug)]
pub struct LiveInbox {
    id: u64,
    client: ByteString,
    bound: usize,
    bytes_bound: usize,
    queue: Mutex<Queue>,
    filled: Notify,
    shed: AtomicU64,
}

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

impl LiveInbox {
    /// An inbox for a connection of `client` that holds at most `bound` messages and, if it holds more than one, `bytes_bound`
    /// bytes.
    #[must_use]
    pub fn new(client: ByteString, bound: usize, bytes_bound: usize) -> Arc<LiveInbox> {
        Arc::new(LiveInbox {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            client,
            bound,
            bytes_bound,
            queue: Mutex::default(),
            filled: Notify::new(),
            shed: AtomicU64::new(0),
        })
    }

    /// The oldest message.
    pub fn pop(&self) -> Option<LiveMessage> {
        let mut queue = self.queue.lock();
        let live = queue.messages.pop_front()?;
        queue.bytes = queue.bytes.saturating_sub(weight(&live.message));
        Some(live)
    }

    /// Resolves when there may be a message (may be early). Cancellation safe.
    pub async fn ready(&self) {
        let filled = self.filled.notified();
        if self.queue.lock().messages.is_empty() {
            filled.await;
        }
    }

    /// Messages that wait, and their bytes.
    #[must_use]
    pub fn waiting(&self) -> (usize, usize) {
        let queue = self.queue.lock();
        (queue.messages.len(), queue.bytes)
    }

    /// Messages shed because the inbox was full.
    #[must_use]
    pub fn shed(&self) -> u64 {
        self.shed.load(Ordering::Relaxed)
    }

    pub(super) fn id(&self) -> u64 {
        self.id
    }

    /// Puts a message in for a shared subscription; false where the inbox is full. A full one sheds nothing: another member may have room.
    pub(super) fn push_shared(&self, message: &Arc<Message>, options: SubscriptionOptions) -> bool {
        let identifiers = (options.identifier != 0).then_some(options.identifier).into_iter().collect();
        self.enqueue(message, message.retain && options.retain_as_published, identifiers)
    }

    /// Counts a message that was shed.
    pub(super) fn count_shed(&self) {
        self.shed.fetch_add(1, Ordering::Relaxed);
        metrics::counter!(DROPPED, "reason" => "live_queue_full").increment(1);
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
        if !self.enqueue(message, message.retain && as_published, identifiers) {
            self.count_shed();
        }
    }

    /// Puts a message in where there is room for it.
    fn enqueue(&self, message: &Arc<Message>, retain: bool, identifiers: Vec<u32>) -> bool {
        {
            let mut queue = self.queue.lock();
            let (waiting, weight) = (queue.messages.len(), weight(message));
            if waiting >= self.bound || waiting > 0 && queue.bytes + weight > self.bytes_bound {
                return false;
            }
            let kept = if waiting >= COPIES_FROM { Arc::new(copy(message)) } else { Arc::clone(message) };
            queue.bytes += weight;
            let since = message.properties.expiry_s.map(|_| Instant::now());
            queue.messages.push_back(LiveMessage { message: kept, retain, identifiers, since });
        }
        self.filled.notify_one();
        true
    }
}

/// What a message costs in a queue, bytes.
fn weight(message: &Message) -> usize {
    let properties = &message.properties;
    let texts = [&properties.content_type, &properties.response_topic].into_iter().flatten().map(|text| text.len());
    let user = properties.user.iter().map(|(name, value)| name.len() + value.len() + OVERHEAD / 2);
    let data = properties.correlation_data.as_ref().map_or(0, Bytes::len);
    OVERHEAD + message.topic.len() + message.payload.len() + data + texts.chain(user).sum::<usize>()
}

/// A message with memory of its own.
fn copy(message: &Message) -> Message {
    let text = |text: &ByteString| ByteString::from(text.to_string());
    let mut copy = message.clone();
    copy.topic = text(&message.topic);
    copy.payload = Bytes::copy_from_slice(&message.payload);
    let properties = &mut copy.properties;
    for own in [&mut properties.content_type, &mut properties.response_topic].into_iter().flatten() {
        *own = text(own);
    }
    if let Some(data) = &mut properties.correlation_data {
        *data = Bytes::copy_from_slice(data);
    }
    for (name, value) in &mut properties.user {
        (*name, *value) = (text(name), text(value));
    }
    copy
}

#[cfg(test)]
mod tests {
    use super::*;
    use forebay_engine::QoS;
    use forebay_engine::event::Properties;

    fn subscription() -> impl Iterator<Item = SubscriptionOptions> {
        std::iter::once(SubscriptionOptions::of_qos(QoS::AtMostOnce))
    }

    fn message(payload: Bytes) -> Arc<Message> {
        let properties = Properties {
            content_type: Some("t".into()),
            correlation_data: Some(Bytes::from_static(b"c")),
            user: vec![("name".into(), "value".into())],
            ..Properties::default()
        };
        Arc::new(Message { topic: "a/b".into(), payload, properties, ..Message::default() })
    }

    #[test]
    fn a_queue_is_bounded_in_bytes_and_takes_one_message_of_any_size() {
        let inbox = LiveInbox::new("s".into(), 1000, 10_000);
        inbox.push(&message(Bytes::from(vec![0; 50_000])), subscription());
        inbox.push(&message(Bytes::new()), subscription());
        assert_eq!((inbox.waiting().0, inbox.shed()), (1, 1), "the large one alone");
        assert_eq!(inbox.pop().unwrap().message.payload.len(), 50_000);
        assert_eq!(inbox.waiting(), (0, 0));
        for _ in 0..100 {
            inbox.push(&message(Bytes::from(vec![0; 1000])), subscription());
        }
        let (waiting, bytes) = inbox.waiting();
        assert!((7..10).contains(&waiting) && bytes <= 10_000, "{waiting} {bytes}");
        while inbox.pop().is_some() {}
        assert_eq!(inbox.waiting(), (0, 0));
    }

    #[test]
    fn a_queue_that_grows_keeps_copies_that_are_the_same() {
        let inbox = LiveInbox::new("s".into(), 10_000, 1 << 20);
        let message = message(Bytes::from_static(b"payload"));
        for _ in 0..=COPIES_FROM {
            inbox.push(&message, subscription());
        }
        for _ in 0..COPIES_FROM {
            assert!(Arc::ptr_eq(&inbox.pop().unwrap().message, &message));
        }
        let last = inbox.pop().unwrap().message;
        assert_eq!(last, message);
        assert_ne!(last.payload.as_ptr(), message.payload.as_ptr());
        assert_ne!(last.topic.as_ptr(), message.topic.as_ptr());
    }
}
