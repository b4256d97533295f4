//! What the tests need besides cargo: packages of the system, and the servers' programs.

use anyhow::Result;
use forebay_services::{npm, packages};

/// A program (or another file, by its whole path) that tests need, and the Debian package that brings it.
const PROGRAMS: &[(&str, &str)] = &[
    ("mosquitto", "mosquitto"),
    ("mosquitto_pub", "mosquitto-clients"),
    ("/usr/lib/python3/dist-packages/paho/mqtt/client.py", "python3-paho-mqtt"),
    ("strace", "strace"),
    ("sqlite3", "sqlite3"),
    ("pgbouncer", "pgbouncer"),
];

/// Installs what is missing.
///
/// # Errors
/// Where something is missing and can't be installed without the user: the message is the line to run.
pub fn provision() -> Result<()> {
    packages::provide(PROGRAMS)?;
    npm::install()?;
    forebay_services::all().iter().try_for_each(|service| service.install())
}
