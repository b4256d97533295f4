//! The rumqttd crate as a server on the address given, with the settings of the example file that comes with it, until the process
//! ends. A package of its own: what it asks of its dependencies would change how those of the other benchmarks are built.

use std::collections::HashMap;

use anyhow::{Context, Result};
use rumqttd::{Broker, Config, ConnectionSettings, RouterConfig, ServerSettings};

fn main() -> Result<()> {
    let listen = std::env::args().nth(1).context("usage: forebay-rumqttd ADDRESS:PORT")?;
    let settings = ServerSettings {
        name: "bench".to_owned(),
        listen: listen.parse().with_context(|| format!("{listen} is no address with a port"))?,
        tls: None,
        next_connection_delay_ms: 1,
        connections: ConnectionSettings {
            connection_timeout_ms: 60_000,
            max_payload_size: 20_480,
            max_inflight_count: 100,
            auth: None,
            external_auth: None,
            dynamic_filters: true,
        },
    };
    let config = Config {
        router: RouterConfig {
            max_connections: 10_010,
            max_outgoing_packet_count: 200,
            max_segment_size: 104_857_600,
            max_segment_count: 10,
            ..RouterConfig::default()
        },
        v4: Some(HashMap::from([("bench".to_owned(), settings)])),
        ..Config::default()
    };
    Broker::new(config).start().context("rumqttd ended")
}
