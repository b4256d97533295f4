//! Real servers for Forebay's tests and for people who work on it.
//!
//! Each server is a [`Service`]: how to get its programs, and how to start it with its data in a folder. All listen on 127.0.0.1
//! and on ports that were free. There are two ways to have one:
//!
//! - *shared*: `cargo xtask services up [NAME]` starts it, and `cargo xtask test` starts all that do not run and stops those it
//!   started. Tests ask for its [`address`] and keep apart by a database, schema or prefix of their own. An address in the
//!   environment (`FOREBAY_TEST_…`) comes first.
//! - *private*: [`private`] starts one for a single test, which may kill, suspend and restart it. It ends with the test; what a
//!   killed test leaves behind is ended by the next [`sweep`].
//!
//! ```text
//!  BASE = FOREBAY_SERVICES_DIR, else /var/tmp/forebay-services-UID      (a server may run as another user, who must get there)
//!   ├── shared/NAME/[MEMBER/]                pid, log, data; `address` once it answers
//!   ├── private/OWNER-N-NAME/[MEMBER/]       the same; OWNER is the pid and start time of the test process
//!   ├── templates/NAME/                      a data folder as its server's own set-up made it, copied for each start
//!   └── certificates/                        one authority; a server's and a client's certificate
//! ```

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result, bail};

pub mod cassandra;
pub mod certificates;
pub mod dynamodb;
pub mod influxdb;
mod java;
pub mod mariadb;
pub mod mongo;
pub mod mosquitto;
pub mod mysql;
pub mod npm;
pub mod opentsdb;
pub mod packages;
pub mod pgbouncer;
pub mod postgres;
mod process;
pub mod redis;
mod template;
pub mod toxiproxy;
pub mod victoria;

pub use process::{Process, free_port};

/// How to get and run one server.
pub trait Service {
    /// Its name on the command line and of its folder.
    fn name(&self) -> &'static str;

    /// The environment variable in which tests look for its address first.
    fn variable(&self) -> &'static str;

    /// Makes sure that its programs are there.
    ///
    /// # Errors
    /// Where they can't be had; the message says how to get them.
    fn install(&self) -> Result<()>;

    /// Starts it with its data in `dir` (empty at first, kept over restarts) and returns when it answers.
    ///
    /// # Errors
    /// Where it does not start; nothing of it is running then.
    fn start(&self, dir: &Path) -> Result<Running>;
}

/// A server that runs: one process or several. Dropping it stops it.
#[derive(Debug)]
pub struct Running {
    /// Where it is, as tests get it.
    pub address: String,
    /// Its processes; one that others need comes after them.
    pub members: Vec<Process>,
}

impl Running {
    /// Lets it go on when this value is dropped.
    fn leave(mut self) -> String {
        self.members.drain(..).for_each(Process::leave);
        std::mem::take(&mut self.address)
    }

    /// Its process, where it is a single one.
    ///
    /// # Panics
    /// Where there is none.
    #[must_use]
    #[expect(clippy::expect_used, reason = "for tests; every service starts a process")]
    pub fn process(&mut self) -> &mut Process {
        self.members.first_mut().expect("a service has a process")
    }
}

/// Every server there is.
#[must_use]
pub fn all() -> Vec<Box<dyn Service>> {
    vec![
        Box::new(mosquitto::Mosquitto),
        Box::new(redis::Redis { tls: false, durable: false }),
        Box::new(redis::Redis { tls: true, durable: false }),
        Box::new(redis::Sentinel),
        Box::new(redis::Cluster),
        Box::new(mariadb::MariaDb),
        Box::new(mysql::MySql),
        Box::new(postgres::Postgres),
        Box::new(mongo::Mongo { tls: false, durable: false }),
        Box::new(mongo::Nx),
        Box::new(influxdb::InfluxDb { tls: false }),
        Box::new(influxdb::InfluxDb { tls: true }),
        Box::new(opentsdb::OpenTsdb),
        Box::new(cassandra::Cassandra { tls: false }),
        Box::new(dynamodb::DynamoDb { durable: false }),
        Box::new(victoria::Victoria),
        Box::new(toxiproxy::Toxiproxy),
    ]
}

/// The folder of all servers, made where it is missing. Two runs of the tests at once each need their own: some tests empty a shared server.
///
/// # Errors
/// Where it can't be made.
pub fn base() -> Result<PathBuf> {
    let dir = std::env::var_os("FOREBAY_SERVICES_DIR").map_or_else(
        || PathBuf::from(format!("/var/tmp/forebay-services-{}", rustix::process::getuid().as_raw())),
        PathBuf::from,
    );
    make(&dir)?;
    Ok(dir)
}

fn make(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))
}

fn shared_dir(service: &dyn Service) -> Result<PathBuf> {
    Ok(base()?.join("shared").join(service.name()))
}

/// The address that tests are to use for a shared server.
///
/// # Errors
/// Where it neither stands in the environment nor runs; the message names the command that starts it.
pub fn address(name: &str) -> Result<String> {
    let service = all().into_iter().find(|s| s.name() == name);
    let service = service.with_context(|| format!("there is no server called `{name}`"))?;
    if let Ok(given) = std::env::var(service.variable()) {
        return Ok(given);
    }
    match shared(service.as_ref())? {
        Some(address) => Ok(address),
        None => bail!(
            "the tests' {name} is not running. Start it:\n\n    cargo xtask services up {name}\n\nor give another one's address in {}",
            service.variable()
        ),
    }
}

/// Where a shared server runs; `None` where it does not.
///
/// # Errors
/// Where its folder can't be read.
pub fn shared(service: &dyn Service) -> Result<Option<String>> {
    let dir = shared_dir(service)?;
    let found = process::found(&dir)?;
    if found.is_empty() {
        return Ok(None);
    }
    Ok(fs::read_to_string(dir.join("address")).ok().map(|text| text.trim().to_owned()))
}

/// Starts a shared server with an empty data folder, unless it runs; returns its address and whether it was started now.
///
/// # Errors
/// Where it can't be had or does not start.
pub fn up(service: &dyn Service) -> Result<(String, bool)> {
    if let Some(address) = shared(service)? {
        return Ok((address, false));
    }
    service.install()?;
    let dir = shared_dir(service)?;
    // A set of which only some run is begun anew.
    process::end_all(&dir)?;
    empty(&dir)?;
    let running = service.start(&dir).with_context(|| format!("starting {}", service.name()))?;
    let address = running.leave();
    fs::write(dir.join("address"), format!("{address}\n")).context("writing the address file")?;
    Ok((address, true))
}

/// Stops a shared server; false where it did not run.
///
/// # Errors
/// Where one of its processes does not end.
pub fn down(service: &dyn Service) -> Result<bool> {
    let dir = shared_dir(service)?;
    let ended = process::end_all(&dir)?;
    // Absent where it never ran.
    let _ = fs::remove_file(dir.join("address"));
    Ok(ended > 0)
}

/// A server of one test's own: it may be killed, suspended and restarted. Ends, and its folder goes, when it is dropped.
#[derive(Debug)]
pub struct Private {
    running: Option<Running>,
    dir: PathBuf,
}

impl std::ops::Deref for Private {
    type Target = Running;

    #[expect(clippy::expect_used, reason = "it is taken only while it is dropped")]
    fn deref(&self) -> &Running {
        self.running.as_ref().expect("running until dropped")
    }
}

impl std::ops::DerefMut for Private {
    #[expect(clippy::expect_used, reason = "it is taken only while it is dropped")]
    fn deref_mut(&mut self) -> &mut Running {
        self.running.as_mut().expect("running until dropped")
    }
}

impl Drop for Private {
    fn drop(&mut self) {
        drop(self.running.take());
        // What can't be removed is tried again by the next sweep.
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Starts a server for one test.
///
/// # Errors
/// Where it can't be had or does not start.
pub fn private(service: &dyn Service) -> Result<Private> {
    private_at(service, None)
}

/// As [`private`], with its data in a folder of the caller's (a small file system, say), which is left to the caller.
///
/// # Errors
/// Where it can't be had or does not start.
pub fn private_in(service: &dyn Service, dir: &Path) -> Result<Private> {
    private_at(service, Some(dir))
}

fn private_at(service: &dyn Service, data: Option<&Path>) -> Result<Private> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    service.install()?;
    let pid = std::process::id();
    let started = process::start_time(pid).context("reading this process's start time")?;
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let dir = base()?.join("private").join(format!("{pid}.{started}-{number}-{}", service.name()));
    empty(&dir)?;
    if let Some(data) = data {
        // The folder under BASE is a way to the caller's, so that a sweep finds the processes.
        std::os::unix::fs::symlink(data, dir.join("data")).context("linking the data folder")?;
    }
    let place = if data.is_some() { dir.join("data") } else { dir.clone() };
    match service.start(&place).with_context(|| format!("starting {}", service.name())) {
        Ok(running) => Ok(Private { running: Some(running), dir }),
        Err(error) => {
            // The log files are what explains it.
            Err(error.context(format!("its files are in {}", dir.display())))
        }
    }
}

/// Ends the private servers of test processes that are gone, and removes their folders; returns how many there were.
///
/// # Errors
/// Where one of their processes does not end.
pub fn sweep() -> Result<usize> {
    let dir = base()?.join("private");
    make(&dir)?;
    let mut swept = 0;
    for entry in fs::read_dir(&dir).with_context(|| format!("reading {}", dir.display()))? {
        let path = entry.context("reading a folder")?.path();
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        let owner = name.split_once('-').and_then(|(owner, _)| owner.split_once('.'));
        let alive = owner.is_some_and(|(pid, started)| {
            pid.parse().ok().and_then(process::start_time).is_some_and(|now| now.to_string() == started)
        });
        if !alive {
            process::end_all(&path)?;
            fs::remove_dir_all(&path).with_context(|| format!("removing {}", path.display()))?;
            swept += 1;
        }
    }
    Ok(swept)
}

fn empty(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("emptying {}", dir.display()))
        }
        _ => make(dir),
    }
}

/// FNV-1a of the words, each ended by a zero byte, in hexadecimal: a name, not a proof.
fn sum<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    let mut sum = 0xcbf2_9ce4_8422_2325_u64;
    for word in words {
        for byte in word.bytes().chain([0]) {
            sum = (sum ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
    format!("{sum:016x}")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    #[test]
    fn names_and_variables_are_each_one_servers() {
        let mut names: Vec<&str> = all().iter().flat_map(|s| [s.name(), s.variable()]).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }

    #[test]
    fn a_missing_server_is_answered_with_the_command_that_starts_it() {
        let error = address("no-such").unwrap_err();
        assert!(error.to_string().contains("no-such"));
    }
}
