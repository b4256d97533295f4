//! What a server's tables can hold, as they were found, and whether an operation fits. What does not fit is refused before it is
//! sent: a database that is not strict would shorten it, and a strict one refuses the whole batch.

use std::borrow::Cow;
use std::collections::HashMap;

use super::op::{MessageRow, SqlOp, Value};
use super::server::BinaryPayload;

/// The documented tables and Forebay's own.
pub(crate) const TABLES: [&str; 8] = [
    "mqtt_client",
    "mqtt_sub",
    "mqtt_msg",
    "mqtt_retain",
    "mqtt_acked",
    "forebay_position",
    "forebay_imported",
    "forebay_expiry",
];

/// What a column takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Holds {
    /// Any bytes, at most so many.
    Bytes(Option<u64>),
    /// Text of at most so many characters and bytes; with U+0000 or without.
    Text { characters: Option<u64>, bytes: Option<u64>, nul: bool },
    /// Something else: the database itself says what does not fit.
    Other,
}

/// A column as it was found.
#[derive(Clone, Debug)]
pub(crate) struct Column {
    pub(crate) holds: Holds,
    /// The type's name without a length, as a cast is written with.
    pub(crate) cast: String,
}

/// Tables with their columns. Empty where nothing was looked for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Layout {
    tables: HashMap<String, HashMap<String, Column>>,
}

/// A payload as a column takes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Payload<'a> {
    Text(Cow<'a, str>),
    Bytes(Cow<'a, [u8]>),
}

impl Layout {
    pub(crate) fn add(&mut self, table: &str, column: &str, found: Column) {
        self.tables.entry(table.to_owned()).or_default().insert(column.to_owned(), found);
    }

    pub(crate) fn has_table(&self, table: &str) -> bool {
        self.tables.contains_key(table)
    }

    /// The documented column, where the table has it. Nothing is known of tables that were not looked for.
    pub(crate) fn column(&self, table: &str, column: &str) -> Option<&Column> {
        self.tables.get(table)?.get(column)
    }

    pub(crate) fn holds(&self, table: &str, column: &str) -> Holds {
        self.column(table, column).map_or(Holds::Other, |column| column.holds)
    }

    /// Most characters of a text column, where there is such a bound.
    pub(crate) fn characters(&self, table: &str, column: &str) -> Option<u64> {
        match self.holds(table, column) {
            Holds::Text { characters, .. } => characters,
            Holds::Bytes(_) | Holds::Other => None,
        }
    }

    /// Says what does not fit, and the remedy.
    pub(crate) fn check(&self, op: &SqlOp, binary: BinaryPayload) -> Result<(), String> {
        match op {
            SqlOp::Online { client, .. } | SqlOp::Offline { client, .. } => {
                self.text("mqtt_client", "clientid", client)
            }
            SqlOp::Message(row) | SqlOp::Latest(row) => self.row("mqtt_msg", row, binary),
            SqlOp::Retain(row) => self.row("mqtt_retain", row, binary),
            SqlOp::Acked { client, topic, .. } => {
                self.text("mqtt_acked", "clientid", client)?;
                self.text("mqtt_acked", "topic", topic)
            }
            SqlOp::Imported { key, .. } => self.text("forebay_imported", "row_key", key),
            SqlOp::Remove { .. } | SqlOp::RetainDelete { .. } | SqlOp::AckedDelete { .. } | SqlOp::Statement { .. } => {
                Ok(())
            }
        }
    }

    fn row(&self, table: &str, row: &MessageRow, binary: BinaryPayload) -> Result<(), String> {
        self.text(table, "topic", &row.topic)?;
        self.text(table, "sender", &row.sender)?;
        self.text(table, "msgid", &row.msgid)?;
        self.payload(table, &row.payload, binary).map(|_| ())
    }

    /// Says that a text is too long for a column.
    pub(crate) fn text(&self, table: &str, column: &str, text: &str) -> Result<(), String> {
        let (characters, bytes) = match self.holds(table, column) {
            Holds::Text { characters, bytes, .. } => (characters, bytes),
            Holds::Bytes(bytes) => (None, bytes),
            Holds::Other => return Ok(()),
        };
        let most = characters.filter(|most| text.chars().count() as u64 > *most).map(|most| (most, "characters"));
        match most.or(bytes.filter(|most| text.len() as u64 > *most).map(|most| (most, "bytes"))) {
            None => Ok(()),
            Some((most, unit)) => Err(format!(
                "{table}.{column} holds {most} {unit}, this one is longer: widen the column and replay the letter"
            )),
        }
    }

    /// A payload as the table's column takes it.
    pub(crate) fn payload<'a>(
        &self,
        table: &str,
        payload: &'a Value,
        binary: BinaryPayload,
    ) -> Result<Payload<'a>, String> {
        let bytes: &[u8] = match payload {
            Value::Text(text) => text.as_bytes(),
            Value::Blob(bytes) => bytes,
            Value::Json(json) => json.text.as_bytes(),
            Value::Int(_) | Value::Null => &[],
        };
        let fitting = match self.holds(table, "payload") {
            Holds::Bytes(most) => {
                if most.is_none_or(|most| bytes.len() as u64 <= most) {
                    return Ok(Payload::Bytes(bytes.into()));
                }
                return Err(format!(
                    "{table}.payload holds {} bytes, this payload has {}: widen the column and replay the letter",
                    most.unwrap_or(0),
                    bytes.len()
                ));
            }
            Holds::Text { nul, .. } => match payload {
                // Checked when it was read.
                Value::Text(text) => Some(&**text),
                _ => std::str::from_utf8(bytes).ok().filter(|_| nul || !bytes.contains(&0)),
            },
            // Of unknown tables: as text where it can be, else as bytes, and the database decides.
            Holds::Other => match payload {
                Value::Text(text) => Some(&**text),
                _ => return Ok(Payload::Bytes(bytes.into())),
            },
        };
        let text = match fitting {
            Some(text) => Cow::Borrowed(text),
            None => binary.text(bytes).map(Cow::Owned).ok_or_else(|| {
                format!(
                    "{table}.payload is text and this payload is not: change the column's type to one of bytes, or set \
                     `binary_payload` of the pool, and replay the letter"
                )
            })?,
        };
        self.text(table, "payload", &text).map(|()| Payload::Text(text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(holds: Holds) -> Layout {
        let mut layout = Layout::default();
        for column in ["payload", "topic"] {
            layout.add("mqtt_msg", column, Column { holds, cast: String::new() });
        }
        layout
    }

    #[test]
    fn nothing_is_shortened_or_altered() {
        let varchar = layout(Holds::Text { characters: Some(3), bytes: None, nul: false });
        assert!(varchar.text("mqtt_msg", "topic", "äöü").is_ok());
        assert!(varchar.text("mqtt_msg", "topic", "äöüx").unwrap_err().contains("3 characters"));
        let bytes = Value::Blob(bytes::Bytes::from_static(b"\xff"));
        let refused = varchar.payload("mqtt_msg", &bytes, BinaryPayload::Refuse).unwrap_err();
        assert!(refused.contains("binary_payload"), "{refused}");
        assert_eq!(varchar.payload("mqtt_msg", &bytes, BinaryPayload::Hex), Ok(Payload::Text("ff".into())));
        assert!(varchar.payload("mqtt_msg", &bytes, BinaryPayload::Base64).is_err(), "4 characters in 3");
        let nul = Value::Blob(bytes::Bytes::from_static(b"a\0"));
        assert!(varchar.payload("mqtt_msg", &nul, BinaryPayload::Refuse).is_err());
        let mysql = layout(Holds::Text { characters: None, bytes: Some(255), nul: true });
        assert_eq!(mysql.payload("mqtt_msg", &nul, BinaryPayload::Refuse), Ok(Payload::Text("a\0".into())));
        let blob = layout(Holds::Bytes(Some(1)));
        assert_eq!(blob.payload("mqtt_msg", &bytes, BinaryPayload::Refuse), Ok(Payload::Bytes(Cow::Borrowed(b"\xff"))));
        assert!(blob.payload("mqtt_msg", &nul, BinaryPayload::Refuse).unwrap_err().contains("holds 1 bytes"));
    }
}
