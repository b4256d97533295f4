//! PostgreSQL's errors in the runtime's four kinds.

use sqlx::postgres::PgDatabaseError;

use crate::sink::{BoxError, WriteError};
use crate::sql::link;

fn code(error: &sqlx::Error) -> Option<&str> {
    Some(error.as_database_error()?.try_downcast_ref::<PgDatabaseError>()?.code())
}

/// The values are at fault, not the database: data exceptions, constraints, errors that users' functions raise, rows too long for
/// an index.
pub(super) fn is_own_fault(error: &sqlx::Error) -> bool {
    code(error).is_some_and(|code| match code.get(..2) {
        // A sequence that has come to its end is no fault of the value.
        Some("22") => code != "2200H",
        Some("23" | "44" | "P0") => true,
        _ => code == "54000",
    })
}

/// The server has lost this connection's statements (`DISCARD ALL`, a pooler), or their plans no longer fit the tables.
pub(super) fn lost_statements(error: &sqlx::Error) -> bool {
    match code(error) {
        Some("26000" | "42P05") => true,
        Some("0A000") => error.to_string().contains("cached plan"),
        _ => false,
    }
}

/// The statement's text is at fault, whatever the values are.
pub(super) fn is_about_statement(error: &sqlx::Error) -> bool {
    code(error).is_some_and(|code| code.starts_with("42"))
}

/// As [`lost_statements`], of a statement of users: also where a column's type is no longer the one that a parameter was declared with.
pub(super) fn lost_types(error: &sqlx::Error) -> bool {
    lost_statements(error) || code(error) == Some("42804")
}

/// Of an operation of the guide. What its values hit is a table that somebody altered, for one of many rows; a number that is too
/// large is the id's column, which is the operator's.
pub(super) fn map_built_in(error: sqlx::Error) -> WriteError {
    match code(&error) {
        // The next connection looks at the tables again, and creates what is missing where it may. 42804: a column has another type
        // by now.
        Some("42P01" | "42703" | "42804") => WriteError::Disconnected(map(error).to_string().into()),
        // A column that somebody has added: every row would be refused.
        Some("23502") => WriteError::busy(format!("{error} (give the column a default: Forebay does not fill it)")),
        Some(code) if code != "22003" && is_own_fault(&error) => WriteError::Whole(error.into()),
        _ => map(error),
    }
}

pub(crate) fn map(error: sqlx::Error) -> WriteError {
    let Some(code) = code(&error) else { return link::map(error) };
    let remedy = match code {
        "57P01" | "57P02" | "57P03" | "57P05" | "25P02" | "25P03" => return WriteError::Disconnected(error.into()),
        "40001" | "40P01" => "another transaction was in the way: tried again",
        "55P03" => "another transaction holds a lock",
        "57014" => "the statement was cancelled or timed out",
        "25006" => "the server is read-only: is it a standby?",
        "28000" | "28P01" => "check the pool's username and password, and pg_hba.conf",
        "3D000" => "create the database",
        "3F000" | "42P01" | "42703" => "create the table or column, or correct the rule",
        "42501" => "grant the user the right",
        "42P10" => "create the unique index that the table had in the guide's DDL",
        "53100" => "the server's disk is full: make room",
        "53200" => "the server is out of memory",
        "53300" => "too many connections: lower pool_size or raise the server's limit",
        "2200H" => "alter the column's sequence: it has no more numbers",
        "22003" => "alter the column `mid` of mqtt_acked to bigint",
        "26000" | "42P05" => "a pooler gives the session away: set `statement_cache = off` for the pool",
        code if code.starts_with("08") => return WriteError::Disconnected(error.into()),
        code if code.starts_with("42") => "correct the rule's statement",
        _ => "",
    };
    let cause: BoxError = if remedy.is_empty() { error.into() } else { format!("{error} ({remedy})").into() };
    WriteError::Busy { wait: None, cause }
}
