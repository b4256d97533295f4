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
