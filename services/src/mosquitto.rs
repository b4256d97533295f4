//! Mosquitto: the broker to compare with, and for the upstream mode.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use rustix::process::Signal;

use crate::process::{Spec, succeeds};
use crate::{Process, Running, Service, free_port, packages};

/// The broker with persistence on and anonymous clients.
#[derive(Clone, Copy, Debug)]
pub struct Mosquitto;

impl Service for Mosquitto {
    fn name(&self) -> &'static str {
        "mosquitto"
    }

    fn variable(&self) -> &'static str {
        "FOREBAY_TEST_MOSQUITTO"
    }

    fn install(&self) -> Result<()> {
        packages::provide(&[("mosquitto", "mosquitto"), ("mosquitto_sub", "mosquitto-clients")])
    }

    fn start(&self, dir: &Path) -> Result<Running> {
        let port = free_port()?;
        let data = dir.join("data");
        fs::create_dir_all(&data).with_context(|| format!("creating {}", data.display()))?;
        // `user root`: started as root, Mosquitto would otherwise become a user who can't write to this folder.
        let text = format!(
            "per_listener_settings true\nuser root\npersistence true\npersistence_location {}/\n\
             max_queued_messages 0\nmax_queued_bytes 0\nlistener {port} 127.0.0.1\nallow_anonymous true\n",
            data.display()
        );
        let config = dir.join("mosquitto.conf");
        fs::write(&config, text).with_context(|| format!("writing {}", config.display()))?;
        let program = packages::find("mosquitto").context("mosquitto is not installed")?;
        let command = move || {
            let mut command = Command::new(&program);
            command.arg("-c").arg(&config);
            command
        };
        let ready = move || {
            let port = port.to_string();
            let topic = "$SYS/broker/version";
            succeeds(Command::new("mosquitto_sub").args([
                "-h",
                "127.0.0.1",
                "-p",
                &port,
                "-t",
                topic,
                "-C",
                "1",
                "-W",
                "1",
            ]))
        };
        let process = Process::start(Spec {
            name: "mosquitto".into(),
            dir: dir.to_owned(),
            port,
            signal: Signal::TERM,
            command: Box::new(command),
            ready: Box::new(ready),
        })?;
        Ok(Running { address: format!("127.0.0.1:{port}"), members: vec![process] })
    }
}
