//! The operations of a schedule, carried out on the engine and noted in the model.

use forebay_engine::disk::{FaultKind, Operation};
use forebay_engine::event::{
    AckOutcome, DisconnectReason, Event, Properties, Published, Released, Subscribed, SubscriptionOptions, Unsubscribed,
};
use forebay_engine::{Message, QoS};

use crate::dice::Dice;
use crate::plan::{FILTERS, Op, TOPICS};
use crate::world::{Trouble, World, name};

impl World {
    /// Carries one operation out. One that does not fit what is there does nothing.
    ///
    /// # Errors
    /// The engine went down, or a promise is broken.
    pub fn act(&mut self, op: &Op, dice: &mut Dice) -> Result<(), Trouble> {
        match op {
            Op::Publish { topic, qos, retain, len, by, packet_id, expiry_s } => {
                let payload = if *retain == Some(false) { Vec::new() } else { self.payload(*len) };
                let message = Message {
                    topic: TOPICS.get(*topic).copied().unwrap_or("a/x").into(),
                    payload: payload.into(),
                    qos: QoS::from_u8(*qos).unwrap_or_default(),
                    retain: retain.is_some(),
                    publisher: name(*by),
                    properties: Properties { expiry_s: *expiry_s, ..Properties::default() },
                    ..Message::default()
                };
                self.publish(message, *packet_id)
            }
            Op::Release { client, packet_id } => {
                self.append(&[Event::Released(Released { client: name(*client), packet_id: *packet_id })]).map(drop)
            }
            Op::Connect { client, clean, expiry_s, remembers, will } => {
                let will = will.map(|planned| self.will(*client, planned));
                self.connect(*client, *clean, *expiry_s, *remembers, will, dice)
            }
            Op::Disconnect { client, positions, lost } => {
                let reason = if *lost { DisconnectReason::ConnectionLost } else { DisconnectReason::Normal };
                self.leave(*client, reason, *positions, dice)
            }
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
            Op::Due => self.sweep(dice),
            Op::Room { free } => {
                self.disk.set_capacity(free.map(|free| self.disk.used_bytes() + free));
                self.full = free.is_some();
                Ok(())
            }
            Op::Sleep { us } => {
                self.clock.advance_us(*us);
                Ok(())
            }
            Op::Work(work) => self.work(*work).map(drop),
            Op::Rest => {
                self.rest()?;
                self.check_bounds()?;
                self.check_state()?;
                if dice.chance(30) { self.check_served() } else { Ok(()) }
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

    /// Bytes that no other message has.
    pub fn payload(&mut self, len: usize) -> Vec<u8> {
        self.payloads += 1;
        let mut payload = self.payloads.to_le_bytes().to_vec();
        payload.resize(len.max(8), (self.payloads % 251) as u8);
        payload
    }

    fn publish(&mut self, message: Message, packet_id: Option<u16>) -> Result<(), Trouble> {
        let epoch = self.model.sessions.get(&message.publisher).map_or(0, |session| session.epoch);
        let packet_id = packet_id.filter(|_| message.qos == QoS::ExactlyOnce);
        let (topic, qos) = (message.topic.clone(), message.qos);
        let at = self.append(&[Event::Published(Published { message, packet_id, epoch })])?;
        self.say(|| format!("  published {topic} {qos:?} as {at:?}"));
        Ok(())
    }

    /// A connected client subscribes.
    ///
    /// # Errors
    /// The engine went down.
    pub fn subscribe(
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

    /// A client settles some of what it holds, `which` and the following.
    ///
    /// # Errors
    /// There is no engine.
    pub fn settle(&mut self, client: usize, which: u64, count: usize) -> Result<(), Trouble> {
        let id = name(client);
        let Some(connection) = self.clients.get_mut(client).and_then(|c| c.connection.as_mut()) else { return Ok(()) };
        let (mut settled, mut shared) = (Vec::new(), Vec::new());
        for _ in 0..count {
            let left = connection.held.len() as u64;
            if left == 0 {
                break;
            }
            let held = connection.held.swap_remove((which % left) as usize);
            let outcome =
                if held.delivery.qos == QoS::AtMostOnce { AckOutcome::Sent } else { AckOutcome::Acknowledged };
            if let Some(share) = held.delivery.share {
                shared.push((held.delivery.lsn, share, held.packet_id, outcome));
                continue;
            }
            self.model.settled.entry(id.clone()).or_default().insert(held.delivery.lsn);
            settled.push((held.delivery.lsn, held.packet_id, outcome));
        }
        self.say(|| {
            let own: Vec<_> = settled.iter().map(|(lsn, id, _)| (*lsn, *id)).collect();
            format!(
                "  {id} settles {own:?} {:?}",
                shared.iter().map(|(lsn, of, id, _)| (*lsn, of, *id)).collect::<Vec<_>>()
            )
        });
        self.tell(client, &settled, &shared)
    }
}
