//! `docs/MQTT.md` names tests: each of them exists, and each row names one.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Where a file of tests may be.
const FOLDERS: [&str; 5] = [
    "broker-adapter/tests/conformance",
    "broker-adapter/tests",
    "tests",
    "broker-adapter/src/session",
    "broker-adapter/src/codec",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn exists(test: &str) -> bool {
    let (file, name) = test.split_once("::").unwrap();
    let paths = FOLDERS.iter().map(|folder| -> PathBuf { root().join(folder).join(format!("{file}.rs")) });
    let mut texts = paths.filter_map(|path| std::fs::read_to_string(path).ok());
    texts.any(|text| text.contains(&format!("fn {name}(")))
}

#[test]
fn each_statement_stands_once_with_how_it_is_met_and_tests_that_exist() {
    let text = std::fs::read_to_string(root().join("docs/MQTT.md")).unwrap();
    let (five, three) = text.split_once("## MQTT 5\n").unwrap().1.split_once("## MQTT 3.1.1").unwrap();
    let mut count = 0;
    for part in [five, three] {
        let mut seen = BTreeSet::new();
        for row in part.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| id")) {
            let cells: Vec<&str> = row.trim_matches('|').split(" | ").map(str::trim).collect();
            assert_eq!(cells.len(), 3, "{row}");
            for id in cells[0].split(", ") {
                let (chapter, number) = id.rsplit_once('-').unwrap_or_else(|| panic!("{row}"));
                assert!(chapter.split('.').all(|n| n.parse::<u8>().is_ok()) && number.parse::<u8>().is_ok(), "{row}");
                assert!(seen.insert(id.to_owned()), "{id} stands twice");
            }
            assert!(!cells[1].is_empty(), "{row}");
            for test in cells[2].split(", ") {
                let test = test.trim_matches('`');
                assert!(exists(test), "{}: there is no test {test}", cells[0]);
            }
        }
        count += seen.len();
        if count == seen.len() {
            let said = format!("{count} of them bind a server");
            assert!(text.contains(&said), "the page says another number than {count}");
        }
    }
    assert!(count > 250, "{count}");
    for test in text.split('`').skip(1).step_by(2).filter(|code| code.contains("::") && *code != "file::test") {
        assert!(exists(test), "there is no test {test}");
    }
}

#[test]
fn each_test_of_the_conformance_suite_is_there_for_a_statement_or_against_harm() {
    let text = std::fs::read_to_string(root().join("docs/MQTT.md")).unwrap();
    let mut missing = Vec::new();
    for entry in std::fs::read_dir(root().join(FOLDERS[0])).unwrap() {
        let path = entry.unwrap().path();
        let file = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let code = std::fs::read_to_string(&path).unwrap();
        for (_, rest) in code.match_indices("#[tokio::test]").map(|(at, _)| code.split_at(at)) {
            let name = rest.split_once("async fn ").unwrap().1.split_once('(').unwrap().0;
            if !text.contains(&format!("`{file}::{name}`")) {
                missing.push(format!("{file}::{name}"));
            }
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
}
