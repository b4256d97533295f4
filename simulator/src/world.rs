//! An engine on a simulated disk, its clients, and the model beside it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytestring::ByteString;
use forebay_engine::clock::SteppedClock;
use forebay_engine::delivery::{Delivery, Mailbox};
use forebay_engine::disk::{Disk, ForgettingDisk};
use forebay_engine::event::{ClientDisconnected, DisconnectReason, Event};
use forebay_engine::rules::{PubsubRule, StartAt};
use forebay_engine::simulation::{ForgettingStore, Manual, RedbStore, StateStore};
use forebay_engine::{Engine, EngineOptions, Lsn, OpenError, OpenReport, Rules, StateSource};

use crate::dice::Dice;
use crate::fault::{Fault, FaultyDisk};
use crate::model::{Known, Model};
use crate::plan::{CLIENTS, Crash, End, Plan, Work};

/// The data folder on the simulated disk.
pub const DATA: &str = "/data";
/// The name of the simulated sink.
pub const SINK: &str = "sink";
/// Steps after which an engine that should have come to rest is said to hang.
const STEPS_MAX: usize = 5_000;

/// Why a schedule does not go on as planned.
#[derive(Debug)]
pub enum Trouble {
    /// A promise is broken.
    Broken(String),
    /// The engine has stopped, as it has to after a disk error or when the power is gone.
    Down(String),
}

/// A promise is broken.
pub fn broken<T>(what: impl Into<String>) -> Result<T, Trouble> {
    Err(Trouble::Broken(what.into()))
}

/// A delivery that a client holds.
#[derive(Clone, Debug)]
pub struct Held {
    /// What it was given.
    pub delivery: Delivery,
    /// QoS 2: the packet id under which it was entered as sent.
    pub packet_id: Option<u16>,
    /// Nothing but a queue had a reason to give it: nobody else may hold it.
    pub leased: bool,
}

/// An open connection.
#[derive(Debug)]
pub struct Connection {
    /// Its mailbox.
    pub mailbox: Mailbox,
    /// Its number.
    pub epoch: u64,
    /// Given and not settled.
    pub held: Vec<Held>,
    /// Given to this connection, and what was applied then.
    pub given: BTreeMap<Lsn, Lsn>,
    /// Retained messages that are to be given to this connection, by record, and the filters that asked for them.
    pub retained_due: BTreeMap<Lsn, BTreeSet<ByteString>>,
    /// The newest message given, by topic.
    pub last_of_topic: BTreeMap<ByteString, Lsn>,
    /// False once a read position was added beside others: its history comes behind what these have had.
    pub ordered: bool,
}

/// A client, as far as it outlives its connections.
#[derive(Debug, Default)]
pub struct Client {
    /// Its connection, while it has one.
    pub connection: Option<Connection>,
    /// What the server's memory still knows to be in flight with it: lost with the process.
    pub parked: Vec<Held>,
}

/// See the module.
pub struct World {
    /// The schedule.
    pub plan: Plan,
    /// The disk.
    pub disk: ForgettingDisk,
    /// The index.
    pub store: ForgettingStore,
    /// The time.
    pub clock: Arc<SteppedClock>,
    /// The engine while it runs. Dropped after the mailboxes.
    running: Option<(Engine, Manual)>,
    /// What is expected.
    pub model: Model,
    /// The clients.
    pub clients: Vec<Client>,
    /// What the sink's database says it has stored.
    pub sink: Lsn,
    /// Cursors as they were seen last: client, filter, the record that made the claim.
    pub cursors: BTreeMap<(ByteString, ByteString, Lsn), Lsn>,
    /// A disk error or the loss of power may strike.
    pub expected: bool,
    /// What happened, line by line, where somebody wants to read it.
    pub trace: Option<Vec<String>>,
    /// Payloads made so far; no two are alike.
    pub payloads: u64,
    fault: Option<Fault>,
}

/// The client's name.
#[must_use]
pub fn name(client: usize) -> ByteString {
    format!("c{client}").into()
}

fn rules() -> Rules {
    let pubsub =
        PubsubRule { filter: "pubsub/#".into(), start: StartAt::Earliest, max_returned: None, time_range: None };
    Rules {
        queue: vec!["queue/#".into()],
        latest: vec!["latest/#".into()],
        pubsub: vec![pubsub],
        publish: vec![("#".into(), 0)],
        ..Rules::default()
    }
}

impl World {
    /// An empty disk and a new engine on it.
    ///
    /// # Errors
    /// Where it does not open.
    pub fn new(plan: Plan, fault: Option<Fault>, trace: bool) -> Result<World, String> {
        let mut world = World {
            disk: ForgettingDisk::new(),
            store: ForgettingStore::new(),
            clock: Arc::new(SteppedClock::new(1_700_000_000_000_000)),
            running: None,
            model: Model::new(),
            clients: (0..CLIENTS).map(|_| Client::default()).collect(),
            sink: Lsn::FIRST,
            cursors: BTreeMap::new(),
            expected: false,
            trace: trace.then(Vec::new),
            payloads: 0,
            fault,
            plan,
        };
        let (engine, manual, _) = world.open(&world.disk, &world.store).map_err(|e| e.to_string())?;
        world.start(engine, manual);
        Ok(world)
    }

    /// Carries the schedule out.
    ///
    /// # Errors
    /// Which promise was broken.
    pub fn run(&mut self) -> Result<(), String> {
        let ops = std::mem::take(&mut self.plan.ops);
        for (op, seed) in &ops {
            let mut dice = Dice::new(*seed);
            self.say(|| format!("{op:?}"));
            let result = self.act(op, &mut dice).and_then(|()| self.look());
            self.settle_trouble(result, &mut dice)?;
        }
        self.plan.ops = ops;
        match self.plan.end {
            End::Flip(seed) => self.flip(&mut Dice::new(seed)),
            End::Drain => {
                let mut dice = Dice::new(self.plan.seed);
                if self.expected {
                    // What was to strike later strikes nobody any more.
                    self.crash(crate::plan::crash(&mut dice), &mut dice)?;
                }
                // What may still strike while all is given is over after a few restarts.
                for _ in 0..20 {
                    match self.drain(&mut dice) {
                        Ok(()) => return Ok(()),
                        Err(trouble) => self.settle_trouble(Err(trouble), &mut dice)?,
                    }
                }
                Err("the engine goes down again and again though nothing strikes it".into())
            }
        }
    }

    /// Brings the engine back where it went down for a reason.
    fn settle_trouble(&mut self, result: Result<(), Trouble>, dice: &mut Dice) -> Result<(), String> {
        match result {
            Ok(()) => Ok(()),
            Err(Trouble::Broken(what)) => Err(what),
            Err(Trouble::Down(why)) if self.expected => {
                self.say(|| format!("down: {why}"));
                let machine = self.disk.is_off() || dice.chance(50);
                self.crash(Crash { machine, ..crate::plan::crash(dice) }, dice)
            }
            Err(Trouble::Down(why)) => Err(format!("the engine stopped though nothing failed: {why}")),
        }
    }

    /// Notes a line of the trace.
    pub fn say(&mut self, line: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            trace.push(line());
        }
    }

    /// The running engine.
    ///
    /// # Errors
    /// There is none.
    pub fn engine(&self) -> Result<&Engine, Trouble> {
        self.running.as_ref().map(|(engine, _)| engine).ok_or_else(|| Trouble::Down("there is no engine".into()))
    }

    fn options(&self) -> EngineOptions {
        let settings = &self.plan.settings;
        let mut options = EngineOptions::new(DATA);
        options.rules = rules();
        options.clock = self.clock.clone();
        options.checkpoint_bytes = settings.checkpoint_bytes;
        options.retention.age = std::time::Duration::from_secs(settings.keep_s);
        options.log.segment_bytes = 64 << 10;
        options.log.record_bytes_max = 32 << 10;
        options.log.tail_cache_bytes = settings.tail_cache_bytes;
        options.log.queue_bytes_max = settings.queue_bytes_max;
        options.log.log_id = Some([7; 16]);
        options
    }

    fn open(&self, disk: &ForgettingDisk, store: &ForgettingStore) -> Result<(Engine, Manual, OpenReport), OpenError> {
        let disk: Arc<dyn Disk> = match self.fault {
            Some(fault) => Arc::new(FaultyDisk::new(disk.clone(), fault)),
            None => Arc::new(disk.clone()),
        };
        let store: Box<dyn StateStore> = if self.plan.settings.real_index {
            Box::new(RedbStore::new(Arc::clone(&disk), Path::new("/data/state/index.redb")))
        } else {
            Box::new(store.clone())
        };
        Engine::open_manual(self.options(), disk, store)
    }

    fn start(&mut self, engine: Engine, manual: Manual) {
        if self.plan.settings.sink {
            engine.hold_for_sinks(&[SINK.to_owned()]);
        }
        self.running = Some((engine, manual));
    }

    /// Lets one of the engine's threads run for a moment. True where it had something to do.
    ///
    /// # Errors
    /// The engine went down, or a promise is broken.
    pub fn work(&mut self, work: Work) -> Result<bool, Trouble> {
        let trims_early = self.fault == Some(Fault::CheckpointAfterTrim);
        let Some((_, manual)) = &mut self.running else { return Ok(false) };
        let busy = match work {
            Work::Write => manual.write(),
            Work::Apply(max) => manual.apply(max).map_err(Trouble::Down)?,
            Work::Keep if trims_early => manual.keep_trimming_first(),
            Work::Keep => manual.keep(),
            Work::Deliver => manual.deliver(),
            Work::Prepare => manual.prepare(),
            Work::Trim => manual.trim(),
        };
        if let Work::Apply(_) = work {
            self.follow()?;
        }
        Ok(busy)
    }

    /// Lets all of them run until nothing is left to do.
    ///
    /// # Errors
    /// As `work`, and where there is no end to it.
    pub fn rest(&mut self) -> Result<(), Trouble> {
        for _ in 0..STEPS_MAX {
            let mut busy = false;
            let all = [Work::Write, Work::Apply(usize::MAX), Work::Keep, Work::Deliver, Work::Prepare, Work::Trim];
            for work in all {
                busy |= self.work(work)?;
            }
            self.look()?;
            if !busy {
                return Ok(());
            }
        }
        broken(format!("no rest after {STEPS_MAX} rounds of all threads"))
    }

    /// Looks whether the engine still runs, and what it has acknowledged.
    ///
    /// # Errors
    /// It does not.
    pub fn look(&mut self) -> Result<(), Trouble> {
        let engine = self.engine()?;
        let (durable, stopped) = (engine.durable_end(), engine.log().stopped_reason());
        self.model.acknowledged = self.model.acknowledged.max(durable);
        match stopped {
            Some(why) => Err(Trouble::Down(why.to_string())),
            None if self.disk.is_off() => Err(Trouble::Down("the power is off".into())),
            None => Ok(()),
        }
    }

    /// Appends events, making room where there is none. `None` where there is none to be had.
    ///
    /// # Errors
    /// The engine went down.
    pub fn append(&mut self, events: &[Event]) -> Result<Option<Lsn>, Trouble> {
        use forebay_engine::log::AppendError;
        for _ in 0..10 {
            match self.engine()?.append(events) {
                Ok(appended) => {
                    for (n, event) in (0..).zip(events) {
                        let known = Known { time_us: appended.first_time_us + n, event: event.clone() };
                        self.model.records.insert(appended.first.plus(n), known);
                    }
                    return Ok(Some(appended.last));
                }
                Err(AppendError::Full { .. }) => drop(self.work(Work::Write)?),
                // A segment could not be prepared; the preparer tries again.
                Err(AppendError::NoSpace { .. }) => {
                    for work in [Work::Write, Work::Prepare, Work::Apply(usize::MAX), Work::Keep, Work::Trim] {
                        self.work(work)?;
                    }
                }
                Err(AppendError::Stopped(why)) => return Err(Trouble::Down(why.to_string())),
                Err(other) => return broken(format!("an append was refused: {other}")),
            }
        }
        Ok(None)
    }

    /// Appends events and lets the threads run, in any order, until they are applied.
    ///
    /// # Errors
    /// The engine went down, or never came to it.
    pub fn append_applied(&mut self, events: &[Event], dice: &mut Dice) -> Result<Lsn, Trouble> {
        let Some(last) = self.append(events)? else {
            let what = "the log has no room, and nothing waits";
            return if self.expected { Err(Trouble::Down(what.into())) } else { broken(what) };
        };
        for n in 0..STEPS_MAX {
            if self.engine()?.applied_end() > last {
                return Ok(last);
            }
            let work = match dice.below(6) {
                _ if n > 40 && n % 2 == 0 => Work::Write,
                _ if n > 40 => Work::Apply(64),
                0 | 1 => Work::Write,
                2 => Work::Keep,
                3 => Work::Deliver,
                _ => Work::Apply(1 + dice.below(20) as usize),
            };
            self.work(work)?;
            self.look()?;
        }
        broken(format!("record {last} was not applied in {STEPS_MAX} steps"))
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
                cancel_will: true,
                expiry_s: None,
                positions: vec![],
            };
            self.append_applied(&[Event::ClientDisconnected(gone)], dice)?;
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
