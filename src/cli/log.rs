//! `forebay log …` and `forebay cursor ls`: from the running server, or from the data folder where none runs.

use std::path::Path;

use serde::Serialize;

use crate::admin::client::Client;
use crate::admin::status::{Cursor, RecordRow, SegmentRow};
use crate::cli::{CursorCommand, LogCommand, Options, check, damage};
use crate::datadir;
use crate::exit::{Exit, Failure};
use crate::offline;
use crate::out;

/// Records asked of the server at a time.
const PAGE: u64 = 1000;
/// Text of rows is written when there is as much, bytes.
const WRITTEN_AT_ONCE: usize = 64 * 1024;

/// Runs `forebay log …`.
///
/// # Errors
/// Where the folder can't be read, is damaged, or is in use where it must not be.
pub fn run(options: &Options, what: &LogCommand) -> Result<(), Failure> {
    let settings = check::settings(options)?.settings;
    let server = Client::of_running_server(&settings)?;
    match what {
        LogCommand::Ls => {
            let rows = match &server {
                Some(server) => server.get::<Vec<SegmentRow>>("/log/segments")?,
                None => offline::segments(&datadir::lock(&settings.data)?, &settings)?,
            };
            print_rows(&rows, options.json);
        }
        LogCommand::Dump { from, limit } => {
            if *limit == 0 {
                return Ok(());
            }
            match &server {
                Some(server) => dump_online(server, *from, *limit, options.json)?,
                None => {
                    let lock = datadir::lock(&settings.data)?;
                    if options.json {
                        offline::each_item(&settings, *from, *limit, &mut |line| out::print(&out::json(&line)))?;
                    } else {
                        let mut show = |row: RecordRow| print_rows(&[row], false);
                        offline::each_record(&settings, *from, *limit, &mut show)?;
                    }
                    drop(lock);
                }
            }
        }
        LogCommand::Verify => {
            stopped(server.as_ref(), &settings.data, "verify")?;
            damage::verify(&settings, options.json)?;
        }
        LogCommand::Repair { apply } => {
            stopped(server.as_ref(), &settings.data, "repair")?;
            damage::repair(&settings, *apply, options.json)?;
        }
    }
    Ok(())
}

/// These need every file for themselves.
fn stopped(server: Option<&Client>, data: &Path, what: &str) -> Result<(), Failure> {
    match server {
        None => Ok(()),
        Some(_) => {
            let text = format!("{} is in use by a running server: stop it, then {what}", data.display());
            Err(Failure::new(Exit::Locked, text))
        }
    }
}

fn dump_online(server: &Client, from: u64, limit: u64, json: bool) -> Result<(), Failure> {
    let (mut next, mut left) = (from, limit);
    while left > 0 {
        let rows: Vec<RecordRow> = server.get(&format!("/log/records?from={next}&limit={}", left.min(PAGE)))?;
        let Some(last) = rows.last() else { break };
        next = last.lsn.saturating_add(1);
        left = left.saturating_sub(rows.len() as u64);
        print_rows(&rows, json);
    }
    Ok(())
}

/// Runs `forebay cursor …`.
///
/// # Errors
/// Where neither a server nor the folder can be asked.
pub fn cursors(options: &Options, what: &CursorCommand) -> Result<(), Failure> {
    let CursorCommand::Ls = what;
    let configuration = check::configuration(options)?;
    let settings = &configuration.loaded.settings;
    let rows: Vec<Cursor> = match Client::of_running_server(settings)? {
        Some(server) => server.get("/cursors")?,
        None => offline::cursors(settings, &configuration.rules)?,
    };
    print_rows(&rows, options.json);
    Ok(())
}

/// Prints rows as text, or one JSON object a line.
pub fn print_rows<T: Serialize + std::fmt::Display>(rows: &[T], json: bool) {
    let mut text = String::new();
    for row in rows {
        if json {
            // These types hold nothing that JSON can't; an empty line would still be one line a row.
            text.push_str(&out::json(&serde_json::to_string(row).unwrap_or_default()));
        } else {
            text.push_str(&out::lines(&row.to_string()));
        }
        text.push('\n');
        if text.len() >= WRITTEN_AT_ONCE {
            out::write(&text);
            text.clear();
        }
    }
    out::write(&text);
}
