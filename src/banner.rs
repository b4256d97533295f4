//! What the server says when it is up.

use std::fmt;
use std::net::SocketAddr;
use std::path::Path;

use crate::admin::status::ListenerStatus;

/// The facts of a start.
pub struct Banner<'a> {
    /// The MQTT listeners.
    pub mqtt: &'a [ListenerStatus],
    /// The admin HTTP listener.
    pub admin: SocketAddr,
    /// Data folder.
    pub data: &'a Path,
    /// The durability level's name.
    pub durability: &'static str,
    /// Databases written to.
    pub replicated: &'a [String],
    /// `sinks.enabled`.
    pub sinks_enabled: bool,
    /// What opening found.
    pub recovery: &'a str,
    /// Name and number of the node.
    pub node: (&'a str, u16),
}

impl fmt::Display for Banner<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let durable = match self.durability {
            "synced" => "acknowledged = fdatasync has returned",
            "every" => "NOT DURABLE: acknowledged before the sync that follows within log.sync_interval_ms",
            _ => "NOT DURABLE: acknowledged before any sync",
        };
        writeln!(f, "forebay {}  {} (number {})", env!("CARGO_PKG_VERSION"), self.node.0, self.node.1)?;
        for listener in self.mqtt {
            writeln!(f, "  mqtt        {listener}")?;
        }
        writeln!(f, "  admin       http://{}", self.admin)?;
        writeln!(f, "  data        {}", self.data.display())?;
        writeln!(f, "  durability  {}: {durable}", self.durability)?;
        writeln!(f, "  recovery    {}", self.recovery)?;
        if !self.sinks_enabled {
            write!(f, "  stored in   no database: sinks.enabled is false")?;
        } else if self.replicated.is_empty() {
            write!(f, "  stored in   no database: no rule names one")?;
        } else {
            write!(f, "  stored in   {}", self.replicated.join(", "))?;
        }
        Ok(())
    }
}
