//! SQLite's errors in the runtime's four kinds.

use crate::sink::{BoxError, WriteError};

fn primary_code(error: &sqlx::Error) -> Option<u32> {
    error.as_database_error()?.code()?.parse::<u32>().ok().map(|code| code & 0xff)
}

/// Constraint, mismatch, too big: the values are at fault, not the database.
pub(super) fn is_own_fault(error: &sqlx::Error) -> bool {
    matches!(primary_code(error), Some(18..=20))
}

/// A constraint that a built-in operation hits comes from a table somebody altered, for one of many rows.
pub(super) fn map_built_in(error: sqlx::Error) -> WriteError {
    if is_own_fault(&error) { WriteError::Whole(error.into()) } else { map(error) }
}

pub(super) fn map(error: sqlx::Error) -> WriteError {
    let remedy = match primary_code(&error) {
        Some(5 | 6) => "another program holds the file's lock",
        Some(8 | 3 | 23) => "make the file and its folder writable for this user",
        Some(10) => "the disk failed or the file's folder is gone",
        Some(11 | 26) => "the file is damaged: move it away, it is filled again from the log",
        Some(13) => "the disk is full: make room",
        Some(14) => "the file can't be opened: check its folder and rights",
        Some(1) => "create the table or column, or correct the rule",
        Some(_) => "",
        None => return WriteError::Disconnected(error.into()),
    };
    let cause: BoxError = if remedy.is_empty() { error.into() } else { format!("{error} ({remedy})").into() };
    WriteError::Busy { wait: None, cause }
}
