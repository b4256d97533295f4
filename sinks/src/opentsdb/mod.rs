//! OpenTSDB: points by `/api/put`.
//!
//! A point is told from others by its metric, its tags and its time; the same point again replaces itself. Puts are asked for with
//! details, which name the points that are refused, and with `sync`: without it OpenTSDB answers from memory.
//!
//! ```text
//!  {"metric": "sensor", "timestamp": 1560745505429, "value": 21.5, "tags": {"clientid": "c1"}}
//! ```

mod answer;
mod config;
mod encode;
mod inspect;
mod write;

pub use config::OpentsdbConfig;
pub use encode::{Put, sanitised};
pub use write::OpentsdbSink;

/// What is written, as `forebay schema opentsdb` prints it.
pub(crate) fn schema_text() -> String {
    include_str!("schema.txt").to_owned()
}
