//! What decodes bytes into events, rows and packets.

use bytes::{Bytes, BytesMut};
use forebay_broker_adapter::codec::{Decoder, Packet, Version, encode};
use forebay_engine::Event;
use forebay_engine::state::State;

/// `kind u8 | body`.
pub(crate) fn event_body(data: &[u8]) {
    let Some((kind, body)) = data.split_first() else { return };
    if let Ok(event) = Event::decode(*kind, Bytes::copy_from_slice(body)) {
        let mut again = Vec::new();
        event.encode(&mut again);
        assert_eq!(Event::decode(event.kind(), again.into()).as_ref(), Ok(&event));
    }
}

/// `length of the key u8 | key | value`.
pub(crate) fn state_row(data: &[u8]) {
    let Some((len, rest)) = data.split_first() else { return };
    let (key, value) = rest.split_at(rest.len().min(usize::from(*len)));
    let mut state = State::default();
    if state.load_row(Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)).is_ok() {
        for key in state.keys().collect::<Vec<_>>() {
            let (bytes, value) = (key.encode(), state.row(&key).expect("a row that has a key has a value"));
            let mut again = State::default();
            again.load_row(bytes.into(), value.clone().into()).expect("its own rows read back");
            assert_eq!(again.row(&key).as_ref(), Some(&value));
        }
    }
}

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

/// `version u8 | bytes`: 3, 4 and 5 are what a client has asked for; any other is a server's, that waits for CONNECT.
pub(crate) fn mqtt_packet(data: &[u8]) {
    let Some((version, data)) = data.split_first() else { return };
    let version = [Version::V31, Version::V311, Version::V5].into_iter().find(|known| *known as u8 == *version);
    let new = || match version {
        Some(version) => Decoder::client(version, PACKET_BYTES_MAX),
        None => Decoder::server(PACKET_BYTES_MAX),
    };
    let (mut whole, mut single) = (Vec::new(), Vec::new());
    let (mut decoder, mut input) = (new(), BytesMut::from(data));
    let refused = decode(&mut decoder, &mut input, &mut whole);
    let version = decoder.version();
    let (mut decoder, mut input) = (new(), BytesMut::new());
    let mut refused_single = false;
    for byte in data {
        input.extend_from_slice(&[*byte]);
        refused_single = decode(&mut decoder, &mut input, &mut single);
        if refused_single {
            break;
        }
    }
    assert_eq!((&whole, refused), (&single, refused_single));
    let Some(version) = version else { return };
    for packet in whole {
        let mut bytes = BytesMut::new();
        if encode(&packet, version, &mut bytes).is_ok() {
            let again = Decoder::client(version, usize::MAX).decode(&mut bytes);
            assert_eq!(again, Ok(Some(packet)), "an encoded packet reads as another");
        }
    }
}
