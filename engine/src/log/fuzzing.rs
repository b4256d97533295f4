//! What fuzz targets reach of the log's insides. Not part of the API.

use bytes::BytesMut;

use super::frame::{self, Decoded, Frame};
use crate::ids::Lsn;

/// A frame with its body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FuzzedFrame {
    /// Number.
    pub lsn: Lsn,
    /// Time in us.
    pub time_us: u64,
    /// First record of the group.
    pub group: Lsn,
    /// Kind.
    pub kind: u8,
    /// Written in a weaker level.
    pub weak: bool,
    /// Body.
    pub body: Vec<u8>,
}

/// The frame at the beginning of `bytes`; `None` for everything that is not a whole, valid one.
#[must_use]
pub fn decode_frame(bytes: &[u8], seed: u32) -> Option<FuzzedFrame> {
    let Decoded::Frame(frame) = frame::decode(bytes, seed) else { return None };
    let Frame { lsn, time_us, group, kind, weak, .. } = frame;
    Some(FuzzedFrame { lsn, time_us, group, kind, weak, body: frame::body_of(bytes, &frame).to_vec() })
}

/// Its bytes.
#[must_use]
pub fn encode_frame(frame: &FuzzedFrame, seed: u32) -> Vec<u8> {
    let FuzzedFrame { lsn, time_us, group, kind, weak, ref body } = *frame;
    let mut out = BytesMut::new();
    frame::encode(&mut out, seed, &Frame { lsn, time_us, group, kind, weak, len: body.len() }, body);
    out.to_vec()
}
