//! `[limits]`: what single clients and addresses may use.

use forebay_broker_adapter::Limits;

/// See [`Limits`]; 0 = no limit, where that is possible.
#[derive(Clone, Debug)]
pub struct LimitSettings {
    /// How long a connection may take until its CONNECT is complete, milliseconds.
    pub connect_timeout_ms: u64,
    /// Connections at a time from one address.
    pub connections_per_address_max: u64,
    /// Connections taken in a second.
    pub connects_per_s_max: u64,
    /// Connections taken in a second from one address.
    pub connects_per_address_per_s_max: u64,
    /// Longest client id, bytes.
    pub client_id_bytes_max: u64,
    /// Longest topic name or filter, bytes.
    pub topic_bytes_max: u64,
    /// Most levels of a topic name or filter.
    pub topic_levels_max: u64,
    /// Subscriptions of one session.
    pub subscriptions_per_client_max: u64,
    /// Publishes taken from one connection in a second.
    pub messages_per_s_max: u64,
    /// Bytes taken from one connection in a second.
    pub bytes_per_s_max: u64,
    /// Live messages that wait for one slow client.
    pub live_queue_messages_max: u64,
    /// Their bytes.
    pub live_queue_bytes_max: u64,
}

impl Default for LimitSettings {
    fn default() -> LimitSettings {
        let limits = Limits::default();
        LimitSettings {
            connect_timeout_ms: 10_000,
            connections_per_address_max: limits.connections_per_address as u64,
            connects_per_s_max: limits.connects_per_s,
            connects_per_address_per_s_max: limits.connects_per_address_per_s,
            client_id_bytes_max: limits.client_id_bytes as u64,
            topic_bytes_max: limits.topic_bytes as u64,
            topic_levels_max: limits.topic_levels as u64,
            subscriptions_per_client_max: limits.subscriptions_per_client as u64,
            messages_per_s_max: limits.messages_per_s,
            bytes_per_s_max: limits.bytes_per_s,
            live_queue_messages_max: forebay_broker_adapter::DEFAULT_LIVE_QUEUE as u64,
            live_queue_bytes_max: limits.live_queue_bytes as u64,
        }
    }
}

impl LimitSettings {
    /// The broker's form of them.
    pub fn limits(&self) -> Limits {
        let size = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
        Limits {
            connections_per_address: size(self.connections_per_address_max),
            connects_per_s: self.connects_per_s_max,
            connects_per_address_per_s: self.connects_per_address_per_s_max,
            client_id_bytes: size(self.client_id_bytes_max),
            topic_bytes: size(self.topic_bytes_max),
            topic_levels: size(self.topic_levels_max),
            subscriptions_per_client: size(self.subscriptions_per_client_max),
            messages_per_s: self.messages_per_s_max,
            bytes_per_s: self.bytes_per_s_max,
            live_queue_bytes: size(self.live_queue_bytes_max),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Settings;
    use crate::config::fields::{Slot, by_key};

    #[test]
    fn the_defaults_are_the_broker_s() {
        assert_eq!(LimitSettings::default().limits(), Limits::default());
        assert_eq!(LimitSettings::default().connect_timeout_ms, 10_000);
    }

    #[test]
    fn every_limit_reaches_the_broker() {
        let keys = [
            "connections_per_address_max",
            "connects_per_s_max",
            "connects_per_address_per_s_max",
            "client_id_bytes_max",
            "topic_bytes_max",
            "topic_levels_max",
            "subscriptions_per_client_max",
            "messages_per_s_max",
            "bytes_per_s_max",
            "live_queue_bytes_max",
        ];
        let mut seen = vec![Limits::default()];
        for key in keys {
            let field = by_key(&format!("limits.{key}")).unwrap();
            let Slot::Number { min, max, .. } = field.slot else { panic!("{key} is a number") };
            let mut settings = Settings::default();
            field.set_number(&mut settings, max).unwrap();
            let most = settings.limits.limits();
            field.set_number(&mut settings, min + 1).unwrap();
            let least = settings.limits.limits();
            assert!(!seen.contains(&least) && least != most, "{key} changes a limit of its own: {least:?}");
            seen.push(least);
        }
    }
}
