//! The broker: starts the listeners, knows the clients, stops in order.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytestring::ByteString;
use forebay_engine::event::SubscriptionOptions;
use forebay_engine::topic::{self, TopicError, check_subscription};
use forebay_engine::{Engine, Message, QoS};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::connection;
use crate::janitor;
use crate::limits::Admission;
use crate::listener::{self, Arrival, Layered, Listener, ListenerOptions, ListenerView, TlsError};
use crate::live_bus::{LiveBus, LiveGroups, LiveInbox, RumqttdBus, TrieBus};
use crate::metrics::PacketCounters;
use crate::operator::Operator;
use crate::options::{BrokerOptions, LiveBusKind};
use crate::registry::{ClientView, Command, Registry};
use crate::store::Store;
use crate::system::{self, Traffic};

/// Why a broker did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address can't be listened on.
    #[error("can't listen on {address}: {source}; {remedy}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What to do.
        remedy: &'static str,
        /// Cause.
        source: io::Error,
    },
    /// A listener's certificates or key can't be used.
    #[error("the listener at {address}: {source}")]
    Tls {
        /// The listener.
        address: SocketAddr,
        /// What is wrong with which file.
        source: TlsError,
    },
    /// The options name no address.
    #[error("there is no address to listen on; name at least one")]
    NoListener,
    /// The log took no records while the last run's connections were being closed.
    #[error("the log takes no records: {0}")]
    Log(String),
}

/// Why a subscription on a client's behalf was not made.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// The client is not connected.
    #[error("client {0} is not connected")]
    NotConnected(ByteString),
    /// The filter can't be subscribed to.
    #[error("topic filter {filter}: {source}")]
    Filter {
        /// The filter.
        filter: ByteString,
        /// What is wrong with it.
        source: TopicError,
    },
}

/// Counts since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BrokerStats {
    /// Clients connected now.
    pub connections: usize,
    /// CONNECTs accepted.
    pub connects: u64,
    /// Connections refused or closed before CONNACK.
    pub refused: u64,
    /// Live QoS 0 messages shed because a client was too slow (connections that have ended).
    pub shed: u64,
}

/// What all connections share.
pub(crate) struct Shared {
    pub(crate) engine: Engine,
    pub(crate) options: BrokerOptions,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) live: Box<dyn LiveBus>,
    /// The members of shared subscriptions that are online.
    pub(crate) groups: LiveGroups,
    pub(crate) registry: Arc<Registry>,
    /// Connections accepted and not ended, CONNECT seen or not.
    pub(crate) open: AtomicUsize,
    pub(crate) admission: Arc<Admission>,
    pub(crate) connects: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) counters: PacketCounters,
    pub(crate) traffic: Traffic,
    pub(crate) stop: watch::Sender<bool>,
}

impl Shared {
    /// Hands a message to the clients that are online, with QoS 0.
    pub(crate) fn fan_out(&self, message: Message) {
        let message = Arc::new(message);
        self.groups.publish(&message);
        self.live.publish(&message);
    }

    /// Enters a subscription for live messages. A queue hands out its messages itself.
    pub(crate) fn subscribe_live(&self, filter: &ByteString, inbox: &Arc<LiveInbox>, options: SubscriptionOptions) {
        if topic::shared(filter).is_some() {
            self.groups.join(filter, inbox, options);
        } else if !self.engine.is_queue_filter(filter) {
            self.live.subscribe(filter, inbox, options);
        }
    }

    /// Takes a subscription for live messages out.
    pub(crate) fn unsubscribe_live(&self, filter: &ByteString, inbox: &LiveInbox) {
        if topic::shared(filter).is_some() {
            self.groups.leave(filter, inbox);
        } else {
            self.live.unsubscribe(filter, inbox);
        }
    }

    /// Resolves when the broker stops.
    pub(crate) async fn stopped(&self) {
        let mut stop = self.stop.subscribe();
        let _ = stop.wait_for(|stopped| *stopped).await.map(drop);
    }

    /// The live half of a message that is in the log already: only QoS 0 goes this way too, the rest comes from the log.
    pub(crate) fn fan_out_qos0(&self, message: &Message) {
        if message.qos == QoS::AtMostOnce {
            self.fan_out(message.clone());
        }
    }
}

/// A running broker. Dropping it stops the listeners, not the connections; [`Broker::shutdown`] ends both in order.
pub struct Broker {
    shared: Arc<Shared>,
    listeners: Vec<Arc<Listener>>,
    /// Taken by the first [`Broker::shutdown`].
    tasks: Mutex<JoinSet<()>>,
}

impl Broker {
    /// Starts: closes in the log what the last run left open (connections, their wills), then listens.
    ///
    /// # Errors
    /// An address can't be listened on, or the log takes no records.
    pub async fn start(engine: Engine, options: BrokerOptions, store: Arc<dyn Store>) -> Result<Broker, StartError> {
        if options.listeners.is_empty() {
            return Err(StartError::NoListener);
        }
        let mut sockets = Vec::with_capacity(options.listeners.len());
        for listener in &options.listeners {
            let (socket, address) = bind(listener.address)?;
            let listener = Listener::open(ListenerOptions { address, ..listener.clone() })
                .map_err(|source| StartError::Tls { address: listener.address, source })?;
            sockets.push((socket, Arc::new(listener)));
        }
        let listeners = sockets.iter().map(|(_, listener)| Arc::clone(listener)).collect();
        let live: Box<dyn LiveBus> = match options.live_bus {
            LiveBusKind::Trie => Box::new(TrieBus::default()),
            LiveBusKind::Rumqttd => Box::new(RumqttdBus::new()),
        };
        let admission = Arc::new(Admission::new(&options.limits));
        let shared = Arc::new(Shared {
            engine,
            options,
            store,
            live,
            groups: LiveGroups::default(),
            registry: Arc::default(),
            open: AtomicUsize::new(0),
            admission,
            connects: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            counters: PacketCounters::new(),
            traffic: Traffic::default(),
            stop: watch::channel(false).0,
        });
        janitor::close_what_was_open(&shared).await.map_err(|error| StartError::Log(error.text.to_owned()))?;
        let mut tasks = JoinSet::new();
        for (socket, listener) in sockets {
            if let Some(tls) = &listener.tls {
                tasks.spawn(Arc::clone(tls).watch(Arc::clone(&shared), listener.options.address));
            }
            tasks.spawn(listener::listen(Arc::clone(&shared), listener, socket));
        }
        tasks.spawn(janitor::run(Arc::clone(&shared)));
        tasks.spawn(system::run(Arc::clone(&shared)));
        Ok(Broker { shared, listeners, tasks: Mutex::new(tasks) })
    }

    /// The addresses it listens on, with the ports it was given, in the order of the options.
    #[must_use]
    pub fn local_addrs(&self) -> Vec<SocketAddr> {
        self.listeners.iter().map(|listener| listener.options.address).collect()
    }

    /// Its listeners, in the order of the options.
    #[must_use]
    pub fn listeners(&self) -> Vec<ListenerView> {
        self.listeners.iter().map(|listener| listener.view()).collect()
    }

    /// Counts since the start.
    #[must_use]
    pub fn stats(&self) -> BrokerStats {
        BrokerStats {
            connections: self.shared.registry.len(),
            connects: self.shared.connects.load(Ordering::Relaxed),
            refused: self.shared.refused.load(Ordering::Relaxed),
            shed: self.shared.registry.shed(),
        }
    }

    /// The clients that are connected.
    #[must_use]
    pub fn clients(&self) -> Vec<ClientView> {
        self.shared.registry.clients()
    }

    /// Ends a client's connection (DISCONNECT 0x98 to MQTT 5); false where the client is not connected.
    pub fn kick(&self, client: &str) -> bool {
        self.shared.registry.tell(client, Command::Kick)
    }

    /// A handle for what operators do.
    #[must_use]
    pub fn operator(&self) -> Operator {
        Operator::new(Arc::clone(&self.shared))
    }

    /// A handle for subscribing on behalf of clients, for tasks that outlive a borrow of the broker.
    #[must_use]
    pub fn proxy(&self) -> Proxy {
        Proxy { shared: Arc::clone(&self.shared) }
    }

    /// See [`Proxy::subscribe_for`].
    ///
    /// # Errors
    /// The filter is invalid or the client is not connected.
    pub async fn subscribe_for(&self, client: &str, filter: &str, qos: QoS) -> Result<(), ProxyError> {
        self.proxy().subscribe_for(client, filter, qos).await
    }

    /// See [`Proxy::unsubscribe_for`].
    ///
    /// # Errors
    /// The filter is invalid or the client is not connected.
    pub async fn unsubscribe_for(&self, client: &str, filter: &str) -> Result<(), ProxyError> {
        self.proxy().unsubscribe_for(client, filter).await
    }

    /// Serves a client over a stream that the program brings itself: a pipe in memory, a transport of its own. To the broker it has come
    /// through the first listener, whose limit of connections does not hold it. Resolves when the connection has ended, which
    /// [`Broker::shutdown`] asks it to and does not wait for.
    pub fn serve(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        peer: SocketAddr,
    ) -> impl Future<Output = ()> + Send + 'static {
        let shared = Arc::clone(&self.shared);
        let arrival = self.listeners.first().map(|listener| Arrival::from(peer, listener));
        async move {
            // There is always one: the broker does not start without.
            if let Some(arrival) = arrival {
                let deadline = Instant::now() + shared.options.connect_timeout;
                connection::serve::<Layered>(shared, Box::new(stream), arrival, deadline).await;
            }
        }
    }

    /// Stops in order: no new connections, DISCONNECT 0x8B to MQTT 5 clients, everything acknowledged is written. Returns
    /// false where connections were left at the deadline; they are cut.
    pub async fn shutdown(&self, deadline: Duration) -> bool {
        self.shared.stop.send_replace(true);
        self.shared.registry.shut_down();
        let mut tasks = std::mem::take(&mut *self.tasks.lock());
        let ended = async { while tasks.join_next().await.is_some() {} };
        let in_time = tokio::time::timeout(deadline, ended).await.is_ok();
        tasks.shutdown().await;
        in_time
    }
}

/// Subscribes and unsubscribes online clients on their behalf. Cheap to clone.
#[derive(Clone)]
pub struct Proxy {
    shared: Arc<Shared>,
}

impl Proxy {
    /// Subscribes an online client; when it returns the subscription is durable and in effect.
    ///
    /// # Errors
    /// The filter is invalid, or the client is not connected (or left meanwhile).
    pub async fn subscribe_for(&self, client: &str, filter: &str, qos: QoS) -> Result<(), ProxyError> {
        self.tell(client, filter, |filter, done| Command::Subscribe { filter, qos, done }).await
    }

    /// Unsubscribes an online client; when it returns the change is durable and in effect.
    ///
    /// # Errors
    /// The filter is invalid, or the client is not connected (or left meanwhile).
    pub async fn unsubscribe_for(&self, client: &str, filter: &str) -> Result<(), ProxyError> {
        self.tell(client, filter, |filter, done| Command::Unsubscribe { filter, done }).await
    }

    async fn tell(
        &self,
        client: &str,
        filter: &str,
        command: impl FnOnce(ByteString, oneshot::Sender<()>) -> Command,
    ) -> Result<(), ProxyError> {
        check_subscription(filter).map_err(|source| ProxyError::Filter { filter: filter.into(), source })?;
        let (done, answered) = oneshot::channel();
        let told = self.shared.registry.tell(client, command(filter.into(), done));
        if told && answered.await.is_ok() { Ok(()) } else { Err(ProxyError::NotConnected(client.into())) }
    }
}

/// Connections that the system takes while the broker has not come to them; beyond these it answers no SYN, and a client tries again after a second.
/// A thousand devices come back at once. Linux takes its own `net.core.somaxconn` (4096) where that is less.
const BACKLOG: u32 = 4096;

fn listening(address: SocketAddr) -> io::Result<(TcpListener, SocketAddr)> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // As every server does on Unix: the port is free at once for a program that starts again.
    #[cfg(unix)]
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    let listener = socket.listen(BACKLOG)?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}

/// A socket that listens, and the address it was given.
fn bind(address: SocketAddr) -> Result<(TcpListener, SocketAddr), StartError> {
    listening(address).map_err(|source| {
        let remedy = match source.kind() {
            io::ErrorKind::AddrInUse => {
                "another program, or another listener, holds the port: stop it or choose another"
            }
            io::ErrorKind::PermissionDenied => "ports below 1024 need a privilege: choose another",
            io::ErrorKind::AddrNotAvailable => "this machine has no such address: choose another",
            _ => "choose another address",
        };
        StartError::Bind { address, remedy, source }
    })
}
