//! Redis's errors in the runtime's four kinds.

use redis::{ErrorKind, RedisError, Value};

use crate::sink::WriteError;

/// The answer of a server that has no room for another connection.
pub(super) const FULL: &str = "ERR max number of clients reached";

/// What the operator is to do about an error that is neither the link's nor a record's.
fn remedy(code: &str, text: &str) -> Option<&'static str> {
    Some(match code {
        "OOM" => "Redis is at its maxmemory: raise it, or let messages expire (`expired_time`)",
        "MISCONF" => "Redis can't save to its disk: make room, or see its log",
        "NOREPLICAS" => "Redis wants more replicas to be connected (min-replicas-to-write)",
        "NOPERM" => "give the pool's user the right to this command and its keys (ACL SETUSER)",
        "NOAUTH" | "WRONGPASS" => "set the pool's `username` and `password` to what the server expects",
        "LOADING" => "Redis is still reading its data",
        "BUSY" => "Redis is occupied by a script",
        "MASTERDOWN" | "CLUSTERDOWN" => "a master is missing: it comes back, or a replica takes over",
        "TRYAGAIN" => "slots are on the move",
        "READONLY" => "this server is a replica: name the master, or use `type = sentinel`",
        "UNKILLABLE" => "Redis is occupied by a script that can't be stopped",
        _ if ["The user executing the script", "ACL failure", "no permissions"].iter().any(|t| text.contains(t)) => {
            "give the pool's user the right to this command and its keys (ACL SETUSER)"
        }
        _ if text.contains("max number of clients") => "too many connections: lower pool_size or raise maxclients",
        _ if text.contains("unknown command") || text.contains("Unknown Redis command") => {
            "this Redis does not have the command: correct the rule or load the module"
        }
        _ if text.contains("rong number of arg") => "correct the rule's command",
        _ if text.contains("not allowed from script") => {
            "commands run inside a script, and this one can't: change the rule"
        }
        _ => return None,
    })
}

/// The error's first word and its text.
fn parts(text: &str) -> (&str, &str) {
    let text = text.trim_start_matches('-');
    let end = text.find(|c: char| !c.is_ascii_uppercase()).unwrap_or(text.len());
    (text.get(..end).unwrap_or_default(), text)
}

/// An error that a server answered, as text that begins with its code.
pub(super) fn answered(text: &str) -> WriteError {
    let (code, text) = parts(text);
    let cause = match remedy(code, text) {
        Some(remedy) => format!("{text} ({remedy})"),
        None => text.to_owned(),
    };
    match code {
        // The link leads to the wrong server, has lost its login, or the script was loaded before the server forgot all scripts.
        "READONLY" | "NOAUTH" | "MOVED" | "ASK" | "NOSCRIPT" => WriteError::Disconnected(cause.into()),
        _ => WriteError::busy(cause),
    }
}

/// True for an error that a command met because of its own words or of what its key holds.
pub(super) fn is_own_fault(text: &str) -> bool {
    let (code, text) = parts(text);
    remedy(code, text).is_none() && !matches!(code, "MOVED" | "ASK" | "NOSCRIPT" | "EXECABORT")
}

/// The words of an error in an answer.
pub(super) fn text(error: &redis::ServerError) -> String {
    match error.details() {
        Some(details) => format!("{} {details}", error.code()),
        None => error.code().to_owned(),
    }
}

/// An error of the driver.
pub(super) fn map(error: RedisError) -> WriteError {
    if let Some(code) = error.code() {
        return answered(&format!("{code} {}", error.detail().unwrap_or_default()));
    }
    if error.kind() == ErrorKind::AuthenticationFailed {
        return answered(&format!("WRONGPASS {error}"));
    }
    WriteError::Disconnected(error.into())
}

/// An answer of another shape than the protocol says.
pub(super) fn unexpected(what: &str, value: &Value) -> WriteError {
    WriteError::Disconnected(format!("{what}: unexpected answer {value:?}").into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_operators_errors_hold_the_sink_and_name_the_remedy() {
        for text in ["OOM command not allowed", "MISCONF x", "NOPERM x", "ERR unknown command 'FOO'", "LOADING x"] {
            assert!(matches!(answered(text), WriteError::Busy { .. }), "{text}");
            assert!(answered(text).to_string().contains('('), "{text}");
            assert!(!is_own_fault(text), "{text}");
        }
        assert!(matches!(answered("READONLY x"), WriteError::Disconnected(_)));
        assert!(is_own_fault("WRONGTYPE Operation against a key holding the wrong kind of value"));
        assert!(is_own_fault("ERR value is not an integer or out of range"));
    }
}
