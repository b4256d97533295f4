//! Chapters 3.15 and 4.12: AUTH.

use std::sync::Arc;

use bytes::Bytes;
use forebay_broker_adapter::BrokerOptions;
use forebay_broker_adapter::access::{Access, Action, Attempt, Denied, Exchange, Identity, Step};
use forebay_broker_adapter::codec::Packet;
use futures_util::future::{BoxFuture, FutureExt, ready};
use tempfile::tempdir;

use crate::support::{Server, serve, serve_in};
use crate::wire::*;

#[tokio::test]
async fn a_method_of_authentication_is_refused_and_the_connection_ends() {
    let server = serve().await;
    for list in [vec![long(0x15, "SCRAM-SHA-256")], vec![long(0x15, ""), long(0x16, "data")]] {
        let list: Vec<&[u8]> = list.iter().map(Vec::as_slice).collect();
        let mut wire = Wire::dial(&server).await;
        wire.send(&connect5_with("c", CLEAN, &list, &[])).await;
        match wire.read().await {
            Packet::ConnAck(ack) => {
                assert_eq!((ack.code, ack.session_present), (0x8c, false));
                assert!(ack.properties.authentication_method.is_none());
            }
            other => panic!("{other:?}"),
        }
        wire.ends().await;
    }
}

#[tokio::test]
async fn auth_without_a_method_in_connect_is_a_protocol_error() {
    let server = serve().await;
    for sent in [
        &[0xf0, 0][..],
        &packet(0xf0, &[&[0x19], &properties(&[&long(0x15, "SCRAM-SHA-256")])]),
        &packet(
            0xf0,
            &[&[0x18], &properties(&[&long(0x15, "m"), &long(0x16, "d"), &long(0x1f, "why"), &user("a", "b")])],
        ),
    ] {
        let mut wire = Wire::hello5(&server, "c").await;
        wire.send(sent).await;
        assert!(wire.ends_with(0x82).await.is_empty());
    }
    let mut wire = Wire::hello5(&server, "c").await;
    wire.send(&packet(0xf0, &[&[0x18], &properties(&[&four(0x11, 1)])])).await;
    wire.ends_with(0x81).await;
}

/// Knows one method: a client sends its name, is asked for a word, and then for its end.
#[derive(Debug)]
struct Words;

struct Dialogue {
    client: String,
    heard: Vec<Option<Bytes>>,
}

impl Access for Words {
    fn authenticate<'a>(&'a self, _: Attempt<'a>) -> BoxFuture<'a, Result<Identity, Denied>> {
        ready(Err(Denied::NotAuthorized)).boxed()
    }

    fn exchange(&self, method: &str, attempt: Attempt<'_>) -> Option<Box<dyn Exchange>> {
        let dialogue = Dialogue { client: attempt.client.to_string(), heard: Vec::new() };
        (method == "WORDS").then(|| Box::new(dialogue) as Box<dyn Exchange>)
    }

    fn may(&self, identity: &Identity, _: Action, topic: &str) -> bool {
        identity.user.as_deref() == Some(topic)
    }
}

impl Exchange for Dialogue {
    fn next(&mut self, data: Option<Bytes>) -> BoxFuture<'_, Result<Step, Denied>> {
        self.heard.push(data);
        let heard: Vec<_> = self.heard.iter().map(|data| data.as_deref()).collect();
        let step = match &heard[..] {
            [Some(_)] => Ok(Step::Continue(Some("word?".into()))),
            [Some(_), Some(b"word")] => Ok(Step::Continue(None)),
            [Some(name), Some(b"word"), None] => {
                let user = Some(std::str::from_utf8(name).unwrap().into());
                Ok(Step::Done(Identity { client: self.client.clone().into(), user }, Some("welcome".into())))
            }
            _ => Err(Denied::BadCredentials),
        };
        ready(step).boxed()
    }
}

async fn serve_words() -> Server {
    let options = BrokerOptions { access: Arc::new(Words), ..BrokerOptions::default() };
    serve_in(tempdir().unwrap(), options).await
}

fn auth(code: u8, list: &[&[u8]]) -> Vec<u8> {
    packet(0xf0, &[&[code], &properties(list)])
}

fn hello(client: &str, data: &str) -> Vec<u8> {
    connect5_with(client, CLEAN, &[&long(0x15, "WORDS"), &long(0x16, data)], &[])
}

#[tokio::test]
async fn an_embedder_s_method_is_followed_step_by_step_and_says_who_comes() {
    let server = serve_words().await;
    for client in ["c", ""] {
        let mut wire = Wire::dial(&server).await;
        // What comes in the same breath waits for its turn.
        let word = auth(0x18, &[&long(0x15, "WORDS"), &long(0x16, "word")]);
        wire.send(&[hello(client, "anna"), word].concat()).await;
        assert_eq!(wire.bytes().await, auth(0x18, &[&long(0x15, "WORDS"), &long(0x16, "word?")]));
        assert_eq!(wire.bytes().await, auth(0x18, &[&long(0x15, "WORDS")]));
        wire.send(&auth(0x18, &[&long(0x15, "WORDS")])).await;
        match wire.read().await {
            Packet::ConnAck(ack) => {
                assert_eq!(ack.code, 0);
                assert_eq!(ack.properties.authentication_method.as_deref(), Some("WORDS"));
                assert_eq!(ack.properties.authentication_data.as_deref(), Some(&b"welcome"[..]));
                assert_eq!(ack.properties.assigned_client_id.is_some(), client.is_empty());
            }
            other => panic!("{other:?}"),
        }
        wire.answers(&publish5(0x32, "anna", 1, &[], "x"), &ack(0x40, 1)).await;
        wire.send(&publish5(0x32, "bert", 1, &[], "x")).await;
        assert_eq!(wire.bytes().await[4], 0x87, "what he may do goes by who he is");
        // Again it can't be done: that is a failure, and ends the connection.
        wire.send(&auth(0x19, &[&long(0x15, "WORDS"), &long(0x16, "anna")])).await;
        wire.ends_with(0x87).await;
    }
}

#[tokio::test]
async fn an_exchange_that_fails_or_is_broken_off_ends_the_connection() {
    let server = serve_words().await;
    let method = long(0x15, "WORDS");
    for (answer, code) in [
        (auth(0x18, &[&method, &long(0x16, "wrong")]), Some(0x86)),
        (auth(0x18, &[&long(0x15, "OTHER"), &long(0x16, "word")]), Some(0x82)),
        (auth(0x19, &[&method, &long(0x16, "word")]), Some(0x82)),
        (auth(0x00, &[&method, &long(0x16, "word")]), Some(0x82)),
        (publish5(0x30, "anna", 0, &[], "x"), Some(0x82)),
        (PINGREQ.to_vec(), Some(0x82)),
        (hello("c", "anna"), Some(0x82)),
        (vec![0xf1, 0], Some(0x81)),
        (GOODBYE.to_vec(), None),
    ] {
        let mut wire = Wire::dial(&server).await;
        wire.send(&hello("c", "anna")).await;
        assert_eq!(wire.bytes().await[0], 0xf0);
        wire.send(&answer).await;
        match (code, wire.next().await) {
            (Some(code), Some(bytes)) => assert_eq!((bytes[0], &bytes[2..4]), (0x20, &[0, code][..]), "{answer:02x?}"),
            (code, next) => assert!(code.is_none() && next.is_none(), "{answer:02x?} {next:02x?}"),
        }
        wire.ends().await;
    }
    // Another method, and none at all.
    for connect in [connect5_with("c", CLEAN, &[&long(0x15, "OTHER")], &[]), connect5("c")] {
        let (mut wire, ack) = Wire::open(&server, &connect).await;
        assert!(matches!(ack.code, 0x8c | 0x87) && ack.properties.authentication_method.is_none());
        wire.ends().await;
    }
    assert_eq!(server.engine.session_count(), 0);
    // AUTH has to fit as everything else.
    let mut wire = Wire::dial(&server).await;
    wire.send(&connect5_with("c", CLEAN, &[&four(0x27, 12), &method, &long(0x16, "anna")], &[])).await;
    assert_eq!(wire.bytes().await, [0x20, 3, 0, 0x95, 0]);
    wire.ends().await;
}
