//! The log's threads under a scheduler that decides at every lock, condition variable and atomic which of them goes on: the whole log, on a
//! disk in memory, in thousands of random orders. A thread that waits for ever while nobody can wake it is a deadlock, and ends the test.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::future::Future;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use shuttle::future::block_on;
use shuttle::scheduler::{PctScheduler, RandomScheduler};
use shuttle::{Config, Runner, thread};

use super::follower::Follower;
use super::frame::HEADER;
use super::wake::Word;
use super::watermark::{WaitDurable, Watermark};
use super::{AppendError, DurableError, Log, LogOptions, NewRecord, Priority};
use crate::clock::SteppedClock;
use crate::disk::{Disk, ForgettingDisk};
use crate::ids::Lsn;
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicU64, Ordering};

/// Orders tried by each test; `FOREBAY_INTERLEAVINGS` sets another number.
const ORDERS: usize = 150;
/// Where random orders begin: the same in every run.
const SEED: u64 = 4;

/// As [`explore`], in more orders, for what is small and has few places that matter.
fn explore_small(test: impl Fn() + Send + Sync + Copy + 'static) {
    explore_times(8, test);
}

/// Runs `test` in random orders, half of them with few changes of thread, which finds what many changes hide.
fn explore(test: impl Fn() + Send + Sync + Copy + 'static) {
    explore_times(1, test);
}

fn explore_times(times: usize, test: impl Fn() + Send + Sync + Copy + 'static) {
    let orders: usize = std::env::var("FOREBAY_INTERLEAVINGS").ok().and_then(|n| n.parse().ok()).unwrap_or(ORDERS);
    let orders = orders * times;
    let config = || {
        let mut config = Config::new();
        config.stack_size = 512 << 10;
        config
    };
    Runner::new(RandomScheduler::new_from_seed(SEED, orders / 2), config()).run(test);
    Runner::new(PctScheduler::new_from_seed(SEED, 3, orders / 2), config()).run(test);
}

fn open(disk: &ForgettingDisk) -> Log {
    let options = LogOptions {
        segment_bytes: 64 << 10,
        log_id: Some([7; 16]),
        tail_cache_bytes: 8 << 10,
        queue_bytes_max: 100 << 10,
        ..LogOptions::new("/log")
    };
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    Log::open_on(disk, Arc::new(SteppedClock::new(1_000_000)), options).unwrap().0
}

fn record(len: usize) -> NewRecord {
    NewRecord { kind: 1, body: vec![b'x'; len] }
}

/// Appends and waits until it is durable, waiting for room where there is none.
fn append(log: &Log, len: usize) -> Lsn {
    loop {
        match log.append_durable([record(len)]) {
            Ok(appended) => {
                assert!(log.durable_end() > appended.last, "told durable before it was");
                return appended.last;
            }
            Err(DurableError::Append(AppendError::Full { .. })) => block_on(log.wait_room()),
            Err(error) => panic!("{error}"),
        }
    }
}

/// Reads until it has come to the end, waiting for what is not there yet.
fn read_to(log: &Log, end: Lsn) -> Vec<Lsn> {
    let (mut reader, mut records) = (log.reader(Lsn::FIRST).unwrap(), Vec::new());
    while reader.position() < end {
        assert!(reader.wait(Duration::MAX).unwrap());
        reader.read_batch(100, 1 << 20, &mut records).unwrap();
    }
    records.iter().map(|record| record.lsn).collect()
}

#[test]
fn producers_that_wait_in_each_way_and_a_reader_all_come_through() {
    explore(|| {
        let log = open(&ForgettingDisk::new());
        let blocked: Vec<_> = (0..2)
            .map(|_| {
                let log = log.clone();
                thread::spawn(move || (0..2).for_each(|_| assert_ne!(append(&log, 100), Lsn::NONE)))
            })
            .collect();
        let others = [
            thread::spawn({
                let log = log.clone();
                move || {
                    let appended = log.append_batch([record(10), record(20)]).unwrap();
                    block_on(log.wait_durable(appended.last)).unwrap();
                    assert!(log.durable_end() > appended.last);
                }
            }),
            thread::spawn({
                let log = log.clone();
                move || {
                    let appended = log.append_batch([record(10)]).unwrap();
                    log.wait_durable_blocking(appended.last).unwrap();
                    assert!(log.durable_end() > appended.last);
                }
            }),
            thread::spawn({
                let log = log.clone();
                move || assert_eq!(read_to(&log, Lsn(8)), (1..8).map(Lsn).collect::<Vec<_>>())
            }),
        ];
        blocked.into_iter().chain(others).for_each(|thread| thread.join().unwrap());
        log.close();
    });
}

#[test]
fn segments_are_begun_prepared_and_trimmed_beside_producers_and_a_reader() {
    explore(|| {
        let log = open(&ForgettingDisk::new());
        let producers: Vec<_> = (0..2)
            .map(|_| {
                let log = log.clone();
                thread::spawn(move || (0..3).for_each(|_| assert_ne!(append(&log, 30_000), Lsn::NONE)))
            })
            .collect();
        let trimmer = thread::spawn({
            let log = log.clone();
            move || {
                for _ in 0..3 {
                    log.trim_to(log.durable_end()).unwrap();
                    thread::yield_now();
                }
            }
        });
        producers.into_iter().for_each(|thread| thread.join().unwrap());
        trimmer.join().unwrap();
        assert_eq!(log.durable_end(), Lsn(7));
        let first = log.first();
        let (mut reader, mut records) = (log.reader(first).unwrap(), Vec::new());
        while reader.position() < Lsn(7) {
            reader.read_batch(100, 1 << 20, &mut records).unwrap();
        }
        assert!(records.iter().map(|r| r.lsn.0).eq(first.0..7));
        log.close();
    });
}

#[test]
fn closing_beside_producers_leaves_nobody_waiting_and_keeps_what_was_told_durable() {
    explore(|| {
        let disk = ForgettingDisk::new();
        let log = open(&disk);
        let told = Arc::new(Mutex::new(Vec::new()));
        let producers: Vec<_> = (0..3)
            .map(|n| {
                let (log, told) = (log.clone(), Arc::clone(&told));
                thread::spawn(move || {
                    for _ in 0..2 {
                        let done = match n {
                            0 => log.append_batch([record(50)]).map_err(DurableError::from).and_then(|appended| {
                                block_on(log.wait_durable(appended.last))?;
                                Ok(appended)
                            }),
                            _ => log.append_durable([record(50)]),
                        };
                        match done {
                            Ok(appended) => told.lock().push(appended.last),
                            Err(DurableError::Append(AppendError::Stopped(_)) | DurableError::NotDurable(_)) => return,
                            Err(error) => panic!("{error}"),
                        }
                    }
                })
            })
            .collect();
        log.close();
        producers.into_iter().for_each(|thread| thread.join().unwrap());
        drop(log);
        let log = open(&disk);
        for lsn in told.lock().iter() {
            assert_eq!(log.read(*lsn).unwrap().map(|r| r.lsn), Some(*lsn), "told durable");
        }
        log.close();
    });
}

#[test]
fn a_full_queue_and_a_follower_that_lags_hold_appends_up_and_let_them_go() {
    explore(|| {
        let log = open(&ForgettingDisk::new());
        log.follow(40_000);
        let producers: Vec<_> = (0..2)
            .map(|_| {
                let log = log.clone();
                thread::spawn(move || (0..2).for_each(|_| assert_ne!(append(&log, 30_000), Lsn::NONE)))
            })
            .collect();
        let essential = thread::spawn({
            let log = log.clone();
            move || {
                // It waits for the queue at most, never for the follower.
                while let Err(AppendError::Full { .. }) = log.append_with([record(10)], Priority::Essential) {
                    block_on(log.wait_room_for(Priority::Essential));
                }
            }
        });
        essential.join().unwrap();
        let (mut reader, mut records) = (log.reader(Lsn::FIRST).unwrap(), Vec::new());
        while reader.position() < Lsn(6) {
            assert!(reader.wait(Duration::MAX).unwrap());
            records.clear();
            reader.read_placed(1, 1 << 20, &mut records).unwrap();
            log.followed(records.iter().map(|(_, place)| u64::from(place.len)).sum());
        }
        producers.into_iter().for_each(|thread| thread.join().unwrap());
        log.close();
    });
}

#[test]
fn a_follower_that_ends_lets_everybody_go() {
    explore(|| {
        let follower = Follower::none();
        follower.begin(0, 10);
        assert_eq!((follower.behind(10), follower.behind(11)), (None, Some(11)));
        let log = open(&ForgettingDisk::new());
        log.follow(1);
        log.append_batch([record(10)]).unwrap();
        let waiting = thread::spawn({
            let log = log.clone();
            move || assert_eq!(append(&log, 10), Lsn(2))
        });
        log.unfollow();
        waiting.join().unwrap();
        log.close();
    });
}

#[test]
fn no_wake_of_a_word_is_lost() {
    explore_small(|| {
        let shared = Arc::new((Word::default(), AtomicU64::new(0)));
        let threads: Vec<_> = (0..3)
            .map(|me| {
                let shared = Arc::clone(&shared);
                thread::spawn(move || {
                    let (word, turn) = &*shared;
                    for step in (me..9).step_by(3) {
                        loop {
                            let seen = word.look();
                            if turn.load(Ordering::SeqCst) == step {
                                break;
                            }
                            word.sleep(seen, None);
                        }
                        turn.store(step + 1, Ordering::SeqCst);
                        word.wake();
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(shared.1.load(Ordering::SeqCst), 9);
    });
}

#[test]
fn a_task_that_registers_while_the_watermark_moves_is_woken_and_one_that_goes_away_harms_nobody() {
    explore_small(|| {
        let watermark = Arc::new(Watermark::new(Lsn(1)));
        let waiting: Vec<_> = [1, 1, 2]
            .map(|lsn| {
                let wait = WaitDurable::new(Arc::clone(&watermark), Lsn(lsn));
                thread::spawn(move || block_on(wait).unwrap())
            })
            .into();
        let mut dropped = Box::pin(WaitDurable::new(Arc::clone(&watermark), Lsn(2)));
        assert!(dropped.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        let publisher = thread::spawn({
            let watermark = Arc::clone(&watermark);
            move || (2..4).for_each(|end| watermark.publish(Lsn(end), end))
        });
        drop(dropped);
        waiting.into_iter().chain([publisher]).for_each(|thread| thread.join().unwrap());
    });
}

#[test]
fn the_one_step_of_a_follower_that_makes_room_is_not_missed() {
    explore_small(|| {
        let log = open(&ForgettingDisk::new());
        log.follow(1);
        log.append_batch([record(10)]).unwrap();
        let waiting = thread::spawn({
            let log = log.clone();
            move || assert_eq!(append(&log, 10), Lsn(2))
        });
        log.followed(HEADER as u64 + 10);
        waiting.join().unwrap();
        log.close();
    });
}
