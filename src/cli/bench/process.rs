//! What a process has used: CPU time and memory, where the system tells.

use std::time::Duration;

/// Of one process, so far.
#[derive(Debug, Clone, Copy)]
pub(super) struct Usage {
    /// User and system time of all its threads.
    pub(super) cpu: Duration,
    /// Resident memory, bytes, now.
    pub(super) resident: u64,
}

impl Usage {
    /// `None` where it cannot be known.
    #[cfg(target_os = "linux")]
    pub(super) fn of(pid: u32) -> Option<Self> {
        let read = |name: &str| std::fs::read_to_string(format!("/proc/{pid}/{name}")).ok();
        let pages: u64 = read("statm")?.split_whitespace().nth(1)?.parse().ok()?;
        Some(Self {
            cpu: cpu(&read("stat")?, rustix::param::clock_ticks_per_second())?,
            resident: pages * rustix::param::page_size() as u64,
        })
    }

    /// `None` where it cannot be known.
    #[cfg(not(target_os = "linux"))]
    pub(super) fn of(_pid: u32) -> Option<Self> {
        None
    }
}

/// utime and stime, the 14th and 15th field of proc_pid_stat(5). The second is the program's name in parentheses, in
/// which there may be anything.
#[cfg(target_os = "linux")]
fn cpu(stat: &str, ticks_per_second: u64) -> Option<Duration> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_whitespace().skip(11);
    let mut next = || fields.next()?.parse::<u64>().ok();
    let ticks = next()?.checked_add(next()?)?;
    let ms = ticks.checked_mul(1000)?.checked_div(ticks_per_second)?;
    Some(Duration::from_millis(ms))
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_hold_anything() {
        let stat = "7 (a) b (c)) S 1 7 7 0 -1 4194560 123 0 0 0 250 50 9 9 20 0 3 0 1 2 3";
        assert_eq!(cpu(stat, 100), Some(Duration::from_secs(3)));
        assert_eq!(cpu("7 (a) S 1", 100), None);
        assert_eq!(cpu("", 100), None);
    }

    #[test]
    fn a_process_knows_itself() {
        let before = Usage::of(std::process::id()).unwrap();
        assert!(before.resident > 64 << 10);
        // Until a tick of the clock was spent.
        while Usage::of(std::process::id()).unwrap().cpu == before.cpu {
            std::hint::black_box((0..10_000).sum::<u64>());
        }
        assert!(Usage::of(u32::MAX).is_none());
    }
}
