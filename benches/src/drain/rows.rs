//! The rows that both sides store, by number.

/// How many there are, over how many topics, with how long a payload.
#[derive(Clone, Copy, Debug)]
pub struct Rows {
    /// Messages.
    pub messages: u64,
    /// Topics, taken in turns.
    pub topics: u64,
    /// Bytes of a payload, 100 at least.
    pub payload: usize,
}

/// When the rows that are not the sink's were sent, s since 1970, and as SQL writes it.
pub(crate) const SECONDS: u64 = 1_763_800_000;
pub(crate) const ARRIVED: &str = "2025-11-22 08:26:40";

/// Who sent them.
pub(crate) const SENDER: &str = "publisher";

impl Rows {
    /// The number that its payload has as its temperature.
    pub(crate) fn temperature(n: u64) -> String {
        format!("{}.{:02}", 15 + n % 20, n % 100)
    }

    /// The number that its payload has as its humidity.
    pub(crate) fn humidity(n: u64) -> u64 {
        30 + n % 60
    }

    /// `plant/7/line/42/state`
    pub(crate) fn topic(&self, n: u64) -> String {
        let topic = n % self.topics.max(1);
        format!("plant/{}/line/{topic}/state", topic % 10)
    }

    /// A JSON object of the wanted length.
    pub(crate) fn payload(&self, n: u64) -> String {
        let mut text = format!(
            r#"{{"device":"d{:05}","seq":{n},"temperature":{},"humidity":{},"note":""#,
            n % self.topics.max(1),
            Self::temperature(n),
            Self::humidity(n)
        );
        let rest = self.payload.saturating_sub(text.len() + 2);
        text.extend("lorem ipsum dolor sit amet ".chars().cycle().take(rest));
        text.push_str("\"}");
        text
    }

    /// A name as long as the sink's own.
    pub(crate) fn msgid(n: u64) -> String {
        format!("{n:020}")
    }
}
