//! Mosquitto: the broker to compare with, and for the upstream mode.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::Service;
use crate::shell;

/// The broker with persistence on and anonymous clients.
pub struct Mosquitto;

impl Service for Mosquitto {
    fn name(&self) -> &'static str {
        "mosquitto"
    }

    fn variable(&self) -> &'static str {
        "FOREBAY_TEST_MOSQUITTO"
    }

    fn install(&self) -> Result<()> {
        crate::provision::provision()
    }

    fn command(&self, dir: &Path, port: u16) -> Result<Command> {
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
        let program = shell::find_program("mosquitto").context("mosquitto is not installed")?;
        let mut command = Command::new(program);
        command.arg("-c").arg(config);
        Ok(command)
    }

    fn ready(&self, port: u16) -> bool {
        shell::succeeds(Command::new("mosquitto_sub").args([
            "-h",
            "127.0.0.1",
            "-p",
            &port.to_string(),
            "-t",
            "$SYS/broker/version",
            "-C",
            "1",
            "-W",
            "1",
        ]))
    }
}
