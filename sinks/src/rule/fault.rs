//! What a configuration's author is told: faults, which stop the start, and warnings, which don't.

use std::fmt;

use super::Location;
use super::check::WarningCode;

/// Something that can't be used as it is written. [`fmt::Display`] gives the whole report of several lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Where.
    pub at: Location,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
    /// The line it is in; `None` where the text is not at hand.
    pub excerpt: Option<Excerpt>,
}

/// A line of a file with the characters that are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Excerpt {
    /// The line as written, but for the values of secrets, which are `***`.
    pub line: String,
    /// How many characters from the column on are meant (at least 1).
    pub width: u32,
}

/// All faults of all files, in the order of the files.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Faults(pub Vec<Fault>);

/// Something legal that is worth knowing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// Which of the known ones; `docs/RULES.md` says what each means.
    pub code: WarningCode,
    /// Where.
    pub at: Location,
    /// What was found, and what happens because of it.
    pub message: String,
    /// The line it is in; `None` where the text is not at hand.
    pub excerpt: Option<Excerpt>,
}

/// How serious a [`Warning`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Probably not what was meant.
    Warning,
    /// Works as written; said so that nobody has to guess how.
    Note,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: error: {}", self.at, self.message)?;
        write_excerpt(f, &self.at, self.excerpt.as_ref())?;
        match &self.help {
            Some(help) => write!(f, "\n{:>6} = help: {help}", ""),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.code.level() {
            Level::Warning => "warning",
            Level::Note => "note",
        };
        write!(f, "{}: {level}[{}]: {}", self.at, self.code.name(), self.message)?;
        write_excerpt(f, &self.at, self.excerpt.as_ref())
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for fault in &self.0 {
            writeln!(f, "{fault}")?;
        }
        match self.0.len() {
            1 => write!(f, "1 error"),
            n => write!(f, "{n} errors"),
        }
    }
}

fn write_excerpt(f: &mut fmt::Formatter<'_>, at: &Location, excerpt: Option<&Excerpt>) -> fmt::Result {
    let Some(excerpt) = excerpt else { return Ok(()) };
    let before = usize::try_from(at.column).unwrap_or(1).saturating_sub(1);
    // Tabs are repeated, so that the caret stands below its character whatever a tab is worth.
    let padding: String = excerpt.line.chars().take(before).map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
    let carets = "^".repeat(usize::try_from(excerpt.width).unwrap_or(1));
    write!(f, "\n{:>6} | {}\n{:>6} | {padding}{carets}", at.line, excerpt.line, "")
}
