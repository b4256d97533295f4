//! rumqttd's router as a [`LiveBus`].
//!
//! The router knows each filter once, under a number; who subscribed to it stands here. A publish puts the message into
//! a ring of tokens and sends the token through the router; one thread takes tokens back and fills the inboxes. When the
//! router dies it is started anew and told all filters again. Where one client's filters overlap, the router sends one
//! copy for each.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use forebay_engine::Message;
use forebay_engine::event::SubscriptionOptions;
use parking_lot::{Mutex, RwLock};

use super::router_link::{Received, RouterDied, RouterLink, RouterReader};
use super::{LiveBus, LiveInbox};
use crate::metrics::{DROPPED, ROUTER_RESTARTS};

/// Messages between publish and delivery; a token whose message was overwritten is dropped and counted.
const TOKENS: u64 = 1 << 16;
/// How often an idle reader looks whether the bus is still there.
const IDLE: Duration = Duration::from_millis(500);

/// See the module.
pub struct RumqttdBus {
    inner: Arc<Inner>,
}

struct Inner {
    link: Mutex<Option<RouterLink>>,
    filters: RwLock<Filters>,
    tokens: Mutex<Tokens>,
}

#[derive(Default)]
struct Filters {
    numbers: HashMap<String, usize>,
    by_number: HashMap<usize, Subscribers>,
    last_number: usize,
}

#[derive(Default)]
struct Subscribers {
    filter: String,
    entries: Vec<(Arc<LiveInbox>, SubscriptionOptions)>,
}

struct Tokens {
    next: u64,
    ring: Vec<Option<(u64, Arc<Message>)>>,
}

impl Tokens {
    fn put(&mut self, message: &Arc<Message>) -> u64 {
        let token = self.next;
        self.next += 1;
        if let Some(slot) = self.ring.get_mut((token % TOKENS) as usize) {
            *slot = Some((token, Arc::clone(message)));
        }
        token
    }

    fn get(&self, token: u64) -> Option<Arc<Message>> {
        match self.ring.get((token % TOKENS) as usize) {
            Some(Some((held, message))) if *held == token => Some(Arc::clone(message)),
            _ => None,
        }
    }
}

impl RumqttdBus {
    /// Starts the router with the first use.
    #[must_use]
    pub fn new() -> RumqttdBus {
        let tokens = Tokens { next: 0, ring: (0..TOKENS).map(|_| None).collect() };
        RumqttdBus {
            inner: Arc::new(Inner { link: Mutex::new(None), filters: RwLock::default(), tokens: Mutex::new(tokens) }),
        }
    }

    /// Does something over the link, on a new router where the old one has died (once; a second death is logged).
    fn with_link(&self, what: impl Fn(&RouterLink) -> Result<(), RouterDied>) {
        let mut link = self.inner.link.lock();
        for _ in 0..2 {
            if link.as_ref().is_none_or(|l| !l.is_alive()) {
                *link = self.inner.start();
            }
            match link.as_ref().map(&what) {
                Some(Ok(())) => return,
                Some(Err(RouterDied)) => *link = None,
                None => break,
            }
        }
        metrics::counter!(DROPPED, "reason" => "router_overrun").increment(1);
        tracing::warn!("rumqttd's router can't be started; a live message was dropped");
    }
}

impl Default for RumqttdBus {
    fn default() -> Self {
        RumqttdBus::new()
    }
}

impl Inner {
    fn start(self: &Arc<Self>) -> Option<RouterLink> {
        let (link, reader) = match RouterLink::start() {
            Ok(pair) => pair,
            Err(error) => {
                tracing::error!(%error, "rumqttd's router did not start");
                return None;
            }
        };
        metrics::counter!(ROUTER_RESTARTS).increment(1);
        for (number, subscribers) in &self.filters.read().by_number {
            if link.subscribe(&subscribers.filter, *number).is_err() {
                return None;
            }
        }
        let inner = Arc::downgrade(self);
        let spawned = std::thread::Builder::new().name("live-bus".into()).spawn(move || read_tokens(&inner, reader));
        match spawned {
            Ok(_) => Some(link),
            Err(error) => {
                tracing::error!(%error, "the live bus has no thread to read with");
                None
            }
        }
    }

    fn deliver(&self, subscription: usize, token: u64) {
        let Some(message) = self.tokens.lock().get(token) else {
            metrics::counter!(DROPPED, "reason" => "router_overrun").increment(1);
            return;
        };
        let filters = self.filters.read();
        for (inbox, options) in filters.by_number.get(&subscription).iter().flat_map(|s| &s.entries) {
            inbox.push(&message, std::iter::once(*options));
        }
    }
}

fn read_tokens(inner: &Weak<Inner>, mut reader: RouterReader) {
    loop {
        let received = reader.receive(IDLE);
        let Some(inner) = inner.upgrade() else { return reader.leave() };
        match received {
            Ok(Received::Token { subscription, token }) => inner.deliver(subscription, token),
            Ok(Received::Nothing) => {}
            Err(RouterDied) => {
                tracing::warn!("rumqttd's router has died; the next live message starts a new one");
                return;
            }
        }
    }
}

impl LiveBus for RumqttdBus {
    fn subscribe(&self, filter: &str, inbox: &Arc<LiveInbox>, options: SubscriptionOptions) {
        let number = {
            let mut filters = self.inner.filters.write();
            let known = filters.numbers.get(filter).copied();
            let number = known.unwrap_or_else(|| {
                filters.last_number += 1;
                let number = filters.last_number;
                filters.numbers.insert(filter.to_owned(), number);
                number
            });
            let subscribers = filters.by_number.entry(number).or_default();
            subscribers.entries.retain(|(i, _)| i.id() != inbox.id());
            subscribers.entries.push((Arc::clone(inbox), options));
            if known.is_some() {
                return;
            }
            filter.clone_into(&mut subscribers.filter);
            number
        };
        self.with_link(|link| link.subscribe(filter, number));
    }

    fn unsubscribe(&self, filter: &str, inbox: &LiveInbox) {
        {
            let mut filters = self.inner.filters.write();
            let Some(number) = filters.numbers.get(filter).copied() else { return };
            let Some(subscribers) = filters.by_number.get_mut(&number) else { return };
            subscribers.entries.retain(|(i, _)| i.id() != inbox.id());
            if !subscribers.entries.is_empty() {
                return;
            }
            filters.by_number.remove(&number);
            filters.numbers.remove(filter);
        }
        self.with_link(|link| link.unsubscribe(filter));
    }

    fn publish(&self, message: &Arc<Message>) {
        let token = self.inner.tokens.lock().put(message);
        self.with_link(|link| link.publish(&message.topic, token));
    }
}
