//! What OpenTSDB's answers mean.
//!
//! The status tells little: 400 is the answer to a bad point, to storage that is late, and to a body that can't be read. The
//! details tell them apart.

use reqwest::StatusCode;
use serde::Deserialize;
use serde_json::Value as Json;

use super::encode::Put;
use crate::http::{Answer, refused, shown};
use crate::sink::{Entry, Verdict, WriteError};

/// The answer to a put with `details`.
#[derive(Debug, Deserialize)]
struct Details {
    #[serde(default)]
    failed: u64,
    #[serde(default)]
    timeouts: u64,
    #[serde(default)]
    errors: Vec<Refused>,
}

/// A point that is not stored.
#[derive(Debug, Deserialize)]
struct Refused {
    #[serde(default)]
    datapoint: Json,
    #[serde(default)]
    error: String,
}

/// Words of an error that is the storage's, not the point's.
const STORAGE: &[&str] =
    &["timedout", "timed out", "throttle", "storage exception", "remoteexception", "nonrecoverable"];

/// Words of a 400 to a body as a whole that another body need not get.
const BODY: &[&str] = &["unable to parse", "chunked", "too large", "missing datapoint", "no datapoints"];

/// `Ok` where all is stored.
pub(super) fn map(answer: &Answer, entries: &[Entry<Put>]) -> Result<(), WriteError> {
    const WHAT: &str = "/api/put";
    if answer.status == StatusCode::NO_CONTENT {
        return Ok(());
    }
    if answer.status.is_success() || answer.status == StatusCode::BAD_REQUEST {
        match serde_json::from_str::<Details>(&answer.body) {
            // An error of another form has none of these.
            Ok(details) if details.failed + details.timeouts > 0 || !details.errors.is_empty() => {
                return Err(points(&details, entries));
            }
            _ if answer.status.is_success() => return Ok(()),
            _ => {}
        }
    }
    if let Some(error) = refused(answer, WHAT) {
        return Err(error);
    }
    let said = shown(&answer.body);
    let lower = said.to_ascii_lowercase();
    let body = BODY.iter().any(|word| lower.contains(word));
    match answer.status {
        StatusCode::BAD_REQUEST if body => Err(WriteError::Whole(remedied(&said, &lower).into())),
        StatusCode::PAYLOAD_TOO_LARGE => Err(WriteError::Whole(said.into())),
        StatusCode::NOT_FOUND => Err(WriteError::busy(format!(
            "{WHAT}: {said}: no OpenTSDB answers at the pool's server, or it is read-only"
        ))),
        status => Err(WriteError::busy(format!("{WHAT}: {status}: {said}"))),
    }
}

fn points(details: &Details, entries: &[Entry<Put>]) -> WriteError {
    let of_storage = |refused: &&Refused| {
        let error = refused.error.to_ascii_lowercase();
        STORAGE.iter().any(|word| error.contains(word))
    };
    let late = details.errors.iter().find(of_storage).map(|late| shown(&late.error));
    // A point that is late may be stored or not. All go again; bad ones are found when storage answers.
    if details.timeouts > 0 || late.is_some() {
        let why = late.unwrap_or_else(|| "no reason given".to_owned());
        return WriteError::busy(format!("the storage behind OpenTSDB is late or refuses ({why}): is HBase up?"));
    }
    let mut sent: Vec<Option<Json>> = entries.iter().map(|entry| serde_json::from_str(&entry.op.json).ok()).collect();
    let mut items = Vec::new();
    for refused in &details.errors {
        let found = sent.iter().position(|put| put.as_ref().is_some_and(|put| same(put, &refused.datapoint)));
        let Some(index) = found else {
            // Which one it is can't be told from the answer: halving finds it.
            return WriteError::Whole(shown(&refused.error).into());
        };
        if let Some(put) = sent.get_mut(index) {
            *put = None;
        }
        items.push((index, Verdict::Bury(shown(&refused.error).into())));
    }
    if items.is_empty() {
        return WriteError::Whole(format!("{} points were refused, without a reason", details.failed).into());
    }
    WriteError::Items(items)
}

/// OpenTSDB repeats a point with its value as a text.
fn same(put: &Json, said: &Json) -> bool {
    ["metric", "tags", "timestamp"].iter().all(|name| put.get(name) == said.get(name))
}

fn remedied(said: &str, lower: &str) -> String {
    if lower.contains("chunked") || lower.contains("too large") {
        return format!(
            "{said}: the server takes no body of this size: set tsd.http.request.enable_chunked = true and a larger \
             tsd.http.request.max_chunk there, or a smaller max_batch_size here"
        );
    }
    said.to_owned()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;
    use forebay_engine::Lsn;

    fn entries() -> Vec<Entry<Put>> {
        let put = |n: u64| Put {
            json: format!(r#"{{"metric":"m","tags":{{"t":"a"}},"timestamp":{n},"value":1}}"#),
            moved: false,
        };
        (1..4).map(|n| Entry { lsn: Lsn(n), time_us: n, rule: 0, place: 0, op: put(n) }).collect()
    }

    fn answer(status: u16, body: &str) -> Result<(), WriteError> {
        let answer = Answer { status: StatusCode::from_u16(status).unwrap(), wait: None, body: body.into() };
        map(&answer, &entries())
    }

    fn detailed(timeouts: u64, error: &str, timestamp: u64) -> String {
        format!(
            r#"{{"success":2,"failed":1,"timeouts":{timeouts},"errors":[{{"datapoint":{{"metric":"m","timestamp":{timestamp},"value":"1","tags":{{"t":"a"}}}},"error":"{error}"}}]}}"#
        )
    }

    #[test]
    fn a_bad_point_is_named_and_late_storage_is_no_bad_point() {
        assert!(answer(204, "").is_ok());
        assert!(answer(200, r#"{"success":3,"failed":0,"errors":[]}"#).is_ok());
        let bad = answer(400, &detailed(0, "Unable to parse value to a number", 2));
        assert!(matches!(bad, Err(WriteError::Items(items)) if items.len() == 1 && items[0].0 == 1));
        let late = answer(400, &detailed(1, "Write timedout", 2));
        assert!(matches!(late, Err(WriteError::Busy { .. })), "{late:?}");
        let throttled = answer(400, &detailed(0, "Please throttle writes: 10000 RPCs waiting", 2));
        assert!(matches!(throttled, Err(WriteError::Busy { .. })), "{throttled:?}");
        let unknown = answer(400, &detailed(0, "Illegal character", 9));
        assert!(matches!(unknown, Err(WriteError::Whole(_))), "{unknown:?}");
        let body = answer(400, r#"{"error":{"code":400,"message":"Unable to parse the given JSON"}}"#);
        assert!(matches!(body, Err(WriteError::Whole(_))), "{body:?}");
        let chunked = answer(400, r#"{"error":{"code":400,"message":"Chunked request not supported."}}"#);
        assert!(matches!(chunked, Err(WriteError::Whole(e)) if e.to_string().contains("max_chunk")));
        for (status, body) in [(400, "who knows"), (404, ""), (500, ""), (503, ""), (429, ""), (401, "")] {
            assert!(matches!(answer(status, body), Err(WriteError::Busy { .. })), "{status}");
        }
    }
}
