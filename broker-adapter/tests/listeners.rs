//! Several listeners of one broker, each with settings of its own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::net::SocketAddr;

use forebay_broker_adapter::client::{Client, ClientSession, ConnectOptions};
use forebay_broker_adapter::codec::{Version, reason};
use forebay_broker_adapter::{BrokerOptions, ListenerOptions};
use forebay_engine::QoS;
use support::*;

fn any_port() -> ListenerOptions {
    ListenerOptions::new(SocketAddr::from(([127, 0, 0, 1], 0)))
}

#[tokio::test]
async fn clients_of_two_listeners_meet_and_each_listener_has_its_own_limit() {
    let listeners = vec![any_port(), ListenerOptions { max_connections: Some(1), ..any_port() }];
    let server = serve_at(listeners, BrokerOptions::default()).await;
    let [wide, narrow] = server.broker.local_addrs()[..] else { panic!("two addresses") };
    let connect = |address, name| Client::connect(address, ConnectOptions::clean(name), ClientSession::default());
    let mut subscriber = connect(narrow, "s").await.unwrap();
    subscribe(&mut subscriber, "t", QoS::AtLeastOnce).await;
    let mut publisher = connect(wide, "p").await.unwrap();
    publish(&mut publisher, "t", "x", QoS::AtLeastOnce, false).await;
    assert_eq!(message(&mut subscriber).await.payload, "x");

    let mut second = Raw::open(narrow, Version::V5).await;
    assert_eq!(second.connect("r", None).await, Some(reason::QUOTA_EXCEEDED));
    connect(wide, "q").await.unwrap();
    let open = |at: usize| server.broker.listeners()[at].connections;
    assert_eq!(open(1), 1);
    subscriber.disconnect(0).await.unwrap();
    until(|| open(1) == 0).await;
    connect(narrow, "s").await.unwrap();
}
