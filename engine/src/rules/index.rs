//! [`Rules`] arranged for the questions that are asked for each message and each subscription.

use std::sync::Arc;

use super::{PubsubRule, Rules};
use crate::event::Message;
use crate::topic;
use crate::trie::Trie;

/// What governs a subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Ordinary MQTT: the subscription sees what is published while its session exists.
    Plain,
    /// One-to-one: the topic's queue hands each message to one subscriber.
    Queue,
    /// One-to-many: a read position that outlives the session.
    Pubsub(Arc<PubsubRule>),
    /// A read position that sees only the newest message of each topic.
    Latest,
    /// A shared subscription: its group hands each message to one of its members. No rule governs it.
    Shared,
}

impl Kind {
    /// True when the subscription keeps a read position that outlives the session.
    pub(crate) fn is_rule_cursor(&self) -> bool {
        matches!(self, Kind::Pubsub(_) | Kind::Latest)
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct RuleIndex {
    queue: Trie<()>,
    queue_filters: Vec<String>,
    latest: Trie<()>,
    latest_filters: Vec<String>,
    pubsub: Vec<Arc<PubsubRule>>,
    /// Lowest QoS that is logged whoever subscribes.
    publish: Trie<u8>,
    acked: Trie<()>,
    deliver: Trie<()>,
}

impl RuleIndex {
    pub(crate) fn new(rules: &Rules) -> RuleIndex {
        let mut index = RuleIndex {
            queue_filters: rules.queue.clone(),
            latest_filters: rules.latest.clone(),
            pubsub: rules.pubsub.iter().cloned().map(Arc::new).collect(),
            ..RuleIndex::default()
        };
        for filter in &rules.queue {
            index.queue.insert(filter, ());
            index.publish.insert(filter, 0);
        }
        for filter in &rules.latest {
            index.latest.insert(filter, ());
            index.publish.insert(filter, 1);
        }
        for rule in &rules.pubsub {
            index.publish.insert(&rule.filter, 1);
        }
        for (filter, qos) in &rules.publish {
            index.publish.insert(filter, *qos);
        }
        for filter in &rules.acked {
            index.acked.insert(filter, ());
        }
        for filter in &rules.deliver {
            index.deliver.insert(filter, ());
        }
        index
    }

    /// What governs a subscription to `filter`: the first rule whose filter covers it, queues before positions.
    /// A broader filter (`#` over `queue/#`) is a plain subscription.
    pub(crate) fn kind_of(&self, filter: &str) -> Kind {
        if topic::shared(filter).is_some() {
            return Kind::Shared;
        }
        if self.queue_filters.iter().any(|rule| topic::covers(rule, filter)) {
            return Kind::Queue;
        }
        if self.latest_filters.iter().any(|rule| topic::covers(rule, filter)) {
            return Kind::Latest;
        }
        match self.pubsub.iter().find(|rule| topic::covers(&rule.filter, filter)) {
            Some(rule) => Kind::Pubsub(Arc::clone(rule)),
            None => Kind::Plain,
        }
    }

    pub(crate) fn is_queue(&self, topic: &str) -> bool {
        self.queue.any_match(topic)
    }

    pub(crate) fn is_latest(&self, topic: &str) -> bool {
        self.latest.any_match(topic)
    }

    /// Filters of the topics whose messages are kept for others than sessions, also those that were published with QoS 0.
    pub(crate) fn kept_filters(&self) -> impl Iterator<Item = &str> {
        self.queue_filters.iter().chain(&self.latest_filters).map(String::as_str)
    }

    /// True when a rule wants this publish in the log, whoever subscribes.
    pub(crate) fn wants_publish(&self, message: &Message) -> bool {
        let mut wanted = false;
        self.publish.matches(&message.topic, |lowest| {
            wanted = message.qos.as_u8() >= *lowest;
            !wanted
        });
        wanted
    }

    pub(crate) fn wants_acked(&self, topic: &str) -> bool {
        self.acked.any_match(topic)
    }

    pub(crate) fn wants_deliver(&self, topic: &str) -> bool {
        self.deliver.any_match(topic)
    }
}

#[cfg(test)]
mod tests {
    use super::super::StartAt;
    use super::*;
    use crate::event::QoS;

    fn rules() -> Rules {
        let pubsub =
            PubsubRule { filter: "pubsub/#".into(), start: StartAt::Earliest, max_returned: None, time_range: None };
        Rules {
            queue: vec!["queue/#".into()],
            latest: vec!["latest/#".into()],
            pubsub: vec![pubsub],
            publish: vec![("stored/#".into(), 1), ("all/#".into(), 0)],
            ..Rules::default()
        }
    }

    #[test]
    fn a_filter_inside_a_rule_is_governed_by_it_and_a_broader_one_is_not() {
        let index = RuleIndex::new(&rules());
        assert_eq!(index.kind_of("queue/a"), Kind::Queue);
        assert_eq!(index.kind_of("queue/+/b"), Kind::Queue);
        assert!(matches!(index.kind_of("pubsub/a"), Kind::Pubsub(_)));
        assert_eq!(index.kind_of("latest/x"), Kind::Latest);
        assert_eq!(index.kind_of("#"), Kind::Plain);
        assert_eq!(index.kind_of("+/a"), Kind::Plain);
        for filter in ["$share/g/queue/a", "$share/g/pubsub/a", "$share/g/#"] {
            assert_eq!(index.kind_of(filter), Kind::Shared);
        }
    }

    #[test]
    fn qos_0_is_logged_only_where_a_rule_or_a_queue_asks_for_it() {
        let index = RuleIndex::new(&rules());
        let wants = |topic: &str, qos| index.wants_publish(&Message { topic: topic.into(), qos, ..Message::default() });
        assert!(wants("queue/a", QoS::AtMostOnce));
        assert!(wants("all/a", QoS::AtMostOnce));
        assert!(!wants("stored/a", QoS::AtMostOnce));
        assert!(wants("stored/a", QoS::AtLeastOnce));
        assert!(!wants("other", QoS::ExactlyOnce));
    }
}
