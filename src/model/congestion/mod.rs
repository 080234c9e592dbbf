//! Congestion control of a connection: how many bytes may be under way, from round trips and losses alone.
//!
//! On a long path it holds a short queue: the window follows the round trip towards a target delay, and losses
//! that are not its own doing cost nothing. Beside a flow that fills the queue it becomes CUBIC, and looks
//! again from time to time whether it must stay so. On a short path it is CUBIC throughout. It is a window
//! only: pacing belongs to quinn. `docs/adr/0009-congestion-control.md` has the reasons and the figures.

mod base;
mod competition;
mod cubic;
mod round;

#[cfg(test)]
mod tests;

use std::time::{Duration, Instant};

use base::BaseRtt;
use competition::{Crowd, LOOK_AFTER, Lull};
use cubic::Cubic;
use round::{Closed, Round};

use serde::{Deserialize, Serialize};

use super::limits;

/// Window before anything is known (RFC 9002 section 7.2).
const INITIAL_SEGMENTS: f64 = 10.0;
/// A window of which less was used is not made larger.
const USED: f64 = 0.7;
/// A sender that had more, but was too late to send it (quinn gives it ten datagrams each time it wakes, or more of
/// a larger window), makes the window larger still, up to this many times what was under way.
const LATE_SENDER: f64 = 8.0;
/// Round trip below which a path is short.
const SHORT: f64 = 0.005;
/// The queue a flow of [`REFERENCE_RATE`] keeps, in seconds; slower ones keep more, by the root, and that is
/// what makes two flows equal.
const TARGET: f64 = 0.0015;
/// Bytes per second of a flow whose target is [`TARGET`].
const REFERENCE_RATE: f64 = 25e6;
/// The target is between these, the second as a share of the path's round trip.
const TARGET_MIN: f64 = 0.0005;
const TARGET_SHARE_MAX: f64 = 0.1;
/// Twice what round trips jitter, because hosts are late, is no queue: up to this share of the path's round trip,
/// and up to the second where acknowledgements arrive at few moments, of which all may be late.
const LATE_SHARE_MAX: f64 = 0.0625;
const LATE_SHARE_MAX_FEW: f64 = 0.25;
/// Losses up to this share are the path's, not ours.
const LOSS_BORNE: f64 = 0.03;
/// The same where hosts are so late that delays do not tell a short queue.
const LOSS_BORNE_FEW: f64 = 0.015;
/// With this share lost all of a delay counts again: what looked like late hosts may be a full queue.
const LOSS_UNMASKS: f64 = 0.01;
/// Weight of a new judgement of losses in their smoothed share.
const LOSS_GAIN: f64 = 0.125;
/// Share lost that ends the start.
const LOSS_ENDS_START: f64 = 0.05;
/// Packets lost that make such a share credible.
const LOST_PACKETS_MIN: f64 = 8.0;
/// Above this window the start no longer doubles, so that an overshoot leaves fewer holes than the receiver
/// can hold (settled: 1,024 gaps).
const CAREFUL_ABOVE: f64 = 1e6;
/// Rounds without a queue until the window grows by more.
const QUIET_ROUNDS: u32 = 3;
/// A window that led to losses is not approached fast for this long.
const CEILING_HOLDS: Duration = Duration::from_secs(5);
/// Losses that come sooner after each other belong together.
const LOSSES_APART: Duration = Duration::from_secs(1);
/// The path's own round trip must have been seen within this.
const DRAIN_AFTER: Duration = Duration::from_secs(5);
/// How much of the window is left to see it.
const DRAINED: f64 = 0.75;

/// What decides how much may be under way on a link.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CongestionControl {
    /// [`Congestion`].
    #[default]
    Delay,
    /// quinn's CUBIC (RFC 9438).
    Cubic,
}

/// What the window follows.
#[derive(Debug, Clone)]
enum Mode {
    /// Doubles each round until a queue or losses show.
    Start,
    /// Keeps a short queue.
    Delay,
    /// Short path: CUBIC.
    Short,
    /// Beside a flow that fills the queue: CUBIC, until a look shows it gone.
    Compete,
}

/// What the window follows, for people and tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Doubles each round until a queue or losses show.
    Start,
    /// Keeps a short queue.
    Delay,
    /// CUBIC.
    Cubic,
}

/// Congestion control of one path of one connection.
#[derive(Debug, Clone)]
pub struct Congestion {
    mtu: f64,
    window: f64,
    mode: Mode,
    base: BaseRtt,
    round: Round,
    cubic: Cubic,
    in_flight: f64,
    /// Whether there was more to send.
    waiting: bool,
    lull: Option<Lull>,
    quiet: u32,
    /// When losses were answered, and the window that was left.
    ceiling: Option<(Instant, f64)>,
    crowd: Option<Crowd>,
    /// The window when the queue was last as short as wanted.
    pushed: f64,
    lost: f64,
    acked: f64,
    /// Share lost, smoothed over judgements.
    lossy: f64,
    /// When losses were last answered, and the window before the first that belongs to them.
    answered: Option<(Instant, f64)>,
    /// What was sent up to here and is lost was too long for the path.
    too_long_until: Option<Instant>,
    /// Among competitors, until the first loss.
    kick: bool,
    look_at: Instant,
    look_after: Duration,
    /// The pause before the look that comes, which grows to `look_after`.
    looked_after: Duration,
    /// The last stay among competitors: when it ended, with what window.
    competed: Option<(Instant, f64)>,
}

impl Congestion {
    /// Control of a path of which nothing is known. `mtu`: bytes of a datagram.
    #[must_use]
    pub fn new(now: Instant, mtu: u16) -> Self {
        let mtu = f64::from(mtu);
        let window = INITIAL_SEGMENTS * mtu;
        Self {
            mtu,
            window,
            mode: Mode::Start,
            base: BaseRtt::new(now),
            round: Round::new(now),
            cubic: Cubic::at(window),
            in_flight: 0.0,
            waiting: false,
            lull: None,
            quiet: 0,
            ceiling: None,
            crowd: None,
            pushed: window,
            lost: 0.0,
            acked: 0.0,
            lossy: 0.0,
            answered: None,
            too_long_until: None,
            kick: false,
            look_at: now,
            look_after: LOOK_AFTER,
            looked_after: LOOK_AFTER,
            competed: None,
        }
    }

    /// Bytes that may be under way.
    #[must_use]
    pub fn window(&self) -> u64 {
        let window = self.lull.map_or(self.window, |lull| lull.window.min(self.window));
        // Both ends are small and positive: the cast loses a fraction of a byte.
        self.within(window) as u64
    }

    /// Bytes that may be under way before anything is known.
    #[must_use]
    pub fn initial_window(&self) -> u64 {
        (INITIAL_SEGMENTS * self.mtu) as u64
    }

    /// What the window follows now.
    #[must_use]
    pub fn phase(&self) -> Phase {
        match self.mode {
            Mode::Start => Phase::Start,
            Mode::Delay => Phase::Delay,
            Mode::Short | Mode::Compete => Phase::Cubic,
        }
    }

    /// The path's round trip without a queue, as far as is known.
    #[must_use]
    pub fn base(&self) -> Option<Duration> {
        self.base.get().map(Duration::from_secs_f64)
    }

    /// `bytes` were sent.
    pub fn on_sent(&mut self, bytes: u64) {
        self.in_flight += bytes as f64;
        self.round.flight(self.in_flight);
    }

    /// A packet of `bytes`, sent at `sent`, was acknowledged. `smoothed`: the smoothed round trip.
    pub fn on_ack(&mut self, now: Instant, sent: Instant, bytes: u64, smoothed: Duration) {
        let (rtt, bytes) = (now.saturating_duration_since(sent).as_secs_f64(), bytes as f64);
        self.base.sample(now, rtt);
        self.round.acked(now, sent, rtt, bytes);
        self.acked += bytes;
        if let Some(lull) = &mut self.lull {
            if sent >= lull.shows_from {
                lull.low = lull.low.min(rtt);
            }
            return;
        }
        if !self.in_use(self.round.peak()) {
            return;
        }
        match self.mode {
            Mode::Start if self.window < CAREFUL_ABOVE => self.window += bytes,
            Mode::Start => self.window += bytes / 4.0,
            Mode::Delay => {}
            Mode::Short | Mode::Compete if self.cubic.recovers(sent) => {}
            Mode::Compete if self.kick => self.window += bytes / 2.0,
            Mode::Short | Mode::Compete => {
                let rtt = smoothed.as_secs_f64();
                self.window = self.cubic.grown(now, self.window, bytes, rtt, self.mtu);
            }
        }
        self.window = self.within(self.window);
    }

    /// A batch of acknowledgements is through; `in_flight` bytes are still under way, and more are `waiting` for
    /// room or for their turn.
    pub fn on_acks_end(&mut self, now: Instant, in_flight: u64, waiting: bool) {
        self.in_flight = in_flight as f64;
        self.waiting = waiting;
        self.end_lull(now);
        match self.mode {
            Mode::Start if self.start_is_over() => self.leave_start(),
            Mode::Delay if self.lull.is_none() => self.brake(),
            _ => {}
        }
        // What follows judges how much of the window was used, which is never less than its floor.
        self.window = self.within(self.window);
        if let Some(closed) = self.round.close(now, self.in_flight) {
            self.on_round(now, closed);
            self.window = self.within(self.window);
        }
    }

    /// `bytes` were lost (none: marked as congested); the last of them was sent at `sent`. `persistent`: for so
    /// long that the path counts as unknown (RFC 9002 section 7.6).
    pub fn on_loss(&mut self, now: Instant, sent: Instant, bytes: u64, persistent: bool) {
        self.in_flight = (self.in_flight - bytes as f64).max(0.0);
        if self.too_long_until.is_some_and(|until| sent <= until) {
            return;
        }
        self.lost += bytes as f64;
        let before = self.window;
        self.answer_loss(now, sent, bytes, persistent);
        self.window = self.within(self.window);
        self.note_answer(now, before);
    }

    fn answer_loss(&mut self, now: Instant, sent: Instant, bytes: u64, persistent: bool) {
        if persistent {
            self.lull = None;
            self.crowd = None;
            self.window = self.floor();
            self.cubic = Cubic::at(self.window);
            self.mode = Mode::Start;
            return;
        }
        let short = self.base.get().is_none_or(|base| base < SHORT);
        match self.mode {
            Mode::Start if short => {
                self.mode = Mode::Short;
                self.cubic = Cubic::at(self.window);
                self.window = self.cubic.lost(now, sent, self.window, self.mtu);
            }
            Mode::Short | Mode::Compete => {
                self.kick = false;
                self.window = self.cubic.lost(now, sent, self.window, self.mtu);
            }
            // A mark is a router's word: the queue is too long.
            Mode::Start | Mode::Delay if bytes == 0 && !self.cubic.recovers(sent) => {
                self.window = self.cubic.lost(now, sent, self.window, self.mtu);
                self.mode = Mode::Delay;
            }
            Mode::Start if self.loss() > LOSS_ENDS_START && self.lost > LOST_PACKETS_MIN * self.mtu => {
                self.leave_start();
            }
            Mode::Start | Mode::Delay => {}
        }
    }

    /// Remembers what the window was before losses made it smaller.
    fn note_answer(&mut self, now: Instant, before: f64) {
        if self.window < before {
            let apart = |(at, _): &(Instant, f64)| now.saturating_duration_since(*at) > LOSSES_APART;
            let first = self.answered.filter(|answered| !apart(answered)).map_or(before, |(_, first)| first);
            self.answered = Some((now, first));
        }
    }

    /// The path takes datagrams of `mtu` bytes now. If those are shorter ones, what was lost had been too long for
    /// it: no queue was full, and the window is what it was.
    pub fn on_mtu(&mut self, mtu: u16) {
        let now = self.round.arrived();
        let shorter = f64::from(mtu) < self.mtu;
        self.mtu = f64::from(mtu);
        if shorter {
            self.too_long_until = Some(now);
            self.forget_losses();
            self.lossy = 0.0;
            if let Some((at, window)) = self.answered.take()
                && now.saturating_duration_since(at) <= LOSSES_APART
            {
                self.window = window;
                self.cubic = Cubic::at(window);
                self.ceiling = None;
            }
        }
        self.window = self.within(self.window);
    }

    /// Whether the window is what keeps more than `peak` bytes from being under way.
    fn in_use(&self, peak: f64) -> bool {
        peak >= self.window * if self.waiting { 1.0 / LATE_SENDER } else { USED }
    }

    fn floor(&self) -> f64 {
        4.0 * self.mtu
    }

    fn within(&self, window: f64) -> f64 {
        window.clamp(self.floor(), limits::CONNECTION_WINDOW_BYTES_MAX as f64)
    }

    /// Share lost since the last judgement.
    fn loss(&self) -> f64 {
        self.lost / (self.lost + self.acked).max(1.0)
    }

    /// The queue this flow wants, in seconds.
    fn target(&self, base: f64) -> f64 {
        let rate = self.window / base;
        let by_rate = TARGET * (REFERENCE_RATE / rate).sqrt();
        let late_share = if self.round.few() { LATE_SHARE_MAX_FEW } else { LATE_SHARE_MAX };
        let credible = (1.0 - self.lossy / LOSS_UNMASKS).max(0.0);
        let late = (2.0 * self.round.jitter()).min(base * late_share) * credible;
        by_rate.min(base * TARGET_SHARE_MAX).max(TARGET_MIN).max(late)
    }

    fn start_is_over(&self) -> bool {
        let (Some(base), Some(recent)) = (self.base.get(), self.round.lately()) else { return false };
        base >= SHORT && recent - base > (base / 8.0).max(2.0 * self.target(base))
    }

    /// Answers a queue within the round: what grew too fast stops, and where the path carries far less than
    /// it did, half as much is sent, and half of that a stretch later.
    fn brake(&mut self) {
        let (Some(base), Some(recent)) = (self.base.get(), self.round.recent()) else { return };
        let target = self.target(base);
        let carried = self.round.recent_rate() * (base + target);
        let queue = recent - base;
        if self.quiet > QUIET_ROUNDS && queue > 2.0 * target {
            self.quiet = 0;
            self.window = carried.clamp(self.window / 1.5, self.window);
        } else if queue > base.max(0.02) && carried < self.window / 2.0 {
            self.crowd.get_or_insert(Crowd { rounds: 0, window: self.window, low: f64::MAX, high: 0.0 });
            self.window = carried.max(self.window / 2.0);
            self.round.forget_rates();
        }
    }

    /// From what arrived in the last round trip it is known what the path carries.
    fn leave_start(&mut self) {
        let base = self.base.get().unwrap_or(SHORT);
        let carried = self.round.rate() * base;
        // Between late hosts it may have been no queue, and what was carried says little.
        let least = if self.round.few() { self.window / 2.0 } else { self.window / 4.0 };
        self.window = carried.clamp(least, self.window);
        self.pushed = self.window;
        self.mode = Mode::Delay;
        self.quiet = 0;
        self.forget_losses();
    }

    fn forget_losses(&mut self) {
        (self.lost, self.acked) = (0.0, 0.0);
    }

    fn on_round(&mut self, now: Instant, closed: Closed) {
        // A round may be quicker than what has its witnesses.
        let Some(base) = self.base.get().map(|base| base.min(closed.low)) else { return };
        if self.lull.is_some() {
            return;
        }
        match self.mode {
            Mode::Start => {
                self.judge_losses(now);
            }
            Mode::Short if base > SHORT * 1.2 => self.mode = Mode::Delay,
            Mode::Short => {}
            Mode::Delay if base < SHORT => {
                self.mode = Mode::Short;
                self.cubic = Cubic::at(self.window);
            }
            Mode::Delay => self.on_delay_round(now, base, closed),
            Mode::Compete => self.on_compete_round(now, base, closed),
        }
    }

    /// Answers losses beyond what a path has by itself; says whether it did.
    fn judge_losses(&mut self, now: Instant) -> bool {
        if self.lost + self.acked < 64.0 * self.mtu {
            return false;
        }
        let loss = self.loss();
        self.forget_losses();
        self.lossy += (loss - self.lossy) * LOSS_GAIN;
        let borne = if self.round.few() { LOSS_BORNE_FEW } else { LOSS_BORNE };
        if loss < borne || matches!(self.mode, Mode::Start) {
            return false;
        }
        let before = self.window;
        self.window *= (1.0 - loss).max(0.7);
        self.note_answer(now, before);
        true
    }

    fn on_delay_round(&mut self, now: Instant, base: f64, closed: Closed) {
        let used = self.in_use(closed.peak);
        let lost = self.judge_losses(now);
        if !used {
            self.quiet = 0;
            return;
        }
        let target = self.target(base);
        let queue = closed.low - base;
        if self.crowded(now, base, target, closed) {
            return;
        }
        self.quiet = if queue < target / 2.0 && !lost { self.quiet + 1 } else { 0 };
        if lost {
            self.ceiling = Some((now, self.window));
        }
        let ceiling = self.ceiling.is_some_and(|(at, window)| {
            now.saturating_duration_since(at) <= CEILING_HOLDS && self.window >= window * 0.75
        });
        let open = !ceiling && !self.round.few();
        let faster = if open { self.quiet.saturating_sub(QUIET_ROUNDS).min(6) } else { 0 };
        let boost = f64::from(1u32 << faster);
        let step = (self.window / closed.low * target * boost).min(self.window / 2.0);
        let wanted = (self.window * base).mul_add(1.0 / closed.low, if lost { 0.0 } else { step });
        self.window = f64::midpoint(self.window, wanted);
        if now.saturating_duration_since(self.base.seen()) > DRAIN_AFTER {
            let quarter = Duration::from_secs_f64(closed.low / 4.0);
            self.lull =
                Some(Lull { window: self.window * DRAINED, shows_from: now + quarter, low: f64::MAX });
        }
    }
}
