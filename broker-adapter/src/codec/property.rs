//! MQTT 5 properties: which exist, where they may stand, how they are read and written.

use bytes::{BufMut, Bytes, BytesMut};
use bytestring::ByteString;
use forebay_engine::event::Properties;

use super::encode::{EncodeError, put_binary, put_string, put_varint, with_length};
use super::error::DecodeError;
use super::packet::{AckProperties, ConnAckProperties, ConnectProperties, DisconnectProperties, UserProperties};
use super::reader::Reader;

/// A property's value; the variant says how it is laid out.
enum Value {
    Byte(u8),
    Two(u16),
    Four(u32),
    Varint(u32),
    Text(ByteString),
    Binary(Bytes),
    Pair(ByteString, ByteString),
}

const PAYLOAD_FORMAT: u32 = 0x01;
const MESSAGE_EXPIRY: u32 = 0x02;
const CONTENT_TYPE: u32 = 0x03;
const RESPONSE_TOPIC: u32 = 0x08;
const CORRELATION_DATA: u32 = 0x09;
const SUBSCRIPTION_ID: u32 = 0x0B;
const SESSION_EXPIRY: u32 = 0x11;
const ASSIGNED_CLIENT_ID: u32 = 0x12;
const SERVER_KEEP_ALIVE: u32 = 0x13;
const AUTH_METHOD: u32 = 0x15;
const AUTH_DATA: u32 = 0x16;
const REQUEST_PROBLEM: u32 = 0x17;
const WILL_DELAY: u32 = 0x18;
const REQUEST_RESPONSE: u32 = 0x19;
const RESPONSE_INFORMATION: u32 = 0x1A;
const SERVER_REFERENCE: u32 = 0x1C;
const REASON_STRING: u32 = 0x1F;
const RECEIVE_MAXIMUM: u32 = 0x21;
const TOPIC_ALIAS_MAXIMUM: u32 = 0x22;
const TOPIC_ALIAS: u32 = 0x23;
const MAXIMUM_QOS: u32 = 0x24;
const RETAIN_AVAILABLE: u32 = 0x25;
const USER: u32 = 0x26;
const MAXIMUM_PACKET_SIZE: u32 = 0x27;
const WILDCARD_AVAILABLE: u32 = 0x28;
const SUBSCRIPTION_IDS_AVAILABLE: u32 = 0x29;
const SHARED_AVAILABLE: u32 = 0x2A;

fn read_value(id: u32, reader: &mut Reader) -> Result<Value, DecodeError> {
    Ok(match id {
        PAYLOAD_FORMAT
        | REQUEST_PROBLEM
        | REQUEST_RESPONSE
        | MAXIMUM_QOS
        | RETAIN_AVAILABLE
        | WILDCARD_AVAILABLE
        | SUBSCRIPTION_IDS_AVAILABLE
        | SHARED_AVAILABLE => match reader.u8()? {
            n @ (0 | 1) => Value::Byte(n),
            _ => return Err(DecodeError::PropertyValue(id)),
        },
        SERVER_KEEP_ALIVE | TOPIC_ALIAS_MAXIMUM => Value::Two(reader.u16()?),
        TOPIC_ALIAS => match reader.u16()? {
            0 => return Err(DecodeError::TopicAliasZero),
            n => Value::Two(n),
        },
        RECEIVE_MAXIMUM => match reader.u16()? {
            0 => return Err(DecodeError::PropertyValue(id)),
            n => Value::Two(n),
        },
        MESSAGE_EXPIRY | SESSION_EXPIRY | WILL_DELAY => Value::Four(reader.u32()?),
        MAXIMUM_PACKET_SIZE => match reader.u32()? {
            0 => return Err(DecodeError::PropertyValue(id)),
            n => Value::Four(n),
        },
        SUBSCRIPTION_ID => match reader.varint()? {
            0 => return Err(DecodeError::PropertyValue(id)),
            n => Value::Varint(n),
        },
        CONTENT_TYPE | RESPONSE_TOPIC | ASSIGNED_CLIENT_ID | AUTH_METHOD | RESPONSE_INFORMATION | SERVER_REFERENCE
        | REASON_STRING => Value::Text(reader.string()?),
        CORRELATION_DATA | AUTH_DATA => Value::Binary(reader.binary()?),
        USER => Value::Pair(reader.string()?, reader.string()?),
        _ => return Err(DecodeError::UnknownProperty(id)),
    })
}

/// Reads a property list; `set` answers false where the property does not belong to the packet.
fn read_list(reader: &mut Reader, mut set: impl FnMut(u32, Value) -> bool) -> Result<(), DecodeError> {
    let len = reader.varint()?;
    if len == 0 {
        return Ok(());
    }
    let mut list = Reader::new(reader.take(len as usize)?);
    let mut seen = 0u64;
    while !list.is_empty() {
        let id = list.varint()?;
        let value = read_value(id, &mut list)?;
        // User properties repeat; subscription identifiers repeat in PUBLISH, which counts them itself.
        if id != USER && id != SUBSCRIPTION_ID {
            let bit = 1u64 << (id & 63);
            if seen & bit != 0 {
                return Err(DecodeError::DuplicateProperty(id));
            }
            seen |= bit;
        }
        if !set(id, value) {
            return Err(DecodeError::MisplacedProperty(id));
        }
    }
    Ok(())
}

fn set_message(properties: &mut Properties, id: u32, value: Value) -> bool {
    match (id, value) {
        (PAYLOAD_FORMAT, Value::Byte(n)) => properties.payload_format = Some(n),
        (MESSAGE_EXPIRY, Value::Four(n)) => properties.expiry_s = Some(n),
        (CONTENT_TYPE, Value::Text(text)) => properties.content_type = Some(text),
        (RESPONSE_TOPIC, Value::Text(text)) => properties.response_topic = Some(text),
        (CORRELATION_DATA, Value::Binary(bytes)) => properties.correlation_data = Some(bytes),
        (USER, Value::Pair(name, value)) => properties.user.push((name, value)),
        _ => return false,
    }
    true
}

/// What a PUBLISH's properties hold beside the message's own.
#[derive(Default)]
pub(super) struct PublishExtras {
    pub(super) topic_alias: Option<u16>,
    pub(super) subscription_ids: Vec<u32>,
}

pub(super) fn read_publish(reader: &mut Reader, extras: &mut PublishExtras) -> Result<Properties, DecodeError> {
    let mut properties = Properties::default();
    read_list(reader, |id, value| match (id, value) {
        (TOPIC_ALIAS, Value::Two(n)) => {
            extras.topic_alias = Some(n);
            true
        }
        (SUBSCRIPTION_ID, Value::Varint(n)) => {
            extras.subscription_ids.push(n);
            true
        }
        (id, value) => set_message(&mut properties, id, value),
    })?;
    Ok(properties)
}

pub(super) fn read_will(reader: &mut Reader) -> Result<(Properties, u32), DecodeError> {
    let (mut properties, mut delay_s) = (Properties::default(), 0);
    read_list(reader, |id, value| match (id, value) {
        (WILL_DELAY, Value::Four(n)) => {
            delay_s = n;
            true
        }
        (id, value) => set_message(&mut properties, id, value),
    })?;
    Ok((properties, delay_s))
}

pub(super) fn read_connect(reader: &mut Reader) -> Result<ConnectProperties, DecodeError> {
    let mut p = ConnectProperties::default();
    read_list(reader, |id, value| {
        match (id, value) {
            (SESSION_EXPIRY, Value::Four(n)) => p.session_expiry_s = Some(n),
            (RECEIVE_MAXIMUM, Value::Two(n)) => p.receive_maximum = Some(n),
            (MAXIMUM_PACKET_SIZE, Value::Four(n)) => p.maximum_packet_size = Some(n),
            (TOPIC_ALIAS_MAXIMUM, Value::Two(n)) => p.topic_alias_maximum = Some(n),
            (REQUEST_RESPONSE, Value::Byte(n)) => p.request_response_information = Some(n == 1),
            (REQUEST_PROBLEM, Value::Byte(n)) => p.request_problem_information = Some(n == 1),
            (AUTH_METHOD, Value::Text(text)) => p.authentication_method = Some(text),
            (AUTH_DATA, Value::Binary(bytes)) => p.authentication_data = Some(bytes),
            (USER, Value::Pair(name, value)) => p.user.push((name, value)),
            _ => return false,
        }
        true
    })?;
    if p.authentication_data.is_some() && p.authentication_method.is_none() {
        return Err(DecodeError::PropertyValue(AUTH_DATA));
    }
    Ok(p)
}

pub(super) fn read_connack(reader: &mut Reader) -> Result<ConnAckProperties, DecodeError> {
    let mut p = ConnAckProperties::default();
    read_list(reader, |id, value| {
        match (id, value) {
            (SESSION_EXPIRY, Value::Four(n)) => p.session_expiry_s = Some(n),
            (RECEIVE_MAXIMUM, Value::Two(n)) => p.receive_maximum = Some(n),
            (MAXIMUM_QOS, Value::Byte(n)) => p.maximum_qos = Some(n),
            (RETAIN_AVAILABLE, Value::Byte(n)) => p.retain_available = Some(n == 1),
            (MAXIMUM_PACKET_SIZE, Value::Four(n)) => p.maximum_packet_size = Some(n),
            (ASSIGNED_CLIENT_ID, Value::Text(text)) => p.assigned_client_id = Some(text),
            (TOPIC_ALIAS_MAXIMUM, Value::Two(n)) => p.topic_alias_maximum = Some(n),
            (REASON_STRING, Value::Text(text)) => p.reason_string = Some(text),
            (WILDCARD_AVAILABLE, Value::Byte(n)) => p.wildcard_subscription_available = Some(n == 1),
            (SUBSCRIPTION_IDS_AVAILABLE, Value::Byte(n)) => p.subscription_identifiers_available = Some(n == 1),
            (SHARED_AVAILABLE, Value::Byte(n)) => p.shared_subscription_available = Some(n == 1),
            (SERVER_KEEP_ALIVE, Value::Two(n)) => p.server_keep_alive_s = Some(n),
            (RESPONSE_INFORMATION, Value::Text(text)) => p.response_information = Some(text),
            (SERVER_REFERENCE, Value::Text(text)) => p.server_reference = Some(text),
            (AUTH_METHOD, Value::Text(text)) => p.authentication_method = Some(text),
            (AUTH_DATA, Value::Binary(bytes)) => p.authentication_data = Some(bytes),
            (USER, Value::Pair(name, value)) => p.user.push((name, value)),
            _ => return false,
        }
        true
    })?;
    Ok(p)
}

pub(super) fn read_ack(reader: &mut Reader) -> Result<AckProperties, DecodeError> {
    let mut p = AckProperties::default();
    read_list(reader, |id, value| {
        match (id, value) {
            (REASON_STRING, Value::Text(text)) => p.reason_string = Some(text),
            (USER, Value::Pair(name, value)) => p.user.push((name, value)),
            _ => return false,
        }
        true
    })?;
    Ok(p)
}

pub(super) fn read_disconnect(reader: &mut Reader, auth: bool) -> Result<DisconnectProperties, DecodeError> {
    let mut p = DisconnectProperties::default();
    read_list(reader, |id, value| {
        match (id, value) {
            (SESSION_EXPIRY, Value::Four(n)) if !auth => p.session_expiry_s = Some(n),
            (SERVER_REFERENCE, Value::Text(text)) if !auth => p.server_reference = Some(text),
            (AUTH_METHOD, Value::Text(text)) if auth => p.authentication_method = Some(text),
            (AUTH_DATA, Value::Binary(bytes)) if auth => p.authentication_data = Some(bytes),
            (REASON_STRING, Value::Text(text)) => p.reason_string = Some(text),
            (USER, Value::Pair(name, value)) => p.user.push((name, value)),
            _ => return false,
        }
        true
    })?;
    Ok(p)
}

/// Properties of SUBSCRIBE (with `identifier`) and UNSUBSCRIBE (without).
pub(super) fn read_subscribe(
    reader: &mut Reader,
    mut identifier: Option<&mut u32>,
) -> Result<UserProperties, DecodeError> {
    let (mut user, mut twice) = (Vec::new(), false);
    read_list(reader, |id, value| match (id, value, identifier.as_deref_mut()) {
        (SUBSCRIPTION_ID, Value::Varint(n), Some(slot)) => {
            twice |= *slot != 0;
            *slot = n;
            true
        }
        (USER, Value::Pair(name, value), _) => {
            user.push((name, value));
            true
        }
        _ => false,
    })?;
    if twice { Err(DecodeError::DuplicateProperty(SUBSCRIPTION_ID)) } else { Ok(user) }
}

/// Writes properties one by one; the first that can't be written is kept as the error.
struct Writer<'a> {
    out: &'a mut BytesMut,
    error: Option<EncodeError>,
}

impl Writer<'_> {
    fn byte(&mut self, id: u32, value: Option<u8>) {
        if let Some(n) = value {
            put_varint(self.out, id);
            self.out.put_u8(n);
        }
    }
    fn flag(&mut self, id: u32, value: Option<bool>) {
        self.byte(id, value.map(u8::from));
    }
    fn two(&mut self, id: u32, value: Option<u16>) {
        if let Some(n) = value {
            put_varint(self.out, id);
            self.out.put_u16(n);
        }
    }
    fn four(&mut self, id: u32, value: Option<u32>) {
        if let Some(n) = value {
            put_varint(self.out, id);
            self.out.put_u32(n);
        }
    }
    fn varint(&mut self, id: u32, value: u32) {
        put_varint(self.out, id);
        put_varint(self.out, value);
    }
    fn text(&mut self, id: u32, value: Option<&ByteString>) {
        if let Some(text) = value {
            put_varint(self.out, id);
            let result = put_string(self.out, text);
            self.note(result);
        }
    }
    fn binary(&mut self, id: u32, value: Option<&Bytes>) {
        if let Some(bytes) = value {
            put_varint(self.out, id);
            let result = put_binary(self.out, bytes);
            self.note(result);
        }
    }
    fn user(&mut self, pairs: &[(ByteString, ByteString)]) {
        for (name, value) in pairs {
            put_varint(self.out, USER);
            let result = put_string(self.out, name).and_then(|()| put_string(self.out, value));
            self.note(result);
        }
    }
    fn note(&mut self, result: Result<(), EncodeError>) {
        self.error = self.error.or(result.err());
    }
}

fn write_list(out: &mut BytesMut, write: impl FnOnce(&mut Writer<'_>)) -> Result<(), EncodeError> {
    with_length(out, 0, |out| {
        let mut writer = Writer { out, error: None };
        write(&mut writer);
        writer.error.map_or(Ok(()), Err)
    })
}

fn write_message(w: &mut Writer<'_>, p: &Properties) {
    w.byte(PAYLOAD_FORMAT, p.payload_format);
    w.four(MESSAGE_EXPIRY, p.expiry_s);
    w.text(CONTENT_TYPE, p.content_type.as_ref());
    w.text(RESPONSE_TOPIC, p.response_topic.as_ref());
    w.binary(CORRELATION_DATA, p.correlation_data.as_ref());
    w.user(&p.user);
}

pub(super) fn write_publish(
    out: &mut BytesMut,
    p: &Properties,
    topic_alias: Option<u16>,
    subscription_ids: &[u32],
) -> Result<(), EncodeError> {
    if topic_alias.is_none() && subscription_ids.is_empty() && p.is_empty() {
        out.put_u8(0);
        return Ok(());
    }
    write_list(out, |w| {
        w.two(TOPIC_ALIAS, topic_alias);
        for id in subscription_ids {
            w.varint(SUBSCRIPTION_ID, *id);
        }
        write_message(w, p);
    })
}

pub(super) fn write_will(out: &mut BytesMut, p: &Properties, delay_s: u32) -> Result<(), EncodeError> {
    write_list(out, |w| {
        w.four(WILL_DELAY, (delay_s > 0).then_some(delay_s));
        write_message(w, p);
    })
}

pub(super) fn write_connect(out: &mut BytesMut, p: &ConnectProperties) -> Result<(), EncodeError> {
    write_list(out, |w| {
        w.four(SESSION_EXPIRY, p.session_expiry_s);
        w.two(RECEIVE_MAXIMUM, p.receive_maximum);
        w.four(MAXIMUM_PACKET_SIZE, p.maximum_packet_size);
        w.two(TOPIC_ALIAS_MAXIMUM, p.topic_alias_maximum);
        w.flag(REQUEST_RESPONSE, p.request_response_information);
        w.flag(REQUEST_PROBLEM, p.request_problem_information);
        w.text(AUTH_METHOD, p.authentication_method.as_ref());
        w.binary(AUTH_DATA, p.authentication_data.as_ref());
        w.user(&p.user);
    })
}

pub(super) fn write_connack(out: &mut BytesMut, p: &ConnAckProperties) -> Result<(), EncodeError> {
    write_list(out, |w| {
        w.four(SESSION_EXPIRY, p.session_expiry_s);
        w.two(RECEIVE_MAXIMUM, p.receive_maximum);
        w.byte(MAXIMUM_QOS, p.maximum_qos);
        w.flag(RETAIN_AVAILABLE, p.retain_available);
        w.four(MAXIMUM_PACKET_SIZE, p.maximum_packet_size);
        w.text(ASSIGNED_CLIENT_ID, p.assigned_client_id.as_ref());
        w.two(TOPIC_ALIAS_MAXIMUM, p.topic_alias_maximum);
        w.text(REASON_STRING, p.reason_string.as_ref());
        w.flag(WILDCARD_AVAILABLE, p.wildcard_subscription_available);
        w.flag(SUBSCRIPTION_IDS_AVAILABLE, p.subscription_identifiers_available);
        w.flag(SHARED_AVAILABLE, p.shared_subscription_available);
        w.two(SERVER_KEEP_ALIVE, p.server_keep_alive_s);
        w.text(RESPONSE_INFORMATION, p.response_information.as_ref());
        w.text(SERVER_REFERENCE, p.server_reference.as_ref());
        w.text(AUTH_METHOD, p.authentication_method.as_ref());
        w.binary(AUTH_DATA, p.authentication_data.as_ref());
        w.user(&p.user);
    })
}

pub(super) fn write_ack(out: &mut BytesMut, p: &AckProperties) -> Result<(), EncodeError> {
    write_list(out, |w| {
        w.text(REASON_STRING, p.reason_string.as_ref());
        w.user(&p.user);
    })
}

pub(super) fn write_disconnect(out: &mut BytesMut, p: &DisconnectProperties) -> Result<(), EncodeError> {
    write_list(out, |w| {
        w.four(SESSION_EXPIRY, p.session_expiry_s);
        w.text(REASON_STRING, p.reason_string.as_ref());
        w.text(SERVER_REFERENCE, p.server_reference.as_ref());
        w.text(AUTH_METHOD, p.authentication_method.as_ref());
        w.binary(AUTH_DATA, p.authentication_data.as_ref());
        w.user(&p.user);
    })
}

pub(super) fn write_subscribe(
    out: &mut BytesMut,
    identifier: u32,
    user: &[(ByteString, ByteString)],
) -> Result<(), EncodeError> {
    write_list(out, |w| {
        if identifier != 0 {
            w.varint(SUBSCRIPTION_ID, identifier);
        }
        w.user(user);
    })
}
