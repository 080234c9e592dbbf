//! What people are shown and nothing is decided by: sessions, counts of connections, what happened lately.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use super::{Ledger, lock};
use crate::model::{
    ids::{ClusterId, GatewayId, ServiceName, Timestamp},
    limits::EVENTS_KEPT_MAX,
    session::{Holding, SessionState},
};

/// The session with a peer, as `peer` keeps it.
#[derive(Debug, Clone, PartialEq)]
pub struct SessionRow {
    /// The gateway at the other end.
    pub gateway: GatewayId,
    /// What can be believed of it.
    pub state: SessionState,
    /// When its catalog was complete for the first time in this session.
    pub synced: Option<Timestamp>,
    /// Rows taken of it.
    pub imported: usize,
    /// Rows refused, each with its reason.
    pub refusals: Vec<String>,
    /// When its last heartbeat came.
    pub heartbeat: Option<Instant>,
    /// Why it neither serves us nor takes our exports, and since when it says so.
    pub holding: Option<(Holding, Timestamp)>,
}

impl SessionRow {
    /// How old the last heartbeat is.
    #[must_use]
    pub fn heartbeat_age(&self, now: Instant) -> Option<Duration> {
        self.heartbeat.map(|at| now.saturating_duration_since(at))
    }
}

/// Something that happened, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Noted {
    /// Counts from 1 and never repeats in one run.
    pub number: u64,
    /// When.
    pub at: Timestamp,
    /// One word: `ejection`, `listener`, `link`.
    pub kind: &'static str,
    /// What, in one line.
    pub text: String,
}

/// Connections of one kind.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Proxied {
    /// The service.
    pub service: ServiceName,
    /// The cluster that served it; none when no cluster did.
    pub cluster: Option<ClusterId>,
    /// `connected`, `served`, or why not: `refused`, `no_candidate`, `unanswered`, `timeout`, `limit`.
    pub result: &'static str,
}

#[derive(Debug, Default)]
pub(super) struct Shown {
    sessions: BTreeMap<ClusterId, SessionRow>,
    proxied: BTreeMap<Proxied, u64>,
    waits: BTreeMap<ClusterId, u64>,
    noted: VecDeque<Noted>,
    next: u64,
}

impl Ledger {
    /// Sets, or forgets, what is known of the session with a peer.
    pub fn set_session(&self, cluster: ClusterId, row: Option<SessionRow>) {
        let mut shown = lock(&self.0.shown);
        match row {
            Some(row) => shown.sessions.insert(cluster, row),
            None => shown.sessions.remove(&cluster),
        };
    }

    /// The session with a peer.
    #[must_use]
    pub fn session(&self, cluster: &ClusterId) -> Option<SessionRow> {
        lock(&self.0.shown).sessions.get(cluster).cloned()
    }

    /// Counts one connection.
    pub fn count(&self, proxied: Proxied) {
        *lock(&self.0.shown).proxied.entry(proxied).or_default() += 1;
    }

    /// Connections so far, by service, cluster and result.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<Proxied, u64> {
        lock(&self.0.shown).proxied.clone()
    }

    /// Counts a connection that waited until the peer would take it.
    pub fn count_wait(&self, peer: &ClusterId) {
        *lock(&self.0.shown).waits.entry(peer.clone()).or_default() += 1;
    }

    /// Connections so far that waited until a peer would take them.
    #[must_use]
    pub fn waits(&self) -> BTreeMap<ClusterId, u64> {
        lock(&self.0.shown).waits.clone()
    }

    /// Remembers something for people; the oldest gives way.
    pub fn note(&self, kind: &'static str, text: impl Into<String>) {
        let (at, text) = (self.0.clock.wall(), text.into());
        tracing::info!(kind, "{text}");
        let mut shown = lock(&self.0.shown);
        shown.next += 1;
        let number = shown.next;
        if shown.noted.len() >= EVENTS_KEPT_MAX {
            shown.noted.pop_front();
        }
        shown.noted.push_back(Noted { number, at, kind, text });
    }

    /// What happened after number `after` (0: all that is remembered), oldest first.
    #[must_use]
    pub fn noted(&self, after: u64) -> Vec<Noted> {
        lock(&self.0.shown).noted.iter().filter(|noted| noted.number > after).cloned().collect()
    }
}
