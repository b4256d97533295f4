//! A log full of messages, and sinks that read it.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use forebay_engine::event::Published;
use forebay_engine::{Engine, EngineOptions, Event, Message, QoS};
use forebay_sinks::dead_letter::{LetterStore, MemoryLetters};
use forebay_sinks::rule::{RuleSet, parse_conf};
use forebay_sinks::runtime::RuntimeOptions;
use forebay_sinks::source::EngineSource;
use forebay_sinks::{DatabaseOptions, Sinks, SinksOptions};

use super::rows::{Rows, SENDER};
use crate::cpu::process_ms;

/// How long a drain may take.
const PATIENCE: Duration = Duration::from_secs(600);

/// A log whose messages wait for a sink. It keeps them, whatever sinks have stored.
#[derive(Debug)]
pub struct Backlog {
    engine: Engine,
    log_id: u64,
    rows: Rows,
    /// Each turn's sink has a name of its own: the log knows how far the others came.
    turns: AtomicU64,
}

/// What a drain took.
#[derive(Clone, Copy, Debug, Default)]
pub struct Draining {
    /// Messages.
    pub messages: u64,
    /// From the start of the sink, its connections included.
    pub seconds: f64,
    /// Processor time of this process, ms.
    pub cpu_ms: f64,
}

impl Draining {
    /// Messages a second.
    #[must_use]
    pub fn rate(&self) -> f64 {
        self.messages as f64 / self.seconds
    }
}

impl Backlog {
    /// Writes a log in an empty folder.
    ///
    /// # Errors
    /// Where the log takes no records.
    pub async fn fill(dir: &Path, rows: Rows) -> Result<Backlog> {
        let backlog = Backlog::empty(dir, rows)?;
        let engine = &backlog.engine;
        let mut last = None;
        let mut events = Vec::with_capacity(1_000);
        for n in 0..rows.messages {
            let message = Message {
                topic: rows.topic(n).into(),
                payload: rows.payload(n).into_bytes().into(),
                qos: QoS::AtLeastOnce,
                publisher: SENDER.into(),
                ..Message::default()
            };
            events.push(Event::Published(Published { message, packet_id: None, epoch: 0 }));
            if events.len() == events.capacity() || n + 1 == rows.messages {
                last = Some(engine.append_wait(&events).await?.last);
                events.clear();
            }
        }
        engine.applied(last.context("a log without messages")?).await?;
        Ok(backlog)
    }

    /// A log without messages, for such rows.
    ///
    /// # Errors
    /// Where it can't be made.
    pub fn empty(dir: &Path, rows: Rows) -> Result<Backlog> {
        let engine = Engine::open(EngineOptions::new(dir))?.0;
        // Held for a sink that never comes, so that nothing is trimmed between the rounds.
        engine.hold_for_sinks(&["bench/nobody".to_owned()]);
        let log_id = engine.log().id().iter().take(8).fold(0u64, |id, byte| (id << 8) | u64::from(*byte));
        Ok(Backlog { engine, log_id, rows, turns: AtomicU64::new(0) })
    }

    /// The engine whose log it is.
    #[must_use]
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// The rows it holds.
    #[must_use]
    pub fn rows(&self) -> Rows {
        self.rows
    }

    /// Starts the sinks of a configuration, with the settings that a user has without any.
    ///
    /// # Errors
    /// Where the configuration has faults.
    pub fn start(&self, conf: &str) -> Result<Sinks> {
        let parsed = parse_conf(Path::new("bench.conf"), conf);
        ensure!(parsed.faults.is_empty(), "{:?}", parsed.faults);
        let set: RuleSet = parsed.rules;
        let options = SinksOptions {
            databases: DatabaseOptions { data_dir: ".".into(), node_name: "bench@127.0.0.1".to_owned() },
            lookup_deadline: SinksOptions::LOOKUP_DEADLINE,
            runtime: RuntimeOptions::default(),
            open_letters: Arc::new(|_| Ok(Arc::new(MemoryLetters::default()) as Arc<dyn LetterStore>)),
        };
        let source = Arc::new(EngineSource::new(self.engine.clone(), self.log_id));
        Ok(Sinks::start(source, &set, &options)?)
    }

    /// Drains it until all messages are stored, or (where fewer are asked for) at least that many.
    ///
    /// # Errors
    /// Where they are not stored within ten minutes.
    pub async fn drain(&self, conf: &str, messages: u64) -> Result<Draining> {
        self.drain_watched(conf, messages, |_| {}).await
    }

    /// As [`Backlog::drain`], telling again and again how many are stored.
    ///
    /// # Errors
    /// Where they are not stored within ten minutes.
    pub async fn drain_watched(&self, conf: &str, messages: u64, mut progress: impl FnMut(u64)) -> Result<Draining> {
        let name = format!("turn{}", self.turns.fetch_add(1, Ordering::Relaxed));
        let conf = conf.replace("pool1", &name);
        let (begun, cpu) = (Instant::now(), process_ms()?);
        let sinks = self.start(&conf)?;
        let messages = messages.min(self.rows.messages);
        let stored = loop {
            let status = sinks.status();
            let stored: u64 = status.iter().map(|sink| sink.stored).sum();
            progress(stored);
            if stored >= messages {
                break stored;
            }
            // What was stored by a batch whose answer never came counts nowhere but in the position.
            if stored > 0 && messages == self.rows.messages && status.iter().all(|sink| sink.lag_records == 0) {
                break messages;
            }
            if begun.elapsed() > PATIENCE {
                bail!("{stored} of {messages} are stored after {PATIENCE:?}: {:?}", sinks.status());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        let (took, cpu_ms) = (begun.elapsed(), process_ms()? - cpu);
        let letters: u64 = sinks.status().iter().map(|sink| sink.dead_letters).sum();
        ensure!(letters == 0, "{letters} dead letters");
        sinks.shutdown(Duration::from_secs(20)).await;
        Ok(Draining { messages: stored, seconds: took.as_secs_f64(), cpu_ms })
    }

    /// Drains it for a while into all databases of a configuration at once; for each of these sinks messages a second, from its first that
    /// is stored.
    ///
    /// # Errors
    /// Where one of them stores nothing within ten minutes.
    pub async fn drain_for(&self, conf: &str, names: &[String], time: Duration) -> Result<Vec<f64>> {
        let turn = format!("turn{}", self.turns.fetch_add(1, Ordering::Relaxed));
        let names: Vec<String> = names.iter().map(|name| name.replace("pool1", &turn)).collect();
        let begun = Instant::now();
        let sinks = self.start(&conf.replace("pool1", &turn))?;
        let mut seen: Vec<Option<[(Instant, u64); 2]>> = vec![None; names.len()];
        let mut all_since: Option<Instant> = None;
        while all_since.is_none_or(|at| at.elapsed() < time) {
            let status = sinks.status();
            for (name, seen) in names.iter().zip(&mut seen) {
                let stored = status.iter().find(|sink| sink.name == *name).map_or(0, |sink| sink.stored);
                let now = (Instant::now(), stored);
                // One that has stored everything is not measured further.
                if stored > 0 && seen.is_none_or(|[_, (_, last)]| last < self.rows.messages) {
                    seen.get_or_insert([now, now])[1] = now;
                }
            }
            if all_since.is_none() && seen.iter().all(Option::is_some) {
                all_since = Some(Instant::now());
            }
            ensure!(begun.elapsed() < PATIENCE, "not all of them store: {status:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        sinks.shutdown(Duration::from_secs(20)).await;
        let rate = |[(from, before), (to, after)]: [(Instant, u64); 2]| {
            (after - before) as f64 / (to - from).as_secs_f64().max(0.001)
        };
        Ok(seen.into_iter().flatten().map(rate).collect())
    }
}
