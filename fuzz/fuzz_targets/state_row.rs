//! A row of the state index: taken in or refused; what is taken in gives the same row again.
#![no_main]

use bytes::Bytes;
use forebay_engine::state::State;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|row: (&[u8], &[u8])| {
    let mut state = State::default();
    let (key, value) = row;
    if state.load_row(Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)).is_ok() {
        for key in state.keys().collect::<Vec<_>>() {
            let (bytes, value) = (key.encode(), state.row(&key).expect("a row that has a key has a value"));
            let mut again = State::default();
            again.load_row(bytes.into(), value.into()).expect("its own rows read back");
        }
    }
});
