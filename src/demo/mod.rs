//! `forebay demo`: an outage and a crash, played with a server process of its own and MQTT clients, and counted.

use std::fmt;

use crate::cli::Options;
use crate::exit::{Exit, Failure};

#[allow(dead_code, reason = "tests use more of it")]
mod client;
mod process;
mod story;

/// Messages of each act.
const MESSAGES: u64 = 500;

/// An act with what became of its messages; messages are counted once, however often they came.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Act {
    /// What happened meanwhile.
    pub name: &'static str,
    /// Messages given to the publisher.
    pub sent: u64,
    /// Acknowledged to it.
    pub acknowledged: u64,
    /// In the log.
    pub logged: u64,
    /// Received by the subscriber.
    pub delivered: u64,
    /// In SQLite.
    pub stored: u64,
}

impl Act {
    /// True when every message arrived everywhere.
    fn complete(&self) -> bool {
        [self.acknowledged, self.logged, self.delivered, self.stored].iter().all(|count| *count == self.sent)
    }
}

/// What the story came to.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct Outcome {
    /// The acts.
    pub acts: Vec<Act>,
    /// QoS 2 messages that the subscriber got more than once.
    pub delivered_twice: u64,
    /// Messages that are more than once in SQLite though once in the log.
    pub stored_twice: u64,
    /// Seconds taken.
    pub seconds: f64,
}

impl Outcome {
    fn good(&self) -> bool {
        self.delivered_twice == 0 && self.stored_twice == 0 && self.acts.iter().all(Act::complete)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<44} {:>6} {:>6} {:>6} {:>9} {:>6}", "", "sent", "acked", "logged", "delivered", "stored")?;
        for act in &self.acts {
            let Act { name, sent, acknowledged, logged, delivered, stored } = act;
            let mark = if act.complete() { "" } else { "  <- off" };
            writeln!(f, "{name:<44} {sent:>6} {acknowledged:>6} {logged:>6} {delivered:>9} {stored:>6}{mark}")?;
        }
        writeln!(f, "QoS 2 messages delivered twice: {}", self.delivered_twice)?;
        writeln!(f, "messages stored twice: {}", self.stored_twice)?;
        write!(f, "{:.1} s", self.seconds)
    }
}

/// Runs `forebay demo`.
///
/// # Errors
/// Where a step fails, or a count is off.
pub fn run(options: &Options) -> Result<(), Failure> {
    let say = |line: &str| {
        if !options.json {
            println!("{line}");
        }
    };
    let outcome = story::play(&say)?;
    if options.json {
        println!("{}", serde_json::to_string(&outcome).unwrap_or_default());
    } else {
        println!("\n{outcome}");
    }
    verdict(&outcome)
}

fn verdict(outcome: &Outcome) -> Result<(), Failure> {
    if outcome.good() { Ok(()) } else { Err(Failure::new(Exit::Failure, "a count is off")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_that_is_off_fails_the_demonstration_and_is_marked() {
        let act = Act { name: "act", sent: 5, acknowledged: 5, logged: 5, delivered: 5, stored: 5 };
        let good = Outcome { acts: vec![act.clone(), act.clone()], ..Outcome::default() };
        assert!(verdict(&good).is_ok());
        let places: [fn(&mut Act) -> &mut u64; 4] =
            [|act| &mut act.acknowledged, |act| &mut act.logged, |act| &mut act.delivered, |act| &mut act.stored];
        for place in places {
            let mut off = good.clone();
            *place(&mut off.acts[1]) -= 1;
            assert_eq!(verdict(&off).unwrap_err().exit, Exit::Failure);
            assert_eq!(off.to_string().matches("<- off").count(), 1);
        }
        assert!(verdict(&Outcome { delivered_twice: 1, ..good.clone() }).is_err());
        assert!(verdict(&Outcome { stored_twice: 1, ..good }).is_err());
    }
}
