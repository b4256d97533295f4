//! What the author of a database writes: [`Sink`]. Everything else (reading, order, batches, retries, dead letters, positions)
//! belongs to [`crate::runtime`].

use std::error::Error;
use std::fmt::Debug;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use forebay_engine::{Event, Lsn, MsgId};

use crate::orders::Clients;
use crate::rule::Rule;
use crate::source::BoxFuture;

/// Any error of a driver.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// Number of virtual lanes. A key always has the same lane; lanes are spread over the pool's connections, so that changing
/// `pool_size` changes no position. Never change this number: positions in databases are stored by lane.
pub const LANES: u16 = 64;

/// The pseudo-lane under which the contiguous prefix over all lanes is stored.
pub const PREFIX_LANE: u16 = LANES;

/// An event with its place in the log.
#[derive(Clone, Debug)]
pub struct SinkRecord {
    /// Its record number.
    pub lsn: Lsn,
    /// Its record time, us since 1970.
    pub time_us: u64,
    /// The message it is about: of the record itself for a publish, of the message for a delivery or an acknowledgement.
    pub msgid: MsgId,
    /// What happened.
    pub event: Event,
}

/// One operation of a batch.
#[derive(Clone, Debug)]
pub struct Entry<Op> {
    /// The record it comes from.
    pub lsn: Lsn,
    /// The record's time, us since 1970.
    pub time_us: u64,
    /// Index of the rule among the sink's rules.
    pub rule: usize,
    /// Number of the operation within that rule (statements run in order, from 0).
    pub place: u32,
    /// What to do.
    pub op: Op,
}

/// What one call of [`Sink::write`] is to store.
#[derive(Debug)]
pub struct Batch<'a, Op> {
    /// Operations in log order within each key. May be empty: then only the positions are to be stored.
    pub entries: &'a [Entry<Op>],
    /// Positions to be stored in the same transaction; `None` while a batch is taken apart to find a faulty record.
    pub positions: Option<&'a Positions>,
}

/// How far a sink has come, as its database stores it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Positions {
    /// Identity of the log the numbers belong to.
    pub log_id: u64,
    /// The sink's name.
    pub sink: String,
    /// Of these lanes every record below the number is done.
    pub lanes: Vec<(u16, Lsn)>,
    /// Over all lanes every record below is done.
    pub prefix: Lsn,
}

/// What a database remembers of a sink's progress.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kept {
    /// This kind of database keeps no position: the log's own record of it counts.
    Never,
    /// It would, but has none for this log and sink.
    Nothing,
    /// It has this.
    At(Positions),
}

/// Bounds of one batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchLimits {
    /// Most operations in one call.
    pub operations: usize,
    /// Most bytes in one call, by [`Sink::weight`].
    pub bytes: usize,
}

/// Why an operation can't be made from a record: the record's own fault.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{reason}")]
pub struct EncodeError {
    /// What is wrong and what to do.
    pub reason: String,
}

/// The verdict on one operation.
#[derive(Debug)]
pub enum Verdict {
    /// May succeed next time; after a limit of attempts it is buried.
    Retry(BoxError),
    /// Its own fault: to the dead letters.
    Bury(BoxError),
}

/// Why a write failed. The runtime decides what follows, never the sink.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The link is gone or the outcome is unknown: reconnect, read the position, send the same again.
    #[error("disconnected: {0}")]
    Disconnected(BoxError),
    /// The database or its operator is at fault (locked, full, throttled, rights, missing table): back off and try again.
    #[error("{cause}")]
    Busy {
        /// How long the database asks to wait.
        wait: Option<Duration>,
        /// What it said, and the remedy.
        cause: BoxError,
    },
    /// These operations failed, by index. The others are stored, unless the sink is [atomic](Sink::atomic).
    #[error("{} of the batch's operations were refused", .0.len())]
    Items(Vec<(usize, Verdict)>),
    /// All was refused and the culprit is unknown: the runtime takes the batch apart until it is found.
    #[error("refused: {0}")]
    Whole(BoxError),
}

/// How often an operation may take effect at worst, after a crash or a lost answer in the most unlucky moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AtWorst {
    /// Once: it is in one transaction with the sink's position, or the database refuses to do it again.
    Once,
    /// It may be sent again, and then changes nothing.
    SameAgain,
    /// It may take effect more than once: the user wrote it so, and this database can't prevent it.
    AtLeastOnce,
}

impl AtWorst {
    /// In words.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            AtWorst::Once => "once",
            AtWorst::SameAgain => "once (sent again it changes nothing)",
            AtWorst::AtLeastOnce => "at least once",
        }
    }
}

/// What looking at a database found, in one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What was found, and what to do about it.
    pub text: String,
}

/// How bad a [`Finding`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// In order.
    Fine,
    /// It works, and will fall short.
    Warning,
    /// Nothing would be stored.
    Fault,
}

impl Finding {
    /// A finding that is in order.
    pub fn fine(text: impl Into<String>) -> Finding {
        Finding { severity: Severity::Fine, text: text.into() }
    }

    /// A finding that falls short.
    pub fn warning(text: impl Into<String>) -> Finding {
        Finding { severity: Severity::Warning, text: text.into() }
    }

    /// A finding that keeps the sink from working.
    pub fn fault(text: impl Into<String>) -> Finding {
        Finding { severity: Severity::Fault, text: text.into() }
    }
}

impl WriteError {
    /// A [`WriteError::Busy`] without a wish for the wait.
    pub fn busy(cause: impl Into<BoxError>) -> WriteError {
        WriteError::Busy { wait: None, cause: cause.into() }
    }
}

/// A database.
pub trait Sink: Send + Sync + Sized + 'static {
    /// One operation, ready to be sent. It must be repeatable: the same operation again leaves the same rows.
    type Op: Clone + Debug + Send + Sync + 'static;
    /// A connection.
    type Conn: Send + 'static;

    /// What one call may carry.
    fn limits(&self) -> BatchLimits;

    /// Number of connections (`pool_size`).
    fn connections(&self) -> usize {
        1
    }

    /// How many of them write; `statements` where a rule has a statement or command of the user's, which is a round trip by itself.
    /// Changing it changes no position.
    fn writers(&self, _statements: bool) -> usize {
        self.connections()
    }

    /// True when a write stores all of a batch or nothing of it, also when it answers [`WriteError::Items`].
    fn atomic(&self) -> bool {
        false
    }

    /// Turns a record into operations. Pure: no clock, no I/O. Whether the rule's function concerns this record was
    /// [asked before](crate::runtime::plan::applies).
    ///
    /// # Errors
    /// Where the record itself can't be stored; it goes to the dead letters.
    fn encode(&self, record: &SinkRecord, rule: &Rule, out: &mut Vec<Self::Op>) -> Result<(), EncodeError>;

    /// Records before the first one that are to be shown again when reading begins somewhere: they are [encoded](Sink::encode),
    /// and what comes of them is thrown away. 0 where what a record becomes depends on nothing but itself.
    fn look_back(&self) -> u64 {
        0
    }

    /// Reading begins, at the start or at another place than before: what was remembered of other records is void.
    fn begins(&self) {}

    /// What is to be remembered of a row that was imported from this database and now has a record, so that it is not imported
    /// again and its acknowledgement finds it. `None` for databases without lookups.
    fn imported(&self, _record: &SinkRecord) -> Option<Self::Op> {
        None
    }

    /// About how many bytes an operation takes in memory and on the wire.
    fn weight(&self, op: &Self::Op) -> usize;

    /// The operation as an operator reads it in a dead letter.
    fn render(&self, op: &Self::Op) -> String {
        format!("{op:?}")
    }

    /// How often the operation may take effect at worst; `forebay explain` shows it.
    fn at_worst(&self, _op: &Self::Op) -> AtWorst {
        AtWorst::Once
    }

    /// Looks at the database without changing it: login, tables, rights (`forebay check --connect`). What is missing and would be
    /// created at the start is in order.
    fn inspect(&self) -> impl Future<Output = Vec<Finding>> + Send;

    /// Listens for orders that other programs send through the database (Redis's channel), and has them carried out, until it is
    /// dropped; `None` for databases without. `sink` is the sink's name.
    fn orders(&self, _sink: &str, _clients: Arc<dyn Clients>) -> Option<BoxFuture<'static, ()>> {
        None
    }

    /// Opens a connection and creates what is missing.
    fn connect(&self) -> impl Future<Output = Result<Self::Conn, WriteError>> + Send;

    /// Stores a batch. After an error other than [`WriteError::Items`] and [`WriteError::Busy`] the connection is not used again.
    fn write<'a>(
        &'a self,
        conn: &'a mut Self::Conn,
        batch: Batch<'a, Self::Op>,
    ) -> impl Future<Output = Result<(), WriteError>> + Send;

    /// Reads what the database remembers of the sink's progress in this log.
    fn positions<'a>(
        &'a self,
        _conn: &'a mut Self::Conn,
        _log_id: u64,
        _sink: &'a str,
    ) -> impl Future<Output = Result<Kept, WriteError>> + Send {
        async { Ok(Kept::Never) }
    }

    /// Replaces whatever position the database has by `to`, for every lane (`forebay sink reset`).
    fn reset<'a>(
        &'a self,
        _conn: &'a mut Self::Conn,
        _log_id: u64,
        _sink: &'a str,
        _to: Lsn,
    ) -> impl Future<Output = Result<(), WriteError>> + Send {
        async { Ok(()) }
    }

    /// Upkeep in small steps (expiry, retention); returns how many rows went. Called about every ten seconds, again at once while
    /// it returns a number above 0 and nothing else is to be done.
    fn maintain<'a>(
        &'a self,
        _conn: &'a mut Self::Conn,
        _now_us: u64,
    ) -> impl Future<Output = Result<u64, WriteError>> + Send {
        async { Ok(0) }
    }
}
