//! Points become puts.

use forebay_engine::event::Message;
use serde_json::{Map, Number, Value as Json};

use crate::sink::{EncodeError, SinkRecord};
use crate::template::{Maker, Moment, Point, Unit, Value};

/// A point, ready to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Put {
    /// A JSON object.
    pub json: String,
    /// It is not at its record's time, because another point was there.
    pub moved: bool,
}

/// The puts of a message; `None` where no template is for its topic.
pub(super) fn puts(maker: &Maker, record: &SinkRecord, message: &Message) -> Result<Option<Vec<Put>>, EncodeError> {
    let Some(points) = maker.points(record, message).map_err(fault)? else { return Ok(None) };
    let mut puts = Vec::with_capacity(points.len());
    for (point, moment) in points {
        let (time, moved) = match moment {
            Moment::Own { time, moved } => (i128::from(time), moved),
            Moment::Given(ns) => (ns.div_euclid(i128::from(maker.unit().ns())), false),
        };
        puts.push(Put { json: put(&point, timestamp(time, maker.unit())?)?, moved });
    }
    Ok(Some(puts))
}

fn fault(reason: impl ToString) -> EncodeError {
    EncodeError { reason: reason.to_string() }
}

/// OpenTSDB takes a number that needs more than 32 bits for milliseconds, and any other for seconds.
fn timestamp(time: i128, unit: Unit) -> Result<u64, EncodeError> {
    let limit = i128::from(u32::MAX);
    let fits = match unit {
        Unit::S => 0 < time && time <= limit,
        _ => limit < time && time <= 9_999_999_999_999,
    };
    let found = u64::try_from(time).ok().filter(|_| fits);
    found.ok_or_else(|| fault(format!("the time {time} {} is none that OpenTSDB can store", unit.name())))
}

fn put(point: &Point, timestamp: u64) -> Result<String, EncodeError> {
    let mut tags = Map::new();
    for (name, value) in &point.tags {
        tags.insert(sanitised(name), Json::from(sanitised(value)));
    }
    if tags.is_empty() {
        return Err(fault(crate::template::TemplateError::NoTags("OpenTSDB")));
    }
    let value = point.fields.first().map(|(_, value)| number(value)).transpose()?;
    let mut put = Map::new();
    put.insert("metric".into(), sanitised(&point.measurement).into());
    put.insert("timestamp".into(), timestamp.into());
    put.insert("value".into(), value.map_or(Json::Null, Json::Number));
    put.insert("tags".into(), Json::Object(tags));
    Ok(Json::Object(put).to_string())
}

/// A text that holds a number is that number: devices send such.
fn number(value: &Value) -> Result<Number, EncodeError> {
    let found = match value {
        Value::Integer(number) => Some(Number::from(*number)),
        Value::Number(text) => serde_json::from_str(text).ok(),
        Value::Text(text) => serde_json::from_str(text.trim()).ok(),
        Value::Boolean(_) | Value::Document(_) => None,
    };
    // Whole numbers have 63 bits and a sign in OpenTSDB.
    let found = found.filter(|number: &Number| !number.is_u64() || number.as_i64().is_some());
    found.ok_or_else(|| {
        let shown: String = value.text().chars().take(64).collect();
        fault(format!("the value `{shown}` is no number, or too large: OpenTSDB stores numbers only"))
    })
}

/// A name as OpenTSDB takes it: letters, digits and `-_./`. Any other character is written as `_x` with its hexadecimal number
/// and `_`; so is an underscore where that would be ambiguous. Two names that differ stay two.
#[must_use]
pub fn sanitised(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    let mut rest = name.chars();
    while let Some(c) = rest.next() {
        let mut ahead = rest.clone();
        let looks_escaped = c == '_' && ahead.next() == Some('x') && ahead.next().is_some_and(is_hex);
        if allowed(c) && !looks_escaped {
            out.push(c);
        } else {
            out += &format!("_x{:X}_", u32::from(c));
        }
    }
    out
}

fn is_hex(c: char) -> bool {
    matches!(c, '0'..='9' | 'A'..='F')
}

/// Java looks at units of 16 bits, in which letters beyond are none.
fn allowed(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/') || (u32::from(c) <= 0xffff && c.is_alphabetic())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The name before it was sanitised.
    fn original(name: &str) -> String {
        let mut out = String::new();
        let mut rest = name;
        while let Some(c) = rest.chars().next() {
            let escape = rest.strip_prefix("_x").and_then(|tail| {
                let (digits, tail) = tail.split_once('_')?;
                let c = char::from_u32(u32::from_str_radix(digits, 16).ok()?)?;
                digits.chars().all(is_hex).then_some((c, tail))
            });
            match escape {
                Some((c, tail)) => {
                    out.push(c);
                    rest = tail;
                }
                None => {
                    out.push(c);
                    rest = &rest[c.len_utf8()..];
                }
            }
        }
        out
    }

    #[test]
    fn names_are_letters_digits_and_four_marks() {
        assert_eq!(sanitised("sensor/1-a_b.c"), "sensor/1-a_b.c");
        assert_eq!(sanitised("a b:c"), "a_x20_b_x3A_c");
        assert_eq!(sanitised("温度"), "温度");
        assert_eq!(sanitised("🦀"), "_x1F980_");
        assert_eq!(sanitised("_x20_"), "_x5F_x20_");
    }

    proptest! {
        #[test]
        fn names_that_differ_stay_two(name in "(_|x|2|0|F| |\\+|ä|🦀|a){0,12}") {
            let clean = sanitised(&name);
            prop_assert!(clean.chars().all(allowed));
            prop_assert_eq!(original(&clean), name);
        }
    }

    #[test]
    fn values_are_numbers_and_times_have_their_digits() {
        let text = |text: &str| number(&Value::Text(text.into())).ok().map(|n| n.to_string());
        assert_eq!(text("21.5").as_deref(), Some("21.5"));
        assert_eq!(text(" 7 ").as_deref(), Some("7"));
        for bad in ["", "x", "NaN", "0x1", "1 2", "18446744073709551615", "true"] {
            assert_eq!(text(bad), None, "{bad}");
        }
        assert!(number(&Value::Boolean(true)).is_err());
        assert_eq!(timestamp(1_600_000_000, Unit::S).unwrap(), 1_600_000_000);
        assert_eq!(timestamp(1_600_000_000_000, Unit::Ms).unwrap(), 1_600_000_000_000);
        for (time, unit) in [(0, Unit::S), (5_000_000_000, Unit::S), (1_600_000_000, Unit::Ms), (-1, Unit::Ms)] {
            assert!(timestamp(time, unit).is_err(), "{time} {unit:?}");
        }
    }
}
