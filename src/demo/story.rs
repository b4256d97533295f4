//! The story: away, outage, crash; and the counting.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant};

use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions as _, Row as _};

use super::client::{Event, Session};
use super::process::{PATIENCE, POLL, Server, failed};
use super::{Act, MESSAGES, Outcome};
use crate::admin::client::Client;
use crate::admin::status::{RecordRow, SinkStatus};
use crate::exit::Failure;

const TOPIC: &str = "pubsub/demo";
/// Messages in flight at a time.
const IN_FLIGHT: usize = 64;
const ACTS: [&str; 3] = ["subscriber away", "database locked by somebody else", "SIGKILL with messages in flight"];

/// A publisher with what it knows.
struct Publisher {
    session: Session,
    sent: u64,
    acknowledged: BTreeSet<u64>,
}

fn payload(tag: u64) -> String {
    format!("{}-{}", tag / MESSAGES, tag % MESSAGES)
}

fn act_of(payload: &str) -> Option<usize> {
    payload.split_once('-')?.0.parse().ok()
}

/// QoS 1 and 2 in turn.
fn qos_of(tag: u64) -> u8 {
    if tag.is_multiple_of(2) { 2 } else { 1 }
}

fn is_qos2(payload: &str) -> bool {
    payload.split_once('-').and_then(|(_, number)| number.parse().ok()).is_some_and(|number: u64| qos_of(number) == 2)
}

impl Publisher {
    /// Publishes up to message number `end` and waits for every acknowledgement; with `leave_at`, drops the connection when
    /// that many are acknowledged, whatever is in flight.
    fn publish(&mut self, server: &Server, end: u64, leave_at: Option<usize>) -> Result<(), Failure> {
        let broken = |source: std::io::Error| failed(format!("the publisher's connection: {source}"));
        let mut connection = self.session.connect(server.mqtt).map_err(broken)?;
        let start = Instant::now();
        while self.sent < end || connection.in_flight() > 0 {
            while self.sent < end && connection.in_flight() < IN_FLIGHT {
                let tag = self.sent;
                self.sent += 1;
                connection.publish(TOPIC, payload(tag).as_bytes(), qos_of(tag), tag).map_err(broken)?;
            }
            for event in connection.poll(POLL).map_err(broken)? {
                if let Event::Acknowledged(tag) = event {
                    self.acknowledged.insert(tag);
                }
            }
            if leave_at.is_some_and(|count| self.acknowledged.len() >= count) {
                return Ok(());
            }
            if start.elapsed() > PATIENCE {
                return Err(failed(format!("{} messages were not acknowledged in time", connection.in_flight())));
            }
        }
        connection.disconnect().map_err(broken)
    }
}

/// Plays it. `say` gets a line before each act.
///
/// # Errors
/// Where a step can't be done, or takes too long.
pub fn play(say: &dyn Fn(&str)) -> Result<Outcome, Failure> {
    let start = Instant::now();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|source| Failure::io("starting the demonstration", &source))?;
    let mut server = Server::start()?;
    let mut reader = Session::new("demo-reader", false);
    let broken = |source: std::io::Error| failed(format!("the subscriber's connection: {source}"));
    let mut connection = reader.connect(server.mqtt).map_err(broken)?;
    connection.subscribe(TOPIC, 2).map_err(broken)?;
    connection.disconnect().map_err(broken)?;
    let mut publisher =
        Publisher { session: Session::new("demo-writer", false), sent: 0, acknowledged: BTreeSet::new() };

    say(&format!("1. A subscriber with a persistent session goes away; {MESSAGES} messages are published."));
    publisher.publish(&server, MESSAGES, None)?;
    say(&format!("2. Somebody locks the SQLite file; {MESSAGES} more are published, and acknowledged all the same."));
    let file = server.data().join("forebay.db");
    let mut lock = runtime.block_on(locked(&file))?;
    publisher.publish(&server, 2 * MESSAGES, None)?;
    say(&format!("3. {MESSAGES} more; in the middle the server process gets SIGKILL. The database is still locked."));
    let middle = usize::try_from(2 * MESSAGES + MESSAGES / 2).unwrap_or(usize::MAX);
    publisher.publish(&server, 3 * MESSAGES, Some(middle))?;
    server.kill()?;
    say("4. The server starts again; the publisher sends again what was not acknowledged.");
    server.restart()?;
    publisher.publish(&server, 3 * MESSAGES, None)?;
    say("5. The database is unlocked, the subscriber comes back: everything arrives.");
    runtime.block_on(sqlx::query("rollback").execute(&mut lock)).map_err(|source| failed(source.to_string()))?;
    let delivered = receive_all(&mut reader, &server, publisher.sent)?;

    let admin = Client::at(server.admin, None);
    wait_stored(&admin)?;
    let logged = logged(&admin)?;
    let stored = runtime.block_on(stored(&mut lock))?;
    let mut outcome = count(&publisher, &logged, &delivered, &stored);
    outcome.seconds = start.elapsed().as_secs_f64();
    Ok(outcome)
}

fn count(
    publisher: &Publisher,
    logged: &BTreeMap<String, u64>,
    delivered: &BTreeMap<String, u64>,
    stored: &BTreeMap<String, u64>,
) -> Outcome {
    let mut acts: Vec<Act> = ACTS.into_iter().map(|name| Act { name, ..Act::default() }).collect();
    let mut add = |payload: &str, place: fn(&mut Act) -> &mut u64| {
        if let Some(act) = act_of(payload).and_then(|act| acts.get_mut(act)) {
            *place(act) += 1;
        }
    };
    (0..publisher.sent).for_each(|tag| add(&payload(tag), |act| &mut act.sent));
    publisher.acknowledged.iter().for_each(|tag| add(&payload(*tag), |act| &mut act.acknowledged));
    logged.keys().for_each(|payload| add(payload, |act| &mut act.logged));
    delivered.keys().for_each(|payload| add(payload, |act| &mut act.delivered));
    stored.keys().for_each(|payload| add(payload, |act| &mut act.stored));
    let twice = delivered.iter().filter(|(payload, count)| **count > 1 && is_qos2(payload)).count();
    let more = stored.iter().filter(|(payload, count)| **count > logged.get(*payload).copied().unwrap_or(0)).count();
    Outcome { acts, delivered_twice: twice as u64, stored_twice: more as u64, seconds: 0.0 }
}

/// Receives until `count` different messages came, and a little longer for what should not come.
fn receive_all(reader: &mut Session, server: &Server, count: u64) -> Result<BTreeMap<String, u64>, Failure> {
    let broken = |source: std::io::Error| failed(format!("the subscriber's connection: {source}"));
    let mut connection = reader.connect(server.mqtt).map_err(broken)?;
    let mut delivered = BTreeMap::new();
    let mut last = Instant::now();
    loop {
        let all = delivered.len() as u64 >= count;
        let events = connection.poll(if all { Duration::from_millis(300) } else { POLL }).map_err(broken)?;
        if events.is_empty() && (all || last.elapsed() > PATIENCE) {
            connection.disconnect().map_err(broken)?;
            return Ok(delivered);
        }
        for event in events {
            if let Event::Message { payload, .. } = event {
                *delivered.entry(String::from_utf8_lossy(&payload).into_owned()).or_insert(0) += 1;
                last = Instant::now();
            }
        }
    }
}

fn wait_stored(admin: &Client) -> Result<(), Failure> {
    let start = Instant::now();
    while admin.get::<Vec<SinkStatus>>("/sinks")?.iter().any(|sink| sink.lag_records > 0) {
        // The table shows what is missing then.
        if start.elapsed() > PATIENCE {
            break;
        }
        std::thread::sleep(POLL);
    }
    Ok(())
}

/// How often each message is in the log.
fn logged(admin: &Client) -> Result<BTreeMap<String, u64>, Failure> {
    let mut counts = BTreeMap::new();
    let mut next = 1;
    loop {
        let rows: Vec<RecordRow> = admin.get(&format!("/log/records?from={next}&limit=1000"))?;
        let Some(last) = rows.last() else { return Ok(counts) };
        next = last.lsn + 1;
        for row in rows.into_iter().filter(|row| row.topic.as_deref() == Some(TOPIC)) {
            *counts.entry(row.payload.unwrap_or_default()).or_insert(0) += 1;
        }
    }
}

/// A connection that holds the file's write lock.
async fn locked(file: &Path) -> Result<SqliteConnection, Failure> {
    let fault = |source: sqlx::Error| failed(format!("locking {}: {source}", file.display()));
    let options = SqliteConnectOptions::new().filename(file).busy_timeout(PATIENCE);
    let mut connection = options.connect().await.map_err(fault)?;
    sqlx::query("begin exclusive").execute(&mut connection).await.map_err(fault)?;
    Ok(connection)
}

/// How often each message is in SQLite.
async fn stored(connection: &mut SqliteConnection) -> Result<BTreeMap<String, u64>, Failure> {
    let rows = sqlx::query("select cast(payload as text), count(*) from mqtt_msg where topic = ?1 group by 1")
        .bind(TOPIC)
        .fetch_all(connection)
        .await
        .map_err(|source| failed(format!("counting rows: {source}")))?;
    Ok(rows.iter().map(|row| (row.get::<String, _>(0), row.get::<i64, _>(1).unsigned_abs())).collect())
}
