//! Reading the data folder without a server.

use std::ops::ControlFlow;
use std::path::Path;

use forebay_engine::disk::RealDisk;
use forebay_engine::event::codec::KIND_PUBLISHED;
use forebay_engine::log::{self, Item, ReadError};
use forebay_engine::{Engine, Lsn, MsgId};

use crate::admin::status::{Cursor, RecordRow, SegmentRow};
use crate::config::{Settings, node};
use crate::exit::{Exit, Failure};
use crate::run::{RuleSource, engine};

/// The segments of a data folder.
///
/// # Errors
/// Where the folder can't be read.
pub fn segments(data: &Path, _settings: &Settings) -> Result<Vec<SegmentRow>, Failure> {
    segments_in(&data.join("log"))
}

/// The segments of a log's folder, by name, which is by first record.
///
/// # Errors
/// Where the folder can't be read.
pub fn segments_in(dir: &Path) -> Result<Vec<SegmentRow>, Failure> {
    let failed = |source: std::io::Error| Failure::io(dir.display(), &source);
    let mut rows = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let file = entry.file_name().to_string_lossy().into_owned();
        let Some(first) = file.strip_suffix(".seg").and_then(|name| name.parse().ok()) else { continue };
        let bytes = entry.metadata().map_err(failed)?.len();
        rows.push(SegmentRow { file, first, last: None, bytes, sealed: true });
    }
    rows.sort_by_key(|row| row.first);
    for at in 1..rows.len() {
        let next = rows.get(at).map_or(0, |row| row.first);
        if let Some(row) = rows.get_mut(at - 1) {
            row.last = Some(next.saturating_sub(1));
        }
    }
    if let Some(row) = rows.last_mut() {
        row.sealed = false;
    }
    Ok(rows)
}

/// Shows at most `limit` records from `from` on, in one pass. The caller holds the folder's lock.
///
/// # Errors
/// Where they can't be read; what reads was shown before.
pub fn each_record(settings: &Settings, from: u64, limit: u64, show: &mut dyn FnMut(RecordRow)) -> Result<(), Failure> {
    let node = node::number(&settings.data, &settings.node.name, settings.node.number)
        .map_err(|source| Failure::io(settings.data.join("node").display(), &source))?;
    let mut left = limit;
    let visited = log::dump(&RealDisk, &settings.data.join("log"), Lsn(from), &mut |_, _, record| {
        show(engine::row(&record, node));
        left = left.saturating_sub(1);
        if left > 0 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    visited.map_err(|source| match source {
        ReadError::Io { file, source } => Failure::io(file.display(), &source),
        source => Failure::new(Exit::Damaged, source.to_string()),
    })
}

/// Shows the segments with at most `limit` records from `from` on byte by byte, one JSON object a line: headers, records, gaps, seals, and what
/// does not read. A message has its msgid beside it. The caller holds the folder's lock.
///
/// # Errors
/// Where a file can't be read; [`Exit::Damaged`] at the end where something does not read.
pub fn each_item(settings: &Settings, from: u64, limit: u64, show: &mut dyn FnMut(String)) -> Result<(), Failure> {
    let node = node::number(&settings.data, &settings.node.name, settings.node.number)
        .map_err(|source| Failure::io(settings.data.join("node").display(), &source))?;
    let (mut left, mut damaged) = (limit, 0);
    let visited = log::dump_items(&RealDisk, &settings.data.join("log"), Lsn(from), &mut |file, item| {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        match &item {
            // Gaps and seals are shown, but are no records.
            Item::Frame(frame) if frame.kind < 128 && frame.lsn.0 < from => return ControlFlow::Continue(()),
            Item::Frame(frame) if frame.kind < 128 => left = left.saturating_sub(1),
            Item::Damage { .. } => damaged += 1,
            _ => {}
        }
        let mut line = item.to_json(&name);
        if let Item::Frame(frame) = &item
            && frame.kind == KIND_PUBLISHED
            && line.pop() == Some('}')
        {
            let msgid = MsgId::new(frame.time_us, node, frame.lsn);
            line.push_str(&format!(",\"msgid\":\"{msgid}\"}}"));
        }
        show(line);
        if left > 0 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    match visited {
        Err(ReadError::Io { file, source }) => Err(Failure::io(file.display(), &source)),
        Err(source) => Err(Failure::new(Exit::Damaged, source.to_string())),
        Ok(()) if damaged > 0 => {
            Err(Failure::new(Exit::Damaged, format!("{damaged} damaged places; `forebay log verify` shows them")))
        }
        Ok(()) => Ok(()),
    }
}

/// All cursors, by opening the engine as a start would (its lock is taken, recovery runs, nothing is appended).
///
/// # Errors
/// Where it does not open.
pub fn cursors(settings: &Settings, rules: &RuleSource) -> Result<Vec<Cursor>, Failure> {
    // Opening makes a folder that is not there; looking must not.
    drop(crate::datadir::lock(&settings.data)?);
    let node = node::number(&settings.data, &settings.node.name, settings.node.number)
        .map_err(|source| Failure::io(settings.data.join("node").display(), &source))?;
    // With the rules of a start: they decide what replayed records mean, and the index is written from that.
    let options = engine::options(settings, rules, node);
    let (engine, _) = Engine::open(options).map_err(|source| engine::refused(&settings.data, source))?;
    let cursors = engine::subscriber_cursors(&engine);
    engine.close();
    Ok(cursors)
}
