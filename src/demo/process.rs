//! The demonstration's server: this program, as a process that can be killed.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::client::Session;
use crate::exit::{Exit, Failure};

/// How long a step may take before the demonstration gives up.
pub const PATIENCE: Duration = Duration::from_secs(15);
/// Pause between two looks at a condition.
pub const POLL: Duration = Duration::from_millis(20);

/// The failure of a step.
pub fn failed(what: impl Into<String>) -> Failure {
    Failure::new(Exit::Failure, format!("demo: {}", what.into()))
}

/// A server process with its folder and addresses.
pub struct Server {
    /// Folder of the demonstration; removed at the end.
    dir: tempfile::TempDir,
    /// MQTT listener.
    pub mqtt: SocketAddr,
    /// Admin HTTP listener.
    pub admin: SocketAddr,
    child: Option<Child>,
}

impl Server {
    /// Starts one on free ports and a temporary folder.
    ///
    /// # Errors
    /// Where it does not come up.
    pub fn start() -> Result<Server, Failure> {
        let dir = tempfile::Builder::new().prefix("forebay-demo-").tempdir();
        let dir = dir.map_err(|source| Failure::io("making a temporary folder", &source))?;
        let mut server = Server { dir, mqtt: free_address()?, admin: free_address()?, child: None };
        server.restart()?;
        Ok(server)
    }

    /// Data folder.
    pub fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// Starts the process and waits until it takes connections.
    ///
    /// # Errors
    /// Where it does not come up; the message holds what it said.
    pub fn restart(&mut self) -> Result<(), Failure> {
        let program = std::env::current_exe().map_err(|source| Failure::io("finding this program", &source))?;
        let said = self.dir.path().join("messages");
        let messages = std::fs::File::create(&said).map_err(|source| Failure::io(said.display(), &source))?;
        let mut command = Command::new(program);
        command.args(["run", "--data"]).arg(self.data());
        command.args(["--mqtt", &self.mqtt.to_string(), "--admin", &self.admin.to_string()]);
        // Settings of the surroundings are not the demonstration's.
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("FOREBAY_")) {
            command.env_remove(name);
        }
        command.current_dir(self.dir.path()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(messages);
        let mut child = command.spawn().map_err(|source| Failure::io("starting the server", &source))?;
        let start = Instant::now();
        loop {
            if Session::new("", true).connect(self.mqtt).is_ok() {
                self.child = Some(child);
                return Ok(());
            }
            let ended = child.try_wait().map_err(|source| Failure::io("looking after the server", &source))?;
            if ended.is_some() || start.elapsed() > PATIENCE {
                self.child = Some(child);
                return Err(failed(format!("the server did not come up:\n{}", read(&said))));
            }
            std::thread::sleep(POLL);
        }
    }

    /// SIGKILL: the process gets no chance to do anything more.
    ///
    /// # Errors
    /// Where it can't be waited for.
    pub fn kill(&mut self) -> Result<(), Failure> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        child.kill().and_then(|()| child.wait()).map(drop).map_err(|source| Failure::io("killing the server", &source))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The temporary folder is removed next; a failure to kill has no other listener.
        let _ = self.kill();
    }
}

fn free_address() -> Result<SocketAddr, Failure> {
    TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .map_err(|source| Failure::io("looking for a free port", &source))
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}
