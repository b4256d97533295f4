//! Slows down whoever guesses passwords.
//!
//! Failures are counted for each user from each address, for each address, and for each user from anywhere. Beyond a number that
//! costs nothing each further attempt waits before its password is looked at, longer with each failure up to a limit; those of one
//! address come one after the other, so that many connections guess no faster than one, and those that would wait longer than the
//! limit are refused. Failures are forgiven with time. A user as a whole is only slowed, never shut out: anybody can fail in his name.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use bytestring::ByteString;
use parking_lot::Mutex;
use tokio::time::Instant;

/// Addresses and users remembered, each; about 1 MiB.
const REMEMBERED_MAX: usize = 10_000;
/// The first wait; it doubles with each failure.
const FIRST_WAIT: Duration = Duration::from_millis(250);

/// What an attempt may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admit {
    /// Go on after this time.
    After(Duration),
    /// Too many wait from there already.
    Refuse,
}

/// How failures of one kind count.
struct Policy {
    /// Failures that cost nothing.
    free: u32,
    /// One is forgiven in this time.
    forgiven: Duration,
    /// Attempts come one after the other.
    in_turn: bool,
}

/// A user from one address. A device with an old password must not keep its neighbours out, so an address as a whole has more room.
const PAIR: Policy = Policy { free: 3, forgiven: Duration::from_secs(60), in_turn: true };
const ADDRESS: Policy = Policy { free: 20, forgiven: Duration::from_secs(1), in_turn: true };
const USER: Policy = Policy { free: 10, forgiven: Duration::from_secs(10), in_turn: false };

struct Failures {
    count: u32,
    /// When the count was last right: it falls with time from there.
    since: Instant,
    /// When the next attempt may be looked at.
    next: Instant,
}

impl Failures {
    fn forgive(&mut self, policy: &Policy, now: Instant) {
        let forgiven = now.saturating_duration_since(self.since).as_nanos() / policy.forgiven.as_nanos().max(1);
        let forgiven = u32::try_from(forgiven).unwrap_or(u32::MAX);
        self.count = self.count.saturating_sub(forgiven);
        self.since += policy.forgiven.saturating_mul(forgiven);
    }

    fn step(&self, policy: &Policy, max: Duration) -> Duration {
        match self.count.checked_sub(policy.free) {
            None | Some(0) => Duration::ZERO,
            Some(beyond) => FIRST_WAIT.saturating_mul(1 << (beyond - 1).min(16)).min(max),
        }
    }
}

struct Table<K> {
    policy: Policy,
    rows: HashMap<K, Failures>,
}

impl<K: Hash + Eq + Clone> Table<K> {
    fn new(policy: Policy) -> Self {
        Table { policy, rows: HashMap::new() }
    }

    /// How long an attempt has to wait, without its taking a turn.
    fn wait(&mut self, key: &K, now: Instant, max: Duration) -> Duration {
        let Some(failures) = self.rows.get_mut(key) else { return Duration::ZERO };
        failures.forgive(&self.policy, now);
        if failures.count == 0 && failures.next <= now {
            self.rows.remove(key);
            return Duration::ZERO;
        }
        let step = failures.step(&self.policy, max);
        if self.policy.in_turn && !step.is_zero() { failures.next.max(now + step) - now } else { step }
    }

    /// The attempt goes on at this time; the next one of its kind comes after it.
    fn take_turn(&mut self, key: &K, at: Instant, max: Duration) {
        if let Some(failures) = self.rows.get_mut(key)
            && self.policy.in_turn
        {
            failures.next = at + failures.step(&self.policy, max);
        }
    }

    fn failed(&mut self, key: K, now: Instant) {
        if self.rows.len() >= REMEMBERED_MAX && !self.rows.contains_key(&key) {
            let policy = &self.policy;
            self.rows.retain(|_, row| {
                row.forgive(policy, now);
                row.count > 0
            });
            if self.rows.len() >= REMEMBERED_MAX
                && let Some(victim) = self.rows.keys().next().cloned()
            {
                self.rows.remove(&victim);
            }
        }
        let row = self.rows.entry(key).or_insert(Failures { count: 0, since: now, next: now });
        row.forgive(&self.policy, now);
        row.count = row.count.saturating_add(1);
    }
}

struct Tables {
    pairs: Table<(IpAddr, ByteString)>,
    addresses: Table<IpAddr>,
    users: Table<ByteString>,
}

/// See the module.
pub(crate) struct Throttle {
    max: Duration,
    tables: Mutex<Tables>,
}

impl Throttle {
    /// Attempts wait at most `max`; zero = nothing is slowed.
    pub(crate) fn new(max: Duration) -> Throttle {
        let tables = Tables { pairs: Table::new(PAIR), addresses: Table::new(ADDRESS), users: Table::new(USER) };
        Throttle { max, tables: Mutex::new(tables) }
    }

    /// What an attempt may do that begins now.
    pub(crate) fn admit(&self, address: IpAddr, user: &str, now: Instant) -> Admit {
        if self.max.is_zero() {
            return Admit::After(Duration::ZERO);
        }
        let (address, user) = (network(address), ByteString::from(user));
        let pair = (address, user);
        let mut tables = self.tables.lock();
        let wait = tables.pairs.wait(&pair, now, self.max).max(tables.addresses.wait(&address, now, self.max));
        if wait > self.max {
            return Admit::Refuse;
        }
        tables.pairs.take_turn(&pair, now + wait, self.max);
        tables.addresses.take_turn(&address, now + wait, self.max);
        Admit::After(wait.max(tables.users.wait(&pair.1, now, self.max)))
    }

    /// An attempt had a wrong password, or a user that is not there.
    pub(crate) fn failed(&self, address: IpAddr, user: &str, now: Instant) {
        if self.max.is_zero() {
            return;
        }
        let (address, user) = (network(address), ByteString::from(user));
        let mut tables = self.tables.lock();
        tables.pairs.failed((address, user.clone()), now);
        tables.addresses.failed(address, now);
        tables.users.failed(user, now);
    }

    /// An attempt had the right password: what failed from there before was a slip. The address goes on counting: one who has an account
    /// could otherwise guess others between his own logins.
    pub(crate) fn succeeded(&self, address: IpAddr, user: &str) {
        let pair = (network(address), ByteString::from(user));
        self.tables.lock().pairs.rows.remove(&pair);
    }
}

/// Who has one IPv6 address has 2^64 of them.
pub(crate) fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: Duration = Duration::from_secs(5);
    const NO_WAIT: Admit = Admit::After(Duration::ZERO);

    fn address(n: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, n])
    }

    fn ms(n: u64) -> Admit {
        Admit::After(Duration::from_millis(n))
    }

    #[test]
    fn waits_grow_with_failures_up_to_the_limit_and_are_forgiven() {
        let throttle = Throttle::new(MAX);
        let mut now = Instant::now();
        let mut waits = Vec::new();
        for _ in 0..11 {
            let Admit::After(wait) = throttle.admit(address(1), "u", now) else {
                panic!("one at a time is not refused")
            };
            waits.push(wait.as_millis());
            now += wait;
            throttle.failed(address(1), "u", now);
        }
        assert_eq!(waits, [0, 0, 0, 0, 250, 500, 1000, 2000, 4000, 5000, 5000]);
        assert_eq!(throttle.admit(address(1), "v", now), NO_WAIT, "the same address, another user");
        assert_eq!(throttle.admit(address(2), "u", now), NO_WAIT, "the same user from elsewhere");
        now += Duration::from_secs(3600);
        assert_eq!(throttle.admit(address(1), "u", now), NO_WAIT);
    }

    #[test]
    fn many_connections_guess_no_faster_than_one() {
        let throttle = Throttle::new(MAX);
        let start = Instant::now();
        (0..8).for_each(|_| throttle.failed(address(1), "u", start));
        let admitted: Vec<_> = (0..1000).filter(|_| throttle.admit(address(1), "u", start) != Admit::Refuse).collect();
        assert_eq!(admitted.len(), 1, "one waits its 4 s, the others would wait longer than the limit");
        // Whoever guesses all users in turn is held by his address.
        for n in 0..40 {
            throttle.failed(address(2), &format!("u{n}"), start);
        }
        let admitted = (0..1000).filter(|n| throttle.admit(address(2), &format!("w{n}"), start) != Admit::Refuse);
        assert_eq!(admitted.count(), 1);
        // And whoever guesses one user from everywhere slows the user, who is never shut out.
        for n in 0..40 {
            throttle.failed(address(100 + n), "victim", start);
        }
        for _ in 0..100 {
            assert_eq!(throttle.admit(address(3), "victim", start), ms(5000));
        }
    }

    #[test]
    fn success_ends_the_waits_of_a_slip_and_not_those_of_the_address() {
        let throttle = Throttle::new(MAX);
        let now = Instant::now();
        (0..24).for_each(|_| throttle.failed(address(1), "u", now));
        throttle.succeeded(address(1), "u");
        assert_eq!(throttle.admit(address(1), "w", now), ms(2000));
        let off = Throttle::new(Duration::ZERO);
        (0..100).for_each(|_| off.failed(address(1), "u", now));
        assert_eq!(off.admit(address(1), "u", now), NO_WAIT);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let throttle = Throttle::new(MAX);
        let now = Instant::now();
        for n in 0..=u32::try_from(REMEMBERED_MAX).unwrap() {
            throttle.failed(IpAddr::from(n.to_be_bytes()), &n.to_string(), now);
        }
        let tables = throttle.tables.lock();
        assert!(tables.pairs.rows.len() <= REMEMBERED_MAX && tables.users.rows.len() <= REMEMBERED_MAX);
        assert_eq!(network("2001:db8:1:2:3::4".parse().unwrap()), network("2001:db8:1:2:ffff::".parse().unwrap()));
        assert_eq!(network("::ffff:10.0.0.1".parse().unwrap()), address(1));
    }
}
