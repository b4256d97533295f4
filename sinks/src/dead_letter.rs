//! Dead letters: operations that the database refused for their own fault. Each sink has a log of its own for them; nothing in it
//! is trimmed silently: a letter stays until an operator replays or drops it, and what became of it is a record too.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;

use bytes::Bytes;
use forebay_engine::log::{Log, NewRecord};
use forebay_engine::{Lsn, Record};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::source::BoxFuture;

/// An operation that could not be stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetter {
    /// Its number among this sink's dead letters.
    #[serde(default)]
    pub id: u64,
    /// The record it comes from.
    pub lsn: u64,
    /// That record's time, us since 1970.
    pub time_us: u64,
    /// The sink.
    pub sink: String,
    /// Hook of the rule, as in the configuration (`message.publish`).
    pub hook: String,
    /// Number of the rule.
    pub rule: u32,
    /// Where the rule stands (file:line:column).
    pub rule_at: String,
    /// Number of the operation within the rule, from 0.
    pub place: u32,
    /// Why it was refused.
    pub reason: String,
    /// The statement or operation, as sent.
    pub statement: String,
    /// How often it was tried.
    pub attempts: u32,
    /// When it was first refused, us since 1970.
    pub first_seen_us: u64,
    /// When it was last refused, us since 1970.
    pub last_seen_us: u64,
    /// Kind of the original record.
    pub kind: u8,
    /// Body of the original record.
    #[serde(skip)]
    pub body: Bytes,
}

/// What a dead-letter log is built on.
pub trait LetterStore: Debug + Send + Sync + 'static {
    /// Appends a record; resolves once it is durable.
    fn append(&self, record: NewRecord) -> BoxFuture<'_, Result<Lsn, String>>;
    /// All records in order. Blocking.
    ///
    /// # Errors
    /// Where the store can't be read.
    fn scan(&self) -> Result<Vec<Record>, String>;
    /// One record. Blocking.
    ///
    /// # Errors
    /// Where the store can't be read.
    fn read(&self, lsn: Lsn) -> Result<Option<Record>, String>;
}

impl LetterStore for Log {
    fn append(&self, record: NewRecord) -> BoxFuture<'_, Result<Lsn, String>> {
        Box::pin(async move {
            let appended = self.append_batch(vec![record]).map_err(|e| e.to_string())?;
            self.wait_durable(appended.last).await.map_err(|e| e.to_string())?;
            Ok(appended.last)
        })
    }
    fn scan(&self) -> Result<Vec<Record>, String> {
        let mut reader = self.reader(self.first()).map_err(|e| e.to_string())?;
        let mut out = Vec::new();
        while reader.read_batch(1024, 1 << 20, &mut out).map_err(|e| e.to_string())? > 0 {}
        Ok(out)
    }
    fn read(&self, lsn: Lsn) -> Result<Option<Record>, String> {
        Log::read(self, lsn).map_err(|e| e.to_string())
    }
}

/// A store that is gone with the process: for tests.
#[derive(Debug, Default)]
pub struct MemoryLetters(Mutex<Vec<Record>>);

impl LetterStore for MemoryLetters {
    fn append(&self, record: NewRecord) -> BoxFuture<'_, Result<Lsn, String>> {
        let mut records = self.0.lock();
        let lsn = Lsn(records.len() as u64 + 1);
        records.push(Record { lsn, time_us: lsn.0, kind: record.kind, body: record.body.into() });
        Box::pin(async move { Ok(lsn) })
    }
    fn scan(&self) -> Result<Vec<Record>, String> {
        Ok(self.0.lock().clone())
    }
    fn read(&self, lsn: Lsn) -> Result<Option<Record>, String> {
        Ok(self.0.lock().iter().find(|r| r.lsn == lsn).cloned())
    }
}

/// What went wrong with dead letters.
#[derive(Clone, Debug, thiserror::Error)]
pub enum DeadLetterError {
    /// The log of the dead letters failed; nothing further of the sink is stored until it works.
    #[error("dead letters of {sink}: {reason}")]
    Store {
        /// The sink.
        sink: String,
        /// What happened.
        reason: String,
    },
    /// There is no open letter of that number.
    #[error("{sink} has no open dead letter {id}; `forebay dlq ls` lists them")]
    Unknown {
        /// The sink.
        sink: String,
        /// The number asked for.
        id: u64,
    },
    /// A replay was refused again.
    #[error("dead letter {id} was not replayed: {reason}")]
    Replay {
        /// The letter.
        id: u64,
        /// Why.
        reason: String,
    },
}

const KIND_LETTER: u8 = 1;
const KIND_SETTLED: u8 = 2;
const KIND_AGAIN: u8 = 3;

/// How a letter was settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Settled {
    /// Its operation is stored now.
    Replayed,
    /// An operator gave it up.
    Dropped,
}

#[derive(Serialize, Deserialize)]
struct SettledRecord {
    id: u64,
    how: Settled,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Again {
    id: u64,
    attempts: u32,
    last_seen_us: u64,
    reason: String,
}

/// One letter's identity: record, hook, rule, place. The same failure after a crash is not a second letter.
type Key = (u64, String, u32, u32);

#[derive(Debug, Default)]
struct Index {
    open: BTreeMap<u64, (Key, Option<Again>)>,
    by_key: BTreeMap<Key, u64>,
}

/// The dead letters of one sink. Cheap to clone.
#[derive(Clone, Debug)]
pub struct DeadLetters {
    sink: Arc<str>,
    store: Arc<dyn LetterStore>,
    index: Arc<Mutex<Index>>,
}

impl DeadLetters {
    /// Opens the dead letters of a sink. Reads the store once (blocking); only the letters' keys stay in memory.
    ///
    /// # Errors
    /// Where the store can't be read.
    pub fn open(sink: &str, store: Arc<dyn LetterStore>) -> Result<DeadLetters, DeadLetterError> {
        let fail = |reason: String| DeadLetterError::Store { sink: sink.to_owned(), reason };
        let mut index = Index::default();
        for record in store.scan().map_err(fail)? {
            index.apply(&record).map_err(fail)?;
        }
        Ok(DeadLetters { sink: sink.into(), store, index: Arc::new(Mutex::new(index)) })
    }

    /// Number of open letters.
    #[must_use]
    pub fn len(&self) -> usize {
        self.index.lock().open.len()
    }

    /// True when there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Open letters from number `from`, at most `limit`, oldest first. Blocking.
    ///
    /// # Errors
    /// Where the store can't be read.
    pub fn ls(&self, from: u64, limit: usize) -> Result<Vec<DeadLetter>, DeadLetterError> {
        let ids: Vec<u64> = self.index.lock().open.range(from..).take(limit).map(|(id, _)| *id).collect();
        ids.into_iter().map(|id| self.show(id)).collect()
    }

    /// One open letter with the original record. Blocking.
    ///
    /// # Errors
    /// Where there is none of that number, or the store can't be read.
    pub fn show(&self, id: u64) -> Result<DeadLetter, DeadLetterError> {
        let unknown = || DeadLetterError::Unknown { sink: self.sink.to_string(), id };
        let again = self.index.lock().open.get(&id).map(|(_, again)| again.clone()).ok_or_else(unknown)?;
        let record = self.store.read(Lsn(id)).map_err(|e| self.failed(e))?.ok_or_else(unknown)?;
        let mut letter = decode(&record).map_err(|e| self.failed(e))?;
        if let Some(again) = again {
            letter.attempts = again.attempts;
            letter.last_seen_us = again.last_seen_us;
            letter.reason = again.reason;
        }
        Ok(letter)
    }

    /// Gives a letter up. Durable when it resolves.
    ///
    /// # Errors
    /// Where there is none of that number, or the store fails.
    pub async fn drop_letter(&self, id: u64) -> Result<(), DeadLetterError> {
        self.settle(id, Settled::Dropped).await
    }

    /// Buries an operation; durable when it resolves. The same operation again only updates its letter.
    ///
    /// # Errors
    /// Where the store fails: the caller must not go on past the record.
    pub async fn bury(&self, letter: &DeadLetter) -> Result<u64, DeadLetterError> {
        let key = (letter.lsn, letter.hook.clone(), letter.rule, letter.place);
        let known = self.index.lock().by_key.get(&key).copied();
        if let Some(id) = known {
            return self.again(id, letter).await;
        }
        let head = serde_json::to_vec(letter).map_err(|e| self.failed(e.to_string()))?;
        let mut body = Vec::with_capacity(head.len() + letter.body.len() + 4);
        body.extend_from_slice(&u32::try_from(head.len()).unwrap_or(u32::MAX).to_le_bytes());
        body.extend_from_slice(&head);
        body.extend_from_slice(&letter.body);
        let lsn = self.store.append(NewRecord { kind: KIND_LETTER, body }).await.map_err(|e| self.failed(e))?;
        let mut index = self.index.lock();
        index.open.insert(lsn.0, (key.clone(), None));
        index.by_key.insert(key, lsn.0);
        Ok(lsn.0)
    }

    async fn again(&self, id: u64, letter: &DeadLetter) -> Result<u64, DeadLetterError> {
        let before = self.index.lock().open.get(&id).and_then(|(_, a)| a.as_ref().map(|a| a.attempts)).unwrap_or(1);
        let again = Again {
            id,
            attempts: before.saturating_add(letter.attempts.max(1)),
            last_seen_us: letter.last_seen_us,
            reason: letter.reason.clone(),
        };
        let body = serde_json::to_vec(&again).map_err(|e| self.failed(e.to_string()))?;
        self.store.append(NewRecord { kind: KIND_AGAIN, body }).await.map_err(|e| self.failed(e))?;
        if let Some((_, slot)) = self.index.lock().open.get_mut(&id) {
            *slot = Some(again);
        }
        Ok(id)
    }

    /// Marks a letter as settled. Durable when it resolves.
    pub(crate) async fn settle(&self, id: u64, how: Settled) -> Result<(), DeadLetterError> {
        if !self.index.lock().open.contains_key(&id) {
            return Err(DeadLetterError::Unknown { sink: self.sink.to_string(), id });
        }
        let body = serde_json::to_vec(&SettledRecord { id, how }).map_err(|e| self.failed(e.to_string()))?;
        self.store.append(NewRecord { kind: KIND_SETTLED, body }).await.map_err(|e| self.failed(e))?;
        self.index.lock().remove(id);
        Ok(())
    }

    fn failed(&self, reason: String) -> DeadLetterError {
        DeadLetterError::Store { sink: self.sink.to_string(), reason }
    }
}

impl Index {
    fn apply(&mut self, record: &Record) -> Result<(), String> {
        match record.kind {
            KIND_LETTER => {
                let l = decode(record)?;
                let key = (l.lsn, l.hook, l.rule, l.place);
                self.by_key.insert(key.clone(), l.id);
                self.open.insert(l.id, (key, None));
            }
            KIND_SETTLED => {
                let settled: SettledRecord = serde_json::from_slice(&record.body).map_err(|e| e.to_string())?;
                self.remove(settled.id);
            }
            KIND_AGAIN => {
                let again: Again = serde_json::from_slice(&record.body).map_err(|e| e.to_string())?;
                if let Some((_, slot)) = self.open.get_mut(&again.id) {
                    *slot = Some(again);
                }
            }
            // Kinds from 128 on are the log's own (gaps).
            _ => {}
        }
        Ok(())
    }

    fn remove(&mut self, id: u64) {
        if let Some((key, _)) = self.open.remove(&id) {
            self.by_key.remove(&key);
        }
    }
}

fn decode(record: &Record) -> Result<DeadLetter, String> {
    let bad = || format!("dead letter {} is damaged", record.lsn);
    let (len, rest) = record.body.split_first_chunk::<4>().ok_or_else(bad)?;
    let len = u32::from_le_bytes(*len) as usize;
    let head = rest.get(..len).ok_or_else(bad)?;
    let mut letter: DeadLetter = serde_json::from_slice(head).map_err(|e| e.to_string())?;
    letter.id = record.lsn.0;
    letter.body = record.body.slice(4 + len..);
    Ok(letter)
}
