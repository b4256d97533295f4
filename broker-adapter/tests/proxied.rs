//! Connections that come through a proxy: whose address they have, and what is refused.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod certificates;
mod support;

use std::net::SocketAddr;
use std::time::Duration;

use certificates::Authority;
use forebay_broker_adapter::proxy_protocol::SIGNATURE;
use forebay_broker_adapter::{BrokerOptions, ListenerOptions, TlsOptions};
use support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

fn listener() -> ListenerOptions {
    ListenerOptions { proxy_protocol: true, ..ListenerOptions::new(SocketAddr::from(([127, 0, 0, 1], 0))) }
}

fn address_of(server: &Server, client: &str) -> SocketAddr {
    server.broker.clients().into_iter().find(|view| view.client == client).unwrap().address
}

#[tokio::test]
async fn the_address_in_the_header_is_the_client_s() {
    let server = serve_at(vec![listener()], BrokerOptions::default()).await;
    for address in ["192.0.2.7:40001", "[2001:db8::7]:40002"] {
        let claimed: SocketAddr = address.parse().unwrap();
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        // In pieces, the last of them with the first bytes of CONNECT.
        let bytes = [proxy_header(claimed), encoded(&[connect_packet(address, None)])].concat();
        for piece in bytes.chunks(9) {
            stream.write_all(piece).await.unwrap();
            tokio::task::yield_now().await;
        }
        let mut raw = Raw::over(stream);
        assert_eq!(raw.connack().await, Some(0));
        assert_eq!(address_of(&server, address), claimed);
    }
    // LOCAL: the proxy itself.
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let own = stream.local_addr().unwrap();
    stream.write_all(&[&SIGNATURE[..], &[0x20, 0, 0, 0]].concat()).await.unwrap();
    let mut raw = Raw::over(stream);
    assert_eq!(raw.connect("local", None).await, Some(0));
    assert_eq!(address_of(&server, "local"), own);
}

#[tokio::test]
async fn the_header_comes_before_tls() {
    let (files, authority) = (tempfile::tempdir().unwrap(), Authority::new("a"));
    let (certificate, key) = authority.server().write(files.path());
    let secure = ListenerOptions { tls: Some(TlsOptions::new(certificate, key)), ..listener() };
    let server = serve_at(vec![secure], BrokerOptions::default()).await;
    let claimed: SocketAddr = "192.0.2.7:40001".parse().unwrap();
    let mut tcp = TcpStream::connect(server.address).await.unwrap();
    tcp.write_all(&proxy_header(claimed)).await.unwrap();
    let mut raw = Raw::over(authority.handshake(tcp, rustls::ALL_VERSIONS, None).await.unwrap());
    assert_eq!(raw.connect("c", None).await, Some(0));
    assert_eq!(address_of(&server, "c"), claimed);
}

#[tokio::test]
async fn a_connection_without_a_whole_header_is_closed_and_counted() {
    let options = BrokerOptions { connect_timeout: Duration::from_secs(1), ..BrokerOptions::default() };
    let server = serve_at(vec![listener()], options).await;
    let mut raw = Raw::over(TcpStream::connect(server.address).await.unwrap());
    assert_eq!(raw.connect("c", None).await, None, "CONNECT without a header");
    until(|| server.broker.stats().refused == 1).await;
    let mut half = TcpStream::connect(server.address).await.unwrap();
    half.write_all(&proxy_header("192.0.2.7:1".parse().unwrap())[..20]).await.unwrap();
    let mut scrap = Vec::new();
    let ended = half.read_to_end(&mut scrap);
    tokio::time::timeout(PATIENCE, ended).await.expect("half a header ends at the deadline").unwrap();
    until(|| server.broker.stats().refused == 2).await;
    assert!(server.engine.session("c").is_none());
}
