//! Pictures of a run: throughput and waiting time over the number of producers, one file for each size of a record.

use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, Result};

use crate::run::{Results, Row};
use crate::stats::Spread;

const PRODUCERS: [usize; 4] = [1, 16, 64, 256];
const WIDTH: f64 = 420.0;
const HEIGHT: f64 = 300.0;
/// Room left of a panel for its numbers, right of it for the names, above and below it.
const LEFT: f64 = 64.0;
const RIGHT: f64 = 96.0;
const TOP: f64 = 48.0;
const BOTTOM: f64 = 52.0;
/// Least distance of two names, pixels.
const LINE: f64 = 14.0;

/// Colour and dashes of an engine's line.
fn style(engine: &str) -> (&'static str, &'static str) {
    match engine {
        "forebay" => ("#0b57d0", ""),
        "raw" => ("#222222", "6 4"),
        "raft-engine" => ("#c5221f", ""),
        "okaywal" => ("#b06000", ""),
        "rocksdb" => ("#188038", ""),
        "fjall" => ("#9334e6", ""),
        "redb" => ("#e52592", ""),
        "sqlite" => ("#12818f", ""),
        _ => ("#777777", ""),
    }
}

/// A line: an engine and its median over the rounds, by producers.
struct Line<'a> {
    engine: &'a str,
    points: Vec<(usize, f64)>,
}

fn lines(results: &Results, size: usize, of: fn(&Row) -> f64) -> Vec<Line<'_>> {
    let mut lines: Vec<Line<'_>> = Vec::new();
    for producers in PRODUCERS {
        let work = format!("blocked-{producers}");
        let mut engines: Vec<&str> = Vec::new();
        for row in results.rows.iter().filter(|row| row.size == size && row.work == work) {
            if !engines.contains(&row.engine.as_str()) {
                engines.push(&row.engine);
            }
        }
        for engine in engines {
            let of_engine = |row: &&Row| row.size == size && row.work == work && row.engine == engine;
            let point = (producers, Spread::of(results.rows.iter().filter(of_engine).map(of)).median);
            match lines.iter_mut().find(|line| line.engine == engine) {
                Some(line) => line.points.push(point),
                None => lines.push(Line { engine, points: vec![point] }),
            }
        }
    }
    // A point is not a line: what was measured with one producer only is in the tables.
    lines.retain(|line| line.points.len() > 1);
    lines
}

fn x_of(producers: usize) -> f64 {
    (producers as f64).log2() / 8.0 * WIDTH
}

/// Powers of ten with 2 and 5 between them, where they fit.
fn ticks(low: f64, high: f64) -> Vec<f64> {
    let decades = (low.log10().floor() as i32)..=(high.log10().ceil() as i32);
    let all = decades.flat_map(|decade| [1.0, 2.0, 5.0].map(|step| step * 10f64.powi(decade)));
    all.filter(|tick| *tick >= low && *tick <= high).collect()
}

fn short(value: f64) -> String {
    match value {
        v if v >= 1e6 => format!("{} M", v / 1e6),
        v if v >= 1e3 => format!("{} k", v / 1e3),
        v => format!("{v}"),
    }
}

/// One panel with its left upper corner at `left`.
fn panel(out: &mut String, left: f64, title: &str, unit: &str, lines: &[Line<'_>]) -> Result<()> {
    let values = || lines.iter().flat_map(|line| line.points.iter().map(|(_, value)| value.max(1.0)));
    let low = values().fold(f64::MAX, f64::min) / 1.3;
    let high = values().fold(1.0, f64::max) * 1.3;
    let y_of = |value: f64| HEIGHT - (value.max(1.0) / low).ln() / (high / low).ln() * HEIGHT;
    writeln!(out, r#"<g transform="translate({left} {TOP})">"#)?;
    writeln!(out, r#"<text x="0" y="-18" class="title">{title}</text>"#)?;
    for tick in ticks(low, high) {
        let y = y_of(tick);
        writeln!(out, r#"<line x1="0" x2="{WIDTH}" y1="{y:.1}" y2="{y:.1}" class="grid"/>"#)?;
        writeln!(out, r#"<text x="-8" y="{:.1}" text-anchor="end">{}</text>"#, y + 4.0, short(tick))?;
    }
    for producers in PRODUCERS {
        let x = x_of(producers);
        writeln!(out, r#"<line x1="{x:.1}" x2="{x:.1}" y1="0" y2="{HEIGHT}" class="grid"/>"#)?;
        writeln!(out, r#"<text x="{x:.1}" y="{}" text-anchor="middle">{producers}</text>"#, HEIGHT + 18.0)?;
    }
    let (x, y) = (WIDTH / 2.0, HEIGHT + 38.0);
    writeln!(out, r#"<text x="{x}" y="{y}" text-anchor="middle">producers that wait for each record ({unit})</text>"#)?;
    let mut names = Vec::new();
    // Drawn last is drawn on top.
    for line in lines.iter().rev() {
        let (colour, dashes) = style(line.engine);
        let points: Vec<_> =
            line.points.iter().map(|(n, value)| format!("{:.1},{:.1}", x_of(*n), y_of(*value))).collect();
        let width = if line.engine == "forebay" { 3.0 } else { 1.6 };
        writeln!(
            out,
            r#"<polyline points="{}" fill="none" stroke="{colour}" stroke-width="{width}" stroke-dasharray="{dashes}"/>"#,
            points.join(" ")
        )?;
        for (n, value) in &line.points {
            writeln!(out, r#"<circle cx="{:.1}" cy="{:.1}" r="2.6" fill="{colour}"/>"#, x_of(*n), y_of(*value))?;
        }
        if let Some((n, value)) = line.points.last() {
            names.push((y_of(*value), x_of(*n), line.engine, colour));
        }
    }
    names.sort_by(|a, b| a.0.total_cmp(&b.0));
    spread(&mut names);
    for (y, x, engine, colour) in names {
        writeln!(out, r#"<text x="{:.1}" y="{:.1}" fill="{colour}" class="name">{engine}</text>"#, x + 8.0, y + 4.0)?;
    }
    writeln!(out, "</g>")?;
    Ok(())
}

/// Moves names apart that would lie on each other; they come sorted from top to bottom, and stay inside the panel.
fn spread(names: &mut [(f64, f64, &str, &str)]) {
    let mut least = 0.0;
    for name in names.iter_mut() {
        name.0 = name.0.max(least);
        least = name.0 + LINE;
    }
    let mut most = HEIGHT;
    for name in names.iter_mut().rev() {
        name.0 = name.0.min(most);
        most = name.0 - LINE;
    }
}

fn picture(panels: &[(&str, &str, Vec<Line<'_>>)]) -> Result<String> {
    let step = LEFT + WIDTH + RIGHT;
    let (width, height) = (step * panels.len() as f64, TOP + HEIGHT + BOTTOM);
    let mut out = String::new();
    writeln!(
        out,
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">"#
    )?;
    out.push_str(
        "<style>text{font:12px sans-serif}.title{font-size:14px;font-weight:bold}.grid{stroke:#ddd}</style>\n",
    );
    writeln!(out, r##"<rect width="{width}" height="{height}" fill="#fff"/>"##)?;
    for (n, (title, unit, lines)) in panels.iter().enumerate() {
        panel(&mut out, n as f64 * step + LEFT, title, unit, lines)?;
    }
    out.push_str("</svg>\n");
    Ok(out)
}

/// Writes `throughput-SIZE.svg` and `latency-SIZE.svg` into a folder.
///
/// # Errors
/// A file could not be written.
pub fn draw(results: &Results, folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
    let mut sizes: Vec<usize> = results.rows.iter().map(|row| row.size).collect();
    sizes.sort_unstable();
    sizes.dedup();
    for size in sizes {
        let title = format!("Durable records a second, {size} B");
        let rates = lines(results, size, |row| row.measured.rate);
        if rates.is_empty() {
            continue;
        }
        let p50 = format!("Median wait, us, {size} B");
        let p99 = format!("99th percentile of the wait, us, {size} B");
        let waits = [
            (p50.as_str(), "both scales logarithmic", lines(results, size, |row| row.measured.p50_us)),
            (p99.as_str(), "both scales logarithmic", lines(results, size, |row| row.measured.p99_us)),
        ];
        let files = [
            (format!("throughput-{size}.svg"), picture(&[(&title, "both scales logarithmic", rates)])?),
            (format!("latency-{size}.svg"), picture(&waits)?),
        ];
        for (name, picture) in files {
            let path = folder.join(name);
            std::fs::write(&path, picture).with_context(|| format!("writing {}", path.display()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_keep_their_distance_and_stay_inside() {
        let mut names = [10.0, 12.0, 13.0, 295.0, 299.0].map(|y| (y, 0.0, "name", "#000"));
        spread(&mut names);
        assert!(names.windows(2).all(|pair| pair[1].0 - pair[0].0 >= LINE - 1e-9), "{names:?}");
        assert!(names.iter().all(|name| (0.0..=HEIGHT).contains(&name.0)), "{names:?}");
    }

    #[test]
    fn ticks_are_ones_twos_and_fives_inside_the_panel() {
        assert_eq!(ticks(90.0, 1100.0), [100.0, 200.0, 500.0, 1000.0]);
        assert_eq!([short(2e6), short(5e4), short(20.0)], ["2 M", "50 k", "20"]);
    }
}
