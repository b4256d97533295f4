//! The data folder as seen from outside the engine: who holds it, and where its server listens.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::exit::{Exit, Failure};

/// The file that a running server holds a lock on; the engine's name for it.
const LOCK_FILE: &str = "LOCK";
/// The file in which a running server says where it listens.
const SERVER_FILE: &str = "server.json";

/// Where a server listens.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Server {
    /// Its process.
    pub pid: u32,
    /// Its admin HTTP listener.
    pub admin: SocketAddr,
    /// Its first MQTT listener.
    pub mqtt: SocketAddr,
}

impl Server {
    /// What the folder says. It may be left over from a server that was killed.
    pub fn read(data: &Path) -> Option<Server> {
        serde_json::from_slice(&std::fs::read(data.join(SERVER_FILE)).ok()?).ok()
    }

    /// Says it. Readers see the whole text or none.
    ///
    /// # Errors
    /// Where the folder can't be written to.
    pub fn write(&self, data: &Path) -> io::Result<()> {
        let fresh = data.join("server.json.new");
        let mut file = File::create(&fresh)?;
        serde_json::to_writer(&mut file, self)?;
        file.flush()?;
        std::fs::rename(fresh, data.join(SERVER_FILE))
    }

    /// Takes it back at the end. A file left over does no harm: who finds it finds no lock.
    pub fn forget(data: &Path) {
        let _ = std::fs::remove_file(data.join(SERVER_FILE));
    }
}

/// The lock of a data folder; held until dropped.
#[derive(Debug)]
pub struct Lock {
    data: PathBuf,
    _file: File,
}

impl Deref for Lock {
    type Target = Path;
    fn deref(&self) -> &Path {
        &self.data
    }
}

/// How long a held lock is looked at again. A server that was just killed may leave a copy of it with a child process that it was
/// starting; that child lets go as soon as it runs its own program.
const PATIENCE: Duration = Duration::from_secs(1);
const STEP: Duration = Duration::from_millis(10);

fn try_lock(file: &File) -> Result<(), TryLockError> {
    let end = Instant::now() + PATIENCE;
    loop {
        match file.try_lock() {
            Err(TryLockError::WouldBlock) if Instant::now() < end => std::thread::sleep(STEP),
            answer => return answer,
        }
    }
}

/// True when some process holds the folder at this moment.
pub fn is_locked(data: &Path) -> bool {
    lock_file(data).is_ok_and(|file| matches!(file.try_lock(), Err(TryLockError::WouldBlock)))
}

/// True when some process holds the folder and does not let go within a moment.
pub fn stays_locked(data: &Path) -> bool {
    lock_file(data).is_ok_and(|file| matches!(try_lock(&file), Err(TryLockError::WouldBlock)))
}

fn lock_file(data: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(data.join(LOCK_FILE))
}

/// Takes the lock of a folder that is there already.
///
/// # Errors
/// Where the folder is not there, holds no data, or is in use.
pub fn lock(data: &Path) -> Result<Lock, Failure> {
    let path = data.join(LOCK_FILE);
    let file = OpenOptions::new().read(true).write(true).open(&path).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => Failure::new(
            Exit::Failure,
            format!("{} is no data folder of Forebay: give the right one with --data", data.display()),
        ),
        _ => Failure::io(path.display(), &source),
    })?;
    match try_lock(&file) {
        Ok(()) => Ok(Lock { data: data.to_owned(), _file: file }),
        Err(TryLockError::WouldBlock) => Err(in_use(data)),
        Err(TryLockError::Error(source)) => Err(Failure::io(path.display(), &source)),
    }
}

/// The failure of a folder that is in use.
pub fn in_use(data: &Path) -> Failure {
    let who = Server::read(data).map(|server| format!(" (process {})", server.pid)).unwrap_or_default();
    let text = format!(
        "the data folder {} is in use by another process{who}: stop it, or choose another folder with --data",
        data.display()
    );
    Failure::new(Exit::Locked, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_held_folder_is_seen_as_locked_and_a_second_lock_refused_with_code_3() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(lock(dir.path()).unwrap_err().exit, Exit::Failure);
        File::create(dir.path().join(LOCK_FILE)).unwrap();
        assert!(!is_locked(dir.path()));
        let held = lock(dir.path()).unwrap();
        assert!(is_locked(dir.path()));
        assert_eq!(lock(dir.path()).unwrap_err().exit, Exit::Locked);
        drop(held);
        assert!(lock(dir.path()).is_ok());
    }
}
