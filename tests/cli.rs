//! The command line's promises: exit codes, one clear line, JSON.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::net::TcpListener;
use std::process::Output;

mod support;

use support::{Server, free_address, run};

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn wrong_usage_ends_with_2() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(code(&run(&["--nonsense"], dir.path())), 2);
    assert_eq!(code(&run(&["--mqtt", "here"], dir.path())), 2);
}

#[test]
fn check_reports_all_faults_of_a_file_and_ends_with_2() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("forebay.toml"), "dta = 1\n[mqtt]\nreceive_maximum = 0\n").unwrap();
    let output = run(&["check"], dir.path());
    assert_eq!(code(&output), 2);
    let text = stderr(&output);
    assert!(text.contains("forebay.toml:1:1: there is no setting `dta`; did you mean `data`?"), "{text}");
    assert!(text.contains("forebay.toml:3:19: `mqtt.receive_maximum` takes"), "{text}");
    assert!(!dir.path().join("forebay-data").exists(), "check must not create anything");
}

#[test]
fn check_of_the_defaults_is_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let output = run(&["check", "--json"], dir.path());
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let value: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(value["ok"], true);
}

#[test]
fn an_mqtt_address_in_use_ends_with_4_and_names_the_remedy() {
    let dir = tempfile::tempdir().unwrap();
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = holder.local_addr().unwrap().to_string();
    let output = run(&["--mqtt", &address, "--admin", &free_address().to_string()], dir.path());
    assert_eq!(code(&output), 4);
    let text = stderr(&output);
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(text.contains(&format!("{address} is in use")) && text.contains("`--mqtt 127.0.0.1:"), "{text}");
    assert!(!dir.path().join("forebay-data").exists());
}

#[test]
fn a_data_folder_in_use_ends_with_3() {
    let server = Server::start();
    let data = server.data();
    let data = data.to_str().unwrap();
    let (mqtt, admin) = (free_address().to_string(), free_address().to_string());
    let output = run(&["run", "--data", data, "--mqtt", &mqtt, "--admin", &admin], server.dir.path());
    assert_eq!(code(&output), 3, "{}", stderr(&output));
    assert_eq!(code(&run(&["log", "verify", "--data", data], server.dir.path())), 3);
}

#[test]
fn commands_that_need_a_server_end_with_7_without_one() {
    let dir = tempfile::tempdir().unwrap();
    for args in [&["status"][..], &["sink", "ls"], &["dlq", "ls"]] {
        assert_eq!(code(&run(args, dir.path())), 7, "{args:?}");
    }
}

#[test]
fn a_log_of_a_newer_format_ends_with_5_and_is_left_as_it_is() {
    let mut server = Server::start();
    assert!(server.stop().success());
    let log = server.data().join("log");
    let mut segments: Vec<_> = std::fs::read_dir(&log)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "seg"))
        .collect();
    segments.sort();
    let segment = segments.first().unwrap();
    let mut bytes = std::fs::read(segment).unwrap();
    // The format version follows the magic bytes; 0xff is newer than any there is.
    bytes[8] = 0xff;
    std::fs::write(segment, &bytes).unwrap();
    let output = server.command().output().unwrap();
    assert_eq!(code(&output), 5, "{}", stderr(&output));
    assert_eq!(std::fs::read(segment).unwrap(), bytes);
}

#[test]
fn status_and_the_rows_of_the_log_are_json_online_and_offline() {
    let mut server = Server::start();
    let status: serde_json::Value = serde_json::from_str(&server.ask(&["status", "--json"])).unwrap();
    assert_eq!(status["log"]["durability"], "synced");
    assert_eq!(status["sinks"].as_array().unwrap().len(), 1);
    let online = server.ask(&["log", "ls", "--json"]);
    let _: serde_json::Value = serde_json::from_str(online.lines().next().unwrap()).unwrap();
    server.ask(&["cursor", "ls", "--json"]);
    assert!(server.stop().success());
    assert!(server.ask(&["log", "verify", "--json"]).contains("\"ok\":true"));
    server.ask(&["log", "dump", "--json"]);
    server.ask(&["cursor", "ls", "--json"]);
}

#[test]
fn a_paused_sink_writes_nothing_until_it_is_resumed() {
    use support::client::{Event, Session};
    let server = Server::start();
    let sinks = server.ask(&["sink", "ls", "--json"]);
    let sink: serde_json::Value = serde_json::from_str(sinks.lines().next().unwrap()).unwrap();
    let name = sink["name"].as_str().unwrap();
    server.ask(&["sink", "pause", name]);
    let mut session = Session::new("p", true);
    let mut connection = session.connect(server.mqtt).unwrap();
    connection.publish("pubsub/a", b"x", 1, 1).unwrap();
    let events = connection.poll(support::PATIENCE).unwrap();
    assert!(events.contains(&Event::Acknowledged(1)), "a paused sink is not the publisher's business: {events:?}");
    let sinks = server.ask(&["sink", "ls", "--json"]);
    let sink: serde_json::Value = serde_json::from_str(sinks.lines().next().unwrap()).unwrap();
    assert_eq!(sink["state"], "paused");
    assert!(sink["lag_records"].as_u64().unwrap() > 0, "{sink}");
    assert!(server.stored().is_empty());
    server.ask(&["sink", "resume", name]);
    server.wait_stored();
    assert_eq!(server.stored().len(), 1);
}

#[test]
fn looking_at_cursors_after_a_crash_leaves_queued_messages_in_their_queue() {
    use support::client::{Event, Session};
    let mut server = Server::start();
    let mut session = Session::new("publisher", true);
    let mut connection = session.connect(server.mqtt).unwrap();
    connection.publish("queue/a", b"job", 1, 1).unwrap();
    let events = connection.poll(support::PATIENCE).unwrap();
    assert!(events.contains(&Event::Acknowledged(1)), "{events:?}");
    server.kill();
    // The engine is opened, the tail replayed and the index written.
    server.ask(&["cursor", "ls", "--json"]);
    server.restart();
    let mut session = Session::new("worker", true);
    let mut connection = session.connect(server.mqtt).unwrap();
    connection.subscribe("queue/#", 1).unwrap();
    let events = connection.poll(support::PATIENCE).unwrap();
    assert!(matches!(&events[..], [Event::Message { payload, .. }] if payload == b"job"), "{events:?}");
}

#[test]
fn a_dump_shows_every_record_from_and_up_to_the_place_asked_for() {
    let mut server = Server::start();
    assert!(server.stop().success());
    let numbers = |args: &[&str]| -> Vec<u64> {
        let all = [&["log", "dump", "--json"], args].concat();
        let row = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["lsn"].as_u64().unwrap();
        server.ask(&all).lines().map(row).collect()
    };
    let all = numbers(&["--limit", "1000000"]);
    assert!(all.len() >= 3 && all.is_sorted(), "{all:?}");
    assert_eq!(numbers(&["--from", "2", "--limit", "2"]), all[1..3]);
    assert_eq!(numbers(&["--limit", "0"]), Vec::<u64>::new());
}

#[test]
fn the_demo_counts_every_message_everywhere() {
    let dir = tempfile::tempdir().unwrap();
    let output = run(&["demo", "--json"], dir.path());
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let outcome: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let acts = outcome["acts"].as_array().unwrap();
    assert_eq!(acts.len(), 3);
    for act in acts {
        for place in ["sent", "acknowledged", "logged", "delivered", "stored"] {
            assert_eq!(act[place], 500, "{outcome:#}");
        }
    }
    assert_eq!((&outcome["delivered_twice"], &outcome["stored_twice"]), (&0.into(), &0.into()));
}
