//! `cargo xtask services`: the servers of [`forebay_services`] for people who work on Forebay, and for `cargo xtask test`.

use anyhow::{Result, bail};
use clap::Subcommand;
use forebay_services::{Service, all, down, shared, sweep, up};

/// What to do with the servers.
#[derive(Clone, Debug, Subcommand)]
pub enum Action {
    /// Starts them (those named, or all) and prints their addresses.
    Up {
        /// Servers.
        names: Vec<String>,
    },
    /// Stops them.
    Down {
        /// Servers.
        names: Vec<String>,
    },
    /// Says which run, and where.
    Status,
}

/// Runs `cargo xtask services …`.
///
/// # Errors
/// Where a server is unknown, can't be had, or does not start or stop in time.
pub fn run(action: &Action) -> Result<()> {
    match action {
        Action::Up { names } => {
            for service in chosen(names)? {
                let (address, started) = up(service.as_ref())?;
                let note = if started { "" } else { "  # ran already" };
                println!("{}={address}{note}", service.variable());
            }
        }
        Action::Down { names } => {
            for service in chosen(names)? {
                let what = if down(service.as_ref())? { "stopped" } else { "does not run" };
                println!("{} {what}", service.name());
            }
            match sweep()? {
                0 => {}
                n => println!("{n} servers of tests that are gone: stopped"),
            }
        }
        Action::Status => {
            for service in all() {
                let state = shared(service.as_ref())?.unwrap_or_else(|| "down".to_owned());
                println!("{:<16} {state}", service.name());
            }
        }
    }
    Ok(())
}

fn chosen(names: &[String]) -> Result<Vec<Box<dyn Service>>> {
    let known: Vec<&str> = all().iter().map(|service| service.name()).collect();
    if let Some(unknown) = names.iter().find(|name| !known.contains(&name.as_str())) {
        bail!("no server is called `{unknown}`; there are: {}", known.join(", "));
    }
    Ok(all().into_iter().filter(|s| names.is_empty() || names.iter().any(|name| name == s.name())).collect())
}

/// Servers that the tests share. Those that were started for this run are stopped when it is dropped.
pub struct ForTests(Vec<Box<dyn Service>>);

/// Of these, tests that need one start their own: they kill its parts.
const PRIVATE_ONLY: &[&str] = &["mosquitto", "redis-sentinel"];

impl ForTests {
    /// Starts nothing: for tests that have servers of their own. Ends what earlier runs left behind, and what this one does.
    ///
    /// # Errors
    /// Where a process of an earlier run does not end.
    pub fn swept() -> Result<ForTests> {
        sweep()?;
        Ok(ForTests(Vec::new()))
    }

    /// Starts what does not run, and ends what earlier runs left behind.
    ///
    /// # Errors
    /// Where one can't be had or does not start; those started before are stopped.
    pub fn start() -> Result<ForTests> {
        sweep()?;
        let mut started = ForTests(Vec::new());
        for service in all() {
            if PRIVATE_ONLY.contains(&service.name()) || std::env::var_os(service.variable()).is_some() {
                continue;
            }
            if up(service.as_ref())?.1 {
                started.0.push(service);
            }
        }
        Ok(started)
    }
}

impl Drop for ForTests {
    fn drop(&mut self) {
        for service in &self.0 {
            if let Err(fault) = down(service.as_ref()) {
                eprintln!("xtask: stopping {}: {fault:#}", service.name());
            }
        }
        if let Err(fault) = sweep() {
            eprintln!("xtask: {fault:#}");
        }
    }
}
