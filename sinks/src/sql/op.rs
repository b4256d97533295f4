//! What is sent to an SQL database: values, rows and operations.

use std::sync::Arc;

use bytes::Bytes;
use bytestring::ByteString;

use super::text::datetime;

/// A bound parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// NULL.
    Null,
    /// Text.
    Text(ByteString),
    /// A number.
    Int(i64),
    /// Bytes.
    Blob(Bytes),
    /// Of a template: text, and what it is where the column makes a difference.
    Json(Json),
}

/// A value of a template. As text it is the same for most columns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Json {
    /// As text: a string without its quotation marks, a number, `true`, `false`; an object or array as JSON writes it.
    pub text: ByteString,
    /// What it is in a column of JSON.
    pub form: Form,
    /// The time that it stands for in a column of times, us since 1970.
    pub time_us: Option<i64>,
}

/// What a text is in a column of JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A string.
    String,
    /// A number, `true` or `false`.
    Scalar,
    /// An object or an array.
    Document,
    /// A whole payload: what it is where it is JSON, else a string.
    Payload,
}

impl Value {
    /// Text where it can be shown as text; any other bytes are kept as they are.
    pub(crate) fn of_bytes(bytes: &Bytes) -> Value {
        match ByteString::try_from(bytes.clone()) {
            Ok(text) if !bytes.contains(&0) => Value::Text(text),
            _ => Value::Blob(bytes.clone()),
        }
    }

    /// Its bytes; of a number about what it takes.
    pub(crate) fn len(&self) -> usize {
        match self {
            Value::Text(text) => text.len(),
            Value::Blob(bytes) => bytes.len(),
            Value::Json(json) => json.text.len(),
            Value::Int(_) | Value::Null => 8,
        }
    }
}

impl Json {
    /// As a column of JSON takes it.
    pub(crate) fn document(&self) -> String {
        let is_json = match self.form {
            Form::String => false,
            Form::Scalar | Form::Document => true,
            Form::Payload => serde_json::from_str::<serde::de::IgnoredAny>(&self.text).is_ok(),
        };
        if is_json { self.text.to_string() } else { serde_json::Value::from(&*self.text).to_string() }
    }
}

/// A row of mqtt_msg or mqtt_retain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MessageRow {
    /// The message's name.
    pub msgid: String,
    /// Topic.
    pub topic: ByteString,
    /// Publisher.
    pub sender: ByteString,
    /// QoS.
    pub qos: u8,
    /// Retain flag.
    pub retain: bool,
    /// Text where it is valid UTF-8 without U+0000, bytes otherwise.
    pub payload: Value,
    /// Record time, us since 1970.
    pub at_us: u64,
    /// When the row is to go (`expired_time`), us since 1970.
    pub expires_us: Option<u64>,
}

/// An operation. Each can be repeated, but for a user's statement.
#[allow(missing_docs, reason = "fields are named as the columns they fill")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SqlOp {
    /// on_client_connected
    Online { client: ByteString, at_us: u64 },
    /// on_client_disconnected
    Offline { client: ByteString, at_us: u64 },
    /// on_message_publish, on_message_store
    Message(Arc<MessageRow>),
    /// on_message_store_keep_latest
    Latest(Arc<MessageRow>),
    /// on_message_retain
    Retain(Arc<MessageRow>),
    /// on_retain_delete
    RetainDelete { topic: ByteString },
    /// on_message_acked, …_for_pubsub, …_for_keep_latest
    Acked { client: ByteString, topic: ByteString, msgid: String, at_us: u64 },
    /// on_message_acked_for_queue
    Remove { msgid: String },
    /// on_acked_delete
    AckedDelete { client: ByteString, filter: ByteString },
    /// A row of another program has become a record.
    Imported { msgid: String, key: ByteString },
    /// A user's statement.
    Statement { sql: Arc<str>, values: Vec<Value> },
}

impl SqlOp {
    /// The message that it stores in mqtt_msg.
    pub(crate) fn message(&self) -> Option<&Arc<MessageRow>> {
        match self {
            SqlOp::Message(row) | SqlOp::Latest(row) => Some(row),
            _ => None,
        }
    }
}

/// About how many bytes an operation takes.
pub(crate) fn weight(op: &SqlOp) -> usize {
    64 + match op {
        SqlOp::Message(row) | SqlOp::Latest(row) | SqlOp::Retain(row) => {
            row.topic.len() + row.sender.len() + row.payload.len() + 64
        }
        SqlOp::Statement { values, .. } => values.iter().map(Value::len).sum(),
        SqlOp::Online { client, .. } | SqlOp::Offline { client, .. } => client.len(),
        SqlOp::Acked { client, topic, .. } => client.len() + topic.len(),
        SqlOp::AckedDelete { client, filter } => client.len() + filter.len(),
        SqlOp::RetainDelete { topic } => topic.len(),
        SqlOp::Imported { key, .. } => key.len(),
        SqlOp::Remove { .. } => 0,
    }
}

/// The operation as an operator reads it: what a statement for it alone would be.
pub(crate) fn render(op: &SqlOp) -> String {
    let message = |table: &str, row: &MessageRow| {
        let (retain, keeps) =
            if table == "mqtt_msg" { (", retain", format!(", {}", u8::from(row.retain))) } else { ("", String::new()) };
        let expiry = row.expires_us.map(|us| format!(" -- goes at {} UTC", datetime(us))).unwrap_or_default();
        format!(
            "insert into {table} (msgid, topic, sender, qos{retain}, payload, arrived) values ('{}', '{}', '{}', {}{keeps}, {}, '{}'){expiry}",
            row.msgid,
            row.topic,
            row.sender,
            row.qos,
            shown(&row.payload),
            datetime(row.at_us)
        )
    };
    match op {
        SqlOp::Online { client, at_us } => format!(
            "insert or update mqtt_client: clientid '{client}', state 1, online_at '{}', offline_at null",
            datetime(*at_us)
        ),
        SqlOp::Offline { client, at_us } => {
            format!("update mqtt_client set state = 0, offline_at = '{}' where clientid = '{client}'", datetime(*at_us))
        }
        SqlOp::Message(row) => message("mqtt_msg", row),
        SqlOp::Latest(row) => format!("{}; older messages of the topic go", message("mqtt_msg", row)),
        SqlOp::Retain(row) => format!("{}; in place of the topic's row", message("mqtt_retain", row)),
        SqlOp::RetainDelete { topic } => format!("delete from mqtt_retain where topic = '{topic}'"),
        SqlOp::Acked { client, topic, msgid, .. } => format!(
            "insert or update mqtt_acked: clientid '{client}', topic '{topic}', mid = (id of '{msgid}' in mqtt_msg)"
        ),
        SqlOp::Remove { msgid } => format!("delete from mqtt_msg where msgid = '{msgid}'"),
        SqlOp::AckedDelete { client, filter } => {
            format!("delete from mqtt_acked where clientid = '{client}' and topic matches '{filter}'")
        }
        SqlOp::Imported { msgid, key } => format!("row {key} of another program is '{msgid}' from now on"),
        SqlOp::Statement { sql, values } => {
            let values: Vec<String> = values.iter().map(shown).collect();
            format!("{sql} -- {}", values.join(", "))
        }
    }
}

/// A value as it would stand in a statement; long ones are cut.
pub(crate) fn shown(value: &Value) -> String {
    const LONGEST: usize = 200;
    match value {
        Value::Null => "null".to_owned(),
        Value::Int(number) => number.to_string(),
        Value::Json(Json { text, form: Form::Scalar, .. }) => text.to_string(),
        Value::Text(text) | Value::Json(Json { text, .. }) if text.chars().count() > LONGEST => {
            format!("'{}'... ({} bytes)", text.chars().take(LONGEST).collect::<String>(), text.len())
        }
        Value::Text(text) | Value::Json(Json { text, .. }) => format!("'{}'", text.replace('\'', "''")),
        Value::Blob(bytes) => {
            let hex: String = bytes.iter().take(LONGEST / 2).map(|byte| format!("{byte:02x}")).collect();
            if bytes.len() > LONGEST / 2 { format!("x'{hex}'... ({} bytes)", bytes.len()) } else { format!("x'{hex}'") }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_that_are_not_text_stay_bytes() {
        for bytes in [&b"\xff\x00"[..], b"a\0b"] {
            assert_eq!(Value::of_bytes(&Bytes::copy_from_slice(bytes)), Value::Blob(Bytes::copy_from_slice(bytes)));
        }
        assert_eq!(Value::of_bytes(&Bytes::from_static("é".as_bytes())), Value::Text("é".into()));
    }

    #[test]
    fn a_column_of_json_gets_json_and_an_operator_what_stood_in_a_statement() {
        let json = |text: &str, form| Json { text: text.into(), form, time_us: None };
        for (text, form, document, statement) in [
            ("it's \"x\"", Form::String, r#""it's \"x\"""#, r#"'it''s "x"'"#),
            ("21.5", Form::String, r#""21.5""#, "'21.5'"),
            ("21.5", Form::Scalar, "21.5", "21.5"),
            ("[1]", Form::Document, "[1]", "'[1]'"),
            (" {\"a\": 1}", Form::Payload, " {\"a\": 1}", "' {\"a\": 1}'"),
            ("{a}", Form::Payload, r#""{a}""#, "'{a}'"),
        ] {
            let value = json(text, form);
            assert_eq!(value.document(), document, "{text}");
            assert_eq!(shown(&Value::Json(value)), statement, "{text}");
        }
        assert_eq!(shown(&Value::Null), "null");
    }
}
