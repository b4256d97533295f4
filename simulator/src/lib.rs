//! Runs Forebay's engine on a disk that forgets, by schedules chosen by a seed, against a model of what it promises.
//!
//! ```text
//!   seed --> plan (operations, each with dice of its own) --> world: engine without threads + disk + clients
//!                                                               |  follows, checks
//!                                                               +--> model: the records that became durable
//! ```
//!
//! Nothing in it asks the time or starts a thread: the same seed gives the same schedule, the same bytes and the same failure.
//! `docs/TESTING.md` says what is checked and how to replay a failure.

mod act;
mod check;
mod connect;
mod delivery;
pub mod dice;
mod drain;
pub mod fault;
pub mod model;
pub mod plan;
pub mod runner;
mod shared;
pub mod world;
