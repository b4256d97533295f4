//! Programs of the system's packages: found, or installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::process::succeeds;

/// Installs the packages of those programs that are missing; pairs of a program and the Debian package that brings it.
///
/// # Errors
/// Where something is missing and can't be installed without the user: the message is the line to run.
pub fn provide(programs: &[(&str, &str)]) -> Result<()> {
    let missing = || -> Vec<&str> {
        let mut packages: Vec<&str> = programs.iter().filter(|(p, _)| find(p).is_none()).map(|(_, p)| *p).collect();
        packages.dedup();
        packages
    };
    if missing().is_empty() {
        return Ok(());
    }
    // Two package managers at once fail.
    let lock = fs::File::create(crate::base()?.join("packages.lock")).context("creating a lock file")?;
    lock.lock().context("locking the package manager")?;
    let missing = missing();
    if missing.is_empty() {
        return Ok(());
    }
    let by_hand = format!("sudo apt-get install --no-install-recommends {}", missing.join(" "));
    if find("apt-get").is_none() {
        bail!("missing: {}. Install them with this system's package manager, then run this again", missing.join(", "));
    }
    let sudo = if rustix::process::geteuid().is_root() {
        false
    } else if succeeds(Command::new("sudo").args(["-n", "true"])) {
        true
    } else {
        bail!("these packages are missing and this user may not install them; run:\n\n    {by_hand}\n");
    };
    let policy = refuse_service_starts(sudo)?;
    let installed = install(sudo, &missing);
    if policy {
        shown(privileged(sudo, "rm").args(["-f", POLICY]))?;
    }
    installed
}

fn install(sudo: bool, packages: &[&str]) -> Result<()> {
    shown(privileged(sudo, "apt-get").arg("update"))?;
    shown(
        privileged(sudo, "apt-get")
            .args(["-o", "DPkg::Lock::Timeout=300", "install", "--yes", "--no-install-recommends"])
            .args(packages)
            .env("DEBIAN_FRONTEND", "noninteractive"),
    )
}

/// Debian's packages ask this script whether they may start their server.
const POLICY: &str = "/usr/sbin/policy-rc.d";

/// A package must not start its server on a port of its own: tests start what they need. True where the script was written; it
/// is only where there is neither such a policy nor a service manager, as in a container; elsewhere the system's owner decides.
fn refuse_service_starts(sudo: bool) -> Result<bool> {
    if Path::new(POLICY).exists() || Path::new("/run/systemd/system").exists() {
        return Ok(false);
    }
    let script = format!(r"printf '#!/bin/sh\nexit 101\n' > {POLICY} && chmod 755 {POLICY}");
    shown(privileged(sudo, "sh").args(["-c", &script]))?;
    Ok(true)
}

fn privileged(sudo: bool, program: &str) -> Command {
    if sudo {
        let mut command = Command::new("sudo");
        command.args(["-n", "--preserve-env=DEBIAN_FRONTEND", program]);
        command
    } else {
        Command::new(program)
    }
}

/// Shows the command, runs it, and fails if it does.
pub(crate) fn shown(command: &mut Command) -> Result<()> {
    let mut line = command.get_program().to_string_lossy().into_owned();
    for arg in command.get_args() {
        line.push(' ');
        line.push_str(&arg.to_string_lossy());
    }
    eprintln!("$ {line}");
    let status = command.status().with_context(|| format!("starting `{line}`"))?;
    if !status.success() {
        bail!("`{line}` failed: {status}");
    }
    Ok(())
}

/// Where a program is. `/usr/sbin` is looked at too: it holds daemons and is not on every user's PATH.
#[must_use]
pub fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/usr/local/sbin", "/usr/local/go/bin"].map(PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
}

/// The folder for what was downloaded or built; outside every clone, so that a fresh one finds it again.
///
/// # Errors
/// Where neither `XDG_CACHE_HOME` nor `HOME` is set, or it can't be made.
pub fn cache() -> Result<PathBuf> {
    let base = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")))
        .context("neither XDG_CACHE_HOME nor HOME is set: no place for the cache folder")?;
    let dir = base.join("forebay");
    crate::make(&dir)?;
    Ok(dir)
}
