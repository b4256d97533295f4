//! MQTT's packets as bytes: 3.1, 3.1.1 and 5 in one neutral set of types.
//!
//! It serves both ends: a server decodes CONNECT and encodes CONNACK, a client the reverse. Decoding shares the bytes of
//! the input buffer (topics, payloads and properties are slices of it), is strict where the standard says "malformed" or
//! "protocol error", and looks at a packet's size before its body is buffered. Packets of MQTT 3 leave properties empty.

mod decode;
mod encode;
mod error;
mod packet;
mod property;
mod reader;

pub use decode::Decoder;
pub(crate) use encode::encode_fitting;
pub use encode::{EncodeError, encode};
pub use error::{DecodeError, reason};
pub use packet::{
    Ack, AckProperties, AckReason, ConnAck, ConnAckProperties, Connect, ConnectProperties, ConnectWill, Disconnect,
    DisconnectProperties, Packet, PacketKind, Publish, RequestedFilter, SubAck, Subscribe, Unsubscribe, UserProperties,
    Version,
};

/// Largest packet that MQTT can express: one type byte, four length bytes and 268,435,455 bytes.
pub const PACKET_BYTES_MAX: usize = 5 + VARINT_MAX as usize;
pub(crate) const VARINT_MAX: u32 = 268_435_455;

#[cfg(test)]
mod tests;
