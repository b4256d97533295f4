//! Libraries of other languages. A script in that language has all clients of a test; it takes a line of JSON for each thing to do, and
//! writes one for each thing that happens:
//!
//! ```text
//!  {"do": "open", "client", "port", "websocket", "ca", "certificate", "key", "lasting", "will": null | {"topic", "payload", "qos",
//!   "retain", "delay"}, "filters", "qos"}
//!  {"do": "publish", "client", "tag", "topic", "payload", "qos", "retain"}
//!  {"do": "disconnect", "client"}          {"do": "cut", "client"}
//!
//!  {"client", "event": "connected", "resumed"}     {"client", "event": "subscribed", "granted"}     {"client", "event": "ended"}
//!  {"client", "event": "message", "topic", "payload", "qos", "retain"}     {"client", "event": "published", "tag"}
//!  {"client", "event": "failed", "reason"}
//! ```

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};

use serde::Deserialize;
use serde_json::{Value, json};

use crate::client::{Client, Event, Hand, Kind, Library, Open, Outgoing, Will};

#[derive(Deserialize)]
struct Line {
    client: String,
    #[serde(flatten)]
    event: Event,
}

type Routes = Arc<Mutex<HashMap<String, Sender<Event>>>>;

/// A library with its script.
pub struct Hosted {
    is_5: bool,
    kinds: &'static [Kind],
    child: Child,
    input: Arc<Mutex<ChildStdin>>,
    routes: Routes,
}

const EVERY: &[Kind] = &[Kind::Tcp, Kind::Tls, Kind::Ws, Kind::Wss];

impl Hosted {
    /// Paho for Python, of the system's package: another Python found first would not have it.
    pub fn paho(is_5: bool) -> Hosted {
        let mut command = Command::new("/usr/bin/python3");
        command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/paho_clients.py")).arg(if is_5 {
            "5"
        } else {
            "3.1.1"
        });
        Hosted::start(command, is_5)
    }

    /// mqtt.js.
    pub fn mqtt_js(is_5: bool) -> Hosted {
        let mut command = Command::new("node");
        command.env("NODE_PATH", forebay_services::npm::modules().unwrap());
        command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/mqttjs_clients.cjs"));
        command.arg(if is_5 { "5" } else { "3.1.1" });
        Hosted::start(command, is_5)
    }

    fn start(mut command: Command, is_5: bool) -> Hosted {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}; {MISSING}"));
        let output = BufReader::new(child.stdout.take().unwrap());
        let routes = Routes::default();
        let senders = Arc::clone(&routes);
        std::thread::spawn(move || {
            for line in output.lines() {
                let line = line.unwrap();
                match serde_json::from_str(&line) {
                    // It may be one that nobody looks at any more.
                    Ok(Line { client, event }) => drop(senders.lock().unwrap()[&client].send(event)),
                    Err(error) => {
                        eprintln!("the script wrote what is no event: {error}: {line}");
                        break;
                    }
                }
            }
            // Whoever waits is told at once that nothing comes any more.
            senders.lock().unwrap().clear();
        });
        let input = Arc::new(Mutex::new(child.stdin.take().unwrap()));
        Hosted { is_5, kinds: EVERY, child, input, routes }
    }
}

const MISSING: &str = "what clients need is installed by `cargo xtask test --only provision`";

impl Library for Hosted {
    fn is_5(&self) -> bool {
        self.is_5
    }

    fn kinds(&self) -> &'static [Kind] {
        self.kinds
    }

    fn open(&self, open: &Open) -> Client {
        let (sender, events) = channel();
        self.routes.lock().unwrap().insert(open.id.to_owned(), sender);
        let mut hand = HostedHand { client: open.id.to_owned(), input: Arc::clone(&self.input) };
        let tls = matches!(open.way.kind, Kind::Tls | Kind::Wss);
        let [certificate, key] = open.way.certificate.clone().map_or([None, None], |files| files.map(Some));
        let will = open.will.map(|will| {
            json!({ "topic": will.topic, "payload": Will::PAYLOAD, "qos": Will::QOS, "retain": will.retain, "delay": will.delay })
        });
        hand.say(json!({
            "do": "open", "port": open.way.port, "websocket": matches!(open.way.kind, Kind::Ws | Kind::Wss),
            "ca": tls.then_some(&open.way.authority), "certificate": certificate, "key": key,
            "lasting": open.lasting, "will": will, "filters": open.filters, "qos": open.qos,
        }));
        Client::new(open.id, events, Box::new(hand))
    }
}

impl Drop for Hosted {
    fn drop(&mut self) {
        // One that has ended by itself is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

struct HostedHand {
    client: String,
    input: Arc<Mutex<ChildStdin>>,
}

impl HostedHand {
    fn say(&mut self, mut command: Value) {
        command["client"] = self.client.as_str().into();
        writeln!(self.input.lock().unwrap(), "{command}")
            .unwrap_or_else(|e| panic!("the script ended: {e}; {MISSING}"));
    }
}

impl Hand for HostedHand {
    fn publish(&mut self, message: &Outgoing, tag: u64) {
        let Outgoing { topic, payload, qos, retain } = message;
        self.say(
            json!({ "do": "publish", "tag": tag, "topic": topic, "payload": payload, "qos": qos, "retain": retain }),
        );
    }

    fn disconnect(&mut self) {
        self.say(json!({ "do": "disconnect" }));
    }

    fn cut(&mut self) {
        self.say(json!({ "do": "cut" }));
    }
}
