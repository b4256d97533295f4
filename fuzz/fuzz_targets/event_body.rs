//! A record's body: what decodes encodes to something that decodes to the same event.
#![no_main]

use bytes::Bytes;
use forebay_engine::Event;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((kind, body)) = data.split_first() else { return };
    if let Ok(event) = Event::decode(*kind, Bytes::copy_from_slice(body)) {
        let mut again = Vec::new();
        event.encode(&mut again);
        assert_eq!(Event::decode(event.kind(), again.into()).as_ref(), Ok(&event));
    }
});
