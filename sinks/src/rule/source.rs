//! Texts that faults point into.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::fault::Excerpt;
use super::{Location, keys};

/// A file's text with the places of its lines.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    pub(crate) file: Arc<PathBuf>,
    pub(crate) text: String,
    line_starts: Vec<usize>,
}

/// Bytes `start..end` of source number `source`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) source: usize,
    pub(crate) start: usize,
    pub(crate) end: usize,
}

impl Source {
    pub(crate) fn new(file: &Path, text: &str) -> Source {
        let line_starts = std::iter::once(0)
            .chain(text.bytes().enumerate().filter(|(_, b)| *b == b'\n').map(|(i, _)| i + 1))
            .collect();
        Source { file: Arc::new(file.to_path_buf()), text: text.to_owned(), line_starts }
    }

    /// The place of a byte; one past the end is the end.
    pub(crate) fn locate(&self, offset: usize) -> Location {
        let line = self.line_starts.partition_point(|start| *start <= offset).max(1);
        let start = self.line_starts.get(line - 1).copied().unwrap_or(0);
        let before = self.text.get(start..offset.min(self.text.len())).unwrap_or_default();
        let column = before.trim_start_matches('\u{feff}').chars().count() + 1;
        Location { file: self.file.clone(), line: clamp(line), column: clamp(column) }
    }

    /// The line of a place, with secrets masked, and how many characters from there are meant. Nothing of an empty line.
    pub(crate) fn excerpt(&self, at: &Location, width: usize) -> Option<Excerpt> {
        let index = usize::try_from(at.line).ok()?.checked_sub(1)?;
        let start = *self.line_starts.get(index)?;
        let end = self.line_starts.get(index + 1).copied().unwrap_or(self.text.len());
        let line = self.text.get(start..end)?.trim_end_matches(['\n', '\r']).trim_start_matches('\u{feff}');
        if line.is_empty() {
            return None;
        }
        let rest = line.chars().count().saturating_sub(usize::try_from(at.column).ok()?.saturating_sub(1));
        Some(Excerpt { line: keys::mask_line(line), width: clamp(width.min(rest).max(1)) })
    }
}

fn clamp(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}
