//! The text of users' statements with the database's own placeholders, made once per statement.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::Arc;

use parking_lot::RwLock;

use crate::rule::{Part, Statement};

/// How a database writes bound parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Placeholders {
    /// `?`
    #[cfg_attr(not(any(feature = "sqlite", feature = "mysql")), allow(dead_code, reason = "SQLite and MySQL write it"))]
    Question,
    /// `$1`, `$2`, …
    #[cfg_attr(not(feature = "pgsql"), allow(dead_code, reason = "only PostgreSQL writes it"))]
    Dollar,
}

/// The texts of a sink's statements. Clones share them; there are as many as the rules have statements.
#[derive(Clone, Debug)]
pub(crate) struct Statements {
    placeholders: Placeholders,
    texts: Arc<RwLock<HashMap<String, Arc<str>>>>,
}

impl Statements {
    pub(crate) fn new(placeholders: Placeholders) -> Self {
        Statements { placeholders, texts: Arc::default() }
    }

    /// The statement with a placeholder for each of its parameters.
    pub(crate) fn text(&self, statement: &Statement) -> Arc<str> {
        if let Some(text) = self.texts.read().get(&statement.source) {
            return text.clone();
        }
        let text: Arc<str> = self.render(statement).into();
        self.texts.write().insert(statement.source.clone(), text.clone());
        text
    }

    fn render(&self, statement: &Statement) -> String {
        let mut sql = String::with_capacity(statement.source.len());
        let mut number = 0;
        for part in &statement.parts {
            match (part, self.placeholders) {
                (Part::Text(text), _) => sql.push_str(text),
                (Part::Param(_), Placeholders::Question) => sql.push('?'),
                (Part::Param(_), Placeholders::Dollar) => {
                    number += 1;
                    // Writing into a String can't fail.
                    let _infallible = write!(sql, "${number}");
                }
            }
        }
        sql
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rule::Param;

    #[test]
    fn each_database_gets_its_own_placeholders() {
        let statement = Statement {
            source: "insert into t values (${clientid}, ${topic})".into(),
            parts: vec![
                Part::Text("insert into t values (".into()),
                Part::Param(Param::ClientId),
                Part::Text(", ".into()),
                Part::Param(Param::Topic),
                Part::Text(")".into()),
            ],
        };
        for (placeholders, text) in [
            (Placeholders::Question, "insert into t values (?, ?)"),
            (Placeholders::Dollar, "insert into t values ($1, $2)"),
        ] {
            let statements = Statements::new(placeholders);
            assert_eq!(&*statements.text(&statement), text);
            assert!(Arc::ptr_eq(&statements.text(&statement), &statements.text(&statement)));
        }
    }
}
