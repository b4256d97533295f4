//! The byte form of [`Positions`] and [`Dropped`], and of a drop's owner, which state's rows share.

use super::*;

pub(super) fn put_positions(out: &mut Vec<u8>, e: &Positions) {
    put_int(out, e.seen.0);
    put_int(out, e.sessions.len() as u64);
    for session in &e.sessions {
        put_text(out, &session.client);
        put_int(out, session.epoch);
        put_cursors(out, &session.cursors);
    }
}

pub(super) fn take_positions(r: &mut Fields) -> Result<Positions, CodecError> {
    let seen = Lsn(r.int("seen")?);
    let mut sessions = Vec::new();
    for _ in 0..r.int("session count")? {
        sessions.push(SessionPositions { client: r.text("client")?, epoch: r.int("epoch")?, cursors: r.cursors()? });
    }
    Ok(Positions { seen, sessions })
}

pub(super) fn put_dropped(out: &mut Vec<u8>, e: &Dropped) {
    out.put_u8(e.reason as u8);
    put_int(out, e.drops.len() as u64);
    for drop in &e.drops {
        put_owner(out, &drop.owner);
        put_int(out, drop.from.0);
        put_int(out, drop.to.0);
        put_int(out, drop.count);
    }
}

pub(super) fn take_dropped(r: &mut Fields) -> Result<Dropped, CodecError> {
    let reason = DropReason::from_u8(r.u8("reason")?).ok_or(CodecError::Value("reason"))?;
    let mut drops = Vec::new();
    for _ in 0..r.int("drop count")? {
        drops.push(DroppedRange {
            owner: take_owner(r)?,
            from: Lsn(r.int("from")?),
            to: Lsn(r.int("to")?),
            count: r.int("count")?,
        });
    }
    Ok(Dropped { reason, drops })
}

/// Appends an owner: u8 what (0 queue, 1 cursor, 2 sink, 3 group), its name, and a cursor's filter.
pub fn put_owner(out: &mut Vec<u8>, owner: &DropOwner) {
    match owner {
        DropOwner::Queue(topic) => {
            out.put_u8(0);
            put_text(out, topic);
        }
        DropOwner::Cursor { client, filter } => {
            out.put_u8(1);
            put_text(out, client);
            put_text(out, filter);
        }
        DropOwner::Sink(sink) => {
            out.put_u8(2);
            put_text(out, sink);
        }
        DropOwner::Group(share) => {
            out.put_u8(3);
            put_text(out, share);
        }
    }
}

/// What [`put_owner`] wrote.
///
/// # Errors
/// Where the bytes are no owner.
pub fn take_owner(r: &mut Fields) -> Result<DropOwner, CodecError> {
    Ok(match r.u8("owner")? {
        0 => DropOwner::Queue(r.text("topic")?),
        1 => DropOwner::Cursor { client: r.text("client")?, filter: r.text("filter")? },
        2 => DropOwner::Sink(r.text("sink")?),
        3 => DropOwner::Group(r.text("share")?),
        _ => return Err(CodecError::Value("owner")),
    })
}
