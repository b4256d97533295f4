//! SQLite: the default database, a file and no server.
//!
//! Rows and the lanes' positions are written in one transaction, so a crash repeats nothing. The file is in WAL mode with
//! `synchronous = FULL`: a reported position lets the log be trimmed, so what it covers must not vanish with a power cut, which
//! `NORMAL` allows (it keeps the file consistent, but may forget the newest transactions). Batches make that one sync for
//! thousands of rows.

mod config;
mod error;
mod inspect;
mod lookup;
mod schema;
mod write;

pub use config::SqliteConfig;
pub(crate) use schema::schema_text;
pub use write::{SqliteConn, SqliteSink};
