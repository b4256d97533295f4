//! What is derived from the log: the index beside a segment, and residue files.
//!
//! ```text
//! topic_index  flags u8 | bytes
//!   bit 0  the bytes are an index; else records, 4 bytes each, of which one is made
//!   bit 1  put the checksums right
//! residue      flags u8 | file
//!   bit 0  put the checksums right
//! ```

use std::collections::BTreeMap;

use forebay_engine::Record;
use forebay_engine::fuzzing::{
    IndexedRecord, ReadResidue, index_of, read_residue, repair_index, repair_residue, search_index,
};
use forebay_engine::topic;

/// The log of all inputs.
pub(crate) const LOG_ID: [u8; 16] = *b"a log for a fuzz";

const FIRST: u64 = 100;
const FILTERS: &[&str] = &["a", "a/b", "a/#", "+/b", "#", "b/+/c", "never/there"];

pub(crate) fn topic_index(data: &[u8]) {
    let Some((flags, rest)) = data.split_first() else { return };
    if flags & 1 == 0 {
        return finds_what_is_there(rest);
    }
    let mut bytes = rest.to_vec();
    if flags & 2 != 0 {
        repair_index(&mut bytes);
    }
    for filter in FILTERS {
        // Whatever it says: in the range that was asked for, each number once, and in order.
        if let Ok((found, until)) = search_index(&bytes, filter, FIRST..FIRST + 1000, 16) {
            assert!(found.windows(2).all(|pair| pair[0].0 < pair[1].0), "numbers do not rise");
            assert!(found.iter().all(|(lsn, ..)| (FIRST..until).contains(lsn)), "a number outside the range");
            assert!(until <= FIRST + 1000 && found.len() <= 16);
        }
    }
}

/// The records that four bytes each describe: steps of number and offset, topic, length.
pub(crate) fn records(data: &[u8]) -> Vec<IndexedRecord> {
    let (mut lsn, mut at) = (FIRST, 64);
    let mut records = Vec::new();
    for bytes in data.chunks_exact(4) {
        let topic = match bytes[2] {
            0 => "a".to_owned(),
            n @ 1..=100 => ["a/b", "a/c", "b/b", "b/x/c", "c"][usize::from(n) % 5].to_owned(),
            n => format!("a/{n}"),
        };
        let len = 32 + u32::from(bytes[3]);
        records.push((topic, lsn, at, len));
        lsn += 1 + u64::from(bytes[0]);
        at += u64::from(len) + (u64::from(bytes[1]) << 8);
    }
    records
}

/// An index finds exactly the records whose topic matches, as many as were asked for.
fn finds_what_is_there(data: &[u8]) {
    let records = records(data);
    let next = records.last().map_or(FIRST, |last| last.1 + 1);
    let bytes = index_of(LOG_ID, FIRST, next, &records);
    for filter in FILTERS {
        let expected: Vec<(u64, u64, u32)> =
            records.iter().filter(|r| topic::matches(filter, &r.0)).map(|r| (r.1, r.2, r.3)).collect();
        for (from, limit) in [(FIRST, usize::MAX / 2), (FIRST + 7, 3)] {
            let (found, until) = search_index(&bytes, filter, from..next, limit).expect("its own index opens");
            let wanted: Vec<_> = expected.iter().filter(|r| r.0 >= from && r.0 < until).copied().collect();
            assert_eq!(found, wanted, "{filter} from {from}");
            let all = until == next || until > from && found.len() == limit;
            assert!(all, "it stops early: at {until} of {next} with {} of {limit}", found.len());
        }
    }
}

/// A residue file that opens gives records in order; what its index names is among them, or is refused.
pub(crate) fn residue(data: &[u8]) {
    let Some((flags, rest)) = data.split_first() else { return };
    let mut bytes = rest.to_vec();
    if flags & 1 != 0 {
        repair_residue(&mut bytes);
    }
    let Ok(ReadResidue { walked, stopped, indexed }) = read_residue(&bytes, LOG_ID) else { return };
    assert!(walked.windows(2).all(|pair| pair[0].lsn < pair[1].lsn), "numbers do not rise");
    let by_number: BTreeMap<u64, &Record> = walked.iter().map(|record| (record.lsn.0, record)).collect();
    for record in indexed.into_iter().flatten() {
        // With checksums put right, a frame may stand in the body of another one, and an index may name it.
        match by_number.get(&record.lsn.0).filter(|_| flags & 1 == 0) {
            Some(same) => assert_eq!(**same, record, "the index gives another record of this number"),
            None => assert!(stopped.is_some() || flags & 1 != 0, "the index gives a record that is not there"),
        }
    }
}
