//! Insertions of one statement that follow one another: several rows in one statement, which costs the server and the network a fraction.
//!
//! `insert into t (a, b) values ($1, now()) on conflict do nothing` for two messages is
//! `insert into t (a, b) values ($1, now()), ($2, now()) on conflict do nothing`. That is done where it means the same: one list of values, no
//! query in it, nothing returned, no row updated twice.

use crate::template::outline::{outline, places, replaced};

/// Rows in one statement at most; a power of two.
pub(super) const ROWS: usize = 64;

/// Parameters of a statement at most, as the protocol counts them.
const PARAMETERS: usize = 65_535;

/// A statement that can have several rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Several {
    head: String,
    /// One row with its brackets.
    row: String,
    tail: String,
    /// Parameters of a row.
    width: usize,
}

impl Several {
    /// `None` where several rows might mean something else than one after the other.
    pub(super) fn of(sql: &str, width: usize) -> Option<Several> {
        let plain = outline(sql).to_ascii_lowercase();
        let words: Vec<&str> =
            plain.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').filter(|word| !word.is_empty()).collect();
        if words.first() != Some(&"insert")
            || words.iter().any(|word| matches!(*word, "select" | "returning" | "update"))
        {
            return None;
        }
        let row = row(&plain)?;
        let tail = plain.get(row.end..)?.trim();
        let tail = tail.strip_suffix(';').unwrap_or(tail).trim_end();
        let plain_tail = tail.is_empty() || (tail.starts_with("on") && tail.ends_with("nothing"));
        let all_within = places(sql).iter().all(|place| row.start < place.at.start && place.at.end < row.end);
        if !plain_tail || !all_within || width * 2 > PARAMETERS {
            return None;
        }
        let tail = sql.get(row.end..)?.trim_end();
        Some(Several {
            head: sql.get(..row.start)?.to_owned(),
            row: sql.get(row)?.to_owned(),
            tail: tail.strip_suffix(';').unwrap_or(tail).to_owned(),
            width,
        })
    }

    /// Rows that go into one statement; a power of two.
    pub(super) fn rows(&self) -> usize {
        let most = PARAMETERS / self.width.max(1);
        ROWS.min(1 << most.max(1).ilog2())
    }

    /// The statement for so many rows.
    pub(super) fn sql(&self, rows: usize) -> String {
        let mut sql = String::with_capacity(self.head.len() + rows * (self.row.len() + 8) + self.tail.len());
        sql.push_str(&self.head);
        for n in 0..rows {
            if n > 0 {
                sql.push_str(", ");
            }
            sql.push_str(&replaced(&self.row, |number| Some(format!("${}", n * self.width + number))));
        }
        sql.push_str(&self.tail);
        sql
    }
}

/// Where the one row stands in an outline: behind the word `values` outside of brackets.
fn row(plain: &str) -> Option<std::ops::Range<usize>> {
    let mut depth = 0usize;
    let mut begin = None;
    let mut word_at = 0;
    for (at, c) in plain.char_indices() {
        let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if is_word(c) {
            // Between `values` and its row stands nothing.
            if begin == Some(None) {
                return None;
            }
            continue;
        }
        let is_values = plain.get(word_at..at).is_some_and(|word| word.trim_start() == "values");
        word_at = at + c.len_utf8();
        if is_values && depth == 0 && begin.is_none() {
            begin = Some(None);
        }
        match c {
            '(' => {
                if begin == Some(None) {
                    begin = Some(Some(at));
                }
                depth += 1;
            }
            ')' => {
                depth = depth.checked_sub(1)?;
                if let (Some(Some(from)), 0) = (begin, depth) {
                    return Some(from..at + 1);
                }
            }
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_an_insertion_stand_beside_each_other() {
        let two = |sql: &str| Several::of(sql, places(sql).len()).map(|several| several.sql(2));
        for (sql, expected) in [
            ("insert into t values ($1)", "insert into t values ($1), ($2)"),
            (
                "INSERT INTO \"values\" (\"values\", b) VALUES (NOW(), $2, f($1, '$1')) ;",
                "INSERT INTO \"values\" (\"values\", b) VALUES (NOW(), $2, f($1, '$1')), (NOW(), $4, f($3, '$1')) ",
            ),
            (
                "insert into t (a) overriding system value values($1) on conflict (a) do nothing",
                "insert into t (a) overriding system value values($1), ($2) on conflict (a) do nothing",
            ),
            ("insert into t values (now())", "insert into t values (now()), (now())"),
        ] {
            assert_eq!(two(sql).as_deref(), Some(expected), "{sql}");
        }
    }

    #[test]
    fn what_would_mean_something_else_goes_row_by_row() {
        for sql in [
            "insert into t select $1",
            "insert into t values ((select max(n) + 1 from t), $1)",
            "insert into t values ($1), ($2)",
            "insert into t values ($1) on conflict (a) do update set n = t.n + 1",
            "insert into t values ($1) returning id",
            "insert into t default values",
            "with x as (values ($1)) insert into t table x",
            "update t set a = $1",
            "insert into t values ($1) on conflict (f($2)) do nothing",
            "insert into t values ($1",
        ] {
            assert_eq!(Several::of(sql, 1), None, "{sql}");
        }
    }

    #[test]
    fn wide_rows_are_fewer() {
        let sql = "insert into t values ($1)";
        for (width, rows) in [(1, 64), (1_023, 64), (2_000, 32), (32_000, 2), (32_767, 2)] {
            assert_eq!(Several::of(sql, width).map(|several| several.rows()), Some(rows), "{width}");
        }
    }
}
