//! Values in the text of a statement.
//!
//! What a backslash means depends on the session's `sql_mode`, so no literal has one: values that hold a backslash or U+0000 are written
//! in hexadecimal digits. In all others only the quote is doubled, which every mode reads alike. The connection's character set is
//! utf8mb4, in which no byte of a longer character is a quote.

use std::fmt::Write as _;

use super::rows::Cell;

/// Appends as many rows as fit into a statement of `bytes` bytes, at most `most`; returns how many. None where the first is longer.
pub(super) fn rows(sql: &mut String, rows: &[Vec<Cell<'_>>], most: usize, bytes: usize) -> usize {
    for (taken, row) in rows.iter().take(most).enumerate() {
        let before = sql.len();
        if taken > 0 {
            sql.push(',');
        }
        for (n, cell) in row.iter().enumerate() {
            sql.push(if n == 0 { '(' } else { ',' });
            value(sql, cell);
        }
        sql.push(')');
        if sql.len() > bytes {
            sql.truncate(before);
            return taken;
        }
    }
    rows.len().min(most)
}

fn value(sql: &mut String, cell: &Cell<'_>) {
    match cell {
        Cell::Null => sql.push_str("null"),
        // Writing into a String can't fail.
        Cell::Int(number) => write!(sql, "{number}").unwrap_or_default(),
        Cell::Id(number) => write!(sql, "{number}").unwrap_or_default(),
        Cell::Text(text) if is_plain(text) => quoted(sql, text),
        Cell::Text(text) => {
            sql.push_str("_utf8mb4 ");
            digits(sql, text.as_bytes());
        }
        Cell::Bytes(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) if is_plain(text) => {
                sql.push_str("_binary");
                quoted(sql, text);
            }
            _ => digits(sql, bytes),
        },
    }
}

fn is_plain(text: &str) -> bool {
    !text.bytes().any(|byte| byte == b'\\' || byte == 0)
}

fn quoted(sql: &mut String, text: &str) {
    sql.push('\'');
    for (n, part) in text.split('\'').enumerate() {
        if n > 0 {
            sql.push_str("''");
        }
        sql.push_str(part);
    }
    sql.push('\'');
}

fn digits(sql: &mut String, bytes: &[u8]) {
    let digit = |nibble: u8| char::from_digit(u32::from(nibble), 16).unwrap_or('0');
    sql.push_str("x'");
    sql.extend(bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]));
    sql.push('\'');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_value_ends_its_literal() {
        let row = vec![
            Cell::Null,
            Cell::Int(-1),
            Cell::Id(u64::MAX),
            Cell::text("it's ''é"),
            Cell::text("a\\' or 1=1"),
            Cell::Bytes(b"'"[..].into()),
            Cell::Bytes(b"\0\\\xff"[..].into()),
            Cell::text(""),
        ];
        let mut sql = String::new();
        assert_eq!(rows(&mut sql, &[row], 1, 1_000), 1);
        let expected =
            "(null,-1,18446744073709551615,'it''s ''''é',_utf8mb4 x'615c27206f7220313d31',_binary'''',x'005cff','')";
        assert_eq!(sql, expected);
    }

    #[test]
    fn statements_stay_below_their_length_where_rows_do() {
        let row = |length: usize| vec![Cell::Text("x".repeat(length).into())];
        let all = [row(40), row(40), row(40), row(500), row(1)];
        let taken = |from: usize| rows(&mut String::new(), &all[from..], 2, 100);
        assert_eq!([taken(0), taken(1), taken(2), taken(3), taken(4)], [2, 2, 1, 0, 1]);
    }
}
