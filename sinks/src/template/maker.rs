//! From a record to its points with their times in the database's unit.

use std::collections::HashMap;
use std::sync::Arc;

use forebay_engine::event::Message;

use super::{Facts, Point, SameTime, Slots, TemplateError, Templates, Time, Unit};
use crate::sink::SinkRecord;

/// Makes points of messages.
#[derive(Debug)]
pub struct Maker {
    templates: Arc<Templates>,
    payload_unit: Unit,
    slots: Slots,
}

/// When a point is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// At the record's time, or moved to a free one after it, in the database's unit.
    Own {
        /// Units since 1970.
        time: u64,
        /// It was moved.
        moved: bool,
    },
    /// When the message says: ns since 1970.
    Given(i128),
}

impl Maker {
    /// `unit` is the database's; `payload_unit` that of times in payloads where the template names none.
    #[must_use]
    pub fn new(templates: Arc<Templates>, unit: Unit, payload_unit: Unit, same_time: SameTime) -> Maker {
        Maker { templates, payload_unit, slots: Slots::new(unit, same_time) }
    }

    /// The database's unit of time.
    #[must_use]
    pub fn unit(&self) -> Unit {
        self.slots.unit()
    }

    /// What [`crate::sink::Sink::look_back`] is for these points.
    #[must_use]
    pub fn look_back(&self) -> u64 {
        if self.slots.depends_on_the_past() { Slots::LOOK_BACK } else { 0 }
    }

    /// Forgets what was made of other records.
    pub fn forget(&self) {
        self.slots.forget();
    }

    /// The points of a message, in the order of the templates; `None` where no template is for its topic.
    ///
    /// # Errors
    /// Where the message does not fit a template, or a point can't have a time of its own.
    pub fn points(
        &self,
        record: &SinkRecord,
        message: &Message,
    ) -> Result<Option<Vec<(Point, Moment)>>, TemplateError> {
        let facts = Facts { message, msgid: record.msgid, time_us: record.time_us, unit: self.payload_unit };
        let mut found = false;
        let mut points: Vec<(Point, Moment)> = Vec::new();
        // How many points of a series the message has had. Most messages have a single point, and need no map.
        let mut seen: HashMap<u64, u64> = HashMap::new();
        let mut first = None;
        for template in self.templates.matching(&message.topic) {
            found = true;
            for point in template.points(&facts)? {
                let moment = match point.time {
                    Time::Given(ns) => Moment::Given(ns),
                    Time::Record => {
                        let (series, k) = match first.and_then(|at: usize| points.get(at)) {
                            None => {
                                first = Some(points.len());
                                (if self.slots.depends_on_the_past() { point.series() } else { 0 }, 0)
                            }
                            Some((first, _)) => {
                                let (first, series) = (first.series(), point.series());
                                let known = seen.entry(series).or_insert(u64::from(series == first));
                                let k = *known;
                                *known += 1;
                                (series, k)
                            }
                        };
                        let placed = self.slots.place(series, record.lsn.0, record.time_us, k)?;
                        Moment::Own { time: placed.time, moved: placed.moved }
                    }
                };
                points.push((point, moment));
            }
        }
        Ok(found.then_some(points))
    }
}
