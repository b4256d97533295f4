//! Tables of a run, and the bars.

use std::fmt::Write;

use crate::run::{Results, Row};
use crate::stats::Spread;

/// What is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Figure {
    Rate,
    Cpu,
}

/// A bar: Forebay's figure divided by another's, in the same round.
struct Bar {
    what: &'static str,
    work: &'static str,
    sizes: &'static [usize],
    figure: Figure,
    /// Against whom, and the least ratio (for processor time: the greatest).
    against: &'static [(&'static str, f64)],
}

const BOTH: &[usize] = &[128, 1024];
const SMALL: &[usize] = &[128];

const BARS: [Bar; 8] = [
    Bar {
        what: "durable append, 1 producer",
        work: "blocked-1",
        sizes: BOTH,
        figure: Figure::Rate,
        against: &[("raw", 0.9), ("okaywal", 0.8)],
    },
    Bar {
        what: "16 producers",
        work: "blocked-16",
        sizes: BOTH,
        figure: Figure::Rate,
        against: &[("raw", 0.85), ("raft-engine", 1.15), ("okaywal", 1.15), ("rocksdb", 2.5)],
    },
    Bar {
        what: "64 producers",
        work: "blocked-64",
        sizes: BOTH,
        figure: Figure::Rate,
        against: &[("raw", 0.85), ("raft-engine", 1.3), ("okaywal", 1.3), ("rocksdb", 3.0)],
    },
    Bar {
        what: "256 producers",
        work: "blocked-256",
        sizes: BOTH,
        figure: Figure::Rate,
        against: &[("raw", 0.85), ("raft-engine", 1.6), ("okaywal", 1.6), ("rocksdb", 3.0)],
    },
    Bar {
        what: "one caller, 1,024 in flight",
        work: "flight-1024",
        sizes: BOTH,
        figure: Figure::Rate,
        against: &[("raw", 0.7), ("raft-engine", 1.4)],
    },
    Bar {
        what: "unsynced, batches of 100",
        work: "unsynced-100",
        sizes: SMALL,
        figure: Figure::Rate,
        against: &[("raw", 0.6), ("fjall", 3.0), ("redb", 3.0), ("rocksdb", 3.0), ("sqlite", 2.0)],
    },
    Bar {
        what: "sequential read, cached",
        work: "read",
        sizes: BOTH,
        figure: Figure::Rate,
        against: &[("raw", 0.5), ("raft-engine", 1.0)],
    },
    Bar {
        what: "processor time a durable record, 64 producers",
        work: "blocked-64",
        sizes: BOTH,
        figure: Figure::Cpu,
        against: &[("raw", 1.25)],
    },
];

/// What a publish may take longer than the raw log with its writer thread, us.
const PUBLISH_US: f64 = 60.0;

fn figures(results: &Results, work: &str, size: usize, engine: &str, of: impl Fn(&Row) -> f64) -> Vec<(usize, f64)> {
    let chosen = |row: &&Row| row.work == work && row.size == size && row.engine == engine;
    results.rows.iter().filter(chosen).map(|row| (row.round, of(row))).collect()
}

/// Ratios round by round.
fn ratios(
    results: &Results,
    work: &str,
    size: usize,
    (a, b): (&str, &str),
    of: impl Fn(&Row) -> f64 + Copy,
) -> Vec<f64> {
    let others = figures(results, work, size, b, of);
    let mine = figures(results, work, size, a, of);
    let other = |round| others.iter().find(|(other, _)| *other == round).map(|(_, value)| *value);
    mine.iter().filter_map(|(round, value)| other(*round).map(|other| value / other)).collect()
}

/// The bars, as a table.
#[must_use]
pub fn bars(results: &Results) -> String {
    let mut out = String::from("| what | bytes | against | ratio | bar | |\n|---|---|---|---|---|---|\n");
    for bar in &BARS {
        for size in bar.sizes {
            for (peer, least) in bar.against {
                let of = |row: &Row| match bar.figure {
                    Figure::Rate => row.measured.rate,
                    Figure::Cpu => row.measured.cpu_us,
                };
                let ratios = ratios(results, bar.work, *size, ("forebay", peer), of);
                if ratios.is_empty() {
                    continue;
                }
                let spread = Spread::of(ratios);
                let (sign, met) = match bar.figure {
                    Figure::Rate => (">=", spread.median >= *least),
                    Figure::Cpu => ("<=", spread.median <= *least),
                };
                let met = if met { "met" } else { "**short**" };
                let _ = writeln!(out, "| {} | {size} | {peer} | {spread:.2} | {sign} {least} | {met} |", bar.what);
            }
        }
    }
    let publish = figures(results, "publish", 128, "forebay", |row| row.measured.p50_us);
    let raw = figures(results, "grouped-1", 128, "raw", |row| row.measured.p50_us);
    let more: Vec<f64> = publish.iter().zip(&raw).map(|((_, publish), (_, raw))| publish - raw).collect();
    if !more.is_empty() {
        let spread = Spread::of(more);
        let met = if spread.median <= PUBLISH_US { "met" } else { "**short**" };
        let what = "one publish at a time, p50 to PUBACK";
        let _ = writeln!(out, "| {what} | 128 | raw, group commit | + {spread:.0} us | <= + {PUBLISH_US} us | {met} |");
    }
    out
}

/// Every cell, as tables.
#[must_use]
pub fn tables(results: &Results) -> String {
    let mut cells: Vec<(&str, usize)> = Vec::new();
    for row in &results.rows {
        if !cells.contains(&(&row.work, row.size)) {
            cells.push((&row.work, row.size));
        }
    }
    let mut out = String::new();
    for (work, size) in cells {
        let _ = writeln!(out, "{work}, {size} B\n");
        out.push_str(
            "| engine | records/s | p50 us | p99 us | CPU us/record | forebay : engine |\n|---|---|---|---|---|---|\n",
        );
        let mut engines: Vec<&str> = Vec::new();
        for row in results.rows.iter().filter(|row| row.work == work && row.size == size) {
            if !engines.contains(&row.engine.as_str()) {
                engines.push(&row.engine);
            }
        }
        for engine in engines {
            let spread =
                |of: fn(&Row) -> f64| Spread::of(figures(results, work, size, engine, of).into_iter().map(|(_, v)| v));
            let ratio = Spread::of(ratios(results, work, size, ("forebay", engine), |row| row.measured.rate));
            let _ = writeln!(
                out,
                "| {engine} | {:.0} | {:.1} | {:.1} | {:.2} | {ratio:.2} |",
                spread(|row| row.measured.rate),
                spread(|row| row.measured.p50_us).median,
                spread(|row| row.measured.p99_us).median,
                spread(|row| row.measured.cpu_us).median,
            );
        }
        out.push('\n');
    }
    out
}
