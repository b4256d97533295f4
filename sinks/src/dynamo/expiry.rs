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

use super::apply::Verdicts;
use super::connect::{DynamoConn, DynamoSink, Link};
use super::error::Failure;
use super::fold::{Retained, Segment};
use super::item::{Item, item, s, text};
use super::op::MessageRow;
use super::request::{Progress, Request, Write, bury};
use crate::sink::{Verdict, WriteError};

const EXPIRY: &str = "forebay_expiry";

const SLOTS: u8 = 4;

/// Entries of a slot that upkeep removes in one step.
const UPKEEP: usize = 100;

/// The entry of a message. Names that follow one another differ in their last letter.
fn entry(kind: &str, row: &Arc<MessageRow>, at_us: u64) -> Item {
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
    /// The entries of what a batch stores for some time. They are written behind what they are to remove: another connection's upkeep may
    /// carry one out as soon as it is there, and what it finds nothing of would stay for ever.
    pub(super) fn entries(&self, segment: &Segment<'_>) -> Vec<Write> {
        let put = |item, entries: &[usize]| Write { table: EXPIRY, item, delete: false, entries: entries.to_vec() };
        let messages = segment.messages.values().filter_map(|message| {
            message.expires_us.map(|at_us| put(entry("msg", message.row, at_us), &message.entries))
        });
        let retained = segment.retained.values().filter_map(|retained| match retained.value {
            Retained::Is(row) => row.expires_us.map(|at_us| put(entry("retain", row, at_us), &retained.entries)),
            Retained::Gone(_) => None,
        });
        let entries: Vec<Write> = messages.chain(retained).collect();
        if !entries.is_empty() {
            self.shared.expires.store(true, Ordering::Relaxed);
        }
        entries
    }

    /// Removes what is due; how much that was.
    ///
    /// # Errors
    /// Where DynamoDB refuses to remove something, and there is nothing else to be removed: its entry stays, and it is tried again.
    pub(super) async fn expire(&self, conn: &DynamoConn, now_us: u64) -> Result<u64, WriteError> {
        if !self.shared.expires.load(Ordering::Relaxed) {
            return Ok(0);
        }
        let (link, progress) = (&*conn.link, Progress::new());
        let (mut removed, mut stays) = (0, None);
        for slot in 0..SLOTS {
            let values = vec![(":slot", s(slot.to_string())), (":now", s(format!("{now_us:016}:")))];
            let due = link.query(EXPIRY, "#slot = :slot and #at < :now", values, UPKEEP).await?;
            let refused = self.carry_out(link, &progress, &due).await?;
            removed += due.len().saturating_sub(refused.len()) as u64;
            if let Some((number, Verdict::Bury(why))) = refused.first_key_value() {
                let at = due.get(*number).and_then(|found| text(found, "at")).unwrap_or_default();
                stays = Some(format!(
                    "{EXPIRY}: what slot {slot}, at {at} names can't be removed, so it and its entry stay: {why} (remove them by hand)"
                ));
            }
        }
        match stays {
            Some(why) if removed == 0 => Err(WriteError::busy(why)),
            _ => Ok(removed),
        }
    }

    /// Removes what entries name, then the entries; those by their place of which something was refused, and that stay.
    async fn carry_out(&self, link: &Link, progress: &Progress, due: &[Item]) -> Result<Verdicts, WriteError> {
        let mut refused = Verdicts::new();
        let mut messages = Vec::new();
        for (number, found) in due.iter().enumerate() {
            match self.unname(link, progress, found).await {
                Ok(None) => {}
                Ok(Some(item)) => messages.push(Write { table: "mqtt_msg", item, delete: true, entries: vec![number] }),
                Err(Failure::Own(why)) => bury(&mut refused, &[number], &why),
                Err(failure) => return Err(failure.into_write()),
            }
        }
        link.write(progress, messages, &mut refused).await?;
        // The entry last: what a crash leaves of it is removed again. One that was not carried out is all that tells of it.
        let over = due.iter().enumerate().filter(|(number, _)| !refused.contains_key(number));
        let entries: Vec<Write> = over
            .filter_map(|(number, found)| {
                let item = item([("slot", s(text(found, "slot")?)), ("at", s(text(found, "at")?))]);
                Some(Write { table: EXPIRY, item, delete: true, entries: vec![number] })
            })
            .collect();
        link.write(progress, entries, &mut refused).await?;
        Ok(refused)
    }

    /// Removes a retained message that is over, or the name of a message; the key of the message then.
    async fn unname(&self, link: &Link, progress: &Progress, found: &Item) -> Result<Option<Item>, Failure> {
        let (Some(topic), Some(msgid)) = (text(found, "topic"), text(found, "msgid")) else { return Ok(None) };
        if text(found, "kind") == Some("retain") {
            let request = Request::delete("mqtt_retain", item([("topic", s(topic))]));
            let request = request.only("#msgid = :msgid").value(":msgid", s(msgid));
            return link.try_send(progress, &request).await.map(|_| None);
        }
        self.map(link, progress).remove(topic, &[msgid]).await?;
        Ok(Some(item([("msgid", s(msgid))])))
    }
}
