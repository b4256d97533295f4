//! What the SQL databases have in common: records become the same operations, and only the statements differ.

pub(crate) mod encode;
#[cfg(any(feature = "mysql", feature = "pgsql"))]
pub(crate) mod fold;
#[cfg(any(feature = "mysql", feature = "pgsql"))]
pub(crate) mod inspect;
#[cfg(any(feature = "mysql", feature = "pgsql"))]
pub(crate) mod layout;
#[cfg(any(feature = "mysql", feature = "pgsql"))]
pub(crate) mod link;
mod op;
#[cfg(any(feature = "mysql", feature = "pgsql"))]
pub(crate) mod position;
#[cfg(any(feature = "cassandra", feature = "dynamodb", feature = "mysql", feature = "pgsql"))]
mod server;
pub(crate) mod statements;
pub(crate) mod text;

#[cfg(any(feature = "cassandra", feature = "pgsql"))]
pub(crate) use op::shown;
pub use op::{Form, Json, MessageRow, SqlOp, Value};
pub(crate) use op::{render, weight};
#[cfg(any(feature = "cassandra", feature = "dynamodb", feature = "mysql", feature = "pgsql"))]
pub use server::{BinaryPayload, SchemaMode, ServerConfig, TlsFiles};
