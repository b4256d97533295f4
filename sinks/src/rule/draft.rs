//! A rule's JSON object or TOML table becomes a [`Rule`].

use std::time::Duration;

use forebay_engine::topic;

use super::assemble::Builder;
use super::document::{Data, Field, Node};
use super::names::{StatementKind, suggestion};
use super::source::Span;
use super::{Action, Database, Function, Hook, OfflineOpts, PayloadFormat, Rule, Statement, parse_duration};

/// A rule whose pool has not been looked up yet.
pub(super) struct Draft {
    pub(super) rule: Rule,
    pub(super) pool_at: Span,
}

/// What is known of a rule before its object is read.
#[derive(Clone, Copy)]
pub(super) struct Head {
    pub(super) database: Database,
    pub(super) hook: Hook,
    pub(super) number: u32,
    pub(super) at: Span,
}

const COMMON: [&str; 5] = ["topic", "pool", "expired_time", "offline_opts", "payload_format"];
const ACTIONS: [&str; 4] = ["function", "commands", "sql", "cql"];

/// Reads the object of a `.conf` rule: its action is an object inside it.
pub(super) fn read_conf_rule(builder: &mut Builder, head: Head, node: &Node) {
    let Some(fields) = node.fields() else {
        return builder.fault(node.span, format!("expected a rule's JSON object, found {}", node.kind()), None);
    };
    let before = builder.fault_count();
    let known: Vec<&str> = COMMON.iter().chain(&["action"]).copied().collect();
    check_names(builder, fields, &known);
    let action = match find(fields, "action").map(|field| (&field.value, field.value.fields())) {
        Some((node, Some(inner))) => {
            check_names(builder, inner, &ACTIONS);
            read_action(builder, head, inner, node.span)
        }
        Some((node, None)) => {
            let help = r#"e.g. {"function": "on_message_publish"}"#.to_owned();
            builder.fault(node.span, format!("expected an object, found {}", node.kind()), Some(help));
            None
        }
        None => {
            let help = r#"add "action": {"function": "…"}"#.to_owned();
            builder.fault(node.span, "the rule has no `action`".to_owned(), Some(help));
            None
        }
    };
    finish(builder, head, fields, node.span, action, before);
}

/// Reads a `[[rule]]` table: function or statements stand beside the other settings.
pub(super) fn read_toml_rule(builder: &mut Builder, head: Head, node: &Node) {
    let fields = node.fields().unwrap_or_default();
    let before = builder.fault_count();
    let known: Vec<&str> = ["on", "db"].iter().chain(&COMMON).chain(&ACTIONS).copied().collect();
    check_names(builder, fields, &known);
    let action = read_action(builder, head, fields, head.at);
    finish(builder, head, fields, head.at, action, before);
}

fn finish(builder: &mut Builder, head: Head, fields: &[Field], whole: Span, action: Option<Action>, before: usize) {
    let pool = read_pool(builder, fields, whole);
    let topic = read_topic(builder, fields);
    let expired_time = find(fields, "expired_time").and_then(|field| read_duration(builder, &field.value));
    let offline = read_offline(builder, fields);
    let payload_format = read_payload_format(builder, fields);
    // A rule with a fault is reported, not kept: nothing starts with it anyhow.
    if let (Some(action), Some((pool, pool_at)), true) = (action, pool, builder.fault_count() == before) {
        let Head { database, hook, number, at } = head;
        let at = builder.location(at);
        let rule = Rule { database, hook, number, topic, action, pool, expired_time, offline, payload_format, at };
        builder.rule(Draft { rule, pool_at });
    }
}

fn find<'a>(fields: &'a [Field], name: &str) -> Option<&'a Field> {
    fields.iter().find(|field| field.name == name)
}

/// Reports unknown names and names given twice.
fn check_names(builder: &mut Builder, fields: &[Field], known: &[&str]) {
    for (i, field) in fields.iter().enumerate() {
        if !known.contains(&field.name.as_str()) {
            let help = suggestion(&field.name, known);
            builder.fault(field.at, format!("unknown name `{}` in a rule", field.name), Some(help));
        }
        if let Some(first) = fields.iter().take(i).find(|other| other.name == field.name) {
            let first = builder.location(first.at);
            builder.fault(field.at, format!("`{}` is given twice", field.name), Some(format!("first at {first}")));
        }
    }
}

fn read_action(builder: &mut Builder, head: Head, fields: &[Field], whole: Span) -> Option<Action> {
    let mut given = fields.iter().filter(|field| ACTIONS.contains(&field.name.as_str()));
    let statements = head.database.statements().map_or("no statements", StatementKind::name);
    let Some(field) = given.next() else {
        let help = format!("{} takes `function`, or `{statements}`", head.database);
        builder.fault(whole, "the action says nothing to do".to_owned(), Some(help));
        return None;
    };
    if let Some(second) = given.find(|other| other.name != field.name) {
        let message = format!("both `{}` and `{}` in one action", field.name, second.name);
        builder.fault(second.at, message, Some("make two rules of it".to_owned()));
        return None;
    }
    if field.name == "function" {
        return read_function(builder, head, &field.value).map(Action::Function);
    }
    match head.database.statements() {
        Some(kind) if kind.name() == field.name => read_statements(builder, head, &field.value).map(Action::Statements),
        Some(kind) => {
            let help = format!("the statements of {} are called `{}`", head.database, kind.name());
            builder.fault(field.at, format!("{} has no `{}`", head.database, field.name), Some(help));
            None
        }
        None => {
            let help = "it takes `function` only".to_owned();
            builder.fault(field.at, format!("{} has no statements", head.database), Some(help));
            None
        }
    }
}

fn read_function(builder: &mut Builder, head: Head, node: &Node) -> Option<Function> {
    let Head { database, hook, .. } = head;
    let valid = || -> Vec<&str> {
        Function::ALL
            .into_iter()
            .filter(|f| f.hooks().contains(&hook) && f.is_for(database))
            .map(Function::name)
            .collect()
    };
    let Some(name) = node.text() else {
        builder.fault(node.span, format!("expected a function's name, found {}", node.kind()), None);
        return None;
    };
    let Some(function) = Function::parse(name) else {
        let all: Vec<&str> = Function::ALL.into_iter().map(Function::name).collect();
        let help = match super::names::nearest(name, all) {
            Some(near) => format!("did you mean `{near}`?"),
            None if valid().is_empty() => format!("{hook} of {database} has no functions, only statements"),
            None => format!("functions of {hook}: {}", valid().join(", ")),
        };
        builder.fault(node.span, format!("unknown function `{name}`"), Some(help));
        return None;
    };
    if !function.hooks().contains(&hook) {
        let hooks: Vec<&str> = function.hooks().iter().map(|hook| hook.name()).collect();
        let help = format!("it belongs to {}", hooks.join(" or "));
        builder.fault(node.span, format!("`{name}` can't run on {hook}"), Some(help));
        return None;
    }
    if !function.is_for(database) {
        let help = "it takes on_message_publish and on_message_store on message.publish".to_owned();
        builder.fault(node.span, format!("{database} has no `{name}`"), Some(help));
        return None;
    }
    Some(function)
}

/// One statement as a text, or several as a list.
fn read_statements(builder: &mut Builder, head: Head, node: &Node) -> Option<Vec<Statement>> {
    let single = std::slice::from_ref(node);
    let nodes = match &node.data {
        Data::List(items) => items.as_slice(),
        _ => single,
    };
    if nodes.is_empty() {
        builder.fault(node.span, "the list of statements is empty".to_owned(), None);
        return None;
    }
    let statements = nodes.iter().filter_map(|node| {
        let Some(text) = node.text() else {
            builder.fault(node.span, format!("expected a statement as a text, found {}", node.kind()), None);
            return None;
        };
        match Statement::parse(text, head.database, head.hook) {
            Ok(statement) => Some(statement),
            Err(faults) => {
                for fault in faults {
                    let span = builder.inside(node.span, text, fault.start, fault.end);
                    builder.fault(span, fault.message, fault.help);
                }
                None
            }
        }
    });
    let statements: Vec<Statement> = statements.collect();
    (statements.len() == nodes.len()).then_some(statements)
}

fn read_pool(builder: &mut Builder, fields: &[Field], whole: Span) -> Option<(String, Span)> {
    let Some(field) = find(fields, "pool") else {
        builder.fault(whole, "the rule names no `pool`".to_owned(), Some("say which connections it uses".to_owned()));
        return None;
    };
    let Some(name) = field.value.text() else {
        builder.fault(field.value.span, format!("expected a pool's name, found {}", field.value.kind()), None);
        return None;
    };
    Some((name.to_owned(), field.value.span))
}

fn read_topic(builder: &mut Builder, fields: &[Field]) -> Option<String> {
    let node = &find(fields, "topic")?.value;
    let Some(filter) = node.text() else {
        builder.fault(node.span, format!("expected a topic filter, found {}", node.kind()), None);
        return None;
    };
    if let Err(error) = topic::check_filter(filter) {
        builder.fault(node.span, format!("`{filter}` is no topic filter: {error}"), None);
        return None;
    }
    Some(filter.to_owned())
}

/// A whole number of seconds, or a duration with units.
pub(super) fn read_duration(builder: &mut Builder, node: &Node) -> Option<Duration> {
    let duration = match &node.data {
        Data::Integer(seconds) => Some(Duration::from_secs(*seconds)),
        Data::Text(text) => parse_duration(text),
        _ => None,
    };
    let duration = duration.filter(|duration| !duration.is_zero());
    if duration.is_none() {
        let help = "seconds, e.g. 3600, or a text with the units d, h, m, s, e.g. \"2h\"".to_owned();
        builder.fault(node.span, "expected a duration above 0".to_owned(), Some(help));
    }
    duration
}

pub(super) fn read_count(builder: &mut Builder, node: &Node) -> Option<u64> {
    match node.data {
        Data::Integer(n) if n > 0 => Some(n),
        _ => {
            builder.fault(node.span, "expected a whole number of at least 1".to_owned(), None);
            None
        }
    }
}

fn read_offline(builder: &mut Builder, fields: &[Field]) -> OfflineOpts {
    let mut opts = OfflineOpts::default();
    let Some(field) = find(fields, "offline_opts") else { return opts };
    let Some(inner) = field.value.fields() else {
        builder.fault(field.value.span, format!("expected an object, found {}", field.value.kind()), None);
        return opts;
    };
    check_names(builder, inner, &["max_returned_count", "time_range"]);
    opts.max_returned_count = find(inner, "max_returned_count").and_then(|field| read_count(builder, &field.value));
    opts.time_range = find(inner, "time_range").and_then(|field| read_duration(builder, &field.value));
    opts
}

fn read_payload_format(builder: &mut Builder, fields: &[Field]) -> PayloadFormat {
    let Some(field) = find(fields, "payload_format") else { return PayloadFormat::PlainText };
    match field.value.text() {
        Some("plain_text") => PayloadFormat::PlainText,
        Some("mongo_json") => PayloadFormat::MongoJson,
        other => {
            let help = suggestion(other.unwrap_or_default(), &["plain_text", "mongo_json"]);
            builder.fault(field.value.span, "unknown payload format".to_owned(), Some(help));
            PayloadFormat::PlainText
        }
    }
}
