//! What EMQ X rules read from DynamoDB: subscriptions, messages of other programs, retained messages.
//!
//! Messages of other programs are found by `mqtt_topic_msg_map`, where they are entered as EMQ X did it. `forebay_imported` holds, for
//! each that became a record, `k:KEY` with our name and `m:NAME` with its key.

use std::collections::{HashMap, HashSet};

use aws_sdk_dynamodb::types::AttributeValue;
use bytes::Bytes;
use forebay_engine::{MsgId, QoS};

use super::connect::{DynamoConn, DynamoSink, Link};
use super::item::{Item, PARTITION_KEY, item, number, s, text, texts};
use super::map::MAP;
use crate::lookup::{ForeignRow, Lookup, OfflineQuery};
use crate::sink::WriteError;

pub(super) const IMPORTED: &str = "forebay_imported";

/// What a key of a message in `mqtt_msg` begins with; those of mqtt_retain begin otherwise.
const MESSAGE: &str = "id:";

/// What is left of a key for the name of another program's message.
const LONGEST: usize = PARTITION_KEY - "k:id:".len();

/// Twenty letters and digits: one of ours, or of another Forebay.
pub(super) fn is_own(name: &str) -> bool {
    name.len() == MsgId::LEN && name.bytes().all(|b| b.is_ascii_alphanumeric())
}

/// The items that remember an import.
pub(super) fn remembered<'a>(msgid: &'a str, key: &'a str) -> [(String, &'a str); 2] {
    [(format!("k:{key}"), msgid), (own_name(msgid), key)]
}

/// Under what our name stands in `forebay_imported`, and [back](of_own_name).
pub(super) fn own_name(msgid: &str) -> String {
    format!("m:{msgid}")
}

pub(super) fn of_own_name(name: &str) -> Option<&str> {
    name.strip_prefix("m:")
}

/// The name of another program's message; `None` for a key of mqtt_retain.
pub(super) fn name_of_key(key: &str) -> Option<&str> {
    key.strip_prefix(MESSAGE)
}

/// True for a name that can be a key.
pub(super) fn is_key(name: &str) -> bool {
    !name.is_empty() && name.len() <= LONGEST
}

/// Messages of other programs in a topic, newest first: what pages are cut from.
#[derive(Clone, Debug, Default)]
pub(super) struct Listing {
    client: String,
    topic: String,
    names: Vec<String>,
}

impl DynamoSink {
    /// Messages of other programs that did not become records, newest first.
    async fn listing(&self, link: &Link, query: &OfflineQuery<'_>) -> Result<Listing, WriteError> {
        let map = link.get(MAP, item([("topic", s(query.topic))])).await?.unwrap_or_default();
        let mut names: HashSet<String> =
            texts(&map, "MsgId").into_iter().filter(|name| !is_own(name) && is_key(name)).collect();
        if self.has_imports() {
            let keys = names.iter().map(|name| item([("name", s(format!("k:{MESSAGE}{name}")))])).collect();
            for known in link.read(IMPORTED, keys, Some("#name")).await? {
                if let Some(name) = text(&known, "name").and_then(|name| name.strip_prefix("k:")).and_then(name_of_key)
                {
                    names.remove(name);
                }
            }
        }
        let key = item([("topic", s(query.topic)), ("clientid", s(query.client))]);
        let acked = match names.is_empty() {
            true => None,
            false => link.get("mqtt_acked", key).await?,
        };
        let acked = acked.as_ref().and_then(|acked| text(acked, "msgid")).filter(|name| !is_own(name));
        let message = |name: &str| item([("msgid", s(name))]);
        let mut keys: Vec<Item> = names.iter().map(|name| message(name)).collect();
        keys.extend(acked.filter(|name| is_key(name) && !names.contains(*name)).map(message));
        let mut found: Vec<(u64, String)> = link
            .read("mqtt_msg", keys, Some("#msgid, #arrived"))
            .await?
            .iter()
            .filter_map(|found| Some((arrived(found), text(found, "msgid")?.to_owned())))
            .collect();
        // Up to the one that another program says is acknowledged, where that is still there.
        let read = found.iter().find(|(_, name)| Some(name.as_str()) == acked).cloned();
        found.retain(|row| names.contains(&row.1) && read.as_ref().is_none_or(|read| row > read));
        found.retain(|(arrived_s, _)| arrived_s.saturating_mul(1_000_000) >= query.since_us);
        found.sort_unstable_by(|a, b| b.cmp(a));
        let names = found.into_iter().map(|(_, name)| name).collect();
        Ok(Listing { client: query.client.to_owned(), topic: query.topic.to_owned(), names })
    }
}

impl Lookup for DynamoSink {
    async fn subscriptions<'a>(
        &'a self,
        conn: &'a mut DynamoConn,
        client: &'a str,
    ) -> Result<Vec<(String, u8)>, WriteError> {
        self.refresh(&conn.link).await?;
        let values = vec![(":client", s(client))];
        let found = conn.link.query("mqtt_sub", "#clientid = :client", values, usize::MAX).await?;
        let row = |found: &Item| {
            let qos = if found.contains_key("qos") { number(found, "qos") } else { Some(0) };
            let qos = qos.and_then(|qos| u8::try_from(qos).ok()).unwrap_or(u8::MAX);
            Some((text(found, "topic")?.to_owned(), qos))
        };
        Ok(found.iter().filter_map(row).collect())
    }

    async fn offline<'a>(
        &'a self,
        conn: &'a mut DynamoConn,
        query: OfflineQuery<'a>,
    ) -> Result<Vec<ForeignRow>, WriteError> {
        self.refresh(&conn.link).await?;
        let known = conn.listing.take().filter(|known| known.client == query.client && known.topic == query.topic);
        let listing = match known.filter(|_| query.before.is_some()) {
            Some(known) => known,
            None => self.listing(&conn.link, &query).await?,
        };
        let last = query.before.and_then(name_of_key);
        let after = last.and_then(|last| listing.names.iter().position(|name| name == last)).map_or(0, |at| at + 1);
        let mut found = Vec::new();
        let (mut bytes, mut rest) = (0, listing.names.get(after..).unwrap_or_default());
        // A few at a time: each may have 400 KB.
        while found.len() < query.limit && bytes < query.bytes && !rest.is_empty() {
            let (names, later) = rest.split_at(rest.len().min(25));
            rest = later;
            let keys = names.iter().map(|name| item([("msgid", s(name.as_str()))])).collect();
            let read = conn.link.read("mqtt_msg", keys, None).await?;
            let mut by_name: HashMap<&str, &Item> =
                read.iter().filter_map(|found| Some((text(found, "msgid")?, found))).collect();
            for name in names {
                // It may be gone meanwhile.
                let Some(row) = by_name.remove(name.as_str()) else { continue };
                if found.len() >= query.limit || bytes >= query.bytes {
                    break;
                }
                let row = foreign(row, query.topic, format!("{MESSAGE}{name}"));
                bytes += row.payload.len();
                found.push(row);
            }
        }
        conn.listing = Some(listing);
        Ok(found)
    }

    async fn retained<'a>(
        &'a self,
        conn: &'a mut DynamoConn,
        topic: &'a str,
    ) -> Result<Option<ForeignRow>, WriteError> {
        self.refresh(&conn.link).await?;
        let found = conn.link.get("mqtt_retain", item([("topic", s(topic))])).await?;
        // A retained message is replaced in place: each is a row of its own to the log.
        Ok(found.map(|found| {
            let mut row = foreign(&found, topic, String::new());
            row.key = format!("retain:{topic}:{}:{}", row.msgid.as_deref().unwrap_or_default(), row.time_us);
            row.retain = true;
            row
        }))
    }
}

/// s since 1970; 0 where it is not known.
fn arrived(found: &Item) -> u64 {
    number(found, "arrived").and_then(|at| u64::try_from(at).ok()).unwrap_or(0)
}

fn foreign(found: &Item, topic: &str, key: String) -> ForeignRow {
    let payload = match found.get("payload") {
        Some(AttributeValue::S(text)) => Bytes::copy_from_slice(text.as_bytes()),
        Some(AttributeValue::B(blob)) => Bytes::copy_from_slice(blob.as_ref()),
        Some(AttributeValue::N(digits)) => Bytes::copy_from_slice(digits.as_bytes()),
        _ => Bytes::new(),
    };
    ForeignRow {
        key,
        msgid: text(found, "msgid").map(str::to_owned),
        topic: topic.to_owned(),
        sender: text(found, "sender").unwrap_or_default().to_owned(),
        qos: number(found, "qos").and_then(|qos| QoS::from_u8(u8::try_from(qos).ok()?)).unwrap_or_default(),
        retain: number(found, "retain").unwrap_or(0) != 0,
        payload,
        time_us: arrived(found).saturating_mul(1_000_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_remembered_leads_back() {
        let [by_key, by_name] = remembered("ours", "id:theirs");
        assert_eq!((by_key.0.as_str(), by_key.1), ("k:id:theirs", "ours"));
        assert_eq!((of_own_name(&by_name.0), name_of_key(by_name.1)), (Some("ours"), Some("theirs")));
        assert_eq!(name_of_key("retain:t:x:5"), None);
    }

    #[test]
    fn our_names_are_told_by_their_form() {
        assert!(is_own("0123456789abcdefXYZa"));
        for other in ["", "Mjg4MTk1MTU5MTQ0", "0123456789abcdefXYZ-", "0123456789abcdefXYZab"] {
            assert!(!is_own(other), "{other}");
        }
        assert!(!is_key("") && is_key("x") && !is_key(&"x".repeat(PARTITION_KEY)));
    }
}
