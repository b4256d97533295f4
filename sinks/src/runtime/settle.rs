//! Brings a batch to its end: every operation of it is stored or buried, whatever it takes.

use std::collections::{BTreeMap, HashMap};
use std::time::Instant;

use bytes::Bytes;
use forebay_engine::Lsn;

use super::Shared;
use super::backoff::Admit;
use super::status::SinkState;
use super::worker::{End, Work, Worker};
use crate::dead_letter::DeadLetter;
use crate::metrics::{BATCHES, DEAD_LETTERS, FAILURES, STORED_OPERATIONS, WRITE_SECONDS};
use crate::sink::{Batch, Entry, Kept, Positions, Sink, Verdict, WriteError};

/// A part of a batch that is sent in one call.
struct Chunk<Op> {
    entries: Vec<Entry<Op>>,
    /// Records that are done once this is stored, with their lanes.
    records: Vec<(Lsn, u16)>,
    /// Store the position though nothing else is left to store.
    positions: bool,
}

/// What dead letters need of a batch: the original records, and attempts so far.
struct Context {
    originals: Vec<(Lsn, u8, Bytes)>,
    attempts: HashMap<(Lsn, usize, u32), u32>,
}

impl<S: Sink> Worker<S> {
    /// Stores a batch; returns when each of its records is done.
    pub(crate) async fn settle(&mut self, works: Vec<Work<S::Op>>) -> Result<(), End> {
        let mut context = Context { originals: Vec::with_capacity(works.len()), attempts: HashMap::new() };
        let mut chunk = Chunk { entries: Vec::new(), records: Vec::new(), positions: self.generation.keeps };
        let mut permits = Vec::with_capacity(works.len());
        for work in works {
            if work.lsn != Lsn::NONE {
                context.originals.push((work.lsn, work.kind, work.body));
                chunk.records.push((work.lsn, work.lane));
            }
            chunk.entries.extend(work.entries);
            permits.push(work.permit);
        }
        let mut parts = vec![chunk];
        while let Some(part) = parts.pop() {
            self.part(part, &mut parts, &mut context).await?;
        }
        Ok(())
    }

    /// Sends one part until it is stored, or splits it. Parts that are left are pushed so that the earliest is on top.
    async fn part(
        &mut self,
        mut chunk: Chunk<S::Op>,
        parts: &mut Vec<Chunk<S::Op>>,
        context: &mut Context,
    ) -> Result<(), End> {
        loop {
            self.connected(&mut chunk).await?;
            if chunk.entries.is_empty() && !chunk.positions {
                self.shared.status.stored(0);
                self.done(&chunk, None);
                return Ok(());
            }
            let positions = chunk.positions.then(|| self.positions(&chunk));
            let began = Instant::now();
            let error = match self.send(&chunk, positions.as_ref()).await {
                Some(Ok(())) => {
                    self.stored(&chunk, positions.as_ref(), began);
                    return Ok(());
                }
                Some(Err(error)) => error,
                None => {
                    self.late()?;
                    if chunk.records.len() > 1 {
                        // The outcome is unknown: what the database has of it is dropped before it is cut in two.
                        self.connected(&mut chunk).await?;
                        bisect(chunk, parts);
                        return Ok(());
                    }
                    continue;
                }
            };
            match error {
                WriteError::Items(items) => {
                    self.answered("items");
                    self.items(&mut chunk, items, context).await?;
                }
                WriteError::Whole(error) if chunk.entries.is_empty() => {
                    self.failed("whole", None, format!("position refused: {error}"))?;
                }
                WriteError::Whole(error) if chunk.entries.len() == 1 => {
                    self.answered("whole");
                    let entry = chunk.entries.remove(0);
                    self.bury(&entry, error.to_string(), 1, context).await;
                }
                WriteError::Whole(_) => {
                    self.answered("whole");
                    bisect(chunk, parts);
                    return Ok(());
                }
                WriteError::Disconnected(error) => {
                    self.conn = None;
                    self.failed("disconnected", None, error.to_string())?;
                }
                WriteError::Busy { wait, cause } => self.failed("busy", wait, cause.to_string())?,
            }
        }
    }

    /// Opens the connection where there is none, and drops what the database already has (the outcome of a lost commit).
    async fn connected(&mut self, chunk: &mut Chunk<S::Op>) -> Result<(), End> {
        loop {
            while let Admit::Wait(wait) = self.generation.breaker.admit(Instant::now()) {
                tokio::select! {
                    () = tokio::time::sleep(wait) => {}
                    () = self.over() => return Err(End),
                }
            }
            if self.conn.is_some() {
                return Ok(());
            }
            // Before the database is asked: other workers store meanwhile, and its answer need not know of that.
            let confirmed = self.generation.tracker.held();
            let shared = self.shared.clone();
            let connect = async {
                let mut conn = shared.sink.connect().await?;
                let kept = shared.sink.positions(&mut conn, shared.source.log_id(), &shared.name).await?;
                Ok::<_, WriteError>((conn, kept))
            };
            match tokio::time::timeout(shared.options.request_deadline, connect).await {
                Ok(Ok((conn, kept))) => {
                    self.generation.breaker.success();
                    self.conn = Some(conn);
                    return self.reconcile(&kept, &confirmed, chunk);
                }
                Ok(Err(error)) => self.failed("connect", None, error.to_string())?,
                Err(_) => self.failed("timeout", None, "no answer while connecting".to_owned())?,
            }
        }
    }

    /// `confirmed` is what the database had confirmed before `kept` was asked for: the prefix and each lane.
    fn reconcile(
        &mut self,
        kept: &Kept,
        (prefix, confirmed): &(Lsn, Vec<Lsn>),
        chunk: &mut Chunk<S::Op>,
    ) -> Result<(), End> {
        let positions = match kept {
            Kept::Never => return Ok(()),
            Kept::Nothing => Positions::default(),
            Kept::At(positions) => positions.clone(),
        };
        let lanes: BTreeMap<u16, Lsn> = positions.lanes.iter().copied().collect();
        let held = |lane: u16| lanes.get(&lane).copied().unwrap_or(Lsn::NONE);
        // Before its first write a database has no position at all, and that is no step back.
        let began_empty = *kept == Kept::Nothing && confirmed.iter().all(|lsn| *lsn == Lsn::NONE);
        let behind = (0..).zip(confirmed).any(|(lane, lsn)| held(lane) < *lsn);
        if !began_empty && (behind || positions.prefix < *prefix) {
            let why =
                "the database is behind what it had confirmed (restored or replaced?): beginning again at its position";
            tracing::warn!(sink = self.shared.name, why);
            self.shared.status.error(why.to_owned());
            self.generation.restart.notify_one();
            return Err(End);
        }
        let lane_of: HashMap<Lsn, u16> = chunk.records.iter().copied().collect();
        chunk.entries.retain(|e| lane_of.get(&e.lsn).is_none_or(|lane| e.lsn >= held(*lane)));
        Ok(())
    }

    fn positions(&self, chunk: &Chunk<S::Op>) -> Positions {
        let mut lanes: BTreeMap<u16, Lsn> = BTreeMap::new();
        for (lsn, lane) in &chunk.records {
            let slot = lanes.entry(*lane).or_default();
            *slot = (*slot).max(lsn.next());
        }
        Positions {
            log_id: self.shared.source.log_id(),
            sink: self.shared.name.clone(),
            lanes: lanes.into_iter().collect(),
            prefix: self.generation.tracker.prefix(),
        }
    }

    /// `None` where there is no answer in time.
    async fn send(&mut self, chunk: &Chunk<S::Op>, positions: Option<&Positions>) -> Option<Result<(), WriteError>> {
        let Some(conn) = self.conn.as_mut() else {
            return Some(Err(WriteError::Disconnected("there is no connection".into())));
        };
        let batch = Batch { entries: &chunk.entries, positions };
        tokio::time::timeout(self.shared.options.request_deadline, self.shared.sink.write(conn, batch)).await.ok()
    }

    /// A batch was not answered in time: its connection is not used again, and batches become smaller. It may just have been more than
    /// the database can do within the deadline; sent again as it was, it would never come to an end.
    fn late(&mut self) -> Result<(), End> {
        self.conn = None;
        self.pace.late();
        let deadline = self.shared.options.request_deadline;
        self.failed("timeout", None, format!("no answer within {} s", deadline.as_secs_f32()))
    }

    fn stored(&mut self, chunk: &Chunk<S::Op>, positions: Option<&Positions>, began: Instant) {
        let took = began.elapsed();
        let name = || self.shared.name.clone();
        metrics::counter!(STORED_OPERATIONS, "sink" => name()).increment(chunk.entries.len() as u64);
        metrics::counter!(BATCHES, "sink" => name()).increment(1);
        metrics::histogram!(WRITE_SECONDS, "sink" => name()).record(took.as_secs_f64());
        self.generation.breaker.success();
        self.shared.status.stored(chunk.entries.len());
        let now = self.shared.source.now_us();
        let age = chunk.entries.first().map_or(0, |oldest| now.saturating_sub(oldest.time_us));
        self.pace.stored(chunk.entries.len(), took, std::time::Duration::from_micros(age));
        self.done(chunk, positions);
    }

    fn done(&self, chunk: &Chunk<S::Op>, positions: Option<&Positions>) {
        let lanes = positions.map_or(&[][..], |p| &p.lanes);
        let records = chunk.records.iter().map(|(lsn, _)| *lsn);
        self.generation.tracker.finish(records, lanes, positions.map(|p| p.prefix));
    }

    /// The database answered, if only to refuse: the link is fine.
    fn answered(&self, kind: &'static str) {
        self.generation.breaker.success();
        metrics::counter!(FAILURES, "sink" => self.shared.name.clone(), "kind" => kind).increment(1);
    }

    /// The database is not there or not able: wait. A sink that is stopping does not wait, nor does a generation that ends.
    fn failed(&self, kind: &'static str, wait: Option<std::time::Duration>, why: String) -> Result<(), End> {
        metrics::counter!(FAILURES, "sink" => self.shared.name.clone(), "kind" => kind).increment(1);
        let (until, failures) = self.generation.breaker.failure(Instant::now(), wait);
        if failures.is_power_of_two() {
            tracing::warn!(sink = self.shared.name, kind, failures, why, "not stored yet");
        }
        self.shared.status.error(why.clone());
        self.shared.status.set(SinkState::Waiting { until, why });
        if self.is_over() { Err(End) } else { Ok(()) }
    }

    /// Keeps of a chunk what is to be sent again, and buries what can't be stored.
    async fn items(
        &mut self,
        chunk: &mut Chunk<S::Op>,
        items: Vec<(usize, Verdict)>,
        context: &mut Context,
    ) -> Result<(), End> {
        let atomic = self.shared.sink.atomic();
        let mut verdicts: HashMap<usize, Verdict> = items.into_iter().collect();
        let mut keep = Vec::new();
        let mut again = None;
        for (index, entry) in std::mem::take(&mut chunk.entries).into_iter().enumerate() {
            match verdicts.remove(&index) {
                None if atomic => keep.push(entry),
                None => self.shared.status.stored(1),
                Some(Verdict::Bury(error)) => self.bury(&entry, error.to_string(), 1, context).await,
                Some(Verdict::Retry(error)) => {
                    let attempts = context.attempts.entry((entry.lsn, entry.rule, entry.place)).or_default();
                    *attempts = attempts.saturating_add(1);
                    let attempts = *attempts;
                    if attempts >= self.shared.options.attempts_max {
                        self.bury(&entry, error.to_string(), attempts, context).await;
                    } else {
                        again = Some(error.to_string());
                        keep.push(entry);
                    }
                }
            }
        }
        chunk.entries = keep;
        again.map_or(Ok(()), |why| self.failed("items", None, why))
    }

    async fn bury(&mut self, entry: &Entry<S::Op>, reason: String, attempts: u32, context: &Context) {
        let mut letter = letter(&self.shared, entry.rule, entry.place, entry.lsn, entry.time_us);
        letter.reason = reason;
        letter.statement = self.shared.sink.render(&entry.op);
        letter.attempts = attempts;
        if let Some((_, kind, body)) = context.originals.iter().find(|(lsn, ..)| *lsn == entry.lsn) {
            letter.kind = *kind;
            letter.body = body.clone();
        }
        bury(&self.shared, &letter).await;
    }
}

/// Puts the halves of a chunk on the stack. Records stay whole while there are several; a single record is taken apart operation
/// by operation, without positions but for the last.
fn bisect<Op>(mut chunk: Chunk<Op>, parts: &mut Vec<Chunk<Op>>) {
    if chunk.records.len() > 1 {
        let late_records = chunk.records.split_off(chunk.records.len() / 2);
        let late: std::collections::HashSet<Lsn> = late_records.iter().map(|(lsn, _)| *lsn).collect();
        let (late_entries, entries): (Vec<_>, Vec<_>) = chunk.entries.into_iter().partition(|e| late.contains(&e.lsn));
        parts.push(Chunk { entries: late_entries, records: late_records, positions: chunk.positions });
        parts.push(Chunk { entries, records: chunk.records, positions: chunk.positions });
    } else {
        let rest = chunk.entries.split_off(1);
        parts.push(Chunk { entries: rest, records: chunk.records, positions: chunk.positions });
        parts.push(Chunk { entries: chunk.entries, records: Vec::new(), positions: false });
    }
}

/// A letter about an operation, to be completed.
pub(crate) fn letter<S: Sink>(shared: &Shared<S>, rule: usize, place: u32, lsn: Lsn, time_us: u64) -> DeadLetter {
    let now = shared.source.now_us();
    let rule = shared.plan.rules().get(rule);
    DeadLetter {
        id: 0,
        lsn: lsn.0,
        time_us,
        sink: shared.name.clone(),
        hook: rule.map_or("", |r| r.hook.name()).to_owned(),
        rule: rule.map_or(0, |r| r.number),
        rule_at: rule.map(|r| r.at.to_string()).unwrap_or_default(),
        place,
        reason: String::new(),
        statement: String::new(),
        attempts: 1,
        first_seen_us: now,
        last_seen_us: now,
        kind: 0,
        body: Bytes::new(),
    }
}

/// Buries a letter; while that fails the sink stands still, because going on would lose the record.
pub(crate) async fn bury<S: Sink>(shared: &Shared<S>, letter: &DeadLetter) {
    tracing::warn!(
        sink = shared.name,
        lsn = letter.lsn,
        rule = letter.rule_at,
        reason = letter.reason,
        "to the dead letters"
    );
    while let Err(error) = shared.letters.bury(letter).await {
        super::generation::hold(shared, error.to_string()).await;
    }
    metrics::counter!(DEAD_LETTERS, "sink" => shared.name.clone()).increment(1);
}
