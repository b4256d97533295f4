//! Redis: one server, one that speaks TLS only, a replicated pair under three sentinels, a cluster of six.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use rustix::process::Signal;

use crate::certificates::certificates;
use crate::process::{Spec, run, succeeds, wait_until};
use crate::{Process, Running, Service, free_port, packages};

/// Password of the default user (and of `requirepass`) of every Redis here.
pub const PASSWORD: &str = "s3cret";
/// A user of the access control list, who may do everything.
pub const USER: &str = "forebay";
/// That user's password.
pub const USER_PASSWORD: &str = "pw";
/// The name under which the sentinels know their master.
pub const MASTER: &str = "mymaster";

const PROGRAMS: &[(&str, &str)] = &[("redis-server", "redis-server"), ("redis-cli", "redis-tools")];

/// One server.
#[derive(Clone, Copy, Debug)]
pub struct Redis {
    /// TLS only.
    pub tls: bool,
    /// Every write is in its append-only file, synced, before it is answered.
    pub durable: bool,
}

/// A master, a replica and three sentinels that watch them. The address is the sentinels', separated by commas.
#[derive(Clone, Copy, Debug)]
pub struct Sentinel;

/// Three masters and three replicas. The address is all of theirs, separated by commas.
#[derive(Clone, Copy, Debug)]
pub struct Cluster;

impl Service for Redis {
    fn name(&self) -> &'static str {
        if self.tls { "redis-tls" } else { "redis" }
    }

    fn variable(&self) -> &'static str {
        if self.tls { "FOREBAY_TEST_REDIS_TLS_URL" } else { "FOREBAY_TEST_REDIS_URL" }
    }

    fn install(&self) -> Result<()> {
        packages::provide(PROGRAMS)
    }

    fn start(&self, dir: &Path) -> Result<Running> {
        let port = free_port()?;
        let mut lines = Vec::new();
        if self.durable {
            lines.extend(["appendonly yes".to_owned(), "appendfsync always".to_owned()]);
        }
        if self.tls {
            let files = certificates()?;
            lines.extend([
                "port 0".to_owned(),
                format!("tls-port {port}"),
                format!("tls-cert-file {}", files.server.display()),
                format!("tls-key-file {}", files.server_key.display()),
                format!("tls-ca-cert-file {}", files.authority.display()),
                "tls-auth-clients optional".to_owned(),
            ]);
        } else {
            lines.push(format!("port {port}"));
        }
        let process = node("redis", dir.to_owned(), port, self.tls, &lines)?;
        let scheme = if self.tls { "rediss" } else { "redis" };
        Ok(Running { address: format!("{scheme}://:{PASSWORD}@127.0.0.1:{port}"), members: vec![process] })
    }
}

impl Service for Sentinel {
    fn name(&self) -> &'static str {
        "redis-sentinel"
    }

    fn variable(&self) -> &'static str {
        "FOREBAY_TEST_REDIS_SENTINELS"
    }

    fn install(&self) -> Result<()> {
        packages::provide(PROGRAMS)
    }

    fn start(&self, dir: &Path) -> Result<Running> {
        let (master_port, replica_port) = (free_port()?, free_port()?);
        let master = node("master", dir.join("master"), master_port, false, &[format!("port {master_port}")])?;
        let lines = [format!("port {replica_port}"), format!("replicaof 127.0.0.1 {master_port}")];
        let replica = node("replica", dir.join("replica"), replica_port, false, &lines)?;
        // Sentinels that begin before find the replica only when they ask the next time, 10 s later.
        wait_until("the replica's link to its master", || {
            ask(replica_port, &["info", "replication"]).is_ok_and(|text| text.contains("master_link_status:up"))
        })?;
        let mut members = vec![master, replica];
        let mut ports = Vec::new();
        for n in 0..3 {
            let port = free_port()?;
            members.push(sentinel(n, dir.join(format!("sentinel{n}")), port, master_port)?);
            ports.push(port);
        }
        wait_until("the sentinels' view of each other", || {
            ports.iter().all(|port| {
                Command::new("redis-cli")
                    .args(["-p", &port.to_string(), "sentinel", "master", MASTER])
                    .output()
                    .is_ok_and(|out| {
                        let words =
                            String::from_utf8_lossy(&out.stdout).split_whitespace().collect::<Vec<_>>().join(" ");
                        words.contains("num-slaves 1 num-other-sentinels 2")
                    })
            })
        })?;
        let address = ports.iter().map(|port| format!("127.0.0.1:{port}")).collect::<Vec<_>>().join(",");
        Ok(Running { address, members })
    }
}

impl Service for Cluster {
    fn name(&self) -> &'static str {
        "redis-cluster"
    }

    fn variable(&self) -> &'static str {
        "FOREBAY_TEST_REDIS_CLUSTER"
    }

    fn install(&self) -> Result<()> {
        packages::provide(PROGRAMS)
    }

    fn start(&self, dir: &Path) -> Result<Running> {
        let mut members = Vec::new();
        for n in 0..6 {
            let port = free_port()?;
            let lines = [
                format!("port {port}"),
                "cluster-enabled yes".to_owned(),
                "cluster-config-file nodes.conf".to_owned(),
                "cluster-node-timeout 2000".to_owned(),
                "cluster-replica-validity-factor 0".to_owned(),
                // Unless it is set, the bus is at the port + 10000, which may be taken or beyond the last port.
                format!("cluster-port {}", free_port()?),
            ];
            members.push(node("node", dir.join(format!("node{n}")), port, false, &lines)?);
        }
        let addresses: Vec<String> = members.iter().map(|m| format!("127.0.0.1:{}", m.port())).collect();
        run(Command::new("redis-cli")
            .args(["-a", PASSWORD, "--no-auth-warning", "--cluster", "create"])
            .args(&addresses)
            .args(["--cluster-replicas", "1", "--cluster-yes"]))?;
        wait_until("the cluster's view of itself", || {
            members.iter().all(|m| {
                let info = ask(m.port(), &["cluster", "info"]).unwrap_or_default();
                let replication = ask(m.port(), &["info", "replication"]).unwrap_or_default();
                info.contains("cluster_state:ok")
                    && info.contains("cluster_slots_ok:16384")
                    && (replication.contains("role:master") && replication.contains("connected_slaves:1")
                        || replication.contains("master_link_status:up"))
            })
        })?;
        Ok(Running { address: addresses.join(","), members })
    }
}

/// One server process with the passwords of all of them.
fn node(name: &str, dir: PathBuf, port: u16, tls: bool, lines: &[String]) -> Result<Process> {
    crate::make(&dir)?;
    let mut text = format!(
        "bind 127.0.0.1\ndir \"{}\"\ndaemonize no\nsave \"\"\nrepl-diskless-sync-delay 0\n\
         requirepass {PASSWORD}\nmasterauth {PASSWORD}\nuser {USER} on >{USER_PASSWORD} ~* &* +@all\n",
        dir.display()
    );
    for line in lines {
        text.push_str(line);
        text.push('\n');
    }
    let config = dir.join("redis.conf");
    fs::write(&config, text).with_context(|| format!("writing {}", config.display()))?;
    let authority = if tls { Some(certificates()?.authority) } else { None };
    let ready = move || {
        let mut command = Command::new("redis-cli");
        command.args(["-p", &port.to_string(), "-a", PASSWORD, "--no-auth-warning"]);
        if let Some(authority) = &authority {
            command.arg("--tls").arg("--cacert").arg(authority);
        }
        // It accepts connections while it loads its file, and answers then with errors.
        run(command.args(["info", "persistence"])).is_ok_and(|text| text.contains("\nloading:0"))
    };
    Process::start(Spec {
        name: name.to_owned(),
        dir,
        port,
        signal: Signal::TERM,
        command: Box::new(move || server(&config)),
        ready: Box::new(ready),
    })
}

fn sentinel(n: u16, dir: PathBuf, port: u16, master: u16) -> Result<Process> {
    crate::make(&dir)?;
    let config = dir.join("sentinel.conf");
    // The sentinel rewrites this file.
    let text = format!(
        "port {port}\nbind 127.0.0.1\ndir \"{}\"\ndaemonize no\nprotected-mode no\n\
         sentinel monitor {MASTER} 127.0.0.1 {master} 2\nsentinel auth-pass {MASTER} {PASSWORD}\n\
         sentinel down-after-milliseconds {MASTER} 1000\nsentinel failover-timeout {MASTER} 5000\n\
         sentinel parallel-syncs {MASTER} 1\n",
        dir.display()
    );
    fs::write(&config, text).with_context(|| format!("writing {}", config.display()))?;
    let command = move || {
        let mut command = server(&config);
        command.arg("--sentinel");
        command
    };
    Process::start(Spec {
        name: format!("sentinel {n}"),
        dir,
        port,
        signal: Signal::TERM,
        command: Box::new(command),
        ready: Box::new(move || succeeds(Command::new("redis-cli").args(["-e", "-p", &port.to_string(), "ping"]))),
    })
}

fn server(config: &Path) -> Command {
    let mut command = Command::new("redis-server");
    command.arg(config);
    command
}

/// Runs one command as the default user.
fn ask(port: u16, words: &[&str]) -> Result<String> {
    run(Command::new("redis-cli").args(["-p", &port.to_string(), "-a", PASSWORD, "--no-auth-warning"]).args(words))
}
