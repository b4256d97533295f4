//! All rows of state at one moment, for a checkpoint: the applier waits for it, so that a million rows may take no more than a look at
//! each and a copy.

use super::State;
use super::rows::{RowKey, put_cursor, put_key, put_retained, put_session, put_subscription};
use crate::event::codec::put_int;

impl State {
    /// Calls `row` with the key and the value of each row, in no particular order.
    pub(crate) fn each_row(&self, mut row: impl FnMut(&[u8], &[u8])) {
        let (mut key, mut value) = (Vec::new(), Vec::new());
        let mut put = |tag: u8, names: [Option<&str>; 2], fill: &dyn Fn(&mut Vec<u8>)| {
            key.clear();
            value.clear();
            put_key(&mut key, tag, names);
            fill(&mut value);
            row(&key, &value);
        };
        for (client, session) in &self.sessions {
            put(b'S', [Some(client), None], &|out| put_session(out, session));
            for (filter, subscription) in &session.subscriptions {
                put(b'U', [Some(client), Some(filter)], &|out| put_subscription(out, subscription));
            }
        }
        for (client, cursors) in &self.cursors {
            for (filter, cursor) in cursors {
                put(b'C', [Some(client), Some(filter)], &|out| put_cursor(out, cursor));
            }
        }
        for (topic, stored) in &self.retained {
            put(b'T', [Some(topic), None], &|out| put_retained(out, stored));
        }
        for (topic, lsn) in &self.latest {
            put(b'L', [Some(topic), None], &|out| put_int(out, lsn.0));
        }
        for key in self.few_keys() {
            if let Some(value) = self.row(&key) {
                row(&key.encode(), &value);
            }
        }
    }

    /// Keys of the rows of which there are not many at a time: what is in flight, owed by queues, or there once.
    fn few_keys(&self) -> impl Iterator<Item = RowKey> + '_ {
        let in_flight = self.sessions.iter().flat_map(|(client, session)| {
            let received = session.received.iter().map(|id| RowKey::Received(client.to_byte_string(), *id));
            let outbound = session.outbound.keys().map(|id| RowKey::Outbound(client.to_byte_string(), *id));
            received.chain(outbound)
        });
        in_flight
            .chain(self.queue.iter().map(|(lsn, _)| RowKey::Queue(lsn)))
            .chain(self.groups.owed().map(|(share, lsn)| RowKey::Shared(share.clone(), lsn)))
            .chain(self.sinks.keys().map(|sink| RowKey::Sink(sink.clone())))
            .chain(self.gaps.keys().map(|owner| RowKey::Gap(owner.clone())))
            .chain((self.epoch > 0).then_some(RowKey::Epoch))
    }

    /// Every row's key.
    pub fn keys(&self) -> impl Iterator<Item = RowKey> + '_ {
        let sessions = self.sessions.iter().flat_map(|(client, session)| {
            let filters = session.subscriptions.keys();
            let filters = filters.map(|f| RowKey::Subscription(client.to_byte_string(), f.to_byte_string()));
            std::iter::once(RowKey::Session(client.to_byte_string())).chain(filters)
        });
        let cursors = self.cursors.iter().flat_map(|(client, cursors)| {
            cursors.keys().map(|filter| RowKey::Cursor(client.to_byte_string(), filter.to_byte_string()))
        });
        sessions
            .chain(cursors)
            .chain(self.retained.keys().map(|topic| RowKey::Retained(topic.clone())))
            .chain(self.latest.keys().map(|topic| RowKey::Latest(topic.to_byte_string())))
            .chain(self.few_keys())
    }
}
