//! One schedule after another on all cores, and the shortest one that fails.

use std::any::Any;
use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::fault::Fault;
use crate::plan::Plan;
use crate::world::World;

/// A schedule that broke a promise.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Its seed.
    pub seed: u64,
    /// What was broken.
    pub what: String,
}

/// Runs one schedule, with the operations at `keep` only where that is given.
///
/// # Errors
/// What was broken, and what had happened where `trace` is set.
pub fn run_one(
    seed: u64,
    keep: Option<&[usize]>,
    fault: Option<Fault>,
    trace: bool,
) -> Result<(), (String, Vec<String>)> {
    run_counting(seed, keep, fault, trace).map(drop)
}

/// As `run_one`; answers how often what is rare has happened.
fn run_counting(
    seed: u64,
    keep: Option<&[usize]>,
    fault: Option<Fault>,
    trace: bool,
) -> Result<BTreeMap<&'static str, u64>, (String, Vec<String>)> {
    let mut plan = Plan::of(seed);
    if let Some(keep) = keep {
        plan.ops = keep.iter().filter_map(|n| plan.ops.get(*n).cloned()).collect();
    }
    let mut world = World::new(plan, fault, trace).map_err(|what| (what, Vec::new()))?;
    let result = catch_unwind(AssertUnwindSafe(|| world.run()));
    let what = match result {
        Ok(Ok(())) => None,
        Ok(Err(what)) => Some(what),
        Err(panic) => Some(format!("panic: {}", text_of(&*panic))),
    };
    let (trace, seen) = (world.trace.take().unwrap_or_default(), std::mem::take(&mut world.seen));
    if catch_unwind(AssertUnwindSafe(|| world.stop())).is_err() {
        std::mem::forget(world);
    }
    match what {
        None => Ok(seen),
        Some(what) => Err((what, trace)),
    }
}

fn text_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
}

/// What many schedules came to.
#[derive(Debug)]
pub struct Outcome {
    /// Schedules that were run.
    pub done: u64,
    /// The time it took.
    pub took: Duration,
    /// How often what is rare has happened in them.
    pub seen: BTreeMap<&'static str, u64>,
    /// The first that failed.
    pub failure: Option<Failure>,
}

/// Runs `schedules` schedules from `first` on, on `jobs` threads, up to the first failure.
#[must_use]
pub fn run_many(first: u64, schedules: u64, jobs: usize, fault: Option<Fault>) -> Outcome {
    let (next, done, stop) = (AtomicU64::new(first), AtomicU64::new(0), AtomicBool::new(false));
    let failure: Mutex<Option<Failure>> = Mutex::new(None);
    let all_seen: Mutex<BTreeMap<&'static str, u64>> = Mutex::default();
    let started = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first.saturating_add(schedules) {
                        return;
                    }
                    match run_counting(seed, None, fault, false) {
                        Ok(seen) => {
                            let mut all = all_seen.lock().unwrap_or_else(PoisonError::into_inner);
                            seen.into_iter().for_each(|(what, n)| *all.entry(what).or_default() += n);
                        }
                        Err((what, _)) => {
                            stop.store(true, Ordering::Relaxed);
                            let mut failure = failure.lock().unwrap_or_else(PoisonError::into_inner);
                            if failure.as_ref().is_none_or(|known| known.seed > seed) {
                                *failure = Some(Failure { seed, what });
                            }
                        }
                    }
                    done.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let over = || done.load(Ordering::Relaxed) >= schedules || stop.load(Ordering::Relaxed);
        let mut shown = Instant::now();
        let terminal = std::io::stderr().is_terminal();
        let every = Duration::from_secs(if terminal { 1 } else { 30 });
        while !over() {
            std::thread::sleep(Duration::from_millis(50));
            if shown.elapsed() >= every {
                shown = Instant::now();
                show(done.load(Ordering::Relaxed), schedules, started.elapsed(), terminal);
            }
        }
        if terminal {
            eprint!("\r\x1b[K");
        }
    });
    let failure = failure.into_inner().unwrap_or_else(PoisonError::into_inner);
    let seen = all_seen.into_inner().unwrap_or_else(PoisonError::into_inner);
    Outcome { seen, done: done.into_inner(), took: started.elapsed(), failure }
}

fn show(done: u64, of: u64, took: Duration, terminal: bool) {
    let rate = done as f64 / took.as_secs_f64().max(0.001);
    let left = (of.saturating_sub(done)) as f64 / rate.max(0.001);
    let filled = (30 * done / of.max(1)) as usize;
    let bar = format!("[{:<30}] {done}/{of} schedules, {rate:.0}/s, {left:.0} s left", "#".repeat(filled));
    let (before, after) = if terminal { ("\r\x1b[K", "") } else { ("", "\n") };
    // A progress line that can't be written is no loss.
    let _ = write!(std::io::stderr(), "{before}{bar}{after}");
}

/// The shortest list of operations that was found to fail, as indexes into the schedule: leaves out ever smaller pieces as long as
/// something still breaks.
#[must_use]
pub fn shrink(seed: u64, fault: Option<Fault>) -> Vec<usize> {
    let mut keep: Vec<usize> = (0..Plan::of(seed).ops.len()).collect();
    let fails = |keep: &[usize]| run_one(seed, Some(keep), fault, false).is_err();
    let mut piece = keep.len().div_ceil(2).max(1);
    loop {
        let mut at = 0;
        let mut shorter = false;
        while at < keep.len() {
            let mut without = keep.clone();
            without.drain(at..(at + piece).min(keep.len()));
            if fails(&without) {
                keep = without;
                shorter = true;
            } else {
                at += piece;
            }
        }
        if piece == 1 && !shorter {
            return keep;
        }
        if !shorter {
            piece = piece.div_ceil(2);
        }
    }
}
