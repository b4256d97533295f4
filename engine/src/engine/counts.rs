//! Counts for those who watch: cheap enough for every few seconds, not for every message.

use super::Engine;

impl Engine {
    /// How many subscriptions all sessions have, connected or not. Looks at each session.
    #[must_use]
    pub fn subscription_count(&self) -> usize {
        self.inner.state.read().sessions.values().map(|session| session.subscriptions.len()).sum()
    }

    /// Records that are durable and that the sink which is furthest behind has not stored; 0 where no sink holds the log.
    #[must_use]
    pub fn sink_lag(&self) -> u64 {
        let held = self.inner.keeper.held_for();
        let positions = held.iter().filter_map(|sink| self.sink_position(sink));
        let end = self.durable_end().0;
        positions.map(|position| end.saturating_sub(position.0)).max().unwrap_or(0)
    }
}
