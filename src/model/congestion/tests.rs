//! The window's laws over any history, and its answers to a few paths that are played by hand.

use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;
use crate::model::testing::instant as start;

const MTU: u16 = 1_452;

/// A path that delays by its round trip and a queue, played packet by packet: what is sent over a round trip comes
/// back over the next.
struct Path {
    control: Congestion,
    /// When the next round begins to send.
    now: Instant,
    /// Whether the sender has more than it gets to send.
    waiting: bool,
}

impl Path {
    fn new() -> Self {
        let now = start();
        Self { control: Congestion::new(now, MTU), now, waiting: false }
    }

    /// Sends a share of the window and hears of it after `rtt`; `lost` of every hundred packets are lost.
    fn round(&mut self, rtt: Duration, share: f64, lost: usize) {
        let packets = ((self.control.window() as f64 * share) as u64 / u64::from(MTU)).max(1) as usize;
        for _ in 0..packets {
            self.control.on_sent(u64::from(MTU));
        }
        let mut left = packets as u64 * u64::from(MTU);
        for number in 0..packets {
            let sent = self.now + rtt.mul_f64(number as f64 / packets as f64);
            let arrived = sent + rtt;
            left -= u64::from(MTU);
            if number % 100 < lost {
                self.control.on_loss(arrived, sent, u64::from(MTU), false);
            } else {
                self.control.on_ack(arrived, sent, u64::from(MTU), rtt);
                self.control.on_acks_end(arrived, left, self.waiting);
            }
        }
        self.now += rtt;
    }

    /// Rounds over a path of `rate` bytes per second and `base` of round trip, with room for any queue.
    fn rounds(&mut self, rounds: usize, rate: f64, base: Duration) {
        for _ in 0..rounds {
            let queue = (self.control.window() as f64 / rate - base.as_secs_f64()).max(0.0);
            self.round(base + Duration::from_secs_f64(queue), 1.0, 0);
        }
    }
}

#[test]
fn a_long_path_is_filled_with_a_short_queue() {
    let mut path = Path::new();
    let base = Duration::from_millis(40);
    path.rounds(200, 25e6, base);
    assert_eq!(path.control.phase(), Phase::Delay);
    let product = 25e6 * 0.04;
    let window = path.control.window() as f64;
    assert!(window > product * 0.7 && window < product * 1.2, "window {window}");
}

#[test]
fn losses_of_the_path_do_not_shrink_the_window() {
    let mut path = Path::new();
    let base = Duration::from_millis(40);
    path.rounds(50, 25e6, base);
    let before = path.control.window();
    for _ in 0..50 {
        path.round(base, 1.0, 2);
    }
    assert!(path.control.window() >= before * 3 / 4);
}

#[test]
fn a_host_that_stood_still_for_a_round_costs_little() {
    let mut path = Path::new();
    let base = Duration::from_millis(40);
    path.rounds(100, 25e6, base);
    let before = path.control.window();
    for _ in 0..4 {
        path.round(base + Duration::from_millis(30), 1.0, 0);
        path.rounds(8, 25e6, base);
    }
    assert_eq!(path.control.phase(), Phase::Delay, "nobody competes");
    assert!(path.control.window() >= before / 2, "{} of {before}", path.control.window());
}

#[test]
fn what_trickles_between_late_hosts_keeps_its_window() {
    let mut path = Path::new();
    let base = Duration::from_millis(40);
    path.rounds(20, 0.6e6, base);
    let before = path.control.window();
    for number in 0..400_u64 {
        path.round(base + Duration::from_millis(number * 7 % 11), 1.0, 0);
    }
    assert!(path.control.window() >= before / 2, "{} of {before}", path.control.window());
}

#[test]
fn a_window_grows_for_a_sender_that_is_too_late_to_use_it() {
    let grown = |waiting| {
        let mut path = Path { waiting, ..Path::new() };
        for _ in 0..10 {
            path.round(Duration::from_millis(40), 0.3, 0);
        }
        path.control.window()
    };
    assert_eq!(grown(false), u64::from(MTU) * 10, "it has no more to send");
    assert!(grown(true) > u64::from(MTU) * 20);
}

#[test]
fn half_a_window_at_its_floor_is_not_all_of_it() {
    let (mut path, share) = (Path::new(), 0.52);
    path.rounds(3, 25e6, Duration::from_millis(40));
    for rtt in [40, 40, 5, 15, 103, 26, 72, 57, 49, 45, 43] {
        path.round(Duration::from_millis(rtt), share, 0);
    }
    assert_eq!(path.control.window(), 4 * u64::from(MTU));
}

#[test]
fn heavy_losses_shrink_it() {
    let mut path = Path::new();
    let base = Duration::from_millis(40);
    path.rounds(50, 25e6, base);
    let before = path.control.window();
    for _ in 0..10 {
        path.round(base + Duration::from_millis(2), 1.0, 20);
    }
    assert!(path.control.window() < before / 2);
}

#[test]
fn what_was_too_long_for_the_path_met_no_queue() {
    let mut path = Path::new();
    let base = Duration::from_millis(40);
    path.rounds(50, 25e6, base);
    let before = path.control.window();
    for _ in 0..4 {
        path.round(base + Duration::from_millis(60), 1.0, 90);
    }
    assert!(path.control.window() < before / 2, "so far it looks like a queue");
    let sent = path.now;
    path.round(base, 1.0, 0);
    path.control.on_mtu(1_200);
    assert!(path.control.window() >= before * 9 / 10, "{} of {before}", path.control.window());
    path.control.on_loss(path.now + base, sent, 100_000, true);
    assert!(path.control.window() >= before * 9 / 10, "that one was too long as well");
    for _ in 0..10 {
        path.round(base + Duration::from_millis(2), 1.0, 20);
    }
    assert!(path.control.window() < before / 2, "what is lost after that is not");
}

#[test]
fn a_short_path_is_cubic_after_its_first_loss() {
    let mut path = Path::new();
    for _ in 0..5 {
        path.round(Duration::from_millis(1), 1.0, 0);
    }
    let before = path.control.window();
    let sent = path.now;
    path.control.on_loss(path.now, sent, u64::from(MTU), false);
    assert_eq!(path.control.phase(), Phase::Cubic);
    assert_eq!(path.control.window(), (before as f64 * 0.7) as u64);
    path.control.on_loss(path.now, sent, u64::from(MTU), false);
    assert_eq!(path.control.window(), (before as f64 * 0.7) as u64, "one answer for one flight");
}

#[test]
fn a_queue_that_stays_whatever_we_send_makes_it_compete() {
    let mut path = Path::new();
    let base = Duration::from_millis(40);
    path.rounds(100, 25e6, base);
    for number in 0..20 {
        // It rises and falls, as another flow's does.
        path.round(base + Duration::from_millis(20 + number % 10), 1.0, 0);
    }
    assert_eq!(path.control.phase(), Phase::Cubic);
}

/// Rounds over a path of 10 Mbit/s with room for a queue of a second, which drops what is more, for `lasts`.
fn alone_in_a_long_queue(path: &mut Path, lasts: Duration) {
    let (rate, base, room) = (1.25e6, 0.04, 1.0);
    let until = path.now + lasts;
    while path.now < until {
        let window = path.control.window() as f64;
        let queue = (window / rate - base).clamp(0.0, room);
        let lost = (1.0 - rate * (base + room) / window).max(0.0) * 100.0;
        path.round(Duration::from_secs_f64(base + queue), 1.0, lost.ceil() as usize);
    }
}

#[test]
fn who_competes_with_nobody_in_a_long_queue_finds_out_within_seconds() {
    let mut path = Path::new();
    alone_in_a_long_queue(&mut path, Duration::from_secs(5));
    assert_eq!(path.control.phase(), Phase::Delay);
    for number in 0..20 {
        // The host stood still: late answers, whatever was sent.
        path.round(Duration::from_millis(60 + number % 10), 1.0, 0);
    }
    assert_eq!(path.control.phase(), Phase::Cubic);
    // A look is due after 2.5 s, and begins and ends with a round of a second.
    alone_in_a_long_queue(&mut path, Duration::from_secs(5));
    assert_eq!(path.control.phase(), Phase::Delay);
    alone_in_a_long_queue(&mut path, Duration::from_secs(3));
    let window = path.control.window() as f64;
    assert!(window < 1.25e6 * 0.04 * 1.5, "window {window}");
}

#[test]
fn a_longer_way_is_not_taken_for_a_competitor() {
    let mut path = Path::new();
    path.rounds(100, 25e6, Duration::from_millis(40));
    path.rounds(100, 25e6, Duration::from_millis(80));
    assert_eq!(path.control.phase(), Phase::Delay);
    let window = path.control.window() as f64;
    assert!(window > 25e6 * 0.08 * 0.7, "window {window}");
}

#[test]
fn persistent_congestion_starts_over() {
    let mut path = Path::new();
    path.rounds(50, 25e6, Duration::from_millis(40));
    path.control.on_loss(path.now, path.now, u64::from(MTU), true);
    assert_eq!(path.control.phase(), Phase::Start);
    assert_eq!(path.control.window(), 4 * u64::from(MTU));
}

/// One thing that happens to a connection.
#[derive(Debug, Clone, Copy)]
enum Step {
    Wait(u64),
    Sent(u64),
    Acked { ago: u64, bytes: u64, left: u64 },
    Lost { ago: u64, bytes: u64, persistent: bool },
    Mtu(u16),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        (0..200_000u64).prop_map(Step::Wait),
        (1..60_000u64).prop_map(Step::Sent),
        (0..400_000u64, 1..60_000u64, 0..9_000_000u64).prop_map(|(ago, bytes, left)| Step::Acked {
            ago,
            bytes,
            left
        }),
        (0..400_000u64, 0..60_000u64, prop::bool::weighted(0.05))
            .prop_map(|(ago, bytes, persistent)| Step::Lost { ago, bytes, persistent }),
        (1_200..9_000u16).prop_map(Step::Mtu),
    ];
    prop::collection::vec(step, 0..400)
}

/// Plays `steps`, judging the window after each.
fn play(origin: Instant, steps: &[Step], mut judge: impl FnMut(&Congestion)) {
    let mut control = Congestion::new(origin, MTU);
    let mut now = origin + Duration::from_secs(1);
    let before = |now: Instant, ago: u64| now.checked_sub(Duration::from_micros(ago)).unwrap_or(now);
    for step in steps {
        match *step {
            Step::Wait(micros) => now += Duration::from_micros(micros),
            Step::Sent(bytes) => control.on_sent(bytes),
            Step::Acked { ago, bytes, left } => {
                control.on_ack(now, before(now, ago), bytes, Duration::from_micros(ago));
                control.on_acks_end(now, left, false);
            }
            Step::Lost { ago, bytes, persistent } => {
                control.on_loss(now, before(now, ago), bytes, persistent);
            }
            Step::Mtu(mtu) => control.on_mtu(mtu),
        }
        judge(&control);
    }
}

proptest! {
    #[test]
    fn the_window_stays_between_its_floor_and_its_cap(steps in steps()) {
        play(start(), &steps, |control| {
            assert!(control.window() >= 4 * 1_200);
            assert!(control.window() <= limits::CONNECTION_WINDOW_BYTES_MAX);
        });
    }

    #[test]
    fn the_same_history_gives_the_same_windows(steps in steps()) {
        let windows = |origin| {
            let mut windows = Vec::new();
            play(origin, &steps, |control| windows.push(control.window()));
            windows
        };
        let origin = start();
        prop_assert_eq!(windows(origin), windows(origin + Duration::from_secs(1_000)));
    }

    #[test]
    fn a_window_that_is_not_used_does_not_grow(rtts in prop::collection::vec(1..200u64, 1..200), share in 0.0..0.6f64) {
        let mut path = Path::new();
        path.rounds(3, 25e6, Duration::from_millis(40));
        // What was under way in the round before still counts.
        path.round(Duration::from_millis(40), share, 0);
        path.round(Duration::from_millis(40), share, 0);
        let before = path.control.window();
        for rtt in rtts {
            path.round(Duration::from_millis(rtt), share, 0);
            prop_assert!(path.control.window() <= before);
        }
    }
}
