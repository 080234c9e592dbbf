//! Brings trust, dials and views in line with each newer state: who is believed, dialled, and told what.

use std::sync::Arc;

use data_encoding::HEXLOWER;

use super::Inner;
use crate::{
    identity::Blocked,
    link::{Target, codes::Close},
    model::{
        ids::ClusterId,
        state::{Changes, Peer, Standing, State},
    },
};

/// Follows the state until the store is gone.
pub(super) async fn run(peers: Arc<Inner>) {
    let mut states = peers.store.watch();
    let mut seen = states.borrow_and_update().clone();
    apply(&peers, &seen, &everything(&seen));
    while states.changed().await.is_ok() {
        let newest = states.borrow_and_update().clone();
        let changes = newest.changes_since(&seen);
        apply(&peers, &newest, &changes);
        cut_paused(&peers, &seen, &newest, &changes);
        seen = newest;
    }
}

fn everything(state: &State) -> Changes {
    Changes {
        exports: state.exports.keys().cloned().collect(),
        peers: state.peers.keys().cloned().collect(),
        ..Changes::default()
    }
}

/// Trust comes first: what follows already stands on the new one.
fn apply(peers: &Inner, state: &State, changes: &Changes) {
    if !changes.peers.is_empty() {
        let trusted: Vec<_> = state.peers.values().filter(|peer| peer.is_trusted()).collect();
        peers.trust.block(blocked(state));
        peers.trust.replace(trusted.iter().map(|peer| (&peer.trust_domain, &peer.bundle)));
        let target = |peer: &Arc<Peer>| Target {
            cluster: peer.cluster.clone(),
            trust_domain: peer.trust_domain.clone(),
            endpoints: peer.endpoints.clone(),
        };
        peers.links.set_peers(trusted.into_iter().map(target).collect());
        peers.forget_strangers(state);
    }
    peers.views.update(state, changes);
}

/// What was revoked and is not forgotten: the roots, and the keys that proved themselves with them.
fn blocked(state: &State) -> Blocked {
    let mut blocked = Blocked::default();
    for peer in state.peers.values().filter(|peer| peer.standing == Standing::Revoked) {
        blocked.keys.extend(peer.bundle.roots().iter().map(|root| HEXLOWER.encode(root.spki_sha256())));
        for key in &peer.ruling.blocked {
            blocked.keys.insert(key.spki_sha256.clone());
            blocked.serials.insert((peer.trust_domain.clone(), key.serial.clone()));
        }
    }
    blocked
}

/// A pause keeps trust and ends every stream: the connections are closed, and come up again with none.
fn cut_paused(peers: &Inner, old: &State, new: &State, changes: &Changes) {
    let is_paused = |state: &State, cluster: &ClusterId| {
        state.peers.get(cluster).is_some_and(|peer| peer.ruling.paused.is_some())
    };
    for cluster in changes.peers.iter().filter(|it| is_paused(new, it) && !is_paused(old, it)) {
        for lane in peers.links.registry().all() {
            if lane.key().cluster == *cluster {
                lane.close(Close::Paused);
            }
        }
    }
}
