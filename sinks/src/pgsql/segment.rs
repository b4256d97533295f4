//! A segment's operations as statements: one for each table, rows as arrays.

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::Arc;

use forebay_engine::topic;
use sqlx::{Executor as _, Row};

use super::connect::{PgsqlConn, PgsqlSink};
use crate::sql::MessageRow;
use crate::sql::fold::{Ack, AckStep, Segment, Status};
use crate::sql::layout::Payload;
use crate::sql::text::datetime;

type Done = sqlx::Result<()>;

/// From so many rows on COPY is cheaper, though it takes a round trip more.
const COPY_ROWS: usize = 64;

/// A payload that did not fit was refused before anything was sent.
enum Payloads {
    Text(Vec<String>),
    Bytes(Vec<Vec<u8>>),
}

impl PgsqlSink {
    /// Stores a segment. `known` are messages that are there already.
    pub(super) async fn segment(&self, conn: &mut PgsqlConn, segment: &Segment<'_>, known: &HashSet<String>) -> Done {
        let new: Vec<&Arc<MessageRow>> =
            segment.messages.iter().filter(|row| !known.contains(&row.msgid)).copied().collect();
        self.messages(conn, &new).await?;
        let expiring = segment.expiring();
        if !expiring.is_empty() {
            expire(conn, &expiring).await?;
        }
        if !segment.imported.is_empty() {
            let column = |n: fn(&(&str, &str)) -> String| segment.imported.iter().map(n).collect::<Vec<String>>();
            let sql = "insert into forebay_imported (msgid, row_key) select * from unnest($1::text[], $2::text[]) on conflict do nothing";
            let query = conn.query(sql).bind(column(|row| row.0.to_owned())).bind(column(|row| row.1.to_owned()));
            query.execute(&mut conn.inner).await?;
        }
        for step in &segment.acked {
            match step {
                AckStep::Read(acks) => self.acknowledge(conn, acks).await?,
                AckStep::Forget { client, filter } => forget(conn, client, filter).await?,
            }
        }
        if !segment.removed.is_empty() {
            let removed: Vec<String> = segment.removed.iter().map(|msgid| (*msgid).to_owned()).collect();
            let sql = "delete from mqtt_msg where msgid = any($1::text[]) or id = any(array(select row_key::bigint \
                 from forebay_imported where msgid = any($1::text[]) and row_key ~ '^[0-9]+$'))";
            conn.query(sql).bind(removed).execute(&mut conn.inner).await?;
        }
        if !segment.latest.is_empty() {
            let topics: Vec<String> = segment.latest.keys().map(|topic| (*topic).to_owned()).collect();
            let latest: Vec<String> = segment.latest.values().map(|msgid| (*msgid).to_owned()).collect();
            let sql = "delete from mqtt_msg m using unnest($1::text[], $2::text[]) as v(topic, msgid) where m.topic = v.topic \
                 and m.id < (select max(n.id) from mqtt_msg n where n.msgid = v.msgid)";
            conn.query(sql).bind(topics).bind(latest).execute(&mut conn.inner).await?;
        }
        self.retained(conn, segment).await?;
        self.clients(conn, segment).await
    }

    /// Which of these messages the table has; asked only of records that may have been stored before.
    pub(super) async fn known(&self, conn: &mut PgsqlConn, rows: &[&Arc<MessageRow>]) -> sqlx::Result<HashSet<String>> {
        let msgids: Vec<String> = rows.iter().map(|row| row.msgid.clone()).collect();
        let query = conn.query("select msgid::text as msgid from mqtt_msg where msgid = any($1::text[])").bind(msgids);
        query.fetch_all(&mut conn.inner).await?.iter().map(|row| row.try_get("msgid")).collect()
    }

    async fn messages(&self, conn: &mut PgsqlConn, rows: &[&Arc<MessageRow>]) -> Done {
        if rows.is_empty() {
            return Ok(());
        }
        let insert = Insert::new(conn, "mqtt_msg", &["msgid", "sender", "topic", "qos", "retain", "arrived"]);
        if conn.copies && rows.len() >= COPY_ROWS {
            return self.copy(conn, &insert.columns, rows).await;
        }
        // Without a unique index the clause means nothing, and does no harm.
        self.insert(conn, insert, rows, "on conflict do nothing").await
    }

    async fn insert(&self, conn: &mut PgsqlConn, insert: Insert, rows: &[&Arc<MessageRow>], conflict: &str) -> Done {
        let payloads = self.payloads(conn, insert.table, rows);
        let array = if matches!(payloads, Payloads::Bytes(_)) { "bytea" } else { "text" };
        let sql = insert.sql(conn, array, conflict);
        let text = |of: fn(&MessageRow) -> String| rows.iter().map(|row| of(row)).collect::<Vec<String>>();
        let query = conn
            .query(sql)
            .bind(text(|row| row.msgid.clone()))
            .bind(text(|row| row.sender.to_string()))
            .bind(text(|row| row.topic.to_string()))
            .bind(rows.iter().map(|row| i32::from(row.qos)).collect::<Vec<i32>>())
            .bind(rows.iter().map(|row| i32::from(row.retain)).collect::<Vec<i32>>())
            .bind(text(|row| datetime(row.at_us)))
            .bind(self.config.node_name.clone());
        let query = match payloads {
            Payloads::Bytes(all) => query.bind(all),
            Payloads::Text(all) => query.bind(all),
        };
        query.execute(&mut conn.inner).await.map(|_| ())
    }

    fn payloads(&self, conn: &PgsqlConn, table: &str, rows: &[&Arc<MessageRow>]) -> Payloads {
        let fitting: Vec<Payload<'_>> = rows
            .iter()
            .map(|row| conn.found.layout.payload(table, &row.payload, self.config.binary_payload))
            .map(|fitting| fitting.unwrap_or(Payload::Bytes(Cow::Borrowed(&[]))))
            .collect();
        if fitting.iter().all(|payload| matches!(payload, Payload::Text(_))) {
            let text = |p| if let Payload::Text(text) = p { text.into_owned() } else { String::new() };
            return Payloads::Text(fitting.into_iter().map(text).collect());
        }
        let bytes = |payload| match payload {
            Payload::Bytes(bytes) => bytes.into_owned(),
            Payload::Text(text) => text.into_owned().into_bytes(),
        };
        Payloads::Bytes(fitting.into_iter().map(bytes).collect())
    }

    async fn acknowledge(&self, conn: &mut PgsqlConn, acks: &[Ack<'_>]) -> Done {
        let cast = |column: &str| conn.cast("mqtt_acked", column);
        let sql = format!(
            "with v as (select * from unnest($1::text[], $2::text[], $3::text[], $4::text[]) as v(clientid, topic, msgid, at)), \
             r as (select v.clientid, v.topic, max(coalesce(m.id, case when i.row_key ~ '^[0-9]+$' then i.row_key::bigint end)) as mid, \
             max(v.at) as at from v left join mqtt_msg m on m.msgid = v.msgid left join forebay_imported i on i.msgid = v.msgid \
             group by v.clientid, v.topic) \
             insert into mqtt_acked (clientid, topic, mid, created) select clientid, topic, mid{}, at{} from r where mid > 0 \
             on conflict (clientid, topic) do update set mid = excluded.mid, created = excluded.created \
             where excluded.mid > coalesce(mqtt_acked.mid, 0)",
            cast("mid"),
            cast("created")
        );
        let column = |of: fn(&Ack<'_>) -> String| acks.iter().map(of).collect::<Vec<String>>();
        let query = conn
            .query(sql)
            .bind(column(|ack| ack.client.to_owned()))
            .bind(column(|ack| ack.topic.to_owned()))
            .bind(column(|ack| ack.msgid.to_owned()))
            .bind(column(|ack| datetime(ack.at_us)));
        query.execute(&mut conn.inner).await.map(|_| ())
    }

    async fn retained(&self, conn: &mut PgsqlConn, segment: &Segment<'_>) -> Done {
        let gone: Vec<String> =
            segment.retained.iter().filter(|(_, row)| row.is_none()).map(|(topic, _)| (*topic).to_owned()).collect();
        if !gone.is_empty() {
            let query = conn.query("delete from mqtt_retain where topic = any($1::text[])").bind(gone);
            query.execute(&mut conn.inner).await?;
        }
        let rows: Vec<&Arc<MessageRow>> = segment.retained.values().filter_map(|row| *row).collect();
        if rows.is_empty() {
            return Ok(());
        }
        let insert = Insert::new(conn, "mqtt_retain", &["msgid", "sender", "topic", "qos", "arrived"]);
        let mut sets = vec!["payload = excluded.payload".to_owned()];
        sets.extend(
            insert.columns.iter().filter(|name| **name != "topic").map(|name| format!("{name} = excluded.{name}")),
        );
        let conflict = format!("on conflict (topic) do update set {}", sets.join(", "));
        self.insert(conn, insert, &rows, &conflict).await
    }

    async fn clients(&self, conn: &mut PgsqlConn, segment: &Segment<'_>) -> Done {
        if segment.clients.is_empty() {
            return Ok(());
        }
        let cast = |column: &str| conn.cast("mqtt_client", column);
        // Another node may have the client by now: what this node says of its going is then left alone.
        let sql = format!(
            "insert into mqtt_client (clientid, state, node, online_at, offline_at, created) \
             select v.clientid, v.state{}, $5, v.online{}, v.offline{}, coalesce(v.online, v.offline){} \
             from unnest($1::text[], $2::text[], $3::text[], $4::text[]) as v(clientid, state, online, offline) \
             on conflict (clientid) do update set state = excluded.state, node = excluded.node, \
             online_at = coalesce(excluded.online_at, mqtt_client.online_at), offline_at = excluded.offline_at \
             where excluded.online_at is not null or mqtt_client.node = excluded.node",
            cast("state"),
            cast("online_at"),
            cast("offline_at"),
            cast("created"),
        );
        let (mut states, mut online, mut offline) = (Vec::new(), Vec::new(), Vec::new());
        for status in segment.clients.values() {
            let (state, came, went) = match status {
                Status::Online { at_us } => ("1", Some(*at_us), None),
                Status::Offline { at_us, came_us } => ("0", *came_us, Some(*at_us)),
            };
            states.push(state.to_owned());
            online.push(came.map(datetime));
            offline.push(went.map(datetime));
        }
        let clients: Vec<String> = segment.clients.keys().map(|client| (*client).to_owned()).collect();
        let query =
            conn.query(sql).bind(clients).bind(states).bind(online).bind(offline).bind(self.config.node_name.clone());
        query.execute(&mut conn.inner).await.map(|_| ())
    }
}

/// An insertion of message rows into the columns that the table has.
struct Insert {
    table: &'static str,
    columns: Vec<&'static str>,
}

impl Insert {
    fn new(conn: &PgsqlConn, table: &'static str, columns: &[&'static str]) -> Insert {
        let mut columns = columns.to_vec();
        // The guide shows the column and leaves it out of the table.
        if conn.found.layout.column(table, "node").is_some() {
            columns.push("node");
        }
        Insert { table, columns }
    }

    fn sql(&self, conn: &PgsqlConn, payload: &str, conflict: &str) -> String {
        let table = self.table;
        let values: Vec<String> =
            self.columns
                .iter()
                .map(|name| {
                    if *name == "node" { "own.node".to_owned() } else { format!("v.{name}{}", conn.cast(table, name)) }
                })
                .collect();
        format!(
            "insert into {table} ({}, payload) select {}, v.payload{} from unnest($1::text[], $2::text[], $3::text[], $4::int4[], \
             $5::int4[], $6::text[], $8::{payload}[]) as v(msgid, sender, topic, qos, retain, arrived, payload) \
             cross join (select $7::text) as own(node) {conflict}",
            self.columns.join(", "),
            values.join(", "),
            // Bytes are never cast to text: what can't be text was refused.
            if payload == "bytea" { String::new() } else { conn.cast(table, "payload") },
        )
    }
}

impl PgsqlConn {
    /// `::type` of a column as it was found; nothing where it was not looked for.
    fn cast(&self, table: &str, column: &str) -> String {
        self.found.layout.column(table, column).map_or_else(String::new, |found| format!("::{}", found.cast))
    }
}

async fn expire(conn: &mut PgsqlConn, rows: &[(&str, &'static str, &str, i64)]) -> Done {
    let sql = "insert into forebay_expiry (msgid, kind, topic, expires_us) \
         select * from unnest($1::text[], $2::text[], $3::text[], $4::int8[]) on conflict do nothing";
    let query = conn
        .query(sql)
        .bind(rows.iter().map(|row| row.0.to_owned()).collect::<Vec<String>>())
        .bind(rows.iter().map(|row| row.1.to_owned()).collect::<Vec<String>>())
        .bind(rows.iter().map(|row| row.2.to_owned()).collect::<Vec<String>>())
        .bind(rows.iter().map(|row| row.3).collect::<Vec<i64>>());
    query.execute(&mut conn.inner).await.map(|_| ())
}

/// Forgets a client's read positions of the topics that a filter matches.
async fn forget(conn: &mut PgsqlConn, client: &str, filter: &str) -> Done {
    let mut topics = vec![filter.to_owned()];
    if topic::has_wildcard(filter) {
        let query = conn.query("select topic::text as topic from mqtt_acked where clientid = $1 and topic is not null");
        let query = query.bind(client.to_owned());
        for row in conn.inner.fetch_all(query).await? {
            let name: String = row.try_get("topic")?;
            if topic::matches(filter, &name) {
                topics.push(name);
            }
        }
    }
    let sql = "delete from mqtt_acked where clientid = $1 and topic = any($2::text[])";
    conn.query(sql).bind(client.to_owned()).bind(topics).execute(&mut conn.inner).await.map(|_| ())
}
