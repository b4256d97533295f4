//! An engine and its sinks in a temporary folder (with an SQLite file, where the rules have one), and clients that go through
//! events.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use forebay_engine::delivery::{AttachOptions, Mailbox};
use forebay_engine::event::*;
use forebay_engine::log::{AppendError, DurableError, ReadError};
use forebay_engine::state::Gap;
use forebay_engine::{Engine, EngineOptions, Log, LogOptions, Lsn, MsgId, QoS, Record};
use forebay_sinks::dead_letter::LetterStore;
use forebay_sinks::registry::sink_name;
use forebay_sinks::rule::{RuleSet, parse_conf};
use forebay_sinks::runtime::RuntimeOptions;
use forebay_sinks::runtime::backoff::Backoff;
use forebay_sinks::source::{BoxFuture, EngineSource, RecordReader, Source};
use forebay_sinks::{DatabaseOptions, SinkState, SinkStatus, Sinks, SinksOptions};
use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{AssertSqlSafe, Connection, Row};

/// The sink of the tests' SQLite rules.
pub const SINK: &str = "sqlite/pool1";

/// Operations that the tests' sinks may hold in memory.
pub const MEMORY_BYTES: usize = 1 << 20;

/// Everything in one folder.
pub struct World {
    folder: tempfile::TempDir,
    rules: RuleSet,
    options: fn(&mut EngineOptions),
    pub engine: Engine,
    sinks: Option<Sinks>,
    read: Arc<AtomicUsize>,
}

impl World {
    /// Starts the engine and the sinks with the rules of a `.conf` text.
    pub async fn new(conf: &str) -> World {
        World::with(conf, |_| {}).await
    }

    /// With other settings of the engine.
    pub async fn with(conf: &str, options: fn(&mut EngineOptions)) -> World {
        let parsed = parse_conf(Path::new("test.conf"), conf);
        assert_eq!(parsed.faults, []);
        let folder = tempfile::tempdir().unwrap();
        let engine = open(folder.path(), &parsed.rules, options);
        let mut world = World { folder, rules: parsed.rules, options, engine, sinks: None, read: Arc::default() };
        world.start_sinks();
        world
    }

    /// The name of the only sink.
    pub fn sink(&self) -> String {
        let rule = &self.rules.rules[0];
        sink_name(rule.database, &rule.pool)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn sinks(&self) -> &Sinks {
        self.sinks.as_ref().unwrap()
    }

    pub fn status(&self) -> SinkStatus {
        self.sinks().status().remove(0)
    }

    pub fn start_sinks(&mut self) {
        self.sinks = Some(self.sinks_with("letters"));
    }

    /// Sinks beside those that run.
    pub fn fresh_sinks(&self) -> Sinks {
        self.sinks_with("letters-beside")
    }

    /// Sinks with their dead letters in this folder: a log is open once at a time.
    fn sinks_with(&self, letters: &str) -> Sinks {
        let letters = self.path(letters);
        let options = SinksOptions {
            databases: DatabaseOptions { data_dir: self.folder.path().to_owned(), node_name: "here".into() },
            lookup_deadline: Duration::from_millis(2_000),
            runtime: RuntimeOptions {
                backoff: Backoff { first: Duration::from_millis(5), longest: Duration::from_millis(100) },
                linger: Duration::from_millis(1),
                memory_bytes: MEMORY_BYTES,
                report_every: Duration::from_millis(50),
                ..RuntimeOptions::default()
            },
            open_letters: Arc::new(move |sink| {
                let options = LogOptions::new(letters.join(sink.replace('/', "-")));
                let (log, _) = Log::open(options).map_err(|e| e.to_string())?;
                Ok(Arc::new(log) as Arc<dyn LetterStore>)
            }),
        };
        let log_id = self.engine.log().id().iter().take(8).fold(0u64, |id, byte| (id << 8) | u64::from(*byte));
        let source = Counted { inner: EngineSource::new(self.engine.clone(), log_id), read: self.read.clone() };
        let sinks = Sinks::start(Arc::new(source), &self.rules, &options).unwrap();
        self.engine.hold_for_sinks(&[self.sink()]);
        sinks
    }

    pub async fn stop_sinks(&mut self) {
        if let Some(sinks) = self.sinks.take() {
            sinks.shutdown(Duration::from_secs(20)).await;
        }
    }

    /// In order, or as if they had died.
    pub async fn restart_sinks(&mut self, in_order: bool) {
        if in_order {
            self.stop_sinks().await;
        }
        // A dead-letter log is open once at a time: those that die let go of it first.
        self.sinks = None;
        self.until_letters_are_free().await;
        self.start_sinks();
    }

    async fn until_letters_are_free(&self) {
        let folder = self.path("letters").join("sqlite-pool1");
        until("the dead letters are free", || Log::open(LogOptions::new(folder.clone())).is_ok()).await;
    }

    /// Closes the engine and opens it again, sinks included.
    pub async fn restart_engine(mut self) -> World {
        self.stop_sinks().await;
        self.until_letters_are_free().await;
        let World { folder, rules, options, engine, read, .. } = self;
        engine.close();
        // The folder's lock goes with the last clone.
        drop(engine);
        let engine = open(folder.path(), &rules, options);
        let mut world = World { folder, rules, options, engine, sinks: None, read };
        world.start_sinks();
        world
    }

    /// Closes the engine, puts an older copy of its folder back (or makes one) and opens it again, sinks included.
    pub async fn restart_engine_on(mut self, copy: &str, put_back: bool) -> World {
        self.stop_sinks().await;
        self.until_letters_are_free().await;
        self.engine.close();
        let (data, copy) = (self.path("data"), self.path(copy));
        if put_back {
            std::fs::remove_dir_all(&data).unwrap();
            copy_folder(&copy, &data);
        } else {
            copy_folder(&data, &copy);
        }
        self.restart_engine().await
    }

    /// Waits until everything appended so far is durable and in state.
    pub async fn settled(&self) -> Lsn {
        let end = self.engine.log().end();
        self.engine.applied(Lsn(end.0 - 1)).await.unwrap();
        end
    }

    /// Waits until everything in the log is stored.
    pub async fn caught_up(&self) {
        let end = self.settled().await;
        until("the sink has caught up", || {
            let status = self.status();
            status.position >= end && status.state == SinkState::Running
        })
        .await;
    }

    /// Waits until the sink waits for its operator; says for what.
    pub async fn waiting(&self) -> String {
        let mut found = String::new();
        until("the sink waits", || match self.status().state {
            SinkState::Waiting { why, .. } => {
                found = why;
                true
            }
            _ => false,
        })
        .await;
        found
    }

    /// Bytes of records the sinks have read from the log.
    pub fn read_bytes(&self) -> usize {
        self.read.load(Ordering::Relaxed)
    }

    /// Payloads published from record `from` on.
    pub fn published_since(&self, from: Lsn) -> Vec<Event> {
        let mut reader = self.engine.log().reader(from).unwrap();
        let mut page = Vec::new();
        while reader.read_batch(1_024, 1 << 20, &mut page).unwrap() > 0 {}
        let events = page.into_iter().filter_map(|r| Event::decode(r.kind, r.body).ok());
        events.filter(|event| matches!(event, Event::Published(_))).collect()
    }

    pub fn delete_database(&self) {
        for name in ["t.db", "t.db-wal", "t.db-shm"] {
            let _may_be_missing = std::fs::remove_file(self.path(name));
        }
    }

    async fn open_database(&self) -> SqliteConnection {
        let options = SqliteConnectOptions::new().filename(self.path("t.db")).busy_timeout(Duration::from_secs(20));
        SqliteConnection::connect_with(&options).await.unwrap()
    }

    /// As another program with the `sqlite3` shell would.
    pub async fn sql(&self, sql: &str) {
        let mut conn = self.open_database().await;
        sqlx::query(AssertSqlSafe(sql)).execute(&mut conn).await.unwrap();
    }

    /// Holds the file's write lock until it is dropped.
    pub async fn lock(&self) -> Lock {
        let mut conn = self.open_database().await;
        sqlx::query("begin exclusive").execute(&mut conn).await.unwrap();
        Lock(tokio::sync::Mutex::new(conn))
    }

    pub async fn sql_on(&self, lock: &Lock, sql: &str) {
        sqlx::query(AssertSqlSafe(sql)).execute(&mut *lock.0.lock().await).await.unwrap();
    }

    /// Rows as text in the order of their ids, columns joined by `|`; NULL as `-`.
    pub async fn rows(&self, columns: &str, table: &str) -> Vec<String> {
        let joined: Vec<String> = split(columns).iter().map(|c| format!("coalesce(cast({c} as text),'-')")).collect();
        let sql = format!("select {} as row from {table} order by id", joined.join("||'|'||"));
        let mut conn = self.open_database().await;
        let rows = sqlx::query(AssertSqlSafe(sql)).fetch_all(&mut conn).await.unwrap();
        rows.iter().map(|r| r.get("row")).collect()
    }
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let (path, to) = (entry.as_ref().unwrap().path(), to.join(entry.unwrap().file_name()));
        if path.is_dir() {
            copy_folder(&path, &to);
        } else {
            std::fs::copy(path, to).unwrap();
        }
    }
}

/// Columns separated by commas that stand in no brackets.
fn split(columns: &str) -> Vec<String> {
    let (mut all, mut depth) = (vec![String::new()], 0);
    for c in columns.chars() {
        depth += i32::from(c == '(') - i32::from(c == ')');
        if c == ',' && depth == 0 {
            all.push(String::new());
        } else {
            all.last_mut().unwrap().push(c);
        }
    }
    all
}

pub struct Lock(tokio::sync::Mutex<SqliteConnection>);

fn open(folder: &Path, rules: &RuleSet, change: fn(&mut EngineOptions)) -> Engine {
    let mut options = EngineOptions::new(folder.join("data"));
    options.rules = rules.engine_rules();
    options.log.segment_bytes = 256 * 1024;
    change(&mut options);
    Engine::open(options).unwrap().0
}

/// Waits for a condition; gives up, loudly, after a minute.
pub async fn until(what: &str, mut met: impl FnMut() -> bool) {
    let end = tokio::time::Instant::now() + Duration::from_secs(60);
    while !met() {
        assert!(tokio::time::Instant::now() < end, "did not happen within a minute: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub fn message(topic: &str, payload: &str, qos: u8) -> Message {
    Message {
        topic: topic.into(),
        payload: payload.to_owned().into(),
        qos: QoS::from_u8(qos).unwrap(),
        publisher: "publisher".into(),
        ..Message::default()
    }
}

pub fn published(message: Message) -> Event {
    Event::Published(Published { message, packet_id: None, epoch: 0 })
}

/// Publishes as the broker does: what nobody wants is not logged.
pub async fn publish(engine: &Engine, message: Message) {
    if engine.wants(&message) {
        apply(engine, published(message)).await;
    }
}

async fn apply(engine: &Engine, event: Event) {
    let appended = engine.append_wait(&[event]).await.unwrap();
    engine.applied(appended.last).await.unwrap();
}

/// A connected client.
pub struct Client {
    engine: Engine,
    id: String,
    epoch: Epoch,
    mailbox: Mailbox,
}

impl Client {
    pub async fn connect(engine: &Engine, id: &str) -> Client {
        let epoch = engine.next_epoch();
        let (client, username, peer) = (id.into(), "".into(), "".into());
        let opened = SessionOpened { client, epoch, resumed: false, expiry_s: 0, will: None, username, peer };
        apply(engine, Event::SessionOpened(opened)).await;
        let connected = ClientConnected {
            client: id.into(),
            epoch,
            username: "".into(),
            peer: "".into(),
            protocol: 4,
            keep_alive_s: 0,
            clean_start: true,
        };
        apply(engine, Event::ClientConnected(connected)).await;
        let mailbox = engine.attach(&AttachOptions { client: id.into(), epoch, window: 400, in_flight: vec![] });
        Client { engine: engine.clone(), id: id.into(), epoch, mailbox }
    }

    pub async fn subscribe(&self, filter: &str) {
        let subscribed = Subscribed {
            client: self.id.as_str().into(),
            epoch: self.epoch,
            filter: filter.into(),
            options: SubscriptionOptions::of_qos(QoS::ExactlyOnce),
            by_proxy: false,
        };
        apply(&self.engine, Event::Subscribed(subscribed)).await;
    }

    pub async fn unsubscribe(&self, filter: &str) {
        let client = self.id.as_str().into();
        let gone = Unsubscribed { client, epoch: self.epoch, filter: filter.into(), by_proxy: false };
        apply(&self.engine, Event::Unsubscribed(gone)).await;
    }

    /// Waits for messages and acknowledges them; what they say.
    pub async fn receive(&mut self, count: usize) -> Vec<String> {
        let mut got = Vec::new();
        while got.len() < count {
            self.mailbox.ready().await;
            self.mailbox.take(count - got.len(), &mut got);
        }
        let settled: Vec<_> = got.iter().map(|d| (d.lsn, None, AckOutcome::Acknowledged)).collect();
        self.mailbox.settle(&settled);
        got.iter().map(|d| String::from_utf8_lossy(&d.message.payload).into_owned()).collect()
    }

    pub async fn disconnect(self, superseded: bool) {
        let positions = self.mailbox.positions();
        drop(self.mailbox);
        let gone = ClientDisconnected {
            client: self.id.as_str().into(),
            epoch: self.epoch,
            reason: if superseded { DisconnectReason::TakenOver } else { DisconnectReason::Normal },
            superseded,
            cancel_will: true,
            expiry_s: None,
            positions,
        };
        apply(&self.engine, Event::ClientDisconnected(gone)).await;
    }
}

/// The engine's log with the bytes that were read from it.
#[derive(Debug)]
struct Counted {
    inner: EngineSource,
    read: Arc<AtomicUsize>,
}

struct CountedReader {
    inner: Box<dyn RecordReader>,
    read: Arc<AtomicUsize>,
}

impl RecordReader for CountedReader {
    fn read(&mut self, max_records: usize, max_bytes: usize, out: &mut Vec<Record>) -> Result<usize, ReadError> {
        let before = out.len();
        let read = self.inner.read(max_records, max_bytes, out)?;
        self.read.fetch_add(out[before..].iter().map(|r| r.body.len()).sum(), Ordering::Relaxed);
        Ok(read)
    }
}

impl Source for Counted {
    fn log_id(&self) -> u64 {
        self.inner.log_id()
    }
    fn first(&self) -> Lsn {
        self.inner.first()
    }
    fn durable_end(&self) -> Lsn {
        self.inner.durable_end()
    }
    fn reader(&self, from: Lsn) -> Result<Box<dyn RecordReader>, ReadError> {
        Ok(Box::new(CountedReader { inner: self.inner.reader(from)?, read: self.read.clone() }))
    }
    fn wait(&self, lsn: Lsn) -> BoxFuture<'_, ()> {
        self.inner.wait(lsn)
    }
    fn append(&self, event: Event) -> BoxFuture<'_, Result<Lsn, AppendError>> {
        self.inner.append(event)
    }
    fn msgid(&self, lsn: Lsn, time_us: u64) -> MsgId {
        self.inner.msgid(lsn, time_us)
    }
    fn sink_position(&self, sink: &str) -> Option<Lsn> {
        self.inner.sink_position(sink)
    }
    fn sink_gap(&self, sink: &str) -> Option<Gap> {
        self.inner.sink_gap(sink)
    }
    fn skip_past(&self, lsn: Lsn) -> BoxFuture<'_, Result<(), DurableError>> {
        self.inner.skip_past(lsn)
    }
    fn is_beyond(&self, lsn: Lsn) -> bool {
        self.inner.is_beyond(lsn)
    }
    fn follows(&self, sink: &str, follows: bool) {
        self.inner.follows(sink, follows);
    }
    fn asked(&self, sink: &str) -> Option<Lsn> {
        self.inner.asked(sink)
    }
    fn retained_at(&self, topic: &str) -> Option<u64> {
        self.inner.retained_at(topic)
    }
    fn now_us(&self) -> u64 {
        self.inner.now_us()
    }
}

/// Counters of the whole test process, by name, labels added up.
#[derive(Clone, Debug, Default)]
pub struct Counters(Arc<Mutex<HashMap<String, Arc<AtomicU64>>>>);

impl Counters {
    pub fn install() -> Counters {
        static INSTALLED: OnceLock<Counters> = OnceLock::new();
        let install = || {
            let counters = Counters::default();
            assert!(metrics::set_global_recorder(counters.clone()).is_ok(), "another recorder");
            counters
        };
        INSTALLED.get_or_init(install).clone()
    }

    pub fn total(&self, name: &str) -> u64 {
        self.0.lock().unwrap().get(name).map_or(0, |n| n.load(Ordering::Relaxed))
    }
}

impl Recorder for Counters {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.0.lock().unwrap().entry(key.name().to_owned()).or_default().clone())
    }
    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }
    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}
