//! `mosquitto_sub` and `mosquitto_pub`: one process for each connection. What they do is read from what they print.

use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};

use crate::client::{Client, Event, Hand, Kind, Library, Message, Open, Outgoing, Will};
use crate::support::wait_for;

const MISSING: &str = "mosquitto-clients is needed: `cargo xtask test --only provision` installs it";

/// The programs, with one version of MQTT.
pub struct Mosquitto {
    pub is_5: bool,
}

impl Library for Mosquitto {
    fn is_5(&self) -> bool {
        self.is_5
    }

    fn kinds(&self) -> &'static [Kind] {
        &[Kind::Tcp, Kind::Tls]
    }

    /// So `mosquitto_sub` ends at SIGTERM.
    fn says_goodbye_with_its_will(&self) -> bool {
        self.is_5
    }

    fn open(&self, open: &Open) -> Client {
        let (sender, events) = channel();
        let hand: Box<dyn Hand> = match open.stream {
            _ if !open.filters.is_empty() => {
                let mut command = self.command("mosquitto_sub", open);
                command.args(["-F", "%j", "-q", &open.qos.to_string()]);
                command.args(open.filters.iter().flat_map(|filter| ["-t", filter]));
                if let Some(will) = open.will {
                    command.args(["--will-topic", will.topic, "--will-payload", Will::PAYLOAD]);
                    command.args(["--will-qos", &Will::QOS.to_string()]);
                    command.args(will.retain.then_some("--will-retain"));
                    if self.is_5 {
                        command.args(["-D", "will", "will-delay-interval", &will.delay.to_string()]);
                    }
                }
                if self.is_5 {
                    // When a message of QoS 2 is sent again after a break, libmosquitto takes it for one more of those that it may
                    // have under way, and gives up where these seem too many.
                    command.args(["-D", "connect", "receive-maximum", "1000"]);
                }
                Box::new(Running::start(command, Stdio::null(), sender))
            }
            Some((topic, qos)) => {
                let mut command = self.command("mosquitto_pub", open);
                command.args(["-l", "-t", topic, "-q", &qos.to_string()]);
                Box::new(Running::start(command, Stdio::piped(), sender))
            }
            None => {
                sender.send(Event::Connected { resumed: None }).unwrap();
                Box::new(OneShots { command: self.arguments(open), sender })
            }
        };
        Client::new(open.id, events, hand)
    }
}

impl Mosquitto {
    /// The program with its output a line at a time, each of which says what it does.
    fn command(&self, program: &str, open: &Open) -> Command {
        let mut command = Command::new("stdbuf");
        command.args(["-oL", program, "-d"]).args(self.arguments(open));
        command
    }

    fn arguments(&self, open: &Open) -> Vec<String> {
        let version = if self.is_5 { "mqttv5" } else { "mqttv311" };
        let mut arguments: Vec<String> =
            ["-V", version, "-h", "localhost", "-p", &open.way.port.to_string(), "-i", open.id]
                .map(String::from)
                .into();
        if open.way.kind == Kind::Tls {
            arguments.extend(["--cafile".to_owned(), open.way.authority.display().to_string()]);
            if let Some([certificate, key]) = &open.way.certificate {
                let files = [
                    "--cert".to_owned(),
                    certificate.display().to_string(),
                    "--key".to_owned(),
                    key.display().to_string(),
                ];
                arguments.extend(files);
            }
        }
        arguments.extend(open.lasting.then(|| "-c".to_owned()));
        arguments
    }
}

/// A process with one connection.
struct Running {
    child: Arc<Mutex<Child>>,
    /// Its lines are what `mosquitto_pub -l` publishes.
    input: Option<ChildStdin>,
    sender: Sender<Event>,
}

impl Running {
    fn start(mut command: Command, input: Stdio, sender: Sender<Event>) -> Running {
        let (reader, writer) = std::io::pipe().unwrap();
        command.stdin(input).stdout(writer.try_clone().unwrap()).stderr(writer);
        let mut child = command.spawn().expect(MISSING);
        // The output ends when nobody has its other end any more.
        drop(command);
        let input = child.stdin.take();
        let child = Arc::new(Mutex::new(child));
        let (process, told) = (Arc::clone(&child), sender.clone());
        std::thread::spawn(move || {
            // Nobody may look any more.
            let tell = |event| drop(told.send(event));
            let mut last = String::new();
            for line in BufReader::new(reader).lines() {
                let line = line.unwrap();
                match read(&line) {
                    Some(event) => tell(event),
                    None => last = last + "\n" + &line,
                }
            }
            let status = process.lock().unwrap().wait().unwrap();
            tell(if status.success() { Event::Ended } else { Event::Failed { reason: format!("{status}: {last}") } });
        });
        Running { child, input, sender }
    }

    fn signal(&self, signal: &str) {
        let pid = self.child.lock().unwrap().id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }
}

/// What a line of the output tells.
fn read(line: &str) -> Option<Event> {
    if line.starts_with('{') {
        let value: serde_json::Value = serde_json::from_str(line).unwrap();
        return Some(Event::Message(Message {
            topic: value["topic"].as_str().unwrap().to_owned(),
            payload: value["payload"].as_str().unwrap_or_default().to_owned(),
            qos: value["qos"].as_u64().unwrap() as u8,
            retain: value["retain"] == 1,
        }));
    }
    if line.ends_with("received CONNACK (0)") {
        return Some(Event::Connected { resumed: None });
    }
    if let Some((_, granted)) = line.strip_prefix("Subscribed (mid: ").and_then(|rest| rest.split_once("): ")) {
        return Some(Event::Subscribed { granted: granted.split(", ").map(|code| code.parse().unwrap()).collect() });
    }
    // Ids of packets count from 1, and are not used for anything else here.
    let number = |text: &str| text.split([',', ')']).next().and_then(|number| number.trim().parse().ok());
    let acknowledged = ["received PUBACK (Mid: ", "received PUBCOMP (Mid: "];
    acknowledged.iter().find_map(|words| Some(Event::Published { tag: number(line.split_once(words)?.1)? }))
}

impl Hand for Running {
    fn publish(&mut self, message: &Outgoing, _tag: u64) {
        let input = self.input.as_mut().expect("a stream");
        writeln!(input, "{}", message.payload).unwrap();
    }

    /// A subscriber ends at SIGTERM, a publisher when it has no more lines.
    fn disconnect(&mut self) {
        match self.input.take() {
            Some(input) => drop(input),
            None => self.signal("-TERM"),
        }
    }

    fn cut(&mut self) {
        self.signal("-KILL");
        wait_for("the process to end", || self.child.lock().unwrap().try_wait().unwrap());
        self.sender.send(Event::Ended).unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // One that has ended by itself is as good.
        let _ = self.child.lock().unwrap().kill();
    }
}

/// A process for each message.
struct OneShots {
    command: Vec<String>,
    sender: Sender<Event>,
}

impl Hand for OneShots {
    fn publish(&mut self, message: &Outgoing, tag: u64) {
        let Outgoing { topic, payload, qos, retain } = message;
        let mut command = Command::new("timeout");
        command.args(["60", "mosquitto_pub"]).args(&self.command).args(["-t", topic, "-q", &qos.to_string()]);
        command.args(retain.then_some("-r")).arg(if payload.is_empty() { "-n" } else { "-s" });
        let (mut reader, writer) = std::io::pipe().unwrap();
        let mut child = command.stdin(Stdio::piped()).stderr(writer).spawn().expect(MISSING);
        drop(command);
        // One that does not read has ended, and says why.
        let _ = child.stdin.take().unwrap().write_all(payload.as_bytes());
        let mut said = String::new();
        reader.read_to_string(&mut said).unwrap();
        let event = match child.wait().unwrap() {
            status if status.success() => Event::Published { tag },
            status => Event::Failed { reason: format!("{status}: {said}") },
        };
        self.sender.send(event).unwrap();
    }

    fn disconnect(&mut self) {
        self.sender.send(Event::Ended).unwrap();
    }

    fn cut(&mut self) {
        self.disconnect();
    }
}
