//! What lies between TCP and MQTT.

use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::{Arrival, Place, websocket};
use crate::broker::Shared;
use crate::handshake::Refusal;
use crate::limits::Limit;
use crate::proxy_protocol;

/// A byte stream to a client. There are two, so that the connection's code is compiled twice and not for every combination:
/// TCP itself, and [`Layered`] for all others.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    /// Whether written bytes may stay inside until they are flushed.
    const BUFFERS: bool;
}

impl Stream for TcpStream {
    const BUFFERS: bool = false;
}

/// TLS, WebSocket, or both.
pub(crate) type Layered = Box<dyn Layer>;

/// What a [`Layered`] stream is made of.
pub(crate) trait Layer: AsyncRead + AsyncWrite + Unpin + Send + 'static {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> Layer for T {}

impl Stream for Layered {
    const BUFFERS: bool = true;
}

/// A connection whose next byte is MQTT's.
pub(super) enum Entered {
    Plain(TcpStream),
    Layered(Layered),
    /// The address that the proxy's header tells is over a limit.
    Over(TcpStream, Limit),
}

/// Does what comes before MQTT: the proxy's header, TLS, WebSocket. What they say of the client goes into `arrival`.
pub(super) async fn enter(
    shared: &Shared,
    mut tcp: TcpStream,
    arrival: &mut Arrival,
    place: &mut Place,
) -> Result<Entered, Refusal> {
    let listener = Arc::clone(&arrival.listener);
    if listener.options.proxy_protocol {
        if let Some(client) = proxy_protocol::read(&mut tcp).await? {
            arrival.peer = client;
        }
        if let Err(limit) = place.admit(arrival) {
            return Ok(Entered::Over(tcp, limit));
        }
    }
    let message_bytes_max = shared.options.max_packet_bytes;
    Ok(match (&listener.tls, &listener.options.websocket) {
        (None, None) => Entered::Plain(tcp),
        (None, Some(options)) => {
            Entered::Layered(Box::new(websocket::accept(tcp, options, message_bytes_max, arrival.peer).await?))
        }
        (Some(tls), websocket) => {
            let (stream, user) = tls.accept(tcp).await?;
            arrival.certificate_user = user;
            match websocket {
                None => Entered::Layered(Box::new(stream)),
                Some(options) => Entered::Layered(Box::new(
                    websocket::accept(stream, options, message_bytes_max, arrival.peer).await?,
                )),
            }
        }
    })
}
