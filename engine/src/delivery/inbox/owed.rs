//! What is owed and what is done: a record offered to an inbox, a delivery settled, and where the cursors stand between them.

use std::sync::Arc;

use bytestring::ByteString;

use super::{Entry, InboxState, LiveSubscription, Offer, Settled};
use crate::event::{CursorAt, QoS};
use crate::ids::Lsn;
use crate::rules::Kind;
use crate::state::StoredMessage;

impl InboxState {
    /// Offers a record that matches the filters at these places.
    pub(in crate::delivery) fn offer(
        &mut self,
        client: &str,
        stored: &StoredMessage,
        matched: &[usize],
        superseded: bool,
    ) -> Offer {
        let (lsn, message) = (stored.lsn, &stored.message);
        let mut entry: Option<Entry> = None;
        let mut had_already = false;
        for f in matched.iter().filter_map(|place| self.filters.at(*place)) {
            let rule_cursor = f.sub.kind.is_rule_cursor();
            if f.sub.kind == Kind::Queue || f.sub.options.no_local && message.publisher == *client {
                continue;
            }
            // QoS 0 is given as it is published; only a read position may have missed it while its client was away.
            if message.qos == QoS::AtMostOnce && !(rule_cursor && lsn < f.qos0_until) {
                continue;
            }
            if lsn < f.start || stored.time_us < f.not_before_us {
                continue;
            }
            if lsn < f.from || f.done.contains(&lsn) {
                // A keep-latest position also passes what was superseded and never given.
                had_already |= f.sub.kind != Kind::Latest;
                continue;
            }
            if superseded && f.sub.kind == Kind::Latest {
                metrics::counter!(crate::metrics::SUPERSEDED).increment(1);
                continue;
            }
            merge(&mut entry, stored, &f.sub);
        }
        let Some(mut entry) = entry else { return Offer::Done };
        if let Some(known) = self.entries.get_mut(&lsn) {
            // On its way already (a retained message, a lease, an overlapping filter): its acknowledgement moves these cursors too.
            let fresh: Vec<_> =
                entry.cursors.into_iter().filter(|c| !known.cursors.iter().any(|k| k.filter == c.filter)).collect();
            for cursor in &fresh {
                if let Some(filter) = self.filters.get_mut(&cursor.filter) {
                    filter.open.insert(lsn);
                }
            }
            known.cursors.extend(fresh);
            known.only_latest &= entry.only_latest;
            known.ahead = false;
            if !known.handed && known.qos < entry.qos {
                // A copy that was queued for less is sent as the best of its subscriptions has it.
                self.acknowledged += usize::from(known.qos == QoS::AtMostOnce);
                known.qos = entry.qos;
            }
            return Offer::Done;
        }
        if self.in_flight.remove(&lsn) {
            entry.handed = true;
            self.handed += 1;
            entry.qos = entry.qos.max(QoS::AtLeastOnce);
            self.insert(lsn, entry);
            return Offer::Done;
        }
        if had_already || self.settled_ahead.remove(&lsn) {
            return Offer::Done;
        }
        if self.is_full() {
            return Offer::Full;
        }
        if entry.cursors.iter().any(|c| c.kind == Kind::Latest)
            && let Some(older) = self.latest.insert(message.topic.clone(), lsn)
            && self.entries.get(&older).is_some_and(|e| !e.handed && e.only_latest)
        {
            self.drop_queued(older);
            metrics::counter!(crate::metrics::SUPERSEDED).increment(1);
        }
        self.put(lsn, entry);
        Offer::Done
    }

    /// Ends a delivery. `None` where the record is not on its way here.
    pub(in crate::delivery) fn settle(&mut self, lsn: Lsn, offered: Lsn) -> Option<Settled> {
        let Some(entry) = self.take_out(lsn) else {
            // In flight from before and not met in the log yet: remembered, so that it is not given again.
            if self.in_flight.remove(&lsn) && !self.live && lsn >= self.pos {
                self.settled_ahead.insert(lsn);
            }
            return None;
        };
        if entry.handed {
            self.handed = self.handed.saturating_sub(usize::from(entry.qos > QoS::AtMostOnce));
        }
        if entry.ahead && !self.live && lsn >= self.pos {
            self.settled_ahead.insert(lsn);
        }
        let cursors = entry
            .cursors
            .iter()
            .map(|sub| CursorAt { filter: sub.filter.clone(), low: self.low(&sub.filter, offered) })
            .collect();
        Some(Settled { time_us: entry.time_us, topic: entry.message.topic.clone(), queue: entry.queue, cursors })
    }

    /// The durable cursors that a message of this topic concerns, without a new low.
    pub(in crate::delivery) fn durable_matching(&self, topic: &str) -> Vec<CursorAt> {
        let mut places = Vec::new();
        self.filters.matching(topic, &mut places);
        let durable = places.iter().filter_map(|place| self.filters.at(*place)).filter(|f| f.sub.durable);
        durable.map(|f| CursorAt { filter: f.sub.filter.clone(), low: Lsn::NONE }).collect()
    }

    /// Everything below is done for this subscription.
    fn low(&self, filter: &str, offered: Lsn) -> Lsn {
        let Some(f) = self.filters.get(filter) else { return Lsn::NONE };
        let read = if self.live { offered } else { self.pos.max(f.from) };
        let open = f.open.first().copied();
        let in_flight = self.in_flight.first().copied();
        // What was never for this subscription does not hold it back.
        [open, in_flight].into_iter().flatten().min().unwrap_or(read).min(read).max(f.start)
    }

    /// Where plain subscriptions stand that have no cursor in state, where that is below `below` and they read the log.
    pub(in crate::delivery) fn volatile_places(&self, below: Lsn) -> Vec<(ByteString, Lsn)> {
        if self.live {
            return Vec::new();
        }
        let volatile = self.filters.iter().filter(|f| !f.sub.durable && f.sub.kind == Kind::Plain);
        volatile.map(|f| (f.sub.filter.clone(), self.pos.max(f.from))).filter(|(_, at)| *at < below).collect()
    }

    /// Where the durable cursors stand.
    pub(in crate::delivery) fn positions(&self, offered: Lsn) -> Vec<CursorAt> {
        let durable = self.filters.iter().filter(|f| f.sub.durable && f.newest.is_none());
        durable
            .map(|f| CursorAt { filter: f.sub.filter.clone(), low: self.low(&f.sub.filter, offered) })
            .filter(|at| at.low > Lsn::NONE)
            .collect()
    }
}

/// Adds what a matching subscription says to the one copy that is sent.
fn merge(entry: &mut Option<Entry>, stored: &StoredMessage, sub: &Arc<LiveSubscription>) {
    let entry = entry.get_or_insert_with(|| Entry {
        time_us: stored.time_us,
        message: Arc::clone(&stored.message),
        qos: QoS::AtMostOnce,
        retain: false,
        identifiers: Vec::new(),
        cursors: Vec::new(),
        queue: false,
        handed: false,
        ahead: false,
        retained_for: Vec::new(),
        only_latest: true,
    });
    entry.only_latest &= sub.kind == Kind::Latest;
    entry.qos = entry.qos.max(stored.message.qos.min(sub.options.qos));
    entry.retain |= sub.options.retain_as_published && stored.message.retain;
    if sub.options.identifier != 0 {
        entry.identifiers.push(sub.options.identifier);
    }
    if sub.durable {
        entry.cursors.push(Arc::clone(sub));
    }
}
