//! Opens one connection: candidates one after another, at most two at a time, as `model::open` rules.
//!
//! The client is listened to all the while: what it says is kept for whoever is connected, and when it goes
//! away everything stops.

use std::{
    collections::VecDeque,
    future::poll_fn,
    pin::{Pin, pin},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use tokio::time::{Instant as TokioInstant, Sleep, sleep_until};

use super::{
    attempt::{Attempt, Ending, Way},
    pump::poll_read_some,
    tcp::Tcp,
    young::{Heard, Source},
};
use crate::{
    clock::Clock,
    model::{
        failover::Target,
        limits::{FIRST_BYTES_MAX, OPEN_TIMEOUT},
        liveness::LinkState,
        open::{self, OpenState, Origin, ResetReason, Step},
        outlier::Outcome,
    },
};

/// A client and what it has said so far.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) tcp: Tcp,
    pub(super) first: BytesMut,
    ended: bool,
    /// It went away. The kernel tells so once; asked again, it says that the client has ended in peace.
    gone: bool,
}

impl Client {
    pub(super) fn new(tcp: Tcp) -> Self {
        Self { tcp, first: BytesMut::new(), ended: false, gone: false }
    }

    /// Takes what the kernel holds already; `false` when there was nothing to take.
    pub(super) fn take_what_is_there(&mut self) -> bool {
        const CHUNK_BYTES: usize = 4 * 1024;
        let mut chunk = [0; CHUNK_BYTES];
        loop {
            match self.tcp.try_read_now(&mut chunk) {
                Ok(0) => {
                    self.ended = true;
                    return true;
                }
                Ok(count) => {
                    self.first.extend_from_slice(&chunk[..count]);
                    if count < CHUNK_BYTES || self.first.len() + CHUNK_BYTES > FIRST_BYTES_MAX {
                        return true;
                    }
                }
                Err(error) => {
                    self.gone = error.kind() != std::io::ErrorKind::WouldBlock;
                    return self.gone || !self.first.is_empty();
                }
            }
        }
    }

    /// Waits for the client's first words, or its end.
    pub(super) async fn hear(&mut self) {
        poll_fn(|cx| {
            let before = self.first.len();
            let gone = self.poll_listen(cx).is_ready();
            if gone || self.ended || self.first.len() > before { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    /// Keeps what it says, up to what may be kept. Ready when it went away; a half-close is no such thing.
    fn poll_listen(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if self.gone {
                return Poll::Ready(());
            }
            let room = FIRST_BYTES_MAX - self.first.len();
            if self.ended || room == 0 {
                return Poll::Pending;
            }
            match poll_read_some(&mut self.tcp, room, cx) {
                Poll::Ready(Ok(bytes)) if bytes.is_empty() => self.ended = true,
                Poll::Ready(Ok(bytes)) => self.first.extend_from_slice(&bytes),
                Poll::Ready(Err(_)) => self.gone = true,
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}

impl Source for Client {
    fn said(&self) -> &BytesMut {
        &self.first
    }

    fn poll_hear(&mut self, cx: &mut Context<'_>) -> Poll<Heard> {
        let before = self.first.len();
        if self.poll_listen(cx).is_ready() {
            return Poll::Ready(Heard::Gone);
        }
        if self.ended || self.first.len() >= FIRST_BYTES_MAX {
            return Poll::Ready(Heard::Enough);
        }
        if self.first.len() > before { Poll::Ready(Heard::More) } else { Poll::Pending }
    }
}

/// Starts attempts. A trait so that the race can be run without links.
pub(super) trait Launch {
    /// Begins with the next candidate; none when there is no other. The client's first bytes may go along if
    /// the rule for opens lets them, with so many attempts under way, this one included.
    fn launch(&mut self, first: Bytes, tried: usize, in_flight: usize) -> Option<Attempt>;
    /// Whether there is another candidate.
    fn has_more(&self) -> bool;
    /// How long to wait for a candidate that has just lost its link; none when there is no such.
    fn awaits(&self) -> Option<Duration>;
    /// Whether the retry budget lets an attempt that may still be served be raced.
    fn may_hedge(&mut self) -> bool;
    /// A candidate said no, and this is who failed there: there may be no use in asking it another way.
    fn refused(&mut self, target: &Target, origin: Origin);
    /// Ready when there may be candidates that there were not. Asked only while an attempt is in doubt, or none runs.
    fn poll_changed(&mut self, cx: &mut Context<'_>) -> Poll<()>;
}

/// A connection that is open.
pub(super) struct Opened {
    pub(super) target: Target,
    pub(super) way: Way,
    /// So many of the client's first bytes are there already.
    pub(super) written: usize,
    /// From the start of the attempt that won to its answer.
    pub(super) took: Duration,
}

/// Why there is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum NotOpened {
    /// The client went away.
    ClientGone,
    /// It is to be reset, and why; with what the last one who refused said.
    Reset(ResetReason, String),
}

struct Race<'a, L> {
    launcher: &'a mut L,
    clock: &'a Clock,
    began: Instant,
    tried: usize,
    flying: VecDeque<Attempt>,
    said: String,
}

enum Happened {
    Ended(usize, Ending),
    ClientGone,
    Look,
}

/// Opens a connection for `client` through one of the launcher's candidates.
pub(super) async fn open(
    launcher: &mut impl Launch,
    client: &mut Client,
    clock: &Clock,
) -> Result<Opened, NotOpened> {
    let mut race =
        Race { launcher, clock, began: clock.now(), tried: 0, flying: VecDeque::new(), said: String::new() };
    loop {
        let wait = race.decide(client)?;
        let until = TokioInstant::from_std(clock.now() + wait);
        let mut timer = pin!(sleep_until(until));
        match poll_fn(|cx| race.poll(client, timer.as_mut(), cx)).await {
            Happened::ClientGone => return Err(NotOpened::ClientGone),
            Happened::Look => {}
            Happened::Ended(at, Ending::Connected(way)) => {
                let Some(mut won) = race.flying.remove(at) else { continue };
                won.judged.observe(Outcome::Success);
                let took = clock.now().saturating_duration_since(won.started);
                return Ok(Opened { target: won.target, way, written: won.bytes, took });
            }
            Happened::Ended(at, ending) => race.ended(at, ending),
        }
    }
}

impl<L: Launch> Race<'_, L> {
    /// Begins with the next candidate, if there is one.
    fn next(&mut self, client: &Client) {
        let first = client.first.clone().freeze();
        if let Some(attempt) = self.launcher.launch(first, self.tried, self.flying.len() + 1) {
            self.tried += 1;
            self.flying.push_back(attempt);
        }
    }

    /// Does what the rule for opens says of every attempt; returns how long nothing has to be done.
    fn decide(&mut self, client: &Client) -> Result<Duration, NotOpened> {
        if self.flying.is_empty() {
            self.next(client);
        }
        let mut wait: Option<Duration> = None;
        let mut at = 0;
        while at < self.flying.len() {
            match self.step(at, client) {
                Step::Wait(for_this) => {
                    wait = Some(wait.map_or(for_this, |known| known.min(for_this)));
                    at += 1;
                }
                // Only an ending connects, and it is taken where it comes.
                Step::Carry => at += 1,
                // Then asked again, with the other one under way.
                Step::Hedge if self.launcher.may_hedge() => self.next(client),
                Step::Hedge => self.flying[at].over_budget = true,
                Step::TryNext => {
                    self.flying.remove(at);
                    self.next(client);
                }
                Step::GiveWay => {
                    self.flying.remove(at);
                }
                Step::Reset(reason) => return Err(NotOpened::Reset(reason, self.said.clone())),
            }
        }
        let left = || OPEN_TIMEOUT.saturating_sub(self.clock.now().saturating_duration_since(self.began));
        let awaited =
            || self.launcher.awaits().map(|awaits| awaits.min(left())).filter(|wait| !wait.is_zero());
        wait.or_else(awaited).ok_or_else(|| NotOpened::Reset(ResetReason::NoCandidate, self.said.clone()))
    }

    fn step(&self, at: usize, client: &Client) -> Step {
        let now = self.clock.now();
        let attempt = &self.flying[at];
        open::next_step(&open::Attempt {
            state: attempt.state(),
            idempotent: attempt.idempotent,
            link: attempt.link(),
            elapsed: now.saturating_duration_since(attempt.started),
            open_for: now.saturating_duration_since(self.began),
            pto: attempt.pto(),
            client_bytes: client.first.len(),
            tried: self.tried,
            // A way that is in doubt is not given up for one that may come back.
            more_candidates: self.launcher.has_more()
                || attempt.link() == LinkState::Down && self.launcher.awaits().is_some(),
            other_in_flight: self.flying.len() > 1,
            over_budget: attempt.over_budget,
        })
    }

    fn poll(&mut self, client: &mut Client, timer: Pin<&mut Sleep>, cx: &mut Context<'_>) -> Poll<Happened> {
        for (at, attempt) in self.flying.iter_mut().enumerate() {
            if attempt.over.is_none()
                && let Poll::Ready(ending) = attempt.ending.as_mut().poll(cx)
            {
                return Poll::Ready(Happened::Ended(at, ending));
            }
            if let Some(suspect) = &mut attempt.suspect
                && suspect.as_mut().poll(cx).is_ready()
            {
                attempt.suspect = None;
                return Poll::Ready(Happened::Look);
            }
        }
        let in_doubt = self.flying.iter().any(|attempt| attempt.link() != LinkState::Up);
        if (in_doubt || self.flying.is_empty()) && self.launcher.poll_changed(cx).is_ready() {
            return Poll::Ready(Happened::Look);
        }
        if client.poll_listen(cx).is_ready() {
            return Poll::Ready(Happened::ClientGone);
        }
        timer.poll(cx).map(|()| Happened::Look)
    }

    /// Keeps how an attempt failed, and tells the ledger whose fault it was.
    fn ended(&mut self, at: usize, ending: Ending) {
        let attempt = &mut self.flying[at];
        let state = match ending {
            Ending::Connected(_) => return,
            Ending::Refused { origin, code, reason } => {
                attempt.judged.observe(Outcome::Failure(origin));
                self.launcher.refused(&attempt.target, origin);
                self.said = format!("{code} {reason}");
                OpenState::Refused { origin }
            }
            Ending::Unsent => OpenState::Unsent,
            Ending::Broken => attempt.state(),
        };
        attempt.over = Some(state);
    }
}
