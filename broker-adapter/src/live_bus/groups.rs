//! Live messages for shared subscriptions: each to one member that is online, in turn.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytestring::ByteString;
use forebay_engine::event::SubscriptionOptions;
use forebay_engine::{Message, topic};
use parking_lot::RwLock;

use super::LiveInbox;
use super::trie::{Entrant, Trie};

/// The members of shared subscriptions that are online.
#[derive(Debug, Default)]
pub(crate) struct LiveGroups {
    inner: RwLock<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// By subscription, `$share/<name>/<filter>`.
    groups: HashMap<ByteString, Arc<Group>>,
    /// By the filter in it.
    filters: Trie<Arc<Group>>,
    last_id: u64,
}

#[derive(Debug)]
struct Group {
    id: u64,
    members: RwLock<Vec<(Arc<LiveInbox>, SubscriptionOptions)>>,
    turn: AtomicUsize,
}

impl Entrant for Arc<Group> {
    fn id(&self) -> u64 {
        self.id
    }
}

impl LiveGroups {
    /// Adds a member, or replaces its options.
    pub(crate) fn join(&self, share: &ByteString, inbox: &Arc<LiveInbox>, options: SubscriptionOptions) {
        let mut inner = self.inner.write();
        let group = match inner.groups.get(share) {
            Some(group) => Arc::clone(group),
            None => {
                inner.last_id += 1;
                let group =
                    Arc::new(Group { id: inner.last_id, members: RwLock::default(), turn: AtomicUsize::new(0) });
                inner.filters.insert(topic::unshared(share), Arc::clone(&group));
                inner.groups.insert(share.clone(), Arc::clone(&group));
                group
            }
        };
        let mut members = group.members.write();
        match members.iter_mut().find(|(known, _)| known.id() == inbox.id()) {
            Some((_, known)) => *known = options,
            None => members.push((Arc::clone(inbox), options)),
        }
    }

    /// Removes a member; nothing happens where there is none.
    pub(crate) fn leave(&self, share: &ByteString, inbox: &LiveInbox) {
        let mut inner = self.inner.write();
        let Some(group) = inner.groups.get(share).cloned() else { return };
        let mut members = group.members.write();
        members.retain(|(known, _)| known.id() != inbox.id());
        if members.is_empty() {
            inner.groups.remove(share);
            inner.filters.remove(topic::unshared(share), group.id);
        }
    }

    /// Gives the message to one member of each group that matches: the next in turn whose inbox has room. Never waits.
    pub(crate) fn publish(&self, message: &Arc<Message>) {
        let inner = self.inner.read();
        if inner.groups.is_empty() {
            return;
        }
        let mut found = Vec::new();
        inner.filters.matching(&message.topic, &mut found);
        for group in found {
            group.give(message);
        }
    }
}

impl Group {
    fn give(&self, message: &Arc<Message>) {
        let members = self.members.read();
        let first = self.turn.fetch_add(1, Ordering::Relaxed) % members.len().max(1);
        let (tail, head) = members.split_at(first);
        let taken = head.iter().chain(tail).any(|(inbox, options)| inbox.push_shared(message, *options));
        if !taken && let Some((inbox, _)) = head.first() {
            inbox.count_shed();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use forebay_engine::QoS;

    fn message(topic: &str) -> Arc<Message> {
        Arc::new(Message { topic: topic.into(), ..Message::default() })
    }

    fn drained(inbox: &LiveInbox) -> usize {
        std::iter::from_fn(|| inbox.pop()).count()
    }

    #[test]
    fn each_message_goes_to_one_member_in_turn_and_past_those_that_are_full() {
        let groups = LiveGroups::default();
        let options = SubscriptionOptions::of_qos(QoS::AtMostOnce);
        let inboxes = [4, 4, 1].map(|bound| LiveInbox::new("c".into(), bound, 1 << 20));
        let share = ByteString::from("$share/g/a/+");
        for inbox in &inboxes {
            groups.join(&share, inbox, options);
        }
        groups.join(&"$share/other/a/b".into(), &inboxes[0], options);
        groups.publish(&message("b"));
        for _ in 0..3 {
            groups.publish(&message("a/c"));
        }
        assert_eq!(inboxes.each_ref().map(|inbox| drained(inbox)), [1, 1, 1]);
        groups.publish(&message("a/b"));
        assert_eq!(inboxes.iter().map(|inbox| drained(inbox)).sum::<usize>(), 2, "one for each group");
        for _ in 0..20 {
            groups.publish(&message("a/c"));
        }
        assert_eq!(inboxes.each_ref().map(|inbox| drained(inbox)), [4, 4, 1]);
        assert_eq!(inboxes.iter().map(|inbox| inbox.shed()).sum::<u64>(), 11);
        for inbox in &inboxes {
            groups.leave(&share, inbox);
        }
        groups.publish(&message("a/c"));
        assert!(inboxes[0].pop().is_none());
        groups.leave(&"$share/other/a/b".into(), &inboxes[0]);
        assert!(groups.inner.read().groups.is_empty());
    }
}
