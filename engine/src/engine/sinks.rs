//! What sinks and engine tell each other: positions, gaps, and who counts what a sink loses when the log has no room.
//!
//! ```text
//!   keeper: no room, the sink lags  --ask(to)-->  sink: ends what is under way, reads its database's position p
//!                                                 counts the messages of [p, to), appends Dropped [p, to)
//!   keeper: Dropped is applied, trims up to `to`        sink goes on at `to`
//! ```
//!
//! A sink knows better than the log what its database holds: positions are reported now and then, and what was stored since would be
//! counted as lost. So a sink that follows is asked, and answers with the record itself. One without a connection follows nobody: the
//! keeper passes it from the last position that was reported. So it does with one that does not answer.

use std::collections::BTreeMap;
use std::time::Duration;

use parking_lot::Mutex;

use super::Engine;
use crate::event::DropOwner;
use crate::ids::Lsn;
use crate::state::Gap;

/// How long an answer is waited for before a sink is passed without it. New records are refused meanwhile.
const PATIENCE: Duration = Duration::from_secs(5);

/// The sinks that follow, and what they are asked.
#[derive(Debug, Default)]
pub(super) struct Following(Mutex<BTreeMap<String, Option<Ask>>>);

#[derive(Clone, Copy, Debug)]
struct Ask {
    to: Lsn,
    since_us: u64,
}

impl Following {
    fn set(&self, sink: &str, follows: bool) {
        let mut sinks = self.0.lock();
        if !follows {
            sinks.remove(sink);
        } else if !sinks.contains_key(sink) {
            sinks.insert(sink.to_owned(), None);
        }
    }

    fn asked(&self, sink: &str) -> Option<Lsn> {
        self.0.lock().get(sink).copied().flatten().map(|ask| ask.to)
    }

    /// Asks a sink to let go of what is below `to`. False where nobody answers: it does not follow, or not in time.
    pub(super) fn ask(&self, sink: &str, to: Lsn, now_us: u64) -> bool {
        let mut sinks = self.0.lock();
        let Some(slot) = sinks.get_mut(sink) else { return false };
        let ask = slot.filter(|ask| ask.to == to).unwrap_or(Ask { to, since_us: now_us });
        *slot = Some(ask);
        let waits = Duration::from_micros(now_us.abs_diff(ask.since_us)) < PATIENCE;
        if !waits {
            tracing::warn!(sink, %to, "the sink does not answer; it is passed by what was last known of it");
            sinks.remove(sink);
        }
        waits
    }

    /// Asks nothing more: there is room.
    pub(super) fn withdraw(&self) {
        self.0.lock().values_mut().for_each(|ask| *ask = None);
    }
}

impl Engine {
    /// A sink's position as the log knows it: every record below is stored, dead-lettered, or let go of by a named policy.
    #[must_use]
    pub fn sink_position(&self, sink: &str) -> Option<Lsn> {
        self.inner.state.read().sinks.get(sink).copied()
    }

    /// What a sink was passed by because the log had no room: the newest range, and the total of all.
    #[must_use]
    pub fn sink_gap(&self, sink: &str) -> Option<Gap> {
        self.inner.state.read().gaps.get(&DropOwner::Sink(sink.to_owned().into())).copied()
    }

    /// True while the index of state is given up because it could not be written: a start would replay more of the log. It is written
    /// anew by itself.
    #[must_use]
    pub fn state_index_is_off(&self) -> bool {
        self.inner.keeper.index_off()
    }

    /// Names the sinks whose positions hold the log: nothing they have not stored is trimmed. Others no longer count.
    pub fn hold_for_sinks(&self, sinks: &[String]) {
        self.inner.keeper.hold_for_sinks(sinks);
    }

    /// Says whether a sink looks at [`Engine::sink_asked`]: then it is asked before it is passed. Before this is called it is not.
    pub fn sink_follows(&self, sink: &str, follows: bool) {
        self.inner.keeper.following.set(sink, follows);
    }

    /// The record up to which the log has to be let go of, where [`WhenFull::DropOldest`](super::WhenFull) asks a sink for it: it appends
    /// an [`Event::Dropped`](crate::Event::Dropped) from its own position up to there and goes on behind, or reports a position that is
    /// not below. Where it does neither within 5 s the engine passes it.
    #[must_use]
    pub fn sink_asked(&self, sink: &str) -> Option<Lsn> {
        self.inner.keeper.following.asked(sink)
    }
}
