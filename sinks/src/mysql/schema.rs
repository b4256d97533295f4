//! Tables: the guide's shapes without its narrow places, and Forebay's own. What exists is taken as it is; it only gets the indexes
//! without which each acknowledgement would read the whole table.

use sqlx::mysql::MySqlConnection;
use sqlx::{AssertSqlSafe, Executor, Row};

use super::connect::MysqlSink;
use super::error::map;
use crate::sink::{Finding, WriteError};
use crate::sql::inspect;
use crate::sql::layout::{Column, Holds, Layout, TABLES};
use crate::sql::{SchemaMode, ServerConfig};

/// A table or index: its name and what creates it.
type Part = (&'static str, &'static str);

/// Keys are compared byte by byte. An index holds 3,072 bytes: 255 characters of a client and 512 of a topic.
macro_rules! table {
    ($name:literal, $columns:literal) => {
        (
            $name,
            concat!(
                "create table if not exists ",
                $name,
                " (",
                $columns,
                ") engine = InnoDB default charset = utf8mb4 collate = utf8mb4_bin"
            ),
        )
    };
}

const CREATE: [Part; 8] = [
    table!(
        "mqtt_client",
        "id bigint unsigned not null auto_increment primary key, clientid varchar(255) default null, \
         state varchar(3) default null, node varchar(255) default null, online_at datetime default null, \
         offline_at datetime default null, created datetime default current_timestamp, unique key mqtt_client_key (clientid)"
    ),
    table!(
        "mqtt_sub",
        "id bigint unsigned not null auto_increment primary key, clientid varchar(255) default null, \
         topic varchar(512) default null, qos tinyint default null, created datetime default current_timestamp, \
         unique key mqtt_sub_key (clientid, topic)"
    ),
    table!(
        "mqtt_msg",
        "id bigint unsigned not null auto_increment primary key, msgid varchar(64) default null, topic varchar(512) not null, \
         sender varchar(255) default null, node varchar(255) default null, qos tinyint not null default 0, \
         retain tinyint default null, payload mediumblob, arrived datetime not null, unique key mqtt_msg_key (msgid)"
    ),
    table!(
        "mqtt_retain",
        "id bigint unsigned not null auto_increment primary key, topic varchar(512) default null, msgid varchar(64) default null, \
         sender varchar(255) default null, node varchar(255) default null, qos tinyint default null, payload mediumblob, \
         arrived datetime not null default current_timestamp, unique key mqtt_retain_key (topic)"
    ),
    table!(
        "mqtt_acked",
        "id bigint unsigned not null auto_increment primary key, clientid varchar(255) default null, \
         topic varchar(512) default null, mid bigint unsigned default null, created datetime default null, \
         unique key mqtt_acked_key (clientid, topic)"
    ),
    table!(
        "forebay_position",
        "log_id bigint not null, sink varchar(255) not null, lane bigint not null, lsn bigint not null, prefix bigint not null, \
         primary key (log_id, sink, lane)"
    ),
    table!(
        "forebay_imported",
        "msgid varchar(64) not null primary key, row_key varchar(700) not null, unique key forebay_imported_key (row_key)"
    ),
    table!(
        "forebay_expiry",
        "msgid varchar(64) not null, kind varchar(8) not null, topic text not null, expires_us bigint not null, \
         primary key (msgid, kind), key forebay_expiry_due (kind, expires_us)"
    ),
];

const INDEXES: [Part; 2] = [
    ("forebay_msg_msgid", "create index forebay_msg_msgid on mqtt_msg (msgid)"),
    ("forebay_msg_topic", "create index forebay_msg_topic on mqtt_msg (topic, id, msgid)"),
];

const COLUMNS: &str = "select cast(c.table_name as char) as relation, cast(c.column_name as char) as name, \
     cast(c.data_type as char) as kind, cast(c.character_maximum_length as signed) as characters, \
     cast(t.engine as char) as engine from information_schema.columns c join information_schema.tables t \
     on t.table_schema = c.table_schema and t.table_name = c.table_name where c.table_schema = database()";

const FOUND_INDEXES: &str = "select cast(index_name as char) as name, cast(column_name as char) as col \
     from information_schema.statistics \
     where table_schema = database() and table_name = 'mqtt_msg' order by index_name, seq_in_index";

/// The statements as a script.
pub(crate) fn schema_text() -> String {
    CREATE.iter().chain(&INDEXES).map(|(_, sql)| format!("{sql};\n")).collect()
}

/// Looks at the database without changing it.
pub(super) async fn inspect(sink: &MysqlSink) -> Vec<Finding> {
    let looked = async {
        let mut conn = sink.link().await?;
        let found = look(&mut conn).await?;
        Ok::<_, WriteError>((conn, found))
    };
    let (mut conn, found) = match looked.await {
        Ok(looked) => looked,
        Err(error) => return vec![Finding::fault(error.to_string())],
    };
    let mut findings = inspect::findings(&found.layout, &sink.config, &found.missing());
    for (table, sql) in inspect::probes(&found.layout) {
        if let Err(error) = conn.execute(AssertSqlSafe(sql)).await {
            findings.push(Finding::fault(format!("{table}: {}", map(error))));
        }
    }
    if !found.unsafe_tables.is_empty() {
        let tables = found.unsafe_tables.join(", ");
        findings
            .push(Finding::fault(format!("{tables} can't take part in transactions: alter each to `engine = InnoDB`")));
    }
    findings
}

/// Tables and indexes as they were found.
#[derive(Clone, Debug, Default)]
pub(super) struct Found {
    pub(super) layout: Layout,
    /// Tables without transactions.
    unsafe_tables: Vec<String>,
    msgid_index: bool,
    /// An index that begins with topic and id.
    pub(super) topic_index: Option<String>,
}

/// Finds what is there, and creates what is missing where the pool says so.
pub(super) async fn prepare(conn: &mut MySqlConnection, config: &ServerConfig) -> Result<Found, WriteError> {
    let mut found = look(conn).await?;
    if config.schema == SchemaMode::Off {
        return Ok(found);
    }
    let missing = found.missing();
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
        for (name, sql) in &missing {
            create(conn, name, sql).await?;
        }
        found = look(conn).await?;
    }
    if !found.unsafe_tables.is_empty() {
        return Err(WriteError::busy(format!(
            "{} can't take part in transactions: alter each to `engine = InnoDB`",
            found.unsafe_tables.join(", ")
        )));
    }
    for (table, column) in [("mqtt_client", "node"), ("mqtt_msg", "node"), ("mqtt_retain", "node")] {
        if let Err(why) = found.layout.text(table, column, &config.node_name) {
            return Err(WriteError::busy(format!("the node's name {} does not fit: {why}", config.node_name)));
        }
    }
    Ok(found)
}

/// Another connection may be at it, too: an index that is there by now is as good.
async fn create(conn: &mut MySqlConnection, name: &str, sql: &str) -> Result<(), WriteError> {
    match conn.execute(AssertSqlSafe(sql)).await {
        Ok(_) => Ok(()),
        Err(error) if error.to_string().contains("Duplicate key name") => Ok(()),
        Err(error) => Err(match map(error) {
            WriteError::Busy { cause, .. } => WriteError::busy(format!("creating {name}: {cause}")),
            other => other,
        }),
    }
}

pub(super) async fn look(conn: &mut MySqlConnection) -> Result<Found, WriteError> {
    let mut found = Found::default();
    for row in conn.fetch_all(COLUMNS).await.map_err(map)? {
        let text = |name: &str| row.try_get::<Option<String>, _>(name).map_err(map).map(Option::unwrap_or_default);
        let table = text("relation")?;
        if !TABLES.contains(&table.as_str()) {
            continue;
        }
        let kind = text("kind")?;
        let length: Option<i64> = row.try_get("characters").map_err(map)?;
        let holds = holds(&kind, length.and_then(|n| u64::try_from(n).ok()));
        found.layout.add(&table, &text("name")?, Column { holds, cast: kind });
        let engine = text("engine")?;
        // Views have none.
        if !engine.is_empty() && !engine.eq_ignore_ascii_case("InnoDB") && !engine.eq_ignore_ascii_case("ndbcluster") {
            found.unsafe_tables.push(format!("{table} ({engine})"));
        }
    }
    found.unsafe_tables.dedup();
    let mut indexes: Vec<(String, Vec<String>)> = Vec::new();
    for row in conn.fetch_all(FOUND_INDEXES).await.map_err(map)? {
        let (name, column): (String, Option<String>) =
            (row.try_get("name").map_err(map)?, row.try_get("col").map_err(map)?);
        match indexes.last_mut() {
            Some((last, columns)) if *last == name => columns.extend(column),
            _ => indexes.push((name, column.into_iter().collect())),
        }
    }
    for (name, columns) in indexes {
        let names: Vec<&str> = columns.iter().map(String::as_str).collect();
        found.msgid_index |= names.first() == Some(&"msgid");
        // The one with msgid tells rows of other programs from Forebay's own by itself.
        if names.starts_with(&["topic", "id"]) && (found.topic_index.is_none() || names.get(2) == Some(&"msgid")) {
            found.topic_index = Some(name);
        }
    }
    Ok(found)
}

impl Found {
    fn missing(&self) -> Vec<Part> {
        let tables = CREATE.into_iter().filter(|(name, _)| !self.layout.has_table(name));
        // A table that is about to be created has its own unique index on msgid.
        let new = !self.layout.has_table("mqtt_msg");
        let there = [self.msgid_index || new, self.topic_index.is_some()];
        let indexes = INDEXES.into_iter().zip(there).filter(|(_, there)| !there);
        tables.chain(indexes.map(|(part, _)| part)).collect()
    }
}

fn holds(kind: &str, length: Option<u64>) -> Holds {
    match kind.to_ascii_lowercase().as_str() {
        "tinyblob" | "blob" | "mediumblob" | "longblob" | "varbinary" => Holds::Bytes(length),
        "char" | "varchar" => Holds::Text { characters: length, bytes: None, nul: true },
        // Their lengths count bytes.
        "tinytext" | "text" | "mediumtext" | "longtext" => Holds::Text { characters: None, bytes: length, nul: true },
        "json" => Holds::Text { characters: None, bytes: None, nul: false },
        _ => Holds::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_of_characters_or_bytes() {
        assert_eq!(holds("blob", Some(65_535)), Holds::Bytes(Some(65_535)));
        assert_eq!(holds("VARCHAR", Some(180)), Holds::Text { characters: Some(180), bytes: None, nul: true });
        assert_eq!(holds("text", Some(65_535)), Holds::Text { characters: None, bytes: Some(65_535), nul: true });
        assert_eq!(holds("int", None), Holds::Other);
    }

    #[test]
    fn a_new_table_needs_no_second_index_on_msgid() {
        let missing = Found::default().missing();
        let names: Vec<&str> = missing.iter().map(|(name, _)| *name).collect();
        assert!(
            names.contains(&"mqtt_msg")
                && names.contains(&"forebay_msg_topic")
                && !names.contains(&"forebay_msg_msgid")
        );
    }
}
