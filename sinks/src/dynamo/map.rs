//! `mqtt_topic_msg_map`: the names of a topic's messages, in items that stay small.
//!
//! ```text
//!  topic            MsgId = names                 the guide's item: the first `map_ids` names, and those that other programs add
//!  topic#NAME       MsgId = names from NAME on    the next `map_ids`, and so on; no topic that can be published to has a `#`
//!  topic#           MsgId = the NAMEs             which of those there are
//! ```
//!
//! DynamoDB writes an item as a whole, charges for all of it, and takes 400 KB. So a full item is left as it is and another begun
//! where it ended. Names sort as their messages were published, so that each has one place: the last NAME of its own node that does not
//! come after it. Items that have run empty go.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use forebay_engine::MsgId;
use parking_lot::Mutex as Lock;
use tokio::sync::Mutex;

use super::connect::Link;
use super::error::Failure;
use super::item::{item, n, s, ss, texts};
use super::request::{Progress, Request};
use crate::sink::WriteError;

/// The table.
pub(super) const MAP: &str = "mqtt_topic_msg_map";

/// Topics that are remembered.
const REMEMBERED: usize = 10_000;

/// The items of each topic, as this process left them. Who has a topic's lock is the only one to change them.
#[derive(Debug, Default)]
pub(super) struct Topics(Lock<HashMap<String, Arc<Mutex<Places>>>>);

impl Topics {
    fn of(&self, topic: &str) -> Arc<Mutex<Places>> {
        let mut topics = self.0.lock();
        if topics.len() >= REMEMBERED {
            topics.retain(|_, places| Arc::strong_count(places) > 1);
        }
        topics.entry(topic.to_owned()).or_default().clone()
    }

    /// What was remembered is void.
    pub(super) fn forget(&self) {
        self.0.lock().clear();
    }
}

/// The names that items begin with, in order; `None` where they were not read yet.
#[derive(Debug, Default)]
struct Places(Option<Vec<String>>);

/// The item that holds a name: the last that begins with a name of its node and not after it; the guide's own where there is none.
fn place<'a>(begins: &'a [String], msgid: &str) -> Option<&'a str> {
    let node = MsgId::parse(msgid)?.node;
    let own = |begin: &&String| begin.as_str() <= msgid && MsgId::parse(begin).is_some_and(|id| id.node == node);
    begins.iter().rev().find(own).map(String::as_str)
}

/// The last item of a node.
fn last<'a>(begins: &'a [String], msgid: &str) -> Option<&'a str> {
    let node = MsgId::parse(msgid)?.node;
    begins.iter().rev().find(|begin| MsgId::parse(begin).is_some_and(|id| id.node == node)).map(String::as_str)
}

fn key(topic: &str, begin: Option<&str>) -> String {
    begin.map_or_else(|| topic.to_owned(), |begin| format!("{topic}#{begin}"))
}

fn list_key(topic: &str) -> String {
    format!("{topic}#")
}

/// A connection's way to the table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Map<'a> {
    pub(super) link: &'a Link,
    pub(super) progress: &'a Progress,
    pub(super) topics: &'a Topics,
    /// Names in an item before another is begun.
    pub(super) most: usize,
}

impl Map<'_> {
    async fn names(&self, key: &str) -> Result<Vec<String>, WriteError> {
        let found = self.link.get(MAP, item([("topic", s(key))])).await?;
        let mut names = found.map(|found| texts(&found, "MsgId")).unwrap_or_default();
        names.sort_unstable();
        Ok(names)
    }

    async fn begins<'p>(&self, places: &'p mut Places, topic: &str) -> Result<&'p mut Vec<String>, WriteError> {
        let read = match places.0.take() {
            Some(known) => known,
            None => self.names(&list_key(topic)).await?,
        };
        Ok(places.0.insert(read))
    }

    /// All names of a topic.
    pub(super) async fn all(&self, topic: &str) -> Result<Vec<String>, WriteError> {
        let places = self.topics.of(topic);
        let mut places = places.lock().await;
        let begins = self.begins(&mut places, topic).await?.clone();
        let mut all = self.names(topic).await?;
        for begin in &begins {
            all.extend(self.names(&key(topic, Some(begin))).await?);
        }
        Ok(all)
    }

    /// Adds names, in order. A name that is there already stays there once.
    pub(super) async fn add(&self, topic: &str, names: &[&str]) -> Result<(), Failure> {
        let places = self.topics.of(topic);
        let mut places = places.lock().await;
        let begins = self.begins(&mut places, topic).await.map_err(Failure::Other)?;
        let mut by_place: BTreeMap<Option<String>, Vec<&str>> = BTreeMap::new();
        for name in names {
            by_place.entry(place(begins, name).map(str::to_owned)).or_default().push(name);
        }
        for (begin, names) in by_place {
            // Some at a time, so that no item has more than twice as many as it should.
            for names in names.chunks(self.most) {
                let Some(first) = names.first() else { continue };
                let is_last = last(begins, first).is_none_or(|last| last <= *first);
                if is_last {
                    self.add_to_last(topic, begins, names).await?;
                } else {
                    self.put(&key(topic, begin.as_deref()), names).await?;
                }
            }
        }
        Ok(())
    }

    async fn put(&self, key: &str, names: &[&str]) -> Result<(), Failure> {
        self.link.send(self.progress, &put(key, names)).await.map(|_| ())
    }

    /// Adds names to the item that grows, or begins another where it is full.
    async fn add_to_last(&self, topic: &str, begins: &mut Vec<String>, names: &[&str]) -> Result<(), Failure> {
        let key_now = key(topic, names.first().and_then(|name| last(begins, name)));
        let with_room = put(&key_now, names)
            .only("attribute_not_exists(#MsgId) or size(#MsgId) < :most")
            .value(":most", n(self.most));
        match self.link.send(self.progress, &with_room).await {
            Ok(_) => return Ok(()),
            // Full by count; or by bytes, with what other programs added.
            Err(Failure::Condition | Failure::Own(_)) => {}
            Err(failure) => return Err(failure),
        }
        let node = names.first().and_then(|name| MsgId::parse(name)).map(|id| id.node);
        let there = self.names(&key_now).await.map_err(Failure::Other)?;
        let end = there.iter().rev().find(|name| MsgId::parse(name).map(|id| id.node) == node);
        let known = names.partition_point(|name| end.is_some_and(|end| *name <= end.as_str()));
        let (known, new) = names.split_at(known);
        if !known.is_empty() {
            self.put(&key_now, known).await?;
        }
        let Some(first) = new.first() else { return Ok(()) };
        // Known before there is anything in it: what is interrupted here leaves an empty item.
        self.put(&list_key(topic), &[first]).await?;
        let at = begins.partition_point(|begin| begin.as_str() < *first);
        begins.insert(at, (*first).to_owned());
        self.put(&key(topic, Some(first)), new).await
    }

    /// Takes names away.
    pub(super) async fn remove(&self, topic: &str, names: &[&str]) -> Result<(), Failure> {
        let places = self.topics.of(topic);
        let mut places = places.lock().await;
        let begins = self.begins(&mut places, topic).await.map_err(Failure::Other)?;
        let mut by_place: BTreeMap<Option<String>, Vec<&str>> = BTreeMap::new();
        for name in names {
            by_place.entry(place(begins, name).map(str::to_owned)).or_default().push(name);
        }
        for (begin, names) in by_place {
            let emptied = self.take(&key(topic, begin.as_deref()), &names).await?;
            if let Some(begin) = begin
                && emptied
            {
                // The item is gone: what comes now has its place in the one before.
                self.take(&list_key(topic), &[&begin]).await?;
                begins.retain(|known| *known != begin);
            }
        }
        Ok(())
    }

    /// Takes names out of an item; true where it held nothing else, and is gone.
    async fn take(&self, key: &str, names: &[&str]) -> Result<bool, Failure> {
        let change = Request::update(MAP, item([("topic", s(key))]), "delete #MsgId :names")
            .only("attribute_exists(#MsgId)")
            .value(":names", ss(names.iter().copied()))
            .answered();
        let empty = match self.link.send(self.progress, &change).await {
            Ok(left) => texts(&left, "MsgId").is_empty(),
            // Nothing is there.
            Err(Failure::Condition) => true,
            Err(failure) => return Err(failure),
        };
        if !empty {
            return Ok(false);
        }
        let bare = Request::delete(MAP, item([("topic", s(key))])).only("attribute_not_exists(#MsgId)");
        self.link.try_send(self.progress, &bare).await
    }
}

fn put(key: &str, names: &[&str]) -> Request {
    Request::update(MAP, item([("topic", s(key))]), "add #MsgId :names").value(":names", ss(names.iter().copied()))
}

#[cfg(test)]
mod tests {
    use forebay_engine::Lsn;

    use super::*;

    #[test]
    fn each_name_has_its_place_among_those_of_its_node() {
        let id = |time, node| MsgId::new(time, node, Lsn(time)).to_string();
        let begins = vec![id(10, 1), id(15, 2), id(20, 1)];
        let at = |time, node| place(&begins, &id(time, node)).map(|begin| MsgId::parse(begin).unwrap().time_us);
        assert_eq!([at(9, 1), at(10, 1), at(19, 1), at(99, 1)], [None, Some(10), Some(10), Some(20)]);
        assert_eq!([at(12, 2), at(99, 2), at(99, 3)], [None, Some(15), None]);
        assert_eq!(place(&begins, "of another program"), None);
        assert_eq!(last(&begins, &id(1, 1)), Some(begins[2].as_str()));
        assert_eq!(last(&begins, &id(1, 3)), None);
    }
}
