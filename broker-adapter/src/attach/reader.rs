//! The thread that takes from a link and appends to an engine.

use std::sync::Arc;
use std::time::{Duration, Instant};

use forebay_engine::event::{Event, Published};
use forebay_engine::log::AppendError;
use forebay_engine::{Engine, Message, QoS};

use super::link::{Link, Passed};
use super::{AttachFailure, AttachState, Shared};
use crate::live_bus::router_link::RouterDied;
use crate::metrics::{ATTACH_MESSAGES, ATTACH_MISSED};

/// How often a thread that waits looks whether it is to stop.
const LOOK: Duration = Duration::from_millis(100);
/// Most messages of one append.
const BATCH: usize = 256;
/// Bytes of topics and payloads from which an append is not made longer.
const BATCH_BYTES: usize = 1 << 20;
/// Reads of its rings that a router makes for one link in one turn, at most; each hands out at least one message.
const READS_OF_A_TURN: usize = 100;

pub(super) struct Reader {
    link: Link,
    engine: Engine,
    min_qos: QoS,
    shared: Arc<Shared>,
}

/// What came of one look.
#[derive(Default)]
struct Look {
    messages: usize,
    answered: bool,
    resumed: bool,
}

impl From<RouterDied> for AttachFailure {
    fn from(_: RouterDied) -> AttachFailure {
        AttachFailure::RouterDied
    }
}

impl Reader {
    pub(super) fn new(link: Link, engine: Engine, min_qos: QoS, shared: Arc<Shared>) -> Reader {
        Reader { link, engine, min_qos, shared }
    }

    /// Until it is told to stop, or can't go on.
    pub(super) fn run(mut self) {
        let end = self.read();
        let Reader { link, engine, shared, .. } = self;
        // Others of that broker have room before the disk is waited for.
        drop(link);
        let end = end.and_then(|()| wait_durable(&engine, &shared));
        if let Err(failure) = &end {
            tracing::error!(%failure, "attached to a rumqttd no more");
        }
        shared.set(end.map_or_else(AttachState::Failed, |()| AttachState::Stopped));
    }

    fn read(&mut self) -> Result<(), AttachFailure> {
        loop {
            if let Some(deadline) = self.shared.stop_by() {
                return self.drain(deadline);
            }
            if let Some(why) = self.engine.log().stopped_reason() {
                return Err(AttachFailure::EngineStopped(why));
            }
            self.look()?;
        }
    }

    /// Takes what the router has taken in by now. Its answer to a ping comes at the beginning of a turn; the answer to the next one shows
    /// that the turn is over, and what came between the two whether it handed out all there was.
    fn drain(&mut self, deadline: Instant) -> Result<(), AttachFailure> {
        let mut turn: Option<(usize, bool)> = None;
        // Where the router has died the next look says so, after what had been handed out.
        let _ = self.link.ping();
        while Instant::now() < deadline {
            let look = self.look()?;
            if let Some((messages, resumed)) = &mut turn {
                *messages += look.messages;
                *resumed |= look.resumed;
            }
            if look.answered {
                if turn.is_some_and(|(messages, resumed)| messages < READS_OF_A_TURN && !resumed) {
                    return Ok(());
                }
                turn = Some((0, false));
                let _ = self.link.ping();
            }
        }
        Err(AttachFailure::TooLate)
    }

    /// Waits a moment for something, takes what else is there, at most a batch, and appends it.
    fn look(&mut self) -> Result<Look, AttachFailure> {
        let (mut look, mut events, mut bytes) = (Look::default(), Vec::new(), 0);
        let mut deadline = Instant::now() + LOOK;
        let mut died = None;
        while events.len() < BATCH && bytes < BATCH_BYTES && !look.answered {
            let passed = match self.link.next(deadline) {
                Ok(Some(passed)) => passed,
                Ok(None) => break,
                Err(error) => {
                    died = Some(error);
                    break;
                }
            };
            deadline = Instant::now();
            look.messages += usize::from(!matches!(passed, Passed::Answer | Passed::Resumed));
            match passed {
                Passed::Message(message) => {
                    bytes += message.topic.len() + message.payload.len();
                    events.push(self.event(message));
                }
                Passed::Unusable(error) => {
                    tracing::debug!(%error, "a message with a topic that is none was left out");
                    metrics::counter!(ATTACH_MESSAGES, "result" => "topic").increment(1);
                    self.shared.count(|counts| counts.refused += 1);
                }
                Passed::Retained => {
                    metrics::counter!(ATTACH_MESSAGES, "result" => "retained").increment(1);
                    self.shared.count(|counts| counts.retained += 1);
                }
                Passed::Answer => look.answered = true,
                Passed::Resumed => look.resumed = true,
            }
        }
        let missed = self.link.take_missed();
        if missed > 0 {
            tracing::warn!(missed, "rumqttd overwrote messages, or they expired, before they were handed out");
            metrics::counter!(ATTACH_MISSED).increment(missed);
            self.shared.count(|counts| counts.missed += missed);
        }
        self.append(&events)?;
        died.map_or(Ok(look), |error| Err(error.into()))
    }

    fn event(&self, mut message: Message) -> Event {
        message.qos = message.qos.max(self.min_qos);
        Event::Published(Published { message, packet_id: None, epoch: 0 })
    }

    /// Appends, however long the engine has no room; the link is not read meanwhile, so the router pauses.
    fn append(&self, events: &[Event]) -> Result<(), AttachFailure> {
        if events.is_empty() {
            return Ok(());
        }
        let number = events.len() as u64;
        loop {
            match self.engine.append_within(events, LOOK) {
                Ok(appended) => {
                    metrics::counter!(ATTACH_MESSAGES, "result" => "appended").increment(number);
                    self.shared.count(|counts| {
                        counts.appended += number;
                        counts.last = Some(appended.last);
                    });
                    self.shared.set(AttachState::Reading);
                    return Ok(());
                }
                Err(error @ (AppendError::Full { .. } | AppendError::NoSpace { .. })) => {
                    if self.shared.stop_by().is_some_and(|deadline| deadline <= Instant::now()) {
                        metrics::counter!(ATTACH_MESSAGES, "result" => "too_late").increment(number);
                        self.shared.count(|counts| counts.refused += number);
                        return Err(AttachFailure::TooLate);
                    }
                    if !matches!(self.shared.state(), AttachState::Waiting(_)) {
                        tracing::warn!(%error, "messages of a rumqttd wait, its ring fills");
                        self.shared.set(AttachState::Waiting(error.to_string()));
                    }
                }
                // Which of them it is shows one by one.
                Err(AppendError::TooLarge { .. }) if number > 1 => {
                    return events.iter().try_for_each(|event| self.append(std::slice::from_ref(event)));
                }
                Err(error @ AppendError::TooLarge { .. }) => {
                    tracing::warn!(%error, "a message was left out");
                    metrics::counter!(ATTACH_MESSAGES, "result" => "too_large").increment(1);
                    self.shared.count(|counts| counts.refused += 1);
                    return Ok(());
                }
                Err(AppendError::Stopped(why)) => return Err(AttachFailure::EngineStopped(why)),
                Err(error) => return Err(AttachFailure::EngineStopped(error.to_string().into())),
            }
        }
    }
}

/// Waits for the last record, until the time given for stopping is over.
fn wait_durable(engine: &Engine, shared: &Shared) -> Result<(), AttachFailure> {
    let Some(last) = shared.counts().last else { return Ok(()) };
    let left = shared.stop_by().map_or(Duration::ZERO, |deadline| deadline.saturating_duration_since(Instant::now()));
    match engine.durable_within(last, left) {
        Ok(true) => Ok(()),
        Ok(false) => Err(AttachFailure::TooLate),
        Err(error) => Err(AttachFailure::EngineStopped(error.to_string().into())),
    }
}
