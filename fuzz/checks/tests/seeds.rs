//! Every seed runs through its target once; the fuzzers and the targets are the same list.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::Path;

use forebay_fuzz_checks::{TARGETS, find, folder};

fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn every_target_holds_on_its_seeds() {
    for target in TARGETS {
        let dir = folder().join("seeds").join(target.name);
        let seeds = names(&dir);
        assert!(!seeds.is_empty(), "{} has no seeds", target.name);
        for seed in seeds {
            let bytes = std::fs::read(dir.join(&seed)).unwrap();
            (target.check)(&bytes);
        }
    }
}

#[test]
fn every_target_does_no_harm_with_nothing_and_with_any_one_byte() {
    for target in TARGETS {
        (target.check)(&[]);
        for byte in 0..=255 {
            (target.check)(&[byte]);
        }
    }
}

#[test]
fn each_target_has_its_fuzzer_and_no_fuzzer_or_seed_is_without_a_target() {
    let mut expected: Vec<String> = TARGETS.iter().map(|target| format!("{}.rs", target.name)).collect();
    expected.sort();
    assert_eq!(names(&folder().join("fuzz_targets")), expected);
    for file in expected {
        let name = file.trim_end_matches(".rs");
        let text = std::fs::read_to_string(folder().join("fuzz_targets").join(&file)).unwrap();
        assert!(text.contains(&format!("\"{name}\"")), "fuzz_targets/{file} runs another target");
    }
    for name in names(&folder().join("seeds")) {
        assert!(find(&name).is_some(), "seeds/{name} has no target");
    }
}

#[test]
fn the_seeds_are_small() {
    let sizes = TARGETS.iter().flat_map(|target| {
        let dir = folder().join("seeds").join(target.name);
        names(&dir).into_iter().map(move |name| std::fs::metadata(dir.join(name)).unwrap().len())
    });
    assert!(sizes.sum::<u64>() < 200 << 10);
}
