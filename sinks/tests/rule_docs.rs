//! docs/RULES.md lists what the loader knows, and its examples load.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::path::Path;

use forebay_sinks::rule::{Database, Function, Hook, Param, WarningCode, keys, parse_conf, parse_toml};

fn document() -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/RULES.md")).unwrap()
}

/// The part between a heading and the next of its level or above.
fn section<'a>(document: &'a str, heading: &str) -> &'a str {
    let start = document.find(&format!("\n{heading}")).unwrap_or_else(|| panic!("no section {heading}"));
    let rest = &document[start + 1..];
    let level = heading.split(' ').next().unwrap().len();
    let next = (1..=level).filter_map(|level| rest[1..].find(&format!("\n{} ", "#".repeat(level)))).min();
    next.map_or(rest, |end| &rest[..=end])
}

#[test]
fn every_name_is_in_the_document() {
    let document = document();
    let hooks = section(&document, "## Hooks");
    for hook in Hook::ALL {
        let row = hooks.lines().find(|line| line.starts_with(&format!("| `{hook}`"))).unwrap();
        for param in hook.params(Database::Redis) {
            assert!(row.contains(param.name()), "{hook} {}", param.name());
        }
        for function in Function::ALL {
            assert_eq!(row.contains(&format!("`{function}`")), function.hooks().contains(&hook), "{hook} {function}");
        }
    }
    assert!(Param::ALL.iter().all(|param| hooks.contains(param.name())));
    let warnings = section(&document, "## Warnings");
    assert!(WarningCode::ALL.iter().all(|code| warnings.contains(&format!("\n| `{}` | ", code.name()))));
}

#[test]
fn every_setting_is_in_the_document_with_its_default() {
    let document = document();
    for database in Database::ALL {
        let settings = section(&document, &format!("### {}", database.pool_name()));
        let rows: Vec<&str> = settings.lines().filter(|line| line.starts_with("| `")).collect();
        assert_eq!(rows.len(), keys(database).len(), "{database}");
        for (row, spec) in rows.iter().zip(keys(database)) {
            assert!(row.starts_with(&format!("| `{}`", spec.name)), "{database} {}: {row}", spec.name);
            assert!(spec.aliases.iter().all(|alias| row.contains(&format!("`{alias}`"))), "{row}");
            assert!(spec.default.is_none_or(|default| row.contains(&format!("| `{default}` |"))), "{row}");
        }
    }
}

#[test]
fn the_examples_load() {
    let document = document();
    let block = |language: &str| {
        let start = document.find(&format!("```{language}\n")).unwrap() + language.len() + 4;
        document[start..start + document[start..].find("```").unwrap()].to_owned()
    };
    let parsed = parse_conf(Path::new("RULES.md"), &block("properties"));
    let (rules, faults, _) = parse_toml(Path::new("RULES.md"), &block("toml"));
    assert_eq!((parsed.faults, faults), (vec![], vec![]));
    assert_eq!((parsed.rules.rules.len(), rules.rules.len()), (1, 1));
    assert_eq!(parsed.rules.rules[0].action, rules.rules[0].action);
}
