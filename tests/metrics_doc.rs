//! `docs/METRICS.md` lists every metric there is, and no other.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::BTreeSet;
use std::path::Path;

/// Names and kinds of the constants of a crate's `metrics.rs`.
fn constants(file: &str) -> BTreeSet<(String, String)> {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap();
    let mut found = BTreeSet::new();
    let mut kind = None;
    for line in text.lines() {
        if let Some(doc) = line.strip_prefix("/// ") {
            kind.get_or_insert_with(|| doc.split([':', ',']).next().unwrap().to_lowercase());
        } else if let Some((_, value)) = line.strip_prefix("pub const ").and_then(|rest| rest.split_once("&str = ")) {
            found.insert((value.trim_matches(['"', ';']).to_owned(), kind.take().expect("a doc line")));
        } else {
            kind = None;
        }
    }
    assert!(found.len() > 5, "{file}: {found:?}");
    found
}

#[test]
fn every_metric_is_documented_with_its_kind_unit_and_labels_and_none_that_is_gone() {
    let mut known = BTreeSet::new();
    for file in ["engine/src/metrics.rs", "sinks/src/metrics.rs", "broker-adapter/src/metrics.rs"] {
        known.extend(constants(file));
    }
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/METRICS.md")).unwrap();
    let mut documented = BTreeSet::new();
    for row in text.lines().filter(|line| line.starts_with("| `forebay_")) {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        assert_eq!(cells.len(), 5, "{row}");
        assert!(cells.iter().all(|cell| !cell.is_empty() && *cell != "?"), "{row}");
        documented.insert((cells[0].trim_matches('`').to_owned(), cells[1].to_owned()));
    }
    assert_eq!(documented, known);
}
