//! A broker in 200 lines around the engine: clients speak lines over TCP, sessions outlive their connections, and what was
//! acknowledged outlives the broker.
//!
//! `cargo run -p forebay-engine --example embed_in_a_broker [folder]`
//!
//! | client says | broker answers | what is durable then |
//! |---|---|---|
//! | `CONNECT id` | `CONNACK new`, `CONNACK resumed` | the session |
//! | `SUB filter` | `SUBACK` | the subscription |
//! | `PUB topic text` | `PUBACK msgid` | the message |
//! | | `MSG number topic text` | |
//! | `ACK number` | | nothing at once: a crash costs one repeated delivery |

use std::error::Error;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use forebay_engine::delivery::{AttachOptions, Mailbox};
use forebay_engine::event::{
    AckOutcome, ClientDisconnected, DisconnectReason, Event, Published, SessionOpened, Subscribed, SubscriptionOptions,
};
use forebay_engine::{Engine, EngineOptions, Lsn, Message, QoS};

type Failure = Box<dyn Error + Send + Sync>;

/// Longest wait for the disk.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often a connection looks for messages while its client says nothing. A broker with a runtime awaits `Mailbox::ready`.
const TURN: Duration = Duration::from_millis(2);

/// A running broker.
pub struct Broker {
    engine: Engine,
    address: SocketAddr,
    stopping: Arc<AtomicBool>,
    listener: Option<JoinHandle<()>>,
}

impl Broker {
    /// Opens the folder and listens.
    ///
    /// # Errors
    /// The folder does not open; there is no port.
    pub fn start(dir: &Path) -> Result<Broker, Failure> {
        let (engine, report) = Engine::open(EngineOptions::new(dir))?;
        println!("broker: state from {:?}, {} records replayed", report.state, report.replayed);
        let socket = TcpListener::bind("127.0.0.1:0")?;
        let (address, stopping) = (socket.local_addr()?, Arc::new(AtomicBool::new(false)));
        let (for_connections, stop) = (engine.clone(), Arc::clone(&stopping));
        let listener = thread::spawn(move || {
            let mut connections = Vec::new();
            for stream in socket.incoming() {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                let Ok(stream) = stream else { continue };
                let (engine, stop) = (for_connections.clone(), Arc::clone(&stop));
                connections.push(thread::spawn(move || {
                    if let Err(problem) = connection(&engine, stream, &stop) {
                        println!("broker: connection ended: {problem}");
                    }
                }));
            }
            connections.into_iter().for_each(|connection| drop(connection.join()));
        });
        Ok(Broker { engine, address, stopping, listener: Some(listener) })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends it: by the book, or as if it had been killed, without sealing the log and without a word to anybody.
    pub fn stop(mut self, crash: bool) {
        self.stopping.store(true, Ordering::Relaxed);
        if !crash {
            self.engine.close();
        }
        drop(TcpStream::connect(self.address));
        if let Some(listener) = self.listener.take() {
            drop(listener.join());
        }
    }
}

/// Appends and waits until the record is durable and in state.
fn apply(engine: &Engine, event: Event) -> Result<(), Failure> {
    let appended = engine.append_within(&[event], PATIENCE)?;
    if engine.applied_within(appended.last, PATIENCE)? { Ok(()) } else { Err("the disk takes too long".into()) }
}

/// Lines of a client, on a thread of their own: the channel ends with the connection.
fn lines_of(stream: TcpStream) -> Receiver<String> {
    let (send, lines) = channel();
    thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            if send.send(line).is_err() {
                break;
            }
        }
    });
    lines
}

/// One client, from CONNECT to the end of its connection.
fn connection(engine: &Engine, stream: TcpStream, stopping: &AtomicBool) -> Result<(), Failure> {
    let lines = lines_of(stream.try_clone()?);
    let first = lines.recv_timeout(PATIENCE)?;
    let client = first.strip_prefix("CONNECT ").ok_or("CONNECT expected")?;
    let (epoch, resumed) = (engine.next_epoch(), engine.session(client).is_some());
    let session = SessionOpened {
        client: client.into(),
        epoch,
        resumed,
        expiry_s: 3600,
        will: None,
        username: "".into(),
        peer: stream.peer_addr()?.ip().to_string().into(),
    };
    apply(engine, Event::SessionOpened(session))?;
    let mut mailbox = engine.attach(&AttachOptions { client: client.into(), epoch, window: 20, in_flight: vec![] });
    writeln!(&stream, "CONNACK {}", if resumed { "resumed" } else { "new" })?;
    let ended = serve(engine, (client, epoch), &mut mailbox, &lines, &stream, stopping);
    // The session stays for an hour; what it has read is part of the record.
    let positions = mailbox.positions();
    drop(mailbox);
    let goodbye = ClientDisconnected {
        client: client.into(),
        epoch,
        reason: DisconnectReason::Normal,
        superseded: false,
        cancel_will: true,
        expiry_s: None,
        positions,
    };
    if !stopping.load(Ordering::Relaxed) {
        engine.append_within(&[Event::ClientDisconnected(goodbye)], PATIENCE)?;
    }
    let _ = stream.shutdown(std::net::Shutdown::Both);
    ended
}

/// Commands in, messages out, in turns.
fn serve(
    engine: &Engine,
    (client, epoch): (&str, u64),
    mailbox: &mut Mailbox,
    lines: &Receiver<String>,
    mut out: &TcpStream,
    stopping: &AtomicBool,
) -> Result<(), Failure> {
    let mut deliveries = Vec::new();
    while !stopping.load(Ordering::Relaxed) {
        mailbox.take(10, &mut deliveries);
        for delivery in deliveries.drain(..) {
            let text = String::from_utf8_lossy(&delivery.message.payload);
            writeln!(out, "MSG {} {} {text}", delivery.lsn, delivery.message.topic)?;
        }
        let line = match lines.recv_timeout(TURN) {
            Ok(line) => line,
            Err(RecvTimeoutError::Timeout) => continue,
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        };
        let mut words = line.splitn(3, ' ');
        match (words.next(), words.next(), words.next()) {
            (Some("SUB"), Some(filter), None) => {
                let options = SubscriptionOptions::of_qos(QoS::AtLeastOnce);
                let (client, filter) = (client.into(), filter.into());
                apply(engine, Event::Subscribed(Subscribed { client, epoch, filter, options, by_proxy: false }))?;
                writeln!(out, "SUBACK")?;
            }
            (Some("PUB"), Some(topic), text) => {
                let payload = text.unwrap_or_default().to_owned().into();
                let publisher = client.into();
                let qos = QoS::AtLeastOnce;
                let message = Message { topic: topic.into(), payload, qos, publisher, ..Message::default() };
                // A message that no rule and no subscription asks for is nobody's: it may be acknowledged and forgotten.
                let name = if engine.wants(&message) {
                    let event = Event::Published(Published { message, packet_id: None, epoch });
                    let appended = engine.append_within(&[event], PATIENCE)?;
                    if !engine.durable_within(appended.last, PATIENCE)? {
                        return Err("the disk takes too long".into());
                    }
                    engine.msgid(appended.first, appended.first_time_us).to_string()
                } else {
                    "-".into()
                };
                writeln!(out, "PUBACK {name}")?;
            }
            (Some("ACK"), Some(number), None) => {
                mailbox.settle(&[(Lsn(number.parse()?), None, AckOutcome::Acknowledged)]);
            }
            _ => return Err(format!("not understood: {line}").into()),
        }
    }
    Ok(())
}

/// The other end of the line.
pub struct Client {
    stream: TcpStream,
    lines: Receiver<String>,
}

impl Client {
    /// Connects; the answer is `CONNACK new` or `CONNACK resumed`.
    ///
    /// # Errors
    /// Of the network.
    pub fn connect(address: SocketAddr, name: &str) -> Result<(Client, String), Failure> {
        let stream = TcpStream::connect(address)?;
        let client = Client { lines: lines_of(stream.try_clone()?), stream };
        let answer = client.ask(&format!("CONNECT {name}"))?;
        Ok((client, answer))
    }

    /// Says something and waits for the next line.
    ///
    /// # Errors
    /// Of the network.
    pub fn ask(&self, line: &str) -> Result<String, Failure> {
        writeln!(&self.stream, "{line}")?;
        Ok(self.lines.recv_timeout(PATIENCE)?)
    }

    /// Takes `count` messages and acknowledges them; their texts.
    ///
    /// # Errors
    /// Of the network.
    pub fn receive(&self, count: usize) -> Result<Vec<String>, Failure> {
        let mut texts = Vec::new();
        while texts.len() < count {
            let line = self.lines.recv_timeout(PATIENCE)?;
            let mut words = line.splitn(4, ' ');
            if let (Some("MSG"), Some(number), Some(_), Some(text)) =
                (words.next(), words.next(), words.next(), words.next())
            {
                writeln!(&self.stream, "ACK {number}")?;
                texts.push(text.to_owned());
            }
        }
        Ok(texts)
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
    }
}

/// A subscriber comes, goes, and misses messages; the broker dies after it acknowledged them; they are delivered all the same.
///
/// # Errors
/// Of disk and network.
pub fn run(dir: &Path) -> Result<Vec<String>, Failure> {
    let broker = Broker::start(dir)?;
    let (kitchen, answer) = Client::connect(broker.address(), "kitchen")?;
    println!("kitchen: {answer}, {}", kitchen.ask("SUB orders/#")?);
    let (shop, _) = Client::connect(broker.address(), "shop")?;
    println!("shop: {}", shop.ask("PUB orders/1 soup")?);
    let mut received = kitchen.receive(1)?;
    drop(kitchen);
    for order in ["bread", "fish"] {
        println!("shop: {}", shop.ask(&format!("PUB orders/2 {order}"))?);
    }
    broker.stop(true);

    let broker = Broker::start(dir)?;
    let (kitchen, answer) = Client::connect(broker.address(), "kitchen")?;
    println!("kitchen: {answer}");
    // The acknowledgement of the soup may have been lost with the crash: then it comes once more.
    while received.last().is_none_or(|last| last != "fish") {
        received.extend(kitchen.receive(1)?);
    }
    drop(kitchen);
    broker.stop(false);
    Ok(received)
}

fn main() -> Result<(), Failure> {
    let dir = std::env::args().nth(1).map_or_else(|| std::env::temp_dir().join("forebay-embedded"), Into::into);
    println!("kitchen got: {:?}", run(&dir)?);
    Ok(())
}
