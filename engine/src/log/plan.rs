//! What to do about the end of the log: a table from facts to a decision.
//!
//! Opening looks first ([`Facts`]), decides here without touching anything, and acts afterwards. The facts are about the last segment; a
//! header that does not read never comes this far, it is refused (it was synced before the file had its name).
//!
//! | sealed | tail    | policy     | decision   | why |
//! |--------|---------|------------|------------|-----|
//! | any    | end     | any        | keep       | frames, then zeros, the file's former life, or the end: everything written is there |
//! | no     | torn    | any        | cut        | the last group did not reach the disk whole; nobody was told that it did |
//! | no     | damaged | refuse     | refuse     | a valid frame of a later group proves that the damaged bytes had been synced |
//! | no     | damaged | quarantine | quarantine | as above, and the operator wants to go on |
//! | yes    | torn    | refuse     | refuse     | a seal is written after everything before it was synced |
//! | yes    | torn    | quarantine | quarantine | |
//! | yes    | damaged | refuse     | refuse     | |
//! | yes    | damaged | quarantine | quarantine | |

use super::options::OnDamage;

/// How the frames of the last segment end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tail {
    /// Nothing of this segment behind the last valid frame.
    End,
    /// Bytes of the group that was being written.
    Torn,
    /// Unreadable bytes, and behind them a valid frame of a later group.
    Damaged,
}

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The segment ends with a valid seal.
    pub sealed: bool,
    /// How its frames end.
    pub tail: Tail,
    /// What the operator wants done about damage.
    pub policy: OnDamage,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Go on where the frames end.
    Keep,
    /// Cut the torn tail off.
    Cut,
    /// Keep a copy of the file, cut at the damage, go on behind the last number given out.
    Quarantine,
    /// Do not open.
    Refuse,
}

struct Row {
    sealed: Option<bool>,
    tail: Tail,
    policy: Option<OnDamage>,
    decision: Decision,
}

const fn row(sealed: Option<bool>, tail: Tail, policy: Option<OnDamage>, decision: Decision) -> Row {
    Row { sealed, tail, policy, decision }
}

const TABLE: [Row; 8] = [
    row(None, Tail::End, None, Decision::Keep),
    row(Some(false), Tail::Torn, None, Decision::Cut),
    row(Some(false), Tail::Damaged, Some(OnDamage::Refuse), Decision::Refuse),
    row(Some(false), Tail::Damaged, Some(OnDamage::Quarantine), Decision::Quarantine),
    row(Some(true), Tail::Torn, Some(OnDamage::Refuse), Decision::Refuse),
    row(Some(true), Tail::Torn, Some(OnDamage::Quarantine), Decision::Quarantine),
    row(Some(true), Tail::Damaged, Some(OnDamage::Refuse), Decision::Refuse),
    row(Some(true), Tail::Damaged, Some(OnDamage::Quarantine), Decision::Quarantine),
];

impl Row {
    fn matches(&self, facts: &Facts) -> bool {
        self.sealed.is_none_or(|sealed| sealed == facts.sealed)
            && self.tail == facts.tail
            && self.policy.is_none_or(|policy| policy == facts.policy)
    }
}

/// Looks the decision up.
#[must_use]
pub fn plan(facts: &Facts) -> Decision {
    TABLE.iter().find(|row| row.matches(facts)).map_or(Decision::Refuse, |row| row.decision)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_combination_has_exactly_one_row_and_synced_bytes_are_never_cut() {
        for sealed in [false, true] {
            for tail in [Tail::End, Tail::Torn, Tail::Damaged] {
                for policy in [OnDamage::Refuse, OnDamage::Quarantine] {
                    let facts = Facts { sealed, tail, policy };
                    assert_eq!(TABLE.iter().filter(|row| row.matches(&facts)).count(), 1, "{facts:?}");
                    let had_been_synced = tail == Tail::Damaged || (sealed && tail == Tail::Torn);
                    let expected = match (had_been_synced, tail, policy) {
                        (true, _, OnDamage::Refuse) => Decision::Refuse,
                        (true, _, OnDamage::Quarantine) => Decision::Quarantine,
                        (false, Tail::End, _) => Decision::Keep,
                        (false, _, _) => Decision::Cut,
                    };
                    assert_eq!(plan(&facts), expected, "{facts:?}");
                }
            }
        }
    }
}
