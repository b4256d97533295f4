//! A program that runs rumqttd itself and has what passes it on disk: rumqttd listens on 127.0.0.1, every message becomes a record, and
//! each record is printed once it is durable.
//!
//! `cargo run -p forebay-broker-adapter --example attach_to_rumqttd [folder] [address]`, then in another shell
//! `mosquitto_pub -t a/b -m hello`. Enter ends it.
//!
//! rumqttd acknowledges before the record is durable: what that means is said in the documentation of `forebay_broker_adapter::attach`.

use std::collections::HashMap;
use std::error::Error;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use forebay_broker_adapter::attach::{AttachCounts, AttachOptions, attach};
use forebay_engine::{Engine, EngineOptions, Event};
use rumqttd::{Broker, Config, ConnectionSettings, RouterConfig, ServerSettings};

type Failure = Box<dyn Error + Send + Sync>;

/// rumqttd's settings: a listener of MQTT 3.1.1, and one of MQTT 5 where an address is given.
#[must_use]
pub fn settings(v4: SocketAddr, v5: Option<SocketAddr>) -> Config {
    let server = |name: &str, listen| {
        let connections = ConnectionSettings {
            connection_timeout_ms: 60_000,
            max_payload_size: 256 * 1024,
            max_inflight_count: 100,
            auth: None,
            external_auth: None,
            dynamic_filters: false,
        };
        let settings =
            ServerSettings { name: name.to_owned(), listen, tls: None, next_connection_delay_ms: 1, connections };
        HashMap::from([(name.to_owned(), settings)])
    };
    let router = RouterConfig {
        max_connections: 1000,
        max_outgoing_packet_count: 200,
        // The ring of each filter: what a reader may be behind. Ours has the filter `#`.
        max_segment_size: 4 << 20,
        max_segment_count: 8,
        ..RouterConfig::default()
    };
    Config { router, v4: Some(server("v4", v4)), v5: v5.map(|listen| server("v5", listen)), ..Config::default() }
}

/// Runs rumqttd and records what passes, until `ended` returns; `durable` is told each message that is on disk.
///
/// # Errors
/// The folder does not open, rumqttd gives no link, or not all became durable in the end.
pub fn run(
    dir: &Path,
    settings: Config,
    ended: impl FnOnce(),
    durable: impl Fn(&str, &[u8]) + Send + 'static,
) -> Result<AttachCounts, Failure> {
    let (engine, _) = Engine::open(EngineOptions::new(dir))?;
    // A reader gives only what is durable. What is older than this run it leaves out.
    let mut reader = engine.log().reader(engine.log().end())?;
    let mut broker = Broker::new(settings);
    // Before `start`, which serves until the process ends.
    let attached = attach(&broker, &engine, &AttachOptions::default())?;
    thread::spawn(move || {
        if let Err(problem) = broker.start() {
            eprintln!("rumqttd: {problem}");
        }
    });

    let over = Arc::new(AtomicBool::new(false));
    let telling = thread::spawn({
        let over = Arc::clone(&over);
        move || -> Result<(), Failure> {
            let mut records = Vec::new();
            loop {
                // Asked before the last look: what was durable by then is told.
                let last = over.load(Ordering::Acquire);
                while reader.wait(Duration::from_millis(50))? {
                    reader.read_batch(100, 1 << 20, &mut records)?;
                    for record in records.drain(..) {
                        if let Event::Published(published) = Event::decode(record.kind, record.body)? {
                            durable(&published.message.topic, &published.message.payload);
                        }
                    }
                }
                if last {
                    return Ok(());
                }
            }
        }
    });
    ended();
    let stopped = attached.stop(Duration::from_secs(10));
    over.store(true, Ordering::Release);
    telling.join().map_err(|_| "the thread that prints has panicked")??;
    engine.close();
    Ok(stopped?)
}

fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let dir = arguments.next().map_or_else(|| std::env::temp_dir().join("forebay-attached"), Into::into);
    let address: SocketAddr = arguments.next().as_deref().unwrap_or("127.0.0.1:1883").parse()?;
    println!("rumqttd listens on {address}, records go to {}; Enter ends it", dir.display());
    let enter = || drop(std::io::stdin().read_line(&mut String::new()));
    let counts = run(&dir, settings(address, None), enter, |topic, payload| {
        println!("durable: {topic} {}", String::from_utf8_lossy(payload));
    })?;
    println!("{} messages appended, {} missed", counts.appended, counts.missed);
    Ok(())
}
