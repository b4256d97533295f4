//! MQTT in WebSocket frames (MQTT 5, section 6).
//!
//! ```text
//! MQTT packets   | CONNECT | PUBLISH ........ | PUBLISH | PINGREQ |      a byte stream
//! binary frames  |   frame    |  frame  |     frame     | ping | frame |      their borders mean nothing
//! ```

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::{Sink, Stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::handshake::server::{Callback, ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::http::{HeaderValue, StatusCode};
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, accept_hdr_async_with_config};

use super::options::WebSocketOptions;
use crate::handshake::Refusal;

/// The subprotocol that clients offer and are answered (MQTT-6.0.0-3, MQTT-6.0.0-4).
const SUBPROTOCOL: &str = "mqtt";
const SUBPROTOCOL_HEADER: &str = "sec-websocket-protocol";
/// Messages up to this size are taken however small a packet must be: clients put several packets into one.
const MESSAGE_BYTES_MIN: usize = 256 * 1024;
/// Largest frame sent, bytes.
const FRAME_BYTES: usize = 64 * 1024;
/// Memory of a connection for what arrives.
const READ_BYTES: usize = 8 * 1024;
/// What may wait to be written: one frame, and answers to pings. A client that goes on pinging and reads nothing is cut.
const UNSENT_BYTES: usize = FRAME_BYTES + 16 * 1024;

/// The server's side of the handshake: the path and the subprotocol are checked, the client is told what is wrong.
pub(super) async fn accept<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    options: &WebSocketOptions,
    packet_bytes_max: usize,
    peer: SocketAddr,
) -> Result<WebSocket<S>, Refusal> {
    let largest = packet_bytes_max.max(MESSAGE_BYTES_MIN);
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BYTES)
        .write_buffer_size(0)
        .max_write_buffer_size(UNSENT_BYTES)
        .max_message_size(Some(largest))
        .max_frame_size(Some(largest));
    match accept_hdr_async_with_config(stream, Gate { options }, Some(config)).await {
        Ok(frames) => Ok(WebSocket { frames, unread: Bytes::new(), peer }),
        Err(Error::Http(answer)) => {
            let text = match answer.status() {
                StatusCode::NOT_FOUND => "a WebSocket was asked for at another path",
                _ => "a WebSocket was asked for without the subprotocol `mqtt`",
            };
            Err(Refusal::silent("websocket", text))
        }
        Err(error) => Err(Refusal::silent("websocket", format!("the WebSocket handshake failed: {error}"))),
    }
}

/// Looks at a handshake's request.
struct Gate<'a> {
    options: &'a WebSocketOptions,
}

impl Callback for Gate<'_> {
    fn on_request(self, request: &Request, mut response: Response) -> Result<Response, ErrorResponse> {
        if self.options.path.as_ref().is_some_and(|path| path != request.uri().path()) {
            return Err(refusal(StatusCode::NOT_FOUND, "there is no MQTT at this path\n"));
        }
        let offered = request.headers().get_all(SUBPROTOCOL_HEADER).iter();
        let mut names = offered.filter_map(|value| value.to_str().ok()).flat_map(|names| names.split(','));
        if !names.any(|name| name.trim() == SUBPROTOCOL) {
            return Err(refusal(StatusCode::BAD_REQUEST, "offer the WebSocket subprotocol mqtt\n"));
        }
        response.headers_mut().insert(SUBPROTOCOL_HEADER, HeaderValue::from_static(SUBPROTOCOL));
        Ok(response)
    }
}

fn refusal(status: StatusCode, text: &str) -> ErrorResponse {
    let mut response = ErrorResponse::new(Some(text.to_owned()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert("connection", HeaderValue::from_static("close"));
    headers.insert("content-type", HeaderValue::from_static("text/plain"));
    headers.insert("content-length", HeaderValue::from(text.len()));
    response
}

/// The bytes in a WebSocket's binary frames.
pub(super) struct WebSocket<S> {
    frames: WebSocketStream<S>,
    /// What of the last message was not read yet.
    unread: Bytes,
    peer: SocketAddr,
}

impl<S: AsyncRead + AsyncWrite + Unpin> WebSocket<S> {
    /// Tells the client why its connection ends. The frame is sent with what is flushed next, at the latest by the close.
    fn fail(&mut self, code: CloseCode, why: &str) -> io::Error {
        tracing::info!(peer = %self.peer, "a WebSocket ends: {why}");
        let frame = CloseFrame { code, reason: why.into() };
        // A connection that can't take it is broken, which is where this leads to anyway.
        let _ = Pin::new(&mut self.frames).start_send(Message::Close(Some(frame)));
        io::Error::new(io::ErrorKind::InvalidData, why.to_owned())
    }

    fn failed(&mut self, error: Error) -> io::Result<()> {
        match error {
            Error::Io(error) => Err(error),
            // The client went without a word, as TCP connections end.
            Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => Ok(()),
            Error::Capacity(error) => Err(self.fail(CloseCode::Size, &error.to_string())),
            error => Err(self.fail(CloseCode::Protocol, &error.to_string())),
        }
    }
}

fn broken(error: Error) -> io::Error {
    match error {
        Error::Io(error) => error,
        error => io::Error::new(io::ErrorKind::BrokenPipe, error),
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for WebSocket<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while this.unread.is_empty() {
            // Pings are answered by what reads them.
            match ready!(Pin::new(&mut this.frames).poll_next(cx)) {
                Some(Ok(Message::Binary(bytes))) => this.unread = bytes,
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Close(_) | Message::Frame(_))) => {}
                // MQTT-6.0.0-1.
                Some(Ok(Message::Text(_))) => {
                    return Poll::Ready(Err(this.fail(CloseCode::Unsupported, "MQTT is sent in binary frames")));
                }
                Some(Err(error)) => return Poll::Ready(this.failed(error)),
                None => return Poll::Ready(Ok(())),
            }
        }
        let some = this.unread.len().min(buf.remaining());
        buf.put_slice(&this.unread.split_to(some));
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for WebSocket<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let frames = &mut self.get_mut().frames;
        ready!(Pin::new(&mut *frames).poll_ready(cx)).map_err(broken)?;
        let (now, _) = buf.split_at(buf.len().min(FRAME_BYTES));
        Pin::new(frames).start_send(Message::Binary(Bytes::copy_from_slice(now))).map_err(broken)?;
        Poll::Ready(Ok(now.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().frames).poll_flush(cx).map_err(broken)
    }

    /// Sends a close frame; its answer comes as the end of what is read.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().frames).poll_close(cx).map_err(broken)
    }
}
