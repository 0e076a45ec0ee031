//! What the server's process has used, from Linux's /proc.

use std::fs;

use anyhow::{Context as _, Result};

/// CPU time of all its threads, nanoseconds (those that ended are missing: none does under load).
pub fn cpu_ns(pid: u32) -> Result<u64> {
    let mut sum = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task")).context("no such process")? {
        let path = task?.path().join("schedstat");
        let Ok(text) = fs::read_to_string(path) else { continue };
        sum += text.split_whitespace().next().context("schedstat")?.parse::<u64>()?;
    }
    Ok(sum)
}

/// Resident memory now and at most, bytes.
pub fn memory(pid: u32) -> Result<(u64, u64)> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let kib = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).context("a field of status")?;
        let kib = line.split_whitespace().nth(1).context("a number")?;
        Ok::<_, anyhow::Error>(kib.parse::<u64>()? * 1024)
    };
    Ok((kib("VmRSS")?, kib("VmHWM")?))
}
