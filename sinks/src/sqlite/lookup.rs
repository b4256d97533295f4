//! What EMQ X rules read from the database: subscriptions, messages of other programs, retained messages.

use bytes::Bytes;
use forebay_engine::QoS;
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use super::encode::datetime;
use super::error::map;
use super::write::{SqliteConn, SqliteSink};
use crate::lookup::{ForeignRow, Lookup, OfflineQuery};
use crate::sink::WriteError;

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
        // The newest rows within the bounds, given oldest first. Rows that became records are known by their key.
        let rows = sqlx::query(
            "select * from (select id, msgid, sender, qos, retain, cast(payload as blob) as payload, \
             cast(strftime('%s', arrived) as integer) as arrived_s from mqtt_msg m where topic = ?1 \
             and id > coalesce((select mid from mqtt_acked where clientid = ?2 and topic = ?1), 0) and arrived >= ?3 \
             and not exists (select 1 from forebay_imported i where i.row_key = cast(m.id as text)) \
             order by id desc) order by id",
        )
        .bind(query.topic.to_owned())
        .bind(query.client.to_owned())
        .bind(datetime(query.since_us))
        .fetch_all(&mut conn.inner)
        .await
        .map_err(map)?;
        let mut found = Vec::with_capacity(rows.len());
        for row in rows {
            found.push(foreign(&row, query.topic, None)?);
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
