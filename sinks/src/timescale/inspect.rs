//! Looking at a TimescaleDB without changing it: the login, the table of positions, and whether each template's statement could be run.

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Executor};

use super::write::TimescaleSink;
use crate::pgsql::map;
use crate::sink::Finding;
use crate::template::StatementTemplate;
use crate::template::outline::{outline, places};

/// Statements that the server can plan without running them.
const PLANNED: [&str; 7] = ["delete", "insert", "merge", "select", "update", "values", "with"];

pub(super) async fn inspect(sink: &TimescaleSink) -> Vec<Finding> {
    let (mut conn, mut findings) = match sink.server.look().await {
        Ok(looked) => looked,
        Err(error) => return vec![Finding::fault(error.to_string())],
    };
    for (filter, template) in sink.config.templates.iter() {
        let what = format!("template `{}` of {filter} ({})", template.name, template.at);
        findings.push(match look(&mut conn, template).await {
            Ok(true) => Finding::fine(format!("{what} can be run")),
            Ok(false) => Finding::fine(format!("{what} is no statement that can be looked at without running it")),
            Err(error) => Finding::fault(format!("{what}: {}", map(error))),
        });
    }
    findings
}

/// Has the server plan the statement, which asks for tables, columns and rights; false where it plans no such statement.
async fn look(conn: &mut PgConnection, template: &StatementTemplate) -> sqlx::Result<bool> {
    let outline = outline(&template.sql);
    let first = outline.split(|c: char| !c.is_ascii_alphabetic()).find(|word| !word.is_empty());
    if !first.is_some_and(|word| PLANNED.iter().any(|planned| planned.eq_ignore_ascii_case(word))) {
        return Ok(false);
    }
    let count = places(&template.sql).iter().map(|place| place.number).max().unwrap_or(0);
    let values = if count == 0 { String::new() } else { format!("({})", vec!["null"; count].join(", ")) };
    conn.execute(AssertSqlSafe(format!("prepare forebay_look as {}", template.sql))).await?;
    let planned = conn.execute(AssertSqlSafe(format!("explain execute forebay_look{values}"))).await;
    conn.execute("deallocate forebay_look").await?;
    planned.map(|_| true)
}
