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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        identity::NewIdentity,
        model::{
            catalog::{ExportSource, Traffic},
            ids::{GatewayId, Incarnation, Locality, Timestamp, TrustDomain},
            limits::ROOT_LIFE,
            state::{Event, Me, Settings, Standing},
            virtual_ip::VirtualIps,
        },
    };

    const NOW: Timestamp = Timestamp(1_800_000_000_000);

    fn cluster(name: &str) -> ClusterId {
        ClusterId::parse(name).expect("an id")
    }

    fn identity(name: &str) -> Identity {
        let (cluster, export_secret) = (cluster(name), [7; 32]);
        let new = NewIdentity { cluster: &cluster, trust_domain: None, root_life: ROOT_LIFE, export_secret };
        Identity::create(new, NOW).expect("made").0
    }

    fn export(incarnation: u8) -> Export {
        Export {
            name: ServiceName::parse("default/web").expect("a name"),
            ports: Vec::new(),
            endpoints: Vec::new(),
            annotations: std::collections::BTreeMap::new(),
            labels: std::collections::BTreeMap::new(),
            idempotent: false,
            session_affinity: None,
            traffic: Traffic::default(),
            headless: false,
            created: NOW,
            incarnation: Incarnation([incarnation; 16]),
            source: ExportSource::Flag,
        }
    }

    fn peer(name: &str) -> Peer {
        let other = identity(name);
        Peer {
            cluster: cluster(name),
            trust_domain: other.trust_domain().clone(),
            bundle: other.bundle().as_ref().clone(),
            endpoints: Vec::new(),
            generation: 1,
            standing: Standing::Approved,
            introduced_by: None,
            issuer: false,
            added: NOW,
            ruling: Default::default(),
        }
    }

    #[test]
    fn step_by_step_it_is_the_same_as_all_at_once() {
        let identity = identity("east");
        let me = Me {
            cluster: cluster("east"),
            trust_domain: TrustDomain::parse("east.tombolo").expect("a domain"),
            gateway: GatewayId::parse("g1").expect("an id"),
            locality: Locality::default(),
        };
        let range = "127.77.0.0/18".parse().expect("a range");
        let ips = VirtualIps::new(range).expect("large enough");
        let mut state = State::new(me, Settings::default(), ips);
        let followed = ExportIndex::default();
        followed.follow(&identity, None, &state);
        let old_id =
            |peer: &Peer| identity.export_id(&peer.trust_domain, &export(1).name, Incarnation([1; 16]));
        let (west, south) = (peer("west"), peer("south"));
        for event in [
            Event::Peer(west.clone()),
            Event::Exported(export(1)),
            Event::Peer(south),
            Event::Exported(export(2)),
        ] {
            let old = state.clone();
            state.apply(event, NOW);
            followed.follow(&identity, Some(&old), &state);
            let fresh = ExportIndex::default();
            fresh.follow(&identity, None, &state);
            assert_eq!(*followed.0.load_full(), *fresh.0.load_full());
        }
        assert_eq!(followed.name(&west.cluster, old_id(&west)), None, "an id ends with its incarnation");
        let old = state.clone();
        state.apply(Event::Unexported(export(2).name), NOW);
        followed.follow(&identity, Some(&old), &state);
        assert!(followed.0.load().is_empty());
    }
}
