//! Who is connected, takeover, and what sessions have in flight while their client is away.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use bytestring::ByteString;
use forebay_engine::QoS;
use forebay_engine::event::Epoch;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot, watch};

use crate::live_bus::LiveInbox;
use crate::session::Outbound;

/// What a connection is told from outside.
#[derive(Debug)]
pub(crate) enum Command {
    /// A newer connection of the same client waits.
    TakeOver,
    /// An operator ends it.
    Kick,
    /// The server stops.
    Shutdown,
    /// Subscribe on the client's behalf; answered once the subscription is in effect.
    Subscribe { filter: ByteString, qos: QoS, done: oneshot::Sender<()> },
    /// Unsubscribe on the client's behalf.
    Unsubscribe { filter: ByteString, done: oneshot::Sender<()> },
}

/// A connected client, as an operator sees it.
#[derive(Clone, Debug)]
pub struct ClientView {
    /// Client id.
    pub client: ByteString,
    /// Its connection; 0 while its session is being opened.
    pub epoch: Epoch,
    /// Its address.
    pub address: SocketAddr,
    /// Since when, us since 1970.
    pub since_us: u64,
    /// What its CONNECT said; the default while its session is being opened.
    pub facts: ClientFacts,
    /// QoS 1 and 2 messages sent to it that it has not acknowledged.
    pub in_flight: usize,
    /// Publishes of its own that wait for the disk or for their release.
    pub receiving: usize,
    /// QoS 0 messages that wait in memory until it reads.
    pub queued: usize,
}

/// What is known of a client from its CONNECT.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientFacts {
    /// User name; empty where there is none.
    pub username: ByteString,
    /// Protocol level: 3, 4 (3.1.1) or 5.
    pub protocol: u8,
    /// Keep alive, seconds; 0 = none.
    pub keep_alive_s: u16,
    /// Whether it asked for a clean start.
    pub clean_start: bool,
    /// How long its session outlives the connection, seconds.
    pub expiry_s: u32,
    /// The listener it came through.
    pub listener: Option<SocketAddr>,
}

/// What a connection has under way, for others to look at.
#[derive(Debug, Default)]
pub(crate) struct Load {
    pub(crate) in_flight: AtomicUsize,
    pub(crate) receiving: AtomicUsize,
}

struct Online {
    epoch: Epoch,
    address: SocketAddr,
    since_us: u64,
    facts: ClientFacts,
    load: Arc<Load>,
    inbox: Option<Arc<LiveInbox>>,
    commands: mpsc::UnboundedSender<Command>,
    /// Dropped with the entry; who waits for the connection's end holds a receiver.
    gone: watch::Sender<()>,
}

impl Online {
    fn view(&self, client: &ByteString) -> ClientView {
        ClientView {
            client: client.clone(),
            epoch: self.epoch,
            address: self.address,
            since_us: self.since_us,
            facts: self.facts.clone(),
            in_flight: self.load.in_flight.load(Ordering::Relaxed),
            receiving: self.load.receiving.load(Ordering::Relaxed),
            queued: self.inbox.as_ref().map_or(0, |inbox| inbox.waiting().0),
        }
    }
}

/// What a session had in flight when its connection ended.
#[derive(Debug, Default)]
pub(crate) struct Parked {
    pub(crate) epoch: Epoch,
    pub(crate) outbound: Outbound,
    pub(crate) received: Vec<u16>,
}

/// See the module.
#[derive(Default)]
pub(crate) struct Registry {
    online: Mutex<HashMap<ByteString, Online>>,
    parked: Mutex<HashMap<ByteString, Parked>>,
    shed: AtomicU64,
}

impl Registry {
    /// Takes the client's seat; a connection that holds it is told to go and waited for.
    pub(crate) async fn enter(
        self: &Arc<Self>,
        client: ByteString,
        address: SocketAddr,
        since_us: u64,
    ) -> (Seat, mpsc::UnboundedReceiver<Command>) {
        loop {
            let mut gone = {
                let mut online = self.online.lock();
                match online.get(&client) {
                    None => {
                        let (commands, receiver) = mpsc::unbounded_channel();
                        let load = Arc::<Load>::default();
                        let entry = Online {
                            epoch: 0,
                            address,
                            since_us,
                            facts: ClientFacts::default(),
                            load: Arc::clone(&load),
                            inbox: None,
                            commands,
                            gone: watch::channel(()).0,
                        };
                        online.insert(client.clone(), entry);
                        return (Seat { registry: Arc::clone(self), client, load }, receiver);
                    }
                    Some(other) => {
                        let _ = other.commands.send(Command::TakeOver);
                        other.gone.subscribe()
                    }
                }
            };
            // Ends with an error when the entry is dropped, which is what is waited for.
            let _ = gone.changed().await;
        }
    }

    /// Does something unless the client is connected or connecting; nobody can take its seat meanwhile.
    pub(crate) fn unless_online<T>(&self, client: &str, work: impl FnOnce() -> T) -> Option<T> {
        let online = self.online.lock();
        (!online.contains_key(client)).then(work)
    }

    /// Drops what a session had in flight; for the work of [`Registry::unless_online`], once the session's end is in the log.
    pub(crate) fn forget(&self, client: &str) {
        self.parked.lock().remove(client);
    }

    pub(crate) fn len(&self) -> usize {
        self.online.lock().len()
    }

    pub(crate) fn clients(&self) -> Vec<ClientView> {
        self.online.lock().iter().map(|(client, online)| online.view(client)).collect()
    }

    pub(crate) fn client(&self, client: &str) -> Option<ClientView> {
        self.online.lock().get_key_value(client).map(|(client, online)| online.view(client))
    }

    /// Clients by client id: those behind `after`, at most `limit`.
    pub(crate) fn clients_after(&self, after: &str, limit: usize) -> Vec<ClientView> {
        let online = self.online.lock();
        let mut smallest = BTreeSet::new();
        for client in online.keys().filter(|client| ***client > *after) {
            if smallest.len() < limit || smallest.last().is_some_and(|last| client < *last) {
                smallest.insert(client);
                if smallest.len() > limit {
                    smallest.pop_last();
                }
            }
        }
        smallest.into_iter().filter_map(|client| online.get(client).map(|entry| entry.view(client))).collect()
    }

    /// Tells a client's connection to end, and waits until it is off; false where the client is not connected.
    pub(crate) async fn end(&self, client: &str, command: Command) -> bool {
        let mut gone = {
            let online = self.online.lock();
            let Some(online) = online.get(client) else { return false };
            // One that has ended already is about to give its seat back.
            let _ = online.commands.send(command);
            online.gone.subscribe()
        };
        let _ = gone.changed().await;
        true
    }

    /// Tells a client's connection something; false where the client is not connected.
    pub(crate) fn tell(&self, client: &str, command: Command) -> bool {
        self.online.lock().get(client).is_some_and(|o| o.commands.send(command).is_ok())
    }

    /// Tells every connection to go.
    pub(crate) fn shut_down(&self) {
        for online in self.online.lock().values() {
            let _ = online.commands.send(Command::Shutdown);
        }
    }

    pub(crate) fn park(&self, client: &ByteString, parked: Parked) {
        if !parked.outbound.is_empty() || !parked.received.is_empty() {
            self.parked.lock().insert(client.clone(), parked);
        }
    }

    pub(crate) fn unpark(&self, client: &str) -> Option<Parked> {
        self.parked.lock().remove(client)
    }

    pub(crate) fn count_shed(&self, n: u64) {
        self.shed.fetch_add(n, Ordering::Relaxed);
    }

    pub(crate) fn shed(&self) -> u64 {
        self.shed.load(Ordering::Relaxed)
    }
}

/// A client's place among the connected; given back when dropped.
pub(crate) struct Seat {
    registry: Arc<Registry>,
    client: ByteString,
    load: Arc<Load>,
}

impl Seat {
    /// Its session is open.
    pub(crate) fn occupy(&self, epoch: Epoch, facts: ClientFacts) {
        if let Some(online) = self.registry.online.lock().get_mut(&self.client) {
            (online.epoch, online.facts) = (epoch, facts);
        }
    }

    /// Where its live messages wait.
    pub(crate) fn set_inbox(&self, inbox: &Arc<LiveInbox>) {
        if let Some(online) = self.registry.online.lock().get_mut(&self.client) {
            online.inbox = Some(Arc::clone(inbox));
        }
    }

    /// What others see of its load.
    pub(crate) fn load(&self) -> Arc<Load> {
        Arc::clone(&self.load)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.registry.online.lock().remove(&self.client);
    }
}
