//! The lines that know the engine's options, report and errors.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use forebay_engine::engine::{Bounds, EngineOptions, OpenError, OpenReport, Retention, StateSource, WhenFull};
use forebay_engine::event::DropOwner;
use forebay_engine::ids::{Lsn, MsgId};
use forebay_engine::log::{self, RecoveryReport};
use forebay_engine::state::Gap;
use forebay_engine::state::checkpoint::CheckpointError;
use forebay_engine::{Engine, Event, Record, topic};

use super::RuleSource;
use crate::admin::status::{Cursor, GapRow, Members, NoSpaceStatus, RecordRow};
use crate::config::{Durability, Settings};
use crate::datadir;
use crate::exit::{Exit, Failure};

/// Settings in the engine's words.
pub fn options(settings: &Settings, rules: &RuleSource, node: u16) -> EngineOptions {
    let size = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
    let mut options = EngineOptions::new(&settings.data);
    options.node = node;
    options.rules = rules.engine_rules();
    options.retention =
        Retention { age: Duration::from_secs(settings.log.retention_age_s), bytes: settings.log.retention_bytes };
    options.bounds = Bounds {
        queue_messages_max: settings.queue.messages_max,
        queue_bytes_max: settings.queue.bytes_max,
        session_messages_max: settings.session.backlog_messages_max,
        session_bytes_max: settings.session.backlog_bytes_max,
        idle_cursors_max: settings.session.idle_cursors_max,
    };
    options.log.segment_bytes = settings.log.segment_bytes;
    options.log.disk_budget = settings.log.disk_budget_bytes;
    options.when_full = if settings.log.drop_oldest { WhenFull::DropOldest } else { WhenFull::Block };
    options.log.queue_bytes_max = size(settings.log.queue_bytes_max);
    options.log.tail_cache_bytes = size(settings.log.tail_cache_bytes);
    // A record is a packet, decoded, with the publisher's name and address beside it.
    options.log.record_bytes_max = size(settings.mqtt.packet_bytes_max) + 256 * 1024;
    if settings.log.quarantine {
        options.log.on_damage = log::OnDamage::Quarantine;
    }
    options.log.durability = match settings.log.durability {
        Durability::Synced => log::Durability::Synced,
        Durability::Every => log::Durability::Every(Duration::from_millis(settings.log.sync_interval_ms)),
        Durability::Buffered => log::Durability::Buffered,
    };
    options
}

/// Why the engine did not open, with the exit code for it.
pub fn refused(data: &Path, source: OpenError) -> Failure {
    let exit = match &source {
        OpenError::Locked(_) => return datadir::in_use(data),
        OpenError::Io { path, source, .. } => return Failure::io(path.display(), source),
        OpenError::Log(source) => log_exit(source),
        OpenError::Checkpoint(CheckpointError::Io { file, source }) => return Failure::io(file.display(), source),
        OpenError::Checkpoint(_) | OpenError::StateLost { .. } | OpenError::Event { .. } => Exit::Damaged,
        OpenError::Read(log::ReadError::Io { file, source }) => return Failure::io(file.display(), source),
        OpenError::Read(_) => Exit::Damaged,
    };
    Failure::new(exit, source.to_string())
}

fn log_exit(source: &log::OpenError) -> Exit {
    match source {
        log::OpenError::Setting { .. } => Exit::Usage,
        log::OpenError::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => Exit::DiskFull,
        log::OpenError::Io { .. } => Exit::Failure,
        _ => Exit::Damaged,
    }
}

/// What opening found, in words.
pub fn recovered(report: &OpenReport) -> String {
    let state = match report.state {
        StateSource::Index => "from its index",
        StateSource::Checkpoint => "from a checkpoint",
        StateSource::Log => "from the log",
    };
    let mut text = format!("{}; state {state}, {} records replayed", recovered_log(&report.log), report.replayed);
    if let Some((end, known)) = report.ahead {
        text.push_str(&format!(
            "; STATE WAS AHEAD: the log ended at {end}, state knew {known}; records between are gone, numbers go on behind"
        ));
    }
    text
}

fn recovered_log(log: &RecoveryReport) -> String {
    if log.created {
        return "new log".into();
    }
    let how = if log.clean { "closed in order" } else { "not closed in order" };
    let mut text = format!("records {}..{}, {how}", log.first, log.next);
    if let Some((file, at)) = &log.cut_at {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        text.push_str(&format!(", a torn tail of {} bytes cut off {name} at byte {at}", log.cut_bytes));
    }
    if let Some((from, to)) = &log.gap {
        text.push_str(&format!(", numbers {from} to {to} skipped: they may have been given out and lost"));
    }
    text
}

/// What happens to a sink that lags while there is no room, in the setting's word.
pub fn when_full(settings: &Settings) -> &'static str {
    if settings.log.drop_oldest { "drop_oldest" } else { "block" }
}

/// The durability level's name.
pub fn durability_name(settings: &Settings) -> &'static str {
    match settings.log.durability {
        Durability::Synced => "synced",
        Durability::Every => "every",
        Durability::Buffered => "buffered",
    }
}

/// The cursors of all subscribers, the groups of shared subscriptions, and the queues that lost messages to a policy.
pub fn subscriber_cursors(engine: &Engine) -> Vec<Cursor> {
    let gaps: BTreeMap<DropOwner, Gap> = engine.gaps().into_iter().collect();
    let queue_gaps = gaps.iter().filter_map(|(owner, gap)| match owner {
        DropOwner::Queue(topic) => Some(Cursor {
            kind: "queue".into(),
            owner: topic.to_string(),
            gap: Some(gap_row(gap)),
            ..Cursor::default()
        }),
        _ => None,
    });
    let groups = engine.groups().into_iter().map(|group| {
        let connected = group.members.iter().filter(|(_, connected)| *connected).count();
        Cursor {
            kind: "group".into(),
            active: connected > 0,
            filter: topic::unshared(&group.share).into(),
            position: group.oldest.map(|lsn| lsn.0),
            members: Some(Members { sessions: group.members.len(), connected }),
            lag: Some(group.messages),
            gap: gaps.get(&DropOwner::Group(group.share.clone())).map(gap_row),
            owner: group.share.to_string(),
        }
    });
    let connected = |client: &str| engine.session(client).is_some_and(|session| session.connected);
    engine
        .cursors()
        .into_iter()
        .map(|(client, filter, cursor)| {
            let owner = DropOwner::Cursor { client: client.clone(), filter: filter.clone() };
            Cursor {
                kind: "subscriber".into(),
                active: connected(&client),
                owner: client.to_string(),
                filter: filter.to_string(),
                position: Some(cursor.next.0),
                gap: gaps.get(&owner).map(gap_row),
                ..Cursor::default()
            }
        })
        .chain(groups)
        .chain(queue_gaps)
        .collect()
}

/// A gap as a row.
pub fn gap_row(gap: &Gap) -> GapRow {
    GapRow {
        from: gap.from.0,
        to: gap.to.0,
        count: gap.count,
        reason: gap.reason.as_str().into(),
        time_us: gap.time_us,
        total: gap.total,
    }
}

/// Why the log has no room for new messages, where it has none.
pub fn no_space(engine: &Engine) -> Option<NoSpaceStatus> {
    engine.log().shortage().map(|shortage| NoSpaceStatus {
        reason: shortage.limit.as_str().into(),
        why: shortage.why.to_string(),
        since_s: shortage.since.elapsed().as_secs(),
    })
}

/// How long the log may be without room and the server count as ready, where the oldest is dropped to make some.
const ROOM_IS_MADE_WITHIN: Duration = Duration::from_secs(10);

/// Why the server is not ready for new messages: the log has no room, or takes no more records at all.
pub fn not_ready(engine: &Engine, settings: &Settings) -> Vec<String> {
    let short = engine.log().shortage();
    let lasting = short.filter(|s| !settings.log.drop_oldest || s.since.elapsed() >= ROOM_IS_MADE_WITHIN);
    let short = lasting.map(|s| format!("new messages are refused: {}", s.why));
    short.into_iter().chain(stopped(engine)).collect()
}

/// Why the log takes no more records; `None` while it does.
fn stopped(engine: &Engine) -> Option<String> {
    engine.log().stopped_reason().map(|why| format!("the log takes no more records: {why}"))
}

/// Records from `from` on.
///
/// # Errors
/// Where they can't be read.
pub fn records(engine: &Engine, from: Lsn, limit: u64, node: u16) -> Result<Vec<RecordRow>, String> {
    let mut reader = engine.log().reader(from).map_err(|source| source.to_string())?;
    let mut records: Vec<Record> = Vec::new();
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    while records.len() < limit {
        let left = limit - records.len();
        if reader.read_batch(left, 1 << 20, &mut records).map_err(|source| source.to_string())? == 0 {
            break;
        }
    }
    Ok(records.iter().map(|record| row(record, node)).collect())
}

/// A record as a row.
pub fn row(record: &Record, node: u16) -> RecordRow {
    let mut row = RecordRow {
        lsn: record.lsn.0,
        time_us: record.time_us,
        kind: format!("kind {}", record.kind),
        bytes: record.body.len() as u64,
        ..RecordRow::default()
    };
    match Event::decode(record.kind, record.body.clone()) {
        Ok(event) => {
            row.kind = event.kind_name().to_owned();
            if let Event::Published(published) = &event {
                row.msgid = Some(MsgId::new(record.time_us, node, record.lsn).to_string());
                row.payload = Some(String::from_utf8_lossy(&published.message.payload).into_owned());
                row.topic = Some(published.message.topic.to_string());
            }
            row.event = format!("{event:?}");
        }
        Err(source) => row.event = format!("not readable: {source}"),
    }
    row
}
