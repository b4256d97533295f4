//! The operations of a schedule, carried out on the engine and noted in the model.

use std::collections::{BTreeMap, BTreeSet};

use forebay_engine::delivery::{AttachOptions, Delivery};
use forebay_engine::disk::{FaultKind, Operation};
use forebay_engine::event::{
    AckOutcome, ClientDisconnected, CursorAt, DisconnectReason, Event, Published, Received, Released, Sent,
    SessionOpened, SinkPosition, Subscribed, SubscriptionOptions, Unsubscribed,
};
use forebay_engine::log::ReadError;
use forebay_engine::{Lsn, Message, QoS, topic};

use crate::dice::Dice;
use crate::model::Kind;
use crate::plan::{FILTERS, Op, TOPICS, Work};
use crate::world::{Connection, Held, SINK, Trouble, World, broken, name};

impl World {
    /// Carries one operation out. One that does not fit what is there does nothing.
    ///
    /// # Errors
    /// The engine went down, or a promise is broken.
    pub fn act(&mut self, op: &Op, dice: &mut Dice) -> Result<(), Trouble> {
        match op {
            Op::Publish { topic, qos, retain, len, by, packet_id } => {
                self.publish(TOPICS.get(*topic).copied().unwrap_or("a/x"), *qos, *retain, *len, *by, *packet_id)
            }
            Op::Release { client, packet_id } => {
                self.append(&[Event::Released(Released { client: name(*client), packet_id: *packet_id })]).map(drop)
            }
            Op::Connect { client, clean, lasting, remembers } => {
                self.connect(*client, *clean, *lasting, *remembers, dice)
            }
            Op::Disconnect { client, positions } => self.disconnect(*client, *positions, dice),
            Op::Subscribe { client, filter, qos, retain_handling, no_local } => {
                let options = SubscriptionOptions {
                    retain_handling: *retain_handling,
                    no_local: *no_local,
                    ..SubscriptionOptions::of_qos(QoS::from_u8(*qos).unwrap_or_default())
                };
                self.subscribe(*client, FILTERS.get(*filter).copied().unwrap_or("#"), options, dice)
            }
            Op::Unsubscribe { client, filter } => {
                self.unsubscribe(*client, FILTERS.get(*filter).copied().unwrap_or("#"), dice)
            }
            Op::Take { client, max } => self.take(*client, *max).map(drop),
            Op::Send { client, which } => self.send(*client, *which, dice),
            Op::Settle { client, which, count } => self.settle(*client, *which, *count),
            Op::Sink { max, tells } => self.store_in_sink(*max, *tells),
            Op::Sleep { us } => {
                self.clock.advance_us(*us);
                Ok(())
            }
            Op::Work(work) => self.work(*work).map(drop),
            Op::Rest => {
                self.rest()?;
                self.check_state()
            }
            Op::PowerOff { after } => {
                self.disk.power_off_after(*after);
                self.expected = true;
                Ok(())
            }
            Op::DiskError { what, nth, short } => {
                let operation = match what {
                    0 => Operation::Write,
                    1 => Operation::Sync,
                    2 => Operation::SyncDir,
                    _ => Operation::Read,
                };
                let kind = if *short && operation == Operation::Write { FaultKind::Short } else { FaultKind::Io };
                self.disk.inject(forebay_engine::disk::Fault { operation, nth: *nth, kind });
                self.expected = true;
                Ok(())
            }
            Op::IndexError { after } => {
                self.store.fail_after(*after);
                Ok(())
            }
            Op::Crash(crash) => self.crash(*crash, dice).map_err(Trouble::Broken),
            Op::Close => self.close(dice),
        }
    }

    fn publish(
        &mut self,
        topic: &str,
        qos: u8,
        retain: Option<bool>,
        len: usize,
        by: usize,
        packet_id: Option<u16>,
    ) -> Result<(), Trouble> {
        self.payloads += 1;
        let mut payload = self.payloads.to_le_bytes().to_vec();
        payload.resize(len.max(8), (self.payloads % 251) as u8);
        if retain == Some(false) {
            payload.clear();
        }
        let message = Message {
            topic: topic.into(),
            payload: payload.into(),
            qos: QoS::from_u8(qos).unwrap_or_default(),
            retain: retain.is_some(),
            publisher: name(by),
            ..Message::default()
        };
        let epoch = self.model.sessions.get(&message.publisher).map_or(0, |session| session.epoch);
        let packet_id = packet_id.filter(|_| qos == 2);
        let at = self.append(&[Event::Published(Published { message, packet_id, epoch })])?;
        self.say(|| format!("  published {topic} qos {qos} as {at:?}"));
        Ok(())
    }

    fn connect(
        &mut self,
        client: usize,
        clean: bool,
        lasting: bool,
        remembers: bool,
        dice: &mut Dice,
    ) -> Result<(), Trouble> {
        if self.clients.get(client).is_some_and(|c| c.connection.is_some()) {
            // The older connection is off before the newer one is let in.
            self.leave(client, DisconnectReason::TakenOver, true, dice)?;
        }
        let id = name(client);
        let engine = self.engine()?.clone();
        let view = engine.session(&id);
        let resumed = view.is_some() && !clean;
        let expiry_s = if resumed {
            if self.model.sessions.get(&id).is_some_and(|s| s.lasting) { 3600 } else { 0 }
        } else if lasting {
            3600
        } else {
            0
        };
        let epoch = engine.next_epoch();
        let (username, peer) = ("".into(), "".into());
        let opened = SessionOpened { client: id.clone(), epoch, resumed, expiry_s, will: None, username, peer };
        self.append_applied(&[Event::SessionOpened(opened)], dice)?;

        let outbound: BTreeMap<Lsn, u16> = match self.model.sessions.get(&id) {
            Some(session) if resumed => session.outbound.iter().map(|(id, (lsn, _))| (*lsn, *id)).collect(),
            _ => BTreeMap::new(),
        };
        let parked = self.clients.get_mut(client).map(|c| std::mem::take(&mut c.parked)).unwrap_or_default();
        let mut held: Vec<Held> = Vec::new();
        for (lsn, packet_id) in &outbound {
            let delivery = match parked.iter().find(|held| held.delivery.lsn == *lsn) {
                Some(held) => held.delivery.clone(),
                None => self.sent_before(*lsn)?,
            };
            held.push(Held { delivery, packet_id: Some(*packet_id), leased: false });
        }
        let in_memory = parked.into_iter().filter(|held| held.packet_id.is_none());
        held.extend(in_memory.filter(|h| resumed && remembers && h.delivery.qos == QoS::AtLeastOnce));
        let in_flight: Vec<Lsn> = held.iter().map(|held| held.delivery.lsn).collect();
        self.say(|| format!("  {id} resumed {resumed} expiry {expiry_s} in flight {in_flight:?}"));
        let window = self.plan.settings.window;
        let mailbox = engine.attach(&AttachOptions { client: id.clone(), epoch, window, in_flight });
        held.retain(|held| !mailbox.revoked().contains(&held.delivery.lsn));
        let now = self.model.applied;
        let given: BTreeMap<Lsn, Lsn> = held.iter().map(|held| (held.delivery.lsn, now)).collect();
        let connection = Connection {
            mailbox,
            epoch,
            held,
            given,
            retained_due: BTreeMap::new(),
            last_of_topic: BTreeMap::new(),
            ordered: true,
        };
        if let Some(client) = self.clients.get_mut(client) {
            client.connection = Some(connection);
        }
        Ok(())
    }

    /// A message that is on its way with QoS 2 since before a restart, as the broker loads it.
    fn sent_before(&self, lsn: Lsn) -> Result<Delivery, Trouble> {
        let stored = match self.engine()?.message(lsn) {
            Ok(Some(stored)) => stored,
            Ok(None) => return broken(format!("message {lsn} is in flight and not in the log")),
            Err(ReadError::Io { source, .. }) if self.expected => return Err(Trouble::Down(source.to_string())),
            Err(error) => return broken(format!("message {lsn} is in flight: {error}")),
        };
        Ok(Delivery {
            lsn,
            time_us: stored.time_us,
            message: stored.message,
            qos: QoS::ExactlyOnce,
            retain: false,
            identifiers: vec![],
        })
    }

    fn disconnect(&mut self, client: usize, positions: bool, dice: &mut Dice) -> Result<(), Trouble> {
        self.leave(client, DisconnectReason::Normal, positions, dice)
    }

    fn leave(
        &mut self,
        client: usize,
        reason: DisconnectReason,
        positions: bool,
        dice: &mut Dice,
    ) -> Result<(), Trouble> {
        let lasting = self.model.sessions.get(&name(client)).is_some_and(|session| session.lasting);
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
            cancel_will: true,
            expiry_s: None,
            positions,
        };
        self.append_applied(&[Event::ClientDisconnected(gone)], dice).map(drop)
    }

    fn subscribe(
        &mut self,
        client: usize,
        filter: &str,
        options: SubscriptionOptions,
        dice: &mut Dice,
    ) -> Result<(), Trouble> {
        let Some(epoch) = self.epoch(client) else { return Ok(()) };
        let subscribed = Subscribed { client: name(client), epoch, filter: filter.into(), options, by_proxy: false };
        self.append_applied(&[Event::Subscribed(subscribed)], dice).map(drop)
    }

    fn unsubscribe(&mut self, client: usize, filter: &str, dice: &mut Dice) -> Result<(), Trouble> {
        let Some(epoch) = self.epoch(client) else { return Ok(()) };
        let gone = Unsubscribed { client: name(client), epoch, filter: filter.into(), by_proxy: false };
        self.append_applied(&[Event::Unsubscribed(gone)], dice).map(drop)
    }

    fn connection(&self, client: usize) -> Option<&Connection> {
        self.clients.get(client)?.connection.as_ref()
    }

    fn epoch(&self, client: usize) -> Option<u64> {
        self.connection(client).map(|connection| connection.epoch)
    }

    /// What the records that were applied just now mean for connections.
    ///
    /// # Errors
    /// None so far.
    pub fn take_notice(&mut self) -> Result<(), Trouble> {
        let connected = |clients: &mut Vec<crate::world::Client>, id: &str, work: &mut dyn FnMut(&mut Connection)| {
            for (n, client) in clients.iter_mut().enumerate() {
                if name(n) == *id
                    && let Some(connection) = &mut client.connection
                {
                    work(connection);
                }
            }
        };
        let now = forebay_engine::clock::Clock::now_us(&*self.clock);
        for (id, filter, options, new, lsn) in std::mem::take(&mut self.model.subscribed) {
            let wanted = options.retain_handling == 0 || options.retain_handling == 1 && new;
            let mut retained: Vec<Lsn> = Vec::new();
            for (topic, stored) in self.model.retained.iter().filter(|(_, stored)| **stored < lsn) {
                let Some((time_us, message)) = self.model.messages.get(stored) else { continue };
                let own = options.no_local && message.publisher == id;
                if wanted && topic::matches(&filter, topic) && !own && !message.expired(*time_us, now) {
                    retained.push(*stored);
                }
            }
            connected(&mut self.clients, &id, &mut |connection| {
                for stored in &retained {
                    // One that the client has and has not settled does not come again.
                    if !connection.held.iter().any(|held| held.delivery.lsn == *stored) {
                        connection.given.remove(stored);
                        connection.retained_due.entry(*stored).or_default().insert(filter.clone());
                    }
                }
                connection.ordered &= !(new && Kind::of(&filter).is_rule());
            });
        }
        for (id, filter) in std::mem::take(&mut self.model.unsubscribed) {
            connected(&mut self.clients, &id, &mut |connection| {
                // A copy that is still on its way goes only where another subscription has asked for it too.
                connection.retained_due.retain(|_, asked| {
                    asked.remove(&filter);
                    !asked.is_empty()
                });
                connection.ordered &= !Kind::of(&filter).is_rule();
            });
        }
        for id in std::mem::take(&mut self.model.ended) {
            for (n, client) in self.clients.iter_mut().enumerate() {
                if name(n) == id {
                    client.parked.clear();
                }
            }
        }
        Ok(())
    }

    /// Takes what is ready and checks each delivery. Answers how many there were.
    ///
    /// # Errors
    /// One of them is not owed.
    pub fn take(&mut self, client: usize, max: usize) -> Result<usize, Trouble> {
        let mut out = Vec::new();
        let Some(connection) = self.clients.get_mut(client).and_then(|c| c.connection.as_mut()) else { return Ok(0) };
        connection.mailbox.take(max, &mut out);
        // Catching up reads what is durable, applied or not; the model knows what was applied.
        let applied = self.engine()?.applied_end();
        if out.iter().any(|delivery| delivery.lsn >= applied) {
            self.work(Work::Apply(usize::MAX))?;
        }
        for delivery in &out {
            self.say(|| {
                let retain = if delivery.retain { " retained" } else { "" };
                format!("  c{client} takes {} {} {:?}{retain}", delivery.lsn, delivery.message.topic, delivery.qos)
            });
            self.check_delivery(client, delivery)?;
        }
        Ok(out.len())
    }

    fn check_delivery(&mut self, client: usize, delivery: &Delivery) -> Result<(), Trouble> {
        let (id, lsn) = (name(client), delivery.lsn);
        let Some((time_us, message)) = self.model.messages.get(&lsn) else {
            return broken(format!("{id} is given record {lsn}, which is no message that was applied"));
        };
        if *message != *delivery.message || *time_us != delivery.time_us {
            return broken(format!("{id} is given another message than record {lsn} holds"));
        }
        let topic = message.topic.clone();
        let reasons: Vec<Kind> = self.model.reasons(&id, lsn).map(|filter| Kind::of(filter)).collect();
        let (now, before) = (self.model.applied, self.connection(client).and_then(|c| c.given.get(&lsn)).copied());
        let again = before.is_some_and(|at| !self.model.may_come_again(&id, lsn, at));
        let Some(connection) = self.clients.get_mut(client).and_then(|c| c.connection.as_mut()) else { return Ok(()) };
        if connection.held.iter().any(|held| held.delivery.lsn == lsn) {
            return broken(format!("{id} is given {lsn} while it holds it"));
        }
        let retained = connection.retained_due.remove(&lsn).is_some();
        if delivery.retain && !retained {
            return broken(format!("{id} is given {lsn} as retained, which no subscription asked for"));
        }
        if !delivery.retain {
            if reasons.is_empty() && !retained {
                return broken(format!("{id} is given {lsn} ({topic}) and is not owed it"));
            }
            // A queue may give the same message again when it came back.
            if again && !reasons.contains(&Kind::Queue) {
                return broken(format!("{id} is given {lsn} twice on one connection"));
            }
            let in_order = Kind::of(&topic) != Kind::Queue && Kind::of(&topic) != Kind::Latest;
            if in_order {
                let last = connection.last_of_topic.insert(topic.clone(), lsn);
                if connection.ordered && last.is_some_and(|last| last >= lsn) {
                    return broken(format!("{id} is given {lsn} ({topic}) behind {last:?}"));
                }
            }
        }
        connection.given.insert(lsn, now);
        let leased = !delivery.retain && reasons.iter().all(|kind| *kind == Kind::Queue);
        connection.held.push(Held { delivery: delivery.clone(), packet_id: None, leased });
        if leased {
            self.check_holder(client, lsn)?;
        }
        Ok(())
    }

    /// A QoS 2 delivery is entered as sent before its PUBLISH goes out; later its PUBREC comes.
    fn send(&mut self, client: usize, which: u64, dice: &mut Dice) -> Result<(), Trouble> {
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
                Event::Sent(Sent { client: id, packet_id, lsn: held.delivery.lsn })
            }
        };
        // Its PUBLISH, or its PUBREL, waits until this is durable.
        self.append_applied(&[event], dice).map(drop)
    }

    fn settle(&mut self, client: usize, which: u64, count: usize) -> Result<(), Trouble> {
        let id = name(client);
        let Some(connection) = self.clients.get_mut(client).and_then(|c| c.connection.as_mut()) else { return Ok(()) };
        let mut settled = Vec::new();
        for _ in 0..count {
            let left = connection.held.len() as u64;
            if left == 0 {
                break;
            }
            let held = connection.held.swap_remove((which % left) as usize);
            let outcome =
                if held.delivery.qos == QoS::AtMostOnce { AckOutcome::Sent } else { AckOutcome::Acknowledged };
            self.model.settled.entry(id.clone()).or_default().insert(held.delivery.lsn);
            settled.push((held.delivery.lsn, held.packet_id, outcome));
        }
        connection.mailbox.settle(&settled);
        self.say(|| format!("  {id} settles {:?}", settled.iter().map(|(lsn, id, _)| (*lsn, *id)).collect::<Vec<_>>()));
        Ok(())
    }

    fn store_in_sink(&mut self, max: usize, tells: bool) -> Result<(), Trouble> {
        if !self.plan.settings.sink {
            return Ok(());
        }
        let mut records = Vec::new();
        let read = self.engine()?.log().reader(self.sink).and_then(|mut reader| {
            reader.read_batch(max, 1 << 20, &mut records)?;
            Ok(reader.position())
        });
        let position = match read {
            Ok(position) => position,
            Err(ReadError::Io { source, .. }) if self.expected => return Err(Trouble::Down(source.to_string())),
            Err(error) => return broken(format!("the sink can't read on at {}: {error}", self.sink)),
        };
        for record in records {
            if record.lsn != self.sink {
                return broken(format!("the sink misses record {}, {} follows", self.sink, record.lsn));
            }
            let event = Event::decode(record.kind, record.body.clone());
            let known = self.model.records.get(&record.lsn).map(|known| &known.event);
            if known.is_some() && event.as_ref().ok() != known {
                return broken(format!("the sink reads another record {} than was appended", record.lsn));
            }
            self.sink = record.lsn.next();
        }
        self.sink = self.sink.max(position);
        if tells {
            let told = SinkPosition { sink: SINK.into(), next: self.sink };
            self.append(&[Event::SinkPosition(told)])?;
        }
        Ok(())
    }

    /// All that is owed is given, and nothing is left when nobody waits for anything.
    ///
    /// # Errors
    /// Something is missing.
    pub fn drain(&mut self, dice: &mut Dice) -> Result<(), Trouble> {
        self.say(|| "drain".into());
        self.rest()?;
        for client in 0..self.clients.len() {
            if self.epoch(client).is_none() {
                self.connect(client, false, true, true, dice)?;
            }
        }
        self.subscribe(0, "queue/#", SubscriptionOptions::of_qos(QoS::ExactlyOnce), dice)?;
        for _ in 0..10_000 {
            self.rest()?;
            let mut taken = 0;
            for client in 0..self.clients.len() {
                taken += self.take(client, 5)?;
                let held = |world: &World| {
                    world.clients.get(client).and_then(|c| c.connection.as_ref()).map_or(0, |c| c.held.len())
                };
                while held(self) > 0 {
                    self.settle(client, dice.roll(), 3)?;
                    taken += 1;
                }
            }
            if taken == 0 {
                return self.check_drained();
            }
        }
        broken("deliveries come without end")
    }

    fn check_drained(&mut self) -> Result<(), Trouble> {
        self.store_in_sink(usize::MAX, false)?;
        let (sink, end) = (self.sink, self.engine()?.durable_end());
        if self.plan.settings.sink && sink < end {
            return broken(format!("the sink has stored up to {sink} of {end}"));
        }
        self.store_in_sink(0, true)?;
        self.rest()?;
        for client in 0..self.clients.len() {
            let owed = self.owed(client)?;
            if !owed.is_empty() {
                return broken(format!("c{client} is owed {owed:?} and does not get it"));
            }
            let due = self.clients.get(client).and_then(|c| c.connection.as_ref()).map(|c| c.retained_due.clone());
            if let Some(due) = due.filter(|due| !due.is_empty()) {
                return broken(format!("c{client} is owed the retained {due:?} and does not get them"));
            }
        }
        let queued = self.engine()?.queued();
        if queued > 0 {
            return broken(format!("queues owe {queued} messages and there is somebody to take them"));
        }
        self.check_state()
    }
}
