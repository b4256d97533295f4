//! What fuzzing needs: cargo-fuzz, which is installed where it is missing, and a C++ compiler for libFuzzer.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::Sanitizer;
use crate::shell;
use forebay_services::packages;

/// The version that is installed.
const VERSION: &str = "0.13.2";

/// cargo-fuzz: the one on the PATH, or that of the cache folder, which is built when it is not there.
///
/// # Errors
/// Where there is no C++ compiler, or cargo-fuzz can't be built: the message says what to do.
pub fn provision() -> Result<PathBuf> {
    if !["c++", "g++", "clang++"].into_iter().any(|name| packages::find(name).is_some())
        && std::env::var_os("CXX").is_none()
    {
        bail!("libFuzzer is C++ and there is no C++ compiler: install one (Debian: apt-get install g++) or set CXX");
    }
    let root = packages::cache()?.join("tools");
    let own = root.join("bin").join("cargo-fuzz");
    if own.is_file() {
        return Ok(own);
    }
    if let Some(there) = packages::find("cargo-fuzz") {
        return Ok(there);
    }
    let mut install = shell::cargo()?;
    install.args(["install", "cargo-fuzz", "--locked", "--version", VERSION, "--root"]).arg(&root);
    shell::run(&mut install).with_context(|| {
        format!(
            "cargo-fuzz is not installed and could not be: run `cargo install cargo-fuzz --version {VERSION}` by hand"
        )
    })?;
    Ok(own)
}

/// The platform that the compiler builds for by default.
///
/// # Errors
/// Where rustc can't be asked.
pub fn host() -> Result<String> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let out = Command::new(rustc).arg("-vV").output().context("asking rustc for its host")?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    text.lines().find_map(|line| line.strip_prefix("host: ").map(str::to_owned)).context("rustc -vV names no host")
}

/// Builds all targets; the folder of their programs.
///
/// # Errors
/// Where one does not compile.
pub fn build(tool: &Path, host: &str, sanitizer: Sanitizer) -> Result<PathBuf> {
    let name = match sanitizer {
        Sanitizer::None => "none",
        Sanitizer::Address => "address",
    };
    // Flags differ, and cargo keeps what was built with one set of them in a folder.
    let dir = packages::cache()?.join("fuzz").join(format!("target-{name}"));
    let mut command = shell::command(tool);
    command.args(["fuzz", "build", "--fuzz-dir", "fuzz", "--sanitizer", name, "--target", host]);
    command.env("CARGO_TARGET_DIR", &dir);
    if sanitizer == Sanitizer::Address {
        command.env("RUSTC_BOOTSTRAP", "1");
    }
    shell::run(&mut command).context("building the fuzz targets")?;
    Ok(dir.join(host).join("release"))
}
