//! What one connection is owed and has not settled: fed by the applier while it keeps up, from the log while it does not.
//!
//! An inbox is *live* when the applier may put messages in directly. When it is full, or a subscription has to begin further
//! back, it stops being live and the catch-up worker reads the log for it from `pos` until it has caught up. One mechanism, and no
//! second queue to lose from: whatever is not put in stays in the log above the cursors.

mod filters;
mod owed;
mod shared;
mod subscribing;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytestring::ByteString;
use parking_lot::Mutex;

use super::Delivery;
use super::catch_up::Course;
use crate::event::{CursorAt, Epoch, Message, QoS, SubscriptionOptions};
use crate::ids::Lsn;
use crate::postings::Newest;
use crate::rules::Kind;
use crate::state::{Cursor, StoredMessage};
use filters::Filters;
use shared::SharedPart;

/// Most messages an inbox holds (queued and handed out), besides what the client's window allows.
const ENTRIES_MAX: usize = 1024;
/// Most payload bytes that are queued and not handed out.
const BYTES_MAX: usize = 4 * 1024 * 1024;

/// A connected session's subscription, as the matcher knows it.
#[derive(Debug)]
pub(crate) struct LiveSubscription {
    pub(crate) inbox: Arc<Inbox>,
    pub(crate) filter: ByteString,
    pub(crate) options: SubscriptionOptions,
    pub(crate) kind: Kind,
    /// True when a cursor in state moves with its acknowledgements.
    pub(crate) durable: bool,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Inbox {
    pub(crate) client: ByteString,
    pub(crate) epoch: Epoch,
    window: usize,
    pub(super) state: Mutex<InboxState>,
}

#[derive(Debug, Default)]
pub(super) struct InboxState {
    pub(super) filters: Filters,
    /// What groups of shared subscriptions have leased to it.
    pub(super) shared: SharedPart,
    /// Records ready to be handed out, in the order they are to be sent. Records that are no longer in `entries` are passed over.
    order: VecDeque<Lsn>,
    entries: BTreeMap<Lsn, Entry>,
    queued_bytes: usize,
    /// QoS 1/2 messages handed out and not settled.
    handed: usize,
    /// QoS 1/2 messages in `entries`.
    acknowledged: usize,
    /// In flight from an earlier connection, not yet met in the log.
    in_flight: BTreeSet<Lsn>,
    /// Settled ahead of the reader (retained messages): not to be given again when the reader meets them.
    settled_ahead: BTreeSet<Lsn>,
    /// Newest queued record by topic, for keep-latest subscriptions.
    latest: HashMap<ByteString, Lsn>,
    pub(super) live: bool,
    /// While not live: the next record to look at. Every record below has been looked at for every filter whose `from` is not above it.
    pub(super) pos: Lsn,
    /// Grows when `pos` is set back or the filters change, so that what was read before is dropped.
    pub(super) generation: u64,
    /// While not live: how it goes on from `pos`. Good for the filters there are.
    pub(super) course: Course,
    /// Where the newest messages of a new position begin is being counted.
    pub(super) newest: Option<Box<Newest>>,
    /// True while the catch-up worker has this inbox in its list.
    pub(super) filling: bool,
    /// True while the worker has been asked to look for queue messages for this inbox.
    pub(super) asking: bool,
    pub(super) closed: bool,
    /// True once all subscriptions that the session had at its connection are in; nothing is read before.
    begun: bool,
    waker: Option<Waker>,
}

/// A subscription's place in this inbox.
#[derive(Debug)]
pub(super) struct FilterState {
    pub(super) sub: Arc<LiveSubscription>,
    /// Records before this one were never for it.
    pub(super) start: Lsn,
    /// Records before this one were put in already, or are done.
    pub(super) from: Lsn,
    /// Records at or above `from` that are done (acknowledged out of order).
    done: BTreeSet<Lsn>,
    /// Entries whose acknowledgement moves this subscription's cursor.
    open: BTreeSet<Lsn>,
    /// QoS 0 publishes from here on reach this connection as they happen, not from the log.
    pub(super) qos0_until: Lsn,
    /// `max_returned_count` still to be worked out for a new position.
    pub(super) newest: Option<u64>,
    /// Records of an earlier time are not given (`time_range`), us since 1970.
    not_before_us: u64,
}

#[derive(Debug)]
struct Entry {
    time_us: u64,
    message: Arc<Message>,
    qos: QoS,
    retain: bool,
    identifiers: Vec<u32>,
    /// Durable subscriptions whose cursors move with it.
    cursors: Vec<Arc<LiveSubscription>>,
    queue: bool,
    handed: bool,
    /// Put in before the reader came to its place, as a lease or a retained message: no read position has been offered it yet.
    ahead: bool,
    /// The filters that asked for it as a retained message.
    retained_for: Vec<ByteString>,
    /// Only keep-latest subscriptions want it: a newer message of the topic takes its place.
    only_latest: bool,
}

/// Where a subscription begins in an inbox.
#[derive(Debug)]
pub(super) struct Begin {
    pub(super) cursor: Cursor,
    pub(super) qos0_until: Lsn,
    pub(super) newest: Option<u64>,
    pub(super) not_before_us: u64,
}

/// What is known of a settled delivery.
pub(super) struct Settled {
    pub(super) time_us: u64,
    pub(super) topic: ByteString,
    pub(super) queue: bool,
    pub(super) cursors: Vec<CursorAt>,
}

/// Where the message comes from that is handed out next.
enum Next {
    Own,
    Shared,
}

/// Whether a message was taken.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Offer {
    /// Taken, or not for this inbox.
    Done,
    /// No room: the same record is to be offered again later.
    Full,
}

impl Inbox {
    pub(super) fn new(client: ByteString, epoch: Epoch, window: u16, in_flight: &[Lsn]) -> Inbox {
        let state =
            InboxState { in_flight: in_flight.iter().copied().collect(), pos: Lsn(u64::MAX), ..Default::default() };
        Inbox { client, epoch, window: usize::from(window.max(1)), state: Mutex::new(state) }
    }

    /// Wakes the connection if something can be taken. Call it without holding the lock.
    pub(super) fn wake(&self) {
        let waker = {
            let mut state = self.state.lock();
            if state.deliverable(self.window) { state.waker.take() } else { None }
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    pub(super) fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.state.lock();
        if state.deliverable(self.window) {
            return Poll::Ready(());
        }
        state.waker = Some(cx.waker().clone());
        Poll::Pending
    }

    pub(super) fn take(&self, max: usize, out: &mut Vec<Delivery>) -> bool {
        self.state.lock().take(self.window, max, out)
    }

    /// True when one more leased message fits.
    pub(super) fn lease(&self, lsn: Lsn, stored: &StoredMessage, sub: &LiveSubscription) -> bool {
        let mut state = self.state.lock();
        if state.closed {
            return false;
        }
        let qos = stored.message.qos.min(sub.options.qos);
        if let Some(entry) = state.entries.get_mut(&lsn) {
            // It reaches this client already by a plain subscription: once is enough, and its acknowledgement counts for the
            // queue. One that is sent already with a lower QoS can't: the queue waits until that is over.
            if entry.handed && entry.qos < qos {
                return false;
            }
            let raised = entry.qos == QoS::AtMostOnce && qos > QoS::AtMostOnce;
            entry.qos = entry.qos.max(qos);
            entry.queue = true;
            entry.only_latest = false;
            state.acknowledged += usize::from(raised);
            return true;
        }
        if !state.has_room(self.window) {
            return false;
        }
        let identifiers = (sub.options.identifier != 0).then_some(sub.options.identifier).into_iter().collect();
        state.put(
            lsn,
            Entry {
                time_us: stored.time_us,
                message: Arc::clone(&stored.message),
                qos,
                retain: sub.options.retain_as_published && stored.message.retain,
                identifiers,
                cursors: Vec::new(),
                queue: true,
                handed: false,
                ahead: true,
                retained_for: Vec::new(),
                only_latest: false,
            },
        );
        true
    }

    /// Nobody takes what is here any more. Entries know their subscriptions and these their inbox: it would hold itself for ever.
    pub(super) fn forget(&self) {
        let mut state = self.state.lock();
        state.entries.clear();
        state.order.clear();
        state.latest.clear();
        state.shared.clear();
        state.queued_bytes = 0;
    }

    /// True when one more leased message fits.
    pub(super) fn has_room(&self) -> bool {
        self.state.lock().has_room(self.window)
    }

    /// These were given to somebody else.
    pub(super) fn forget_in_flight(&self, lost: &[Lsn]) {
        let mut state = self.state.lock();
        for lsn in lost {
            state.in_flight.remove(lsn);
        }
    }

    /// All subscriptions of the session are in. Without any there is nothing to catch up with.
    pub(super) fn begin(&self) {
        let mut state = self.state.lock();
        state.begun = true;
        if state.filters.is_empty() {
            state.live = true;
            state.pos = Lsn::NONE;
        }
    }

    /// Files a queue message that an earlier connection of the session has in flight.
    pub(super) fn resume_lease(&self, lsn: Lsn, stored: &StoredMessage) {
        let mut state = self.state.lock();
        if state.in_flight.remove(&lsn) {
            state.handed += 1;
            state.insert(
                lsn,
                Entry {
                    time_us: stored.time_us,
                    message: Arc::clone(&stored.message),
                    qos: stored.message.qos.max(QoS::AtLeastOnce),
                    retain: false,
                    identifiers: Vec::new(),
                    cursors: Vec::new(),
                    queue: true,
                    handed: true,
                    ahead: true,
                    retained_for: Vec::new(),
                    only_latest: false,
                },
            );
        }
    }

    /// Puts in a retained message for a new subscription, ahead of whatever the log holds for it.
    pub(super) fn put_retained(&self, stored: &StoredMessage, sub: &Arc<LiveSubscription>) {
        let mut state = self.state.lock();
        if state.closed || state.in_flight.contains(&stored.lsn) {
            return;
        }
        if sub.options.no_local && stored.message.publisher == self.client {
            return;
        }
        if let Some(entry) = state.entries.get_mut(&stored.lsn) {
            // On its way already: from here on for this subscription too, so that nothing newer takes its place.
            entry.only_latest = false;
            if !entry.retained_for.contains(&sub.filter) {
                entry.retained_for.push(sub.filter.clone());
            }
            return;
        }
        let covered = state.filters.iter().any(|f| Arc::ptr_eq(&f.sub, sub) && f.from <= stored.lsn);
        state.put(
            stored.lsn,
            Entry {
                time_us: stored.time_us,
                message: Arc::clone(&stored.message),
                qos: stored.message.qos.min(sub.options.qos),
                retain: true,
                identifiers: (sub.options.identifier != 0).then_some(sub.options.identifier).into_iter().collect(),
                cursors: if covered && sub.durable { vec![Arc::clone(sub)] } else { Vec::new() },
                queue: false,
                handed: false,
                ahead: true,
                retained_for: vec![sub.filter.clone()],
                only_latest: false,
            },
        );
    }
}

impl InboxState {
    fn is_full(&self) -> bool {
        self.entries.len() + self.shared.entries.len() >= ENTRIES_MAX || self.queued_bytes >= BYTES_MAX
    }

    /// The reader has caught up: from here on the applier puts messages in directly.
    pub(super) fn go_live(&mut self) {
        self.live = true;
        self.filling = false;
        self.course = Course::Unknown;
        // The reader is past all of them.
        self.settled_ahead.clear();
    }

    /// True when the catch-up worker should go on reading.
    pub(super) fn wants_fill(&self) -> bool {
        let idle = !self.live && !self.closed && self.begun;
        idle && self.entries.len() < ENTRIES_MAX / 2 && self.queued_bytes < BYTES_MAX / 2
    }

    fn put(&mut self, lsn: Lsn, entry: Entry) {
        self.queued_bytes += entry.message.payload.len();
        self.order.push_back(lsn);
        self.insert(lsn, entry);
    }

    fn insert(&mut self, lsn: Lsn, entry: Entry) {
        self.acknowledged += usize::from(entry.qos > QoS::AtMostOnce);
        for cursor in &entry.cursors {
            if let Some(filter) = self.filters.get_mut(&cursor.filter) {
                filter.open.insert(lsn);
            }
        }
        if let Some(old) = self.entries.insert(lsn, entry) {
            self.acknowledged = self.acknowledged.saturating_sub(usize::from(old.qos > QoS::AtMostOnce));
        }
    }

    fn take_out(&mut self, lsn: Lsn) -> Option<Entry> {
        let entry = self.entries.remove(&lsn)?;
        self.acknowledged = self.acknowledged.saturating_sub(usize::from(entry.qos > QoS::AtMostOnce));
        for cursor in &entry.cursors {
            if let Some(filter) = self.filters.get_mut(&cursor.filter) {
                filter.open.remove(&lsn);
            }
        }
        if self.latest.get(&entry.message.topic) == Some(&lsn) {
            self.latest.remove(&entry.message.topic);
        }
        Some(entry)
    }

    /// True when one more leased message fits.
    pub(super) fn has_room(&self, window: usize) -> bool {
        !self.closed && self.acknowledged + self.in_flight.len() < window && !self.is_full()
    }

    fn front(&mut self) -> Option<(Lsn, QoS)> {
        while let Some(lsn) = self.order.front() {
            match self.entries.get(lsn) {
                Some(entry) if !entry.handed => return Some((*lsn, entry.qos)),
                _ => {
                    self.order.pop_front();
                }
            }
        }
        None
    }

    /// What may be handed out now: the older one of what the session is owed and what groups have leased to it.
    fn next(&mut self, window: usize) -> Option<Next> {
        let room = self.handed + self.in_flight.len() < window;
        let may = |first: Option<(Lsn, QoS)>| first.filter(|(_, qos)| room || *qos == QoS::AtMostOnce);
        match (may(self.front()), may(self.shared.front())) {
            (Some((own, _)), Some((shared, _))) if shared < own => Some(Next::Shared),
            (Some(_), _) => Some(Next::Own),
            (None, Some(_)) => Some(Next::Shared),
            (None, None) => None,
        }
    }

    fn deliverable(&mut self, window: usize) -> bool {
        self.next(window).is_some()
    }

    fn take(&mut self, window: usize, max: usize, out: &mut Vec<Delivery>) -> bool {
        for _ in 0..max {
            match self.next(window) {
                None => break,
                Some(Next::Shared) => {
                    out.extend(self.take_shared());
                    continue;
                }
                Some(Next::Own) => {}
            }
            let Some(lsn) = self.order.pop_front() else { break };
            let Some(entry) = self.entries.get_mut(&lsn) else { continue };
            entry.handed = true;
            self.queued_bytes = self.queued_bytes.saturating_sub(entry.message.payload.len());
            self.handed += usize::from(entry.qos > QoS::AtMostOnce);
            out.push(Delivery {
                lsn,
                time_us: entry.time_us,
                message: Arc::clone(&entry.message),
                qos: entry.qos,
                retain: entry.retain,
                identifiers: entry.identifiers.clone(),
                share: None,
            });
        }
        self.wants_fill()
    }

    /// Queue messages that were handed out with QoS 2 and are not settled.
    pub(super) fn sent_leases(&self) -> Vec<Lsn> {
        let sent = self.entries.iter().filter(|(_, e)| e.queue && e.handed && e.qos == QoS::ExactlyOnce);
        sent.map(|(lsn, _)| *lsn).collect()
    }
}
