//! What InfluxDB's answers mean.

use reqwest::StatusCode;

use crate::http::{Answer, refused, shown};
use crate::sink::WriteError;

/// Words of a 400 or 422 that is the points' own fault. What a server says besides is the operator's.
const OWN: &[&str] = &[
    "unable to parse",
    "partial write",
    "field type conflict",
    "max key length exceeded",
    "beyond retention",
    "outside retention",
    "out of retention",
    "unprocessable entity",
    "invalid line protocol",
    "failed to parse",
];

/// Words of a 400 that sound like the points' and are the operator's: limits that were set.
const LIMITS: &[&str] = &["max-series-per-database", "max-values-per-tag", "max series", "cache maximum memory size"];

/// `Ok` where all is stored.
pub(super) fn map(answer: &Answer, what: &str) -> Result<(), WriteError> {
    if answer.status.is_success() {
        return Ok(());
    }
    if let Some(error) = refused(answer, what) {
        return Err(error);
    }
    let said = shown(&answer.body);
    let lower = said.to_ascii_lowercase();
    let has = |words: &[&str]| words.iter().any(|word| lower.contains(word));
    match answer.status {
        StatusCode::PAYLOAD_TOO_LARGE => {
            Err(WriteError::Whole(format!("the server takes no body of this size: {said}").into()))
        }
        StatusCode::NOT_FOUND => Err(WriteError::busy(format!(
            "{what}: {said}: create it (CREATE DATABASE, or a bucket), or correct the pool's address"
        ))),
        StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY if has(LIMITS) => Err(WriteError::busy(format!(
            "{what}: {said}: raise the server's limit, or use fewer tags with many values"
        ))),
        StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY if has(OWN) => {
            Err(WriteError::Whole(remedied(&said, &lower).into()))
        }
        status => Err(WriteError::busy(format!("{what}: {status}: {said}"))),
    }
}

fn remedied(said: &str, lower: &str) -> String {
    let help = if lower.contains("field type conflict") {
        ": the field has another type in the database; `field_type = compat_string` writes texts, as EMQ X did; or store under another field or measurement"
    } else if lower.contains("retention") {
        ": the point is older than what the database keeps"
    } else {
        ""
    };
    format!("{said}{help}")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn answer(status: u16, body: &str) -> Result<(), WriteError> {
        let answer = Answer {
            status: StatusCode::from_u16(status).unwrap(),
            wait: Some(Duration::from_secs(7)),
            body: body.into(),
        };
        map(&answer, "mydb")
    }

    #[test]
    fn faults_of_points_are_theirs_and_all_else_is_the_operators() {
        let own = [
            (400, r#"{"error":"unable to parse 'x': missing fields"}"#),
            (
                400,
                r#"{"error":"partial write: field type conflict: input field \"v\" on measurement \"m\" is type string, already exists as type float dropped=1"}"#,
            ),
            (422, r#"{"code":"unprocessable entity","message":"failure writing points"}"#),
            (413, "too large"),
        ];
        for (status, body) in own {
            assert!(matches!(answer(status, body), Err(WriteError::Whole(_))), "{status} {body}");
        }
        let operators = [
            (400, r#"{"error":"database is required"}"#),
            (
                400,
                r#"{"error":"partial write: max-values-per-tag limit exceeded (100/100): measurement=\"m\" dropped=1"}"#,
            ),
            (401, r#"{"error":"authorization failed"}"#),
            (403, r#"{"error":"\"forebay\" user is not authorized to write"}"#),
            (404, r#"{"error":"database not found: \"mydb\""}"#),
            (429, ""),
            (500, r#"{"error":"timeout"}"#),
            (503, ""),
            (302, ""),
            (418, ""),
        ];
        for (status, body) in operators {
            assert!(matches!(answer(status, body), Err(WriteError::Busy { .. })), "{status} {body}");
        }
        assert!(matches!(answer(429, ""), Err(WriteError::Busy { wait: Some(w), .. }) if w.as_secs() == 7));
        assert!(answer(204, "").is_ok());
    }
}
