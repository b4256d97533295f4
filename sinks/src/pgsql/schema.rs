//! Tables: the guide's shapes without its narrow places, and Forebay's own. What exists is taken as it is; it only gets the indexes
//! without which each acknowledgement would read the whole table.

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Executor, Row};

use super::connect::PgsqlSink;
use super::copy;
use super::error::map;
use crate::sink::{Finding, WriteError};
use crate::sql::inspect;
use crate::sql::layout::{Column, Holds, Layout};
use crate::sql::{SchemaMode, ServerConfig};

/// True for rows of other programs: Forebay's own have a msgid of 20 letters and digits. Where a query says the same in the same words,
/// the server uses the index below.
macro_rules! foreign_rows {
    () => {
        "(msgid is null or msgid !~ '^[0-9A-Za-z]{20}$')"
    };
}
pub(super) use foreign_rows;

/// A table or index: its name and what creates it.
type Part = (&'static str, &'static str);

const CREATE: [Part; 8] = [
    (
        "mqtt_client",
        "create table if not exists mqtt_client (id bigserial primary key, clientid character varying, state integer, \
         node character varying, online_at timestamp without time zone, offline_at timestamp without time zone, \
         created timestamp without time zone, unique (clientid))",
    ),
    (
        "mqtt_sub",
        "create table if not exists mqtt_sub (id bigserial primary key, clientid character varying, topic character varying, \
         qos integer, created timestamp without time zone, unique (clientid, topic))",
    ),
    (
        "mqtt_msg",
        "create table if not exists mqtt_msg (id bigserial primary key, msgid character varying, sender character varying, \
         topic character varying, qos integer, retain integer, payload bytea, arrived timestamp without time zone, \
         unique (msgid))",
    ),
    (
        "mqtt_retain",
        "create table if not exists mqtt_retain (id bigserial primary key, topic character varying, msgid character varying, \
         sender character varying, qos integer, payload bytea, arrived timestamp without time zone, unique (topic))",
    ),
    (
        "mqtt_acked",
        "create table if not exists mqtt_acked (id bigserial primary key, clientid character varying, topic character varying, \
         mid bigint, created timestamp without time zone, unique (clientid, topic))",
    ),
    (
        "forebay_position",
        "create table if not exists forebay_position (log_id bigint not null, sink text not null, lane bigint not null, \
         lsn bigint not null, prefix bigint not null, primary key (log_id, sink, lane))",
    ),
    (
        "forebay_imported",
        "create table if not exists forebay_imported (msgid text primary key, row_key text not null unique)",
    ),
    (
        "forebay_expiry",
        "create table if not exists forebay_expiry (msgid text not null, kind text not null, topic text not null, \
         expires_us bigint not null, primary key (msgid, kind)); \
         create index if not exists forebay_expiry_due on forebay_expiry (kind, expires_us)",
    ),
];

const INDEXES: [Part; 3] = [
    ("forebay_msg_msgid", "create index if not exists forebay_msg_msgid on mqtt_msg (msgid)"),
    ("forebay_msg_topic", "create index if not exists forebay_msg_topic on mqtt_msg (topic, id)"),
    (
        "forebay_msg_foreign",
        concat!("create index if not exists forebay_msg_foreign on mqtt_msg (topic, id) where ", foreign_rows!()),
    ),
];

/// One connection at a time creates what is missing.
const LOCK: &str = "select pg_advisory_xact_lock(5069238614307193)";

const COLUMNS: &str = "select n.name as relation, a.attname::text as name, t.typname::text as kind, \
     format_type(a.atttypid, null) as written, a.atttypmod as modifier \
     from unnest($1::text[]) as n(name) join pg_catalog.pg_attribute a on a.attrelid = to_regclass(n.name) \
     join pg_catalog.pg_type t on t.oid = a.atttypid where a.attnum > 0 and not a.attisdropped";

/// Of mqtt_msg: the first columns of each index, whether it is of all rows, and unique.
const FOUND_INDEXES: &str = "select c.relname::text as name, i.indisunique as is_unique, i.indpred is null as of_all, \
     array(select coalesce(a.attname::text, '') from unnest(i.indkey::int2[]) with ordinality as k(number, place) \
     left join pg_catalog.pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.number order by k.place) as columns \
     from pg_catalog.pg_index i join pg_catalog.pg_class c on c.oid = i.indexrelid \
     where i.indrelid = to_regclass('mqtt_msg') and i.indisvalid";

const FOUND_TABLE: &str = "select relkind::text in ('r', 'p') and not relhasrules and not relrowsecurity as copies \
     from pg_catalog.pg_class where oid = to_regclass('mqtt_msg')";

/// The statements as a script.
pub(crate) fn schema_text() -> String {
    CREATE.iter().chain(&INDEXES).map(|(_, sql)| format!("{sql};\n")).collect()
}

/// The statement that makes the table of positions.
pub(crate) fn position_table() -> String {
    CREATE.iter().filter(|(name, _)| *name == "forebay_position").map(|(_, sql)| format!("{sql};\n")).collect()
}

impl PgsqlSink {
    /// Looks at the database and its tables without changing them.
    ///
    /// # Errors
    /// Where it can't be reached.
    pub(crate) async fn look(&self) -> Result<(PgConnection, Vec<Finding>), WriteError> {
        let mut conn = self.link().await?;
        let found = look(&mut conn, self.tables).await?;
        let mut findings = inspect::findings(&found.layout, &self.config, &found.missing(self.tables));
        for (table, sql) in inspect::probes(&found.layout) {
            if let Err(error) = conn.execute(AssertSqlSafe(sql)).await {
                findings.push(Finding::fault(format!("{table}: {}", map(error))));
            }
        }
        Ok((conn, findings))
    }
}

/// Tables and indexes as they were found.
#[derive(Clone, Debug, Default)]
pub(super) struct Found {
    pub(super) layout: Layout,
    /// mqtt_msg refuses a second row of a msgid.
    pub(super) unique_msgid: bool,
    /// mqtt_msg takes COPY as it takes an insertion: it is a table, and has neither rules nor row security.
    pub(super) copies: bool,
    msgid_index: bool,
    topic_index: bool,
    foreign_index: bool,
}

/// Finds what is there, and creates what is missing where the pool says so.
pub(super) async fn prepare(
    conn: &mut PgConnection,
    config: &ServerConfig,
    tables: &[&str],
) -> Result<Found, WriteError> {
    let mut found = look(conn, tables).await?;
    if config.schema == SchemaMode::Off {
        return Ok(found);
    }
    let missing = found.missing(tables);
    if !missing.is_empty() {
        let names: Vec<&str> = missing.iter().map(|(name, _)| *name).collect();
        if config.schema == SchemaMode::Verify {
            let statements: Vec<&str> = missing.iter().map(|(_, sql)| *sql).collect();
            return Err(WriteError::busy(format!(
                "{} missing in the database {}; run: {};",
                names.join(", "),
                config.database,
                statements.join("; ")
            )));
        }
        tracing::info!(database = config.database, created = names.join(", "), "what was missing is created");
        let statements: Vec<&str> = missing.iter().map(|(_, sql)| *sql).collect();
        let all = format!("begin; {LOCK}; {}; commit", statements.join("; "));
        if let Err(error) = conn.execute(AssertSqlSafe(all)).await {
            // The connection is dropped by the caller, and the transaction with it.
            return Err(match map(error) {
                WriteError::Busy { cause, .. } => WriteError::busy(format!("creating {}: {cause}", names.join(", "))),
                other => other,
            });
        }
        found = look(conn, tables).await?;
    }
    for (table, column) in [("mqtt_client", "node"), ("mqtt_msg", "node"), ("mqtt_retain", "node")] {
        if let Err(why) = found.layout.text(table, column, &config.node_name) {
            return Err(WriteError::busy(format!("the node's name {} does not fit: {why}", config.node_name)));
        }
    }
    Ok(found)
}

pub(super) async fn look(conn: &mut PgConnection, tables: &[&str]) -> Result<Found, WriteError> {
    // In one transaction: a pooler may give each to another session, which does not know the statements of the one before.
    conn.execute("begin").await.map_err(map)?;
    let mut found = Found::default();
    let names: Vec<String> = tables.iter().map(|name| (*name).to_owned()).collect();
    for row in sqlx::query(COLUMNS).persistent(false).bind(names).fetch_all(&mut *conn).await.map_err(map)? {
        let text = |name: &str| row.try_get::<String, _>(name).map_err(map);
        let modifier: i32 = row.try_get("modifier").map_err(map)?;
        let holds = holds(&text("kind")?, modifier);
        found.layout.add(&text("relation")?, &text("name")?, Column { holds, cast: text("written")? });
    }
    if !tables.contains(&"mqtt_msg") {
        conn.execute("commit").await.map_err(map)?;
        return Ok(found);
    }
    for row in sqlx::query(FOUND_INDEXES).persistent(false).fetch_all(&mut *conn).await.map_err(map)? {
        let name: String = row.try_get("name").map_err(map)?;
        let columns: Vec<String> = row.try_get("columns").map_err(map)?;
        let (is_unique, of_all): (bool, bool) =
            (row.try_get("is_unique").map_err(map)?, row.try_get("of_all").map_err(map)?);
        let first = columns.first().map(String::as_str);
        found.msgid_index |= of_all && first == Some("msgid");
        found.unique_msgid |= of_all && is_unique && columns == ["msgid"];
        found.topic_index |= of_all && first == Some("topic") && columns.get(1).is_some_and(|second| second == "id");
        found.foreign_index |= name == "forebay_msg_foreign";
    }
    let table = sqlx::query(FOUND_TABLE).persistent(false).fetch_optional(&mut *conn).await.map_err(map)?;
    let plain = table.map_or(Ok(false), |row| row.try_get("copies")).map_err(map)?;
    found.copies = plain && copy::serves(&found.layout);
    conn.execute("commit").await.map_err(map)?;
    Ok(found)
}

impl Found {
    fn missing(&self, tables: &[&str]) -> Vec<Part> {
        let has_messages = tables.contains(&"mqtt_msg");
        let tables = CREATE.into_iter().filter(|(name, _)| tables.contains(name) && !self.layout.has_table(name));
        // A table that is about to be created has its own unique index on msgid.
        let new = !self.layout.has_table("mqtt_msg");
        let there = [self.msgid_index || new, self.topic_index, self.foreign_index];
        let indexes = INDEXES.into_iter().zip(there).filter(|(_, there)| has_messages && !there);
        tables.chain(indexes.map(|(part, _)| part)).collect()
    }
}

fn holds(kind: &str, modifier: i32) -> Holds {
    let text = |characters| Holds::Text { characters, bytes: None, nul: false };
    match kind {
        "bytea" => Holds::Bytes(None),
        // The length is stored with four bytes added.
        "varchar" | "bpchar" => text(u64::try_from(modifier).ok().and_then(|n| n.checked_sub(4))),
        "text" | "name" | "json" | "jsonb" | "xml" => text(None),
        _ => Holds::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::layout::TABLES;

    #[test]
    fn lengths_are_read_from_the_types_modifier() {
        assert_eq!(holds("varchar", 68), Holds::Text { characters: Some(64), bytes: None, nul: false });
        assert_eq!(holds("varchar", -1), Holds::Text { characters: None, bytes: None, nul: false });
        assert_eq!(holds("bytea", -1), Holds::Bytes(None));
        assert_eq!(holds("int4", -1), Holds::Other);
    }

    #[test]
    fn a_new_table_needs_no_second_index_on_msgid() {
        let found = Found::default();
        let names: Vec<&str> = found.missing(&TABLES).iter().map(|(name, _)| *name).collect();
        assert!(
            names.contains(&"mqtt_msg")
                && names.contains(&"forebay_msg_topic")
                && !names.contains(&"forebay_msg_msgid")
        );
        let names: Vec<&str> = found.missing(&["forebay_position"]).iter().map(|(name, _)| *name).collect();
        assert_eq!(names, ["forebay_position"]);
    }
}
