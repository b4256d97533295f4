//! What each engine asks of the kernel for an acknowledged record, counted by strace.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::cell::{Measured, Work};
use crate::engines;

const TRACED: [&str; 7] = ["fdatasync", "fsync", "sync_file_range", "msync", "pwrite64", "write", "io_uring_enter"];

/// Runs each engine under strace with one producer and with four, and counts its calls. The calls that open the engine, prepare its files
/// and warm it up are in the counts, the records of the warm-up are not.
///
/// # Errors
/// strace is missing, or a cell failed.
pub fn table() -> Result<String> {
    let mut out =
        format!("| engine | work | records | {} |\n|---|---|---|{}\n", TRACED.join(" | "), "---|".repeat(TRACED.len()));
    for engine in engines::all() {
        for work in [Work::Blocked(1), Work::Blocked(4), Work::Unsynced(100)] {
            let synced_only = matches!(work, Work::Unsynced(_)) && engine.durable;
            if !work.suits(&engine) || synced_only {
                continue;
            }
            let dir = tempfile::tempdir()?;
            let counts = dir.path().join("counts");
            let cell = dir.path().join("cell");
            std::fs::create_dir(&cell)?;
            let output = Command::new("strace")
                .args(["-f", "-c", "-e", &format!("trace={}", TRACED.join(",")), "-o"])
                .arg(&counts)
                .arg(std::env::current_exe()?)
                .args(["cell", engine.name, &work.to_string(), "128", "1"])
                .arg(&cell)
                .stdin(Stdio::null())
                .output()
                .context("strace (apt-get install strace)")?;
            if !output.status.success() {
                bail!("{} {work}: {}", engine.name, String::from_utf8_lossy(&output.stderr));
            }
            let measured: Measured = serde_json::from_slice(&output.stdout)?;
            let summary = std::fs::read_to_string(&counts)?;
            let counted = parse(&summary);
            let _ = write!(out, "| {} | {work} | {} |", engine.name, measured.records);
            for name in TRACED {
                let _ = write!(out, " {} |", counted.get(name).copied().unwrap_or(0));
            }
            out.push('\n');
        }
    }
    Ok(out)
}

/// Calls by name, of strace's summary: share, seconds, us a call, calls, errors where there were any, name.
fn parse(summary: &str) -> BTreeMap<&str, u64> {
    summary
        .lines()
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            Some((*fields.last()?, fields.get(3)?.parse().ok()?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_read_with_and_without_errors() {
        let counts = parse(
            "% time     seconds  usecs/call     calls    errors syscall\n\
             ------ ----------- ----------- --------- --------- ----------------\n\
              60.00    0.000123           1        41           fdatasync\n\
              40.00    0.000100           1         7         2 write\n\
             ------ ----------- ----------- --------- --------- ----------------\n\
             100.00    0.000223           1        48         2 total\n",
        );
        assert_eq!((counts.get("fdatasync"), counts.get("write"), counts.get("fsync")), (Some(&41), Some(&7), None));
    }
}
