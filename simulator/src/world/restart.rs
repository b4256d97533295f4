//! The engine ends, in order or not, and is opened again.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use forebay_engine::disk::{Disk, ForgettingDisk};
use forebay_engine::event::{ClientDisconnected, DisconnectReason};
use forebay_engine::simulation::{ForgettingStore, Manual, RedbStore, StateStore};
use forebay_engine::{Engine, EngineOptions, Lsn, OpenError, OpenReport, StateSource};

use super::{DATA, INDEX, SINK, STEPS_MAX, Trouble, World, broken, rules};
use crate::dice::Dice;
use crate::fault::FaultyDisk;
use crate::plan::{Crash, SEGMENT_BYTES};

impl World {
    fn options(&self) -> EngineOptions {
        let settings = &self.plan.settings;
        let mut options = EngineOptions::new(DATA);
        options.rules = rules();
        options.clock = self.clock.clone();
        options.checkpoint_bytes = settings.checkpoint_bytes;
        options.bounds = settings.bounds;
        options.when_full = settings.when_full;
        options.log.disk_budget = settings.budget;
        options.retention.age = std::time::Duration::from_secs(settings.keep_s);
        options.log.segment_bytes = SEGMENT_BYTES;
        options.log.record_bytes_max = 32 << 10;
        options.log.tail_cache_bytes = settings.tail_cache_bytes;
        options.log.queue_bytes_max = settings.queue_bytes_max;
        options.log.log_id = Some([7; 16]);
        options
    }

    pub(super) fn open(
        &self,
        disk: &ForgettingDisk,
        store: &ForgettingStore,
    ) -> Result<(Engine, Manual, OpenReport), OpenError> {
        let disk: Arc<dyn Disk> = match self.fault {
            Some(fault) => Arc::new(FaultyDisk::new(disk.clone(), fault)),
            None => Arc::new(disk.clone()),
        };
        let store: Box<dyn StateStore> = if self.plan.settings.real_index {
            Box::new(RedbStore::new(Arc::clone(&disk), Path::new(INDEX)))
        } else {
            Box::new(store.clone())
        };
        Engine::open_manual(self.options(), disk, store)
    }

    pub(super) fn start(&mut self, engine: Engine, manual: Manual) {
        if self.plan.settings.sink {
            engine.hold_for_sinks(&[SINK.to_owned()]);
        }
        self.running = Some((engine, manual));
    }

    /// Ends the engine in order, with all that its threads would still do, and opens it again.
    ///
    /// # Errors
    /// As `crash`.
    pub fn close(&mut self, dice: &mut Dice) -> Result<(), Trouble> {
        self.look()?;
        let ends = self.engine()?.log().end();
        for client in &mut self.clients {
            client.connection = None;
            client.parked.clear();
        }
        let after = self.engine()?.log().end().max(ends);
        if let Some((engine, manual)) = self.running.take() {
            let mut followed = Ok(());
            let closed = manual.close(&engine, STEPS_MAX, || {
                if followed.is_ok() {
                    followed = self.follow_in(&engine);
                }
            });
            followed?;
            let durable = engine.durable_end();
            self.model.acknowledged = self.model.acknowledged.max(durable);
            if !closed {
                return broken("closing does not come to an end");
            }
            if durable < after && !self.expected {
                return broken(format!("closed in order, and {durable} to {after} did not become durable"));
            }
            if durable < after {
                self.acked.clear();
            }
        }
        // The process ends with it: whatever could have struck it does not any more.
        self.disk.kill();
        self.expected = false;
        let crash = Crash { machine: false, seed: dice.roll(), again: None, compare: dice.chance(30) };
        self.come_back(crash, dice)
    }

    /// Ends the engine without a word and opens it again, as often as it takes.
    ///
    /// # Errors
    /// Which promise was broken.
    pub fn crash(&mut self, crash: Crash, dice: &mut Dice) -> Result<(), String> {
        let mut crash = crash;
        for _ in 0..30 {
            self.go_down(crash);
            match self.come_back(crash, dice) {
                Ok(()) => return Ok(()),
                Err(Trouble::Broken(what)) => return Err(what),
                Err(Trouble::Down(why)) => {
                    self.say(|| format!("down again: {why}"));
                    crash = Crash { machine: true, seed: dice.roll(), again: None, compare: crash.compare };
                }
            }
        }
        Err("the engine does not come back though nothing strikes it".into())
    }

    fn go_down(&mut self, crash: Crash) {
        if let Some((engine, _)) = &self.running {
            self.model.acknowledged = self.model.acknowledged.max(engine.durable_end());
        }
        // Whatever the engine's parts do as they are dropped, a process that was killed does not do.
        self.disk.power_off_after(0);
        for client in &mut self.clients {
            client.connection = None;
            client.parked.clear();
        }
        self.running = None;
        if crash.machine {
            self.disk.crash(crash.seed);
        } else {
            self.disk.kill();
        }
        self.store.crash(crash.seed.rotate_left(17));
        self.model.let_go.clear();
        self.model.let_go_shared.clear();
        self.acked.clear();
        let index = Path::new(INDEX);
        match self.old_index.take() {
            Some(old) if crash.seed.is_multiple_of(3) && self.disk.bytes(index).is_some() => {
                self.disk.overwrite(index, &old);
                self.note("older redb");
            }
            Some(old) if crash.seed % 3 == 1 => self.old_index = Some(old),
            _ => self.old_index = self.disk.bytes(index),
        }
        self.expected = false;
    }

    fn come_back(&mut self, crash: Crash, dice: &mut Dice) -> Result<(), Trouble> {
        let before = (crash.compare).then(|| (self.disk.copy(), self.store.copy()));
        if let Some(after) = crash.again {
            self.disk.power_off_after(after);
            self.expected = true;
        }
        let (engine, manual, report) = match self.open(&self.disk, &self.store) {
            Ok(opened) => opened,
            Err(error) if self.disk.is_off() => return Err(Trouble::Down(error.to_string())),
            Err(error) => return broken(format!("does not open: {error}")),
        };
        self.say(|| format!("opened from {:?}, {} replayed, end {}", report.state, report.replayed, report.log.next));
        self.start(engine, manual);
        self.check_recovered()?;
        if let Some((disk, _)) = before {
            self.compare_sources(&disk)?;
        }
        self.follow()?;
        self.check_state()?;
        self.end_open_sessions(dice)
    }

    /// State from the index, from checkpoint and log, and from the log alone is the same.
    fn compare_sources(&self, disk: &ForgettingDisk) -> Result<(), Trouble> {
        let (expected, first) = (self.engine()?.state_rows(), self.engine()?.log().first());
        for without_checkpoints in [false, true] {
            let copy = disk.copy();
            copy.set_capacity(None);
            // Recovery of a copy is as good as the first one's: what is there is there.
            for file in copy.list(Path::new("/data/state")).unwrap_or_default() {
                let index = file.extension().is_some_and(|e| e == "redb");
                if (index || without_checkpoints) && copy.remove(&file).is_err() {
                    return broken("a file of the copy can't be removed");
                }
            }
            let (engine, _manual, report) = match self.open(&copy, &ForgettingStore::new()) {
                Ok(opened) => opened,
                Err(OpenError::StateLost { .. }) if without_checkpoints && first > Lsn::FIRST => continue,
                Err(error) => return broken(format!("a copy without its index does not open: {error}")),
            };
            if report.state == StateSource::Index {
                return broken("state came from an index that was removed");
            }
            if engine.state_rows() != expected {
                return broken(format!("state from {:?} is not the state there is", report.state));
            }
        }
        Ok(())
    }

    /// What the broker does first: nobody is connected any more.
    fn end_open_sessions(&mut self, dice: &mut Dice) -> Result<(), Trouble> {
        let mut open: Vec<_> = self.engine()?.sessions().into_iter().filter(|view| view.connected).collect();
        open.sort_by(|a, b| a.client.cmp(&b.client));
        for view in open {
            let gone = ClientDisconnected {
                client: view.client,
                epoch: view.epoch,
                reason: DisconnectReason::ServerDied,
                superseded: false,
                cancel_will: false,
                expiry_s: None,
                positions: vec![],
            };
            self.end_connection(gone, dice)?;
        }
        Ok(())
    }

    /// The files of the data folder.
    #[must_use]
    pub fn files(&self) -> Vec<PathBuf> {
        let folders = ["/data/log", "/data/state"];
        let mut files: Vec<PathBuf> =
            folders.iter().flat_map(|folder| self.disk.list(Path::new(folder)).unwrap_or_default()).collect();
        files.sort();
        files
    }

    /// Puts the engine away, without a crash.
    pub fn stop(&mut self) {
        self.go_down(Crash { machine: false, seed: 0, again: None, compare: false });
    }

    /// Opens the engine once, for a look.
    ///
    /// # Errors
    /// Of opening.
    pub fn open_again(&mut self) -> Result<OpenReport, OpenError> {
        let (engine, manual, report) = self.open(&self.disk, &self.store)?;
        self.start(engine, manual);
        Ok(report)
    }
}
