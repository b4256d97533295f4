//! A server process with a data folder of its own, and what it has stored.
#![allow(dead_code, reason = "every test program uses a part of this")]

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

#[path = "../../src/demo/client.rs"]
pub mod client;
pub mod databases;
pub mod load;

use client::Session;

/// How long something may take that happens in milliseconds on an idle machine.
pub const PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(20);

/// An address nobody listens on.
pub fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// Waits until `condition` gives a value.
pub fn wait_for<T>(what: &str, condition: impl FnMut() -> Option<T>) -> T {
    wait_within(PATIENCE, what, condition)
}

/// Waits for what takes seconds on an idle machine.
pub fn wait_within<T>(patience: Duration, what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(start.elapsed() < patience, "waited {patience:?} for: {what}");
        std::thread::sleep(POLL);
    }
}

/// Does what has to be waited for in a runtime.
pub fn wait<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

/// The program, with nothing of this environment in its configuration.
pub fn forebay() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_forebay"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("FOREBAY_") {
            command.env_remove(name);
        }
    }
    command
}

/// Runs the program to its end.
pub fn run(args: &[&str], dir: &Path) -> Output {
    forebay().args(args).current_dir(dir).stdin(Stdio::null()).output().unwrap()
}

/// A server that can be killed and started again on the same folder and addresses.
pub struct Server {
    pub dir: tempfile::TempDir,
    pub mqtt: SocketAddr,
    pub admin: SocketAddr,
    child: Option<Child>,
}

impl Server {
    /// Starts one in a new folder, on free ports.
    pub fn start() -> Server {
        let mut server = Server::stopped();
        server.restart();
        server
    }

    /// A folder and free ports, and no process yet.
    pub fn stopped() -> Server {
        let dir = tempfile::tempdir().unwrap();
        Server { dir, mqtt: free_address(), admin: free_address(), child: None }
    }

    /// The text of its `forebay.toml`, which all commands on this folder read.
    pub fn configure(&self, text: &str) {
        std::fs::write(self.dir.path().join("forebay.toml"), text).unwrap();
    }

    /// The command that runs it.
    pub fn command(&self) -> Command {
        let mut command = forebay();
        command.args(["run", "--data"]).arg(self.data());
        command.args(["--mqtt", &self.mqtt.to_string(), "--admin", &self.admin.to_string()]);
        command.current_dir(self.dir.path());
        command
    }

    /// Starts it again, and waits until it takes connections.
    pub fn restart(&mut self) {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.dir.path().join("stderr")).unwrap();
        self.adopt(self.command().stdin(Stdio::null()).stderr(log).spawn().unwrap());
    }

    /// Starts it again where it may take no new session of ours: waits until it listens.
    pub fn restart_full(&mut self) {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.dir.path().join("stderr")).unwrap();
        self.child = Some(self.command().stdin(Stdio::null()).stderr(log).spawn().unwrap());
        wait_for("the server to listen", || std::net::TcpStream::connect(self.mqtt).ok());
    }

    /// Takes a process over, and waits until it takes connections.
    pub fn adopt(&mut self, child: Child) {
        self.child = Some(child);
        wait_for("the server to take connections", || {
            if let Some(status) = self.child.as_mut().unwrap().try_wait().unwrap() {
                panic!("the server ended with {status}:\n{}", self.messages());
            }
            Session::new("", true).connect(self.mqtt).ok().map(|connection| drop(connection.disconnect()))
        });
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// SIGKILL to the server that runs under a tracer, which then ends by itself.
    pub fn kill_traced(&mut self) {
        let mut tracer = self.child.take().unwrap();
        children(&tracer).iter().for_each(|pid| kill(pid));
        wait_for("the tracer to end", || tracer.try_wait().unwrap());
    }

    /// SIGTERM, and waits for the end.
    pub fn stop(&mut self) -> ExitStatus {
        let mut child = self.child.take().unwrap();
        let sent = Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
        assert!(sent.success());
        wait_for("the server to end", || child.try_wait().unwrap())
    }

    /// SIGHUP.
    pub fn hang_up(&self) {
        let pid = self.child.as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").args(["-HUP", &pid]).status().unwrap().success());
    }

    /// What it wrote to stderr.
    pub fn messages(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("stderr")).unwrap_or_default()
    }

    pub fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// A command on this server's folder; its standard output.
    pub fn ask(&self, args: &[&str]) -> String {
        let data = self.data();
        let mut all = vec!["--data", data.to_str().unwrap()];
        all.extend_from_slice(args);
        let output = run(&all, self.dir.path());
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Waits until every sink has dealt with every record.
    pub fn wait_stored(&self) {
        wait_for("the sinks to catch up", || self.sinks().iter().all(|sink| sink["lag_records"] == 0).then_some(()));
    }

    /// Its sinks as they stand.
    pub fn sinks(&self) -> Vec<serde_json::Value> {
        let rows = self.ask(&["sink", "ls", "--json"]);
        rows.lines().map(|row| serde_json::from_str(row).unwrap()).collect()
    }

    /// The messages in the SQLite file: (msgid, topic, payload), in order. None while the sink has not made its tables yet.
    pub fn stored(&self) -> Vec<(String, String, String)> {
        let file = self.data().join("forebay.db");
        let made = "select name from sqlite_master where name = 'mqtt_msg'";
        if !file.exists() || sqlite(&file, made).is_empty() {
            return Vec::new();
        }
        sqlite(&file, "select msgid, topic, cast(payload as text) from mqtt_msg order by id")
            .into_iter()
            .map(|row| <[String; 3]>::try_from(row).unwrap())
            .map(|[msgid, topic, payload]| (msgid, topic, payload))
            .collect()
    }

    /// Msgid and payload of the messages in the log, from the offline command: the server must be stopped.
    pub fn logged_pairs(&self) -> Vec<(String, String)> {
        use std::io::BufRead as _;
        let mut command = forebay();
        command.arg("--data").arg(self.data()).args(["log", "dump", "--json", "--limit", "1000000000"]);
        let mut child = command.current_dir(self.dir.path()).stdout(Stdio::piped()).spawn().unwrap();
        let lines = std::io::BufReader::new(child.stdout.take().unwrap()).lines();
        let rows = lines.map(|line| serde_json::from_str::<serde_json::Value>(&line.unwrap()).unwrap());
        let pairs = rows
            .filter(|row| row["event_kind"] == "published")
            .map(|row| (row["msgid"].as_str().unwrap().to_owned(), payload(&row)))
            .collect();
        assert!(child.wait().unwrap().success());
        pairs
    }

    /// The messages in the log (msgid, topic, payload), from the offline command: the server must be stopped.
    pub fn logged(&self) -> Vec<serde_json::Value> {
        self.ask(&["log", "dump", "--json", "--limit", "1000000000"])
            .lines()
            .map(|row| serde_json::from_str::<serde_json::Value>(row).unwrap())
            .filter(|row| row["event_kind"] == "published")
            .map(|row| {
                let message = &row["event"]["message"];
                serde_json::json!({ "msgid": row["msgid"], "topic": message["topic"], "payload": payload(&row) })
            })
            .collect()
    }
}

/// The payload of a dumped record of a message.
fn payload(row: &serde_json::Value) -> String {
    let hex = row["event"]["message"]["payload"].as_str().unwrap().as_bytes();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    String::from_utf8(hex.chunks(2).map(byte).collect()).unwrap()
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(child) = &self.child {
            // A tracer that is killed leaves the server behind.
            children(child).iter().for_each(|pid| kill(pid));
            self.kill();
        }
        if std::thread::panicking() {
            eprintln!("--- messages of the server\n{}", self.messages());
        }
    }
}

/// The processes that a process has started.
fn children(parent: &Child) -> Vec<String> {
    let pid = parent.id();
    let pids = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    pids.split_whitespace().map(str::to_owned).collect()
}

/// SIGKILL. A process that has just ended is as good.
fn kill(pid: &str) {
    let _ = Command::new("kill").args(["-KILL", pid]).stderr(Stdio::null()).status();
}

/// Rows of a query as texts.
pub fn sqlite(file: &Path, sql: &'static str) -> Vec<Vec<String>> {
    use sqlx::{ConnectOptions as _, Connection as _, Row as _};
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let options = sqlx::sqlite::SqliteConnectOptions::new().filename(file).busy_timeout(PATIENCE);
        let mut connection = options.connect().await.unwrap();
        let rows = sqlx::query(sql).fetch_all(&mut connection).await.unwrap();
        let rows = rows.iter().map(|row| (0..row.len()).map(|column| row.get::<String, _>(column)).collect()).collect();
        connection.close().await.unwrap();
        rows
    })
}
