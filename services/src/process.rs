//! One process of a server: started in a folder of its own, found again by its pid file, ended by its pid.
//!
//! A pid file holds `PID START PORT`: the process's number, its start in clock ticks since boot, which together name one process
//! for good (a number given to another process later is never signalled), and its port.

use std::fmt;
use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

/// How long a server may take to answer after its start: the machine may be busy with a build.
const READY_WITHIN: Duration = Duration::from_secs(90);
/// How long a server may take to end after its signal, before SIGKILL.
const STOP_WITHIN: Duration = Duration::from_secs(15);
/// Pause between two looks at a condition.
const POLL: Duration = Duration::from_millis(25);

type Check = Box<dyn Fn() -> bool + Send + Sync>;

/// A running process of a server. Dropping it stops it.
pub struct Process {
    name: String,
    dir: PathBuf,
    port: u16,
    signal: Signal,
    command: Box<dyn Fn() -> Command + Send + Sync>,
    ready: Check,
    patience: Duration,
    child: Option<Child>,
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Process").field("name", &self.name).field("port", &self.port).finish_non_exhaustive()
    }
}

/// What a [`Process`] is made of.
pub(crate) struct Spec {
    /// For messages.
    pub name: String,
    /// Its folder: `pid` and `log` are written there.
    pub dir: PathBuf,
    /// Its port.
    pub port: u16,
    /// What ends it in an orderly way.
    pub signal: Signal,
    /// The command that runs it in the foreground.
    pub command: Box<dyn Fn() -> Command + Send + Sync>,
    /// True when it answers.
    pub ready: Check,
}

impl Process {
    pub(crate) fn start(spec: Spec) -> Result<Process> {
        Process::start_within(spec, READY_WITHIN)
    }

    /// As [`Process::start`], for one that takes longer; so may each restart.
    pub(crate) fn start_within(spec: Spec, patience: Duration) -> Result<Process> {
        let Spec { name, dir, port, signal, command, ready } = spec;
        let mut process = Process { name, dir, port, signal, command, ready, patience, child: None };
        process.restart()?;
        Ok(process)
    }

    /// Its port on 127.0.0.1; the same after a restart.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its process id; 0 while it is ended.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.as_ref().map_or(0, Child::id)
    }

    /// Starts it again, with the data it had, and returns when it answers.
    ///
    /// # Errors
    /// Where it does not start.
    pub fn restart(&mut self) -> Result<()> {
        self.launch()?;
        let start = Instant::now();
        while !(self.ready)() {
            let log = self.dir.join("log");
            let ended = self.child.as_mut().and_then(|child| child.try_wait().transpose());
            if let Some(status) = ended {
                self.child = None;
                bail!("{} ended with {:?}; the end of {}:\n{}", self.name, status, log.display(), tail(&log));
            }
            if start.elapsed() > self.patience {
                self.kill();
                bail!(
                    "{} did not answer within {:?}; the end of {}:\n{}",
                    self.name,
                    self.patience,
                    log.display(),
                    tail(&log)
                );
            }
            std::thread::sleep(POLL);
        }
        Ok(())
    }

    /// Starts it again and does not wait until it answers.
    ///
    /// # Errors
    /// Where the program can't be started.
    pub fn launch(&mut self) -> Result<()> {
        self.stop();
        fs::create_dir_all(&self.dir).with_context(|| format!("creating {}", self.dir.display()))?;
        let path = self.dir.join("log");
        let log = fs::File::options().create(true).append(true).open(&path);
        let log = log.with_context(|| format!("opening {}", path.display()))?;
        let mut command = (self.command)();
        command.stdin(Stdio::null()).stdout(log.try_clone().context("duplicating a file")?).stderr(log);
        let child = command.spawn().with_context(|| format!("starting {}", self.name))?;
        let pid = child.id();
        self.child = Some(child);
        let started = start_time(pid).with_context(|| format!("{} ended at once: {}", self.name, tail(&path)))?;
        fs::write(self.dir.join("pid"), format!("{pid} {started} {}\n", self.port)).context("writing the pid file")
    }

    /// SIGKILL; returns when it is gone.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // A failure here means that it has just ended, which is what is asked for.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Ends it in an orderly way, by SIGKILL where it takes too long; returns when it is gone.
    pub fn stop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        // A suspended process would not hear anything else.
        send(child.id(), Signal::CONT);
        send(child.id(), self.signal);
        let start = Instant::now();
        while start.elapsed() < STOP_WITHIN {
            if !matches!(child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(POLL);
        }
        let _ = child.kill();
        let _ = child.wait();
    }

    /// SIGSTOP: from now on it accepts connections and answers nothing.
    pub fn suspend(&self) {
        send(self.pid(), Signal::STOP);
    }

    /// SIGCONT.
    pub fn resume(&self) {
        send(self.pid(), Signal::CONT);
    }

    /// Lets it run on when this value is dropped.
    pub(crate) fn leave(mut self) {
        self.child = None;
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The last lines of a log file.
fn tail(path: &Path) -> String {
    let text = fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines.get(lines.len().saturating_sub(15)..).unwrap_or_default().join("\n")
}

fn send(pid: u32, signal: Signal) {
    // 0 would be this process's whole group.
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        // A failure means that it has ended.
        let _ = kill_process(pid, signal);
    }
}

/// The processes that run in a folder or in the folders within it.
pub(crate) fn found(dir: &Path) -> Result<Vec<u32>> {
    let mut pids = Vec::new();
    let mut folders = vec![dir.to_owned()];
    match fs::read_dir(dir) {
        Ok(entries) => folders.extend(entries.filter_map(|e| e.ok().map(|e| e.path())).filter(|p| p.is_dir())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(pids),
        Err(error) => return Err(error).with_context(|| format!("reading {}", dir.display())),
    }
    for folder in folders {
        // Its own set-up may have put folders there that this user may not read.
        let Ok(text) = fs::read_to_string(folder.join("pid")) else { continue };
        let mut fields = text.split_whitespace();
        let (Some(pid), Some(started)) = (fields.next().and_then(|p| p.parse().ok()), fields.next()) else { continue };
        if start_time(pid).is_some_and(|now| now.to_string() == started) {
            pids.push(pid);
        }
    }
    Ok(pids)
}

/// Ends every process that [`found`] finds; returns how many.
pub(crate) fn end_all(dir: &Path) -> Result<usize> {
    let pids = found(dir)?;
    // PostgreSQL waits for its clients after SIGTERM, and ends at once after SIGINT; the others take both the same way.
    for (signal, patience) in [(Signal::INT, STOP_WITHIN), (Signal::KILL, STOP_WITHIN)] {
        for pid in found(dir)? {
            send(pid, Signal::CONT);
            send(pid, signal);
        }
        let start = Instant::now();
        while start.elapsed() < patience {
            if found(dir)?.is_empty() {
                return Ok(pids.len());
            }
            std::thread::sleep(POLL);
        }
    }
    bail!("the processes {pids:?} of {} do not end", dir.display())
}

/// A process's start in clock ticks since boot. `None` where there is none, or only its remains.
pub(crate) fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the program's name in parentheses, which may itself hold spaces and parentheses.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    if fields.next()? == "Z" {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// A port of 127.0.0.1 that was free a moment ago.
///
/// # Errors
/// Where there is none.
pub fn free_port() -> Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0").context("looking for a free port")?;
    Ok(listener.local_addr().context("looking for a free port")?.port())
}

/// True when something accepts connections there.
pub(crate) fn accepts(port: u16) -> bool {
    TcpStream::connect_timeout(&SocketAddr::from(([127, 0, 0, 1], port)), Duration::from_millis(500)).is_ok()
}

/// True when the command ends with 0; its output is dropped.
pub(crate) fn succeeds(command: &mut Command) -> bool {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|s| s.success())
}

/// True when an HTTP address answers with success. A proxy of the environment is not asked.
pub(crate) fn answers(url: &str) -> bool {
    let agent =
        ureq::Agent::config_builder().proxy(None).timeout_global(Some(Duration::from_secs(5))).build().new_agent();
    agent.get(url).call().is_ok()
}

/// Runs a command to its end.
///
/// # Errors
/// Where it fails, with what it printed.
pub(crate) fn run(command: &mut Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("starting {program}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if !output.status.success() {
        bail!("{program} failed ({}): {}\n{}", output.status, text(&output.stdout), text(&output.stderr));
    }
    Ok(text(&output.stdout))
}

/// Repeats a check until it holds.
///
/// # Errors
/// Where it does not within the time that a start may take.
pub(crate) fn wait_until(what: &str, check: impl Fn() -> bool) -> Result<()> {
    let start = Instant::now();
    while !check() {
        if start.elapsed() > READY_WITHIN {
            bail!("{what}: not within {READY_WITHIN:?}");
        }
        std::thread::sleep(POLL);
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    fn sleeper(dir: &Path) -> Process {
        let command = || {
            let mut command = Command::new("sleep");
            command.arg("1000");
            command
        };
        Process::start(Spec {
            name: "sleeper".into(),
            dir: dir.join("one"),
            port: 1,
            signal: Signal::TERM,
            command: Box::new(command),
            ready: Box::new(|| true),
        })
        .unwrap()
    }

    #[test]
    fn a_process_is_found_by_its_pid_file_until_it_ends() {
        let dir = tempfile::tempdir().unwrap();
        let mut process = sleeper(dir.path());
        assert_eq!(found(dir.path()).unwrap(), [process.pid()]);
        process.kill();
        assert_eq!(found(dir.path()).unwrap(), Vec::<u32>::new());
        process.restart().unwrap();
        process.suspend();
        assert_eq!(found(dir.path()).unwrap(), [process.pid()]);
        drop(process);
        assert_eq!(found(dir.path()).unwrap(), Vec::<u32>::new());
    }

    #[test]
    fn what_was_left_running_is_ended_by_its_folder() {
        let dir = tempfile::tempdir().unwrap();
        let mut process = sleeper(dir.path());
        let mut child = process.child.take().unwrap();
        process.leave();
        // Somebody has to take note of its end, as init does when its parent is gone.
        let reaper = std::thread::spawn(move || child.wait().unwrap());
        assert_eq!(end_all(dir.path()).unwrap(), 1);
        assert!(!reaper.join().unwrap().success());
        assert_eq!(end_all(dir.path()).unwrap(), 0);
    }

    #[test]
    fn a_pid_that_now_belongs_to_another_process_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let own = std::process::id();
        fs::write(dir.path().join("pid"), format!("{own} {} 1\n", start_time(own).unwrap() + 1)).unwrap();
        assert_eq!(end_all(dir.path()).unwrap(), 0);
    }

    #[test]
    fn one_that_ends_at_its_start_is_reported_with_its_log() {
        let dir = tempfile::tempdir().unwrap();
        let command = || {
            let mut command = Command::new("sh");
            command.args(["-c", "echo the reason; sleep 0.05; exit 3"]);
            command
        };
        let spec = Spec {
            name: "failing".into(),
            dir: dir.path().to_owned(),
            port: 1,
            signal: Signal::TERM,
            command: Box::new(command),
            ready: Box::new(|| false),
        };
        let error = Process::start(spec).map(|_| ()).unwrap_err();
        assert!(format!("{error:#}").contains("the reason"), "{error:#}");
    }
}
