//! `forebay_position` in MongoDB.
//!
//! ```text
//! { _id: "<log, 16 hexadecimal digits>/<sink>/<lane>", lsn, prefix, epoch, fence }     65 documents a sink
//!   lane 0..63   lsn: every record of the lane below it is done;  prefix: what was known of all lanes when it was written
//!   lane 64      lsn: as prefix, written when there is no lane to write
//!   epoch        changes with `forebay sink reset`: who still writes with another one is refused
//!   fence        counts connects: a transaction of a lost connection that is still open then fails
//! ```

use forebay_engine::Lsn;
use mongodb::bson::{Document, doc};
use mongodb::options::{FindOptions, ReadConcern};

use super::command::{Command, Kind, integer};
use super::conn::MongoConn;
use super::connect::MongoSink;
use crate::sink::{Kept, LANES, PREFIX_LANE, Positions, WriteError};

/// The collection.
pub(super) const POSITION: &str = "forebay_position";

/// The documents of one sink, and the epoch they had when they were read.
#[derive(Clone, Debug)]
pub(super) struct Home {
    prefix: String,
    epoch: String,
}

impl Home {
    fn name(log_id: u64, sink: &str) -> String {
        format!("{log_id:016x}/{sink}/")
    }

    fn id(&self, lane: u16) -> String {
        format!("{}{lane}", self.prefix)
    }
}

fn ids(prefix: &str) -> Vec<String> {
    (0..=PREFIX_LANE).map(|lane| format!("{prefix}{lane}")).collect()
}

fn fresh() -> String {
    format!("{:016x}", rand::random::<u64>())
}

impl MongoSink {
    /// Reads the position, and makes the documents where they are missing.
    pub(super) async fn read_positions(
        &self,
        conn: &mut MongoConn,
        log_id: u64,
        sink: &str,
    ) -> Result<Kept, WriteError> {
        let prefix = Home::name(log_id, sink);
        if conn.transactions {
            conn.fence(&prefix).await?;
        }
        let mut found = conn.position_documents(&prefix).await?;
        if found.len() <= usize::from(PREFIX_LANE) {
            // Those that are there keep what they hold.
            let mut command = Command::new(Kind::Update, POSITION);
            let made = doc! { "lsn": 0_i64, "prefix": 0_i64, "fence": 0_i64, "epoch": fresh() };
            for id in ids(&prefix) {
                command.update(doc! { "_id": id }, doc! { "$setOnInsert": made.clone() }, true, Vec::new());
            }
            conn.demand(&command).await?;
            found = conn.position_documents(&prefix).await?;
        }
        if found.iter().any(|document| document.get("epoch") != found.first().and_then(|first| first.get("epoch"))) {
            // Several connections made them. All of them agree on the epoch of the first.
            let first = conn.all(POSITION, doc! { "_id": format!("{prefix}0") }, FindOptions::default()).await?;
            let epoch = first.first().and_then(|d| d.get_str("epoch").ok()).unwrap_or_default().to_owned();
            let mut command = Command::new(Kind::Update, POSITION);
            command.update_all(
                doc! { "_id": { "$in": ids(&prefix) } },
                doc! { "$set": { "epoch": epoch } },
                Vec::new(),
            );
            conn.demand(&command).await?;
            found = conn.position_documents(&prefix).await?;
        }
        let epoch = found.first().and_then(|d| d.get_str("epoch").ok()).unwrap_or_default().to_owned();
        let kept = read(&found, &prefix, log_id, sink).map_err(WriteError::busy)?;
        conn.home = Some(Home { prefix, epoch });
        Ok(kept)
    }

    /// Replaces the position.
    pub(super) async fn reset_positions(
        &self,
        conn: &mut MongoConn,
        log_id: u64,
        sink: &str,
        to: Lsn,
    ) -> Result<(), WriteError> {
        let prefix = Home::name(log_id, sink);
        if conn.position_documents(&prefix).await?.len() <= usize::from(PREFIX_LANE) {
            self.read_positions(conn, log_id, sink).await?;
        }
        // The new epoch first: whoever still writes on an old connection is refused from here on. In between the sink begins further back.
        let lanes: Vec<String> = (0..LANES).map(|lane| format!("{prefix}{lane}")).collect();
        let all = ids(&prefix);
        let mut command = Command::new(Kind::Update, POSITION).ordered();
        command.update_all(doc! { "_id": { "$in": all } }, doc! { "$set": { "epoch": fresh() } }, Vec::new());
        let clear = doc! { "$set": { "lsn": 0_i64, "prefix": 0_i64 } };
        command.update_all(doc! { "_id": { "$in": lanes } }, clear, Vec::new());
        let set = doc! { "$set": { "lsn": to.0.cast_signed(), "prefix": 0_i64 } };
        command.update(doc! { "_id": format!("{prefix}{PREFIX_LANE}") }, set, false, Vec::new());
        conn.home = None;
        conn.demand(&command).await
    }
}

impl MongoConn {
    async fn position_documents(&self, prefix: &str) -> Result<Vec<Document>, WriteError> {
        let mut options = FindOptions::default();
        if self.transactions {
            // What a failover may still take back is no position.
            options.read_concern = Some(ReadConcern::majority());
        }
        self.all(POSITION, doc! { "_id": { "$in": ids(prefix) } }, options).await
    }

    /// Waits for transactions of lost connections to end, or makes them fail.
    async fn fence(&mut self, prefix: &str) -> Result<(), WriteError> {
        let mut command = Command::new(Kind::Update, POSITION);
        command.update_all(doc! { "_id": { "$in": ids(prefix) } }, doc! { "$inc": { "fence": 1_i64 } }, Vec::new());
        self.demand(&command).await
    }

    /// Sends a command of Forebay's own, of which nothing may be refused.
    pub(super) async fn demand(&mut self, command: &Command) -> Result<(), WriteError> {
        let outcome = command.run(self).await?;
        match outcome.refused.first() {
            // Two connections made the same document: it is there.
            Some(one) if one.code == 11_000 => Err(WriteError::Disconnected(one.message.clone().into())),
            Some(one) => Err(super::error::answered(one.code, &one.message)),
            None => Ok(()),
        }
    }

    /// Moves the position on, never back.
    pub(super) async fn store_positions(&mut self, positions: &Positions) -> Result<(), WriteError> {
        let unread = || WriteError::Disconnected("the position was not read on this connection".into());
        let home = self.home.clone().ok_or_else(unread)?;
        let prefix = positions.prefix.0.cast_signed();
        let rows: Vec<(u16, Lsn)> =
            if positions.lanes.is_empty() { vec![(PREFIX_LANE, positions.prefix)] } else { positions.lanes.clone() };
        let mut command = Command::new(Kind::Update, POSITION);
        for (lane, lsn) in &rows {
            let filter = doc! { "_id": home.id(*lane), "epoch": &home.epoch };
            let update = doc! { "$max": { "lsn": lsn.0.cast_signed(), "prefix": prefix } };
            command.update(filter, update, false, Vec::new());
        }
        let outcome = command.run(self).await?;
        if let Some(one) = outcome.refused.first() {
            return Err(super::error::answered(one.code, &one.message));
        }
        if outcome.n < i64::try_from(rows.len()).unwrap_or(i64::MAX) {
            let why = "the sink's position in MongoDB was reset or is gone: reading it again";
            return Err(WriteError::Disconnected(why.into()));
        }
        Ok(())
    }
}

/// What the documents say.
fn read(found: &[Document], name: &str, log_id: u64, sink: &str) -> Result<Kept, String> {
    let mut positions = Positions { log_id, sink: sink.to_owned(), ..Positions::default() };
    for document in found {
        let altered = || format!("{POSITION} has a document that is no position, {document}: it was altered");
        let id = document.get_str("_id").map_err(|_| altered())?;
        let lane = id.strip_prefix(name).and_then(|lane| lane.parse::<u16>().ok()).ok_or_else(altered)?;
        let number = |field| integer(document.get(field)).ok_or_else(altered).map(|n| Lsn(n.cast_unsigned()));
        let (lsn, prefix) = (number("lsn")?, number("prefix")?);
        positions.prefix = positions.prefix.max(prefix);
        if lane == PREFIX_LANE {
            positions.prefix = positions.prefix.max(lsn);
        } else if lsn > Lsn::NONE {
            positions.lanes.push((lane, lsn));
        }
    }
    let nothing = positions.lanes.is_empty() && positions.prefix == Lsn::NONE;
    Ok(if nothing { Kept::Nothing } else { Kept::At(positions) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_prefix_is_the_highest_of_all_documents_and_zeros_are_nothing() {
        let row = |lane: u16, lsn: i64, prefix: i64| doc! { "_id": format!("x/{lane}"), "lsn": lsn, "prefix": prefix };
        assert_eq!(read(&[row(0, 0, 0), row(64, 0, 0)], "x/", 1, "s"), Ok(Kept::Nothing));
        let kept = read(&[row(3, 9, 4), row(5, 7, 6), row(6, 0, 0), row(64, 5, 0)], "x/", 1, "s").unwrap();
        let lanes = vec![(3, Lsn(9)), (5, Lsn(7))];
        assert_eq!(kept, Kept::At(Positions { log_id: 1, sink: "s".into(), lanes, prefix: Lsn(6) }));
        assert!(read(&[doc! { "_id": "x/1", "lsn": "9" }], "x/", 1, "s").is_err());
    }
}
