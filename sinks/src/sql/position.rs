//! `forebay_position` of MySQL and PostgreSQL.
//!
//! ```text
//! forebay_position(log_id, sink, lane, lsn, prefix)        65 rows a sink from its first connect on, and lane 65 after a reset
//!   lane 0..63   lsn: every record of the lane below it is done;  prefix: what was known of all lanes when the row was written
//!   lane 64      lsn: as prefix, written when there is no lane to write
//!   lane 65      lsn: records from here on were never stored before; those below may have been, before a reset
//! ```
//!
//! Every write touches its own lanes' rows alone, so connections do not wait for one another; and since the rows are always there, a
//! reader that locks them waits for every transaction under way, those of lost connections too.

use forebay_engine::Lsn;

use crate::sink::{Kept, LANES, PREFIX_LANE, Positions};

/// Where the highest position that a reset left behind is kept.
pub(crate) const CEILING_LANE: u16 = LANES + 1;

/// A row: lane, lsn, prefix.
pub(crate) type PositionRow = (i64, i64, i64);

/// What the rows say: the position, and the [ceiling](CEILING_LANE).
///
/// # Errors
/// Where a lane is none.
pub(crate) fn read(rows: &[PositionRow], log_id: u64, sink: &str) -> Result<(Kept, Lsn), String> {
    let mut positions = Positions { log_id, sink: sink.to_owned(), ..Positions::default() };
    let mut ceiling = Lsn::NONE;
    for (lane, lsn, prefix) in rows {
        let (lsn, prefix) = (Lsn(lsn.cast_unsigned()), Lsn(prefix.cast_unsigned()));
        positions.prefix = positions.prefix.max(prefix);
        match u16::try_from(*lane) {
            Ok(CEILING_LANE) => ceiling = lsn,
            Ok(PREFIX_LANE) => positions.prefix = positions.prefix.max(lsn),
            Ok(lane) if lane < LANES => {
                if lsn > Lsn::NONE {
                    positions.lanes.push((lane, lsn));
                }
            }
            _ => return Err(format!("forebay_position has a lane {lane}: it was altered")),
        }
    }
    let nothing = positions.lanes.is_empty() && positions.prefix == Lsn::NONE;
    Ok((if nothing { Kept::Nothing } else { Kept::At(positions) }, ceiling))
}

/// The rows to write: lane and lsn, in the order of lanes, so that two writers never wait for each other in a circle.
pub(crate) fn rows(positions: &Positions) -> Vec<(i64, i64)> {
    let row = |(lane, lsn): (u16, Lsn)| (i64::from(lane), lsn.0.cast_signed());
    if positions.lanes.is_empty() {
        return vec![row((PREFIX_LANE, positions.prefix))];
    }
    let mut rows: Vec<(i64, i64)> = positions.lanes.iter().copied().map(row).collect();
    rows.sort_unstable();
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_prefix_is_the_highest_of_all_rows_and_zeros_are_nothing() {
        assert_eq!(read(&[(0, 0, 0), (64, 0, 0)], 1, "s"), Ok((Kept::Nothing, Lsn::NONE)));
        let (kept, ceiling) = read(&[(3, 9, 4), (5, 7, 6), (6, 0, 0), (64, 5, 0), (65, 20, 0)], 1, "s").unwrap();
        let lanes = vec![(3, Lsn(9)), (5, Lsn(7))];
        let expected = Positions { log_id: 1, sink: "s".into(), lanes, prefix: Lsn(6) };
        assert_eq!((kept, ceiling), (Kept::At(expected.clone()), Lsn(20)));
        assert_eq!(rows(&expected), [(3, 9), (5, 7)]);
        assert_eq!(rows(&Positions { prefix: Lsn(4), ..Positions::default() }), [(64, 4)]);
        assert!(read(&[(70, 1, 1)], 1, "s").is_err());
    }
}
