//! The first two minutes of a stranger, with real MQTT clients from outside.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::process::{Child, Command, Stdio};

mod support;

use support::{Server, wait_for};

fn mosquitto(program: &str, server: &Server) -> Command {
    let mut command = Command::new(program);
    command.args(["-h", "127.0.0.1", "-p", &server.mqtt.port().to_string()]);
    command
}

fn publish(server: &Server, topic: &str, payload: &str) {
    let status = mosquitto("mosquitto_pub", server)
        .args(["-q", "1", "-t", topic, "-m", payload])
        .status()
        .expect("mosquitto_pub is needed: `cargo xtask test` installs it");
    assert!(status.success());
}

/// Subscribes, and ends after `count` messages or `patience_s` seconds.
fn subscribe(server: &Server, id: &str, topic: &str, count: u32, patience_s: u32) -> Child {
    mosquitto("mosquitto_sub", server)
        .args(["-q", "1", "-i", id, "-t", topic, "-C", &count.to_string(), "-W", &patience_s.to_string()])
        .stdout(Stdio::piped())
        .spawn()
        .expect("mosquitto_sub is needed: `cargo xtask test` installs it")
}

fn lines(child: Child) -> Vec<String> {
    let output = child.wait_with_output().unwrap();
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn a_published_message_is_a_row_in_sqlite() {
    let server = Server::start();
    publish(&server, "pubsub/a", "hello");
    let rows = wait_for("the row", || Some(server.stored()).filter(|rows| !rows.is_empty()));
    assert_eq!(rows.len(), 1);
    assert_eq!((rows[0].1.as_str(), rows[0].2.as_str()), ("pubsub/a", "hello"));
    assert_eq!(rows[0].0.len(), 20);
}

#[test]
fn every_later_subscriber_of_a_pubsub_topic_gets_what_was_published_before() {
    let server = Server::start();
    publish(&server, "pubsub/a", "hello");
    assert_eq!(lines(subscribe(&server, "one", "pubsub/a", 1, 10)), ["hello"]);
    assert_eq!(lines(subscribe(&server, "two", "pubsub/a", 1, 10)), ["hello"]);
}

#[test]
fn a_queued_message_goes_to_one_subscriber_only() {
    let server = Server::start();
    publish(&server, "queue/a", "job");
    assert_eq!(lines(subscribe(&server, "one", "queue/a", 1, 10)), ["job"]);
    assert_eq!(lines(subscribe(&server, "two", "queue/a", 1, 2)), Vec::<String>::new());
}

#[test]
fn messages_and_positions_survive_a_restart() {
    let mut server = Server::start();
    publish(&server, "pubsub/a", "before");
    assert_eq!(lines(subscribe(&server, "one", "pubsub/a", 1, 10)), ["before"]);
    // The subscriber has left; its acknowledgement may still be on its way, and a server that stops before it has read it gives the message again.
    wait_for("the subscriber to be gone", || {
        let rows = server.ask(&["cursor", "ls", "--json"]);
        let mut cursors = rows.lines().map(|row| serde_json::from_str::<serde_json::Value>(row).unwrap());
        cursors.any(|row| row["owner"] == "one" && row["active"] == false).then_some(())
    });
    assert!(server.stop().success());
    server.restart();
    publish(&server, "pubsub/a", "after");
    assert_eq!(lines(subscribe(&server, "one", "pubsub/a", 1, 10)), ["after"]);
    assert_eq!(lines(subscribe(&server, "two", "pubsub/a", 2, 10)), ["before", "after"]);
}
