//! Failures of a link that the server itself has said nothing about.

use crate::sink::WriteError;

/// Lost links are tried again with a new one; what an operator must set right is said.
pub(crate) fn map(error: sqlx::Error) -> WriteError {
    let text = error.to_string();
    match &error {
        sqlx::Error::Tls(_) | sqlx::Error::Io(_)
            if text.contains("certificate") || matches!(error, sqlx::Error::Tls(_)) =>
        {
            WriteError::busy(format!(
                "{text} (does `cacertfile` name who signed the server's certificate, and `server` a name that stands in it?)"
            ))
        }
        sqlx::Error::Configuration(_)
        | sqlx::Error::ColumnDecode { .. }
        | sqlx::Error::ColumnNotFound(_)
        | sqlx::Error::Encode(_) => WriteError::busy(error),
        _ => WriteError::Disconnected(error.into()),
    }
}
