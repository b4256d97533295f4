//! What the sinks need of the engine, and no more: a log to read, a place to report to.

use std::fmt::Debug;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use forebay_engine::log::{AppendError, DurableError, ReadError, SkipReason};
use forebay_engine::state::Gap;
use forebay_engine::{Engine, Event, Lsn, MsgId, Record};

/// A future behind a pointer.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The log and the state that sinks and lookups read.
pub trait Source: Debug + Send + Sync + 'static {
    /// Identity of the log: positions in a database belong to one log.
    fn log_id(&self) -> u64;
    /// The first record there is.
    fn first(&self) -> Lsn;
    /// Every record below is durable.
    fn durable_end(&self) -> Lsn;
    /// A reader of durable records from `from`.
    ///
    /// # Errors
    /// Where the place was trimmed or can't be read.
    fn reader(&self, from: Lsn) -> Result<Box<dyn RecordReader>, ReadError>;
    /// Resolves when record `lsn` is durable, or after a while at the latest (callers look again).
    fn wait(&self, lsn: Lsn) -> BoxFuture<'_, ()>;
    /// Appends an event; resolves when it is enqueued, with its number.
    fn append(&self, event: Event) -> BoxFuture<'_, Result<Lsn, AppendError>>;
    /// The public name of a message.
    fn msgid(&self, lsn: Lsn, time_us: u64) -> MsgId;
    /// A sink's position as the log knows it.
    fn sink_position(&self, sink: &str) -> Option<Lsn>;
    /// What the sink was passed by because the log had no room, as the log has recorded it: the newest range.
    fn sink_gap(&self, sink: &str) -> Option<Gap>;
    /// Gives no number up to `lsn` any more, up to which a database has stored records of this log that the log does not have.
    /// Resolves when that is durable.
    fn skip_past(&self, lsn: Lsn) -> BoxFuture<'_, Result<(), DurableError>>;
    /// True where `lsn` is a position that only a database knew ([`skip_past`](Source::skip_past)). May read the disk.
    fn is_beyond(&self, lsn: Lsn) -> bool;
    /// Says whether the sink looks at [`asked`](Source::asked) from now on.
    fn follows(&self, sink: &str, follows: bool);
    /// The record up to which the log has no room to wait for the sink: it records what it loses and goes on behind.
    fn asked(&self, sink: &str) -> Option<Lsn>;
    /// Record time of the retained message of a topic, us since 1970.
    fn retained_at(&self, topic: &str) -> Option<u64>;
    /// Wall clock, us since 1970.
    fn now_us(&self) -> u64;
}

/// Reads records in order. Blocking: the runtime calls it off the executor.
pub trait RecordReader: Send {
    /// Appends the next records to `out`; 0 at the durable watermark.
    ///
    /// # Errors
    /// Where the log can't be read.
    fn read(&mut self, max_records: usize, max_bytes: usize, out: &mut Vec<Record>) -> Result<usize, ReadError>;
}

/// The engine as a [`Source`].
#[derive(Clone, Debug)]
pub struct EngineSource {
    engine: Engine,
    log_id: u64,
}

impl EngineSource {
    /// The engine whose log has this identity.
    #[must_use]
    pub fn new(engine: Engine, log_id: u64) -> Self {
        EngineSource { engine, log_id }
    }
}

struct EngineReader(forebay_engine::log::Reader);

impl RecordReader for EngineReader {
    fn read(&mut self, max_records: usize, max_bytes: usize, out: &mut Vec<Record>) -> Result<usize, ReadError> {
        self.0.read_batch(max_records, max_bytes, out)
    }
}

/// How long a wait for the watermark lasts before the reader looks by itself.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// How often the reader looks at a log that has stopped.
const STOPPED: Duration = Duration::from_millis(500);

impl Source for EngineSource {
    fn log_id(&self) -> u64 {
        self.log_id
    }
    fn first(&self) -> Lsn {
        self.engine.log().first()
    }
    fn durable_end(&self) -> Lsn {
        self.engine.durable_end()
    }
    fn reader(&self, from: Lsn) -> Result<Box<dyn RecordReader>, ReadError> {
        Ok(Box::new(EngineReader(self.engine.log().reader(from)?)))
    }
    fn wait(&self, lsn: Lsn) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            if let Ok(Err(_)) = tokio::time::timeout(LOOK_AGAIN, self.engine.durable(lsn)).await {
                // A stopped log gets no further records: look now and then, without spinning.
                tokio::time::sleep(STOPPED).await;
            }
        })
    }
    fn append(&self, event: Event) -> BoxFuture<'_, Result<Lsn, AppendError>> {
        Box::pin(async move { self.engine.append_wait(&[event]).await.map(|a| a.last) })
    }
    fn msgid(&self, lsn: Lsn, time_us: u64) -> MsgId {
        self.engine.msgid(lsn, time_us)
    }
    fn sink_position(&self, sink: &str) -> Option<Lsn> {
        self.engine.sink_position(sink)
    }
    fn sink_gap(&self, sink: &str) -> Option<Gap> {
        self.engine.sink_gap(sink)
    }
    fn skip_past(&self, lsn: Lsn) -> BoxFuture<'_, Result<(), DurableError>> {
        Box::pin(async move {
            if let Some(gap) = self.engine.log().skip_past(lsn)? {
                self.engine.durable(gap.last).await?;
            }
            Ok(())
        })
    }
    fn is_beyond(&self, lsn: Lsn) -> bool {
        // A place that can't be read is met again by the reader, which says so.
        let skip = self.engine.log().skip_at(lsn).ok().flatten();
        skip.is_some_and(|skip| skip.why == SkipReason::Beyond)
    }
    fn follows(&self, sink: &str, follows: bool) {
        self.engine.sink_follows(sink, follows);
    }
    fn asked(&self, sink: &str) -> Option<Lsn> {
        self.engine.sink_asked(sink)
    }
    fn retained_at(&self, topic: &str) -> Option<u64> {
        self.engine.retained(topic).map(|m| m.time_us)
    }
    fn now_us(&self) -> u64 {
        self.engine.now_us()
    }
}
