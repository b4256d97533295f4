//! Columns become points.

use std::sync::Arc;

use super::expand::{Column, Expander, text};
use super::{BYTES_MAX, Facts, Leaf, Placeholder, Template, TemplateError, Unit, Value};

/// A point.
#[derive(Clone, Debug, PartialEq)]
pub struct Point {
    /// What it is of.
    pub measurement: String,
    /// Tags with a value, sorted by name.
    pub tags: Vec<(Arc<str>, String)>,
    /// Fields with a value; never empty.
    pub fields: Vec<(Arc<str>, Value)>,
    /// When.
    pub time: Time,
}

/// The time of a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Time {
    /// The record's own.
    Record,
    /// What the message says, ns since 1970.
    Given(i128),
}

impl Template {
    /// The points of a message: one, or one for each element of the arrays that `$0` stands for.
    ///
    /// # Errors
    /// Where the message does not fit the template.
    pub fn points(&self, facts: &Facts<'_>) -> Result<Vec<Point>, TemplateError> {
        let unit = self.unit.unwrap_or(facts.unit);
        let expander = Expander::new(facts, unit, &self.at);
        let columns = |leaves: &[(Arc<str>, Leaf)]| -> Result<Vec<Column>, TemplateError> {
            leaves.iter().map(|(_, leaf)| expander.column(leaf)).collect()
        };
        let mut measurement = expander.column(&self.measurement)?;
        let (mut tags, mut fields) = (columns(&self.tags)?, columns(&self.fields)?);
        // The record's time needs no column: `$timestamp` is what a point has anyhow.
        let given = self.timestamp.as_ref().filter(|leaf| **leaf != Leaf::Placeholder(Placeholder::Timestamp));
        let timestamp = given.map(|leaf| expander.column(leaf)).transpose()?;
        let leaves = [&self.measurement]
            .into_iter()
            .chain(self.tags.iter().chain(&self.fields).map(|(_, leaf)| leaf))
            .chain(given);
        let all = [&measurement].into_iter().chain(&tags).chain(&fields).chain(&timestamp);
        let rows = rows(leaves.zip(all))?;
        let mut points = Vec::with_capacity(rows);
        let mut bytes = 0;
        for row in 0..rows {
            let last = row + 1 == rows;
            let point = Point {
                measurement: measurement
                    .take(row, last)
                    .map(Value::into_text)
                    .filter(|name| !name.is_empty())
                    .ok_or_else(|| missing("measurement", &self.measurement))?,
                tags: values(&self.tags, &mut tags, row, last)
                    .map(|(name, value)| (name, value.into_text()))
                    .filter(|(_, value)| !value.is_empty())
                    .collect(),
                fields: values(&self.fields, &mut fields, row, last).collect(),
                time: match (&timestamp, given) {
                    (Some(column), Some(leaf)) => {
                        Time::Given(time(column.get(row).ok_or_else(|| missing("timestamp", leaf))?, unit)?)
                    }
                    _ => Time::Record,
                },
            };
            if point.fields.is_empty() {
                let places: Vec<String> = self.fields.iter().map(|(_, leaf)| leaf.to_string()).collect();
                return Err(TemplateError::Missing { what: "field with a value".to_owned(), place: places.join(", ") });
            }
            bytes += point.len();
            if bytes > BYTES_MAX {
                return Err(TemplateError::TooMuch);
            }
            points.push(point);
        }
        Ok(points)
    }
}

fn missing(what: &str, leaf: &Leaf) -> TemplateError {
    TemplateError::Missing { what: what.to_owned(), place: leaf.to_string() }
}

fn values<'a>(
    leaves: &'a [(Arc<str>, Leaf)],
    columns: &'a mut [Column],
    row: usize,
    last: bool,
) -> impl Iterator<Item = (Arc<str>, Value)> {
    leaves.iter().zip(columns).filter_map(move |((name, _), column)| Some((name.clone(), column.take(row, last)?)))
}

/// How many points there are: as many as the arrays have elements, which must be equally many.
pub(super) fn rows<'a>(columns: impl Iterator<Item = (&'a Leaf, &'a Column)>) -> Result<usize, TemplateError> {
    let lists: Vec<(&Leaf, usize)> = columns
        .filter_map(|(leaf, column)| match column {
            Column::Each(values) => Some((leaf, values.len())),
            Column::One(_) => None,
        })
        .collect();
    let Some((_, length)) = lists.first() else { return Ok(1) };
    if lists.iter().any(|(_, other)| other != length) {
        let lengths: Vec<String> = lists.iter().map(|(leaf, length)| format!("{leaf} {length}")).collect();
        return Err(TemplateError::Lengths(lengths.join(", ")));
    }
    Ok(*length)
}

/// A number of units since 1970, in ns. Exact for whole numbers and decimal fractions.
pub(super) fn time(value: &Value, unit: Unit) -> Result<i128, TemplateError> {
    let written = text(value);
    let ns = exact(&written, unit).or_else(|| match value {
        Value::Number(number) => rounded(number, unit),
        _ => None,
    });
    ns.ok_or_else(|| TemplateError::Time(shortened(&written), unit.name()))
}

/// Digits, with or without a decimal point and more digits.
fn exact(written: &str, unit: Unit) -> Option<i128> {
    let (digits, fraction) = written.split_once('.').unwrap_or((written, "0"));
    // Beyond nanoseconds there is nothing to tell apart.
    let fraction = fraction.get(..fraction.len().min(18)).filter(|f| f.bytes().all(|b| b.is_ascii_digit()))?;
    let whole: i64 = digits.parse().ok()?;
    let part: i64 = fraction.parse().ok()?;
    let per_unit = i128::from(unit.ns());
    let part = i128::from(part) * per_unit / 10_i128.pow(u32::try_from(fraction.len()).ok()?);
    Some(i128::from(whole) * per_unit + if digits.starts_with('-') { -part } else { part })
}

/// With an exponent.
fn rounded(number: &str, unit: Unit) -> Option<i128> {
    let ns = number.parse::<f64>().ok()? * unit.ns() as f64;
    // Far beyond what any database has, and within what the conversion keeps.
    (ns.abs() < 1e30).then_some(ns.round() as i128)
}

/// The beginning of a text that a message brought.
fn shortened(text: &str) -> String {
    text.chars().take(64).collect()
}

impl Point {
    /// About how many bytes it takes.
    #[must_use]
    pub fn len(&self) -> usize {
        let tags: usize = self.tags.iter().map(|(name, value)| name.len() + value.len() + 2).sum();
        let fields: usize = self.fields.iter().map(|(name, value)| name.len() + value.len() + 2).sum();
        64 + self.measurement.len() + tags + fields
    }

    /// Never: a point has a field.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    /// What tells its series from others: the measurement and the tags.
    #[must_use]
    pub fn series(&self) -> u64 {
        use std::hash::{DefaultHasher, Hash, Hasher};
        let mut hasher = DefaultHasher::new();
        (&self.measurement, &self.tags).hash(&mut hasher);
        hasher.finish()
    }
}
