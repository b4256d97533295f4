//! The keyspace and its tables: what is there, what is missing, and what the columns are called.

use std::collections::{HashMap, HashSet};

use scylla::client::session::Session;
use scylla::deserialize::row::DeserializeRow;

use super::config::CassandraConfig;
use super::error;
use crate::sink::WriteError;
use crate::sql::SchemaMode;

const TABLES: &str = include_str!("tables.cql");

/// The columns that are written or read. `client_id` may be called `clientid` in tables that were there before.
const COLUMNS: [(&str, &[&str]); 7] = [
    ("client", &[CLIENT, "connected", "disconnected", "node", "state"]),
    ("sub", &[CLIENT, "topic", "qos"]),
    ("msg", &["topic", "msgid", "arrived", "payload", "qos", "retain", "sender"]),
    ("retain", &["topic", "msgid"]),
    ("acked", &[CLIENT, "topic", "msgid"]),
    ("forebay_position", &["log_id", "sink", "epoch", "lane", "lsn"]),
    ("forebay_imported", &["topic", "name", "value"]),
];

const CLIENT: &str = "client_id";
const CLIENT_TOO: &str = "clientid";

/// The statements as a script.
pub(crate) fn schema_text() -> String {
    format!("{};\nUSE mqtt;\n{TABLES}", create_keyspace("mqtt"))
}

/// As the guide makes it.
pub(super) fn create_keyspace(name: &str) -> String {
    format!(
        "CREATE KEYSPACE IF NOT EXISTS {name} WITH replication = {{'class': 'SimpleStrategy', 'replication_factor': '1'}} \
         AND durable_writes = true"
    )
}

/// The tables of a keyspace, as they were found.
#[derive(Clone, Debug, Default)]
pub(super) struct Found {
    tables: HashMap<String, HashSet<String>>,
}

impl Found {
    /// What the column with the client's name is called.
    pub(super) fn client(&self, table: &str) -> &'static str {
        match self.tables.get(table) {
            Some(columns) if !columns.contains(CLIENT) && columns.contains(CLIENT_TOO) => CLIENT_TOO,
            _ => CLIENT,
        }
    }

    /// Tables that are not there, with what creates them.
    pub(super) fn missing(&self) -> Vec<(&'static str, &'static str)> {
        let created = TABLES.lines().map(|line| line.trim_end_matches(';'));
        COLUMNS.iter().zip(created).map(|((name, _), cql)| (*name, cql)).filter(|(name, _)| !self.has(name)).collect()
    }

    /// True where the keyspace has the table.
    pub(super) fn has(&self, table: &str) -> bool {
        self.tables.contains_key(table)
    }

    /// Columns that tables which are there lack.
    pub(super) fn lacking(&self) -> Vec<String> {
        let mut lacking = Vec::new();
        for (table, columns) in COLUMNS {
            let Some(there) = self.tables.get(table) else { continue };
            for column in columns {
                let found = there.contains(*column) || (*column == CLIENT && there.contains(CLIENT_TOO));
                if !found {
                    lacking.push(format!("{table}.{column}"));
                }
            }
        }
        lacking
    }
}

/// Rows of a system table.
pub(super) async fn rows<R>(session: &Session, cql: &str, values: Vec<&str>) -> Result<Vec<R>, WriteError>
where
    R: for<'a, 'b> DeserializeRow<'a, 'b>,
{
    let answer = session.query_unpaged(cql, values).await.map_err(|e| error::execution(&e).into_write())?;
    super::lookup::typed(answer)
}

/// True where the keyspace is there.
pub(super) async fn has_keyspace(session: &Session, name: &str) -> Result<bool, WriteError> {
    let cql = "select keyspace_name from system_schema.keyspaces where keyspace_name = ?";
    Ok(!rows::<(String,)>(session, cql, vec![name]).await?.is_empty())
}

/// The tables of a keyspace.
pub(super) async fn look(session: &Session, keyspace: &str) -> Result<Found, WriteError> {
    let cql = "select table_name, column_name from system_schema.columns where keyspace_name = ?";
    let mut found = Found::default();
    for (table, column) in rows::<(String, String)>(session, cql, vec![keyspace]).await? {
        found.tables.entry(table).or_default().insert(column);
    }
    Ok(found)
}

/// Finds what is there, creates what is missing where the pool says so, and uses the keyspace.
pub(super) async fn prepare(session: &Session, config: &CassandraConfig) -> Result<Found, WriteError> {
    let keyspace = &config.keyspace;
    let run = async |cql: &str| {
        session.query_unpaged(cql, ()).await.map_err(|e| match error::execution(&e).into_write() {
            WriteError::Busy { wait, cause } => WriteError::Busy { wait, cause: format!("{cause}; at {cql}").into() },
            other => other,
        })
    };
    if !has_keyspace(session, keyspace).await? {
        let cql = create_keyspace(keyspace);
        if config.schema != SchemaMode::Create {
            return Err(WriteError::busy(format!("the keyspace {keyspace} is missing; run: {cql}")));
        }
        tracing::info!(keyspace, "the keyspace was missing and is created");
        run(&cql).await?;
    }
    session.use_keyspace(keyspace, true).await.map_err(|e| WriteError::Disconnected(e.into()))?;
    let mut found = look(session, keyspace).await?;
    let missing = found.missing();
    if !missing.is_empty() && config.schema != SchemaMode::Off {
        let names: Vec<&str> = missing.iter().map(|(name, _)| *name).collect();
        if config.schema == SchemaMode::Verify {
            let statements: Vec<&str> = missing.iter().map(|(_, cql)| *cql).collect();
            return Err(WriteError::busy(format!(
                "{} missing in the keyspace {keyspace}; run: {};",
                names.join(", "),
                statements.join("; ")
            )));
        }
        tracing::info!(keyspace, created = names.join(", "), "what was missing is created");
        for (_, cql) in missing {
            run(cql).await?;
        }
        found = look(session, keyspace).await?;
    }
    let lacking = found.lacking();
    if lacking.is_empty() {
        return Ok(found);
    }
    Err(WriteError::busy(format!(
        "the keyspace {keyspace} lacks the columns {}: add them, or rename the tables",
        lacking.join(", ")
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_table_has_its_statement_with_its_columns() {
        let missing = Found::default().missing();
        assert_eq!(missing.len(), COLUMNS.len());
        for ((name, cql), (table, columns)) in missing.into_iter().zip(COLUMNS) {
            assert!(name == table && cql.contains(&format!("EXISTS {table} (")), "{cql}");
            assert!(columns.iter().all(|column| cql.contains(&format!("{column} "))), "{cql}");
        }
    }

    #[test]
    fn the_clients_column_is_called_what_it_is_called() {
        let mut found = Found::default();
        assert_eq!(found.client("acked"), "client_id");
        found.tables.insert("acked".into(), ["clientid", "topic", "msgid"].map(str::to_owned).into());
        assert_eq!(found.client("acked"), "clientid");
        assert!(found.lacking().is_empty());
        found.tables.insert("sub".into(), ["topic"].map(str::to_owned).into());
        assert_eq!(found.lacking(), ["sub.client_id", "sub.qos"]);
    }
}
