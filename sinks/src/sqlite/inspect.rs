//! Looking at a database file without changing it.

use std::path::Path;

use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions, Connection, Row};

use super::write::SqliteSink;
use crate::sink::Finding;

/// The columns that are written or asked for.
const COLUMNS: &[(&str, &[&str])] = &[
    ("mqtt_client", &["clientid", "state", "node", "online_at", "offline_at", "created"]),
    ("mqtt_sub", &["clientid", "topic", "qos"]),
    ("mqtt_msg", &["id", "msgid", "topic", "sender", "node", "qos", "retain", "payload", "arrived"]),
    ("mqtt_retain", &["topic", "msgid", "sender", "node", "qos", "payload", "arrived"]),
    ("mqtt_acked", &["clientid", "topic", "mid", "created"]),
];

pub(super) async fn inspect(sink: &SqliteSink) -> Vec<Finding> {
    let path = &sink.config.path;
    if !path.exists() {
        return vec![Finding::fine(format!("{} is not there yet and is made at the start", path.display()))];
    }
    match look(path).await {
        Ok(findings) => findings,
        Err(error) => vec![Finding::fault(format!("{}: {error}", path.display()))],
    }
}

async fn look(path: &Path) -> sqlx::Result<Vec<Finding>> {
    let mut findings = Vec::new();
    if std::fs::metadata(path)?.permissions().readonly() {
        findings.push(Finding::fault(format!("{} may not be written by this user", path.display())));
    }
    let options = SqliteConnectOptions::new().filename(path).read_only(true).disable_statement_logging();
    let mut conn = SqliteConnection::connect_with(&options).await?;
    for (table, columns) in COLUMNS {
        let rows = sqlx::query("select name from pragma_table_info(?)").bind(*table).fetch_all(&mut conn).await?;
        let there = rows.iter().map(|row| row.try_get("name")).collect::<sqlx::Result<Vec<String>>>()?;
        let missing: Vec<&str> = columns.iter().copied().filter(|c| !there.iter().any(|t| t == c)).collect();
        if !there.is_empty() && !missing.is_empty() {
            let text = format!("table {table} lacks {}; add what is missing, or rename the table", missing.join(", "));
            findings.push(Finding::fault(text));
        }
    }
    conn.close().await?;
    Ok(findings)
}
