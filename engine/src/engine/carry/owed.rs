//! Who is owed what of a range of records: asked of state, a slice of clients at a time.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

use bytestring::ByteString;
use parking_lot::RwLock;

use super::scan::{Match, Scan};
use crate::delivery::Hub;
use crate::event::QoS;
use crate::ids::Lsn;
use crate::rules::Kind;
use crate::state::{Name, State};

/// Clients looked at under one hold of state's lock.
const CLIENTS_PER_HOLD: usize = 512;

/// A cursor that stands below the range's end and whose filter matches something in it.
#[derive(Clone, Debug)]
pub(super) struct Sleeper {
    pub client: ByteString,
    pub filter: ByteString,
    pub next: Lsn,
    acked: BTreeSet<Lsn>,
    /// CRC-32 of the client's name where it does not want its own messages.
    not_from: Option<u32>,
    /// A read position of a rule: holds nothing, and is given QoS 0 as well.
    pub rule: bool,
    /// Of a connected clean session that reads the log: state does not know its place.
    pub volatile: bool,
    /// The range's messages that the filter matches.
    pub matches: Arc<[Match]>,
}

impl Sleeper {
    /// True when this cursor is owed the message.
    pub fn wants(&self, m: &Match) -> bool {
        m.lsn >= self.next
            && (self.rule || m.qos > QoS::AtMostOnce)
            && self.not_from != Some(m.publisher)
            && !self.acked.contains(&m.lsn)
    }

    /// The messages it is owed.
    pub fn owed(&self) -> impl Iterator<Item = &Match> {
        let begin = self.matches.partition_point(|m| m.lsn < self.next);
        self.matches.get(begin..).unwrap_or_default().iter().filter(|m| self.wants(m))
    }
}

/// What somebody is owed of a range.
#[derive(Debug, Default)]
pub(super) struct Owed {
    /// Messages owed by their number: of queues and groups, in flight, newest of keep-latest topics.
    pub by_number: HashSet<Lsn>,
    /// Cursors with something in the range.
    pub sleepers: Vec<Sleeper>,
    /// Read positions of rules whose clients are away, by filter.
    pub idle: HashMap<ByteString, u64>,
}

impl Owed {
    /// Asks state and the hub who is owed what of `range`, whose messages `scan` holds. State goes on in between; what is owed of a
    /// range that is behind it only grows less.
    pub fn of(state: &RwLock<State>, hub: &Hub, range: &Range<Lsn>, scan: &mut Scan) -> Owed {
        let mut owed = Owed::default();
        let clients: Vec<Name> = {
            let state = state.read();
            owed.by_number.extend(state.queue.numbers(range));
            owed.by_number.extend(state.groups.numbers(range));
            for (topic, matches) in scan.topics().filter(|(topic, _)| hub.rules.is_latest(topic)) {
                let newest = state.latest.get(topic);
                owed.by_number.extend(newest.filter(|lsn| matches.binary_search_by_key(*lsn, |m| m.lsn).is_ok()));
            }
            let in_flight = state.sessions.iter().filter(|(_, s)| !s.outbound.is_empty());
            owed.by_number.extend(
                in_flight.flat_map(|(_, s)| s.outbound.values().map(|out| out.lsn)).filter(|lsn| range.contains(lsn)),
            );
            state.cursors.keys().cloned().collect()
        };
        for clients in clients.chunks(CLIENTS_PER_HOLD) {
            let state = state.read();
            for client in clients {
                owed.look_at(&state, hub, client, range, scan);
            }
        }
        for (client, filter, next) in hub.volatile_places(range.end) {
            let matches = scan.matching(&filter);
            let (acked, rule, volatile, not_from) = (BTreeSet::new(), false, true, None);
            let sleeper = Sleeper { client, filter, next, acked, not_from, rule, volatile, matches };
            if sleeper.owed().next().is_some() {
                owed.sleepers.push(sleeper);
            }
        }
        owed
    }

    fn look_at(&mut self, state: &State, hub: &Hub, client: &str, range: &Range<Lsn>, scan: &mut Scan) {
        let Some(cursors) = state.cursors.get(client) else { return };
        let session = state.sessions.get(client);
        let away = !session.is_some_and(|s| s.connected);
        for (filter, cursor) in cursors {
            let kind = hub.rules.kind_of(filter);
            if kind.is_rule_cursor() && away {
                count(&mut self.idle, filter);
            }
            if cursor.next >= range.end {
                continue;
            }
            let subscribed = session.and_then(|s| s.subscriptions.get(filter));
            let rule = match kind {
                // The newest of each topic is carried for them in any case.
                Kind::Latest | Kind::Queue | Kind::Shared => continue,
                Kind::Pubsub(_) => true,
                Kind::Plain if subscribed.is_some() && session.is_some_and(|s| s.lasting()) => false,
                Kind::Plain => continue,
            };
            let matches = scan.matching(filter);
            if matches.last().is_none_or(|m| m.lsn < cursor.next) {
                continue;
            }
            let no_local = subscribed.is_some_and(|s| s.options.no_local);
            let sleeper = Sleeper {
                client: client.into(),
                filter: filter.to_byte_string(),
                next: cursor.next,
                acked: cursor.acked().collect(),
                not_from: no_local.then(|| crc32fast::hash(client.as_bytes())),
                rule,
                volatile: false,
                matches,
            };
            if sleeper.owed().next().is_some() {
                self.sleepers.push(sleeper);
            }
        }
    }

    /// The numbers of all messages that are to be kept, in order.
    pub fn numbers(&self) -> BTreeSet<Lsn> {
        let mut numbers: BTreeSet<Lsn> = self.by_number.iter().copied().collect();
        // Cursors of one filter want mostly the same: they are looked at together, the one furthest behind first.
        let mut filters: HashMap<&ByteString, Vec<&Sleeper>> = HashMap::new();
        for sleeper in self.sleepers.iter().filter(|s| !s.rule) {
            filters.entry(&sleeper.filter).or_default().push(sleeper);
        }
        for sleepers in filters.values_mut() {
            sleepers.sort_unstable_by_key(|s| s.next);
            let Some(first) = sleepers.first() else { continue };
            for m in first.matches.iter().filter(|m| m.lsn >= first.next) {
                if sleepers.iter().take_while(|s| s.next <= m.lsn).any(|s| s.wants(m)) {
                    numbers.insert(m.lsn);
                }
            }
        }
        numbers
    }
}

fn count(idle: &mut HashMap<ByteString, u64>, filter: &Name) {
    match idle.get_mut(&**filter) {
        Some(count) => *count += 1,
        None => drop(idle.insert(filter.to_byte_string(), 1)),
    }
}
