//! A client of another make, as the stories see it.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::mpsc::Receiver;
use std::time::Instant;

use serde::Deserialize;

use crate::support::PATIENCE;

/// What lies between TCP and MQTT.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    Tcp,
    Tls,
    Ws,
    Wss,
}

/// A way into the server.
#[derive(Clone, Debug)]
pub struct Way {
    pub kind: Kind,
    pub port: u16,
    /// Whom the client trusts to sign the server's certificate.
    pub authority: PathBuf,
    /// The client's own certificate and key.
    pub certificate: Option<[PathBuf; 2]>,
}

/// What the server says for a client that is gone.
#[derive(Clone, Copy, Debug)]
pub struct Will {
    pub topic: &'static str,
    pub retain: bool,
    /// Seconds; MQTT 5 only.
    pub delay: u32,
}

impl Will {
    pub const PAYLOAD: &str = "gone";
    pub const QOS: u8 = 1;
}

/// How a client comes in, and what it subscribes to at once.
#[derive(Clone, Copy, Debug)]
pub struct Open<'a> {
    pub way: &'a Way,
    pub id: &'a str,
    /// Its session outlives the connection.
    pub lasting: bool,
    pub will: Option<Will>,
    pub filters: &'a [&'a str],
    pub qos: u8,
    /// All it publishes goes to this topic with this QoS, over one connection that is made again when it breaks.
    pub stream: Option<(&'a str, u8)>,
}

impl<'a> Open<'a> {
    pub fn new(way: &'a Way, id: &'a str) -> Open<'a> {
        Open { way, id, lasting: false, will: None, filters: &[], qos: 0, stream: None }
    }
}

/// A message to publish.
#[derive(Clone, Copy, Debug)]
pub struct Outgoing<'a> {
    pub topic: &'a str,
    pub payload: &'a str,
    pub qos: u8,
    pub retain: bool,
}

/// A message that came.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
pub struct Message {
    pub topic: String,
    pub payload: String,
    pub qos: u8,
    pub retain: bool,
}

/// What a client tells.
#[derive(Debug, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// It is connected, perhaps again; not every client says whether its session was there.
    Connected { resumed: Option<bool> },
    /// Its subscriptions were answered.
    Subscribed { granted: Vec<u8> },
    /// A message was acknowledged as its QoS asks for.
    Published { tag: u64 },
    /// A message came.
    Message(Message),
    /// It is gone because it was told to go.
    Ended,
    /// It did not get in, or gave up.
    Failed { reason: String },
}

/// How a client is told what to do.
pub trait Hand {
    /// [`Event::Published`] with the tag follows.
    fn publish(&mut self, message: &Outgoing, tag: u64);
    /// Leaves with a DISCONNECT. [`Event::Ended`] follows.
    fn disconnect(&mut self);
    /// Breaks the connection without one. [`Event::Ended`] follows.
    fn cut(&mut self);
}

/// A library or program, with one version of MQTT.
pub trait Library {
    fn is_5(&self) -> bool;
    fn kinds(&self) -> &'static [Kind];
    /// True where it disconnects with the reason that has its will published (0x04).
    fn says_goodbye_with_its_will(&self) -> bool {
        false
    }
    /// Begins to connect and to subscribe.
    fn open(&self, open: &Open) -> Client;
}

/// All that a client has told so far.
#[derive(Debug, Default)]
pub struct Seen {
    pub connected: Vec<Option<bool>>,
    pub granted: Option<Vec<u8>>,
    pub published: Vec<u64>,
    pub messages: Vec<Message>,
    pub ended: bool,
    pub failed: Option<String>,
}

impl Seen {
    /// How often each payload came.
    pub fn counts(&self) -> HashMap<&str, u32> {
        let mut counts = HashMap::new();
        for message in &self.messages {
            *counts.entry(message.payload.as_str()).or_default() += 1;
        }
        counts
    }
}

/// A client.
pub struct Client {
    pub name: String,
    pub seen: Seen,
    pub tags: u64,
    events: Receiver<Event>,
    hand: Box<dyn Hand>,
}

impl Client {
    pub fn new(name: &str, events: Receiver<Event>, hand: Box<dyn Hand>) -> Client {
        Client { name: name.to_owned(), seen: Seen::default(), tags: 0, events, hand }
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Connected { resumed } => self.seen.connected.push(resumed),
            Event::Subscribed { granted } => self.seen.granted = Some(granted),
            Event::Published { tag } => self.seen.published.push(tag),
            Event::Message(message) => self.seen.messages.push(message),
            Event::Ended => self.seen.ended = true,
            Event::Failed { reason } => self.seen.failed = Some(reason),
        }
    }

    /// Waits until what it has told gives a value.
    pub fn told<T>(&mut self, what: &str, mut condition: impl FnMut(&Seen) -> Option<T>) -> T {
        let start = Instant::now();
        loop {
            while let Ok(event) = self.events.try_recv() {
                self.take(event);
            }
            if let Some(value) = condition(&self.seen) {
                return value;
            }
            let left = PATIENCE.saturating_sub(start.elapsed());
            match self.events.recv_timeout(left) {
                Ok(event) => self.take(event),
                Err(reason) => panic!("{} never told: {what} ({reason}); it told {}", self.name, self.short()),
            }
        }
    }

    /// What it has told, without long payloads.
    fn short(&self) -> String {
        let Seen { published, messages, failed, .. } = &self.seen;
        let messages = messages.iter().map(|m| (&m.topic, m.payload.get(..40).unwrap_or(&m.payload), m.qos));
        format!("{} published, failed: {failed:?}, came: {:?}", published.len(), messages.collect::<Vec<_>>())
    }

    /// Waits until it is connected and, where it asked for something, subscribed with that QoS.
    pub fn ready(mut self, open: &Open) -> Client {
        self.told("that it is connected", |seen| {
            assert_eq!(seen.failed, None, "{}", open.id);
            (!seen.connected.is_empty()).then_some(())
        });
        if !open.filters.is_empty() {
            let granted = self.told("that it is subscribed", |seen| seen.granted.clone());
            assert_eq!(granted, vec![open.qos; open.filters.len()], "{}", self.name);
        }
        self
    }

    /// Publishes; the tag with which it will be acknowledged.
    pub fn publish(&mut self, message: &Outgoing) -> u64 {
        self.tags += 1;
        self.hand.publish(message, self.tags);
        self.tags
    }

    /// Waits until all it published is acknowledged.
    pub fn acknowledged(&mut self) {
        let all = self.tags;
        self.told("that all is acknowledged", |seen| {
            assert_eq!(seen.failed, None);
            (1..=all).all(|tag| seen.published.contains(&tag)).then_some(())
        });
    }

    /// Waits for so many messages, and gives them in order of topic and payload.
    pub fn messages(&mut self, count: usize) -> Vec<Message> {
        let mut messages = self
            .told(&format!("{count} messages"), |seen| (seen.messages.len() >= count).then(|| seen.messages.clone()));
        messages.sort();
        messages
    }

    pub fn disconnect(&mut self) {
        self.hand.disconnect();
        self.told("that it is disconnected", |seen| seen.ended.then_some(()));
    }

    pub fn cut(&mut self) {
        self.hand.cut();
        self.told("that it is cut off", |seen| seen.ended.then_some(()));
    }
}
