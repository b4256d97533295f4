//! Rules in `forebay.toml`: parsed or refused, never a panic.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let (rules, faults, _) = forebay_sinks::rule::parse_toml(Path::new("fuzz.toml"), text);
    if faults.is_empty() {
        let _ = rules.engine_rules();
    }
});
