//! What admin HTTP asks of the running server.

use super::operate::Which;
use super::rows::{ClientRow, Page, PublishRequest, PublishedRow, RetainedRow, SessionRow, SubscriptionRow};
use super::status::{Cursor, DeadLetterRow, Done, RecordRow, ResetTo, SegmentRow, SinkStatus, Status};

/// Most records given in one answer.
pub const RECORDS_MAX: u64 = 10_000;

/// Why a question has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    /// There is no such thing.
    #[error("{0}")]
    Unknown(String),
    /// What was asked for can't be.
    #[error("{0}")]
    Invalid(String),
    /// It failed.
    #[error("{0}")]
    Failed(String),
}

/// The running server as its operator sees it. Methods may wait for the disk.
pub trait Control: Send + Sync + 'static {
    /// All of it.
    fn status(&self) -> Status;
    /// Why the server is not ready; empty = it is.
    fn not_ready(&self) -> Vec<String>;
    /// The sinks.
    fn sinks(&self) -> Vec<SinkStatus>;
    /// Stops a sink; records wait in the log.
    ///
    /// # Errors
    /// Where there is no such sink (so in the methods below).
    fn pause(&self, sink: &str) -> Result<Done, ControlError>;
    /// Lets it go on.
    fn resume(&self, sink: &str) -> Result<Done, ControlError>;
    /// Sets its position, in its database too.
    fn reset(&self, sink: &str, to: ResetTo) -> Result<Done, ControlError>;
    /// Its dead letters, oldest first.
    fn dead_letters(&self, sink: &str) -> Result<Vec<DeadLetterRow>, ControlError>;
    /// One of them.
    fn dead_letter(&self, sink: &str, id: u64) -> Result<DeadLetterRow, ControlError>;
    /// Gives them (all where `ids` is empty) to the database again.
    fn replay(&self, sink: &str, ids: &[u64]) -> Result<Done, ControlError>;
    /// Forgets them.
    fn drop_letters(&self, sink: &str, ids: &[u64]) -> Result<Done, ControlError>;
    /// Cursors of sessions and sinks.
    fn cursors(&self) -> Vec<Cursor>;
    /// The log's segments.
    ///
    /// # Errors
    /// Where the disk fails.
    fn segments(&self) -> Result<Vec<SegmentRow>, ControlError>;
    /// Records from `from` on.
    ///
    /// # Errors
    /// Where they were trimmed, are damaged, or the disk fails.
    fn records(&self, from: u64, limit: u64) -> Result<Vec<RecordRow>, ControlError>;
    /// Part of the connected clients.
    fn clients(&self, which: &Which) -> Page<ClientRow>;
    /// A connected client.
    ///
    /// # Errors
    /// Where it is not connected (so in `kick`).
    fn client(&self, client: &str) -> Result<ClientRow, ControlError>;
    /// Ends its connection; durable.
    fn kick(&self, client: &str) -> Result<Done, ControlError>;
    /// Part of the sessions.
    fn sessions(&self, which: &Which) -> Page<SessionRow>;
    /// A session.
    ///
    /// # Errors
    /// Where there is none (so in `drop_session`).
    fn session(&self, client: &str) -> Result<SessionRow, ControlError>;
    /// Ends it; durable.
    fn drop_session(&self, client: &str) -> Result<Done, ControlError>;
    /// Part of the subscriptions.
    ///
    /// # Errors
    /// Where `topic` or `after` can't be one.
    fn subscriptions(&self, which: &Which) -> Result<Page<SubscriptionRow>, ControlError>;
    /// Part of the retained messages.
    ///
    /// # Errors
    /// Where the filter is none.
    fn retained(&self, which: &Which) -> Result<Page<RetainedRow>, ControlError>;
    /// A retained message.
    ///
    /// # Errors
    /// Where there is none (so in `clear_retained`).
    fn retained_message(&self, topic: &str) -> Result<RetainedRow, ControlError>;
    /// Removes it; durable.
    fn clear_retained(&self, topic: &str) -> Result<Done, ControlError>;
    /// Publishes; durable where it is stored.
    ///
    /// # Errors
    /// Where the message can't be published, or the log takes no records.
    fn publish(&self, request: PublishRequest) -> Result<PublishedRow, ControlError>;
}
