//! One peer for people: its state with cause and age, its link, its catalog.

use std::{sync::Arc, time::Instant};

use super::{
    Parts,
    api::{LinkDown, LinkStatus, PeerStatus, Verification, VerifiedRoots, schema},
};
use crate::{
    ledger::SessionRow,
    link::{Lane, LinkEnd},
    metrics::{LaneFigures, PeerFigures},
    model::{
        code::{Code, Problem},
        ids::{ClusterId, Timestamp, TrustDomain},
        limits::CLOCK_SKEW_MAX,
        liveness::LinkState,
        peer_state::{self, PeerFacts},
        state::{Peer, PeerCatalog, Standing, State},
        trust::Bundle,
    },
};

/// A moment on both clocks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    pub(super) wall: Timestamp,
    pub(super) now: Instant,
}

impl Moment {
    pub(super) fn of(parts: &Parts) -> Self {
        Self { wall: parts.clock.wall(), now: parts.clock.now() }
    }
}

/// What is known of a peer beside its record.
#[derive(Debug, Default)]
pub(super) struct Facts<'a> {
    pub(super) catalog: Option<&'a PeerCatalog>,
    pub(super) session: Option<SessionRow>,
    pub(super) lane: Option<Arc<Lane>>,
    /// The lanes to all its gateways.
    pub(super) lanes: Vec<Arc<Lane>>,
    pub(super) link_end: Option<LinkEnd>,
    pub(super) dial_failure: Option<String>,
    pub(super) lag: Option<u64>,
    pub(super) exported: usize,
    pub(super) too_large: Vec<String>,
}

impl<'a> Facts<'a> {
    fn gather(parts: &Parts, state: &'a State, cluster: &ClusterId) -> Self {
        let registry = parts.links.registry();
        // A lane that is down is better shown than none.
        let lanes = registry.up().get(cluster).cloned().unwrap_or_default();
        let lane = registry.best(cluster).or_else(|| lanes.first().cloned());
        let failure = if lane.is_none() { parts.links.dial_failure(cluster) } else { None };
        let link_end = if lane.is_none() { parts.links.link_end(cluster) } else { None };
        Self {
            catalog: state.catalogs.get(cluster),
            session: parts.ledger.session(cluster),
            lane,
            lanes,
            link_end,
            dial_failure: failure.map(|failure| failure.cause),
            lag: parts.peers.lag(cluster),
            exported: parts.peers.exported(cluster),
            too_large: parts.peers.too_large(cluster),
        }
    }

    /// How old what is held may be, in milliseconds.
    fn catalog_age(&self, at: Moment) -> Option<u64> {
        let catalog = self.catalog.filter(|catalog| catalog.synced)?;
        Some(catalog.lost.map_or(0, |lost| millis(at.wall.since(lost))))
    }

    fn imported(&self) -> usize {
        self.catalog.map_or(0, |catalog| catalog.rows.len())
    }
}

/// All peers, by cluster id.
pub(super) fn all(parts: &Parts, state: &State, at: Moment) -> Vec<PeerStatus> {
    state.peers.values().map(|peer| of(parts, state, peer, at)).collect()
}

/// The peer a path names.
pub(super) fn named(parts: &Parts, typed: &str) -> Result<Arc<Peer>, Problem> {
    let none = || Problem::new(Code::NO_SUCH_PEER, format!("this cluster has no peer {typed:?}"));
    let cluster = ClusterId::parse(typed).map_err(|_| none())?;
    parts.store.state().peers.get(&cluster).cloned().ok_or_else(none)
}

/// `POST /v1/peers/ID/verify`.
pub(super) fn verify(parts: &Parts, peer: &Peer) -> Verification {
    let roots = |cluster: &ClusterId, trust_domain: &TrustDomain, bundle: &Bundle| VerifiedRoots {
        cluster: cluster.clone(),
        trust_domain: trust_domain.clone(),
        sequence: bundle.sequence(),
        fingerprints: bundle.roots().iter().map(|root| root.fingerprint().to_string()).collect(),
    };
    let own = &parts.identity;
    let seen = parts.peers.roots_seen(&peer.cluster);
    let now = parts.clock.wall();
    Verification {
        schema: schema("verification"),
        own: roots(own.cluster(), own.trust_domain(), &own.bundle()),
        peer: roots(&peer.cluster, &peer.trust_domain, &peer.bundle),
        uses_ours: seen.map(|(same, _)| same),
        said_age_ms: seen.map(|(_, at)| millis(now.since(at))),
    }
}

/// One peer, by its record.
pub(super) fn of(parts: &Parts, state: &State, peer: &Peer, at: Moment) -> PeerStatus {
    status(peer, &Facts::gather(parts, state, &peer.cluster), at)
}

/// One peer's status.
pub(super) fn status(peer: &Peer, facts: &Facts<'_>, at: Moment) -> PeerStatus {
    let derived = derive(peer, facts, at);
    let mut refusals: Vec<String> =
        facts.session.as_ref().map(|session| session.refusals.clone()).unwrap_or_default();
    refusals.extend(facts.too_large.iter().cloned());
    PeerStatus {
        cluster: peer.cluster.clone(),
        state: derived.state.as_str().to_owned(),
        state_age_ms: millis(at.wall.since(derived.since)),
        cause: derived.cause,
        trust_domain: peer.trust_domain.clone(),
        fingerprint: peer.bundle.fingerprint().to_string(),
        root_expires_unix_ms: peer.bundle.newest().not_after(),
        introduced_by: peer.introduced_by.clone(),
        endpoints: peer.endpoints.clone(),
        link: facts.lane.as_deref().map(|lane| link(lane, at.now)),
        links: facts.lanes.iter().map(|lane| link(lane, at.now)).collect(),
        link_down: facts
            .link_end
            .as_ref()
            .map(|end| LinkDown { age_ms: millis(at.wall.since(end.at)), cause: end.cause.clone() }),
        dial_failure: facts.dial_failure.clone().filter(|_| peer.is_trusted()),
        imported: facts.imported(),
        exported: facts.exported,
        lag: facts.lag,
        catalog_age_ms: facts.catalog_age(at),
        refusals,
    }
}

fn derive(peer: &Peer, facts: &Facts<'_>, at: Moment) -> peer_state::PeerStatus {
    let ended = peer.bundle.not_after();
    let ruling = &peer.ruling;
    let since = ruling.since.unwrap_or(peer.added);
    let ruled = |standing, told| (peer.standing == standing).then_some((since, told));
    let distrusted = ruled(Standing::Distrusted, ruling.reason.as_str())
        .or_else(|| (at.wall > ended.after(CLOCK_SKEW_MAX)).then_some((ended, "every root has expired")));
    let synced = facts.catalog.filter(|catalog| catalog.synced);
    let known = PeerFacts {
        joined: peer.added,
        introduced_by: peer.introduced_by.as_ref(),
        approved: peer.standing != Standing::Pending,
        paused: ruling.paused,
        revoked: (peer.standing == Standing::Revoked).then_some(since),
        terminated: ruled(Standing::Terminated, ruling.reason.as_str()),
        distrusted,
        session: facts.session.as_ref().map(|session| session.state),
        holding: facts.session.as_ref().and_then(|session| session.holding),
        synced: facts.session.as_ref().and_then(|session| session.synced),
        catalog: synced.map(|catalog| catalog.lost.unwrap_or(at.wall)),
    };
    peer_state::derive(&known, at.wall, at.now)
}

fn link(lane: &Lane, now: Instant) -> LinkStatus {
    let (figures, standing) = (lane.figures(), lane.standing());
    LinkStatus {
        state: standing.state.to_string(),
        state_age_ms: millis(now.saturating_duration_since(standing.since)),
        draining: lane.is_draining(),
        cause: standing.cause.map(|cause| cause.to_string()),
        gateway: lane.key().gateway.clone(),
        address: lane.address().to_string(),
        dialled_by: if lane.dialled() { "us" } else { "them" }.to_owned(),
        rtt_ms: figures.rtt.as_secs_f64() * 1_000.0,
        loss: figures.loss,
        inbound_age_ms: millis(figures.inbound_age),
        outbound_age_ms: millis(figures.outbound_age),
        streams: lane.streams(),
        up_ms: millis(now.saturating_duration_since(lane.born())),
    }
}

/// What a scrape says of one peer.
pub(super) fn figures(parts: &Parts, state: &State, peer: &Peer, at: Moment) -> PeerFigures {
    let facts = Facts::gather(parts, state, &peer.cluster);
    let lane = facts.lane.as_deref().map(|lane| {
        let figures = lane.figures();
        LaneFigures {
            up: lane.health() == LinkState::Up && !lane.is_closed(),
            rtt: figures.rtt,
            loss: figures.loss,
            inbound_age: figures.inbound_age,
            streams: lane.streams(),
        }
    });
    PeerFigures {
        state: derive(peer, &facts, at).state.as_str(),
        imported: facts.imported(),
        exported: facts.exported,
        catalog_age: facts.catalog_age(at).map(std::time::Duration::from_millis),
        lane,
        root_ends_in: peer.bundle.newest().not_after().since(at.wall),
    }
}

pub(super) fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
