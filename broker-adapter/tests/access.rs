//! Who may connect and what he may do, over real sockets, in both versions of the protocol.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use forebay_broker_adapter::access::{
    Access, Action, Attempt, Cost, Denied, FileAccess, FileAccessOptions, Identity, UsersFile,
};
use forebay_broker_adapter::client::{Client, ClientError, ClientSession, ConnectOptions, Incoming};
use forebay_broker_adapter::codec::{Ack, Connect, ConnectWill, Packet, Publish, Version, reason};
use forebay_broker_adapter::{Broker, BrokerOptions, ListenerOptions};
use forebay_engine::QoS;
use forebay_engine::event::SubscriptionOptions;
use futures_util::future::{BoxFuture, FutureExt, join_all};
use support::*;
use tempfile::TempDir;

const CHEAP: Cost = Cost { memory_kib: 8, passes: 1, lanes: 1 };
const BOTH: [Version; 2] = [Version::V311, Version::V5];

fn users(dir: &Path) -> UsersFile {
    UsersFile::new(dir.join("users")).with_cost(CHEAP)
}

/// Users anna (password `1`) and bob (`2`), and rules where there are any.
fn access(dir: &Path, acl: Option<&str>, change: impl FnOnce(&mut FileAccessOptions)) -> Arc<FileAccess> {
    users(dir).add("anna", b"1").unwrap();
    users(dir).add("bob", b"2").unwrap();
    let mut options = FileAccessOptions {
        users: Some(dir.join("users")),
        acl: acl.map(|text| {
            std::fs::write(dir.join("acl"), text).unwrap();
            dir.join("acl")
        }),
        failure_delay_max: Duration::ZERO,
        ..FileAccessOptions::default()
    };
    change(&mut options);
    Arc::new(FileAccess::open(options).unwrap())
}

async fn serve_with(access: Arc<dyn Access>) -> Server {
    serve_in(tempfile::tempdir().unwrap(), BrokerOptions { access, ..BrokerOptions::default() }).await
}

/// A server with rules; everybody has a user name.
async fn serve_rules(acl: &str) -> (Server, TempDir, Arc<FileAccess>) {
    let dir = tempfile::tempdir().unwrap();
    let access = access(dir.path(), Some(acl), |_| {});
    (serve_with(access.clone()).await, dir, access)
}

fn login(version: Version, client: &str, user: &str, password: &str) -> ConnectOptions {
    ConnectOptions {
        version,
        username: Some(user.into()),
        password: Some(Bytes::copy_from_slice(password.as_bytes())),
        ..ConnectOptions::clean(client)
    }
}

async fn tries(server: &Server, options: ConnectOptions) -> Result<Client, ClientError> {
    Client::connect(server.address, options, ClientSession::default()).await
}

async fn refused(server: &Server, options: ConnectOptions) -> u8 {
    match tries(server, options).await {
        Err(ClientError::Refused(code)) => code,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("it was let in"),
    }
}

fn connect_packet(options: ConnectOptions) -> Packet {
    let ConnectOptions { version, client_id, clean_start, keep_alive_s, will, username, password, properties, .. } =
        options;
    Packet::Connect(Box::new(Connect {
        version,
        client_id,
        clean_start,
        keep_alive_s,
        will,
        username,
        password,
        properties,
    }))
}

fn code(version: Version, v5: u8, v3: u8) -> u8 {
    if version.is_v5() { v5 } else { v3 }
}

#[tokio::test]
async fn only_the_right_password_gets_in_and_the_answer_names_no_user() {
    let dir = tempfile::tempdir().unwrap();
    let server = serve_with(access(dir.path(), None, |_| {})).await;
    for version in BOTH {
        let bad = code(version, reason::BAD_USER_NAME_OR_PASSWORD, 4);
        drop(tries(&server, login(version, "c", "anna", "1")).await.unwrap());
        for (user, password) in [("anna", "2"), ("anna", ""), ("nobody", "1"), ("", "1"), ("Anna", "1")] {
            assert_eq!(refused(&server, login(version, "x", user, password)).await, bad, "{user}:{password}");
        }
        let no_password = ConnectOptions { username: Some("anna".into()), version, ..ConnectOptions::clean("x") };
        assert_eq!(refused(&server, no_password).await, bad);
        let anonymous = ConnectOptions { version, ..ConnectOptions::clean("x") };
        assert_eq!(refused(&server, anonymous).await, code(version, reason::NOT_AUTHORIZED, 5));
    }
    assert_eq!(server.broker.stats().refused, 14);
    assert!(server.engine.session("x").is_none(), "who is refused leaves no trace");
}

#[tokio::test]
async fn anonymous_clients_get_in_where_they_may_and_a_wrong_password_never_does() {
    let dir = tempfile::tempdir().unwrap();
    let server = serve_with(access(dir.path(), None, |options| options.anonymous = Some(true))).await;
    drop(server.connect(ConnectOptions::clean("c")).await);
    assert_eq!(refused(&server, login(Version::V5, "c", "anna", "2")).await, reason::BAD_USER_NAME_OR_PASSWORD);
    let plain = ListenerOptions::new(std::net::SocketAddr::from(([127, 0, 0, 1], 0)));
    let here = |anonymous| ListenerOptions { anonymous: Some(anonymous), ..plain.clone() };
    let dir = tempfile::tempdir().unwrap();
    let options = BrokerOptions { access: access(dir.path(), None, |_| {}), ..BrokerOptions::default() };
    let server = serve_at(vec![here(true), here(false), plain.clone()], options).await;
    for (at, expected) in [None, Some(reason::NOT_AUTHORIZED), Some(reason::NOT_AUTHORIZED)].into_iter().enumerate() {
        let address = server.broker.local_addrs()[at];
        let got = Client::connect(address, ConnectOptions::clean("c"), ClientSession::default()).await;
        match (got, expected) {
            (Ok(_), None) => {}
            (Err(ClientError::Refused(code)), Some(expected)) => assert_eq!(code, expected),
            (got, _) => panic!("listener {at}: {:?}", got.err()),
        }
    }
    let closed = FileAccessOptions { anonymous: Some(false), ..FileAccessOptions::default() };
    let server = serve_with(Arc::new(FileAccess::open(closed).unwrap())).await;
    assert_eq!(refused(&server, ConnectOptions::clean("c")).await, reason::NOT_AUTHORIZED);
    assert_eq!(refused(&server, login(Version::V5, "c", "anna", "1")).await, reason::NOT_AUTHORIZED);
    let open = serve().await;
    drop(open.connect(login(Version::V5, "c", "anybody", "x")).await);
}

#[tokio::test]
async fn changes_of_the_users_file_count_without_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let access = access(dir.path(), None, |_| {});
    let watch = tokio::spawn(access.clone().watch());
    let server = serve_with(access).await;
    users(dir.path()).add("carl", b"3").unwrap();
    tokio::time::timeout(PATIENCE, async {
        while tries(&server, login(Version::V5, "c", "carl", "3")).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .expect("the new user gets in");
    // A file with a fault leaves those in force who were.
    std::fs::write(dir.path().join("users"), "anna\n").unwrap();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    drop(tries(&server, login(Version::V5, "c", "carl", "3")).await.unwrap());
    watch.abort();
}

#[tokio::test]
async fn a_publish_that_is_not_allowed_is_refused_in_mqtt_5_and_reaches_nobody() {
    let (server, _dir, _access) = serve_rules("allow subscribe #\nallow publish ok/%u\n").await;
    let mut reader = server.connect(login(Version::V5, "r", "bob", "2")).await;
    subscribe(&mut reader, "#", QoS::ExactlyOnce).await;
    let mut client = server.connect(login(Version::V5, "c", "anna", "1")).await;
    for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
        assert_eq!(publish(&mut client, "ok/bob", "x", qos, false).await, reason::NOT_AUTHORIZED);
        assert_eq!(publish(&mut client, "ok/bob", "x", qos, true).await, reason::NOT_AUTHORIZED, "again, and retained");
        assert_eq!(publish(&mut client, "ok/anna", "yes", qos, false).await, 0);
    }
    publish(&mut client, "no", "x", QoS::AtMostOnce, false).await;
    assert!(ping(&mut client).await.is_empty(), "the connection goes on");
    for _ in 0..2 {
        let got = message(&mut reader).await;
        assert_eq!((&*got.topic, &got.payload[..]), ("ok/anna", &b"yes"[..]));
    }
    assert!(ping(&mut reader).await.is_empty());
    // By a topic alias it is the same topic; more refused ones than Receive Maximum cost nothing.
    let mut raw = Raw::open(server.address, Version::V5).await;
    raw.send(&[connect_packet(login(Version::V5, "raw", "anna", "1"))]).await;
    assert!(matches!(raw.receive().await, Some(Packet::ConnAck(_))));
    let aliased = |id, topic: &str| {
        let qos = QoS::ExactlyOnce;
        Packet::Publish(Publish { qos, packet_id: id, topic: topic.into(), topic_alias: Some(1), ..Publish::default() })
    };
    for (id, topic) in (1..=3000).zip(std::iter::once("no").chain(std::iter::repeat(""))) {
        raw.send(&[aliased(id, topic)]).await;
        match raw.receive().await {
            Some(Packet::PubRec(ack)) => assert_eq!((ack.packet_id, ack.reason), (id, reason::NOT_AUTHORIZED)),
            other => panic!("{other:?}"),
        }
    }
    raw.send(&[aliased(1, "ok/anna")]).await;
    assert_eq!(raw.receive().await, Some(Packet::PubRec(Ack::new(1, 0))), "the id of a refused one is free");
}

#[tokio::test]
async fn before_mqtt_5_a_publish_that_is_not_allowed_ends_the_connection_unanswered() {
    let (server, _dir, _access) = serve_rules("allow subscribe #\nallow publish ok\n").await;
    let mut reader = server.connect(login(Version::V5, "r", "bob", "2")).await;
    subscribe(&mut reader, "#", QoS::AtLeastOnce).await;
    for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
        let mut raw = Raw::open(server.address, Version::V311).await;
        raw.send(&[connect_packet(login(Version::V311, "c", "anna", "1"))]).await;
        assert!(matches!(raw.receive().await, Some(Packet::ConnAck(_))));
        let packet = |topic: &str, qos, packet_id| {
            Packet::Publish(Publish { qos, packet_id, topic: topic.into(), ..Publish::default() })
        };
        raw.send(&[packet("no", QoS::AtMostOnce, 0), packet("ok", QoS::AtLeastOnce, 1), packet("no", qos, 2)]).await;
        assert_eq!(raw.receive().await, Some(Packet::PubAck(Ack::new(1, 0))), "what came before is answered");
        assert_eq!(raw.receive().await, None);
        assert_eq!(&*message(&mut reader).await.topic, "ok");
    }
    assert!(ping(&mut reader).await.is_empty());
}

#[tokio::test]
async fn filters_are_granted_only_as_a_whole() {
    let (server, _dir, _access) =
        serve_rules("deny subscribe a/secret\nallow subscribe a/#\nallow subscribe c/%c/#\nallow subscribe d/+\n")
            .await;
    for version in BOTH {
        let denied = code(version, reason::NOT_AUTHORIZED, 0x80);
        let mut client = server.connect(login(version, "me", "anna", "1")).await;
        let asked = [
            ("a/b/#", 1),
            ("#", denied),
            ("a/#", denied),
            ("a/+", denied),
            ("a/secret", denied),
            ("c/me/x", 1),
            ("c/+/x", denied),
            ("c/#", denied),
            ("d/x", 1),
            ("d/#", denied),
            ("$SYS/#", denied),
        ];
        let filters: Vec<_> = asked.iter().map(|(f, _)| (*f, SubscriptionOptions::of_qos(QoS::AtLeastOnce))).collect();
        client.subscribe(&filters).unwrap();
        let codes = loop {
            if let Incoming::Subscribed(ack) = next(&mut client).await {
                break ack.codes;
            }
        };
        assert_eq!(codes, asked.map(|(_, code)| code));
        assert_eq!(
            server.engine.session("me").unwrap().subscriptions.len(),
            3,
            "only what was granted is subscribed to"
        );
    }
    for odd in ["+", "#", "a/b", "+/x"] {
        let mut client = server.connect(login(Version::V5, odd, "anna", "1")).await;
        for filter in ["c/+/x", "c/#", "c/+", "c/a/b"] {
            assert_eq!(
                subscribe(&mut client, filter, QoS::AtMostOnce).await,
                [reason::NOT_AUTHORIZED],
                "{odd} {filter}"
            );
        }
    }
}

#[tokio::test]
async fn a_will_is_checked_at_connect() {
    let (server, _dir, _access) = serve_rules("allow publish wills/%u\n").await;
    for version in BOTH {
        let will = |topic: &str| Some(ConnectWill { topic: topic.into(), ..ConnectWill::default() });
        let with_will = |topic| ConnectOptions { will: will(topic), ..login(version, "w", "anna", "1") };
        assert_eq!(refused(&server, with_will("wills/bob")).await, code(version, reason::NOT_AUTHORIZED, 5));
        drop(server.connect(with_will("wills/anna")).await);
    }
}

#[tokio::test]
async fn new_rules_count_on_open_connections_and_old_subscriptions_stay() {
    let (server, dir, access) = serve_rules("allow all #\n").await;
    let mut client = server.connect(login(Version::V5, "c", "anna", "1")).await;
    subscribe(&mut client, "a", QoS::AtLeastOnce).await;
    assert_eq!(publish(&mut client, "t", "x", QoS::AtLeastOnce, false).await, 0);
    std::fs::write(dir.path().join("acl"), "allow publish a\n").unwrap();
    access.reload(false);
    assert_eq!(publish(&mut client, "t", "x", QoS::AtLeastOnce, false).await, reason::NOT_AUTHORIZED);
    assert_eq!(subscribe(&mut client, "b", QoS::AtLeastOnce).await, [reason::NOT_AUTHORIZED]);
    client.publish("a", Bytes::from_static(b"still"), QoS::AtLeastOnce, false).unwrap();
    assert_eq!(message(&mut client).await.payload, "still");
    std::fs::write(dir.path().join("acl"), "nonsense\n").unwrap();
    access.reload(false);
    assert_eq!(publish(&mut client, "t", "x", QoS::AtLeastOnce, false).await, reason::NOT_AUTHORIZED);
    // What is asked on the client's behalf is not his to be denied.
    server.broker.subscribe_for("c", "b", QoS::AtMostOnce).await.unwrap();
    assert!(server.engine.session("c").unwrap().subscriptions.contains_key("b"));
}

#[tokio::test]
async fn who_guesses_is_slowed_down_and_turned_away_and_others_do_not_notice() {
    let dir = tempfile::tempdir().unwrap();
    let server =
        serve_with(access(dir.path(), None, |options| options.failure_delay_max = Duration::from_millis(400))).await;
    drop(server.connect(login(Version::V5, "bob", "bob", "2")).await);
    for version in BOTH {
        let guesses = (0..40).map(|n| refused(&server, login(version, &format!("g{n}"), "anna", "guess")));
        let others = async {
            for _ in 0..10 {
                drop(server.connect(login(Version::V5, "bob", "bob", "2")).await);
            }
        };
        let (codes, ()) = tokio::join!(join_all(guesses), others);
        let bad = code(version, reason::BAD_USER_NAME_OR_PASSWORD, 4);
        let looked_at = codes.iter().filter(|code| **code == bad).count();
        let turned_away = codes.iter().filter(|c| **c == code(version, reason::CONNECTION_RATE_EXCEEDED, 3)).count();
        assert_eq!(looked_at + turned_away, 40);
        assert!(looked_at < 12, "{looked_at} of 40 guesses were looked at");
    }
}

/// An embedder's own: knows tokens, asks somebody else for a while, and bounds what they may do.
#[derive(Debug)]
struct Tokens;

impl Access for Tokens {
    fn authenticate<'a>(&'a self, attempt: Attempt<'a>) -> BoxFuture<'a, Result<Identity, Denied>> {
        async move {
            match attempt.password {
                Some(b"token") => Ok(Identity { client: attempt.client.clone(), user: Some("from elsewhere".into()) }),
                Some(_) => Err(Denied::BadCredentials),
                None => std::future::pending().await,
            }
        }
        .boxed()
    }

    fn may(&self, identity: &Identity, action: Action, topic: &str) -> bool {
        identity.user.as_deref() == Some("from elsewhere") && (action == Action::Subscribe || topic == "ok")
    }
}

#[tokio::test]
async fn an_embedder_plugs_his_own() {
    let options = BrokerOptions {
        access: Arc::new(Tokens),
        connect_timeout: Duration::from_millis(300),
        ..BrokerOptions::default()
    };
    let server = serve_in(tempfile::tempdir().unwrap(), options).await;
    let mut client = server.connect(login(Version::V5, "c", "x", "token")).await;
    subscribe(&mut client, "#", QoS::AtLeastOnce).await;
    assert_eq!(publish(&mut client, "no", "x", QoS::AtLeastOnce, false).await, reason::NOT_AUTHORIZED);
    assert_eq!(server.engine.session("c").unwrap().username, "from elsewhere");
    assert_eq!(refused(&server, login(Version::V5, "d", "x", "other")).await, reason::BAD_USER_NAME_OR_PASSWORD);
    assert_eq!(refused(&server, ConnectOptions::clean("e")).await, reason::SERVER_BUSY, "no answer in time");
    let Server { broker, .. } = server;
    assert!(Broker::shutdown(&broker, PATIENCE).await);
}
