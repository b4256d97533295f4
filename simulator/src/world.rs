//! An engine on a simulated disk, its clients, and the model beside it.

mod restart;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytestring::ByteString;
use forebay_engine::clock::SteppedClock;
use forebay_engine::delivery::{Delivery, Mailbox};
use forebay_engine::disk::ForgettingDisk;
use forebay_engine::event::Event;
use forebay_engine::rules::{PubsubRule, StartAt};
use forebay_engine::simulation::{ForgettingStore, Manual};
use forebay_engine::{Engine, Lsn, Rules};

use crate::dice::Dice;
use crate::fault::Fault;
use crate::model::{Known, Model, Shared};
use crate::plan::{CLIENTS, Crash, End, Plan, Work};

/// The data folder on the simulated disk.
pub const DATA: &str = "/data";
/// The real index's file.
const INDEX: &str = "/data/state/index.redb";
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

impl Held {
    /// True for this message, where it is no group's.
    #[must_use]
    pub fn is_own(&self, lsn: Lsn) -> bool {
        self.delivery.lsn == lsn && self.delivery.share.is_none()
    }
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
    /// What groups gave it, settled, while the log had no room for that.
    pub untold: BTreeSet<Shared>,
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
    /// What groups gave, with an acknowledgement that the log has taken since the process began.
    pub acked: BTreeSet<Shared>,
    /// The client that a group gave a message to last.
    pub given_to: BTreeMap<Shared, usize>,
    /// Cursors as they were seen last: client, filter, the record that made the claim.
    pub cursors: BTreeMap<(ByteString, ByteString, Lsn), Lsn>,
    /// A disk error or the loss of power may strike.
    pub expected: bool,
    /// How often what is rare has happened: schedules that never come to it try nothing.
    pub seen: BTreeMap<&'static str, u64>,
    /// What happened, line by line, where somebody wants to read it.
    pub trace: Option<Vec<String>>,
    /// The disk has no more than a few free bytes.
    pub full: bool,
    /// The index as it once was: it may come back like this.
    old_index: Option<Vec<u8>>,
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
            model: Model::new(plan.settings.bounds, plan.settings.when_full),
            clients: (0..CLIENTS).map(|_| Client::default()).collect(),
            sink: Lsn::FIRST,
            acked: BTreeSet::new(),
            given_to: BTreeMap::new(),
            cursors: BTreeMap::new(),
            expected: false,
            seen: BTreeMap::new(),
            trace: trace.then(Vec::new),
            full: false,
            old_index: None,
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

    /// Counts something that is rare.
    pub fn note(&mut self, what: &'static str) {
        *self.seen.entry(what).or_default() += 1;
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
            Work::Index => manual.index(),
        };
        if let Work::Apply(_) = work {
            self.follow()?;
        }
        if matches!(work, Work::Index) && busy {
            self.note("indexed");
        }
        Ok(busy)
    }

    /// Lets all of them run until nothing is left to do.
    ///
    /// # Errors
    /// As `work`, and where there is no end to it.
    pub fn rest(&mut self) -> Result<(), Trouble> {
        for n in 0..STEPS_MAX {
            let mut busy = false;
            let all = [Work::Write, Work::Apply(usize::MAX), Work::Keep, Work::Deliver, Work::Prepare, Work::Trim];
            for work in all.into_iter().chain([Work::Index]) {
                busy |= self.work(work)?;
            }
            self.look()?;
            // Without room it tries again and again.
            if !busy || n > 50 && self.is_short() {
                return Ok(());
            }
        }
        broken(format!("no rest after {STEPS_MAX} rounds of all threads"))
    }

    /// True where there may be no room for what is new.
    #[must_use]
    pub fn is_short(&self) -> bool {
        self.full || self.plan.settings.budget.is_some()
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
        for _ in 0..if self.is_short() { 3 } else { 10 } {
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
                    self.note("no room");
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

    /// Appends events and lets the threads run, in any order, until they are applied. `None` where there is no room for them, and no
    /// wonder.
    ///
    /// # Errors
    /// The engine went down, or never came to it.
    pub fn append_applied(&mut self, events: &[Event], dice: &mut Dice) -> Result<Option<Lsn>, Trouble> {
        let Some(last) = self.append(events)? else {
            if self.is_short() {
                self.say(|| "  refused: no room".into());
                return Ok(None);
            }
            let what = "the log has no room, and nothing waits";
            return if self.expected { Err(Trouble::Down(what.into())) } else { broken(what) };
        };
        for n in 0..STEPS_MAX {
            if self.engine()?.applied_end() > last {
                return Ok(Some(last));
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
}
