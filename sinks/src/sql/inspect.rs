//! What `forebay check --connect` says of a server's tables.

use super::layout::Layout;
use super::server::{SchemaMode, ServerConfig};
use crate::sink::Finding;

/// The documented columns that are written or read, and Forebay's own.
const COLUMNS: [(&str, &[&str]); 8] = [
    ("mqtt_client", &["id", "clientid", "state", "node", "online_at", "offline_at", "created"]),
    ("mqtt_sub", &["id", "clientid", "topic", "qos"]),
    ("mqtt_msg", &["id", "msgid", "topic", "sender", "qos", "retain", "payload", "arrived"]),
    ("mqtt_retain", &["id", "topic", "msgid", "sender", "qos", "payload", "arrived"]),
    ("mqtt_acked", &["id", "clientid", "topic", "mid", "created"]),
    ("forebay_position", &["log_id", "sink", "lane", "lsn", "prefix"]),
    ("forebay_imported", &["msgid", "row_key"]),
    ("forebay_expiry", &["msgid", "kind", "topic", "expires_us"]),
];

/// Types of whole numbers that end after weeks.
const NARROW: [&str; 5] = ["int", "integer", "mediumint", "smallint", "serial"];

/// What is missing, what is narrow. `missing` are tables and indexes with what creates them.
pub(crate) fn findings(layout: &Layout, config: &ServerConfig, missing: &[(&str, &str)]) -> Vec<Finding> {
    let mut found = Vec::new();
    for (name, sql) in missing {
        found.push(match config.schema {
            SchemaMode::Create => Finding::fine(format!("{name} is not there yet and is made at the start")),
            SchemaMode::Verify => Finding::fault(format!("{name} is missing; run: {sql}")),
            SchemaMode::Off => {
                Finding::warning(format!("{name} is missing, and `schema = off` leaves it so; run: {sql}"))
            }
        });
    }
    for (table, columns) in COLUMNS {
        let lacking: Vec<&str> =
            columns.iter().copied().filter(|column| layout.column(table, column).is_none()).collect();
        if layout.has_table(table) && !lacking.is_empty() {
            found.push(Finding::fault(format!(
                "table {table} lacks {}; add what is missing, or rename the table",
                lacking.join(", ")
            )));
        }
    }
    for (table, column) in [("mqtt_msg", "id"), ("mqtt_acked", "mid")] {
        if layout.column(table, column).is_some_and(|found| NARROW.contains(&found.cast.to_ascii_lowercase().as_str()))
        {
            found.push(Finding::warning(format!(
                "{table}.{column} has 32 bits: at 5,000 messages a second it ends within days; alter it to a bigint"
            )));
        }
    }
    let narrowest = |table: &str| layout.characters(table, "topic");
    if let (Some(acked), messages) = (narrowest("mqtt_acked"), narrowest("mqtt_msg"))
        && messages.is_none_or(|most| acked < most)
    {
        found.push(Finding::warning(format!(
            "mqtt_acked.topic holds {acked} characters, fewer than mqtt_msg.topic: acknowledgements of longer topics go to the dead letters"
        )));
    }
    for (table, column) in [("mqtt_client", "node"), ("mqtt_msg", "node"), ("mqtt_retain", "node")] {
        if let Err(why) = layout.text(table, column, &config.node_name) {
            found.push(Finding::fault(format!("the node's name {} does not fit: {why}", config.node_name)));
        }
    }
    found
}

/// Statements that change nothing and need the rights that the sink needs, for the tables that are there.
pub(crate) fn probes(layout: &Layout) -> Vec<(&'static str, String)> {
    let mut probes = Vec::new();
    for (table, columns) in COLUMNS.iter().filter(|(table, _)| layout.has_table(table)) {
        let column = columns.first().copied().unwrap_or("id");
        if *table == "mqtt_sub" {
            probes.push((*table, format!("select {column} from {table} where 1 = 0")));
            continue;
        }
        probes.push((*table, format!("insert into {table} select * from {table} where 1 = 0")));
        probes.push((*table, format!("update {table} set {column} = {column} where 1 = 0")));
        probes.push((*table, format!("delete from {table} where 1 = 0")));
    }
    probes
}
