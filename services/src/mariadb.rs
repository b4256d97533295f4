//! MariaDB: what most systems' "mysql" is.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use rustix::process::Signal;

use crate::certificates::certificates;
use crate::process::{Spec, run, succeeds};
use crate::{Process, Running, Service, free_port, packages, template};

/// A user with all rights.
pub const USER: &str = "forebay";
/// The users' password.
pub const PASSWORD: &str = "pw";
/// A user who is let in with TLS only.
pub const TLS_USER: &str = "tlsonly";

/// The server, with TLS offered.
#[derive(Clone, Copy, Debug)]
pub struct MariaDb;

impl Service for MariaDb {
    fn name(&self) -> &'static str {
        "mariadb"
    }

    fn variable(&self) -> &'static str {
        "FOREBAY_TEST_MARIADB_URL"
    }

    fn install(&self) -> Result<()> {
        packages::provide(&[("mariadbd", "mariadb-server"), ("mariadb-admin", "mariadb-client")])
    }

    fn start(&self, dir: &Path) -> Result<Running> {
        let port = free_port()?;
        crate::make(&dir.join("tmp"))?;
        let data = dir.join("data");
        template::copy("mariadb", &data, create)?;
        let files = certificates()?;
        let program = packages::find("mariadbd").context("mariadbd is not installed")?;
        let (folder, socket) = (dir.to_owned(), dir.join("sock"));
        let place = socket.clone();
        let command = move || {
            let mut command = Command::new(&program);
            // The first option: nothing of the system's own settings.
            command.arg("--no-defaults").args(as_root());
            command
                .arg(format!("--datadir={}", data.display()))
                .arg(format!("--tmpdir={}", folder.join("tmp").display()))
                .arg(format!("--socket={}", place.display()))
                .arg(format!("--pid-file={}", folder.join("mariadbd.pid").display()))
                .arg(format!("--port={port}"))
                .arg(format!("--ssl-ca={}", files.authority.display()))
                .arg(format!("--ssl-cert={}", files.server.display()))
                .arg(format!("--ssl-key={}", files.server_key.display()))
                .args(COMMON);
            command
        };
        let ready = move || {
            let mut command = Command::new("mariadb-admin");
            succeeds(command.args(["--no-defaults", "-uroot", "-S"]).arg(&socket).arg("ping"))
        };
        let process = Process::start(Spec {
            name: "mariadb".into(),
            dir: dir.to_owned(),
            port,
            signal: Signal::TERM,
            command: Box::new(command),
            ready: Box::new(ready),
        })?;
        Ok(Running { address: format!("mysql://{USER}:{PASSWORD}@127.0.0.1:{port}"), members: vec![process] })
    }
}

const COMMON: &[&str] = &[
    "--bind-address=127.0.0.1",
    "--skip-name-resolve",
    "--character-set-server=utf8mb4",
    "--max-connections=200",
    "--performance-schema=0",
    "--innodb-buffer-pool-size=64M",
    "--innodb-log-file-size=32M",
    "--innodb-flush-log-at-trx-commit=1",
];

/// Servers refuse to run as root unless told to.
pub(crate) fn as_root() -> Option<&'static str> {
    rustix::process::geteuid().is_root().then_some("--user=root")
}

fn create(dir: &Path) -> Result<()> {
    let program = packages::find("mariadb-install-db").context("mariadb-install-db is not installed")?;
    run(Command::new(program)
        .arg("--no-defaults")
        .args(as_root())
        .arg(format!("--datadir={}", dir.display()))
        .args(["--auth-root-authentication-method=normal", "--skip-test-db"]))?;
    // The users are made once, through the server's own set-up mode: statements on its standard input, one a line.
    let statements = format!(
        "FLUSH PRIVILEGES;\n\
         CREATE USER '{USER}'@'127.0.0.1' IDENTIFIED BY '{PASSWORD}';\n\
         GRANT ALL ON *.* TO '{USER}'@'127.0.0.1' WITH GRANT OPTION;\n\
         CREATE USER '{TLS_USER}'@'127.0.0.1' IDENTIFIED BY '{PASSWORD}' REQUIRE SSL;\n\
         GRANT ALL ON *.* TO '{TLS_USER}'@'127.0.0.1';\n"
    );
    let file = dir.join("users.sql");
    std::fs::write(&file, statements).context("writing the users' statements")?;
    let program = packages::find("mariadbd").context("mariadbd is not installed")?;
    let mut command = Command::new(program);
    command.arg("--no-defaults").args(as_root()).arg(format!("--datadir={}", dir.display())).arg("--bootstrap");
    command.args(["--innodb-log-file-size=32M", "--innodb-buffer-pool-size=64M"]);
    command.stdin(std::fs::File::open(&file).context("opening the users' statements")?);
    let output = command.output().context("starting mariadbd")?;
    anyhow::ensure!(output.status.success(), "making users: {}", String::from_utf8_lossy(&output.stderr));
    std::fs::remove_file(&file).context("removing the users' statements")
}
