//! Clients, sessions, subscriptions and messages as admin HTTP gives and takes them.

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::out::one_line;

/// Part of a list, in order.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Page<T> {
    /// The rows.
    pub rows: Vec<T>,
    /// Where the next part begins: `after` of the next request. None: this was the last part.
    pub next: Option<String>,
}

impl<T> Page<T> {
    /// A part that was to have at most `limit` rows; `key` names a row's place.
    pub fn of(rows: Vec<T>, limit: usize, key: impl Fn(&T) -> String) -> Page<T> {
        let next = rows.last().filter(|_| rows.len() >= limit).map(key);
        Page { rows, next }
    }
}

/// A connected client.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ClientRow {
    /// Client id.
    pub client: String,
    /// Its address and port.
    pub address: String,
    /// User name, empty where there is none.
    pub username: String,
    /// Protocol version: `3.1`, `3.1.1`, `5`; empty while its session is being opened.
    pub protocol: String,
    /// The listener it came through.
    pub listener: Option<String>,
    /// Since when, us since 1970.
    pub connected_since_us: u64,
    /// Keep alive, seconds; 0 = none.
    pub keep_alive_s: u16,
    /// Whether it asked for a clean start.
    pub clean_start: bool,
    /// How long its session outlives the connection, seconds.
    pub session_expiry_s: u32,
    /// QoS 1 and 2 messages sent to it that it has not acknowledged.
    pub in_flight: u64,
    /// Publishes of its own that are not acknowledged.
    pub receiving: u64,
    /// QoS 0 messages that wait in memory until it reads.
    pub queued: u64,
}

/// A session, its client connected or not.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct SessionRow {
    /// Client id.
    pub client: String,
    /// Whether the client is connected.
    pub connected: bool,
    /// User name, empty where there is none.
    pub username: String,
    /// How long it outlives its connection, seconds; 4294967295 = for ever.
    pub expiry_s: u32,
    /// While the client is away: when it ends, us since 1970; none = never.
    pub ends_at_us: Option<u64>,
    /// How many subscriptions it has.
    pub subscriptions: u64,
    /// Records of the log, of whatever topic, that its furthest read position has still to look at; none where it has none.
    pub behind_records: Option<u64>,
    /// QoS 2 messages on their way to the client.
    pub in_flight: u64,
    /// QoS 2 packet ids received from the client and not released.
    pub receiving: u64,
    /// Topic of the will that waits.
    pub will: Option<String>,
}

/// A subscription.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct SubscriptionRow {
    /// Client id.
    pub client: String,
    /// Topic filter.
    pub filter: String,
    /// Granted QoS.
    pub qos: u8,
    /// Whether its own messages are left out.
    pub no_local: bool,
    /// Whether the retain flag is passed on.
    pub retain_as_published: bool,
    /// Subscription identifier; none = 0.
    pub identifier: u32,
    /// Whether the client is connected.
    pub connected: bool,
}

/// A retained message.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct RetainedRow {
    /// Topic.
    pub topic: String,
    /// Size of its payload, bytes.
    pub bytes: u64,
    /// QoS it was published with.
    pub qos: u8,
    /// When it was published, us since 1970.
    pub time_us: u64,
    /// Its record.
    pub lsn: u64,
    /// Client id of the publisher, empty where there is none.
    pub publisher: String,
    /// When it expires, us since 1970: nobody is given it from then on; none = never.
    pub expires_at_us: Option<u64>,
    /// The payload, where it was asked for and is UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload: Option<String>,
    /// The payload in hexadecimal, where it was asked for and is not UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload_hex: Option<String>,
}

/// A message to be published.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PublishRequest {
    /// Topic.
    pub topic: String,
    /// The payload as text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload: Option<String>,
    /// The payload in hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload_hex: Option<String>,
    /// QoS, 0 to 2.
    #[serde(default)]
    pub qos: u8,
    /// Whether it is retained.
    #[serde(default)]
    pub retain: bool,
    /// Message expiry, seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expiry_s: Option<u32>,
    /// Content type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    /// Response topic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response_topic: Option<String>,
    /// User properties, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub user: Vec<(String, String)>,
}

/// A message that was published.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct PublishedRow {
    /// In words.
    pub done: String,
    /// Its record, durable; none where nobody has asked for it to be stored.
    pub lsn: Option<u64>,
    /// Its public name.
    pub msgid: Option<String>,
}

/// A topic.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct TopicRequest {
    /// The topic.
    pub topic: String,
}

/// The bytes that hexadecimal digits stand for.
pub fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> =
        text.chars().map(|digit| digit.to_digit(16).and_then(|n| u8::try_from(n).ok())).collect();
    let digits = digits.filter(|digits| digits.len() % 2 == 0)?;
    Some(digits.chunks_exact(2).map(|pair| pair.iter().fold(0, |byte, digit| byte << 4 | digit)).collect())
}

/// Bytes in hexadecimal.
pub fn to_hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// A name in a line, or a dash.
fn or_dash(text: &str) -> Cow<'_, str> {
    if text.is_empty() { "-".into() } else { one_line(text) }
}

impl ClientRow {
    /// The heads of its columns.
    pub const HEAD: &'static str = "client                   user             address                protocol  \
         keep alive  in flight  receiving  queued  connected since (us)";
}

impl fmt::Display for ClientRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ClientRow { address, protocol, keep_alive_s, in_flight, receiving, queued, .. } = self;
        let (client, user) = (one_line(&self.client), or_dash(&self.username));
        write!(
            f,
            "{client:<24} {user:<16} {address:<22} {:<8} {keep_alive_s:>9} s  {in_flight:>9}  {receiving:>9}  {queued:>6}  {}",
            or_dash(protocol),
            self.connected_since_us
        )
    }
}

impl SessionRow {
    /// The heads of its columns.
    pub const HEAD: &'static str = "client                   user             state       subscriptions  behind (records)  \
         in flight  expires";
}

impl fmt::Display for SessionRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let SessionRow { subscriptions, in_flight, .. } = self;
        let (client, user) = (one_line(&self.client), or_dash(&self.username));
        let state = if self.connected { "connected" } else { "away" };
        let behind = self.behind_records.map_or_else(|| "-".to_owned(), |records| records.to_string());
        write!(f, "{client:<24} {user:<16} {state:<11} {subscriptions:>13}  {behind:>16}  {in_flight:>9}  ")?;
        match (self.ends_at_us, self.expiry_s) {
            (Some(end), _) => write!(f, "at {end} us")?,
            (None, 0) => write!(f, "with its connection")?,
            (None, u32::MAX) => write!(f, "never")?,
            (None, seconds) => write!(f, "{seconds} s after its connection")?,
        }
        self.will.iter().try_for_each(|topic| write!(f, "  (will: {})", one_line(topic)))
    }
}

impl SubscriptionRow {
    /// The heads of its columns.
    pub const HEAD: &'static str = "client                   filter                           qos  state";
}

impl fmt::Display for SubscriptionRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let SubscriptionRow { qos, .. } = self;
        let (client, filter) = (one_line(&self.client), one_line(&self.filter));
        let state = if self.connected { "connected" } else { "away" };
        write!(f, "{client:<24} {filter:<32} {qos:>3}  {state}")?;
        if self.no_local {
            write!(f, "  no local")?;
        }
        if self.retain_as_published {
            write!(f, "  retain as published")?;
        }
        if self.identifier > 0 {
            write!(f, "  identifier {}", self.identifier)?;
        }
        Ok(())
    }
}

impl RetainedRow {
    /// The heads of its columns.
    pub const HEAD: &'static str =
        "topic                            qos         bytes       record  published (us)    by";
}

impl fmt::Display for RetainedRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let RetainedRow { bytes, qos, time_us, lsn, .. } = self;
        let (topic, publisher) = (one_line(&self.topic), or_dash(&self.publisher));
        write!(f, "{topic:<32} {qos:>3}  {bytes:>12}  {lsn:>11}  {time_us}  {publisher}")?;
        self.expires_at_us.iter().try_for_each(|at| write!(f, "  expires at {at} us"))
    }
}

impl fmt::Display for PublishedRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hexadecimal_digits_are_bytes_or_nothing() {
        assert_eq!(from_hex("00fF7a"), Some(vec![0, 255, 0x7a]));
        assert_eq!(from_hex(""), Some(Vec::new()));
        for bad in ["0", "0g", "é", "00 0"] {
            assert_eq!(from_hex(bad), None, "{bad}");
        }
        assert_eq!(to_hex(&[0, 255, 0x7a]), "00ff7a");
    }

    #[test]
    fn a_page_names_the_next_one_unless_it_is_the_last() {
        let key = |n: &u8| n.to_string();
        assert_eq!(Page::of(vec![1, 2], 2, key).next.as_deref(), Some("2"));
        assert_eq!(Page::of(vec![1], 2, key).next, None);
        assert_eq!(Page::of(Vec::new(), 2, key).next, None);
    }
}
