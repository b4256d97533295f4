//! MQTT 3.1, 3.1.1 and 5 in front of the Forebay engine: everything a client can see.
//!
//! In the order of a PUBLISH: `listener` accepts (and does what lies between TCP and MQTT: [`proxy_protocol`], TLS, WebSocket), `handshake` asks
//! [`access`] who comes and opens the session, `connection` reads and writes, [`codec`] cuts
//! packets, `session` decides what is logged and what may be said when, [`live_bus`] carries what does not wait for the
//! disk. `registry` knows who is online, `janitor` what is due, `closing` how a connection ends, `limits` what one
//! client may use. [`client`] is an MQTT client over the
//! same codec. [`attach`](mod@attach) is another way in, for programs that run rumqttd themselves.

pub mod access;
pub mod attach;
mod broker;
pub mod client;
mod closing;
pub mod codec;
mod connection;
mod enhanced;
mod handshake;
mod janitor;
mod limits;
mod listener;
pub mod live_bus;
pub mod metrics;
mod operator;
mod options;
pub mod proxy_protocol;
mod registry;
mod session;
mod store;
mod system;

pub use broker::{Broker, BrokerStats, Proxy, ProxyError, StartError};
pub use limits::Limits;
pub use listener::{
    ClientCertificates, DEFAULT_CERTIFICATE_CHECK, ListenerOptions, ListenerView, TlsError, TlsOptions, UserFrom,
    WebSocketOptions,
};
pub use operator::{Operator, OperatorError};
pub use options::{
    BrokerOptions, DEFAULT_CONNECT_TIMEOUT, DEFAULT_LIVE_QUEUE, DEFAULT_MAX_CONNECTIONS, DEFAULT_MAX_PACKET_BYTES,
    DEFAULT_PENDING_ACKS, DEFAULT_RECEIVE_MAXIMUM, DEFAULT_SEND_WINDOW, DEFAULT_SENT_TOPIC_ALIASES,
    DEFAULT_SYSTEM_INTERVAL, DEFAULT_TOPIC_ALIAS_MAXIMUM, LiveBusKind,
};
pub use registry::{ClientFacts, ClientView};
pub use store::{NoStore, Store};
