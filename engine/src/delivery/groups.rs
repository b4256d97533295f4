//! Groups of shared subscriptions: who of their connected members holds which message right now.
//!
//! That a group owes a message is state (`state/groups.rs`); who holds it is not. It is a queue of its own for each group: a message that
//! a member has not acknowledged when its connection ends is free again, in its old place; one that was sent with QoS 2 stays with its
//! client until that client's session ends.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use bytestring::ByteString;

use super::hub::{Hub, rank};
use super::inbox::Inbox;
use super::queue::{Queue, Resumed};
use super::worker::{Work, load};
use crate::event::{Epoch, SubscriptionOptions};
use crate::ids::Lsn;
use crate::log::ReadError;

/// A message that a group gave: its record, and the group's subscription.
pub(super) type Shared = (Lsn, ByteString);

/// A connected member of a group.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) inbox: Arc<Inbox>,
    /// The subscription, `$share/<name>/<filter>`.
    pub(super) share: ByteString,
    pub(super) options: SubscriptionOptions,
}

#[derive(Debug, Default)]
struct Group {
    /// What it owes, as the queue of one topic: the subscription.
    leases: Queue,
    /// In the order of their inboxes.
    members: Vec<Arc<Member>>,
    /// True while the worker has been asked to hand out.
    asked: bool,
}

/// What a client that came back finds of its groups.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct ResumedShared {
    /// In flight with it, and given to another member in the meantime.
    pub(super) lost: Vec<Shared>,
    /// Groups with messages that are free again.
    pub(super) free: Vec<ByteString>,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Groups {
    groups: HashMap<ByteString, Group>,
    /// Groups in which a client holds messages, or has given some back.
    known: HashMap<ByteString, BTreeSet<ByteString>>,
}

impl Groups {
    fn group(&mut self, share: &ByteString) -> &mut Group {
        if !self.groups.contains_key(share) {
            self.groups.insert(share.clone(), Group::default());
        }
        self.groups.entry(share.clone()).or_default()
    }

    fn note(&mut self, client: &ByteString, share: &ByteString) {
        let known = match self.known.get_mut(client) {
            Some(known) => known,
            None => self.known.entry(client.clone()).or_default(),
        };
        if !known.contains(share) {
            known.insert(share.clone());
        }
    }

    /// The group owes a message. True when the worker is to be asked: nobody has yet, and there is somebody to hand out to.
    pub(super) fn owe(&mut self, share: &ByteString, lsn: Lsn, pinned_to: Option<ByteString>) -> bool {
        if let Some(client) = &pinned_to {
            self.note(client, share);
        }
        let group = self.group(share);
        group.leases.add(lsn, share.clone(), pinned_to);
        let ask = !group.asked && !group.members.is_empty();
        group.asked |= ask;
        ask
    }

    /// The group owes it no longer.
    pub(super) fn done(&mut self, share: &str, lsn: Lsn) {
        if let Some(group) = self.groups.get_mut(share) {
            group.leases.remove(lsn);
        }
    }

    /// The client has acknowledged it, and the record of that is on its way.
    pub(super) fn settled(&mut self, share: &str, client: &ByteString, lsn: Lsn) {
        if let Some(group) = self.groups.get_mut(share) {
            group.leases.settled(client, &[lsn]);
        }
    }

    /// A member connects, or subscribes anew.
    pub(super) fn join(&mut self, member: Arc<Member>) {
        let members = &mut self.group(&member.share).members;
        match members.binary_search_by_key(&rank(&member.inbox), |m| rank(&m.inbox)) {
            Ok(at) => {
                if let Some(known) = members.get_mut(at) {
                    *known = member;
                }
            }
            Err(at) => members.insert(at, member),
        }
    }

    /// A member disconnects or unsubscribes.
    pub(super) fn leave(&mut self, share: &str, inbox: &Arc<Inbox>) {
        if let Some(group) = self.groups.get_mut(share) {
            group.members.retain(|member| !Arc::ptr_eq(&member.inbox, inbox));
        }
    }

    /// The group's last session has left it. Members that are here already belong to the next one of this name.
    pub(super) fn end(&mut self, share: &str) {
        if self.groups.get(share).is_some_and(|group| group.members.is_empty()) {
            self.groups.remove(share);
        } else if let Some(group) = self.groups.get_mut(share) {
            group.leases = Queue::default();
        }
    }

    /// The worker begins to hand out: who has something for it from here on asks anew.
    fn begin(&mut self, share: &str) {
        if let Some(group) = self.groups.get_mut(share) {
            group.asked = false;
        }
    }

    /// The oldest message that nobody holds, and the next member in turn with room for it.
    fn next(&mut self, share: &str) -> Option<(Lsn, Arc<Member>)> {
        let group = self.groups.get_mut(share)?;
        let lsn = group.leases.first_ready(share)?;
        let count = group.members.len();
        let (tail, head) = group.members.split_at(group.leases.next_turn(count).min(count));
        head.iter().chain(tail).find(|member| member.inbox.has_room()).map(|member| (lsn, Arc::clone(member)))
    }

    /// The member holds the message now. False where somebody else does, or it is gone.
    fn lease(&mut self, member: &Member, lsn: Lsn) -> bool {
        let (client, epoch) = (&member.inbox.client, member.inbox.epoch);
        let leased = self.groups.get_mut(&member.share).is_some_and(|group| group.leases.lease(lsn, client, epoch));
        if leased {
            self.note(client, &member.share);
        }
        leased
    }

    /// These are free again where this connection still holds them. True when there is something to hand out.
    pub(super) fn release(&mut self, share: &str, inbox: &Inbox, leases: &[Lsn]) -> bool {
        let Some(group) = self.groups.get_mut(share) else { return false };
        !group.leases.release(&inbox.client, inbox.epoch, leases, false).is_empty()
    }

    /// The connection is gone: what it held is free again, but what was `sent` with QoS 2. With `remember`, its client may believe that
    /// it still has it in flight. Returns the groups that have something to hand out.
    pub(super) fn release_all(
        &mut self,
        client: &ByteString,
        epoch: Epoch,
        sent: &[Shared],
        remember: bool,
    ) -> Vec<ByteString> {
        let Some(known) = self.known.get(client) else { return Vec::new() };
        let mut free = Vec::new();
        for share in known {
            let Some(group) = self.groups.get_mut(share) else { continue };
            let mut sent: Vec<Lsn> = sent.iter().filter(|(_, of)| of == share).map(|(lsn, _)| *lsn).collect();
            sent.sort_unstable();
            if !group.leases.release_all(client, epoch, &sent, remember).is_empty() {
                free.push(share.clone());
            }
        }
        free
    }

    /// True when a group may know something of the client.
    pub(super) fn knows(&self, client: &str) -> bool {
        self.known.contains_key(client)
    }

    /// The client's session is over: what stayed with it and was not sent is free again. Returns the groups that have something to hand
    /// out.
    pub(super) fn forget(&mut self, client: &ByteString) -> Vec<ByteString> {
        let known = self.known.remove(client).unwrap_or_default();
        let has_more = |share: &ByteString| {
            self.groups.get_mut(share).is_some_and(|group| !group.leases.forget(client).is_empty())
        };
        known.into_iter().filter(has_more).collect()
    }

    /// The client is back and has these in flight.
    pub(super) fn resume(&mut self, client: &ByteString, epoch: Epoch, in_flight: &[Shared]) -> ResumedShared {
        let mut resumed = ResumedShared::default();
        for share in self.known.get(client).into_iter().flatten() {
            let Some(group) = self.groups.get_mut(share) else { continue };
            let own: Vec<Lsn> = in_flight.iter().filter(|(_, of)| of == share).map(|(lsn, _)| *lsn).collect();
            let Resumed { lost, free, .. } = group.leases.resume(client, epoch, &own);
            resumed.lost.extend(lost.into_iter().map(|lsn| (lsn, share.clone())));
            if !free.is_empty() {
                resumed.free.push(share.clone());
            }
        }
        resumed
    }
}

/// Leases the group's messages to connected members with room, in the order of the log, round robin.
pub(super) fn hand_out_group(hub: &Hub, share: &ByteString) {
    hub.groups.lock().begin(share);
    let mut given: Vec<Arc<Inbox>> = Vec::new();
    loop {
        // Asked before the message is read: while nobody has room this costs no disk.
        let next = hub.groups.lock().next(share);
        let Some((lsn, member)) = next else { break };
        let stored = match load(&hub.log, lsn) {
            Ok(Some(stored)) => stored,
            Ok(None) | Err(ReadError::Trimmed { .. }) => {
                tracing::error!(lsn = lsn.0, %share, "a shared subscription owes a message that is in no segment and no residue file; it is passed over");
                hub.groups.lock().done(share, lsn);
                continue;
            }
            Err(error) => {
                tracing::error!(lsn = lsn.0, %share, %error, "a message of a shared subscription can't be read; its group waits, and it is tried again");
                hub.try_again(Work::Group(share.clone()));
                break;
            }
        };
        // The lease is entered first: a message that is in an inbox always has its holder. What has changed since is seen in the next
        // round.
        if !hub.groups.lock().lease(&member, lsn) {
            continue;
        }
        if !member.inbox.lease_shared(lsn, &stored, &member) {
            hub.groups.lock().release(share, &member.inbox, &[lsn]);
            continue;
        }
        if !given.iter().any(|inbox| Arc::ptr_eq(inbox, &member.inbox)) {
            given.push(Arc::clone(&member.inbox));
        }
    }
    given.iter().for_each(|inbox| inbox.wake());
}
