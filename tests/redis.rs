//! The program with Redis: orders on its channel, and clients that were online when the program died. Other programs are real
//! ones: `redis-cli` and Mosquitto's clients.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use forebay_services::redis::{PASSWORD, Redis};
use forebay_services::{Private, private};

mod support;

use support::{Server, wait_for};

/// The guide's configuration with another address and a password.
const GUIDE: &str = include_str!("../sinks/tests/fixtures/conf/emqx_backend_redis.conf");

fn start() -> (Private, Server) {
    let redis = private(&Redis { tls: false, durable: false }).unwrap();
    let mut server = Server::stopped();
    let address = format!("127.0.0.1:{}", redis.members[0].port());
    let conf = GUIDE.replace("127.0.0.1:6379", &address);
    let conf = format!("{conf}\nbackend.redis.pool1.password = {PASSWORD}\n");
    std::fs::write(server.dir.path().join("redis.conf"), conf).unwrap();
    server.configure("backends = [\"redis.conf\"]\n[node]\nname = \"forebay@test\"\n");
    server.restart();
    (redis, server)
}

fn ask(redis: &Private, words: &[&str]) -> Vec<String> {
    let port = redis.members[0].port().to_string();
    let output = Command::new("redis-cli")
        .args(["-p", &port, "-a", PASSWORD, "--no-auth-warning"])
        .args(words)
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

/// A client with a lasting session that shows topics and payloads.
fn subscriber(server: &Server) -> Child {
    Command::new("mosquitto_sub")
        .args(["-h", "127.0.0.1", "-p", &server.mqtt.port().to_string()])
        .args(["-q", "1", "-c", "-i", "test", "-t", "own", "-v"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("mosquitto_sub is needed: `cargo xtask test` installs it")
}

fn publish(server: &Server, topic: &str, payload: &str) {
    let status = Command::new("mosquitto_pub")
        .args(["-h", "127.0.0.1", "-p", &server.mqtt.port().to_string()])
        .args(["-q", "1", "-t", topic, "-m", payload])
        .status();
    assert!(status.unwrap().success());
}

fn online(redis: &Private) {
    wait_for("the client to be online in Redis", || {
        (ask(redis, &["HGET", "mqtt:client:test", "state"]) == ["1"]).then_some(())
    });
}

/// Sends an order until somebody listens.
fn order(redis: &Private, text: &str) {
    wait_for("a listener on the channel", || (ask(redis, &["PUBLISH", "mqtt_channel", text]) != ["0"]).then_some(()));
}

#[test]
fn an_order_on_the_channel_subscribes_a_client_for_good() {
    let (redis, mut server) = start();
    let mut client = subscriber(&server);
    let mut lines = BufReader::new(client.stdout.take().unwrap()).lines().map(Result::unwrap);
    online(&redis);
    order(&redis, r#"{"type": "subscribe", "topic": "topic0", "clientid": "test", "qos": "1"}"#);
    wait_for("the subscription", || {
        let rows = server.ask(&["log", "dump"]);
        rows.contains("topic0").then_some(())
    });
    publish(&server, "topic0", "one");
    assert_eq!(lines.next().unwrap(), "topic0 one");
    client.kill().unwrap();
    client.wait().unwrap();
    // It is a subscription like any other: it outlives the connection and the program.
    publish(&server, "topic0", "two");
    server.kill();
    server.restart();
    let mut client = subscriber(&server);
    let mut lines = BufReader::new(client.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert_eq!(lines.next().unwrap(), "topic0 two");
    online(&redis);
    order(&redis, r#"{"type": "unsubscribe", "topic": "topic0", "clientid": "test"}"#);
    order(&redis, r#"{"type": "subscribe", "topic": "topic1", "clientid": "test"}"#);
    wait_for("the other subscription", || {
        let rows = server.ask(&["log", "dump"]);
        rows.contains("topic1").then_some(())
    });
    publish(&server, "topic0", "three");
    publish(&server, "topic1", "four");
    assert_eq!(lines.next().unwrap(), "topic1 four");
    client.kill().unwrap();
    client.wait().unwrap();
}

#[test]
fn clients_of_a_program_that_died_are_offline_when_it_runs_again() {
    let (redis, mut server) = start();
    let mut client = subscriber(&server);
    online(&redis);
    assert_eq!(ask(&redis, &["HKEYS", "mqtt:node:forebay@test"]), ["test"]);
    server.kill();
    client.kill().unwrap();
    client.wait().unwrap();
    assert_eq!(ask(&redis, &["HGET", "mqtt:client:test", "state"]), ["1"]);
    server.restart();
    wait_for("the client to be offline", || {
        (ask(&redis, &["HGET", "mqtt:client:test", "state"]) == ["0"]).then_some(())
    });
    assert!(ask(&redis, &["HKEYS", "mqtt:node:forebay@test"]).concat().is_empty());
}
