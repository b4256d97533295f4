//! Why bytes are not a packet, and MQTT 5's reason codes.

/// MQTT 5 reason codes by name.
#[allow(missing_docs, reason = "each name is the standard's own")]
pub mod reason {
    pub const SUCCESS: u8 = 0x00;
    pub const DISCONNECT_WITH_WILL: u8 = 0x04;
    pub const NO_MATCHING_SUBSCRIBERS: u8 = 0x10;
    pub const NO_SUBSCRIPTION_EXISTED: u8 = 0x11;
    pub const CONTINUE_AUTHENTICATION: u8 = 0x18;
    pub const REAUTHENTICATE: u8 = 0x19;
    pub const UNSPECIFIED_ERROR: u8 = 0x80;
    pub const MALFORMED_PACKET: u8 = 0x81;
    pub const PROTOCOL_ERROR: u8 = 0x82;
    pub const IMPLEMENTATION_SPECIFIC_ERROR: u8 = 0x83;
    pub const UNSUPPORTED_PROTOCOL_VERSION: u8 = 0x84;
    pub const CLIENT_IDENTIFIER_NOT_VALID: u8 = 0x85;
    pub const BAD_USER_NAME_OR_PASSWORD: u8 = 0x86;
    pub const NOT_AUTHORIZED: u8 = 0x87;
    pub const SERVER_UNAVAILABLE: u8 = 0x88;
    pub const SERVER_BUSY: u8 = 0x89;
    pub const SERVER_SHUTTING_DOWN: u8 = 0x8B;
    pub const BAD_AUTHENTICATION_METHOD: u8 = 0x8C;
    pub const KEEP_ALIVE_TIMEOUT: u8 = 0x8D;
    pub const SESSION_TAKEN_OVER: u8 = 0x8E;
    pub const TOPIC_FILTER_INVALID: u8 = 0x8F;
    pub const TOPIC_NAME_INVALID: u8 = 0x90;
    pub const PACKET_ID_NOT_FOUND: u8 = 0x92;
    pub const RECEIVE_MAXIMUM_EXCEEDED: u8 = 0x93;
    pub const TOPIC_ALIAS_INVALID: u8 = 0x94;
    pub const PACKET_TOO_LARGE: u8 = 0x95;
    pub const QUOTA_EXCEEDED: u8 = 0x97;
    pub const ADMINISTRATIVE_ACTION: u8 = 0x98;
    pub const PAYLOAD_FORMAT_INVALID: u8 = 0x99;
    pub const SHARED_SUBSCRIPTIONS_NOT_SUPPORTED: u8 = 0x9E;
    pub const CONNECTION_RATE_EXCEEDED: u8 = 0x9F;

    /// What a refusal says to people, in the words of this server; `None` where the code alone is all there is to say.
    #[must_use]
    pub const fn text(code: u8) -> Option<&'static str> {
        Some(match code {
            NOT_AUTHORIZED => "not allowed to this client",
            QUOTA_EXCEEDED => "no room for it now; try again later",
            PAYLOAD_FORMAT_INVALID => "the payload is not the UTF-8 that its format indicator promises",
            TOPIC_FILTER_INVALID => "a topic filter that MQTT does not allow",
            SHARED_SUBSCRIPTIONS_NOT_SUPPORTED => "shared subscriptions are not supported",
            _ => return None,
        })
    }
}

/// Why bytes are not a packet. [`DecodeError::reason_code`] is what an MQTT 5 peer is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The remaining length or another variable byte integer has more than four bytes, or more than it needs.
    #[error("a variable byte integer is longer than four bytes or not in its shortest form")]
    VarintTooLong,
    /// The packet is larger than the limit; its body was not read.
    #[error("packet of {size} bytes is larger than the limit of {max}")]
    TooLarge {
        /// Its size with the fixed header.
        size: usize,
        /// The limit.
        max: usize,
    },
    /// A field runs past the packet's end.
    #[error("the packet ends inside a field")]
    Truncated,
    /// Bytes are left after the last field.
    #[error("bytes are left after the packet's last field")]
    Trailing,
    /// A packet type that does not exist (in this version).
    #[error("packet type {0} does not exist in this protocol version")]
    UnknownType(u8),
    /// Reserved bits are set, or required ones are not.
    #[error("reserved bits of the header are wrong")]
    ReservedBits,
    /// A string that is not UTF-8 or contains U+0000.
    #[error("a string is not UTF-8 or contains U+0000")]
    InvalidString,
    /// QoS 3.
    #[error("QoS 3 does not exist")]
    InvalidQoS,
    /// DUP set with QoS 0.
    #[error("DUP is set on a QoS 0 publish")]
    DupWithQos0,
    /// Packet id 0.
    #[error("packet id 0 is not allowed")]
    PacketIdZero,
    /// Will flags without a will, password without a user name (MQTT 3) or the reserved flag.
    #[error("the connect flags contradict each other")]
    ConnectFlags,
    /// Not MQTT.
    #[error("the protocol name is not MQTT's")]
    ProtocolName,
    /// A version of MQTT that is not spoken here.
    #[error("protocol level {0} is not supported (3, 4 and 5 are)")]
    UnsupportedVersion(u8),
    /// The first packet is not CONNECT.
    #[error("the first packet is not CONNECT")]
    ConnectExpected,
    /// A property that does not exist.
    #[error("property {0:#04x} does not exist")]
    UnknownProperty(u32),
    /// A property that this packet can't have.
    #[error("property {0:#04x} does not belong to this packet")]
    MisplacedProperty(u32),
    /// A property that stands twice.
    #[error("property {0:#04x} stands twice")]
    DuplicateProperty(u32),
    /// A property with a value it can't have.
    #[error("property {0:#04x} has a value that is not allowed")]
    PropertyValue(u32),
    /// SUBSCRIBE, UNSUBSCRIBE, SUBACK or UNSUBACK with nothing in it.
    #[error("the packet lists no topic filter")]
    NoFilters,
    /// Subscription options with reserved bits.
    #[error("reserved bits of the subscription options are set")]
    SubscriptionOptions,
    /// Subscription options of MQTT 5 with a QoS or a retain handling of 3.
    #[error("the subscription options have a QoS or a retain handling of 3")]
    SubscriptionValue,
    /// A topic alias of zero.
    #[error("topic alias 0 is not allowed")]
    TopicAliasZero,
}

impl DecodeError {
    /// The MQTT 5 reason code for DISCONNECT or CONNACK.
    #[must_use]
    pub const fn reason_code(self) -> u8 {
        match self {
            DecodeError::TooLarge { .. } => reason::PACKET_TOO_LARGE,
            DecodeError::UnsupportedVersion(_) => reason::UNSUPPORTED_PROTOCOL_VERSION,
            DecodeError::TopicAliasZero => reason::TOPIC_ALIAS_INVALID,
            DecodeError::ConnectExpected
            | DecodeError::SubscriptionValue
            | DecodeError::DuplicateProperty(_)
            | DecodeError::PropertyValue(_)
            | DecodeError::NoFilters => reason::PROTOCOL_ERROR,
            _ => reason::MALFORMED_PACKET,
        }
    }
}
