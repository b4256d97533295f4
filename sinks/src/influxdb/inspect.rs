//! Looking at an InfluxDB without changing it.

use super::config::Target;
use super::write::InfluxSink;
use crate::http::{connect, refused, shown};
use crate::sink::Finding;

pub(super) async fn inspect(sink: &InfluxSink) -> Vec<Finding> {
    let Some(http) = sink.http() else {
        let text = "UDP: nobody answers, so neither the server nor its database can be looked at, and lost points are not noticed";
        return vec![Finding::warning(text)];
    };
    let conn = match connect(http).await {
        Ok(conn) => conn,
        Err(error) => return vec![Finding::fault(error.to_string())],
    };
    // A write of no points is checked as any other: login, rights, database.
    let answer = match conn.post(sink.path(), "text/plain; charset=utf-8", Vec::new()).await {
        Ok(answer) => answer,
        Err(error) => return vec![Finding::fault(error.to_string())],
    };
    let what = match &sink.config.target {
        Target::Udp(_) => return Vec::new(),
        Target::V1 { database, .. } => format!("database {database}"),
        Target::V2 { bucket, .. } => format!("bucket {bucket}"),
    };
    if let Some(error) = refused(&answer, &what) {
        return vec![Finding::fault(error.to_string())];
    }
    let said = shown(&answer.body);
    match answer.status.as_u16() {
        404 => vec![Finding::fault(format!("{what}: {said}: create it, or correct the pool's address"))],
        // The second API refuses a body without points, when it has found the bucket and the right to write.
        200..300 | 400 | 422 if !said.contains("precision") && !said.contains("database is required") => {
            vec![Finding::fine(format!("{what} can be written to"))]
        }
        status => vec![Finding::warning(format!("{what}: an unexpected answer {status}: {said}"))],
    }
}
