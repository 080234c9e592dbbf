//! The roots of this cluster for people: how far a rotation is, and whom it waits for.

use super::{
    Parts,
    api::{CaStatus, RootAck, RootStatus, schema},
    peers::{self, Moment, millis},
};
use crate::model::{rotation::goes_on_at, state::Peer};

/// `GET /v1/ca`.
pub(super) fn status(parts: &Parts) -> CaStatus {
    let (state, at) = (parts.store.state(), Moment::of(parts));
    let (set, bundle) = (parts.identity.root_set(), parts.identity.bundle());
    let numbered = set.published.iter().zip(bundle.roots());
    let roots = numbered.map(|(number, root)| RootStatus {
        number: *number,
        fingerprint: root.fingerprint().to_string(),
        issuing: *number == set.issuing,
        expires_unix_ms: root.not_after(),
    });
    let ack = |peer: &Peer| {
        let shown = peers::of(parts, &state, peer, at);
        RootAck {
            cluster: peer.cluster.clone(),
            acked: peer.ruling.acked >= set.sequence,
            state: shown.state,
            state_age_ms: shown.state_age_ms,
        }
    };
    CaStatus {
        schema: schema("ca"),
        phase: set.phase().as_str().to_owned(),
        phase_age_ms: millis(at.wall.since(set.since)),
        phase_ends_unix_ms: goes_on_at(&set, parts.rotation_waits.0, parts.rotation_waits.1),
        sequence: set.sequence,
        roots: roots.collect(),
        peers: state.peers.values().filter(|peer| peer.is_trusted()).map(|peer| ack(peer)).collect(),
        svid_expires_unix_ms: parts.svid.get().not_after(),
    }
}
