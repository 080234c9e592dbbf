//! What a process costs, read from outside: processor time and resident memory.

use std::fs;

use anyhow::{Context as _, Result};
use nix::{
    time::{ClockId, clock_gettime},
    unistd::{SysconfVar, sysconf},
};

/// Processor time of a process so far, user and system, in seconds.
pub(super) fn processor_seconds(pid: i32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).context("a gateway is gone")?;
    let ticks = sysconf(SysconfVar::CLK_TCK)?.context("a system without a clock tick")?;
    Ok(ticks_of(&stat).context("a process state that is not understood")? as f64 / ticks as f64)
}

/// Fields 14 and 15 of proc_pid_stat(5), counted after the name, which may hold anything.
fn ticks_of(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let (user, system): (u64, u64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some(user + system)
}

/// Resident memory of a process, in KiB.
pub(super) fn resident_kib(pid: i32) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).context("a gateway is gone")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let text = line.and_then(|line| line.split_whitespace().next()).context("a process without memory")?;
    text.parse().context("a process state that is not understood")
}

/// Processor time of the calling thread so far, in seconds.
pub(super) fn thread_seconds() -> Result<f64> {
    let spent = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?;
    Ok(std::time::Duration::from(spent).as_secs_f64())
}

/// The load average of the last minute.
pub(super) fn load_average() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().next().and_then(|first| first.parse().ok()).unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ticks_are_found_behind_any_name() {
        let stat = "7 (a) b (c)) S 1 7 7 0 -1 4194304 100 0 0 0 12 30 0 0 20 0 1 0 100";
        assert_eq!(ticks_of(stat), Some(42));
    }

    #[test]
    fn work_done_here_shows_in_the_gauges_of_this_process_and_thread() {
        let own = i32::try_from(std::process::id()).unwrap();
        let (process, thread) = (processor_seconds(own).unwrap(), thread_seconds().unwrap());
        let mut sum = 0_u64;
        while thread_seconds().unwrap() - thread < 0.05 {
            sum = std::hint::black_box(sum.wrapping_mul(31).wrapping_add(7));
        }
        assert!(processor_seconds(own).unwrap() - process >= 0.03);
        assert!(resident_kib(own).unwrap() > 1_000.0);
    }
}
