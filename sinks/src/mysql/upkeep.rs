//! Expiry (`expired_time`), in small steps.

use std::collections::HashMap;

use sqlx::Row;

use super::connect::{MysqlConn, MysqlSink};
use super::rows::ROWS;

impl MysqlSink {
    /// Deletes messages whose time has come, [`ROWS`] of each kind at most; how many there were.
    pub(super) async fn expire(&self, conn: &mut MysqlConn, now_us: u64) -> sqlx::Result<u64> {
        let mut removed = 0;
        for kind in ["msg", "retain"] {
            let sql = format!(
                "select msgid, topic from forebay_expiry where kind = ? and expires_us <= ? order by expires_us limit {ROWS}"
            );
            let query = conn.query(sql).bind(kind).bind(now_us.cast_signed());
            let mut due: HashMap<String, String> = HashMap::new();
            for row in query.fetch_all(&mut conn.inner).await? {
                due.insert(row.try_get("msgid")?, row.try_get("topic")?);
            }
            if due.is_empty() {
                continue;
            }
            let msgids: Vec<&str> = due.keys().map(String::as_str).collect();
            let ids = if kind == "msg" {
                conn.ids(&msgids, false).await?.into_values().collect()
            } else {
                retained(conn, &due).await?
            };
            conn.delete(if kind == "msg" { "mqtt_msg" } else { "mqtt_retain" }, &ids).await?;
            for msgid in &msgids {
                let query = conn.query("delete from forebay_expiry where msgid = ? and kind = ?");
                query.bind((*msgid).to_owned()).bind(kind).execute(&mut conn.inner).await?;
            }
            removed += due.len() as u64;
        }
        Ok(removed)
    }
}

/// Ids of the retained rows that are still those messages; a later one of the topic stays.
async fn retained(conn: &mut MysqlConn, due: &HashMap<String, String>) -> sqlx::Result<Vec<u64>> {
    let topics: Vec<&str> = due.values().map(String::as_str).collect();
    let sql = "select cast(id as unsigned) as id, msgid from mqtt_retain where topic in ({})";
    let mut ids = Vec::new();
    for row in conn.of_list(sql, &topics).await? {
        let msgid: Option<String> = row.try_get("msgid")?;
        if msgid.is_some_and(|msgid| due.contains_key(&msgid)) {
            ids.push(row.try_get("id")?);
        }
    }
    Ok(ids)
}
