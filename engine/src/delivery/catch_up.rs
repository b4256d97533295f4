//! Catching up: how the delivery worker brings an inbox that is behind through the log, a turn at a time.
//!
//! From where it stands the inbox goes on by a *plan*: the places of its own messages where postings tell them, or the log itself
//! where they do not, or where most of it is for this inbox anyway. Whichever it is, `pos` moves only over records that were looked
//! at for every filter, and a plan is for the filters it was made with: it falls when one is added.

use std::sync::Arc;

use super::hub::Hub;
use super::inbox::{Inbox, Offer};
use super::worker::{Work, stored};
use crate::event::codec::{KIND_PUBLISHED, published_topic};
use crate::ids::Lsn;
use crate::log::{ReadError, Reader, Record};
use crate::postings::{Newest, Plan, Position, Searching, Wanted};
use crate::rules::Kind;
use crate::state::StoredMessage;

/// Records and bytes read for one inbox before the next has its turn.
const CHUNK_RECORDS: usize = 512;
const CHUNK_BYTES: usize = 512 * 1024;
/// Stretches without a message for an inbox that it passes in one turn, and filters that are looked up on the way.
const TURN_STRETCHES: usize = 64;
const TURN_LOOKUPS: usize = 16 * 1024;

/// How an inbox goes on from where it stands.
#[derive(Debug, Default)]
pub(super) enum Course {
    /// To be planned.
    #[default]
    Unknown,
    /// The dictionary of a segment is being looked through.
    Searching(Box<Searching>),
    /// Its messages are at these places, from `next` on; they are all below `until`.
    Places { positions: Vec<Position>, next: usize, until: Lsn },
    /// The log itself, up to here. A reader holds its segment: it is let go while the inbox is full.
    Reading { until: Lsn, reader: Option<Reader> },
}

impl Course {
    /// The same course from a record on that could not be put in, without holding anything of the log.
    fn back_to(self, lsn: Lsn) -> Course {
        match self {
            Course::Places { positions, until, .. } => {
                let next = positions.partition_point(|p| p.lsn < lsn);
                Course::Places { positions, next, until }
            }
            Course::Reading { until, .. } => Course::Reading { until, reader: None },
            other => other,
        }
    }

    /// Lets go what holds a segment.
    pub(super) fn let_reader_go(&mut self) {
        if let Course::Reading { reader, .. } = self {
            *reader = None;
        }
    }
}

/// What a turn takes from an inbox.
struct Turn {
    pos: Lsn,
    generation: u64,
    course: Course,
}

/// What was read in a turn.
struct Chunk {
    records: Vec<Record>,
    /// Everything below was looked at when these are done.
    pos: Lsn,
    course: Course,
    /// The course is good from here on.
    begins: Lsn,
}

/// Does a turn for an inbox. True when it wants more.
pub(super) fn fill(hub: &Hub, inbox: &Arc<Inbox>) -> bool {
    match find_newest(hub, inbox) {
        Newer::Nothing => {}
        Newer::More => return true,
        Newer::Later => {
            hub.try_again(Work::Fill(Arc::clone(inbox)));
            return false;
        }
    }
    let Some(turn) = begin(hub, inbox) else { return false };
    let (from, generation) = (turn.pos, turn.generation);
    let first = hub.log.first();
    let carried = from < first;
    let read = if carried { read_carried(hub, inbox, &turn, first) } else { read(hub, inbox, turn) };
    let chunk = match read {
        Ok(chunk) => chunk,
        // Trimmed while it was read: the next turn looks for what was carried out of it.
        Err(ReadError::Trimmed { .. }) => return true,
        Err(error) => {
            tracing::error!(client = %inbox.client, lsn = from.0, %error, "stored messages can't be read; this connection waits for them, and it is tried again");
            hub.try_again(Work::Fill(Arc::clone(inbox)));
            return false;
        }
    };
    hub.caught_up.increment(chunk.records.len() as u64);
    let Some(messages) = of_interest(hub, inbox, generation, &chunk.records, carried) else {
        return !inbox.state.lock().closed;
    };
    offer(hub, inbox, generation, &messages, chunk)
}

/// Takes what the turn goes on from; `None` when there is nothing to do.
fn begin(hub: &Hub, inbox: &Inbox) -> Option<Turn> {
    let mut state = inbox.state.lock();
    if !state.wants_fill() {
        state.filling = false;
        state.course.let_reader_go();
        return None;
    }
    if hub.live_end() <= state.pos {
        // All before was looked at, and the applier has not offered anything behind it yet: from here on it puts messages in directly.
        state.go_live();
        return None;
    }
    let course = std::mem::take(&mut state.course);
    Some(Turn { pos: state.pos, generation: state.generation, course })
}

/// Plans where that is needed, and reads the next records: of several stretches, where each has few, so that they come as one.
fn read(hub: &Hub, inbox: &Inbox, turn: Turn) -> Result<Chunk, ReadError> {
    let Turn { mut pos, generation, mut course } = turn;
    let (mut records, mut bytes, mut filters, mut lookups) = (Vec::new(), 0, None, 0);
    let mut begins = pos;
    for _ in 0..TURN_STRETCHES {
        course = match course {
            Course::Unknown if lookups > TURN_LOOKUPS => break,
            Course::Unknown => {
                let filters = filters.get_or_insert_with(|| wanted(inbox, generation));
                lookups += filters.len();
                begins = pos;
                sail(hub.postings.plan(filters, pos))
            }
            Course::Searching(searching) => sail(hub.postings.go_on(searching)),
            Course::Places { positions, next, until } if next >= positions.len() => {
                pos = pos.max(until);
                begins = pos;
                if hub.live_end() <= pos {
                    course = Course::Unknown;
                    break;
                }
                Course::Unknown
            }
            course => course,
        };
        course = match course {
            Course::Searching(searching) => {
                course = Course::Searching(searching);
                break;
            }
            Course::Places { positions, next, until } if next < positions.len() => {
                let had = !records.is_empty();
                match read_places(hub, pos, positions, next, until, &mut records, &mut bytes) {
                    Ok((to, course)) => {
                        pos = to;
                        course
                    }
                    // What was read is given first; the next turn comes to the fault.
                    Err(_) if had => {
                        course = Course::Unknown;
                        break;
                    }
                    Err(error) => return Err(error),
                }
            }
            Course::Reading { until, reader: None } if !records.is_empty() => {
                // A scan is a turn of its own.
                course = Course::Reading { until, reader: None };
                break;
            }
            Course::Reading { until, reader } => {
                let reader = reader.filter(|r| r.position() == pos);
                let mut reader = reader.map_or_else(|| hub.log.reader(pos), Ok)?;
                let before = reader.position();
                reader.read_batch(CHUNK_RECORDS, CHUNK_BYTES, &mut records)?;
                pos = reader.position();
                let more = pos < until && pos > before;
                course = if more { Course::Reading { until, reader: Some(reader) } } else { Course::Unknown };
                break;
            }
            course => course,
        };
        if records.len() >= CHUNK_RECORDS || bytes >= CHUNK_BYTES {
            break;
        }
    }
    Ok(Chunk { records, pos, course, begins })
}

fn sail(plan: Plan) -> Course {
    match plan {
        Plan::Read { positions, until } => Course::Places { positions, next: 0, until },
        Plan::Scan(until) => Course::Reading { until, reader: None },
        Plan::Searching(searching) => Course::Searching(searching),
    }
}

/// What the inbox looks for. Queue messages come as leases. Nothing where its filters have changed since the turn began: then what
/// is read is thrown away.
fn wanted(inbox: &Inbox, generation: u64) -> Vec<Wanted> {
    let state = inbox.state.lock();
    if state.generation != generation {
        return Vec::new();
    }
    let filters = state.filters.iter().filter(|f| f.sub.kind != Kind::Queue);
    filters.map(|f| Wanted { filter: f.sub.filter.clone(), from: f.from.max(f.start) }).collect()
}

/// Reads the next of an inbox's own records, and says where it stands then.
fn read_places(
    hub: &Hub,
    pos: Lsn,
    positions: Vec<Position>,
    mut next: usize,
    until: Lsn,
    records: &mut Vec<Record>,
    bytes: &mut usize,
) -> Result<(Lsn, Course), ReadError> {
    let begun = records.len();
    while records.len() < CHUNK_RECORDS && *bytes < CHUNK_BYTES {
        let rest = positions.get(next..).unwrap_or_default();
        if rest.is_empty() {
            break;
        }
        let before = records.len();
        match hub.log.read_at(rest, records) {
            Ok(true) => {}
            Ok(false) => {
                records.truncate(before);
                hub.postings.misled(positions.get(next).map_or(pos, |p| p.lsn));
                let read = records.get(begun..).unwrap_or_default();
                let pos = read.last().map_or(pos, |record| record.lsn.next());
                return Ok((pos, Course::Reading { until, reader: None }));
            }
            Err(error) => {
                records.truncate(begun);
                return Err(error);
            }
        }
        *bytes += records.get(before..).unwrap_or_default().iter().map(|r| r.body.len()).sum::<usize>();
        next += records.len() - before;
    }
    let pos = positions.get(next).map_or(until, |p| p.lsn).max(pos);
    Ok((pos, Course::Places { positions, next, until }))
}

/// Reads of what lies before the log's first record: it was carried out of segments for those who are owed it. Read positions of rules
/// are given nothing of it: it is a part of what was published, and what they lost with the segments is recorded as their gap.
fn read_carried(hub: &Hub, inbox: &Inbox, turn: &Turn, first: Lsn) -> Result<Chunk, ReadError> {
    let filters: Vec<_> = {
        let state = inbox.state.lock();
        state.filters.iter().filter(|f| is_carried_for(&f.sub.kind)).map(|f| f.sub.filter.clone()).collect()
    };
    let filters: Vec<&str> = filters.iter().map(|filter| &**filter).collect();
    let (records, pos) = hub.log.residue().matching(&filters, &(turn.pos..first), CHUNK_RECORDS)?;
    Ok(Chunk { records, pos, course: Course::Unknown, begins: pos })
}

fn is_carried_for(kind: &Kind) -> bool {
    matches!(kind, Kind::Plain | Kind::Latest)
}

/// The records that some filter of the inbox matches, with the places of these filters, and whether a newer one of their topic exists.
/// `None` when the filters have changed.
fn of_interest(
    hub: &Hub,
    inbox: &Inbox,
    generation: u64,
    records: &[Record],
    carried: bool,
) -> Option<Vec<(StoredMessage, Vec<usize>, bool)>> {
    let mut matching = Vec::new();
    {
        let state = inbox.state.lock();
        if state.closed || state.generation != generation {
            return None;
        }
        for record in records.iter().filter(|record| record.kind == KIND_PUBLISHED) {
            let mut places = Vec::new();
            if let Some(topic) = published_topic(&record.body) {
                state.filters.matching(topic, &mut places);
            }
            if carried {
                places.retain(|place| state.filters.at(*place).is_some_and(|f| is_carried_for(&f.sub.kind)));
            }
            if !places.is_empty() {
                matching.push((record, places));
            }
        }
    }
    let messages = matching.into_iter().filter_map(|(record, places)| stored(record).map(|stored| (stored, places)));
    Some(
        messages
            .map(|(stored, places)| {
                let superseded = hub.superseded(stored.lsn, &stored.message);
                (stored, places, superseded)
            })
            .collect(),
    )
}

/// Puts messages in, and takes the inbox on. True when it wants more.
fn offer(
    hub: &Hub,
    inbox: &Inbox,
    generation: u64,
    messages: &[(StoredMessage, Vec<usize>, bool)],
    chunk: Chunk,
) -> bool {
    let mut state = inbox.state.lock();
    if state.closed || state.generation != generation {
        return !state.closed;
    }
    for (stored, places, superseded) in messages {
        if state.offer(&inbox.client, stored, places, *superseded) == Offer::Full {
            state.pos = stored.lsn;
            state.filling = false;
            state.course = if stored.lsn < chunk.begins { Course::Unknown } else { chunk.course.back_to(stored.lsn) };
            return false;
        }
    }
    state.pos = state.pos.max(chunk.pos);
    state.course = chunk.course;
    if hub.live_end() <= state.pos {
        state.go_live();
        return false;
    }
    true
}

/// What looking for the newest messages came to.
enum Newer {
    /// There is none to look for.
    Nothing,
    /// Look on.
    More,
    /// A read failed: try again.
    Later,
}

/// Goes on with finding where the newest messages of a new position begin, so that they are then given oldest first.
fn find_newest(hub: &Hub, inbox: &Inbox) -> Newer {
    let mut newest = {
        let mut state = inbox.state.lock();
        if state.closed {
            return Newer::Nothing;
        }
        match state.newest.take() {
            Some(newest) => newest,
            None => {
                let unresolved = state.filters.iter().find_map(|f| f.newest.map(|n| (f, n)));
                let Some((f, n)) = unresolved else { return Newer::Nothing };
                Box::new(Newest::new(f.sub.filter.clone(), f.from, f.qos0_until, n))
            }
        }
    };
    let counted = match newest.turn(&hub.postings, &hub.log) {
        Ok(None) | Err(ReadError::Trimmed { .. }) => None,
        Err(error @ ReadError::Io { .. }) => {
            tracing::error!(filter = %newest.filter(), %error, "the newest stored messages can't be found; it is tried again");
            inbox.state.lock().newest = Some(newest);
            return Newer::Later;
        }
        Ok(Some(counted)) => Some((counted.begin, counted.skipped)),
        Err(error) => {
            tracing::error!(filter = %newest.filter(), %error, "the newest stored messages can't be found; the subscription begins with what follows");
            Some((hub.live_end(), 0))
        }
    };
    let mut state = inbox.state.lock();
    let Some((begin, skipped)) = counted else {
        state.newest = Some(newest);
        return Newer::More;
    };
    metrics::counter!(crate::metrics::OFFLINE_SKIPPED).increment(skipped);
    if let Some(f) = state.filters.get_mut(newest.filter()) {
        f.newest = None;
        f.from = f.from.max(begin);
        f.start = f.start.max(begin);
    }
    Newer::More
}
