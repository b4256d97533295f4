//! Every combination of facts has one row, and what was synced is never cut.

use super::*;

const HEADS: [Head; 10] = [
    Head::Sound,
    Head::Unreadable,
    Head::Empty,
    Head::Short,
    Head::NotASegment,
    Head::Checksum,
    Head::Impossible,
    Head::Newer,
    Head::Foreign,
    Head::Misnamed,
];

fn every_combination(see: &mut dyn FnMut(Facts)) {
    let policies = [OnDamage::Refuse, OnDamage::Quarantine];
    let bits = (0..16).map(|n| (n & 1 != 0, n & 2 != 0, n & 4 != 0, n & 8 != 0));
    for (held, below_floor, sealed, short) in bits {
        for place in [Place::Older, Place::Last] {
            for head in HEADS {
                for joint in [Fits, Hole, Overlap, Unknown] {
                    for tail in [Tail::End, Tail::Torn, Tail::Damaged] {
                        for policy in policies {
                            see(Facts { held, below_floor, place, head, joint, sealed, short, tail, policy });
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn every_combination_has_exactly_one_row_and_every_row_is_reached() {
    let (mut combinations, mut reached) = (0, [0; TABLE.len()]);
    every_combination(&mut |facts| {
        let rows: Vec<usize> = (0..TABLE.len()).filter(|n| TABLE[*n].matches(&facts)).collect();
        assert_eq!(rows.len(), 1, "{facts:?}: rows {rows:?}");
        reached[rows[0]] += 1;
        combinations += 1;
    });
    assert_eq!(combinations, 16 * 2 * 10 * 4 * 3 * 2);
    assert!(reached.iter().all(|n| *n > 0), "{reached:?}");
}

#[test]
fn synced_bytes_are_never_cut_and_nothing_unsound_is_kept() {
    every_combination(&mut |facts| {
        let (decision, reason) = plan(&facts);
        let had_been_synced =
            facts.tail == Tail::Damaged || (facts.sealed && facts.tail == Tail::Torn) || (facts.short && !facts.sealed);
        let whole = facts.head == Head::Sound && !matches!(facts.joint, Hole | Overlap);
        match decision {
            Cut => assert!(whole && !had_been_synced && facts.place == Place::Last, "{facts:?}"),
            Quarantine => {
                assert!(whole && had_been_synced && facts.place == Place::Last, "{facts:?}");
                assert_eq!(facts.policy, OnDamage::Quarantine);
            }
            Keep if facts.place == Place::Last => assert!(whole && facts.tail == Tail::End, "{facts:?}"),
            Keep => assert!(whole && facts.sealed, "{facts:?}"),
            Remove => assert!(facts.below_floor && !facts.held, "{facts:?}"),
            Refuse => assert_ne!(reason, Reason::Sound, "{facts:?}"),
        }
        if facts.held {
            assert_eq!((decision, reason), (Refuse, Reason::InUse));
        }
    });
}
