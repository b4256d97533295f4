//! What one connection may do: asks once a topic and remembers the last answer.

use std::sync::Arc;

use forebay_engine::topic;

use super::{Access, Action, Identity};
use crate::metrics::DENIED;

/// See the module.
#[derive(Debug)]
pub(crate) struct Gate {
    /// `None` where everything is allowed.
    access: Option<Arc<dyn Access>>,
    identity: Identity,
    /// The last topic published to, the answer, and the generation of the rules that gave it.
    last: Option<Last>,
    /// Somebody was told that this client was denied something.
    told: bool,
}

#[derive(Debug)]
struct Last {
    /// A copy: a part of the input would keep all of it in memory.
    topic: String,
    allowed: bool,
    generation: u64,
}

impl Gate {
    pub(crate) fn new(access: &Arc<dyn Access>, identity: Identity) -> Gate {
        let access = access.restricts(&identity).then(|| Arc::clone(access));
        Gate { access, identity, last: None, told: false }
    }

    /// Whether the client may publish to a topic.
    pub(crate) fn may_publish(&mut self, topic: &str) -> bool {
        if is_system(topic) {
            return denied("publish");
        }
        let Some(access) = &self.access else { return true };
        let generation = access.generation();
        if let Some(last) = &self.last
            && last.generation == generation
            && last.topic == topic
        {
            return last.allowed || denied("publish");
        }
        let allowed = access.may(&self.identity, Action::Publish, topic);
        let last = self.last.get_or_insert_with(|| Last { topic: String::new(), allowed, generation });
        last.topic.clear();
        last.topic.push_str(topic);
        (last.allowed, last.generation) = (allowed, generation);
        allowed || denied("publish")
    }

    /// True once: what a client is denied is said to the operator the first time, and counted from then on. A client that goes on must
    /// not fill his disk.
    pub(crate) fn is_first_denial(&mut self) -> bool {
        !std::mem::replace(&mut self.told, true)
    }

    /// Whether the client may leave a will with this topic.
    pub(crate) fn may_leave_will(&self, topic: &str) -> bool {
        if is_system(topic) {
            return denied("will");
        }
        let Some(access) = &self.access else { return true };
        access.may(&self.identity, Action::Publish, topic) || denied("will")
    }

    /// Whether the client may subscribe to a filter.
    pub(crate) fn may_subscribe(&self, filter: &str) -> bool {
        let Some(access) = &self.access else { return true };
        let inner = filter.strip_prefix("$share/").and_then(|rest| rest.split_once('/'));
        let inner = inner.map_or(filter, |(_, inner)| inner);
        // Rules are made of filters that are valid; of another one they say nothing.
        topic::check_filter(inner).is_ok() && access.may(&self.identity, Action::Subscribe, inner)
            || denied("subscribe")
    }
}

/// Topics in which the broker speaks of itself: nobody else publishes there.
fn is_system(topic: &str) -> bool {
    topic.strip_prefix("$SYS").is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn denied(what: &'static str) -> bool {
    metrics::counter!(DENIED, "what" => what).increment(1);
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::{Attempt, Denied};
    use futures_util::future::BoxFuture;
    use std::sync::atomic::{AtomicU64, Ordering};

    /// Allows what begins with `a`, and counts how often it is asked.
    #[derive(Debug, Default)]
    struct Asked {
        times: AtomicU64,
        generation: AtomicU64,
    }

    impl Access for Asked {
        fn authenticate<'a>(&'a self, _: Attempt<'a>) -> BoxFuture<'a, Result<Identity, Denied>> {
            Box::pin(std::future::ready(Err(Denied::Busy)))
        }

        fn may(&self, _: &Identity, _: Action, topic: &str) -> bool {
            self.times.fetch_add(1, Ordering::Relaxed);
            topic.starts_with('a')
        }

        fn generation(&self) -> u64 {
            self.generation.load(Ordering::Relaxed)
        }
    }

    #[test]
    fn the_same_topic_is_asked_once_a_generation() {
        let asked = Arc::new(Asked::default());
        let access: Arc<dyn Access> = asked.clone();
        let mut gate = Gate::new(&access, Identity { client: "c".into(), user: None });
        for (topic, allowed, times) in
            [("a", true, 1), ("a", true, 1), ("b", false, 2), ("b", false, 2), ("a", true, 3)]
        {
            assert_eq!(gate.may_publish(topic), allowed);
            assert_eq!(asked.times.load(Ordering::Relaxed), times);
        }
        asked.generation.store(1, Ordering::Relaxed);
        assert!(gate.may_publish("a"));
        assert_eq!(asked.times.load(Ordering::Relaxed), 4);
        assert!(
            gate.may_subscribe("$share/g/a/#") && !gate.may_subscribe("$share/g/b") && !gate.may_subscribe("a/#/b")
        );
    }
}
