//! The groups of shared subscriptions: who belongs to them, and what they owe until one member has acknowledged it.

use std::collections::BTreeSet;

use bytestring::ByteString;
use forebay_engine::event::{Acked, DropOwner, QoS, SharedSent};
use forebay_engine::{Lsn, Message, topic};

use super::{Model, OnItsWay};

/// A group, from its first member to its last.
#[derive(Clone, Debug, Default)]
pub struct Group {
    /// Clients whose sessions subscribe.
    pub members: BTreeSet<ByteString>,
    /// What it owes.
    pub owed: BTreeSet<Lsn>,
}

/// A message of a group's: the shared subscription, `$share/<name>/<filter>`, and the record.
pub type Shared = (ByteString, Lsn);

impl Model {
    /// The group owes the message.
    #[must_use]
    pub fn owes(&self, (share, lsn): &Shared) -> bool {
        self.groups.get(share).is_some_and(|group| group.owed.contains(lsn))
    }

    /// The client to which the group's message was sent with QoS 2, and that has not confirmed it.
    #[must_use]
    pub fn sent_to(&self, (share, lsn): &Shared) -> Option<&ByteString> {
        let has = |out: &OnItsWay| out.share.as_ref() == Some(share) && out.lsn == *lsn;
        self.sessions.iter().find(|(_, session)| session.outbound.values().any(has)).map(|(client, _)| client)
    }

    pub(super) fn join(&mut self, share: &ByteString, client: &ByteString) {
        self.groups.entry(share.clone()).or_default().members.insert(client.clone());
    }

    /// The group ends with its last member.
    pub(super) fn leave(&mut self, share: &ByteString, client: &ByteString) {
        let Some(group) = self.groups.get_mut(share) else { return };
        group.members.remove(client);
        if group.members.is_empty() {
            self.groups.remove(share);
            self.gaps.remove(&DropOwner::Group(share.clone()));
        }
    }

    /// Groups owe what is published with QoS 1 or 2 while they are there.
    pub(super) fn share(&mut self, lsn: Lsn, message: &Message) {
        if message.qos == QoS::AtMostOnce {
            return;
        }
        for (share, group) in &mut self.groups {
            if topic::matches(topic::unshared(share), &message.topic) {
                group.owed.insert(lsn);
            }
        }
    }

    pub(super) fn shared_sent(&mut self, e: &SharedSent) {
        if !self.owes(&(e.share.clone(), e.lsn)) {
            self.sent_late.insert((e.client.clone(), (e.share.clone(), e.lsn)));
        }
        if let Some(session) = self.sessions.get_mut(&e.client) {
            let out = OnItsWay { lsn: e.lsn, received: false, share: Some(e.share.clone()) };
            session.outbound.insert(e.packet_id, out);
        }
    }

    /// A member's acknowledgement is the group's.
    pub(super) fn shared_acked(&mut self, at: Lsn, share: &ByteString, e: &Acked) -> Result<(), String> {
        let shared = (share.clone(), e.lsn);
        if !self.settled_shared.contains(&(e.client.clone(), shared)) {
            return Err(format!("record {at} says that {} settled {} of {share}, and it did not", e.client, e.lsn));
        }
        if let Some(group) = self.groups.get_mut(share) {
            group.owed.remove(&e.lsn);
        }
        Ok(())
    }

    /// What was sent to a session with QoS 2 goes with it: no other member is given it, and what was not confirmed is counted.
    pub(super) fn lose_sent(&mut self, outbound: impl Iterator<Item = OnItsWay>) {
        for out in outbound {
            let Some(share) = out.share else { continue };
            let owed = self.groups.get_mut(&share).is_some_and(|group| group.owed.remove(&out.lsn));
            if owed && !out.received {
                self.notes.push("session_ended_qos2");
                *self.gaps.entry(DropOwner::Group(share)).or_default() += 1;
            }
        }
    }
}
