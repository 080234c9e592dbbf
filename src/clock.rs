//! Time and randomness, as an argument: the only place that reads clocks or asks the system for entropy.
//!
//! Timers sleep on tokio's clock, which tests pause; this page only tells what time it is. It schedules
//! nothing. In simulation all randomness descends from one seed, so a run can be repeated.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use crate::model::ids::Timestamp;

/// Where a part takes time and randomness from. Cloning is cheap, and clones share one source.
#[derive(Clone)]
pub struct Clock(Source);

#[derive(Clone)]
enum Source {
    System,
    Simulated { rng: Arc<Mutex<StdRng>>, origin: Instant, start: Timestamp },
}

impl Clock {
    /// The machine's clocks, and randomness seeded by the operating system.
    #[must_use]
    pub fn system() -> Self {
        Self(Source::System)
    }

    /// Wall time `start` now and moving with tokio's clock; all randomness descends from `seed`.
    ///
    /// Call it on the runtime whose clock it shall follow: each simulated host has its own.
    #[must_use]
    pub fn simulated(seed: u64, start: Timestamp) -> Self {
        let rng = Arc::new(Mutex::new(StdRng::seed_from_u64(seed)));
        Self(Source::Simulated { rng, origin: monotonic(), start })
    }

    /// Monotonic time, for timers. Stands still while tokio's clock is paused.
    #[must_use]
    pub fn now(&self) -> Instant {
        monotonic()
    }

    /// Wall time, for what people and certificates say; never for timers.
    #[must_use]
    pub fn wall(&self) -> Timestamp {
        match &self.0 {
            Source::System => system_wall(),
            Source::Simulated { origin, start, .. } => {
                start.after(monotonic().saturating_duration_since(*origin))
            }
        }
    }

    /// A generator of its own, fit for secrets; the caller keeps it as long as it likes.
    ///
    /// # Panics
    /// When the operating system has no entropy: nothing secret could be made then.
    #[must_use]
    pub fn rng(&self) -> StdRng {
        match &self.0 {
            Source::System => rand::make_rng(),
            Source::Simulated { rng, .. } => rng.lock().unwrap_or_else(PoisonError::into_inner).fork(),
        }
    }

    /// `N` random bytes, fit for secrets.
    ///
    /// # Panics
    /// As [`Clock::rng`].
    #[must_use]
    pub fn random_bytes<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0; N];
        self.rng().fill_bytes(&mut bytes);
        bytes
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Source::System => "Clock(system)",
            Source::Simulated { .. } => "Clock(simulated)",
        })
    }
}

#[expect(clippy::disallowed_methods, reason = "the one reading of monotonic time")]
fn monotonic() -> Instant {
    tokio::time::Instant::now().into_std()
}

#[expect(clippy::disallowed_methods, reason = "the one reading of wall time")]
fn system_wall() -> Timestamp {
    // A clock set before 1970 reads as 1970: certificates are then not yet valid, which is what is said.
    let elapsed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Timestamp(0).after(elapsed)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn simulated_wall_time_moves_with_the_paused_clock() {
        let clock = Clock::simulated(7, Timestamp(1_000));
        let before = clock.now();
        tokio::time::advance(Duration::from_millis(250)).await;
        assert_eq!(clock.wall(), Timestamp(1_250));
        assert_eq!(clock.now() - before, Duration::from_millis(250));
    }

    #[tokio::test(start_paused = true)]
    async fn the_same_seed_gives_the_same_randomness() {
        let draw = |seed| {
            let clock = Clock::simulated(seed, Timestamp(0));
            (clock.random_bytes::<16>(), clock.rng().next_u64(), clock.clone().random_bytes::<4>())
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
    }

    #[test]
    fn children_of_one_source_differ() {
        for clock in [Clock::system(), Clock::simulated(1, Timestamp(0))] {
            assert_ne!(clock.random_bytes::<16>(), clock.random_bytes::<16>(), "{clock:?}");
        }
    }

    #[test]
    fn system_time_is_after_this_was_written() {
        assert!(Clock::system().wall() > Timestamp(1_700_000_000_000));
    }
}
