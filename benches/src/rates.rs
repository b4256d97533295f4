//! A comparison of rates: cells, ratios within a round, tables, bars.

use std::fmt::Write;

use crate::load::Report;
use crate::rivals::Rival;
use crate::stats::Spread;
use crate::works::Work;

/// One measurement: a work of a fresh server in a round.
#[derive(Debug)]
pub struct Cell {
    /// What was done.
    pub work: Work,
    /// By whom.
    pub rival: Rival,
    /// When; ratios are those within a round.
    pub round: usize,
    /// What came of it, or why nothing did.
    pub report: Result<Report, String>,
}

impl Cell {
    /// Processor time of the server for each copy it delivered (where nobody subscribes: message it took in), us; the meter of the report is
    /// in seconds.
    #[must_use]
    pub fn cpu_us(report: &Report) -> f64 {
        let done = if report.copies > 0 { report.copies } else { report.total };
        report.metered * 1e6 / done.max(1) as f64
    }
}

/// What Forebay has to reach.
struct Bar {
    work: &'static str,
    rival: Rival,
    /// At least so many times the rival's rate; 1.0 means more than it.
    times: f64,
    aim: Option<f64>,
}

/// Section 12 of the design.
const BARS: [Bar; 5] = [
    Bar { work: "qos1-4x64-128", rival: Rival::Mosquitto, times: 1.5, aim: Some(2.0) },
    Bar { work: "qos1-4x64-1024", rival: Rival::Mosquitto, times: 1.2, aim: Some(2.0) },
    Bar { work: "qos1-4x64-128", rival: Rival::NatsAlways, times: 50.0, aim: None },
    Bar { work: "qos1-4x64-1024", rival: Rival::NatsAlways, times: 50.0, aim: None },
    Bar { work: "qos1-4x64-128-filters10000", rival: Rival::Mosquitto, times: 1.0, aim: Some(2.0) },
];

/// The work of one publish at a time, and what its PUBACK may take beyond a write and sync of the same size, us (section 12).
const ONE_AT_A_TIME: &str = "qos1-1x1-128-to0";
const BEYOND_US: f64 = 60.0;
const BEYOND_AIM_US: f64 = 30.0;

/// All measurements of a run.
#[derive(Debug, Default)]
pub struct Comparison {
    /// In the order they were made.
    pub cells: Vec<Cell>,
    /// Median time of a write and sync alone, us, by round.
    pub bare: Vec<f64>,
}

impl Comparison {
    fn reports(&self, work: &Work, rival: Rival) -> impl Iterator<Item = (usize, &Report)> {
        let of = self.cells.iter().filter(move |cell| cell.work == *work && cell.rival == rival);
        of.filter_map(|cell| Some((cell.round, cell.report.as_ref().ok()?)))
    }

    /// Rates from end to end of one of those measured as multiples of another's, round by round. `None` where no round has both.
    #[must_use]
    pub fn ratio(&self, work: &Work, rival: Rival, base: Rival) -> Option<Spread> {
        let ratios = self.reports(work, rival).filter_map(|(round, report)| {
            let (_, base) = self.reports(work, base).find(|(other, _)| *other == round)?;
            let base = work.rate(base);
            (base > 0.0).then(|| work.rate(report) / base)
        });
        let ratios: Vec<f64> = ratios.collect();
        (!ratios.is_empty()).then(|| Spread::of(ratios))
    }

    /// The table of a work.
    #[must_use]
    pub fn table(&self, work: &Work, rivals: &[Rival]) -> String {
        let mut text = format!("\n`{work}`: {}\n\n", work.description());
        text.push_str(
            "| server | end to end/s | of Mosquitto | acknowledged/s | copies arrived/s | ack p50 us | ack p99 us | end to end p50 us | end to end p99 us \
             | CPU us/copy | lost | repeated |\n|---|---|---|---|---|---|---|---|---|---|---|---|\n",
        );
        for rival in rivals {
            let over = |value: &dyn Fn(&Report) -> f64, digits: usize| {
                let values: Vec<f64> = self.reports(work, *rival).map(|(_, report)| value(report)).collect();
                if values.is_empty() { "-".to_owned() } else { format!("{:.digits$}", Spread::of(values)) }
            };
            let acknowledged =
                |value: fn(&Report) -> f64| if work.qos() > 0 { over(&value, 0) } else { "-".to_owned() };
            let sum =
                |value: fn(&Report) -> u64| self.reports(work, *rival).map(|(_, report)| value(report)).sum::<u64>();
            let ratio =
                self.ratio(work, *rival, Rival::Mosquitto).map_or("-".to_owned(), |ratio| format!("{ratio:.2}"));
            let _ = writeln!(
                text,
                "| {} | {} | {ratio} | {} | {} | {} | {} | {} | {} | {} | {} | {} |",
                rival.name(),
                over(&|report| work.rate(report), 0),
                acknowledged(|report| report.acknowledged),
                over(&|report| report.delivered, 0),
                acknowledged(|report| f64::from(report.ack_p50)),
                acknowledged(|report| f64::from(report.ack_p99)),
                over(&|report| f64::from(report.end_to_end_p50), 0),
                over(&|report| f64::from(report.end_to_end_p99), 0),
                over(&Cell::cpu_us, 1),
                sum(|report| report.lost),
                sum(|report| report.repeated),
            );
        }
        for cell in self.cells.iter().filter(|cell| cell.work == *work) {
            if let Err(why) = &cell.report {
                let _ = writeln!(text, "\n{} failed in round {}: {why}", cell.rival.name(), cell.round + 1);
            }
        }
        text
    }

    /// The bars with what was measured, those that nothing was measured for among them, and what Forebay lost.
    #[must_use]
    pub fn bars(&self, works: &[Work]) -> String {
        let mut text = String::from(
            "\n| bar: Forebay without a sink, work | against | at least | measured | met |\n|---|---|---|---|---|\n",
        );
        for bar in BARS {
            let ratio = works
                .iter()
                .find(|work| work.to_string() == bar.work)
                .and_then(|work| self.ratio(work, Rival::Forebay, bar.rival));
            let measured = ratio.map_or("no ratio".to_owned(), |ratio| format!("{ratio:.2}"));
            let met = match ratio.map(|ratio| ratio.median) {
                None => "-",
                Some(times) if times < bar.times || times <= 1.0 => "no",
                Some(times) if bar.aim.is_some_and(|aim| times >= aim) => "yes, and the aim",
                Some(_) => "yes",
            };
            let least = if bar.times > 1.0 { format!("{:.1} x", bar.times) } else { "faster".to_owned() };
            let least = bar.aim.map_or(least.clone(), |aim| format!("{least}, aim {aim:.1} x"));
            let _ = writeln!(text, "| `{}` | {} | {least} | {measured} | {met} |", bar.work, bar.rival.name());
        }
        text.push_str(&self.beyond_the_disk(works));
        for (rival, name) in [(Rival::Forebay, "no sink"), (Rival::ForebaySqlite, "SQLite sink")] {
            let of = self.cells.iter().filter(|cell| cell.rival == rival && cell.work.qos() > 0);
            let (mut lost, mut repeated, mut failed, mut cells) = (0, 0, 0, 0);
            for cell in of {
                cells += 1;
                match &cell.report {
                    Ok(report) => (lost, repeated) = (lost + report.lost, repeated + report.repeated),
                    Err(_) => failed += 1,
                }
            }
            if cells > 0 {
                let met = if lost + failed == 0 { "yes" } else { "no" };
                let measured = format!("{lost} lost, {repeated} repeated, {failed} of {cells} cells failed");
                let _ = writeln!(text, "| all of QoS 1 and 2, {name} | - | 0 lost | {measured} | {met} |");
            }
        }
        text
    }

    /// The bar of one publish at a time: what a PUBACK takes beyond a write and a sync, round by round.
    fn beyond_the_disk(&self, works: &[Work]) -> String {
        let Some(work) = works.iter().find(|work| work.to_string() == ONE_AT_A_TIME) else { return String::new() };
        let reports = self.reports(work, Rival::Forebay);
        let beyond = reports.filter_map(|(round, report)| Some(f64::from(report.ack_p50) - self.bare.get(round)?));
        let beyond: Vec<f64> = beyond.collect();
        if beyond.is_empty() {
            return String::new();
        }
        let (beyond, bare) = (Spread::of(beyond), Spread::of(self.bare.clone()));
        let met = match beyond.median {
            us if us > BEYOND_US => "no",
            us if us > BEYOND_AIM_US => "yes",
            _ => "yes, and the aim",
        };
        format!(
            "| `{ONE_AT_A_TIME}`, p50 to PUBACK | a write and sync alone, {bare:.0} us | at most + {BEYOND_US} us, aim + {BEYOND_AIM_US} us | + {beyond:.0} us | {met} |\n"
        )
    }

    /// Where Forebay without a sink is slower than one of the others, by the median of the ratios.
    #[must_use]
    pub fn behind(&self, works: &[Work], rivals: &[Rival]) -> String {
        let mut text = String::new();
        for work in works {
            for rival in rivals.iter().filter(|rival| !matches!(rival, Rival::Forebay | Rival::ForebaySqlite)) {
                if let Some(ratio) = self.ratio(work, Rival::Forebay, *rival).filter(|ratio| ratio.median < 1.0) {
                    let _ = writeln!(text, "- `{work}`: {ratio:.2} of {}", rival.name());
                }
            }
        }
        if text.is_empty() {
            return "\nForebay without a sink is behind nobody.\n".to_owned();
        }
        format!("\nForebay without a sink is behind in:\n\n{text}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(rival: Rival, round: usize, delivered: f64, lost: u64) -> anyhow::Result<Cell> {
        let report = Report { acknowledged: delivered + 1.0, delivered, lost, ..Report::default() };
        Ok(Cell { work: "qos1-4x64-128".parse()?, rival, round, report: Ok(report) })
    }

    #[test]
    fn one_publish_at_a_time_is_compared_with_the_disk_of_its_round() -> anyhow::Result<()> {
        let works: Vec<Work> = vec![ONE_AT_A_TIME.parse()?];
        let mut run = Comparison { bare: vec![100.0, 50.0, 70.0], ..Comparison::default() };
        for (round, ack_p50) in [150, 105, 130].into_iter().enumerate() {
            let report = Ok(Report { ack_p50, ..Report::default() });
            run.cells.push(Cell { work: ONE_AT_A_TIME.parse()?, rival: Rival::Forebay, round, report });
        }
        let bars = run.bars(&works);
        assert!(
            bars.contains(
                "| a write and sync alone, 70 (50..100) us | at most + 60 us, aim + 30 us | + 55 (50..60) us | yes |"
            ),
            "{bars}"
        );
        Ok(())
    }

    #[test]
    fn bars_are_those_of_ratios_within_a_round_and_a_loss_breaks_them() -> anyhow::Result<()> {
        let works: Vec<Work> = vec!["qos1-4x64-128".parse()?];
        let mut run = Comparison::default();
        for (round, (mosquitto, forebay)) in [(100.0, 180.0), (10.0, 16.0), (50.0, 60.0)].into_iter().enumerate() {
            run.cells.push(cell(Rival::Mosquitto, round, mosquitto, 7)?);
            run.cells.push(cell(Rival::Forebay, round, forebay, 0)?);
        }
        let bars = run.bars(&works);
        assert!(
            bars.contains("| `qos1-4x64-128` | mosquitto, persistence | 1.5 x, aim 2.0 x | 1.60 (1.20..1.80) | yes |"),
            "{bars}"
        );
        assert!(
            bars.contains("| `qos1-4x64-1024` | mosquitto, persistence | 1.2 x, aim 2.0 x | no ratio | - |"),
            "{bars}"
        );
        assert!(bars.contains("| 0 lost, 0 repeated, 0 of 3 cells failed | yes |"), "{bars}");
        run.cells.push(cell(Rival::Forebay, 3, 1.0, 1)?);
        assert!(run.bars(&works).contains("| 1 lost, 0 repeated, 0 of 4 cells failed | no |"));
        Ok(())
    }
}
