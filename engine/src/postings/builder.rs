//! Building an index: topics and positions are gathered, then encoded at once.

use std::borrow::Cow;
use std::collections::HashMap;

use super::coding::{checksum, put_positions, put_topic, seed};
use super::index::{FORMAT, HEADER, MAGIC};
use super::{Identity, Position, membership};
use crate::event::codec::put_int;
use crate::ids::Lsn;

/// Bytes of topics in a block of the dictionary, about.
const BLOCK_BYTES: usize = 1024;
/// Up to so many records of a topic stand in its block.
pub(super) const INLINE: usize = 64;
/// Records in a chunk of a topic with more.
pub(super) const CHUNK: usize = 256;

/// A topic's records. Most topics of a short stretch have one.
#[derive(Debug)]
pub(super) enum Records {
    One(Position),
    Many(Vec<Position>),
}

impl Records {
    pub(super) fn as_slice(&self) -> &[Position] {
        match self {
            Records::One(one) => std::slice::from_ref(one),
            Records::Many(many) => many,
        }
    }

    pub(super) fn push(&mut self, position: Position) {
        match self {
            Records::One(one) => *self = Records::Many(vec![*one, position]),
            Records::Many(many) => many.push(position),
        }
    }
}

/// Gathers the topics of records in the order of the log.
#[derive(Debug, Default)]
pub(crate) struct IndexBuilder {
    pub(super) topics: HashMap<Box<str>, Records>,
    records: u64,
}

impl IndexBuilder {
    /// Takes a record; its number is above all that were taken before.
    pub(crate) fn add(&mut self, topic: &str, position: Position) {
        self.records += 1;
        match self.topics.get_mut(topic) {
            Some(records) => records.push(position),
            None => {
                self.topics.insert(topic.into(), Records::One(position));
            }
        }
    }

    /// Records taken.
    pub(crate) fn records(&self) -> u64 {
        self.records
    }

    /// The bytes of the index.
    pub(crate) fn encode(&self, of: &Identity) -> Vec<u8> {
        encode(&[self], of)
    }
}

/// The bytes of an index of what several builders took, one after the other.
pub(crate) fn encode(parts: &[&IndexBuilder], of: &Identity) -> Vec<u8> {
    let topics = merged(parts);
    let blocks = blocks(&topics, of.first);
    let filter = membership::build(topics.len(), topics.iter().map(|(topic, _)| topic.as_bytes()));
    let mut table = Vec::new();
    let mut before: &[u8] = &[];
    for block in &blocks {
        put_topic(&mut table, before, block.first_topic);
        put_int(&mut table, block.entries.len() as u64 + 4);
        put_int(&mut table, block.chunks.iter().map(|c| c.len() as u64 + 4).sum());
        before = block.first_topic;
    }
    let records = parts.iter().map(|part| part.records).sum();
    let mut out = header(of, records, topics.len(), blocks.len(), &filter, &table);
    out.extend_from_slice(&filter);
    out.extend_from_slice(&table);
    let seed = seed(&of.log_id, of.first);
    for part in blocks.iter().flat_map(|b| std::iter::once(&b.entries).chain(&b.chunks)) {
        let crc = checksum(seed, out.len() as u64, part);
        out.extend_from_slice(part);
        out.extend_from_slice(&crc.to_le_bytes());
    }
    out
}

/// Topics in order, each with all of its records.
fn merged<'a>(parts: &[&'a IndexBuilder]) -> Vec<(&'a str, Cow<'a, [Position]>)> {
    let all = parts.iter().zip(0..).flat_map(|(part, n)| part.topics.iter().map(move |(t, r)| (&**t, n, r)));
    let mut all: Vec<(&str, usize, &Records)> = all.collect();
    all.sort_unstable_by_key(|(topic, n, _)| (*topic, *n));
    let same = all.chunk_by(|a, b| a.0 == b.0);
    same.filter_map(|group| match group {
        [] => None,
        [(topic, _, records)] => Some((*topic, Cow::Borrowed(records.as_slice()))),
        [(topic, ..), ..] => {
            Some((*topic, Cow::Owned(group.iter().flat_map(|(_, _, r)| r.as_slice()).copied().collect())))
        }
    })
    .collect()
}

fn header(of: &Identity, records: u64, topics: usize, blocks: usize, filter: &[u8], table: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER + filter.len() + table.len());
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&FORMAT.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&of.log_id);
    for number in [of.first.0, of.next.0, of.end, records, topics as u64] {
        out.extend_from_slice(&number.to_le_bytes());
    }
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(filter);
    hasher.update(table);
    for number in [blocks as u32, filter.len() as u32, table.len() as u32, hasher.finalize(), 0] {
        out.extend_from_slice(&number.to_le_bytes());
    }
    let crc = crc32fast::hash(&out);
    out.extend_from_slice(&crc.to_le_bytes());
    out
}

/// A block of the dictionary before its checksum, and the chunks of its topics.
#[derive(Default)]
struct Block<'a> {
    first_topic: &'a [u8],
    entries: Vec<u8>,
    chunks: Vec<Vec<u8>>,
}

fn blocks<'a>(topics: &[(&'a str, Cow<'_, [Position]>)], first: Lsn) -> Vec<Block<'a>> {
    let (mut blocks, mut block, mut before, mut behind): (Vec<Block<'a>>, Block<'a>, &[u8], u64) = Default::default();
    for (topic, records) in topics {
        let topic = topic.as_bytes();
        if block.entries.len() >= BLOCK_BYTES {
            blocks.push(std::mem::take(&mut block));
            (before, behind) = (&[], 0);
        }
        if block.entries.is_empty() {
            block.first_topic = topic;
        }
        put_topic(&mut block.entries, before, topic);
        before = topic;
        put_int(&mut block.entries, records.len() as u64);
        let mut list = Vec::new();
        if records.len() <= INLINE {
            put_positions(&mut list, first, records);
        } else {
            put_int(&mut list, behind);
            let mut last = first.0;
            for part in records.chunks(CHUNK) {
                let mut chunk = Vec::new();
                put_positions(&mut chunk, first, part);
                let begins = part.first().map_or(last, |p| p.lsn.0);
                put_int(&mut list, begins.saturating_sub(last));
                put_int(&mut list, chunk.len() as u64 + 4);
                last = begins;
                behind += chunk.len() as u64 + 4;
                block.chunks.push(chunk);
            }
        }
        put_int(&mut block.entries, list.len() as u64);
        block.entries.extend_from_slice(&list);
    }
    if !block.entries.is_empty() {
        blocks.push(block);
    }
    blocks
}
