//! MySQL's and MariaDB's errors in the runtime's four kinds.

use sqlx::mysql::MySqlDatabaseError;

use crate::sink::{BoxError, WriteError};
use crate::sql::link;

fn server(error: &sqlx::Error) -> Option<&MySqlDatabaseError> {
    error.as_database_error()?.try_downcast_ref::<MySqlDatabaseError>()
}

/// The values are at fault, not the database: data exceptions, constraints, errors that triggers raise.
pub(super) fn is_own_fault(error: &sqlx::Error) -> bool {
    let Some(error) = server(error) else { return false };
    match error.number() {
        // A number that ran out, and a disk that did, have classes of data too.
        1467 | 167 => false,
        1364 | 1366 | 1411 | 1525 | 3140..=3158 | 3819 | 4025 => true,
        _ => error.code().and_then(|state| state.get(..2)).is_some_and(|class| matches!(class, "22" | "23" | "45")),
    }
}

/// A unique key has the value already.
pub(super) fn is_duplicate(error: &sqlx::Error) -> bool {
    server(error).is_some_and(|error| matches!(error.number(), 1062 | 1586))
}

fn is_of_id(error: &MySqlDatabaseError) -> bool {
    error.message().contains("PRIMARY")
}

/// The server has lost this connection's statements.
pub(super) fn lost_statements(error: &sqlx::Error) -> bool {
    server(error).is_some_and(|error| matches!(error.number(), 1243 | 1615))
}

/// Of an operation of the guide. What its values hit is a table that somebody altered, for one of many rows; a number that is too
/// large is the id's column, which is the operator's.
pub(super) fn map_built_in(error: sqlx::Error) -> WriteError {
    let (number, of_id) = server(&error).map_or((0, false), |e| (e.number(), is_of_id(e)));
    match number {
        1062 if of_id => {
            WriteError::busy(format!("{error} (the table's ids have run out: alter `id` to bigint unsigned)"))
        }
        1264 => WriteError::busy(format!("{error} (alter the column to bigint unsigned)")),
        // A column that somebody has added: every row would be refused.
        1048 | 1364 => WriteError::busy(format!("{error} (give the column a default: Forebay does not fill it)")),
        1062 => WriteError::Whole(
            format!(
                "{error} (two keys that differ in case, accents or trailing blanks only are one to this column: \
                 alter it to `collate utf8mb4_bin` and replay the letter)"
            )
            .into(),
        ),
        // The next connection looks at the tables again, and creates what is missing where it may.
        1054 | 1146 => WriteError::Disconnected(map(error).to_string().into()),
        _ if is_own_fault(&error) => WriteError::Whole(error.into()),
        _ => map(error),
    }
}

pub(super) fn map(error: sqlx::Error) -> WriteError {
    let Some(found) = server(&error) else { return link::map(error) };
    let remedy = match found.number() {
        1053 | 1077 | 1079 | 1152 | 1153 | 1158..=1161 | 1184 | 1927 | 1970 | 2006 | 2013 | 4031 => {
            return WriteError::Disconnected(error.into());
        }
        // A session keeps the rights on its database as they were when it entered it: another one sees what is granted.
        1142 | 1143 | 1227 | 1370 => {
            return WriteError::Disconnected(format!("{error} (grant the user the right)").into());
        }
        1213 => "another transaction was in the way: tried again",
        1205 | 3572 => "another transaction holds a lock",
        1317 | 1969 | 3024 => "the statement was cancelled or timed out",
        1223 | 1290 | 1792 | 1836 => "the server is read-only: is it a replica?",
        1040 | 1203 | 1226 => "too many connections: lower pool_size or raise the server's limit",
        1044 | 1045 | 1130 | 1251 | 1698 => "check the pool's username and password",
        1049 => "create the database",
        1054 | 1109 | 1146 => "create the table or column, or correct the rule",
        1021 | 1030 | 1114 => "the server's disk is full: make room",
        1037 | 1038 | 1041 | 1206 => "the server is out of memory",
        1461 => "raise max_prepared_stmt_count, or set `statement_cache = off` for the pool",
        1467 | 167 => "the table's ids have run out: alter `id` to bigint unsigned",
        1064 | 1136 | 1210 | 1305 => "correct the rule's statement",
        _ => "",
    };
    let cause: BoxError = if remedy.is_empty() { error.into() } else { format!("{error} ({remedy})").into() };
    WriteError::Busy { wait: None, cause }
}
