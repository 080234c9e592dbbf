//! How much each lane may have on its way to us: connection windows, within a budget of memory for all lanes.
//!
//! A lane begins with the window of the settings. One that fills it grows, to the largest of the settings; when the
//! budget does not go round, every lane has an equal share of it. QUIC takes nothing back that was granted: a window
//! that becomes smaller does so as it is used.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use quinn::VarInt;
use tokio::time::sleep;

use super::{Lane, Links};
use crate::model::{code::Code, congestion::CongestionControl, limits};

/// What links may take, as configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkLimits {
    /// Window of a connection before it grows, in bytes.
    pub connection_window: u64,
    /// Window of a connection at most, in bytes.
    pub connection_window_max: u64,
    /// Window of one stream, in bytes.
    pub stream_window: u64,
    /// Streams a peer may have open on one connection.
    pub bidi_streams: u32,
    /// Streams a peer may open on one lane in one second.
    pub opens_per_second: u32,
    /// Time for a stream's header.
    pub header_timeout: Duration,
    /// Time for a handshake, and for the `Hello` after it.
    pub handshake_timeout: Duration,
    /// Connection windows of all lanes together, in bytes.
    pub memory: u64,
    /// What decides how much is under way.
    pub congestion: CongestionControl,
}

impl Default for LinkLimits {
    fn default() -> Self {
        Self {
            connection_window: limits::CONNECTION_WINDOW_BYTES,
            connection_window_max: limits::CONNECTION_WINDOW_BYTES_MAX,
            stream_window: limits::STREAM_WINDOW_BYTES,
            bidi_streams: limits::BIDI_STREAMS_MAX,
            opens_per_second: limits::OPENS_PER_SECOND_MAX,
            header_timeout: limits::HEADER_TIMEOUT,
            handshake_timeout: limits::HANDSHAKE_TIMEOUT,
            memory: limits::LINK_MEMORY_BYTES,
            congestion: CongestionControl::default(),
        }
    }
}

impl LinkLimits {
    /// The window of one of so many lanes, when this many bytes came in one round trip of it. Room for two round
    /// trips lets the sender go on while the word that there is more room travels.
    /// Each stream that is left unread holds a window of its own, which the others would miss.
    fn window(&self, in_a_round_trip: u64, lanes: usize, unread: usize) -> u64 {
        let share = self.share(lanes);
        let most = self.connection_window_max.max(self.connection_window);
        let wanted = in_a_round_trip.saturating_mul(2).clamp(self.connection_window, most);
        // Less than this, and control and catalog would wait for each other.
        let least = u64::from(limits::UNPROVEN_WINDOW_BYTES).min(self.connection_window);
        wanted.saturating_add(self.unread_bytes(unread)).min(share).max(least)
    }

    /// What one of so many lanes may have of the budget.
    fn share(&self, lanes: usize) -> u64 {
        self.memory / u64::try_from(lanes.max(1)).unwrap_or(u64::MAX)
    }

    /// The most that so many streams hold.
    fn unread_bytes(&self, streams: usize) -> u64 {
        self.stream_window.saturating_mul(u64::try_from(streams).unwrap_or(u64::MAX))
    }
}

/// Lets a gateway that has proven who it is send as a peer may.
pub(super) fn widen(links: &Links, lane: &Lane) {
    let limits = &links.0.limits;
    // This one is not in the registry yet.
    set(lane, limits, (0, links.registry().all().len() + 1));
    lane.connection.set_max_concurrent_bi_streams(VarInt::from_u32(limits.bidi_streams));
}

/// What a lane's window may become between two looks.
#[derive(Debug, Default)]
pub(super) struct Room {
    /// Without what is left unread, with all that may be, and for each stream.
    window: AtomicU64,
    most: AtomicU64,
    stream: AtomicU64,
}

/// Makes the window larger at once when more streams are left unread than it has room for.
pub(super) fn make_room(lane: &Lane) {
    let unread = u64::try_from(lane.unread.load(Ordering::Relaxed)).unwrap_or(u64::MAX);
    let held = lane.room.stream.load(Ordering::Relaxed).saturating_mul(unread);
    let wanted = lane.room.window.load(Ordering::Relaxed).saturating_add(held);
    let wanted = wanted.min(lane.room.most.load(Ordering::Relaxed));
    if wanted > lane.window.load(Ordering::Relaxed) {
        grant(lane, wanted);
    }
}

fn set(lane: &Lane, limits: &LinkLimits, (in_a_round_trip, lanes): (u64, usize)) {
    lane.room.window.store(limits.window(in_a_round_trip, lanes, 0), Ordering::Relaxed);
    lane.room.most.store(limits.share(lanes), Ordering::Relaxed);
    lane.room.stream.store(limits.unread_bytes(1), Ordering::Relaxed);
    grant(lane, limits.window(in_a_round_trip, lanes, lane.unread.load(Ordering::Relaxed)));
}

fn grant(lane: &Lane, window: u64) {
    if lane.window.swap(window, Ordering::Relaxed) != window {
        lane.connection.set_receive_window(VarInt::from_u64(window).unwrap_or(VarInt::MAX));
    }
}

/// Keeps all windows as they should be, for the life of the process.
pub(super) async fn run(links: Links) {
    let mut last = links.0.clock.now();
    let mut tight = false;
    loop {
        sleep(limits::WINDOWS_INTERVAL).await;
        let now = links.0.clock.now();
        let lanes = links.registry().all();
        for lane in &lanes {
            set(lane, &links.0.limits, (in_a_round_trip(lane, (last, now)), lanes.len()));
        }
        last = now;
        let short = links.0.limits.window(0, lanes.len(), 0) < links.0.limits.connection_window;
        if short && !tight {
            tracing::warn!(
                code = %Code::MEMORY_BUDGET, lanes = lanes.len(), memory = links.0.limits.memory,
                "the windows of all links reach the memory budget: each has a share of it"
            );
        }
        tight = short;
    }
}

/// What came on a lane in one of its round trips, on average since the last look.
fn in_a_round_trip(lane: &Lane, (last, now): (Instant, Instant)) -> u64 {
    let received = lane.connection.stats().udp_rx.bytes;
    let before = lane.received.swap(received, Ordering::Relaxed);
    let span = now.saturating_duration_since(last).as_nanos().max(1);
    let bytes = u128::from(received.saturating_sub(before)) * lane.connection.rtt().as_nanos() / span;
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIB: u64 = 1024 * 1024;

    #[test]
    fn a_window_grows_with_what_comes_to_its_largest() {
        let limits = LinkLimits::default();
        let window = |in_a_round_trip| limits.window(in_a_round_trip, 1, 0);
        assert_eq!([window(0), window(8 * MIB), window(12 * MIB)], [16 * MIB, 16 * MIB, 24 * MIB]);
        assert_eq!([window(32 * MIB), window(u64::MAX)], [64 * MIB, 64 * MIB]);
    }

    #[test]
    fn what_is_left_unread_takes_nothing_from_the_others() {
        let limits = LinkLimits::default();
        let beside =
            |unread| limits.window(0, 1, unread) - u64::try_from(unread).unwrap() * limits.stream_window;
        assert!([1, 64, 400].into_iter().all(|unread| beside(unread) >= 16 * MIB));
        assert_eq!(limits.window(0, 1, 100_000), limits.memory);
    }

    #[test]
    fn a_budget_that_does_not_go_round_is_shared() {
        let limits = LinkLimits { memory: 64 * MIB, ..LinkLimits::default() };
        assert_eq!([1, 4, 8, 64].map(|lanes| limits.window(0, lanes, 0) / MIB), [16, 16, 8, 1]);
        assert_eq!(limits.window(u64::MAX, 2, 0), 32 * MIB, "what is left of it may be used");
        assert_eq!(limits.window(0, 100_000, 0), u64::from(limits::UNPROVEN_WINDOW_BYTES));
    }

    proptest! {
        #[test]
        fn all_windows_together_stay_within_the_budget(
            memory in 16 * MIB..1_024 * MIB,
            comes in prop::collection::vec((any::<u64>(), any::<usize>()), 1..100),
        ) {
            let limits = LinkLimits { memory, ..LinkLimits::default() };
            let sum: u64 = comes.iter().map(|(bytes, unread)| limits.window(*bytes, comes.len(), *unread)).sum();
            prop_assert!(sum <= memory);
        }
    }
}
