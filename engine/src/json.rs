//! Writing JSON, one object on one line: as much of it as `log dump` needs.

use std::fmt::Write as _;

/// An object that is being written.
#[derive(Debug)]
pub(crate) struct Object(String);

impl Object {
    pub fn new() -> Object {
        Object("{".to_owned())
    }

    /// The finished object.
    pub fn end(mut self) -> String {
        self.0.push('}');
        self.0
    }

    fn key(&mut self, name: &str) {
        if self.0.len() > 1 {
            self.0.push(',');
        }
        push_text(&mut self.0, name);
        self.0.push(':');
    }

    pub fn text(mut self, name: &str, value: &str) -> Object {
        self.key(name);
        push_text(&mut self.0, value);
        self
    }

    pub fn number(mut self, name: &str, value: impl Into<u64>) -> Object {
        self.key(name);
        let _ = write!(self.0, "{}", value.into());
        self
    }

    pub fn flag(mut self, name: &str, value: bool) -> Object {
        self.key(name);
        self.0.push_str(if value { "true" } else { "false" });
        self
    }

    /// Bytes, in hexadecimal.
    pub fn hex(self, name: &str, bytes: &[u8]) -> Object {
        let hex = bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        });
        self.text(name, &hex)
    }

    /// A checksum, in eight hexadecimal digits.
    pub fn crc(self, name: &str, crc: u32) -> Object {
        self.text(name, &format!("{crc:08x}"))
    }

    /// JSON that was written before.
    pub fn json(mut self, name: &str, value: &str) -> Object {
        self.key(name);
        self.0.push_str(value);
        self
    }

    /// A list of JSON that was written before.
    pub fn list(self, name: &str, values: impl IntoIterator<Item = String>) -> Object {
        let values: Vec<String> = values.into_iter().collect();
        self.json(name, &format!("[{}]", values.join(",")))
    }

    /// As it is, where there is none.
    pub fn maybe<T>(self, value: Option<T>, add: impl FnOnce(Object, T) -> Object) -> Object {
        match value {
            Some(value) => add(self, value),
            None => self,
        }
    }
}

fn push_text(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c < ' ' || c == '\u{7f}' => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_escaped_and_members_are_parted() {
        let object = Object::new().text("a\"b", "\\ \n \u{1} ä").number("n", 7_u32).hex("h", &[0, 255]).flag("f", true);
        let object = object.list("l", ["1".to_owned(), "{}".to_owned()]).maybe(None::<u8>, |o, n| o.number("x", n));
        assert_eq!(object.end(), r#"{"a\"b":"\\ \n \u0001 ä","n":7,"h":"00ff","f":true,"l":[1,{}]}"#);
        assert_eq!(Object::new().end(), "{}");
    }
}
