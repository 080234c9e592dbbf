//! What a cluster offers: its own exports, and the rows a peer is told about them.
//!
//! An [`Export`] knows its endpoints' addresses and never leaves this cluster; a [`Row`] is what crosses
//! the wire and holds aggregates only. How rows travel is `replication`'s matter, how they merge `import`'s.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use super::{
    check::HealthCheck,
    ids::{ExportId, Incarnation, Locality, Seq, ServiceLabel, ServiceName, Timestamp},
};

/// Transport protocol of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// Carried by streams.
    Tcp,
    /// Carried by datagrams.
    Udp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// One port of a service, as clients see it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Port {
    /// Its name, possibly empty; unnamed ports have no SRV record.
    pub name: Arc<str>,
    /// The number clients connect to.
    pub number: u16,
    /// Its transport.
    pub protocol: Protocol,
    /// Kubernetes `appProtocol`, possibly empty.
    pub app_protocol: Arc<str>,
}

/// One port of an export of ours, with the endpoints behind it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportPort {
    /// What clients see.
    #[serde(flatten)]
    pub port: Port,
    /// Where this gateway connects; never told to a peer.
    pub to: Vec<SocketAddr>,
    /// How they are asked whether they can serve; without it all count as ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<HealthCheck>,
}

/// Who declared an export; the same name in two places is an error that names both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ExportSource {
    /// An `[[export]]` table of the config file.
    File,
    /// `tombolo export`, kept in the state folder.
    State,
    /// `tombolo run --export`, for the life of the process.
    Flag,
    /// A ServiceExport of the Kubernetes cluster this gateway belongs to.
    Kubernetes,
}

/// One endpoint of an export, where more is known of it than an address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ExportEndpoint {
    /// Its address; never told to a peer.
    pub ip: IpAddr,
    /// Its host name inside the service, if somebody gave it one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<ServiceLabel>,
    /// Where it is.
    pub locality: Locality,
    /// Whether it can serve; only then does it stand in its ports' `to`.
    pub ready: bool,
}

/// Clients are kept with the endpoint they met (`sessionAffinity: ClientIP` of a Service).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ClientIp {
    /// Seconds that a client which is silent is remembered, from 1 to [`ClientIp::TIMEOUT_MAX`]. Gateways remember
    /// nobody: they know a client by its address again, however long it was silent.
    pub timeout: u32,
}

impl ClientIp {
    /// The longest a Service may say.
    pub const TIMEOUT_MAX: u32 = 86_400;
}

impl Default for ClientIp {
    /// As Kubernetes has it for a Service that says nothing.
    fn default() -> Self {
        Self { timeout: 10_800 }
    }
}

/// Which endpoints of a Service its clients may reach (`internalTrafficPolicy`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum InternalTrafficPolicy {
    /// All of the cluster.
    #[default]
    Cluster,
    /// Those on the client's machine and no others.
    Local,
}

impl fmt::Display for InternalTrafficPolicy {
    /// As Kubernetes calls it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// Which endpoints of a Service its clients should reach rather than others (`trafficDistribution`, KEP-3015).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum TrafficDistribution {
    /// The older name of [`Self::PreferSameZone`]; the standard has values compared as they are written.
    PreferClose,
    /// Those in the client's zone.
    PreferSameZone,
    /// Those on the client's machine, then those in its zone.
    PreferSameNode,
}

impl TrafficDistribution {
    /// All that there are.
    pub const ALL: [Self; 3] = [Self::PreferClose, Self::PreferSameZone, Self::PreferSameNode];

    /// The one that Kubernetes calls so; none for one that this release does not know.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|known| known.to_string() == text)
    }
}

impl fmt::Display for TrafficDistribution {
    /// As Kubernetes calls it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// What a Service says of the way from a client to one of its endpoints inside a cluster. Only told, on
/// ServiceImports (KEP-1645): gateways stand between, and go by health, turn and how near clusters are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Traffic {
    /// Which endpoints may be reached.
    #[serde(default)]
    pub internal_policy: InternalTrafficPolicy,
    /// Which endpoints are better than others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub distribution: Option<TrafficDistribution>,
}

impl Traffic {
    /// Whether it says nothing but what holds anyway.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// A service this cluster offers (a `ServiceExport` and what stands behind it).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Export {
    /// Its name, the same in every cluster.
    pub name: ServiceName,
    /// Its ports, each with its endpoints.
    pub ports: Vec<ExportPort>,
    /// Its endpoints one by one, each address once; empty where nothing but the ports' addresses is known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<ExportEndpoint>,
    /// Labels that propagate.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Annotations that propagate.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Requests may be sent twice (design section 4, opens).
    #[serde(default)]
    pub idempotent: bool,
    /// Whether clients are kept with an endpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_affinity: Option<ClientIp>,
    /// What it says of the way to its endpoints.
    #[serde(default, skip_serializing_if = "Traffic::is_default")]
    pub traffic: Traffic,
    /// Clients address endpoints one by one.
    #[serde(default)]
    pub headless: bool,
    /// When it was first exported; the oldest wins conflicts (KEP-1645).
    pub created: Timestamp,
    /// This life of the export; a new one gets new export ids.
    pub incarnation: Incarnation,
    /// Who declared it.
    pub source: ExportSource,
}

impl Export {
    /// What clients call the endpoint of that address, inside a headless service.
    #[must_use]
    pub fn hostname(&self, ip: IpAddr) -> String {
        let known = self.endpoints.iter().find(|endpoint| endpoint.ip == ip);
        let named = known.and_then(|endpoint| endpoint.hostname.as_ref());
        named.map_or_else(|| super::state::endpoint_hostname(ip), ToString::to_string)
    }
}

/// How many endpoints of one locality can serve.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ZoneReady {
    /// Where they are.
    pub locality: Locality,
    /// How many are ready.
    pub ready: u32,
    /// How many there are.
    pub total: u32,
}

/// One endpoint of a headless service: a name, never an address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct HeadlessEndpoint {
    /// Its host name inside the service.
    pub hostname: ServiceLabel,
    /// Where it is.
    pub locality: Locality,
    /// Whether it can serve.
    pub ready: bool,
}

/// One exported service as a peer is told of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// Its name.
    pub name: ServiceName,
    /// The exporter's seq of its last change.
    pub seq: Seq,
    /// How a stream header names it.
    pub export_id: ExportId,
    /// Its ports.
    pub ports: Vec<Port>,
    /// Capacity by locality; ready counts are bucketed (P18).
    pub zones: Vec<ZoneReady>,
    /// Labels that propagate.
    pub labels: BTreeMap<String, String>,
    /// Annotations that propagate.
    pub annotations: BTreeMap<String, String>,
    /// When it was first exported.
    pub created: Timestamp,
    /// Clients address endpoints one by one.
    pub headless: bool,
    /// Requests may be sent twice.
    pub idempotent: bool,
    /// Whether clients are kept with an endpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_affinity: Option<ClientIp>,
    /// What it says of the way to its endpoints.
    #[serde(default, skip_serializing_if = "Traffic::is_default")]
    pub traffic: Traffic,
    /// Its endpoints, only when headless.
    pub endpoints: Vec<HeadlessEndpoint>,
}

impl Row {
    /// Ready endpoints of all its zones together.
    #[must_use]
    pub fn ready(&self) -> u32 {
        self.zones.iter().fold(0, |sum, zone| sum.saturating_add(zone.ready))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::zone::fixture;

    #[test]
    fn what_an_older_release_kept_says_nothing_of_the_way_to_endpoints() {
        let mut row = fixture::row("shop/web", &[], &[]);
        let older = serde_json::to_value(&row).expect("written");
        assert!(older.get("traffic").is_none(), "nor does what says nothing");
        assert_eq!(serde_json::from_value::<Row>(older).expect("read"), row);
        let local = InternalTrafficPolicy::Local;
        for distribution in TrafficDistribution::ALL.map(Some).into_iter().chain([None]) {
            row.traffic = Traffic { internal_policy: local, distribution };
            let kept = serde_json::to_value(&row).expect("written");
            assert_eq!(serde_json::from_value::<Row>(kept).expect("read"), row);
        }
    }

    #[test]
    fn a_traffic_distribution_is_called_what_kubernetes_calls_it() {
        let names = TrafficDistribution::ALL.map(|known| known.to_string());
        assert_eq!(names, ["PreferClose", "PreferSameZone", "PreferSameNode"]);
        for known in TrafficDistribution::ALL {
            assert_eq!(TrafficDistribution::parse(&known.to_string()), Some(known));
        }
        assert_eq!(TrafficDistribution::parse("preferclose"), None);
    }
}
