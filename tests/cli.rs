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
fn check_connect_says_of_each_database_whether_it_can_be_written_to_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let output = run(&["check", "--connect"], dir.path());
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("sqlite/default: ") && text.contains("is made at the start"), "{text}");
    assert!(!dir.path().join("forebay-data").exists(), "check must not create anything");
    // A table of somebody else's with the same name.
    std::fs::create_dir(dir.path().join("forebay-data")).unwrap();
    let file = dir.path().join("forebay-data/forebay.db");
    let mut sqlite = std::process::Command::new("sqlite3");
    assert!(
        sqlite.arg(&file).arg("create table mqtt_msg (id integer primary key, body text)").status().unwrap().success()
    );
    let output = run(&["check", "--connect", "--json"], dir.path());
    assert_eq!(code(&output), 1);
    let value: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(value["ok"], false);
    let text = value["databases"][0]["text"].as_str().unwrap();
    assert!(text.contains("table mqtt_msg lacks msgid, topic, sender"), "{text}");
}

#[test]
fn templates_are_checked_as_rules_are_and_explain_shows_their_points() {
    let dir = tempfile::tempdir().unwrap();
    let rules = "backend.influxdb.pool1.http.database = mydb\n\
         backend.influxdb.hook.message.publish.1 = {\"topic\": \"s/#\", \"action\": {\"function\": \"on_message_publish\"}, \"pool\": \"pool1\"}\n\
         backend.opentsdb.pool1.server = 127.0.0.1:4242\n\
         backend.opentsdb.hook.message.publish.1 = {\"topic\": \"s/#\", \"action\": {\"function\": \"on_message_publish\"}, \"pool\": \"pool1\"}\n\
         backend.timescale.pool1.server = 127.0.0.1:5432\n\
         backend.timescale.hook.message.publish.1 = {\"topic\": \"#\", \"action\": {\"function\": \"on_message_publish\"}, \"pool\": \"pool1\"}\n\
         backend.timescale.hook.message.publish.2 = {\"topic\": \"s/#\", \"action\": {\"function\": \"on_message_publish\"}, \"pool\": \"pool1\"}\n";
    std::fs::write(dir.path().join("rules.conf"), rules).unwrap();
    let templates = dir.path().join("forebay-data/templates");
    std::fs::create_dir_all(&templates).unwrap();
    let check = || run(&["check", "--backends", "rules.conf"], dir.path());
    let missing = check();
    assert_eq!(code(&missing), 2);
    assert!(stderr(&missing).contains("emqx_backend_influxdb.tmpl") && stderr(&missing).contains("TEMPLATES.md"));
    std::fs::write(
        templates.join("emqx_backend_opentsdb.tmpl"),
        r##"{"s/#": {"measurement": "s", "tags": {"c": "$clientid"}, "value": ["$payload", "v", "$0"]}}"##,
    )
    .unwrap();
    std::fs::write(
        templates.join("emqx_backend_influxdb.tmpl"),
        r##"{"s/#": {"measurement": "s", "fields": {"v": "$playload"}}}"##,
    )
    .unwrap();
    std::fs::write(
        templates.join("emqx_backend_timescale.tmpl"),
        r##"{"s/#": {"name": "s", "sql": "insert into s values (now(), $1)", "param_keys": [["$payload", "v", "$0"]]}}"##,
    )
    .unwrap();
    let faulty = check();
    assert!(stderr(&faulty).contains("did you mean `$payload`?"), "{}", stderr(&faulty));
    std::fs::write(
        templates.join("emqx_backend_influxdb.tmpl"),
        r##"{"s/#": {"measurement": "s t", "fields": {"v": ["$payload", "v", "$2"]}}}"##,
    )
    .unwrap();
    let good = check();
    assert_eq!(code(&good), 0, "{}", stderr(&good));
    std::fs::write(dir.path().join("payload"), r#"{"v": [1.5, 2]}"#).unwrap();
    let args = [
        "explain",
        "--topic",
        "s/1",
        "--payload",
        "payload",
        "--qos",
        "1",
        "--client",
        "me",
        "--backends",
        "rules.conf",
    ];
    let shown = run(&args, dir.path());
    let text = String::from_utf8(shown.stdout.clone()).unwrap();
    assert!(text.contains("s\\ t v=2 ") && text.contains(r#""value":1.5"#) && text.contains(r#"{"c":"me"}"#), "{text}");
    assert_eq!(text.matches(r#""metric":"s""#).count(), 2, "{text}");
    assert!(text.contains("insert into s values (now(), 1.5)"), "{text}");
    assert_eq!(text.matches("insert into s values").count(), 2, "two rules fit, the first stores: {text}");
    assert!(text.contains("stored already"), "{text}");
}

#[test]
fn explain_shows_which_rules_fire_what_they_execute_and_how_often() {
    let dir = tempfile::tempdir().unwrap();
    let rules = r##"
backend.sqlite.pool1.file = x.db
backend.sqlite.hook.message.publish.1 = {"topic": "a/#", "action": {"function": "on_message_publish"}, "pool": "pool1"}
backend.sqlite.hook.message.publish.2 = {"topic": "a/+", "action": {"sql": ["insert into t (x) values (${payload})"]}, "pool": "pool1"}
backend.sqlite.hook.message.publish.3 = {"topic": "b", "action": {"function": "on_message_publish"}, "pool": "pool1"}
backend.sqlite.hook.session.subscribed.1 = {"topic": "#", "action": {"function": "on_message_fetch"}, "pool": "pool1"}
"##;
    std::fs::write(dir.path().join("rules.conf"), rules).unwrap();
    std::fs::write(dir.path().join("payload"), "21 degrees").unwrap();
    let explain = |qos: &str| {
        let arguments =
            ["explain", "--topic", "a/b", "--payload", "payload", "--qos", qos, "--json", "--backends", "rules.conf"];
        let output = run(&arguments, dir.path());
        assert_eq!(code(&output), 0, "{}", stderr(&output));
        let value: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        value.as_array().unwrap().clone()
    };
    let fired = explain("1");
    let rule = |n: usize| (fired[n]["hook"].as_str().unwrap(), fired[n]["rule"].as_u64().unwrap());
    assert_eq!(
        (0..fired.len()).map(rule).collect::<Vec<_>>(),
        [("session.subscribed", 1), ("message.publish", 1), ("message.publish", 2)]
    );
    assert_eq!(fired[0]["remark"], "reads only");
    assert!(fired[1]["operations"][0]["operation"].as_str().unwrap().contains("'21 degrees'"), "{fired:?}");
    assert_eq!(fired[2]["operations"][0]["operation"], "insert into t (x) values (?) -- '21 degrees'");
    assert_eq!(fired[2]["operations"][0]["at_worst"], "once");
    // on_message_publish is for QoS 1 and 2.
    assert_eq!(explain("0")[1]["remark"], "not for this message");
    assert!(!dir.path().join("forebay-data").exists() && !dir.path().join("x.db").exists());
    assert_eq!(code(&run(&["explain", "--topic", "a/#"], dir.path())), 2);
}

#[test]
fn schema_prints_what_is_made_and_names_the_databases_it_knows() {
    let dir = tempfile::tempdir().unwrap();
    let output = run(&["schema", "sqlite"], dir.path());
    assert_eq!(code(&output), 0);
    assert!(String::from_utf8(output.stdout).unwrap().contains("create table if not exists mqtt_msg"));
    let output = run(&["schema", "oracle"], dir.path());
    assert_eq!(code(&output), 2);
    assert!(stderr(&output).contains("there are: sqlite"), "{}", stderr(&output));
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
    for what in [&["log", "verify"][..], &["log", "repair"], &["log", "repair", "--apply"]] {
        let output = run(&[what, &["--data", data]].concat(), server.dir.path());
        assert_eq!(code(&output), 3, "{what:?}");
        assert!(stderr(&output).contains("in use by"), "{}", stderr(&output));
    }
}

#[test]
fn a_damaged_record_is_named_a_repair_shows_and_then_does_and_the_server_goes_on() {
    let mut server = Server::start();
    assert!(server.stop().success());
    server.restart();
    assert!(server.stop().success());
    let rows = server.ask(&["log", "dump", "--json"]);
    let rows: Vec<serde_json::Value> = rows.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let record = rows.iter().find(|row| row["item"] == "record").unwrap();
    let (name, lsn) = (record["file"].as_str().unwrap(), record["lsn"].as_u64().unwrap());
    let path = server.data().join("log").join(name);
    let sound = std::fs::read(&path).unwrap();
    let mut bytes = sound.clone();
    bytes[record["at"].as_u64().unwrap() as usize + 33] ^= 0x40;
    std::fs::write(&path, &bytes).unwrap();
    let ask = |args: &[&str]| {
        let data = server.data();
        let output = run(&[args, &["--data", data.to_str().unwrap()]].concat(), server.dir.path());
        (code(&output), String::from_utf8_lossy(&output.stdout).into_owned(), stderr(&output))
    };
    let (exit, out, err) = ask(&["log", "verify", "--json"]);
    let report: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((exit, &report["ok"]), (5, &serde_json::Value::Bool(false)), "{out} {err}");
    let damage = &report["logs"][0]["damage"][0];
    assert!(damage["file"].as_str().unwrap().ends_with(name) && damage["first"] == lsn && damage["records_lost"] == 1);
    let (exit, out, err) = ask(&["log", "repair"]);
    assert!(exit == 5 && out.contains("rewrite: ") && err.contains("nothing was changed"), "{out} {err}");
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
    let (exit, out, err) = ask(&["log", "repair", "--apply"]);
    assert_eq!(exit, 0, "{out} {err}");
    assert_eq!(std::fs::read(path.with_extension("damaged")).unwrap(), bytes);
    let written = std::fs::read_dir(server.data().join("log")).unwrap().map(|entry| entry.unwrap().path());
    let written = written.filter(|path| path.extension().is_some_and(|extension| extension == "json")).count();
    assert_eq!(written, 1, "{out}");
    assert_eq!(ask(&["log", "verify"]).0, 0);
    server.restart();
    server.ask(&["status"]);
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
    // As a newer program would, with another checksum: else it is the version that is damaged.
    bytes[60] ^= 0xff;
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
fn a_shared_subscription_has_a_row_among_the_cursors() {
    use support::client::{Event, Session};
    let server = Server::start();
    let mut member = Session::new("member", false);
    member.connect(server.mqtt).unwrap().subscribe("$share/g/jobs/#", 1).unwrap();
    let mut publisher = Session::new("publisher", true);
    let mut connection = publisher.connect(server.mqtt).unwrap();
    connection.publish("jobs/1", b"job", 1, 1).unwrap();
    let events = connection.poll(support::PATIENCE).unwrap();
    assert!(events.contains(&Event::Acknowledged(1)), "{events:?}");
    let group = support::wait_for("the message is owed", || {
        let rows = server.ask(&["cursor", "ls", "--json"]);
        let mut rows = rows.lines().map(|row| serde_json::from_str::<serde_json::Value>(row).unwrap());
        rows.find(|row| row["kind"] == "group" && row["lag"] == 1)
    });
    assert_eq!((&group["owner"], &group["filter"]), (&"$share/g/jobs/#".into(), &"jobs/#".into()));
    assert_eq!(group["members"]["sessions"], 1, "{group}");
    assert!(server.ask(&["cursor", "ls"]).contains("of 1 members connected, 1 messages owed"));
}

#[test]
fn a_dump_shows_every_record_from_and_up_to_the_place_asked_for() {
    let mut server = Server::start();
    assert!(server.stop().success());
    let numbers = |args: &[&str]| -> Vec<u64> {
        let all = [&["log", "dump", "--json"], args].concat();
        let row = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap();
        let rows = server.ask(&all).lines().map(row).collect::<Vec<_>>();
        assert!(rows.iter().all(|row| row["crc"] == row["crc_computed"]), "{rows:?}");
        rows.iter().filter(|row| row["item"] == "record").map(|row| row["lsn"].as_u64().unwrap()).collect()
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
