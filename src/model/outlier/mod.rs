//! Outliers: what keeps failing is left alone for a while, then tried with one real request.
//!
//! A state machine over `now`, for whatever is blamed: at the source a [`OutlierKey`] (cluster, service, port),
//! at the destination one of its own endpoints. It knows nothing of links: whether a gateway can be reached
//! is `liveness`'s matter, and neither ever changes the other (federation note 3.10).

use std::{
    collections::BTreeMap,
    fmt,
    time::{Duration, Instant},
};

use rand::{Rng, RngExt};

use super::{
    ids::{ClusterId, ServiceName},
    limits::{
        AVOIDED_AFTER_CUT, EJECT_AFTER_APP_FAILURES, EJECT_AFTER_CONNECT_FAILURES, EJECTION_FORGIVEN_AFTER,
        EJECTION_JITTER_PERCENT, EJECTION_MAX, EJECTION_MIN, OUTLIERS_MAX, PROBATION_PROBE_MAX,
    },
    open::Origin,
};

/// What the source gateway blames: it sees one port of one service in one cluster, never single endpoints.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OutlierKey {
    /// The cluster that serves it, this one included.
    pub cluster: ClusterId,
    /// The service.
    pub service: ServiceName,
    /// The port clients connect to.
    pub port: u16,
}

/// How one request or connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It was answered.
    Success,
    /// It failed, and this is who failed.
    Failure(Origin),
    /// Nobody can tell: the client went away before an answer.
    Unknown,
    /// It had the connection and reset it before it had ended its answer.
    Cut,
    /// It ended its answer in peace.
    Whole,
}

/// Which counter a failure belongs to; none when it is not the endpoint's fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Blame {
    Connect,
    App,
    Cut,
}

impl Outcome {
    /// Whether it speaks against an endpoint; what does not changes nothing of one that nothing spoke against.
    #[must_use]
    pub fn is_blamed(self) -> bool {
        self.blame().is_some()
    }

    /// Only what the endpoint itself did counts: a gateway, a policy or a limit is never held against it.
    fn blame(self) -> Option<Blame> {
        match self {
            Self::Failure(Origin::Refused | Origin::Timeout) => Some(Blame::Connect),
            Self::Failure(Origin::App) => Some(Blame::App),
            Self::Cut => Some(Blame::Cut),
            Self::Failure(Origin::Gateway | Origin::Policy | Origin::Limit)
            | Self::Success
            | Self::Unknown
            | Self::Whole => None,
        }
    }
}

/// What is thought of an endpoint, in the words that status uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Nothing speaks against it.
    Healthy,
    /// It gets nothing until then.
    Ejected {
        /// When its probation begins.
        until: Instant,
    },
    /// One real request at a time decides.
    Probation,
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Healthy => "healthy",
            Self::Ejected { .. } => "ejected",
            Self::Probation => "probation",
        })
    }
}

/// Whether a request may go to an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// It is healthy.
    Yes,
    /// It is on probation and this request is its probe: its outcome must be observed.
    Probe,
    /// Not before this moment.
    No {
        /// When to ask again.
        until: Instant,
    },
}

#[derive(Debug, Clone, Copy)]
enum Phase {
    Healthy {
        since: Option<Instant>,
    },
    /// Ejected until then; on probation afterwards, its probe under way since `probe`.
    Out {
        until: Instant,
        probe: Option<Instant>,
    },
}

/// The record of one endpoint.
///
/// Three connects refused or timed out in a row, or five failures of the application, eject it: for a second,
/// then twice as long each time, up to 30 s, less a jitter. Then comes probation: one real request, whose
/// success heals and whose failure ejects again. Ten healthy seconds forgive one ejection. Every endpoint
/// may be ejected; what happens then is panic, and `failover`'s matter.
///
/// Five connections in a row that it reset after their first word eject it likewise, and one does while an
/// ejection is not forgiven: a first word proves little of it. And each of them has it avoided for a second, so
/// that who tries again at once meets another.
#[derive(Debug, Clone)]
pub struct Outlier {
    phase: Phase,
    connect_failures: u32,
    app_failures: u32,
    cuts: u32,
    ejections: u32,
    cut_at: Option<Instant>,
}

impl Default for Outlier {
    fn default() -> Self {
        let phase = Phase::Healthy { since: None };
        Self { phase, connect_failures: 0, app_failures: 0, cuts: 0, ejections: 0, cut_at: None }
    }
}

impl Outlier {
    /// An endpoint of which nothing is known, and which is therefore healthy.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// What is thought of it now.
    #[must_use]
    pub fn state(&self, now: Instant) -> Standing {
        match self.phase {
            Phase::Healthy { .. } => Standing::Healthy,
            Phase::Out { until, .. } if now < until => Standing::Ejected { until },
            Phase::Out { .. } => Standing::Probation,
        }
    }

    /// Whether a request may go now. [`Admission::Probe`] takes the one place that probation has; the place
    /// is free again when the outcome is observed, or after 10 s.
    pub fn admits(&mut self, now: Instant) -> Admission {
        let Phase::Out { until, probe } = &mut self.phase else {
            return Admission::Yes;
        };
        if now < *until {
            return Admission::No { until: *until };
        }
        match *probe {
            Some(since) if now < since + PROBATION_PROBE_MAX => {
                Admission::No { until: since + PROBATION_PROBE_MAX }
            }
            _ => {
                *probe = Some(now);
                Admission::Probe
            }
        }
    }

    /// Takes one outcome; returns the new standing when it changed. While ejected, outcomes of requests that
    /// began before are ignored.
    pub fn observe(&mut self, outcome: Outcome, now: Instant, rng: &mut impl Rng) -> Option<Standing> {
        if outcome == Outcome::Cut {
            self.cut_at = Some(now);
        }
        match (self.state(now), outcome.blame()) {
            (Standing::Ejected { .. }, _) => None,
            (Standing::Healthy, Some(blame)) => self.count(blame, now, rng),
            (Standing::Healthy, None) => {
                match outcome {
                    Outcome::Success => (self.connect_failures, self.app_failures) = (0, 0),
                    Outcome::Whole => self.cuts = 0,
                    _ => return None,
                }
                self.forgive(now);
                None
            }
            (Standing::Probation, Some(_)) => Some(self.eject(now, rng)),
            (Standing::Probation, None) if outcome == Outcome::Success => {
                self.phase = Phase::Healthy { since: Some(now) };
                Some(Standing::Healthy)
            }
            // It says nothing of the probe: a connection from before.
            (Standing::Probation, None) if outcome == Outcome::Whole => None,
            (Standing::Probation, None) => {
                if let Phase::Out { probe, .. } = &mut self.phase {
                    *probe = None;
                }
                None
            }
        }
    }

    /// How many ejections its next penalty builds on.
    #[must_use]
    pub fn ejections(&self) -> u32 {
        self.ejections
    }

    /// Whether others are to be tried before it: it cut a connection just now.
    #[must_use]
    pub fn is_avoided(&self, now: Instant) -> bool {
        self.cut_at.is_some_and(|at| now.saturating_duration_since(at) < AVOIDED_AFTER_CUT)
    }

    /// Whether nothing about it is worth remembering.
    #[must_use]
    pub fn is_spotless(&self, now: Instant) -> bool {
        let mut later = self.clone();
        later.forgive(now);
        matches!(later.phase, Phase::Healthy { .. })
            && (later.connect_failures, later.app_failures, later.cuts, later.ejections) == (0, 0, 0, 0)
            && !later.is_avoided(now)
    }

    fn count(&mut self, blame: Blame, now: Instant, rng: &mut impl Rng) -> Option<Standing> {
        self.forgive(now);
        let full = match blame {
            Blame::Connect => {
                self.connect_failures += 1;
                self.connect_failures >= EJECT_AFTER_CONNECT_FAILURES
            }
            // It did accept the connection, which ends any row of refusals.
            Blame::App => {
                self.connect_failures = 0;
                self.app_failures += 1;
                self.app_failures >= EJECT_AFTER_APP_FAILURES
            }
            Blame::Cut => {
                self.cuts += 1;
                self.cuts >= EJECT_AFTER_APP_FAILURES || self.ejections > 0
            }
        };
        full.then(|| self.eject(now, rng))
    }

    fn eject(&mut self, now: Instant, rng: &mut impl Rng) -> Standing {
        let longest = penalty(self.ejections);
        let jitter =
            longest.mul_f64(f64::from(EJECTION_JITTER_PERCENT) / 100.0 * rng.random_range(0.0..=1.0));
        let until = now + longest.saturating_sub(jitter);
        self.ejections = self.ejections.saturating_add(1);
        self.connect_failures = 0;
        self.app_failures = 0;
        self.cuts = 0;
        self.phase = Phase::Out { until, probe: None };
        Standing::Ejected { until }
    }

    /// Takes one ejection off for every ten healthy seconds.
    fn forgive(&mut self, now: Instant) {
        let Phase::Healthy { since: Some(since) } = &mut self.phase else {
            return;
        };
        while self.ejections > 0 && now.saturating_duration_since(*since) >= EJECTION_FORGIVEN_AFTER {
            self.ejections -= 1;
            *since += EJECTION_FORGIVEN_AFTER;
        }
    }
}

/// The records of many endpoints. It holds only those that something speaks against, so it is small while all
/// is well, and it never grows beyond its cap: what does not fit is treated as healthy.
#[derive(Debug, Clone)]
pub struct Outliers<K> {
    records: BTreeMap<K, Outlier>,
}

impl<K> Default for Outliers<K> {
    fn default() -> Self {
        Self { records: BTreeMap::new() }
    }
}

impl<K: Ord + Clone> Outliers<K> {
    /// Nothing speaks against anybody.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// As [`Outlier::state`].
    #[must_use]
    pub fn state(&self, key: &K, now: Instant) -> Standing {
        self.records.get(key).map_or(Standing::Healthy, |record| record.state(now))
    }

    /// As [`Outlier::is_avoided`].
    #[must_use]
    pub fn is_avoided(&self, key: &K, now: Instant) -> bool {
        self.records.get(key).is_some_and(|record| record.is_avoided(now))
    }

    /// As [`Outlier::admits`].
    pub fn admits(&mut self, key: &K, now: Instant) -> Admission {
        self.records.get_mut(key).map_or(Admission::Yes, |record| record.admits(now))
    }

    /// As [`Outlier::observe`].
    pub fn observe(
        &mut self,
        key: &K,
        outcome: Outcome,
        now: Instant,
        rng: &mut impl Rng,
    ) -> Option<Standing> {
        if let Some(record) = self.records.get_mut(key) {
            let change = record.observe(outcome, now, rng);
            if record.is_spotless(now) {
                self.records.remove(key);
            }
            return change;
        }
        outcome.blame()?;
        if self.records.len() >= OUTLIERS_MAX {
            self.records.retain(|_, record| !record.is_spotless(now));
        }
        if self.records.len() >= OUTLIERS_MAX {
            return None;
        }
        self.records.entry(key.clone()).or_default().observe(outcome, now, rng)
    }

    /// Puts items in the order of trying them; given in the order of their turns. The first is the first in its turn
    /// that is ready, admitted and not avoided, and if it is on probation its place is taken. The others follow by
    /// how much speaks against them: avoided, the latest to cut last, on probation, ejected, and those not ready
    /// last of all.
    pub fn line_up<T>(
        &mut self,
        items: &mut Vec<T>,
        key: impl Fn(&T) -> K,
        unready: impl Fn(&T) -> bool,
        now: Instant,
    ) {
        if self.records.is_empty() {
            return items.sort_by_key(unready);
        }
        let lead = items.iter().position(|item| {
            let key = key(item);
            !unready(item)
                && !self.is_avoided(&key, now)
                && !matches!(self.admits(&key, now), Admission::No { .. })
        });
        let lead = lead.map(|at| items.remove(at));
        items.sort_by_cached_key(|item| {
            let doubt = self.records.get(&key(item)).map_or((0, None), |record| match record.state(now) {
                Standing::Healthy if record.is_avoided(now) => (1, record.cut_at),
                Standing::Healthy => (0, None),
                Standing::Probation => (2, record.cut_at),
                Standing::Ejected { .. } => (3, record.cut_at),
            });
            (unready(item), doubt)
        });
        if let Some(lead) = lead {
            items.insert(0, lead);
        }
    }

    /// Those that are not healthy, for status and `explain`.
    pub fn unhealthy(&self, now: Instant) -> impl Iterator<Item = (&K, Standing)> {
        self.records
            .iter()
            .map(move |(key, record)| (key, record.state(now)))
            .filter(|(_, standing)| *standing != Standing::Healthy)
    }

    /// When the next ejection ends; plans made before then must be made anew.
    #[must_use]
    pub fn next_change(&self, now: Instant) -> Option<Instant> {
        self.unhealthy(now)
            .filter_map(|(_, standing)| match standing {
                Standing::Ejected { until } => Some(until),
                Standing::Healthy | Standing::Probation => None,
            })
            .min()
    }

    /// Drops the records that `keep` refuses: of exports and clusters that are gone.
    pub fn retain(&mut self, mut keep: impl FnMut(&K) -> bool) {
        self.records.retain(|key, _| keep(key));
    }

    /// Records held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether nothing speaks against anybody.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }
}

/// The longest penalty of an endpoint that was ejected so many times before, without jitter.
fn penalty(ejections: u32) -> Duration {
    EJECTION_MIN.saturating_mul(1 << ejections.min(16)).min(EJECTION_MAX)
}

#[cfg(test)]
mod tests;
