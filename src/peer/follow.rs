//! Brings trust, dials and views in line with each newer state: who is believed, dialled, and told what.

use std::sync::Arc;

use super::Inner;
use crate::{
    link::Target,
    model::state::{Changes, Standing, State},
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

fn apply(peers: &Inner, state: &State, changes: &Changes) {
    if !changes.peers.is_empty() {
        let trusted: Vec<_> =
            state.peers.values().filter(|peer| peer.standing != Standing::Distrusted).collect();
        peers.trust.replace(trusted.iter().map(|peer| (&peer.trust_domain, &peer.bundle)));
        let target = |peer: &Arc<crate::model::state::Peer>| Target {
            cluster: peer.cluster.clone(),
            trust_domain: peer.trust_domain.clone(),
            endpoints: peer.endpoints.clone(),
        };
        peers.links.set_peers(trusted.into_iter().map(target).collect());
        peers.forget_strangers(state);
    }
    peers.views.update(state, changes);
}
