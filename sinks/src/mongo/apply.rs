//! The commands of a batch, collection by collection.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use forebay_engine::{MsgId, topic};
use mongodb::bson::{Bson, RawDocumentBuf, doc};
use mongodb::options::FindOptions;

use super::command::{Command, Kind, Outcome, Refused, integer};
use super::conn::MongoConn;
use super::connect::MongoSink;
use super::error::{self, Class};
use super::fold::{AckStep, Acks, Keyed, Segment, Status};
use super::lookup;
use super::op::{MessageRow, node_range, number};
use super::schema::{ACKED_BEFORE, OWN_NUMBERS, key_id};
use crate::sink::{Verdict, WriteError};

/// Room that a document leaves for the command round it.
const OVERHEAD: usize = 16 << 10;

/// Verdicts on operations, by their place in the batch.
pub(super) type Verdicts = BTreeMap<usize, Verdict>;

/// Messages that other programs stored, and their `_id`s; of those from mqtt_retain none.
type Theirs = BTreeMap<MsgId, Option<Bson>>;

impl MongoSink {
    /// Runs a batch's commands. What is refused of them is in `verdicts`, the others are stored; in a transaction the first refusal is
    /// the end. `stored` are messages that are there already.
    pub(super) async fn apply(
        &self,
        conn: &mut MongoConn,
        segment: &Segment<'_>,
        stored: &BTreeSet<i64>,
        verdicts: &mut Verdicts,
    ) -> Result<(), WriteError> {
        self.expiring(conn, segment, verdicts).await?;
        self.messages(conn, &segment.messages, stored, verdicts).await?;
        self.imports(conn, segment, verdicts).await?;
        let theirs = self.theirs(conn, segment).await?;
        for step in &segment.acked {
            match step {
                AckStep::Read(acks) => read(conn, acks, &theirs, verdicts).await?,
                AckStep::Forget { client, filter, entry } => forget(conn, client, filter, *entry, verdicts).await?,
            }
        }
        let mut older = Command::new(Kind::Delete, "mqtt_msg");
        for (name, latest) in &segment.latest {
            let row = latest.value;
            // Names sort by time, which is finer than `arrived`; of other programs' that is true in the long run.
            let before = doc! { "arrived": { "$lt": row.at_s } };
            let same = doc! { "arrived": row.at_s, "msgid": { "$lt": row.msgid.to_string() } };
            older.delete(doc! { "topic": *name, "$or": [before, same] }, latest.entries.clone());
        }
        run(conn, &older, verdicts).await?;
        let mut removed = Command::new(Kind::Delete, "mqtt_msg");
        for message in &segment.removed {
            let id = match theirs.get(message.value) {
                Some(Some(id)) => id.clone(),
                // It stands in mqtt_retain alone.
                Some(None) => continue,
                None => Bson::Int64(number(message.value)),
            };
            removed.delete(doc! { "_id": id }, message.entries.clone());
        }
        run(conn, &removed, verdicts).await?;
        self.retained(conn, segment, verdicts).await?;
        self.clients(conn, segment, verdicts).await
    }

    /// Notes when messages are to go, before they are there.
    async fn expiring(
        &self,
        conn: &mut MongoConn,
        segment: &Segment<'_>,
        verdicts: &mut Verdicts,
    ) -> Result<(), WriteError> {
        let messages = segment.messages.iter().map(|m| (m.value, &m.entries, "msg"));
        let retained = segment.retained.values().filter_map(|m| Some((m.value?, &m.entries, "retain")));
        let mut command = Command::new(Kind::Update, "forebay_expiry");
        for (row, entries, kind) in messages.chain(retained) {
            let Some(at_us) = row.expires_us else { continue };
            let msgid = row.msgid.to_string();
            let fields =
                doc! { "kind": kind, "topic": &*row.topic, "msgid": &msgid, "id": number(&row.msgid), "at_us": at_us };
            command.update(doc! { "_id": format!("{kind}:{msgid}") }, doc! { "$set": fields }, true, entries.clone());
        }
        run(conn, &command, verdicts).await
    }

    async fn messages(
        &self,
        conn: &mut MongoConn,
        messages: &[Keyed<&Arc<MessageRow>>],
        stored: &BTreeSet<i64>,
        verdicts: &mut Verdicts,
    ) -> Result<(), WriteError> {
        if conn.in_transaction() && !verdicts.is_empty() {
            return Ok(());
        }
        let mut command = Command::new(Kind::Insert, "mqtt_msg");
        let mut sent = Vec::new();
        for message in messages {
            self.saw(message.value.msgid.node);
            if stored.contains(&number(&message.value.msgid)) {
                continue;
            }
            let body = message.value.message();
            if let Some(why) = too_long(&body, conn) {
                bury(verdicts, &message.entries, &why);
                continue;
            }
            sent.push(message);
            command.insert(body, message.entries.clone());
        }
        if conn.in_transaction() && !verdicts.is_empty() {
            return Ok(());
        }
        let Outcome { refused, .. } = command.run(conn).await?;
        let (doubles, others): (Vec<_>, Vec<_>) =
            refused.into_iter().partition(|one| error::class(one.code, &one.message) == Class::Duplicate);
        judge(&command, others, verdicts);
        if doubles.is_empty() {
            return Ok(());
        }
        if conn.in_transaction() {
            // The transaction is void: nothing can be asked in it.
            for one in doubles {
                for entry in command.entries(one.index) {
                    verdicts.insert(*entry, Verdict::Bury(Box::new(Duplicate(one.message.clone()))));
                }
            }
            return Ok(());
        }
        // There already, by an earlier attempt; or another document stands in the way.
        let twice: Vec<Keyed<&Arc<MessageRow>>> =
            doubles.iter().filter_map(|one| sent.get(one.index)).map(|m| (*m).clone()).collect();
        let stored = self.stored(conn, &twice).await?;
        for one in doubles {
            let there = sent.get(one.index).is_some_and(|m| stored.contains(&number(&m.value.msgid)));
            if !there && is_number(&one.message) {
                return Err(WriteError::busy(error::text(
                    one.code,
                    &one.message,
                    "what had the number is gone: sent again",
                )));
            }
            if !there {
                let why = format!(
                    "{} (a unique index of the collection has such a document: remove it or the index, then replay)",
                    one.message
                );
                bury(verdicts, command.entries(one.index), &why);
            }
        }
        Ok(())
    }

    /// The numbers of those messages that are there already. Where another message has the number, two nodes have one, and nothing
    /// is overwritten.
    pub(super) async fn stored(
        &self,
        conn: &mut MongoConn,
        messages: &[Keyed<&Arc<MessageRow>>],
    ) -> Result<BTreeSet<i64>, WriteError> {
        let ids: Vec<i64> = messages.iter().map(|m| number(&m.value.msgid)).collect();
        let names_only = FindOptions::builder().projection(doc! { "msgid": 1 }).build();
        let mut names = BTreeMap::new();
        for row in conn.all("mqtt_msg", doc! { "_id": { "$in": ids } }, names_only).await? {
            if let Some(id) = integer(row.get("_id")) {
                names.insert(id, row.get_str("msgid").unwrap_or_default().to_owned());
            }
        }
        for message in messages {
            let (id, own) = (number(&message.value.msgid), message.value.msgid.to_string());
            if let Some(found) = names.get(&id).filter(|found| **found != own) {
                return Err(WriteError::busy(format!(
                    "mqtt_msg has another message ({found}) under the number {id} of {own}: two nodes have the node number {}, or \
                     the log was made anew and the collection was not. Give this node another number (node.number), or remove the document",
                    message.value.msgid.node
                )));
            }
        }
        Ok(names.into_keys().collect())
    }

    async fn imports(
        &self,
        conn: &mut MongoConn,
        segment: &Segment<'_>,
        verdicts: &mut Verdicts,
    ) -> Result<(), WriteError> {
        let mut command = Command::new(Kind::Update, "forebay_imported");
        for import in &segment.imported {
            let (msgid, key) = import.value;
            let update = doc! { "$set": { "key": key } };
            command.update(doc! { "_id": msgid.to_string() }, update, true, import.entries.clone());
            self.shared.imports.store(true, Ordering::Relaxed);
        }
        run(conn, &command, verdicts).await
    }

    /// The `_id`s in mqtt_msg of messages that other programs stored, of those that the batch acknowledges or removes.
    async fn theirs(&self, conn: &mut MongoConn, segment: &Segment<'_>) -> Result<Theirs, WriteError> {
        let mut found = BTreeMap::new();
        if !self.shared.imports.load(Ordering::Relaxed) {
            return Ok(found);
        }
        let ids: BTreeSet<String> = segment.settled().map(MsgId::to_string).collect();
        if ids.is_empty() {
            return Ok(found);
        }
        for import in &segment.imported {
            let (msgid, key) = import.value;
            found.insert(*msgid, lookup::id_of_key(key));
        }
        let ids: Vec<String> = ids.into_iter().collect();
        let filter = doc! { "_id": { "$in": ids } };
        for row in conn.all("forebay_imported", filter, FindOptions::default()).await? {
            let msgid = row.get_str("_id").ok().and_then(MsgId::parse);
            found.extend(msgid.map(|msgid| (msgid, row.get_str("key").ok().and_then(lookup::id_of_key))));
        }
        Ok(found)
    }

    async fn retained(
        &self,
        conn: &mut MongoConn,
        segment: &Segment<'_>,
        verdicts: &mut Verdicts,
    ) -> Result<(), WriteError> {
        let mut update = Command::new(Kind::Update, "mqtt_retain");
        let mut delete = Command::new(Kind::Delete, "mqtt_retain");
        for (name, retained) in &segment.retained {
            let Some(row) = retained.value else {
                delete.delete(doc! { "topic": *name }, retained.entries.clone());
                continue;
            };
            let fields = row.retained();
            let body = RawDocumentBuf::try_from(&fields).unwrap_or_default();
            if let Some(why) = too_long(&body, conn) {
                bury(verdicts, &retained.entries, &why);
                continue;
            }
            let set = doc! { "$set": fields, "$setOnInsert": { "_id": key_id(&[name]) } };
            update.update(doc! { "topic": *name }, set, true, retained.entries.clone());
        }
        run(conn, &update, verdicts).await?;
        run(conn, &delete, verdicts).await
    }

    async fn clients(
        &self,
        conn: &mut MongoConn,
        segment: &Segment<'_>,
        verdicts: &mut Verdicts,
    ) -> Result<(), WriteError> {
        let mut command = Command::new(Kind::Update, "mqtt_client").ordered();
        let node = self.config.node_name.as_str();
        for (client, status) in &segment.clients {
            let entries = || status.entries.clone();
            let by = doc! { "clientid": *client };
            let id = key_id(&[client]);
            match status.value {
                Status::Online { at_s } => {
                    let set = doc! { "state": 1, "node": node, "online_at": at_s, "offline_at": Bson::Null };
                    command.update(by, doc! { "$set": set, "$setOnInsert": { "_id": id } }, true, entries());
                }
                Status::Offline { at_s, came_s: Some(came) } => {
                    let set = doc! { "state": 0, "node": node, "online_at": came, "offline_at": at_s };
                    command.update(by, doc! { "$set": set, "$setOnInsert": { "_id": id } }, true, entries());
                }
                // A client that another node has by now is left alone; one that nobody knows is made.
                Status::Offline { at_s, came_s: None } => {
                    let gone = doc! { "state": 0, "offline_at": at_s };
                    let here = doc! { "clientid": *client, "node": node };
                    command.update(here, doc! { "$set": gone }, false, entries());
                    let made =
                        doc! { "_id": id, "state": 0, "node": node, "online_at": Bson::Null, "offline_at": at_s };
                    command.update(by, doc! { "$setOnInsert": made }, true, entries());
                }
            }
        }
        run(conn, &command, verdicts).await
    }
}

/// Where a read position stands after these acknowledgements, and the highest number of that kind: it never goes back among numbers of
/// one kind. `None` where none of them has a number: those of a batch that have one count, whatever comes behind them.
fn stands(acks: &[&MsgId], theirs: &Theirs) -> Option<(i64, i64)> {
    let numbers = acks.iter().filter_map(|msgid| match theirs.get(*msgid) {
        // The collection's numbers are ints; a document with another `_id` is known by `forebay_imported` alone.
        Some(id) => integer(id.as_ref()).map(|id| (id, OWN_NUMBERS - 1)),
        None => Some((number(msgid), node_range(msgid).1)),
    });
    numbers.reduce(|now, next| if now.0 < next.0 || now.0 > next.1 { next } else { now })
}

/// Moves read positions on. The document is made first where it is missing: the step that compares makes none.
async fn read(
    conn: &mut MongoConn,
    acks: &Acks<'_>,
    theirs: &Theirs,
    verdicts: &mut Verdicts,
) -> Result<(), WriteError> {
    let mut command = Command::new(Kind::Update, "mqtt_acked").ordered();
    for ((client, name), ack) in acks {
        let Some((id, end)) = stands(&ack.value, theirs) else { continue };
        let made = doc! { "_id": key_id(&[client, name]), "mongo_id": id };
        let by = doc! { "clientid": *client, "topic": *name };
        command.update(by.clone(), doc! { "$setOnInsert": made }, true, ack.entries.clone());
        let mut forward = by;
        // Never back among numbers of one kind: this node's own, or other programs'.
        forward.insert("$or", vec![doc! { "mongo_id": { "$lt": id } }, doc! { "mongo_id": { "$gt": end } }]);
        command.update(forward, doc! { "$set": { "mongo_id": id } }, false, ack.entries.clone());
    }
    run(conn, &command, verdicts).await
}

/// Forgets a client's read positions of the topics that a filter matches.
async fn forget(
    conn: &mut MongoConn,
    client: &str,
    filter: &str,
    entry: usize,
    verdicts: &mut Verdicts,
) -> Result<(), WriteError> {
    let mut topics = vec![filter.to_owned()];
    if topic::has_wildcard(filter) {
        let topics_only = FindOptions::builder().projection(doc! { "topic": 1 }).build();
        for row in conn.all("mqtt_acked", doc! { "clientid": client }, topics_only).await? {
            topics.extend(row.get_str("topic").ok().filter(|name| topic::matches(filter, name)).map(str::to_owned));
        }
    }
    for collection in ["mqtt_acked", ACKED_BEFORE] {
        let mut command = Command::new(Kind::Delete, collection);
        command.delete(doc! { "clientid": client, "topic": { "$in": &topics } }, vec![entry]);
        run(conn, &command, verdicts).await?;
    }
    Ok(())
}

/// Another document has the same key. (In a transaction it can't be told apart from the same one.)
#[derive(Debug, thiserror::Error)]
#[error("{0} (a unique index of the collection has such a document: remove it or the index, then replay)")]
pub(super) struct Duplicate(String);

/// True where the key that a document has already is the `_id`.
fn is_number(message: &str) -> bool {
    message.contains(" _id_ ") || message.ends_with("._id")
}

/// Sends a command, and judges what is refused of it. Nothing is sent once a transaction is void.
async fn run(conn: &mut MongoConn, command: &Command, verdicts: &mut Verdicts) -> Result<(), WriteError> {
    if conn.in_transaction() && !verdicts.is_empty() {
        return Ok(());
    }
    let outcome = command.run(conn).await?;
    // Two attempts at once made the same document, and one of them did: sent again it finds it.
    let doubled = |one: &&Refused| error::class(one.code, &one.message) == Class::Duplicate && is_number(&one.message);
    if let Some(one) = outcome.refused.iter().find(doubled) {
        return Err(WriteError::busy(error::text(one.code, &one.message, "sent again")));
    }
    judge(command, outcome.refused, verdicts);
    Ok(())
}

fn judge(command: &Command, refused: Vec<Refused>, verdicts: &mut Verdicts) {
    for one in refused {
        let why = error::text(one.code, &one.message, "");
        for entry in command.entries(one.index) {
            let verdict = match error::class(one.code, &one.message) {
                Class::Unknown => Verdict::Retry(why.clone().into()),
                _ => Verdict::Bury(why.clone().into()),
            };
            verdicts.insert(*entry, verdict);
        }
    }
}

fn bury(verdicts: &mut Verdicts, entries: &[usize], why: &str) {
    for entry in entries {
        verdicts.insert(*entry, Verdict::Bury(why.into()));
    }
}

/// A document that the server would refuse, without sending it.
fn too_long(body: &RawDocumentBuf, conn: &MongoConn) -> Option<String> {
    let (bytes, most) = (body.as_bytes().len(), conn.document_bytes.saturating_sub(OVERHEAD));
    (bytes > most).then(|| format!("the document has {bytes} bytes, and MongoDB takes {most}"))
}
