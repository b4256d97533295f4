//! Counting tests per crate from what `cargo test` prints.

use std::collections::BTreeMap;

/// Tests of one crate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Tests that passed.
    pub passed: u64,
    /// Tests that failed.
    pub failed: u64,
    /// Tests that were not run.
    pub ignored: u64,
}

/// Follows the output line by line.
///
/// cargo runs a package's unit tests before its integration tests, so the package of `tests/x.rs` is the one whose unit
/// tests came last.
#[derive(Debug, Default)]
pub struct Counter {
    package: String,
    counts: BTreeMap<String, Count>,
}

impl Counter {
    /// Takes one line.
    pub fn line(&mut self, line: &str) {
        let line = line.trim();
        if let Some(target) = line.strip_prefix("Running unittests ") {
            if let Some(package) = package_of(target) {
                self.package = package;
            }
        } else if let Some(package) = line.strip_prefix("Doc-tests ") {
            self.package = package.replace('_', "-");
        } else if let Some(rest) = line.strip_prefix("test result: ") {
            let count = self.counts.entry(self.package.clone()).or_default();
            count.passed += number_before(rest, " passed");
            count.failed += number_before(rest, " failed");
            count.ignored += number_before(rest, " ignored");
        }
    }

    /// Tests passed and failed, of all crates.
    pub fn total(&self) -> (u64, u64) {
        self.counts.values().fold((0, 0), |(passed, failed), count| (passed + count.passed, failed + count.failed))
    }

    /// What was counted so far.
    pub fn counts(&self) -> &BTreeMap<String, Count> {
        &self.counts
    }
}

/// `src/lib.rs (target/debug/deps/forebay_engine-0123456789abcdef)` -> `forebay-engine`.
fn package_of(target: &str) -> Option<String> {
    let file = target.rsplit('/').next()?.trim_end_matches(')');
    let (name, _hash) = file.rsplit_once('-')?;
    Some(name.replace('_', "-"))
}

fn number_before(text: &str, word: &str) -> u64 {
    text.split(word).next().and_then(|head| head.rsplit(' ').next()).and_then(|n| n.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integration_and_doc_tests_count_for_the_package_they_belong_to() {
        let mut counter = Counter::default();
        for line in [
            "     Running unittests src/main.rs (target/debug/deps/forebay-00aa)",
            "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s",
            "     Running tests/cli.rs (target/debug/deps/cli-11bb)",
            "test result: FAILED. 4 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s",
            "     Running unittests src/lib.rs (/a/b/debug/deps/forebay_engine-22cc)",
            "test result: ok. 5 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s",
            "   Doc-tests forebay_engine",
            "test result: ok. 6 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s",
        ] {
            counter.line(line);
        }
        assert_eq!(counter.counts()["forebay"], Count { passed: 7, failed: 2, ignored: 1 });
        assert_eq!(counter.total(), (18, 2));
        assert_eq!(counter.counts()["forebay-engine"], Count { passed: 11, failed: 0, ignored: 0 });
    }
}
