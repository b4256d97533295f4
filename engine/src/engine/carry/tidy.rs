//! Residue files that nobody needs any more go, and those that have become thin are written anew, together with a neighbour where
//! there are many.

use std::sync::Arc;

use super::scan::Scan;
use super::{Carrier, CarryError, FILE_BYTES, Owed};
use crate::ids::Lsn;
use crate::log::ResidueFile;

/// From so many files on, neighbours are merged.
const FILES_MAX: usize = 8;

impl Carrier {
    /// Looks at one residue file: removes it where nobody is owed any of its records, writes it anew where less than half of them
    /// are, and merges it with the next one while there are many. Bounded work: at most two files are read and one is written.
    ///
    /// # Errors
    /// See [`CarryError`]; the files are as they were.
    pub(in crate::engine) fn tidy(&mut self) -> Result<(), CarryError> {
        let residue = self.log.residue();
        let files = residue.files();
        metrics::gauge!(crate::metrics::RESIDUE_FILES).set(files.len() as f64);
        metrics::gauge!(crate::metrics::RESIDUE_BYTES).set(files.iter().map(|f| f.bytes()).sum::<u64>() as f64);
        let at = files.iter().position(|f| f.covers().start > self.tidied).unwrap_or(0);
        let Some(file) = files.get(at) else { return Ok(()) };
        self.tidied = file.covers().start;
        let live = self.live(file)?;
        if live.is_empty() {
            residue.remove(file.covers().start)?;
            return Ok(());
        }
        let neighbour =
            files.get(at + 1).filter(|next| files.len() > FILES_MAX && file.bytes() + next.bytes() <= FILE_BYTES);
        if neighbour.is_none() && live.len() as u64 * 2 >= file.records() {
            return Ok(());
        }
        let mut parts: Vec<(&Arc<ResidueFile>, _)> = vec![(file, live)];
        if let Some(next) = neighbour {
            parts.push((next, self.live(next)?));
        }
        let to = neighbour.map_or(file.covers().end, |next| next.covers().end.max(file.covers().end));
        let mut writer = residue.begin(file.covers().start, self.clock.now_us())?;
        let mut copy = || -> Result<(), CarryError> {
            let mut last = Lsn::NONE;
            for (file, live) in &parts {
                let mut walk = file.walk(Lsn::NONE);
                while let Some(record) = walk.next_record()? {
                    if record.lsn > last && live.contains(&record.lsn) {
                        last = record.lsn;
                        writer.push(&record)?;
                    }
                }
            }
            Ok(())
        };
        if let Err(error) = copy() {
            writer.discard();
            return Err(error);
        }
        residue.add(&writer.finish(to)?)?;
        metrics::counter!(crate::metrics::RESIDUE_REWRITES).increment(1);
        Ok(())
    }

    /// The records of a file that somebody is owed.
    fn live(&self, file: &ResidueFile) -> Result<std::collections::BTreeSet<Lsn>, CarryError> {
        let mut scan = Scan::of_residue(file)?;
        let owed = Owed::of(&self.state, &self.hub, &file.covers(), &mut scan);
        let mut live = owed.numbers();
        // A queue's message is looked for by its number, wherever it lies.
        live.retain(|lsn| scan.holds(*lsn));
        Ok(live)
    }
}
