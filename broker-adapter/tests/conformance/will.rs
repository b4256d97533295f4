//! Chapters 3.1.2.5 and 3.1.3.2: wills.

use std::time::Duration;

use crate::support::{Server, serve};
use crate::wire::*;

/// A lasting session with a will that is delayed.
fn delayed(client: &str, delay_s: u32) -> Vec<u8> {
    let will = will5(&[&four(0x18, delay_s)], &format!("will/{client}"), client);
    connect5_with(client, 4 | 1 << 3, &[&four(0x11, 3600)], &will)
}

async fn watcher(server: &Server) -> Wire {
    let mut wire = Wire::hello5(server, "watcher").await;
    wire.subscribed("will/#", 1).await;
    wire
}

#[tokio::test]
async fn it_is_published_at_any_end_but_a_goodbye_and_once() {
    let server = serve().await;
    let mut watcher = watcher(&server).await;
    let hello = |client: &str| connect5_with(client, CLEAN | 4, &[], &will5(&[], &format!("will/{client}"), client));
    for (client, last) in [
        ("lost", &[][..]),
        ("malformed", &[0x36, 0]),
        ("protocol", &[0x82, 3, 0, 1, 0]),
        ("asked", &[0xe0, 1, 4]),
        ("error", &[0xe0, 1, 0x80]),
    ] {
        let mut wire = Wire::accepted(&server, &hello(client)).await;
        wire.send(last).await;
        drop(wire);
        assert_eq!(watcher.message().await.payload, client);
    }
    let wire = Wire::accepted(&server, &hello("taken over")).await;
    let mut newer = Wire::hello5(&server, "taken over").await;
    assert_eq!(watcher.message().await.payload, "taken over");
    drop(wire);
    newer.nothing().await;
    for goodbye in [&GOODBYE[..], &[0xe0, 1, 0], &[0xe0, 2, 0, 0]] {
        let mut wire = Wire::accepted(&server, &hello("goodbye")).await;
        wire.send(goodbye).await;
        wire.ends().await;
    }
    let mut wire = Wire::dial(&server).await;
    let will3 = [field("will/3"), field("three")].concat();
    wire.send(&packet(0x10, &[&field("MQTT"), &[4, CLEAN | 4, 0, 0], &field("three"), &will3])).await;
    wire.bytes().await;
    wire.send(&GOODBYE).await;
    wire.ends().await;
    watcher.nothing().await;
}

#[tokio::test]
async fn its_flags_and_properties_are_those_of_the_message() {
    let server = serve().await;
    let mut watcher = watcher(&server).await;
    for (qos, retain) in [(0, 0), (1, 0x20), (2, 0)] {
        let list: [&[u8]; 8] = [
            &[0x01, 1],
            &four(0x02, 1000),
            &long(0x03, "type"),
            &long(0x08, "answers"),
            &long(0x09, "data"),
            &user("b", "1"),
            &user("a", "2"),
            &user("b", "1"),
        ];
        let will = will5(&list, "will/full", "é");
        let connect = connect5_with("full", CLEAN | 4 | qos << 3 | retain, &[], &will);
        drop(Wire::accepted(&server, &connect).await);
        let got = watcher.message().await;
        assert_eq!((got.qos.as_u8(), got.retain, &got.payload[..]), (qos.min(1), false, "é".as_bytes()));
        let p = &got.properties;
        assert_eq!((p.payload_format, p.content_type.as_deref()), (Some(1), Some("type")));
        assert_eq!((p.response_topic.as_deref(), p.correlation_data.as_deref()), (Some("answers"), Some(&b"data"[..])));
        assert!(p.expiry_s.is_some_and(|s| (990..=1000).contains(&s)));
        let user: Vec<_> = p.user.iter().map(|(n, v)| (&**n, &**v)).collect();
        assert_eq!(user, [("b", "1"), ("a", "2"), ("b", "1")]);
        let kept = server.engine.retained("will/full").map(|stored| stored.message.payload.clone());
        assert_eq!(kept.is_some(), qos >= 1, "retained with the flag, and not replaced without");
    }
}

#[tokio::test]
async fn it_waits_for_its_delay_and_a_connection_in_that_time_takes_it_back() {
    let server = serve().await;
    let mut watcher = watcher(&server).await;
    drop(Wire::accepted(&server, &delayed("back", 4)).await);
    drop(Wire::accepted(&server, &delayed("away", 1)).await);
    // The session ends at once, and with it the wait.
    let will = will5(&[&four(0x18, 1000)], "will/short", "short");
    drop(Wire::accepted(&server, &connect5_with("short", 4, &[], &will)).await);
    assert_eq!(watcher.message().await.payload, "short");
    let (back, ack) = Wire::open(&server, &lasting5("back", &[])).await;
    assert!(ack.session_present);
    assert_eq!(watcher.message().await.payload, "away");
    tokio::time::sleep(Duration::from_secs(5)).await;
    watcher.nothing().await;
    drop(back);
    assert!(server.engine.session("away").unwrap().will.is_none(), "it is gone once it was published");
}

#[tokio::test]
async fn it_is_stored_with_the_session_and_a_server_that_dies_owes_it() {
    let server = serve().await;
    let open = Wire::accepted(&server, &delayed("open", 0)).await;
    drop(Wire::accepted(&server, &delayed("waits", 4)).await);
    drop(Wire::accepted(&server, &delayed("returns", 4)).await);
    let mut goodbye = Wire::accepted(&server, &delayed("goodbye", 0)).await;
    goodbye.send(&GOODBYE).await;
    goodbye.ends().await;
    crate::support::until(|| {
        let away = |client: &str| server.engine.session(client).is_some_and(|view| !view.connected);
        away("waits") && away("returns") && away("goodbye")
    })
    .await;
    let mut watching = Wire::accepted(&server, &lasting5("lasting", &[])).await;
    watching.subscribed("will/#", 1).await;
    let server = server.crash().await;
    drop(open);
    let _returns = Wire::accepted(&server, &lasting5("returns", &[])).await;
    let mut watching = Wire::accepted(&server, &lasting5("lasting", &[])).await;
    assert_eq!(watching.message().await.payload, "open");
    assert_eq!(watching.message().await.payload, "waits");
    tokio::time::sleep(Duration::from_millis(1500)).await;
    watching.nothing().await;
}
