//! Points become lines.
//!
//! What the protocol can't say is refused, never altered: control characters in a series (a line ends at the first line feed), a
//! backslash at the end of a name or tag (it would take the separator with it) or before what separates in a measurement, a
//! measurement that begins as a comment does.

use std::fmt::Write as _;

use forebay_engine::event::Message;

use super::config::{FieldType, InfluxConfig};
use crate::sink::{EncodeError, SinkRecord};
use crate::template::{Maker, Moment, Point, Value};

/// A point, ready to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Without its line feed.
    pub text: String,
    /// It is not at its record's time, because another point was there.
    pub moved: bool,
}

/// Makes lines of messages.
#[derive(Debug)]
pub(super) struct Encoder {
    pub(super) maker: Maker,
    field_type: FieldType,
}

impl Encoder {
    pub(super) fn new(config: &InfluxConfig) -> Encoder {
        let maker = Maker::new(config.templates.clone(), config.unit, config.payload_unit, config.same_time);
        Encoder { maker, field_type: config.field_type }
    }

    /// The lines of a message; `None` where no template is for its topic.
    pub(super) fn lines(&self, record: &SinkRecord, message: &Message) -> Result<Option<Vec<Line>>, EncodeError> {
        let Some(points) = self.maker.points(record, message).map_err(fault)? else { return Ok(None) };
        let mut lines = Vec::with_capacity(points.len());
        for (point, moment) in points {
            let (time, moved) = match moment {
                Moment::Own { time, moved } => (i128::from(time), moved),
                Moment::Given(ns) => (self.given(ns)?, false),
            };
            lines.push(Line { text: line(&point, time, self.field_type)?, moved });
        }
        Ok(Some(lines))
    }

    /// A time that the message brought, in the server's unit, within what 64 bits of nanoseconds hold.
    fn given(&self, ns: i128) -> Result<i128, EncodeError> {
        if i64::try_from(ns).is_err() {
            return Err(fault(format!("the time {ns} ns is not within the years that InfluxDB has (1677 to 2262)")));
        }
        Ok(ns.div_euclid(i128::from(self.maker.unit().ns())))
    }
}

fn fault(reason: impl ToString) -> EncodeError {
    EncodeError { reason: reason.to_string() }
}

/// One point as a line.
fn line(point: &Point, time: i128, field_type: FieldType) -> Result<String, EncodeError> {
    let mut text = String::with_capacity(point.len() + 24);
    if point.measurement.starts_with('#') {
        return Err(fault(format!(
            "the measurement `{}` begins with #, which makes a comment of it",
            point.measurement
        )));
    }
    if ["\\,", "\\=", "\\ "].iter().any(|pair| point.measurement.contains(pair)) {
        return Err(fault(format!(
            "the measurement `{}` has a backslash before a comma, an equals sign or a blank, which InfluxDB forgets",
            point.measurement
        )));
    }
    name(&mut text, &point.measurement, "measurement", &[',', ' '])?;
    for (key, value) in &point.tags {
        text.push(',');
        name(&mut text, key, "tag's name", SPECIAL)?;
        text.push('=');
        name(&mut text, value, key, SPECIAL)?;
    }
    for (i, (key, value)) in point.fields.iter().enumerate() {
        text.push(if i == 0 { ' ' } else { ',' });
        name(&mut text, key, "field's name", SPECIAL)?;
        text.push('=');
        field(&mut text, value, field_type);
    }
    // Writing into a String can't fail.
    let _ = write!(text, " {time}");
    Ok(text)
}

const SPECIAL: &[char] = &[',', '=', ' '];

/// A piece of the series, or a field's name.
fn name(text: &mut String, value: &str, what: &str, special: &[char]) -> Result<(), EncodeError> {
    if value.ends_with('\\') {
        return Err(fault(format!("`{value}` ({what}) ends with a backslash, which a line of InfluxDB can't say")));
    }
    // Most names have nothing of all this.
    if value.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b',' | b'=')) {
        text.push_str(value);
        return Ok(());
    }
    let mut rest = value;
    while let Some(at) = rest.find(|c: char| c.is_control() || special.contains(&c)) {
        let (plain, found) = rest.split_at(at);
        let c = found.chars().next().unwrap_or_default();
        if c.is_control() {
            let shown = value.escape_debug();
            return Err(fault(format!(
                "`{shown}` ({what}) has a control character, which a line of InfluxDB can't say"
            )));
        }
        text.push_str(plain);
        text.push('\\');
        text.push(c);
        rest = found.get(c.len_utf8()..).unwrap_or_default();
    }
    text.push_str(rest);
    Ok(())
}

fn field(text: &mut String, value: &Value, field_type: FieldType) {
    match (field_type, value) {
        // A number is a float whether the device sent 21 or 21.5: a field has one type.
        (FieldType::Native, Value::Number(number)) => *text += number,
        (FieldType::Native, Value::Integer(number)) => {
            // Writing into a String can't fail.
            let _ = write!(text, "{number}i");
        }
        (FieldType::Native, Value::Boolean(value)) => *text += if *value { "true" } else { "false" },
        (_, value) => {
            text.push('"');
            for c in value.text().chars() {
                if matches!(c, '"' | '\\') {
                    text.push('\\');
                }
                text.push(c);
            }
            text.push('"');
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;
    use crate::template::Time;

    fn point(measurement: &str, tags: &[(&str, &str)], fields: &[(&str, Value)]) -> Point {
        Point {
            measurement: measurement.into(),
            tags: tags.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect(),
            fields: fields.iter().map(|(k, v)| ((*k).into(), v.clone())).collect(),
            time: Time::Record,
        }
    }

    #[test]
    fn what_separates_is_escaped() {
        let point = point(
            "a b,c=d",
            &[("t k", "v=1,2 3\\x")],
            &[("f=", Value::Text("say \"hi\" \\ \n".into())), ("g", Value::Boolean(true))],
        );
        let text = line(&point, 7, FieldType::Native).unwrap();
        assert_eq!(text, "a\\ b\\,c=d,t\\ k=v\\=1\\,2\\ 3\\x f\\==\"say \\\"hi\\\" \\\\ \n\",g=true 7");
    }

    #[test]
    fn fields_are_what_they_are_or_texts() {
        let fields = [
            ("a", Value::Number("21".into())),
            ("b", Value::Integer(1)),
            ("c", Value::Boolean(false)),
            ("d", Value::Text("x".into())),
        ];
        let point = point("m", &[], &fields);
        assert_eq!(line(&point, 1, FieldType::Native).unwrap(), "m a=21,b=1i,c=false,d=\"x\" 1");
        assert_eq!(line(&point, 1, FieldType::CompatString).unwrap(), "m a=\"21\",b=\"1\",c=\"false\",d=\"x\" 1");
    }

    #[test]
    fn what_a_line_can_t_say_is_refused() {
        let value = [("v", Value::Integer(1))];
        for (measurement, tag) in [
            ("#m", "x"),
            ("m\\", "x"),
            ("a\\,b", "x"),
            ("a\\ b", "x"),
            ("a\\=b", "x"),
            ("m", "x\\"),
            ("m", "a\nb"),
            ("m\n", "x"),
        ] {
            let refused = line(&point(measurement, &[("t", tag)], &value), 1, FieldType::Native);
            assert!(refused.is_err(), "{measurement:?} {tag:?}");
        }
    }
}
