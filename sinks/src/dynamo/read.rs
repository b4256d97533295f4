//! Reading: always what is stored by now, page by page.

use std::collections::HashMap;

use aws_sdk_dynamodb::types::{AttributeValue, KeysAndAttributes};

use super::connect::Link;
use super::error::{Failure, failure};
use super::item::Item;
use super::request::{Progress, names};
use crate::sink::WriteError;

/// Most keys of a `BatchGetItem`: DynamoDB's.
const READS: usize = 100;

impl Link {
    /// The items of these keys that are there; with `only`, no other attributes than these.
    pub(super) async fn read(
        &self,
        table: &'static str,
        keys: Vec<Item>,
        only: Option<&str>,
    ) -> Result<Vec<Item>, WriteError> {
        let progress = Progress::new();
        let mut found = Vec::new();
        for keys in keys.chunks(READS) {
            let wanted = KeysAndAttributes::builder()
                .set_keys(Some(keys.to_vec()))
                .set_projection_expression(only.map(str::to_owned))
                .set_expression_attribute_names(only.and_then(|only| names([only])))
                .consistent_read(true)
                .build()
                .map_err(|e| WriteError::busy(e.to_string()))?;
            let mut rest = HashMap::from([(table.to_owned(), wanted)]);
            let mut attempt = 0;
            loop {
                let sent = self.client.batch_get_item().set_request_items(Some(rest.clone())).send().await;
                let why = match sent.map_err(|e| self.noted(failure(&e, table))) {
                    Ok(mut answer) => {
                        let items = answer.responses.as_mut().and_then(|all| all.remove(table)).unwrap_or_default();
                        if !items.is_empty() {
                            progress.made();
                        }
                        found.extend(items);
                        rest = answer.unprocessed_keys.unwrap_or_default();
                        if rest.is_empty() {
                            break;
                        }
                        format!("keys of {table} were not read (UnprocessedKeys)")
                    }
                    Err(Failure::Throttled(why)) => why,
                    Err(failure) => return Err(failure.into_write()),
                };
                progress.wait(attempt, why).await?;
                attempt += 1;
            }
        }
        Ok(found)
    }

    /// The item of a key.
    pub(super) async fn get(&self, table: &'static str, key: Item) -> Result<Option<Item>, WriteError> {
        let get = self.client.get_item().table_name(table).set_key(Some(key)).consistent_read(true);
        let sent = get.send().await.map_err(|e| self.noted(failure(&e, table)).into_write())?;
        Ok(sent.item)
    }

    /// The items of a partition, in the order of their sort key; `most` of them at most.
    pub(super) async fn query(
        &self,
        table: &'static str,
        condition: &str,
        values: Vec<(&'static str, AttributeValue)>,
        most: usize,
    ) -> Result<Vec<Item>, WriteError> {
        let values: HashMap<String, AttributeValue> =
            values.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let (mut found, mut start) = (Vec::new(), None);
        loop {
            let query = self.client.query().table_name(table).key_condition_expression(condition);
            let query = query.set_expression_attribute_names(names([condition]));
            let query = query.set_expression_attribute_values(Some(values.clone())).set_exclusive_start_key(start);
            let sent = query.consistent_read(true).send().await;
            let answer = sent.map_err(|e| self.noted(failure(&e, table)).into_write())?;
            found.extend(answer.items.unwrap_or_default());
            start = answer.last_evaluated_key.filter(|key| !key.is_empty());
            if start.is_none() || found.len() >= most {
                found.truncate(most);
                return Ok(found);
            }
        }
    }

    /// True where a table has items.
    pub(super) async fn has_any(&self, table: &'static str) -> Result<bool, WriteError> {
        let sent = self.client.scan().table_name(table).limit(1).consistent_read(true).send().await;
        match sent.map_err(|e| failure(&e, table)) {
            Ok(answer) => Ok(answer.items.is_some_and(|items| !items.is_empty())),
            // With `schema = off` it may be missing.
            Err(Failure::Missing(_)) => Ok(false),
            Err(failure) => Err(self.noted(failure).into_write()),
        }
    }
}
