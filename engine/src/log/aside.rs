//! Setting a damaged file aside: a durable copy under a name that nothing ever touches again.

use std::io;
use std::path::{Path, PathBuf};

use super::window::Window;
use crate::disk::{Disk, DiskFile, OpenHow};

/// A copy of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Copy {
    pub path: PathBuf,
    pub bytes: u64,
    /// CRC-32 (IEEE) of all of it.
    pub crc: u32,
}

/// Copies `path`, open as `file`, to `….damaged` beside it. Durable when it returns. A copy with the same bytes that is there already is
/// taken for this one, so that an interrupted repair does not fill the disk.
pub(crate) fn copy(disk: &dyn Disk, path: &Path, file: &dyn DiskFile) -> io::Result<Copy> {
    let (bytes, crc) = sum(file)?;
    for n in 0.. {
        let there = name(path, n);
        match disk.open(&there, OpenHow::Read) {
            Ok(file) if sum(&*file).is_ok_and(|sum| sum == (bytes, crc)) => {
                return Ok(Copy { path: there, bytes, crc });
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => break,
            _ => {}
        }
    }
    let target = free_name(disk, path)?;
    let making = path.with_extension("damaged.making");
    let out = disk.open(&making, OpenHow::Create)?;
    Window::new(file)?.pieces(0, bytes, &mut |at, piece| out.write_all_at(piece, at))?;
    out.sync_data()?;
    drop(out);
    disk.rename(&making, &target)?;
    if let Some(dir) = path.parent() {
        disk.sync_dir(dir)?;
    }
    Ok(Copy { path: target, bytes, crc })
}

fn name(path: &Path, n: u64) -> PathBuf {
    if n == 0 { path.with_extension("damaged") } else { path.with_extension(format!("{n}.damaged")) }
}

/// A name for what is set aside of `path` that no file has.
pub(crate) fn free_name(disk: &dyn Disk, path: &Path) -> io::Result<PathBuf> {
    let mut n = 0;
    loop {
        let free = name(path, n);
        match disk.open(&free, OpenHow::Read) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(free),
            Err(e) if n == u64::MAX => return Err(e),
            _ => n = n.saturating_add(1),
        }
    }
}

/// Length and checksum of a file.
pub(crate) fn sum(file: &dyn DiskFile) -> io::Result<(u64, u32)> {
    let mut window = Window::new(file)?;
    let len = window.len();
    Ok((len, window.crc(0, 0, len)?))
}
