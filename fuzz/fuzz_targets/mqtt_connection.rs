#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| forebay_fuzz_checks::run("mqtt_connection", data));
