//! Operations to rows. Decides nothing but the kind of an error.

use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::time::Duration;

use forebay_engine::{Lsn, topic};
use sqlx::query::Query;
use sqlx::sqlite::{SqliteArguments, SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteSynchronous};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Executor, Row, Sqlite};

use super::config::SqliteConfig;
use super::error::{is_own_fault, map, map_built_in};
use super::schema;
use crate::rule::Rule;
use crate::sink::{
    Batch, BatchLimits, EncodeError, Entry, Finding, Kept, PREFIX_LANE, Positions, Sink, SinkRecord, Verdict,
    WriteError,
};
use crate::sql::statements::{Placeholders, Statements};
use crate::sql::text::{datetime, places, powers};
use crate::sql::{self, Json, MessageRow, SqlOp, Value};

/// Rows in one statement at most: 128 x 9 parameters stay far below SQLite's limit of 32766.
const ROWS: usize = 128;

/// Rows that upkeep deletes in one step, so that a write never waits long for it.
const UPKEEP_ROWS: i64 = 1_000;

/// How long SQLite itself waits for another process's lock before it answers "busy".
const LOCK_WAIT: Duration = Duration::from_secs(2);

/// SQLite's page cache (negative: KiB). A batch touches pages all over the index by topic; those that don't fit are written before
/// the commit and read again.
const CACHE_SIZE: &str = "-32768";

/// Pages in the write-ahead log before they are copied into the database: 32 MiB, so that pages written again and again are copied
/// once.
const CHECKPOINT_PAGES: &str = "8192";

/// SQLite as a sink.
#[derive(Clone, Debug)]
pub struct SqliteSink {
    pub(super) config: SqliteConfig,
    statements: Statements,
}

/// A connection, and which file it is connected to.
#[derive(Debug)]
pub struct SqliteConn {
    pub(super) inner: SqliteConnection,
    file: (u64, u64),
}

impl SqliteSink {
    /// A sink with these settings. Opens nothing.
    #[must_use]
    pub fn new(config: SqliteConfig) -> Self {
        SqliteSink { config, statements: Statements::new(Placeholders::Question) }
    }

    fn file(&self) -> Option<(u64, u64)> {
        std::fs::metadata(&self.config.path).ok().map(|m| (m.dev(), m.ino()))
    }

    fn check_file(&self, conn: &SqliteConn) -> Result<(), WriteError> {
        if self.file() == Some(conn.file) {
            return Ok(());
        }
        let gone = format!("{} was deleted or replaced under the connection", self.config.path.display());
        Err(WriteError::Disconnected(gone.into()))
    }

    async fn rows(
        &self,
        conn: &mut SqliteConnection,
        batch: &Batch<'_, SqlOp>,
    ) -> Result<Vec<(usize, Verdict)>, WriteError> {
        let mut refused = Vec::new();
        let mut segment: Vec<&Entry<SqlOp>> = Vec::new();
        for (index, entry) in batch.entries.iter().enumerate() {
            match &entry.op {
                SqlOp::Statement { sql, values } => {
                    self.segment(conn, &segment).await?;
                    segment.clear();
                    if let Err(error) = statement(sql, values).execute(&mut *conn).await {
                        if !is_own_fault(&error) {
                            return Err(map(error));
                        }
                        refused.push((index, Verdict::Bury(error.into())));
                    }
                }
                _ => segment.push(entry),
            }
        }
        self.segment(conn, &segment).await?;
        Ok(refused)
    }

    /// Operations between two user statements. New message rows go first, many in a statement: nothing but an operation on the
    /// same message looks at them, and it comes later in the log. The rest keeps its order.
    async fn segment(&self, conn: &mut SqliteConnection, entries: &[&Entry<SqlOp>]) -> Result<(), WriteError> {
        let mut new: Vec<&Arc<MessageRow>> = entries
            .iter()
            .filter_map(|e| match &e.op {
                SqlOp::Message(row) | SqlOp::Latest(row) => Some(row),
                _ => None,
            })
            .collect();
        // Two rules that store the same message (on_message_publish and on_message_store) store it once.
        new.dedup_by(|a, b| a.msgid == b.msgid);
        self.insert(conn, &new).await.map_err(map_built_in)?;
        let mut acked: Vec<&SqlOp> = Vec::new();
        for entry in entries {
            match &entry.op {
                op @ SqlOp::Acked { .. } => {
                    acked.push(op);
                    continue;
                }
                SqlOp::Message(_) => continue,
                _ => {}
            }
            self.acknowledge(conn, &acked).await.map_err(map_built_in)?;
            acked.clear();
            self.single(conn, &entry.op).await.map_err(map_built_in)?;
        }
        self.acknowledge(conn, &acked).await.map_err(map_built_in)
    }

    async fn insert(&self, conn: &mut SqliteConnection, rows: &[&Arc<MessageRow>]) -> sqlx::Result<()> {
        for chunk in powers(rows, ROWS) {
            // `or fail` instead of the default `or abort`: SQLite then keeps no journal of the statement. What it leaves on an error
            // goes with the whole transaction.
            let sql = format!(
                "insert or fail into mqtt_msg (msgid, topic, sender, node, qos, retain, payload, arrived) values {} \
                 on conflict do nothing",
                places(chunk.len(), "(?,?,?,?,?,?,?,?)")
            );
            let mut query = sqlx::query(AssertSqlSafe(sql));
            for row in chunk {
                query = query
                    .bind(row.msgid.clone())
                    .bind(row.topic.to_string())
                    .bind(row.sender.to_string())
                    .bind(self.config.node_name.clone())
                    .bind(i64::from(row.qos))
                    .bind(i64::from(row.retain));
                query = bind(query, &row.payload).bind(datetime(row.at_us));
            }
            query.execute(&mut *conn).await?;
        }
        for row in rows.iter().filter(|r| r.expires_us.is_some()) {
            expires(conn, row, "msg").await?;
        }
        Ok(())
    }

    async fn acknowledge(&self, conn: &mut SqliteConnection, ops: &[&SqlOp]) -> sqlx::Result<()> {
        for chunk in powers(ops, ROWS) {
            let sql = format!(
                "with v (clientid, topic, msgid, created) as (values {}), \
                 r as (select v.clientid, v.topic, v.created, coalesce(m.id, cast(i.row_key as integer)) as mid from v \
                 left join mqtt_msg m on m.msgid = v.msgid left join forebay_imported i on i.msgid = v.msgid) \
                 insert into mqtt_acked (clientid, topic, mid, created) select clientid, topic, mid, created from r \
                 where mid > 0 on conflict (clientid, topic) do update set mid = excluded.mid, created = excluded.created \
                 where excluded.mid > coalesce(mqtt_acked.mid, 0)",
                places(chunk.len(), "(?,?,?,?)")
            );
            let mut query = sqlx::query(AssertSqlSafe(sql));
            for op in chunk {
                if let SqlOp::Acked { client, topic, msgid, at_us } = op {
                    query = query
                        .bind(client.to_string())
                        .bind(topic.to_string())
                        .bind(msgid.clone())
                        .bind(datetime(*at_us));
                }
            }
            query.execute(&mut *conn).await?;
        }
        Ok(())
    }

    async fn single(&self, conn: &mut SqliteConnection, op: &SqlOp) -> sqlx::Result<()> {
        let node = || self.config.node_name.clone();
        match op {
            SqlOp::Online { client, at_us } => {
                run(conn, sqlx::query(
                    "insert into mqtt_client (clientid, state, node, online_at, offline_at) values (?, '1', ?, ?, null) \
                     on conflict (clientid) do update set state = '1', node = excluded.node, online_at = excluded.online_at, \
                     offline_at = null",
                ).bind(client.to_string()).bind(node()).bind(datetime(*at_us))).await
            }
            // Another node may have the client by now: its row is left alone.
            SqlOp::Offline { client, at_us } => {
                run(conn, sqlx::query(
                    "insert into mqtt_client (clientid, state, node, offline_at) values (?, '0', ?, ?) \
                     on conflict (clientid) do update set state = '0', offline_at = excluded.offline_at \
                     where mqtt_client.node = excluded.node",
                ).bind(client.to_string()).bind(node()).bind(datetime(*at_us))).await
            }
            SqlOp::Latest(row) => {
                run(conn, sqlx::query(
                    "delete from mqtt_msg where topic = ?1 and id < (select id from mqtt_msg where msgid = ?2)",
                ).bind(row.topic.to_string()).bind(row.msgid.clone())).await
            }
            SqlOp::Retain(row) => self.retain(conn, row).await,
            SqlOp::RetainDelete { topic } => {
                run(conn, sqlx::query("delete from mqtt_retain where topic = ?").bind(topic.to_string())).await
            }
            SqlOp::Remove { msgid } => {
                run(conn, sqlx::query(
                    "delete from mqtt_msg where msgid = ?1 \
                     or id = (select cast(row_key as integer) from forebay_imported where msgid = ?1)",
                ).bind(msgid.clone())).await
            }
            SqlOp::AckedDelete { client, filter } => forget(conn, client, filter).await,
            SqlOp::Imported { msgid, key } => {
                run(conn, sqlx::query(
                    "insert into forebay_imported (msgid, row_key) values (?, ?) on conflict do nothing",
                ).bind(msgid.clone()).bind(key.to_string())).await
            }
            SqlOp::Message(_) | SqlOp::Acked { .. } | SqlOp::Statement { .. } => Ok(()),
        }
    }

    async fn retain(&self, conn: &mut SqliteConnection, row: &MessageRow) -> sqlx::Result<()> {
        let query = sqlx::query(
            "insert into mqtt_retain (topic, msgid, sender, node, qos, payload, arrived) values (?,?,?,?,?,?,?) \
             on conflict (topic) do update set msgid = excluded.msgid, sender = excluded.sender, node = excluded.node, \
             qos = excluded.qos, payload = excluded.payload, arrived = excluded.arrived",
        )
        .bind(row.topic.to_string())
        .bind(row.msgid.clone())
        .bind(row.sender.to_string())
        .bind(self.config.node_name.clone())
        .bind(i64::from(row.qos));
        run(conn, bind(query, &row.payload).bind(datetime(row.at_us))).await?;
        if row.expires_us.is_some() { expires(conn, row, "retain").await } else { Ok(()) }
    }
}

impl Sink for SqliteSink {
    type Op = SqlOp;
    type Conn = SqliteConn;

    fn limits(&self) -> BatchLimits {
        BatchLimits { operations: 8_192, bytes: 8 << 20 }
    }

    fn connections(&self) -> usize {
        self.config.connections
    }

    fn atomic(&self) -> bool {
        true
    }

    fn encode(&self, record: &SinkRecord, rule: &Rule, out: &mut Vec<SqlOp>) -> Result<(), EncodeError> {
        sql::encode::encode(record, rule, &self.statements, out)
    }

    fn imported(&self, record: &SinkRecord) -> Option<SqlOp> {
        sql::encode::imported(record)
    }

    fn weight(&self, op: &SqlOp) -> usize {
        sql::weight(op)
    }

    fn render(&self, op: &SqlOp) -> String {
        sql::render(op)
    }

    async fn inspect(&self) -> Vec<Finding> {
        super::inspect::inspect(self).await
    }

    async fn connect(&self) -> Result<SqliteConn, WriteError> {
        if let Some(folder) = self.config.path.parent() {
            std::fs::create_dir_all(folder).map_err(|e| {
                WriteError::busy(format!("creating {}: {e}; check its owner and rights", folder.display()))
            })?;
        }
        let options = SqliteConnectOptions::new()
            .filename(&self.config.path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(LOCK_WAIT)
            .pragma("cache_size", CACHE_SIZE)
            .pragma("wal_autocheckpoint", CHECKPOINT_PAGES)
            .pragma("temp_store", "memory")
            .disable_statement_logging();
        let mut inner = SqliteConnection::connect_with(&options).await.map_err(map)?;
        for statement in schema::STATEMENTS {
            inner.execute(*statement).await.map_err(map)?;
        }
        let file = self.file().ok_or_else(|| {
            WriteError::Disconnected(format!("{} vanished while it was opened", self.config.path.display()).into())
        })?;
        Ok(SqliteConn { inner, file })
    }

    async fn write<'a>(&'a self, conn: &'a mut SqliteConn, batch: Batch<'a, SqlOp>) -> Result<(), WriteError> {
        self.check_file(conn)?;
        let inner = &mut conn.inner;
        inner.execute("begin immediate").await.map_err(map)?;
        let result = match self.rows(inner, &batch).await {
            Ok(refused) if refused.is_empty() => match batch.positions {
                Some(positions) => store(inner, positions).await.map_err(map),
                None => Ok(()),
            },
            Ok(refused) => Err(WriteError::Items(refused)),
            Err(error) => Err(error),
        };
        if let Err(error) = result {
            // Nothing of the batch stays. A connection that can't even roll back is of no use any more.
            return match inner.execute("rollback").await {
                Ok(_) => Err(error),
                Err(failed) => Err(WriteError::Disconnected(format!("{error}; rollback: {failed}").into())),
            };
        }
        if let Err(error) = inner.execute("commit").await {
            // Whether it took place is read from the position after reconnecting.
            return Err(WriteError::Disconnected(error.into()));
        }
        Ok(())
    }

    async fn positions<'a>(&'a self, conn: &'a mut SqliteConn, log_id: u64, sink: &'a str) -> Result<Kept, WriteError> {
        // The write lock waits for a transaction of a lost connection to end, so that its outcome is what is read.
        conn.inner.execute("begin immediate").await.map_err(map)?;
        let rows = sqlx::query("select lane, lsn from forebay_position where log_id = ? and sink = ?")
            .bind(log_id.cast_signed())
            .bind(sink.to_owned())
            .fetch_all(&mut conn.inner)
            .await;
        conn.inner.execute("commit").await.map_err(map)?;
        let mut positions = Positions { log_id, sink: sink.to_owned(), ..Positions::default() };
        let rows = rows.map_err(map)?;
        if rows.is_empty() {
            return Ok(Kept::Nothing);
        }
        for row in rows {
            let lane: i64 = row.try_get("lane").map_err(map)?;
            let lsn: i64 = row.try_get("lsn").map_err(map)?;
            match (u16::try_from(lane), Lsn(lsn.cast_unsigned())) {
                (Ok(PREFIX_LANE), lsn) => positions.prefix = lsn,
                (Ok(lane), lsn) => positions.lanes.push((lane, lsn)),
                (Err(_), _) => {
                    return Err(WriteError::busy(format!("forebay_position has a lane {lane}: it was altered")));
                }
            }
        }
        Ok(Kept::At(positions))
    }

    async fn reset<'a>(
        &'a self,
        conn: &'a mut SqliteConn,
        log_id: u64,
        sink: &'a str,
        to: Lsn,
    ) -> Result<(), WriteError> {
        let mut transaction = conn.inner.begin().await.map_err(map)?;
        sqlx::query("delete from forebay_position where log_id = ? and sink = ?")
            .bind(log_id.cast_signed())
            .bind(sink.to_owned())
            .execute(&mut *transaction)
            .await
            .map_err(map)?;
        let positions = Positions { log_id, sink: sink.to_owned(), lanes: Vec::new(), prefix: to };
        store(&mut transaction, &positions).await.map_err(map)?;
        transaction.commit().await.map_err(map)
    }

    async fn maintain<'a>(&'a self, conn: &'a mut SqliteConn, now_us: u64) -> Result<u64, WriteError> {
        self.check_file(conn)?;
        let mut transaction = conn.inner.begin().await.map_err(map)?;
        let due = "select msgid from forebay_expiry where expires_us <= ?1 and kind = ?2 order by expires_us limit ?3";
        let mut removed = 0;
        for (kind, table) in [("msg", "mqtt_msg"), ("retain", "mqtt_retain")] {
            let topics = if kind == "retain" {
                " and topic in (select topic from forebay_expiry where expires_us <= ?1 and kind = ?2)"
            } else {
                ""
            };
            for sql in [
                format!("delete from {table} where msgid in ({due}){topics}"),
                format!("delete from forebay_expiry where kind = ?2 and msgid in ({due})"),
            ] {
                let query = sqlx::query(AssertSqlSafe(sql)).bind(now_us.cast_signed()).bind(kind).bind(UPKEEP_ROWS);
                let result = query.execute(&mut *transaction).await.map_err(map)?;
                removed += result.rows_affected();
            }
        }
        if let Some(retention) = self.config.retention {
            let oldest = now_us.saturating_sub(u64::try_from(retention.as_micros()).unwrap_or(u64::MAX));
            // Ids grow with time: only the oldest rows are looked at, and no index on the time is needed.
            let result = sqlx::query(
                "delete from mqtt_msg where id in (select id from (select id, arrived from mqtt_msg order by id limit ?1) \
                 where arrived < ?2)",
            )
            .bind(UPKEEP_ROWS)
            .bind(datetime(oldest))
            .execute(&mut *transaction)
            .await
            .map_err(map)?;
            removed += result.rows_affected();
        }
        transaction.commit().await.map_err(map)?;
        Ok(removed)
    }
}

type SqliteQuery<'q> = Query<'q, Sqlite, SqliteArguments>;

async fn run(conn: &mut SqliteConnection, query: SqliteQuery<'_>) -> sqlx::Result<()> {
    query.execute(conn).await.map(|_| ())
}

async fn expires(conn: &mut SqliteConnection, row: &MessageRow, kind: &'static str) -> sqlx::Result<()> {
    run(
        conn,
        sqlx::query(
            "insert into forebay_expiry (msgid, kind, topic, expires_us) values (?,?,?,?) on conflict do nothing",
        )
        .bind(row.msgid.clone())
        .bind(kind)
        .bind(row.topic.to_string())
        .bind(row.expires_us.unwrap_or(0).cast_signed()),
    )
    .await
}

/// Forgets a client's read positions of the topics that a filter matches.
async fn forget(conn: &mut SqliteConnection, client: &str, filter: &str) -> sqlx::Result<()> {
    let mut topics = vec![filter.to_owned()];
    if topic::has_wildcard(filter) {
        let rows = sqlx::query("select topic from mqtt_acked where clientid = ?")
            .bind(client.to_owned())
            .fetch_all(&mut *conn)
            .await?;
        for row in rows {
            let name: Option<String> = row.try_get("topic")?;
            topics.extend(name.filter(|n| topic::matches(filter, n)));
        }
    }
    for name in topics {
        run(
            conn,
            sqlx::query("delete from mqtt_acked where clientid = ? and topic = ?").bind(client.to_owned()).bind(name),
        )
        .await?;
    }
    Ok(())
}

async fn store(conn: &mut SqliteConnection, positions: &Positions) -> sqlx::Result<()> {
    let mut lanes = positions.lanes.clone();
    lanes.push((PREFIX_LANE, positions.prefix));
    for chunk in powers(&lanes, ROWS) {
        let sql = format!(
            "insert into forebay_position (log_id, sink, lane, lsn) values {} \
             on conflict (log_id, sink, lane) do update set lsn = excluded.lsn where excluded.lsn > forebay_position.lsn",
            places(chunk.len(), "(?,?,?,?)")
        );
        let mut query = sqlx::query(AssertSqlSafe(sql));
        for (lane, lsn) in chunk {
            query = query
                .bind(positions.log_id.cast_signed())
                .bind(positions.sink.clone())
                .bind(i64::from(*lane))
                .bind(lsn.0.cast_signed());
        }
        query.execute(&mut *conn).await?;
    }
    Ok(())
}

fn statement<'q>(sql: &Arc<str>, values: &[Value]) -> SqliteQuery<'q> {
    values.iter().fold(sqlx::query(AssertSqlSafe(sql.clone())), bind)
}

fn bind<'q>(query: SqliteQuery<'q>, value: &Value) -> SqliteQuery<'q> {
    match value {
        Value::Null => query.bind(None::<i64>),
        Value::Text(text) | Value::Json(Json { text, .. }) => query.bind(text.to_string()),
        Value::Int(number) => query.bind(*number),
        Value::Blob(bytes) => query.bind(bytes.to_vec()),
    }
}
