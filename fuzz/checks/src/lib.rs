//! What the fuzz targets check.
//!
//! Each target takes bytes and panics when Forebay broke a promise on them. The targets are ordinary functions, so that a stable
//! toolchain compiles them and `cargo test` runs the seeds (`fuzz/seeds/<target>/`) through them; `fuzz/fuzz_targets/` hands them
//! to libFuzzer. A file that a fuzzer found is run again by
//!
//! ```sh
//! cargo run -p forebay-fuzz-checks -- replay <target> <file>
//! ```
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a target says by a panic that a promise is broken"
)]

mod access;
mod checkpoint;
mod codec;
mod connection;
mod derived;
mod format;
mod proxy_header;
pub mod seeds;
mod segments;
mod text;
mod trim_intent;

/// A fuzz target.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name: of its file in `fuzz_targets/` and of its folder in `seeds/`.
    pub name: &'static str,
    /// What it promises, in one line.
    pub promise: &'static str,
    /// Runs it. Panics when the promise is broken.
    pub check: fn(&[u8]),
}

const fn target(name: &'static str, check: fn(&[u8]), promise: &'static str) -> Target {
    Target { name, promise, check }
}

/// All targets.
pub const TARGETS: &[Target] = &[
    target("frame", format::frame, "a frame decodes as docs/FORMAT.md says, or not at all"),
    target(
        "segments",
        segments::check,
        "any bytes as segments: opened or refused, every record read is in them, nothing is lost by opening twice",
    ),
    target("trim_intent", trim_intent::check, "only an intent whose checksum holds removes segments"),
    target("checkpoint", checkpoint::check, "a checkpoint is read or refused, and written again it reads the same"),
    target("topic_index", derived::topic_index, "an index finds exactly what matches; any bytes as one do no harm"),
    target("residue", derived::residue, "any bytes as a residue file: refused, or records in order and no others"),
    target("event_body", codec::event_body, "a record's body that decodes encodes to the same event"),
    target("state_row", codec::state_row, "a row of the state index that is taken gives the same row again"),
    target("mqtt_packet", codec::mqtt_packet, "bytes of a client whole and one at a time: the same packets"),
    target(
        "mqtt_connection",
        connection::check,
        "clients in any order, in pieces and with garbage: answered or cut, and another one is served",
    ),
    target("proxy_header", proxy_header::check, "a proxy's header gives the address in it, or is refused"),
    target("topic_filter", text::topic_filter, "the tree of filters finds what matching one by one finds"),
    target(
        "users_file",
        access::users_file,
        "a users file: parsed or refused, each fault inside the text; a user who is added is in it",
    ),
    target(
        "acl_file",
        access::acl_file,
        "rules: parsed or refused, each fault inside the text; a granted filter holds no denied topic",
    ),
    target("conf_file", text::conf_file, "an EMQ X .conf file: parsed or refused, each fault inside the text"),
    target("toml_rules", text::toml_rules, "rules in forebay.toml: parsed or refused, each fault inside the text"),
    target(
        "point_template",
        text::point_template,
        "a template of points: refused in its text, or bounded points, the same each time",
    ),
    target("template", text::template, "a statement's pieces put together are the statement; values never add one"),
];

/// The target of this name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}

/// Runs a target on an input.
///
/// # Panics
/// When the promise is broken; when there is no such target.
pub fn run(name: &str, data: &[u8]) {
    let target = find(name).expect("a target of this name");
    (target.check)(data);
}

/// The folder of the fuzzers, seeds and dictionaries.
#[must_use]
pub fn folder() -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}
