//! Servers that speak MongoDB's protocol. A real `mongod` is in no package registry; two others stand in for it.
//!
//! [`Mongo`] is Mongo Java Server with a launcher of our own: logins, errors with codes, `configureFailPoint` as mongod has it, writes that
//! are on the disk when they are answered. It has no sessions, so no transactions, and no replica sets.
//!
//! [`Nx`] has transactions, but one at a time for all of a database: what others read or write meanwhile is part of it. Tests use it with one
//! connection. Its error codes are its own, and it has no logins.
//!
//! `FOREBAY_TEST_MONGO_URL` names a real one for the tests that use the shared server: `mongodb://USER:PASSWORD@HOST:PORT`, started with
//! `enableTestCommands=1` and a user with the role `root`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use rustix::process::Signal;

use crate::certificates::certificates;
use crate::java::{Jars, Jvm, Launcher, PATIENCE};
use crate::process::{Spec, accepts};
use crate::{Process, Running, Service, free_port, packages};

/// A user with all rights, of the database `admin`.
pub const USER: &str = "forebay";
/// Its password.
pub const PASSWORD: &str = "pw";

const JARS: Jars = Jars {
    name: "mongo",
    packages: &[
        ("de.bwaldvogel", "mongo-java-server", "1.47.0"),
        ("de.bwaldvogel", "mongo-java-server-h2-backend", "1.47.0"),
        ("org.slf4j", "slf4j-simple", "2.0.16"),
    ],
};
const LAUNCHER: Launcher = Launcher { class: "MongoForTests", source: include_str!("java/MongoForTests.java") };

/// Mongo Java Server. Its address is `mongodb://USER:PASSWORD@127.0.0.1:PORT`.
#[derive(Clone, Copy, Debug)]
pub struct Mongo {
    /// TLS only, with the tests' certificate.
    pub tls: bool,
    /// Data in a file, which has every write before it is answered; otherwise in memory.
    pub durable: bool,
}

impl Service for Mongo {
    fn name(&self) -> &'static str {
        match (self.tls, self.durable) {
            (true, _) => "mongo-tls",
            (false, true) => "mongo-durable",
            (false, false) => "mongo",
        }
    }

    fn variable(&self) -> &'static str {
        match (self.tls, self.durable) {
            (true, _) => "FOREBAY_TEST_MONGO_TLS_URL",
            (false, true) => "FOREBAY_TEST_MONGO_DURABLE_URL",
            (false, false) => "FOREBAY_TEST_MONGO_URL",
        }
    }

    fn install(&self) -> Result<()> {
        JARS.install(Some(&LAUNCHER))
    }

    fn start(&self, dir: &Path) -> Result<Running> {
        let port = free_port()?;
        let (temp, place) = (dir.join("tmp"), JARS.place()?);
        crate::make(&temp)?;
        let data = if self.durable { dir.join("data.mv").display().to_string() } else { "memory".to_owned() };
        let mut arguments =
            vec![port.to_string(), data, "--sync".into(), "--login".into(), USER.into(), PASSWORD.into()];
        if self.tls {
            let files = certificates()?;
            arguments.push("--tls".into());
            arguments.extend([files.server, files.server_key].map(|path| path.display().to_string()));
        }
        let options = vec!["-Dorg.slf4j.simpleLogger.defaultLogLevel=warn".to_owned()];
        let command = move || {
            let jvm = Jvm {
                heap_mib: 384,
                temp: &temp,
                options: &options,
                first: &[],
                launcher: Some(&LAUNCHER),
                class: LAUNCHER.class,
            };
            let mut command = place.command(&jvm);
            command.args(&arguments);
            command
        };
        let spec = Spec {
            name: self.name().into(),
            dir: dir.to_owned(),
            port,
            signal: Signal::TERM,
            command: Box::new(command),
            ready: Box::new(move || accepts(port)),
        };
        let process = Process::start_within(spec, PATIENCE)?;
        Ok(Running { address: format!("mongodb://{USER}:{PASSWORD}@127.0.0.1:{port}"), members: vec![process] })
    }
}

/// NX-27017: a server over SQLite, in Python. Its address is `mongodb://127.0.0.1:PORT`.
#[derive(Clone, Copy, Debug)]
pub struct Nx;

const NX: &str = "nx-27017==0.8.1";

impl Service for Nx {
    fn name(&self) -> &'static str {
        "mongo-nx"
    }

    fn variable(&self) -> &'static str {
        "FOREBAY_TEST_MONGO_NX_URL"
    }

    fn install(&self) -> Result<()> {
        let dir = venv()?;
        let parent = dir.parent().context("the cache folder has a parent")?;
        crate::make(parent)?;
        let lock = fs::File::create(parent.join("nx.lock")).context("creating a lock file")?;
        lock.lock().context("locking the download")?;
        // Written when all is there. A virtual environment can't be made elsewhere and moved.
        let whole = dir.join("whole");
        if whole.is_file() {
            return Ok(());
        }
        packages::provide(&[("python3", "python3")])?;
        if !crate::process::succeeds(Command::new("python3").args(["-c", "import ensurepip, venv"])) {
            packages::provide(&[("python3-venv is not a program", "python3-venv")])?;
        }
        crate::empty(&dir)?;
        packages::shown(Command::new("python3").args(["-m", "venv"]).arg(&dir))?;
        packages::shown(Command::new(dir.join("bin/pip")).args(["install", "--quiet", "--no-input", NX]))?;
        fs::write(whole, "").context("marking the environment as whole")
    }

    fn start(&self, dir: &Path) -> Result<Running> {
        let port = free_port()?;
        let (data, place, program) = (dir.join("data"), dir.to_owned(), venv()?.join("bin/nx-27017"));
        crate::make(&data)?;
        let command = move || {
            let mut command = Command::new(&program);
            command
                .current_dir(&place)
                .arg("--data-dir")
                .arg(&data)
                .args(["--host", "127.0.0.1", "-p", &port.to_string()])
                .arg("--log-file")
                .arg(place.join("nx.log"))
                .arg("--pid-file")
                .arg(place.join("nx.pid"));
            command
        };
        let spec = Spec {
            name: self.name().into(),
            dir: dir.to_owned(),
            port,
            signal: Signal::TERM,
            command: Box::new(command),
            ready: Box::new(move || accepts(port)),
        };
        let process = Process::start_within(spec, PATIENCE)?;
        Ok(Running { address: format!("mongodb://127.0.0.1:{port}"), members: vec![process] })
    }
}

fn venv() -> Result<PathBuf> {
    Ok(packages::cache()?.join("tools").join("nx-27017-0.8.1"))
}
