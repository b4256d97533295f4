//! What the tests need besides cargo: packages of the system, and Python clients in an environment of their own.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, bail};

use crate::shell;

/// A program that tests start, and the Debian package that brings it.
const PROGRAMS: &[(&str, &str)] = &[
    ("mosquitto", "mosquitto"),
    ("mosquitto_pub", "mosquitto-clients"),
    ("strace", "strace"),
    ("sqlite3", "sqlite3"),
    ("python3", "python3"),
];

/// The Python MQTT client; a version, so that every run tests against the same one.
const PAHO: &str = "paho-mqtt==2.1.0";

/// What tests are told of the provisioned tools.
#[derive(Debug)]
pub struct Provisioned {
    /// A Python interpreter that has the MQTT client.
    pub python: PathBuf,
}

/// Installs what is missing.
///
/// # Errors
/// Where something is missing and can't be installed without the user: the message is the line to run.
pub fn provision() -> Result<Provisioned> {
    install_packages()?;
    Ok(Provisioned { python: python()? })
}

fn install_packages() -> Result<()> {
    let mut missing: Vec<&str> =
        PROGRAMS.iter().filter(|(program, _)| !shell::has_program(program)).map(|(_, package)| *package).collect();
    // Debian splits what `python3 -m venv` needs off the interpreter.
    if !shell::succeeds(Command::new("python3").args(["-c", "import ensurepip"])) {
        missing.push("python3-venv");
    }
    if missing.is_empty() {
        return Ok(());
    }
    let by_hand = format!("sudo apt-get install --no-install-recommends {}", missing.join(" "));
    if !shell::has_program("apt-get") {
        bail!("missing: {}. Install them with this system's package manager, then run this again", missing.join(", "));
    }
    let sudo = if is_root() {
        false
    } else if shell::succeeds(Command::new("sudo").args(["-n", "true"])) {
        true
    } else {
        bail!("these packages are missing and this user may not install them; run:\n\n    {by_hand}\n");
    };
    refuse_service_starts(sudo)?;
    shell::run(privileged(sudo, "apt-get").arg("update"))?;
    shell::run(
        privileged(sudo, "apt-get")
            .args(["install", "--yes", "--no-install-recommends"])
            .args(&missing)
            .env("DEBIAN_FRONTEND", "noninteractive"),
    )
}

/// A package must not start its server on a port of its own: tests start what they need. The file is only written where
/// there is neither such a policy nor a service manager, as in a container; elsewhere the system's owner decides.
fn refuse_service_starts(sudo: bool) -> Result<()> {
    let policy = std::path::Path::new("/usr/sbin/policy-rc.d");
    if policy.exists() || std::path::Path::new("/run/systemd/system").exists() {
        return Ok(());
    }
    let script = r"printf '#!/bin/sh\nexit 101\n' > /usr/sbin/policy-rc.d && chmod 755 /usr/sbin/policy-rc.d";
    shell::run(privileged(sudo, "sh").args(["-c", script]))
}

fn privileged(sudo: bool, program: &str) -> Command {
    if sudo {
        let mut command = shell::command("sudo");
        command.args(["-n", "--preserve-env=DEBIAN_FRONTEND", program]);
        command
    } else {
        shell::command(program)
    }
}

fn is_root() -> bool {
    Command::new("id").arg("-u").output().is_ok_and(|out| out.stdout.trim_ascii() == b"0")
}

fn python() -> Result<PathBuf> {
    let venv = shell::cache()?.join("venv");
    let python = venv.join("bin").join("python");
    if !shell::succeeds(Command::new(&python).args(["-c", "import paho.mqtt.client"])) {
        shell::run(shell::command("python3").args(["-m", "venv"]).arg(&venv))?;
        shell::run(shell::command(&python).args(["-m", "pip", "install", "--quiet", PAHO]))?;
    }
    Ok(python)
}
