//! TimescaleDB: users' statements with parameters from the message, as templates say them.
//!
//! The server is PostgreSQL and so is the writing ([`crate::pgsql`]): the statements of a batch and the lanes' positions commit in one
//! transaction, parameters are bound as the types that the server infers. Tables are the operator's; of its own the sink has
//! `forebay_position`.

mod config;
mod encode;
mod inspect;
mod write;

pub use config::TimescaleConfig;
pub use write::TimescaleSink;

/// What is written, as `forebay schema timescale` prints it.
pub(crate) fn schema_text() -> String {
    format!("{}\n{}", crate::pgsql::position_table(), include_str!("schema.txt"))
}
