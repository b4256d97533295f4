//! Servers as child processes: free loopback ports, a temporary folder each, killed and removed when dropped.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::load;

/// How long a start may take.
const START: Duration = Duration::from_secs(30);
/// Clock ticks of `/proc/<pid>/stat` in a second (Linux, all architectures in use).
const TICKS: f64 = 100.0;

/// A running server.
#[derive(Debug)]
pub struct Server {
    /// Where it takes MQTT connections.
    pub mqtt: SocketAddr,
    admin: Option<SocketAddr>,
    child: Child,
    _folder: TempDir,
}

impl Server {
    /// Mosquitto with persistence (autosave as it comes), no limit on queued messages, and up to 1,000 in flight.
    ///
    /// # Errors
    /// Where it does not start.
    pub fn mosquitto(program: &Path) -> Result<Server> {
        let (folder, mqtt) = (tempfile::tempdir()?, free_address()?);
        let file = folder.path().join("mosquitto.conf");
        let location = folder.path().display();
        let text = format!(
            "listener {} 127.0.0.1\nallow_anonymous true\npersistence true\npersistence_location {location}/\n\
             max_inflight_messages 1000\nmax_queued_messages 0\nlog_dest none\nuser root\n",
            mqtt.port()
        );
        std::fs::write(&file, text)?;
        let mut command = Command::new(program);
        command.arg("-c").arg(&file);
        Server::start(command, folder, mqtt)
    }

    /// Forebay with its defaults: every acknowledged message is synced; with or without its database sink (SQLite).
    ///
    /// # Errors
    /// Where it does not start.
    pub fn forebay(program: &Path, sink: bool) -> Result<Server> {
        Server::forebay_with(program, tempfile::tempdir()?, &[("FOREBAY_SINKS_ENABLED", &sink.to_string())], None)
    }

    /// Forebay without a sink, asking clients for the users of a file.
    ///
    /// # Errors
    /// Where it does not start.
    pub fn forebay_asking(program: &Path, users: &Path) -> Result<Server> {
        let users = users.to_string_lossy();
        // Of many clients of one address: none is slowed for another's failures.
        let env = [
            ("FOREBAY_SINKS_ENABLED", "false"),
            ("FOREBAY_ACCESS_USERS", users.as_ref()),
            ("FOREBAY_ACCESS_ANONYMOUS", "true"),
        ];
        Server::forebay_with(program, tempfile::tempdir()?, &env, None)
    }

    /// Forebay with its defaults and the rules of a configuration, in a temporary folder that goes with it.
    ///
    /// # Errors
    /// Where it does not start.
    pub fn forebay_replicating(program: &Path, folder: TempDir, conf: &str) -> Result<Server> {
        Server::forebay_with(program, folder, &[], Some(conf))
    }

    fn forebay_with(program: &Path, folder: TempDir, env: &[(&str, &str)], conf: Option<&str>) -> Result<Server> {
        let (mqtt, admin) = (free_address()?, free_address()?);
        // The child runs in another folder.
        let program = program.canonicalize().with_context(|| format!("looking for {}", program.display()))?;
        let mut command = Command::new(program);
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("FOREBAY_")) {
            command.env_remove(name);
        }
        command.envs(env.iter().copied()).current_dir(folder.path());
        command.arg("run").arg("--data").arg(folder.path().join("data"));
        command.args(["--mqtt", &mqtt.to_string(), "--admin", &admin.to_string()]);
        if let Some(conf) = conf {
            let file = folder.path().join("bench.conf");
            std::fs::write(&file, conf)?;
            command.arg("--backends").arg(file);
        }
        let mut server = Server::start(command, folder, mqtt)?;
        server.admin = Some(admin);
        Ok(server)
    }

    /// The sinks' metric of that name, by sink.
    ///
    /// # Errors
    /// Where the server has no admin interface, or does not answer.
    pub fn sink_metric(&self, name: &str) -> Result<Vec<(String, f64)>> {
        let mut stream = TcpStream::connect(self.admin.context("a server without metrics")?)?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        let of = text.lines().filter_map(|line| {
            let (labels, value) = line.strip_prefix(name)?.strip_prefix('{')?.split_once("} ")?;
            Some((labels.split('"').nth(1)?.to_owned(), value.parse().ok()?))
        });
        Ok(of.collect())
    }

    /// Resident memory, KiB.
    ///
    /// # Errors
    /// Where the system does not say.
    pub fn resident_kib(&self) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        Ok(line.trim().trim_end_matches(" kB").parse()?)
    }

    /// Starts a program and waits until it takes MQTT connections; the folder goes with it.
    pub(crate) fn start(mut command: Command, folder: TempDir, mqtt: SocketAddr) -> Result<Server> {
        let program = command.get_program().to_string_lossy().into_owned();
        let messages = std::fs::File::create(folder.path().join("stderr"))?;
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(messages).spawn();
        let child = child.with_context(|| format!("starting {program}"))?;
        let mut server = Server { mqtt, admin: None, child, _folder: folder };
        let begun = Instant::now();
        while !load::is_up(mqtt) {
            if let Some(status) = server.child.try_wait()? {
                bail!("{program} ended with {status}: {}", server.messages());
            }
            anyhow::ensure!(begun.elapsed() < START, "{program} takes no connections: {}", server.messages());
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(server)
    }

    fn messages(&self) -> String {
        std::fs::read_to_string(self._folder.path().join("stderr")).unwrap_or_default()
    }

    /// Processor time it has used, seconds (all threads, user and system).
    ///
    /// # Errors
    /// Where the system does not say.
    pub fn cpu_seconds(&self) -> Result<f64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        // The second field is the program's name in parentheses; times are the 14th and 15th.
        let (_, fields) = stat.rsplit_once(')').context("an unknown form of /proc/<pid>/stat")?;
        let ticks: f64 = fields.split_whitespace().skip(11).take(2).filter_map(|n| n.parse::<f64>().ok()).sum();
        Ok(ticks / TICKS)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An address of the loopback interface that nobody listens on.
///
/// # Errors
/// Where there is none.
pub fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}
