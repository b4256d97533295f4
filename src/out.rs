//! Standard output of commands.
//!
//! Client ids, topics and payloads are other people's text. What a terminal would obey instead of show is escaped: control characters,
//! and those that turn the direction of text round.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{ErrorKind, Write as _};

use crate::exit::{Exit, Failure};

/// Whether a terminal does something with it other than to show it.
fn is_obeyed(c: char) -> bool {
    let turns = matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    c.is_control() || turns
}

fn escaped(text: &str, is_bad: impl Fn(char) -> bool, escape: impl Fn(&mut String, char)) -> Cow<'_, str> {
    if !text.chars().any(&is_bad) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_bad(c) { escape(&mut shown, c) } else { shown.push(c) }
    }
    Cow::Owned(shown)
}

/// Text as a part of one line: `\n`, `\u{1b}` for what is not shown.
pub fn one_line(text: &str) -> Cow<'_, str> {
    escaped(text, is_obeyed, |shown, c| shown.extend(c.escape_default()))
}

/// Text of several lines.
pub fn lines(text: &str) -> Cow<'_, str> {
    escaped(text, |c| is_obeyed(c) && c != '\n' && c != '\t', |shown, c| shown.extend(c.escape_default()))
}

/// JSON, in which such characters stand inside strings only; its value is the same.
pub fn json(text: &str) -> Cow<'_, str> {
    escaped(text, is_obeyed, |shown, c| {
        let _ = write!(shown, "\\u{:04x}", u32::from(c));
    })
}

/// Writes a line, or several.
pub fn print(text: &str) {
    write(&format!("{text}\n"));
}

/// Writes text. Who reads no further has seen enough: the program ends well then. Where the output can't be written otherwise (a full
/// disk behind it), the program ends with that failure: what follows would have a hole in it.
pub fn write(text: &str) {
    let mut out = std::io::stdout().lock();
    let Err(source) = out.write_all(text.as_bytes()).and_then(|()| out.flush()) else { return };
    if source.kind() == ErrorKind::BrokenPipe {
        std::process::exit(Exit::Ok as i32);
    }
    let failure = Failure::io("the standard output", &source);
    let _ = writeln!(std::io::stderr(), "forebay: {failure}");
    std::process::exit(failure.exit as i32);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_shown_instead() {
        assert!(matches!(one_line("höllo/+ 日本"), Cow::Borrowed(_)));
        assert_eq!(one_line("a\u{1b}[2J\nb\u{9b}c\u{7f}\u{202e}"), "a\\u{1b}[2J\\nb\\u{9b}c\\u{7f}\\u{202e}");
        assert_eq!(lines("a\n\tb\r\u{1b}"), "a\n\tb\\r\\u{1b}");
        let name = "x\u{9b}\u{7f}\u{202e}\u{1b}\"é";
        let text = serde_json::to_string(name).unwrap();
        let shown = json(&text);
        assert!(!shown.chars().any(is_obeyed), "{shown}");
        assert_eq!(serde_json::from_str::<String>(&shown).unwrap(), name);
    }
}
