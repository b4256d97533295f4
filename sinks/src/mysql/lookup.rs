//! What EMQ X rules read from the database: subscriptions, messages of other programs, retained messages.

use bytes::Bytes;
use forebay_engine::QoS;
use futures_util::TryStreamExt;
use sqlx::Row;
use sqlx::mysql::MySqlRow;

use super::connect::{MysqlConn, MysqlSink};
use super::error::map;
use crate::lookup::{ForeignRow, Lookup, OfflineQuery};
use crate::sink::WriteError;
use crate::sql::text::datetime;

/// The columns of a message, each in the type it is read as.
macro_rules! columns {
    ($retain:literal) => {
        concat!(
            "select cast(id as unsigned) as id, msgid, sender, cast(qos as signed) as qos, cast(",
            $retain,
            " as signed) as retain, cast(payload as binary) as payload, cast(topic as binary) as topic, ",
            "cast(timestampdiff(second, '1970-01-01', arrived) as signed) as arrived_s from "
        )
    };
}

/// Rows of other programs, newest first. The index of topic, id and msgid tells them from Forebay's own, whose msgid is 20 letters and
/// digits, without reading the rows. Those that became records are known by their key.
const OFFLINE: &str = concat!(
    " where topic = ? and cast(topic as binary) = cast(? as binary) and id > ? and id < ? ",
    "and (msgid is null or char_length(msgid) <> 20 or msgid not regexp '^[0-9A-Za-z]{20}$') ",
    "and (? is null or arrived >= ?) ",
    "and not exists (select 1 from forebay_imported i where i.row_key = cast(mqtt_msg.id as char) collate utf8mb4_bin) ",
    "order by mqtt_msg.id desc limit ?"
);

impl MysqlSink {
    /// The query of offline messages. The index is named: without, servers prefer to walk over the whole table from its end.
    fn offline_query(conn: &MysqlConn) -> String {
        let index = conn.found.topic_index.as_ref().map(|name| format!(" force index (`{name}`)"));
        format!("{}mqtt_msg{}{OFFLINE}", columns!("retain"), index.unwrap_or_default())
    }

    /// The message that a client acknowledged last.
    async fn acknowledged(&self, conn: &mut MysqlConn, client: &str, topic: &str) -> sqlx::Result<u64> {
        let sql = "select cast(mid as unsigned) as mid, cast(clientid as binary) as client, cast(topic as binary) as topic \
             from mqtt_acked where clientid = ? and topic = ? and mid is not null";
        let query = conn.query(sql).bind(client.to_owned()).bind(topic.to_owned());
        for row in query.fetch_all(&mut conn.inner).await? {
            let key: (Vec<u8>, Vec<u8>) = (row.try_get("client")?, row.try_get("topic")?);
            if key.0 == client.as_bytes() && key.1 == topic.as_bytes() {
                return row.try_get("mid");
            }
        }
        Ok(0)
    }
}

impl Lookup for MysqlSink {
    async fn subscriptions<'a>(
        &'a self,
        conn: &'a mut MysqlConn,
        client: &'a str,
    ) -> Result<Vec<(String, u8)>, WriteError> {
        self.refresh(conn).await?;
        let sql = "select topic, cast(qos as signed) as qos, cast(clientid as binary) as client from mqtt_sub \
             where clientid = ? and topic is not null order by id";
        let query = conn.query(sql).bind(client.to_owned());
        let rows = query.fetch_all(&mut conn.inner).await.map_err(map)?;
        let mut found = Vec::with_capacity(rows.len());
        for row in rows {
            let of: Vec<u8> = row.try_get("client").map_err(map)?;
            let qos: Option<i64> = row.try_get("qos").map_err(map)?;
            if of == client.as_bytes() {
                found.push((row.try_get("topic").map_err(map)?, u8::try_from(qos.unwrap_or(0)).unwrap_or(u8::MAX)));
            }
        }
        Ok(found)
    }

    async fn offline<'a>(
        &'a self,
        conn: &'a mut MysqlConn,
        query: OfflineQuery<'a>,
    ) -> Result<Vec<ForeignRow>, WriteError> {
        self.refresh(conn).await?;
        let after = self.acknowledged(conn, query.client, query.topic).await.map_err(map)?;
        let before = query.before.and_then(|key| key.parse().ok()).unwrap_or(u64::MAX);
        let since = (query.since_us > 0).then(|| datetime(query.since_us));
        let statement = conn
            .query(MysqlSink::offline_query(conn))
            .bind(query.topic.to_owned())
            .bind(query.topic.to_owned())
            .bind(after)
            .bind(before)
            .bind(since.clone())
            .bind(since)
            .bind(u64::try_from(query.limit).unwrap_or(u64::MAX));
        let mut rows = statement.fetch(&mut conn.inner);
        let (mut found, mut bytes) = (Vec::new(), 0);
        while let Some(row) = rows.try_next().await.map_err(map)? {
            let Some(row) = foreign(&row, query.topic, None)? else { continue };
            bytes += row.payload.len();
            found.push(row);
            if bytes >= query.bytes {
                break;
            }
        }
        Ok(found)
    }

    async fn retained<'a>(&'a self, conn: &'a mut MysqlConn, topic: &'a str) -> Result<Option<ForeignRow>, WriteError> {
        self.refresh(conn).await?;
        let query = conn.query(concat!(columns!("1"), "mqtt_retain where topic = ?")).bind(topic.to_owned());
        let rows = query.fetch_all(&mut conn.inner).await.map_err(map)?;
        for row in rows {
            if let Some(row) = foreign(&row, topic, Some("retain"))? {
                return Ok(Some(row));
            }
        }
        Ok(None)
    }
}

/// A row of exactly this topic: the guide's tables compare without regard to case.
fn foreign(row: &MySqlRow, topic: &str, prefix: Option<&str>) -> Result<Option<ForeignRow>, WriteError> {
    let of: Option<Vec<u8>> = row.try_get("topic").map_err(map)?;
    if of.as_deref() != Some(topic.as_bytes()) {
        return Ok(None);
    }
    let id: u64 = row.try_get("id").map_err(map)?;
    let qos: Option<i64> = row.try_get("qos").map_err(map)?;
    let retain: Option<i64> = row.try_get("retain").map_err(map)?;
    let payload: Option<Vec<u8>> = row.try_get("payload").map_err(map)?;
    let arrived: Option<i64> = row.try_get("arrived_s").map_err(map)?;
    let seconds = u64::try_from(arrived.unwrap_or(0)).unwrap_or(0);
    let msgid: Option<String> = row.try_get("msgid").map_err(map)?;
    let sender: Option<String> = row.try_get("sender").map_err(map)?;
    let key = match prefix {
        // A retained row is replaced in place: each value is a row of its own to the log.
        Some(prefix) => format!("{prefix}:{topic}:{}:{seconds}", msgid.as_deref().unwrap_or("")),
        None => id.to_string(),
    };
    Ok(Some(ForeignRow {
        key,
        msgid,
        topic: topic.to_owned(),
        sender: sender.unwrap_or_default(),
        qos: QoS::from_u8(u8::try_from(qos.unwrap_or(0)).unwrap_or(0)).unwrap_or_default(),
        retain: retain.unwrap_or(0) != 0,
        payload: Bytes::from(payload.unwrap_or_default()),
        time_us: seconds.saturating_mul(1_000_000),
    }))
}

#[cfg(test)]
mod tests {
    use sqlx::{AssertSqlSafe, Connection, Executor, MySqlConnection};

    use super::*;
    use crate::sink::Sink;
    use crate::sql::ServerConfig;

    #[tokio::test]
    async fn the_offline_query_reads_the_index_by_topic_and_no_whole_table() {
        for name in ["mysql", "mariadb"] {
            let url = forebay_services::address(name).unwrap_or_else(|error| panic!("{error:#}"));
            let mut admin = MySqlConnection::connect(&format!("{url}?ssl-mode=disabled")).await.unwrap();
            let database = format!("plan_{}", std::process::id());
            for sql in [format!("drop database if exists {database}"), format!("create database {database}")] {
                admin.execute(AssertSqlSafe(sql)).await.unwrap();
            }
            let sink = MysqlSink::new(ServerConfig::of_url(&url, &database));
            let mut conn = sink.connect().await.unwrap();
            let rows = "insert into mqtt_msg (msgid, topic, arrived) values ";
            for n in 0..10 {
                let values: Vec<String> =
                    (0..200).map(|m| format!("('{:020}', 'cmd/{}', now())", n * 200 + m, m % 4)).collect();
                conn.inner.execute(AssertSqlSafe(format!("{rows}{}", values.join(",")))).await.unwrap();
            }
            conn.inner.execute("analyze table mqtt_msg").await.unwrap();
            let explain = format!("explain {}", MysqlSink::offline_query(&conn));
            let query = conn.query(explain).bind("cmd/1").bind("cmd/1").bind(0u64).bind(u64::MAX);
            let query = query.bind(None::<String>).bind(None::<String>).bind(256u64);
            let plan = query.fetch_all(&mut conn.inner).await.unwrap();
            let key: Option<String> = plan[0].get("key");
            let extra: Option<String> = plan[0].get("Extra");
            assert_eq!(key.as_deref(), Some("forebay_msg_topic"), "{name}");
            assert!(!extra.unwrap_or_default().contains("filesort"), "{name}");
            admin.execute(AssertSqlSafe(format!("drop database {database}"))).await.unwrap();
        }
    }
}
