//! Values as the types of the columns they go to, found when a statement is prepared.

use scylla::frame::response::result::{ColumnType, NativeType};
use scylla::value::{Counter, CqlTimestamp, CqlValue, CqlVarint};

use crate::sql::{BinaryPayload, Json, Value, shown};

/// A value for a column of this type.
///
/// # Errors
/// What does not fit, and the remedy.
pub(super) fn bind(
    value: &Value,
    to: &ColumnType<'_>,
    column: &str,
    binary: BinaryPayload,
) -> Result<CqlValue, String> {
    let ColumnType::Native(native) = to else {
        return Err(format!("column {column} is a collection or a type of its own, which no parameter can fill"));
    };
    native_value(value, native, binary).map_err(|why| format!("column {column} ({}) {why}", name(native)))
}

fn native_value(value: &Value, native: &NativeType, binary: BinaryPayload) -> Result<CqlValue, String> {
    let wrong = || format!("does not take {}", shown(value));
    match native {
        NativeType::Text => return Ok(CqlValue::Text(text(value, binary)?)),
        NativeType::Ascii => {
            let text = text(value, binary)?;
            return if text.is_ascii() { Ok(CqlValue::Ascii(text)) } else { Err(wrong()) };
        }
        NativeType::Blob => {
            return Ok(CqlValue::Blob(match value {
                Value::Null => return Err(wrong()),
                Value::Text(text) | Value::Json(Json { text, .. }) => text.as_bytes().to_vec(),
                Value::Blob(bytes) => bytes.to_vec(),
                Value::Int(number) => number.to_string().into_bytes(),
            }));
        }
        _ => {}
    }
    if let Some(integer) = integer(value)
        && let Some(bound) = whole(integer, native)
    {
        return Ok(bound);
    }
    let (Value::Text(text) | Value::Json(Json { text, .. })) = value else { return Err(wrong()) };
    let text = text.trim();
    let bound = match native {
        NativeType::Boolean => match text {
            "true" | "1" => Some(CqlValue::Boolean(true)),
            "false" | "0" => Some(CqlValue::Boolean(false)),
            _ => None,
        },
        NativeType::Float => text.parse().ok().map(CqlValue::Float),
        NativeType::Double => text.parse().ok().map(CqlValue::Double),
        NativeType::Inet => text.parse().ok().map(CqlValue::Inet),
        NativeType::Uuid => text.parse().ok().map(CqlValue::Uuid),
        NativeType::Timeuuid => text.parse().ok().map(CqlValue::Timeuuid),
        _ => None,
    };
    bound.ok_or_else(wrong)
}

fn integer(value: &Value) -> Option<i64> {
    match value {
        Value::Int(number) => Some(*number),
        Value::Text(text) | Value::Json(Json { text, .. }) => text.trim().parse().ok(),
        Value::Blob(_) | Value::Null => None,
    }
}

fn whole(number: i64, native: &NativeType) -> Option<CqlValue> {
    Some(match native {
        NativeType::BigInt => CqlValue::BigInt(number),
        NativeType::Int => CqlValue::Int(number.try_into().ok()?),
        NativeType::SmallInt => CqlValue::SmallInt(number.try_into().ok()?),
        NativeType::TinyInt => CqlValue::TinyInt(number.try_into().ok()?),
        NativeType::Counter => CqlValue::Counter(Counter(number)),
        NativeType::Timestamp => CqlValue::Timestamp(CqlTimestamp(number)),
        NativeType::Varint => CqlValue::Varint(CqlVarint::from_signed_bytes_be_slice(&number.to_be_bytes())),
        NativeType::Boolean if number == 0 || number == 1 => CqlValue::Boolean(number == 1),
        NativeType::Double => CqlValue::Double(number as f64),
        _ => return None,
    })
}

fn text(value: &Value, binary: BinaryPayload) -> Result<String, String> {
    match value {
        Value::Null => Err(format!("does not take {}", shown(value))),
        Value::Text(text) | Value::Json(Json { text, .. }) => Ok(text.to_string()),
        Value::Int(number) => Ok(number.to_string()),
        Value::Blob(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => Ok(text.to_owned()),
            Err(_) => binary.text(bytes).ok_or_else(|| {
                "holds text and these bytes are none: make it a blob, or set the pool's `binary_payload` to base64 or hex, then replay the letter"
                    .to_owned()
            }),
        },
    }
}

fn name(native: &NativeType) -> String {
    format!("{native:?}").to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn to(value: &Value, native: NativeType) -> Result<CqlValue, String> {
        bind(value, &ColumnType::Native(native), "c", BinaryPayload::Refuse)
    }

    #[test]
    fn values_become_what_the_column_holds_or_say_why_not() {
        let text = |text: &str| Value::Text(text.into());
        assert_eq!(to(&text("x"), NativeType::Text), Ok(CqlValue::Text("x".into())));
        assert_eq!(to(&text(" 42 "), NativeType::Int), Ok(CqlValue::Int(42)));
        assert_eq!(to(&Value::Int(2), NativeType::TinyInt), Ok(CqlValue::TinyInt(2)));
        assert_eq!(to(&text("1.5"), NativeType::Double), Ok(CqlValue::Double(1.5)));
        assert_eq!(to(&text("true"), NativeType::Boolean), Ok(CqlValue::Boolean(true)));
        assert_eq!(to(&Value::Int(1), NativeType::Boolean), Ok(CqlValue::Boolean(true)));
        assert_eq!(to(&Value::Int(7), NativeType::Text), Ok(CqlValue::Text("7".into())));
        for (value, native) in [
            (text("300"), NativeType::TinyInt),
            (text("hot"), NativeType::Int),
            (text("é"), NativeType::Ascii),
            (text("x"), NativeType::Uuid),
            (text("1"), NativeType::Duration),
        ] {
            assert!(to(&value, native.clone()).is_err_and(|why| why.contains("column c")), "{value:?}");
        }
    }

    #[test]
    fn bytes_are_never_changed_unasked() {
        let bytes = Value::Blob(Bytes::from_static(b"\xff\x00"));
        assert_eq!(to(&bytes, NativeType::Blob), Ok(CqlValue::Blob(vec![0xff, 0])));
        assert!(to(&bytes, NativeType::Text).is_err_and(|why| why.contains("binary_payload")));
        // U+0000 is text to Cassandra.
        let nul = Value::Blob(Bytes::from_static(b"a\0b"));
        assert_eq!(to(&nul, NativeType::Text), Ok(CqlValue::Text("a\0b".into())));
        let hex = bind(&bytes, &ColumnType::Native(NativeType::Text), "c", BinaryPayload::Hex);
        assert_eq!(hex, Ok(CqlValue::Text("ff00".into())));
    }
}
