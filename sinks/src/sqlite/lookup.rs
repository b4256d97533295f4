//! What EMQ X rules read from the database: subscriptions, messages of other programs, retained messages.

use bytes::Bytes;
use forebay_engine::QoS;
use futures_util::TryStreamExt;
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use super::error::map;
use super::schema::foreign_rows;
use super::write::{SqliteConn, SqliteSink};
use crate::lookup::{ForeignRow, Lookup, OfflineQuery};
use crate::sink::WriteError;
use crate::sql::text::datetime;

/// Rows of other programs, newest first, from the index that holds nothing else. Those that became records are known by their key.
const OFFLINE: &str = concat!(
    "select id, msgid, sender, qos, retain, cast(payload as blob) as payload, ",
    "cast(strftime('%s', arrived) as integer) as arrived_s from mqtt_msg where topic = ?1 and ",
    foreign_rows!(),
    " and id > coalesce((select mid from mqtt_acked where clientid = ?2 and topic = ?1), 0) ",
    "and id < coalesce(cast(?4 as integer), 9223372036854775807) and (?3 is null or arrived >= ?3) ",
    "and not exists (select 1 from forebay_imported where row_key = cast(mqtt_msg.id as text)) ",
    "order by id desc limit ?5"
);

impl Lookup for SqliteSink {
    async fn subscriptions<'a>(
        &'a self,
        conn: &'a mut SqliteConn,
        client: &'a str,
    ) -> Result<Vec<(String, u8)>, WriteError> {
        let rows = sqlx::query("select topic, qos from mqtt_sub where clientid = ? and topic is not null order by id")
            .bind(client.to_owned())
            .fetch_all(&mut conn.inner)
            .await
            .map_err(map)?;
        let mut found = Vec::with_capacity(rows.len());
        for row in rows {
            let topic: String = row.try_get("topic").map_err(map)?;
            let qos: Option<i64> = row.try_get("qos").map_err(map)?;
            found.push((topic, u8::try_from(qos.unwrap_or(0)).unwrap_or(u8::MAX)));
        }
        Ok(found)
    }

    async fn offline<'a>(
        &'a self,
        conn: &'a mut SqliteConn,
        query: OfflineQuery<'a>,
    ) -> Result<Vec<ForeignRow>, WriteError> {
        let since = (query.since_us > 0).then(|| datetime(query.since_us));
        let mut rows = sqlx::query(OFFLINE)
            .bind(query.topic.to_owned())
            .bind(query.client.to_owned())
            .bind(since)
            .bind(query.before.map(str::to_owned))
            .bind(i64::try_from(query.limit).unwrap_or(i64::MAX))
            .fetch(&mut conn.inner);
        let (mut found, mut bytes) = (Vec::new(), 0);
        while let Some(row) = rows.try_next().await.map_err(map)? {
            let row = foreign(&row, query.topic, None)?;
            bytes += row.payload.len();
            found.push(row);
            if bytes >= query.bytes {
                break;
            }
        }
        Ok(found)
    }

    async fn retained<'a>(
        &'a self,
        conn: &'a mut SqliteConn,
        topic: &'a str,
    ) -> Result<Option<ForeignRow>, WriteError> {
        let row = sqlx::query(
            "select id, msgid, sender, qos, 1 as retain, cast(payload as blob) as payload, \
             cast(strftime('%s', arrived) as integer) as arrived_s from mqtt_retain where topic = ?",
        )
        .bind(topic.to_owned())
        .fetch_optional(&mut conn.inner)
        .await
        .map_err(map)?;
        row.map(|row| foreign(&row, topic, Some("retain"))).transpose()
    }
}

fn foreign(row: &SqliteRow, topic: &str, prefix: Option<&str>) -> Result<ForeignRow, WriteError> {
    let id: i64 = row.try_get("id").map_err(map)?;
    let qos: Option<i64> = row.try_get("qos").map_err(map)?;
    let retain: Option<i64> = row.try_get("retain").map_err(map)?;
    let payload: Option<Vec<u8>> = row.try_get("payload").map_err(map)?;
    let arrived: Option<i64> = row.try_get("arrived_s").map_err(map)?;
    let seconds = u64::try_from(arrived.unwrap_or(0)).unwrap_or(0);
    let msgid: Option<String> = row.try_get("msgid").map_err(map)?;
    let key = match prefix {
        // A retained row is replaced in place: each value is a row of its own to the log.
        Some(prefix) => format!("{prefix}:{topic}:{}:{seconds}", msgid.as_deref().unwrap_or("")),
        None => id.to_string(),
    };
    let sender: Option<String> = row.try_get("sender").map_err(map)?;
    Ok(ForeignRow {
        key,
        msgid,
        topic: topic.to_owned(),
        sender: sender.unwrap_or_default(),
        qos: QoS::from_u8(u8::try_from(qos.unwrap_or(0)).unwrap_or(0)).unwrap_or_default(),
        retain: retain.unwrap_or(0) != 0,
        payload: Bytes::from(payload.unwrap_or_default()),
        time_us: seconds.saturating_mul(1_000_000),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::Sink;
    use crate::sqlite::SqliteConfig;

    #[tokio::test]
    async fn the_offline_query_reads_the_index_of_foreign_rows_and_no_whole_table() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("plan.db");
        let sink = SqliteSink::new(SqliteConfig { path, connections: 1, retention: None, node_name: "n".into() });
        let mut conn = sink.connect().await.unwrap();
        let explain = sqlx::AssertSqlSafe(format!("explain query plan {OFFLINE}"));
        let rows = sqlx::query(explain).fetch_all(&mut conn.inner).await.unwrap();
        let plan: Vec<String> = rows.iter().map(|row| row.get("detail")).collect();
        assert!(
            plan.iter().any(|step| step.contains("USING INDEX mqtt_msg_foreign (topic=? AND id>? AND id<?)")),
            "{plan:?}"
        );
        assert!(plan.iter().all(|step| !step.contains("SCAN") && !step.contains("TEMP B-TREE")), "{plan:?}");
    }
}
