//! Where the groups of shared subscriptions meet records and connections: the hub's part of them.

use std::sync::Arc;

use bytestring::ByteString;

use super::groups::{Member, ResumedShared, Shared};
use super::hub::Hub;
use super::inbox::Inbox;
use super::worker::{Work, load};
use crate::event::{Epoch, SubscriptionOptions};
use crate::ids::Lsn;
use crate::state::Left;

impl Hub {
    /// These groups owe a message.
    pub(crate) fn shared(&self, lsn: Lsn, shares: &[ByteString]) {
        for share in shares {
            let ask = self.groups.lock().owe(share, lsn, None);
            if ask {
                self.send(Work::Group(share.clone()));
            }
        }
    }

    /// Groups owe these no longer.
    pub(crate) fn unshared(&self, done: &[(ByteString, Lsn)]) {
        let mut groups = self.groups.lock();
        for (share, lsn) in done {
            groups.done(share, *lsn);
        }
    }

    /// A connected client subscribes, or is back with its subscriptions.
    pub(super) fn register_shared(&self, inbox: &Arc<Inbox>, share: &ByteString, options: SubscriptionOptions) {
        self.groups.lock().join(Arc::new(Member { inbox: Arc::clone(inbox), share: share.clone(), options }));
        inbox.state.lock().add_share(share);
    }

    /// A client has unsubscribed; `ended` when it was the group's last member.
    pub(super) fn left_group(&self, share: &ByteString, inbox: Option<&Arc<Inbox>>, ended: bool) {
        if let Some(inbox) = inbox {
            self.groups.lock().leave(share, inbox);
            let leases = inbox.state.lock().remove_share(share);
            if self.groups.lock().release(share, inbox, &leases) && !ended {
                self.send(Work::Group(share.clone()));
            }
        }
        if ended {
            self.groups.lock().end(share);
        }
        if let Some(inbox) = inbox {
            self.after_change(inbox);
        }
    }

    /// A connection of a session that goes on has ended: what its groups gave it with QoS 2 and was not recorded as sent is free again.
    pub(crate) fn disconnected(&self, client: &ByteString, epoch: Epoch) {
        if !self.groups.lock().knows(client) {
            return;
        }
        let sent: Vec<(Lsn, ByteString)> = {
            let state = self.state.read();
            let outbound = state.sessions.get(client).into_iter().flat_map(|session| session.outbound.values());
            outbound.filter_map(|out| out.share.clone().map(|share| (out.lsn, share))).collect()
        };
        let free = self.groups.lock().release_all(client, epoch, &sent, true);
        self.hand_out_groups(free);
    }

    fn hand_out_groups(&self, shares: Vec<ByteString>) {
        for share in shares {
            self.send(Work::Group(share));
        }
    }

    /// What groups gave an earlier connection of the session: it holds it again, but for what others were given meanwhile (the answer).
    pub(super) fn resume_shared(&self, inbox: &Inbox, in_flight: &[(Lsn, ByteString)]) -> Vec<(Lsn, ByteString)> {
        let ResumedShared { lost, free } = self.groups.lock().resume(&inbox.client, inbox.epoch, in_flight);
        for (lsn, share) in in_flight.iter().filter(|shared| !lost.contains(shared)) {
            let stored = load(&self.log, *lsn).unwrap_or_else(|error| {
                tracing::error!(client = %inbox.client, lsn = lsn.0, %share, %error, "a message in flight can't be read; its acknowledgement will lack its topic");
                None
            });
            inbox.hold_shared(*lsn, share, stored);
        }
        self.hand_out_groups(free);
        lost
    }

    /// A session is over: what its groups lost with it, and those that ended.
    pub(super) fn left_groups(&self, client: &ByteString, left: &Left) {
        self.unshared(&left.lost);
        let free = {
            let mut groups = self.groups.lock();
            left.ended.iter().for_each(|share| groups.end(share));
            groups.forget(client)
        };
        self.hand_out_groups(free);
    }

    /// A connection is gone, with these subscriptions and with these messages handed out with QoS 2: they are freed, where they were not
    /// sent, by the record of its end. That is so for clean sessions too.
    pub(super) fn leave_groups(&self, inbox: &Arc<Inbox>, shares: &[ByteString], sent: &[Shared], remember: bool) {
        let free = {
            let mut groups = self.groups.lock();
            shares.iter().for_each(|share| groups.leave(share, inbox));
            groups.release_all(&inbox.client, inbox.epoch, sent, remember)
        };
        self.hand_out_groups(free);
    }
}
