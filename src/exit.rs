//! Exit codes, and the failures that decide them.

use std::process::ExitCode;

/// How the program ends. The numbers are documented in `docs/OPERATIONS.md` and do not change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// It did what was asked.
    Ok = 0,
    /// It failed for a reason that has no number of its own.
    Failure = 1,
    /// The command line, the environment or a configuration file has a fault. Nothing was started.
    Usage = 2,
    /// Another process holds the data folder.
    Locked = 3,
    /// An address to listen on is taken.
    AddressInUse = 4,
    /// The data folder is damaged, or written by a newer version.
    Damaged = 5,
    /// The disk is full.
    DiskFull = 6,
    /// The command needs a running server and none answers.
    NoServer = 7,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit as u8)
    }
}

/// Why a command failed: one text for people, one number for programs.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// The exit code.
    pub exit: Exit,
    /// What happened, to what, and what to do.
    pub message: String,
}

impl Failure {
    /// A failure with this code and text.
    pub fn new(exit: Exit, message: impl Into<String>) -> Failure {
        Failure { exit, message: message.into() }
    }

    /// A failure without a number of its own. A full disk has one, wherever it shows.
    pub fn io(what: impl std::fmt::Display, source: &std::io::Error) -> Failure {
        let exit = if source.kind() == std::io::ErrorKind::StorageFull { Exit::DiskFull } else { Exit::Failure };
        Failure::new(exit, format!("{what}: {source}"))
    }
}

/// The last line of a list of faults.
pub fn nothing_started(faults: usize) -> String {
    format!("{faults} {}; nothing was started", if faults == 1 { "error" } else { "errors" })
}
