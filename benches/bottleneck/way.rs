//! One direction of the bottleneck: a rate, a way, a queue that drops at its tail, losses by chance.

use std::{collections::VecDeque, time::Duration};

/// Bytes of IP and UDP in front of each datagram.
const HEADERS: usize = 28;

/// What a direction is made of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Road {
    /// Bits per second.
    pub(crate) rate: f64,
    /// Time on the way after the queue.
    pub(crate) delay: Duration,
    /// Bytes the queue holds.
    pub(crate) queue: usize,
    /// Share of datagrams lost by chance before the queue.
    pub(crate) loss: f64,
}

/// How late a host is: by chance up to `late` whenever it wakes, and from time to time it stands still.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Noise {
    /// The most by which it is late.
    pub(crate) late: Duration,
    /// Pause between two times of standing still, on average; none: it never does.
    pub(crate) every: Duration,
    /// How long it stands still, on average.
    pub(crate) lasts: Duration,
}

/// A datagram and to whom it goes.
#[derive(Debug)]
pub(crate) struct Packet {
    pub(crate) to: usize,
    pub(crate) bytes: Vec<u8>,
}

/// A direction in use.
#[derive(Debug)]
pub(crate) struct Way {
    pub(crate) road: Road,
    waiting: VecDeque<Packet>,
    queued: usize,
    serving: bool,
    last_arrival: Duration,
    awake: Duration,
    /// The last time of standing still that was drawn: from when, until when.
    still: (Duration, Duration),
    /// Dropped because the queue was full.
    pub(crate) overflowed: u64,
    /// Datagrams that came to the queue.
    pub(crate) offered: u64,
    chance: u64,
}

impl Way {
    pub(crate) fn new(road: Road, seed: u64) -> Self {
        Self {
            road,
            waiting: VecDeque::new(),
            queued: 0,
            serving: false,
            last_arrival: Duration::ZERO,
            awake: Duration::ZERO,
            still: (Duration::ZERO, Duration::ZERO),
            overflowed: 0,
            offered: 0,
            chance: seed,
        }
    }

    /// A number from 0 up to 1 (splitmix64).
    pub(crate) fn draw(&mut self) -> f64 {
        self.chance = self.chance.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.chance;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Takes a datagram in or drops it; tells how long its sending takes when it is the next.
    pub(crate) fn offer(&mut self, packet: Packet) -> Option<Duration> {
        self.offered += 1;
        if self.draw() < self.road.loss {
            return None;
        }
        let size = packet.bytes.len() + HEADERS;
        if self.queued + size > self.road.queue {
            self.overflowed += 1;
            return None;
        }
        self.queued += size;
        self.waiting.push_back(packet);
        if self.serving {
            return None;
        }
        self.serving = true;
        self.next()
    }

    fn next(&self) -> Option<Duration> {
        let first = self.waiting.front()?;
        Some(Duration::from_secs_f64((first.bytes.len() + HEADERS) as f64 * 8.0 / self.road.rate))
    }

    /// The first datagram is on its way: it, when it arrives, and how long the sending of the next takes.
    pub(crate) fn served(&mut self, now: Duration) -> (Option<(Packet, Duration)>, Option<Duration>) {
        let Some(packet) = self.waiting.pop_front() else { return (None, None) };
        self.queued -= packet.bytes.len() + HEADERS;
        let next = self.next();
        self.serving = next.is_some();
        // The way got shorter: what is already under way stays in front.
        self.last_arrival = self.last_arrival.max(now + self.road.delay);
        (Some((packet, self.last_arrival)), next)
    }

    /// When the host at the end takes a datagram that arrives at `arrives`.
    pub(crate) fn heard(&mut self, arrives: Duration, noise: Noise) -> Duration {
        if arrives <= self.awake {
            return self.awake;
        }
        self.awake = arrives + noise.late.mul_f64(self.draw());
        while !noise.every.is_zero() && self.still.1 <= arrives {
            let from = self.still.1 + self.around(noise.every);
            self.still = (from, from + self.around(noise.lasts));
        }
        if arrives >= self.still.0 {
            self.awake = self.awake.max(self.still.1);
        }
        self.awake
    }

    /// When the host that sends here notices that its timer fired at `fires`.
    pub(crate) fn noticed(&mut self, fires: Duration, noise: Noise) -> Duration {
        if noise.late.is_zero() && noise.every.is_zero() {
            return fires;
        }
        let fires = fires + noise.late.mul_f64(self.draw());
        let share = noise.lasts.as_secs_f64() / (noise.every + noise.lasts).as_secs_f64();
        if self.draw() < share { fires + self.around(noise.lasts) } else { fires }
    }

    /// A time that is `mean` on average, as if it had no memory.
    fn around(&mut self, mean: Duration) -> Duration {
        mean.mul_f64(-(1.0 - self.draw()).ln())
    }

    /// How long what waits now will take.
    pub(crate) fn backlog(&self) -> Duration {
        Duration::from_secs_f64(self.queued as f64 * 8.0 / self.road.rate)
    }
}
