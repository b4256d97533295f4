//! Users' statements: parameters are bound as the types the server infers for them, so that a text goes into a number's column where it
//! is a number, and nothing has to be cast in the rule.

use std::collections::HashMap;
use std::sync::Arc;

use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::postgres::{PgArgumentBuffer, PgTypeInfo, PgTypeKind};
use sqlx::{AssertSqlSafe, Either, Encode, Executor, Postgres, SqlSafeStr as _, Statement as _, Type, TypeInfo as _};

use super::connect::PgsqlConn;
use super::error::{is_own_fault, lost_statements, map};
use crate::sink::{Verdict, WriteError};
use crate::sql::{BinaryPayload, Value};

/// The inferred types of a connection's statements.
pub(super) type ParameterTypes = HashMap<Arc<str>, Arc<[PgTypeInfo]>>;

/// Why a statement was not run.
pub(super) enum Refused {
    /// Its own fault.
    Entry(Verdict),
    /// Not.
    Batch(WriteError),
    /// The server has forgotten the connection's statements.
    Forgotten(sqlx::Error),
}

pub(super) async fn run(
    conn: &mut PgsqlConn,
    sql: &Arc<str>,
    values: &[Value],
    binary: BinaryPayload,
) -> Result<(), Refused> {
    let refused = |error: sqlx::Error| match error {
        error if lost_statements(&error) => Refused::Forgotten(error),
        error if is_own_fault(&error) => Refused::Entry(Verdict::Bury(error.into())),
        error => Refused::Batch(map(error)),
    };
    let types = match conn.types.get(sql) {
        Some(types) => types.clone(),
        None => {
            let prepared = conn.inner.prepare(AssertSqlSafe(sql.clone()).into_sql_str()).await.map_err(refused)?;
            let types: Arc<[PgTypeInfo]> = match prepared.parameters() {
                Some(Either::Left(types)) => types.into(),
                _ => Arc::default(),
            };
            conn.types.insert(sql.clone(), types.clone());
            types
        }
    };
    let mut query = sqlx::query(AssertSqlSafe(sql.clone())).persistent(conn.is_cached());
    for (value, kind) in values.iter().zip(types.iter()) {
        match encode(value, kind, binary) {
            Ok(bytes) => query = query.bind(Typed { kind: kind.clone(), bytes }),
            Err(Misfit::Value(why)) => return Err(Refused::Entry(Verdict::Bury(why.into()))),
            Err(Misfit::Type(why)) => return Err(Refused::Batch(WriteError::busy(why))),
        }
    }
    query.execute(&mut conn.inner).await.map(|_| ()).map_err(refused)
}

/// A value in the binary form of its type.
struct Typed {
    kind: PgTypeInfo,
    bytes: Vec<u8>,
}

impl Type<Postgres> for Typed {
    fn type_info() -> PgTypeInfo {
        <str as Type<Postgres>>::type_info()
    }
    fn compatible(_: &PgTypeInfo) -> bool {
        true
    }
}

impl Encode<'_, Postgres> for Typed {
    fn encode_by_ref(&self, buf: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        buf.extend_from_slice(&self.bytes);
        Ok(IsNull::No)
    }
    fn produces(&self) -> Option<PgTypeInfo> {
        Some(self.kind.clone())
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Misfit {
    /// This value is none of that type.
    Value(String),
    /// No value here can be of that type.
    Type(String),
}

fn encode(value: &Value, kind: &PgTypeInfo, binary: BinaryPayload) -> Result<Vec<u8>, Misfit> {
    if kind.name() == "BYTEA" {
        return Ok(match value {
            Value::Text(text) => text.as_bytes().to_vec(),
            Value::Blob(bytes) => bytes.to_vec(),
            Value::Int(number) => number.to_string().into_bytes(),
        });
    }
    let text = match value {
        Value::Text(text) => text.to_string(),
        Value::Int(number) => number.to_string(),
        Value::Blob(bytes) => binary.text(bytes).ok_or_else(|| {
            Misfit::Value(format!(
                "the payload is not text and goes where {} is expected: use a column of type bytea, or set `binary_payload` of the pool",
                kind.name()
            ))
        })?,
    };
    let none = || Misfit::Value(format!("`{text}` goes where {} is expected, and is none", kind.name()));
    Ok(match kind.name() {
        "BOOL" => vec![match text.as_str() {
            "1" | "t" | "true" | "on" | "yes" => 1,
            "0" | "f" | "false" | "off" | "no" => 0,
            _ => return Err(none()),
        }],
        "INT2" => text.trim().parse::<i16>().map_err(|_| none())?.to_be_bytes().to_vec(),
        "INT4" => text.trim().parse::<i32>().map_err(|_| none())?.to_be_bytes().to_vec(),
        "INT8" => text.trim().parse::<i64>().map_err(|_| none())?.to_be_bytes().to_vec(),
        "FLOAT4" => text.trim().parse::<f32>().map_err(|_| none())?.to_be_bytes().to_vec(),
        "FLOAT8" => text.trim().parse::<f64>().map_err(|_| none())?.to_be_bytes().to_vec(),
        "NUMERIC" => numeric(text.trim()).ok_or_else(none)?,
        "TEXT" | "VARCHAR" | "CHAR" | "NAME" | "UNKNOWN" | "JSON" | "XML" => text.into_bytes(),
        "JSONB" => [&[1], text.as_bytes()].concat(),
        other if matches!(kind.kind(), PgTypeKind::Enum(_)) || other.eq_ignore_ascii_case("citext") => {
            text.into_bytes()
        }
        other => {
            return Err(Misfit::Type(format!(
                "a parameter of the statement is of type {other}, which is not bound by itself: write `cast(cast(${{…}} as text) as {})`",
                other.to_ascii_lowercase()
            )));
        }
    })
}

/// A decimal number in the server's binary form: groups of four digits, the weight of the first, the sign, digits after the point.
fn numeric(text: &str) -> Option<Vec<u8>> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let (whole, part) = digits.split_once('.').unwrap_or((digits, ""));
    if (whole.is_empty() && part.is_empty()) || !whole.bytes().chain(part.bytes()).all(|b| b.is_ascii_digit()) {
        return None;
    }
    let whole = whole.trim_start_matches('0');
    let front = whole.len().div_ceil(4) * 4;
    let back = part.len().div_ceil(4) * 4;
    let padded = format!("{whole:0>front$}{part:0<back$}");
    let groups: Vec<u16> =
        padded.as_bytes().chunks(4).map(|group| group.iter().fold(0, |n, d| n * 10 + u16::from(d - b'0'))).collect();
    let weight = i16::try_from(front / 4).ok()? - 1;
    let mut bytes = Vec::with_capacity(8 + groups.len() * 2);
    bytes.extend(u16::try_from(groups.len()).ok()?.to_be_bytes());
    bytes.extend(weight.to_be_bytes());
    bytes.extend(if negative { 0x4000u16 } else { 0 }.to_be_bytes());
    bytes.extend(u16::try_from(part.len()).ok().filter(|scale| *scale < 16_384)?.to_be_bytes());
    for group in groups {
        bytes.extend(group.to_be_bytes());
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimal_numbers_are_groups_of_four_digits() {
        let groups = |text: &str| {
            let bytes = numeric(text)?;
            Some(bytes.chunks(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]])).collect::<Vec<u16>>())
        };
        assert_eq!(groups("12345.678"), Some(vec![3, 1, 0, 3, 1, 2345, 6780]));
        assert_eq!(groups("-0.5"), Some(vec![1, 0xffff, 0x4000, 1, 5000]));
        assert_eq!(groups("0"), Some(vec![0, 0xffff, 0, 0]));
        for none in ["", ".", "-", "1e5", "1.2.3", "NaN", "１"] {
            assert_eq!(groups(none), None, "{none}");
        }
    }

    #[test]
    fn values_become_their_column_s_type_or_are_refused() {
        let kind = |name| PgTypeInfo::with_name(name);
        let text = |text: &str| Value::Text(text.into());
        let refuse = BinaryPayload::Refuse;
        assert_eq!(encode(&text("7"), &kind("INT4"), refuse), Ok(vec![0, 0, 0, 7]));
        assert_eq!(encode(&Value::Int(2), &kind("TEXT"), refuse), Ok(b"2".to_vec()));
        assert_eq!(encode(&text("{}"), &kind("JSONB"), refuse), Ok(b"\x01{}".to_vec()));
        assert!(matches!(encode(&text("x"), &kind("INT8"), refuse), Err(Misfit::Value(_))));
        let interval = <sqlx::postgres::types::PgInterval as Type<Postgres>>::type_info();
        assert!(matches!(encode(&text("x"), &interval, refuse), Err(Misfit::Type(_))));
        let bytes = Value::Blob(bytes::Bytes::from_static(b"\xff"));
        assert_eq!(encode(&bytes, &kind("BYTEA"), refuse), Ok(vec![0xff]));
        assert!(matches!(encode(&bytes, &kind("TEXT"), refuse), Err(Misfit::Value(_))));
        assert_eq!(encode(&bytes, &kind("TEXT"), BinaryPayload::Hex), Ok(b"ff".to_vec()));
    }
}
