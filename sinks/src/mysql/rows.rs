//! Rows as parameters of statements, many in each.

use std::borrow::Cow;
use std::collections::HashMap;

use sqlx::mysql::{MySqlArguments, MySqlRow};
use sqlx::query::Query;
use sqlx::{AssertSqlSafe, Executor as _, MySql, Row};

use super::connect::MysqlConn;
use super::literal;
use crate::sql::layout::Payload;
use crate::sql::text::{places, powers};
use crate::sql::{Json, Value};

/// Parameters of one statement at most, in rows; a power of two.
pub(super) const ROWS: usize = 512;

/// Rows in one statement at most that has its values in its text.
const TEXT_ROWS: usize = 2_048;

/// Bytes in one statement, about, where a single row is not longer.
const BYTES: usize = 1 << 20;

/// A value of a row.
#[derive(Clone, Debug)]
pub(super) enum Cell<'a> {
    Null,
    Text(Cow<'a, str>),
    Bytes(Cow<'a, [u8]>),
    Int(i64),
    Id(u64),
}

impl<'a> Cell<'a> {
    pub(super) fn text(text: &'a str) -> Cell<'a> {
        Cell::Text(Cow::Borrowed(text))
    }
}

impl<'a> From<Payload<'a>> for Cell<'a> {
    fn from(payload: Payload<'a>) -> Cell<'a> {
        match payload {
            Payload::Text(text) => Cell::Text(text),
            Payload::Bytes(bytes) => Cell::Bytes(bytes),
        }
    }
}

impl<'a> From<&'a Value> for Cell<'a> {
    fn from(value: &'a Value) -> Cell<'a> {
        match value {
            Value::Null => Cell::Null,
            Value::Text(text) | Value::Json(Json { text, .. }) => Cell::text(text),
            Value::Blob(bytes) => Cell::Bytes(Cow::Borrowed(bytes)),
            Value::Int(number) => Cell::Int(*number),
        }
    }
}

pub(super) fn bind<'q>(query: Query<'q, MySql, MySqlArguments>, cell: &Cell<'_>) -> Query<'q, MySql, MySqlArguments> {
    match cell {
        Cell::Null => query.bind(None::<String>),
        Cell::Text(text) => query.bind(text.clone().into_owned()),
        Cell::Bytes(bytes) => query.bind(bytes.clone().into_owned()),
        Cell::Int(number) => query.bind(*number),
        Cell::Id(number) => query.bind(*number),
    }
}

impl MysqlConn {
    /// Inserts rows of equal width, in their order, in as few statements as the packets allow. Several rows stand in the statement's
    /// text: the server needs twice the time for as many parameters. A single row, or one that is long, has parameters.
    pub(super) async fn insert(&mut self, head: &str, rows: &[Vec<Cell<'_>>], tail: &str) -> sqlx::Result<()> {
        let most = BYTES.min(self.packet / 2);
        let mut rest = rows;
        while let Some(first) = rest.first() {
            let mut sql = format!("{head} values ");
            let taken = if rest.len() > 1 { literal::rows(&mut sql, rest, TEXT_ROWS, most) } else { 0 };
            if taken > 0 {
                sql.push(' ');
                sql.push_str(tail);
                self.inner.execute(AssertSqlSafe(sql)).await?;
            } else {
                let sql = format!("{head} values ({}) {tail}", places(first.len(), "?"));
                first.iter().fold(self.query(sql), bind).execute(&mut self.inner).await?;
            }
            rest = rest.get(taken.max(1)..).unwrap_or_default();
        }
        Ok(())
    }

    /// Rows of a query over a list of values: `sql` has `{}` where the list's places go, once or more often.
    pub(super) async fn of_list(&mut self, sql: &str, values: &[&str]) -> sqlx::Result<Vec<MySqlRow>> {
        let lists = sql.matches("{}").count();
        let mut found = Vec::new();
        for chunk in powers(values, ROWS) {
            let query = self.query(sql.replace("{}", &places(chunk.len(), "?")));
            let query =
                (0..lists).flat_map(|_| chunk.iter()).fold(query, |query, value| query.bind((*value).to_owned()));
            found.extend(query.fetch_all(&mut self.inner).await?);
        }
        Ok(found)
    }

    /// Deletes rows by id.
    pub(super) async fn delete(&mut self, table: &str, ids: &[u64]) -> sqlx::Result<()> {
        for chunk in powers(ids, ROWS) {
            let query = self.query(format!("delete from {table} where id in ({})", places(chunk.len(), "?")));
            chunk.iter().fold(query, |query, id| query.bind(*id)).execute(&mut self.inner).await?;
        }
        Ok(())
    }

    /// Ids of messages by msgid, exactly; with `imported` those of imported rows too.
    pub(super) async fn ids(&mut self, msgids: &[&str], imported: bool) -> sqlx::Result<HashMap<String, u64>> {
        let mut sql =
            "select cast(id as unsigned) as id, cast(msgid as binary) as msgid from mqtt_msg where msgid in ({})"
                .to_owned();
        if imported {
            sql.push_str(
                " union all select cast(row_key as unsigned), cast(msgid as binary) from forebay_imported where msgid in ({}) \
                 and row_key regexp '^[0-9]+$'",
            );
        }
        let mut ids = HashMap::new();
        for row in self.of_list(&sql, msgids).await? {
            let msgid: Vec<u8> = row.try_get("msgid")?;
            if let Ok(msgid) = String::from_utf8(msgid) {
                let id: u64 = row.try_get("id")?;
                let newest = ids.entry(msgid).or_insert(id);
                *newest = id.max(*newest);
            }
        }
        Ok(ids)
    }

    /// Rows of a table by their key, locked: id and one further column as text. Rows whose key differs in case are none of these.
    pub(super) async fn by_key(
        &mut self,
        table: &str,
        keys: &[&str],
        further: &str,
        wanted: &[Vec<&str>],
    ) -> sqlx::Result<HashMap<Vec<String>, (u64, Option<String>)>> {
        let condition: Vec<String> = keys.iter().map(|key| format!("{key} = ?")).collect();
        let condition = format!("({})", condition.join(" and "));
        let mut found = HashMap::new();
        for chunk in powers(wanted, ROWS / 2) {
            let sql = format!(
                "select cast(id as unsigned) as id, {}, cast({further} as char) as further from {table} where {} for update",
                keys.join(", "),
                vec![condition.as_str(); chunk.len()].join(" or ")
            );
            let query = chunk.iter().flatten().fold(self.query(sql), |query, value| query.bind((*value).to_owned()));
            for row in query.fetch_all(&mut self.inner).await? {
                let key: Vec<String> = keys.iter().map(|key| row.try_get(*key)).collect::<sqlx::Result<_>>()?;
                found.insert(key, (row.try_get("id")?, row.try_get("further")?));
            }
        }
        Ok(found)
    }
}
