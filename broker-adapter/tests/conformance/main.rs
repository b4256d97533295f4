//! What the standard says of a server, shown on real sockets byte by byte. `docs/MQTT.md` says which test shows which statement.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[path = "../support/mod.rs"]
mod support;
mod wire;

mod auth;
mod connack;
mod connect;
mod data;
mod delivery;
mod disconnect;
mod flow;
mod hostile;
mod publish;
mod qos;
mod retained;
mod session;
mod subscribe;
mod system;
mod v3;
mod will;
