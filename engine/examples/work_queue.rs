//! A work queue: each job goes to one worker, is its own until it is acknowledged, and goes to another when the worker leaves or the
//! program dies.
//!
//! `cargo run -p forebay-engine --example work_queue [folder]`
//!
//! | step | what is durable when it returns |
//! |---|---|
//! | `submit` | the jobs: they come until they are acknowledged, over crashes |
//! | a worker takes a job | nothing: the lease is the worker's connection, and ends with it |
//! | `settle` | the acknowledgement goes with the next group: a crash before it brings the job once more |

use std::error::Error;
use std::path::Path;
use std::time::Duration;

use forebay_engine::delivery::{AttachOptions, Delivery, Mailbox};
use forebay_engine::event::{AckOutcome, Event, Published, SessionOpened, Subscribed, SubscriptionOptions};
use forebay_engine::{Engine, EngineOptions, Message, QoS};

/// Longest wait for the disk: a disk that takes longer is an error here.
const PATIENCE: Duration = Duration::from_secs(30);

/// What became of the jobs.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Jobs that were done, by worker.
    pub done: Vec<(String, String)>,
    /// Jobs that were given to a worker a second time because the first had left.
    pub handed_on: Vec<String>,
}

fn open(dir: &Path) -> Result<Engine, Box<dyn Error>> {
    let mut options = EngineOptions::new(dir);
    // Topics that match are queues: a message of theirs is owed until one subscriber has acknowledged it.
    options.rules.queue = vec!["jobs/#".into()];
    Ok(Engine::open(options)?.0)
}

/// Takes jobs in. They are durable when it returns.
fn submit(engine: &Engine, jobs: &[String]) -> Result<(), Box<dyn Error>> {
    let event = |job: &String| {
        let (topic, payload) = ("jobs/render".into(), job.clone().into());
        let message = Message { topic, payload, qos: QoS::AtLeastOnce, ..Message::default() };
        Event::Published(Published { message, packet_id: None, epoch: 0 })
    };
    let appended = engine.append_within(&jobs.iter().map(event).collect::<Vec<_>>(), PATIENCE)?;
    if !engine.durable_within(appended.last, PATIENCE)? {
        return Err("the disk takes too long".into());
    }
    Ok(())
}

/// A worker that takes at most two jobs at a time.
fn worker(engine: &Engine, name: &str) -> Result<Mailbox, Box<dyn Error>> {
    let epoch = engine.next_epoch();
    let session = SessionOpened {
        client: name.into(),
        epoch,
        resumed: false,
        expiry_s: 0,
        will: None,
        username: "".into(),
        peer: "".into(),
    };
    let options = SubscriptionOptions::of_qos(QoS::AtLeastOnce);
    let subscription = Subscribed { client: name.into(), epoch, filter: "jobs/#".into(), options, by_proxy: false };
    let events = [Event::SessionOpened(session), Event::Subscribed(subscription)];
    let appended = engine.append_within(&events, PATIENCE)?;
    if !engine.applied_within(appended.last, PATIENCE)? {
        return Err("the disk takes too long".into());
    }
    Ok(engine.attach(&AttachOptions { client: name.into(), epoch, window: 2, in_flight: vec![] }))
}

/// Waits for jobs; none within `patience` is an empty answer.
fn take(mailbox: &mut Mailbox, patience: Duration) -> Vec<Delivery> {
    let mut jobs = Vec::new();
    while jobs.is_empty() && mailbox.ready_within(patience) {
        mailbox.take(10, &mut jobs);
    }
    jobs
}

fn text(job: &Delivery) -> String {
    String::from_utf8_lossy(&job.message.payload).into_owned()
}

/// Ten jobs, three workers: one leaves with its jobs undone, then the program "crashes", then the rest is done.
///
/// # Errors
/// Of the disk.
pub fn run(dir: &Path) -> Result<Outcome, Box<dyn Error>> {
    let mut outcome = Outcome::default();
    let jobs: Vec<String> = (1..=10).map(|n| format!("frame {n}")).collect();
    let engine = open(dir)?;
    submit(&engine, &jobs)?;

    // A worker takes two jobs, does one of them, and leaves.
    let mut leaver = worker(&engine, "ada")?;
    let taken = take(&mut leaver, PATIENCE);
    if let Some(first) = taken.first() {
        leaver.settle(&[(first.lsn, None, AckOutcome::Acknowledged)]);
        outcome.done.push(("ada".into(), text(first)));
    }
    let undone: Vec<_> = taken.iter().skip(1).map(text).collect();
    drop(leaver);

    // What it had is the next one's. This one crashes: the engine goes without a goodbye.
    let mut second = worker(&engine, "bob")?;
    let given = take(&mut second, PATIENCE);
    outcome.handed_on = given.iter().map(text).filter(|job| undone.contains(job)).collect();
    drop(second);
    drop(engine);

    // Another program, the same folder: what was not acknowledged is still owed, to whoever comes.
    let engine = open(dir)?;
    let mut workers = Vec::new();
    for name in ["cyd", "dee"] {
        workers.push((name, worker(&engine, name)?));
    }
    while engine.queued() > 0 {
        for (name, mailbox) in &mut workers {
            for job in take(mailbox, Duration::from_millis(20)) {
                mailbox.settle(&[(job.lsn, None, AckOutcome::Acknowledged)]);
                outcome.done.push(((*name).into(), text(&job)));
            }
        }
    }
    drop(workers);
    engine.close();
    Ok(outcome)
}

fn main() -> Result<(), Box<dyn Error>> {
    let dir = std::env::args().nth(1).map_or_else(|| std::env::temp_dir().join("forebay-work-queue"), Into::into);
    let outcome = run(&dir)?;
    for (worker, job) in &outcome.done {
        println!("{worker} did {job}");
    }
    println!("handed on when their worker left: {:?}", outcome.handed_on);
    Ok(())
}
