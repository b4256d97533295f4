//! Clients come and go, with their wills, and QoS 2 deliveries go out.

use std::collections::{BTreeMap, BTreeSet};

use bytestring::ByteString;
use forebay_engine::clock::Clock;
use forebay_engine::delivery::{AttachOptions, Delivery};
use forebay_engine::event::{
    ClientDisconnected, CursorAt, DisconnectReason, Event, Origin, Published, Received, Sent, SessionClosed,
    SessionOpened, SharedSent, Will,
};
use forebay_engine::log::ReadError;
use forebay_engine::{Lsn, Message, QoS};

use crate::dice::Dice;
use crate::plan::{PlannedWill, TOPICS};
use crate::world::{Connection, Held, Trouble, World, broken, name};

impl World {
    /// A client connects. Where there is no room for that it stays away.
    ///
    /// # Errors
    /// The engine went down, or a promise is broken.
    pub fn connect(
        &mut self,
        client: usize,
        clean: bool,
        expiry_s: u32,
        remembers: bool,
        will: Option<Will>,
        dice: &mut Dice,
    ) -> Result<(), Trouble> {
        if self.clients.get(client).is_some_and(|c| c.connection.is_some()) {
            // The older connection is off before the newer one is let in.
            self.leave(client, DisconnectReason::TakenOver, true, dice)?;
        }
        // Who comes back after the end of its session begins a new one.
        self.sweep(dice)?;
        let id = name(client);
        let engine = self.engine()?.clone();
        let view = engine.session(&id);
        let resumed = view.is_some() && !clean;
        let known = self.model.sessions.get(&id).map(|session| session.expiry_s);
        let expiry_s = known.filter(|_| resumed).unwrap_or(expiry_s);
        let epoch = engine.next_epoch();
        let (username, peer) = ("".into(), "".into());
        let opened = SessionOpened { client: id.clone(), epoch, resumed, expiry_s, will, username, peer };
        if self.append_applied(&[Event::SessionOpened(opened)], dice)?.is_none() {
            return Ok(());
        }

        let outbound: BTreeMap<(Lsn, Option<ByteString>), u16> = match self.model.sessions.get(&id) {
            Some(session) if resumed => {
                session.outbound.iter().map(|(id, out)| ((out.lsn, out.share.clone()), *id)).collect()
            }
            _ => BTreeMap::new(),
        };
        let parked = self.clients.get_mut(client).map(|c| std::mem::take(&mut c.parked)).unwrap_or_default();
        let mut held: Vec<Held> = Vec::new();
        for ((lsn, share), packet_id) in &outbound {
            let is_it = |held: &&Held| held.delivery.lsn == *lsn && held.delivery.share == *share;
            let delivery = match parked.iter().find(is_it) {
                Some(held) => held.delivery.clone(),
                None => match self.sent_before(&id, *lsn, share.as_ref())? {
                    Some(delivery) => delivery,
                    None => continue,
                },
            };
            held.push(Held { delivery, packet_id: Some(*packet_id), leased: false });
        }
        let in_memory = parked.into_iter().filter(|held| held.packet_id.is_none());
        held.extend(in_memory.filter(|h| resumed && remembers && h.delivery.qos == QoS::AtLeastOnce));
        let (mut in_flight, mut shared) = (Vec::new(), Vec::new());
        for Held { delivery, .. } in &held {
            match &delivery.share {
                None => in_flight.push(delivery.lsn),
                Some(share) => shared.push((delivery.lsn, share.clone())),
            }
        }
        self.say(|| format!("  {id} resumed {resumed} expiry {expiry_s} in flight {in_flight:?} {shared:?}"));
        let window = self.plan.settings.window;
        let mailbox = engine.attach_shared(&AttachOptions { client: id.clone(), epoch, window, in_flight }, &shared);
        let is_revoked = |held: &Held| match &held.delivery.share {
            None => mailbox.revoked().contains(&held.delivery.lsn),
            Some(share) => mailbox.revoked_shared().contains(&(held.delivery.lsn, share.clone())),
        };
        if let Some(held) = held.iter().find(|h| h.delivery.share.is_some() && h.packet_id.is_some() && is_revoked(h)) {
            return broken(format!("{} was sent to {id} with QoS 2 and is taken from it", held.delivery.lsn));
        }
        held.retain(|held| !is_revoked(held));
        if !mailbox.revoked_shared().is_empty() {
            self.note("revoked by a group");
        }
        let now = self.model.applied;
        let own = held.iter().filter(|held| held.delivery.share.is_none());
        let given: BTreeMap<Lsn, Lsn> = own.map(|held| (held.delivery.lsn, now)).collect();
        let connection = Connection {
            mailbox,
            epoch,
            held,
            given,
            retained_due: BTreeMap::new(),
            last_of_topic: BTreeMap::new(),
            untold: BTreeSet::new(),
            ordered: true,
        };
        if let Some(client) = self.clients.get_mut(client) {
            client.connection = Some(connection);
        }
        Ok(())
    }

    /// A message that is on its way with QoS 2 since before a restart, as the broker loads it. `None` where nobody has it any more: a
    /// policy took it from this client, by a record, before it was known to be in flight; or it was a retained copy whose record had left the
    /// log before it was sent, and another message is retained since. Or its group did not owe it any more when it was sent.
    fn sent_before(
        &self,
        client: &ByteString,
        lsn: Lsn,
        share: Option<&ByteString>,
    ) -> Result<Option<Delivery>, Trouble> {
        let may_be_gone = match share {
            None => self.model.was_retained(lsn) || self.model.lost.contains(&(client.clone(), lsn)),
            Some(share) => self.model.sent_late.contains(&(client.clone(), (share.clone(), lsn))),
        };
        let stored = match self.engine()?.message(lsn) {
            Ok(Some(stored)) => stored,
            Ok(None) => return broken(format!("message {lsn} is in flight and not in the log")),
            Err(ReadError::Trimmed { .. }) if may_be_gone => return Ok(None),
            Err(ReadError::Io { source, .. }) if self.expected => return Err(Trouble::Down(source.to_string())),
            Err(error) => return broken(format!("message {lsn} is in flight: {error}")),
        };
        Ok(Some(Delivery {
            lsn,
            time_us: stored.time_us,
            message: stored.message,
            qos: QoS::ExactlyOnce,
            retain: false,
            identifiers: vec![],
            share: share.cloned(),
        }))
    }

    /// A connection ends; a client that has none stays as it is.
    ///
    /// # Errors
    /// The engine went down, or a promise is broken.
    pub fn leave(
        &mut self,
        client: usize,
        reason: DisconnectReason,
        positions: bool,
        dice: &mut Dice,
    ) -> Result<(), Trouble> {
        let lasting = self.model.sessions.get(&name(client)).is_some_and(|session| session.expiry_s > 0);
        let Some(state) = self.clients.get_mut(client) else { return Ok(()) };
        let Some(connection) = state.connection.take() else { return Ok(()) };
        let positions: Vec<CursorAt> = if positions { connection.mailbox.positions() } else { vec![] };
        let epoch = connection.epoch;
        state.parked = if lasting { connection.held } else { vec![] };
        drop(connection.mailbox);
        let gone = ClientDisconnected {
            client: name(client),
            epoch,
            reason,
            superseded: reason == DisconnectReason::TakenOver,
            cancel_will: reason == DisconnectReason::Normal,
            expiry_s: None,
            positions,
        };
        self.end_connection(gone, dice)
    }

    /// Logs that a connection has ended, with its will where that is due at once, as the broker does.
    ///
    /// # Errors
    /// The engine went down.
    pub fn end_connection(&mut self, gone: ClientDisconnected, dice: &mut Dice) -> Result<(), Trouble> {
        let session = self.model.sessions.get(&gone.client).filter(|session| session.epoch == gone.epoch);
        let will = session.and_then(|s| s.will.clone().filter(|will| will.delay_s.min(s.expiry_s) == 0));
        let will = will.filter(|_| !gone.cancel_will).map(|will| will_event(will, gone.epoch));
        let gone = Event::ClientDisconnected(gone);
        if let Some(will) = will
            && self.append_applied(&[gone.clone(), will], dice)?.is_some()
        {
            return Ok(());
        }
        // Without room for it the will is due in state, and is published when there is.
        self.append_applied(&[gone], dice).map(drop)
    }

    /// A will of this client.
    pub fn will(&mut self, client: usize, planned: PlannedWill) -> Will {
        let message = Message {
            topic: TOPICS.get(planned.topic).copied().unwrap_or("a/x").into(),
            payload: self.payload(40).into(),
            qos: QoS::from_u8(planned.qos).unwrap_or_default(),
            retain: planned.retain,
            publisher: name(client),
            origin: Origin::Will,
            ..Message::default()
        };
        Will { message, delay_s: planned.delay_s }
    }

    /// Publishes the wills and ends the sessions that are due, as the broker does.
    ///
    /// # Errors
    /// Something else is due than should be, or the engine went down.
    pub fn sweep(&mut self, dice: &mut Dice) -> Result<(), Trouble> {
        let now_us = Clock::now_us(&*self.clock);
        let (due, applied) = (self.engine()?.due(now_us), self.engine()?.applied_end());
        let clients: BTreeSet<_> = due.iter().map(|view| view.client.clone()).collect();
        if applied == self.model.applied && clients != self.model.due(now_us) {
            return broken(format!("{clients:?} are due, not {:?}", self.model.due(now_us)));
        }
        for view in due {
            let ends = view.ends_at_us.is_some_and(|end| end <= now_us);
            let will = view.will.as_deref().filter(|_| ends || view.will_due_us.is_some_and(|due| due <= now_us));
            let mut events: Vec<Event> = will.map(|will| will_event(will.clone(), view.epoch)).into_iter().collect();
            if ends {
                events.push(Event::SessionClosed(SessionClosed { client: view.client.clone(), epoch: view.epoch }));
            }
            self.say(|| format!("  due: {} ends {ends} will {}", view.client, will.is_some()));
            self.append_applied(&events, dice)?;
        }
        Ok(())
    }

    /// The client's connection.
    #[must_use]
    pub fn connection(&self, client: usize) -> Option<&Connection> {
        self.clients.get(client)?.connection.as_ref()
    }

    /// Its number.
    #[must_use]
    pub fn epoch(&self, client: usize) -> Option<u64> {
        self.connection(client).map(|connection| connection.epoch)
    }

    /// A QoS 2 delivery is entered as sent before its PUBLISH goes out; later its PUBREC comes.
    ///
    /// # Errors
    /// The engine went down.
    pub fn send(&mut self, client: usize, which: u64, dice: &mut Dice) -> Result<(), Trouble> {
        let id = name(client);
        let used: BTreeSet<u16> =
            self.model.sessions.get(&id).map(|s| s.outbound.keys().copied().collect()).unwrap_or_default();
        let Some(connection) = self.clients.get_mut(client).and_then(|c| c.connection.as_mut()) else { return Ok(()) };
        let pending: BTreeSet<u16> = connection.held.iter().filter_map(|held| held.packet_id).collect();
        let mut exact: Vec<&mut Held> =
            connection.held.iter_mut().filter(|held| held.delivery.qos == QoS::ExactlyOnce).collect();
        let count = exact.len().max(1) as u64;
        let Some(held) = exact.get_mut((which % count) as usize) else { return Ok(()) };
        let event = match held.packet_id {
            Some(packet_id) => Event::Received(Received { client: id, packet_id }),
            None => {
                let free = (1..u16::MAX).find(|id| !used.contains(id) && !pending.contains(id));
                let Some(packet_id) = free else { return Ok(()) };
                held.packet_id = Some(packet_id);
                let lsn = held.delivery.lsn;
                match held.delivery.share.clone() {
                    None => Event::Sent(Sent { client: id, packet_id, lsn }),
                    Some(share) => Event::SharedSent(SharedSent { client: id, packet_id, lsn, share }),
                }
            }
        };
        // Its PUBLISH, or its PUBREL, waits until this is durable.
        let sent = match &event {
            Event::Sent(sent) => Some(sent.packet_id),
            Event::SharedSent(sent) => Some(sent.packet_id),
            _ => None,
        };
        if self.append_applied(&[event], dice)?.is_none()
            && let Some(connection) = self.clients.get_mut(client).and_then(|c| c.connection.as_mut())
        {
            let unsent = connection.held.iter_mut().filter(|held| sent.is_some() && held.packet_id == sent);
            unsent.for_each(|held| held.packet_id = None);
        }
        Ok(())
    }
}

fn will_event(will: Will, epoch: u64) -> Event {
    Event::Published(Published { message: will.message, packet_id: None, epoch })
}
