//! MQTT over WebSocket and secure WebSocket (MQTT 5, section 6), with a WebSocket client of another make than browsers'.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod certificates;
mod support;

use std::net::SocketAddr;

use bytes::BytesMut;
use certificates::Authority;
use forebay_broker_adapter::codec::{Decoder, PACKET_BYTES_MAX, Packet, Version, reason};
use forebay_broker_adapter::{BrokerOptions, ListenerOptions, TlsOptions, WebSocketOptions};
use forebay_engine::QoS;
use futures_util::{SinkExt, StreamExt};
use support::*;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{CloseCode, Data, OpCode};
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

fn listener(path: Option<&str>) -> ListenerOptions {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let websocket = Some(WebSocketOptions { path: path.map(str::to_owned) });
    ListenerOptions { websocket, ..ListenerOptions::new(any) }
}

async fn serve_ws() -> Server {
    serve_at(vec![listener(None)], BrokerOptions::default()).await
}

/// Asks for a WebSocket; where it is refused, with which status.
async fn open<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    path: &str,
    subprotocols: &[&str],
) -> Result<WebSocketStream<S>, u16> {
    let mut request = format!("ws://localhost{path}").into_client_request().unwrap();
    for names in subprotocols {
        request.headers_mut().append("sec-websocket-protocol", names.parse().unwrap());
    }
    match client_async(request, stream).await {
        Ok((socket, response)) => {
            assert_eq!(response.headers()["sec-websocket-protocol"], "mqtt");
            Ok(socket)
        }
        Err(Error::Http(response)) => Err(response.status().as_u16()),
        Err(other) => panic!("{other}"),
    }
}

async fn dial(address: SocketAddr) -> TcpStream {
    TcpStream::connect(address).await.unwrap()
}

/// A client that says each frame itself.
struct Frames<S> {
    socket: WebSocketStream<S>,
    decoder: Decoder,
    input: BytesMut,
    /// What was not binary.
    others: Vec<Message>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Frames<S> {
    fn new(socket: WebSocketStream<S>) -> Frames<S> {
        let decoder = Decoder::client(Version::V5, PACKET_BYTES_MAX);
        Frames { socket, decoder, input: BytesMut::new(), others: Vec::new() }
    }

    async fn binary(&mut self, bytes: &[u8]) {
        self.socket.send(Message::Binary(bytes.to_vec().into())).await.unwrap();
    }

    async fn packets(&mut self, packets: &[Packet]) {
        self.binary(&encoded(packets)).await;
    }

    /// The next packet; none at the end.
    async fn receive(&mut self) -> Option<Packet> {
        tokio::time::timeout(PATIENCE, async {
            loop {
                if let Some(packet) = self.decoder.decode(&mut self.input).unwrap() {
                    return Some(packet);
                }
                match self.socket.next().await? {
                    Ok(Message::Binary(bytes)) => self.input.extend_from_slice(&bytes),
                    Ok(other) => self.others.push(other),
                    Err(_) => return None,
                }
            }
        })
        .await
        .expect("a packet or the end comes")
    }

    async fn connect(&mut self, client: &str) {
        self.packets(&[connect_packet(client, None)]).await;
        assert!(matches!(self.receive().await, Some(Packet::ConnAck(ack)) if ack.code == 0));
    }

    /// The code in the server's close frame.
    fn closed_with(&self) -> Option<CloseCode> {
        self.others.iter().find_map(|message| match message {
            Message::Close(frame) => frame.as_ref().map(|frame| frame.code),
            _ => None,
        })
    }
}

#[tokio::test]
async fn packets_and_frames_have_nothing_to_do_with_each_other() {
    let server = serve_ws().await;
    let mut client = Frames::new(open(dial(server.address).await, "/", &["mqtt"]).await.unwrap());
    // CONNECT one byte a frame, empty frames and pings in between.
    for byte in encoded(&[connect_packet("c", None)]) {
        client.binary(&[byte]).await;
        client.binary(&[]).await;
        client.socket.send(Message::Ping(vec![7].into())).await.unwrap();
    }
    assert!(matches!(client.receive().await, Some(Packet::ConnAck(ack)) if ack.code == 0));
    // Several packets in one frame, the last one cut; the rest in a message of several frames.
    let payload = "y".repeat(150_000);
    let bytes = encoded(&[
        subscribe_packet("t", QoS::AtLeastOnce),
        publish_packet("t", "one", 1),
        publish_packet("t", &payload, 2),
    ]);
    let (now, later) = bytes.split_at(100);
    client.binary(now).await;
    let (middle, last) = later.split_at(later.len() / 2);
    let frame = |part: &[u8], code, fin| Message::Frame(Frame::message(part.to_vec(), OpCode::Data(code), fin));
    client.socket.send(frame(middle, Data::Binary, false)).await.unwrap();
    client.socket.send(Message::Ping(vec![8].into())).await.unwrap();
    client.socket.send(frame(last, Data::Continue, true)).await.unwrap();
    let (mut acked, mut got) = (0, Vec::new());
    while acked < 2 || got.len() < 2 {
        match client.receive().await.expect("it goes on") {
            Packet::PubAck(_) => acked += 1,
            Packet::Publish(publish) => got.push(publish.payload.len()),
            Packet::SubAck(_) => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(got, [3, payload.len()]);
    assert!(client.others.contains(&Message::Pong(vec![8].into())), "{:?}", client.others);
}

#[tokio::test]
async fn a_frame_that_is_not_binary_ends_the_connection() {
    let server = serve_ws().await;
    let mut client = Frames::new(open(dial(server.address).await, "/", &["mqtt"]).await.unwrap());
    client.connect("c").await;
    client.socket.send(Message::Text("hello".into())).await.unwrap();
    assert_eq!(client.receive().await, None);
    assert_eq!(client.closed_with(), Some(CloseCode::Unsupported));
    until(|| server.broker.listeners()[0].connections == 0).await;
}

#[tokio::test]
async fn the_subprotocol_must_be_offered_and_is_answered() {
    let server = serve_ws().await;
    for good in [&["mqtt"][..], &["mqttv3.1, mqtt"]] {
        let mut client = Frames::new(open(dial(server.address).await, "/any/path", good).await.unwrap());
        client.connect("c").await;
    }
    for bad in [&[][..], &["mqttv3.1"], &["MQTT"], &["chat, mqtt5"]] {
        assert_eq!(open(dial(server.address).await, "/", bad).await.err(), Some(400), "{bad:?}");
    }
    until(|| server.broker.stats().refused == 4).await;
    // The offer may be spread over several headers; this client's library would not take the answer to the second.
    let mut plain = dial(server.address).await;
    let request = "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                   Sec-WebSocket-Protocol: chat\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n";
    plain.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        assert!(tokio::time::timeout(PATIENCE, plain.read_buf(&mut answer)).await.unwrap().unwrap() > 0);
    }
    let answer = String::from_utf8(answer).unwrap().to_lowercase();
    assert!(answer.starts_with("http/1.1 101 ") && answer.contains("sec-websocket-protocol: mqtt\r\n"), "{answer}");
}

#[tokio::test]
async fn another_path_is_not_found() {
    let server = serve_at(vec![listener(Some("/mqtt"))], BrokerOptions::default()).await;
    assert!(open(dial(server.address).await, "/mqtt", &["mqtt"]).await.is_ok());
    assert!(open(dial(server.address).await, "/mqtt?token=1", &["mqtt"]).await.is_ok());
    assert_eq!(open(dial(server.address).await, "/", &["mqtt"]).await.err(), Some(404));
    let mut plain = dial(server.address).await;
    plain.write_all(b"GET /mqtt HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    let mut scrap = Vec::new();
    let ended = plain.read_to_end(&mut scrap);
    assert!(tokio::time::timeout(PATIENCE, ended).await.is_ok(), "who asks for no WebSocket is closed");
}

#[tokio::test]
async fn a_message_larger_than_any_packet_ends_the_connection() {
    let options = BrokerOptions { max_packet_bytes: 300_000, ..BrokerOptions::default() };
    let server = serve_at(vec![listener(None)], options).await;
    let mut client = Frames::new(open(dial(server.address).await, "/", &["mqtt"]).await.unwrap());
    client.connect("c").await;
    // The server does not read all of it, so the client may not get to write all of it.
    let _ = client.socket.send(Message::Binary(vec![0; 300_001].into())).await;
    assert_eq!(client.receive().await, None);
    assert_eq!(client.closed_with(), Some(CloseCode::Size));
}

#[tokio::test]
async fn the_last_word_arrives_and_both_sides_close() {
    let server = serve_ws().await;
    let mut client = Frames::new(open(dial(server.address).await, "/", &["mqtt"]).await.unwrap());
    client.connect("c").await;
    assert!(server.broker.kick("c"));
    let last = client.receive().await;
    assert!(matches!(last, Some(Packet::Disconnect(d)) if d.reason == reason::ADMINISTRATIVE_ACTION), "not last");
    assert_eq!(client.receive().await, None);
    assert!(client.others.iter().any(|message| matches!(message, Message::Close(_))), "{:?}", client.others);

    let mut client = Frames::new(open(dial(server.address).await, "/", &["mqtt"]).await.unwrap());
    client.connect("c").await;
    client.socket.close(None).await.unwrap();
    assert_eq!(client.receive().await, None);
    until(|| server.broker.clients().is_empty()).await;
}

#[tokio::test]
async fn secure_websockets_carry_large_messages_to_a_slow_reader() {
    let (files, authority) = (tempfile::tempdir().unwrap(), Authority::new("a"));
    let (certificate, key) = authority.server().write(files.path());
    let secure = ListenerOptions { tls: Some(TlsOptions::new(certificate, key)), ..listener(Some("/mqtt")) };
    let server = serve_at(vec![secure], BrokerOptions::default()).await;
    let dial = || async { authority.connect(server.address, None).await.unwrap() };
    let mut subscriber = Frames::new(open(dial().await, "/mqtt", &["mqtt"]).await.unwrap());
    subscriber.connect("s").await;
    subscriber.packets(&[subscribe_packet("t", QoS::AtMostOnce)]).await;
    assert!(matches!(subscriber.receive().await, Some(Packet::SubAck(_))));
    let mut publisher = Frames::new(open(dial().await, "/mqtt", &["mqtt"]).await.unwrap());
    publisher.connect("p").await;
    let payload = "z".repeat(700_000);
    for id in 1..=8 {
        publisher.packets(&[publish_packet("t", &payload, id)]).await;
        assert!(matches!(publisher.receive().await, Some(Packet::PubAck(_))));
    }
    for _ in 1..=8 {
        let Some(Packet::Publish(publish)) = subscriber.receive().await else { panic!("a message is due") };
        assert_eq!(publish.payload.len(), payload.len());
    }
}
