//! Servers that tests and people use: one file each, started on 127.0.0.1 and a free port, stopped by pid.
//!
//! A running server has a folder `services/<name>/` in the cache folder: its data, `log`, `pid` (process id and start time,
//! so that a number given to another process later is never signalled) and `port`.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Subcommand;

use crate::shell;

mod mosquitto;

/// What to do with the servers.
#[derive(Clone, Debug, Subcommand)]
pub enum Action {
    /// Starts them (those named, or all) and prints their addresses.
    Up {
        /// Servers.
        names: Vec<String>,
    },
    /// Stops them.
    Down {
        /// Servers.
        names: Vec<String>,
    },
    /// Says which run, where, and as which process.
    Status,
}

/// How to get and run one server.
trait Service {
    /// Its name on the command line and of its folder.
    fn name(&self) -> &'static str;
    /// The environment variable in which tests look for its address.
    fn variable(&self) -> &'static str;
    /// Makes sure that the program is there; says how to get it where it is not.
    fn install(&self) -> Result<()>;
    /// The command that runs it in the foreground with its data in `dir`.
    fn command(&self, dir: &Path, port: u16) -> Result<Command>;
    /// True when it answers.
    fn ready(&self, port: u16) -> bool;
}

fn all() -> Vec<Box<dyn Service>> {
    vec![Box::new(mosquitto::Mosquitto)]
}

/// How long a server may take to answer after its start.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// How long a server may take to end after SIGTERM, before SIGKILL.
const STOP_WITHIN: Duration = Duration::from_secs(10);
/// Pause between two looks at a condition.
const POLL: Duration = Duration::from_millis(50);

/// Runs `cargo xtask services …`.
///
/// # Errors
/// Where a server is unknown, can't be had, or does not start or stop in time.
pub fn run(action: &Action) -> Result<()> {
    match action {
        Action::Up { names } => chosen(names)?.iter().try_for_each(|service| up(service.as_ref())),
        Action::Down { names } => chosen(names)?.iter().try_for_each(|service| down(service.as_ref())),
        Action::Status => all().iter().try_for_each(|service| status(service.as_ref())),
    }
}

fn chosen(names: &[String]) -> Result<Vec<Box<dyn Service>>> {
    let known: Vec<&str> = all().iter().map(|service| service.name()).collect();
    if let Some(unknown) = names.iter().find(|name| !known.contains(&name.as_str())) {
        bail!("no server is called `{unknown}`; there are: {}", known.join(", "));
    }
    Ok(all().into_iter().filter(|s| names.is_empty() || names.iter().any(|name| name == s.name())).collect())
}

fn up(service: &dyn Service) -> Result<()> {
    let dir = folder(service)?;
    if let Some(running) = Running::find(&dir) {
        println!("{}=127.0.0.1:{}  # runs already, pid {}", service.variable(), running.port, running.pid);
        return Ok(());
    }
    service.install()?;
    let port = free_port()?;
    let log = fs::File::create(dir.join("log")).context("creating the server's log file")?;
    let mut command = service.command(&dir, port)?;
    command.stdin(Stdio::null()).stdout(log.try_clone().context("duplicating a file")?).stderr(log);
    let mut child = command.spawn().with_context(|| format!("starting {}", service.name()))?;
    let pid = child.id();
    let started = start_time(pid).context("the server ended at once; see its log file")?;
    fs::write(dir.join("pid"), format!("{pid} {started}\n")).context("writing the pid file")?;
    fs::write(dir.join("port"), format!("{port}\n")).context("writing the port file")?;
    wait_ready(service, &mut child, port, &dir)?;
    println!("{}=127.0.0.1:{port}  # pid {pid}", service.variable());
    Ok(())
}

fn wait_ready(service: &dyn Service, child: &mut Child, port: u16, dir: &Path) -> Result<()> {
    let start = Instant::now();
    while !service.ready(port) {
        let log = dir.join("log");
        if let Some(status) = child.try_wait().context("looking after the server")? {
            bail!("{} ended with {status}; see {}", service.name(), log.display());
        }
        if start.elapsed() > READY_WITHIN {
            down(service)?;
            bail!("{} did not answer within {READY_WITHIN:?}; see {}", service.name(), log.display());
        }
        std::thread::sleep(POLL);
    }
    Ok(())
}

fn down(service: &dyn Service) -> Result<()> {
    let dir = folder(service)?;
    let Some(running) = Running::find(&dir) else {
        println!("{} does not run", service.name());
        return Ok(());
    };
    for (signal, patience) in [("-TERM", STOP_WITHIN), ("-KILL", STOP_WITHIN)] {
        // A failure here means that it has just ended, which is what is asked for.
        let _ = Command::new("kill").args([signal, &running.pid.to_string()]).stderr(Stdio::null()).status();
        let start = Instant::now();
        while start.elapsed() < patience {
            if Running::find(&dir).is_none() {
                fs::remove_file(dir.join("pid")).context("removing the pid file")?;
                println!("{} stopped", service.name());
                return Ok(());
            }
            std::thread::sleep(POLL);
        }
    }
    bail!("{} (pid {}) does not end", service.name(), running.pid)
}

fn status(service: &dyn Service) -> Result<()> {
    match Running::find(&folder(service)?) {
        Some(running) if service.ready(running.port) => {
            println!("{:<12} 127.0.0.1:{}  pid {}  answers", service.name(), running.port, running.pid);
        }
        Some(running) => {
            println!("{:<12} 127.0.0.1:{}  pid {}  DOES NOT ANSWER", service.name(), running.port, running.pid);
        }
        None => println!("{:<12} down", service.name()),
    }
    Ok(())
}

fn folder(service: &dyn Service) -> Result<PathBuf> {
    let dir = shell::cache()?.join("services").join(service.name());
    fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
    Ok(dir)
}

struct Running {
    pid: u32,
    port: u16,
}

impl Running {
    fn find(dir: &Path) -> Option<Running> {
        let text = fs::read_to_string(dir.join("pid")).ok()?;
        let (pid, started) = text.trim().split_once(' ')?;
        let pid = pid.parse().ok()?;
        let port = fs::read_to_string(dir.join("port")).ok()?.trim().parse().ok()?;
        (start_time(pid)?.to_string() == started).then_some(Running { pid, port })
    }
}

/// A process's start in clock ticks since boot: with the pid it names one process for good. `None` where there is none, or
/// only its remains.
fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the program's name in parentheses, which may itself hold spaces and parentheses.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    if fields.next()? == "Z" {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

fn free_port() -> Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0").context("looking for a free port")?;
    Ok(listener.local_addr().context("looking for a free port")?.port())
}
