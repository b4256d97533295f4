//! For programs that run rumqttd themselves: [`attach`] links to their broker and makes what passes it durable in an engine.
//!
//! ```text
//!  clients --> rumqttd's listeners --> its router --> its subscribers
//!                     |                    |
//!     PUBACK, at once +                    +--> ring of each filter --link--> engine: log --> state, queues, cursors, sinks
//! ```
//!
//! # What it gives, and what it can't
//!
//! | | |
//! |---|---|
//! | Acknowledged means durable | **No.** rumqttd acknowledges from memory, before the engine has seen the message. A crash loses what was not yet durable, at most what lies in rumqttd's ring and buffer. For that promise clients must come to Forebay's own [`Broker`](crate::Broker). |
//! | Order | That of rumqttd's router for each filter. |
//! | Back-pressure | On the link only. While the engine has no room the link is not read and the ring fills; rumqttd does not slow down publishers. |
//! | Loss | A ring that overruns, and MQTT 5 messages that expire in it, are counted exactly: each message has a place in the ring, and what is missing between two is [`AttachCounts::missed`]. Before the first message nothing can be counted. |
//! | QoS | 0 is 0; 1 and 2 can't be told apart, both are recorded as 1. Wills count as QoS 0. See [`AttachOptions::min_qos`]. |
//! | Retain flag | Never set: rumqttd clears it on the way. Retained messages of before are repeated by rumqttd at the subscription; they are left out and counted. |
//! | Publisher | Unknown: client id, user name and address are empty. |
//! | MQTT 5 properties | All of them; message expiry is what is left of it. |
//! | `$…` topics | rumqttd gives them to no subscriber. |
//!
//! Every message is logged, whether a rule wants it or not. With QoS 0 it reaches sinks, queues and read positions; ordinary
//! subscriptions of the engine are owed QoS 1 and 2 only.
//!
//! # What it asks of the broker
//!
//! One of `RouterConfig::max_connections`; and a ring for each filter (`max_segment_size` × `max_segment_count`, or `custom_segment`), which
//! rumqttd keeps and fills from then on, also after the end. A publish to a topic whose first letter is not ASCII ends the router of any
//! rumqttd 0.20 that has a subscription, so also of one that is only attached to; [`AttachFailure::RouterDied`] says so, and nobody can prevent it
//! from here.
//!
//! `attach_to_rumqttd` among the examples is such a program.

mod link;
mod reader;

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use forebay_engine::topic::{TopicError, check_filter, overlaps};
use forebay_engine::{Engine, Lsn, QoS};
use parking_lot::{Condvar, Mutex};

use link::Link;
use reader::Reader;

/// What to take, and how.
#[derive(Clone, Debug)]
pub struct AttachOptions {
    /// Topic filters; default `#` alone. No two may match the same topic, for such a message would come twice.
    pub filters: Vec<String>,
    /// Messages are recorded with this QoS at least; default 0, as they were published. With 1 sleeping sessions of the engine are owed all
    /// that passes.
    pub min_qos: QoS,
}

impl Default for AttachOptions {
    fn default() -> Self {
        AttachOptions { filters: vec!["#".to_owned()], min_qos: QoS::AtMostOnce }
    }
}

/// Why [`attach`] did not. The broker is as it was.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// There is no filter.
    #[error("no topic filter is given")]
    NoFilter,
    /// A filter is none.
    #[error("{filter:?} is no topic filter: {why}")]
    Filter {
        /// The filter.
        filter: String,
        /// What is wrong with it.
        why: TopicError,
    },
    /// rumqttd removes links that subscribe to such a filter.
    #[error("{0:?}: rumqttd gives $ topics to no subscriber")]
    Dollar(String),
    /// Two filters match the same topic.
    #[error("{0:?} and {1:?} overlap: their messages would be recorded twice")]
    Overlap(String, String),
    /// The router refuses the link (`max_connections`), or has died.
    #[error("rumqttd's router gives no link: {0}")]
    NoLink(String),
    /// The router did not answer the subscriptions within ten seconds.
    #[error("rumqttd's router does not answer")]
    NoAnswer,
    /// The operating system gives no random bytes for the link's name.
    #[error("there are no random bytes")]
    NoRandom,
    /// There is no thread to read with.
    #[error("there is no thread to read with: {0}")]
    NoThread(std::io::Error),
}

/// Why an attachment ended that nobody had stopped, or did not end as it should.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AttachFailure {
    /// What the router had handed out was appended; what it had not is lost. Make a new broker and attach to that.
    #[error("rumqttd's router has died")]
    RouterDied,
    /// The engine was closed or its disk failed. rumqttd goes on without it; open the engine again and attach again.
    #[error("the engine takes no more records: {0}")]
    EngineStopped(Arc<str>),
    /// The time given to [`Attached::stop`] was over before all was durable, or the handle was dropped without a stop.
    #[error("the time to stop was over before all that rumqttd had taken in was durable")]
    TooLate,
    /// A defect.
    #[error("the thread that reads has panicked")]
    Panicked,
}

/// How an attachment stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AttachState {
    /// Messages are taken as they pass.
    Reading,
    /// The engine has no room, for the reason named. It is asked again whenever there may be some; rumqttd's ring fills meanwhile.
    Waiting(String),
    /// Stopped; all that rumqttd had taken in before is durable.
    Stopped,
    /// Ended.
    Failed(AttachFailure),
}

impl AttachState {
    /// True when no more messages are taken.
    #[must_use]
    pub fn is_end(&self) -> bool {
        matches!(self, AttachState::Stopped | AttachState::Failed(_))
    }
}

/// Messages so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AttachCounts {
    /// Appended.
    pub appended: u64,
    /// The newest record of them: durable when `Engine::durable_end` is beyond it.
    pub last: Option<Lsn>,
    /// Overwritten in rumqttd's ring, or expired there, before they were handed out.
    pub missed: u64,
    /// Left out: a topic that is none (`a/+`, more than 256 levels), larger than the log takes, or still not appended when the time to stop was over.
    pub refused: u64,
    /// Left out: retained messages of before the attachment.
    pub retained: u64,
}

/// What the handle and the thread share.
struct Shared {
    status: Mutex<Status>,
    changed: Condvar,
}

struct Status {
    state: AttachState,
    counts: AttachCounts,
    stop_by: Option<Instant>,
}

impl Shared {
    fn state(&self) -> AttachState {
        self.status.lock().state.clone()
    }

    fn counts(&self) -> AttachCounts {
        self.status.lock().counts
    }

    fn stop_by(&self) -> Option<Instant> {
        self.status.lock().stop_by
    }

    fn set(&self, state: AttachState) {
        let mut status = self.status.lock();
        if status.state != state {
            status.state = state;
            self.changed.notify_all();
        }
    }

    fn count(&self, what: impl FnOnce(&mut AttachCounts)) {
        what(&mut self.status.lock().counts);
    }
}

/// An attachment. Dropped, it leaves the broker soon, without taking what is still in the ring: use [`Attached::stop`].
pub struct Attached {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// Links to a broker and appends every message that passes to `engine`, on a thread of its own, until it is stopped. What is published
/// after it returns is seen. Call it before `Broker::start`, which does not return. Blocks for a moment: not for a thread that runs async tasks.
///
/// The attachment keeps the engine open as any clone does; [`Engine::close`] ends both.
///
/// # Errors
/// See [`AttachError`].
pub fn attach(broker: &rumqttd::Broker, engine: &Engine, options: &AttachOptions) -> Result<Attached, AttachError> {
    check(&options.filters)?;
    let link = Link::open(broker, &options.filters)?;
    let status = Status { state: AttachState::Reading, counts: AttachCounts::default(), stop_by: None };
    let shared = Arc::new(Shared { status: Mutex::new(status), changed: Condvar::new() });
    let reader = Reader::new(link, engine.clone(), options.min_qos, Arc::clone(&shared));
    let thread = std::thread::Builder::new().name("attach".into()).spawn(move || reader.run());
    Ok(Attached { shared, thread: Some(thread.map_err(AttachError::NoThread)?) })
}

fn check(filters: &[String]) -> Result<(), AttachError> {
    if filters.is_empty() {
        return Err(AttachError::NoFilter);
    }
    for (index, filter) in filters.iter().enumerate() {
        check_filter(filter).map_err(|why| AttachError::Filter { filter: filter.clone(), why })?;
        if filter.starts_with('$') {
            return Err(AttachError::Dollar(filter.clone()));
        }
        if let Some(other) = filters.iter().take(index).find(|other| overlaps(other, filter)) {
            return Err(AttachError::Overlap(other.clone(), filter.clone()));
        }
    }
    Ok(())
}

impl Attached {
    /// How it stands.
    #[must_use]
    pub fn state(&self) -> AttachState {
        self.shared.state()
    }

    /// Messages so far.
    #[must_use]
    pub fn counts(&self) -> AttachCounts {
        self.shared.counts()
    }

    /// Blocks until it has ended, for `timeout` at most; how it stands then.
    #[must_use]
    pub fn wait(&self, timeout: Duration) -> AttachState {
        let deadline = after(timeout);
        let mut status = self.shared.status.lock();
        while !status.state.is_end() && !self.shared.changed.wait_until(&mut status, deadline).timed_out() {}
        status.state.clone()
    }

    /// Takes what rumqttd had taken in before the call, leaves the broker, and waits until all of it is durable; blocks for `within`
    /// at most. The broker and its other clients go on.
    ///
    /// # Errors
    /// Why not all of it is durable, or why the attachment had ended before.
    pub fn stop(mut self, within: Duration) -> Result<AttachCounts, AttachFailure> {
        self.shared.status.lock().stop_by = Some(after(within));
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            return Err(AttachFailure::Panicked);
        }
        match self.state() {
            AttachState::Failed(failure) => Err(failure),
            _ => Ok(self.counts()),
        }
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        // After `stop` the thread has ended.
        self.shared.status.lock().stop_by = Some(Instant::now());
    }
}

/// That long from now; a time beyond reckoning is a year.
fn after(time: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(time).or_else(|| now.checked_add(Duration::from_secs(365 * 86_400))).unwrap_or(now)
}
