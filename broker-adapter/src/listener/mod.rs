//! Accepts connections. Nothing is awaited here but the next connection.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytestring::ByteString;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::broker::Shared;
use crate::connection;
use crate::metrics::{CONNECTIONS, CONNECTS_REFUSED};

mod certificate;
mod layers;
mod options;
mod tls;
mod websocket;

use layers::Entered;
pub(crate) use layers::Stream;
pub use options::{
    ClientCertificates, DEFAULT_CERTIFICATE_CHECK, ListenerOptions, TlsOptions, UserFrom, WebSocketOptions,
};
pub(crate) use tls::Tls;
pub use tls::TlsError;

/// Pause after a failed accept (out of file descriptors, usually), so that it does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

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
                    if let Some(place) = Place::take(&shared, &listener, peer) {
                        let shared = Arc::clone(&shared);
                        let arrival = Arrival { peer, listener: Arc::clone(&listener), certificate_user: None };
                        connections.spawn(serve(shared, stream, arrival, place));
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
async fn serve(shared: Arc<Shared>, tcp: TcpStream, mut arrival: Arrival, place: Place) {
    let deadline = Instant::now() + shared.options.connect_timeout;
    if arrival.listener.is_plain() {
        connection::serve(shared, tcp, arrival, deadline).await;
    } else {
        // On the heap while it lasts: a handshake is larger than the connection that follows.
        let entered = Box::pin(layers::enter(&shared, tcp, &mut arrival));
        match connection::within(&shared, deadline, entered).await {
            Ok(Entered::Plain(tcp)) => connection::serve(shared, tcp, arrival, deadline).await,
            Ok(Entered::Layered(stream)) => connection::serve(shared, stream, arrival, deadline).await,
            Err(refusal) => connection::count_refusal(&shared, &refusal, &arrival),
        }
    }
    drop(place);
}

/// A connection's place under the limits of the broker and of its listener.
struct Place {
    shared: Arc<Shared>,
    listener: Arc<Listener>,
}

impl Place {
    fn take(shared: &Arc<Shared>, listener: &Arc<Listener>, peer: SocketAddr) -> Option<Place> {
        let place = Place { shared: Arc::clone(shared), listener: Arc::clone(listener) };
        let open = shared.open.fetch_add(1, Ordering::Relaxed);
        let open_here = listener.open.fetch_add(1, Ordering::Relaxed);
        metrics::gauge!(CONNECTIONS).increment(1.0);
        let limit = shared.options.max_connections;
        let limit_here = listener.options.max_connections.unwrap_or(usize::MAX);
        if open >= limit || open_here >= limit_here {
            shared.refused.fetch_add(1, Ordering::Relaxed);
            metrics::counter!(CONNECTS_REFUSED, "reason" => "limit").increment(1);
            let limit = limit.min(limit_here);
            tracing::warn!(%peer, listener = %listener.options.address, limit, "too many connections");
            return None;
        }
        Some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.shared.open.fetch_sub(1, Ordering::Relaxed);
        self.listener.open.fetch_sub(1, Ordering::Relaxed);
        metrics::gauge!(CONNECTIONS).decrement(1.0);
    }
}
