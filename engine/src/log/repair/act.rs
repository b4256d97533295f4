//! Doing what was planned, so that a crash after any of it leaves a folder that can be planned for again.

use std::io;
use std::path::{Path, PathBuf};

use super::planning::{How, Plan, Work};
use super::{Action, Kept};
use crate::disk::{Disk, OpenHow};
use crate::log::aside;
use crate::log::error::OpenError;
use crate::log::segment::file_name;
use crate::log::survey::MOVING;
use crate::log::trim;

/// With this file in the folder the log does not open.
const MARK: &str = "running.repair";

pub(super) fn act(disk: &dyn Disk, dir: &Path, plan: &mut Plan) -> Result<(), OpenError> {
    let io = |what| OpenError::io(what, dir);
    let mark = dir.join(MARK);
    disk.open(&mark, OpenHow::Create)
        .and_then(|file| file.sync_data())
        .and_then(|()| disk.sync_dir(dir))
        .map_err(io("marking the repair in"))?;
    for work in plan.work.iter_mut().filter(|work| matches!(work.how, How::SetAside)) {
        // A file that is to be renamed by this plan can't be one that is set aside: its place in the log is its own.
        let file = work.step.file.clone();
        set_aside(disk, dir, work).map_err(OpenError::io("setting aside", file))?;
    }
    rename(disk, dir, &plan.work).map_err(io("renaming segments in"))?;
    for work in &mut plan.work {
        let file = work.step.file.clone();
        let done = match &work.how {
            How::Write(_) => write(disk, dir, work),
            How::Floor(first) => trim::write_intent(disk, dir, *first),
            How::Rename { .. } | How::SetAside => Ok(()),
        };
        done.map_err(OpenError::io("repairing", file))?;
    }
    disk.remove(&mark).and_then(|()| disk.sync_dir(dir)).map_err(io("ending the repair in"))
}

fn set_aside(disk: &dyn Disk, dir: &Path, work: &mut Work) -> io::Result<()> {
    let file = disk.open(&work.step.file, OpenHow::Read)?;
    let (bytes, crc) = aside::sum(&*file)?;
    drop(file);
    let target = aside::free_name(disk, &work.step.file)?;
    disk.rename(&work.step.file, &target)?;
    disk.sync_dir(dir)?;
    work.step.to = Some(target.clone());
    work.step.kept = Some(Kept { file: target, bytes, crc });
    Ok(())
}

/// All to names that nothing else has, then all to their right ones: two that were swapped are in each other's way.
fn rename(disk: &dyn Disk, dir: &Path, work: &[Work]) -> io::Result<()> {
    let moves: Vec<(PathBuf, PathBuf, PathBuf)> = work
        .iter()
        .filter_map(|work| match work.how {
            How::Rename { to } => {
                let target = dir.join(file_name(to));
                Some((work.step.file.clone(), target.with_extension(MOVING), target))
            }
            _ => None,
        })
        .collect();
    if moves.is_empty() {
        return Ok(());
    }
    for (from, between, _) in moves.iter().filter(|(from, between, _)| from != between) {
        disk.rename(from, between)?;
    }
    disk.sync_dir(dir)?;
    for (_, between, to) in &moves {
        disk.rename(between, to)?;
    }
    disk.sync_dir(dir)
}

fn write(disk: &dyn Disk, dir: &Path, work: &mut Work) -> io::Result<()> {
    let How::Write(rewrite) = &work.how else { return Ok(()) };
    let target = dir.join(file_name(rewrite.header.first));
    if work.step.action == Action::Rewrite {
        let file = disk.open(&work.step.file, OpenHow::Read)?;
        let aside::Copy { path, bytes, crc } = aside::copy(disk, &work.step.file, &*file)?;
        work.step.kept = Some(Kept { file: path, bytes, crc });
    }
    let making = target.with_extension("making");
    rewrite.write(disk, &making)?;
    // What was derived from the damaged segment goes first: with the new one beside it, it would be wrong.
    for derived in [&target, &work.step.file] {
        match disk.remove(&derived.with_extension("idx")) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
    }
    disk.rename(&making, &target)?;
    disk.sync_dir(dir)?;
    if work.step.file != target {
        disk.remove(&work.step.file)?;
        disk.sync_dir(dir)?;
    }
    Ok(())
}
