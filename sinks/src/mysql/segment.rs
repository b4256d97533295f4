//! A segment's operations as statements.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use forebay_engine::topic;
use sqlx::Row;

use super::connect::{MysqlConn, MysqlSink};
use super::rows::Cell;
use crate::sql::MessageRow;
use crate::sql::fold::{Ack, AckStep, Segment, Status};
use crate::sql::layout::Layout;
use crate::sql::text::datetime;

type Done = sqlx::Result<()>;

impl MysqlSink {
    /// Stores a segment. `known` are messages that are there already.
    pub(super) async fn segment(&self, conn: &mut MysqlConn, segment: &Segment<'_>, known: &HashSet<String>) -> Done {
        self.messages(conn, segment, known).await?;
        let expiring: Vec<Vec<Cell<'_>>> = segment
            .expiring()
            .into_iter()
            .map(|(msgid, kind, topic, us)| vec![Cell::text(msgid), Cell::text(kind), Cell::text(topic), Cell::Int(us)])
            .collect();
        let head = "insert into forebay_expiry (msgid, kind, topic, expires_us)";
        conn.insert(head, &expiring, "on duplicate key update expires_us = expires_us").await?;
        let imported: Vec<Vec<Cell<'_>>> =
            segment.imported.iter().map(|(msgid, key)| vec![Cell::text(msgid), Cell::text(key)]).collect();
        let head = "insert into forebay_imported (msgid, row_key)";
        conn.insert(head, &imported, "on duplicate key update row_key = row_key").await?;
        for step in &segment.acked {
            match step {
                AckStep::Read(acks) => acknowledge(conn, acks).await?,
                AckStep::Forget { client, filter } => forget(conn, client, filter).await?,
            }
        }
        if !segment.removed.is_empty() {
            let ids: Vec<u64> = conn.ids(&segment.removed, true).await?.into_values().collect();
            conn.delete("mqtt_msg", &ids).await?;
        }
        if !segment.latest.is_empty() {
            let msgids: Vec<&str> = segment.latest.values().copied().collect();
            let ids = conn.ids(&msgids, false).await?;
            for (topic, msgid) in &segment.latest {
                if let Some(id) = ids.get(*msgid) {
                    // The comparison of bytes keeps to the topic where the column's does not look at case.
                    let query =
                        conn.query("delete from mqtt_msg where topic = ? and binary topic = binary ? and id < ?");
                    query
                        .bind((*topic).to_owned())
                        .bind((*topic).to_owned())
                        .bind(*id)
                        .execute(&mut conn.inner)
                        .await?;
                }
            }
        }
        self.retained(conn, segment).await?;
        self.clients(conn, segment).await
    }

    async fn messages(&self, conn: &mut MysqlConn, segment: &Segment<'_>, known: &HashSet<String>) -> Done {
        let node = conn.found.layout.column("mqtt_msg", "node").is_some();
        let rows: Vec<Vec<Cell<'_>>> = segment
            .messages
            .iter()
            .filter(|row| !known.contains(&row.msgid))
            .map(|row| {
                let mut cells = self.cells(&conn.found.layout, "mqtt_msg", row, node);
                cells.push(Cell::Int(i64::from(row.retain)));
                cells
            })
            .collect();
        let node = if node { ", node" } else { "" };
        let head = format!("insert into mqtt_msg (msgid, topic, sender, qos, arrived, payload{node}, retain)");
        conn.insert(&head, &rows, "").await
    }

    /// msgid, topic, sender, qos, arrived, payload and, where the table has it, node.
    fn cells<'a>(&'a self, layout: &Layout, table: &str, row: &'a MessageRow, node: bool) -> Vec<Cell<'a>> {
        // What does not fit was refused before anything was sent.
        let payload = layout.payload(table, &row.payload, self.config.binary_payload);
        let mut cells = vec![
            Cell::text(&row.msgid),
            Cell::text(&row.topic),
            Cell::text(&row.sender),
            Cell::Int(i64::from(row.qos)),
            Cell::Text(datetime(row.at_us).into()),
            payload.map_or(Cell::Null, Cell::from),
        ];
        if node {
            cells.push(Cell::text(&self.config.node_name));
        }
        cells
    }

    async fn retained(&self, conn: &mut MysqlConn, segment: &Segment<'_>) -> Done {
        if segment.retained.is_empty() {
            return Ok(());
        }
        let topics: Vec<Vec<&str>> = segment.retained.keys().map(|topic| vec![*topic]).collect();
        let there = conn.by_key("mqtt_retain", &["topic"], "msgid", &topics).await?;
        let id_of = |topic: &str| there.get(&vec![topic.to_owned()]).map(|(id, _)| *id);
        let gone: Vec<u64> =
            segment.retained.iter().filter(|(_, row)| row.is_none()).filter_map(|(topic, _)| id_of(topic)).collect();
        conn.delete("mqtt_retain", &gone).await?;
        let node = conn.found.layout.column("mqtt_retain", "node").is_some();
        let (mut new, mut known): (Vec<Vec<Cell<'_>>>, Vec<Vec<Cell<'_>>>) = (Vec::new(), Vec::new());
        for row in segment.retained.values().flatten() {
            put(&mut new, &mut known, id_of(&row.topic), self.cells(&conn.found.layout, "mqtt_retain", row, node));
        }
        let mut columns = vec!["msgid", "topic", "sender", "qos", "arrived", "payload"];
        columns.extend(node.then_some("node"));
        upsert(conn, "mqtt_retain", &columns, &new, &known, &assignments(&columns)).await
    }

    async fn clients(&self, conn: &mut MysqlConn, segment: &Segment<'_>) -> Done {
        if segment.clients.is_empty() {
            return Ok(());
        }
        let clients: Vec<Vec<&str>> = segment.clients.keys().map(|client| vec![*client]).collect();
        let there = conn.by_key("mqtt_client", &["clientid"], "node", &clients).await?;
        let (mut new, mut known): (Vec<Vec<Cell<'_>>>, Vec<Vec<Cell<'_>>>) = (Vec::new(), Vec::new());
        let time = |us: Option<u64>| us.map_or(Cell::Null, |us| Cell::Text(datetime(us).into()));
        for (client, status) in &segment.clients {
            let found = there.get(&vec![(*client).to_owned()]);
            let (state, came, went) = match status {
                Status::Online { at_us } => ("1", Some(*at_us), None),
                Status::Offline { at_us, came_us } => ("0", *came_us, Some(*at_us)),
            };
            // Another node may have the client by now: what this node says of its going is then left alone.
            if came.is_none() && found.is_some_and(|(_, node)| node.as_deref() != Some(&*self.config.node_name)) {
                continue;
            }
            let cells = vec![
                Cell::text(client),
                Cell::text(state),
                Cell::text(&self.config.node_name),
                time(came),
                time(went),
                time(came.or(went)),
            ];
            put(&mut new, &mut known, found.map(|(id, _)| *id), cells);
        }
        let columns = ["clientid", "state", "node", "online_at", "offline_at", "created"];
        let sets = "state = values(state), node = values(node), online_at = coalesce(values(online_at), online_at), \
             offline_at = values(offline_at)";
        upsert(conn, "mqtt_client", &columns, &new, &known, sets).await
    }
}

async fn acknowledge(conn: &mut MysqlConn, acks: &[Ack<'_>]) -> Done {
    let msgids: Vec<&str> = acks.iter().map(|ack| ack.msgid).collect();
    let ids = conn.ids(&msgids, true).await?;
    let mut read: BTreeMap<(&str, &str), (u64, u64)> = BTreeMap::new();
    for ack in acks {
        if let Some(id) = ids.get(ack.msgid) {
            let position = read.entry((ack.client, ack.topic)).or_default();
            *position = (*position).max((*id, ack.at_us));
        }
    }
    let keys: Vec<Vec<&str>> = read.keys().map(|(client, topic)| vec![*client, *topic]).collect();
    let there = conn.by_key("mqtt_acked", &["clientid", "topic"], "mid", &keys).await?;
    let (mut new, mut known): (Vec<Vec<Cell<'_>>>, Vec<Vec<Cell<'_>>>) = (Vec::new(), Vec::new());
    for ((client, topic), (mid, at_us)) in read {
        let found = there.get(&vec![client.to_owned(), topic.to_owned()]);
        let before = found.and_then(|(_, mid)| mid.as_deref()?.parse::<u64>().ok()).unwrap_or(0);
        if mid > before {
            let cells = vec![Cell::text(client), Cell::text(topic), Cell::Id(mid), Cell::Text(datetime(at_us).into())];
            put(&mut new, &mut known, found.map(|(id, _)| *id), cells);
        }
    }
    let columns = ["clientid", "topic", "mid", "created"];
    upsert(conn, "mqtt_acked", &columns, &new, &known, "mid = values(mid), created = values(created)").await
}

/// Forgets a client's read positions of the topics that a filter matches.
async fn forget(conn: &mut MysqlConn, client: &str, filter: &str) -> Done {
    let sql = "select cast(id as unsigned) as id, topic, cast(clientid as binary) as client from mqtt_acked \
         where clientid = ? and topic is not null";
    let query = conn.query(sql).bind(client.to_owned());
    let mut ids = Vec::new();
    for row in query.fetch_all(&mut conn.inner).await? {
        let (name, of): (String, Vec<u8>) = (row.try_get("topic")?, row.try_get("client")?);
        if of == client.as_bytes() && (name == filter || topic::has_wildcard(filter) && topic::matches(filter, &name)) {
            ids.push(row.try_get("id")?);
        }
    }
    conn.delete("mqtt_acked", &ids).await
}

/// A row that is there is written under its id.
fn put<'a>(new: &mut Vec<Vec<Cell<'a>>>, known: &mut Vec<Vec<Cell<'a>>>, id: Option<u64>, mut cells: Vec<Cell<'a>>) {
    match id {
        Some(id) => {
            cells.push(Cell::Id(id));
            known.push(cells);
        }
        None => new.push(cells),
    }
}

fn assignments(columns: &[&str]) -> String {
    let sets: Vec<String> = columns.iter().map(|name| format!("{name} = values({name})")).collect();
    sets.join(", ")
}

async fn upsert(
    conn: &mut MysqlConn,
    table: &str,
    columns: &[&str],
    new: &[Vec<Cell<'_>>],
    known: &[Vec<Cell<'_>>],
    sets: &str,
) -> Done {
    let columns = columns.join(", ");
    conn.insert(&format!("insert into {table} ({columns}, id)"), known, &format!("on duplicate key update {sets}"))
        .await?;
    conn.insert(&format!("insert into {table} ({columns})"), new, "").await
}

/// Which of these messages the table has; asked only of records that may have been stored before.
pub(super) async fn known(conn: &mut MysqlConn, rows: &[&Arc<MessageRow>]) -> sqlx::Result<Vec<String>> {
    let msgids: Vec<&str> = rows.iter().map(|row| &*row.msgid).collect();
    Ok(conn.ids(&msgids, false).await?.into_keys().collect())
}
