//! What EMQ X rules read from the database: subscriptions, messages of other programs, retained messages.

use bytes::Bytes;
use forebay_engine::QoS;
use futures_util::TryStreamExt;
use sqlx::Row;
use sqlx::postgres::PgRow;

use super::connect::{PgsqlConn, PgsqlSink};
use super::error::map;
use super::schema::foreign_rows;
use crate::lookup::{ForeignRow, Lookup, OfflineQuery};
use crate::sink::WriteError;
use crate::sql::layout::Holds;
use crate::sql::text::datetime;

/// Rows of other programs, newest first, from the index that holds nothing else. Those that became records are known by their key.
const OFFLINE: &str = concat!(
    " from mqtt_msg where topic = $1 and ",
    foreign_rows!(),
    " and id > coalesce((select mid from mqtt_acked where clientid = $2 and topic = $1), 0) ",
    "and id < coalesce($4::text::bigint, 9223372036854775807) and ($3::text is null or arrived >= $3::text::timestamp) ",
    "and not exists (select 1 from forebay_imported i where i.row_key = mqtt_msg.id::text) ",
    "order by mqtt_msg.id desc limit $5"
);

impl PgsqlSink {
    /// The columns of a message, each in the type it is read as.
    fn columns(conn: &PgsqlConn, table: &str) -> String {
        let payload = match conn.found.layout.holds(table, "payload") {
            Holds::Text { .. } => "convert_to(payload::text, 'UTF8')",
            _ => "payload",
        };
        let retain = if table == "mqtt_retain" { "1" } else { "retain" };
        format!(
            "select id::bigint as id, msgid::text as msgid, sender::text as sender, qos::int as qos, {retain}::int as retain, \
             {payload} as payload, extract(epoch from arrived)::bigint as arrived_s"
        )
    }
}

impl Lookup for PgsqlSink {
    async fn subscriptions<'a>(
        &'a self,
        conn: &'a mut PgsqlConn,
        client: &'a str,
    ) -> Result<Vec<(String, u8)>, WriteError> {
        self.refresh(conn).await?;
        conn.enter().await?;
        let sql = "select topic::text as topic, qos::int as qos from mqtt_sub where clientid = $1 and topic is not null order by id";
        let query = conn.query(sql).bind(client.to_owned());
        let rows = query.fetch_all(&mut conn.inner).await.map_err(map)?;
        let mut found = Vec::with_capacity(rows.len());
        for row in rows {
            let qos: Option<i32> = row.try_get("qos").map_err(map)?;
            found.push((row.try_get("topic").map_err(map)?, u8::try_from(qos.unwrap_or(0)).unwrap_or(u8::MAX)));
        }
        conn.leave().await?;
        Ok(found)
    }

    async fn offline<'a>(
        &'a self,
        conn: &'a mut PgsqlConn,
        query: OfflineQuery<'a>,
    ) -> Result<Vec<ForeignRow>, WriteError> {
        self.refresh(conn).await?;
        conn.enter().await?;
        let sql = format!("{}{OFFLINE}", PgsqlSink::columns(conn, "mqtt_msg"));
        let statement = conn
            .query(sql)
            .bind(query.topic.to_owned())
            .bind(query.client.to_owned())
            .bind((query.since_us > 0).then(|| datetime(query.since_us)))
            .bind(query.before.map(str::to_owned))
            .bind(i64::try_from(query.limit).unwrap_or(i64::MAX));
        let mut rows = statement.fetch(&mut conn.inner);
        let (mut found, mut bytes) = (Vec::new(), 0);
        while let Some(row) = rows.try_next().await.map_err(map)? {
            let row = foreign(&row, query.topic, None)?;
            bytes += row.payload.len();
            found.push(row);
            if bytes >= query.bytes {
                break;
            }
        }
        drop(rows);
        conn.leave().await?;
        Ok(found)
    }

    async fn retained<'a>(&'a self, conn: &'a mut PgsqlConn, topic: &'a str) -> Result<Option<ForeignRow>, WriteError> {
        self.refresh(conn).await?;
        conn.enter().await?;
        let sql = format!("{} from mqtt_retain where topic = $1", PgsqlSink::columns(conn, "mqtt_retain"));
        let query = conn.query(sql).bind(topic.to_owned());
        let row = query.fetch_optional(&mut conn.inner).await.map_err(map)?;
        conn.leave().await?;
        row.map(|row| foreign(&row, topic, Some("retain"))).transpose()
    }
}

fn foreign(row: &PgRow, topic: &str, prefix: Option<&str>) -> Result<ForeignRow, WriteError> {
    let id: i64 = row.try_get("id").map_err(map)?;
    let qos: Option<i32> = row.try_get("qos").map_err(map)?;
    let retain: Option<i32> = row.try_get("retain").map_err(map)?;
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
    use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};

    use super::*;
    use crate::sink::Sink;
    use crate::sql::ServerConfig;

    #[tokio::test]
    async fn the_offline_query_reads_the_index_of_foreign_rows_and_no_whole_table() {
        let url = forebay_services::address("postgres").unwrap_or_else(|error| panic!("{error:#}"));
        let mut admin = PgConnection::connect(&url).await.unwrap();
        let database = format!("plan_{}", std::process::id());
        for sql in [format!("drop database if exists {database}"), format!("create database {database}")] {
            admin.execute(AssertSqlSafe(sql)).await.unwrap();
        }
        let sink = PgsqlSink::new(ServerConfig::of_url(&url, &database));
        let mut conn = sink.connect().await.unwrap();
        let rows = "insert into mqtt_msg (msgid, topic, arrived) \
             select lpad(n::text, 20, '0'), 'cmd/' || n % 4, now() from generate_series(1, 5000) n";
        conn.inner.execute(rows).await.unwrap();
        conn.inner.execute("analyze mqtt_msg").await.unwrap();
        let explain = format!("explain {}{OFFLINE}", PgsqlSink::columns(&conn, "mqtt_msg"));
        let query = conn.query(explain).bind("cmd/1").bind("c").bind(None::<String>).bind(None::<String>).bind(256i64);
        let plan = query.fetch_all(&mut conn.inner).await.unwrap();
        let plan: Vec<String> = plan.iter().map(|row| row.get(0)).collect();
        assert!(plan.iter().any(|step| step.contains("forebay_msg_foreign")), "{plan:#?}");
        assert!(!plan.iter().any(|step| step.contains("Seq Scan on mqtt_msg")), "{plan:#?}");
        drop(conn);
        admin.execute(AssertSqlSafe(format!("drop database {database} with (force)"))).await.unwrap();
    }
}
