//! Messages become statements with their values.

use forebay_engine::event::Message;

use crate::sink::{EncodeError, SinkRecord};
use crate::sql::{Form, Json, SqlOp, Value, shown};
use crate::template::{Facts, Parameter, StatementTemplate, Templates, Unit, outline};

/// The statements of a message, in the order of the templates; `None` where no template is for its topic.
pub(super) fn statements(
    templates: &Templates<StatementTemplate>,
    record: &SinkRecord,
    message: &Message,
) -> Result<Option<Vec<SqlOp>>, EncodeError> {
    // Templates of statements say their units themselves.
    let facts = Facts { message, msgid: record.msgid, time_us: record.time_us, unit: Unit::Ns };
    let mut found = false;
    let mut statements = Vec::new();
    for template in templates.matching(&message.topic) {
        found = true;
        let rows = template.rows(&facts).map_err(|error| EncodeError { reason: error.to_string() })?;
        statements.extend(rows.into_iter().map(|row| SqlOp::Statement {
            sql: template.sql.clone(),
            values: row.into_iter().map(|parameter| value(parameter, message)).collect(),
        }));
    }
    Ok(found.then_some(statements))
}

fn value(parameter: Parameter, message: &Message) -> Value {
    match parameter {
        Parameter::Null => Value::Null,
        Parameter::Value(value) => json(&value, None),
        // Beyond what 64 bits of us hold it is no time that a database has.
        Parameter::Time(value, ns) => json(&value, i64::try_from(ns.div_euclid(1_000)).ok()),
        Parameter::Payload => match Value::of_bytes(&message.payload) {
            Value::Text(text) => Value::Json(Json { text, form: Form::Payload, time_us: None }),
            other => other,
        },
    }
}

fn json(value: &crate::template::Value, time_us: Option<i64>) -> Value {
    use crate::template::Value as Found;
    let form = match value {
        Found::Text(_) => Form::String,
        Found::Number(_) | Found::Integer(_) | Found::Boolean(_) => Form::Scalar,
        Found::Document(_) => Form::Document,
    };
    Value::Json(Json { text: value.text().into(), form, time_us })
}

/// A statement with its values where they go.
pub(super) fn rendered(sql: &str, values: &[Value]) -> String {
    outline::replaced(sql, |number| values.get(number.checked_sub(1)?).map(shown))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
mod tests {
    use forebay_engine::event::Published;
    use forebay_engine::{Event, Lsn, MsgId, QoS};

    use super::*;
    use crate::template::parse_statements;

    const TIME_US: u64 = 1_560_745_505_429_670;

    fn record(message: &Message) -> SinkRecord {
        let event = Event::Published(Published { message: message.clone(), packet_id: None, epoch: 1 });
        SinkRecord { lsn: Lsn(7), time_us: TIME_US, msgid: MsgId::new(TIME_US, 1, Lsn(7)), event }
    }

    fn made(template: &str, payload: &[u8]) -> Result<Vec<String>, String> {
        let templates = parse_statements(std::path::Path::new("t.tmpl"), template).unwrap();
        let message = Message {
            topic: "s/1".into(),
            payload: payload.to_vec().into(),
            qos: QoS::AtLeastOnce,
            publisher: "it's me".into(),
            ..Message::default()
        };
        let made = statements(&templates, &record(&message), &message).map_err(|error| error.reason)?;
        Ok(made
            .unwrap()
            .iter()
            .map(|op| match op {
                SqlOp::Statement { sql, values } => rendered(sql, values),
                other => panic!("{other:?}"),
            })
            .collect())
    }

    #[test]
    fn statements_are_shown_with_their_values() {
        let template = r##"{"s/#": [
            {"name": "a", "sql": "insert into t values (NOW(), $2, $1, '$1')", "param_keys": ["$clientid", ["$payload", "v", "$0"]]},
            {"name": "b", "sql": "select f($1, $2, $3, $4)", "param_keys": ["$timestamp", ["$payload", "x"], "$payload", ["$payload", "v"]],
             "timestamp_unit": "s"}]}"##;
        assert_eq!(
            made(template, br#"{"v": [1.5, null, true, "x"]}"#).unwrap(),
            [
                "insert into t values (NOW(), 1.5, 'it''s me', '$1')",
                "insert into t values (NOW(), null, 'it''s me', '$1')",
                "insert into t values (NOW(), true, 'it''s me', '$1')",
                "insert into t values (NOW(), 'x', 'it''s me', '$1')",
                r#"select f(1560745505, null, '{"v": [1.5, null, true, "x"]}', '[1.5,null,true,"x"]')"#,
            ]
        );
        assert!(made(template, b"no JSON").unwrap_err().contains("t.tmpl:2:13"));
        let whole = r##"{"#": {"name": "a", "sql": "insert into t values ($1)", "param_keys": ["$payload"]}}"##;
        assert_eq!(made(whole, b"\xff").unwrap(), ["insert into t values (x'ff')"]);
        assert_eq!(made(whole, b"\"q\"").unwrap(), ["insert into t values ('\"q\"')"]);
    }

    #[test]
    fn a_time_is_what_the_unit_makes_of_a_number() {
        let times = |unit: &str, payload: &[u8]| {
            let template = format!(
                r##"{{"#": {{"name": "a", "sql": "insert into t values ($1, $2)", "param_keys": ["$timestamp", ["$payload", "at"]]{unit}}}}}"##
            );
            let templates = parse_statements(std::path::Path::new("t.tmpl"), &template).unwrap();
            let message = Message { payload: payload.to_vec().into(), ..Message::default() };
            let made = statements(&templates, &record(&message), &message).unwrap().unwrap();
            let SqlOp::Statement { values, .. } = &made[0] else { panic!("{made:?}") };
            let of = |value: &Value| match value {
                Value::Json(json) => (json.text.to_string(), json.time_us),
                other => panic!("{other:?}"),
            };
            values.iter().map(of).collect::<Vec<_>>()
        };
        let own = TIME_US.cast_signed();
        assert_eq!(
            times("", br#"{"at": 1560745505}"#),
            [("1560745505429670000".to_owned(), Some(own)), ("1560745505".to_owned(), None)]
        );
        assert_eq!(
            times(r#", "timestamp_unit": "s""#, br#"{"at": 1560745505.25}"#),
            [("1560745505".to_owned(), Some(own)), ("1560745505.25".to_owned(), Some(1_560_745_505_250_000))]
        );
        assert_eq!(
            times(r#", "timestamp_unit": "ms""#, br#"{"at": "2019-06-17"}"#)[1].1,
            None,
            "a text is the server's to read"
        );
    }
}
