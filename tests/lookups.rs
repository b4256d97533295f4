//! What other programs store in a SQL database, as MQTT clients of the whole program see it: messages while a subscriber was away, retained
//! messages, subscriptions; over a SIGKILL of Forebay.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::process::Command;
use std::time::{Duration, Instant};

mod support;

use support::client::{Event, Session};
use support::databases::{OnMariaDb, OnMySql, OnPostgres, SqlSubject};
use support::{PATIENCE, Server, wait_for};

const POLL: Duration = Duration::from_millis(20);

fn rules(name: &str) -> String {
    let rules = [
        ("client.connected.1", "", "on_subscribe_lookup"),
        ("session.subscribed.1", "cmd/#", "on_message_fetch"),
        ("session.subscribed.2", "kept/#", "on_retain_lookup"),
        ("message.publish.1", "#", "on_message_publish"),
        ("message.publish.2", "kept/#", "on_message_retain"),
        ("message.acked.1", "cmd/#", "on_message_acked"),
    ];
    let line = |(hook, topic, function): (&str, &str, &str)| {
        let topic = if topic.is_empty() { String::new() } else { format!("\"topic\": \"{topic}\", ") };
        format!(
            "backend.{name}.hook.{hook} = {{{topic}\"action\": {{\"function\": \"{function}\"}}, \"pool\": \"pool1\"}}\n"
        )
    };
    rules.into_iter().map(line).collect()
}

/// Connects, subscribes to `filters`, and takes messages: until `count` have come, and then whatever comes within a moment.
fn receive(session: &mut Session, server: &Server, filters: &[&str], count: usize) -> Vec<(String, String)> {
    let mut connection = session.connect(server.mqtt).unwrap();
    for filter in filters {
        connection.subscribe(filter, 1).unwrap();
    }
    let (mut got, begun, mut quiet) = (Vec::new(), Instant::now(), 0);
    while got.len() < count || quiet < 20 {
        let events = connection.poll(POLL).unwrap();
        quiet = if events.is_empty() { quiet + 1 } else { 0 };
        for event in events {
            if let Event::Message { topic, payload, .. } = event {
                got.push((topic, String::from_utf8(payload).unwrap()));
            }
        }
        assert!(begun.elapsed() < PATIENCE, "{count} messages were to come, and these have: {got:?}");
    }
    connection.disconnect().unwrap();
    got
}

fn publish(server: &Server, topic: &str, payload: &str, retain: bool) {
    let mut command = Command::new("mosquitto_pub");
    command.args(["-h", "127.0.0.1", "-p", &server.mqtt.port().to_string(), "-q", "1", "-t", topic, "-m", payload]);
    let status = command.args(retain.then_some("-r")).status();
    assert!(status.expect("mosquitto_pub is needed: `cargo xtask test` installs it").success());
}

fn payloads(got: &[(String, String)]) -> Vec<&str> {
    got.iter().map(|(_, payload)| payload.as_str()).collect()
}

fn story(subject: &dyn SqlSubject) {
    let servers = subject.start();
    let conf = subject.pool(&servers) + &rules(subject.name());
    let sql = |text: &str| subject.sql(&servers, text);
    let mut server = Server::stopped();
    std::fs::write(server.dir.path().join("rules.conf"), conf).unwrap();
    server.configure("backends = [\"rules.conf\"]\n[sinks]\nlookup_deadline_ms = 20000\n");
    server.restart();
    publish(&server, "cmd/c", "own", false);
    publish(&server, "kept/local", "local", true);
    server.wait_stored();
    let row = |payload: &str| {
        sql(&format!(
            "insert into mqtt_msg (topic, sender, qos, payload, arrived) values ('cmd/c', 'app', 1, '{payload}', now())"
        ));
    };
    row("one");
    row("two");
    sql(
        "insert into mqtt_retain (topic, qos, payload, arrived) values ('kept/theirs', 1, 'theirs', '2020-01-01 00:00:00')",
    );
    sql(
        "update mqtt_retain set payload = 'older', msgid = null, arrived = '2020-01-01 00:00:00' where topic = 'kept/local'",
    );
    sql("insert into mqtt_sub (clientid, topic, qos) values ('proxied', 'news/#', 1)");

    // Rows of other programs come once, behind what was there before, and count as read under their own ids.
    let mut client = Session::new("c", false);
    assert_eq!(payloads(&receive(&mut client, &server, &["cmd/c"], 3)), ["own", "one", "two"]);
    let is_read = |payload: &str| {
        let query = format!(
            "select count(*) from mqtt_acked a join mqtt_msg m on m.id = a.mid \
             where a.clientid = 'c' and a.topic = 'cmd/c' and m.payload = '{payload}'"
        );
        wait_for("the read position", || (sql(&query).trim() == "1").then_some(()));
    };
    is_read("two");
    // A new one while nobody is connected, and Forebay is killed: it comes, and the others don't come again.
    row("three");
    server.kill();
    server.restart();
    assert_eq!(payloads(&receive(&mut client, &server, &["cmd/c"], 1)), ["three"]);
    is_read("three");
    assert_eq!(payloads(&receive(&mut client, &server, &["cmd/c"], 0)), Vec::<&str>::new());
    // Another subscriber has its own position.
    let mut other = Session::new("d", false);
    assert_eq!(payloads(&receive(&mut other, &server, &["cmd/c"], 4)), ["own", "one", "two", "three"]);
    // Of two retained messages the newer one.
    let mut reader = Session::new("e", true);
    let mut kept = receive(&mut reader, &server, &["kept/local", "kept/theirs"], 2);
    kept.sort();
    assert_eq!(payloads(&kept), ["local", "theirs"]);
    // The database subscribes for the client.
    let mut proxied = Session::new("proxied", false);
    receive(&mut proxied, &server, &[], 0);
    publish(&server, "news/1", "extra", false);
    assert_eq!(receive(&mut proxied, &server, &[], 1), [("news/1".to_owned(), "extra".to_owned())]);
    server.wait_stored();
    let stored = sql("select count(*) from mqtt_msg where topic = 'cmd/c'");
    assert_eq!(stored.trim(), "4", "what was read from the database is not written back");
    assert!(server.stop().success());
}

#[test]
fn what_other_programs_store_in_postgresql_reaches_subscribers_once() {
    story(&OnPostgres);
}

#[test]
fn what_other_programs_store_in_mysql_reaches_subscribers_once() {
    story(&OnMySql);
}

#[test]
fn what_other_programs_store_in_mariadb_reaches_subscribers_once() {
    story(&OnMariaDb);
}
