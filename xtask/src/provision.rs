//! What the tests need besides cargo: packages of the system.

use std::process::Command;

use anyhow::{Result, bail};

use crate::shell;

/// A program that tests start, and the Debian package that brings it.
const PROGRAMS: &[(&str, &str)] =
    &[("mosquitto", "mosquitto"), ("mosquitto_pub", "mosquitto-clients"), ("strace", "strace"), ("sqlite3", "sqlite3")];

/// Installs what is missing.
///
/// # Errors
/// Where something is missing and can't be installed without the user: the message is the line to run.
pub fn provision() -> Result<()> {
    let missing: Vec<&str> =
        PROGRAMS.iter().filter(|(program, _)| !shell::has_program(program)).map(|(_, package)| *package).collect();
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
    let policy = refuse_service_starts(sudo)?;
    let installed = install(sudo, &missing);
    if policy {
        shell::run(privileged(sudo, "rm").args(["-f", POLICY]))?;
    }
    installed
}

fn install(sudo: bool, packages: &[&str]) -> Result<()> {
    shell::run(privileged(sudo, "apt-get").arg("update"))?;
    shell::run(
        privileged(sudo, "apt-get")
            .args(["install", "--yes", "--no-install-recommends"])
            .args(packages)
            .env("DEBIAN_FRONTEND", "noninteractive"),
    )
}

/// Debian's packages ask this script whether they may start their server.
const POLICY: &str = "/usr/sbin/policy-rc.d";

/// A package must not start its server on a port of its own: tests start what they need. True where the script was written; it
/// is only where there is neither such a policy nor a service manager, as in a container; elsewhere the system's owner decides.
fn refuse_service_starts(sudo: bool) -> Result<bool> {
    if std::path::Path::new(POLICY).exists() || std::path::Path::new("/run/systemd/system").exists() {
        return Ok(false);
    }
    let script = format!(r"printf '#!/bin/sh\nexit 101\n' > {POLICY} && chmod 755 {POLICY}");
    shell::run(privileged(sudo, "sh").args(["-c", &script]))?;
    Ok(true)
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
