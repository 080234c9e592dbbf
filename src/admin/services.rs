//! Services of the clusterset for people: where each is exported, on which address and ports it listens here.

use std::net::Ipv4Addr;

use super::api::{PortStatus, ServiceCluster, ServiceStatus};
use crate::{
    ledger::Bindings,
    model::{
        catalog::{Protocol, ZoneReady},
        ids::{ClusterId, ServiceName},
        import::{Freshness, Import, ImportCluster},
        policy::may_import,
        state::{Standing, State},
        virtual_ip::{BindingState, VipKey},
        zone::ZoneName,
    },
};

/// All of them, by name.
pub(super) fn all(state: &State, zone: &ZoneName, bindings: &Bindings) -> Vec<ServiceStatus> {
    state.imports.values().map(|import| status(import, state, zone, bindings)).collect()
}

fn status(import: &Import, state: &State, zone: &ZoneName, bindings: &Bindings) -> ServiceStatus {
    let keys = VipKey::of(import);
    let listening = |protocol, number| -> Vec<(Ipv4Addr, u16)> {
        keys.iter().filter_map(|key| state.listening(key, protocol, number)).collect()
    };
    ServiceStatus {
        name: import.name.clone(),
        dns_name: zone.service(&import.name).to_string(),
        virtual_ip: virtual_ip(import, state),
        headless: import.headless,
        ports: import
            .ports
            .iter()
            .map(|entry| {
                let (protocol, number) = (entry.port.protocol, entry.port.number);
                let (bound_port, state) = listener(&listening(protocol, number), protocol, bindings);
                PortStatus {
                    name: entry.port.name.to_string(),
                    protocol: protocol.to_string(),
                    port: number,
                    bound_port,
                    state,
                }
            })
            .collect(),
        clusters: clusters(import, state),
        conflicts: import
            .conflicts
            .iter()
            .map(|conflict| format!("{}: {}", conflict.reason, conflict.message))
            .collect(),
    }
}

/// The address of a service that has one.
pub(super) fn virtual_ip(import: &Import, state: &State) -> Option<String> {
    let key = VipKey::Service(import.name.clone());
    if import.headless { None } else { state.address(&key).map(|ip| ip.to_string()) }
}

/// The port that is bound, and the words for it. A headless service has a listener for each endpoint; one
/// that stands says more of it than those that wait.
fn listener(places: &[(Ipv4Addr, u16)], protocol: Protocol, bindings: &Bindings) -> (Option<u16>, String) {
    let mut found = places.iter().filter_map(|(ip, port)| bindings.get(&(*ip, protocol, *port)));
    let first = found.clone().next();
    let standing = found.find(|binding| binding.state == BindingState::Listening);
    match standing.or(first) {
        None if places.is_empty() => (None, "no virtual IP".to_owned()),
        None => (None, "not bound yet".to_owned()),
        Some(binding) => match binding.state {
            BindingState::Listening => (Some(binding.bound_port), "listening".to_owned()),
            BindingState::NoCandidate => (None, "no candidate".to_owned()),
            BindingState::Failed(code) => (None, format!("{code} {}", code.info().title)),
        },
    }
}

/// Every cluster that exports the name: those that count, and those whose export was withdrawn.
fn clusters(import: &Import, state: &State) -> Vec<ServiceCluster> {
    let counted = import.clusters.iter().map(|part| part_of(part, state));
    let withdrawn = state.catalogs.iter().filter_map(|(cluster, catalog)| {
        let row = catalog.rows.get(&import.name)?;
        let gone =
            catalog.freshness == Freshness::Withdrawn && refusal(&import.name, cluster, state).is_none();
        gone.then(|| ServiceCluster {
            cluster: cluster.clone(),
            local: false,
            ready: row.ready(),
            total: total(&row.zones),
            freshness: "withdrawn".to_owned(),
            idempotent: row.idempotent,
        })
    });
    counted.chain(withdrawn).collect()
}

/// Why what a peer exports under that name is not taken here, whatever its age.
pub(super) fn refusal(name: &ServiceName, cluster: &ClusterId, state: &State) -> Option<String> {
    let peer = state.peers.get(cluster);
    if peer.is_some_and(|peer| peer.ruling.paused.is_some()) {
        return Some("the peer is paused".to_owned());
    }
    match peer.map(|peer| peer.standing) {
        Some(Standing::Approved) => {}
        Some(Standing::Pending) => return Some("the peer waits for approval".to_owned()),
        Some(Standing::Distrusted | Standing::Terminated | Standing::Revoked) | None => {
            return Some("the peer is not trusted".to_owned());
        }
    }
    let decision = may_import(&state.settings.imports, name, cluster).decision;
    (!decision.allowed).then(|| decision.reason.to_string())
}

fn part_of(part: &ImportCluster, state: &State) -> ServiceCluster {
    ServiceCluster {
        cluster: part.cluster.clone(),
        local: part.cluster == state.me.cluster,
        ready: part.ready(),
        total: total(&part.zones),
        freshness: freshness(part.freshness).to_owned(),
        idempotent: part.idempotent,
    }
}

/// The word for how far a cluster's part can be trusted.
pub(super) fn freshness(freshness: Freshness) -> &'static str {
    match freshness {
        Freshness::Fresh => "live",
        Freshness::Stale => "stale",
        Freshness::Withdrawn => "withdrawn",
    }
}

pub(super) fn total(zones: &[ZoneReady]) -> u32 {
    zones.iter().fold(0, |sum, zone| sum.saturating_add(zone.total))
}
