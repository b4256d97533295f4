//! The message of a PUBLISH as the log carries it: unaltered, with all MQTT 5 properties.

use bytes::Bytes;
use bytestring::ByteString;

/// Quality of service, MQTT's three levels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum QoS {
    /// At most once.
    #[default]
    AtMostOnce = 0,
    /// At least once.
    AtLeastOnce = 1,
    /// Exactly once.
    ExactlyOnce = 2,
}

impl QoS {
    /// 0, 1 or 2.
    #[must_use]
    pub const fn as_u8(self) -> u8 {
        self as u8
    }

    /// The level with this number; `None` above 2.
    #[must_use]
    pub const fn from_u8(n: u8) -> Option<QoS> {
        match n {
            0 => Some(QoS::AtMostOnce),
            1 => Some(QoS::AtLeastOnce),
            2 => Some(QoS::ExactlyOnce),
            _ => None,
        }
    }
}

/// A message. Cloning is cheap: the bytes are shared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// Topic name (never a filter; topic aliases are resolved before).
    pub topic: ByteString,
    /// Application payload, any bytes.
    pub payload: Bytes,
    /// QoS it was published with.
    pub qos: QoS,
    /// The retain flag it was published with.
    pub retain: bool,
    /// Client id of the publisher, empty where there is none (operator, import).
    pub publisher: ByteString,
    /// User name of the publisher, empty where there is none.
    pub username: ByteString,
    /// The publisher's address without its port, empty where there is none.
    pub peer: ByteString,
    /// Who made it.
    pub origin: Origin,
    /// MQTT 5 properties.
    pub properties: Properties,
}

/// Who made a message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Origin {
    /// A client's PUBLISH.
    #[default]
    Client,
    /// The will of the client named as publisher; its publication removes it.
    Will,
    /// An operator (`forebay publish`, admin HTTP).
    Operator,
    /// A row that another program put into a sink's database; not written back there.
    Import {
        /// The sink it was read from.
        sink: ByteString,
        /// The row's key there.
        key: ByteString,
        /// When that row says it was published, us since 1970 (0 = unknown).
        time_us: u64,
    },
}

/// The MQTT 5 properties that travel with a message from end to end, in order and unaltered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Properties {
    /// Payload format indicator: 0 bytes, 1 UTF-8 text; `None` where the publisher did not say.
    pub payload_format: Option<u8>,
    /// Message expiry interval in seconds, counted from the record time.
    pub expiry_s: Option<u32>,
    /// Content type.
    pub content_type: Option<ByteString>,
    /// Response topic.
    pub response_topic: Option<ByteString>,
    /// Correlation data.
    pub correlation_data: Option<Bytes>,
    /// User properties, in order, repeated names kept.
    pub user: Vec<(ByteString, ByteString)>,
}

impl Properties {
    /// True when there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Properties::default()
    }
}

impl Message {
    /// True when the message's expiry has passed at `now_us` for a record of `time_us`.
    #[must_use]
    pub fn expired(&self, time_us: u64, now_us: u64) -> bool {
        self.properties.expiry_s.is_some_and(|s| time_us.saturating_add(u64::from(s) * 1_000_000) <= now_us)
    }

    /// Seconds of expiry left at `now_us` (rounded up), `None` where the message does not expire.
    #[must_use]
    pub fn remaining_expiry_s(&self, time_us: u64, now_us: u64) -> Option<u32> {
        self.properties.expiry_s.map(|s| {
            let end = time_us.saturating_add(u64::from(s) * 1_000_000);
            u32::try_from(end.saturating_sub(now_us).div_ceil(1_000_000)).unwrap_or(u32::MAX)
        })
    }
}
