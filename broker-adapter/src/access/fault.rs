//! What is wrong with a users or rules file.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// A fault in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The file.
    pub path: PathBuf,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What is wrong.
    pub message: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: {}", self.path.display(), self.line, self.column, self.message)
    }
}

/// Why a users or rules file was not taken.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// It can't be read.
    #[error("{path}: {source}{remedy}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Cause.
        source: io::Error,
        /// What to do, where there is more to say than the cause does.
        remedy: &'static str,
    },
    /// It has faults; at least one.
    #[error("{}", lines(.0))]
    Faults(Vec<Fault>),
}

fn lines(faults: &[Fault]) -> String {
    faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

/// Faults that are listed of one file; a file of another kind would have one in each line.
const FAULTS_MAX: usize = 20;

/// Collects the faults of one file.
pub(crate) struct Faults<'a> {
    path: &'a Path,
    found: Vec<Fault>,
}

impl<'a> Faults<'a> {
    pub(crate) fn of(path: &'a Path) -> Faults<'a> {
        Faults { path, found: Vec::new() }
    }

    /// Notes a fault; `line` counts from 0, `column` in characters from 1.
    pub(crate) fn add(&mut self, line: usize, column: usize, message: impl Into<String>) {
        if self.found.len() < FAULTS_MAX {
            self.found.push(Fault { path: self.path.to_owned(), line: line + 1, column, message: message.into() });
        }
    }

    pub(crate) fn or<T>(self, value: T) -> Result<T, Vec<Fault>> {
        if self.found.is_empty() { Ok(value) } else { Err(self.found) }
    }
}

/// The column, from 1, of a byte offset in a line.
pub(crate) fn column(line: &str, at: usize) -> usize {
    line.char_indices().take_while(|(start, _)| *start < at).count() + 1
}

/// A file's text; its first byte that is no UTF-8 is a fault.
pub(crate) fn text_of(path: &Path, bytes: Vec<u8>) -> Result<String, Vec<Fault>> {
    String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        let bytes = error.into_bytes();
        let before = String::from_utf8_lossy(bytes.get(..valid).unwrap_or_default());
        let line = before.rsplit('\n').next().unwrap_or_default();
        let mut faults = Faults::of(path);
        faults.add(before.matches('\n').count(), line.chars().count() + 1, "this is no UTF-8");
        faults.found
    })
}
