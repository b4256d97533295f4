//! What connections are given: each delivery is compared with what the client is owed.

use forebay_engine::clock::Clock;
use forebay_engine::delivery::Delivery;
use forebay_engine::event::AckOutcome;
use forebay_engine::{Lsn, topic};

use crate::model::Kind;
use crate::plan::Work;
use crate::world::{Connection, Held, Trouble, World, broken, name};

impl World {
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
        let now = Clock::now_us(&*self.clock);
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
                    if !connection.held.iter().any(|held| held.is_own(*stored)) {
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
                let of = delivery.share.as_ref().map(|share| format!(" of {share}")).unwrap_or_default();
                format!("  c{client} takes {} {} {:?}{retain}{of}", delivery.lsn, delivery.message.topic, delivery.qos)
            });
            self.check_delivery(client, delivery)?;
        }
        self.pass_expired(client, &out)?;
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
        if let Some(share) = &delivery.share {
            return self.check_shared(client, delivery, share);
        }
        let reasons: Vec<Kind> = self.model.reasons(&id, lsn).map(|filter| Kind::of(filter)).collect();
        let (now, before) = (self.model.applied, self.connection(client).and_then(|c| c.given.get(&lsn)).copied());
        let again = before.is_some_and(|at| !self.model.may_come_again(&id, lsn, at));
        let Some(connection) = self.clients.get_mut(client).and_then(|c| c.connection.as_mut()) else { return Ok(()) };
        if connection.held.iter().any(|held| held.is_own(lsn)) {
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

    /// What has expired is not sent.
    fn pass_expired(&mut self, client: usize, taken: &[Delivery]) -> Result<(), Trouble> {
        let now_us = Clock::now_us(&*self.clock);
        let expired = taken.iter().filter(|delivery| delivery.message.expired(delivery.time_us, now_us));
        let (mut own, mut shared) = (Vec::new(), Vec::new());
        for delivery in expired {
            match &delivery.share {
                None => own.push((delivery.lsn, None, AckOutcome::Expired)),
                Some(share) => shared.push((delivery.lsn, share.clone(), None, AckOutcome::Expired)),
            }
        }
        if own.is_empty() && shared.is_empty() {
            return Ok(());
        }
        self.say(|| format!("  expired: {own:?} {shared:?}"));
        self.note("expired");
        let settled = self.model.settled.entry(name(client)).or_default();
        settled.extend(own.iter().map(|(lsn, ..)| *lsn));
        if let Some(connection) = self.clients.get_mut(client).and_then(|c| c.connection.as_mut()) {
            connection.held.retain(|held| match &held.delivery.share {
                None => !own.iter().any(|(lsn, ..)| *lsn == held.delivery.lsn),
                Some(share) => !shared.iter().any(|(lsn, of, ..)| *lsn == held.delivery.lsn && of == share),
            });
        }
        self.tell(client, &own, &shared)
    }
}
