//! The sink, and the end of a schedule: everybody gets what is owed.

use forebay_engine::event::{Event, QoS, SinkPosition, SubscriptionOptions};
use forebay_engine::log::ReadError;

use crate::dice::Dice;
use crate::world::{SINK, Trouble, World, broken};

impl World {
    /// The sink stores what it has not.
    ///
    /// # Errors
    /// It misses a record, or the engine went down.
    pub fn store_in_sink(&mut self, max: usize, tells: bool) -> Result<(), Trouble> {
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
            // It was passed by: the record of that came before the trim.
            Err(ReadError::Trimmed { first }) if first <= self.model.passed => {
                let before = self.sink;
                self.say(|| format!("  the sink goes on at {first} instead of {before}"));
                self.sink = first;
                return self.store_in_sink(max, tells);
            }
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
        self.make_room(dice)?;
        for client in 0..self.clients.len() {
            if self.epoch(client).is_none() {
                self.connect(client, false, 3600, true, None, dice)?;
            }
        }
        self.subscribe(0, "queue/#", SubscriptionOptions::of_qos(QoS::ExactlyOnce), dice)?;
        for _ in 0..10_000 {
            self.rest()?;
            // Acknowledgements that found no room go with the next ones.
            for client in 0..self.clients.len() {
                self.tell(client, &[], &[])?;
            }
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

    /// There is room again, for everything: the log goes on by itself.
    fn make_room(&mut self, dice: &mut Dice) -> Result<(), Trouble> {
        if self.engine()?.log().no_space().is_some() {
            self.note("room again");
        }
        self.disk.set_capacity(None);
        self.full = false;
        if self.plan.settings.budget.take().is_some() {
            self.close(dice)?;
        }
        self.rest()?;
        match self.engine()?.log().no_space() {
            Some(why) => broken(format!("there is room again, and the log does not see it: {why}")),
            None => self.sweep(dice),
        }
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
        self.check_groups_drained()?;
        self.check_state()
    }
}
