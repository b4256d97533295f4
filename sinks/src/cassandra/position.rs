//! Positions: one partition for a log and sink, a row for each lane.
//!
//! A row's timestamp is its epoch (us since 1970) plus its number, so the highest number stays whatever comes late. A reset begins
//! another epoch: what is still written for the one before is no longer read.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use forebay_engine::Lsn;

use super::connect::{CassandraConn, Link};
use super::error::Failure;
use crate::sink::{Kept, PREFIX_LANE, Positions, WriteError};
use crate::sql::Value;

const READ: &str = "select epoch, lane, lsn from forebay_position where log_id = ? and sink = ?";

const STORE: &str =
    "insert into forebay_position (log_id, sink, epoch, lane, lsn) values (?, ?, ?, ?, ?) using timestamp ?";

const FORGET: &str = "delete from forebay_position using timestamp ? where log_id = ? and sink = ? and epoch < ?";

/// Later than any timestamp of a row: numbers of records have 48 bits.
const BEYOND: i64 = 1 << 50;

/// The epoch of a sink that has no position yet, the same for all of its connections.
#[derive(Debug, Default)]
pub(super) struct Epoch {
    first: AtomicI64,
    stored: AtomicBool,
}

impl Epoch {
    /// Where there is no row: the epoch that is begun. Rows that are gone although they were written are somebody's deletion,
    /// which hides what is older than itself.
    fn begin(&self, now_us: i64) -> i64 {
        if self.stored.swap(false, Ordering::Relaxed) {
            self.first.store(0, Ordering::Relaxed);
        }
        match self.first.compare_exchange(0, now_us, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => now_us,
            Err(begun) => begun,
        }
    }
}

/// What the database remembers; the connection takes its epoch.
pub(super) async fn read(
    conn: &mut CassandraConn,
    epoch: &Epoch,
    log_id: u64,
    sink: &str,
    now_us: i64,
) -> Result<Kept, WriteError> {
    let rows = rows(&conn.link, log_id, sink).await?;
    let (newest, kept) = kept(&rows, log_id, sink);
    conn.epoch = newest.unwrap_or_else(|| epoch.begin(now_us));
    Ok(kept)
}

async fn rows(link: &Link, log_id: u64, sink: &str) -> Result<Vec<(i64, i32, i64)>, WriteError> {
    link.rows(READ, &key(log_id, sink)).await
}

fn key(log_id: u64, sink: &str) -> [Value; 2] {
    [Value::Int(log_id.cast_signed()), Value::Text(sink.into())]
}

fn kept(rows: &[(i64, i32, i64)], log_id: u64, sink: &str) -> (Option<i64>, Kept) {
    let Some(newest) = rows.iter().map(|row| row.0).max() else { return (None, Kept::Nothing) };
    let mut positions = Positions { log_id, sink: sink.to_owned(), ..Positions::default() };
    for (_, lane, lsn) in rows.iter().filter(|row| row.0 == newest) {
        let lsn = Lsn(lsn.cast_unsigned());
        match u16::try_from(*lane) {
            Ok(PREFIX_LANE) => positions.prefix = lsn,
            Ok(lane) if lane < PREFIX_LANE => positions.lanes.push((lane, lsn)),
            _ => {}
        }
    }
    (Some(newest), Kept::At(positions))
}

/// Moves positions on, never back.
pub(super) async fn store(conn: &CassandraConn, epoch: &Epoch, positions: &Positions) -> Result<(), WriteError> {
    let prefix = (positions.prefix > Lsn::NONE).then_some((PREFIX_LANE, positions.prefix));
    let mut steps = Vec::with_capacity(positions.lanes.len() + 1);
    for (lane, lsn) in positions.lanes.iter().copied().chain(prefix) {
        let values = row(conn.epoch, positions, lane, lsn);
        steps.push(conn.link.step(STORE, &values).await.map_err(Failure::into_write)?);
    }
    if steps.is_empty() {
        return Ok(());
    }
    conn.link.run_all(&steps).await.map_err(Failure::into_write)?;
    epoch.stored.store(true, Ordering::Relaxed);
    Ok(())
}

fn row(epoch: i64, positions: &Positions, lane: u16, lsn: Lsn) -> [Value; 6] {
    let [log_id, sink] = key(positions.log_id, &positions.sink);
    let number = lsn.0.cast_signed();
    let timestamp = epoch.saturating_add(number);
    [log_id, sink, Value::Int(epoch), Value::Int(i64::from(lane)), Value::Int(number), Value::Int(timestamp)]
}

/// Begins another epoch with this position.
pub(super) async fn reset(
    conn: &mut CassandraConn,
    log_id: u64,
    sink: &str,
    to: Lsn,
    now_us: i64,
) -> Result<(), WriteError> {
    let newest = rows(&conn.link, log_id, sink).await?.iter().map(|row| row.0).max().unwrap_or(0);
    let epoch = now_us.max(newest.saturating_add(1));
    let positions = Positions { log_id, sink: sink.to_owned(), ..Positions::default() };
    let begin = conn.link.step(STORE, &row(epoch, &positions, PREFIX_LANE, to)).await;
    conn.link.run(&begin.map_err(Failure::into_write)?).await.map_err(Failure::into_write)?;
    let [log, name] = key(log_id, sink);
    let values = [Value::Int(epoch.saturating_add(BEYOND)), log, name, Value::Int(epoch)];
    let forget = conn.link.step(FORGET, &values).await.map_err(Failure::into_write)?;
    conn.link.run(&forget).await.map_err(Failure::into_write)?;
    conn.epoch = epoch;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_newest_epoch_counts() {
        assert_eq!(kept(&[], 1, "s"), (None, Kept::Nothing));
        let rows = [(5, 3, 90), (5, 64, 80), (7, 64, 10), (7, 3, 12)];
        let expected = Positions { log_id: 1, sink: "s".into(), lanes: vec![(3, Lsn(12))], prefix: Lsn(10) };
        assert_eq!(kept(&rows, 1, "s"), (Some(7), Kept::At(expected)));
    }

    #[test]
    fn all_connections_begin_the_same_epoch_until_its_rows_are_deleted() {
        let epoch = Epoch::default();
        assert_eq!([epoch.begin(100), epoch.begin(105)], [100, 100]);
        epoch.stored.store(true, Ordering::Relaxed);
        assert_eq!([epoch.begin(200), epoch.begin(205)], [200, 200]);
    }
}
