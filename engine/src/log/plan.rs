//! What to do about each segment of a folder: one table from facts to a decision.
//!
//! Opening looks first ([`Facts`], one for each segment), decides here without touching anything, and acts afterwards. `forebay log verify` asks the
//! same table. The first row that fits is the only one that fits; a test goes through every combination of facts.
//!
//! | fact | row |
//! |---|---|
//! | the folder is in use | refuse |
//! | an interrupted trim had the segment on its list | remove |
//! | the header is newer, foreign, misnamed or does not read | refuse: it was synced before the file had its name |
//! | records are missing before it, or it begins with records that the one before it has | refuse |
//! | it is not the last one and has no seal | refuse: it was synced before the next one was begun |
//! | it is not the last one and has a seal | keep: its records are checked by who reads them, and by `verify` |
//! | last; frames, then zeros or the file's former life, or a seal | keep: everything written is there |
//! | last, no seal, the file shorter than it was made | damage: its length was synced before it had its name |
//! | last, no seal; bytes of the group that was being written | cut: nobody was told that it was on disk |
//! | last, sealed; frames do not lead to the seal | damage: a seal is written after everything before it was synced |
//! | last; unreadable bytes, then a frame of a later group | damage: the later group proves that they had been synced |
//!
//! Damage of the last segment is refused, or quarantined when the operator asks for that ([`OnDamage`]).

use self::Decision::{Cut, Keep, Quarantine, Refuse, Remove};
use self::Joint::{Fits, Hole, Overlap, Unknown};
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

/// Where a segment stands in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Another one begins behind it.
    Older,
    /// It is the one that is written to.
    Last,
}

/// What a segment's first bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Head {
    /// The header of this log, and of the number in the file's name.
    Sound,
    /// The file can't be opened or read; or it is no file.
    Unreadable,
    /// The file has no bytes.
    Empty,
    /// It is shorter than a header.
    Short,
    /// It does not begin as a segment does.
    NotASegment,
    /// The checksum does not match.
    Checksum,
    /// The checksum matches, and a number or a time is one that no log reaches.
    Impossible,
    /// A newer program wrote it.
    Newer,
    /// It belongs to another log.
    Foreign,
    /// It begins with another record than its name says.
    Misnamed,
}

/// How a segment begins, seen from the one before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Joint {
    /// Where the one before ends; or it is the first and begins where the log does.
    Fits,
    /// Records are missing in between.
    Hole,
    /// The one before holds its first records already.
    Overlap,
    /// The one before does not tell where it ends: that is said of that one.
    Unknown,
}

/// What was found of one segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Another process holds the folder.
    pub held: bool,
    /// A trim that was interrupted had it on its list.
    pub below_floor: bool,
    /// Where it stands.
    pub place: Place,
    /// Its header.
    pub head: Head,
    /// How it joins.
    pub joint: Joint,
    /// It ends with a valid seal.
    pub sealed: bool,
    /// The file is shorter than it was made, and has no seal.
    pub short: bool,
    /// How its frames end (looked at for the last segment).
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
    /// Finish the trim: remove the file.
    Remove,
    /// Do not open.
    Refuse,
}

/// Why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Everything written is there.
    Sound,
    /// It was to be trimmed.
    TrimUnfinished,
    /// The last group did not reach the disk whole.
    TornTail,
    /// Another process has the folder open.
    InUse,
    /// See [`Head`].
    Header(Head),
    /// Records are missing before it.
    MissingBefore,
    /// It holds records that are in the one before it.
    Overlapping,
    /// It is not the last one, and its seal does not read.
    NoSeal,
    /// Synced records do not read.
    Damaged,
    /// The file is shorter than it was made.
    CutShort,
    /// A repair was interrupted.
    RepairUnfinished,
    /// No segment begins where the log is said to begin.
    FloorBeyond,
}

impl Reason {
    /// What is wrong, in words.
    #[must_use]
    pub const fn what(self) -> &'static str {
        match self {
            Reason::Sound => "nothing",
            Reason::TrimUnfinished => "left over from an interrupted trim",
            Reason::TornTail => "the end of the last group did not reach the disk",
            Reason::InUse => "in use by another process",
            Reason::Header(Head::Sound) => "the header",
            Reason::Header(Head::Unreadable) => "it can't be read",
            Reason::Header(Head::Empty) => "the file is empty",
            Reason::Header(Head::Short) => "shorter than its header",
            Reason::Header(Head::NotASegment) => "not a segment (magic)",
            Reason::Header(Head::Checksum) => "header checksum does not match",
            Reason::Header(Head::Impossible) => "a number or a time that no log reaches",
            Reason::Header(Head::Newer) => "written by a newer version",
            Reason::Header(Head::Foreign) => "belongs to another log",
            Reason::Header(Head::Misnamed) => "the file's name is not that of its first record",
            Reason::MissingBefore => "records before it are missing",
            Reason::Overlapping => "begins with records that the segment before it holds already",
            Reason::NoSeal => "the seal at its end does not read",
            Reason::Damaged => "synced records do not read",
            Reason::CutShort => "the file is shorter than it was made",
            Reason::FloorBeyond => "the log is said to begin behind its last segment",
            Reason::RepairUnfinished => "left over from an interrupted repair",
        }
    }

    /// What to do about it.
    #[must_use]
    pub const fn remedy(self) -> &'static str {
        match self {
            Reason::Sound => "nothing",
            Reason::TrimUnfinished => "nothing: the next start finishes the trim",
            Reason::TornTail => "nothing: the next start cuts it off; it was never acknowledged",
            Reason::InUse => "stop the other process",
            Reason::Header(Head::Unreadable) => "give this user access to it, or see to the disk",
            Reason::Header(Head::Newer) => "use the newer program",
            Reason::RepairUnfinished => "run `forebay log repair --apply` again",
            _ => "put it back from a backup, or run `forebay log repair`",
        }
    }
}

#[derive(Clone, Copy)]
struct Row {
    held: Option<bool>,
    below_floor: Option<bool>,
    place: Option<Place>,
    head: Option<Head>,
    joint: Option<Joint>,
    sealed: Option<bool>,
    short: Option<bool>,
    tail: Option<Tail>,
    policy: Option<OnDamage>,
    decision: Decision,
    reason: Reason,
}

const ANY: Row = Row {
    held: Some(false),
    below_floor: Some(false),
    place: None,
    head: None,
    joint: None,
    sealed: None,
    short: None,
    tail: None,
    policy: None,
    decision: Decision::Refuse,
    reason: Reason::Damaged,
};

const fn head(head: Head) -> Row {
    Row { head: Some(head), reason: Reason::Header(head), ..ANY }
}

const fn joint(joint: Joint, reason: Reason) -> Row {
    Row { head: Some(Head::Sound), joint: Some(joint), reason, ..ANY }
}

/// A segment with a sound header that begins where it should, or where that can't be said.
const fn older(joint: Joint, sealed: bool, decision: Decision, reason: Reason) -> Row {
    Row {
        place: Some(Place::Older),
        head: Some(Head::Sound),
        joint: Some(joint),
        sealed: Some(sealed),
        decision,
        reason,
        ..ANY
    }
}

/// The last segment, its file as long as it was made, or ended by its seal.
const fn last(sealed: Option<bool>, tail: Tail, policy: Option<OnDamage>, decision: Decision, reason: Reason) -> Row {
    let short = match sealed {
        Some(true) => None,
        _ => Some(false),
    };
    Row {
        place: Some(Place::Last),
        head: Some(Head::Sound),
        sealed,
        short,
        tail: Some(tail),
        policy,
        decision,
        reason,
        ..ANY
    }
}

const fn cut_short(policy: OnDamage, decision: Decision) -> Row {
    let (sealed, short, policy) = (Some(false), Some(true), Some(policy));
    Row {
        place: Some(Place::Last),
        head: Some(Head::Sound),
        sealed,
        short,
        policy,
        decision,
        reason: Reason::CutShort,
        ..ANY
    }
}

/// The same row for both kinds of joint that are no reason to refuse.
const fn at(joint: Joint, row: Row) -> Row {
    Row { joint: Some(joint), ..row }
}

/// Rows of the last segment.
const LAST: [Row; 11] = [
    last(Some(false), Tail::End, None, Keep, Reason::Sound),
    last(Some(true), Tail::End, None, Keep, Reason::Sound),
    last(Some(false), Tail::Torn, None, Cut, Reason::TornTail),
    last(Some(true), Tail::Torn, Some(OnDamage::Refuse), Refuse, Reason::Damaged),
    last(Some(true), Tail::Torn, Some(OnDamage::Quarantine), Quarantine, Reason::Damaged),
    last(Some(false), Tail::Damaged, Some(OnDamage::Refuse), Refuse, Reason::Damaged),
    last(Some(false), Tail::Damaged, Some(OnDamage::Quarantine), Quarantine, Reason::Damaged),
    last(Some(true), Tail::Damaged, Some(OnDamage::Refuse), Refuse, Reason::Damaged),
    last(Some(true), Tail::Damaged, Some(OnDamage::Quarantine), Quarantine, Reason::Damaged),
    cut_short(OnDamage::Refuse, Refuse),
    cut_short(OnDamage::Quarantine, Quarantine),
];

const TABLE: [Row; 39] = [
    Row { held: Some(true), below_floor: None, reason: Reason::InUse, ..ANY },
    Row { below_floor: Some(true), decision: Remove, reason: Reason::TrimUnfinished, ..ANY },
    head(Head::Unreadable),
    head(Head::Empty),
    head(Head::Short),
    head(Head::NotASegment),
    head(Head::Checksum),
    head(Head::Impossible),
    head(Head::Newer),
    head(Head::Foreign),
    head(Head::Misnamed),
    joint(Hole, Reason::MissingBefore),
    joint(Overlap, Reason::Overlapping),
    older(Fits, false, Refuse, Reason::NoSeal),
    older(Unknown, false, Refuse, Reason::NoSeal),
    older(Fits, true, Keep, Reason::Sound),
    older(Unknown, true, Keep, Reason::Sound),
    at(Fits, LAST[0]),
    at(Fits, LAST[1]),
    at(Fits, LAST[2]),
    at(Fits, LAST[3]),
    at(Fits, LAST[4]),
    at(Fits, LAST[5]),
    at(Fits, LAST[6]),
    at(Fits, LAST[7]),
    at(Fits, LAST[8]),
    at(Fits, LAST[9]),
    at(Fits, LAST[10]),
    at(Unknown, LAST[0]),
    at(Unknown, LAST[1]),
    at(Unknown, LAST[2]),
    at(Unknown, LAST[3]),
    at(Unknown, LAST[4]),
    at(Unknown, LAST[5]),
    at(Unknown, LAST[6]),
    at(Unknown, LAST[7]),
    at(Unknown, LAST[8]),
    at(Unknown, LAST[9]),
    at(Unknown, LAST[10]),
];

fn fits<T: PartialEq>(wanted: &Option<T>, found: &T) -> bool {
    wanted.as_ref().is_none_or(|wanted| wanted == found)
}

impl Row {
    fn matches(&self, facts: &Facts) -> bool {
        fits(&self.held, &facts.held)
            && fits(&self.below_floor, &facts.below_floor)
            && fits(&self.place, &facts.place)
            && fits(&self.head, &facts.head)
            && fits(&self.joint, &facts.joint)
            && fits(&self.sealed, &facts.sealed)
            && fits(&self.short, &facts.short)
            && fits(&self.tail, &facts.tail)
            && fits(&self.policy, &facts.policy)
    }
}

/// Looks the decision up.
#[must_use]
pub fn plan(facts: &Facts) -> (Decision, Reason) {
    let row = TABLE.iter().find(|row| row.matches(facts));
    row.map_or((Refuse, Reason::Damaged), |row| (row.decision, row.reason))
}

#[cfg(test)]
mod tests;
