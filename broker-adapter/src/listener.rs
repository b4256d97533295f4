//! Accepts connections. Nothing is awaited here but the next connection.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::broker::Shared;
use crate::connection;
use crate::metrics::{CONNECTIONS, CONNECTS_REFUSED};

/// A byte stream to a client: TCP now; TLS and WebSocket put themselves in between.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> Stream for T {}

/// Pause after a failed accept (out of file descriptors, usually), so that it does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Accepts until the broker stops, then waits for its connections to end.
pub(crate) async fn listen(shared: Arc<Shared>, socket: TcpListener) {
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
                    if let Some(place) = Place::take(&shared) {
                        let shared = Arc::clone(&shared);
                        connections.spawn(serve(shared, stream, peer, place));
                    } else {
                        tracing::warn!(%peer, limit = shared.options.max_connections, "too many connections");
                    }
                }
                Err(error) => {
                    tracing::error!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(socket);
    while connections.join_next().await.is_some() {}
}

async fn serve<S: Stream>(shared: Arc<Shared>, stream: S, peer: SocketAddr, place: Place) {
    connection::serve(shared, stream, peer).await;
    drop(place);
}

/// A connection's place under the limit.
struct Place {
    shared: Arc<Shared>,
}

impl Place {
    fn take(shared: &Arc<Shared>) -> Option<Place> {
        let place = Place { shared: Arc::clone(shared) };
        let open = shared.open.fetch_add(1, Ordering::Relaxed);
        metrics::gauge!(CONNECTIONS).increment(1.0);
        if open >= shared.options.max_connections {
            shared.refused.fetch_add(1, Ordering::Relaxed);
            metrics::counter!(CONNECTS_REFUSED, "reason" => "limit").increment(1);
            return None;
        }
        Some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.shared.open.fetch_sub(1, Ordering::Relaxed);
        metrics::gauge!(CONNECTIONS).decrement(1.0);
    }
}
