//! Payloads as BSON, and back.

use std::fmt;

use bytes::Bytes;
use mongodb::bson::spec::BinarySubtype;
use mongodb::bson::{Binary, Bson, Document};
use serde::Deserialize;
use serde::de::{Deserializer, Error, MapAccess, SeqAccess, Visitor};

/// Levels of a document at most; servers take 100 in all.
const LEVELS: usize = 90;

/// A string where the bytes are UTF-8, else binary.
pub(super) fn plain(payload: &Bytes) -> Bson {
    match std::str::from_utf8(payload) {
        Ok(text) => Bson::String(text.to_owned()),
        Err(_) => Bson::Binary(Binary { subtype: BinarySubtype::Generic, bytes: payload.to_vec() }),
    }
}

/// A document or an array where the payload is JSON that BSON can hold as it is. Everything else, scalars too, as [`plain`]: keys that stand
/// twice, begin with `$` or hold U+0000, whole numbers beyond 64 bits, and more than [`LEVELS`] levels would not come back as they went.
pub(super) fn mongo_json(payload: &Bytes) -> Bson {
    if !matches!(payload.iter().find(|b| !b.is_ascii_whitespace()), Some(b'{' | b'[')) {
        return plain(payload);
    }
    match serde_json::from_slice::<Node>(payload) {
        Ok(Node(value)) if levels(&value) <= LEVELS => value,
        _ => plain(payload),
    }
}

fn levels(value: &Bson) -> usize {
    let deepest = |inner: &mut dyn Iterator<Item = &Bson>| 1 + inner.map(levels).max().unwrap_or(0);
    match value {
        Bson::Document(document) => deepest(&mut document.values()),
        Bson::Array(items) => deepest(&mut items.iter()),
        _ => 0,
    }
}

/// The bytes that a payload in a document of another program stands for.
pub(super) fn bytes(payload: Option<&Bson>) -> Bytes {
    match payload {
        Some(Bson::String(text)) => Bytes::copy_from_slice(text.as_bytes()),
        Some(Bson::Binary(binary)) => Bytes::copy_from_slice(&binary.bytes),
        None | Some(Bson::Null | Bson::Undefined) => Bytes::new(),
        Some(other) => Bytes::from(json(other).to_string()),
    }
}

fn json(value: &Bson) -> serde_json::Value {
    use serde_json::Value;
    match value {
        Bson::Document(document) => Value::Object(document.iter().map(|(k, v)| (k.clone(), json(v))).collect()),
        Bson::Array(items) => Value::Array(items.iter().map(json).collect()),
        Bson::String(text) => Value::String(text.clone()),
        Bson::Boolean(truth) => Value::Bool(*truth),
        Bson::Int32(number) => Value::from(*number),
        Bson::Int64(number) => Value::from(*number),
        Bson::Double(number) => Value::from(*number),
        Bson::Null | Bson::Undefined => Value::Null,
        Bson::ObjectId(id) => Value::String(id.to_hex()),
        other => Value::String(other.to_string()),
    }
}

/// A JSON value as BSON, without the extended forms (`{"$oid": …}`).
struct Node(Bson);

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Node, D::Error> {
        deserializer.deserialize_any(NodeVisitor).map(Node)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Bson;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Bson, E> {
        Ok(Bson::Boolean(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Bson, E> {
        Ok(i32::try_from(value).map_or(Bson::Int64(value), Bson::Int32))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Bson, E> {
        i64::try_from(value).map_err(|_| E::custom("beyond 64 bits")).and_then(|value| self.visit_i64(value))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Bson, E> {
        // Whole numbers beyond 64 bits come as floats, rounded.
        if value.abs() >= 9.0e18 {
            return Err(E::custom("beyond 64 bits"));
        }
        Ok(Bson::Double(value))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Bson, E> {
        Ok(Bson::String(value.to_owned()))
    }

    fn visit_unit<E: Error>(self) -> Result<Bson, E> {
        Ok(Bson::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Bson, A::Error> {
        let mut items = Vec::new();
        while let Some(Node(item)) = seq.next_element()? {
            items.push(item);
        }
        Ok(Bson::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Bson, A::Error> {
        let mut document = Document::new();
        while let Some((key, Node(value))) = map.next_entry::<String, Node>()? {
            if key.starts_with('$') || key.contains('\0') || document.insert(key, value).is_some() {
                return Err(A::Error::custom("a key that a document can't have"));
            }
        }
        Ok(Bson::Document(document))
    }
}

#[cfg(test)]
mod tests {
    use mongodb::bson::{bson, doc};

    use super::*;

    fn of(text: &'static str) -> Bson {
        mongo_json(&Bytes::from_static(text.as_bytes()))
    }

    #[test]
    fn objects_and_arrays_are_documents_and_everything_else_stays_text() {
        assert_eq!(
            of(r#" {"a": 1, "b": {"c": [1.5, null, true]}, "d": 5000000000}"#),
            Bson::Document(doc! { "a": 1, "b": { "c": [1.5, Bson::Null, true] }, "d": 5_000_000_000_i64 })
        );
        assert_eq!(of("[1, \"x\"]"), bson!([1, "x"]));
        for text in [
            "42",
            "\"x\"",
            "",
            "{",
            "{} x",
            r#"{"a": 1, "a": 2}"#,
            r#"{"$oid": "5"}"#,
            "{\"a\\u0000\": 1}",
            "[18446744073709551615]",
            "[123456789012345678901234567890]",
        ] {
            assert_eq!(of(text), Bson::String(text.to_owned()), "{text}");
        }
        let deep = format!("{}{}", "[".repeat(91), "]".repeat(91));
        assert_eq!(mongo_json(&Bytes::from(deep.clone())), Bson::String(deep));
    }

    #[test]
    fn bytes_that_are_no_text_are_binary_and_come_back() {
        let payload = Bytes::from_static(b"\xff\x00x");
        for value in [plain(&payload), mongo_json(&payload)] {
            assert!(matches!(&value, Bson::Binary(b) if b.subtype == BinarySubtype::Generic));
            assert_eq!(bytes(Some(&value)), payload);
        }
        let text = Bytes::from_static("a\u{0}é".as_bytes());
        assert_eq!(bytes(Some(&plain(&text))), text);
        assert_eq!(bytes(Some(&of(r#"{"a": [1, "x", null]}"#))), r#"{"a":[1,"x",null]}"#);
        assert_eq!(bytes(None), Bytes::new());
    }
}
