//! Ctrl-C and SIGTERM: work stops at the next safe point, where what was made can still be taken down.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Result, ensure};
use nix::sys::signal::{SigSet, Signal};

use crate::monotonic;

/// How long a sleep does not look, in nanoseconds.
const LOOK: u64 = 50_000_000;

static ASKED: AtomicBool = AtomicBool::new(false);

/// From now on the two signals are only noted. Call before the first thread is started.
pub(crate) fn note_signals() -> Result<()> {
    let mut set = SigSet::empty();
    set.add(Signal::SIGINT);
    set.add(Signal::SIGTERM);
    set.thread_block()?;
    std::thread::spawn(move || {
        while set.wait().is_ok() {
            ASKED.store(true, Ordering::Relaxed);
        }
    });
    Ok(())
}

/// Whether somebody asked to stop.
pub(crate) fn asked() -> bool {
    ASKED.load(Ordering::Relaxed)
}

/// Sleeps until that time of the monotonic clock, or until somebody asks to stop.
pub(crate) fn sleep_until(at: u64) {
    while !asked() && monotonic::nanos() < at {
        monotonic::sleep_until(at.min(monotonic::nanos() + LOOK));
    }
}

/// An error once somebody asked to stop.
pub(crate) fn check() -> Result<()> {
    ensure!(!asked(), "interrupted");
    Ok(())
}
