//! Names of the metrics this crate reports through the `metrics` facade.

use forebay_engine::QoS;
use metrics::Counter;

/// Gauge: connections that are open.
pub const CONNECTIONS: &str = "forebay_mqtt_connections";
/// Counter: accepted CONNECTs, by `version` (3, 4, 5).
pub const CONNECTS: &str = "forebay_mqtt_connects_total";
/// Counter: connections refused or closed before CONNACK, by `reason`: `limit` (too many connections), `timeout` (no CONNECT in
/// time), `closed` (by the client), `proxy` (no PROXY protocol header), `tls` and `websocket` (their handshakes), `malformed`,
/// `refused` (by CONNACK), `unavailable` (the log is full or stopped, or the server stops).
pub const CONNECTS_REFUSED: &str = "forebay_mqtt_connects_refused_total";
/// Gauge: when a listener's certificate expires, seconds since 1970, by `listener`.
pub const CERTIFICATE_EXPIRES: &str = "forebay_mqtt_certificate_expires_seconds";
/// Counter: changed certificate files of a listener, by `listener` and `result` (`ok`, `refused`: the old ones stay in use).
pub const CERTIFICATE_LOADS: &str = "forebay_mqtt_certificate_loads_total";
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
/// Counter: messages that were not sent, by `reason` (`expired`, `too_large`, `live_queue_full`, `router_overrun`,
/// `log_full`).
pub const DROPPED: &str = "forebay_mqtt_messages_dropped_total";
/// Counter: restarts of rumqttd's router.
pub const ROUTER_RESTARTS: &str = "forebay_mqtt_router_restarts_total";

/// Handles of what is counted for each packet: looking a metric up by its name costs more than the packet's own work.
pub(crate) struct PacketCounters {
    received: [Counter; 3],
    sent: [Counter; 3],
    /// [`ACKS_SENT`].
    pub(crate) acks_sent: Counter,
    /// [`ACKS_RECEIVED`].
    pub(crate) acks_received: Counter,
}

impl PacketCounters {
    /// Registers them with the recorder that is installed now.
    pub(crate) fn new() -> PacketCounters {
        PacketCounters {
            received: ["0", "1", "2"].map(|qos| metrics::counter!(PUBLISHES_RECEIVED, "qos" => qos)),
            sent: ["0", "1", "2"].map(|qos| metrics::counter!(PUBLISHES_SENT, "qos" => qos)),
            acks_sent: metrics::counter!(ACKS_SENT),
            acks_received: metrics::counter!(ACKS_RECEIVED),
        }
    }

    /// [`PUBLISHES_RECEIVED`].
    pub(crate) fn publish_received(&self, qos: QoS) {
        let [zero, one, two] = &self.received;
        of_qos(qos, zero, one, two).increment(1);
    }

    /// [`PUBLISHES_SENT`].
    pub(crate) fn publish_sent(&self, qos: QoS) {
        let [zero, one, two] = &self.sent;
        of_qos(qos, zero, one, two).increment(1);
    }
}

const fn of_qos<'a>(qos: QoS, zero: &'a Counter, one: &'a Counter, two: &'a Counter) -> &'a Counter {
    match qos {
        QoS::AtMostOnce => zero,
        QoS::AtLeastOnce => one,
        QoS::ExactlyOnce => two,
    }
}
