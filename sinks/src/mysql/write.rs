//! Batches and positions.

use std::collections::HashSet;
use std::sync::Arc;

use forebay_engine::Lsn;
use sqlx::{AssertSqlSafe, Connection, Executor, Row};

use super::connect::{MysqlConn, MysqlSink};
use super::error::{is_duplicate, is_own_fault, lost_statements, map, map_built_in};
use super::rows::{Cell, bind};
use super::schema;
use super::segment::known;
use crate::rule::Rule;
use crate::sink::{
    Batch, BatchLimits, EncodeError, Entry, Finding, Kept, PREFIX_LANE, Positions, Sink, SinkRecord, Verdict,
    WriteError,
};
use crate::sql::fold::Segment;
use crate::sql::position::{self, CEILING_LANE, PositionRow};
use crate::sql::{self, BinaryPayload, MessageRow, SqlOp, Value};

/// What a packet holds besides the values of one row, about.
const PACKET_HEAD: usize = 4_096;

/// A failure inside a transaction.
enum Failed {
    Write(WriteError),
    /// A unique key has it already: somebody else stored it.
    Duplicate(sqlx::Error),
    /// The server has forgotten the connection's statements.
    Forgotten(sqlx::Error),
}

fn built_in(error: sqlx::Error) -> Failed {
    if lost_statements(&error) {
        Failed::Forgotten(error)
    } else if is_duplicate(&error) {
        Failed::Duplicate(error)
    } else {
        Failed::Write(map_built_in(error))
    }
}

impl MysqlSink {
    /// Operations that the tables or a packet can't hold. Where there are any, the tables are looked at again: they may have been
    /// widened.
    async fn misfits(
        &self,
        conn: &mut MysqlConn,
        batch: &Batch<'_, SqlOp>,
    ) -> Result<Vec<(usize, Verdict)>, WriteError> {
        let find = |conn: &MysqlConn| {
            let check = |entry: &Entry<SqlOp>| {
                let weight = sql::weight(&entry.op);
                // Longer in text: two digits a byte.
                let weight = if self.config.binary_payload == BinaryPayload::Refuse { weight } else { weight * 2 };
                if weight + PACKET_HEAD > conn.packet {
                    return Some(format!(
                        "{weight} bytes do not fit into a packet of {}: raise the server's max_allowed_packet and replay the letter",
                        conn.packet
                    ));
                }
                conn.found.layout.check(&entry.op, self.config.binary_payload).err()
            };
            let found = batch.entries.iter().enumerate().filter_map(|(n, entry)| Some((n, check(entry)?)));
            found.map(|(n, why)| (n, Verdict::Bury(why.into()))).collect::<Vec<_>>()
        };
        if find(conn).is_empty() {
            return Ok(Vec::new());
        }
        if self.packet_was_raised(conn).await? {
            self.reopen(conn).await?;
        } else {
            conn.found = schema::look(&mut conn.inner).await?;
        }
        Ok(find(conn))
    }

    /// A session keeps the limit that it began with.
    async fn packet_was_raised(&self, conn: &mut MysqlConn) -> Result<bool, WriteError> {
        let sql = "select cast(@@global.max_allowed_packet as signed) as packet";
        let packet: i64 = conn.inner.fetch_one(sql).await.and_then(|row| row.try_get("packet")).map_err(map)?;
        Ok(usize::try_from(packet).is_ok_and(|packet| packet > conn.packet))
    }

    async fn transaction(&self, conn: &mut MysqlConn, batch: &Batch<'_, SqlOp>, again: bool) -> Result<(), Failed> {
        conn.begin().await.map_err(|error| Failed::Write(map(error)))?;
        let mut refused = Vec::new();
        let mut stored = HashSet::new();
        let mut run: Vec<&SqlOp> = Vec::new();
        for (index, entry) in batch.entries.iter().enumerate() {
            let SqlOp::Statement { sql, values } = &entry.op else {
                run.push(&entry.op);
                continue;
            };
            self.run(conn, &run, again, &mut stored).await?;
            stored.extend(run.iter().filter_map(|op| op.message()).map(|row| row.msgid.clone()));
            run.clear();
            if let Err(error) = statement(conn, sql, values).await {
                if lost_statements(&error) {
                    return Err(Failed::Forgotten(error));
                }
                if !is_own_fault(&error) {
                    return Err(Failed::Write(map(error)));
                }
                // Only the statement is undone; the others are looked at, too.
                refused.push((index, Verdict::Bury(error.into())));
            }
        }
        self.run(conn, &run, again, &mut stored).await?;
        if !refused.is_empty() {
            return Err(Failed::Write(WriteError::Items(refused)));
        }
        match batch.positions {
            Some(positions) => store(conn, positions, &position::rows(positions)).await.map_err(built_in),
            None => Ok(()),
        }
    }

    /// Operations between two users' statements; `stored` are the messages of this batch that are stored by now.
    async fn run(
        &self,
        conn: &mut MysqlConn,
        ops: &[&SqlOp],
        again: bool,
        stored: &mut HashSet<String>,
    ) -> Result<(), Failed> {
        if ops.is_empty() {
            return Ok(());
        }
        let segment = Segment::of(ops.iter().copied());
        let rows: &[&Arc<MessageRow>] = &segment.messages;
        if again && !rows.is_empty() {
            stored.extend(known(conn, rows).await.map_err(built_in)?);
        }
        self.segment(conn, &segment, stored).await.map_err(built_in)
    }

    async fn position_rows(&self, conn: &mut MysqlConn, log_id: u64, sink: &str) -> sqlx::Result<Vec<PositionRow>> {
        // The rows' locks wait for a transaction of a lost connection to end, so that its outcome is what is read.
        let sql =
            "select lane, lsn, prefix from forebay_position where log_id = ? and sink = ? order by lane for update";
        let query = conn.query(sql).bind(log_id.cast_signed()).bind(sink.to_owned());
        let rows = query.fetch_all(&mut conn.inner).await?;
        rows.iter().map(|row| Ok((row.try_get("lane")?, row.try_get("lsn")?, row.try_get("prefix")?))).collect()
    }
}

async fn statement(conn: &mut MysqlConn, sql: &Arc<str>, values: &[Value]) -> sqlx::Result<()> {
    if values.is_empty() {
        // Some statements can't be prepared.
        return conn.inner.execute(AssertSqlSafe(sql.clone())).await.map(|_| ());
    }
    let query = values.iter().fold(conn.query(&**sql), |query, value| bind(query, &Cell::from(value)));
    query.execute(&mut conn.inner).await.map(|_| ())
}

/// Moves positions on, never back.
async fn store(conn: &mut MysqlConn, positions: &Positions, rows: &[(i64, i64)]) -> sqlx::Result<()> {
    let row = |(lane, lsn): &(i64, i64)| {
        vec![
            Cell::Int(positions.log_id.cast_signed()),
            Cell::text(&positions.sink),
            Cell::Int(*lane),
            Cell::Int(*lsn),
            Cell::Int(positions.prefix.0.cast_signed()),
        ]
    };
    let cells: Vec<Vec<Cell<'_>>> = rows.iter().map(row).collect();
    conn.insert(
        "insert into forebay_position (log_id, sink, lane, lsn, prefix)",
        &cells,
        "on duplicate key update lsn = greatest(lsn, values(lsn)), prefix = greatest(prefix, values(prefix))",
    )
    .await
}

impl Sink for MysqlSink {
    type Op = SqlOp;
    type Conn = MysqlConn;

    fn limits(&self) -> BatchLimits {
        BatchLimits { operations: 8_192, bytes: 8 << 20 }
    }

    fn connections(&self) -> usize {
        self.config.connections
    }

    // InnoDB's threads that append to one table wait for each other's pages: eight of them use twice the processor time of two, and are
    // no faster. The second has its batch ready when the first is done.
    fn writers(&self, statements: bool) -> usize {
        if statements { self.config.connections } else { self.config.connections.min(2) }
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
        schema::inspect(self).await
    }

    async fn connect(&self) -> Result<MysqlConn, WriteError> {
        self.open().await
    }

    async fn write<'a>(&'a self, conn: &'a mut MysqlConn, batch: Batch<'a, SqlOp>) -> Result<(), WriteError> {
        self.refresh(conn).await?;
        let misfits = self.misfits(conn, &batch).await?;
        if !misfits.is_empty() {
            return Err(WriteError::Items(misfits));
        }
        // Without positions, and below the ceiling, messages may be there already: they are looked for.
        let mut again = batch.positions.is_none() || batch.entries.iter().any(|entry| entry.lsn < conn.ceiling);
        let (mut duplicate, mut forgotten) = (false, false);
        loop {
            let error = match self.transaction(conn, &batch, again).await {
                Ok(()) => break,
                Err(Failed::Write(error)) => return Err(conn.rollback(error).await),
                Err(Failed::Duplicate(error)) if duplicate => return Err(conn.rollback(map_built_in(error)).await),
                Err(Failed::Forgotten(error)) if forgotten => return Err(conn.rollback(map(error)).await),
                Err(Failed::Duplicate(error)) => {
                    (duplicate, again) = (true, true);
                    error
                }
                Err(Failed::Forgotten(error)) => {
                    forgotten = true;
                    error
                }
            };
            if let WriteError::Disconnected(lost) = conn.rollback(WriteError::busy(error)).await {
                return Err(WriteError::Disconnected(lost));
            }
            if forgotten {
                conn.inner.clear_cached_statements().await.map_err(map)?;
            }
        }
        match conn.inner.execute("commit").await {
            Ok(_) => Ok(()),
            // A cluster's other node was first: nothing was stored.
            Err(error) if error.as_database_error().is_some() => Err(conn.rollback(map(error)).await),
            // Whether a commit without an answer took place is read from the position after reconnecting.
            Err(error) => Err(WriteError::Disconnected(error.into())),
        }
    }

    async fn positions<'a>(&'a self, conn: &'a mut MysqlConn, log_id: u64, sink: &'a str) -> Result<Kept, WriteError> {
        conn.begin().await.map_err(map)?;
        let mut rows = self.position_rows(conn, log_id, sink).await.map_err(map)?;
        if rows.len() <= usize::from(PREFIX_LANE) {
            let zeros: Vec<(i64, i64)> = (0..=PREFIX_LANE).map(|lane| (i64::from(lane), 0)).collect();
            let positions = Positions { log_id, sink: sink.to_owned(), ..Positions::default() };
            store(conn, &positions, &zeros).await.map_err(map)?;
            rows = self.position_rows(conn, log_id, sink).await.map_err(map)?;
        }
        conn.inner.execute("commit").await.map_err(map)?;
        let (kept, ceiling) = position::read(&rows, log_id, sink).map_err(WriteError::busy)?;
        conn.ceiling = ceiling;
        Ok(kept)
    }

    async fn reset<'a>(
        &'a self,
        conn: &'a mut MysqlConn,
        log_id: u64,
        sink: &'a str,
        to: Lsn,
    ) -> Result<(), WriteError> {
        conn.begin().await.map_err(map)?;
        let rows = self.position_rows(conn, log_id, sink).await.map_err(map)?;
        let ceiling = rows.iter().flat_map(|row| [row.1, row.2]).max().unwrap_or(0);
        let clear = "update forebay_position set lsn = 0, prefix = 0 where log_id = ? and sink = ?";
        let query = conn.query(clear).bind(log_id.cast_signed()).bind(sink.to_owned());
        query.execute(&mut conn.inner).await.map_err(map)?;
        let positions = Positions { log_id, sink: sink.to_owned(), ..Positions::default() };
        let rows = [(i64::from(PREFIX_LANE), to.0.cast_signed()), (i64::from(CEILING_LANE), ceiling)];
        store(conn, &positions, &rows).await.map_err(map)?;
        conn.inner.execute("commit").await.map(|_| ()).map_err(map)
    }

    async fn maintain<'a>(&'a self, conn: &'a mut MysqlConn, now_us: u64) -> Result<u64, WriteError> {
        self.refresh(conn).await?;
        conn.begin().await.map_err(map)?;
        match self.expire(conn, now_us).await {
            Ok(removed) => {
                conn.inner.execute("commit").await.map_err(map)?;
                Ok(removed)
            }
            Err(error) => Err(conn.rollback(map(error)).await),
        }
    }
}
