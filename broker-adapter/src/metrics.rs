//! Names of the metrics this crate reports through the `metrics` facade.

use forebay_engine::QoS;
use metrics::Counter;

/// Gauge: connections that are open.
pub const CONNECTIONS: &str = "forebay_mqtt_connections";
/// Counter: accepted CONNECTs, by `version` (3, 4, 5).
pub const CONNECTS: &str = "forebay_mqtt_connects_total";
/// Counter: connections refused or closed before CONNACK, by `reason`: `limit` (too many connections), `timeout` (no CONNECT in
/// time), `closed` (by the client), `proxy` (no PROXY protocol header), `tls` and `websocket` (their handshakes), `malformed`,
/// `refused` (by CONNACK), `unauthorized` (wrong credentials, none, or a will that is not allowed), `unavailable` (the log is full
/// or stopped, or the server stops or is busy).
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
/// Counter: what rules did not allow, by `what`: `publish`, `subscribe` (filters), `will`.
pub const DENIED: &str = "forebay_mqtt_denied_total";
/// Counter: attempts to show who one is, by `result`: `password`, `remembered` (verified before), `certificate`, `anonymous`;
/// `bad_credentials`, `not_authorized`, `too_many_failures` (not looked at), `busy`.
pub const AUTHENTICATIONS: &str = "forebay_mqtt_authentications_total";
/// Counter: attempts that had to wait because earlier ones of that address or user failed.
pub const AUTHENTICATION_DELAYS: &str = "forebay_mqtt_authentication_delays_total";
/// Histogram: the time a password's hash took, seconds.
pub const PASSWORD_HASH_SECONDS: &str = "forebay_mqtt_password_hash_seconds";
/// Gauge: users whose verified password is remembered.
pub const VERIFIED_CREDENTIALS: &str = "forebay_mqtt_verified_credentials";
/// Counter: users and rules files read again, by `file` (`users`, `acl`) and `result` (`taken`, `refused`).
pub const ACCESS_RELOADS: &str = "forebay_mqtt_access_reloads_total";
/// Counter: messages that were not sent, by `reason` (`expired`, `too_large`, `live_queue_full`, `router_overrun`,
/// `log_full`).
pub const DROPPED: &str = "forebay_mqtt_messages_dropped_total";
/// Counter: who was over a limit, by `limit`: `connections`, `connections_per_address`, `connect_rate`, `connect_rate_per_address`,
/// `connect_timeout`, `packet_bytes`, `receive_maximum`, `client_id_bytes`, `topic_bytes`, `topic_levels`, `subscriptions`: something
/// was refused; `message_rate`, `byte_rate`: a client was made to wait.
pub const LIMITED: &str = "forebay_mqtt_limited_total";
/// Counter: restarts of rumqttd's router.
pub const ROUTER_RESTARTS: &str = "forebay_mqtt_router_restarts_total";
/// Counter: messages that a rumqttd attached to handed out, by `result`: `appended`; left out: `topic` (none that MQTT allows), `too_large`
/// (for the log), `too_late` (the log had no room until the time to stop was over), `retained` (of before the attachment).
pub const ATTACH_MESSAGES: &str = "forebay_attach_messages_total";
/// Counter: messages that a rumqttd attached to overwrote in its ring, or that expired there, before they were handed out.
pub const ATTACH_MISSED: &str = "forebay_attach_missed_total";

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
