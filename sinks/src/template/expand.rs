//! Leaves become columns: one value, or one for each element of an array.

use std::borrow::Cow;
use std::cell::OnceCell;

use super::json::Json;
use super::{Facts, Leaf, POINTS_MAX, Placeholder, Step, TemplateError, Unit, Value};
use crate::rule::Location;

/// What a leaf stands for in the rows of one message. `None` where there is nothing.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Column {
    /// The same in each row.
    One(Option<Value>),
    /// One for each row.
    Each(Vec<Option<Value>>),
}

impl Column {
    pub(super) fn get(&self, row: usize) -> Option<&Value> {
        match self {
            Column::One(value) => value.as_ref(),
            Column::Each(values) => values.get(row)?.as_ref(),
        }
    }

    /// Takes the value of a row, which is not asked for again; of the last row nothing is copied.
    pub(super) fn take(&mut self, row: usize, last: bool) -> Option<Value> {
        match self {
            Column::One(value) if last => value.take(),
            Column::One(value) => value.clone(),
            Column::Each(values) => values.get_mut(row)?.take(),
        }
    }
}

/// Fills in leaves for one message. The payload is parsed once, and only if a leaf looks into it.
pub(super) struct Expander<'a> {
    facts: &'a Facts<'a>,
    unit: Unit,
    at: &'a Location,
    payload: OnceCell<Result<Json<'a>, String>>,
}

impl<'a> Expander<'a> {
    pub(super) fn new(facts: &'a Facts<'a>, unit: Unit, at: &'a Location) -> Expander<'a> {
        Expander { facts, unit, at, payload: OnceCell::new() }
    }

    pub(super) fn column(&self, leaf: &Leaf) -> Result<Column, TemplateError> {
        match leaf {
            Leaf::Literal(value) => Ok(Column::One(Some(value.clone()))),
            Leaf::Placeholder(placeholder) => Ok(Column::One(Some(self.fact(*placeholder)))),
            Leaf::Payload(steps) if steps.is_empty() => self.whole().map(Column::One),
            Leaf::Payload(steps) => {
                let json = self.json()?;
                match walk(json, steps).map_err(|found| TemplateError::NotArray(leaf.to_string(), found))? {
                    Found::One(value) => Ok(Column::One(value.and_then(scalar))),
                    Found::Each(values) if values.len() > POINTS_MAX => Err(TemplateError::TooMuch),
                    Found::Each(values) => {
                        Ok(Column::Each(values.into_iter().map(|value| value.and_then(scalar)).collect()))
                    }
                }
            }
        }
    }

    fn fact(&self, placeholder: Placeholder) -> Value {
        let message = self.facts.message;
        match placeholder {
            Placeholder::Id => Value::Text(self.facts.msgid.to_string()),
            Placeholder::ClientId => Value::Text(message.publisher.to_string()),
            Placeholder::Username => Value::Text(message.username.to_string()),
            Placeholder::PeerHost => Value::Text(message.peer.to_string()),
            Placeholder::Topic => Value::Text(message.topic.to_string()),
            Placeholder::Qos => Value::Integer(u64::from(message.qos as u8)),
            Placeholder::Timestamp => Value::Integer(self.unit.of_us(self.facts.time_us)),
        }
    }

    fn json(&self) -> Result<&Json<'a>, TemplateError> {
        let parsed = self.payload.get_or_init(|| Json::parse(&self.facts.message.payload).map_err(|e| e.to_string()));
        parsed.as_ref().map_err(|error| TemplateError::NotJson(error.clone(), self.at.to_string()))
    }

    /// A payload that is a single JSON value is that; any other is the text that it is.
    fn whole(&self) -> Result<Option<Value>, TemplateError> {
        match self.json() {
            Ok(Json::Object(_) | Json::List(_)) | Err(_) => {
                let text = std::str::from_utf8(&self.facts.message.payload).map_err(|_| TemplateError::NotText)?;
                Ok(Some(Value::Text(text.to_owned())))
            }
            Ok(json) => Ok(scalar(json)),
        }
    }
}

enum Found<'a> {
    One(Option<&'a Json<'a>>),
    Each(Vec<Option<&'a Json<'a>>>),
}

/// Follows a path. The error is what was found where an array was wanted.
fn walk<'a>(mut json: &'a Json<'a>, steps: &[Step]) -> Result<Found<'a>, &'static str> {
    let mut rest = steps.iter();
    while let Some(step) = rest.next() {
        let next = match step {
            Step::Key(key) => json.get(key),
            Step::Nth(n) => json.nth(*n),
            Step::Each => {
                let items = match json {
                    Json::List(items) => items,
                    Json::Null => return Ok(Found::One(None)),
                    other => return Err(other.kind()),
                };
                let mut found = Vec::new();
                for item in items {
                    match walk(item, rest.as_slice())? {
                        Found::One(value) => found.push(value),
                        Found::Each(values) => found.extend(values),
                    }
                }
                return Ok(Found::Each(found));
            }
        };
        match next {
            Some(value) => json = value,
            None => return Ok(Found::One(None)),
        }
    }
    Ok(Found::One(Some(json)))
}

/// `null` is nothing; objects and arrays are the text of their JSON.
fn scalar(json: &Json<'_>) -> Option<Value> {
    match json {
        Json::Null => None,
        Json::Bool(value) => Some(Value::Boolean(*value)),
        Json::Number(number) => Some(Value::Number(number.to_string())),
        Json::Text(text) => Some(Value::Text(text.clone().into_owned())),
        Json::List(_) | Json::Object(_) => Some(Value::Document(json.document().to_string())),
    }
}

/// The text of a value, borrowed where it is one.
pub(super) fn text(value: &Value) -> Cow<'_, str> {
    match value {
        Value::Text(text) | Value::Number(text) | Value::Document(text) => Cow::Borrowed(text),
        other => Cow::Owned(other.text()),
    }
}
