//! Batches, positions and upkeep.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

use forebay_engine::Lsn;
use sqlx::{Connection, Executor, Row};

use super::connect::{ALTERED, PgsqlConn, PgsqlSink};
use super::error::{lost_statements, map, map_built_in};
use super::schema;
use super::statement::{self, Refused};
use crate::rule::Rule;
use crate::sink::{
    Batch, BatchLimits, EncodeError, Entry, Finding, Kept, PREFIX_LANE, Positions, Sink, SinkRecord, Verdict,
    WriteError,
};
use crate::sql::fold::Segment;
use crate::sql::position::{self, CEILING_LANE, PositionRow};
use crate::sql::{self, MessageRow, SqlOp, Value};

/// Rows that upkeep deletes in one step, so that a write never waits long for it.
const UPKEEP_ROWS: i64 = 1_000;

/// A failure inside a transaction.
enum Failed {
    Write(WriteError),
    /// The server has forgotten the connection's statements.
    Forgotten(sqlx::Error),
    /// One of these operations is at fault.
    OneOf(Range<usize>),
}

fn built_in(error: sqlx::Error) -> Failed {
    if lost_statements(&error) { Failed::Forgotten(error) } else { Failed::Write(map_built_in(error)) }
}

impl PgsqlSink {
    /// Operations that the tables can't hold. Where there are any, the tables are looked at again: they may have been widened.
    async fn misfits(
        &self,
        conn: &mut PgsqlConn,
        batch: &Batch<'_, SqlOp>,
    ) -> Result<Vec<(usize, Verdict)>, WriteError> {
        let find = |conn: &PgsqlConn| {
            let check = |entry: &Entry<SqlOp>| conn.found.layout.check(&entry.op, self.config.binary_payload).err();
            let found = batch.entries.iter().enumerate().filter_map(|(n, entry)| Some((n, check(entry)?)));
            found.map(|(n, why)| (n, Verdict::Bury(why.into()))).collect::<Vec<_>>()
        };
        if find(conn).is_empty() {
            return Ok(Vec::new());
        }
        conn.found = schema::look(&mut conn.inner, self.tables).await?;
        Ok(find(conn))
    }

    /// `singly` are operations that are run one by one, since one of them is at fault.
    async fn transaction(
        &self,
        conn: &mut PgsqlConn,
        batch: &Batch<'_, SqlOp>,
        singly: &HashSet<usize>,
    ) -> Result<(), Failed> {
        conn.begin().await.map_err(|error| Failed::Write(map(error)))?;
        // Without positions, and below the ceiling, a message may be there already. Of two rows only a unique index keeps one out.
        let again = !conn.found.unique_msgid
            && (batch.positions.is_none() || batch.entries.iter().any(|entry| entry.lsn < conn.ceiling));
        let mut stored = HashSet::new();
        let mut run: Vec<&SqlOp> = Vec::new();
        let mut next = 0;
        while let Some(entry) = batch.entries.get(next) {
            let index = next;
            let SqlOp::Statement { sql, .. } = &entry.op else {
                run.push(&entry.op);
                next += 1;
                continue;
            };
            self.run(conn, &run, again, &mut stored).await?;
            stored.extend(run.iter().filter_map(|op| op.message()).map(|row| row.msgid.clone()));
            run.clear();
            let together = |index: usize| self.several && !singly.contains(&index);
            let rows: Vec<&[Value]> = (index..)
                .zip(batch.entries.iter().skip(index))
                .take_while(|(n, _)| *n == index || (together(index) && together(*n)))
                .map_while(|(_, entry)| match &entry.op {
                    SqlOp::Statement { sql: other, values } if Arc::ptr_eq(sql, other) => Some(values.as_slice()),
                    _ => None,
                })
                .collect();
            next += rows.len();
            match statement::run(conn, sql, &rows, self.config.binary_payload).await {
                Ok(()) => {}
                // The transaction is void after the first error: the others get their turn when this one is gone.
                Err(Refused::Rows(rows)) => {
                    let items = rows.into_iter().map(|(n, verdict)| (index + n, verdict)).collect();
                    return Err(Failed::Write(WriteError::Items(items)));
                }
                Err(Refused::OneOf(rows)) => return Err(Failed::OneOf(index + rows.start..index + rows.end)),
                Err(Refused::Batch(error)) => return Err(Failed::Write(error)),
                Err(Refused::Forgotten(error)) => return Err(Failed::Forgotten(error)),
            }
        }
        self.run(conn, &run, again, &mut stored).await?;
        if let Some(positions) = batch.positions {
            store(conn, positions, &position::rows(positions)).await.map_err(built_in)?;
        }
        Ok(())
    }

    /// Operations between two users' statements; `stored` are the messages of this batch that are stored by now.
    async fn run(
        &self,
        conn: &mut PgsqlConn,
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
            stored.extend(self.known(conn, rows).await.map_err(built_in)?);
        }
        self.segment(conn, &segment, stored).await.map_err(built_in)
    }

    async fn position_rows(&self, conn: &mut PgsqlConn, log_id: u64, sink: &str) -> sqlx::Result<Vec<PositionRow>> {
        // The rows' locks wait for a transaction of a lost connection to end, so that its outcome is what is read.
        let sql =
            "select lane, lsn, prefix from forebay_position where log_id = $1 and sink = $2 order by lane for update";
        let query = conn.query(sql).bind(log_id.cast_signed()).bind(sink.to_owned());
        let rows = query.fetch_all(&mut conn.inner).await?;
        rows.iter().map(|row| Ok((row.try_get("lane")?, row.try_get("lsn")?, row.try_get("prefix")?))).collect()
    }
}

/// Moves positions on, never back.
async fn store(conn: &mut PgsqlConn, positions: &Positions, rows: &[(i64, i64)]) -> sqlx::Result<()> {
    let sql = "insert into forebay_position (log_id, sink, lane, lsn, prefix) \
         select $1, $2, v.lane, v.lsn, $5 from unnest($3::int8[], $4::int8[]) as v(lane, lsn) \
         on conflict (log_id, sink, lane) do update set lsn = greatest(forebay_position.lsn, excluded.lsn), \
         prefix = greatest(forebay_position.prefix, excluded.prefix)";
    let query = conn
        .query(sql)
        .bind(positions.log_id.cast_signed())
        .bind(positions.sink.clone())
        .bind(rows.iter().map(|row| row.0).collect::<Vec<i64>>())
        .bind(rows.iter().map(|row| row.1).collect::<Vec<i64>>())
        .bind(positions.prefix.0.cast_signed());
    query.execute(&mut conn.inner).await.map(|_| ())
}

impl Sink for PgsqlSink {
    type Op = SqlOp;
    type Conn = PgsqlConn;

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
        self.look().await.map_or_else(|error| vec![Finding::fault(error.to_string())], |(_, findings)| findings)
    }

    async fn connect(&self) -> Result<PgsqlConn, WriteError> {
        self.open().await
    }

    async fn write<'a>(&'a self, conn: &'a mut PgsqlConn, batch: Batch<'a, SqlOp>) -> Result<(), WriteError> {
        self.refresh(conn).await?;
        let misfits = self.misfits(conn, &batch).await?;
        if !misfits.is_empty() {
            return Err(WriteError::Items(misfits));
        }
        // COPY can't leave out what is there already.
        let new = batch.positions.is_some() && batch.entries.iter().all(|entry| entry.lsn >= conn.ceiling);
        (conn.copies, conn.copying) = (conn.found.copies && new, false);
        let mut forgotten = false;
        let mut singly = HashSet::new();
        loop {
            match self.transaction(conn, &batch, &singly).await {
                Ok(()) => break,
                Err(Failed::OneOf(entries)) => {
                    singly.extend(entries);
                    let again = WriteError::busy("rows are stored one by one to find the one at fault");
                    if let WriteError::Disconnected(lost) = conn.rollback(again).await {
                        return Err(WriteError::Disconnected(lost));
                    }
                }
                Err(Failed::Write(error)) if std::mem::take(&mut conn.copying) => {
                    if let WriteError::Disconnected(lost) = conn.rollback(error).await {
                        return Err(WriteError::Disconnected(lost));
                    }
                    conn.copies = false;
                }
                Err(Failed::Write(error)) => return Err(conn.rollback(error).await),
                Err(Failed::Forgotten(error)) => {
                    let busy = map(error);
                    if forgotten {
                        return Err(conn.rollback(busy).await);
                    }
                    forgotten = true;
                    if let WriteError::Disconnected(lost) = conn.rollback(busy).await {
                        return Err(WriteError::Disconnected(lost));
                    }
                    conn.statements.clear();
                    conn.inner.clear_cached_statements().await.map_err(map)?;
                }
            }
        }
        // Whether a commit without an answer took place is read from the position after reconnecting.
        match conn.commit().await {
            Ok(()) => Ok(()),
            // Nothing was stored; the next connection looks at the tables again.
            Err(error) if error.as_database_error().is_some_and(|error| error.message().contains(ALTERED)) => {
                Err(WriteError::Disconnected(error.into()))
            }
            // A deferred constraint of a user's table speaks up at the end; nothing was stored.
            Err(error) if error.as_database_error().is_some() => Err(map_built_in(error)),
            Err(error) => Err(WriteError::Disconnected(error.into())),
        }
    }

    async fn positions<'a>(&'a self, conn: &'a mut PgsqlConn, log_id: u64, sink: &'a str) -> Result<Kept, WriteError> {
        conn.begin().await.map_err(map)?;
        let mut rows = self.position_rows(conn, log_id, sink).await.map_err(map)?;
        let lanes = usize::from(PREFIX_LANE) + 1;
        if rows.len() < lanes {
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
        conn: &'a mut PgsqlConn,
        log_id: u64,
        sink: &'a str,
        to: Lsn,
    ) -> Result<(), WriteError> {
        conn.begin().await.map_err(map)?;
        let rows = self.position_rows(conn, log_id, sink).await.map_err(map)?;
        let ceiling = rows.iter().flat_map(|row| [row.1, row.2]).max().unwrap_or(0);
        let clear = "update forebay_position set lsn = 0, prefix = 0 where log_id = $1 and sink = $2";
        let query = conn.query(clear).bind(log_id.cast_signed()).bind(sink.to_owned());
        query.execute(&mut conn.inner).await.map_err(map)?;
        let positions = Positions { log_id, sink: sink.to_owned(), ..Positions::default() };
        let rows = [(i64::from(PREFIX_LANE), to.0.cast_signed()), (i64::from(CEILING_LANE), ceiling)];
        store(conn, &positions, &rows).await.map_err(map)?;
        conn.inner.execute("commit").await.map(|_| ()).map_err(map)
    }

    async fn maintain<'a>(&'a self, conn: &'a mut PgsqlConn, now_us: u64) -> Result<u64, WriteError> {
        self.refresh(conn).await?;
        conn.enter().await?;
        let due = "with due as (delete from forebay_expiry where (msgid, kind) in (select msgid, kind from forebay_expiry \
             where kind = $1 and expires_us <= $2 order by expires_us limit $3) returning msgid, topic) ";
        let mut removed = 0;
        for (kind, delete) in [
            ("msg", "delete from mqtt_msg m using due where m.msgid = due.msgid"),
            ("retain", "delete from mqtt_retain r using due where r.topic = due.topic and r.msgid = due.msgid"),
        ] {
            let sql = format!("{due}, gone as ({delete}) select count(*) as n from due");
            let query = conn.query(sql).bind(kind).bind(now_us.cast_signed()).bind(UPKEEP_ROWS);
            let row = query.fetch_one(&mut conn.inner).await.map_err(map)?;
            removed += row.try_get::<i64, _>("n").map_err(map)?.unsigned_abs();
        }
        conn.leave().await?;
        Ok(removed)
    }
}
