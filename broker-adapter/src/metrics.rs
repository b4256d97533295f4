//! Names of the metrics this crate reports through the `metrics` facade.

/// Gauge: connections that are open.
pub const CONNECTIONS: &str = "forebay_mqtt_connections";
/// Counter: accepted CONNECTs, by `version` (3, 4, 5).
pub const CONNECTS: &str = "forebay_mqtt_connects_total";
/// Counter: connections refused or closed before CONNACK, by `reason`: `limit` (too many connections), `timeout` (no CONNECT in
/// time), `closed` (by the client), `malformed`, `refused` (by CONNACK), `unavailable` (the log is full or stopped, or the server
/// stops).
pub const CONNECTS_REFUSED: &str = "forebay_mqtt_connects_refused_total";
/// Counter: connections that ended, by `reason` (the words of `client.disconnected`).
pub const DISCONNECTS: &str = "forebay_mqtt_disconnects_total";
/// Counter: PUBLISH packets received, by `qos`.
pub const PUBLISHES_RECEIVED: &str = "forebay_mqtt_publishes_received_total";
/// Counter: PUBLISH packets sent, by `qos`.
pub const PUBLISHES_SENT: &str = "forebay_mqtt_publishes_sent_total";
/// Counter: acknowledgements sent to publishers (PUBACK, PUBREC) once their record was durable.
pub const ACKS_SENT: &str = "forebay_mqtt_acks_sent_total";
/// Counter: final acknowledgements received from subscribers (PUBACK, PUBCOMP).
pub const ACKS_RECEIVED: &str = "forebay_mqtt_acks_received_total";
/// Counter: messages that were not sent, by `reason` (`expired`, `too_large`, `live_queue_full`, `router_overrun`).
pub const DROPPED: &str = "forebay_mqtt_messages_dropped_total";
/// Counter: restarts of rumqttd's router.
pub const ROUTER_RESTARTS: &str = "forebay_mqtt_router_restarts_total";

/// The label value of a QoS.
#[must_use]
pub(crate) const fn qos_label(qos: forebay_engine::QoS) -> &'static str {
    match qos {
        forebay_engine::QoS::AtMostOnce => "0",
        forebay_engine::QoS::AtLeastOnce => "1",
        forebay_engine::QoS::ExactlyOnce => "2",
    }
}
