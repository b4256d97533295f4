//! Filters and names: the tree of filters finds exactly what matching one by one finds.
#![no_main]

use forebay_engine::topic;
use forebay_engine::fuzzing::Trie;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (Vec<&str>, &str)| {
    let (filters, name) = input;
    if topic::check_name(name).is_err() {
        return;
    }
    let filters: Vec<&str> = filters.into_iter().filter(|filter| topic::check_filter(filter).is_ok()).collect();
    let mut tree = Trie::default();
    for (n, filter) in filters.iter().enumerate() {
        tree.insert(filter, n);
    }
    let mut found = Vec::new();
    tree.matches(name, |n| {
        found.push(*n);
        true
    });
    found.sort_unstable();
    let expected: Vec<usize> = (0..filters.len()).filter(|n| topic::matches(filters[*n], name)).collect();
    assert_eq!(found, expected);
    for outer in &filters {
        for inner in &filters {
            if topic::covers(outer, inner) && topic::matches(inner, name) {
                assert!(topic::matches(outer, name), "{outer} covers {inner}");
            }
        }
    }
});
