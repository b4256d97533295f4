//! One request: what is sent, and what is done while DynamoDB takes only a part of it.

use std::collections::HashMap;
use std::time::Duration;

use aws_sdk_dynamodb::types::{AttributeValue, DeleteRequest, PutRequest, ReturnValue, WriteRequest};
use futures_util::StreamExt;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::apply::Verdicts;
use super::connect::Link;
use super::error::{Failure, failure, throttled};
use super::item::{Item, bytes};
use crate::sink::{Verdict, WriteError};

/// Requests of one connection under way at once.
pub(super) const AT_ONCE: usize = 8;

/// Most items of a `BatchWriteItem`: DynamoDB's.
const WRITES: usize = 25;

/// Bytes of a `BatchWriteItem` after which no further item is added; DynamoDB takes 16 MB.
const BYTES: usize = 4 << 20;

/// How long nothing at all may go through before the runtime is told.
const STANDSTILL: Duration = Duration::from_secs(2);

/// Waits between attempts for what was not taken.
const FIRST_WAIT: Duration = Duration::from_millis(25);
const LONGEST_WAIT: Duration = Duration::from_millis(800);

/// What is shared by the requests of one call: whether any of them gets on.
#[derive(Debug)]
pub(super) struct Progress(Mutex<Instant>);

impl Progress {
    pub(super) fn new() -> Progress {
        Progress(Mutex::new(Instant::now()))
    }

    /// Something went through.
    pub(super) fn made(&self) {
        *self.0.lock() = Instant::now();
    }

    /// Waits before the next attempt.
    ///
    /// # Errors
    /// Where nothing has gone through for a while.
    pub(super) async fn wait(&self, attempt: u32, why: String) -> Result<(), WriteError> {
        if self.0.lock().elapsed() > STANDSTILL {
            return Err(throttled(why));
        }
        let longest = FIRST_WAIT.saturating_mul(1 << attempt.min(8)).min(LONGEST_WAIT);
        // Those that were refused together are not to come back together.
        tokio::time::sleep(longest.mul_f64(rand::random_range(0.5..1.0))).await;
        Ok(())
    }
}

/// A write of one item that depends on what is there. `#name` in its expressions stands for the attribute of that name.
#[derive(Clone, Debug)]
pub(super) struct Request {
    table: &'static str,
    kind: Kind,
    condition: Option<String>,
    values: HashMap<String, AttributeValue>,
    answered: bool,
}

#[derive(Clone, Debug)]
enum Kind {
    Put(Item),
    Update(Item, String),
    Delete(Item),
}

impl Request {
    fn new(table: &'static str, kind: Kind) -> Request {
        Request { table, kind, condition: None, values: HashMap::new(), answered: false }
    }

    pub(super) fn put(table: &'static str, item: Item) -> Request {
        Request::new(table, Kind::Put(item))
    }

    pub(super) fn update(table: &'static str, key: Item, change: impl Into<String>) -> Request {
        Request::new(table, Kind::Update(key, change.into()))
    }

    pub(super) fn delete(table: &'static str, key: Item) -> Request {
        Request::new(table, Kind::Delete(key))
    }

    /// Only where this holds.
    pub(super) fn only(mut self, condition: impl Into<String>) -> Request {
        self.condition = Some(condition.into());
        self
    }

    pub(super) fn value(mut self, name: impl Into<String>, value: AttributeValue) -> Request {
        self.values.insert(name.into(), value);
        self
    }

    /// The answer is to hold the attributes that an update has changed, as they are now.
    pub(super) fn answered(mut self) -> Request {
        self.answered = true;
        self
    }

    /// Each `#name` of the expressions, and the attribute that it stands for.
    fn names(&self) -> Option<HashMap<String, String>> {
        let update = match &self.kind {
            Kind::Update(_, change) => change.as_str(),
            _ => "",
        };
        names([update, self.condition.as_deref().unwrap_or_default()])
    }
}

/// Each `#name` of these expressions, and the attribute that it stands for.
pub(super) fn names<'a>(expressions: impl IntoIterator<Item = &'a str>) -> Option<HashMap<String, String>> {
    let mut names = HashMap::new();
    for expression in expressions {
        for rest in expression.split('#').skip(1) {
            let name: String = rest.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
            names.insert(format!("#{name}"), name);
        }
    }
    (!names.is_empty()).then_some(names)
}

/// An item to be put or deleted without regard to what is there, and the operations it is for.
#[derive(Clone, Debug)]
pub(super) struct Write {
    pub(super) table: &'static str,
    pub(super) item: Item,
    /// The item is a key, and what has it goes.
    pub(super) delete: bool,
    pub(super) entries: Vec<usize>,
}

impl Write {
    fn request(&self) -> Result<WriteRequest, WriteError> {
        let impossible = |e: aws_sdk_dynamodb::error::BuildError| WriteError::busy(e.to_string());
        let request = WriteRequest::builder();
        Ok(if self.delete {
            let delete = DeleteRequest::builder().set_key(Some(self.item.clone())).build().map_err(impossible)?;
            request.delete_request(delete).build()
        } else {
            let put = PutRequest::builder().set_item(Some(self.item.clone())).build().map_err(impossible)?;
            request.put_request(put).build()
        })
    }
}

impl Link {
    /// Sends one request once.
    pub(super) async fn once(&self, request: &Request) -> Result<Item, Failure> {
        let values = (!request.values.is_empty()).then(|| request.values.clone());
        let table = request.table;
        let answer = match &request.kind {
            Kind::Put(item) => {
                let put = self.client.put_item().table_name(table).set_item(Some(item.clone()));
                let put = put.set_condition_expression(request.condition.clone());
                let sent = put.set_expression_attribute_names(request.names()).set_expression_attribute_values(values);
                sent.send().await.map(|_| None).map_err(|e| failure(&e, table))
            }
            Kind::Update(key, change) => {
                let update = self.client.update_item().table_name(table).set_key(Some(key.clone()));
                let update = update.update_expression(change).set_condition_expression(request.condition.clone());
                let update = if request.answered { update.return_values(ReturnValue::UpdatedNew) } else { update };
                let sent =
                    update.set_expression_attribute_names(request.names()).set_expression_attribute_values(values);
                sent.send().await.map(|answer| answer.attributes).map_err(|e| failure(&e, table))
            }
            Kind::Delete(key) => {
                let delete = self.client.delete_item().table_name(table).set_key(Some(key.clone()));
                let delete = delete.set_condition_expression(request.condition.clone());
                let sent =
                    delete.set_expression_attribute_names(request.names()).set_expression_attribute_values(values);
                sent.send().await.map(|_| None).map_err(|e| failure(&e, table))
            }
        };
        answer.map(Option::unwrap_or_default).map_err(|failure| self.noted(failure))
    }

    /// Sends one request, again and again while it is throttled and others of the call get on.
    pub(super) async fn send(&self, progress: &Progress, request: &Request) -> Result<Item, Failure> {
        let mut attempt = 0;
        loop {
            match self.once(request).await {
                Err(Failure::Throttled(why)) => progress.wait(attempt, why).await.map_err(Failure::Other)?,
                answer => {
                    progress.made();
                    return answer;
                }
            }
            attempt += 1;
        }
    }

    /// [`Link::send`] where it is no fault when the condition does not hold; false then.
    pub(super) async fn try_send(&self, progress: &Progress, request: &Request) -> Result<bool, Failure> {
        match self.send(progress, request).await {
            Ok(_) => Ok(true),
            Err(Failure::Condition) => Ok(false),
            Err(failure) => Err(failure),
        }
    }

    /// Puts and deletes all of these; no key may be there twice. What is refused is in the verdicts.
    pub(super) async fn write(
        &self,
        progress: &Progress,
        writes: Vec<Write>,
        verdicts: &mut Verdicts,
    ) -> Result<(), WriteError> {
        let mut batches: Vec<Vec<Write>> = Vec::new();
        let mut room = 0;
        for write in writes {
            let size = bytes(&write.item);
            match batches.last_mut() {
                Some(batch) if batch.len() < WRITES && size <= room => batch.push(write),
                _ => {
                    batches.push(vec![write]);
                    room = BYTES;
                }
            }
            room = room.saturating_sub(size);
        }
        let sent: Vec<_> = batches.into_iter().map(|batch| self.batch(progress, batch)).collect();
        let mut sent = futures_util::stream::iter(sent).buffer_unordered(AT_ONCE);
        while let Some(refused) = sent.next().await {
            for (entries, why) in refused? {
                bury(verdicts, &entries, &why);
            }
        }
        Ok(())
    }

    /// One `BatchWriteItem`. Where it is refused each item is sent by itself: the others are stored.
    async fn batch(&self, progress: &Progress, batch: Vec<Write>) -> Result<Vec<(Vec<usize>, String)>, WriteError> {
        match self.all_of(progress, &batch).await {
            Ok(()) => return Ok(Vec::new()),
            Err(Failure::Own(_)) => {}
            Err(failure) => return Err(failure.into_write()),
        }
        let mut refused = Vec::new();
        for write in batch {
            match self.all_of(progress, std::slice::from_ref(&write)).await {
                Ok(()) => {}
                Err(Failure::Own(why)) => refused.push((write.entries, why)),
                Err(failure) => return Err(failure.into_write()),
            }
        }
        Ok(refused)
    }

    async fn all_of(&self, progress: &Progress, batch: &[Write]) -> Result<(), Failure> {
        let table = batch.first().map_or("", |write| write.table);
        let mut rest: HashMap<String, Vec<WriteRequest>> = HashMap::new();
        for write in batch {
            rest.entry(write.table.to_owned()).or_default().push(write.request().map_err(Failure::Other)?);
        }
        let (mut left, mut attempt) = (batch.len(), 0);
        loop {
            let sent = self.client.batch_write_item().set_request_items(Some(rest.clone())).send().await;
            let why = match sent.map_err(|e| self.noted(failure(&e, table))) {
                Ok(answer) => {
                    rest = answer.unprocessed_items.unwrap_or_default();
                    rest.retain(|_, items| !items.is_empty());
                    let now = rest.values().map(Vec::len).sum();
                    if now < left {
                        progress.made();
                    }
                    left = now;
                    if left == 0 {
                        return Ok(());
                    }
                    let tables: Vec<&str> = rest.keys().map(String::as_str).collect();
                    format!("{left} items of {} were not taken (UnprocessedItems)", tables.join(", "))
                }
                Err(Failure::Throttled(why)) => why,
                Err(failure) => return Err(failure),
            };
            progress.wait(attempt, why).await.map_err(Failure::Other)?;
            attempt += 1;
        }
    }
}

/// Buries operations.
pub(super) fn bury(verdicts: &mut Verdicts, entries: &[usize], why: &str) {
    for entry in entries {
        verdicts.insert(*entry, Verdict::Bury(why.into()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_expressions_stand_for_attributes_of_that_name() {
        let found = names(["set #node = :n", "#online_at <= :at and #l12 < :x or attribute_exists(#MsgId)"]).unwrap();
        let mut attributes: Vec<&str> = found.values().map(String::as_str).collect();
        attributes.sort_unstable();
        assert_eq!(attributes, ["MsgId", "l12", "node", "online_at"]);
        assert_eq!(found["#l12"], "l12");
        assert_eq!(names(["attribute_exists(x)"]), None);
    }
}
