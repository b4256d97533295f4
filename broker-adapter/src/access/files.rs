//! Access by a users file and a file of rules.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytestring::ByteString;
use futures_util::future::{BoxFuture, FutureExt};
use parking_lot::{Mutex, RwLock};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::acl::Acl;
use super::fault::AccessError;
use super::password::{Cost, Hash};
use super::throttle::{Admit, Throttle};
use super::users::Users;
use super::verified::Verified;
use super::{Access, Action, Attempt, Denied, Identity};
use crate::metrics::{ACCESS_RELOADS, AUTHENTICATION_DELAYS, AUTHENTICATIONS, PASSWORD_HASH_SECONDS};

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Settings of [`FileAccess`]. The default asks nobody for anything.
#[derive(Clone, Debug)]
pub struct FileAccessOptions {
    /// The users file; `None` = there are no users, and what CONNECT says of one is not verified.
    pub users: Option<PathBuf>,
    /// The file of rules; `None` = everything is allowed to whoever may connect.
    pub acl: Option<PathBuf>,
    /// Whether what no rule decides is allowed.
    pub acl_default_allow: bool,
    /// Whether clients that show no credentials are let in, where their listener does not say; `None` = where there is no users file.
    pub anonymous: Option<bool>,
    /// Users whose verified password is remembered, 0 = none.
    pub verified_max: usize,
    /// Passwords hashed at a time, 0 = as many as half of the processors, at least one. Each takes a thread, and the memory its hash says.
    pub hashes_at_once: usize,
    /// Longest wait of an attempt after failed ones, zero = none waits. Should be well below the broker's connect timeout.
    pub failure_delay_max: Duration,
}

impl Default for FileAccessOptions {
    fn default() -> Self {
        FileAccessOptions {
            users: None,
            acl: None,
            acl_default_allow: false,
            anonymous: None,
            verified_max: 10_000,
            hashes_at_once: 0,
            failure_delay_max: Duration::from_secs(5),
        }
    }
}

/// What tells one state of a file from another without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    modified: (i64, i64),
    changed: (i64, i64),
    bytes: u64,
    inode: u64,
}

impl Stamp {
    fn of(path: &Path) -> Option<Stamp> {
        let data = fs::metadata(path).ok()?;
        Some(Stamp {
            modified: (data.mtime(), data.mtime_nsec()),
            changed: (data.ctime(), data.ctime_nsec()),
            bytes: data.len(),
            inode: data.ino(),
        })
    }
}

/// The files as they were last looked at, whether they were taken or not.
#[derive(Default)]
struct Seen {
    users: Option<Stamp>,
    acl: Option<Stamp>,
}

/// Access by a users file and a file of rules; both are read again when they change. See the module [`access`](crate::access).
pub struct FileAccess {
    options: FileAccessOptions,
    users: RwLock<Arc<Users>>,
    acl: RwLock<Arc<Acl>>,
    generation: AtomicU64,
    seen: Mutex<Seen>,
    verified: Verified,
    throttle: Throttle,
    hashing: Arc<Semaphore>,
    /// The hash that passwords of unknown users are compared with, so that they take as long as others; made when it is needed first.
    decoy: Mutex<Option<Arc<Hash>>>,
}

impl fmt::Debug for FileAccess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileAccess").field("options", &self.options).finish_non_exhaustive()
    }
}

impl FileAccess {
    /// Reads the files. Blocks while it does.
    ///
    /// # Errors
    /// One can't be read, or has faults: all that it has are named.
    pub fn open(options: FileAccessOptions) -> Result<FileAccess, AccessError> {
        let seen = Seen {
            users: options.users.as_deref().and_then(Stamp::of),
            acl: options.acl.as_deref().and_then(Stamp::of),
        };
        let users = options.users.as_deref().map(Users::read).transpose();
        let acl = options.acl.as_deref().map(|path| Acl::read(path, options.acl_default_allow)).transpose();
        let (users, acl) = match (users, acl) {
            (Ok(users), Ok(acl)) => (users.unwrap_or_default(), acl.unwrap_or_default()),
            (Err(AccessError::Faults(mut faults)), Err(AccessError::Faults(more))) => {
                faults.extend(more);
                return Err(AccessError::Faults(faults));
            }
            (Err(error), _) | (_, Err(error)) => return Err(error),
        };
        let at_once = match options.hashes_at_once {
            0 => std::thread::available_parallelism().map_or(1, |n| n.get() / 2).max(1),
            n => n,
        };
        if let Some(path) = &options.users {
            warn_of_readers(path);
        }
        Ok(FileAccess {
            users: RwLock::new(Arc::new(users)),
            acl: RwLock::new(Arc::new(acl)),
            generation: AtomicU64::new(0),
            seen: Mutex::new(seen),
            verified: Verified::new(options.verified_max),
            throttle: Throttle::new(options.failure_delay_max),
            hashing: Arc::new(Semaphore::new(at_once.min(Semaphore::MAX_PERMITS))),
            decoy: Mutex::default(),
            options,
        })
    }

    /// Nobody is asked for anything, everything is allowed.
    #[must_use]
    pub fn everybody() -> FileAccess {
        let options = FileAccessOptions::default();
        FileAccess {
            users: RwLock::default(),
            acl: RwLock::default(),
            generation: AtomicU64::new(0),
            seen: Mutex::default(),
            verified: Verified::new(0),
            throttle: Throttle::new(Duration::ZERO),
            hashing: Arc::new(Semaphore::new(1)),
            decoy: Mutex::default(),
            options,
        }
    }

    /// Whether clients that show no credentials are let in by a listener that says this.
    #[must_use]
    pub fn lets_anonymous_in(&self, listener: Option<bool>) -> bool {
        listener.or(self.options.anonymous).unwrap_or(self.options.users.is_none())
    }

    /// Users and rules that are in force.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        (self.users.read().len(), self.acl.read().len())
    }

    /// Reads the files again that have changed, with `all` those too that have not. A file that can't be read or has faults changes
    /// nothing: what was in force stays, and an error says so with file and line. Blocks while it reads.
    pub fn reload(&self, all: bool) {
        let mut seen = self.seen.lock();
        if let Some(path) = &self.options.users {
            let stamp = Stamp::of(path);
            if all || stamp != seen.users {
                seen.users = stamp;
                let read = Users::read(path);
                reloaded("users", path, read.as_ref().map(Users::len));
                if let Ok(users) = read {
                    warn_of_readers(path);
                    self.verified.keep(&users);
                    *self.users.write() = Arc::new(users);
                    *self.decoy.lock() = None;
                }
            }
        }
        if let Some(path) = &self.options.acl {
            let stamp = Stamp::of(path);
            if all || stamp != seen.acl {
                seen.acl = stamp;
                let read = Acl::read(path, self.options.acl_default_allow);
                reloaded("acl", path, read.as_ref().map(Acl::len));
                if let Ok(acl) = read {
                    *self.acl.write() = Arc::new(acl);
                    self.generation.fetch_add(1, Ordering::Release);
                }
            }
        }
    }

    /// Looks every second whether the files have changed. Runs until it is dropped.
    pub async fn watch(self: Arc<Self>) {
        if self.options.users.is_none() && self.options.acl.is_none() {
            return std::future::pending().await;
        }
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let this = Arc::clone(&self);
            if tokio::task::spawn_blocking(move || this.reload(false)).await.is_err() {
                return;
            }
        }
    }

    async fn who(&self, attempt: Attempt<'_>) -> Result<(Identity, &'static str), Denied> {
        let identity = |user: Option<&ByteString>| Identity { client: attempt.client.clone(), user: user.cloned() };
        if let Some(user) = attempt.certificate_user {
            return Ok((identity(Some(user)), "certificate"));
        }
        let user = attempt.user.filter(|_| self.options.users.is_some());
        let Some(user) = user else {
            return if self.lets_anonymous_in(attempt.anonymous) {
                Ok((identity(None), "anonymous"))
            } else {
                Err(Denied::NotAuthorized)
            };
        };
        let password = attempt.password.ok_or(Denied::BadCredentials)?;
        let how = self.verify(user, password, attempt.peer.ip()).await?;
        Ok((identity(Some(user)), how))
    }

    /// Verifies a password: at once where it was verified before, else when its turn comes.
    async fn verify(&self, user: &str, password: &[u8], from: std::net::IpAddr) -> Result<&'static str, Denied> {
        let known = || {
            let hash = self.users.read().get(user).cloned();
            hash.filter(|hash| self.verified.has(user, password, hash)).is_some()
        };
        if known() {
            return Ok("remembered");
        }
        let mut waited = false;
        loop {
            let turn = Arc::clone(&self.hashing).acquire_owned().await.map_err(|_| Denied::Busy)?;
            // While it waited another connection may have shown the same credentials.
            if known() {
                return Ok("remembered");
            }
            // Asked here and not before: those that went first have been counted.
            match self.throttle.admit(from, user, Instant::now()) {
                _ if waited => {}
                Admit::After(wait) if wait.is_zero() => {}
                Admit::After(wait) => {
                    drop(turn);
                    metrics::counter!(AUTHENTICATION_DELAYS).increment(1);
                    tokio::time::sleep(wait).await;
                    waited = true;
                    continue;
                }
                Admit::Refuse => return Err(Denied::TooManyFailures),
            }
            let users = Arc::clone(&self.users.read());
            let hash = users.get(user).cloned();
            let compared = match &hash {
                Some(hash) => Arc::clone(hash),
                None => self.decoy(&users).await.ok_or(Denied::Busy)?,
            };
            let given = password.to_vec();
            // The turn goes with the work: a client that has gone does not make room for more of it.
            let work = tokio::task::spawn_blocking(move || {
                let start = std::time::Instant::now();
                let right = compared.verifies(&given);
                metrics::histogram!(PASSWORD_HASH_SECONDS).record(start.elapsed().as_secs_f64());
                (right, turn)
            });
            // The turn is over when the outcome is noted: who comes next finds it.
            let (right, _turn) = work.await.map_err(|_| Denied::Busy)?;
            return match hash.filter(|_| right) {
                Some(hash) => {
                    self.throttle.succeeded(from, user);
                    self.verified.insert(user, password, &hash);
                    Ok("password")
                }
                None => {
                    self.throttle.failed(from, user, Instant::now());
                    Err(Denied::BadCredentials)
                }
            };
        }
    }

    async fn decoy(&self, users: &Users) -> Option<Arc<Hash>> {
        if let Some(decoy) = self.decoy.lock().clone() {
            return Some(decoy);
        }
        let cost = users.usual_cost();
        let made = tokio::task::spawn_blocking(move || {
            Hash::of(b"nobody's", cost).or_else(|_| Hash::of(b"", Cost::default()))
        });
        let made = Arc::new(made.await.ok()?.ok()?);
        *self.decoy.lock() = Some(Arc::clone(&made));
        Some(made)
    }
}

impl Access for FileAccess {
    fn authenticate<'a>(&'a self, attempt: Attempt<'a>) -> BoxFuture<'a, Result<Identity, Denied>> {
        async move {
            let answer = self.who(attempt).await;
            let (label, answer) = match answer {
                Ok((identity, how)) => (how, Ok(identity)),
                Err(denied) => (
                    match denied {
                        Denied::BadCredentials => "bad_credentials",
                        Denied::NotAuthorized => "not_authorized",
                        Denied::TooManyFailures => "too_many_failures",
                        Denied::Busy => "busy",
                    },
                    Err(denied),
                ),
            };
            metrics::counter!(AUTHENTICATIONS, "result" => label).increment(1);
            answer
        }
        .boxed()
    }

    fn restricts(&self, _identity: &Identity) -> bool {
        self.options.acl.is_some()
    }

    fn may(&self, identity: &Identity, action: Action, topic: &str) -> bool {
        self.options.acl.is_none() || self.acl.read().may(identity, action, topic)
    }

    fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }
}

fn reloaded(file: &'static str, path: &Path, read: Result<usize, &AccessError>) {
    let result = if read.is_ok() { "taken" } else { "refused" };
    metrics::counter!(ACCESS_RELOADS, "file" => file, "result" => result).increment(1);
    match read {
        Ok(entries) => tracing::info!(file = %path.display(), entries, "the {file} file was read again"),
        Err(error) => tracing::error!("the {file} file was not taken, what was in force before stays:\n{error}"),
    }
}

/// Hashes are for the server's eyes only.
fn warn_of_readers(path: &Path) {
    match fs::metadata(path) {
        Ok(data) if data.mode() & 0o004 != 0 => {
            tracing::warn!(file = %path.display(), "every user of this machine can read the users file: chmod 600 it");
        }
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => tracing::debug!(file = %path.display(), %error, "the users file's mode"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHEAP: Cost = Cost { memory_kib: 8, passes: 1, lanes: 1 };

    fn attempt<'a>(user: &'a ByteString, client: &'a ByteString, password: &'a [u8]) -> Attempt<'a> {
        let peer = std::net::SocketAddr::from(([127, 0, 0, 1], 1));
        let (user, password) = (Some(user), Some(password));
        Attempt { client, user, password, certificate_user: None, peer, listener: peer, anonymous: None }
    }

    fn with_users(dir: &Path, users: &[(&str, &str)], failure_delay_max: Duration) -> FileAccess {
        let path = dir.join("users");
        let lines =
            users.iter().map(|(name, pw)| format!("{name}:{}\n", Hash::of(pw.as_bytes(), CHEAP).unwrap().text()));
        fs::write(&path, lines.collect::<String>()).unwrap();
        let options = FileAccessOptions { users: Some(path), failure_delay_max, ..FileAccessOptions::default() };
        FileAccess::open(options).unwrap()
    }

    async fn asks(access: &FileAccess, user: &str, password: &str) -> Result<(Identity, &'static str), Denied> {
        let (user, client) = (ByteString::from(user), ByteString::from("c"));
        access.who(attempt(&user, &client, password.as_bytes())).await
    }

    #[tokio::test]
    async fn a_verified_password_is_remembered_until_the_user_s_line_changes() {
        let dir = tempfile::tempdir().unwrap();
        let access = with_users(dir.path(), &[("a", "1"), ("b", "2")], Duration::ZERO);
        for (user, password, expected) in [
            ("a", "1", Ok("password")),
            ("a", "1", Ok("remembered")),
            ("b", "2", Ok("password")),
            ("a", "2", Err(Denied::BadCredentials)),
        ] {
            assert_eq!(asks(&access, user, password).await.map(|(_, how)| how), expected, "{user} {password}");
        }
        let path = dir.path().join("users");
        let file = super::super::UsersFile::new(&path).with_cost(CHEAP);
        file.set_password("a", b"3").unwrap();
        access.reload(false);
        assert_eq!(access.verified.len(), 1, "b's line is the same");
        for (user, password, expected) in
            [("a", "1", Err(Denied::BadCredentials)), ("a", "3", Ok("password")), ("b", "2", Ok("remembered"))]
        {
            assert_eq!(asks(&access, user, password).await.map(|(_, how)| how), expected, "{user} {password}");
        }
        file.remove("b").unwrap();
        access.reload(false);
        assert_eq!(asks(&access, "b", "2").await, Err(Denied::BadCredentials));
        // A bad file, and none at all, leave what was in force.
        fs::write(&path, "a:x\n").unwrap();
        access.reload(false);
        assert!(asks(&access, "a", "3").await.is_ok());
        fs::remove_file(&path).unwrap();
        access.reload(false);
        assert!(asks(&access, "a", "3").await.is_ok());
        assert_eq!(access.counts(), (1, 0));
    }

    #[tokio::test]
    async fn many_at_once_with_the_same_credentials_cost_as_many_hashes_as_run_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let access = with_users(dir.path(), &[("a", "1")], Duration::ZERO);
        let answers = futures_util::future::join_all((0..200).map(|_| asks(&access, "a", "1"))).await;
        let hashed = answers.iter().filter(|answer| matches!(answer, Ok((_, "password")))).count();
        assert!(answers.iter().all(Result::is_ok));
        let at_once = std::thread::available_parallelism().unwrap().get().div_ceil(2);
        assert!(hashed <= at_once, "{hashed} hashes");
    }

    #[tokio::test]
    async fn guessing_with_many_connections_is_cut_short_and_who_is_known_does_not_notice() {
        let dir = tempfile::tempdir().unwrap();
        let access = with_users(dir.path(), &[("a", "1")], Duration::from_millis(300));
        assert!(asks(&access, "a", "1").await.is_ok());
        let guesses = (0..50).map(|n| {
            let access = &access;
            async move { asks(access, "a", &format!("guess {n}")).await }
        });
        let answers = futures_util::future::join_all(guesses).await;
        let looked_at = answers.iter().filter(|answer| **answer == Err(Denied::BadCredentials)).count();
        let refused = answers.iter().filter(|answer| **answer == Err(Denied::TooManyFailures)).count();
        assert_eq!(looked_at + refused, 50);
        assert!(looked_at < 12, "{looked_at} guesses were looked at");
        assert_eq!(asks(&access, "a", "1").await.map(|(_, how)| how), Ok("remembered"));
    }

    #[tokio::test]
    async fn an_unknown_user_costs_a_hash_of_the_usual_cost() {
        let dir = tempfile::tempdir().unwrap();
        let access = with_users(dir.path(), &[("a", "1")], Duration::ZERO);
        assert_eq!(asks(&access, "nobody", "1").await, Err(Denied::BadCredentials));
        let decoy = access.decoy.lock().clone().unwrap();
        assert_eq!(decoy.cost(), CHEAP);
    }
}
