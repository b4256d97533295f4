//! What goes when its time has come: `forebay_expiry`.
//!
//! ```text
//! slot   0 to 3, by the message's name
//! at     us since 1970, 16 digits : msg or retain : the message's name
//! ```
//!
//! DynamoDB's own time to live removes within days, and needs an attribute that the guide's items have not.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::connect::{DynamoConn, DynamoSink};
use super::error::Failure;
use super::item::{Item, item, s, text};
use super::op::MessageRow;
use super::request::{Progress, Request, Write};
use crate::sink::WriteError;

pub(super) const EXPIRY: &str = "forebay_expiry";

const SLOTS: u8 = 4;

/// Entries of a slot that upkeep removes in one step.
const UPKEEP: usize = 100;

/// The entry of a message. Names that follow one another differ in their last letter.
pub(super) fn entry(kind: &str, row: &Arc<MessageRow>, at_us: u64) -> Item {
    let slot = row.msgid.bytes().last().unwrap_or(0) % SLOTS;
    item([
        ("slot", s(slot.to_string())),
        ("at", s(format!("{at_us:016}:{kind}:{}", row.msgid))),
        ("kind", s(kind)),
        ("topic", s(&*row.topic)),
        ("msgid", s(row.msgid.as_str())),
    ])
}

impl DynamoSink {
    /// Takes note that something is to go at some time.
    pub(super) fn expires(&self) {
        self.shared.expires.store(true, Ordering::Relaxed);
    }

    /// Removes what is due; how much that was.
    pub(super) async fn expire(&self, conn: &DynamoConn, now_us: u64) -> Result<u64, WriteError> {
        if !self.shared.expires.load(Ordering::Relaxed) {
            return Ok(0);
        }
        let (link, progress) = (&*conn.link, Progress::new());
        let mut removed = 0;
        for slot in 0..SLOTS {
            let values = vec![(":slot", s(slot.to_string())), (":now", s(format!("{now_us:016}:")))];
            let due = link.query(EXPIRY, "#slot = :slot and #at < :now", values, UPKEEP).await?;
            let (mut messages, mut entries) = (Vec::new(), Vec::new());
            for found in &due {
                let (Some(slot), Some(at)) = (text(found, "slot"), text(found, "at")) else { continue };
                let delete = |table, item| Write { table, item, delete: true, entries: Vec::new() };
                entries.push(delete(EXPIRY, item([("slot", s(slot)), ("at", s(at))])));
                let (Some(topic), Some(msgid)) = (text(found, "topic"), text(found, "msgid")) else { continue };
                if text(found, "kind") == Some("retain") {
                    let request = Request::delete("mqtt_retain", item([("topic", s(topic))]));
                    let request = request.only("#msgid = :msgid").value(":msgid", s(msgid));
                    link.try_send(&progress, &request).await.map_err(Failure::into_write)?;
                } else {
                    self.map(link, &progress).remove(topic, &[msgid]).await.map_err(Failure::into_write)?;
                    messages.push(delete("mqtt_msg", item([("msgid", s(msgid))])));
                }
            }
            removed += entries.len() as u64;
            // The entry last: what a crash leaves of it is removed again.
            let mut verdicts = super::apply::Verdicts::new();
            link.write(&progress, messages, &mut verdicts).await?;
            link.write(&progress, entries, &mut verdicts).await?;
        }
        Ok(removed)
    }
}
