//! What is wrong with the configuration, all of it at once.

use std::fmt;
use std::path::{Path, PathBuf};

/// One fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Where it is.
    pub place: Place,
    /// What is wrong.
    pub message: String,
    /// The valid name that looks most like the one given.
    pub nearest: Option<String>,
}

/// Where a fault is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// In a file.
    File {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Column in characters, from 1.
        column: usize,
        /// The line's text.
        text: String,
        /// Characters to point at.
        width: usize,
    },
    /// An environment variable.
    Environment(String),
    /// An option of the command line.
    Option(&'static str),
    /// The settings together.
    Whole,
}

impl Place {
    /// The place of a byte range in a text.
    pub fn in_text(path: &Path, source: &str, span: std::ops::Range<usize>) -> Place {
        let start = floor_char_boundary(source, span.start);
        let before = source.get(..start).unwrap_or_default();
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        let text = source.get(line_start..).unwrap_or_default().lines().next().unwrap_or_default().to_owned();
        let column = source.get(line_start..start).unwrap_or_default().chars().count() + 1;
        let marked = source.get(start..floor_char_boundary(source, span.end)).unwrap_or_default();
        let width = marked.lines().next().unwrap_or_default().chars().count().max(1);
        Place::File { path: path.to_owned(), line: before.matches('\n').count() + 1, column, text, width }
    }
}

fn floor_char_boundary(text: &str, at: usize) -> usize {
    (0..=at.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0)
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::File { path, line, column, .. } => write!(f, "{}:{line}:{column}", path.display()),
            Place::Environment(name) => write!(f, "environment variable {name}"),
            Place::Option(name) => write!(f, "option {name}"),
            Place::Whole => f.write_str("the settings"),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.place != Place::Whole {
            write!(f, "{}: ", self.place)?;
        }
        f.write_str(&self.message)?;
        if let Some(nearest) = &self.nearest {
            write!(f, "; did you mean `{nearest}`?")?;
        }
        if let Place::File { line, column, text, width, .. } = &self.place {
            let margin = line.to_string().len();
            let caret = "^".repeat((*width).min(text.chars().count().saturating_sub(column - 1).max(1)));
            let indent: String = text.chars().take(column - 1).map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
            write!(f, "\n {line} | {text}\n {:margin$} | {indent}{caret}", "")?;
        }
        Ok(())
    }
}

/// The valid name that looks most like `name`, if any looks like it at all.
pub fn nearest<'n>(name: &str, valid: impl Iterator<Item = &'n str>) -> Option<String> {
    valid
        .map(|candidate| (strsim::damerau_levenshtein(name, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= (candidate.len() / 3).max(2))
        .min()
        .map(|(_, candidate)| candidate.to_owned())
}
