//! What each peer calls our exports: from the ids in stream headers back to names.
//!
//! Follows the state by its differences. An id alone opens nothing: grants are asked for each stream.

use arc_swap::ArcSwap;
use imbl::OrdMap;

use crate::{
    identity::Identity,
    model::{
        catalog::Export,
        ids::{ClusterId, ExportId, ServiceName},
        state::{Peer, State},
    },
};

type Names = OrdMap<(ClusterId, ExportId), ServiceName>;

/// The ids of all exports for all peers.
#[derive(Debug, Default)]
pub(super) struct ExportIndex(ArcSwap<Names>);

impl ExportIndex {
    /// The export that `peer` calls `id`.
    pub(super) fn name(&self, peer: &ClusterId, id: ExportId) -> Option<ServiceName> {
        self.0.load().get(&(peer.clone(), id)).cloned()
    }

    /// Follows the state from `old` (none: from nothing) to `new`.
    pub(super) fn follow(&self, identity: &Identity, old: Option<&State>, new: &State) {
        let mut names = (*self.0.load_full()).clone();
        let Some(old) = old else {
            for peer in new.peers.values() {
                for export in new.exports.values() {
                    names.insert(key(identity, peer, export), export.name.clone());
                }
            }
            return self.0.store(names.into());
        };
        let changes = new.changes_since(old);
        for name in &changes.exports {
            for (state, is_new) in [(old, false), (new, true)] {
                let Some(export) = state.exports.get(name) else { continue };
                for peer in state.peers.values() {
                    set(&mut names, key(identity, peer, export), name, is_new);
                }
            }
        }
        for cluster in &changes.peers {
            // A peer's trust domain never changes, but the peer may have gone and another come.
            for (state, is_new) in [(old, false), (new, true)] {
                let Some(peer) = state.peers.get(cluster) else { continue };
                for export in state.exports.values() {
                    set(&mut names, key(identity, peer, export), &export.name, is_new);
                }
            }
        }
        if !changes.exports.is_empty() || !changes.peers.is_empty() {
            self.0.store(names.into());
        }
    }
}

fn key(identity: &Identity, peer: &Peer, export: &Export) -> (ClusterId, ExportId) {
    (peer.cluster.clone(), identity.export_id(&peer.trust_domain, &export.name, export.incarnation))
}

fn set(names: &mut Names, key: (ClusterId, ExportId), name: &ServiceName, is_there: bool) {
    if is_there {
        names.insert(key, name.clone());
    } else {
        names.remove(&key);
    }
}
