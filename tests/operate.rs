//! What operators do to clients and messages, through the whole program: commands and admin HTTP, with mosquitto's clients outside.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, ChildStdout, Command, Stdio};

use serde_json::Value;

mod support;

use support::{Server, run, wait_for};

/// `mosquitto_sub` or `mosquitto_pub` with this server.
fn mosquitto(server: &Server, program: &str, args: &[&str]) -> Command {
    let mut command = Command::new("timeout");
    command.args(["120", program, "-h", "127.0.0.1", "-p", &server.mqtt.port().to_string()]).args(args);
    command
}

/// A client that stays connected, and what it prints.
struct Subscriber {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Subscriber {
    fn start(server: &Server, args: &[&str]) -> Subscriber {
        let mut command = mosquitto(server, "mosquitto_sub", args);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("mosquitto_sub is needed");
        let lines = BufReader::new(child.stdout.take().unwrap());
        Subscriber { child, lines }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// Waits for its end; what else it printed.
    fn ended(mut self) -> String {
        let mut said = String::new();
        self.lines.read_to_string(&mut said).unwrap();
        self.child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        self.child.wait().unwrap();
        said
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        // `timeout` passes it on.
        let _ = Command::new("kill").arg(self.child.id().to_string()).status();
        let _ = self.child.wait();
    }
}

fn publish(server: &Server, topic: &str, message: &str, retain: bool) {
    let mut args = vec!["-V", "mqttv5", "-q", "1", "-t", topic, "-m", message];
    if retain {
        args.push("-r");
    }
    assert!(mosquitto(server, "mosquitto_pub", &args).status().unwrap().success());
}

/// A command's rows.
fn rows(server: &Server, args: &[&str]) -> Vec<Value> {
    let text = server.ask(&[args, &["--json"]].concat());
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn column(rows: &[Value], name: &str) -> Vec<String> {
    rows.iter().map(|row| row[name].as_str().unwrap().to_owned()).collect()
}

/// A command that fails; its code and what it says.
fn fails(server: &Server, args: &[&str]) -> (i32, String) {
    let data = server.data();
    let output = run(&[&["--data", data.to_str().unwrap()], args].concat(), server.dir.path());
    (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
}

/// A request to admin HTTP; its status and body.
fn http(server: &Server, method: &str, path: &str, token: Option<&str>, body: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(server.admin).unwrap();
    let token = token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: x\r\n{token}Content-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
    (status, answer.split_once("\r\n\r\n").unwrap().1.to_owned())
}

fn connected(server: &Server, client: &str) {
    wait_for("the client to be connected", || {
        rows(server, &["client", "ls"]).iter().any(|row| row["client"] == client && row["protocol"] != "").then_some(())
    });
}

#[test]
fn clients_are_listed_shown_and_kicked_with_0x98() {
    let server = Server::start();
    let listening = ["-V", "mqttv5", "-i", "anna/1", "-u", "anna", "-k", "77", "-t", "a/#", "-q", "1", "-d"];
    let subscriber = Subscriber::start(&server, &listening);
    let _other = Subscriber::start(&server, &["-V", "mqttv311", "-i", "bob", "-t", "b"]);
    connected(&server, "anna/1");
    connected(&server, "bob");
    let all = rows(&server, &["client", "ls"]);
    assert_eq!(column(&all, "client"), ["anna/1", "bob"]);
    let anna = &all[0];
    assert_eq!((anna["username"].as_str(), anna["protocol"].as_str()), (Some("anna"), Some("5")));
    assert_eq!((anna["keep_alive_s"].as_u64(), anna["in_flight"].as_u64()), (Some(77), Some(0)));
    assert_eq!(anna["listener"].as_str().unwrap(), server.mqtt.to_string());
    assert!(anna["address"].as_str().unwrap().starts_with("127.0.0.1:"));
    assert_eq!(all[1]["protocol"], "3.1.1");
    assert_eq!(column(&rows(&server, &["client", "ls", "--limit", "1"]), "client"), ["anna/1"]);
    assert_eq!(column(&rows(&server, &["client", "ls", "--after", "anna/1"]), "client"), ["bob"]);
    assert_eq!(rows(&server, &["client", "show", "anna/1"])[0]["client"], "anna/1");
    let text = server.ask(&["client", "ls"]);
    assert!(text.lines().next().unwrap().starts_with("client ") && text.contains("anna/1"), "{text}");

    assert!(server.ask(&["client", "kick", "anna/1"]).contains("its session stays"));
    let said = subscriber.ended();
    assert!(said.contains("DISCONNECT (152)"), "{said}");
    assert_eq!(column(&rows(&server, &["client", "ls"]), "client"), ["bob"]);
    for command in ["show", "kick"] {
        let (code, said) = fails(&server, &["client", command, "anna/1"]);
        assert!(code == 1 && said.contains("client `anna/1` is not connected"), "{said}");
    }
    assert_eq!(http(&server, "GET", "/clients/nobody", None, "").0, 404);
}

#[test]
fn a_session_that_is_dropped_stays_dropped_over_a_restart() {
    let mut server = Server::start();
    for client in ["s1", "s2", "s3"] {
        // Without -W it would wait for messages; with -E it leaves when it has subscribed.
        let args = ["-V", "mqttv5", "-i", client, "-c", "-x", "4000000000", "-q", "1", "-t", "s/#", "-t", client, "-E"];
        assert!(mosquitto(&server, "mosquitto_sub", &args).status().unwrap().success());
    }
    wait_for("the clients to be away", || (rows(&server, &["session", "ls", "--away"]).len() == 3).then_some(()));
    publish(&server, "s/1", "x", false);
    let session = &rows(&server, &["session", "show", "s1"])[0];
    assert_eq!((session["connected"].as_bool(), session["subscriptions"].as_u64()), (Some(false), Some(2)));
    assert!(session["behind_records"].as_u64().unwrap() > 0, "{session}");
    assert_eq!(rows(&server, &["subscription", "ls"]).len(), 6);
    let of = |args: &[&str]| {
        let all = rows(&server, &[&["subscription", "ls"], args].concat());
        all.iter()
            .map(|row| format!("{} {}", row["client"].as_str().unwrap(), row["filter"].as_str().unwrap()))
            .collect::<Vec<_>>()
    };
    assert_eq!(of(&["--client", "s2"]), ["s2 s/#", "s2 s2"]);
    assert_eq!(of(&["--filter", "s/#"]), ["s1 s/#", "s2 s/#", "s3 s/#"]);
    assert_eq!(of(&["--topic", "s3"]), ["s3 s3"]);
    assert_eq!(of(&["--limit", "4"]), ["s1 s/#", "s1 s1", "s2 s/#", "s2 s2"]);
    let page: Value = serde_json::from_str(&http(&server, "GET", "/subscriptions?limit=2", None, "").1).unwrap();
    assert_eq!(page["rows"].as_array().unwrap().len(), 2);
    assert_eq!(page["next"], "s1\0s1");

    assert!(server.ask(&["session", "drop", "s1"]).contains("`s1` is ended"));
    // The acknowledged drop is durable: it is there after a kill.
    server.kill();
    server.restart();
    assert_eq!(column(&rows(&server, &["session", "ls", "--away"]), "client"), ["s2", "s3"]);
    let (code, said) = fails(&server, &["session", "drop", "s1"]);
    assert!(code == 1 && said.contains("client `s1` has no session"), "{said}");
    // One that is connected is ended first.
    let subscriber =
        Subscriber::start(&server, &["-V", "mqttv5", "-i", "s2", "-c", "-x", "4000000000", "-t", "more", "-d"]);
    wait_for("it to be back", || (rows(&server, &["session", "show", "s2"])[0]["subscriptions"] == 3).then_some(()));
    server.ask(&["session", "drop", "s2"]);
    assert!(subscriber.ended().contains("DISCONNECT (152)"));
    assert_eq!(column(&rows(&server, &["session", "ls", "--away"]), "client"), ["s3"]);
    assert!(server.stop().success());
    let dump = server.ask(&["log", "dump", "--json", "--limit", "1000000"]);
    assert_eq!(dump.lines().filter(|line| line.contains("\"session_closed\"")).count(), 2);
}

#[test]
fn a_retained_message_is_shown_and_cleared_as_an_empty_one_would_clear_it() {
    let mut server = Server::start();
    for (topic, message) in [("r/1", "one"), ("r/2", "two"), ("r/2/deep", "three")] {
        publish(&server, topic, message, true);
    }
    let bytes = server.dir.path().join("bytes");
    std::fs::write(&bytes, [0, 255]).unwrap();
    server.ask(&["publish", "$forebay/bin", "--file", bytes.to_str().unwrap(), "--retain"]);
    wait_for("them to be retained", || (rows(&server, &["retained", "ls"]).len() == 4).then_some(()));
    let all = rows(&server, &["retained", "ls"]);
    assert_eq!(column(&all, "topic"), ["$forebay/bin", "r/1", "r/2", "r/2/deep"]);
    assert_eq!((all[3]["bytes"].as_u64(), all[3]["payload"].is_null()), (Some(5), true));
    assert_eq!(column(&rows(&server, &["retained", "ls", "r/2/#"]), "topic"), ["r/2", "r/2/deep"]);
    assert_eq!(column(&rows(&server, &["retained", "ls", "r/#", "--limit", "1", "--after", "r/1"]), "topic"), ["r/2"]);
    assert_eq!(rows(&server, &["retained", "show", "r/2/deep"])[0]["payload"], "three");
    assert_eq!(rows(&server, &["retained", "show", "$forebay/bin"])[0]["payload_hex"], "00ff");
    let (code, said) = fails(&server, &["retained", "ls", "r/#/x"]);
    assert!(code == 1 && said.contains("topic filter `r/#/x`"), "{said}");

    let mut watcher = Subscriber::start(&server, &["-V", "mqttv5", "-i", "w", "-q", "1", "-t", "r/1", "-F", "%r %l"]);
    assert_eq!(watcher.line(), "1 3");
    server.ask(&["retained", "clear", "r/1"]);
    assert_eq!(watcher.line(), "0 0", "subscribers are told");
    let (code, said) = fails(&server, &["retained", "clear", "r/1"]);
    assert!(code == 1 && said.contains("topic `r/1` has no retained message"), "{said}");
    assert_eq!(http(&server, "POST", "/retained/clear", None, r#"{"topic": "r/1"}"#).0, 404);
    server.kill();
    server.restart();
    assert_eq!(column(&rows(&server, &["retained", "ls", "r/#"]), "topic"), ["r/2", "r/2/deep"], "it is durable");
    // The rules fired: the database's table of retained messages has it no more.
    server.wait_stored();
    let kept = support::sqlite(&server.data().join("forebay.db"), "select topic from mqtt_retain order by topic");
    assert_eq!(kept, [["r/2"], ["r/2/deep"]], "the default rule, #, is not about topics that begin with $");
}

#[test]
fn a_list_that_is_longer_than_a_part_is_whole_and_no_answer_is_larger_than_asked_for() {
    let server = Server::start();
    let topics: Vec<String> = (0..1010).map(|n| format!("big/{n:04}")).collect();
    std::thread::scope(|scope| {
        for part in topics.chunks(300) {
            let server = &server;
            scope.spawn(move || {
                for topic in part {
                    let body = serde_json::json!({ "topic": topic, "payload": "x", "retain": true }).to_string();
                    assert_eq!(http(server, "POST", "/publish", None, &body).0, 200);
                }
            });
        }
    });
    assert_eq!(column(&rows(&server, &["retained", "ls", "big/#"]), "topic"), topics);
    assert_eq!(column(&rows(&server, &["retained", "ls", "--limit", "1005"]), "topic"), topics[..1005]);
    let page = |path: &str| serde_json::from_str::<Value>(&http(&server, "GET", path, None, "").1).unwrap();
    let first = page("/retained");
    assert_eq!((first["rows"].as_array().unwrap().len(), first["next"].as_str()), (100, Some("big/0099")));
    let last = page("/retained?after=big%2F0999");
    assert_eq!((last["rows"].as_array().unwrap().len(), last["next"].as_str()), (10, None));
    assert_eq!(page("/retained?limit=1000000")["rows"].as_array().unwrap().len(), 1010);
}

#[test]
fn a_message_is_published_and_durable_when_the_command_is_done() {
    let mut server = Server::start();
    let mut subscriber =
        Subscriber::start(&server, &["-V", "mqttv5", "-i", "s", "-q", "2", "-t", "p/#", "-F", "%t %q %p %C %P"]);
    connected(&server, "s");
    wait_for("the subscription", || (rows(&server, &["subscription", "ls"]).len() == 1).then_some(()));
    let args = ["publish", "p/1", "-m", "höllo", "--qos", "2", "--content-type", "text", "--user", "k=v", "--json"];
    let done: Value = serde_json::from_str(&server.ask(&args)).unwrap();
    assert!(done["lsn"].as_u64().is_some() && done["msgid"].as_str().is_some(), "{done}");
    assert_eq!(subscriber.line(), "p/1 2 höllo text k:v");
    let body = r#"{"topic": "p/2", "payload": "by http", "qos": 1}"#;
    let (status, body) = http(&server, "POST", "/publish", None, body);
    assert!(status == 200 && body.contains("durable as record"), "{status} {body}");
    assert!(subscriber.line().starts_with("p/2 1 by http"));
    for (bad, says) in [
        (r#"{"topic": "p/+", "payload": "x"}"#, "topic `p/+`"),
        (r#"{"topic": "", "payload": "x"}"#, "it is empty"),
        (r#"{"topic": "p", "qos": 3}"#, "`qos` takes 0, 1 or 2"),
        (r#"{"topic": "p", "pailoud": 3}"#, "pailoud"),
        ("{", "JSON"),
    ] {
        let (status, body) = http(&server, "POST", "/publish", None, bad);
        assert!(status == 400 && body.contains("\"error\"") && body.contains(says), "{bad}: {status} {body}");
    }
    let large = serde_json::json!({ "topic": "p", "payload": "x".repeat(1_100_000) }).to_string();
    let (status, body) = http(&server, "POST", "/publish", None, &large);
    assert!(status == 400 && body.contains("mqtt.packet_bytes_max"), "{status} {body}");
    assert_eq!(fails(&server, &["publish", "p"]).0, 2, "a payload is needed");
    // Killed at once: what was said to be durable is.
    let lsn = rows(&server, &["publish", "p/3", "-m", "last"])[0]["lsn"].as_u64().unwrap();
    server.kill();
    let logged = server.logged();
    assert_eq!(logged.last().unwrap()["payload"], "last", "{logged:?}");
    let dump = server.ask(&["log", "dump", "--from", &lsn.to_string(), "--limit", "1"]);
    assert!(dump.contains("Operator"), "{dump}");
}

#[test]
fn without_a_server_and_without_the_token_nothing_is_answered() {
    let mut server = Server::stopped();
    for command in [
        &["client", "ls"][..],
        &["session", "drop", "x"],
        &["subscription", "ls"],
        &["retained", "ls"],
        &["publish", "a", "-m", "b"],
    ] {
        let (code, said) = fails(&server, command);
        assert!(code == 7 && said.contains("`--data`, the setting `data`"), "{command:?}: {said}");
    }
    server.configure("[admin]\ntoken = \"s3cret\"\n");
    server.restart();
    for (method, path) in [
        ("GET", "/clients"),
        ("GET", "/sessions/x"),
        ("GET", "/subscriptions"),
        ("GET", "/retained"),
        ("POST", "/clients/x/kick"),
        ("POST", "/sessions/x/drop"),
        ("POST", "/retained/clear"),
        ("POST", "/publish"),
    ] {
        assert_eq!(http(&server, method, path, None, "{}").0, 401, "{path}");
        assert_ne!(http(&server, method, path, Some("s3cret"), "{}").0, 401, "{path}");
    }
    assert!(rows(&server, &["client", "ls"]).is_empty());
    std::fs::remove_file(server.dir.path().join("forebay.toml")).unwrap();
    let (code, said) = fails(&server, &["client", "ls"]);
    assert!(code == 1 && said.contains("admin.token"), "{said}");
}
