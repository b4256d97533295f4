//! Templates: how a message becomes points (InfluxDB, OpenTSDB) or statements (TimescaleDB).
//!
//! ```text
//!  template file ── parse ──> Templates ── matching(topic) ──> Template ──┐
//!                                                                        ├── points ──> measurement, tags, fields, time
//!  message ── Facts ──────────────────────────────────────────────────────┤
//!                                                                        ├── rows ──> a statement's parameters
//!  template file ── parse_statements ──> Templates ──> StatementTemplate ─┘
//! ```
//!
//! A file is one JSON object: a topic filter, then a template or a list of them; a filter may be given several times. All
//! templates whose filter fits a message are used. `docs/TEMPLATES.md` is the grammar. Everything here is pure: the same message
//! gives the same points, at any time and in any process. Only where a database's unit of time is coarser than a
//! microsecond does a point's time depend on the records before it ([`Slots`]).

mod expand;
mod json;
mod maker;
pub(crate) mod outline;
mod parse;
mod points;
mod slots;
mod statement;

pub use maker::{Maker, Moment};
pub use parse::{parse, parse_statements};
pub use points::{Point, Time};
pub use slots::{SameTime, Slots};
pub use statement::{Parameter, StatementTemplate};

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use forebay_engine::MsgId;
use forebay_engine::event::Message;
use forebay_engine::topic;

use crate::rule::{Faults, Location};

/// Points of one message at most.
pub const POINTS_MAX: usize = 10_000;

/// Bytes of one message's points at most, by their names and values.
pub const BYTES_MAX: usize = 16 << 20;

/// What a database's templates look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// `fields`, an object (InfluxDB). Tags may be absent.
    Fields,
    /// `value`, one number, and at least one tag (OpenTSDB).
    Value,
}

/// All templates of a file, in its order.
#[derive(Clone, Debug)]
pub struct Templates<T = Template>(Vec<(String, T)>);

/// How one point, or several, are made from a message.
#[derive(Clone, Debug)]
pub struct Template {
    /// What the points are of.
    pub measurement: Leaf,
    /// Tags, sorted by name.
    pub tags: Vec<(Arc<str>, Leaf)>,
    /// Fields, in the order written; a single one called `value` with [`Shape::Value`].
    pub fields: Vec<(Arc<str>, Leaf)>,
    /// When; `None` is the record's own time.
    pub timestamp: Option<Leaf>,
    /// The unit of `$timestamp` and of times in payloads; `None` is the pool's.
    pub unit: Option<Unit>,
    /// Where it stands.
    pub at: Location,
}

/// Something that is filled in.
#[derive(Clone, Debug, PartialEq)]
pub enum Leaf {
    /// As it stands.
    Literal(Value),
    /// A fact of the message.
    Placeholder(Placeholder),
    /// A place inside the payload. Empty: the whole of it.
    Payload(Vec<Step>),
}

/// Facts of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placeholder {
    /// `$id`: the msgid.
    Id,
    /// `$clientid`: the publisher.
    ClientId,
    /// `$username`: the publisher's user name.
    Username,
    /// `$peerhost`: the publisher's address.
    PeerHost,
    /// `$qos`.
    Qos,
    /// `$topic`.
    Topic,
    /// `$timestamp`: the record's time.
    Timestamp,
}

/// One step of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// The value of this name in an object.
    Key(String),
    /// `$n`: this element of an array, from 1.
    Nth(usize),
    /// `$0`: every element of an array.
    Each,
}

/// A value of a point.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Text.
    Text(String),
    /// A number as JSON writes it.
    Number(String),
    /// A whole number that is one in every point of the template (`$qos`, `$timestamp`).
    Integer(u64),
    /// True or false.
    Boolean(bool),
    /// An object or an array, as the text of its JSON.
    Document(String),
}

/// Units of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Nanoseconds.
    Ns,
    /// Microseconds.
    Us,
    /// Milliseconds.
    Ms,
    /// Seconds.
    S,
    /// Minutes.
    M,
    /// Hours.
    H,
}

/// What templates know of a message.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// The message.
    pub message: &'a Message,
    /// Its name.
    pub msgid: MsgId,
    /// Its record's time, us since 1970.
    pub time_us: u64,
    /// The unit of `$timestamp` where the template has none.
    pub unit: Unit,
}

/// Why no points can be made of a message: its own fault, or the template's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// The payload is not JSON, and a path leads into it.
    #[error("the payload is no JSON ({0}), and the template at {1} looks inside it")]
    NotJson(String, String),
    /// The payload is no text.
    #[error("the payload is no UTF-8 text")]
    NotText,
    /// `$0` where there is no array.
    #[error("`$0` in {0} wants an array and finds {1}")]
    NotArray(String, &'static str),
    /// `$0` lists of different lengths.
    #[error("the arrays that `$0` stands for have different lengths: {0}")]
    Lengths(String),
    /// Something that a point must have is not there.
    #[error("a point has no {what}: {place} leads to nothing in the payload")]
    Missing {
        /// What.
        what: String,
        /// The leaf.
        place: String,
    },
    /// No tag has a value.
    #[error("a point has no tag with a value, and {0} wants at least one")]
    NoTags(&'static str),
    /// Too many points, or too large.
    #[error("the message gives more than {POINTS_MAX} points or rows, or {} MiB of them", BYTES_MAX >> 20)]
    TooMuch,
    /// A time that is none.
    #[error("`{0}` is no time in {1}")]
    Time(String, &'static str),
    /// More points at one time than can be told apart.
    #[error("{0}")]
    SameTime(String),
}

impl Templates {
    /// Reads a file of templates of points.
    ///
    /// # Errors
    /// All faults of the file with their places; among them that it can't be read.
    pub fn load(file: &Path, shape: Shape) -> Result<Templates, Faults> {
        read(file).and_then(|text| parse(file, &text, shape))
    }
}

impl Templates<StatementTemplate> {
    /// Reads a file of templates of statements.
    ///
    /// # Errors
    /// All faults of the file with their places; among them that it can't be read.
    pub fn load_statements(file: &Path) -> Result<Templates<StatementTemplate>, Faults> {
        read(file).and_then(|text| parse_statements(file, &text))
    }
}

fn read(file: &Path) -> Result<String, Faults> {
    std::fs::read_to_string(file).map_err(|error| parse::unreadable(file, &error))
}

impl<T> Templates<T> {
    /// The templates for a topic.
    pub fn matching<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a T> {
        self.0.iter().filter(|(filter, _)| topic::matches(filter, name)).map(|(_, template)| template)
    }

    /// All of them with their filters.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &T)> {
        self.0.iter().map(|(filter, template)| (filter.as_str(), template))
    }
}

impl Placeholder {
    /// All of them.
    pub const ALL: [Placeholder; 7] = [
        Placeholder::Id,
        Placeholder::ClientId,
        Placeholder::Username,
        Placeholder::PeerHost,
        Placeholder::Qos,
        Placeholder::Topic,
        Placeholder::Timestamp,
    ];

    /// As it is written.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Placeholder::Id => "$id",
            Placeholder::ClientId => "$clientid",
            Placeholder::Username => "$username",
            Placeholder::PeerHost => "$peerhost",
            Placeholder::Qos => "$qos",
            Placeholder::Topic => "$topic",
            Placeholder::Timestamp => "$timestamp",
        }
    }
}

impl Unit {
    /// All of them, and how they are written.
    pub const ALL: [(&'static str, Unit); 7] = [
        ("ns", Unit::Ns),
        ("us", Unit::Us),
        ("u", Unit::Us),
        ("ms", Unit::Ms),
        ("s", Unit::S),
        ("m", Unit::M),
        ("h", Unit::H),
    ];

    /// The unit of a name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Unit> {
        Unit::ALL.iter().find(|(known, _)| *known == name).map(|(_, unit)| *unit)
    }

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        Unit::ALL.iter().find(|(_, unit)| *unit == self).map_or("", |(name, _)| name)
    }

    /// Nanoseconds in it.
    #[must_use]
    pub fn ns(self) -> u64 {
        match self {
            Unit::Ns => 1,
            Unit::Us => 1_000,
            Unit::Ms => 1_000_000,
            Unit::S => 1_000_000_000,
            Unit::M => 60_000_000_000,
            Unit::H => 3_600_000_000_000,
        }
    }

    /// A time in us since 1970 in this unit, rounded down.
    #[must_use]
    pub fn of_us(self, time_us: u64) -> u64 {
        match self {
            Unit::Ns => time_us.saturating_mul(1_000),
            unit => time_us / (unit.ns() / 1_000),
        }
    }
}

impl Value {
    /// Without quotation marks or the like.
    #[must_use]
    pub fn text(&self) -> String {
        match self {
            Value::Text(text) | Value::Number(text) | Value::Document(text) => text.clone(),
            Value::Integer(number) => number.to_string(),
            Value::Boolean(value) => value.to_string(),
        }
    }

    fn into_text(self) -> String {
        match self {
            Value::Text(text) | Value::Number(text) | Value::Document(text) => text,
            other => other.text(),
        }
    }

    fn len(&self) -> usize {
        match self {
            Value::Text(text) | Value::Number(text) | Value::Document(text) => text.len(),
            Value::Integer(_) => 20,
            Value::Boolean(_) => 5,
        }
    }
}

impl fmt::Display for Leaf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Leaf::Literal(value) => f.write_str(&value.text()),
            Leaf::Placeholder(placeholder) => f.write_str(placeholder.name()),
            Leaf::Payload(steps) => {
                f.write_str("$payload")?;
                for step in steps {
                    match step {
                        Step::Key(key) => write!(f, ".{key}")?,
                        Step::Nth(n) => write!(f, ".${n}")?,
                        Step::Each => f.write_str(".$0")?,
                    }
                }
                Ok(())
            }
        }
    }
}
