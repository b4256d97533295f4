//! The engine: log, state and delivery together.

mod applier;
mod base;
mod blocking;
mod bounds;
mod carry;
mod counts;
mod keeper;
mod listing;
mod manual;
mod open;
mod options;
mod sinks;
mod space;
mod trimmer;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::thread::{self, JoinHandle};

use bytes::Bytes;
use bytestring::ByteString;
use parking_lot::{Mutex, RwLock};

use crate::clock::Clock;
use crate::delivery::{self, AttachOptions, Hub, Mailbox, Work};
use crate::disk::{Disk, FolderLock};
use crate::event::codec::{CodecError, KIND_PUBLISHED};
use crate::event::{DropOwner, Epoch, Event, Message, QoS};
use crate::ids::{Lsn, MsgId};
use crate::log::watermark::Watermark;
use crate::log::{
    AppendError, Appended, Log, NewRecord, NotDurable, Priority, ReadError, Record, WaitDurable, WaitRoom,
};
use crate::rules::Kind;
use crate::state::store::StateStore;
use crate::state::{Cursor, Gap, GroupView, SessionView, State, StoredMessage};
pub use keeper::Retention;
pub use listing::{SessionRow, SubscriptionView, SubscriptionsOf};
#[doc(hidden)]
pub use manual::Manual;
pub use open::{OpenError, OpenReport, StateSource};
pub use options::{Bounds, EngineOptions};
pub use space::WhenFull;

/// The engine. Cheap to clone; [`Engine::close`] ends it, and so does dropping the last clone (without sealing the log).
#[derive(Clone, Debug)]
pub struct Engine {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    log: Log,
    hub: Arc<Hub>,
    state: Arc<RwLock<State>>,
    applied: Arc<Watermark>,
    clock: Arc<dyn Clock>,
    node: u16,
    dir: PathBuf,
    last_epoch: AtomicU64,
    closing: Arc<AtomicBool>,
    keeper: Arc<keeper::Shared>,
    work: Sender<Work>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// One process per folder; held until the engine is closed, however long clones of it live on.
    lock: Mutex<Option<Arc<FolderLock>>>,
}

/// What events that are appended together may count on while the log has no room: the reserve only where none of them makes it grow.
fn priority(events: &[Event]) -> Priority {
    if events.iter().all(Event::is_essential) { Priority::Essential } else { Priority::Ordinary }
}

/// Encodes and enqueues events.
pub(crate) fn append(log: &Log, events: &[Event]) -> Result<Appended, AppendError> {
    encoded(events, |records| log.append_with(records, priority(events)))
}

/// Hands events to `append` as records.
fn encoded<T>(events: &[Event], append: impl FnOnce(&[NewRecord<&[u8]>]) -> T) -> T {
    // All bodies in one piece: one allocation for however many events.
    let mut bytes = Vec::with_capacity(events.iter().map(Event::body_len_hint).sum());
    let mut ends = Vec::with_capacity(events.len());
    for event in events {
        event.encode(&mut bytes);
        ends.push(bytes.len());
    }
    let begins = std::iter::once(0).chain(ends.iter().copied());
    let records: Vec<NewRecord<&[u8]>> = (events.iter().zip(begins.zip(&ends)))
        .map(|(event, (begin, end))| NewRecord { kind: event.kind(), body: bytes.get(begin..*end).unwrap_or_default() })
        .collect();
    append(&records)
}

/// The event of a record that goes into state. Names are kept there for long, and a record's body is a slice of a whole group's
/// buffer: all but publishes are decoded from a copy. What state keeps of a publish it copies itself.
fn event_for_state(record: &Record) -> Result<Event, CodecError> {
    let body = if record.kind == KIND_PUBLISHED { record.body.clone() } else { Bytes::copy_from_slice(&record.body) };
    Event::decode(record.kind, body)
}

impl Engine {
    /// Opens or creates the folder. When it returns, state includes every record of the log.
    ///
    /// # Errors
    /// See [`OpenError`]; nothing was changed then but what the error names.
    pub fn open(options: EngineOptions) -> Result<(Engine, OpenReport), OpenError> {
        open::open(options)
    }

    /// As [`Engine::open`], on a disk and with an index of the caller's, and without threads: nothing happens but by the steps of the
    /// answered [`Manual`]. For simulations that have to repeat exactly. Not part of the API.
    ///
    /// # Errors
    /// See [`OpenError`].
    #[doc(hidden)]
    pub fn open_manual(
        options: EngineOptions,
        disk: Arc<dyn Disk>,
        store: Box<dyn StateStore>,
    ) -> Result<(Engine, Manual, OpenReport), OpenError> {
        open::open_manual(options, disk, store)
    }

    /// The log under it.
    #[must_use]
    pub fn log(&self) -> &Log {
        &self.inner.log
    }

    /// The data folder.
    #[must_use]
    pub fn dir(&self) -> &std::path::Path {
        &self.inner.dir
    }

    /// Encodes and enqueues events as one batch with consecutive LSNs. Not durable when it returns: wait with [`Engine::durable`].
    ///
    /// While the disk is full ([`AppendError::NoSpace`]) only batches are taken whose events are all [essential](Event::is_essential).
    ///
    /// # Errors
    /// Where the log is full, has no room, has stopped, or an event is too large; nothing is appended then.
    pub fn append(&self, events: &[Event]) -> Result<Appended, AppendError> {
        append(&self.inner.log, events)
    }

    /// As [`Engine::append`], for a task of an event loop that may be held up for a moment: on a disk that answers quickly the events may be
    /// durable when it returns. See [`Log::append_inline`].
    ///
    /// # Errors
    /// As [`Engine::append`].
    pub fn append_inline(&self, events: &[Event]) -> Result<Appended, AppendError> {
        encoded(events, |records| self.inner.log.append_inline(records, priority(events)))
    }

    /// As [`Engine::append`], but waits while the log's queue or the disk is full. Not durable when it resolves.
    /// Cancellation safe: dropped before it resolves, it has appended nothing. Its blocking counterpart is [`Engine::append_within`].
    ///
    /// # Errors
    /// Where the log has stopped, or an event is too large.
    pub async fn append_wait(&self, events: &[Event]) -> Result<Appended, AppendError> {
        loop {
            match self.append(events) {
                Err(AppendError::Full { .. } | AppendError::NoSpace { .. }) => {
                    self.inner.log.wait_room_for(priority(events)).await;
                }
                other => return other,
            }
        }
    }

    /// Resolves when events that were refused with `Full` or `NoSpace` are worth appending again.
    #[must_use]
    pub fn wait_room(&self, events: &[Event]) -> WaitRoom {
        self.inner.log.wait_room_for(priority(events))
    }

    /// Resolves when every record up to and including `lsn` is durable. Cancellation safe: dropping it changes nothing. Its blocking
    /// counterpart is [`Engine::durable_within`].
    ///
    /// # Errors
    /// Where the log stopped before.
    pub async fn durable(&self, lsn: Lsn) -> Result<(), NotDurable> {
        self.inner.log.wait_durable(lsn).await
    }

    /// The durable watermark: every record below is on disk.
    #[must_use]
    pub fn durable_end(&self) -> Lsn {
        self.inner.log.durable_end()
    }

    /// Resolves when every record up to and including `lsn` is durable and state and delivery include it. Cancellation safe: dropping
    /// it changes nothing. Its blocking counterpart is [`Engine::applied_within`].
    ///
    /// # Errors
    /// Where the log stopped before.
    pub async fn applied(&self, lsn: Lsn) -> Result<(), NotDurable> {
        WaitDurable::new(Arc::clone(&self.inner.applied), lsn).await
    }

    /// Every record below is in state.
    #[must_use]
    pub fn applied_end(&self) -> Lsn {
        self.inner.applied.end()
    }

    /// True when a publish must be logged: a rule, a queue, the retain flag, a subscription with QoS > 0 or the group of a shared
    /// subscription wants it.
    #[must_use]
    pub fn wants(&self, message: &Message) -> bool {
        message.retain
            || self.inner.hub.rules.wants_publish(message)
            || message.qos > QoS::AtMostOnce && self.inner.hub.has_interest(&message.topic)
    }

    /// True when subscriptions to this filter are governed by a queue rule: live fan-out must leave them alone, the queue hands
    /// each message, of any QoS, to one of them.
    #[must_use]
    pub fn is_queue_filter(&self, filter: &str) -> bool {
        self.inner.hub.rules.kind_of(filter) == Kind::Queue
    }

    /// True when a rule asks for `message.deliver` events of this topic.
    #[must_use]
    pub fn wants_deliver(&self, topic: &str) -> bool {
        self.inner.hub.rules.wants_deliver(topic)
    }

    /// The public name of the message in record `lsn` of `time_us`.
    #[must_use]
    pub fn msgid(&self, lsn: Lsn, time_us: u64) -> MsgId {
        MsgId::new(time_us, self.inner.node, lsn)
    }

    /// This node's number in msgids.
    #[must_use]
    pub fn node(&self) -> u16 {
        self.inner.node
    }

    /// A number larger than every epoch before, also over restarts (it follows the clock).
    #[must_use]
    pub fn next_epoch(&self) -> Epoch {
        let now = self.inner.clock.now_us();
        let next = |last: u64| Some(now.max(last.saturating_add(1)));
        match self.inner.last_epoch.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next) {
            Ok(last) | Err(last) => now.max(last.saturating_add(1)),
        }
    }

    /// A client's session, as of the newest applied record.
    #[must_use]
    pub fn session(&self, client: &str) -> Option<SessionView> {
        self.inner.state.read().session(client)
    }

    /// All sessions (for start-up sweeps and `forebay status`).
    #[must_use]
    pub fn sessions(&self) -> Vec<SessionView> {
        self.inner.state.read().sessions()
    }

    /// How many sessions there are.
    #[must_use]
    pub fn session_count(&self) -> usize {
        self.inner.state.read().sessions.len()
    }

    /// Sessions whose end or will is due at `now_us`.
    #[must_use]
    pub fn due(&self, now_us: u64) -> Vec<SessionView> {
        self.inner.state.read().due(now_us)
    }

    /// Every cursor: client, filter, position. A cursor that an operator moves by [`Event::CursorMoved`] counts from the client's next
    /// connection on.
    #[must_use]
    pub fn cursors(&self) -> Vec<(ByteString, ByteString, Cursor)> {
        let state = self.inner.state.read();
        let all = state.cursors.iter().flat_map(|(client, cursors)| {
            cursors.iter().map(|(filter, cursor)| (client.to_byte_string(), filter.to_byte_string(), cursor.clone()))
        });
        all.collect()
    }

    /// What owners lost by a named policy: queues, cursors, sinks. One entry for each that lost something.
    #[must_use]
    pub fn gaps(&self) -> Vec<(DropOwner, Gap)> {
        self.inner.state.read().gaps.iter().map(|(owner, gap)| (owner.clone(), *gap)).collect()
    }

    /// How many messages one-to-one queues owe.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.inner.state.read().queue.len()
    }

    /// The connection's mailbox; call it when its `SessionOpened` is applied. From then on subscriptions of this client feed it.
    /// Retained messages come only to subscriptions made after this call. An older mailbox of the same client gets nothing more.
    /// May read the disk where queue messages are in flight.
    #[must_use]
    pub fn attach(&self, options: &AttachOptions) -> Mailbox {
        self.attach_shared(options, &[])
    }

    /// As [`Engine::attach`], of a session that has messages in flight which groups of shared subscriptions gave: record and subscription
    /// (`$share/<name>/<filter>`) of each. What is not named here and was sent to an earlier connection goes back to its group.
    #[must_use]
    pub fn attach_shared(&self, options: &AttachOptions, in_flight: &[(Lsn, ByteString)]) -> Mailbox {
        Mailbox::new(Arc::clone(&self.inner.hub), options, in_flight)
    }

    /// The groups of shared subscriptions, in the order of their subscriptions.
    #[must_use]
    pub fn groups(&self) -> Vec<GroupView> {
        let state = self.inner.state.read();
        let is_connected = |client: &str| state.sessions.get(client).is_some_and(|session| session.connected);
        let view = |(share, group): (&ByteString, &crate::state::Group)| {
            let (messages, bytes) = group.backlog();
            GroupView {
                share: share.clone(),
                members: group.members.iter().map(|client| (client.to_byte_string(), is_connected(client))).collect(),
                messages,
                bytes,
                oldest: group.owed().next(),
            }
        };
        state.groups.iter().map(view).collect()
    }

    /// A stored message by its number (to send a QoS 2 message again after a restart). May read the disk: call it off the executor.
    /// One whose record has left the log is found while it is the retained message of its topic.
    ///
    /// # Errors
    /// Where the place was trimmed, is damaged or can't be read.
    pub fn message(&self, lsn: Lsn) -> Result<Option<StoredMessage>, ReadError> {
        let found = delivery::load(&self.inner.log, lsn);
        if let Err(ReadError::Trimmed { .. }) = &found {
            let state = self.inner.state.read();
            if let Some(stored) = state.retained.values().find(|stored| stored.lsn == lsn) {
                return Ok(Some(stored.clone()));
            }
        }
        found
    }

    /// The retained message of a topic.
    #[must_use]
    pub fn retained(&self, topic: &str) -> Option<StoredMessage> {
        self.inner.state.read().retained.get(topic).cloned()
    }

    /// Retained messages whose topic matches.
    #[must_use]
    pub fn retained_matching(&self, filter: &str) -> Vec<StoredMessage> {
        self.inner.state.read().retained_matching(filter)
    }

    /// How many topics have a retained message.
    #[must_use]
    pub fn retained_count(&self) -> usize {
        self.inner.state.read().retained.len()
    }

    /// Wall clock of the engine, us since 1970.
    #[must_use]
    pub fn now_us(&self) -> u64 {
        self.inner.clock.now_us()
    }

    /// All of state in its flat form, for tests that compare it. Not part of the API.
    #[doc(hidden)]
    #[must_use]
    pub fn state_rows(&self) -> std::collections::BTreeMap<Vec<u8>, Vec<u8>> {
        let state = self.inner.state.read();
        state.keys().filter_map(|key| state.row(&key).map(|value| (key.encode(), value))).collect()
    }

    /// Syncs and seals the log, brings state up to it, writes its index and gives the folder back: it may be opened again while
    /// clones of this engine live on. Appends fail afterwards. Further calls do nothing.
    pub fn close(&self) {
        self.inner.close(true);
    }
}

impl Inner {
    fn close(&self, seal: bool) {
        if self.closing.swap(true, Ordering::AcqRel) {
            return;
        }
        // A mailbox may outlive the engine: from here on nothing is appended through it, for the folder may be opened anew.
        if seal {
            self.log.close();
        } else {
            self.log.stop("the engine was dropped");
        }
        // The applier drains what is durable, writes state and ends; then the others have nothing left to do.
        let _ = self.work.send(Work::Stop);
        self.hub.postings.stop();
        let threads: Vec<JoinHandle<()>> = self.threads.lock().drain(..).collect();
        let own = thread::current().id();
        if threads.iter().any(|thread| thread.thread().id() == own) {
            return; // A waker that one of them ran dropped the engine: they end without being waited for.
        }
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!("a thread of the engine panicked");
            }
        }
        if seal {
            self.lock.lock().take();
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.close(false);
    }
}
