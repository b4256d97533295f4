//! MongoDB's errors in the runtime's four kinds.

use mongodb::error::{Error, ErrorKind, UNKNOWN_TRANSACTION_COMMIT_RESULT, WriteFailure};

use crate::sink::WriteError;

/// What an error code says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// The server is gone, or is none that takes writes any more.
    Link,
    /// The server or its operator is at fault, or somebody else was in the way; with what to do, where that is known.
    Operator(&'static str),
    /// The document is at fault.
    Own,
    /// A unique index has such an entry.
    Duplicate,
    /// Nothing is known of it.
    Unknown,
}

/// The code that the tests' stand-in and hosted servers use for errors that have none of their own.
const UNSPECIFIC: i32 = 8_000;

pub(super) fn class(code: i32, message: &str) -> Class {
    let says = |words: &[&str]| words.iter().any(|word| message.contains(word));
    if says(&["journaling", "journaled"]) {
        return Class::Operator("the server keeps no journal: use `w_mode = unsafe`, or a server that does");
    }
    if says(&["No space left", "space quota", "Can't take a write lock while out of disk space"]) {
        return Class::Operator("the server's disk is full: make room");
    }
    if says(&["read-only", "read only", "readonly"]) {
        return Class::Operator("the server takes no writes: see its log");
    }
    match code {
        6 | 7 | 89 | 91 | 133 | 189 | 202 | 279 | 317 | 391 | 9_001 | 10_058 | 10_107 | 11_600 | 11_602 | 13_435
        | 13_436 => Class::Link,
        11_000 | 11_001 | 12_582 => Class::Duplicate,
        2 | 9 | 14 | 15 | 16 | 22 | 52 | 55 | 56 | 57 | 121 | 171 | 10_099 | 10_334 | 16_755 | 17_280 | 17_419
        | 17_420 => Class::Own,
        11 | 18 => Class::Operator("check the pool's login, password and auth_source"),
        13 => Class::Operator("give the pool's user the role `readWrite` on the database, and check its login"),
        20 | 263 => Class::Operator("the deployment has no transactions: set `transactions = off` for the pool"),
        24 | 46 | 112 | 117 | 225 | 246 | 251 | 262 => Class::Operator("another operation was in the way: tried again"),
        26 => Class::Operator("the collection is gone: it is created again at the next connect"),
        50 => Class::Operator(
            "the server did not finish in time: it is busy, or a transaction of a lost connection is still open (60 s at most)",
        ),
        59 | 72 | 115 => Class::Operator("the server is too old, or is none of MongoDB's"),
        61 => Class::Operator(
            "the collection is sharded by a field that the guide's documents don't have: shard it by one of theirs",
        ),
        64 | 79 | 100 => Class::Operator(
            "too few of the set's servers have the write: bring them back (rs.status()), or use `w_mode = unsafe`",
        ),
        63 | 150 | 13_388 => Class::Operator("the shards are on the move: tried again"),
        73 | 13_297 => Class::Operator("check the pool's database name"),
        85 | 86 => Class::Operator("an index of that name or those keys exists with other options"),
        166 => Class::Operator("a view stands where a collection is needed"),
        11_601 => Class::Operator("somebody ended the operation: tried again"),
        14_031 => Class::Operator("the server's disk is full: make room"),
        UNSPECIFIC => Class::Unknown,
        _ => Class::Unknown,
    }
}

/// A refusal that stands for a whole command.
pub(super) fn answered(code: i32, message: &str) -> WriteError {
    match (class(code, message), code) {
        (Class::Link, _) => WriteError::Disconnected(text(code, message, "").into()),
        // Only these are about what was sent, whichever document it was; of a whole command the rest is about its options.
        (Class::Own, 15 | 22 | 10_334 | 17_419 | 17_420) => WriteError::Whole(text(code, message, "").into()),
        (Class::Operator(remedy), _) => WriteError::busy(text(code, message, remedy)),
        // The transaction is larger than the server takes.
        _ if code == 257 => WriteError::Whole(text(code, message, "").into()),
        _ => WriteError::busy(text(code, message, "")),
    }
}

/// A message with its code and remedy.
pub(super) fn text(code: i32, message: &str, remedy: &str) -> String {
    if remedy.is_empty() { format!("{message} (code {code})") } else { format!("{message} (code {code}; {remedy})") }
}

/// An error of the driver.
pub(super) fn map(error: Error) -> WriteError {
    let lost = |error: &Error| WriteError::Disconnected(error.kind.to_string().into());
    match &*error.kind {
        ErrorKind::Command(refused) => answered(refused.code, &refused.message),
        ErrorKind::Write(WriteFailure::WriteConcernError(refused)) => answered(refused.code, &refused.message),
        ErrorKind::Write(WriteFailure::WriteError(refused)) => answered(refused.code, &refused.message),
        ErrorKind::Authentication { message, .. } => answered(18, message),
        ErrorKind::InvalidTlsConfig { message, .. } => {
            WriteError::busy(format!("{message} (check the pool's cacertfile, certfile and keyfile)"))
        }
        ErrorKind::InvalidArgument { message, .. } => WriteError::busy(message.clone()),
        ErrorKind::Transaction { message, .. } => {
            WriteError::busy(format!("{message} (set `transactions = off` for the pool)"))
        }
        ErrorKind::SessionsNotSupported => answered(20, "the server has no sessions"),
        _ => lost(&error),
    }
}

/// An error of a commit: unless the server has said no, its outcome is read from the position.
pub(super) fn map_commit(error: Error) -> WriteError {
    if error.contains_label(UNKNOWN_TRANSACTION_COMMIT_RESULT) {
        return WriteError::Disconnected(format!("the outcome of a commit is not known: {}", error.kind).into());
    }
    map(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_operators_errors_hold_the_sink_and_name_the_remedy() {
        for code in [13, 18, 20, 50, 64, 112, 14_031] {
            let error = answered(code, "x");
            assert!(matches!(error, WriteError::Busy { .. }), "{code}");
            assert!(error.to_string().contains(';'), "{error}");
        }
        assert!(answered(96, "No space left on device").to_string().contains("make room"));
        for code in [10_107, 189, 11_602, 91] {
            assert!(matches!(answered(code, "not primary"), WriteError::Disconnected(_)), "{code}");
        }
    }

    #[test]
    fn only_what_was_sent_is_taken_apart() {
        assert!(matches!(answered(10_334, "BSONObj size"), WriteError::Whole(_)));
        // A command's own option, not a document.
        assert!(matches!(answered(2, "bad writeConcern"), WriteError::Busy { .. }));
        assert!(matches!(answered(8_000, "x"), WriteError::Busy { .. }));
        assert_eq!(class(121, "Document failed validation"), Class::Own);
        assert_eq!(class(11_000, "E11000"), Class::Duplicate);
    }
}
