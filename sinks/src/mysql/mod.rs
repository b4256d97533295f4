//! MySQL and MariaDB.
//!
//! Rows and the lanes' positions are written in one transaction, `READ COMMITTED`, in strict mode whatever the server's own mode is:
//! nothing is shortened silently. New messages are inserted many at a time. Rows that are replaced are looked for first and then
//! written by their id: `on duplicate key update` by another key uses up a number of `AUTO_INCREMENT` each time, which would be the
//! end of the guide's 32-bit ids within weeks.
//!
//! Tables that exist are taken as they are. Keys are compared byte by byte here, since the guide's tables compare them without regard
//! to case.

mod connect;
mod error;
mod literal;
mod lookup;
mod rows;
mod schema;
mod segment;
mod upkeep;
mod write;

pub use connect::{MysqlConn, MysqlSink};
pub(crate) use schema::schema_text;

/// The port where none is given.
pub const PORT: u16 = 3306;
