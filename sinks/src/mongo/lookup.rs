//! What EMQ X rules read from MongoDB: subscriptions, messages of other programs, retained messages.

use std::collections::HashSet;

use forebay_engine::QoS;
use futures_util::TryStreamExt;
use mongodb::bson::oid::ObjectId;
use mongodb::bson::spec::BinarySubtype;
use mongodb::bson::{Binary, Bson, Document, Regex, cstr, doc};
use mongodb::options::FindOptions;

use super::command::integer;
use super::conn::MongoConn;
use super::connect::MongoSink;
use super::error::map;
use super::json;
use super::schema::{ACKED_BEFORE, OWN_NUMBERS, key_id};
use crate::lookup::{ForeignRow, Lookup, OfflineQuery};
use crate::sink::WriteError;

/// Documents with numbers as Forebay gives them that are looked at, newest first, for those of other programs among them.
const AMONG_OURS: i64 = 4_096;

/// Documents of one answer at most, imported ones included.
const PAGE: i64 = 512;

/// Names of messages as Forebay makes them: 20 letters and digits. A pattern that `$not` takes.
fn own_form() -> Bson {
    Bson::RegularExpression(Regex { pattern: cstr!("^[0-9A-Za-z]{20}$").to_owned(), options: cstr!("").to_owned() })
}

/// The text by which a document of another program is known, and [back](id_of_key). `None` for kinds of `_id` that aren't read.
fn key_of_id(id: &Bson) -> Option<String> {
    if let Some(number) = integer(Some(id)) {
        return Some(number.to_string());
    }
    match id {
        Bson::ObjectId(id) => Some(format!("oid:{}", id.to_hex())),
        Bson::String(text) => Some(format!("text:{text}")),
        Bson::Binary(binary) => {
            let hex: String = binary.bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            Some(format!("bin:{:02x}:{hex}", u8::from(binary.subtype)))
        }
        _ => None,
    }
}

/// The `_id` of a document that is known by this text; `None` for those of mqtt_retain.
pub(super) fn id_of_key(key: &str) -> Option<Bson> {
    if let Ok(number) = key.parse() {
        return Some(Bson::Int64(number));
    }
    match key.split_once(':')? {
        ("oid", hex) => ObjectId::parse_str(hex).ok().map(Bson::ObjectId),
        ("text", text) => Some(Bson::String(text.to_owned())),
        ("bin", rest) => {
            let (subtype, hex) = rest.split_once(':')?;
            let subtype = BinarySubtype::from(u8::from_str_radix(subtype, 16).ok()?);
            let pairs = (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(hex.get(at..at + 2)?, 16).ok());
            Some(Bson::Binary(Binary { subtype, bytes: pairs.collect::<Option<Vec<u8>>>()? }))
        }
        _ => None,
    }
}

/// Stretches of `_id`s that documents of other programs have, from the greatest to the least, below `before`. BSON puts numbers before
/// strings, strings before binary, binary before object ids.
fn stretches(before: Option<&Bson>, read: Option<i64>) -> Vec<Document> {
    let (text, bin, oid) = (Bson::String(String::new()), binary_min(), Bson::ObjectId(ObjectId::from_bytes([0; 12])));
    let rank = |id: &Bson| match id {
        Bson::ObjectId(_) => 3,
        Bson::Binary(_) => 2,
        Bson::String(_) => 1,
        _ => 0,
    };
    let mut stretches = Vec::new();
    for least in [oid, bin, text] {
        let mut stretch = doc! { "$gte": least.clone() };
        match before {
            Some(before) if rank(before) < rank(&least) => continue,
            Some(before) if rank(before) == rank(&least) => {
                stretch.insert("$lt", before.clone());
            }
            _ => {}
        }
        stretches.push(stretch);
    }
    let end = match before {
        Some(before) if rank(before) == 0 => integer(Some(before)).unwrap_or(OWN_NUMBERS).min(OWN_NUMBERS),
        _ => OWN_NUMBERS,
    };
    // Numbers up to the one that the client has acknowledged are read.
    stretches.push(doc! { "$gte": read.map_or(0, |read| read.saturating_add(1)), "$lt": end });
    stretches
}

fn binary_min() -> Bson {
    Bson::Binary(Binary { subtype: BinarySubtype::Generic, bytes: Vec::new() })
}

/// True for a number as Forebay gives them.
fn is_own_number(id: &Bson) -> bool {
    integer(Some(id)).is_some_and(|id| !(0..OWN_NUMBERS).contains(&id))
}

impl MongoSink {
    fn reading_options(&self, sort: Document) -> FindOptions {
        FindOptions::builder().selection_criteria(self.reading()).sort(sort).build()
    }

    /// The number up to which a client has read a topic's messages of other programs: what stands in mqtt_acked if it is such a number,
    /// else what stood there before Forebay's first.
    async fn read_up_to(&self, conn: &MongoConn, client: &str, topic: &str) -> Result<Option<i64>, WriteError> {
        let key = doc! { "_id": key_id(&[client, topic]) };
        let before = conn.one(ACKED_BEFORE, key, self.reading()).await?;
        let now = conn.one("mqtt_acked", doc! { "clientid": client, "topic": topic }, self.reading()).await?;
        let number = |row: Option<Document>| row.and_then(|row| integer(row.get("mongo_id")));
        let now = number(now).filter(|id| (0..OWN_NUMBERS).contains(id) && !self.numbers_are_small());
        Ok(number(before).max(now))
    }

    /// Those of these documents that did not become records, as rows.
    async fn not_imported(
        &self,
        conn: &MongoConn,
        query: &OfflineQuery<'_>,
        documents: &[Document],
    ) -> Result<Vec<ForeignRow>, WriteError> {
        let keys: Vec<String> = documents.iter().filter_map(|d| key_of_id(d.get("_id")?)).collect();
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let filter = doc! { "key": { "$in": keys } };
        let known = conn.all("forebay_imported", filter, FindOptions::default()).await?;
        let known: HashSet<&str> = known.iter().filter_map(|row| row.get_str("key").ok()).collect();
        let rows = documents.iter().filter_map(|document| {
            let key = key_of_id(document.get("_id")?).filter(|key| !known.contains(key.as_str()))?;
            Some(row(document, query.topic, key))
        });
        Ok(rows.collect())
    }

    /// A page of documents, from the greatest `_id` to the least.
    async fn page(
        &self,
        conn: &MongoConn,
        query: &OfflineQuery<'_>,
        before: Option<&Bson>,
        read: Option<i64>,
    ) -> Result<Vec<Document>, WriteError> {
        let mut documents: Vec<Document> = Vec::new();
        let since = i64::try_from(query.since_us / 1_000_000).unwrap_or(i64::MAX);
        let theirs = |ids: Document| {
            let mut filter = doc! { "topic": query.topic, "_id": ids, "msgid": { "$not": own_form() } };
            if query.since_us > 0 {
                filter.insert("arrived", doc! { "$gte": since });
            }
            filter
        };
        if before.is_none_or(|before| !is_own_number(before)) {
            for stretch in stretches(before, read) {
                let room = PAGE - i64::try_from(documents.len()).unwrap_or(PAGE);
                if room <= 0 {
                    return Ok(documents);
                }
                let mut newest = self.reading_options(doc! { "_id": -1 });
                newest.limit = Some(room);
                documents.extend(conn.all("mqtt_msg", theirs(stretch), newest).await?);
            }
            if !documents.is_empty() {
                return Ok(documents);
            }
        }
        // Numbers like Forebay's: there may be millions of its own among them, so only the newest are looked at.
        let outside = doc! { "$or": [ { "_id": { "$gte": OWN_NUMBERS } }, { "_id": { "$lt": 0_i64 } } ] };
        let stages = vec![
            doc! { "$match": { "$and": [ { "topic": query.topic }, outside ] } },
            doc! { "$sort": { "_id": -1 } },
            doc! { "$limit": AMONG_OURS },
            doc! { "$match": theirs(doc! { "$lt": before.filter(|id| is_own_number(id)).cloned().unwrap_or(Bson::Int64(i64::MAX)) }) },
            doc! { "$limit": PAGE },
        ];
        let messages = conn.collection("mqtt_msg");
        let rows = messages.aggregate(stages).selection_criteria(self.reading());
        rows.await.map_err(map)?.try_collect().await.map_err(map)
    }
}

impl Lookup for MongoSink {
    async fn subscriptions<'a>(
        &'a self,
        conn: &'a mut MongoConn,
        client: &'a str,
    ) -> Result<Vec<(String, u8)>, WriteError> {
        let options = self.reading_options(doc! { "_id": 1 });
        let mut found = Vec::new();
        for row in conn.all("mqtt_sub", doc! { "clientid": client }, options).await? {
            let Ok(filter) = row.get_str("topic") else { continue };
            let qos = if row.get("qos").is_none() { Some(0) } else { integer(row.get("qos")) };
            found.push((filter.to_owned(), qos.and_then(|qos| u8::try_from(qos).ok()).unwrap_or(u8::MAX)));
        }
        Ok(found)
    }

    async fn offline<'a>(
        &'a self,
        conn: &'a mut MongoConn,
        query: OfflineQuery<'a>,
    ) -> Result<Vec<ForeignRow>, WriteError> {
        let read = self.read_up_to(conn, query.client, query.topic).await?;
        let mut before = query.before.and_then(id_of_key);
        let (mut found, mut bytes) = (Vec::new(), 0);
        // Pages of nothing but documents that became records are passed over.
        loop {
            let documents = self.page(conn, &query, before.as_ref(), read).await?;
            let Some(last) = documents.last().and_then(|last| last.get("_id")).cloned() else { return Ok(found) };
            for row in self.not_imported(conn, &query, &documents).await? {
                bytes += row.payload.len();
                found.push(row);
                if found.len() >= query.limit || bytes >= query.bytes {
                    return Ok(found);
                }
            }
            before = Some(last);
        }
    }

    async fn retained<'a>(&'a self, conn: &'a mut MongoConn, topic: &'a str) -> Result<Option<ForeignRow>, WriteError> {
        let document = conn.one("mqtt_retain", doc! { "topic": topic }, self.reading()).await?;
        // A retained message is replaced in place: each is a row of its own to the log.
        Ok(document.map(|document| {
            let mut row = row(&document, topic, String::new());
            row.key = format!("retain:{topic}:{}:{}", row.msgid.as_deref().unwrap_or_default(), row.time_us);
            row.retain = true;
            row
        }))
    }
}

fn row(document: &Document, topic: &str, key: String) -> ForeignRow {
    let text = |name: &str| document.get_str(name).ok().map(str::to_owned);
    let arrived = match document.get("arrived") {
        Some(Bson::DateTime(time)) => u64::try_from(time.timestamp_millis()).unwrap_or(0).saturating_mul(1_000),
        other => integer(other).and_then(|s| u64::try_from(s).ok()).unwrap_or(0).saturating_mul(1_000_000),
    };
    // The guide's type is boolean, its example a number.
    let retain = match document.get("retain") {
        Some(Bson::Boolean(retain)) => *retain,
        other => integer(other).is_some_and(|retain| retain != 0),
    };
    ForeignRow {
        key,
        msgid: text("msgid"),
        topic: topic.to_owned(),
        sender: text("sender").unwrap_or_default(),
        qos: integer(document.get("qos")).and_then(|qos| QoS::from_u8(u8::try_from(qos).ok()?)).unwrap_or_default(),
        retain,
        payload: json::bytes(document.get("payload")),
        time_us: arrived,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_lead_back_to_their_documents() {
        let uuid = Bson::Binary(Binary { subtype: BinarySubtype::Uuid, bytes: vec![0, 171, 255] });
        let oid = Bson::ObjectId(ObjectId::from_bytes([7; 12]));
        for id in [Bson::Int64(17), Bson::Int64(-5), oid, Bson::String("a:b".into()), uuid] {
            assert_eq!(id_of_key(&key_of_id(&id).unwrap()), Some(id));
        }
        assert_eq!(key_of_id(&Bson::Int32(17)), Some("17".to_owned()));
        assert_eq!(key_of_id(&Bson::Null), None);
        assert_eq!(id_of_key("retain:t:x:5"), None);
    }

    #[test]
    fn pages_go_on_where_the_last_one_ended() {
        assert_eq!(stretches(None, Some(9)).len(), 4);
        assert_eq!(stretches(None, Some(9))[3], doc! { "$gte": 10_i64, "$lt": OWN_NUMBERS });
        let oid = Bson::ObjectId(ObjectId::from_bytes([7; 12]));
        assert_eq!(stretches(Some(&oid), None)[0].get("$lt"), Some(&oid));
        assert_eq!(stretches(Some(&oid), None).len(), 4);
        assert_eq!(stretches(Some(&Bson::String("x".into())), None).len(), 2);
        assert_eq!(stretches(Some(&Bson::Int64(5)), None), [doc! { "$gte": 0_i64, "$lt": 5_i64 }]);
        assert!(is_own_number(&Bson::Int64(-1)) && is_own_number(&Bson::Int64(OWN_NUMBERS)));
    }

    #[test]
    fn documents_are_read_in_the_forms_of_the_guide_and_of_other_programs() {
        let with = |retain: Bson| {
            row(&doc! { "retain": retain, "arrived": 7, "payload": "x", "qos": 1_i64 }, "t", String::new())
        };
        assert!(with(Bson::Boolean(true)).retain && with(Bson::Int32(1)).retain && with(Bson::Double(1.0)).retain);
        assert!(!with(Bson::Int32(0)).retain);
        assert_eq!(with(Bson::Null).time_us, 7_000_000);
        assert_eq!(with(Bson::Null).qos, QoS::AtLeastOnce);
    }
}
