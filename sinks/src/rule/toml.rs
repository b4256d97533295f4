//! The pools and rules of `forebay.toml`.
//!
//! ```toml
//! [pool.redis.pool1]
//! server = "127.0.0.1:6379"
//!
//! [rule_defaults.redis]
//! expired_time = "1h"
//!
//! [[rule]]
//! on = "message.publish"
//! db = "redis"
//! pool = "pool1"
//! topic = "sensor/#"
//! function = "on_message_publish"
//! ```

use std::collections::HashMap;
use std::path::Path;

use toml::de::{DeTable, DeValue};

use super::assemble::{Assignment, Builder};
use super::document::{Data, Field, Node};
use super::draft::{Head, read_count, read_duration, read_toml_rule};
use super::fault::{Fault, Warning};
use super::names::suggestion;
use super::source::Span;
use super::{Database, Hook, RuleSet};

/// The top-level tables read here; all others belong to the program.
pub const TOML_TABLES: [&str; 3] = ["pool", "rule", "rule_defaults"];

/// Names that are meant to be one of [`TOML_TABLES`] and would be passed over silently otherwise.
const MISTAKEN: [(&str, &str); 4] =
    [("pools", "pool"), ("rules", "rule"), ("rules_defaults", "rule_defaults"), ("rule_default", "rule_defaults")];

/// Parses the pools and rules of a TOML text by itself, passing over its other top-level tables.
#[must_use]
pub fn parse_toml(file: &Path, text: &str) -> (RuleSet, Vec<Fault>, Vec<Warning>) {
    let mut builder = Builder::default();
    read_toml(&mut builder, file, text);
    let parsed = builder.finish();
    (parsed.rules, parsed.faults, parsed.warnings)
}

/// Adds a TOML text to what other files gave.
pub(super) fn read_toml(builder: &mut Builder, file: &Path, text: &str) {
    let source = builder.source(file, text);
    let (table, errors) = DeTable::parse_recoverable(text);
    for error in errors {
        let range = error.span().unwrap_or_default();
        builder.fault(
            Span { source, start: range.start, end: range.end },
            format!("invalid TOML: {}", error.message()),
            None,
        );
    }
    let reader = Reader { source };
    for field in reader.fields(table.get_ref()) {
        match field.name.as_str() {
            "pool" => read_pools(builder, &field),
            "rule" => read_rules(builder, &field),
            "rule_defaults" => read_rule_defaults(builder, &field),
            other => {
                if let Some((_, meant)) = MISTAKEN.iter().find(|(name, _)| *name == other) {
                    let help = format!("did you mean `{meant}`?");
                    builder.fault(field.at, format!("unknown table `{other}`"), Some(help));
                }
            }
        }
    }
}

struct Reader {
    source: usize,
}

impl Reader {
    fn fields(&self, table: &DeTable<'_>) -> Vec<Field> {
        let fields = table.iter().map(|(name, value)| Field {
            name: name.get_ref().to_string(),
            at: self.span(name.span()),
            value: self.node(value.get_ref(), value.span()),
        });
        let mut fields: Vec<Field> = fields.collect();
        // The table is sorted by name; faults and rules are told in the order of the text.
        fields.sort_by_key(|field| field.at.start);
        fields
    }

    fn span(&self, range: std::ops::Range<usize>) -> Span {
        Span { source: self.source, start: range.start, end: range.end }
    }

    fn node(&self, value: &DeValue<'_>, range: std::ops::Range<usize>) -> Node {
        let data = match value {
            DeValue::String(text) => Data::Text(text.to_string()),
            DeValue::Boolean(value) => Data::Boolean(*value),
            DeValue::Integer(number) => u64::from_str_radix(number.as_str(), number.radix())
                .map_or_else(|_| Data::Other(number.as_str().to_owned()), Data::Integer),
            DeValue::Float(number) => Data::Other(number.as_str().to_owned()),
            DeValue::Datetime(time) => Data::Other(time.to_string()),
            DeValue::Array(items) => {
                Data::List(items.iter().map(|item| self.node(item.get_ref(), item.span())).collect())
            }
            DeValue::Table(table) => Data::Table(self.fields(table)),
        };
        Node { data, span: self.span(range) }
    }
}

/// The fields of a table, or a fault where it is none.
fn table<'a>(builder: &mut Builder, field: &'a Field, form: &str) -> &'a [Field] {
    if field.value.fields().is_none() {
        builder.fault(field.at, format!("`{}` is no table", field.name), Some(format!("write {form}")));
    }
    field.value.fields().unwrap_or_default()
}

fn database(builder: &mut Builder, name: &str, at: Span) -> Option<Database> {
    let database = Database::parse(name);
    if database.is_none() {
        let known: Vec<&str> = Database::ALL.into_iter().map(Database::name).collect();
        builder.fault(at, format!("unknown database `{name}`"), Some(suggestion(name, &known)));
    }
    database
}

fn read_pools(builder: &mut Builder, pools: &Field) {
    for by_database in table(builder, pools, "`[pool.<db>.<name>]`") {
        let Some(database) = database(builder, &by_database.name, by_database.at) else { continue };
        for pool in table(builder, by_database, "`[pool.<db>.<name>]`") {
            let settings = table(builder, pool, "`[pool.<db>.<name>]`");
            if pool.value.fields().is_some() {
                builder.pool(database, &pool.name, pool.at);
            }
            read_settings(builder, database, pool, "", settings);
        }
    }
}

/// Settings with dots in their names are tables in tables here: `http.port` is `[pool.influxdb.p.http] port`.
fn read_settings(builder: &mut Builder, database: Database, pool: &Field, prefix: &str, settings: &[Field]) {
    for setting in settings {
        let key = format!("{prefix}{}", setting.name);
        if let Some(inner) = setting.value.fields() {
            read_settings(builder, database, pool, &format!("{key}."), inner);
            continue;
        }
        let Some(value) = scalar(&setting.value) else {
            let message = format!("{key}: expected a single value, found {}", setting.value.kind());
            builder.fault(setting.value.span, message, None);
            continue;
        };
        let assignment = Assignment { key: &key, key_at: setting.at, value: &value, value_at: setting.value.span };
        builder.setting(database, &pool.name, pool.at, &assignment);
    }
}

/// A value as `.conf` would have it; a list of texts is a list with commas there.
fn scalar(node: &Node) -> Option<String> {
    match &node.data {
        Data::Text(text) | Data::Other(text) => Some(text.clone()),
        Data::Integer(number) => Some(number.to_string()),
        Data::Boolean(value) => Some(value.to_string()),
        Data::List(items) => Some(items.iter().map(Node::text).collect::<Option<Vec<_>>>()?.join(",")),
        Data::Null | Data::Table(_) => None,
    }
}

fn read_rule_defaults(builder: &mut Builder, defaults: &Field) {
    for by_database in table(builder, defaults, "`[rule_defaults.<db>]`") {
        let Some(database) = database(builder, &by_database.name, by_database.at) else { continue };
        for field in table(builder, by_database, "`[rule_defaults.<db>]`") {
            match field.name.as_str() {
                "max_returned_count" => {
                    let count = read_count(builder, &field.value);
                    builder.rule_defaults(database).max_returned_count = count;
                }
                "time_range" => {
                    let range = read_duration(builder, &field.value);
                    builder.rule_defaults(database).time_range = range;
                }
                "expired_time" => {
                    let time = read_duration(builder, &field.value);
                    builder.rule_defaults(database).expired_time = time;
                }
                other => {
                    let help = suggestion(other, &["max_returned_count", "time_range", "expired_time"]);
                    builder.fault(field.at, format!("unknown name `{other}` in rule defaults"), Some(help));
                }
            }
        }
    }
}

fn read_rules(builder: &mut Builder, rules: &Field) {
    let Data::List(items) = &rules.value.data else {
        return builder.fault(rules.at, "`rule` is no list of tables".to_owned(), Some("write `[[rule]]`".to_owned()));
    };
    let mut numbers: HashMap<(Database, Hook), u32> = HashMap::new();
    for item in items {
        let Some(fields) = item.fields() else {
            builder.fault(item.span, format!("expected a rule, found {}", item.kind()), None);
            continue;
        };
        let on = named(builder, item, fields, "on", "the hook, e.g. on = \"message.publish\"");
        let db = named(builder, item, fields, "db", "the database, e.g. db = \"redis\"");
        let hook = on.and_then(|(name, at)| {
            let hook = Hook::parse(name);
            if hook.is_none() {
                let help = suggestion(name, &Hook::ALL.map(Hook::name));
                builder.fault(at, format!("unknown hook `{name}`"), Some(help));
            }
            hook
        });
        let database = db.and_then(|(name, at)| database(builder, name, at));
        if let (Some(hook), Some(database)) = (hook, database) {
            let number = numbers.entry((database, hook)).and_modify(|n| *n += 1).or_insert(1);
            read_toml_rule(builder, Head { database, hook, number: *number, at: item.span }, item);
        }
    }
}

/// The text of a rule's necessary field.
fn named<'a>(
    builder: &mut Builder,
    rule: &Node,
    fields: &'a [Field],
    name: &str,
    what: &str,
) -> Option<(&'a str, Span)> {
    let Some(field) = fields.iter().find(|field| field.name == name) else {
        builder.fault(rule.span, format!("the rule has no `{name}`"), Some(format!("add {what}")));
        return None;
    };
    let Some(text) = field.value.text() else {
        builder.fault(field.value.span, format!("{name}: expected a text, found {}", field.value.kind()), None);
        return None;
    };
    Some((text, field.value.span))
}
