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

/// Processor time of a process and its children, those that have ended and been waited for included, milliseconds in steps of 10.
///
/// # Errors
/// Where the process is not there.
pub fn family_ms(pid: u32) -> Result<f64> {
    let mut sum = 0.0;
    for entry in std::fs::read_dir("/proc")? {
        let Some(other) = entry?.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        // One that has just ended is none of those that count.
        let Ok(stat) = std::fs::read_to_string(format!("/proc/{other}/stat")) else { continue };
        let Some((_, fields)) = stat.rsplit_once(')') else { continue };
        let fields: Vec<&str> = fields.split_whitespace().collect();
        let number = |n: usize| fields.get(n).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
        let parent = fields.get(1).and_then(|field| field.parse::<u32>().ok());
        if other == pid {
            sum += number(11) + number(12) + number(13) + number(14);
        } else if parent == Some(pid) {
            sum += number(11) + number(12);
        }
    }
    anyhow::ensure!(sum > 0.0, "there is no process {pid}");
    Ok(sum * 10.0)
}
