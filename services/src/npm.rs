//! MQTT clients written in JavaScript: their packages come from the npm registry, each of the version and with the checksum that
//! `tests/clients/package-lock.json` names.
//!
//! ```text
//!  CACHE/npm/SUM/node_modules/     SUM: of the lock file; the folder has this name only when it is whole
//! ```
//!
//! They are fetched when tests are provisioned, never by a test.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::packages;
use crate::process::run;

const PACKAGE: &str = include_str!("../../tests/clients/package.json");
const LOCK: &str = include_str!("../../tests/clients/package-lock.json");

/// The command that installs them.
pub const INSTALLED_BY: &str = "cargo xtask test --only provision";

/// Makes sure that node and the packages are there.
///
/// # Errors
/// Where they can't be had.
pub fn install() -> Result<()> {
    packages::provide(&[("node", "nodejs")])?;
    let dir = dir()?;
    let parent = dir.parent().context("the cache folder has a parent")?;
    crate::make(parent)?;
    let lock = fs::File::create(parent.join("npm.lock")).context("creating a lock file")?;
    lock.lock().context("locking the download")?;
    if dir.is_dir() {
        return Ok(());
    }
    packages::provide(&[("npm", "npm")])?;
    let unfinished = dir.with_extension("unfinished");
    crate::empty(&unfinished)?;
    for (name, text) in [("package.json", PACKAGE), ("package-lock.json", LOCK)] {
        fs::write(unfinished.join(name), text).with_context(|| format!("writing {name}"))?;
    }
    eprintln!("$ npm ci  # in {}", unfinished.display());
    // `ci` installs what the lock file says or fails; nothing of a package is run.
    let mut npm = Command::new("npm");
    run(npm.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"]).current_dir(&unfinished))?;
    fs::rename(&unfinished, &dir).context("renaming the downloaded packages")
}

/// The folder in which node finds the packages (`NODE_PATH`).
///
/// # Errors
/// Where they are not installed; the message has the command that does it.
pub fn modules() -> Result<PathBuf> {
    let modules = dir()?.join("node_modules");
    if packages::find("node").is_none() || !modules.is_dir() {
        bail!("node or the packages in {} are missing. Install them:\n\n    {INSTALLED_BY}\n", modules.display());
    }
    Ok(modules)
}

fn dir() -> Result<PathBuf> {
    Ok(packages::cache()?.join("npm").join(crate::sum([PACKAGE, LOCK])))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    #[test]
    fn every_package_is_pinned_by_version_and_checksum() {
        let lock: serde_json::Value = serde_json::from_str(LOCK).unwrap();
        let packages = lock["packages"].as_object().unwrap();
        assert!(packages.contains_key("node_modules/mqtt"));
        for (name, package) in packages.iter().filter(|(name, _)| !name.is_empty()) {
            assert!(package["version"].is_string() && package["integrity"].is_string(), "{name}");
        }
    }
}
