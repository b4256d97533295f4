//! The promises, compared with what the engine says and holds.

use std::collections::{BTreeMap, BTreeSet};

use forebay_engine::event::{Event, Origin};
use forebay_engine::log::{ReadError, Record};
use forebay_engine::{Engine, Lsn, OpenError};

use crate::dice::Dice;
use crate::model::OnItsWay;
use crate::world::{Trouble, World, broken, name};

impl World {
    /// Takes into the model what the engine has applied since.
    ///
    /// # Errors
    /// A record is not what was appended.
    pub fn follow(&mut self) -> Result<(), Trouble> {
        let engine = self.engine()?.clone();
        self.follow_in(&engine)
    }

    /// As `follow`, in this engine.
    ///
    /// # Errors
    /// As `follow`.
    pub fn follow_in(&mut self, engine: &Engine) -> Result<(), Trouble> {
        let end = engine.applied_end();
        if self.model.applied >= end {
            return Ok(());
        }
        self.model.first = engine.log().first();
        let mut reader = match engine.log().reader(self.model.applied) {
            Ok(reader) => reader,
            Err(error) => return broken(format!("records that were applied just now can't be read: {error}")),
        };
        let mut records = Vec::new();
        while reader.position() < end {
            let left = (end.0 - reader.position().0) as usize;
            match reader.read_batch(left, usize::MAX, &mut records) {
                Ok(0) => break,
                Ok(_) => {}
                // The disk may have failed this very read.
                Err(ReadError::Io { source, .. }) if self.expected => return Err(Trouble::Down(source.to_string())),
                Err(error) => return broken(format!("records that were applied can't be read: {error}")),
            }
            for record in records.drain(..) {
                let event = self.check_record(&record).map_err(Trouble::Broken)?;
                self.model.apply(record.lsn, record.time_us, &event).map_err(Trouble::Broken)?;
                match &event {
                    Event::Dropped(e) => self.note(e.reason.as_str()),
                    Event::Published(e) if e.message.origin == Origin::Will => self.note("will"),
                    Event::SessionClosed(_) => self.note("session over"),
                    _ => {}
                }
                for rare in std::mem::take(&mut self.model.notes) {
                    self.note(rare);
                }
            }
        }
        self.model.applied = end;
        self.take_notice()
    }

    /// The record is the one that was appended there, or one that the engine appends itself.
    fn check_record(&self, record: &Record) -> Result<Event, String> {
        let lsn = record.lsn;
        let event = Event::decode(record.kind, record.body.clone()).map_err(|e| format!("record {lsn}: {e}"))?;
        match self.model.records.get(&lsn) {
            Some(known) if known.event != event => Err(format!("record {lsn} is not the one that was appended")),
            Some(known) if known.time_us != record.time_us => Err(format!("record {lsn} has another time than it got")),
            None if !matches!(event, Event::Acked(_) | Event::Positions(_) | Event::Dropped(_)) => {
                Err(format!("record {lsn} was never appended: {event:?}"))
            }
            _ => Ok(event),
        }
    }

    /// After opening: everything acknowledged is there, and nothing else than what was appended.
    ///
    /// # Errors
    /// It is not.
    pub fn check_recovered(&mut self) -> Result<(), Trouble> {
        let engine = self.engine()?.clone();
        let (first, end) = (engine.log().first(), engine.log().end());
        if end < self.model.acknowledged {
            let lost = self.model.acknowledged;
            return broken(format!("records {end} to {lost} were acknowledged and are gone"));
        }
        if self.model.applied < first {
            return broken(format!("trimmed up to {first}, and only {} was ever applied", self.model.applied));
        }
        self.model.records.split_off(&end);
        self.read_all(first, end)?;
        if engine.applied_end() < end {
            return broken(format!("state is at {} after opening, the log at {end}", engine.applied_end()));
        }
        Ok(())
    }

    /// Reads the log from `first` to `end` and compares each record.
    fn read_all(&self, first: Lsn, end: Lsn) -> Result<(), Trouble> {
        let mut reader = match self.engine()?.log().reader(first) {
            Ok(reader) => reader,
            Err(error) => return broken(format!("the log can't be read from its first record: {error}")),
        };
        let (mut records, mut next) = (Vec::new(), first);
        loop {
            match reader.read_batch(256, 1 << 20, &mut records) {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) => return broken(format!("the log can't be read at {next}: {error}")),
            }
            for record in records.drain(..) {
                if record.lsn != next {
                    return broken(format!("record {next} is missing, {} follows", record.lsn));
                }
                self.check_record(&record).map_err(Trouble::Broken)?;
                next = next.next();
            }
        }
        if next != end { broken(format!("the log ends at {end} and gives records up to {next}")) } else { Ok(()) }
    }

    /// State as the model has it.
    ///
    /// # Errors
    /// It is not.
    pub fn check_state(&mut self) -> Result<(), Trouble> {
        let engine = self.engine()?.clone();
        if engine.applied_end() != self.model.applied {
            return Ok(());
        }
        let first = engine.log().first();
        if engine.queued() != self.model.queue.len() {
            return broken(format!("queues owe {} messages, not {}", self.model.queue.len(), engine.queued()));
        }
        if engine.retained_count() != self.model.retained.len() {
            let (there, expected) = (engine.retained_count(), self.model.retained.len());
            return broken(format!("{there} topics have a retained message, not {expected}"));
        }
        for (topic, lsn) in &self.model.retained {
            let stored = engine.retained(topic);
            let expected = self.model.messages.get(lsn);
            let same = stored.as_ref().zip(expected).is_some_and(|(stored, (time_us, message))| {
                stored.lsn == *lsn && stored.time_us == *time_us && *stored.message == *message
            });
            if !same {
                return broken(format!("the retained message of {topic} is not its last write, record {lsn}"));
            }
        }
        if engine.sink_position(crate::world::SINK) != self.model.sink {
            return broken("the sink's position is not what it told last");
        }
        let gaps: BTreeMap<_, _> = engine.gaps().into_iter().map(|(owner, gap)| (owner, gap.total)).collect();
        if gaps != self.model.gaps {
            return broken(format!("what was lost is {gaps:?}, not {:?}", self.model.gaps));
        }
        self.check_sessions()?;
        self.check_groups()?;
        for (client, filter, cursor) in engine.cursors() {
            let Some(claim) = self.model.claims.get(&(client.clone(), filter.clone())) else {
                return broken(format!("{client} has a cursor for {filter} without a subscription"));
            };
            let key = (client.clone(), filter.clone(), claim.made);
            let before = self.cursors.insert(key, cursor.next);
            if before.is_some_and(|before| before > cursor.next) {
                return broken(format!("{client}'s cursor for {filter} moved back to {}", cursor.next));
            }
            if let Some(lsn) = self.model.passed_over(&client, &filter, cursor.next, first) {
                let next = cursor.next;
                return broken(format!("{client}'s cursor for {filter} is at {next}; {lsn} was never settled"));
            }
            if let Some(lsn) = cursor.acked().find(|lsn| !self.model.has_settled(&client, *lsn)) {
                return broken(format!("{client}'s cursor for {filter} has {lsn} as done; it was never settled"));
            }
        }
        Ok(())
    }

    fn check_sessions(&self) -> Result<(), Trouble> {
        let engine = self.engine()?;
        for client in (0..self.clients.len()).map(name) {
            let (view, expected) = match (engine.session(&client), self.model.sessions.get(&client)) {
                (None, None) => continue,
                (Some(view), Some(expected)) => (view, expected),
                (view, _) => {
                    let there = if view.is_some() { "a" } else { "no" };
                    return broken(format!("{client} has {there} session"));
                }
            };
            let outbound = view.outbound.iter().map(|out| {
                (out.packet_id, OnItsWay { lsn: out.lsn, received: out.received, share: out.share.clone() })
            });
            let same = view.epoch == expected.epoch
                && view.connected == expected.connected
                && view.expiry_s == expected.expiry_s
                && view.ends_at_us == expected.ends_at_us
                && view.will.as_deref() == expected.will.as_ref()
                && view.will_due_us == expected.will_due_us
                && view.subscriptions == expected.subscriptions
                && view.received.iter().eq(&expected.received)
                && outbound.eq(expected.outbound.iter().map(|(id, out)| (*id, out.clone())));
            if !same {
                return broken(format!("{client}'s session is {view:?}, not {expected:?}"));
            }
        }
        Ok(())
    }

    /// A bit flips while nothing runs: it is noticed and named, or changes nothing that anybody reads.
    ///
    /// # Errors
    /// It went unnoticed.
    pub fn flip(&mut self, dice: &mut Dice) -> Result<(), String> {
        if self.running_log_end().is_some_and(|end| end > self.model.acknowledged) {
            let _ = self.rest();
        }
        self.disk.set_capacity(None);
        self.stop();
        let files: Vec<_> = self.files().into_iter().filter(|f| f.extension().is_some_and(|e| e != "redb")).collect();
        let Some(file) = files.get(dice.below(files.len() as u64) as usize) else { return Ok(()) };
        let Some(mut bytes) = self.disk.bytes(file).filter(|bytes| !bytes.is_empty()) else { return Ok(()) };
        let (at, bit) = (dice.below(bytes.len() as u64) as usize, dice.below(8));
        if let Some(byte) = bytes.get_mut(at) {
            *byte ^= 1 << bit;
        }
        self.disk.overwrite(file, &bytes);
        self.say(|| format!("flip bit {bit} of byte {at} in {}", file.display()));
        match self.open_again() {
            Err(OpenError::Log(error)) if error.to_string().contains("/data/") => return Ok(()),
            Err(OpenError::Read(error)) if error.to_string().contains("/data/") => return Ok(()),
            Err(OpenError::Checkpoint(error)) if error.to_string().contains("/data/") => return Ok(()),
            Err(OpenError::StateLost { .. }) => return Ok(()),
            Err(error) => return Err(format!("a flipped bit in {} is told as: {error}", file.display())),
            // In the last group it can't be told from a torn write: that is cut, and reported.
            Ok(report) if report.log.cut_bytes > 0 => return Ok(()),
            Ok(_) => {}
        }
        match self.read_until_damage() {
            Ok(()) => Ok(()),
            Err(Trouble::Broken(what) | Trouble::Down(what)) => {
                Err(format!("a flipped bit in {} at {at}: {what}", file.display()))
            }
        }
    }

    fn running_log_end(&self) -> Option<Lsn> {
        self.engine().ok().map(|engine| engine.log().end())
    }

    /// Every record up to the first damage is right and in its place, and damage names a file.
    fn read_until_damage(&mut self) -> Result<(), Trouble> {
        let log = self.engine()?.log().clone();
        let (mut records, mut next) = (Vec::new(), log.first());
        let Ok(mut reader) = log.reader(next) else { return broken("the first record can't be read from") };
        loop {
            match reader.read_batch(16, 1 << 20, &mut records) {
                Ok(0) => break,
                Ok(_) => {}
                Err(ReadError::Corrupt { .. }) => return Ok(()),
                Err(error) => return broken(format!("damage is told as: {error}")),
            }
            for record in records.drain(..) {
                if record.lsn != next {
                    return broken(format!("record {next} was skipped without a word"));
                }
                self.check_record(&record).map_err(Trouble::Broken)?;
                next = next.next();
            }
        }
        if next < self.model.acknowledged {
            return broken(format!(
                "the log ends at {next} without a word, {} was acknowledged",
                self.model.acknowledged
            ));
        }
        Ok(())
    }

    /// Queues and groups are within their bounds when nothing is left to be done.
    ///
    /// # Errors
    /// One is not.
    pub fn check_bounds(&self) -> Result<(), Trouble> {
        match self.model.queue_beyond_bounds() {
            Some((topic, owed)) if !self.is_short() => {
                broken(format!("{topic} owes {owed} messages, beyond the bounds"))
            }
            _ => Ok(()),
        }
    }

    /// Nobody else holds a queue message that is given to `client`.
    ///
    /// # Errors
    /// Somebody does.
    pub fn check_holder(&self, client: usize, lsn: Lsn) -> Result<(), Trouble> {
        for (other, state) in self.clients.iter().enumerate().filter(|(other, _)| *other != client) {
            let mut held = state.connection.iter().flat_map(|connection| &connection.held);
            if held.any(|held| held.is_own(lsn) && held.leased) {
                return broken(format!("queue message {lsn} is given to c{client} while c{other} holds it"));
            }
        }
        Ok(())
    }

    /// What a client is owed as things are.
    ///
    /// # Errors
    /// There is no engine.
    pub fn owed(&self, client: usize) -> Result<BTreeSet<Lsn>, Trouble> {
        Ok(self.model.owed(&name(client), self.engine()?.log().first()))
    }
}
