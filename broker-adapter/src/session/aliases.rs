//! Topic aliases to one client: which topics get one, so that bytes are saved and none are spent for nothing.
//!
//! ```text
//! topic --hash--> slot (its number is the alias)
//!                   empty, or this topic was the last to ask for it twice   topic and alias (3 bytes more)
//!                   holds this topic                                        alias alone
//!                   holds another                                           topic alone
//! ```
//!
//! A topic that is seen once takes no other's place, so a subscriber of ten thousand topics gets them as they are.

use std::hash::{DefaultHasher, Hash, Hasher};

/// An alias in a PUBLISH takes three bytes: shorter topics are sent as they are.
const SHORTEST: usize = 4;

/// How a topic is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Plan {
    /// As it is.
    Topic,
    /// With an alias that stands for it from then on: see [`Aliases::introduced`].
    Both(u16),
    /// As its alias.
    Alias(u16),
}

#[derive(Clone, Debug, Default)]
struct Slot {
    /// Empty where the alias stands for nothing yet. A copy: a part of a message would keep all of it in memory.
    topic: String,
    /// Hash of the topic that asked for this slot last and did not get it; 0 = none since the slot was used.
    asked: u64,
}

/// Aliases of one connection.
#[derive(Clone, Debug)]
pub(crate) struct Aliases {
    slots: Vec<Slot>,
}

impl Aliases {
    /// With the aliases 1 to `most`; 0 = none.
    pub(crate) fn new(most: u16) -> Aliases {
        Aliases { slots: vec![Slot::default(); usize::from(most)] }
    }

    /// How the next PUBLISH of this topic is to be sent.
    pub(crate) fn plan(&mut self, topic: &str) -> Plan {
        if self.slots.is_empty() || topic.len() < SHORTEST {
            return Plan::Topic;
        }
        let (hash, at) = self.place(topic);
        let Some((slot, alias)) = self.slots.get_mut(at).zip(u16::try_from(at + 1).ok()) else { return Plan::Topic };
        if slot.topic == topic {
            slot.asked = 0;
            Plan::Alias(alias)
        } else if slot.topic.is_empty() || slot.asked == hash {
            Plan::Both(alias)
        } else {
            slot.asked = hash;
            Plan::Topic
        }
    }

    /// The PUBLISH of [`Plan::Both`] is on its way.
    pub(crate) fn introduced(&mut self, alias: u16, topic: &str) {
        if let Some(slot) = usize::from(alias).checked_sub(1).and_then(|at| self.slots.get_mut(at)) {
            slot.asked = 0;
            slot.topic.clear();
            slot.topic.push_str(topic);
        }
    }

    fn place(&self, topic: &str) -> (u64, usize) {
        let mut hasher = DefaultHasher::new();
        topic.hash(&mut hasher);
        let hash = hasher.finish().max(1);
        (hash, (hash % self.slots.len().max(1) as u64) as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_is_introduced_once_and_only_one_that_comes_again_takes_its_place() {
        let mut aliases = Aliases::new(1);
        assert_eq!(aliases.plan("first"), Plan::Both(1));
        assert_eq!(aliases.plan("first"), Plan::Both(1), "it was not sent");
        aliases.introduced(1, "first");
        for _ in 0..3 {
            assert_eq!(aliases.plan("first"), Plan::Alias(1));
            assert_eq!(aliases.plan("second"), Plan::Topic, "the first is in use");
        }
        assert_eq!(aliases.plan("third"), Plan::Topic);
        assert_eq!(aliases.plan("second"), Plan::Topic);
        assert_eq!(aliases.plan("second"), Plan::Both(1), "twice, and nothing else between");
        aliases.introduced(1, "second");
        assert_eq!(aliases.plan("second"), Plan::Alias(1));
        assert_eq!(aliases.plan("first"), Plan::Topic);
    }

    #[test]
    fn no_alias_is_above_the_maximum_and_short_topics_have_none() {
        let mut none = Aliases::new(0);
        assert_eq!(none.plan("a topic"), Plan::Topic);
        let mut aliases = Aliases::new(3);
        assert_eq!(aliases.plan("a/b"), Plan::Topic);
        for n in 0..1000 {
            let topic = format!("topic/{n}");
            if let Plan::Both(alias) = aliases.plan(&topic) {
                assert!((1..=3).contains(&alias));
                aliases.introduced(alias, &topic);
                assert_eq!(aliases.plan(&topic), Plan::Alias(alias));
            }
        }
    }
}
