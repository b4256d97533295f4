//! PostgreSQL.
//!
//! Rows and the lanes' positions are written in one transaction, `READ COMMITTED`, with `synchronous_commit` on: a reported position
//! lets the log be trimmed. A batch is one statement for each table it touches, whatever its size: rows travel as arrays and become
//! rows again by `unnest`.
//!
//! Tables that exist are taken as they are. Values are cast to their columns' types; what a column can't hold is refused before it is
//! sent. Parameters of users' statements are bound as the types that the server infers for them.

mod connect;
mod copy;
mod error;
mod lookup;
mod schema;
mod segment;
mod several;
mod statement;
mod write;

pub use connect::{PgsqlConn, PgsqlSink};
pub(crate) use error::map;
pub(crate) use schema::{position_table, schema_text};

/// The port where none is given.
pub const PORT: u16 = 5432;
