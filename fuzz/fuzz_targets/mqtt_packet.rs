//! Bytes from a client, whole and one at a time: the same packets, the same end, no panic.
#![no_main]

use bytes::BytesMut;
use forebay_broker_adapter::codec::{Decoder, Packet};
use libfuzzer_sys::fuzz_target;

const PACKET_BYTES_MAX: usize = 64 * 1024;

/// Every packet there is, and whether the decoder refused what follows.
fn decode(decoder: &mut Decoder, input: &mut BytesMut, out: &mut Vec<Packet>) -> bool {
    loop {
        match decoder.decode(input) {
            Ok(Some(packet)) => out.push(packet),
            Ok(None) => return false,
            Err(_) => return true,
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let (mut whole, mut single) = (Vec::new(), Vec::new());
    let refused = decode(&mut Decoder::server(PACKET_BYTES_MAX), &mut BytesMut::from(data), &mut whole);
    let (mut decoder, mut input) = (Decoder::server(PACKET_BYTES_MAX), BytesMut::new());
    let mut refused_single = false;
    for byte in data {
        input.extend_from_slice(&[*byte]);
        refused_single = decode(&mut decoder, &mut input, &mut single);
        if refused_single {
            break;
        }
    }
    assert_eq!((format!("{whole:?}"), refused), (format!("{single:?}"), refused_single));
});
