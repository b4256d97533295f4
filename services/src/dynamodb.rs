//! DynamoDB Local 2.5.2, Amazon's own: one server, in memory or with its tables on the disk.
//!
//! Each access key has tables of its own, so that a test keeps apart from the others by its key. The secret is not checked; a key that
//! is not made of letters and digits is refused as one that nobody has.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use rustix::process::Signal;

use crate::java::{Jars, Jvm, Launcher, PATIENCE};
use crate::process::{Spec, accepts};
use crate::{Process, Running, Service, free_port};

/// The server. Its address is `http://127.0.0.1:PORT`.
#[derive(Clone, Copy, Debug)]
pub struct DynamoDb {
    /// Tables are on the disk when a write is answered. Otherwise they are in memory, which is many times faster.
    pub durable: bool,
}

const DYNAMODB: Jars = Jars { name: "dynamodb", packages: &[("com.amazonaws", "DynamoDBLocal", "2.5.2")] };
const LAUNCHER: Launcher =
    Launcher { class: "DynamoDbOnLoopback", source: include_str!("java/DynamoDbOnLoopback.java") };

impl Service for DynamoDb {
    fn name(&self) -> &'static str {
        "dynamodb"
    }

    fn variable(&self) -> &'static str {
        "FOREBAY_TEST_DYNAMODB_URL"
    }

    fn install(&self) -> Result<()> {
        DYNAMODB.install(Some(&LAUNCHER))
    }

    fn start(&self, dir: &Path) -> Result<Running> {
        let process = self.process(dir)?;
        let address = format!("http://127.0.0.1:{}", process.port());
        Ok(Running { address, members: vec![process] })
    }
}

impl DynamoDb {
    fn process(self, dir: &Path) -> Result<Process> {
        let (native, tables, temp) = (dir.join("native"), dir.join("tables"), dir.join("tmp"));
        for folder in [&native, &tables, &temp] {
            crate::make(folder)?;
        }
        let port = free_port()?;
        let jars = DYNAMODB.place()?;
        // Among the jars its SQLite has a version in its name, under which it is not looked for. Linux on amd64 is the only one that this version has.
        let library = jars.jar("libsqlite4java-linux-amd64-")?;
        fs::copy(library, native.join("libsqlite4java-linux-amd64.so")).context("copying DynamoDB Local's SQLite")?;
        let log = dir.join("log4j2.properties");
        let text = "status = warn\nrootLogger.level = warn\nrootLogger.appenderRef.out.ref = OUT\n\
                    appender.out.type = Console\nappender.out.name = OUT\n";
        fs::write(&log, text).with_context(|| format!("writing {}", log.display()))?;
        let options = vec![
            format!("-Djava.library.path={}", native.display()),
            format!("-Dsqlite4java.library.path={}", native.display()),
            format!("-Dlog4j.configurationFile={}", log.display()),
        ];
        let ready = dir.join("ready");
        let mark = ready.clone();
        let command = move || {
            // That of an earlier run says nothing about this one. Absent at the first start.
            let _ = fs::remove_file(&mark);
            let jvm = Jvm {
                heap_mib: 384,
                temp: &temp,
                options: &options,
                first: &[],
                launcher: Some(&LAUNCHER),
                class: LAUNCHER.class,
            };
            let mut command = jars.command(&jvm);
            command.arg(&mark).args(["-port", &port.to_string(), "-disableTelemetry"]);
            if self.durable {
                command.arg("-dbPath").arg(&tables);
            } else {
                command.arg("-inMemory");
            }
            command.env("DDB_LOCAL_TELEMETRY", "0");
            command
        };
        let spec = Spec {
            name: self.name().into(),
            dir: dir.to_owned(),
            port,
            signal: Signal::TERM,
            command: Box::new(command),
            ready: Box::new(move || ready.exists() && accepts(port)),
        };
        Process::start_within(spec, PATIENCE)
    }
}
