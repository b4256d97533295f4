//! A subscription comes to an inbox, or leaves it.

use std::sync::Arc;

use super::{Begin, Entry, FilterState, InboxState, LiveSubscription};
use crate::delivery::catch_up::Course;
use crate::event::QoS;
use crate::ids::Lsn;
use crate::rules::Kind;

impl InboxState {
    /// Adds a subscription or replaces it by one with other options.
    pub(in crate::delivery) fn add(&mut self, sub: Arc<LiveSubscription>, now: Lsn, begin: Begin) {
        if let Some(known) = self.filters.get_mut(&sub.filter) {
            known.sub = sub;
            return;
        }
        let from = begin.cursor.next;
        let here = if self.live { now } else { self.pos };
        if from < here {
            // Back to where this subscription begins; the others have had what lies between already. Before the first record was
            // read there is nothing between.
            if self.begun {
                for other in self.filters.iter_mut() {
                    other.from = other.from.max(here);
                }
            }
            self.pos = from;
            self.live = false;
        }
        // What is under way was begun without it.
        self.course = Course::Unknown;
        self.generation += 1;
        let with_cursor = |entry: &Entry| entry.cursors.iter().any(|c| c.filter == sub.filter);
        let open = self.entries.iter().filter(|(_, entry)| with_cursor(entry)).map(|(lsn, _)| *lsn).collect();
        self.filters.push(FilterState {
            start: begin.cursor.start,
            from,
            done: begin.cursor.acked().collect(),
            open,
            qos0_until: begin.qos0_until,
            newest: begin.newest,
            not_before_us: begin.not_before_us,
            sub,
        });
    }

    /// Removes a subscription. Returns the leases that go back to their queues.
    #[must_use]
    pub(in crate::delivery) fn remove(&mut self, filter: &str) -> Vec<Lsn> {
        self.filters.remove(filter);
        self.generation += 1;
        if self.newest.as_ref().is_some_and(|newest| newest.filter() == filter) {
            self.newest = None;
        }
        // What is queued and not handed out is not sent any more; what is in flight ends as it would have (MQTT-3.10.4-3).
        let (mut gone, mut leases, mut places) = (Vec::new(), Vec::new(), Vec::new());
        let concerned =
            self.entries.iter_mut().filter(|(_, e)| !e.handed && crate::topic::matches(filter, &e.message.topic));
        for (lsn, entry) in concerned {
            places.clear();
            self.filters.matching(&entry.message.topic, &mut places);
            let left: Vec<&FilterState> = places.iter().filter_map(|place| self.filters.at(*place)).collect();
            let was_copy = !entry.retained_for.is_empty();
            entry.retained_for.retain(|asked| asked != filter);
            if entry.queue && !left.iter().any(|f| f.sub.kind == Kind::Queue) {
                entry.queue = false;
                leases.push(*lsn);
            }
            let owed = left.iter().any(|f| entry.is_owed_to(*lsn, f));
            if !entry.queue && !owed && entry.retained_for.is_empty() {
                gone.push(*lsn);
            } else if was_copy && entry.retained_for.is_empty() {
                let before = entry.qos;
                entry.be_no_copy(*lsn, &left);
                self.acknowledged -= usize::from(before > QoS::AtMostOnce);
                self.acknowledged += usize::from(entry.qos > QoS::AtMostOnce);
            }
        }
        for lsn in gone {
            self.drop_queued(lsn);
        }
        leases
    }

    pub(super) fn drop_queued(&mut self, lsn: Lsn) {
        if let Some(entry) = self.take_out(lsn)
            && !entry.handed
        {
            self.queued_bytes = self.queued_bytes.saturating_sub(entry.message.payload.len());
        }
    }
}

impl Entry {
    /// True when this subscription was offered it as what it is owed by its place in the log. One that was put in ahead of the reader was
    /// not: whom it is owed to, the reader will offer it to.
    fn is_owed_to(&self, lsn: Lsn, f: &FilterState) -> bool {
        if f.sub.kind == Kind::Queue || self.ahead {
            return false;
        }
        if f.sub.durable {
            return self.cursors.iter().any(|cursor| cursor.filter == f.sub.filter);
        }
        let own = f.sub.options.no_local && self.message.publisher == f.sub.inbox.client;
        f.start <= lsn && !own
    }

    /// Nobody wants it as a retained message any more: it goes as those have it who are left.
    fn be_no_copy(&mut self, lsn: Lsn, left: &[&FilterState]) {
        self.retain = false;
        self.identifiers.clear();
        self.qos = QoS::AtMostOnce;
        for f in left {
            let leases = self.queue && f.sub.kind == Kind::Queue;
            if !leases && !self.is_owed_to(lsn, f) {
                continue;
            }
            let options = &f.sub.options;
            self.retain |= options.retain_as_published && self.message.retain;
            self.qos = self.qos.max(self.message.qos.min(options.qos));
            self.identifiers.extend((options.identifier != 0).then_some(options.identifier));
        }
    }
}
