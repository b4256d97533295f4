//! InfluxDB 1.6, with authentication and a UDP listener; over TLS where it is asked for.
//!
//! It has no `/api/v2/write`: [`crate::victoria`] has.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use rustix::process::Signal;

use crate::certificates::certificates;
use crate::process::{Spec, run, succeeds};
use crate::{Process, Running, Service, free_port, packages};

/// A user who may do everything.
pub const ADMIN: &str = "admin";
/// A user who may write to and read from [`DATABASE`] and nothing else.
pub const USER: &str = "forebay";
/// The users' password.
pub const PASSWORD: &str = "pw";
/// A database that is there.
pub const DATABASE: &str = "mydb";
/// The database into which the UDP listener writes; its times are in milliseconds, as the guide's example has it.
pub const UDP_DATABASE: &str = "udp";

/// The server. Its address is `http[s]://ADMIN:PASSWORD@127.0.0.1:PORT/?udp=PORT`.
#[derive(Clone, Copy, Debug)]
pub struct InfluxDb {
    /// HTTPS only, with the tests' certificate.
    pub tls: bool,
}

impl Service for InfluxDb {
    fn name(&self) -> &'static str {
        if self.tls { "influxdb-tls" } else { "influxdb" }
    }

    fn variable(&self) -> &'static str {
        if self.tls { "FOREBAY_TEST_INFLUXDB_TLS_URL" } else { "FOREBAY_TEST_INFLUXDB_URL" }
    }

    fn install(&self) -> Result<()> {
        packages::provide(&[("influxd", "influxdb"), ("curl", "curl")])
    }

    fn start(&self, dir: &Path) -> Result<Running> {
        let (port, udp) = (free_port()?, free_port()?);
        let config = dir.join("influxdb.conf");
        let text = format!(
            "reporting-disabled = true\n\
             # For backups: there is one such port for each server.\n\
             bind-address = \"127.0.0.1:{rpc}\"\n\
             [meta]\ndir = \"{dir}/meta\"\n\
             # A write is synced before it is answered.\n\
             [data]\ndir = \"{dir}/data\"\nwal-dir = \"{dir}/wal\"\nwal-fsync-delay = \"0s\"\nquery-log-enabled = false\n\
             [monitor]\nstore-enabled = false\n\
             [http]\nbind-address = \"127.0.0.1:{port}\"\nauth-enabled = true\nlog-enabled = false\n{tls}\
             [[udp]]\nenabled = true\nbind-address = \"127.0.0.1:{udp}\"\ndatabase = \"{UDP_DATABASE}\"\nprecision = \"ms\"\n\
             batch-timeout = \"50ms\"\n",
            rpc = free_port()?,
            dir = dir.display(),
            tls = if self.tls { pair(dir)? } else { String::new() },
        );
        fs::write(&config, text).with_context(|| format!("writing {}", config.display()))?;
        let client = Client::new(self.tls, port)?;
        let asked = client.clone();
        let process = Process::start(Spec {
            name: self.name().into(),
            dir: dir.to_owned(),
            port,
            signal: Signal::TERM,
            command: Box::new(move || {
                let mut command = Command::new("influxd");
                command.args(["run", "-config"]).arg(&config);
                command
            }),
            ready: Box::new(move || succeeds(&mut asked.get("/ping"))),
        })?;
        // The first user may be made by anybody.
        client.query(&format!("CREATE USER {ADMIN} WITH PASSWORD '{PASSWORD}' WITH ALL PRIVILEGES"))?;
        client.query(&format!("CREATE USER {USER} WITH PASSWORD '{PASSWORD}'"))?;
        client.query(&format!("CREATE DATABASE {DATABASE}"))?;
        client.query(&format!("CREATE DATABASE {UDP_DATABASE}"))?;
        client.query(&format!("GRANT ALL ON {DATABASE} TO {USER}"))?;
        let scheme = client.scheme;
        let address = format!("{scheme}://{ADMIN}:{PASSWORD}@127.0.0.1:{port}/?udp={udp}");
        Ok(Running { address, members: vec![process] })
    }
}

/// The lines that make it speak HTTPS, and the one file that it wants both certificate and key in.
fn pair(dir: &Path) -> Result<String> {
    let files = certificates()?;
    let path = dir.join("server.pem");
    let mut pem = fs::read_to_string(&files.server).context("reading the certificate")?;
    pem += &fs::read_to_string(&files.server_key).context("reading the key")?;
    fs::write(&path, pem).with_context(|| format!("writing {}", path.display()))?;
    Ok(format!("https-enabled = true\nhttps-certificate = \"{}\"\n", path.display()))
}

/// Asks by curl, which speaks TLS too.
#[derive(Clone, Debug)]
struct Client {
    scheme: &'static str,
    port: u16,
    authority: Option<PathBuf>,
}

impl Client {
    fn new(tls: bool, port: u16) -> Result<Client> {
        let authority = if tls { Some(certificates()?.authority) } else { None };
        Ok(Client { scheme: if tls { "https" } else { "http" }, port, authority })
    }

    fn get(&self, path: &str) -> Command {
        let mut command = Command::new("curl");
        command.args(["--silent", "--show-error", "--fail", "--noproxy", "*", "--max-time", "10"]);
        if let Some(authority) = &self.authority {
            command.arg("--cacert").arg(authority);
        }
        command.arg(format!("{}://127.0.0.1:{}{path}", self.scheme, self.port));
        command
    }

    fn query(&self, statement: &str) -> Result<()> {
        let mut command = self.get("/query");
        command.args(["--user", &format!("{ADMIN}:{PASSWORD}"), "--data-urlencode", &format!("q={statement}")]);
        let answer = run(&mut command).with_context(|| format!("asking for `{statement}`"))?;
        anyhow::ensure!(!answer.contains("\"error\""), "`{statement}`: {answer}");
        Ok(())
    }
}
