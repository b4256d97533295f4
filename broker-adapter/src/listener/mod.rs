//! Accepts connections. Nothing is awaited here but the next connection.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytestring::ByteString;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::broker::Shared;
use crate::connection;
use crate::metrics::{CONNECTIONS, CONNECTS_REFUSED};

mod options;

pub use options::ListenerOptions;

/// A byte stream to a client: TCP now; TLS and WebSocket put themselves in between.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> Stream for T {}

/// Pause after a failed accept (out of file descriptors, usually), so that it does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A listener that runs, as an operator sees it.
#[derive(Clone, Debug)]
pub struct ListenerView {
    /// Where it listens, with the port it was given.
    pub address: SocketAddr,
    /// Connections through it that are open, CONNECT seen or not.
    pub connections: usize,
}

/// A listener that runs.
pub(crate) struct Listener {
    /// Its settings; the address has the port it was given.
    pub(crate) options: ListenerOptions,
    /// Connections accepted here and not ended, CONNECT seen or not.
    open: AtomicUsize,
}

/// How a connection came in: what is known of it before CONNECT.
#[derive(Clone)]
pub(crate) struct Arrival {
    /// The client's address.
    pub(crate) peer: SocketAddr,
    /// The listener it came through, with its settings.
    pub(crate) listener: Arc<Listener>,
    /// The user that a verified client certificate names. It stands above what CONNECT says.
    pub(crate) certificate_user: Option<ByteString>,
}

impl Listener {
    pub(crate) fn new(options: ListenerOptions) -> Listener {
        Listener { options, open: AtomicUsize::new(0) }
    }

    pub(crate) fn view(&self) -> ListenerView {
        ListenerView { address: self.options.address, connections: self.open.load(Ordering::Relaxed) }
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

async fn serve<S: Stream>(shared: Arc<Shared>, stream: S, arrival: Arrival, place: Place) {
    connection::serve(shared, stream, arrival).await;
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
