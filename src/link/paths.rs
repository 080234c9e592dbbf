//! How large a lane's streams may be, by what the way to that address carried before.
//!
//! quinn fixes the window of streams when a connection begins, so what one lane learns serves the next one.
//! The rule itself is `model::congestion::stream_window`; here is only the memory.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::windows::LinkLimits;
use crate::model::{
    congestion::{CongestionControl, stream_window},
    limits,
};

/// What a lane is made with, by its path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PathSettings {
    /// What decides how much is under way.
    pub(super) congestion: CongestionControl,
    /// Bytes of a stream's window.
    pub(super) stream_window: u64,
}

impl PathSettings {
    /// Of a path of which nothing is known.
    pub(super) fn of(given: &LinkLimits) -> Self {
        Self { congestion: given.congestion, stream_window: given.stream_window }
    }
}

/// What is remembered of the ways to other gateways.
#[derive(Debug)]
pub(super) struct Paths {
    unknown: PathSettings,
    /// The most that was ever under way from there, in bytes.
    carried: Mutex<BTreeMap<IpAddr, u64>>,
}

impl Paths {
    pub(super) fn new(given: &LinkLimits) -> Self {
        Self { unknown: PathSettings::of(given), carried: Mutex::default() }
    }

    /// Settings of a lane to or from `address`, or to anywhere.
    pub(super) fn settings(&self, address: Option<IpAddr>) -> PathSettings {
        // A panic while it is held would leave a whole map.
        let carried = self.carried.lock().unwrap_or_else(PoisonError::into_inner);
        let product = address.and_then(|address| carried.get(&address.to_canonical()).copied());
        let Some(product) = product else { return self.unknown };
        let window = stream_window(product);
        PathSettings { stream_window: window.max(self.unknown.stream_window), ..self.unknown }
    }

    /// From `address`, `product` bytes were under way.
    pub(super) fn learn(&self, address: IpAddr, product: u64) {
        if product * 4 <= limits::STREAM_WINDOW_BYTES {
            return; // it would change nothing
        }
        let mut carried = self.carried.lock().unwrap_or_else(PoisonError::into_inner);
        let address = address.to_canonical();
        if carried.len() >= limits::PATHS_REMEMBERED_MAX && !carried.contains_key(&address) {
            carried.pop_first();
        }
        let most = carried.entry(address).or_default();
        *most = product.max(*most);
    }
}

/// Measures how much of one lane is under way towards us.
#[derive(Debug)]
pub(super) struct Carried {
    since: Instant,
    received: u64,
}

impl Carried {
    pub(super) fn new(now: Instant) -> Self {
        Self { since: now, received: 0 }
    }

    /// `received` bytes have arrived since the handshake. Gives rate times round trip, in bytes, when there was
    /// time enough to tell.
    pub(super) fn look(&mut self, now: Instant, received: u64, rtt: Duration) -> Option<u64> {
        let elapsed = now.saturating_duration_since(self.since);
        if elapsed < limits::PATH_MEASURED_OVER {
            return None;
        }
        let rate = received.saturating_sub(self.received) as f64 / elapsed.as_secs_f64();
        *self = Self { since: now, received };
        // Far below 2^53: a fraction of a byte is lost.
        Some((rate * rtt.as_secs_f64()) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const THERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

    #[test]
    fn a_path_that_carried_much_gets_larger_windows_next_time() {
        let paths = Paths::new(&LinkLimits { congestion: CongestionControl::Delay, ..LinkLimits::default() });
        assert_eq!(paths.settings(Some(THERE)).stream_window, limits::STREAM_WINDOW_BYTES);
        paths.learn(THERE, 500_000);
        paths.learn(THERE, 5_000);
        assert_eq!(paths.settings(Some(THERE)).stream_window, 2_000_000);
        assert_eq!(paths.settings(None).stream_window, limits::STREAM_WINDOW_BYTES);
        let mapped = std::net::Ipv4Addr::new(192, 0, 2, 1).to_ipv6_mapped();
        assert_eq!(paths.settings(Some(mapped.into())).stream_window, 2_000_000);
    }

    #[test]
    fn the_memory_of_paths_is_bounded() {
        let paths = Paths::new(&LinkLimits { congestion: CongestionControl::Delay, ..LinkLimits::default() });
        for number in 0..=limits::PATHS_REMEMBERED_MAX as u32 {
            paths.learn(std::net::Ipv4Addr::from(number).into(), 1_000_000);
        }
        assert_eq!(paths.carried.lock().unwrap().len(), limits::PATHS_REMEMBERED_MAX);
    }

    #[test]
    fn what_is_under_way_is_rate_times_round_trip() {
        let start = crate::clock::Clock::system().now();
        let mut carried = Carried::new(start);
        let rtt = Duration::from_millis(40);
        assert_eq!(carried.look(start + Duration::from_millis(50), 1_000_000, rtt), None);
        assert_eq!(carried.look(start + Duration::from_secs(1), 25_000_000, rtt), Some(1_000_000));
        assert_eq!(carried.look(start + Duration::from_secs(2), 25_000_000, rtt), Some(0));
    }
}
