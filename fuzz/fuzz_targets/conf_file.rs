#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| forebay_fuzz_checks::run("conf_file", data));
