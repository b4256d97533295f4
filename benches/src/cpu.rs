//! Processor time: on a busy machine the figure that says what the work is.

use anyhow::{Context, Result};

/// Processor time of this thread so far, milliseconds.
///
/// # Errors
/// Where the kernel does not tell.
pub fn thread_ms() -> Result<f64> {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    let nanoseconds: f64 = stat.split_whitespace().next().context("an empty schedstat")?.parse()?;
    Ok(nanoseconds / 1e6)
}

/// Processor time of all threads of this process so far, ended ones too, milliseconds in steps of 10.
///
/// # Errors
/// Where the kernel does not tell.
pub fn process_ms() -> Result<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    // Behind the name, which may hold anything, the fields are numbers: user and system time are the 12th and 13th of them.
    let (_, fields) = stat.rsplit_once(')').context("no name in /proc/self/stat")?;
    let mut times = fields.split_whitespace().skip(11).map(str::parse::<f64>);
    let (user, system) = (times.next().context("no user time")??, times.next().context("no system time")??);
    Ok((user + system) * 10.0)
}
