//! Users, passwords and rules through the whole program, with a client and a terminal from outside.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Output, Stdio};

mod support;

use support::{Server, forebay, run, wait_for};

/// Publishes; whether the client says it was acknowledged.
fn publish(server: &Server, user: Option<(&str, &str)>, topic: &str, version: &str) -> Output {
    let mut command = Command::new("timeout");
    command.args(["60", "mosquitto_pub", "-h", "127.0.0.1", "-p", &server.mqtt.port().to_string(), "-V", version]);
    if let Some((name, password)) = user {
        command.args(["-u", name, "-P", password]);
    }
    command.args(["-q", "1", "-t", topic, "-m", "x"]);
    command.output().expect("mosquitto_pub is needed: `cargo xtask test` installs it")
}

/// `forebay user …` in the server's folder, with this on its standard input.
fn user(server: &Server, args: &[&str], input: &str) -> Output {
    let mut command = forebay();
    command.arg("user").args(args).current_dir(server.dir.path());
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // One that fails before it reads closes its end first.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

fn configured() -> Server {
    let server = Server::stopped();
    server.configure("[access]\nusers = \"users\"\nacl = \"acl\"\n");
    std::fs::write(server.dir.path().join("acl"), "allow all sensors/%u/#\n").unwrap();
    server
}

#[test]
fn a_user_publishes_where_he_may_until_his_password_changes() {
    let mut server = configured();
    assert_eq!(run(&["check"], server.dir.path()).status.code(), Some(2), "there is no users file yet");
    assert!(user(&server, &["add", "anna"], "first\n").status.success());
    assert!(!user(&server, &["add", "anna"], "first\n").status.success(), "there is one");
    let file = server.dir.path().join("users");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(!std::fs::read_to_string(&file).unwrap().contains("first"));
    assert!(run(&["check"], server.dir.path()).status.success());
    server.restart_full();
    for version in ["mqttv311", "mqttv5"] {
        assert!(publish(&server, Some(("anna", "first")), "sensors/anna/t", version).status.success());
        for (who, topic) in [
            (Some(("anna", "second")), "sensors/anna/t"),
            (Some(("bob", "first")), "sensors/bob/t"),
            (None, "sensors/anna/t"),
        ] {
            assert!(!publish(&server, who, topic, version).status.success(), "{who:?} {topic}");
        }
    }
    // What the client makes of a refusal is its own affair.
    for (version, told) in [("mqttv5", "a publish is not allowed; "), ("mqttv311", "not allowed: the connection ends")]
    {
        publish(&server, Some(("anna", "first")), "sensors/bob/t", version);
        wait_for("the refusal to be told of", || server.messages().contains(told).then_some(()));
    }
    std::fs::write(server.dir.path().join("pw"), "second\nnot this line\n").unwrap();
    assert!(user(&server, &["passwd", "anna", "--password-file", "pw"], "").status.success());
    server.hang_up();
    wait_for("the new password to count", || {
        publish(&server, Some(("anna", "second")), "sensors/anna/t", "mqttv5").status.success().then_some(())
    });
    assert!(!publish(&server, Some(("anna", "first")), "sensors/anna/t", "mqttv5").status.success());
    // A bad file changes nothing and is told of with its place.
    let good = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("{good}bob\n")).unwrap();
    wait_for("the fault to be told of", || server.messages().contains("users:2:1: ").then_some(()));
    assert!(publish(&server, Some(("anna", "second")), "sensors/anna/t", "mqttv5").status.success());
    assert!(server.stop().success());
    let logged = server.logged();
    assert!(logged.iter().all(|row| row["topic"] == "sensors/anna/t"), "{logged:?}");
}

#[test]
fn the_users_file_is_kept_by_commands_that_say_what_is_wrong() {
    let server = configured();
    let failed = |args: &[&str], input: &str, expected: &str| {
        let output = user(&server, args, input);
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && text.contains(expected), "{args:?}: {text}");
    };
    failed(&["list"], "", "make it with `forebay user add`");
    failed(&["add", "a:b"], "x\n", "can't contain `:`");
    failed(&["add", "anna"], "", "is empty: it has to be the password");
    failed(&["passwd", "anna"], "x\n", "make it with `forebay user add`");
    for name in ["bob", "anna"] {
        assert!(user(&server, &["add", name], "x\n").status.success());
    }
    failed(&["rm", "carl"], "", "there is no user `carl`");
    assert_eq!(user(&server, &["list"], "").stdout, b"anna\nbob\n");
    assert!(user(&server, &["rm", "bob"], "").status.success());
    assert_eq!(user(&server, &["list", "--json"], "").stdout, b"{\"user\":\"anna\"}\n");
    assert!(user(&server, &["add", "carl", "--users", "others"], "x\n").status.success());
    assert_eq!(user(&server, &["list", "--users", "others"], "").stdout, b"carl\n");
    server.configure("");
    failed(&["list"], "", "there is no users file: set `access.users`");
    server.configure("[access]\nacl = \"acl\"\n");
    std::fs::write(server.dir.path().join("acl"), "allow all a\nallow all a/#/b\n").unwrap();
    let output = run(&["check"], server.dir.path());
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(2) && text.contains("acl:2:11: topic filter `a/#/b`: # must be"), "{text}");
}

/// Types at the program's terminal when it asks; what the terminal showed.
fn typed(server: &Server, answers: &[&str]) -> String {
    let command = format!("'{}' user add anna --users typed", env!("CARGO_BIN_EXE_forebay"));
    let mut script = Command::new("script");
    script.args(["-q", "-e", "-f", "-c", &command, "/dev/null"]).current_dir(server.dir.path());
    let mut child = script.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("script (bsdutils) is needed");
    let (mut keys, mut screen) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let mut shown = String::new();
    let mut read = |until: &str, shown: &mut String| {
        let mut byte = [0];
        while !shown.ends_with(until) && screen.read(&mut byte).unwrap() > 0 {
            shown.push(char::from(byte[0]));
        }
    };
    for (prompt, answer) in ["Password: ", "The same again: "].iter().zip(answers) {
        read(prompt, &mut shown);
        keys.write_all(answer.as_bytes()).unwrap();
    }
    read("never shown", &mut shown);
    drop(keys);
    child.wait().unwrap();
    shown
}

#[test]
fn a_terminal_asks_twice_and_shows_nothing_of_the_password() {
    let server = configured();
    let shown = typed(&server, &["secret\r", "different\r"]);
    assert!(shown.contains("not the same") && !shown.contains("secret"), "{shown}");
    let shown = typed(&server, &["\x03"]);
    assert!(shown.contains("interrupted"), "{shown}");
    assert!(!server.dir.path().join("typed").exists());
    // A slip, taken back.
    let shown = typed(&server, &["nope\x15secreé\x7ft\r", "secret\r"]);
    assert!(shown.contains("user anna added") && !shown.contains("secret"), "{shown}");
}
