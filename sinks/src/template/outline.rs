//! Where a statement's own words and parameters stand: outside of quotation marks and comments.

use std::fmt::Write as _;
use std::ops::Range;

/// A parameter `$n` of a statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// Bytes of the statement.
    pub(crate) at: Range<usize>,
    /// `n`.
    pub(crate) number: usize,
}

/// The statement, byte for byte in its place, with blanks for whatever PostgreSQL takes as it stands: strings, quoted names, comments.
pub(crate) fn outline(sql: &str) -> String {
    let mut out = String::with_capacity(sql.len());
    let mut rest = sql;
    while let Some(first) = rest.chars().next() {
        let taken = opaque(rest, &out);
        let (piece, tail) = rest.split_at_checked(taken.max(first.len_utf8())).unwrap_or((rest, ""));
        match (taken, first.is_ascii()) {
            (0, true) => out.push(first),
            // A letter of a name.
            (0, false) => out.extend(std::iter::repeat_n('_', piece.len())),
            _ => out.extend(std::iter::repeat_n(' ', piece.len())),
        }
        rest = tail;
    }
    out
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '$')
}

/// Bytes at the beginning of `rest` that are a string, a quoted name or a comment; 0 where it begins with none. `before` is the outline of
/// what comes before.
fn opaque(rest: &str, before: &str) -> usize {
    let after = |from: usize, end: &str| -> usize {
        rest.get(from..).and_then(|tail| tail.find(end)).map_or(rest.len(), |at| from + at + end.len())
    };
    if rest.starts_with("--") {
        return rest.find('\n').unwrap_or(rest.len());
    }
    if rest.starts_with("/*") {
        return comment(rest);
    }
    if rest.starts_with('"') {
        return after(1, "\"");
    }
    if rest.starts_with('\'') {
        let mut word = before.chars().rev();
        let escapes = matches!(word.next(), Some('e' | 'E')) && !word.next().is_some_and(is_word);
        return if escapes { escaped(rest) } else { after(1, "'") };
    }
    if rest.starts_with('$') && !before.ends_with(is_word) {
        let name = rest.get(1..).unwrap_or_default();
        let length = name.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(name.len());
        let named =
            !name.starts_with(|c: char| c.is_ascii_digit()) && name.get(length..).is_some_and(|t| t.starts_with('$'));
        if let Some(tag) = rest.get(..length + 2).filter(|_| named) {
            return after(tag.len(), tag);
        }
    }
    0
}

/// A string in which a backslash takes the next character with it.
fn escaped(rest: &str) -> usize {
    let mut chars = rest.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => {
                chars.next();
            }
            '\'' => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

/// Comments may hold comments.
fn comment(rest: &str) -> usize {
    let (mut depth, mut at) = (0usize, 0);
    while let Some(tail) = rest.get(at..).filter(|tail| !tail.is_empty()) {
        if tail.starts_with("/*") {
            depth += 1;
            at += 2;
        } else if tail.starts_with("*/") {
            depth = depth.saturating_sub(1);
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += tail.chars().next().map_or(1, char::len_utf8);
        }
    }
    rest.len()
}

/// The parameters of a statement, in the order in which they stand there.
pub(crate) fn places(sql: &str) -> Vec<Place> {
    places_of(&outline(sql))
}

fn places_of(outline: &str) -> Vec<Place> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(dollar) = outline.get(at..).and_then(|rest| rest.find('$')).map(|n| at + n) {
        let digits = outline.get(dollar + 1..).unwrap_or_default();
        let length = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
        let in_name = outline.get(..dollar).is_some_and(|before| before.ends_with(is_word));
        at = dollar + 1 + length;
        if let (Some(Ok(number)), false) = (digits.get(..length).map(str::parse), in_name) {
            found.push(Place { at: dollar..at, number });
        }
    }
    found
}

/// The statement with something else in the place of each parameter; `None` leaves it.
#[cfg_attr(not(feature = "pgsql"), allow(dead_code, reason = "PostgreSQL's statements are written anew"))]
pub(crate) fn replaced(sql: &str, mut by: impl FnMut(usize) -> Option<String>) -> String {
    let mut out = String::with_capacity(sql.len() + 64);
    let mut from = 0;
    for place in places(sql) {
        out.push_str(sql.get(from..place.at.start).unwrap_or_default());
        match by(place.number) {
            Some(text) => out.push_str(&text),
            // Writing into a String can't fail.
            None => write!(out, "${}", place.number).unwrap_or_default(),
        }
        from = place.at.end;
    }
    out.push_str(sql.get(from..).unwrap_or_default());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(sql: &str) -> Vec<usize> {
        let outline = outline(sql);
        assert_eq!(outline.len(), sql.len(), "{sql}");
        let found = places(sql);
        for place in &found {
            assert_eq!(sql.get(place.at.clone()), Some(format!("${}", place.number).as_str()), "{sql}");
        }
        found.into_iter().map(|place| place.number).collect()
    }

    #[test]
    fn parameters_are_found_outside_of_quotation_marks_and_comments() {
        for (sql, expected) in [
            ("insert into t values ($1,$2, $10)", vec![1, 2, 10]),
            ("insert into t values ('$1', \"$2\", $3)", vec![3]),
            ("insert into t values ('it''s $1', $2)", vec![2]),
            ("select 'a\\', $1", vec![1]),
            ("select E'a\\'$1', e'\\\\', $2, pure'$3'", vec![2]),
            ("select $1 -- $2\n, $3 /* $4 /* $5 */ $6 */, $7", vec![1, 3, 7]),
            ("select $$ $1 $$, $x$ $2 $$ $x$, $3", vec![3]),
            ("select a$1, é$2, $3é, \"é\"$4", vec![3, 4]),
            ("select $", vec![]),
            ("select '$1", vec![]),
            ("/* $1", vec![]),
        ] {
            assert_eq!(numbers(sql), expected, "{sql}");
        }
    }

    #[test]
    fn parameters_are_replaced_where_they_stand() {
        let by = |n: usize| (n != 2).then(|| format!("<{n}>"));
        assert_eq!(replaced("f($1, '$1', $2, $1::int)é", by), "f(<1>, '$1', $2, <1>::int)é");
    }
}
