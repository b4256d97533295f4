//! From settings to who may do what.

use std::time::Duration;

use forebay_broker_adapter::access::{AccessError, FileAccess, FileAccessOptions};

use crate::config::{Anonymous, Settings};
use crate::exit::{self, Exit, Failure};

/// Reads the users and rules files.
///
/// # Errors
/// All faults of both, or why one can't be read.
pub fn open(settings: &Settings) -> Result<FileAccess, Failure> {
    let access = &settings.access;
    let size = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
    let options = FileAccessOptions {
        users: access.users.clone(),
        acl: access.acl.clone(),
        acl_default_allow: access.acl_default_allow,
        anonymous: match access.anonymous {
            Anonymous::Auto => None,
            Anonymous::Yes => Some(true),
            Anonymous::No => Some(false),
        },
        verified_max: size(access.remembered_max),
        hashes_at_once: size(access.hashes_at_once),
        failure_delay_max: Duration::from_millis(access.failure_delay_ms_max),
    };
    FileAccess::open(options).map_err(|error| {
        let faults = if let AccessError::Faults(faults) = &error { faults.len() } else { 1 };
        Failure::new(Exit::Usage, format!("{error}\n{}", exit::nothing_started(faults)))
    })
}
