//! The rules without any configuration: the guide's Redis list in SQLite's form, QoS 0 stored too.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{
    Action, Database, Function, Hook, Location, OfflineOpts, Param, Part, PayloadFormat, Pool, Rule, RuleSet, Setting,
    Statement,
};

/// The name of the default pool.
pub const DEFAULT_POOL: &str = "default";

/// How long the default file keeps stored messages, so that a demo left running does not fill the disk.
const RETENTION: &str = "7d";

impl RuleSet {
    /// What `forebay` does with no configuration: `queue/#` one-to-one, `pubsub/#` one-to-many, everything published stored,
    /// retained messages, client status and proxy subscriptions, all in the SQLite file `file` with a retention of 7 days.
    #[must_use]
    pub fn default_sqlite(file: &Path) -> RuleSet {
        let at = Location { file: Arc::new(PathBuf::from("<defaults>")), line: 1, column: 1 };
        let setting = |value: &str| Setting { value: value.to_owned(), secret: false, at: at.clone() };
        let settings = BTreeMap::from([
            ("file".to_owned(), setting(&file.to_string_lossy())),
            ("retention".to_owned(), setting(RETENTION)),
        ]);
        let pool = Pool { database: Database::Sqlite, name: DEFAULT_POOL.to_owned(), settings, at: at.clone() };
        let mut numbers: BTreeMap<Hook, u32> = BTreeMap::new();
        let rules = rules().into_iter().map(|(hook, topic, action)| {
            let number = *numbers.entry(hook).and_modify(|n| *n += 1).or_insert(1);
            Rule {
                database: Database::Sqlite,
                hook,
                number,
                topic: topic.map(str::to_owned),
                action,
                pool: DEFAULT_POOL.to_owned(),
                expired_time: None,
                offline: OfflineOpts::default(),
                payload_format: PayloadFormat::PlainText,
                at: at.clone(),
            }
        });
        RuleSet { rules: rules.collect(), pools: vec![pool] }
    }
}

/// In the order of [`Hook::ALL`], as a loaded rule set is.
fn rules() -> Vec<(Hook, Option<&'static str>, Action)> {
    let function = Action::Function;
    vec![
        (Hook::ClientConnected, None, function(Function::ClientConnected)),
        (Hook::ClientDisconnected, None, function(Function::ClientDisconnected)),
        (Hook::SessionCreated, None, function(Function::SubscribeLookup)),
        (Hook::SessionSubscribed, Some("queue/#"), function(Function::MessageFetchForQueue)),
        (Hook::SessionSubscribed, Some("pubsub/#"), function(Function::MessageFetchForPubsub)),
        (Hook::SessionSubscribed, None, function(Function::RetainLookup)),
        (Hook::SessionUnsubscribed, Some("#"), Action::Statements(vec![delete_acked()])),
        (Hook::MessagePublish, Some("#"), function(Function::MessageStore)),
        (Hook::MessagePublish, Some("#"), function(Function::MessageRetain)),
        (Hook::MessagePublish, Some("#"), function(Function::RetainDelete)),
        (Hook::MessageAcked, Some("queue/#"), function(Function::MessageAckedForQueue)),
        (Hook::MessageAcked, Some("pubsub/#"), function(Function::MessageAckedForPubsub)),
    ]
}

fn delete_acked() -> Statement {
    let text = |text: &str| Part::Text(text.to_owned());
    Statement {
        source: "delete from mqtt_acked where clientid = ${clientid} and topic = ${topic}".to_owned(),
        parts: vec![
            text("delete from mqtt_acked where clientid = "),
            Part::Param(Param::ClientId),
            text(" and topic = "),
            Part::Param(Param::Topic),
        ],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_statement_is_split_as_the_parser_would() {
        let statement = delete_acked();
        let parsed = Statement::parse(&statement.source, Database::Sqlite, Hook::SessionUnsubscribed);
        assert_eq!(parsed, Ok(statement));
    }

    #[test]
    fn the_engine_is_told_of_queues_positions_and_qos_0() {
        let rules = RuleSet::default_sqlite(Path::new("x.db")).engine_rules();
        assert_eq!(rules.queue, ["queue/#"]);
        assert_eq!(rules.pubsub.iter().map(|rule| rule.filter.as_str()).collect::<Vec<_>>(), ["pubsub/#"]);
        assert_eq!(rules.publish, [("#".to_owned(), 0)]);
        assert_eq!(rules.retain, ["#"]);
        assert_eq!(rules.acked, ["queue/#", "pubsub/#"]);
        assert!(rules.latest.is_empty() && rules.deliver.is_empty());
    }
}
