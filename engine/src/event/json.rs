//! Events as JSON, for `log dump`: every field of the byte form by its name in [`codec`]. Bytes are in hexadecimal.

use super::*;
use crate::json::Object;

impl Event {
    /// The event as one JSON object.
    #[must_use]
    pub fn to_json(&self) -> String {
        let object = Object::new();
        let object = match self {
            Event::SessionOpened(e) => session_opened(object, e),
            Event::ClientConnected(e) => object
                .text("client", &e.client)
                .number("epoch", e.epoch)
                .text("username", &e.username)
                .text("peer", &e.peer)
                .number("protocol", e.protocol)
                .number("keep_alive_s", e.keep_alive_s)
                .flag("clean_start", e.clean_start),
            Event::ClientDisconnected(e) => object
                .text("client", &e.client)
                .number("epoch", e.epoch)
                .number("reason", e.reason as u8)
                .text("reason_name", e.reason.as_str())
                .flag("superseded", e.superseded)
                .flag("cancel_will", e.cancel_will)
                .maybe(e.expiry_s, |o, s| o.number("expiry_s", s))
                .list("cursors", e.positions.iter().map(cursor)),
            Event::SessionClosed(e) => object.text("client", &e.client).number("epoch", e.epoch),
            Event::Subscribed(e) => object
                .text("client", &e.client)
                .number("epoch", e.epoch)
                .text("filter", &e.filter)
                .json("options", &options(e.options))
                .flag("by_proxy", e.by_proxy),
            Event::Unsubscribed(e) => object
                .text("client", &e.client)
                .number("epoch", e.epoch)
                .text("filter", &e.filter)
                .flag("by_proxy", e.by_proxy),
            Event::Published(e) => object
                .json("message", &message(&e.message))
                .maybe(e.packet_id, |o, id| o.number("packet_id", id))
                .number("epoch", e.epoch),
            Event::Released(e) => object.text("client", &e.client).number("packet_id", e.packet_id),
            Event::Sent(e) => object.text("client", &e.client).number("packet_id", e.packet_id).number("lsn", e.lsn.0),
            Event::SharedSent(e) => object
                .text("client", &e.client)
                .number("packet_id", e.packet_id)
                .number("lsn", e.lsn.0)
                .text("share", &e.share),
            Event::Received(e) => object.text("client", &e.client).number("packet_id", e.packet_id),
            Event::Delivered(e) => object
                .text("client", &e.client)
                .number("lsn", e.lsn.0)
                .number("time_us", e.time_us)
                .text("topic", &e.topic),
            Event::Acked(e) => object
                .text("client", &e.client)
                .number("lsn", e.lsn.0)
                .number("time_us", e.time_us)
                .text("topic", &e.topic)
                .maybe(e.packet_id, |o, id| o.number("packet_id", id))
                .number("outcome", e.outcome as u8)
                .flag("queue", e.queue)
                .list("cursors", e.cursors.iter().map(cursor)),
            Event::SinkPosition(e) => object.text("sink", &e.sink).number("next", e.next.0),
            Event::CursorMoved(e) => {
                object.text("client", &e.client).text("filter", &e.filter).number("next", e.next.0)
            }
            Event::Positions(e) => {
                object.number("seen", e.seen.0).list("sessions", e.sessions.iter().map(session_positions))
            }
            Event::Dropped(e) => object
                .number("reason", e.reason as u8)
                .text("reason_name", e.reason.as_str())
                .list("drops", e.drops.iter().map(dropped)),
        };
        object.end()
    }
}

fn session_opened(object: Object, e: &SessionOpened) -> Object {
    let will =
        |will: &Will| Object::new().number("delay_s", will.delay_s).json("message", &message(&will.message)).end();
    object
        .text("client", &e.client)
        .number("epoch", e.epoch)
        .flag("resumed", e.resumed)
        .number("expiry_s", e.expiry_s)
        .maybe(e.will.as_ref().map(will), |o, will| o.json("will", &will))
        .text("username", &e.username)
        .text("peer", &e.peer)
}

fn session_positions(session: &SessionPositions) -> String {
    let cursors = session.cursors.iter().map(cursor);
    Object::new().text("client", &session.client).number("epoch", session.epoch).list("cursors", cursors).end()
}

fn dropped(range: &DroppedRange) -> String {
    let object = match &range.owner {
        DropOwner::Queue(topic) => Object::new().text("queue", topic),
        DropOwner::Cursor { client, filter } => Object::new().text("client", client).text("filter", filter),
        DropOwner::Sink(sink) => Object::new().text("sink", sink),
        DropOwner::Group(share) => Object::new().text("share", share),
    };
    object.number("from", range.from.0).number("to", range.to.0).number("count", range.count).end()
}

fn cursor(cursor: &CursorAt) -> String {
    Object::new().text("filter", &cursor.filter).number("low", cursor.low.0).end()
}

fn options(o: SubscriptionOptions) -> String {
    Object::new()
        .number("qos", o.qos.as_u8())
        .flag("no_local", o.no_local)
        .flag("retain_as_published", o.retain_as_published)
        .number("retain_handling", o.retain_handling)
        .number("identifier", o.identifier)
        .end()
}

fn message(m: &Message) -> String {
    let object = Object::new()
        .text("topic", &m.topic)
        .number("qos", m.qos.as_u8())
        .flag("retain", m.retain)
        .text("publisher", &m.publisher)
        .text("username", &m.username)
        .text("peer", &m.peer);
    let object = match &m.origin {
        Origin::Client => object.text("origin", "client"),
        Origin::Will => object.text("origin", "will"),
        Origin::Operator => object.text("origin", "operator"),
        Origin::Import { sink, key, time_us } => object
            .text("origin", "import")
            .text("import_sink", sink)
            .text("import_key", key)
            .number("import_time_us", *time_us),
    };
    let p = &m.properties;
    object
        .maybe(p.payload_format, |o, n| o.number("payload_format", n))
        .maybe(p.expiry_s, |o, s| o.number("expiry_s", s))
        .maybe(p.content_type.as_ref(), |o, text| o.text("content_type", text))
        .maybe(p.response_topic.as_ref(), |o, text| o.text("response_topic", text))
        .maybe(p.correlation_data.as_ref(), |o, data| o.hex("correlation_data", data))
        .list("user", p.user.iter().map(|(name, value)| Object::new().text("name", name).text("value", value).end()))
        .hex("payload", &m.payload)
        .end()
}
