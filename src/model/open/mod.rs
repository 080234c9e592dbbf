//! The rule for opens: what to do next while a connection is being opened through a candidate.
//!
//! Pure: it is asked whenever something changed and when the time it named has come. It neither picks the
//! candidate (`failover`) nor judges the link (`liveness`). Design section 4; settled question B4: the same
//! client bytes never reach two endpoints unless the export says that they may.

use std::{fmt, time::Duration};

use super::{
    limits::{CANDIDATES_TRIED_MAX, FIRST_BYTES_MAX, HEDGE_AFTER, HEDGE_PTOS, OPEN_TIMEOUT},
    liveness::LinkState,
};

/// Who failed, as every error of a proxied stream says. A gateway is never blamed for its backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Origin {
    /// The other gateway, or the way to it.
    Gateway,
    /// The endpoint refused the connection.
    Refused,
    /// The endpoint did not answer in time.
    Timeout,
    /// Authorization said no.
    Policy,
    /// A limit was reached.
    Limit,
    /// The application failed after it had accepted.
    App,
}

impl Origin {
    /// The word in status, metrics and errors.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Refused => "refused",
            Self::Timeout => "timeout",
            Self::Policy => "policy",
            Self::Limit => "limit",
            Self::App => "app",
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How far one attempt has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenState {
    /// Nothing of it left this gateway: there was no lane, or no stream to be had.
    Unsent,
    /// The far gateway said no. It connects before it writes, so no endpoint saw a client's byte.
    Refused {
        /// Who failed.
        origin: Origin,
    },
    /// The header went out and no reply came yet.
    Unanswered {
        /// Whether any of the client's bytes went with it.
        bytes_written: bool,
    },
    /// The far gateway has connected: the stream belongs to this candidate now.
    Connected,
}

/// One attempt of an open, and what it stands in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attempt {
    /// How far it has come.
    pub state: OpenState,
    /// Whether the export says that its bytes may be delivered twice.
    pub idempotent: bool,
    /// The lane it went out on. Of a lane that is gone, or a stream that was reset before its reply: `Down`.
    pub link: LinkState,
    /// How long ago this attempt was sent.
    pub elapsed: Duration,
    /// How long ago the first attempt of this open began.
    pub open_for: Duration,
    /// The probe timeout of its lane.
    pub pto: Duration,
    /// Client bytes read so far; beyond 64 KiB they are not kept, and nothing can be replayed.
    pub client_bytes: usize,
    /// Candidates tried so far, this one included.
    pub tried: usize,
    /// Whether there is another candidate.
    pub more_candidates: bool,
    /// Whether another attempt of this open is under way.
    pub other_in_flight: bool,
    /// Whether the retry budget has refused a hedge of it.
    pub over_budget: bool,
}

/// What to do with an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// It is connected: end any other attempt, write the first bytes, carry.
    Carry,
    /// End this attempt and open the next candidate with the same first bytes.
    TryNext,
    /// Leave this attempt under way and open the next candidate beside it.
    Hedge,
    /// Ask again when this much more time has passed, or when something changes.
    Wait(Duration),
    /// End this attempt; the other one under way decides.
    GiveWay,
    /// Reset the client and say why.
    Reset(ResetReason),
}

/// Why a client's connection was reset before it was carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResetReason {
    /// There is nowhere to open it.
    NoCandidate,
    /// Every candidate tried said no; this was the last one's origin.
    Refused(Origin),
    /// Its bytes may have reached an endpoint, no answer came, and they may not be sent twice.
    Unanswered,
    /// No candidate answered in time.
    Timeout,
}

impl ResetReason {
    /// Who failed.
    #[must_use]
    pub fn origin(self) -> Origin {
        match self {
            Self::NoCandidate | Self::Unanswered => Origin::Gateway,
            Self::Refused(origin) => origin,
            Self::Timeout => Origin::Timeout,
        }
    }

    /// The word in metrics and events.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoCandidate => "no_candidate",
            Self::Refused(_) => "refused",
            Self::Unanswered => "unanswered",
            Self::Timeout => "timeout",
        }
    }
}

impl fmt::Display for ResetReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoCandidate => f.write_str("no cluster can serve it now"),
            Self::Refused(origin) => {
                write!(f, "every candidate tried said no; the last one's origin is {origin}")
            }
            Self::Unanswered => {
                f.write_str("sent, not answered, and not marked idempotent: it may not be sent twice")
            }
            Self::Timeout => write!(f, "no candidate answered within {} s", OPEN_TIMEOUT.as_secs()),
        }
    }
}

/// Whether client bytes may be written to a stream before its reply. While two attempts are under way only an
/// idempotent export's bytes may: the other ones wait for the first reply, or they would reach two endpoints.
#[must_use]
pub fn may_write_first_bytes(idempotent: bool, attempts_in_flight: usize) -> bool {
    idempotent || attempts_in_flight <= 1
}

/// How long an attempt may stay unanswered before it is hedged.
#[must_use]
pub fn hedge_after(pto: Duration) -> Duration {
    HEDGE_AFTER.max(pto.saturating_mul(HEDGE_PTOS))
}

/// The next step of one attempt.
///
/// - *unsent* and *refused* go to the next candidate;
/// - *unanswered* with none of the client's bytes sent, or of an idempotent export: on a suspect link it goes to
///   the next candidate at once, on a good one it is hedged after `max(300 ms, 2 PTO)`, one hedge at a time and
///   none once the retry budget has refused one;
/// - *unanswered* otherwise: once the link is suspect the client is reset, so that it may try another candidate
///   itself. With no other candidate a reset could gain nothing, so it waits until the link is up or down;
/// - after 10 s, 8 candidates, or 64 KiB of first bytes there is no further try.
#[must_use]
pub fn next_step(attempt: &Attempt) -> Step {
    let may_go_on = attempt.more_candidates
        && attempt.tried < CANDIDATES_TRIED_MAX
        && attempt.client_bytes <= FIRST_BYTES_MAX
        && attempt.open_for < OPEN_TIMEOUT;
    let over = |reason| if attempt.other_in_flight { Step::GiveWay } else { Step::Reset(reason) };
    let time_left = OPEN_TIMEOUT.saturating_sub(attempt.open_for);
    match attempt.state {
        OpenState::Connected => Step::Carry,
        OpenState::Unsent | OpenState::Refused { .. } if may_go_on => Step::TryNext,
        OpenState::Unsent => over(ResetReason::NoCandidate),
        OpenState::Refused { origin } => over(ResetReason::Refused(origin)),
        OpenState::Unanswered { .. } if time_left.is_zero() => over(ResetReason::Timeout),
        OpenState::Unanswered { bytes_written } if bytes_written && !attempt.idempotent => match attempt.link
        {
            LinkState::Down => over(ResetReason::Unanswered),
            LinkState::Suspect if may_go_on => over(ResetReason::Unanswered),
            LinkState::Suspect | LinkState::Up => Step::Wait(time_left),
        },
        OpenState::Unanswered { .. } => match attempt.link {
            LinkState::Suspect | LinkState::Down if may_go_on => Step::TryNext,
            LinkState::Down => over(ResetReason::NoCandidate),
            LinkState::Up if may_go_on && !attempt.other_in_flight && !attempt.over_budget => {
                match hedge_after(attempt.pto).checked_sub(attempt.elapsed) {
                    Some(left) if !left.is_zero() => Step::Wait(left.min(time_left)),
                    _ => Step::Hedge,
                }
            }
            LinkState::Suspect | LinkState::Up => Step::Wait(time_left),
        },
    }
}

#[cfg(test)]
mod tests;
