//! What operators do to clients and messages, through the whole program: commands and admin HTTP, with mosquitto's clients outside.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, ChildStdout, Command, Stdio};

use serde_json::Value;

mod support;

use support::client::Session;
use support::{Server, forebay, run, wait_for};

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
    // Who has read enough ends the command well: this is more than a pipe holds.
    let mut command = forebay();
    command.arg("--data").arg(server.data()).args(["retained", "ls", "--json"]).current_dir(server.dir.path());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::with_capacity(64, child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.contains("big/0000"), "{line}");
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && said.is_empty(), "{}: {said}", output.status);
}

/// A command with this on its standard input.
fn fed(server: &Server, args: &[&str], input: &[u8]) -> (i32, String, String) {
    let mut command = forebay();
    command.arg("--data").arg(server.data()).args(args).current_dir(server.dir.path());
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // One that refuses its input reads it to the end or not.
    let _ = child.stdin.take().unwrap().write_all(input);
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[test]
fn a_payload_comes_from_a_file_or_the_standard_input_byte_for_byte() {
    let server = Server::start();
    let shown = |topic: &str| rows(&server, &["retained", "show", topic]).remove(0);
    let bytes: Vec<u8> = (0..=255).cycle().take(700_000).collect();
    let (code, _, said) = fed(&server, &["publish", "f/stdin", "--file", "-", "--retain", "--qos", "2"], &bytes);
    assert_eq!(code, 0, "{said}");
    let row = shown("f/stdin");
    assert_eq!((row["bytes"].as_u64(), row["qos"].as_u64()), (Some(700_000), Some(2)));
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    assert!(row["payload_hex"].as_str() == Some(&*hex), "every byte is there");
    let text = server.dir.path().join("text");
    std::fs::write(&text, "höllo\r\n\0\u{1b}[2J").unwrap();
    server.ask(&["publish", "f/text", "-f", text.to_str().unwrap(), "-r", "--expiry", "1000"]);
    let row = shown("f/text");
    assert_eq!(row["payload"], "höllo\r\n\0\u{1b}[2J");
    assert_eq!(row["expires_at_us"].as_u64(), Some(row["time_us"].as_u64().unwrap() + 1_000_000_000));
    let text = server.ask(&["retained", "show", "f/text"]);
    assert!(text.ends_with("höllo\\r\n\\u{0}\\u{1b}[2J\n"), "a terminal does not obey it: {text:?}");
    assert!(server.ask(&["retained", "show", "f/stdin"]).contains("\nhexadecimal: 000102"));
    // Not retained: nothing stays. An empty one: nothing stays either.
    server.ask(&["publish", "f/not", "-m", "x"]);
    server.ask(&["publish", "f/text", "-m", "", "--retain"]);
    assert_eq!(column(&rows(&server, &["retained", "ls", "f/#"]), "topic"), ["f/stdin"]);

    let (code, said) = fails(&server, &["publish", "f/+/x", "-m", "x"]);
    assert!(code == 1 && said.contains("topic `f/+/x`: a topic name can't contain the wildcards"), "{said}");
    let (code, said) = fails(&server, &["publish", "f", "-m", "x", "--qos", "3"]);
    assert!(code == 2 && said.contains("--qos"), "{said}");
    let (code, said) = fails(&server, &["publish", "f", "-m", "x", "-f", "text"]);
    assert!(code == 2 && said.contains("--file"), "{said}");
    let (code, said) = fails(&server, &["publish", "f", "-f", "none"]);
    assert!(code == 1 && said.contains("none"), "{said}");
    // Without an end: it is not read for ever.
    let (code, said) = fails(&server, &["publish", "f", "-f", "/dev/zero"]);
    assert!(code == 1 && said.contains("/dev/zero: a payload has at most 16777216 bytes"), "{said}");
    // Properties are part of a packet too.
    let user: Vec<_> = (0..40).map(|n| (n.to_string(), "x".repeat(60_000))).collect();
    let large = serde_json::json!({ "topic": "f", "payload": "x", "user": user }).to_string();
    let (status, body) = http(&server, "POST", "/publish", None, &large);
    assert!(status == 400 && body.contains("mqtt.packet_bytes_max"), "{status} {body}");
}

/// No character that a terminal obeys, but the ends of lines.
fn assert_plain(text: &str) {
    assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "{text:?}");
}

#[test]
fn names_may_have_any_characters_in_them() {
    let server = Server::start();
    let mut clients = ["..", ".", "a/b?c=d&e#f%2F+g h", "\u{1b}]0;x\u{7}\u{9b}2J\nsecond", "kick", "é/日本", "$SYS"];
    clients.sort_unstable();
    for client in &clients {
        let mut session = Session::new(client, false);
        let mut connection = session.connect(server.mqtt).unwrap();
        connection.subscribe(&format!("of/{}", client.replace(['+', '#', '/'], "-")), 1).unwrap();
        connection.disconnect().unwrap();
    }
    wait_for("them to be away", || (rows(&server, &["session", "ls", "--away"]).len() == clients.len()).then_some(()));
    assert_eq!(column(&rows(&server, &["session", "ls", "--limit", "1000"]), "client"), clients);
    for client in &clients {
        assert_eq!(column(&rows(&server, &["session", "show", client]), "client"), [*client]);
        assert_eq!(column(&rows(&server, &["subscription", "ls", "--client", client]), "client"), [*client]);
        let (code, said) = fails(&server, &["client", "kick", client]);
        assert!(code == 1 && said.contains("is not connected"), "{said}");
        assert_plain(&said);
    }
    assert_plain(&server.ask(&["cursor", "ls"]));
    for (command, head) in
        [(&["session", "ls"][..], 1), (&["subscription", "ls"], 1), (&["session", "ls", "--json"], 0)]
    {
        let text = server.ask(command);
        assert_plain(&text);
        assert_eq!(text.lines().count(), clients.len() + head, "a row is a line: {text}");
    }
    for (n, client) in clients.iter().enumerate() {
        assert_plain(&server.ask(&["session", "drop", client]));
        assert_eq!(rows(&server, &["session", "ls"]).len(), clients.len() - n - 1);
    }

    let mut topics = ["clear", "r/é/日本", "r/\u{1b}]0;x\u{7}\n", "a b?c=d&e", "/", "//x/", "%2F", "$a/b", ".."];
    topics.sort_unstable();
    for topic in &topics {
        server.ask(&["publish", topic, "-m", topic, "--retain"]);
    }
    assert_eq!(column(&rows(&server, &["retained", "ls"]), "topic"), topics);
    let text = server.ask(&["retained", "ls"]);
    assert_plain(&text);
    assert_eq!(text.lines().count(), topics.len() + 1, "{text}");
    assert_eq!(column(&rows(&server, &["retained", "ls", "r/é/#"]), "topic"), ["r/é/日本"]);
    assert_eq!(column(&rows(&server, &["retained", "ls", "/#"]), "topic"), ["/", "//x/"]);
    for topic in &topics {
        let row = &rows(&server, &["retained", "show", topic])[0];
        assert_eq!((&row["topic"], &row["payload"]), (&Value::from(*topic), &Value::from(*topic)));
        assert_plain(&server.ask(&["retained", "clear", topic]));
        let (code, said) = fails(&server, &["retained", "show", topic]);
        assert!(code == 1 && said.contains("has no retained message"), "{said}");
    }
    assert!(rows(&server, &["retained", "ls"]).is_empty());
}

#[test]
fn what_can_t_be_asked_is_refused_in_one_form_and_not_taken_for_something_else() {
    let server = Server::start();
    for (method, path, status, says) in [
        ("GET", "/nothing", 404, "nothing at this path"),
        ("GET", "/clients/", 404, "nothing at this path"),
        ("GET", "/clients/x/kick", 405, "another method"),
        ("POST", "/sessions", 405, "another method"),
        ("GET", "/clients/%FF", 400, "UTF-8"),
        ("GET", "/retained?limit=many", 400, "limit"),
        ("GET", "/retained?limit=-1", 400, "limit"),
        ("GET", "/retained?limit=0", 400, "`limit` takes a whole number from 1"),
        ("GET", "/retained?filtre=a", 400, "filtre"),
        ("GET", "/retained?filter=a%2Fb%23", 400, "topic filter `a/b#`"),
        ("GET", "/retained?away=true", 400, "this list takes no `away`; it takes after, limit, filter"),
        ("GET", "/clients?filter=a", 400, "this list takes no `filter`"),
        ("GET", "/sessions?client=a", 400, "this list takes no `client`"),
        ("GET", "/subscriptions?topic=a%2F%2B", 400, "topic `a/+`"),
        ("GET", "/subscriptions?after=x", 400, "`after` takes what `next`"),
        ("GET", "/log/records?from=x&limit=1", 400, "from"),
        ("POST", "/sessions/nobody/drop", 404, "client `nobody` has no session"),
        ("POST", "/retained/clear", 400, "topic"),
    ] {
        let (got, body) = http(&server, method, path, None, "{}");
        let fault: Value = serde_json::from_str(&body).unwrap_or_else(|_| panic!("{path} answers no JSON: {body}"));
        let said = fault["error"].as_str().unwrap_or_else(|| panic!("{path}: {body}"));
        assert!(got == status && said.contains(says), "{path}: {got} {said}");
    }
    let (code, said) = fails(&server, &["subscription", "ls", "--topic", "a/#"]);
    assert!(code == 1 && said.contains("topic `a/#`"), "{said}");
    assert!(server.ask(&["client", "ls", "--limit", "0"]).is_empty());
}

#[test]
fn a_will_of_one_who_is_kicked_or_dropped_is_published_once_and_when_it_is_due() {
    let mut server = Server::start();
    let lasting = |client: &'static str, topic: &'static str, delay: &'static str| {
        let args = [
            &["-V", "mqttv5", "-i", client, "-c", "-x", "4000000000", "-q", "1", "-t", "x"][..],
            &["--will-topic", topic, "--will-payload", "gone", "--will-qos", "1", "--will-retain"],
            &["-D", "will", "will-delay-interval", delay],
        ]
        .concat();
        let subscriber = Subscriber::start(&server, &args);
        connected(&server, client);
        subscriber
    };
    let is_published = |topic: &str| !rows(&server, &["retained", "ls", topic]).is_empty();
    let kicked = lasting("k0", "w/k0", "0");
    server.ask(&["client", "kick", "k0"]);
    assert!(is_published("w/k0"), "it is durable when the command is done");
    kicked.ended();
    let delayed = lasting("k1", "w/k1", "100000");
    server.ask(&["client", "kick", "k1"]);
    delayed.ended();
    assert_eq!(rows(&server, &["session", "show", "k1"])[0]["will"], "w/k1");
    assert!(!is_published("w/k1"), "it waits");
    server.ask(&["session", "drop", "k1"]);
    assert!(is_published("w/k1"), "a will is published at the latest with the session's end");
    for (client, topic, delay) in [("d0", "w/d0", "0"), ("d1", "w/d1", "100000")] {
        let online = lasting(client, topic, delay);
        server.ask(&["session", "drop", client]);
        assert!(is_published(topic), "{topic}");
        online.ended();
    }
    server.ask(&["session", "drop", "k0"]);
    assert!(rows(&server, &["session", "ls"]).is_empty() && rows(&server, &["subscription", "ls"]).is_empty());
    assert!(server.stop().success());
    let mut wills: Vec<_> = server.logged().iter().map(|row| row["topic"].as_str().unwrap().to_owned()).collect();
    wills.sort_unstable();
    assert_eq!(wills, ["w/d0", "w/d1", "w/k0", "w/k1"], "each once");
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
