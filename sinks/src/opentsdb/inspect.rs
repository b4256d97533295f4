//! Looking at an OpenTSDB without changing it.

use super::config::OpentsdbConfig;
use crate::http::{connect, refused, shown};
use crate::sink::Finding;

pub(super) async fn inspect(config: &OpentsdbConfig) -> Vec<Finding> {
    let conn = match connect(&config.http).await {
        Ok(conn) => conn,
        Err(error) => return vec![Finding::fault(error.to_string())],
    };
    // A put of no points is refused, or passed over, when the login and the address are right.
    let put = match conn.post("/api/put?details", "application/json", b"[]".to_vec()).await {
        Ok(answer) => answer,
        Err(error) => return vec![Finding::fault(error.to_string())],
    };
    if let Some(error) = refused(&put, "/api/put").filter(|_| !put.status.is_server_error()) {
        return vec![Finding::fault(error.to_string())];
    }
    if put.status.as_u16() == 404 {
        let text = format!("/api/put: {}: no OpenTSDB answers there, or it is read-only", shown(&put.body));
        return vec![Finding::fault(text)];
    }
    let mut findings = vec![Finding::fine("takes puts")];
    if !config.sync {
        findings.push(Finding::warning(
            "sync = false: OpenTSDB answers before points are stored, and loses what it answered when it ends",
        ));
    }
    findings
}
