//! A dead letter on its way back in: encoded by the rule of its number as it is now, and sent once. A letter without a statement is of a
//! message that nothing could be made of: all that is made of it now is sent.

use forebay_engine::{Event, Lsn};

use super::Replay;
use super::reader::sink_record;
use super::worker::{End, Worker};
use crate::dead_letter::DeadLetter;
use crate::sink::{Batch, Entry, Sink, Verdict, WriteError};

impl<S: Sink> Worker<S> {
    /// Sends a dead letter and answers whoever asked. Only a lost connection concerns the worker itself.
    pub(crate) async fn replay(&mut self, replay: Replay) -> Result<(), End> {
        let result = self.try_replay(replay.id).await;
        // Who asked may have gone; the letter then simply stays open.
        let _gone = replay.answer.send(result);
        Ok(())
    }

    async fn try_replay(&mut self, id: u64) -> Result<(), String> {
        let letters = self.shared.letters.clone();
        let show = tokio::task::spawn_blocking(move || letters.show(id));
        let letter = show.await.map_err(|e| e.to_string())?.map_err(|e| e.to_string())?;
        let entries = self.encode_letter(&letter)?;
        if self.conn.is_none() {
            self.conn = Some(self.shared.sink.connect().await.map_err(|e| e.to_string())?);
        }
        let Some(conn) = self.conn.as_mut() else { return Err("there is no connection".to_owned()) };
        let write = self.shared.sink.write(conn, Batch { entries: &entries, positions: None });
        let reason = match tokio::time::timeout(self.shared.options.request_deadline, write).await {
            Ok(Ok(())) => {
                self.shared.status.stored(entries.len());
                return Ok(());
            }
            Err(_) => {
                self.conn = None;
                return Err("no answer within the deadline".to_owned());
            }
            Ok(Err(WriteError::Disconnected(error))) => {
                self.conn = None;
                return Err(error.to_string());
            }
            Ok(Err(WriteError::Busy { cause, .. })) => return Err(cause.to_string()),
            Ok(Err(WriteError::Whole(error))) => error.to_string(),
            Ok(Err(WriteError::Items(items))) => match items.into_iter().next() {
                Some((_, Verdict::Bury(error) | Verdict::Retry(error))) => error.to_string(),
                None => "refused".to_owned(),
            },
        };
        let again =
            DeadLetter { attempts: 1, reason: reason.clone(), last_seen_us: self.shared.source.now_us(), ..letter };
        self.shared.letters.bury(&again).await.map_err(|e| e.to_string())?;
        Err(reason)
    }

    fn encode_letter(&self, letter: &DeadLetter) -> Result<Vec<Entry<S::Op>>, String> {
        let event = Event::decode(letter.kind, letter.body.clone()).map_err(|e| e.to_string())?;
        let rules = self.shared.plan.rules();
        let (index, rule) = rules
            .iter()
            .enumerate()
            .find(|(_, r)| r.number == letter.rule && r.hook.name() == letter.hook)
            .ok_or_else(|| format!("there is no rule {}.{} any more", letter.hook, letter.rule))?;
        let record = sink_record(&*self.shared.source, Lsn(letter.lsn), letter.time_us, event);
        let mut ops = Vec::new();
        self.shared.sink.encode(&record, rule, &mut ops).map_err(|e| e.reason)?;
        let whole = letter.statement.is_empty();
        let entries: Vec<Entry<S::Op>> = (0..)
            .zip(ops)
            .filter(|(place, _)| whole || *place == letter.place)
            .map(|(place, op)| Entry { lsn: record.lsn, time_us: record.time_us, rule: index, place, op })
            .collect();
        if entries.is_empty() {
            return Err(format!("rule {}.{} has no statement {} any more", letter.hook, letter.rule, letter.place));
        }
        Ok(entries)
    }
}
