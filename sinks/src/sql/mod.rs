//! What the SQL databases have in common: records become the same operations, and only the statements differ.

pub(crate) mod encode;
mod op;
pub(crate) mod statements;
pub(crate) mod text;

pub use op::{MessageRow, SqlOp, Value};
pub(crate) use op::{render, weight};
