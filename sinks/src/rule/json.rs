//! JSON with places. The grammar is serde_json's; this finds where its values stand, and words its complaints.

use serde::Deserializer;
use serde::de::{MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::document::{Data, Field, Node};
use super::source::Span;

/// Rules are flat; what nests deeper than this is no rule.
const DEPTH_MAX: usize = 8;

/// What is wrong with a JSON text: `span` says where.
pub(crate) struct JsonFault {
    pub(crate) span: Span,
    pub(crate) message: String,
    pub(crate) help: Option<String>,
}

/// Reads `text`, which stands at `base` of source number `source`.
pub(crate) fn parse_json(text: &str, source: usize, base: usize) -> Result<Node, JsonFault> {
    let place = Place { text, source, base };
    let raw: &RawValue = serde_json::from_str(text).map_err(|error| place.fault(&error))?;
    place.node(raw, 0)
}

struct Place<'a> {
    text: &'a str,
    source: usize,
    base: usize,
}

impl Place<'_> {
    /// A raw value borrows from `text`: the difference of the addresses is its offset.
    fn span(&self, raw: &RawValue) -> Span {
        let offset = raw.get().as_ptr().addr().saturating_sub(self.text.as_ptr().addr());
        let start = self.base + offset;
        Span { source: self.source, start, end: start + raw.get().len() }
    }

    fn node(&self, raw: &RawValue, depth: usize) -> Result<Node, JsonFault> {
        let span = self.span(raw);
        if depth > DEPTH_MAX {
            return Err(JsonFault { span, message: "nested too deeply for a rule".to_owned(), help: None });
        }
        let json = raw.get();
        let data = match json.bytes().next() {
            Some(b'{') => {
                let mut fields = Vec::new();
                for (name, value) in self.read(json, span, |d| d.deserialize_map(Entries))? {
                    let at = self.span(name);
                    let name = self.read(name.get(), at, |d| serde::Deserialize::deserialize(d))?;
                    fields.push(Field { name, at, value: self.node(value, depth + 1)? });
                }
                Data::Table(fields)
            }
            Some(b'[') => {
                let items = self.read(json, span, |d| d.deserialize_seq(Items))?;
                Data::List(items.into_iter().map(|item| self.node(item, depth + 1)).collect::<Result<_, _>>()?)
            }
            Some(b'"') => Data::Text(self.read(json, span, |d| serde::Deserialize::deserialize(d))?),
            Some(b't') => Data::Boolean(true),
            Some(b'f') => Data::Boolean(false),
            Some(b'n') => Data::Null,
            _ => json.parse().map_or_else(|_| Data::Other(json.to_owned()), Data::Integer),
        };
        Ok(Node { data, span })
    }

    fn read<'t, T>(
        &self,
        json: &'t str,
        span: Span,
        read: impl FnOnce(&mut serde_json::Deserializer<serde_json::de::StrRead<'t>>) -> Result<T, serde_json::Error>,
    ) -> Result<T, JsonFault> {
        // Only a text that is no Unicode (a lone surrogate) gets past the first reading and not past this one.
        read(&mut serde_json::Deserializer::from_str(json)).map_err(|error| JsonFault {
            span,
            message: format!("invalid JSON: {}", wording(&error)),
            help: None,
        })
    }

    fn fault(&self, error: &serde_json::Error) -> JsonFault {
        let mut offset = error.column().saturating_sub(1).min(self.text.len());
        if error.is_eof() {
            offset = self.text.trim_end().len();
        }
        while !self.text.is_char_boundary(offset) {
            offset = offset.saturating_sub(1);
        }
        let rest = self.text.get(offset..).unwrap_or_default();
        let word = rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest.len());
        let (name, after) = rest.split_at_checked(word).unwrap_or((rest, ""));
        let start = self.base + offset;
        let span = Span { source: self.source, start, end: start + name.len().max(1) };
        let wants_name = error.to_string().starts_with("key must be a string");
        let help = match (wants_name, name.is_empty()) {
            (true, true) if rest.starts_with('}') => Some("remove the comma before `}`".to_owned()),
            (true, false) if after.starts_with('"') => {
                Some(format!("the quotation mark before `{name}` is missing: write `\"{name}\"`"))
            }
            (true, false) => Some(format!("names stand in double quotes: write `\"{name}\"`")),
            _ => None,
        };
        JsonFault { span, message: format!("invalid JSON: {}", wording(error)), help }
    }
}

/// serde_json's complaint as what was expected, without its own line and column.
fn wording(error: &serde_json::Error) -> String {
    let message = error.to_string();
    let message = message.split(" at line ").next().unwrap_or(&message);
    match message {
        "key must be a string" => "expected a name in double quotes".to_owned(),
        "expected value" => "expected a value".to_owned(),
        "trailing comma" => "expected another value after the comma".to_owned(),
        "trailing characters" => "expected nothing more after the closing `}`".to_owned(),
        "EOF while parsing an object" => "expected `,` or `}`, found the end of the line".to_owned(),
        "EOF while parsing a list" => "expected `,` or `]`, found the end of the line".to_owned(),
        "EOF while parsing a string" => "expected the closing quotation mark, found the end of the line".to_owned(),
        "EOF while parsing a value" => "expected a value, found the end of the line".to_owned(),
        other => other.to_owned(),
    }
}

struct Entries;

impl<'de> Visitor<'de> for Entries {
    type Value = Vec<(&'de RawValue, &'de RawValue)>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(entries)
    }
}

struct Items;

impl<'de> Visitor<'de> for Items {
    type Value = Vec<&'de RawValue>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(items)
    }
}
