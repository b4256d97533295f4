//! Users' statements: parameters are bound as the types the server infers for them, so that a text goes into a number's column where it
//! is a number, and nothing has to be cast in the rule. What has no binary form here (times, addresses, arrays, ranges, …) is sent as text, and
//! the statement casts it.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::postgres::{PgArgumentBuffer, PgTypeInfo, PgTypeKind};
use sqlx::{
    AssertSqlSafe, Connection as _, Either, Encode, Executor, Postgres, Row as _, SqlSafeStr as _, Statement as _,
    Type, TypeInfo as _,
};

use super::connect::PgsqlConn;
use super::error::{is_about_statement, is_own_fault, lost_types, map};
use super::several::Several;
use crate::sink::{Verdict, WriteError};
use crate::sql::text::{powers, timestamp};
use crate::sql::{BinaryPayload, Value};
use crate::template::outline::replaced;

/// A statement as a connection sends it.
#[derive(Clone, Debug)]
pub(super) struct Prepared {
    /// With casts for the parameters that are sent as text.
    sql: Arc<str>,
    kinds: Arc<[Kind]>,
    several: Option<Arc<Several>>,
}

/// What is sent for a parameter.
#[derive(Clone, Debug)]
enum Kind {
    /// The type's binary form.
    Binary(PgTypeInfo),
    /// Text, which the statement casts to the type of this name.
    Cast(String),
}

/// The statements of a connection, by their text.
pub(super) type Known = HashMap<Arc<str>, Prepared>;

/// Why rows of a statement were not stored.
pub(super) enum Refused {
    /// These are at fault, by their index.
    Rows(Vec<(usize, Verdict)>),
    /// One of these is.
    OneOf(Range<usize>),
    /// None is.
    Batch(WriteError),
    /// The server has forgotten the connection's statements, or a column has another type by now.
    Forgotten(sqlx::Error),
}

/// What an answer to these rows means.
fn refused(error: sqlx::Error, rows: Range<usize>) -> Refused {
    match error {
        error if rows.len() > 1 && (is_own_fault(&error) || is_about_statement(&error)) => Refused::OneOf(rows),
        error if lost_types(&error) => Refused::Forgotten(error),
        error if is_own_fault(&error) => Refused::Rows(vec![(rows.start, Verdict::Bury(error.into()))]),
        error => Refused::Batch(map(error)),
    }
}

/// Runs a statement once for each of these rows of values; where it can have several, in as few round trips.
pub(super) async fn run(
    conn: &mut PgsqlConn,
    sql: &Arc<str>,
    rows: &[&[Value]],
    binary: BinaryPayload,
) -> Result<(), Refused> {
    let all = 0..rows.len();
    let known = conn.statements.contains_key(sql);
    let mut statement = prepared(conn, sql).await.map_err(|error| refused(error, all.clone()))?;
    let mut bound = bind(&statement, rows, binary);
    // The column may have been altered since, so that the value fits by now.
    if bound.is_err() && known {
        conn.statements.clear();
        conn.inner.clear_cached_statements().await.map_err(|error| refused(error, all.clone()))?;
        statement = prepared(conn, sql).await.map_err(|error| refused(error, all))?;
        bound = bind(&statement, rows, binary);
    }
    let bound = bound.map_err(Refused::Rows)?;
    let most = statement.several.as_ref().map_or(1, |several| several.rows());
    let mut from = 0;
    for chunk in powers(&bound, most) {
        let sql = match &statement.several {
            Some(several) if chunk.len() > 1 => several.sql(chunk.len()).into(),
            _ => statement.sql.clone(),
        };
        let query = sqlx::query(AssertSqlSafe(sql)).persistent(conn.is_cached());
        let query = chunk.iter().flatten().fold(query, |query, value| query.bind(value.clone()));
        let rows = from..from + chunk.len();
        query.execute(&mut conn.inner).await.map_err(|error| refused(error, rows))?;
        from += chunk.len();
    }
    Ok(())
}

/// The statement with the types that the server infers.
async fn prepared(conn: &mut PgsqlConn, sql: &Arc<str>) -> sqlx::Result<Prepared> {
    if let Some(prepared) = conn.statements.get(sql) {
        return Ok(prepared.clone());
    }
    let asked = conn.inner.prepare(AssertSqlSafe(sql.clone()).into_sql_str()).await?;
    let types: Vec<PgTypeInfo> = match asked.parameters() {
        Some(Either::Left(types)) => types.to_vec(),
        _ => Vec::new(),
    };
    let mut kinds = Vec::with_capacity(types.len());
    for info in types {
        kinds.push(match info.oid().filter(|_| !has_binary_form(&info)) {
            None => Kind::Binary(info),
            Some(oid) => {
                let query = conn.query("select format_type($1, null)").bind(oid);
                let row = query.fetch_one(&mut conn.inner).await?;
                Kind::Cast(row.try_get(0)?)
            }
        });
    }
    let cast = |number: usize| match kinds.get(number.checked_sub(1)?)? {
        Kind::Binary(_) => None,
        Kind::Cast(name) => Some(format!("cast(cast(${number} as text) as {name})")),
    };
    let text = replaced(sql, cast);
    let several = Several::of(&text, kinds.len()).map(Arc::new);
    let prepared = Prepared { sql: text.into(), kinds: kinds.into(), several };
    conn.statements.insert(sql.clone(), prepared.clone());
    Ok(prepared)
}

/// The values of each row as they are sent; else the rows that don't fit.
fn bind(
    prepared: &Prepared,
    rows: &[&[Value]],
    binary: BinaryPayload,
) -> Result<Vec<Vec<Typed>>, Vec<(usize, Verdict)>> {
    let (mut bound, mut misfits) = (Vec::with_capacity(rows.len()), Vec::new());
    for (index, values) in rows.iter().enumerate() {
        match bind_row(prepared, values, binary) {
            Ok(row) => bound.push(row),
            Err(why) => misfits.push((index, Verdict::Bury(why.into()))),
        }
    }
    if misfits.is_empty() { Ok(bound) } else { Err(misfits) }
}

fn bind_row(prepared: &Prepared, values: &[Value], binary: BinaryPayload) -> Result<Vec<Typed>, String> {
    if prepared.kinds.len() != values.len() {
        return Err(format!("{} values for {} parameters", values.len(), prepared.kinds.len()));
    }
    let typed = |(value, kind): (&Value, &Kind)| {
        Ok(match kind {
            Kind::Binary(info) => Typed { info: info.clone(), bytes: encode(value, info, binary)? },
            Kind::Cast(name) => {
                Typed { info: <str as Type<Postgres>>::type_info(), bytes: as_text(value, name, binary)? }
            }
        })
    };
    values.iter().zip(prepared.kinds.iter()).map(typed).collect()
}

/// A value in the binary form of its type; `None` = NULL.
#[derive(Clone)]
struct Typed {
    info: PgTypeInfo,
    bytes: Option<Vec<u8>>,
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
        let Some(bytes) = &self.bytes else { return Ok(IsNull::Yes) };
        buf.extend_from_slice(bytes);
        Ok(IsNull::No)
    }
    fn produces(&self) -> Option<PgTypeInfo> {
        Some(self.info.clone())
    }
}

/// True for the types that [`encode`] knows.
fn has_binary_form(info: &PgTypeInfo) -> bool {
    const KNOWN: [&str; 16] = [
        "BYTEA", "BOOL", "INT2", "INT4", "INT8", "FLOAT4", "FLOAT8", "NUMERIC", "TEXT", "VARCHAR", "CHAR", "NAME",
        "UNKNOWN", "JSON", "JSONB", "XML",
    ];
    KNOWN.contains(&info.name()) || is_text(info)
}

/// Types whose binary form is their text.
fn is_text(info: &PgTypeInfo) -> bool {
    matches!(info.kind(), PgTypeKind::Enum(_)) || info.name().eq_ignore_ascii_case("citext")
}

/// As text for the type of this name, where there is no other way; `None` = NULL.
fn as_text(value: &Value, name: &str, binary: BinaryPayload) -> Result<Option<Vec<u8>>, String> {
    let time = match value {
        Value::Json(json) if name.starts_with("timestamp") || name == "date" => json.time_us,
        _ => None,
    };
    match time {
        Some(us) => Ok(Some(timestamp(us).into_bytes())),
        None => Ok(text(value, name, binary)?.map(String::into_bytes)),
    }
}

/// A value as text; `None` = NULL.
fn text(value: &Value, name: &str, binary: BinaryPayload) -> Result<Option<String>, String> {
    Ok(Some(match value {
        Value::Null => return Ok(None),
        Value::Text(text) => text.to_string(),
        Value::Json(json) => json.text.to_string(),
        Value::Int(number) => number.to_string(),
        Value::Blob(bytes) => binary.text(bytes).ok_or_else(|| {
            format!(
                "the payload is not text and goes where {name} is expected: use a column of type bytea, or set `binary_payload` of the pool"
            )
        })?,
    }))
}

fn encode(value: &Value, info: &PgTypeInfo, binary: BinaryPayload) -> Result<Option<Vec<u8>>, String> {
    let name = info.name();
    match (value, name) {
        (Value::Blob(bytes), "BYTEA") => return Ok(Some(bytes.to_vec())),
        (Value::Json(json), "JSON") => return Ok(Some(json.document().into_bytes())),
        (Value::Json(json), "JSONB") => return Ok(Some([&[1], json.document().as_bytes()].concat())),
        _ => {}
    }
    let Some(text) = text(value, name, binary)? else { return Ok(None) };
    let none = || format!("`{}` goes where {name} is expected, and is none", text.chars().take(64).collect::<String>());
    Ok(Some(match name {
        "BOOL" => vec![match text.trim() {
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
        "JSONB" => [&[1], text.as_bytes()].concat(),
        _ => text.into_bytes(),
    }))
}

/// Places by which an exponent may move a point: as many digits are sent.
const EXPONENT: i32 = 400;

/// `1.5e-3` without its exponent.
fn plain(text: &str) -> Option<String> {
    let (mantissa, exponent) = text.split_once(['e', 'E'])?;
    let exponent: i32 = exponent.parse().ok().filter(|e| (-EXPONENT..=EXPONENT).contains(e))?;
    let (sign, digits) = mantissa.strip_prefix('-').map_or(("", mantissa), |digits| ("-", digits));
    let (whole, part) = digits.split_once('.').unwrap_or((digits, ""));
    let all = Some(format!("{whole}{part}")).filter(|all| !all.is_empty())?;
    let point = i32::try_from(whole.len()).ok()? + exponent;
    let before = usize::try_from(point.max(0)).ok()?;
    let zeros = usize::try_from((-point).max(0)).ok()?;
    // Zeros on either side, so that there is a digit wherever the point comes to stand.
    let all = format!("{:0<before$}", format!("{}{all}", "0".repeat(zeros)));
    let (whole, part) = all.split_at_checked(before)?;
    Some(format!("{sign}{whole}.{part}"))
}

/// A decimal number in the server's binary form: groups of four digits, the weight of the first, the sign, digits after the point.
fn numeric(text: &str) -> Option<Vec<u8>> {
    if let Some(plain) = plain(text) {
        return numeric(&plain);
    }
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
    use crate::sql::{Form, Json};

    #[test]
    fn decimal_numbers_are_groups_of_four_digits() {
        let groups = |text: &str| {
            let bytes = numeric(text)?;
            Some(bytes.chunks(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]])).collect::<Vec<u16>>())
        };
        assert_eq!(groups("12345.678"), Some(vec![3, 1, 0, 3, 1, 2345, 6780]));
        assert_eq!(groups("-0.5"), Some(vec![1, 0xffff, 0x4000, 1, 5000]));
        assert_eq!(groups("0"), Some(vec![0, 0xffff, 0, 0]));
        for (exponent, written) in
            [("1e5", "100000"), ("1.5E-3", "0.0015"), ("-12.5e+1", "-125."), ("1e-7", "0.0000001"), ("12e0", "12")]
        {
            assert!(groups(exponent).is_some() && groups(exponent) == groups(written), "{exponent}");
        }
        for none in ["", ".", "-", "1e", "e5", "1e401", "1e1e1", "1.2.3e1", "1.2.3", "NaN", "１"] {
            assert_eq!(groups(none), None, "{none}");
        }
    }

    #[test]
    fn values_become_their_column_s_type_or_are_refused() {
        let kind = |name| PgTypeInfo::with_name(name);
        let text = |text: &str| Value::Text(text.into());
        let json = |text: &str, form| Value::Json(Json { text: text.into(), form, time_us: Some(1_500_000) });
        let refuse = BinaryPayload::Refuse;
        assert_eq!(encode(&text("7"), &kind("INT4"), refuse), Ok(Some(vec![0, 0, 0, 7])));
        assert_eq!(encode(&Value::Int(2), &kind("TEXT"), refuse), Ok(Some(b"2".to_vec())));
        assert_eq!(encode(&text("{}"), &kind("JSONB"), refuse), Ok(Some(b"\x01{}".to_vec())));
        assert!(encode(&text("x"), &kind("INT8"), refuse).is_err());
        for name in ["INT4", "TEXT", "BYTEA", "JSONB", "NUMERIC"] {
            assert_eq!(encode(&Value::Null, &kind(name), refuse), Ok(None), "{name}");
        }
        assert_eq!(encode(&json("on", Form::String), &kind("JSON"), refuse), Ok(Some(b"\"on\"".to_vec())));
        assert_eq!(encode(&json("on", Form::String), &kind("TEXT"), refuse), Ok(Some(b"on".to_vec())));
        assert_eq!(encode(&json("true", Form::Scalar), &kind("BOOL"), refuse), Ok(Some(vec![1])));
        let interval = <sqlx::postgres::types::PgInterval as Type<Postgres>>::type_info();
        assert!(!has_binary_form(&interval) && has_binary_form(&kind("JSONB")));
        let time = json("1500", Form::Scalar);
        let at = |name| as_text(&time, name, refuse).map(|bytes| bytes.map(|b| String::from_utf8(b).unwrap()));
        assert_eq!(at("timestamp with time zone"), Ok(Some("1970-01-01 00:00:01.500000+00".into())));
        assert_eq!(at("interval"), Ok(Some("1500".into())));
        assert_eq!(as_text(&Value::Null, "inet", refuse), Ok(None));
        let bytes = Value::Blob(bytes::Bytes::from_static(b"\xff"));
        assert_eq!(encode(&bytes, &kind("BYTEA"), refuse), Ok(Some(vec![0xff])));
        assert!(encode(&bytes, &kind("TEXT"), refuse).is_err());
        assert_eq!(encode(&bytes, &kind("TEXT"), BinaryPayload::Hex), Ok(Some(b"ff".to_vec())));
    }
}
