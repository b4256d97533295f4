//! The driver's and the server's errors in the runtime's kinds.

use std::time::Duration;

use scylla::errors::{
    BadQuery, ConnectionError, ConnectionPoolError, ConnectionSetupRequestErrorKind, DbError, ExecutionError,
    MetadataError, NewSessionError, PrepareError, RequestAttemptError,
};

use crate::sink::WriteError;

/// How long a server that is overloaded or not yet up is left alone.
const BREATHER: Duration = Duration::from_millis(500);

/// What an error says about the statement it met.
#[derive(Debug)]
pub(super) enum Failure {
    /// The statement's or its values' own fault, in the server's words.
    Own(String),
    /// A keyspace or table is not there: what is known of the tables is to be looked at again.
    Missing(String),
    /// Neither; what the runtime is to do.
    Other(WriteError),
}

impl Failure {
    /// As an error of the sink itself, where there is no record to be at fault.
    pub(super) fn into_write(self) -> WriteError {
        match self {
            Failure::Own(text) | Failure::Missing(text) => WriteError::busy(text),
            Failure::Other(error) => error,
        }
    }
}

fn busy(text: String) -> Failure {
    Failure::Other(WriteError::busy(text))
}

fn lost(text: String) -> Failure {
    Failure::Other(WriteError::Disconnected(text.into()))
}

/// An error of a statement.
pub(super) fn execution(error: &ExecutionError) -> Failure {
    match error {
        ExecutionError::BadQuery(BadQuery::SerializationError(_) | BadQuery::ValuesTooLongForKey(..)) => {
            Failure::Own(error.to_string())
        }
        ExecutionError::PrepareError(error) => prepare(error),
        ExecutionError::ConnectionPoolError(error) => lost(pool(error)),
        ExecutionError::LastAttemptError(error) => attempt(error),
        ExecutionError::SchemaAgreementError(_) => {
            busy(format!("{error}: the nodes do not agree about the tables; see `nodetool describecluster`"))
        }
        other => lost(other.to_string()),
    }
}

/// An error while a statement is prepared.
pub(super) fn prepare(error: &PrepareError) -> Failure {
    match error {
        PrepareError::AllAttemptsFailed { first_attempt } => attempt(first_attempt),
        PrepareError::ConnectionPoolError(error) => lost(pool(error)),
        other => lost(other.to_string()),
    }
}

fn attempt(error: &RequestAttemptError) -> Failure {
    match error {
        RequestAttemptError::DbError(kind, text) => answered(kind, text),
        RequestAttemptError::SerializationError(_) | RequestAttemptError::CqlRequestSerialization(_) => {
            Failure::Own(error.to_string())
        }
        RequestAttemptError::UnableToAllocStreamId => busy("every stream of the connection is in use".to_owned()),
        // The statement means something else by now: it is prepared anew with the next try.
        RequestAttemptError::RepreparedIdChanged { .. } | RequestAttemptError::RepreparedIdMissingInBatch => {
            Failure::Missing(format!("{error}: prepared again"))
        }
        other => lost(other.to_string()),
    }
}

/// What a server answered.
fn answered(kind: &DbError, text: &str) -> Failure {
    let wait = |why: &str| {
        let cause = format!("{text} ({why})").into();
        Failure::Other(WriteError::Busy { wait: Some(BREATHER), cause })
    };
    match kind {
        DbError::Invalid if is_missing(text) => Failure::Missing(format!(
            "{text} (create it; what Forebay needs of its own is made with `schema = create`, see `forebay schema cassa`)"
        )),
        DbError::SyntaxError | DbError::Invalid | DbError::FunctionFailure { .. } | DbError::ConfigError => {
            Failure::Own(text.to_owned())
        }
        // The server tells by the message only.
        DbError::ServerError | DbError::WriteFailure { .. } if is_too_large(text) => Failure::Own(text.to_owned()),
        DbError::AuthenticationError => busy(credentials(text)),
        DbError::Unauthorized => busy(format!("{text} (GRANT SELECT, MODIFY ON KEYSPACE … TO the pool's `username`)")),
        DbError::Overloaded => wait("the server is overloaded"),
        DbError::IsBootstrapping => wait("the node is still joining the cluster"),
        DbError::Unavailable { required, alive, .. } => busy(format!(
            "{text} ({alive} of the {required} replicas that `consistency` asks for are up: start the others or ask for fewer)"
        )),
        DbError::WriteTimeout { received, required, .. } | DbError::ReadTimeout { received, required, .. } => {
            busy(format!("{text} ({received} of {required} replicas answered in time)"))
        }
        DbError::WriteFailure { numfailures, .. } | DbError::ReadFailure { numfailures, .. } => {
            busy(format!("{text} ({numfailures} replicas failed: see their logs)"))
        }
        DbError::Unprepared { .. } => Failure::Missing(format!("{text}: prepared again")),
        DbError::ProtocolError => lost(format!("protocol error: {text}")),
        other => busy(format!("{other}: {text}")),
    }
}

fn is_missing(text: &str) -> bool {
    text.contains("unconfigured table") || (text.contains("does not exist") && !text.contains("Undefined"))
}

fn is_too_large(text: &str) -> bool {
    text.contains("too large") || text.contains("oversized")
}

fn credentials(text: &str) -> String {
    format!("{text} (set the pool's `username` and `password` to what the server expects)")
}

/// An error while the session is made.
pub(super) fn session(error: &NewSessionError) -> WriteError {
    let text = match error {
        NewSessionError::MetadataError(MetadataError::ConnectionPoolError(error)) => pool(error),
        other => other.to_string(),
    };
    WriteError::Disconnected(text.into())
}

/// Why there is no connection to any node.
fn pool(error: &ConnectionPoolError) -> String {
    if let ConnectionPoolError::Broken {
        last_connection_error: ConnectionError::ConnectionSetupRequestError(refused),
        ..
    } = error
    {
        match refused.get_error() {
            ConnectionSetupRequestErrorKind::DbError(DbError::AuthenticationError, text) => return credentials(text),
            ConnectionSetupRequestErrorKind::MissingAuthentication => {
                return "the server asks for a login: set the pool's `username` and `password`".to_owned();
            }
            _ => {}
        }
    }
    error.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_records_own_faults_are_told_from_the_operators() {
        let own = |kind: DbError, text: &str| matches!(answered(&kind, text), Failure::Own(_));
        assert!(own(DbError::SyntaxError, "line 1:7 no viable alternative"));
        assert!(own(DbError::Invalid, "Key may not be empty"));
        assert!(own(DbError::ServerError, "Encountered an oversized mutation (2097200/1048576): too large"));
        assert!(!own(DbError::ServerError, "java.lang.RuntimeException"));
        for text in ["unconfigured table msg", "Keyspace mqtt does not exist"] {
            assert!(
                matches!(answered(&DbError::Invalid, text), Failure::Missing(why) if why.contains("forebay schema"))
            );
        }
        for kind in [DbError::Overloaded, DbError::IsBootstrapping] {
            let failure = answered(&kind, "x");
            assert!(matches!(failure, Failure::Other(WriteError::Busy { wait: Some(_), .. })), "{failure:?}");
        }
        for kind in [DbError::Unauthorized, DbError::AuthenticationError, DbError::ServerError, DbError::TruncateError]
        {
            let failure = answered(&kind, "x");
            assert!(matches!(failure, Failure::Other(WriteError::Busy { wait: None, .. })), "{failure:?}");
        }
        assert!(matches!(answered(&DbError::ProtocolError, "x"), Failure::Other(WriteError::Disconnected(_))));
    }
}
