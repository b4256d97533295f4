//! The reader of EMQ X `.conf` files.

use std::path::Path;

use super::assemble::{Assignment, Builder, Parsed};
use super::document::{Data, Node};
use super::draft::{Head, read_conf_rule, read_count, read_duration};
use super::json::parse_json;
use super::names::{nearest, suggestion};
use super::source::Span;
use super::{Database, Hook};

/// Parses one `.conf` text by itself. Whatever the text is, this returns: it never panics and reads no file.
#[must_use]
pub fn parse_conf(file: &Path, text: &str) -> Parsed {
    let mut builder = Builder::default();
    read_conf(&mut builder, file, text);
    builder.finish()
}

/// Adds a `.conf` text to what other files gave.
pub(super) fn read_conf(builder: &mut Builder, file: &Path, text: &str) {
    let source = builder.source(file, text);
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        read_line(builder, line, Span { source, start, end: start + line.len() });
        start += line.len();
    }
}

/// A piece of a line with its place.
#[derive(Clone, Copy)]
struct Piece<'a> {
    text: &'a str,
    span: Span,
}

impl<'a> Piece<'a> {
    fn new(text: &'a str, source: usize, start: usize) -> Piece<'a> {
        Piece { text, span: Span { source, start, end: start + text.len() } }
    }

    fn trim(self) -> Piece<'a> {
        let front = self.text.trim_start_matches(is_blank);
        let start = self.span.start + self.text.len() - front.len();
        Piece::new(front.trim_end_matches(is_blank), self.span.source, start)
    }

    fn split_once(self, separator: char) -> Option<(Piece<'a>, Piece<'a>)> {
        let (before, after) = self.text.split_once(separator)?;
        let start = self.span.start + before.len() + separator.len_utf8();
        Some((Piece::new(before, self.span.source, self.span.start), Piece::new(after, self.span.source, start)))
    }
}

/// Blanks, line ends, and the mark that some editors put at a file's beginning.
fn is_blank(c: char) -> bool {
    c.is_whitespace() || c == '\u{feff}'
}

fn read_line(builder: &mut Builder, line: &str, span: Span) {
    let line = Piece::new(line, span.source, span.start).trim();
    if line.text.is_empty() || line.text.starts_with('#') {
        return;
    }
    let Some((key, value)) = line.split_once('=') else {
        let help = "comments begin with #".to_owned();
        return builder.fault(line.span, "expected `key = value`".to_owned(), Some(help));
    };
    read_entry(builder, key.trim(), value.trim());
}

fn read_entry(builder: &mut Builder, key: Piece<'_>, value: Piece<'_>) {
    let mut names = key.text.split('.');
    if key.text.is_empty() || names.any(|name| name.is_empty() || name.contains(is_blank)) {
        let help = "keys are names with a dot between any two".to_owned();
        return builder.fault(key.span, format!("`{}` is no key", key.text), Some(help));
    }
    let (first, rest) = split_name(key);
    let Some(rest) = rest.filter(|_| first.text == "backend") else {
        let help = "keys of rules and pools begin with `backend.`".to_owned();
        return builder.fault(first.span, format!("unknown key `{}`", key.text), Some(help));
    };
    let (name, rest) = split_name(rest);
    let Some(database) = Database::parse(name.text) else {
        let known: Vec<&str> = Database::ALL.iter().flat_map(|db| [db.name(), db.pool_name()]).collect();
        let help = match nearest(name.text, known) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("known: {}, ecql", Database::ALL.map(Database::name).join(", ")),
        };
        return builder.fault(name.span, format!("unknown database `{}`", name.text), Some(help));
    };
    let Some(rest) = rest else {
        let help = format!("`backend.{name}.<pool>.<setting>` or `backend.{name}.hook.<event>.<n>`", name = name.text);
        return builder.fault(key.span, "the key ends too early".to_owned(), Some(help));
    };
    if let (hook, Some(event)) = split_name(rest)
        && hook.text == "hook"
    {
        return read_rule(builder, database, key, event, value);
    }
    if !read_global(builder, database, rest, value) {
        read_pool_key(builder, database, rest, value);
    }
}

/// The first name of a key and what follows its dot.
fn split_name(key: Piece<'_>) -> (Piece<'_>, Option<Piece<'_>>) {
    match key.split_once('.') {
        Some((name, rest)) => (name, Some(rest)),
        None => (key, None),
    }
}

fn read_rule(builder: &mut Builder, database: Database, key: Piece<'_>, event: Piece<'_>, value: Piece<'_>) {
    let (name, number) = match event.text.rsplit_once('.') {
        Some((name, number)) if number.bytes().all(|b| b.is_ascii_digit()) => (name, number),
        _ => {
            let message = "expected the rule's number at the key's end".to_owned();
            return builder.fault(
                event.span,
                message,
                Some(format!("e.g. `backend.{database}.hook.message.publish.1`")),
            );
        }
    };
    let hook_at = Span { end: event.span.start + name.len(), ..event.span };
    let Some(hook) = Hook::parse(name) else {
        let known = Hook::ALL.map(Hook::name);
        return builder.fault(hook_at, format!("unknown hook `{name}`"), Some(suggestion(name, &known)));
    };
    let Ok(number) = number.parse::<u32>() else {
        return builder.fault(event.span, format!("the rule's number {number} is too large"), None);
    };
    if !builder.first(format!("rule {database} {hook} {number}"), key.text, key.span) {
        return;
    }
    if value.text.is_empty() {
        let help = r##"e.g. {"topic": "#", "action": {"function": "…"}, "pool": "pool1"}"##.to_owned();
        return builder.fault(key.span, "the rule is empty".to_owned(), Some(help));
    }
    match parse_json(value.text, value.span.source, value.span.start) {
        Ok(node) => read_conf_rule(builder, Head { database, hook, number, at: key.span }, &node),
        Err(fault) => builder.fault(fault.span, fault.message, fault.help),
    }
}

/// Keys that hold for all pools or rules of a database. False when the key is none of them.
fn read_global(builder: &mut Builder, database: Database, rest: Piece<'_>, value: Piece<'_>) -> bool {
    let topology = database == Database::Mongo && rest.text.starts_with("topology.");
    if topology || (database == Database::Dynamo && rest.text == "region") {
        builder.pool_default(database, &assignment(rest, value));
        return true;
    }
    let known = match rest.text {
        "max_returned_count" | "time_range" => !database.is_time_series(),
        "msg.expired_after" => database == Database::Redis,
        _ => false,
    };
    if !known {
        return false;
    }
    if !builder.first(format!("all {database} {}", rest.text), rest.text, rest.span) || value.text.is_empty() {
        return true;
    }
    let data = value.text.parse().map_or_else(|_| Data::Text(value.text.to_owned()), Data::Integer);
    let node = Node { data, span: value.span };
    match rest.text {
        "max_returned_count" => {
            let count = read_count(builder, &node);
            builder.rule_defaults(database).max_returned_count = count;
        }
        "time_range" => {
            let range = read_duration(builder, &node);
            builder.rule_defaults(database).time_range = range;
        }
        _ => {
            let time = read_duration(builder, &node);
            builder.rule_defaults(database).expired_time = time;
        }
    }
    true
}

fn read_pool_key(builder: &mut Builder, database: Database, rest: Piece<'_>, value: Piece<'_>) {
    let (pool, setting) = split_name(rest);
    let Some(setting) = setting else {
        let help = match nearest(pool.text, ["max_returned_count", "time_range", "region"]) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("`backend.{}.<pool>.<setting>`", database.pool_name()),
        };
        return builder.fault(rest.span, format!("unknown key `{}` of {database}", pool.text), Some(help));
    };
    // EMQ X 4.4's operator writes `backend.influxdb.http.pool1.server`: the protocol stands before the pool's name.
    if let (Database::Influxdb, "udp" | "http", (name, Some(inner))) = (database, pool.text, split_name(setting)) {
        let key = format!("{}.{}", pool.text, inner.text);
        let assignment = Assignment { key: &key, ..assignment(inner, value) };
        return builder.setting(database, name.text, rest.span, &assignment);
    }
    builder.setting(database, pool.text, rest.span, &assignment(setting, value));
}

fn assignment<'a>(key: Piece<'a>, value: Piece<'a>) -> Assignment<'a> {
    Assignment { key: key.text, key_at: key.span, value: value.text, value_at: value.span }
}
