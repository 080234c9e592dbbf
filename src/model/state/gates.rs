//! The gates as the state of now answers them: for a stream that asks, and again for one that runs.

use super::State;
use crate::model::{
    ids::{ClusterId, Incarnation, ServiceName, SpiffeId, TrustDomain},
    policy::{Decision, PeerView, Reason, may_call_out, may_import, sources_of},
};

/// A peer's stream that was let in: what has to be true for it to go on.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Admitted {
    /// The peer.
    pub cluster: ClusterId,
    /// Its trust domain, as its certificate proved.
    pub trust_domain: TrustDomain,
    /// What it reaches.
    pub service: ServiceName,
    /// Which life of that export.
    pub incarnation: Incarnation,
    /// Who calls, as the peer vouches.
    pub caller: SpiffeId,
}

impl State {
    /// Whether a peer's caller may reach an export of ours, and which rule says so.
    #[must_use]
    pub fn may_reach(
        &self,
        cluster: &ClusterId,
        trust_domain: &TrustDomain,
        service: &ServiceName,
        caller: &SpiffeId,
    ) -> Decision {
        let peer = self.peers.get(cluster).filter(|peer| peer.trust_domain == *trust_domain);
        let approved = peer.is_some_and(|peer| peer.serves());
        if !self.exports.contains_key(service) {
            return Decision { allowed: false, reason: Reason::NotExported, audit: None };
        }
        self.settings.grants.callable(service, PeerView { cluster, trust_domain, approved }, caller)
    }

    /// Whether a stream that was let in may go on: asked again whenever rules, peers or exports change.
    #[must_use]
    pub fn still_allows(&self, stream: &Admitted) -> bool {
        let same = |export: &crate::model::catalog::Export| export.incarnation == stream.incarnation;
        self.exports.get(&stream.service).is_some_and(|export| same(export))
            && self.may_reach(&stream.cluster, &stream.trust_domain, &stream.service, &stream.caller).allowed
    }

    /// Whether the import rules take a peer's export `source` under `name`, and whether it merges there.
    pub(super) fn takes(
        &self,
        name: &ServiceName,
        source: &ServiceName,
        cluster: &ClusterId,
    ) -> Option<bool> {
        let import = may_import(&self.settings.imports, source, cluster);
        let as_this = import.alias.unwrap_or(source) == name;
        (import.decision.allowed && as_this).then_some(import.merge)
    }

    /// Whether a stream to a peer that stands under `name` may go on: what the peer offers just now says nothing
    /// about that, only what this cluster's own rules and its verdict on the peer say.
    #[must_use]
    pub fn still_takes(&self, name: &ServiceName, cluster: &ClusterId) -> bool {
        self.peers.get(cluster).is_some_and(|peer| peer.serves())
            && (self.takes(name, name, cluster).is_some()
                || sources_of(&self.settings.imports, name)
                    .any(|source| self.takes(name, &source, cluster).is_some()))
    }

    /// Whether a caller of this cluster may call a name, and which rule says so.
    #[must_use]
    pub fn may_call_out(&self, service: &ServiceName, caller: &SpiffeId) -> Decision {
        may_call_out(&self.settings.egress, service, caller)
    }
}
