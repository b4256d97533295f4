//! What fuzz targets reach besides the public API. Not part of it.

use std::ops::Range;

use crate::rule::{Database, Hook, Statement};

/// Splits a statement at its parameters.
///
/// # Errors
/// The bytes of the text that each fault means.
pub fn parse_statement(source: &str, database: Database, hook: Hook) -> Result<Statement, Vec<Range<usize>>> {
    crate::rule::fuzzed_statement(source, database, hook)
}
