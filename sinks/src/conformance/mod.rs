//! What every database must pass: one function per clause, the same for all.
//!
//! A database's tests implement [`Subject`] (how to make the sink, how to read back what it stored, how to break the link) and
//! call each clause. Messages are published to `t/<n>` with payload `m<lsn>`; the rules are those of [`rules`].

mod clauses;
mod faulty;
mod source;

use std::collections::BTreeMap;
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub use clauses::*;
pub use faulty::Faulty;
pub use source::{BEGIN_US, MemoryLog};

use crate::dead_letter::{DeadLetters, LetterStore, MemoryLetters};
use crate::rule::{Action, Database, Function, Hook, Location, OfflineOpts, PayloadFormat, Rule, RuleSet, Statement};
use crate::runtime::backoff::Backoff;
use crate::runtime::plan::Plan;
use crate::runtime::{self, RuntimeOptions, SinkHandle};
use crate::sink::Sink;

/// How the link to the database can be broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing is wrong.
    None,
    /// Connects and writes fail.
    Down,
    /// The next write stores a part, or nothing where batches are atomic, and the connection is gone.
    DieInBatch,
    /// The next write is stored and the connection is gone before the answer.
    DieAfterCommit,
    /// Writes are accepted and never answered.
    Hang,
    /// Writes of more than [`PROMPT`] operations are accepted and never answered.
    HangIfLarge,
    /// Writes take 20 ms each.
    Slow,
    /// The next three writes are answered "busy".
    Busy,
}

/// The most operations that are answered under [`Fault::HangIfLarge`].
pub const PROMPT: usize = 4;

/// A database under test.
pub trait Subject: Send + Sync {
    /// Its sink.
    type Sink: Sink;
    /// A sink on the same database as before; called again for each restart.
    fn sink(&self) -> Arc<Self::Sink>;
    /// Which rules of a set are its own.
    fn database(&self) -> Database;
    /// Breaks or mends the link, for sinks made before and after.
    fn fault(&self, fault: Fault);
    /// How often each payload is stored, of the messages of `on_message_publish`.
    fn stored(&self) -> impl Future<Output = BTreeMap<Vec<u8>, u64>> + Send;
    /// Payloads of a topic in the order the database stored them.
    fn order(&self, topic: &str) -> impl Future<Output = Vec<Vec<u8>>> + Send;
    /// A statement rule that fails for payloads that contain `poison` and for no other, if the database has one; otherwise it
    /// refuses them on its own.
    fn poison_rule(&self) -> Option<Vec<Statement>>;
    /// Read positions (or their like) that a client has; only asked where the database has acknowledgements.
    fn acknowledged(&self, client: &str) -> impl Future<Output = usize> + Send;
    /// True when a batch interrupted in the middle is never stored twice (positions in the same transaction).
    fn stores_once(&self) -> bool;
}

/// The name every sink of the suite has.
pub const SINK: &str = "suite/pool1";

/// A place in no file.
#[must_use]
pub fn nowhere() -> Location {
    Location { file: Arc::new(PathBuf::from("<conformance>")), line: 1, column: 1 }
}

/// A rule as a configuration would give it.
#[must_use]
pub fn rule(database: Database, hook: Hook, number: u32, topic: Option<&str>, action: Action) -> Rule {
    Rule {
        database,
        hook,
        number,
        topic: topic.map(str::to_owned),
        action,
        pool: "pool1".to_owned(),
        expired_time: None,
        offline: OfflineOpts::default(),
        payload_format: PayloadFormat::PlainText,
        at: nowhere(),
    }
}

/// The rules of the suite: store publishes, record acknowledgements, forget them at unsubscribe, client status.
#[must_use]
pub fn rules(database: Database) -> RuleSet {
    let function = |hook, number, topic, f| rule(database, hook, number, topic, Action::Function(f));
    RuleSet {
        pools: Vec::new(),
        rules: vec![
            function(Hook::ClientConnected, 1, None, Function::ClientConnected),
            function(Hook::ClientDisconnected, 1, None, Function::ClientDisconnected),
            function(Hook::SessionUnsubscribed, 1, Some("#"), Function::AckedDelete),
            function(Hook::MessagePublish, 1, Some("t/#"), Function::MessagePublish),
            function(Hook::MessageAcked, 1, Some("t/#"), Function::MessageAcked),
        ],
    }
}

/// A running sink of the suite with its log and dead letters, which survive restarts of the sink.
#[derive(Debug)]
pub struct Bench {
    /// The log.
    pub log: MemoryLog,
    /// The dead letters' store.
    pub letters: Arc<dyn LetterStore>,
    /// The rules.
    pub rules: RuleSet,
}

impl Bench {
    /// An empty log with the rules of the suite.
    #[must_use]
    pub fn new(database: Database) -> Bench {
        Bench { log: MemoryLog::default(), letters: Arc::new(MemoryLetters::default()), rules: rules(database) }
    }

    /// Starts the subject's sink, with short waits.
    #[must_use]
    pub fn start<T: Subject>(&self, subject: &T) -> SinkHandle {
        self.start_sink(subject.sink(), subject.database())
    }

    /// Starts a sink.
    ///
    /// # Panics
    /// Where the dead letters can't be read.
    #[must_use]
    #[expect(clippy::expect_used, reason = "a test's own store")]
    pub fn start_sink<S: Sink>(&self, sink: Arc<S>, database: Database) -> SinkHandle {
        let plan = Plan::of_pool(&self.rules, database, "pool1", SINK);
        let letters = DeadLetters::open(SINK, self.letters.clone()).expect("dead letters in memory");
        runtime::spawn(SINK, sink, plan, Arc::new(self.log.clone()), letters, quick())
    }
}

/// Settings with short waits.
#[must_use]
pub fn quick() -> RuntimeOptions {
    RuntimeOptions {
        backoff: Backoff { first: Duration::from_millis(2), longest: Duration::from_millis(50) },
        request_deadline: Duration::from_millis(500),
        linger: Duration::from_millis(1),
        report_every: Duration::from_millis(50),
        ..RuntimeOptions::default()
    }
}

/// Waits for a condition; gives up, loudly, after a minute.
///
/// # Panics
/// When it does not come true.
#[expect(clippy::panic, reason = "a clause fails by panicking")]
pub async fn until(what: &str, mut met: impl FnMut() -> bool) {
    let end = tokio::time::Instant::now() + Duration::from_secs(60);
    while !met() {
        if tokio::time::Instant::now() > end {
            panic!("did not happen within a minute: {what}");
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Waits until the sink has nothing left to do.
pub async fn caught_up(bench: &Bench, sink: &SinkHandle, last: forebay_engine::Lsn) {
    let name = format!("position beyond record {last} of {}", bench.log.events().len());
    until(&name, || sink.status().position > last).await;
}
