//! What operators ask of clients and messages, answered by the broker and the engine.

use bytestring::ByteString;
use forebay_broker_adapter::{ClientView, Operator, OperatorError};
use forebay_engine::engine::{SessionRow as EngineSession, SubscriptionsOf};
use forebay_engine::event::Properties;
use forebay_engine::log::Appended;
use forebay_engine::state::StoredMessage;
use forebay_engine::topic::{check_filter, check_name};
use forebay_engine::{Engine, Message, QoS};

use crate::admin::control::ControlError;
use crate::admin::operate::Which;
use crate::admin::rows::{
    ClientRow, Page, PublishRequest, PublishedRow, RetainedRow, SessionRow, SubscriptionRow, from_hex, to_hex,
};
use crate::admin::status::Done;

/// MQTT's limit of a text, bytes.
const TEXT_BYTES_MAX: usize = 65_535;

impl From<OperatorError> for ControlError {
    fn from(error: OperatorError) -> ControlError {
        let text = error.to_string();
        match error {
            OperatorError::NotConnected(_) | OperatorError::NoSession(_) | OperatorError::NotRetained(_) => {
                ControlError::Unknown(text)
            }
            OperatorError::Topic { .. } | OperatorError::TooLarge { .. } => ControlError::Invalid(text),
            OperatorError::ComesBack(_) | OperatorError::HalfDone { .. } | OperatorError::Log(_) => {
                ControlError::Failed(text)
            }
        }
    }
}

/// Waits on a thread that may.
fn wait<T>(work: impl Future<Output = Result<T, OperatorError>>) -> Result<T, ControlError> {
    tokio::runtime::Handle::current().block_on(work).map_err(ControlError::from)
}

fn client_row(view: ClientView) -> ClientRow {
    let facts = view.facts;
    ClientRow {
        client: view.client.to_string(),
        address: view.address.to_string(),
        username: facts.username.to_string(),
        protocol: match facts.protocol {
            3 => "3.1".into(),
            4 => "3.1.1".into(),
            5 => "5".into(),
            _ => String::new(),
        },
        listener: facts.listener.map(|address| address.to_string()),
        connected_since_us: view.since_us,
        keep_alive_s: facts.keep_alive_s,
        clean_start: facts.clean_start,
        session_expiry_s: facts.expiry_s,
        in_flight: view.in_flight as u64,
        receiving: view.receiving as u64,
        queued: view.queued as u64,
    }
}

/// Part of the connected clients.
pub fn clients(operator: &Operator, which: &Which) -> Page<ClientRow> {
    let views = operator.clients_after(&which.after, which.rows());
    Page::of(views.into_iter().map(client_row).collect(), which.rows(), |row| row.client.clone())
}

/// A connected client.
///
/// # Errors
/// It is not connected.
pub fn client(operator: &Operator, client: &str) -> Result<ClientRow, ControlError> {
    let view = operator.client(client).ok_or_else(|| OperatorError::NotConnected(client.into()))?;
    Ok(client_row(view))
}

/// Ends a client's connection.
///
/// # Errors
/// It is not connected.
pub fn kick(operator: &Operator, client: &str) -> Result<Done, ControlError> {
    wait(operator.kick(client))?;
    Ok(Done { done: format!("the connection of client `{client}` is ended; its session stays"), count: 1 })
}

fn session_row(engine: &Engine, row: EngineSession) -> SessionRow {
    SessionRow {
        client: row.client.to_string(),
        connected: row.connected,
        username: row.username.to_string(),
        expiry_s: row.expiry_s,
        ends_at_us: row.ends_at_us,
        subscriptions: row.subscriptions as u64,
        behind_records: row.behind_from.map(|from| engine.durable_end().0.saturating_sub(from.0)),
        in_flight: row.outbound as u64,
        receiving: row.received as u64,
        will: row.will.map(|topic| topic.to_string()),
    }
}

/// Part of the sessions.
pub fn sessions(engine: &Engine, which: &Which) -> Page<SessionRow> {
    let part = engine.sessions_after(&which.after, which.rows(), which.away);
    let rows = part.rows.into_iter().map(|row| session_row(engine, row)).collect();
    Page { rows, next: part.next.map(|client| client.to_string()) }
}

/// A session.
///
/// # Errors
/// There is none.
pub fn session(engine: &Engine, client: &str) -> Result<SessionRow, ControlError> {
    let row = engine.session_row(client).ok_or_else(|| OperatorError::NoSession(client.into()))?;
    Ok(session_row(engine, row))
}

/// Ends a session.
///
/// # Errors
/// There is none, or the log takes no records.
pub fn drop_session(operator: &Operator, client: &str) -> Result<Done, ControlError> {
    wait(operator.drop_session(client))?;
    Ok(Done { done: format!("the session of client `{client}` is ended, with its subscriptions"), count: 1 })
}

/// Part of the subscriptions.
///
/// # Errors
/// `topic` is no topic's name, or `after` is not what `next` said.
pub fn subscriptions(engine: &Engine, which: &Which) -> Result<Page<SubscriptionRow>, ControlError> {
    if let Some(topic) = &which.topic {
        check_name(topic).map_err(|error| ControlError::Invalid(format!("topic `{topic}`: {error}")))?;
    }
    let text = |text: &Option<String>| text.as_deref().map(ByteString::from);
    let of = SubscriptionsOf { client: text(&which.client), filter: text(&which.filter), topic: text(&which.topic) };
    // Neither a client id nor a filter has U+0000 in it.
    let after = match which.after.split_once('\0') {
        Some(after) => after,
        None if which.after.is_empty() => ("", ""),
        None => return Err(ControlError::Invalid("`after` takes what `next` of the part before said".into())),
    };
    let part = engine.subscriptions_after(&of, after, which.rows());
    let rows = part.rows.into_iter().map(|view| SubscriptionRow {
        client: view.client.to_string(),
        filter: view.filter.to_string(),
        qos: view.options.qos.as_u8(),
        no_local: view.options.no_local,
        retain_as_published: view.options.retain_as_published,
        identifier: view.options.identifier,
        connected: view.connected,
    });
    Ok(Page { rows: rows.collect(), next: part.next.map(|(client, filter)| format!("{client}\0{filter}")) })
}

fn retained_row(stored: &StoredMessage, with_payload: bool) -> RetainedRow {
    let message = &stored.message;
    let text = std::str::from_utf8(&message.payload).ok();
    RetainedRow {
        topic: message.topic.to_string(),
        bytes: message.payload.len() as u64,
        qos: message.qos.as_u8(),
        time_us: stored.time_us,
        lsn: stored.lsn.0,
        publisher: message.publisher.to_string(),
        expires_at_us: message.properties.expiry_s.map(|s| stored.time_us.saturating_add(u64::from(s) * 1_000_000)),
        payload: text.filter(|_| with_payload).map(str::to_owned),
        payload_hex: (with_payload && text.is_none()).then(|| to_hex(&message.payload)),
    }
}

/// Part of the retained messages, without their payloads.
///
/// # Errors
/// The filter is none.
pub fn retained(engine: &Engine, which: &Which) -> Result<Page<RetainedRow>, ControlError> {
    if let Some(filter) = &which.filter {
        check_filter(filter).map_err(|error| ControlError::Invalid(format!("topic filter `{filter}`: {error}")))?;
    }
    let part = engine.retained_after(which.filter.as_deref(), &which.after, which.rows());
    let rows = part.rows.iter().map(|stored| retained_row(stored, false)).collect();
    Ok(Page { rows, next: part.next.map(|topic| topic.to_string()) })
}

/// A retained message with its payload.
///
/// # Errors
/// There is none.
pub fn retained_message(engine: &Engine, topic: &str) -> Result<RetainedRow, ControlError> {
    let stored = engine.retained(topic).ok_or_else(|| OperatorError::NotRetained(topic.into()))?;
    Ok(retained_row(&stored, true))
}

/// Removes a retained message.
///
/// # Errors
/// There is none, or the log takes no records.
pub fn clear_retained(operator: &Operator, topic: &str) -> Result<Done, ControlError> {
    wait(operator.clear_retained(topic))?;
    Ok(Done { done: format!("topic `{topic}` has no retained message any more"), count: 1 })
}

/// Publishes.
///
/// # Errors
/// The message can't be published, or the log takes no records.
pub fn publish(engine: &Engine, operator: &Operator, request: PublishRequest) -> Result<PublishedRow, ControlError> {
    let message = message(request).map_err(ControlError::Invalid)?;
    let topic = message.topic.clone();
    Ok(match wait(operator.publish(message))? {
        Some(Appended { first: lsn, first_time_us, .. }) => PublishedRow {
            done: format!("published to `{topic}`, durable as record {lsn}"),
            lsn: Some(lsn.0),
            msgid: Some(engine.msgid(lsn, first_time_us).to_string()),
        },
        None => PublishedRow {
            done: format!("published to `{topic}`; not stored, nothing asks for it: those who are connected got it"),
            lsn: None,
            msgid: None,
        },
    })
}

fn message(request: PublishRequest) -> Result<Message, String> {
    let payload = match (request.payload, request.payload_hex) {
        (Some(_), Some(_)) => return Err("`payload` or `payload_hex`, not both".into()),
        (Some(text), None) => text.into_bytes(),
        (None, Some(hex)) => from_hex(&hex).ok_or("`payload_hex` takes pairs of hexadecimal digits")?,
        (None, None) => Vec::new(),
    };
    let qos = QoS::from_u8(request.qos).ok_or_else(|| format!("`qos` takes 0, 1 or 2, not {}", request.qos))?;
    if let Some(topic) = &request.response_topic {
        check_name(topic).map_err(|error| format!("response topic `{topic}`: {error}"))?;
    }
    let texts = request.user.iter().flat_map(|(name, value)| [name, value]).chain(&request.content_type);
    for text in texts {
        if text.len() > TEXT_BYTES_MAX || text.contains('\0') {
            return Err("a property is longer than 65535 bytes, or contains the character U+0000".into());
        }
    }
    Ok(Message {
        topic: request.topic.into(),
        payload: payload.into(),
        qos,
        retain: request.retain,
        properties: Properties {
            expiry_s: request.expiry_s,
            content_type: request.content_type.map(ByteString::from),
            response_topic: request.response_topic.map(ByteString::from),
            user: request.user.into_iter().map(|(name, value)| (name.into(), value.into())).collect(),
            ..Properties::default()
        },
        ..Message::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_a_message_or_a_fault_that_says_why() {
        let request = || PublishRequest { topic: "a".into(), payload: Some("x".into()), ..PublishRequest::default() };
        let good = message(PublishRequest { qos: 2, retain: true, expiry_s: Some(5), ..request() }).unwrap();
        assert_eq!((good.qos, good.retain, &*good.payload), (QoS::ExactlyOnce, true, &b"x"[..]));
        let hex = PublishRequest { payload: None, payload_hex: Some("00ff".into()), ..request() };
        assert_eq!(&*message(hex).unwrap().payload, &[0, 255]);
        for (bad, text) in [
            (PublishRequest { qos: 3, ..request() }, "`qos` takes 0, 1 or 2"),
            (PublishRequest { payload_hex: Some(String::new()), ..request() }, "not both"),
            (PublishRequest { payload: None, payload_hex: Some("0".into()), ..request() }, "pairs"),
            (PublishRequest { response_topic: Some("a/#".into()), ..request() }, "response topic"),
            (PublishRequest { user: vec![("a\0".into(), "b".into())], ..request() }, "U+0000"),
        ] {
            let fault = message(bad).unwrap_err();
            assert!(fault.contains(text), "{fault}");
        }
    }
}
