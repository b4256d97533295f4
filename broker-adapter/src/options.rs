//! Settings of the broker.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::access::{Access, FileAccess};
use crate::limits::Limits;
use crate::listener::ListenerOptions;

/// Largest packet taken by default: 1 MiB, below a log segment's size.
pub const DEFAULT_MAX_PACKET_BYTES: usize = 1 << 20;
/// How long a new connection may take to send CONNECT by default.
pub const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// QoS 1/2 publishes a client may have unacknowledged by default.
pub const DEFAULT_RECEIVE_MAXIMUM: u16 = 1024;
/// QoS 1/2 messages on their way to one client by default, where the client does not ask for fewer.
pub const DEFAULT_SEND_WINDOW: u16 = 1024;
/// Topic aliases a client may use by default.
pub const DEFAULT_TOPIC_ALIAS_MAXIMUM: u16 = 64;
/// Topic aliases sent to one client by default, where the client takes that many.
pub const DEFAULT_SENT_TOPIC_ALIASES: u16 = 16;
/// Time between two reports in `$SYS` by default.
pub const DEFAULT_SYSTEM_INTERVAL: Duration = Duration::from_secs(10);
/// Live messages that wait for one slow client by default before QoS 0 is shed.
pub const DEFAULT_LIVE_QUEUE: usize = 4096;
/// Acknowledgements that wait for the disk, per connection, by default before its reading pauses.
pub const DEFAULT_PENDING_ACKS: usize = 8192;
/// Connections at a time by default.
pub const DEFAULT_MAX_CONNECTIONS: usize = 100_000;

/// Which implementation carries live messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LiveBusKind {
    /// Our own matcher.
    #[default]
    Trie,
    /// rumqttd's router.
    Rumqttd,
}

/// Settings of the broker.
#[derive(Clone, Debug)]
pub struct BrokerOptions {
    /// The ways in. Default: a plain listener on 127.0.0.1:1883.
    pub listeners: Vec<ListenerOptions>,
    /// Largest packet taken, in bytes with its header.
    pub max_packet_bytes: usize,
    /// How long a new connection may take to send CONNECT.
    pub connect_timeout: Duration,
    /// QoS 1/2 publishes an MQTT 5 client may have unacknowledged (at least 1); more costs the connection (0x93).
    pub receive_maximum: u16,
    /// QoS 1/2 messages on their way to one client (at least 1), where the client does not ask for fewer.
    pub send_window: u16,
    /// Topic aliases an MQTT 5 client may use, 0 = none.
    pub topic_alias_maximum: u16,
    /// Topic aliases sent to one client at most, where it takes them and they save bytes; 0 = none are sent.
    pub sent_topic_aliases: u16,
    /// Time between two reports of the broker on itself in the topics `$SYS/broker/…`; zero = none.
    pub system_interval: Duration,
    /// Longest keep alive in seconds; MQTT 5 clients that ask for more, or for none, are told this one. `None` = no limit.
    pub max_keep_alive: Option<u16>,
    /// Which implementation carries live messages.
    pub live_bus: LiveBusKind,
    /// Live messages that wait for one slow client before QoS 0 is shed and counted; their bytes are bounded by
    /// [`Limits::live_queue_bytes`].
    pub live_queue: usize,
    /// Acknowledgements that wait for the disk, per connection, before its reading pauses.
    pub pending_acks: usize,
    /// Connections at a time; more are turned away and counted.
    pub max_connections: usize,
    /// What single clients and addresses may use.
    pub limits: Limits,
    /// Longest session expiry in seconds; [`forebay_engine::event::NEVER_EXPIRES`] = no limit.
    pub session_expiry_max: u32,
    /// Who may connect, and what he may do. Default: everybody, everything.
    pub access: Arc<dyn Access>,
}

impl Default for BrokerOptions {
    fn default() -> Self {
        BrokerOptions {
            listeners: vec![ListenerOptions::new(SocketAddr::from(([127, 0, 0, 1], 1883)))],
            max_packet_bytes: DEFAULT_MAX_PACKET_BYTES,
            connect_timeout: DEFAULT_CONNECT_TIMEOUT,
            receive_maximum: DEFAULT_RECEIVE_MAXIMUM,
            send_window: DEFAULT_SEND_WINDOW,
            topic_alias_maximum: DEFAULT_TOPIC_ALIAS_MAXIMUM,
            sent_topic_aliases: DEFAULT_SENT_TOPIC_ALIASES,
            system_interval: DEFAULT_SYSTEM_INTERVAL,
            max_keep_alive: None,
            live_bus: LiveBusKind::default(),
            live_queue: DEFAULT_LIVE_QUEUE,
            pending_acks: DEFAULT_PENDING_ACKS,
            max_connections: DEFAULT_MAX_CONNECTIONS,
            limits: Limits::default(),
            session_expiry_max: forebay_engine::event::NEVER_EXPIRES,
            access: Arc::new(FileAccess::everybody()),
        }
    }
}
