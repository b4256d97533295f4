//! TLS with `mosquitto_pub` and `mosquitto_sub`: its versions, clients' certificates, files that can't be used. What clients of every
//! make do over each way in is in `tests/clients/`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::net::SocketAddr;
use std::process::{Command, Stdio};

use forebay_services::certificates::{CLIENT, Certificates, certificates};

mod support;

use support::{Server, free_address, run, wait_for};

/// A server with one listener of each kind.
struct Ways {
    server: Server,
    files: Certificates,
    tls: SocketAddr,
    /// Clients need a certificate here.
    closed: SocketAddr,
}

impl Ways {
    fn start() -> Ways {
        Ways::with("", "")
    }

    /// With lines of configuration and the rules in its file `acl`.
    fn with(configuration: &str, rules: &str) -> Ways {
        let files = certificates().unwrap();
        let [tls, closed, ws, wss] = [(); 4].map(|()| free_address());
        let mut server = Server::stopped();
        let pair = format!(
            "certificate_file = \"{}\"\nkey_file = \"{}\"\n",
            files.server.display(),
            files.server_key.display()
        );
        server.configure(&format!(
            "{configuration}[[listener]]\nlisten = \"{tls}\"\nkind = \"tls\"\n{pair}\n\
             [[listener]]\nlisten = \"{closed}\"\nkind = \"tls\"\n{pair}client_certificate = \"required\"\n\
             client_ca_file = \"{}\"\nuser_from = \"cn\"\n\n\
             [[listener]]\nlisten = \"{ws}\"\nkind = \"ws\"\npath = \"/mqtt\"\n\n\
             [[listener]]\nlisten = \"{wss}\"\nkind = \"wss\"\n{pair}",
            files.authority.display()
        ));
        std::fs::write(server.dir.path().join("acl"), rules).unwrap();
        server.restart();
        Ways { server, files, tls, closed }
    }

    /// `mosquitto_pub` or `mosquitto_sub` at this listener, trusting the tests' authority.
    fn mosquitto(&self, program: &str, at: SocketAddr) -> Command {
        let mut command = Command::new(program);
        command
            .args(["-h", "localhost", "-p", &at.port().to_string(), "-q", "1", "--cafile"])
            .arg(&self.files.authority);
        command
    }

    fn with_certificate(&self, mut command: Command) -> Command {
        command.arg("--cert").arg(&self.files.client).arg("--key").arg(&self.files.client_key);
        command
    }

    fn publishes(&self, command: Command, payload: &str) -> bool {
        self.publishes_to(command, "pubsub/a", payload)
    }

    fn publishes_to(&self, mut command: Command, topic: &str, payload: &str) -> bool {
        let command = command.args(["-t", topic, "-m", payload]).stderr(Stdio::null());
        command.status().expect("mosquitto_pub is needed: `cargo xtask test` installs it").success()
    }
}

#[test]
fn mosquitto_publishes_over_tls_and_what_it_publishes_is_stored() {
    let ways = Ways::start();
    for version in ["tlsv1.2", "tlsv1.3"] {
        let mut command = ways.mosquitto("mosquitto_pub", ways.tls);
        command.args(["--tls-version", version]);
        assert!(ways.publishes(command, version), "{version}");
    }
    let rows = wait_for("the rows", || Some(ways.server.stored()).filter(|rows| rows.len() == 2));
    let payloads: Vec<&str> = rows.iter().map(|row| row.2.as_str()).collect();
    assert_eq!(payloads, ["tlsv1.2", "tlsv1.3"]);
    let mut plain = Command::new("mosquitto_pub");
    plain.args(["-h", "localhost", "-p", &ways.tls.port().to_string(), "-q", "1"]);
    assert!(!ways.publishes(plain, "plain"), "without TLS nobody gets in");
}

#[test]
fn mosquitto_needs_a_certificate_where_one_is_required() {
    let ways = Ways::start();
    assert!(!ways.publishes(ways.mosquitto("mosquitto_pub", ways.closed), "without"));
    assert!(ways.publishes(ways.with_certificate(ways.mosquitto("mosquitto_pub", ways.closed)), "with"));
    let mut subscriber = ways.with_certificate(ways.mosquitto("mosquitto_sub", ways.closed));
    let output = subscriber.args(["-i", "s", "-t", "pubsub/a", "-C", "1", "-W", "20"]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "with");
}

#[test]
fn what_the_user_of_a_certificate_may_do_is_decided_by_the_rules() {
    let mut ways = Ways::with("[access]\nacl = \"acl\"\n", "allow publish users/%u/#\n");
    let connect = |at, name: Option<&str>| {
        let mut command = ways.mosquitto("mosquitto_pub", at);
        command.args(["-V", "mqttv5"]).args(name.map(|name| ["-u", name]).into_iter().flatten());
        command
    };
    let certified = |name| ways.with_certificate(connect(ways.closed, name));
    assert!(ways.publishes_to(certified(None), &format!("users/{CLIENT}/a"), "his"));
    // What the client makes of a refusal is its own affair: the log is looked at.
    ways.publishes_to(certified(None), "users/anna/a", "another's");
    // Names that nothing shows count for nothing.
    ways.publishes_to(certified(Some("anna")), "users/anna/a", "another's, by a name");
    ways.publishes_to(connect(ways.tls, Some(CLIENT)), &format!("users/{CLIENT}/a"), "his, without his certificate");
    wait_for("the refusals to be told of", || {
        (ways.server.messages().matches("a publish is not allowed").count() >= 3).then_some(())
    });
    assert!(ways.server.stop().success());
    let logged: Vec<_> = ways.server.logged().iter().map(|row| row["payload"].clone()).collect();
    assert_eq!(logged, ["his"]);
}

#[test]
fn every_way_in_is_shown() {
    let ways = Ways::start();
    let status: serde_json::Value = serde_json::from_str(&ways.server.ask(&["status", "--json"])).unwrap();
    let kinds: Vec<&str> =
        status["listeners"].as_array().unwrap().iter().map(|l| l["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["tcp", "tls", "tls", "ws", "wss"]);
}

#[test]
fn certificates_that_can_t_be_used_are_named_before_anything_starts() {
    let dir = tempfile::tempdir().unwrap();
    let text = "[[listener]]\nlisten = \"127.0.0.1:8883\"\nkind = \"tls\"\ncertificate_file = \"none.crt\"\nkey_file = \"none.key\"\n";
    std::fs::write(dir.path().join("forebay.toml"), text).unwrap();
    for command in ["check", "run"] {
        let output = run(&[command], dir.path());
        assert_eq!(output.status.code(), Some(2));
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(text.contains("forebay.toml:2:10: the listener 127.0.0.1:8883: the certificate file"), "{text}");
        assert!(text.contains("none.crt can't be read"), "{text}");
        assert!(!dir.path().join("forebay-data").exists());
    }
}
