//! Templates of statements: `{"name": …, "sql": "insert into t values ($1, $2)", "param_keys": […]}`.
//!
//! The first of `param_keys` is what stands for `$1`, and so on. Values are bound, never spliced in. `$0` in a path gives one run of the
//! statement for each element.

use std::collections::HashMap;
use std::sync::Arc;

use super::expand::{Column, Expander};
use super::outline::places;
use super::parse::Parser;
use super::points::{rows, time};
use super::{BYTES_MAX, Facts, Leaf, Placeholder, TemplateError, Unit, Value};
use crate::rule::document::{Data, Node};
use crate::rule::source::Span;
use crate::rule::{Location, statement_faults};

/// How one run of a statement, or several, is made from a message.
#[derive(Clone, Debug)]
pub struct StatementTemplate {
    /// Its name, which no other template of the file has.
    pub name: String,
    /// The statement with `$1`, `$2`, …
    pub sql: Arc<str>,
    /// What stands for them.
    pub params: Vec<Leaf>,
    /// The unit of `$timestamp` and of times in payloads. Without it `$timestamp` is in ns, and numbers of payloads are no times.
    pub unit: Option<Unit>,
    /// Where it stands.
    pub at: Location,
}

/// A parameter of a statement.
#[derive(Clone, Debug, PartialEq)]
pub enum Parameter {
    /// There is nothing at that place of the payload, or `null`.
    Null,
    /// A value.
    Value(Value),
    /// A value that is a time as well, ns since 1970.
    Time(Value, i128),
    /// The payload as it is.
    Payload,
}

impl StatementTemplate {
    /// The parameters of each run: one, or one for each element of the arrays that `$0` stands for.
    ///
    /// # Errors
    /// Where the message does not fit the template.
    pub fn rows(&self, facts: &Facts<'_>) -> Result<Vec<Vec<Parameter>>, TemplateError> {
        let expander = Expander::new(facts, self.unit.unwrap_or(Unit::Ns), &self.at);
        let columns: Vec<Column> = self
            .params
            .iter()
            // The whole payload needs no place in it, nor to be JSON.
            .map(|leaf| if whole(leaf) { Ok(Column::One(None)) } else { expander.column(leaf) })
            .collect::<Result<_, _>>()?;
        let count = rows(self.params.iter().zip(&columns))?;
        let mut all = Vec::with_capacity(count);
        let mut bytes = 0;
        for row in 0..count {
            let made: Vec<Parameter> = self
                .params
                .iter()
                .zip(&columns)
                .map(|(leaf, column)| self.parameter(leaf, column.get(row), facts))
                .collect();
            bytes += 64 + made.iter().map(|parameter| parameter.len(facts)).sum::<usize>();
            if bytes > BYTES_MAX {
                return Err(TemplateError::TooMuch);
            }
            all.push(made);
        }
        Ok(all)
    }

    fn parameter(&self, leaf: &Leaf, value: Option<&Value>, facts: &Facts<'_>) -> Parameter {
        match (leaf, value) {
            (leaf, _) if whole(leaf) => Parameter::Payload,
            (_, None) => Parameter::Null,
            (Leaf::Placeholder(Placeholder::Timestamp), Some(value)) => {
                Parameter::Time(value.clone(), i128::from(facts.time_us) * 1_000)
            }
            (Leaf::Payload(_), Some(value @ (Value::Number(_) | Value::Text(_)))) => {
                match self.unit.and_then(|unit| time(value, unit).ok()) {
                    Some(ns) => Parameter::Time(value.clone(), ns),
                    None => Parameter::Value(value.clone()),
                }
            }
            (_, Some(value)) => Parameter::Value(value.clone()),
        }
    }
}

fn whole(leaf: &Leaf) -> bool {
    matches!(leaf, Leaf::Payload(steps) if steps.is_empty())
}

impl Parameter {
    fn len(&self, facts: &Facts<'_>) -> usize {
        match self {
            Parameter::Null => 1,
            Parameter::Value(value) | Parameter::Time(value, _) => value.len(),
            Parameter::Payload => facts.message.payload.len(),
        }
    }
}

/// Names of templates with their places.
pub(super) type Names = HashMap<String, Span>;

impl Parser {
    pub(super) fn statement(&mut self, node: &Node, names: &mut Names) -> Option<StatementTemplate> {
        let fields = self.object(node)?;
        let before = self.fault_count();
        self.check_names(fields, &["name", "sql", "param_keys", "timestamp_unit"]);
        let find = |name: &str| fields.iter().find(|field| field.name == name);
        let name = self.needed(node, find("name"), "name").and_then(|node| self.name(node, names));
        let keys = self.needed(node, find("param_keys"), "param_keys").and_then(|node| self.params(node));
        let sql = self.needed(node, find("sql"), "sql").and_then(|node| self.sql(node, keys.as_deref()));
        let unit = find("timestamp_unit").and_then(|field| self.unit(&field.value));
        if self.fault_count() > before {
            return None;
        }
        let at = self.source.locate(node.span.start);
        Some(StatementTemplate {
            name: name?,
            sql: sql?,
            params: keys?.into_iter().map(|(_, leaf)| leaf).collect(),
            unit,
            at,
        })
    }

    fn name(&mut self, node: &Node, names: &mut Names) -> Option<String> {
        let Some(name) = node.text().filter(|name| !name.is_empty()) else {
            self.fault(node.span, format!("expected the template's name, found {}", node.kind()), None);
            return None;
        };
        if let Some(first) = names.insert(name.to_owned(), node.span) {
            let first = self.source.locate(first.start);
            let help = format!("first at {first}; a dead letter says by it which template it came from");
            self.fault(node.span, format!("two templates have the name `{name}`"), Some(help));
        }
        Some(name.to_owned())
    }

    fn params(&mut self, node: &Node) -> Option<Vec<(Span, Leaf)>> {
        let Data::List(items) = &node.data else {
            let help = r#"a list: its first element is what `$1` stands for, e.g. ["$clientid", ["$payload", "temp"]]"#;
            self.fault(node.span, format!("expected a list, found {}", node.kind()), Some(help.to_owned()));
            return None;
        };
        let leaves: Vec<(Span, Leaf)> =
            items.iter().filter_map(|item| self.leaf(item).map(|leaf| (item.span, leaf))).collect();
        (leaves.len() == items.len()).then_some(leaves)
    }

    fn sql(&mut self, node: &Node, keys: Option<&[(Span, Leaf)]>) -> Option<Arc<str>> {
        let Some(sql) = node.text() else {
            self.fault(node.span, format!("expected a statement as a text, found {}", node.kind()), None);
            return None;
        };
        for fault in statement_faults(sql) {
            self.fault(self.inside(node.span, sql, fault.start, fault.end), fault.message, fault.help);
        }
        let keys = keys?;
        let places = places(sql);
        for place in &places {
            let number = place.number;
            let why = match number {
                0 => "parameters count from `$1`".to_owned(),
                n if n > keys.len() => format!("`param_keys` has {} of them", keys.len()),
                _ => continue,
            };
            let span = self.inside(node.span, sql, place.at.start, place.at.end);
            self.fault(span, format!("nothing stands for `${number}`"), Some(why));
        }
        for (n, (span, leaf)) in (1..).zip(keys) {
            if !places.iter().any(|place| place.number == n) {
                let help = format!("write `${n}` where its value goes, or remove it");
                self.fault(*span, format!("{leaf} is not used in `sql`"), Some(help));
            }
        }
        Some(sql.into())
    }

    /// Part of a text, where the file has it letter by letter; else all of it.
    fn inside(&self, quoted: Span, text: &str, start: usize, end: usize) -> Span {
        let verbatim = (quoted.start + 1)..quoted.end.saturating_sub(1);
        if self.source.text.get(verbatim.clone()) == Some(text) && verbatim.start + start < verbatim.end {
            Span { start: verbatim.start + start, end: verbatim.start + end.max(start + 1), ..quoted }
        } else {
            quoted
        }
    }
}
