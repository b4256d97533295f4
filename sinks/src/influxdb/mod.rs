//! InfluxDB: points by the line protocol, through the first HTTP API, the second one, or UDP.
//!
//! A point is told from others by its series (measurement and tags) and its time. The same point again replaces itself, so a
//! batch whose answer was lost is simply sent again. A point's time is its record's, which no other record has; where the unit of
//! time is coarser than that, see [`crate::template::Slots`]. Only HTTP says that points are stored. UDP can lose them.
//!
//! ```text
//!  measurement,tag=value,tag=value field=1.5,field="text" 1560745505429670000
//! ```

mod config;
mod error;
mod inspect;
mod line;
mod write;

pub use config::{FieldType, InfluxConfig, Target};
pub use line::Line;
pub use write::{InfluxConn, InfluxSink};

/// What is written, as `forebay schema influxdb` prints it.
pub(crate) fn schema_text() -> String {
    include_str!("schema.txt").to_owned()
}
