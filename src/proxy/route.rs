//! Which clusters may serve what a listener stands for, kept until something changes.
//!
//! A plan is made when it is first asked for after a change of its import, the policy or the health epoch, or
//! after its own end; in between, asking costs no lock and no arithmetic.

use std::{
    net::Ipv4Addr,
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;

use super::{Policies, inbound::Site};
use crate::{
    link::Registry,
    model::{
        catalog::{Protocol, ZoneReady},
        failover::{ClusterView, HealthView, ImportView, Plan, Where, plan},
        ids::{ClusterId, ServiceLabel, ServiceName},
        import::Import,
        liveness::LinkState,
        outlier::{OutlierKey, Standing},
        state::{Me, Settings, State},
        virtual_ip::VipKey,
    },
};

/// Makes plans of state, ledger and links.
pub(super) struct Planner {
    pub(super) site: Arc<Site>,
    pub(super) links: crate::link::Links,
    pub(super) policies: Policies,
}

/// The health of links and services in one view.
struct Health<'a> {
    registry: &'a Registry,
    site: &'a Site,
}

impl HealthView for Health<'_> {
    fn link(&self, cluster: &ClusterId) -> LinkState {
        self.registry.best(cluster).map_or(LinkState::Down, |lane| lane.health())
    }

    fn awaited(&self, cluster: &ClusterId, now: Instant) -> Option<Instant> {
        self.registry.awaited(cluster, now)
    }

    fn drains(&self, cluster: &ClusterId) -> bool {
        self.registry.best(cluster).is_some_and(|lane| lane.is_draining())
    }

    fn standing(&self, key: &OutlierKey, now: Instant) -> Standing {
        self.site.ledger.standing(key, now)
    }

    fn returned(&self, key: &OutlierKey) -> Option<Instant> {
        self.site.ledger.returned(key)
    }
}

/// A headless service's endpoint: its cluster and host name there.
pub(super) type EndpointName = (ClusterId, ServiceLabel);

impl Planner {
    /// Weighs one port of an import, or of one endpoint of it.
    pub(super) fn plan(
        &self,
        state: &State,
        import: &Import,
        port: u16,
        endpoint: Option<&EndpointName>,
        now: Instant,
    ) -> Plan {
        let view = view(import, port, endpoint);
        let me = Where { cluster: state.me.cluster.clone(), locality: state.me.locality.clone() };
        let health = Health { registry: self.links.registry(), site: &self.site };
        for cluster in &view.clusters {
            let linked = cluster.cluster == me.cluster || health.link(&cluster.cluster) != LinkState::Down;
            let ready = cluster.exposes_port && cluster.zones.iter().any(|zone| zone.ready > 0);
            let service = import.name.clone();
            let key = OutlierKey { cluster: cluster.cluster.clone(), service, port };
            self.site.ledger.observe_able(&key, linked && ready, now);
        }
        let policy = (self.policies)(&import.name);
        plan(&view, &me, &policy, &self.site.ledger.bands(), &health, now)
    }
}

/// An import as failover looks at it.
fn view(import: &Import, port: u16, endpoint: Option<&EndpointName>) -> ImportView {
    let exposing =
        import.port(Protocol::Tcp, port).map(|entry| entry.clusters.as_slice()).unwrap_or_default();
    let clusters = import
        .clusters
        .iter()
        .filter(|part| endpoint.is_none_or(|(cluster, _)| part.cluster == *cluster))
        .map(|part| ClusterView {
            cluster: part.cluster.clone(),
            zones: match endpoint {
                None => part.zones.clone(),
                Some((_, hostname)) => part
                    .endpoint(hostname)
                    .map(|found| ZoneReady {
                        locality: found.locality.clone(),
                        ready: u32::from(found.ready),
                        total: 1,
                    })
                    .into_iter()
                    .collect(),
            },
            freshness: part.freshness,
            exposes_port: exposing.contains(&part.cluster),
        })
        .collect();
    ImportView { service: import.name.clone(), port, clusters }
}

/// What one listener stands for.
#[derive(Debug)]
pub(super) struct Route {
    pub(super) service: ServiceName,
    pub(super) port: u16,
    pub(super) endpoint: Option<EndpointName>,
    planned: ArcSwapOption<Planned>,
}

/// A plan, and what it was made of.
#[derive(Debug)]
pub(super) struct Planned {
    pub(super) plan: Plan,
    pub(super) import: Arc<Import>,
    settings: Arc<Settings>,
    me: Arc<Me>,
    epoch: u64,
}

impl Planned {
    fn holds(&self, state: &State, import: &Arc<Import>, epoch: u64, now: Instant) -> bool {
        self.epoch == epoch
            && Arc::ptr_eq(&self.import, import)
            && Arc::ptr_eq(&self.settings, &state.settings)
            && Arc::ptr_eq(&self.me, &state.me)
            && self.plan.refresh_at().is_none_or(|at| now < at)
    }
}

impl Route {
    pub(super) fn new(service: ServiceName, port: u16, endpoint: Option<EndpointName>) -> Self {
        Self { service, port, endpoint, planned: ArcSwapOption::empty() }
    }

    /// The listeners an import wants, each with where it listens.
    pub(super) fn of(state: &State, name: &ServiceName) -> Vec<((Ipv4Addr, u16), Self)> {
        let Some(import) = state.imports.get(name) else { return Vec::new() };
        let ports = || import.ports.iter().filter(|entry| entry.port.protocol == Protocol::Tcp);
        let mut routes = Vec::new();
        for key in VipKey::of(import) {
            let endpoint = match &key {
                VipKey::Service(_) => None,
                VipKey::Endpoint(_, cluster, hostname) => Some((cluster.clone(), hostname.clone())),
            };
            for number in ports().map(|entry| entry.port.number) {
                let place = state.listening(&key, Protocol::Tcp, number);
                routes.extend(place.map(|place| (place, Self::new(name.clone(), number, endpoint.clone()))));
            }
        }
        routes
    }

    /// The plan of this moment; none when the import is gone.
    pub(super) fn plan(&self, planner: &Planner, state: &State) -> Option<Arc<Planned>> {
        let import = state.imports.get(&self.service)?;
        // Read before planning: a change in the middle makes the plan old, never wrong for long.
        let epoch = planner.site.ledger.epoch();
        let now = planner.site.clock.now();
        let known = self.planned.load_full();
        if let Some(known) = known.filter(|known| known.holds(state, import, epoch, now)) {
            return Some(known);
        }
        let plan = planner.plan(state, import, self.port, self.endpoint.as_ref(), now);
        let (import, settings, me) = (import.clone(), state.settings.clone(), state.me.clone());
        let planned = Arc::new(Planned { plan, import, settings, me, epoch });
        self.planned.store(Some(planned.clone()));
        Some(planned)
    }

    /// How long until the plan is out of date by itself.
    pub(super) fn refresh_in(&self, now: Instant) -> Option<Duration> {
        let planned = self.planned.load();
        planned.as_ref()?.plan.refresh_at().map(|at| at.saturating_duration_since(now))
    }
}
