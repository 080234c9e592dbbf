//! Where a new connection goes: which clusters may serve an import, in which order, and why.
//!
//! [`plan`] weighs everything that changes slowly and is cached until something of it changed, or until
//! [`Plan::refresh_at`]; [`Plan::pick`] is asked for each connection and allocates nothing. It chooses clusters:
//! the destination gateway chooses the endpoint. It opens nothing (`open`) and keeps no health (`liveness`,
//! `outlier`, `bands`, [`Returns`]).
//!
//! **Priorities**, the lowest first; each is one of Envoy's priority levels, and load spills from one to the
//! next by its arithmetic (`arithmetic`):
//!
//! 1. with `affinity = "local"`: this cluster's endpoints in this zone, then its others;
//! 2. the clusters that have an explicit weight, together;
//! 3. those of the explicit order, one by one;
//! 4. peers with endpoints in this zone, in this region, elsewhere; inside each the nearer RTT band first;
//! 5. with `affinity = "remote"`: this cluster;
//! 6. clusters whose catalog is stale, whatever else is said of them.
//!
//! A cluster that is named by weight or order stands there and nowhere else, this one included. With
//! `affinity = "none"` all that are not named share one priority. Bands rank inside a priority and never
//! across: the sort key is (priority, band).
//!
//! **Inside a priority** the share is the live ready count, and two draws are compared by their load
//! ([`Loads`]). Explicit weights are kept as they are, renormalised over what is available, and no load
//! figure bends them.
//!
//! **Nobody left.** A cluster on a suspect link, whose gateways drain, ejected, or held back after its return gets nothing while any
//! other can serve; but it is offered last, because a bad place is better than none. That is what panic means
//! here: it widens the choice and never prefers an unfit cluster to a fit one. With `panic_percent = 0` the
//! connection fails at once instead. What can certainly not serve (link down, no endpoint ready, catalog
//! withdrawn, port not exposed, weight 0) is never offered.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use super::{
    catalog::ZoneReady,
    ids::{ClusterId, Locality, ServiceName},
    import::Freshness,
    limits::{FAILBACK_HOLD, PANIC_PERCENT},
    liveness::LinkState,
    outlier::{OutlierKey, Standing},
};

pub mod arithmetic;
mod load;
mod pick;
mod planning;
mod reason;
mod returns;

pub use load::PeakEwma;
pub use pick::{Candidate, Loads, NoLoads, Pick, Target};
pub use planning::{Considered, Plan, plan};
pub use reason::{Fitness, Place, Reason, Verdict};
pub use returns::{Ramp, Returns, ramp};

/// One port of one import, as far as choosing a cluster needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportView {
    /// The service.
    pub service: ServiceName,
    /// The port clients connect to.
    pub port: u16,
    /// Every cluster that exports it, this one included, each once.
    pub clusters: Vec<ClusterView>,
}

/// What one cluster offers of an import.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterView {
    /// The cluster.
    pub cluster: ClusterId,
    /// Its ready counts by locality.
    pub zones: Vec<ZoneReady>,
    /// How far its catalog can be believed; this cluster's own is always fresh.
    pub freshness: Freshness,
    /// Whether it exposes the port: traffic to a port goes only to clusters that do (KEP-1645).
    pub exposes_port: bool,
}

/// Where the choosing gateway stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Where {
    /// Its cluster.
    pub cluster: ClusterId,
    /// Its region and zone, either possibly unknown.
    pub locality: Locality,
}

/// Which clusters come first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Affinity {
    /// This one.
    #[default]
    Local,
    /// The others; this one only when they cannot.
    Remote,
    /// No preference: all share one priority by capacity and load, wherever they are.
    None,
}

/// What a person said about an import (`[[failover]]`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailoverPolicy {
    /// Which clusters come first.
    pub affinity: Affinity,
    /// Clusters in the order they are to be used; a name that is no cluster's is that of a region, for all in it.
    pub order: Vec<ClusterId>,
    /// Shares of clusters; 0 takes a cluster out.
    pub weights: BTreeMap<ClusterId, u32>,
    /// A cluster that came back has its whole share after this: nothing in the first half, then a ramp.
    pub hold: Duration,
    /// Share of usable endpoints below which a priority panics; 0: never use what is unfit.
    pub panic_percent: u8,
}

impl Default for FailoverPolicy {
    fn default() -> Self {
        Self {
            affinity: Affinity::Local,
            order: Vec::new(),
            weights: BTreeMap::new(),
            hold: FAILBACK_HOLD,
            panic_percent: PANIC_PERCENT,
        }
    }
}

/// What is known of the health of links and services, as the ledger keeps it.
pub trait HealthView {
    /// The link to a peer, the best of its gateways. Never asked for this cluster.
    fn link(&self, cluster: &ClusterId) -> LinkState;
    /// Until when a peer without a link is waited for, see [`LINK_RETURN_WAIT`](crate::model::limits::LINK_RETURN_WAIT).
    /// Never asked for this cluster.
    fn awaited(&self, _: &ClusterId, _now: Instant) -> Option<Instant> {
        None
    }
    /// Whether every gateway of a peer that could be asked drains. Never asked for this cluster.
    fn drains(&self, _: &ClusterId) -> bool {
        false
    }
    /// What is thought of a port of a service in a cluster.
    fn standing(&self, key: &OutlierKey, now: Instant) -> Standing;
    /// When this cluster became able to serve it again after it was not ([`Returns`]); none when it always was.
    fn returned(&self, key: &OutlierKey) -> Option<Instant>;
}

#[cfg(test)]
mod tests;
