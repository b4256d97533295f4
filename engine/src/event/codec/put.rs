//! Appends fields in their byte form.

use super::*;

/// Appends `n` as LEB128.
pub fn put_int(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push((n as u8) | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

/// Appends a length and the bytes.
pub fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_int(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

pub(super) fn put_text(out: &mut Vec<u8>, text: &str) {
    put_bytes(out, text.as_bytes());
}

pub(super) fn put_opt(out: &mut Vec<u8>, n: Option<u64>) {
    match n {
        None => out.push(0),
        Some(n) => {
            out.push(1);
            put_int(out, n);
        }
    }
}

pub(super) fn put_cursors(out: &mut Vec<u8>, cursors: &[CursorAt]) {
    put_int(out, cursors.len() as u64);
    for cursor in cursors {
        put_text(out, &cursor.filter);
        put_int(out, cursor.low.0);
    }
}

/// Appends subscription options (one byte and the identifier).
pub fn put_options(out: &mut Vec<u8>, o: SubscriptionOptions) {
    out.push(
        o.qos.as_u8()
            | (u8::from(o.no_local) << 2)
            | (u8::from(o.retain_as_published) << 3)
            | ((o.retain_handling & 3) << 4),
    );
    put_int(out, u64::from(o.identifier));
}

/// Appends a message.
pub fn put_message(out: &mut Vec<u8>, m: &Message) {
    let origin = match m.origin {
        Origin::Client => 0,
        Origin::Will => 1,
        Origin::Operator => 2,
        Origin::Import { .. } => 3,
    };
    let props = !m.properties.is_empty();
    out.push(
        m.qos.as_u8()
            | (u8::from(m.retain) << 2)
            | (u8::from(props) << 3)
            | (u8::from(!m.username.is_empty()) << 4)
            | (u8::from(!m.peer.is_empty()) << 5)
            | (origin << 6),
    );
    put_text(out, &m.topic);
    put_text(out, &m.publisher);
    if !m.username.is_empty() {
        put_text(out, &m.username);
    }
    if !m.peer.is_empty() {
        put_text(out, &m.peer);
    }
    if let Origin::Import { sink, key, time_us } = &m.origin {
        put_text(out, sink);
        put_text(out, key);
        put_int(out, *time_us);
    }
    if props {
        put_properties(out, &m.properties);
    }
    put_bytes(out, &m.payload);
}

pub(super) fn put_properties(out: &mut Vec<u8>, p: &Properties) {
    out.push(
        u8::from(p.payload_format.is_some())
            | (u8::from(p.expiry_s.is_some()) << 1)
            | (u8::from(p.content_type.is_some()) << 2)
            | (u8::from(p.response_topic.is_some()) << 3)
            | (u8::from(p.correlation_data.is_some()) << 4),
    );
    if let Some(format) = p.payload_format {
        out.push(format);
    }
    if let Some(expiry) = p.expiry_s {
        put_int(out, u64::from(expiry));
    }
    if let Some(text) = &p.content_type {
        put_text(out, text);
    }
    if let Some(text) = &p.response_topic {
        put_text(out, text);
    }
    if let Some(data) = &p.correlation_data {
        put_bytes(out, data);
    }
    put_int(out, p.user.len() as u64);
    for (name, value) in &p.user {
        put_text(out, name);
        put_text(out, value);
    }
}
