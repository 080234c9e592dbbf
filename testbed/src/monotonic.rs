//! The machine-wide monotonic clock, so that times taken in several processes can be compared.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// Nanoseconds since the machine booted; equal in all processes and namespaces.
pub(crate) fn nanos() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("every Linux has a monotonic clock");
    u64::try_from(Duration::from(now).as_nanos()).expect("584 years of uptime")
}

/// Sleeps until that time, to within the timer's slack; returns at once when it is past.
pub(crate) fn sleep_until(at: u64) {
    let now = nanos();
    if at > now {
        std::thread::sleep(Duration::from_nanos(at - now));
    }
}
