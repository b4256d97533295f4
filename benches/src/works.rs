//! Works: what a server is asked to do, each with a name that says it.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::load::{Load, Report};

/// Topics of a work with filters that nobody published to before.
const NEW_TOPICS: u32 = 500;

/// The works of a comparison, unless others are asked for: every QoS with 1 and with 256 in flight and two sizes, one publish at a time
/// that nobody gets, 1:100, 100:1, and 10,000 filters with 500 new topics.
pub const WORKS: [&str; 18] = [
    "qos0-1x1-128",
    "qos0-1x1-1024",
    "qos0-4x64-128",
    "qos0-4x64-1024",
    "qos1-1x1-128",
    "qos1-1x1-128-to0",
    "qos1-1x1-1024",
    "qos1-4x64-128",
    "qos1-4x64-1024",
    "qos2-1x1-128",
    "qos2-1x1-1024",
    "qos2-4x64-128",
    "qos2-4x64-1024",
    "qos0-1x64-128-to100",
    "qos1-1x64-128-to100",
    "qos0-100x4-128",
    "qos1-100x4-128",
    "qos1-4x64-128-filters10000",
];

/// One work. Its name is `qos<Q>-<publishers>x<in flight each>-<bytes>`, then `-to<subscribers>` where it isn't one, then
/// `-filters<N>` where other clients hold as many filters and the publishes go to 500 new topics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Work {
    qos: u8,
    publishers: u32,
    window: usize,
    payload: usize,
    subscribers: u32,
    filters: u32,
}

impl Work {
    /// The load of it.
    #[must_use]
    pub fn load(&self, server: SocketAddr, warm_up: Duration, time: Duration) -> Load {
        Load {
            server,
            qos: self.qos,
            publishers: self.publishers,
            window: self.window,
            payload: self.payload,
            warm_up,
            time,
            subscribers: self.subscribers,
            idle_filters: self.filters,
            new_topics: if self.filters > 0 { NEW_TOPICS } else { 0 },
            rate: None,
        }
    }

    /// QoS of publishes and subscriptions.
    #[must_use]
    pub fn qos(&self) -> u8 {
        self.qos
    }

    /// Messages a second from end to end: acknowledged and arrived everywhere, the lower of both rates (with QoS 0: arrived). What
    /// waits in a server at the end of the measured time, or waited there at its beginning, does not count.
    #[must_use]
    pub fn rate(&self, report: &Report) -> f64 {
        if self.subscribers == 0 {
            return report.acknowledged;
        }
        report.acknowledged.min(report.delivered / f64::from(self.subscribers))
    }

    /// A sentence for people.
    #[must_use]
    pub fn description(&self) -> String {
        let many = |n: u32, what: &str| if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") };
        let filters = match self.filters {
            0 => String::new(),
            n => format!(", {n} filters of others, {NEW_TOPICS} new topics"),
        };
        format!(
            "QoS {}, {} x {} in flight, {} B, {}{filters}",
            self.qos,
            many(self.publishers, "publisher"),
            self.window,
            self.payload,
            many(self.subscribers, "subscriber")
        )
    }
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "qos{}-{}x{}-{}", self.qos, self.publishers, self.window, self.payload)?;
        if self.subscribers != 1 {
            write!(f, "-to{}", self.subscribers)?;
        }
        if self.filters > 0 {
            write!(f, "-filters{}", self.filters)?;
        }
        Ok(())
    }
}

impl FromStr for Work {
    type Err = anyhow::Error;

    fn from_str(name: &str) -> Result<Work> {
        let form = || {
            format!("{name:?} is no work: qos<0..2>-<publishers>x<in flight>-<bytes>[-to<subscribers>][-filters<N>]")
        };
        let mut parts = name.split('-');
        let mut next = || parts.next().with_context(form);
        let qos: u8 = next()?.strip_prefix("qos").with_context(form)?.parse().with_context(form)?;
        let (publishers, window) = next()?.split_once('x').with_context(form)?;
        let mut work = Work {
            qos,
            publishers: publishers.parse().with_context(form)?,
            window: window.parse().with_context(form)?,
            payload: next()?.parse().with_context(form)?,
            subscribers: 1,
            filters: 0,
        };
        for part in parts {
            if let Some(n) = part.strip_prefix("to") {
                work.subscribers = n.parse().with_context(form)?;
            } else {
                work.filters = part.strip_prefix("filters").with_context(form)?.parse().with_context(form)?;
            }
        }
        anyhow::ensure!(qos <= 2 && work.publishers > 0 && work.window > 0, form());
        anyhow::ensure!(work.qos > 0 || work.subscribers > 0, "{name:?}: QoS 0 is measured where it arrives");
        Ok(work)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_their_works() -> Result<()> {
        for name in WORKS {
            assert_eq!(name.parse::<Work>()?.to_string(), name);
        }
        for wrong in ["qos3-1x1-128", "qos1-0x1-128", "qos1-4x64", "qos1-4x64-128-from2", "fan-out", "qos0-1x1-128-to0"]
        {
            assert!(wrong.parse::<Work>().is_err(), "{wrong}");
        }
        Ok(())
    }
}
