//! From files to rules.

use std::path::{Path, PathBuf};

use super::assemble::Builder;
use super::conf::read_conf;
use super::fault::{Fault, Faults, Warning};
use super::source::Span;
use super::toml::read_toml;
use super::{Database, RuleSet};

/// What a faultless configuration says.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// Its pools and rules.
    pub rules: RuleSet,
    /// What is legal but worth knowing.
    pub warnings: Vec<Warning>,
}

/// Loads `.conf` files and the rules' part of a TOML text, as one: a rule may use a pool of another file.
///
/// # Errors
/// All faults of all files at once; files that can't be read are among them.
pub fn load(files: &[PathBuf], toml: Option<(&Path, &str)>) -> Result<Loaded, Faults> {
    let mut builder = Builder::default();
    for file in files {
        match std::fs::read(file) {
            Ok(bytes) => read_bytes(&mut builder, file, &bytes),
            Err(error) => {
                let source = builder.source(file, "");
                builder.fault(Span { source, start: 0, end: 0 }, format!("the file can't be read: {error}"), None);
            }
        }
    }
    if let Some((file, text)) = toml {
        read_toml(&mut builder, file, text);
    }
    let parsed = builder.finish();
    if parsed.faults.is_empty() {
        Ok(Loaded { rules: parsed.rules, warnings: parsed.warnings })
    } else {
        Err(Faults(parsed.faults))
    }
}

fn read_bytes(builder: &mut Builder, file: &Path, bytes: &[u8]) {
    match std::str::from_utf8(bytes) {
        Ok(text) => read_conf(builder, file, text),
        Err(error) => {
            let text = String::from_utf8_lossy(bytes);
            let source = builder.source(file, &text);
            // Up to the first bad byte the lossy text is the file's own.
            let start = error.valid_up_to();
            let span = Span { source, start, end: start + '\u{fffd}'.len_utf8() };
            builder.fault(span, "this is no UTF-8".to_owned(), Some("save the file as UTF-8".to_owned()));
        }
    }
}

impl RuleSet {
    /// A fault for each rule and each pool whose database is not among `available`: such a rule is never passed over.
    #[must_use]
    pub fn unavailable(&self, available: &[Database]) -> Vec<Fault> {
        let missing = |database: &Database| !available.contains(database);
        let help = |database: Database| {
            let names: Vec<&str> = available.iter().map(|db| db.name()).collect();
            Some(format!("this program has no driver for {database}; it has: {}", names.join(", ")))
        };
        let pools = self.pools.iter().filter(|pool| missing(&pool.database)).map(|pool| Fault {
            at: pool.at.clone(),
            message: format!("pool `{}` of {} can't be connected to", pool.name, pool.database),
            help: help(pool.database),
            excerpt: None,
        });
        let rules = self.rules.iter().filter(|rule| missing(&rule.database)).map(|rule| Fault {
            at: rule.at.clone(),
            message: format!("rule {}.{} of {} can't be run", rule.hook, rule.number, rule.database),
            help: help(rule.database),
            excerpt: None,
        });
        pools.chain(rules).collect()
    }
}
