//! What is sent for a batch, table by table.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use forebay_engine::{MsgId, topic};
use futures_util::StreamExt;

use super::connect::{DynamoSink, Link};
use super::error::Failure;
use super::fold::{AckStep, Acks, Change, Keyed, Retained, Segment, Status};
use super::item::{Item, SORT_KEY, item, n, number, s, text};
use super::lookup::{self, IMPORTED};
use super::map::Map;
use super::request::{AT_ONCE, Progress, Request, Write, bury};
use crate::sink::{Verdict, WriteError};
use crate::source::BoxFuture;

/// Verdicts on operations, by their place in the batch.
pub(super) type Verdicts = BTreeMap<usize, Verdict>;

/// Messages that other programs stored, by our name, and their own; of those of mqtt_retain none.
type Theirs = HashMap<String, Option<String>>;

/// What one of many things that are done at once leaves to be done.
#[derive(Debug, Default)]
struct Left {
    refused: Vec<(Vec<usize>, String)>,
    /// Names of messages that go.
    gone: Vec<String>,
}

/// The guide's keys and attributes, where what is there has to be ours and older.
const OLDER: &str = "not attribute_type(#msgid, :text) or size(#msgid) <> :own or #msgid <= :msgid";

fn older(request: Request, msgid: &str) -> Request {
    request.only(OLDER).value(":text", s("S")).value(":own", n(MsgId::LEN)).value(":msgid", s(msgid))
}

fn left(sent: Result<bool, Failure>, entries: &[usize]) -> Result<Left, WriteError> {
    match sent {
        // What is there is newer.
        Ok(_) => Ok(Left::default()),
        Err(Failure::Own(why)) => Ok(Left { refused: vec![(entries.to_vec(), why)], gone: Vec::new() }),
        Err(failure) => Err(failure.into_write()),
    }
}

impl DynamoSink {
    pub(super) fn map<'a>(&'a self, link: &'a Link, progress: &'a Progress) -> Map<'a> {
        Map { link, progress, topics: &self.shared.topics, most: self.config.map_ids }
    }

    /// Writes a batch. What is refused of it is in the verdicts, the others are stored.
    pub(super) async fn apply(
        &self,
        link: &Link,
        progress: &Progress,
        segment: &Segment<'_>,
    ) -> Result<Verdicts, WriteError> {
        let mut verdicts = Verdicts::new();
        // Messages first, then what names them.
        link.write(progress, self.puts(segment), &mut verdicts).await?;
        let refused: HashSet<&str> = segment
            .messages
            .iter()
            .filter(|(_, message)| message.entries.iter().any(|entry| verdicts.contains_key(entry)))
            .map(|(msgid, _)| *msgid)
            .collect();
        let theirs = self.theirs(link, segment).await?;
        let mut steps: Vec<BoxFuture<'_, Result<Left, WriteError>>> = Vec::new();
        for (topic, change) in &segment.topics {
            steps.push(Box::pin(self.topic(link, progress, topic, change, &refused, &theirs)));
        }
        for (topic, retained) in &segment.retained {
            steps.push(Box::pin(self.retained(link, progress, topic, retained)));
        }
        for (client, status) in &segment.clients {
            steps.push(Box::pin(self.client_status(link, progress, client, status)));
        }
        let mut gone = at_once(steps, &mut verdicts).await?;
        link.write(progress, self.entries(segment), &mut verdicts).await?;
        for step in &segment.acked {
            match step {
                AckStep::Read(acks) => self.read_up_to(link, progress, acks, &theirs, &mut verdicts).await?,
                AckStep::Forget { client, filter, entry } => {
                    self.forget(link, progress, client, filter, *entry, &mut verdicts).await?;
                }
            }
        }
        let mut entries: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for (msgid, of) in &segment.removed {
            if let Some(name) = stored_name(&theirs, msgid) {
                entries.insert(name.to_owned(), of.clone());
                gone.insert(name.to_owned());
            }
        }
        let deletes = gone.into_iter().map(|name| {
            let entries = entries.remove(&name).unwrap_or_default();
            Write { table: "mqtt_msg", item: item([("msgid", s(name))]), delete: true, entries }
        });
        link.write(progress, deletes.collect(), &mut verdicts).await?;
        Ok(verdicts)
    }

    /// What is put without regard to what is there.
    fn puts(&self, segment: &Segment<'_>) -> Vec<Write> {
        let mut puts = Vec::new();
        let mut put = |table, item, entries: &[usize]| {
            puts.push(Write { table, item, delete: false, entries: entries.to_vec() });
        };
        for message in segment.messages.values() {
            put("mqtt_msg", message.row.item(), &message.entries);
        }
        for imported in &segment.imported {
            let (msgid, key) = imported.value;
            for (name, value) in lookup::remembered(msgid, key) {
                put(IMPORTED, item([("name", s(name)), ("value", s(value))]), &imported.entries);
            }
            self.imports();
        }
        puts
    }

    /// The names that other programs gave the messages which the batch acknowledges or removes, where they stored them.
    async fn theirs(&self, link: &Link, segment: &Segment<'_>) -> Result<Theirs, WriteError> {
        let mut theirs = Theirs::new();
        if !self.has_imports() {
            return Ok(theirs);
        }
        let names: BTreeSet<&str> = segment.settled().collect();
        for imported in segment.imported.iter().filter(|one| names.contains(one.value.0)) {
            theirs.insert(imported.value.0.to_owned(), lookup::name_of_key(imported.value.1).map(str::to_owned));
        }
        let asked = names.into_iter().filter(|name| !theirs.contains_key(*name));
        let keys: Vec<Item> = asked.map(|name| item([("name", s(lookup::own_name(name)))])).collect();
        for found in link.read(IMPORTED, keys, None).await? {
            if let (Some(name), Some(key)) = (text(&found, "name"), text(&found, "value"))
                && let Some(own) = lookup::of_own_name(name)
            {
                theirs.insert(own.to_owned(), lookup::name_of_key(key).map(str::to_owned));
            }
        }
        Ok(theirs)
    }

    async fn topic(
        &self,
        link: &Link,
        progress: &Progress,
        topic: &str,
        change: &Change<'_>,
        refused: &HashSet<&str>,
        theirs: &Theirs,
    ) -> Result<Left, WriteError> {
        let map = self.map(link, progress);
        let new: Vec<&str> = change.add.keys().copied().filter(|msgid| !refused.contains(msgid)).collect();
        if !new.is_empty() {
            match map.add(topic, &new).await {
                Ok(()) => {}
                Err(Failure::Own(why)) => {
                    let entries = new.iter().filter_map(|msgid| change.add.get(msgid)).flatten().copied();
                    return Ok(Left { refused: vec![(entries.collect(), why)], gone: Vec::new() });
                }
                Err(failure) => return Err(failure.into_write()),
            }
        }
        let mut done = Left::default();
        let mut names: Vec<String> =
            change.remove.iter().filter_map(|msgid| stored_name(theirs, msgid)).map(str::to_owned).collect();
        if let Some(latest) = change.latest.filter(|row| !refused.contains(row.msgid.as_str())) {
            done.gone = self.before(link, map.all(topic).await?, &latest.msgid, latest.at_s).await?;
            names.extend(done.gone.iter().cloned());
        }
        names.sort_unstable();
        names.dedup();
        if !names.is_empty() {
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            map.remove(topic, &names).await.map_err(Failure::into_write)?;
        }
        Ok(done)
    }

    /// Those of these names that are older than a message: by name among ours, by `arrived` among those of other programs.
    async fn before(&self, link: &Link, all: Vec<String>, msgid: &str, at_s: u64) -> Result<Vec<String>, WriteError> {
        let (ours, others): (Vec<String>, Vec<String>) = all.into_iter().partition(|name| lookup::is_own(name));
        let mut before: Vec<String> = ours.into_iter().filter(|name| name.as_str() < msgid).collect();
        let keys: Vec<Item> =
            others.iter().filter(|name| lookup::is_key(name)).map(|name| item([("msgid", s(name.as_str()))])).collect();
        for found in link.read("mqtt_msg", keys, Some("#msgid, #arrived")).await? {
            let arrived = number(&found, "arrived").and_then(|at| u64::try_from(at).ok()).unwrap_or(0);
            if let Some(name) = text(&found, "msgid").filter(|_| arrived <= at_s) {
                before.push(name.to_owned());
            }
        }
        Ok(before)
    }

    async fn retained(
        &self,
        link: &Link,
        progress: &Progress,
        topic: &str,
        retained: &Keyed<Retained<'_>>,
    ) -> Result<Left, WriteError> {
        let request = match retained.value {
            Retained::Is(row) => older(Request::put("mqtt_retain", row.item()), &row.msgid),
            Retained::Gone(msgid) => older(Request::delete("mqtt_retain", item([("topic", s(topic))])), msgid),
        };
        left(link.try_send(progress, &request).await, &retained.entries)
    }

    async fn client_status(
        &self,
        link: &Link,
        progress: &Progress,
        client: &str,
        status: &Keyed<Status>,
    ) -> Result<Left, WriteError> {
        const TABLE: &str = "mqtt_client";
        let node = self.config.node_name.as_str();
        let whole = |state: u8, came_s: u64, gone_s: u64| {
            let item = item([
                ("clientid", s(client)),
                ("connect_state", n(state)),
                ("node", s(node)),
                ("online_at", n(came_s)),
                ("offline_at", n(gone_s)),
            ]);
            // Not where this node has seen it come again since.
            let only = "attribute_not_exists(#node) or #node <> :here or not (#online_at > :at)";
            Request::put(TABLE, item).only(only).value(":here", s(node)).value(":at", n(came_s))
        };
        let request = match status.value {
            Status::Online { at_s } => whole(1, at_s, 0),
            Status::Offline { at_s, came_s: Some(came_s) } => whole(0, came_s, at_s),
            // A client that another node has by now is left alone; one that nobody knows is made.
            Status::Offline { at_s, came_s: None } => {
                let change = "set #connect_state = :none, #offline_at = :at, #node = :here, \
                              #online_at = if_not_exists(#online_at, :none)";
                let only = "attribute_not_exists(#clientid) or \
                            ((attribute_not_exists(#node) or #node = :here) and not (#online_at > :at))";
                Request::update(TABLE, item([("clientid", s(client))]), change)
                    .only(only)
                    .value(":here", s(node))
                    .value(":at", n(at_s))
                    .value(":none", n(0))
            }
        };
        left(link.try_send(progress, &request).await, &status.entries)
    }

    /// Moves read positions on, never back among our own.
    async fn read_up_to(
        &self,
        link: &Link,
        progress: &Progress,
        acks: &Acks<'_>,
        theirs: &Theirs,
        verdicts: &mut Verdicts,
    ) -> Result<(), WriteError> {
        // By client first: what is forgotten is looked for there.
        let new: Vec<Write> = acks
            .iter()
            .filter(|((client, topic), _)| !self.knows_acked(client, topic))
            .map(|((client, topic), ack)| Write {
                table: "forebay_acked",
                item: item([("clientid", s(*client)), ("topic", s(*topic))]),
                delete: false,
                entries: ack.entries.clone(),
            })
            .collect();
        link.write(progress, new, verdicts).await?;
        for (client, topic) in acks.keys() {
            self.shared.has_acked(client, topic);
        }
        let mut steps: Vec<BoxFuture<'_, Result<Left, WriteError>>> = Vec::new();
        for ((client, topic), ack) in acks {
            let Some(name) = stored_name(theirs, ack.value) else { continue };
            let key = item([("topic", s(*topic)), ("clientid", s(*client))]);
            let request =
                older(Request::update("mqtt_acked", key, "set #msgid = :new"), ack.value).value(":new", s(name));
            steps.push(Box::pin(async move { left(link.try_send(progress, &request).await, &ack.entries) }));
        }
        at_once(steps, verdicts).await.map(|_| ())
    }

    /// Forgets a client's read positions of the topics that a filter matches.
    async fn forget(
        &self,
        link: &Link,
        progress: &Progress,
        client: &str,
        filter: &str,
        entry: usize,
        verdicts: &mut Verdicts,
    ) -> Result<(), WriteError> {
        let mut topics: BTreeSet<String> = BTreeSet::new();
        if topic::has_wildcard(filter) {
            let values = vec![(":client", s(client))];
            let found = link.query("forebay_acked", "#clientid = :client", values, usize::MAX).await?;
            let names = found.iter().filter_map(|found| text(found, "topic"));
            topics.extend(names.filter(|name| topic::matches(filter, name)).map(str::to_owned));
        } else if filter.len() <= SORT_KEY {
            topics.insert(filter.to_owned());
        }
        for table in ["mqtt_acked", "forebay_acked"] {
            let deletes = topics.iter().map(|name| Write {
                table,
                item: item([("topic", s(name.as_str())), ("clientid", s(client))]),
                delete: true,
                entries: vec![entry],
            });
            link.write(progress, deletes.collect(), verdicts).await?;
        }
        let mut acked = self.shared.acked.lock();
        for name in topics {
            acked.remove(&(client.to_owned(), name));
        }
        Ok(())
    }
}

/// The name under which a message is stored: ours, or theirs where another program stored it; none where it stands in mqtt_retain alone.
fn stored_name<'a>(theirs: &'a Theirs, msgid: &'a str) -> Option<&'a str> {
    theirs.get(msgid).map_or(Some(msgid), |name| name.as_deref())
}

/// Does all of these, some at once; names of messages that go.
async fn at_once(
    steps: Vec<BoxFuture<'_, Result<Left, WriteError>>>,
    verdicts: &mut Verdicts,
) -> Result<BTreeSet<String>, WriteError> {
    let mut gone = BTreeSet::new();
    let mut steps = futures_util::stream::iter(steps).buffer_unordered(AT_ONCE);
    while let Some(done) = steps.next().await {
        let done = done?;
        for (entries, why) in done.refused {
            bury(verdicts, &entries, &why);
        }
        gone.extend(done.gone);
    }
    Ok(gone)
}
