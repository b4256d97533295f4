//! A small MQTT client: for the demo, the crash tests and the load generator.
//!
//! It hides nothing: no reconnects, no retries. A [`Client`] is one connection; what must outlive it (packet ids, QoS 2 state both
//! ways, unacknowledged publishes) stands in its [`ClientSession`], which the next connection takes over and sends again
//! from.

mod connection;
mod session;

pub use connection::{Client, ClientError, ConnectOptions, Incoming};
pub use session::{ClientSession, Completion};
