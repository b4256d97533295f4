//! The neutral packet types.

use bytes::Bytes;
use bytestring::ByteString;
use forebay_engine::QoS;
use forebay_engine::event::{Properties, SubscriptionOptions};

/// Protocol version of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Version {
    /// MQTT 3.1 (`MQIsdp`, level 3).
    V31 = 3,
    /// MQTT 3.1.1 (level 4).
    V311 = 4,
    /// MQTT 5.
    V5 = 5,
}

impl Version {
    /// True for MQTT 5.
    #[must_use]
    pub const fn is_v5(self) -> bool {
        matches!(self, Version::V5)
    }
}

/// A control packet.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each variant is the standard's packet of that name; the payloads are documented")]
pub enum Packet {
    Connect(Box<Connect>),
    ConnAck(Box<ConnAck>),
    Publish(Publish),
    PubAck(Ack),
    PubRec(Ack),
    PubRel(Ack),
    PubComp(Ack),
    Subscribe(Subscribe),
    SubAck(SubAck),
    Unsubscribe(Unsubscribe),
    UnsubAck(SubAck),
    PingReq,
    PingResp,
    Disconnect(Disconnect),
    Auth(Disconnect),
}

/// A packet's type, as in the fixed header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[allow(missing_docs, reason = "the standard's names")]
pub enum PacketKind {
    Connect = 1,
    ConnAck = 2,
    Publish = 3,
    PubAck = 4,
    PubRec = 5,
    PubRel = 6,
    PubComp = 7,
    Subscribe = 8,
    SubAck = 9,
    Unsubscribe = 10,
    UnsubAck = 11,
    PingReq = 12,
    PingResp = 13,
    Disconnect = 14,
    Auth = 15,
}

/// User properties, in order, repeated names kept.
pub type UserProperties = Vec<(ByteString, ByteString)>;

/// CONNECT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connect {
    /// Protocol version.
    pub version: Version,
    /// Client id, empty where the server is to choose one.
    pub client_id: ByteString,
    /// Clean start (MQTT 3: clean session).
    pub clean_start: bool,
    /// Keep alive in seconds, 0 = off.
    pub keep_alive_s: u16,
    /// Will.
    pub will: Option<ConnectWill>,
    /// User name.
    pub username: Option<ByteString>,
    /// Password.
    pub password: Option<Bytes>,
    /// MQTT 5 properties.
    pub properties: ConnectProperties,
}

impl Connect {
    /// The largest packet its client takes, bytes.
    #[must_use]
    pub fn max_packet_bytes(&self) -> usize {
        self.properties.maximum_packet_size.map_or(super::PACKET_BYTES_MAX, |bytes| bytes as usize)
    }
}

/// The will in a CONNECT.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConnectWill {
    /// Topic.
    pub topic: ByteString,
    /// Payload.
    pub payload: Bytes,
    /// QoS.
    pub qos: QoS,
    /// Retain flag.
    pub retain: bool,
    /// Seconds between the connection's end and the publication.
    pub delay_s: u32,
    /// Properties of the message.
    pub properties: Properties,
}

/// Properties of CONNECT.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConnectProperties {
    /// Session expiry interval, seconds.
    pub session_expiry_s: Option<u32>,
    /// Receive maximum.
    pub receive_maximum: Option<u16>,
    /// Maximum packet size the client takes.
    pub maximum_packet_size: Option<u32>,
    /// Topic aliases the client takes.
    pub topic_alias_maximum: Option<u16>,
    /// Request response information.
    pub request_response_information: Option<bool>,
    /// Request problem information (absent = yes).
    pub request_problem_information: Option<bool>,
    /// Authentication method.
    pub authentication_method: Option<ByteString>,
    /// Authentication data.
    pub authentication_data: Option<Bytes>,
    /// User properties.
    pub user: UserProperties,
}

/// CONNACK.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConnAck {
    /// The server goes on with an earlier session.
    pub session_present: bool,
    /// MQTT 5 reason code, or MQTT 3 return code.
    pub code: u8,
    /// MQTT 5 properties.
    pub properties: ConnAckProperties,
}

/// Properties of CONNACK.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConnAckProperties {
    /// Session expiry interval the server uses, seconds.
    pub session_expiry_s: Option<u32>,
    /// Receive maximum of the server.
    pub receive_maximum: Option<u16>,
    /// Highest QoS the server takes (0 or 1; absent = 2).
    pub maximum_qos: Option<u8>,
    /// Retained messages are available (absent = yes).
    pub retain_available: Option<bool>,
    /// Maximum packet size the server takes.
    pub maximum_packet_size: Option<u32>,
    /// Client id the server chose.
    pub assigned_client_id: Option<ByteString>,
    /// Topic aliases the server takes.
    pub topic_alias_maximum: Option<u16>,
    /// Why, for people.
    pub reason_string: Option<ByteString>,
    /// Wildcard subscriptions are available (absent = yes).
    pub wildcard_subscription_available: Option<bool>,
    /// Subscription identifiers are available (absent = yes).
    pub subscription_identifiers_available: Option<bool>,
    /// Shared subscriptions are available (absent = yes).
    pub shared_subscription_available: Option<bool>,
    /// Keep alive the server uses instead of the client's, seconds.
    pub server_keep_alive_s: Option<u16>,
    /// Response information.
    pub response_information: Option<ByteString>,
    /// Another server to use.
    pub server_reference: Option<ByteString>,
    /// Authentication method.
    pub authentication_method: Option<ByteString>,
    /// Authentication data.
    pub authentication_data: Option<Bytes>,
    /// User properties.
    pub user: UserProperties,
}

/// PUBLISH.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Publish {
    /// Sent before, perhaps.
    pub dup: bool,
    /// QoS.
    pub qos: QoS,
    /// Retain flag.
    pub retain: bool,
    /// Topic, empty where an alias stands for it.
    pub topic: ByteString,
    /// Packet id, 0 with QoS 0.
    pub packet_id: u16,
    /// Payload.
    pub payload: Bytes,
    /// Topic alias.
    pub topic_alias: Option<u16>,
    /// Subscription identifiers (server to client).
    pub subscription_ids: Vec<u32>,
    /// Properties of the message.
    pub properties: Properties,
}

/// PUBACK, PUBREC, PUBREL or PUBCOMP.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ack {
    /// Packet id.
    pub packet_id: u16,
    /// MQTT 5 reason code, 0 in MQTT 3.
    pub reason: AckReason,
    /// MQTT 5 properties, boxed because they are rare.
    pub properties: Option<Box<AckProperties>>,
}

/// Reason code of an acknowledgement; 0x80 and above are refusals.
pub type AckReason = u8;

impl Ack {
    /// An acknowledgement without properties.
    #[must_use]
    pub const fn new(packet_id: u16, reason: AckReason) -> Ack {
        Ack { packet_id, reason, properties: None }
    }
}

/// Properties of acknowledgements.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AckProperties {
    /// Why, for people.
    pub reason_string: Option<ByteString>,
    /// User properties.
    pub user: UserProperties,
}

/// SUBSCRIBE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscribe {
    /// Packet id.
    pub packet_id: u16,
    /// What is asked for, at least one.
    pub filters: Vec<RequestedFilter>,
    /// User properties.
    pub user: UserProperties,
}

/// One filter of a SUBSCRIBE. A packet's subscription identifier stands in each filter's options.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestedFilter {
    /// The filter, unchecked.
    pub filter: ByteString,
    /// Options.
    pub options: SubscriptionOptions,
}

/// SUBACK or UNSUBACK.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SubAck {
    /// Packet id.
    pub packet_id: u16,
    /// One code for each filter (MQTT 3: granted QoS or 0x80; UNSUBACK of MQTT 3 has none).
    pub codes: Vec<u8>,
    /// MQTT 5 properties.
    pub properties: AckProperties,
}

/// UNSUBSCRIBE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsubscribe {
    /// Packet id.
    pub packet_id: u16,
    /// The filters, at least one, unchecked.
    pub filters: Vec<ByteString>,
    /// User properties.
    pub user: UserProperties,
}

/// DISCONNECT, or AUTH (which shares its shape).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Disconnect {
    /// Reason code, 0 in MQTT 3.
    pub reason: u8,
    /// MQTT 5 properties.
    pub properties: DisconnectProperties,
}

impl Disconnect {
    /// A DISCONNECT without properties.
    #[must_use]
    pub fn new(reason: u8) -> Disconnect {
        Disconnect { reason, properties: DisconnectProperties::default() }
    }
}

/// Properties of DISCONNECT and AUTH.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DisconnectProperties {
    /// Session expiry interval as changed, seconds (DISCONNECT from a client).
    pub session_expiry_s: Option<u32>,
    /// Why, for people.
    pub reason_string: Option<ByteString>,
    /// Another server to use (DISCONNECT from a server).
    pub server_reference: Option<ByteString>,
    /// Authentication method (AUTH).
    pub authentication_method: Option<ByteString>,
    /// Authentication data (AUTH).
    pub authentication_data: Option<Bytes>,
    /// User properties.
    pub user: UserProperties,
}
