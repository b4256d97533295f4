//! Settings of one listener.

use std::net::SocketAddr;

/// Settings of one listener.
#[derive(Clone, Debug)]
pub struct ListenerOptions {
    /// Where it listens; port 0 = any free port.
    pub address: SocketAddr,
    /// Connections at a time through this listener; `None` = as many as the broker takes.
    pub max_connections: Option<usize>,
    /// Whether clients that show no credentials are let in here; `None` = as for the broker.
    pub anonymous: Option<bool>,
}

impl ListenerOptions {
    /// A plain listener.
    #[must_use]
    pub fn new(address: SocketAddr) -> ListenerOptions {
        ListenerOptions { address, max_connections: None, anonymous: None }
    }
}
