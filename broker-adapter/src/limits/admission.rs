//! Who may come in: connections and connects of each address, connects of all.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::pace::Rate;
use super::{Limit, Limits};
use crate::access::network;

/// What may come at once after a pause, as time at the rate.
const BURST: Duration = Duration::from_secs(2);
/// Addresses that are remembered before it is looked for those that matter no more.
const SWEEP_AT: usize = 1024;
/// Clients at a time that are told why they are turned away; others are closed without a word.
const TOLD_AT_ONCE: usize = 64;
/// Refusals are said in the server's messages no more often than this.
const SAY_EVERY: Duration = Duration::from_secs(10);

struct Address {
    open: usize,
    rate: Rate,
}

struct Tables {
    all: Rate,
    addresses: HashMap<IpAddr, Address>,
    sweep_at: usize,
    /// When refusals were said last, and how many there were since.
    said: Option<Instant>,
    unsaid: u64,
}

/// See the module.
pub(crate) struct Admission {
    connections_per_address: usize,
    connects_per_s: u64,
    connects_per_address_per_s: u64,
    tables: Mutex<Tables>,
    told: Arc<Semaphore>,
}

/// An admitted connection; given back when dropped.
pub(crate) struct Admitted {
    admission: Arc<Admission>,
    address: IpAddr,
}

impl Admission {
    pub(crate) fn new(limits: &Limits) -> Admission {
        let tables = Tables {
            all: Rate::new(Instant::now()),
            addresses: HashMap::new(),
            sweep_at: SWEEP_AT,
            said: None,
            unsaid: 0,
        };
        Admission {
            connections_per_address: limits.connections_per_address,
            connects_per_s: limits.connects_per_s,
            connects_per_address_per_s: limits.connects_per_address_per_s,
            tables: Mutex::new(tables),
            told: Arc::new(Semaphore::new(TOLD_AT_ONCE)),
        }
    }

    /// Lets a connection from this address in, or says which limit it is over. The address's own limits come first, so that what is
    /// turned away for them uses up nothing of the others' share.
    pub(crate) fn admit(self: &Arc<Self>, peer: IpAddr, now: Instant) -> Result<Admitted, Limit> {
        let address = network(peer);
        let mut tables = self.tables.lock();
        let Tables { all, addresses, sweep_at, .. } = &mut *tables;
        if addresses.len() >= *sweep_at {
            addresses.retain(|_, row| row.open > 0 || !row.rate.is_idle(now));
            *sweep_at = SWEEP_AT.max(addresses.len() * 2);
        }
        let row = addresses.entry(address).or_insert_with(|| Address { open: 0, rate: Rate::new(now) });
        let (most, per_s) = (self.connections_per_address, self.connects_per_address_per_s);
        let limit = if most > 0 && row.open >= most {
            Some(Limit::ConnectionsPerAddress)
        } else if per_s > 0 && !row.rate.try_use(per_s, BURST, now) {
            Some(Limit::ConnectRatePerAddress)
        } else if self.connects_per_s > 0 && !all.try_use(self.connects_per_s, BURST, now) {
            Some(Limit::ConnectRate)
        } else {
            None
        };
        match limit {
            Some(limit) => Err(limit),
            None => {
                row.open += 1;
                Ok(Admitted { admission: Arc::clone(self), address })
            }
        }
    }

    /// A turn to be told why one is turned away.
    pub(crate) fn turn(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.told).try_acquire_owned().ok()
    }

    /// Whether a refusal is to be said among the server's messages, and for how many it stands: an attack must not fill the disk.
    pub(crate) fn say(&self, now: Instant) -> Option<u64> {
        let mut tables = self.tables.lock();
        tables.unsaid += 1;
        if tables.said.is_some_and(|said| now < said + SAY_EVERY) {
            return None;
        }
        tables.said = Some(now);
        Some(std::mem::take(&mut tables.unsaid))
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        if let Some(row) = self.admission.tables.lock().addresses.get_mut(&self.address) {
            row.open = row.open.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admission(connections_per_address: usize, connects_per_s: u64, per_address: u64) -> Arc<Admission> {
        let limits = Limits {
            connections_per_address,
            connects_per_s,
            connects_per_address_per_s: per_address,
            ..Limits::default()
        };
        Arc::new(Admission::new(&limits))
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_has_its_connections_and_gives_them_back() {
        let (admission, now) = (admission(2, 0, 0), Instant::now());
        let first = admission.admit(ip("10.0.0.1"), now).ok();
        let second = admission.admit(ip("::ffff:10.0.0.1"), now).ok();
        assert!(first.is_some() && second.is_some());
        assert_eq!(admission.admit(ip("10.0.0.1"), now).err(), Some(Limit::ConnectionsPerAddress));
        assert!(admission.admit(ip("10.0.0.2"), now).is_ok());
        drop(first);
        assert!(admission.admit(ip("10.0.0.1"), now).is_ok());
        let one = admission.admit(ip("2001:db8:0:1::1"), now);
        let two = admission.admit(ip("2001:db8:0:1:ffff::2"), now);
        assert_eq!(admission.admit(ip("2001:db8:0:1:2::3"), now).err(), Some(Limit::ConnectionsPerAddress), "a /64");
        assert!(admission.admit(ip("2001:db8:0:2::1"), now).is_ok() && one.is_ok() && two.is_ok());
    }

    #[test]
    fn one_address_that_comes_too_often_uses_nothing_of_the_others() {
        let (admission, now) = (admission(0, 10, 2), Instant::now());
        let mut admitted = Vec::new();
        let mut limits = Vec::new();
        for _ in 0..100 {
            match admission.admit(ip("10.0.0.1"), now) {
                Ok(place) => admitted.push(place),
                Err(limit) => limits.push(limit),
            }
        }
        assert_eq!(admitted.len(), 4, "two seconds' worth");
        assert!(limits.iter().all(|limit| *limit == Limit::ConnectRatePerAddress), "{limits:?}");
        let others = (0..100u8).filter(|n| admission.admit(IpAddr::from([10, 1, 0, *n]), now).is_ok()).count();
        assert_eq!(others, 16, "what is left of the twenty of all");
        assert_eq!(admission.admit(ip("10.2.0.1"), now).err(), Some(Limit::ConnectRate));
        assert!(admission.admit(ip("10.2.0.1"), now + Duration::from_millis(100)).is_ok());
    }

    #[test]
    fn what_is_remembered_of_addresses_is_bounded() {
        let (admission, mut now) = (admission(1, 0, 10), Instant::now());
        let kept = admission.admit(ip("10.255.0.1"), now);
        for n in 0..100_000u32 {
            let _ = admission.admit(IpAddr::from(n.to_be_bytes()), now);
            now += Duration::from_millis(1);
        }
        let len = admission.tables.lock().addresses.len();
        assert!(len <= 2 * SWEEP_AT, "{len}");
        assert!(admission.admit(ip("10.255.0.1"), now).is_err(), "one that is open is not forgotten");
        drop(kept);
        assert!(admission.admit(ip("10.255.0.1"), now).is_ok());
    }

    #[test]
    fn refusals_are_said_now_and_then() {
        let (admission, now) = (admission(1, 0, 0), Instant::now());
        assert_eq!(admission.say(now), Some(1));
        assert!((0..50).all(|_| admission.say(now).is_none()));
        assert_eq!(admission.say(now + SAY_EVERY), Some(51));
    }
}
