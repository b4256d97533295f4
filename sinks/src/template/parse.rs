//! Template files: JSON, every fault with its place.

use std::path::Path;
use std::sync::Arc;

use forebay_engine::topic;

use super::statement::Names;
use super::{Leaf, Placeholder, Shape, StatementTemplate, Step, Template, Templates, Unit, Value};
use crate::rule::document::{Data, Field, Node};
use crate::rule::json::parse_json;
use crate::rule::names::suggestion;
use crate::rule::source::{Source, Span};
use crate::rule::{Fault, Faults};

/// Reads the text of a template file.
///
/// # Errors
/// All faults with their places.
pub fn parse(file: &Path, text: &str, shape: Shape) -> Result<Templates, Faults> {
    file_of(file, text, r#"{"measurement": "sensor", …}"#, |parser, node| parser.template(node, shape))
}

/// Reads the text of a file of templates of statements.
///
/// # Errors
/// All faults with their places.
pub fn parse_statements(file: &Path, text: &str) -> Result<Templates<StatementTemplate>, Faults> {
    let mut names = Names::default();
    let example = r#"{"name": "store", "sql": "insert into …", "param_keys": […]}"#;
    file_of(file, text, example, |parser, node| parser.statement(node, &mut names))
}

fn file_of<T>(
    file: &Path,
    text: &str,
    example: &str,
    template: impl FnMut(&mut Parser, &Node) -> Option<T>,
) -> Result<Templates<T>, Faults> {
    let mut parser = Parser { source: Source::new(file, text), faults: Vec::new() };
    let templates = match parse_json(text, 0, 0) {
        Ok(node) => parser.file(&node, example, template),
        Err(fault) => {
            parser.fault(fault.span, fault.message, fault.help);
            Vec::new()
        }
    };
    if parser.faults.is_empty() { Ok(Templates(templates)) } else { Err(Faults(parser.faults)) }
}

pub(super) fn unreadable(file: &Path, error: &std::io::Error) -> Faults {
    let source = Source::new(file, "");
    let help = "the file is a JSON object: a topic filter, then what its messages become; see docs/TEMPLATES.md";
    Faults(vec![Fault {
        at: source.locate(0),
        message: format!("the template file can't be read: {error}"),
        help: Some(help.to_owned()),
        excerpt: None,
    }])
}

pub(super) struct Parser {
    pub(super) source: Source,
    faults: Vec<Fault>,
}

impl Parser {
    pub(super) fn fault_count(&self) -> usize {
        self.faults.len()
    }

    pub(super) fn fault(&mut self, span: Span, message: String, help: Option<String>) {
        let at = self.source.locate(span.start);
        let width = self.source.text.get(span.start..span.end).map_or(1, |text| text.chars().count());
        let excerpt = self.source.excerpt(&at, width);
        self.faults.push(Fault { at, message, help, excerpt });
    }

    fn file<T>(
        &mut self,
        node: &Node,
        example: &str,
        mut template: impl FnMut(&mut Parser, &Node) -> Option<T>,
    ) -> Vec<(String, T)> {
        let Some(fields) = node.fields() else {
            let help = format!(r#"e.g. {{"sensor/#": {example}}}"#);
            self.fault(node.span, format!("expected an object, found {}", node.kind()), Some(help));
            return Vec::new();
        };
        if fields.is_empty() {
            self.fault(node.span, "there is no template in the file".to_owned(), None);
        }
        let mut templates = Vec::new();
        for field in fields {
            if let Err(error) = topic::check_filter(&field.name) {
                self.fault(field.at, format!("`{}` is no topic filter: {error}", field.name), None);
            }
            let single = std::slice::from_ref(&field.value);
            let nodes = match &field.value.data {
                Data::List(items) => items.as_slice(),
                _ => single,
            };
            for node in nodes {
                templates.extend(template(self, node).map(|template| (field.name.clone(), template)));
            }
        }
        templates
    }

    pub(super) fn object<'n>(&mut self, node: &'n Node) -> Option<&'n [Field]> {
        let fields = node.fields();
        if fields.is_none() {
            self.fault(node.span, format!("expected a template's object, found {}", node.kind()), None);
        }
        fields
    }

    fn template(&mut self, node: &Node, shape: Shape) -> Option<Template> {
        let fields = self.object(node)?;
        let before = self.faults.len();
        let values = match shape {
            Shape::Fields => "fields",
            Shape::Value => "value",
        };
        self.check_names(fields, &["measurement", "tags", values, "timestamp", "timestamp_unit"]);
        let find = |name: &str| fields.iter().find(|field| field.name == name);
        let measurement = self.needed(node, find("measurement"), "measurement").and_then(|node| self.leaf(node));
        let mut tags = find("tags").map(|field| self.leaves(&field.value, shape)).unwrap_or_default();
        tags.sort_by(|a, b| a.0.cmp(&b.0));
        let values = self.needed(node, find(values), values).map(|value| match shape {
            Shape::Fields => self.leaves(value, shape),
            Shape::Value => self.leaf(value).map(|leaf| ("value".into(), leaf)).into_iter().collect(),
        });
        if shape == Shape::Fields && values.as_ref().is_some_and(Vec::is_empty) && self.faults.len() == before {
            self.fault(node.span, "a point needs a field".to_owned(), None);
        }
        if shape == Shape::Value && tags.is_empty() && self.faults.len() == before {
            let help = r#"e.g. "tags": {"clientid": "$clientid"}"#.to_owned();
            self.fault(node.span, "OpenTSDB refuses points without a tag".to_owned(), Some(help));
        }
        let timestamp = find("timestamp").and_then(|field| self.timestamp(&field.value));
        let unit = find("timestamp_unit").and_then(|field| self.unit(&field.value));
        if self.faults.len() > before {
            return None;
        }
        let at = self.source.locate(node.span.start);
        Some(Template { measurement: measurement?, tags, fields: values?, timestamp, unit, at })
    }

    pub(super) fn needed<'n>(&mut self, whole: &Node, field: Option<&'n Field>, name: &str) -> Option<&'n Node> {
        if field.is_none() {
            self.fault(whole.span, format!("the template has no `{name}`"), None);
        }
        field.map(|field| &field.value)
    }

    pub(super) fn check_names(&mut self, fields: &[Field], known: &[&str]) {
        for (i, field) in fields.iter().enumerate() {
            if !known.contains(&field.name.as_str()) {
                let help = suggestion(&field.name, known);
                self.fault(field.at, format!("unknown name `{}` in a template", field.name), Some(help));
            }
            self.check_twice(fields, i, field);
        }
    }

    fn check_twice(&mut self, fields: &[Field], i: usize, field: &Field) {
        if let Some(first) = fields.iter().take(i).find(|other| other.name == field.name) {
            let first = self.source.locate(first.at.start);
            self.fault(field.at, format!("`{}` is given twice", field.name), Some(format!("first at {first}")));
        }
    }

    /// Names with their leaves: tags or fields.
    fn leaves(&mut self, node: &Node, shape: Shape) -> Vec<(Arc<str>, Leaf)> {
        let Some(fields) = node.fields() else {
            self.fault(node.span, format!("expected an object, found {}", node.kind()), None);
            return Vec::new();
        };
        let mut leaves = Vec::new();
        for (i, field) in fields.iter().enumerate() {
            self.check_twice(fields, i, field);
            let why = match field.name.as_str() {
                "" => Some("is empty"),
                // InfluxDB takes the point and drops it, or only that field.
                "time" if shape == Shape::Fields => Some("is the point's own time in InfluxDB"),
                name if name.chars().any(char::is_control) => Some("has a control character in it"),
                name if name.ends_with('\\') || ["\\,", "\\=", "\\ "].iter().any(|pair| name.contains(pair)) => {
                    Some("has a backslash where InfluxDB's lines can't say it")
                }
                _ => None,
            };
            if let Some(why) = why {
                self.fault(field.at, format!("the name `{}` {why}", field.name), None);
            }
            leaves.extend(self.leaf(&field.value).map(|leaf| (field.name.as_str().into(), leaf)));
        }
        leaves
    }

    pub(super) fn leaf(&mut self, node: &Node) -> Option<Leaf> {
        match &node.data {
            Data::Text(text) => self.word(node, text),
            Data::Integer(number) => Some(Leaf::Literal(Value::Number(number.to_string()))),
            Data::Other(number) => Some(Leaf::Literal(Value::Number(number.clone()))),
            Data::Boolean(value) => Some(Leaf::Literal(Value::Boolean(*value))),
            Data::List(items) => self.path(node, items),
            Data::Null | Data::Table(_) => {
                let help = r#"a value, a placeholder such as "$clientid", or a path such as ["$payload", "temp"]"#;
                self.fault(node.span, format!("found {}", node.kind()), Some(help.to_owned()));
                None
            }
        }
    }

    fn word(&mut self, node: &Node, text: &str) -> Option<Leaf> {
        if !text.starts_with('$') {
            return Some(Leaf::Literal(Value::Text(text.to_owned())));
        }
        if text == "$payload" {
            return Some(Leaf::Payload(Vec::new()));
        }
        let found = Placeholder::ALL.into_iter().find(|placeholder| placeholder.name() == text);
        if found.is_none() {
            let mut known = vec!["$payload"];
            known.extend(Placeholder::ALL.map(Placeholder::name));
            let help = match text.get(1..) {
                Some(digits) if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) => {
                    format!(r#"it belongs into a path: ["$payload", …, "{text}"]"#)
                }
                _ => suggestion(text, &known),
            };
            self.fault(node.span, format!("unknown placeholder `{text}`"), Some(help));
        }
        found.map(Leaf::Placeholder)
    }

    fn path(&mut self, node: &Node, items: &[Node]) -> Option<Leaf> {
        let mut items = items.iter();
        if items.next().and_then(Node::text) != Some("$payload") {
            let help = r#"e.g. ["$payload", "data", "$0", "temp"]"#.to_owned();
            self.fault(node.span, "a path begins with `$payload`".to_owned(), Some(help));
            return None;
        }
        let before = self.faults.len();
        let steps = items.filter_map(|item| self.step(item)).collect();
        (self.faults.len() == before).then_some(Leaf::Payload(steps))
    }

    fn step(&mut self, item: &Node) -> Option<Step> {
        let Some(text) = item.text() else {
            let help = match item.data {
                Data::Integer(n) => {
                    Some(format!("for an element of an array write \"${}\": the first is $1", n.max(1)))
                }
                _ => None,
            };
            self.fault(item.span, format!("expected a name or `$n`, found {}", item.kind()), help);
            return None;
        };
        match text.strip_prefix('$') {
            Some("0") => Some(Step::Each),
            Some(digits) if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) => {
                match digits.parse::<usize>() {
                    Ok(n) if n > 0 => Some(Step::Nth(n)),
                    _ => {
                        self.fault(item.span, format!("`{text}` is no element's number"), None);
                        None
                    }
                }
            }
            Some("id" | "clientid" | "username" | "peerhost" | "qos" | "topic" | "payload" | "timestamp") => {
                self.fault(item.span, format!("`{text}` can't stand inside a path"), None);
                None
            }
            _ => Some(Step::Key(text.to_owned())),
        }
    }

    fn timestamp(&mut self, node: &Node) -> Option<Leaf> {
        let leaf = self.leaf(node)?;
        if !matches!(leaf, Leaf::Placeholder(Placeholder::Timestamp) | Leaf::Payload(_)) {
            let help = r#""$timestamp", or a path such as ["$payload", "time"]"#.to_owned();
            self.fault(node.span, "this is no time of a message".to_owned(), Some(help));
        }
        Some(leaf)
    }

    pub(super) fn unit(&mut self, node: &Node) -> Option<Unit> {
        let unit = node.text().and_then(Unit::parse);
        if unit.is_none() {
            let names = Unit::ALL.map(|(name, _)| name).join(", ");
            self.fault(node.span, "no unit of time".to_owned(), Some(format!("one of {names}")));
        }
        unit
    }
}
