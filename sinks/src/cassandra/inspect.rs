//! Looking at a Cassandra without changing it: login, keyspace, tables, columns, rights to read, and what its answers are worth.

use scylla::client::session::Session;

use super::connect::CassandraSink;
use super::error;
use super::schema::{self, Found};
use crate::sink::{Finding, WriteError};
use crate::sql::SchemaMode;

pub(super) async fn inspect(sink: &CassandraSink) -> Vec<Finding> {
    match look(sink).await {
        Ok(findings) => findings,
        Err(error) => vec![Finding::fault(error.to_string())],
    }
}

async fn look(sink: &CassandraSink) -> Result<Vec<Finding>, WriteError> {
    let config = &sink.config;
    let session = sink.session().await?;
    let mut findings = Vec::new();
    let mut missing = |name: &str, cql: &str| {
        findings.push(match config.schema {
            SchemaMode::Create => Finding::fine(format!("{name} is not there yet and is made at the start")),
            SchemaMode::Verify => Finding::fault(format!("{name} is missing; run: {cql}")),
            SchemaMode::Off => {
                Finding::warning(format!("{name} is missing, and `schema = off` leaves it so; run: {cql}"))
            }
        });
    };
    let keyspace = &config.keyspace;
    if !schema::has_keyspace(&session, keyspace).await? {
        missing(&format!("the keyspace {keyspace}"), &schema::create_keyspace(keyspace));
        return Ok(findings);
    }
    let found = schema::look(&session, keyspace).await?;
    for (name, cql) in found.missing() {
        missing(name, cql);
    }
    let lacking = found.lacking();
    if !lacking.is_empty() {
        findings.push(Finding::fault(format!("columns are missing: {}", lacking.join(", "))));
    }
    findings.extend(unreadable(&session, keyspace, &found).await);
    findings.extend(forgetful(&session, keyspace).await);
    Ok(findings)
}

/// Tables that the login may not read.
async fn unreadable(session: &Session, keyspace: &str, found: &Found) -> Vec<Finding> {
    let mut findings = Vec::new();
    for table in ["client", "sub", "msg", "retain", "acked", "forebay_position", "forebay_imported"] {
        if !found.has(table) {
            continue;
        }
        if let Err(refused) = session.query_unpaged(format!("select * from {keyspace}.{table} limit 1"), ()).await {
            findings.push(Finding::fault(format!("{table}: {}", error::execution(&refused).into_write())));
        }
    }
    findings
}

/// A server that confirms before its disk has it forgets what it confirmed when it is killed; a replica would remember.
/// Servers before 4.0 don't tell.
async fn forgetful(session: &Session, keyspace: &str) -> Option<Finding> {
    let cql = "select value from system_views.settings where name = ?";
    let sync: Vec<(Option<String>,)> = schema::rows(session, cql, vec!["commitlog_sync"]).await.ok()?;
    let sync = sync.into_iter().find_map(|(value,)| value)?;
    let cql = "select replication from system_schema.keyspaces where keyspace_name = ?";
    let kept: Vec<(std::collections::HashMap<String, String>,)> =
        schema::rows(session, cql, vec![keyspace]).await.ok()?;
    let (replication,) = kept.into_iter().next()?;
    let copies: u32 =
        replication.iter().filter(|(name, _)| *name != "class").filter_map(|(_, n)| n.parse::<u32>().ok()).sum();
    (sync.eq_ignore_ascii_case("periodic") && copies < 2).then(|| {
        Finding::warning(
            "commitlog_sync is periodic and there is one replica: a node that is killed forgets what it confirmed in the last seconds; \
             set commitlog_sync: batch or group, or keep more replicas",
        )
    })
}
