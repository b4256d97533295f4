//! Aims load at a running MQTT server and prints what came of it.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;
use clap::Parser;
use forebay_benches::load::{self, Load};

/// Publishers with a window of publishes each, and subscribers.
#[derive(Parser)]
struct Options {
    /// The server.
    #[arg(default_value = "127.0.0.1:1883")]
    server: SocketAddr,
    /// Publishers.
    #[arg(long, default_value_t = 4)]
    publishers: u32,
    /// QoS of publishes and subscriptions.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(0..=2))]
    qos: u8,
    /// Publishes of each that may be in flight.
    #[arg(long, default_value_t = 64)]
    window: usize,
    /// Payload, bytes.
    #[arg(long, default_value_t = 128)]
    payload: usize,
    /// Seconds before measuring.
    #[arg(long, default_value_t = 1.0)]
    warm_up: f64,
    /// Seconds to measure.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Subscribers, each of everything; 0: publishing only.
    #[arg(long, default_value_t = 1)]
    subscribers: u32,
}

fn main() -> Result<()> {
    let options = Options::parse();
    let report = load::run(&Load {
        server: options.server,
        publishers: options.publishers,
        window: options.window,
        payload: options.payload,
        warm_up: Duration::from_secs_f64(options.warm_up),
        time: Duration::from_secs_f64(options.seconds),
        subscribers: options.subscribers,
        qos: options.qos,
        ..Load::default()
    })?;
    println!("acknowledged  {:.0}/s  p50 {} us  p99 {} us", report.acknowledged, report.ack_p50, report.ack_p99);
    if options.subscribers > 0 {
        println!(
            "delivered     {:.0}/s  p50 {} us  p99 {} us",
            report.delivered, report.end_to_end_p50, report.end_to_end_p99
        );
    }
    println!("total         {}  lost {}  repeated {}", report.total, report.lost, report.repeated);
    Ok(())
}
