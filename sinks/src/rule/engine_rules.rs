//! What the engine has to know of the rules.

use forebay_engine::rules::{PubsubRule, Rules, StartAt};

use super::{Action, Function, Hook, Rule, RuleSet};

impl RuleSet {
    /// Reduces the rules to what the engine is asked at a hook: whose subscriptions keep a position or form a queue, and
    /// which events somebody wants in the log.
    #[must_use]
    pub fn engine_rules(&self) -> Rules {
        let mut out = Rules::default();
        for rule in &self.rules {
            match &rule.action {
                Action::Function(function) => add_function(&mut out, rule, *function),
                Action::Statements(_) => match rule.hook {
                    Hook::MessagePublish => add_publish(&mut out, filter(rule), 0),
                    Hook::MessageDeliver => add(&mut out.deliver, filter(rule)),
                    Hook::MessageAcked => add(&mut out.acked, filter(rule)),
                    _ => {}
                },
            }
        }
        out
    }
}

fn filter(rule: &Rule) -> &str {
    rule.topic.as_deref().unwrap_or("#")
}

fn add_function(out: &mut Rules, rule: &Rule, function: Function) {
    let filter = filter(rule);
    match function {
        Function::MessageFetchForQueue => add(&mut out.queue, filter),
        Function::MessageFetch | Function::MessageFetchForPubsub => add_pubsub(out, rule),
        Function::MessageFetchForKeepLatest => add(&mut out.latest, filter),
        Function::MessagePublish => add_publish(out, filter, 1),
        Function::MessageStore | Function::MessageStoreKeepLatest => add_publish(out, filter, 0),
        Function::MessageRetain | Function::RetainDelete => add(&mut out.retain, filter),
        Function::MessageAcked
        | Function::MessageAckedForQueue
        | Function::MessageAckedForPubsub
        | Function::MessageAckedForKeepLatest => add(&mut out.acked, filter),
        Function::ClientConnected
        | Function::ClientDisconnected
        | Function::SubscribeLookup
        | Function::RetainLookup
        | Function::AckedDelete => {}
    }
}

/// Two pools may store the same topics; the engine needs each filter once.
fn add(filters: &mut Vec<String>, filter: &str) {
    if !filters.iter().any(|other| other == filter) {
        filters.push(filter.to_owned());
    }
}

fn add_publish(out: &mut Rules, filter: &str, min_qos: u8) {
    match out.publish.iter_mut().find(|(other, _)| other == filter) {
        Some((_, qos)) => *qos = (*qos).min(min_qos),
        None => out.publish.push((filter.to_owned(), min_qos)),
    }
}

/// The first rule of a filter bounds its fetches, as it would be the first to answer.
fn add_pubsub(out: &mut Rules, rule: &Rule) {
    let filter = filter(rule);
    if !out.pubsub.iter().any(|other| other.filter == filter) {
        out.pubsub.push(PubsubRule {
            filter: filter.to_owned(),
            start: StartAt::Earliest,
            max_returned: rule.offline.max_returned_count,
            time_range: rule.offline.time_range,
        });
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::rule::parse_conf;

    #[test]
    fn a_filter_is_told_once_with_its_lowest_qos() {
        let text = r##"
            backend.redis.p.server = a:1
            backend.redis.q.server = b:1
            backend.redis.hook.message.publish.1 = {"topic": "a", "action": {"function": "on_message_publish"}, "pool": "p"}
            backend.redis.hook.message.publish.2 = {"topic": "a", "action": {"function": "on_message_store"}, "pool": "q"}
            backend.redis.hook.message.publish.3 = {"topic": "b", "action": {"commands": "SET a b"}, "pool": "q"}
            backend.redis.hook.message.publish.4 = {"topic": "b", "action": {"function": "on_message_publish"}, "pool": "q"}
            backend.redis.hook.session.subscribed.1 = {"action": {"function": "on_message_fetch_for_keep_latest"}, "pool": "p"}
        "##;
        let rules = parse_conf(Path::new("x.conf"), text).rules.engine_rules();
        assert_eq!(rules.publish, [("a".to_owned(), 0), ("b".to_owned(), 0)]);
        assert_eq!(rules.latest, ["#"]);
    }
}
