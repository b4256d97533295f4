//! Groups of shared subscriptions: each message is with one member at a time, until one has acknowledged it.

use bytestring::ByteString;
use forebay_engine::delivery::{Delivery, SettledShared};
use forebay_engine::event::AckOutcome;
use forebay_engine::state::GroupView;
use forebay_engine::{Lsn, QoS};

use crate::model::Shared;
use crate::world::{Connection, Held, Trouble, World, broken, name};

impl Connection {
    fn holds(&self, (share, lsn): &Shared) -> bool {
        self.held.iter().any(|held| held.delivery.lsn == *lsn && held.delivery.share.as_ref() == Some(share))
    }
}

impl World {
    /// A delivery that a group gave: it owes it, and nobody else has it.
    ///
    /// # Errors
    /// It does not, or somebody has.
    pub fn check_shared(&mut self, client: usize, delivery: &Delivery, share: &ByteString) -> Result<(), Trouble> {
        let (id, lsn) = (name(client), delivery.lsn);
        let shared = (share.clone(), lsn);
        let given = format!("{id} is given {lsn} by {share}");
        if self.model.sessions.get(&id).is_none_or(|session| !session.subscriptions.contains_key(share)) {
            return broken(format!("{given} and does not subscribe to it"));
        }
        if self.acked.contains(&shared) {
            return broken(format!("{given}, and the log has its acknowledgement"));
        }
        if !self.model.owes(&shared) && !self.model.let_go_shared.contains(&shared) {
            return broken(format!("{given}, which does not owe it"));
        }
        if let Some(other) = self.model.sent_to(&shared) {
            return broken(format!("{given}, and it was sent to {other} with QoS 2"));
        }
        for (n, other) in self.clients.iter().enumerate() {
            if other.connection.as_ref().is_some_and(|connection| connection.holds(&shared)) {
                return broken(format!("{given} while c{n} holds it"));
            }
        }
        if delivery.retain {
            return broken(format!("{given} as retained"));
        }
        match self.given_to.insert(shared, client) {
            Some(before) if before != client => self.note("given to another member"),
            _ => {}
        }
        if lsn < self.model.first {
            self.note("carried for a group");
        }
        let held = Held { delivery: delivery.clone(), packet_id: None, leased: false };
        if let Some(connection) = self.clients.get_mut(client).and_then(|c| c.connection.as_mut()) {
            connection.held.push(held);
        }
        Ok(())
    }

    /// A connection tells what is over, and again what the log had no room for. Where the log takes it nobody is given it any more, whatever
    /// becomes of the connection.
    ///
    /// # Errors
    /// There is no engine.
    pub fn tell(
        &mut self,
        client: usize,
        settled: &[(Lsn, Option<u16>, AckOutcome)],
        shared: &[SettledShared],
    ) -> Result<(), Trouble> {
        let log = self.engine()?.log().clone();
        let Some(connection) = self.clients.get_mut(client).and_then(|c| c.connection.as_mut()) else { return Ok(()) };
        let before = log.end();
        connection.mailbox.settle(settled);
        if log.end() > before {
            self.acked.append(&mut connection.untold);
        }
        if shared.is_empty() {
            return Ok(());
        }
        for (lsn, share, ..) in shared {
            self.model.settled_shared.insert((name(client), (share.clone(), *lsn)));
            connection.untold.insert((share.clone(), *lsn));
        }
        let before = log.end();
        connection.mailbox.settle_shared(shared);
        if log.end() > before {
            self.acked.append(&mut connection.untold);
        }
        Ok(())
    }

    /// The groups of the engine's state are the model's.
    ///
    /// # Errors
    /// They are not.
    pub fn check_groups(&self) -> Result<(), Trouble> {
        let size = |lsn: &Lsn| {
            let message = self.model.messages.get(lsn).map(|(_, message)| message);
            message.map_or(0, |message| (message.topic.len() + message.payload.len()) as u64)
        };
        let is_connected = |client: &ByteString| self.model.sessions.get(client).is_some_and(|s| s.connected);
        let expected = self.model.groups.iter().map(|(share, group)| GroupView {
            share: share.clone(),
            members: group.members.iter().map(|client| (client.clone(), is_connected(client))).collect(),
            messages: group.owed.len() as u64,
            bytes: group.owed.iter().map(size).sum(),
            oldest: group.owed.first().copied(),
        });
        let (there, expected) = (self.engine()?.groups(), expected.collect::<Vec<_>>());
        if there == expected { Ok(()) } else { broken(format!("the groups are {there:?}, not {expected:?}")) }
    }

    /// Once everybody has taken what is ready and nothing is left to do, no message of a group waits for a member that has room for it.
    ///
    /// # Errors
    /// One does.
    pub fn check_served(&mut self) -> Result<(), Trouble> {
        // What a disk error has struck is tried again later.
        if self.expected || self.is_short() || self.model.groups.is_empty() {
            return Ok(());
        }
        loop {
            let mut taken = 0;
            for client in 0..self.clients.len() {
                taken += self.take(client, usize::MAX)?;
            }
            if taken == 0 {
                break;
            }
            self.rest()?;
        }
        self.note("groups served");
        for (share, group) in &self.model.groups {
            let Some(lsn) = group.owed.iter().find(|lsn| !self.is_with_somebody(&(share.clone(), **lsn))) else {
                continue;
            };
            for client in (0..self.clients.len()).filter(|client| group.members.contains(&name(*client))) {
                let Some(connection) = self.connection(client) else { continue };
                let held = connection.held.iter().filter(|held| held.delivery.qos > QoS::AtMostOnce).count();
                if held < usize::from(self.plan.settings.window) {
                    return broken(format!(
                        "{share} owes {lsn}, nobody has it, and c{client} with {held} is not given it"
                    ));
                }
            }
        }
        Ok(())
    }

    /// A connection holds the message, or has acknowledged it, or it stays with a session to which it was sent with QoS 2.
    fn is_with_somebody(&self, shared: &Shared) -> bool {
        let mut connections = self.clients.iter().filter_map(|client| client.connection.as_ref());
        connections.any(|connection| connection.holds(shared) || connection.untold.contains(shared))
            || self.acked.contains(shared)
            || self.model.sent_to(shared).is_some()
    }

    /// Every group has a member that takes whatever comes: nothing is left.
    ///
    /// # Errors
    /// Something is.
    pub fn check_groups_drained(&self) -> Result<(), Trouble> {
        match self.model.groups.iter().find(|(_, group)| !group.owed.is_empty()) {
            Some((share, group)) => broken(format!("{share} owes {:?} and its members are not given it", group.owed)),
            None => Ok(()),
        }
    }
}
