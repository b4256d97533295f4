//! Messages by `COPY mqtt_msg FROM STDIN`: the server's cheapest way to take many rows.
//!
//! COPY knows no conflicts: whatever it is refused for, the batch goes again as an insertion, which says what is wrong with which
//! row or that rows are there already.

use std::sync::Arc;

use super::connect::{PgsqlConn, PgsqlSink};
use crate::sql::MessageRow;
use crate::sql::layout::{Holds, Layout, Payload};
use crate::sql::text::Datetimes;

/// Bytes of one message of COPY, about.
const PIECE: usize = 128 << 10;

/// True where the payload's column is one that COPY's text can be written for.
pub(super) fn serves(layout: &Layout) -> bool {
    !matches!(layout.holds("mqtt_msg", "payload"), Holds::Other)
}

impl PgsqlSink {
    /// Copies rows into these columns of mqtt_msg, and the payload.
    pub(super) async fn copy(
        &self,
        conn: &mut PgsqlConn,
        columns: &[&'static str],
        rows: &[&Arc<MessageRow>],
    ) -> sqlx::Result<()> {
        let sql = format!("copy mqtt_msg ({}, payload) from stdin", columns.join(", "));
        conn.copying = true;
        let layout = &conn.found.layout;
        let mut copy = conn.inner.copy_in_raw(&sql).await?;
        let mut times = Datetimes::default();
        let mut piece = Vec::with_capacity(PIECE + 4_096);
        for row in rows {
            for column in columns {
                match *column {
                    "msgid" => text(&mut piece, &row.msgid),
                    "sender" => text(&mut piece, &row.sender),
                    "topic" => text(&mut piece, &row.topic),
                    "qos" => piece.push(b'0' + row.qos.min(9)),
                    "retain" => piece.push(b'0' + u8::from(row.retain)),
                    "arrived" => piece.extend_from_slice(times.text(row.at_us).as_bytes()),
                    _ => text(&mut piece, &self.config.node_name),
                }
                piece.push(b'\t');
            }
            // What does not fit was refused before anything was sent.
            match layout.payload("mqtt_msg", &row.payload, self.config.binary_payload) {
                Ok(Payload::Text(payload)) => text(&mut piece, &payload),
                Ok(Payload::Bytes(payload)) => bytes(&mut piece, &payload),
                Err(_) => piece.extend_from_slice(b"\\N"),
            }
            piece.push(b'\n');
            if piece.len() >= PIECE {
                copy.send(&piece[..]).await?;
                piece.clear();
            }
        }
        copy.send(&piece[..]).await?;
        copy.finish().await?;
        conn.copying = false;
        Ok(())
    }
}

/// A text in COPY's text format: what ends a field or a row, and the backslash, are written with one.
fn text(out: &mut Vec<u8>, text: &str) {
    escape(out, text.as_bytes(), b"\\\\");
}

/// Bytes as the input of `bytea` inside COPY's text. Other bytes than ASCII would be taken for text in the connection's encoding, and a
/// server of another would convert them; they are written in hexadecimal digits.
fn bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    if bytes.is_ascii() && !bytes.contains(&0) {
        return escape(out, bytes, b"\\\\\\\\");
    }
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    out.extend_from_slice(b"\\\\x");
    let digit = |nibble: u8| DIGITS.get(usize::from(nibble)).copied().unwrap_or(b'0');
    out.extend(bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]));
}

fn escape(out: &mut Vec<u8>, mut rest: &[u8], backslash: &[u8]) {
    while let Some(at) = rest.iter().position(|byte| matches!(byte, b'\\' | b'\t' | b'\n' | b'\r')) {
        let (before, special) = rest.split_at(at);
        out.extend_from_slice(before);
        out.extend_from_slice(match special.first() {
            Some(b'\t') => b"\\t",
            Some(b'\n') => b"\\n",
            Some(b'\r') => b"\\r",
            _ => backslash,
        });
        rest = special.get(1..).unwrap_or_default();
    }
    out.extend_from_slice(rest);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_a_value_ends_its_field() {
        let mut out = Vec::new();
        text(&mut out, "a\tb\nc\rd\\.\\N");
        assert_eq!(out, br"a\tb\nc\rd\\.\\N");
        for (value, expected) in
            [(&b"a\\x"[..], &br"a\\\\x"[..]), (b"\xc3\xa9", br"\\xc3a9"), (b"\0", br"\\x00"), (b"", b"")]
        {
            out.clear();
            bytes(&mut out, value);
            assert_eq!(out, expected, "{}", String::from_utf8_lossy(&out));
        }
    }
}
