//! An EMQ X `.conf` file: parsed or refused, never a panic, and every fault is inside the text.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let parsed = forebay_sinks::rule::parse_conf(Path::new("fuzz.conf"), text);
    let lines = text.lines().count().max(1) as u32;
    for fault in &parsed.faults {
        assert!(fault.at.line >= 1 && fault.at.line <= lines, "{fault}");
    }
});
