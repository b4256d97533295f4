//! `forebay_position` in DynamoDB: one item for a log and sink.
//!
//! ```text
//! sink          log, 16 hexadecimal digits / sink
//! epoch         changes with `forebay sink reset`: who still writes with another one is refused
//! l0..l63       every record of the lane below it is done; 0 = nothing known
//! p0..p63       what was known of all lanes when that lane was written
//! p64           the same, written when there is no lane to write
//! ```

use forebay_engine::Lsn;

use super::connect::DynamoConn;
use super::error::Failure;
use super::item::{Item, item, n, number, s, text};
use super::request::{Progress, Request};
use crate::sink::{Kept, LANES, PREFIX_LANE, Positions, WriteError};

const POSITION: &str = "forebay_position";

fn key(log_id: u64, sink: &str) -> Item {
    item([("sink", s(format!("{log_id:016x}/{sink}")))])
}

/// An item that knows nothing but perhaps that all below `prefix` is done.
fn fresh(log_id: u64, sink: &str, prefix: Lsn) -> (Item, String) {
    let epoch = format!("{:016x}", rand::random::<u64>());
    let mut fresh = key(log_id, sink);
    fresh.insert("epoch".into(), s(epoch.as_str()));
    for lane in 0..LANES {
        fresh.insert(format!("l{lane}"), n(0));
        fresh.insert(format!("p{lane}"), n(0));
    }
    fresh.insert(format!("p{PREFIX_LANE}"), n(prefix.0));
    (fresh, epoch)
}

/// What the database remembers; the connection takes its epoch.
pub(super) async fn read(conn: &mut DynamoConn, log_id: u64, sink: &str) -> Result<Kept, WriteError> {
    if let Some(found) = conn.link.get(POSITION, key(log_id, sink)).await? {
        conn.epoch = text(&found, "epoch").map(str::to_owned);
        return kept(&found, log_id, sink).map_err(WriteError::busy);
    }
    let (fresh, epoch) = fresh(log_id, sink, Lsn::NONE);
    let create = Request::put(POSITION, fresh).only("attribute_not_exists(#sink)");
    match conn.link.send(&Progress::new(), &create).await {
        Ok(_) => {
            conn.epoch = Some(epoch);
            Ok(Kept::Nothing)
        }
        Err(Failure::Condition) => {
            Err(WriteError::busy("another connection made the sink's position: it is read again"))
        }
        Err(failure) => Err(failure.into_write()),
    }
}

fn kept(found: &Item, log_id: u64, sink: &str) -> Result<Kept, String> {
    let mut positions = Positions { log_id, sink: sink.to_owned(), ..Positions::default() };
    let at = |name: String| -> Result<Lsn, String> {
        let lsn = number(found, &name).and_then(|lsn| u64::try_from(lsn).ok());
        lsn.map(Lsn).ok_or_else(|| format!("{POSITION} of {sink} has no number {name}: it was altered"))
    };
    for lane in 0..LANES {
        let lsn = at(format!("l{lane}"))?;
        if lsn > Lsn::NONE {
            positions.lanes.push((lane, lsn));
        }
        positions.prefix = positions.prefix.max(at(format!("p{lane}"))?);
    }
    positions.prefix = positions.prefix.max(at(format!("p{PREFIX_LANE}"))?);
    let nothing = positions.lanes.is_empty() && positions.prefix == Lsn::NONE;
    Ok(if nothing { Kept::Nothing } else { Kept::At(positions) })
}

/// Moves positions on, never back: one write, whatever the number of lanes.
pub(super) async fn store(conn: &DynamoConn, progress: &Progress, positions: &Positions) -> Result<(), WriteError> {
    let lost =
        || WriteError::Disconnected("the sink's position in DynamoDB was reset or is gone: reading it again".into());
    let epoch = conn.epoch.as_deref().ok_or_else(lost)?;
    let mut lanes = positions.lanes.clone();
    loop {
        let request = moved(epoch, positions, &lanes);
        match conn.link.send(progress, &request).await {
            Ok(_) => return Ok(()),
            Err(Failure::Condition) => {}
            Err(failure) => return Err(failure.into_write()),
        }
        let found = conn.link.get(POSITION, key(positions.log_id, &positions.sink)).await?.unwrap_or_default();
        if text(&found, "epoch") != Some(epoch) {
            return Err(lost());
        }
        // What is known to be further stays so.
        let before = lanes.len();
        lanes.retain(|(lane, lsn)| {
            number(&found, &format!("l{lane}")).is_none_or(|there| there.cast_unsigned() <= lsn.0)
        });
        if lanes.is_empty() {
            return Ok(());
        }
        if lanes.len() == before {
            return Err(lost());
        }
    }
}

fn moved(epoch: &str, positions: &Positions, lanes: &[(u16, Lsn)]) -> Request {
    let (mut set, mut only) = (Vec::new(), vec!["#epoch = :epoch".to_owned()]);
    let mut values = vec![(":epoch".to_owned(), s(epoch)), (":p".to_owned(), n(positions.prefix.0))];
    for (lane, lsn) in lanes {
        set.push(format!("#l{lane} = :l{lane}"));
        only.push(format!("#l{lane} <= :l{lane}"));
        values.push((format!(":l{lane}"), n(lsn.0)));
    }
    match lanes.first() {
        // With the first of its lanes, which nobody else writes.
        Some((lane, _)) => set.push(format!("#p{lane} = :p")),
        None => {
            set.push(format!("#p{PREFIX_LANE} = :p"));
            only.push(format!("#p{PREFIX_LANE} <= :p"));
        }
    }
    let request = Request::update(POSITION, key(positions.log_id, &positions.sink), format!("set {}", set.join(", ")));
    values.into_iter().fold(request.only(only.join(" and ")), |request, (name, value)| request.value(name, value))
}

/// Replaces the position, and begins another epoch.
pub(super) async fn reset(conn: &mut DynamoConn, log_id: u64, sink: &str, to: Lsn) -> Result<(), WriteError> {
    let (fresh, epoch) = fresh(log_id, sink, to);
    let put = Request::put(POSITION, fresh);
    conn.link.send(&Progress::new(), &put).await.map_err(Failure::into_write)?;
    conn.epoch = Some(epoch);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_prefix_is_the_highest_and_zeros_are_nothing() {
        let (mut found, _) = fresh(1, "s", Lsn::NONE);
        assert_eq!(kept(&found, 1, "s"), Ok(Kept::Nothing));
        for (name, lsn) in [("l3", 9), ("p3", 4), ("l63", 7), ("p63", 6), ("p64", 5)] {
            found.insert(name.into(), n(lsn));
        }
        let expected =
            Positions { log_id: 1, sink: "s".into(), lanes: vec![(3, Lsn(9)), (63, Lsn(7))], prefix: Lsn(6) };
        assert_eq!(kept(&found, 1, "s"), Ok(Kept::At(expected)));
        found.remove("l5");
        assert!(kept(&found, 1, "s").unwrap_err().contains("l5"));
        let (reset, _) = fresh(1, "s", Lsn(40));
        assert!(matches!(kept(&reset, 1, "s"), Ok(Kept::At(p)) if p.prefix == Lsn(40) && p.lanes.is_empty()));
    }
}
