//! A split block Bloom filter over topics: says "not here" with certainty, and "maybe here" wrongly about once in a hundred times.
//!
//! ```text
//! hash  = FNV-1a, 64 bits, of the topic's bytes, then mixed: h ^= h >> 33; h *= 0xff51afd7ed558ccd; h ^= h >> 33
//! block = 32 bytes, eight words of 32 bits; the topic's is number ((hash >> 32) * blocks) >> 32
//! bits  = one in each word i: (low 32 bits of the hash * SALT[i]) >> 27
//! ```

/// Bits for each topic.
const BITS: usize = 12;
const BLOCK: usize = 32;
const SALT: [u32; 8] =
    [0x47b6_137b, 0x4497_4d91, 0x8824_ad5b, 0xa2b7_289d, 0x7054_95c7, 0x2df1_424b, 0x9efc_4947, 0x5c6b_fb31];

fn hash(topic: &[u8]) -> u64 {
    let mut h = topic.iter().fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3));
    h ^= h >> 33;
    h = h.wrapping_mul(0xff51_afd7_ed55_8ccd);
    h ^ (h >> 33)
}

/// The place of the topic's block, and its bit in each word of it.
fn place(blocks: usize, topic: &[u8]) -> (usize, [u32; 8]) {
    let h = hash(topic);
    let block = (((h >> 32) * blocks as u64) >> 32) as usize;
    (block * BLOCK, SALT.map(|salt| 1 << ((h as u32).wrapping_mul(salt) >> 27)))
}

/// A filter over these topics.
pub(super) fn build<'a>(count: usize, topics: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
    let blocks = (count * BITS).div_ceil(8 * BLOCK).max(1);
    let mut filter = vec![0; blocks * BLOCK];
    for topic in topics {
        let (at, bits) = place(blocks, topic);
        let words = filter.get_mut(at..).unwrap_or_default().chunks_exact_mut(4);
        for (word, bit) in words.zip(bits) {
            if let Ok(bytes) = <[u8; 4]>::try_from(&*word) {
                word.copy_from_slice(&(u32::from_le_bytes(bytes) | bit).to_le_bytes());
            }
        }
    }
    filter
}

/// False when the topic is certainly not among those the filter was built of.
pub(super) fn may_hold(filter: &[u8], topic: &[u8]) -> bool {
    let (at, bits) = place(filter.len() / BLOCK, topic);
    let words = filter.get(at..at + BLOCK).unwrap_or_default().chunks_exact(4);
    words.zip(bits).all(|(word, bit)| word.try_into().is_ok_and(|w| u32::from_le_bytes(w) & bit != 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_is_found_and_little_else() {
        let name = |n: usize| format!("plant/{}/line/{n}", n % 7);
        let names: Vec<String> = (0..5000).map(name).collect();
        let filter = build(names.len(), names.iter().map(String::as_bytes));
        assert!(names.iter().all(|n| may_hold(&filter, n.as_bytes())));
        let wrong = (5000..25_000).filter(|n| may_hold(&filter, name(*n).as_bytes())).count();
        assert!(wrong < 20_000 / 50, "{wrong} of 20000 are said to be there");
        assert!(!may_hold(&build(0, std::iter::empty()), b"a"));
    }
}
