//! The link clock: whether a lane still carries bytes both ways (design section 6, settled question M3).
//!
//! A state machine per lane. It sends nothing and reads no clock: each call returns what to send and what
//! changed. It never judges endpoints (`outlier`) or catalogs (the session clock).
//!
//! **Life is the proof of a round trip**: the echo of a probe, or the acknowledgement of a packet, sent since.
//! Hearing the peer proves nothing, or a path that is dead one way would look alive from the deaf side.
//!
//! **What is measured** is the age of the oldest probe that is still unanswered, where a proof for something
//! sent later answers all before it. It is not the age of the last proof: on an idle lane that is up to 10 s
//! old and says nothing. So when streams open on an idle lane its clock starts at zero, with the probe sent
//! at that moment, and a lost probe alone never makes a lane suspect, because the next one answers for it.
//! For the same reason an idle lane whose probe is overdue (by one PTO) is probed at the active pace until one
//! is answered.
//!
//! **A refusal makes it quick.** When the peer's host says that nobody listens there (ICMP port unreachable), the
//! process has most likely ended, and with it all that its streams were. Anybody can forge that, and a NAT that
//! forgot a port says it too, so alone it proves nothing: the lane is asked at once, and the peer, if it lives, is
//! heard within a round trip and contradicts. Silence is then believed sooner than without (ADR 0010).
//!
//! **Standing still is not held against the peer.** Time by which a call comes later than the wake-up asked
//! for is time in which this process could not have read an echo, and is not counted. After a long halt
//! (SIGSTOP, a suspended machine) the measurement starts over with a new probe.

use std::{
    collections::VecDeque,
    fmt,
    time::{Duration, Instant},
};

use super::limits::{
    DOWN_AFTER, DOWN_PTOS, LATE_MIN, PROBE_INTERVAL_ACTIVE, PROBE_INTERVAL_IDLE, PROBE_INTERVAL_REFUSED,
    PROBES_UNANSWERED_MAX, REFUSED_DOWN_AFTER, REFUSED_DOWN_PTOS, REFUSED_SUSPECT_AFTER, STALL_MIN,
    SUSPECT_AFTER, SUSPECT_PTOS, UP_AFTER_PROBES,
};

mod rtt;

pub use rtt::{RTT_INITIAL, RoundTrip};

/// What a link or a lane is, in the words of status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LinkState {
    /// Proved lately.
    Up,
    /// New streams go elsewhere; nothing is cut.
    Suspect,
    /// Streams are reset with the reason, the lane is dropped.
    Down,
}

impl fmt::Display for LinkState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Up => "up",
            Self::Suspect => "suspect",
            Self::Down => "down",
        })
    }
}

/// The datagram that proves a round trip.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probe {
    /// Its number, from 1; 0: it is only an echo and wants no answer.
    pub seq: u64,
    /// The newest number heard from the other side; 0: none.
    pub echo: u64,
}

/// Why a lane is suspect or down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cause {
    /// Age of the oldest unanswered probe, own halts not counted.
    pub unanswered_for: Duration,
    /// Whether the peer was heard in that time: then only the way to it, or its answers, are lost.
    pub peer_heard: bool,
    /// Whether its host said that nobody listens there.
    pub refused: bool,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.unanswered_for.as_millis();
        if self.refused {
            write!(
                f,
                "no answer for {ms} ms, and its host says that nobody listens there: it has most likely ended"
            )
        } else if self.peer_heard {
            write!(f, "no answer for {ms} ms, although the peer is heard: the path is dead one way")
        } else {
            write!(f, "no answer and not a word for {ms} ms")
        }
    }
}

/// A lane changed its state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// New streams go elsewhere.
    BecameSuspect {
        /// Why.
        cause: Cause,
    },
    /// Reset its streams and drop it.
    BecameDown {
        /// Why.
        cause: Cause,
    },
    /// Three good probes: it may be used again.
    BecameUp,
}

/// What a call asks for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[must_use]
pub struct Actions {
    /// Send this datagram now.
    pub send: Option<Probe>,
    /// Tell whoever places streams.
    pub change: Option<Change>,
}

/// At which address a host said that nobody listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusedAt {
    /// Where the peer listens: this side dialled.
    Home,
    /// Where the peer's packets came from: perhaps a NAT that forgot, and the peer comes from another port next.
    Source,
}

/// The first word of a host, not contradicted since.
#[derive(Debug, Clone, Copy)]
struct Refusal {
    at: Instant,
    place: RefusedAt,
}

/// How long ago each direction was last proved, for status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ages {
    /// Since anything was heard from the peer.
    pub inbound: Duration,
    /// Since the newest of our packets that the peer is known to have received was sent.
    pub outbound: Duration,
}

#[derive(Debug, Clone, Copy)]
struct Sent {
    seq: u64,
    at: Instant,
    /// Whether its echo tells the round trip: not after a halt of ours.
    exact: bool,
}

/// The link clock of one lane.
///
/// Call [`Liveness::tick`] at [`Liveness::next_wake`], which every other call may bring forward.
#[derive(Debug, Clone)]
pub struct Liveness {
    state: LinkState,
    streams_open: bool,
    unanswered: VecDeque<Sent>,
    last_seq: u64,
    last_sent: Option<Instant>,
    newest_heard: u64,
    heard_at: Instant,
    proved_at: Instant,
    good_probes: u32,
    refusal: Option<Refusal>,
    rtt: RoundTrip,
    due: Instant,
}

impl Liveness {
    /// A lane whose handshake is just done, which is a round trip proved; `rtt` is that of the handshake.
    #[must_use]
    pub fn new(rtt: Option<Duration>, now: Instant) -> Self {
        Self {
            state: LinkState::Up,
            streams_open: false,
            unanswered: VecDeque::new(),
            last_seq: 0,
            last_sent: None,
            newest_heard: 0,
            heard_at: now,
            proved_at: now,
            good_probes: 0,
            refusal: None,
            rtt: RoundTrip::new(rtt),
            due: now,
        }
    }

    /// Says whether streams are open. Going active sends a probe at once, unless one went out within the
    /// last 200 ms.
    pub fn active(&mut self, streams_open: bool, now: Instant) -> Actions {
        self.catch_up(now);
        self.streams_open = streams_open;
        self.finish(None, None, now)
    }

    /// Takes a probe of the peer; the answer to it is in the actions.
    pub fn probe_received(&mut self, probe: Probe, now: Instant) -> Actions {
        self.catch_up(now);
        self.heard(now);
        self.newest_heard = self.newest_heard.max(probe.seq);
        let answer = (probe.seq > 0).then_some(Probe { seq: 0, echo: self.newest_heard });
        let change = self.echoed(probe, now);
        self.finish(answer, change, now)
    }

    /// A packet of ours that was sent at `sent` has been acknowledged: also a proof of a round trip. It does
    /// not count among the good probes that bring a suspect lane up.
    pub fn acknowledged(&mut self, sent: Instant, now: Instant) {
        self.catch_up(now);
        self.heard(now);
        self.prove(sent.min(now));
        self.schedule(now);
    }

    /// Anything came from the peer: it lives, whatever its host said. Else only status and causes care.
    pub fn heard(&mut self, now: Instant) {
        self.heard_at = self.heard_at.max(now);
        self.refusal = None;
    }

    /// A host said that nobody listens where our packets go. On a lane without streams the peer may be silent for
    /// longer than such a word may wait for, and come from a new port then; so there only its home counts.
    pub fn refused(&mut self, place: RefusedAt, now: Instant) -> Actions {
        self.catch_up(now);
        if place == RefusedAt::Home || self.streams_open {
            self.refusal.get_or_insert(Refusal { at: now, place });
        }
        let change = self.judge(now);
        self.finish(None, change, now)
    }

    /// Takes the round trip that the congestion controller measured.
    pub fn given_rtt(&mut self, srtt: Duration, rttvar: Duration) {
        self.rtt = RoundTrip::given(srtt, rttvar);
    }

    /// Time has passed: probes what is due, judges what is overdue.
    pub fn tick(&mut self, now: Instant) -> Actions {
        self.catch_up(now);
        let change = self.judge(now);
        self.finish(None, change, now)
    }

    /// When to call [`Liveness::tick`] next. Calling late is noticed and not held against the peer; calling
    /// early does no harm.
    #[must_use]
    pub fn next_wake(&self) -> Instant {
        self.due
    }

    /// The state now.
    #[must_use]
    pub fn state(&self) -> LinkState {
        self.state
    }

    /// The round trip now.
    #[must_use]
    pub fn rtt(&self) -> RoundTrip {
        self.rtt
    }

    /// The probe timeout now.
    #[must_use]
    pub fn pto(&self) -> Duration {
        self.rtt.pto()
    }

    /// The age of each direction. On an idle lane both grow to 10 s between probes.
    #[must_use]
    pub fn ages(&self, now: Instant) -> Ages {
        Ages {
            inbound: now.saturating_duration_since(self.heard_at),
            outbound: now.saturating_duration_since(self.proved_at),
        }
    }

    /// Suspect after so long without an answer: max(600 ms, 3 PTO).
    #[must_use]
    pub fn suspect_after(&self) -> Duration {
        SUSPECT_AFTER.max(self.pto() * SUSPECT_PTOS)
    }

    /// Down after so long without an answer: max(3 s, 10 PTO).
    #[must_use]
    pub fn down_after(&self) -> Duration {
        DOWN_AFTER.max(self.pto() * DOWN_PTOS)
    }

    /// Takes the time this process stood still out of the measurement.
    fn catch_up(&mut self, now: Instant) {
        let late = now.saturating_duration_since(self.due);
        if late >= STALL_MIN {
            self.unanswered.clear();
            self.refusal = None;
            self.good_probes = 0;
            self.last_sent = None;
        } else if late >= LATE_MIN {
            for sent in &mut self.unanswered {
                sent.at += late;
                sent.exact = false;
            }
            if let Some(refusal) = &mut self.refusal {
                refusal.at += late;
            }
        }
        // Counted once: until the next schedule, lateness is reckoned from here.
        self.due = self.due.max(now);
    }

    /// Takes the echo in a probe. Only a pure echo measures the round trip: one that rides on a probe of the
    /// peer's own may have waited for it.
    fn echoed(&mut self, probe: Probe, now: Instant) -> Option<Change> {
        let sent = *self.unanswered.iter().find(|sent| sent.seq == probe.echo)?;
        let took = now.saturating_duration_since(sent.at);
        if probe.seq == 0 && sent.exact {
            self.rtt.sample(took);
        }
        self.prove(sent.at);
        if self.state == LinkState::Up {
            return None;
        }
        self.good_probes = if took < self.suspect_after() { self.good_probes + 1 } else { 0 };
        if self.good_probes < UP_AFTER_PROBES {
            return None;
        }
        self.state = LinkState::Up;
        Some(Change::BecameUp)
    }

    /// What was sent at `sent` has arrived and was answered: so nothing sent until then is missing.
    fn prove(&mut self, sent: Instant) {
        self.proved_at = self.proved_at.max(sent);
        while self.unanswered.front().is_some_and(|probe| probe.at <= sent) {
            self.unanswered.pop_front();
        }
    }

    fn judge(&mut self, now: Instant) -> Option<Change> {
        let oldest = self.unanswered.front()?.at;
        let unanswered_for = now.saturating_duration_since(oldest);
        let refused = self.refusal.is_some();
        let cause = Cause { unanswered_for, peer_heard: self.heard_at > oldest, refused };
        let (suspect, down) = (self.suspect_at(oldest), self.down_at(oldest));
        if now >= suspect {
            self.good_probes = 0;
        }
        match self.state {
            LinkState::Up if now >= suspect => {
                self.state = LinkState::Suspect;
                Some(Change::BecameSuspect { cause })
            }
            LinkState::Suspect if now >= down => {
                self.state = LinkState::Down;
                Some(Change::BecameDown { cause })
            }
            LinkState::Up | LinkState::Suspect | LinkState::Down => None,
        }
    }

    /// When a lane whose oldest unanswered probe was sent at `oldest` is suspect.
    fn suspect_at(&self, oldest: Instant) -> Instant {
        let silent = oldest + self.suspect_after();
        let refused = self.refusal.map(|refusal| refusal.at + REFUSED_SUSPECT_AFTER.max(self.pto()));
        refused.map_or(silent, |refused| refused.min(silent))
    }

    /// When it is down. Where the peer's packets came from, it has the time in which three of its probes come.
    fn down_at(&self, oldest: Instant) -> Instant {
        let silent = oldest + self.down_after();
        let refused = self.refusal.map(|refusal| match refusal.place {
            RefusedAt::Home => refusal.at + REFUSED_DOWN_AFTER.max(self.pto() * REFUSED_DOWN_PTOS),
            RefusedAt::Source => refusal.at + self.suspect_after(),
        });
        refused.map_or(silent, |refused| refused.min(silent))
    }

    /// When the next probe is due.
    fn probe_due(&self, now: Instant) -> Instant {
        let Some(last) = self.last_sent else {
            return now;
        };
        if self.refusal.is_some() {
            return last + PROBE_INTERVAL_REFUSED;
        }
        let brisk = last + PROBE_INTERVAL_ACTIVE;
        if self.streams_open || self.state != LinkState::Up {
            return brisk;
        }
        match self.unanswered.front() {
            Some(oldest) => brisk.max(oldest.at + self.pto()),
            None => last + PROBE_INTERVAL_IDLE,
        }
    }

    /// Sends the probe that is due, unless an answer goes out in this call: the probe then follows at once.
    fn finish(&mut self, answer: Option<Probe>, change: Option<Change>, now: Instant) -> Actions {
        let send = answer.or_else(|| (self.probe_due(now) <= now).then(|| self.probe(now)));
        self.schedule(now);
        Actions { send, change }
    }

    fn probe(&mut self, now: Instant) -> Probe {
        self.last_seq += 1;
        self.last_sent = Some(now);
        if self.unanswered.len() >= PROBES_UNANSWERED_MAX {
            // The oldest one is what counts; the second oldest is the least missed.
            self.unanswered.remove(1);
        }
        self.unanswered.push_back(Sent { seq: self.last_seq, at: now, exact: true });
        Probe { seq: self.last_seq, echo: self.newest_heard }
    }

    fn schedule(&mut self, now: Instant) {
        let deadline = self.unanswered.front().and_then(|oldest| match self.state {
            LinkState::Up => Some(self.suspect_at(oldest.at)),
            LinkState::Suspect => Some(self.down_at(oldest.at)),
            LinkState::Down => None,
        });
        let probe = self.probe_due(now);
        self.due = deadline.map_or(probe, |at| at.min(probe)).max(now);
    }
}

#[cfg(test)]
mod refusal_tests;
#[cfg(test)]
mod tests;
