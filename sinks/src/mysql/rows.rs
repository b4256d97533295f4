//! Rows as parameters of statements, many in each.

use std::collections::HashMap;

use sqlx::mysql::{MySqlArguments, MySqlRow};
use sqlx::query::Query;
use sqlx::{MySql, Row};

use super::connect::MysqlConn;
use crate::sql::Value;
use crate::sql::layout::Payload;
use crate::sql::text::{places, powers};

/// Rows in one statement at most; a power of two.
pub(super) const ROWS: usize = 512;

/// Bytes in one statement, about, where a single row is not longer.
const BYTES: usize = 4 << 20;

/// A parameter.
#[derive(Clone, Debug)]
pub(super) enum Cell {
    Null,
    Text(String),
    Bytes(Vec<u8>),
    Int(i64),
    Id(u64),
}

impl Cell {
    pub(super) fn text(text: &str) -> Cell {
        Cell::Text(text.to_owned())
    }

    fn len(&self) -> usize {
        match self {
            Cell::Text(text) => text.len(),
            Cell::Bytes(bytes) => bytes.len(),
            Cell::Null | Cell::Int(_) | Cell::Id(_) => 8,
        }
    }
}

impl From<Payload> for Cell {
    fn from(payload: Payload) -> Cell {
        match payload {
            Payload::Text(text) => Cell::Text(text),
            Payload::Bytes(bytes) => Cell::Bytes(bytes),
        }
    }
}

impl From<&Value> for Cell {
    fn from(value: &Value) -> Cell {
        match value {
            Value::Text(text) => Cell::Text(text.to_string()),
            Value::Blob(bytes) => Cell::Bytes(bytes.to_vec()),
            Value::Int(number) => Cell::Int(*number),
        }
    }
}

pub(super) fn bind<'q>(query: Query<'q, MySql, MySqlArguments>, cell: &Cell) -> Query<'q, MySql, MySqlArguments> {
    match cell {
        Cell::Null => query.bind(None::<String>),
        Cell::Text(text) => query.bind(text.clone()),
        Cell::Bytes(bytes) => query.bind(bytes.clone()),
        Cell::Int(number) => query.bind(*number),
        Cell::Id(number) => query.bind(*number),
    }
}

impl MysqlConn {
    /// Inserts rows of equal width, in their order, in as few statements as the packets allow.
    pub(super) async fn insert(&mut self, head: &str, rows: &[Vec<Cell>], tail: &str) -> sqlx::Result<()> {
        let Some(width) = rows.first().map(Vec::len) else { return Ok(()) };
        let row = format!("({})", places(width, "?"));
        let bytes = BYTES.min(self.packet / 2);
        for run in runs(rows, bytes) {
            for chunk in powers(run, ROWS) {
                let sql = format!("{head} values {} {tail}", places(chunk.len(), &row));
                let query = chunk.iter().flatten().fold(self.query(sql), bind);
                query.execute(&mut self.inner).await?;
            }
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

/// Runs of rows that stay below so many bytes; a longer row is alone.
fn runs(rows: &[Vec<Cell>], bytes: usize) -> Vec<&[Vec<Cell>]> {
    let mut runs = Vec::new();
    let (mut begin, mut sum) = (0, 0);
    for (n, row) in rows.iter().enumerate() {
        let length: usize = row.iter().map(Cell::len).sum();
        if sum + length > bytes && n > begin {
            runs.extend(rows.get(begin..n));
            (begin, sum) = (n, 0);
        }
        sum += length;
    }
    runs.extend(rows.get(begin..).filter(|rest| !rest.is_empty()));
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_stay_below_the_packet_where_rows_do() {
        let row = |length: usize| vec![Cell::Bytes(vec![0; length])];
        let rows = [row(40), row(40), row(40), row(500), row(1)];
        let lengths: Vec<usize> = runs(&rows, 100).iter().map(|run| run.len()).collect();
        assert_eq!(lengths, [2, 1, 1, 1]);
        assert!(runs(&[], 100).is_empty());
    }
}
