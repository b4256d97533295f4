//! Who is connected, takeover, and what sessions have in flight while their client is away.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytestring::ByteString;
use forebay_engine::QoS;
use forebay_engine::event::Epoch;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot, watch};

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
}

struct Online {
    view: ClientView,
    commands: mpsc::UnboundedSender<Command>,
    /// Dropped with the entry; who waits for the connection's end holds a receiver.
    gone: watch::Sender<()>,
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
                        let view = ClientView { client: client.clone(), epoch: 0, address, since_us };
                        online.insert(client.clone(), Online { view, commands, gone: watch::channel(()).0 });
                        return (Seat { registry: Arc::clone(self), client }, receiver);
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

    /// Does something unless the client is connected or connecting; nobody can take its seat meanwhile. With `forget`, what its
    /// session had in flight is dropped.
    pub(crate) fn unless_online<T>(&self, client: &str, forget: bool, work: impl FnOnce() -> T) -> Option<T> {
        let online = self.online.lock();
        if online.contains_key(client) {
            return None;
        }
        if forget {
            self.parked.lock().remove(client);
        }
        Some(work())
    }

    pub(crate) fn len(&self) -> usize {
        self.online.lock().len()
    }

    pub(crate) fn clients(&self) -> Vec<ClientView> {
        self.online.lock().values().map(|o| o.view.clone()).collect()
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
}

impl Seat {
    pub(crate) fn set_epoch(&self, epoch: Epoch) {
        if let Some(online) = self.registry.online.lock().get_mut(&self.client) {
            online.view.epoch = epoch;
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.registry.online.lock().remove(&self.client);
    }
}
