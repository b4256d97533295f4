//! What the benchmark programs share: a cheap MQTT load generator, servers to aim it at, and the arithmetic of rounds.

pub mod alloc;
pub mod bare;
pub mod counting;
pub mod cpu;
pub mod crowd;
pub mod drain;
pub mod load;
mod publisher;
pub mod rates;
pub mod rivals;
pub mod servers;
pub mod stats;
mod subscriber;
mod wire;
pub mod works;
