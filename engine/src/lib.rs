//! Forebay's engine: a durable log with cursors, delivery and state rebuilt from it.
//!
//! It knows MQTT's nouns, but no broker and no database, and is usable alone.
//!
//! Words used everywhere, for one thing each: *event* (what happened in the broker), *record* (an event in the log), *LSN* (its
//! dense 64-bit number), *segment* (a file of records), *durable watermark* (every record below is on disk), *cursor* (how
//! far a subscriber or sink has come), *floor* (the lowest LSN somebody still needs).
//!
//! # The log alone
//!
//! ```
//! use forebay_engine::{Log, LogOptions, NewRecord};
//!
//! # let dir = tempfile::tempdir()?;
//! let (log, _recovery) = Log::open(LogOptions::new(dir.path().join("log")))?;
//! // Blocks until the record is on disk; an async caller uses `append_batch` and awaits `wait_durable`.
//! let appended = log.append_durable(vec![NewRecord { kind: 1, body: b"hello".to_vec() }])?;
//! let mut records = Vec::new();
//! log.reader(appended.first)?.read_batch(10, 1 << 20, &mut records)?;
//! assert_eq!(&records[0].body[..], b"hello");
//! log.close();
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # In a broker
//!
//! A broker appends what happens, acknowledges its clients when the watermark passes, and gives each connection a
//! [`delivery::Mailbox`]:
//!
//! ```
//! use forebay_engine::delivery::AttachOptions;
//! use forebay_engine::event::{AckOutcome, Event, Published, SessionOpened, Subscribed, SubscriptionOptions};
//! use forebay_engine::{Engine, EngineOptions, Message, QoS};
//!
//! # fn block_on<T>(future: impl Future<Output = T>) -> T {
//! #     let mut future = std::pin::pin!(future);
//! #     loop {
//! #         let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
//! #         if let std::task::Poll::Ready(value) = future.as_mut().poll(&mut cx) { return value; }
//! #         std::thread::yield_now();
//! #     }
//! # }
//! # let dir = tempfile::tempdir()?;
//! let (engine, _report) = Engine::open(EngineOptions::new(dir.path()))?;
//! let epoch = engine.next_epoch();
//! let (client, none) = ("sensor", String::new());
//! let opened = engine.append(&[
//!     Event::SessionOpened(SessionOpened {
//!         client: client.into(),
//!         epoch,
//!         resumed: false,
//!         expiry_s: 3600,
//!         will: None,
//!         username: none.clone().into(),
//!         peer: none.into(),
//!     }),
//!     Event::Subscribed(Subscribed {
//!         client: client.into(),
//!         epoch,
//!         filter: "orders/#".into(),
//!         options: SubscriptionOptions::of_qos(QoS::AtLeastOnce),
//!         by_proxy: false,
//!     }),
//! ])?;
//! block_on(engine.applied(opened.last))?; // now CONNACK and SUBACK may be sent
//! let mut mailbox = engine.attach(&AttachOptions { client: client.into(), epoch, window: 20, in_flight: vec![] });
//!
//! let message = Message { topic: "orders/7".into(), payload: "book".into(), qos: QoS::AtLeastOnce, ..Message::default() };
//! let published = engine.append(&[Event::Published(Published { message, packet_id: None, epoch: 0 })])?;
//! block_on(engine.durable(published.last))?; // now PUBACK may be sent
//!
//! block_on(mailbox.ready());
//! let mut deliveries = Vec::new();
//! mailbox.take(10, &mut deliveries);
//! assert_eq!(deliveries[0].message.payload, "book");
//! mailbox.settle(&[(deliveries[0].lsn, None, AckOutcome::Acknowledged)]); // the subscriber's PUBACK came
//! drop(mailbox);
//! engine.close();
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod blocking;
pub mod clock;
pub mod delivery;
pub mod disk;
pub mod engine;
pub mod event;
pub mod ids;
mod json;
mod listed;
pub mod log;
pub mod metrics;
#[allow(
    dead_code,
    unused_imports,
    reason = "what is derived from the log for catch-up and for carried records is built on it"
)]
mod postings;
pub mod rules;
pub mod state;
mod sync;
pub mod topic;
mod trie;

/// What the simulator reaches besides the public API. Not part of it.
#[doc(hidden)]
pub mod simulation {
    pub use crate::engine::Manual;
    pub use crate::state::forgetting::ForgettingStore;
    pub use crate::state::store::{Batch, RedbStore, StateStore};
}

/// What the fuzz targets reach besides the public API. Not part of it.
#[doc(hidden)]
pub mod fuzzing {
    pub use crate::log::fuzzing::{FuzzedFrame, decode_frame, encode_frame};
    pub use crate::log::residue::fuzzing::{ReadResidue, read_residue, repair_residue, residue_of};
    pub use crate::postings::fuzzing::{IndexedRecord, Places, index_of, repair_index, search_index};
    pub use crate::trie::Trie;
}

pub use engine::{Bounds, Engine, EngineOptions, OpenError, OpenReport, Retention, StateSource};
pub use event::{Event, Message, QoS};
pub use ids::{Lsn, MsgId};
pub use listed::Listed;
pub use log::{Log, LogOptions, NewRecord, Record};
pub use rules::Rules;

/// The README's example, compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
