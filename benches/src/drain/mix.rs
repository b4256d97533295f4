//! Messages of which each sink takes as many as it is given: topics by halves.
//!
//! ```text
//!  all/1/… 32 of 64   all/2/… 16   all/3/… 8   all/4/… 4   all/5/… 2   all/6/… 1   all/7/… 1
//! ```

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use forebay_engine::event::Published;
use forebay_engine::{Engine, Event, Message, QoS};

use super::rows::{Rows, SENDER};

/// Parts of all messages.
pub const UNITS: u64 = 64;

const LEVELS: usize = 7;

/// Between two groups of messages.
const TICK: Duration = Duration::from_millis(10);

/// Messages, by how many there were of each level.
#[derive(Clone, Copy, Debug)]
pub struct Mix {
    rows: Rows,
    of: [u64; LEVELS],
}

impl Mix {
    /// No messages yet; `rows` says how long payloads are, and how many topics each level has.
    #[must_use]
    pub fn new(rows: Rows) -> Mix {
        Mix { rows, of: [0; LEVELS] }
    }

    /// Topic filters of so many parts of all messages.
    #[must_use]
    pub fn filters(units: u64) -> Vec<String> {
        if units >= UNITS {
            return vec!["all/#".to_owned()];
        }
        levels(units).map(|level| format!("all/{level}/#")).collect()
    }

    /// How many messages there were that these filters match.
    #[must_use]
    pub fn matched(&self, units: u64) -> u64 {
        if units >= UNITS {
            return self.all();
        }
        levels(units).filter_map(|level| self.of.get(level - 1)).sum()
    }

    /// How many messages there were.
    #[must_use]
    pub fn all(&self) -> u64 {
        self.of.iter().sum()
    }

    /// Publishes at this rate (messages a second) until it is told to stop, or the log takes no more.
    ///
    /// # Errors
    /// Where the log takes no more.
    pub async fn publish(mut self, engine: Engine, rate: u64, stop: &AtomicBool) -> Result<Mix> {
        let begun = Instant::now();
        let mut n = 0u64;
        let mut events = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            let due = u128::from(rate) * begun.elapsed().as_millis() / 1_000;
            while u128::from(n) < due {
                let level = (n.trailing_ones() as usize + 1).min(LEVELS);
                if let Some(count) = self.of.get_mut(level - 1) {
                    *count += 1;
                }
                let message = Message {
                    topic: format!("all/{level}/{}", (n >> 3) % self.rows.topics.max(1)).into(),
                    payload: self.rows.payload(n).into_bytes().into(),
                    qos: QoS::AtLeastOnce,
                    publisher: SENDER.into(),
                    ..Message::default()
                };
                events.push(Event::Published(Published { message, packet_id: None, epoch: 0 }));
                n += 1;
            }
            if !events.is_empty() {
                engine.append_wait(&events).await?;
                events.clear();
            }
            tokio::time::sleep(TICK).await;
        }
        Ok(self)
    }
}

/// The levels that so many parts are the sum of.
fn levels(units: u64) -> impl Iterator<Item = usize> {
    (1..LEVELS).filter(move |level| units & (UNITS >> level) != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_match_their_part_of_all_messages() {
        let mut mix = Mix::new(Rows { messages: 0, topics: 10, payload: 100 });
        for n in 0..6_400u64 {
            mix.of[(n.trailing_ones() as usize + 1).min(LEVELS) - 1] += 1;
        }
        for units in 1..=UNITS {
            assert_eq!(mix.matched(units), 100 * units, "{units}");
        }
        assert_eq!(Mix::filters(33), ["all/1/#", "all/6/#"]);
    }
}
