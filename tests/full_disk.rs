//! A disk that is full: the real program on a small tmpfs, under the load of MQTT clients, with either policy.
//!
//! The data folder is a tmpfs, the SQLite file lies elsewhere. Four publishers keep messages in flight, QoS 1 and 2 in turn (or QoS 2
//! alone, which is never sent twice over a SIGKILL), and persistent sessions subscribe. What was acknowledged must be in SQLite, or have
//! been dropped by the named policy, to the last message.
//!
//! It needs the right to mount a tmpfs (root). Without it the test fails and says so.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::{BTreeSet, HashMap};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

mod support;

use support::client::{Event, Session};
use support::{Server, sqlite, wait_for};

const SIZE: &str = "48m";
const FILLER: usize = 8 << 20;
const PUBLISHERS: u64 = 4;
const IN_FLIGHT: usize = 32;
const PAYLOAD: usize = 4000;
const POLL: Duration = Duration::from_millis(20);
const SINK: &str = "sqlite/pool1";

/// A server whose data folder is a small tmpfs; unmounted when dropped.
struct Small {
    server: Server,
    database: PathBuf,
}

impl Small {
    fn start(when_full: &str) -> Small {
        let server = Server::stopped();
        std::fs::create_dir(server.data()).unwrap();
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={SIZE}"), "tmpfs"])
            .arg(server.data())
            .output()
            .expect("this test needs the program `mount`");
        assert!(
            mount.status.success(),
            "this test needs the right to mount a tmpfs: run it as root, or with `unshare -rm cargo test …`: {}",
            String::from_utf8_lossy(&mount.stderr)
        );
        let database = server.dir.path().join("t.db");
        let file = database.display();
        let rules = format!(
            "backend.sqlite.pool1.file = {file}\n\
             backend.sqlite.hook.message.publish.1 = {{\"topic\": \"#\", \"action\": {{\"function\": \"on_message_publish\"}}, \"pool\": \"pool1\"}}\n"
        );
        std::fs::write(server.dir.path().join("rules.conf"), rules).unwrap();
        server.configure(&format!(
            "backends = [\"rules.conf\"]\n[log]\nsegment_bytes = 1048576\nwhen_full = \"{when_full}\"\n[mqtt]\npacket_bytes_max = 65536\n"
        ));
        let mut small = Small { server, database };
        small.server.restart();
        small
    }

    fn status(&self) -> serde_json::Value {
        serde_json::from_str(&self.server.ask(&["status", "--json"])).unwrap()
    }

    fn is_full(&self) -> bool {
        !self.status()["log"]["no_space"].is_null()
    }

    fn first(&self) -> u64 {
        self.status()["log"]["first"].as_u64().unwrap()
    }

    /// What the policy took from the sink.
    fn dropped(&self) -> u64 {
        let status = self.status();
        let gap = &status["sinks"][0]["gap"];
        if gap.is_null() {
            return 0;
        }
        assert_eq!(gap["reason"], "disk_budget");
        gap["total"].as_u64().unwrap()
    }

    fn sink(&self, what: &str) {
        self.server.ask(&["sink", what, SINK]);
    }

    /// Payload heads of the rows, in the order they were stored.
    fn rows(&self) -> Vec<String> {
        let rows = sqlite(&self.database, "select substr(cast(payload as text), 1, 24) from mqtt_msg order by id");
        rows.into_iter().map(|row| row[0].trim().to_owned()).collect()
    }

    /// An answer of admin HTTP, as it came.
    fn get(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(self.server.admin).unwrap();
        let host = self.server.admin;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    }

    fn metrics(&self) -> String {
        self.get("/metrics")
    }

    fn ready(&self) -> String {
        self.get("/ready")
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.server.data()).status();
    }
}

fn head(publisher: u64, number: u64) -> String {
    format!("p{publisher}-{number}")
}

/// Publishers that run until they are told to stop, and then complete what is in flight.
struct Load {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
    threads: Vec<JoinHandle<Vec<String>>>,
}

impl Load {
    fn start(server: SocketAddr, qos: fn(u64) -> u8) -> Load {
        let (stop, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let threads = (0..PUBLISHERS)
            .map(|n| {
                let (stop, acknowledged) = (Arc::clone(&stop), Arc::clone(&acknowledged));
                std::thread::spawn(move || publish(n, server, qos, &stop, &acknowledged))
            })
            .collect();
        Load { stop, acknowledged, threads }
    }

    fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// Waits for that many more acknowledgements; how long it took.
    fn go_on(&self, count: u64) -> Duration {
        let (begun, from) = (Instant::now(), self.acknowledged());
        wait_for("publishing to go on", || (self.acknowledged() >= from + count).then_some(()));
        begun.elapsed()
    }

    /// What was acknowledged: everything that was sent.
    fn end(self) -> BTreeSet<String> {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    }
}

fn publish(n: u64, server: SocketAddr, qos: fn(u64) -> u8, stop: &AtomicBool, count: &AtomicU64) -> Vec<String> {
    let mut session = Session::new(&format!("publisher-{n}"), false);
    let (mut sent, mut acknowledged, topic) = (0, Vec::new(), format!("full/{n}"));
    while !(stop.load(Ordering::Relaxed) && session.in_flight() == 0) {
        let Ok(mut connection) = session.connect(server) else {
            std::thread::sleep(POLL);
            continue;
        };
        loop {
            let stopping = stop.load(Ordering::Relaxed);
            let mut broken = false;
            while !stopping && !broken && connection.in_flight() < IN_FLIGHT {
                let text = format!("{:<PAYLOAD$}", head(n, sent));
                broken = connection.publish(&topic, text.as_bytes(), qos(sent), sent).is_err();
                sent += 1;
            }
            let Ok(events) = connection.poll(POLL) else { break };
            for event in events {
                if let Event::Acknowledged(tag) = event {
                    acknowledged.push(head(n, tag));
                    count.fetch_add(1, Ordering::Relaxed);
                }
            }
            if broken || stopping && connection.in_flight() == 0 {
                break;
            }
        }
    }
    acknowledged
}

/// A persistent session that subscribes now and reads later.
fn subscribe(id: &str, qos: u8, server: SocketAddr) -> Session {
    let mut session = Session::new(id, false);
    let mut connection = session.connect(server).unwrap();
    connection.subscribe("full/#", qos).unwrap();
    connection.disconnect().unwrap();
    session
}

/// A subscriber that reads and acknowledges until it is told to stop.
struct Reader {
    stop: Arc<AtomicBool>,
    count: Arc<AtomicU64>,
    thread: JoinHandle<HashMap<String, u32>>,
}

impl Reader {
    fn start(mut session: Session, server: SocketAddr) -> Reader {
        let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, counted) = (Arc::clone(&stop), Arc::clone(&count));
        let thread = std::thread::spawn(move || {
            let mut got: HashMap<String, u32> = HashMap::new();
            while !stopped.load(Ordering::Relaxed) {
                let Ok(mut connection) = session.connect(server) else {
                    std::thread::sleep(POLL);
                    continue;
                };
                assert!(connection.session_present, "the session was lost");
                while !stopped.load(Ordering::Relaxed) {
                    let Ok(events) = connection.poll(POLL) else { break };
                    for event in events {
                        if let Event::Message { payload, .. } = event {
                            *got.entry(String::from_utf8(payload).unwrap().trim().to_owned()).or_default() += 1;
                            counted.store(got.len() as u64, Ordering::Relaxed);
                        }
                    }
                }
            }
            got
        });
        Reader { stop, count, thread }
    }

    /// Waits until it has so many different messages.
    fn has(&self, count: u64) {
        wait_for("a subscriber to read on", || (self.count.load(Ordering::Relaxed) >= count).then_some(()));
    }

    fn now(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// How often each message came.
    fn end(self) -> HashMap<String, u32> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

fn in_turn(number: u64) -> u8 {
    if number.is_multiple_of(2) { 2 } else { 1 }
}

fn exactly_once(_: u64) -> u8 {
    2
}

#[test]
fn with_block_nothing_acknowledged_is_lost_readers_go_on_and_it_resumes_by_itself_when_there_is_room() {
    let mut small = Small::start("block");
    let mqtt = small.server.mqtt;
    let subscribers = [subscribe("one", 1, mqtt), subscribe("two", 2, mqtt)];
    small.sink("pause");
    let filler = small.server.data().join("filler");
    std::fs::write(&filler, vec![1; FILLER]).unwrap();
    let load = Load::start(mqtt, in_turn);
    wait_for("the disk to be full", || small.is_full().then_some(()));
    let no_space = small.status()["log"]["no_space"].clone();
    assert_eq!(no_space["reason"], "disk", "{no_space}");
    assert!(small.metrics().contains("forebay_log_no_space_state{reason=\"disk\"} 1"), "{}", small.metrics());
    let ready = small.ready();
    assert!(ready.starts_with("HTTP/1.1 503") && ready.contains("full"), "{ready}");
    assert!(small.server.ask(&["status"]).contains("FULL"));

    // Those who were away read and acknowledge on the full disk, over a SIGKILL and a start on it.
    let at_full = load.acknowledged();
    let readers = subscribers.map(|session| Reader::start(session, mqtt));
    readers.iter().for_each(|reader| reader.has(600));
    small.server.kill();
    small.server.restart_full();
    small.sink("pause");
    wait_for("the disk to be full again", || small.is_full().then_some(()));
    let seen = readers.iter().map(Reader::now).min().unwrap();
    readers.iter().for_each(|reader| reader.has((seen + 300).min(at_full)));

    // Somebody makes room; then the disk is full again, and the sink makes room.
    std::fs::remove_file(&filler).unwrap();
    let by_room = load.go_on(50);
    wait_for("the disk to be full once more", || small.is_full().then_some(()));
    let first = small.first();
    small.sink("resume");
    let by_sink = load.go_on(50);
    wait_for("the log to be trimmed", || (small.first() > first).then_some(()));
    let acknowledged = load.end();
    small.server.wait_stored();
    let [one, two] = readers.map(|reader| {
        reader.has(acknowledged.len() as u64);
        reader.end()
    });
    let unread = acknowledged.iter().filter(|head| !one.contains_key(*head) || !two.contains_key(*head)).count();
    assert_eq!(unread, 0, "acknowledged and not at the subscribers");
    wait_for("the state to end", || (!small.is_full()).then_some(()));
    assert!(small.metrics().contains("forebay_log_no_space_state{reason=\"disk\"} 0"));
    assert!(small.ready().starts_with("HTTP/1.1 200"), "{}", small.ready());

    let rows = small.rows();
    let stored: BTreeSet<String> = rows.iter().cloned().collect();
    let lost = acknowledged.difference(&stored).count();
    println!(
        "block: {} acknowledged ({at_full} when the disk was full), {} in SQLite ({} rows), {} dropped, {lost} lost; resumed {} ms after a \
         file was removed, {} ms after the sink went on",
        acknowledged.len(),
        stored.len(),
        rows.len(),
        small.dropped(),
        by_room.as_millis(),
        by_sink.as_millis()
    );
    assert_eq!((lost, small.dropped()), (0, 0));
    assert_eq!(acknowledged, stored, "what was acknowledged is what is stored");
    // The index of state was given up while the disk was full, and came back by itself: a start needs no replay of the log.
    assert!(small.server.stop().success());
    small.server.restart();
    let recovery = small.status()["recovery"].as_str().unwrap().to_owned();
    assert!(recovery.contains("from its index"), "{recovery}");
}

/// Publishes while the sink stands still, then while it moves; counts what was stored and dropped. With `kill`, the server is killed on
/// the full disk and goes on.
fn drop_oldest(qos: fn(u64) -> u8, kill: bool) {
    let mut small = Small::start("drop_oldest");
    let mqtt = small.server.mqtt;
    let reader = Reader::start(subscribe("one", 1, mqtt), mqtt);
    small.sink("pause");
    let load = Load::start(mqtt, qos);
    wait_for("the sink to be passed", || (small.dropped() > 2_000).then_some(()));
    let first = small.first();
    reader.has(reader.now() + 200);
    if kill {
        small.server.kill();
        small.server.restart_full();
        small.sink("pause");
    }
    let before = small.dropped();
    wait_for("the sink to be passed further", || (small.dropped() > before + 500).then_some(()));
    assert!(small.first() > first, "publishing goes on because the log gives up its oldest");
    let metrics = small.metrics();
    let counted = format!("forebay_sink_dropped_records_total{{sink=\"{SINK}\",reason=\"disk_budget\"}}");
    assert!(metrics.contains(&counted), "{metrics}");
    small.sink("resume");
    load.go_on(500);
    let acknowledged = load.end();
    reader.has(acknowledged.len() as u64);
    reader.end();
    small.server.wait_stored();
    let (rows, dropped) = (small.rows(), small.dropped());
    let stored: BTreeSet<String> = rows.iter().cloned().collect();
    let cursor = small.server.ask(&["cursor", "ls"]);
    println!(
        "drop_oldest{}: {} acknowledged = {} in SQLite + {dropped} dropped by disk_budget",
        if kill { " over a SIGKILL" } else { "" },
        acknowledged.len(),
        rows.len()
    );
    assert!(cursor.contains("disk_budget"), "{cursor}");
    assert_eq!(rows.len(), stored.len(), "stored twice");
    assert!(stored.is_subset(&acknowledged), "stored and never acknowledged");
    assert_eq!(acknowledged.len() as u64, rows.len() as u64 + dropped);
}

#[test]
fn with_drop_oldest_publishing_goes_on_and_stored_and_dropped_make_up_what_was_acknowledged() {
    drop_oldest(in_turn, false);
}

#[test]
fn with_drop_oldest_the_counts_add_up_over_a_sigkill_on_the_full_disk() {
    drop_oldest(exactly_once, true);
}
