//! A link that counts round trips: how often the client speaks after the server has.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use anyhow::Result;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// A port that hands everything on to a server and counts. It ends when it is dropped.
#[derive(Debug)]
pub struct Counter {
    port: u16,
    trips: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Counter {
    /// A new link to a server.
    ///
    /// # Errors
    /// Where there is no port.
    pub async fn to(server: SocketAddr) -> Result<Counter> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let trips = Arc::new(AtomicU64::new(0));
        let counted = trips.clone();
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(link(client, server, counted.clone()));
            }
        });
        Ok(Counter { port, trips, task })
    }

    /// Where to connect to.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Round trips so far, over all connections.
    #[must_use]
    pub fn trips(&self) -> u64 {
        self.trips.load(Ordering::Relaxed)
    }
}

impl Drop for Counter {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn link(client: TcpStream, server: SocketAddr, trips: Arc<AtomicU64>) {
    let Ok(server) = TcpStream::connect(server).await else { return };
    // Without it small answers would wait for acknowledgements.
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
    let asked = AtomicBool::new(false);
    let up = carry(from_client, to_server, || {
        if !asked.swap(true, Ordering::Relaxed) {
            trips.fetch_add(1, Ordering::Relaxed);
        }
    });
    let down = carry(from_server, to_client, || asked.store(false, Ordering::Relaxed));
    tokio::join!(up, down);
}

async fn carry(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, mut each: impl FnMut()) {
    let mut buffer = vec![0; 256 << 10];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        each();
        let Some(bytes) = buffer.get(..read) else { return };
        if to.write_all(bytes).await.is_err() {
            return;
        }
    }
    let _ = to.shutdown().await;
}
