//! Accepts connections. Nothing is awaited here but the next connection.
//!
//! Who is over a limit of connections is told so (CONNACK) where nothing lies between TCP and MQTT, for a few at a time: TLS and
//! WebSocket would cost more than the answer is worth, and whoever floods the server with connections must not make it work.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::BytesMut;
use bytestring::ByteString;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::broker::Shared;
use crate::codec::Decoder;
use crate::handshake::{self, Refusal};
use crate::limits::{Admitted, Limit};
use crate::metrics::{CONNECTIONS, CONNECTS_REFUSED};
use crate::{closing, connection};

mod certificate;
mod layers;
mod options;
mod tls;
mod websocket;

use layers::Entered;
pub(crate) use layers::{Layered, Stream};
pub use options::{
    ClientCertificates, DEFAULT_CERTIFICATE_CHECK, ListenerOptions, TlsOptions, UserFrom, WebSocketOptions,
};
pub(crate) use tls::Tls;
pub use tls::TlsError;

/// Pause after a failed accept (out of file descriptors, usually), so that it does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long a client that is turned away may take to hear why.
const TURNED_AWAY_WITHIN: Duration = Duration::from_secs(3);
/// Largest CONNECT of a client that is turned away, bytes.
const TURNED_AWAY_CONNECT_BYTES: usize = 64 * 1024;

/// A listener that runs, as an operator sees it.
#[derive(Clone, Debug)]
pub struct ListenerView {
    /// Where it listens, with the port it was given.
    pub address: SocketAddr,
    /// What lies between TCP and MQTT: `tcp` (nothing), `tls`, `ws` or `wss`.
    pub kind: &'static str,
    /// Connections through it that are open, CONNECT seen or not.
    pub connections: usize,
}

/// A listener that runs.
pub(crate) struct Listener {
    /// Its settings; the address has the port it was given.
    pub(crate) options: ListenerOptions,
    /// Where the options ask for TLS.
    pub(crate) tls: Option<Arc<Tls>>,
    /// Connections accepted here and not ended, CONNECT seen or not.
    open: AtomicUsize,
}

/// How a connection came in: what is known of it before CONNECT.
#[derive(Clone)]
pub(crate) struct Arrival {
    /// The client's address; behind a proxy the one that its header says.
    pub(crate) peer: SocketAddr,
    /// The listener it came through, with its settings.
    pub(crate) listener: Arc<Listener>,
    /// The user that a verified client certificate names. It stands above what CONNECT says.
    pub(crate) certificate_user: Option<ByteString>,
}

impl Arrival {
    /// A client of which nothing is known but where it came from.
    pub(crate) fn from(peer: SocketAddr, listener: &Arc<Listener>) -> Arrival {
        Arrival { peer, listener: Arc::clone(listener), certificate_user: None }
    }
}

impl Listener {
    pub(crate) fn open(options: ListenerOptions) -> Result<Listener, TlsError> {
        let tls = options.tls.clone().map(|tls| Tls::open(tls, options.address)).transpose()?.map(Arc::new);
        Ok(Listener { options, tls, open: AtomicUsize::new(0) })
    }

    /// Whether a connection begins with MQTT's first byte.
    fn is_plain(&self) -> bool {
        let ListenerOptions { tls, websocket, proxy_protocol, .. } = &self.options;
        tls.is_none() && websocket.is_none() && !proxy_protocol
    }

    pub(crate) fn view(&self) -> ListenerView {
        let (address, kind) = (self.options.address, self.options.kind());
        ListenerView { address, kind, connections: self.open.load(Ordering::Relaxed) }
    }
}

/// Accepts until the broker stops, then waits for its connections to end.
pub(crate) async fn listen(shared: Arc<Shared>, listener: Arc<Listener>, socket: TcpListener) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            () = shared.stopped() => break,
            Some(_) = connections.join_next() => {}
            accepted = socket.accept() => match accepted {
                Ok((stream, peer)) => {
                    if let Err(error) = stream.set_nodelay(true) {
                        tracing::debug!(%peer, %error, "TCP_NODELAY could not be set");
                    }
                    let arrival = Arrival::from(peer, &listener);
                    match Place::take(&shared, &arrival) {
                        Ok(place) => {
                            connections.spawn(serve(Arc::clone(&shared), stream, arrival, place));
                        }
                        Err(limit) => {
                            refused(&shared, limit, &arrival);
                            if let Some(turn) = listener.is_plain().then(|| shared.admission.turn()).flatten() {
                                connections.spawn(turn_away(Arc::clone(&shared), stream, limit, turn));
                            }
                        }
                    }
                }
                Err(error) => {
                    tracing::error!(%error, listener = %listener.options.address, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(socket);
    while connections.join_next().await.is_some() {}
}

/// One deadline holds for everything up to CONNECT.
async fn serve(shared: Arc<Shared>, tcp: TcpStream, mut arrival: Arrival, mut place: Place) {
    let deadline = Instant::now() + shared.options.connect_timeout;
    if arrival.listener.is_plain() {
        connection::serve(shared, tcp, arrival, deadline).await;
    } else {
        // On the heap while it lasts: a handshake is larger than the connection that follows.
        let entered = Box::pin(layers::enter(&shared, tcp, &mut arrival, &mut place));
        match connection::within(&shared, deadline, entered).await {
            Ok(Entered::Plain(tcp)) => connection::serve(shared, tcp, arrival, deadline).await,
            Ok(Entered::Layered(stream)) => connection::serve(shared, stream, arrival, deadline).await,
            Ok(Entered::Over(tcp, limit)) => {
                refused(&shared, limit, &arrival);
                let ListenerOptions { tls, websocket, .. } = &arrival.listener.options;
                let turn = (tls.is_none() && websocket.is_none()).then(|| shared.admission.turn()).flatten();
                drop(place);
                if let Some(turn) = turn {
                    turn_away(shared, tcp, limit, turn).await;
                }
                return;
            }
            Err(refusal) => connection::count_refusal(&shared, &refusal, &arrival),
        }
    }
    drop(place);
}

/// Counts a connection that is over a limit.
fn refused(shared: &Shared, limit: Limit, arrival: &Arrival) {
    shared.refused.fetch_add(1, Ordering::Relaxed);
    limit.hit();
    metrics::counter!(CONNECTS_REFUSED, "reason" => "limit").increment(1);
    if let Some(refusals) = shared.admission.say(Instant::now()) {
        let (peer, listener) = (arrival.peer, arrival.listener.options.address);
        tracing::warn!(%peer, %listener, limit = limit.label(), refusals, "connections are refused: the newest of them");
    }
}

/// Tells a client why it is turned away, where it says soon which version it speaks.
async fn turn_away(shared: Arc<Shared>, tcp: TcpStream, limit: Limit, turn: OwnedSemaphorePermit) {
    let answer = async {
        let (mut reader, mut writer) = tokio::io::split(tcp);
        let mut input = BytesMut::with_capacity(1024);
        let mut decoder = Decoder::server(TURNED_AWAY_CONNECT_BYTES);
        if let Ok(connect) = handshake::read_connect(&mut reader, &mut input, &mut decoder).await {
            connection::answer(&Refusal::over(connect.version, limit), &mut writer, connect.max_packet_bytes()).await;
            closing::drain(reader, writer).await;
        }
    };
    tokio::select! {
        () = answer => {}
        () = tokio::time::sleep(TURNED_AWAY_WITHIN) => {}
        () = shared.stopped() => {}
    }
    drop(turn);
}

/// A connection's place under the limits of the broker, of its listener and of its address.
struct Place {
    shared: Arc<Shared>,
    listener: Arc<Listener>,
    /// `None` until the address is known: behind a proxy its header tells.
    admitted: Option<Admitted>,
}

impl Place {
    fn take(shared: &Arc<Shared>, arrival: &Arrival) -> Result<Place, Limit> {
        let listener = &arrival.listener;
        let mut place = Place { shared: Arc::clone(shared), listener: Arc::clone(listener), admitted: None };
        let open = shared.open.fetch_add(1, Ordering::Relaxed);
        let open_here = listener.open.fetch_add(1, Ordering::Relaxed);
        metrics::gauge!(CONNECTIONS).increment(1.0);
        if open >= shared.options.max_connections || listener.options.max_connections.is_some_and(|n| open_here >= n) {
            return Err(Limit::Connections);
        }
        if !listener.options.proxy_protocol {
            place.admit(arrival)?;
        }
        Ok(place)
    }

    /// Takes a place among the connections of the client's address.
    fn admit(&mut self, arrival: &Arrival) -> Result<(), Limit> {
        self.admitted = Some(self.shared.admission.admit(arrival.peer.ip(), Instant::now())?);
        Ok(())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.shared.open.fetch_sub(1, Ordering::Relaxed);
        self.listener.open.fetch_sub(1, Ordering::Relaxed);
        metrics::gauge!(CONNECTIONS).decrement(1.0);
    }
}
