//! What rules read from databases: proxy subscriptions, messages that other programs inserted, retained messages.
//!
//! A lookup has a deadline and never fails: when the database is late or down, the answer comes from local state, at once, and a
//! metric counts it. Rows of other programs become records of the log (with [`Origin::Import`]), once: the database remembers the
//! row's key beside the record's msgid, this process remembers what is on its way there, and until the sink has worked off what
//! the log held at start imports wait.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use bytestring::ByteString;
use forebay_engine::event::{Message, Origin, Published};
use forebay_engine::{Event, Lsn, MsgId, QoS, topic};
use parking_lot::Mutex;

use crate::metrics::{IMPORTED_ROWS, LOOKUPS, LOOKUPS_STALE};
use crate::rule::{Action, Function, OfflineOpts, Rule};
use crate::runtime::SinkHandle;
use crate::sink::{Sink, WriteError};
use crate::source::{BoxFuture, Source};

/// Rows of one fetch at most, where the rule sets no lower bound.
const OFFLINE_ROWS: usize = 10_000;

/// Payload bytes of one fetch at most; the newest rows are taken.
const OFFLINE_BYTES: usize = 16 << 20;

/// Rows of one answer of the database at most.
const OFFLINE_PAGE_ROWS: usize = 256;

/// Answers remembered for the time when the database is down, by client.
const REMEMBERED_CLIENTS: usize = 10_000;

/// How long an import waits for the sink to work off what the log held at start.
const WORKED_OFF_WITHIN: Duration = Duration::from_secs(20);

/// Pause between two looks at the sink's position.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// A row that another program wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignRow {
    /// The row's key in the database: what it is imported once by.
    pub key: String,
    /// Its msgid column.
    pub msgid: Option<String>,
    /// Topic.
    pub topic: String,
    /// Publisher.
    pub sender: String,
    /// QoS.
    pub qos: QoS,
    /// Retain flag.
    pub retain: bool,
    /// Payload.
    pub payload: Bytes,
    /// When it arrived, us since 1970 (0 = unknown).
    pub time_us: u64,
}

/// Which offline messages are asked for.
#[derive(Clone, Copy, Debug)]
pub struct OfflineQuery<'a> {
    /// The subscriber: rows up to its acknowledged one are left out.
    pub client: &'a str,
    /// Exactly this topic.
    pub topic: &'a str,
    /// Not older than this, us since 1970.
    pub since_us: u64,
    /// Only rows whose key comes before this one (the last row of the page before).
    pub before: Option<&'a str>,
    /// Most rows in the answer.
    pub limit: usize,
    /// Payload bytes after which no further row is added.
    pub bytes: usize,
}

/// The reading side of a database. One that is only written to has nothing to say here.
pub trait Lookup: Sink {
    /// Filters and QoS of a client's subscriptions in the database.
    fn subscriptions<'a>(
        &'a self,
        _conn: &'a mut Self::Conn,
        _client: &'a str,
    ) -> impl Future<Output = Result<Vec<(String, u8)>, WriteError>> + Send {
        async { Ok(Vec::new()) }
    }

    /// Messages of a topic that are not known to have become records, newest first; empty where there are no more. Rows that
    /// Forebay itself stored are left out by the form of their msgid ([`MsgId`]), in the database: there may be millions.
    fn offline<'a>(
        &'a self,
        _conn: &'a mut Self::Conn,
        _query: OfflineQuery<'a>,
    ) -> impl Future<Output = Result<Vec<ForeignRow>, WriteError>> + Send {
        async { Ok(Vec::new()) }
    }

    /// The retained message of a topic.
    fn retained<'a>(
        &'a self,
        _conn: &'a mut Self::Conn,
        _topic: &'a str,
    ) -> impl Future<Output = Result<Option<ForeignRow>, WriteError>> + Send {
        async { Ok(None) }
    }
}

/// All lookups of a configuration. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Lookups(Arc<Vec<Arc<Entry>>>);

/// One sink's lookups.
pub(crate) struct Entry {
    sink: Arc<SinkHandle>,
    source: Arc<dyn Source>,
    rules: Vec<Rule>,
    deadline: Duration,
    database: Arc<dyn AnyLookup>,
    /// What the log held when the sink started.
    end_at_start: Lsn,
    /// Rows on their way into the database's memory of imports, with their records.
    under_way: Mutex<HashMap<String, Lsn>>,
    /// One import at a time, so that two subscribers don't import the same row.
    importing: tokio::sync::Mutex<()>,
    remembered: Mutex<HashMap<String, Vec<(ByteString, QoS)>>>,
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry").field("sink", &self.sink.name()).finish_non_exhaustive()
    }
}

impl Lookups {
    pub(crate) fn new(entries: Vec<Entry>) -> Lookups {
        Lookups(Arc::new(entries.into_iter().map(Arc::new).collect()))
    }

    /// Subscriptions to be made on the client's behalf (`on_subscribe_lookup`). When the database is down: the client's last
    /// answer of this process, else none (a resumed session still has its own).
    pub async fn proxy_subscriptions(&self, client: &str) -> Vec<(ByteString, QoS)> {
        let mut all: Vec<(ByteString, QoS)> = Vec::new();
        for entry in self.0.iter().filter(|e| e.rule(Function::SubscribeLookup, None).is_some()) {
            for (filter, qos) in entry.subscriptions(client).await {
                if !all.iter().any(|(known, _)| *known == filter) {
                    all.push((filter, qos));
                }
            }
        }
        all
    }

    /// Imports what other programs stored for a topic, to be called before the subscription is appended. Returns after the
    /// deadline at the latest; an import under way then goes on by itself. Filters with wildcards import nothing.
    pub async fn before_subscribe(&self, client: &str, filter: &str) {
        if topic::has_wildcard(filter) || filter.starts_with("$share/") {
            return;
        }
        for entry in self.0.iter() {
            let fetch = FETCHES.iter().find_map(|f| entry.rule(*f, Some(filter))).map(|r| r.offline);
            let retained = entry.rule(Function::RetainLookup, Some(filter)).is_some();
            if fetch.is_none() && !retained {
                continue;
            }
            let (task, client, filter) = (entry.clone(), client.to_owned(), filter.to_owned());
            let import = tokio::spawn(async move { task.import(&client, &filter, fetch, retained).await });
            let what = if fetch.is_some() { "offline" } else { "retained" };
            entry.count(LOOKUPS, what);
            match tokio::time::timeout(entry.deadline, import).await {
                Ok(Ok(Ok(()))) => {}
                Ok(Ok(Err(error))) => entry.stale(what, &error),
                Ok(Err(error)) => entry.stale(what, &error.to_string()),
                Err(_) => entry.stale(what, "late"),
            }
        }
    }
}

const FETCHES: [Function; 4] = [
    Function::MessageFetch,
    Function::MessageFetchForQueue,
    Function::MessageFetchForPubsub,
    Function::MessageFetchForKeepLatest,
];

impl Entry {
    pub(crate) fn new<S: Lookup>(
        database: Arc<S>,
        sink: Arc<SinkHandle>,
        source: Arc<dyn Source>,
        rules: Vec<Rule>,
        deadline: Duration,
    ) -> Entry {
        let database = Arc::new(Connected { sink: database, conn: tokio::sync::Mutex::new(None) });
        let end_at_start = source.durable_end();
        Entry {
            sink,
            source,
            rules,
            deadline,
            database,
            end_at_start,
            under_way: Mutex::default(),
            importing: tokio::sync::Mutex::default(),
            remembered: Mutex::default(),
        }
    }

    fn rule(&self, function: Function, topic: Option<&str>) -> Option<&Rule> {
        self.rules.iter().find(|r| {
            r.action == Action::Function(function)
                && match (&r.topic, topic) {
                    (Some(filter), Some(topic)) => topic::matches(filter, topic),
                    _ => true,
                }
        })
    }

    fn count(&self, name: &'static str, what: &'static str) {
        metrics::counter!(name, "sink" => self.sink.name().to_owned(), "what" => what).increment(1);
    }

    fn stale(&self, what: &'static str, why: &str) {
        self.count(LOOKUPS_STALE, what);
        tracing::debug!(sink = self.sink.name(), what, why, "answered from local state");
    }

    async fn subscriptions(&self, client: &str) -> Vec<(ByteString, QoS)> {
        self.count(LOOKUPS, "subscriptions");
        let rows = match tokio::time::timeout(self.deadline, self.database.subscriptions(client)).await {
            Ok(Ok(rows)) => rows,
            Ok(Err(error)) => return self.last_known(client, &error.to_string()),
            Err(_) => return self.last_known(client, "late"),
        };
        let mut found = Vec::with_capacity(rows.len());
        for (filter, qos) in rows {
            match (topic::check_filter(&filter), QoS::from_u8(qos)) {
                (Ok(()), Some(qos)) => found.push((ByteString::from(filter), qos)),
                _ => tracing::warn!(
                    sink = self.sink.name(),
                    client,
                    filter,
                    qos,
                    "subscription row not usable, left out"
                ),
            }
        }
        let mut remembered = self.remembered.lock();
        if remembered.len() < REMEMBERED_CLIENTS || remembered.contains_key(client) {
            remembered.insert(client.to_owned(), found.clone());
        }
        found
    }

    fn last_known(&self, client: &str, why: &str) -> Vec<(ByteString, QoS)> {
        self.stale("subscriptions", why);
        self.remembered.lock().get(client).cloned().unwrap_or_default()
    }

    async fn import(&self, client: &str, name: &str, fetch: Option<OfflineOpts>, retained: bool) -> Result<(), String> {
        let _one_at_a_time = self.turn().await?;
        let position = self.sink.status().position;
        self.under_way.lock().retain(|_, lsn| *lsn >= position);
        if let Some(opts) = fetch {
            let since_us = opts.time_range.map_or(0, |range| {
                self.source.now_us().saturating_sub(u64::try_from(range.as_micros()).unwrap_or(u64::MAX))
            });
            let most = opts.max_returned_count.map_or(OFFLINE_ROWS, |n| usize::try_from(n).unwrap_or(OFFLINE_ROWS));
            for row in self.offline(client, name, since_us, most.min(OFFLINE_ROWS)).await?.into_iter().rev() {
                self.append(row).await?;
            }
        }
        if retained {
            let row = self.database.retained(name).await.map_err(|e| e.to_string())?;
            let newer = |row: &ForeignRow| self.source.retained_at(name).is_none_or(|local| local < row.time_us);
            if let Some(row) = row.filter(|r| !self.is_own(r) && newer(r)) {
                self.append(row).await?;
            }
        }
        Ok(())
    }

    /// Waits for the import's turn, and until the sink has worked off what the log held at start: rows among that were imported, perhaps,
    /// and the database does not know of it yet. A client that comes back right after a start gets its rows when that is done.
    async fn turn(&self) -> Result<tokio::sync::MutexGuard<'_, ()>, String> {
        let late = || "the sink has not yet worked off what the log held at start".to_owned();
        let end = tokio::time::Instant::now() + WORKED_OFF_WITHIN;
        let behind = || self.sink.status().position < self.end_at_start;
        // One at a time looks again and again, however many wait.
        let turn = if behind() {
            tokio::time::timeout_at(end, self.importing.lock()).await.map_err(|_| late())?
        } else {
            self.importing.lock().await
        };
        while behind() {
            if tokio::time::Instant::now() > end {
                return Err(late());
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        Ok(turn)
    }

    /// The newest rows of other programs, newest first, page by page.
    async fn offline(&self, client: &str, topic: &str, since_us: u64, most: usize) -> Result<Vec<ForeignRow>, String> {
        let mut found: Vec<ForeignRow> = Vec::new();
        let mut bytes_left = OFFLINE_BYTES;
        while found.len() < most && bytes_left > 0 {
            let before = found.last().map(|row| row.key.as_str());
            let limit = (most - found.len()).min(OFFLINE_PAGE_ROWS);
            let query = OfflineQuery { client, topic, since_us, before, limit, bytes: bytes_left };
            let page = self.database.offline(query).await.map_err(|e| e.to_string())?;
            if page.is_empty() {
                break;
            }
            bytes_left = bytes_left.saturating_sub(page.iter().map(|row| row.payload.len()).sum());
            found.extend(page);
        }
        Ok(found)
    }

    /// Stored by this node from this log: its msgid is exactly what the log gives to that record.
    fn is_own(&self, row: &ForeignRow) -> bool {
        row.msgid
            .as_deref()
            .and_then(MsgId::parse)
            .is_some_and(|id| id == self.source.msgid(id.lsn, id.time_us) && id.lsn < self.source.durable_end())
    }

    async fn append(&self, row: ForeignRow) -> Result<(), String> {
        if self.under_way.lock().contains_key(&row.key) {
            return Ok(());
        }
        let origin = Origin::Import {
            sink: ByteString::from(self.sink.name()),
            key: ByteString::from(row.key.as_str()),
            time_us: row.time_us,
        };
        let message = Message {
            topic: row.topic.into(),
            payload: row.payload,
            qos: row.qos,
            retain: row.retain,
            publisher: row.sender.into(),
            origin,
            ..Message::default()
        };
        let event = Event::Published(Published { message, packet_id: None, epoch: 0 });
        let lsn = self.source.append(event).await.map_err(|e| e.to_string())?;
        self.under_way.lock().insert(row.key, lsn);
        metrics::counter!(IMPORTED_ROWS, "sink" => self.sink.name().to_owned()).increment(1);
        Ok(())
    }
}

/// [`Lookup`] behind a pointer, with a connection of its own.
trait AnyLookup: Send + Sync {
    fn subscriptions<'a>(&'a self, client: &'a str) -> BoxFuture<'a, Result<Vec<(String, u8)>, WriteError>>;
    fn offline<'a>(&'a self, query: OfflineQuery<'a>) -> BoxFuture<'a, Result<Vec<ForeignRow>, WriteError>>;
    fn retained<'a>(&'a self, topic: &'a str) -> BoxFuture<'a, Result<Option<ForeignRow>, WriteError>>;
}

struct Connected<S: Lookup> {
    sink: Arc<S>,
    conn: tokio::sync::Mutex<Option<S::Conn>>,
}

impl<S: Lookup> Connected<S> {
    /// Takes the connection, or makes one. It is put back only after an answer: a lookup that was given up leaves none behind in
    /// an unknown state.
    async fn take(&self, slot: &mut Option<S::Conn>) -> Result<S::Conn, WriteError> {
        match slot.take() {
            Some(conn) => Ok(conn),
            None => self.sink.connect().await,
        }
    }
}

impl<S: Lookup> AnyLookup for Connected<S> {
    fn subscriptions<'a>(&'a self, client: &'a str) -> BoxFuture<'a, Result<Vec<(String, u8)>, WriteError>> {
        Box::pin(async move {
            let mut slot = self.conn.lock().await;
            let mut conn = self.take(&mut slot).await?;
            let found = self.sink.subscriptions(&mut conn, client).await?;
            *slot = Some(conn);
            Ok(found)
        })
    }

    fn offline<'a>(&'a self, query: OfflineQuery<'a>) -> BoxFuture<'a, Result<Vec<ForeignRow>, WriteError>> {
        Box::pin(async move {
            let mut slot = self.conn.lock().await;
            let mut conn = self.take(&mut slot).await?;
            let found = self.sink.offline(&mut conn, query).await?;
            *slot = Some(conn);
            Ok(found)
        })
    }

    fn retained<'a>(&'a self, topic: &'a str) -> BoxFuture<'a, Result<Option<ForeignRow>, WriteError>> {
        Box::pin(async move {
            let mut slot = self.conn.lock().await;
            let mut conn = self.take(&mut slot).await?;
            let found = self.sink.retained(&mut conn, topic).await?;
            *slot = Some(conn);
            Ok(found)
        })
    }
}
