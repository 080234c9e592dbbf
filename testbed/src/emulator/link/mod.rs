//! One direction of a link: what happens to each packet, and when it comes out. Pure: the time is an
//! argument, randomness comes from a seed, packets are opaque.
//!
//! Order is kept except where `reorder` says otherwise: jitter delays, it does not overtake.

mod change;

use std::collections::BTreeMap;

use rand::{RngExt, SeedableRng, rngs::SmallRng};
use serde::{Deserialize, Serialize};

pub(crate) use change::Change;

use crate::quantity::{Rate, Share, Span};

/// Nanoseconds of some monotonic clock.
pub(crate) type Nanos = u64;

/// Bursts of loss by the Gilbert-Elliott model: two states, each with its loss.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Bursts {
    /// Chance per packet to turn from good to bad.
    pub(crate) enter: Share,
    /// Chance per packet to turn from bad to good; its inverse is the mean length of a burst.
    pub(crate) leave: Share,
    /// Loss while bad.
    pub(crate) loss: Share,
}

/// What one direction does to packets.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Shape {
    /// False: nothing passes, what was under way is lost.
    pub(crate) up: bool,
    /// One way.
    pub(crate) delay: Span,
    /// Added to the delay, uniform from zero to this.
    pub(crate) jitter: Span,
    /// Independent loss.
    pub(crate) loss: Share,
    /// Loss in bursts, on top.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) bursts: Option<Bursts>,
    /// Bits per second; none is unlimited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) rate: Option<Rate>,
    /// How long a packet may wait for the rate before the queue drops at its tail.
    pub(crate) queue: Span,
    /// Share of packets that skip the delay, and so overtake.
    pub(crate) reorder: Share,
    /// Share of packets that come out twice.
    pub(crate) duplicate: Share,
    /// Share of packets of which one bit is turned.
    pub(crate) corrupt: Share,
    /// Bytes of the largest packet that passes; larger ones vanish without a word.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) mtu: Option<usize>,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            up: true,
            delay: Span::default(),
            jitter: Span::default(),
            loss: Share(0.0),
            bursts: None,
            rate: None,
            queue: Span::from_millis(100),
            reorder: Share(0.0),
            duplicate: Share(0.0),
            corrupt: Share(0.0),
            mtu: None,
        }
    }
}

/// What became of the packets. Every offered packet is in exactly one of `lost`, `queue_full`,
/// `too_big`, `cut` or `passed`; `duplicated`, `corrupted` and `reordered` are among the passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Counts {
    /// Handed to the link.
    pub(crate) offered: u64,
    /// Accepted for delivery, copies not counted.
    pub(crate) passed: u64,
    /// Lost at random or in a burst.
    pub(crate) lost: u64,
    /// Dropped at the tail of the queue.
    pub(crate) queue_full: u64,
    /// Above the MTU.
    pub(crate) too_big: u64,
    /// Offered while the link was down.
    pub(crate) cut: u64,
    /// Came out twice.
    pub(crate) duplicated: u64,
    /// Had a bit turned.
    pub(crate) corrupted: u64,
    /// Skipped the delay.
    pub(crate) reordered: u64,
}

impl Counts {
    /// What happened to packets after `before`, in words; nothing when all of them passed as they were.
    pub(crate) fn fate_since(self, before: Self) -> String {
        let marks = [
            ("lost", self.lost - before.lost),
            ("queue full", self.queue_full - before.queue_full),
            ("too big", self.too_big - before.too_big),
            ("cut", self.cut - before.cut),
            ("duplicated", self.duplicated - before.duplicated),
            ("corrupted", self.corrupted - before.corrupted),
            ("reordered", self.reordered - before.reordered),
        ];
        marks.into_iter().filter(|(_, count)| *count > 0).map(|(mark, _)| mark).collect::<Vec<_>>().join(", ")
    }
}

/// One direction of a link, with the packets on their way; `T` says where a packet goes.
#[derive(Debug)]
pub(crate) struct Link<T> {
    shape: Shape,
    rng: SmallRng,
    bad: bool,
    busy_until: Nanos,
    latest_due: Nanos,
    serial: u64,
    flying: BTreeMap<(Nanos, u64), (T, Vec<u8>)>,
    counts: Counts,
}

impl<T: Clone> Link<T> {
    /// An empty link; equal seeds and equal offers give equal fates.
    pub(crate) fn new(shape: Shape, seed: u64) -> Self {
        Self {
            shape,
            rng: SmallRng::seed_from_u64(seed),
            bad: false,
            busy_until: 0,
            latest_due: 0,
            serial: 0,
            flying: BTreeMap::new(),
            counts: Counts::default(),
        }
    }

    /// Changes what happens to packets from now on; those under way keep their time, unless the link
    /// goes down.
    pub(crate) fn reshape(&mut self, shape: Shape) {
        if !shape.up {
            self.flying.clear();
        }
        self.latest_due = 0;
        self.bad = false;
        self.shape = shape;
    }

    /// Its shape now.
    pub(crate) const fn shape(&self) -> &Shape {
        &self.shape
    }

    /// What became of the packets so far.
    pub(crate) const fn counts(&self) -> Counts {
        self.counts
    }

    /// When the next packet comes out.
    pub(crate) fn due(&self) -> Option<Nanos> {
        self.flying.first_key_value().map(|((due, _), _)| *due)
    }

    /// A packet that is due.
    pub(crate) fn take(&mut self, now: Nanos) -> Option<(T, Vec<u8>)> {
        let entry = self.flying.first_entry()?;
        if entry.key().0 > now { None } else { Some(entry.remove()) }
    }

    /// Puts a packet onto the link.
    pub(crate) fn offer(&mut self, now: Nanos, to: T, mut packet: Vec<u8>) {
        self.counts.offered += 1;
        if !self.shape.up {
            self.counts.cut += 1;
            return;
        }
        if self.shape.mtu.is_some_and(|mtu| packet.len() > mtu) {
            self.counts.too_big += 1;
            return;
        }
        let Some(sent) = self.transmit(now, packet.len()) else {
            self.counts.queue_full += 1;
            return;
        };
        if self.loses() {
            self.counts.lost += 1;
            return;
        }
        self.counts.passed += 1;
        if self.chance(self.shape.corrupt) && !packet.is_empty() {
            self.counts.corrupted += 1;
            let bit = self.rng.random_range(0..packet.len() * 8);
            packet[bit / 8] ^= 1 << (bit % 8);
        }
        let due = self.arrival(sent);
        if self.chance(self.shape.duplicate) {
            self.counts.duplicated += 1;
            self.insert(due, to.clone(), packet.clone());
        }
        self.insert(due, to, packet);
    }

    fn insert(&mut self, due: Nanos, to: T, packet: Vec<u8>) {
        self.serial += 1;
        self.flying.insert((due, self.serial), (to, packet));
    }

    /// When the last bit has left, or nothing when the queue is full.
    fn transmit(&mut self, now: Nanos, bytes: usize) -> Option<Nanos> {
        let Some(Rate(rate)) = self.shape.rate else { return Some(now) };
        let start = self.busy_until.max(now);
        if start - now > self.shape.queue.nanos() {
            return None;
        }
        let bits = u128::from(bytes as u64) * 8;
        let nanos = u64::try_from(bits * 1_000_000_000 / u128::from(rate.max(1))).unwrap_or(u64::MAX);
        self.busy_until = start.saturating_add(nanos);
        Some(self.busy_until)
    }

    fn loses(&mut self) -> bool {
        if let Some(bursts) = self.shape.bursts {
            let turn = if self.bad { bursts.leave } else { bursts.enter };
            if self.chance(turn) {
                self.bad = !self.bad;
            }
            if self.bad && self.chance(bursts.loss) {
                return true;
            }
        }
        self.chance(self.shape.loss)
    }

    fn arrival(&mut self, sent: Nanos) -> Nanos {
        if self.chance(self.shape.reorder) {
            self.counts.reordered += 1;
            return sent;
        }
        let jitter = self.shape.jitter.nanos();
        let extra = if jitter == 0 { 0 } else { self.rng.random_range(0..=jitter) };
        let due = sent.saturating_add(self.shape.delay.nanos()).saturating_add(extra).max(self.latest_due);
        self.latest_due = due;
        due
    }

    fn chance(&mut self, share: Share) -> bool {
        share.0 > 0.0 && self.rng.random::<f64>() < share.0
    }
}

#[cfg(test)]
mod tests;
