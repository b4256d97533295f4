//! The index against a naive search, and against damage.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use proptest::prelude::*;

use super::*;
use crate::topic;

const OF: Identity = Identity { log_id: [3; 16], first: Lsn(100), next: Lsn(1_000_000), end: 1 << 30 };

/// A log in small: topics in the order of their records, with gaps in the numbers.
fn records(topics: &[String]) -> Vec<(String, Position)> {
    let (mut lsn, mut at) = (100, 64);
    let each = |(i, topic): (usize, &String)| {
        let len = 40 + (i as u32 * 7) % 300;
        let position = Position { lsn: Lsn(lsn), at, len };
        lsn += 1 + u64::from(i % 11 == 0) * 5;
        at += u64::from(len) + (i as u64 % 3) * 100;
        (topic.clone(), position)
    };
    topics.iter().enumerate().map(each).collect()
}

fn index_of(records: &[(String, Position)]) -> Vec<u8> {
    let mut builder = IndexBuilder::default();
    records.iter().for_each(|(topic, position)| builder.add(topic, *position));
    assert_eq!(builder.records(), records.len() as u64);
    builder.encode(&OF)
}

fn open(bytes: Vec<u8>) -> Result<SegmentIndex, IndexFault> {
    SegmentIndex::open(Source::Memory(bytes.into()))
}

fn find(index: &SegmentIndex, filter: &str, range: &std::ops::Range<Lsn>, limit: usize) -> Result<Found, IndexFault> {
    let mut found = Found::new(range.end, limit);
    let mut search = index.search(filter);
    while index.find(&mut search, filter, range, &mut found)? {}
    Ok(found)
}

fn naive(records: &[(String, Position)], filter: &str, range: &std::ops::Range<Lsn>) -> Vec<Position> {
    let matching = records.iter().filter(|(t, p)| topic::matches(filter, t) && range.contains(&p.lsn));
    matching.map(|(_, p)| *p).collect()
}

fn level() -> impl Strategy<Value = String> {
    prop_oneof![Just("a".to_owned()), Just("b".to_owned()), "[a-c]{0,2}", "[0-9]{1,3}"]
}

fn name() -> impl Strategy<Value = String> {
    let plain = proptest::collection::vec(level(), 1..4).prop_map(|levels| levels.join("/"));
    (plain, 0..20u8).prop_map(|(name, n)| if n == 0 { format!("$SYS/{name}") } else { name })
}

fn filter() -> impl Strategy<Value = String> {
    let part = prop_oneof![2 => level(), 1 => Just("+".to_owned())];
    (proptest::collection::vec(part, 0..3), any::<bool>()).prop_map(|(mut levels, hash)| {
        if hash || levels.is_empty() {
            levels.push("#".to_owned());
        }
        levels.join("/")
    })
}

proptest! {
    #[test]
    fn every_search_finds_what_a_naive_one_finds(
        names in proptest::collection::vec(name(), 1..40), picks in proptest::collection::vec(0usize..40, 0..1500),
        filters in proptest::collection::vec(prop_oneof![filter(), name()], 1..8),
        from in 0u64..3000, len in 0u64..3000, limit in 1usize..800,
    ) {
        let topics: Vec<String> = picks.iter().map(|i| names[i % names.len()].clone()).collect();
        let records = records(&topics);
        let index = open(index_of(&records)).unwrap();
        prop_assert_eq!(index.of(), &OF);
        let range = Lsn(from)..Lsn(from + len);
        for filter in filters {
            let expected = naive(&records, &filter, &range);
            let (all, until) = find(&index, &filter, &range, usize::MAX / 4).unwrap().finish();
            prop_assert_eq!(&all, &expected, "{}", &filter);
            prop_assert_eq!(until, range.end);
            let found = find(&index, &filter, &range, limit).unwrap();
            prop_assert!(found.matched >= expected.len() as u64);
            let (some, until) = found.finish();
            prop_assert!(some.len() >= limit.min(expected.len()));
            let below: Vec<Position> = expected.iter().copied().filter(|p| p.lsn < until).collect();
            prop_assert_eq!(some, below);
        }
    }
}

fn sample() -> Vec<(String, Position)> {
    let topics: Vec<String> =
        (0..700).map(|i| if i % 2 == 0 { "busy/one".to_owned() } else { format!("plant/{}/x", i % 90) }).collect();
    records(&topics)
}

/// What all searches over the sample give, with faults in their places.
fn all_searches(bytes: Vec<u8>) -> Result<Vec<Vec<Position>>, IndexFault> {
    let index = open(bytes)?;
    let range = Lsn(0)..Lsn(u64::MAX);
    let filters = ["#", "busy/one", "plant/+/x", "plant/7/x", "none"];
    filters.iter().map(|f| find(&index, f, &range, 10_000).map(|found| found.finish().0)).collect()
}

#[test]
fn no_flipped_byte_and_no_cut_changes_an_answer() {
    let records = sample();
    let good = index_of(&records);
    let expected = all_searches(good.clone()).unwrap();
    assert_eq!(expected[0].len(), records.len());
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 1 << (at % 8);
        assert!(all_searches(bad).is_err(), "byte {at} of {}", good.len());
    }
    for len in 0..good.len() {
        assert!(all_searches(good[..len].to_vec()).is_err(), "cut at {len}");
    }
    let longer = [&good[..], &[0]].concat();
    assert!(all_searches(longer).is_err());
}

#[test]
fn blocks_that_changed_places_are_noticed() {
    let topics: Vec<String> = (0..2000).map(|i| format!("t/{i:06}")).collect();
    let good = index_of(&records(&topics));
    let index = open(good.clone()).unwrap();
    assert!(index.topics() == 2000 && index.records() == 2000 && index.memory() > 0);
    // Two of one length, each of which stays whole: only their places tell.
    let pairs = index.blocks.iter().enumerate().flat_map(|(n, a)| index.blocks[n + 1..].iter().map(move |b| (a, b)));
    let (first, second) = pairs.into_iter().find(|(a, b)| a.len == b.len).expect("two blocks of one length");
    let (a, b, len) = (first.at as usize, second.at as usize, first.len as usize);
    let mut bad = good.clone();
    bad[a..a + len].copy_from_slice(&good[b..b + len]);
    bad[b..b + len].copy_from_slice(&good[a..a + len]);
    assert!(find(&open(bad).unwrap(), "#", &(Lsn(0)..Lsn(u64::MAX)), 10_000).is_err());
}

#[test]
fn a_filter_with_its_own_level_finds_it_though_whole_blocks_lie_between() {
    let between = (0..300).map(|i| format!("a-{i:05}"));
    let topics: Vec<String> =
        std::iter::once("a".to_owned()).chain(between).chain((0..100).map(|i| format!("a/{i}"))).collect();
    let records = records(&topics);
    let index = open(index_of(&records)).unwrap();
    let range = Lsn(0)..Lsn(u64::MAX);
    let found = find(&index, "a/#", &range, 1000).unwrap().finish().0;
    assert_eq!(found, naive(&records, "a/#", &range));
    assert_eq!(found.len(), 101);
}

#[test]
fn a_newer_format_is_told_from_damage() {
    let mut bytes = index_of(&sample());
    bytes[8] = 2;
    assert!(matches!(open(bytes), Err(IndexFault::Newer(2))));
}

#[test]
fn an_exact_topic_costs_one_block_and_one_that_is_not_there_nothing() {
    let topics: Vec<String> = (0..5000).map(|i| format!("device/{i}/state")).collect();
    let index = open(index_of(&records(&topics))).unwrap();
    assert!(index.cost(&index.search("device/1234/state")) <= 2048);
    let absent = (5000..7000).filter(|i| index.cost(&index.search(&format!("device/{i}/state"))) > 0).count();
    assert!(absent < 60, "{absent} of 2000 topics that are not there cost a read");
    let narrow = index.cost(&index.search("device/12/#"));
    assert!(narrow <= 4096, "{narrow}");
    assert!(index.cost(&index.search("#")) > 20 * narrow);
}

#[test]
fn a_block_that_was_looked_into_is_kept_and_not_read_again() {
    use std::path::Path;
    use std::sync::Arc;

    use crate::disk::{Disk, ForgettingDisk, OpenHow};

    let topics: Vec<String> = (0..400).map(|i| format!("t/{i:06}")).collect();
    let records = records(&topics);
    let good = index_of(&records);
    let disk = ForgettingDisk::new();
    disk.create_dir(Path::new("/log")).unwrap();
    let file = disk.open(Path::new("/log/a.idx"), OpenHow::Create).unwrap();
    file.write_all_at(&good, 0).unwrap();
    let read =
        Source::File(Arc::from(disk.open(Path::new("/log/a.idx"), OpenHow::Read).unwrap()), metrics::Counter::noop());
    let index = SegmentIndex::open(read).unwrap().cached(&Arc::new(cache::BlockCache::new(1 << 20)));
    let range = Lsn(0)..Lsn(u64::MAX);
    let look = |n: usize| find(&index, &topics[n], &range, 10).map(|found| found.finish().0);
    assert_eq!(look(3).unwrap(), [records[3].1]);
    file.write_all_at(&vec![0; good.len()], 0).unwrap();
    assert_eq!(look(3).unwrap(), [records[3].1], "from memory");
    assert_eq!(look(5).unwrap(), [records[5].1], "its neighbour in the block");
    assert!(look(399).is_err(), "another block is read, and checked");
}
