//! One connection: how it reads, writes and commits.

use std::time::Duration;

use futures_util::TryStreamExt;
use mongodb::bson::{Document, RawDocumentBuf};
use mongodb::options::{Acknowledgment, FindOptions, SelectionCriteria, TransactionOptions, WriteConcern};
use mongodb::{ClientSession, Database};

use super::command::concern;
use super::error::{map, map_commit};
use super::position::Home;
use crate::sink::WriteError;

/// A connection: a place in the driver's pool, and what is known of the sink it serves.
pub struct MongoConn {
    pub(super) db: Database,
    pub(super) session: Option<ClientSession>,
    pub(super) in_transaction: bool,
    pub(super) safe: bool,
    /// Batches are transactions.
    pub(super) transactions: bool,
    /// The sink's position documents, once they were read.
    pub(super) home: Option<Home>,
    /// Bytes of a document at most.
    pub(super) document_bytes: usize,
    /// Statements of a command at most.
    pub(super) statements: usize,
}

impl std::fmt::Debug for MongoConn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MongoConn").field("transactions", &self.transactions).finish_non_exhaustive()
    }
}

impl MongoConn {
    /// The collection, for reading.
    pub(super) fn collection(&self, name: &str) -> mongodb::Collection<Document> {
        self.db.collection(name)
    }

    /// All documents that match.
    pub(super) async fn all(
        &self,
        name: &str,
        filter: Document,
        options: FindOptions,
    ) -> Result<Vec<Document>, WriteError> {
        let rows = self.collection(name).find(filter).with_options(options).await.map_err(map)?;
        rows.try_collect().await.map_err(map)
    }

    /// A document that matches.
    pub(super) async fn one(
        &self,
        name: &str,
        filter: Document,
        reading: SelectionCriteria,
    ) -> Result<Option<Document>, WriteError> {
        self.collection(name).find_one(filter).selection_criteria(reading).await.map_err(map)
    }

    pub(super) fn in_transaction(&self) -> bool {
        self.in_transaction
    }

    /// How writes are confirmed; in a transaction its commit is.
    pub(super) fn write_concern(&self) -> Option<RawDocumentBuf> {
        (!self.in_transaction).then(|| concern(self.safe))
    }

    /// Sends a command.
    pub(super) async fn run(&mut self, command: RawDocumentBuf) -> Result<Document, WriteError> {
        let run = self.db.run_raw_command(command);
        let answer = match self.session.as_mut().filter(|_| self.in_transaction) {
            Some(session) => run.session(session).await,
            None => run.await,
        };
        answer.map_err(map)
    }

    pub(super) async fn begin(&mut self) -> Result<(), WriteError> {
        let session = self.session.as_mut().ok_or_else(|| WriteError::Disconnected("no session".into()))?;
        let concern = if self.safe {
            WriteConcern::builder().w(Acknowledgment::Majority).journal(true).w_timeout(Duration::from_secs(10)).build()
        } else {
            WriteConcern::nodes(1)
        };
        let options = TransactionOptions::builder().write_concern(concern).build();
        session.start_transaction().with_options(options).await.map_err(map)?;
        self.in_transaction = true;
        Ok(())
    }

    pub(super) async fn commit(&mut self) -> Result<(), WriteError> {
        self.in_transaction = false;
        match self.session.as_mut() {
            Some(session) => session.commit_transaction().await.map_err(map_commit),
            None => Ok(()),
        }
    }

    pub(super) async fn abort(&mut self) {
        self.in_transaction = false;
        if let Some(session) = self.session.as_mut() {
            // A server that does not hear it ends the transaction by itself.
            let _ended_later = session.abort_transaction().await;
        }
    }
}
