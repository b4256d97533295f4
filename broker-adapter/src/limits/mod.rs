//! What single clients and single addresses may use of the broker, and what becomes of who asks for more.
//!
//! | limit | over it, MQTT 5 | before MQTT 5 |
//! |---|---|---|
//! | connections, of an address too | CONNACK 0x97 | CONNACK 3 |
//! | connects a second, of an address too | CONNACK 0x9F | CONNACK 3 |
//! | length of the client id | CONNACK 0x85 | CONNACK 2 |
//! | length and levels of topics: publish | PUBACK, PUBREC 0x90; QoS 0 is dropped | as QoS 0, else the connection ends |
//! | the same: will | CONNACK 0x90 | the connection ends |
//! | the same: filter | SUBACK 0x8F | SUBACK 0x80 |
//! | subscriptions of a client | SUBACK 0x97 | SUBACK 0x80 |
//! | messages and bytes a second | its socket is read later | the same |
//! | size of a packet | DISCONNECT 0x95 | the connection ends |
//! | publishes under way | DISCONNECT 0x93 | its socket is read later |
//!
//! Each is counted as [`LIMITED`], those of connections as refused connects too.

mod admission;
mod pace;

use crate::codec::reason;
use crate::metrics::LIMITED;

pub(crate) use admission::{Admission, Admitted};
pub(crate) use pace::Pace;

/// Limits of single clients and addresses. An IPv6 address counts with its /64; behind a proxy that says so (PROXY protocol) the
/// client's address counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections at a time from one address; 0 = any number.
    pub connections_per_address: usize,
    /// Connections taken in a second by all listeners together, and twice as many at once after a pause; 0 = any number.
    pub connects_per_s: u64,
    /// The same from one address; 0 = any number.
    pub connects_per_address_per_s: u64,
    /// Longest client id, bytes.
    pub client_id_bytes: usize,
    /// Longest topic name or filter, bytes; MQTT allows 65,535.
    pub topic_bytes: usize,
    /// Most levels of a topic name or filter; the engine takes 256.
    pub topic_levels: usize,
    /// Subscriptions of one session; 0 = any number. What the operator subscribes to on a client's behalf counts and is not refused.
    pub subscriptions_per_client: usize,
    /// PUBLISH packets that are taken from one connection in a second, and as many at once after a pause; 0 = any number.
    pub messages_per_s: u64,
    /// Bytes of MQTT packets that are taken from one connection in a second; 0 = any number.
    pub bytes_per_s: u64,
    /// Bytes of live messages that wait for one slow client before QoS 0 is shed, beside
    /// [`BrokerOptions::live_queue`](crate::BrokerOptions).
    pub live_queue_bytes: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connections_per_address: 25_000,
            connects_per_s: 5000,
            connects_per_address_per_s: 2500,
            client_id_bytes: 1024,
            topic_bytes: 4096,
            topic_levels: 128,
            subscriptions_per_client: 20_000,
            messages_per_s: 0,
            bytes_per_s: 0,
            live_queue_bytes: 16 * 1024 * 1024,
        }
    }
}

impl Limits {
    /// The limit that a topic name or filter is over.
    pub(crate) fn topic(&self, topic: &str) -> Option<Limit> {
        if topic.len() > self.topic_bytes {
            return Some(Limit::TopicBytes);
        }
        // So many levels need so many bytes: most topics are not looked through.
        let over =
            topic.len() >= self.topic_levels && topic.bytes().filter(|byte| *byte == b'/').count() >= self.topic_levels;
        over.then_some(Limit::TopicLevels)
    }

    /// True where a session with `now` subscriptions may not have another one.
    pub(crate) fn is_full(&self, now: usize) -> bool {
        self.subscriptions_per_client > 0 && now >= self.subscriptions_per_client
    }
}

/// A limit that somebody was over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Limit {
    Connections,
    ConnectionsPerAddress,
    ConnectRate,
    ConnectRatePerAddress,
    ConnectTimeout,
    PacketBytes,
    ReceiveMaximum,
    ClientIdBytes,
    TopicBytes,
    TopicLevels,
    Subscriptions,
    MessageRate,
    ByteRate,
}

impl Limit {
    /// The metric's word for it.
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Limit::Connections => "connections",
            Limit::ConnectionsPerAddress => "connections_per_address",
            Limit::ConnectRate => "connect_rate",
            Limit::ConnectRatePerAddress => "connect_rate_per_address",
            Limit::ConnectTimeout => "connect_timeout",
            Limit::PacketBytes => "packet_bytes",
            Limit::ReceiveMaximum => "receive_maximum",
            Limit::ClientIdBytes => "client_id_bytes",
            Limit::TopicBytes => "topic_bytes",
            Limit::TopicLevels => "topic_levels",
            Limit::Subscriptions => "subscriptions",
            Limit::MessageRate => "message_rate",
            Limit::ByteRate => "byte_rate",
        }
    }

    /// What the client is told.
    pub(crate) const fn text(self) -> &'static str {
        match self {
            Limit::Connections => "too many connections; try again later",
            Limit::ConnectionsPerAddress => "too many connections from this address",
            Limit::ConnectRate => "too many clients connect at this moment; try again later",
            Limit::ConnectRatePerAddress => "too many connects from this address; try again later",
            Limit::ConnectTimeout => "no CONNECT in time",
            Limit::PacketBytes => "a packet that is larger than Maximum Packet Size",
            Limit::ReceiveMaximum => "more publishes than Receive Maximum allows",
            Limit::ClientIdBytes => "the client id is too long",
            Limit::TopicBytes => "the topic is too long",
            Limit::TopicLevels => "the topic has too many levels",
            Limit::Subscriptions => "too many subscriptions",
            Limit::MessageRate => "too many messages a second",
            Limit::ByteRate => "too many bytes a second",
        }
    }

    /// The reason code of a CONNACK that refuses for it (MQTT 5).
    pub(crate) const fn connack(self) -> u8 {
        match self {
            Limit::ConnectRate | Limit::ConnectRatePerAddress => reason::CONNECTION_RATE_EXCEEDED,
            _ => reason::QUOTA_EXCEEDED,
        }
    }

    /// Counts it.
    pub(crate) fn hit(self) {
        metrics::counter!(LIMITED, "limit" => self.label()).increment(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_are_measured_in_bytes_and_levels() {
        let limits = Limits { topic_bytes: 8, topic_levels: 3, ..Limits::default() };
        for (topic, over) in [
            ("a/b/c", None),
            ("a/b/#", None),
            ("a/b/c/d", Some(Limit::TopicLevels)),
            ("///", Some(Limit::TopicLevels)),
            ("//", None),
            ("12345678", None),
            ("123456789", Some(Limit::TopicBytes)),
            ("été/été", Some(Limit::TopicBytes)),
        ] {
            assert_eq!(limits.topic(topic), over, "{topic}");
        }
    }

    #[test]
    fn subscriptions_are_limited_unless_the_limit_is_zero() {
        let limits = |subscriptions_per_client| Limits { subscriptions_per_client, ..Limits::default() };
        assert!(!limits(2).is_full(1) && limits(2).is_full(2) && limits(2).is_full(3));
        assert!(!limits(0).is_full(usize::MAX));
    }
}
