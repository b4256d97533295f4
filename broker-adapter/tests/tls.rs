//! TLS listeners with real handshakes: versions, clients' certificates, files that change, clients that stall.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod certificates;
mod support;

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use certificates::{Authority, Pair};
use forebay_broker_adapter::{BrokerOptions, ClientCertificates, ListenerOptions, TlsOptions, UserFrom};
use forebay_engine::QoS;
use rcgen::SanType;
use rustls::version::{TLS12, TLS13};
use support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Often enough for a test.
const CHECK: Duration = Duration::from_millis(20);

fn listener(tls: TlsOptions) -> ListenerOptions {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    ListenerOptions { tls: Some(TlsOptions { check_every: CHECK, ..tls }), ..ListenerOptions::new(any) }
}

/// A listener with this server's certificate, its files in `dir`.
fn secure(dir: &Path, server: &Pair) -> TlsOptions {
    let (certificate, key) = server.write(dir);
    TlsOptions::new(certificate, key)
}

async fn serve_tls(tls: TlsOptions) -> Server {
    serve_at(vec![listener(tls)], BrokerOptions::default()).await
}

#[tokio::test]
async fn messages_pass_with_both_versions_however_large() {
    let (files, authority) = (tempfile::tempdir().unwrap(), Authority::new("a"));
    let server = serve_tls(secure(files.path(), &authority.server())).await;
    let payload = "x".repeat(700_000);
    for version in [&TLS12, &TLS13] {
        let connect = || async {
            let tcp = TcpStream::connect(server.address).await.unwrap();
            authority.handshake(tcp, &[version], None).await.unwrap()
        };
        let mut subscriber = Raw::over(connect().await);
        assert_eq!(subscriber.connect("s", None).await, Some(0));
        subscriber.subscribe("t", QoS::AtMostOnce).await;
        let mut publisher = Raw::over(connect().await);
        assert_eq!(publisher.connect("p", None).await, Some(0));
        // While the subscriber reads nothing its socket fills up: the rest must come without anybody doing anything more.
        for id in 1..=8 {
            publisher.publish("t", &payload, id).await;
        }
        for _ in 1..=8 {
            assert_eq!(subscriber.publish_received().await.payload.len(), payload.len());
        }
    }
}

/// The user that the server takes a client for; none where it is refused.
async fn user(server: &Server, authority: &Authority, own: Option<&Pair>) -> Option<String> {
    // With TLS 1.3 the client learns of its refusal only when it reads.
    let mut raw = Raw::over(authority.connect(server.address, own).await.ok()?);
    if raw.connect("c", Some("claimed")).await? != 0 {
        return None;
    }
    Some(server.engine.session("c").unwrap().username.to_string())
}

#[tokio::test]
async fn a_verified_certificate_names_the_user_and_others_are_refused() {
    let (files, authority, other) = (tempfile::tempdir().unwrap(), Authority::new("a"), Authority::new("b"));
    let tls = secure(files.path(), &authority.server());
    let ca_file = authority.write(files.path().join("ca.crt"));
    let names = |dns: &str| SanType::DnsName(dns.try_into().unwrap());
    let full = authority.client(
        Some("the cn"),
        vec![
            SanType::Rfc822Name("m@example.org".try_into().unwrap()),
            names("d1.example.org"),
            names("d2.example.org"),
            SanType::URI("urn:device:7".try_into().unwrap()),
        ],
    );
    let bare = authority.client(None, vec![SanType::IpAddress([10, 0, 0, 1].into())]);
    for (from, name) in [
        (Some(UserFrom::Cn), "the cn"),
        (Some(UserFrom::SanDns), "d1.example.org"),
        (Some(UserFrom::SanEmail), "m@example.org"),
        (Some(UserFrom::SanUri), "urn:device:7"),
        (None, "claimed"),
    ] {
        let clients = ClientCertificates { ca_file: ca_file.clone(), required: true, user_from: from };
        let server = serve_tls(TlsOptions { client_certificates: Some(clients), ..tls.clone() }).await;
        assert_eq!(user(&server, &authority, Some(&full)).await.as_deref(), Some(name));
        assert_eq!(user(&server, &authority, Some(&bare)).await.is_some(), from.is_none(), "{from:?}");
        assert_eq!(user(&server, &authority, None).await, None, "no certificate");
        let foreign = other.client(Some("the cn"), Vec::new());
        assert_eq!(user(&server, &authority, Some(&foreign)).await, None, "another authority's");
        until(|| server.broker.stats().refused == if from.is_none() { 2 } else { 3 }).await;
    }
}

#[tokio::test]
async fn a_certificate_whose_name_is_empty_names_nobody() {
    let (files, authority) = (tempfile::tempdir().unwrap(), Authority::new("a"));
    let ca_file = authority.write(files.path().join("ca.crt"));
    let clients = ClientCertificates { ca_file, required: true, user_from: Some(UserFrom::Cn) };
    let tls = TlsOptions { client_certificates: Some(clients), ..secure(files.path(), &authority.server()) };
    let server = serve_tls(tls).await;
    let nameless = authority.client(Some(""), Vec::new());
    assert_eq!(user(&server, &authority, Some(&nameless)).await, None);
    until(|| server.broker.stats().refused == 1).await;
    assert!(server.engine.session("c").is_none());
}

#[tokio::test]
async fn an_optional_certificate_is_checked_where_it_is_shown() {
    let (files, authority, other) = (tempfile::tempdir().unwrap(), Authority::new("a"), Authority::new("b"));
    let ca_file = authority.write(files.path().join("ca.crt"));
    let clients = ClientCertificates { ca_file, required: false, user_from: Some(UserFrom::Cn) };
    let tls = TlsOptions { client_certificates: Some(clients), ..secure(files.path(), &authority.server()) };
    let server = serve_tls(tls).await;
    let own = authority.client(Some("own"), Vec::new());
    assert_eq!(user(&server, &authority, Some(&own)).await.as_deref(), Some("own"));
    assert_eq!(user(&server, &authority, None).await.as_deref(), Some("claimed"));
    let foreign = other.client(Some("own"), Vec::new());
    assert_eq!(user(&server, &authority, Some(&foreign)).await, None);
}

/// Waits until a client that trusts only this authority gets in.
async fn wait_for_certificate_of(authority: &Authority, server: &Server) {
    tokio::time::timeout(PATIENCE, async {
        while authority.connect(server.address, None).await.is_err() {
            tokio::time::sleep(CHECK).await;
        }
    })
    .await
    .expect("the new certificate is used");
}

#[tokio::test]
async fn changed_files_count_for_new_connections_and_bad_ones_for_none() {
    let files = tempfile::tempdir().unwrap();
    let (first, second, third) = (Authority::new("1"), Authority::new("2"), Authority::new("3"));
    let server = serve_tls(secure(files.path(), &first.server())).await;
    let mut old = Raw::over(first.connect(server.address, None).await.unwrap());
    assert_eq!(old.connect("old", None).await, Some(0));

    second.server().write(files.path());
    wait_for_certificate_of(&second, &server).await;
    assert!(first.connect(server.address, None).await.is_err(), "the old certificate is not shown any more");

    // A key of another certificate, no PEM at all, no file: several looks at each.
    let (certificate, key) = (files.path().join("server.crt"), files.path().join("server.key"));
    for bad in [Some(third.server().key), Some("nonsense".into()), None] {
        match bad {
            Some(text) => std::fs::write(&key, text).unwrap(),
            None => std::fs::remove_file(&key).unwrap(),
        }
        tokio::time::sleep(CHECK * 5).await;
        second.connect(server.address, None).await.expect("the files that were good stay in use");
    }
    let pair = third.server();
    std::fs::write(&certificate, &pair.certificate).unwrap();
    std::fs::write(&key, &pair.key).unwrap();
    wait_for_certificate_of(&third, &server).await;
    old.send(&[forebay_broker_adapter::codec::Packet::PingReq]).await;
    assert_eq!(
        old.receive().await,
        Some(forebay_broker_adapter::codec::Packet::PingResp),
        "the old connection goes on"
    );
}

#[tokio::test]
async fn a_handshake_that_stalls_holds_nobody_up_and_ends_at_the_deadline() {
    let (files, authority) = (tempfile::tempdir().unwrap(), Authority::new("a"));
    let options = BrokerOptions { connect_timeout: Duration::from_secs(1), ..BrokerOptions::default() };
    let server = serve_at(vec![listener(secure(files.path(), &authority.server()))], options).await;
    let mut stalled = TcpStream::connect(server.address).await.unwrap();
    stalled.write_all(&[0x16, 0x03, 0x01]).await.unwrap();
    // The handshake is done in time, CONNECT never comes: the deadline is one for both.
    let mut idle = authority.connect(server.address, None).await.unwrap();
    let mut quick = Raw::over(authority.connect(server.address, None).await.unwrap());
    assert_eq!(quick.connect("quick", None).await, Some(0));
    let mut scrap = [0; 64];
    let ended = async { while stalled.read(&mut scrap).await.is_ok_and(|n| n > 0) {} };
    tokio::time::timeout(PATIENCE, ended).await.expect("the stalled connection is closed");
    let ended = async { while idle.read(&mut [0; 64]).await.is_ok_and(|n| n > 0) {} };
    tokio::time::timeout(PATIENCE, ended).await.expect("the idle connection is closed");
    until(|| server.broker.stats().refused == 2).await;
    until(|| server.broker.listeners()[0].connections == 1).await;
}

#[tokio::test]
async fn who_speaks_no_tls_is_closed_and_counted() {
    let (files, authority) = (tempfile::tempdir().unwrap(), Authority::new("a"));
    let server = serve_tls(secure(files.path(), &authority.server())).await;
    let mut plain = TcpStream::connect(server.address).await.unwrap();
    plain.write_all(&encoded(&[connect_packet("c", None)])).await.unwrap();
    let mut answer = Vec::new();
    tokio::time::timeout(PATIENCE, plain.read_to_end(&mut answer)).await.expect("it is closed").unwrap();
    assert_eq!(answer.first(), Some(&0x15), "a TLS alert says why");
    until(|| server.broker.stats().refused == 1).await;
    assert!(server.engine.session("c").is_none());
}

#[tokio::test]
async fn files_that_can_t_be_used_keep_the_listener_from_starting() {
    let (files, authority, other) = (tempfile::tempdir().unwrap(), Authority::new("a"), Authority::new("b"));
    let tls = secure(files.path(), &authority.server());
    let why = |tls: TlsOptions| listener(tls).check().unwrap_err().to_string();
    assert!(listener(tls.clone()).check().is_ok());
    let missing = TlsOptions { key_file: files.path().join("none"), ..tls.clone() };
    assert!(
        why(missing).contains("the key file") && why(TlsOptions::new("/none", "/none")).contains("/none can't be read")
    );
    std::fs::write(files.path().join("empty"), "").unwrap();
    let empty = files.path().join("empty");
    assert!(why(TlsOptions { key_file: empty.clone(), ..tls.clone() }).contains("there is no private key in it"));
    assert!(
        why(TlsOptions { certificate_file: empty.clone(), ..tls.clone() }).contains("there is no certificate in it")
    );
    let clients = ClientCertificates { ca_file: empty, required: true, user_from: None };
    assert!(why(TlsOptions { client_certificates: Some(clients), ..tls.clone() }).contains("client authorities"));
    std::fs::write(files.path().join("other.key"), other.server().key).unwrap();
    let other_key = TlsOptions { key_file: files.path().join("other.key"), ..tls.clone() };
    assert!(why(other_key.clone()).contains("belongs to another certificate"));

    let engine = open_engine(files.path());
    let options = BrokerOptions { listeners: vec![listener(other_key)], ..BrokerOptions::default() };
    let store = std::sync::Arc::new(forebay_broker_adapter::NoStore);
    let error = forebay_broker_adapter::Broker::start(engine, options, store).await.err().expect("it is refused");
    assert!(error.to_string().starts_with("the listener at 127.0.0.1:"), "{error}");
}
