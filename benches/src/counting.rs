//! A recorder for the engine's metrics that keeps counters only.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Result, anyhow};
use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};

/// The counters of this process, by name. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Counting {
    counters: Arc<Mutex<HashMap<String, Arc<AtomicU64>>>>,
}

impl Counting {
    /// Installs a recorder; before anything is opened that counts, and once in a process.
    ///
    /// # Errors
    /// There is one already.
    pub fn install() -> Result<Counting> {
        let counting = Counting::default();
        metrics::set_global_recorder(counting.clone()).map_err(|e| anyhow!("{e}"))?;
        Ok(counting)
    }

    fn counter(&self, name: &str) -> Arc<AtomicU64> {
        let mut counters = self.counters.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(counters.entry(name.to_owned()).or_default())
    }

    /// What a counter stands at.
    #[must_use]
    pub fn get(&self, name: &str) -> u64 {
        self.counter(name).load(Ordering::Relaxed)
    }
}

impl Recorder for Counting {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.counter(key.name()))
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}
