//! The sections of the config file as types, each with its defaults.
//!
//! Values that name things (clusters, localities) are parsed here; patterns of names stay text, because
//! what they match is policy. Documentation and ranges of the keys stand in `keys`.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use ipnet::{IpNet, Ipv4Net};
use serde::{Deserialize, Serialize};

use super::value::{duration, size, text};
use crate::model::{
    check::{Ask, HealthCheck},
    congestion::CongestionControl,
    limits as caps,
    policy::GrantMode,
};

/// `[listen]`: where this gateway listens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Listen {
    /// QUIC over UDP, for other gateways.
    pub quic: SocketAddr,
    /// DNS over UDP and TCP.
    pub dns: SocketAddr,
    /// `/livez`, `/readyz`, `/metrics`.
    pub admin: SocketAddr,
}

impl Default for Listen {
    fn default() -> Self {
        Self {
            quic: SocketAddr::from(([0, 0, 0, 0], 7443)),
            dns: SocketAddr::from(([127, 0, 0, 1], 5533)),
            admin: SocketAddr::from(([127, 0, 0, 1], 7070)),
        }
    }
}

/// `[advertise]`: how others reach this gateway.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Advertise {
    /// `host:port` each; empty means the listening addresses.
    pub addresses: Vec<String>,
}

/// `[names]`: the DNS zone and the virtual IPs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Names {
    /// The zone, without dots at its ends.
    pub zone: String,
    /// Where blocks of virtual IPs are claimed.
    #[serde(with = "text")]
    pub virtual_ips: Ipv4Net,
    /// Time to live of every answer.
    #[serde(with = "duration")]
    pub ttl: Duration,
}

impl Default for Names {
    fn default() -> Self {
        let network = Ipv4Net::new_assert([127, 77, 0, 0].into(), 16);
        Self { zone: "clusterset.local".to_owned(), virtual_ips: network, ttl: caps::NAME_TTL }
    }
}

/// `[kubernetes]`: the cluster this gateway belongs to, if it is one of Kubernetes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Kubernetes {
    /// Whether exports and names come from its API server, and go there.
    pub enabled: bool,
    /// Where the derived Services stand: the namespace of the gateways.
    pub namespace: String,
    /// The labels of the gateways' pods.
    pub selector: BTreeMap<String, String>,
}

impl Default for Kubernetes {
    fn default() -> Self {
        let label = ("app.kubernetes.io/name".to_owned(), "tombolo".to_owned());
        Self { enabled: false, namespace: "tombolo-system".to_owned(), selector: BTreeMap::from([label]) }
    }
}

/// `[identity]`: lives of what this cluster's CA issues.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Lives {
    /// Of a gateway's certificate.
    #[serde(with = "duration")]
    pub svid_life: Duration,
    /// Of a root.
    #[serde(with = "duration")]
    pub root_life: Duration,
    /// How long a rotation waits for peers that are away.
    #[serde(with = "duration")]
    pub rotation_patience: Duration,
    /// How long the old root is believed after the new one issues.
    #[serde(with = "duration")]
    pub retire_after: Duration,
    /// PEM files with the authorities of this cluster's workloads.
    pub workload_roots: Vec<String>,
    /// The folder that all bundles are written to; empty: `bundles` in the state folder.
    pub bundles: String,
}

impl Default for Lives {
    fn default() -> Self {
        const HOUR: Duration = Duration::from_secs(3_600);
        Self {
            svid_life: 24 * HOUR,
            root_life: 8_760 * HOUR,
            rotation_patience: 24 * HOUR,
            retire_after: HOUR / 6,
            workload_roots: Vec::new(),
            bundles: String::new(),
        }
    }
}

/// `[link]`: connections to other gateways.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Link {
    /// What decides how much is under way on a link.
    pub congestion: CongestionControl,
}

/// `[limits]`: the caps an operator may change; all others are in `model::limits`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Services taken from one peer.
    pub services: usize,
    /// Endpoints of one service of a peer.
    pub endpoints_per_service: usize,
    /// Ports of one service of a peer.
    pub ports_per_service: usize,
    /// Zones of one service of a peer.
    pub zones_per_service: usize,
    /// Bytes of all rows of one peer.
    #[serde(with = "size")]
    pub catalog: u64,
    /// Bytes of one row.
    #[serde(with = "size")]
    pub row: u64,
    /// Rows per second taken from one peer after its first snapshot.
    pub rows_per_second: u32,
    /// Bytes of a connection's window before it grows.
    #[serde(with = "size")]
    pub connection_window: u64,
    /// Bytes of a connection's window at most.
    #[serde(with = "size")]
    pub connection_window_max: u64,
    /// Bytes of one stream's window.
    #[serde(with = "size")]
    pub stream_window: u64,
    /// Bytes of the HTTP/2 window inside a control or catalog stream.
    #[serde(with = "size")]
    pub http2_stream_window: u64,
    /// Streams a peer may have open on one connection.
    pub bidi_streams: u32,
    /// Streams a peer may open in one second.
    pub opens_per_second: u32,
    /// Time for a stream's header.
    #[serde(with = "duration")]
    pub header_timeout: Duration,
    /// Time for a QUIC handshake.
    #[serde(with = "duration")]
    pub handshake_timeout: Duration,
    /// Time for a whole join exchange.
    #[serde(with = "duration")]
    pub join_timeout: Duration,
    /// Bytes of a join message.
    #[serde(with = "size")]
    pub join_message: u64,
    /// Bytes of all links' windows together.
    #[serde(with = "size")]
    pub memory: u64,
    /// Proxied connections of this gateway.
    pub connections: usize,
    /// Peers of this cluster.
    pub peers: usize,
    /// Time to finish when draining.
    #[serde(with = "duration")]
    pub drain_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            services: caps::SERVICES_PER_PEER_MAX,
            endpoints_per_service: caps::ENDPOINTS_PER_SERVICE_MAX,
            ports_per_service: caps::PORTS_PER_SERVICE_MAX,
            zones_per_service: caps::ZONES_PER_SERVICE_MAX,
            catalog: caps::CATALOG_BYTES_MAX as u64,
            row: caps::ROW_BYTES_MAX as u64,
            rows_per_second: caps::ROWS_PER_SECOND_MAX,
            connection_window: caps::CONNECTION_WINDOW_BYTES,
            connection_window_max: caps::CONNECTION_WINDOW_BYTES_MAX,
            stream_window: caps::STREAM_WINDOW_BYTES,
            http2_stream_window: u64::from(caps::HTTP2_STREAM_WINDOW_BYTES),
            bidi_streams: caps::BIDI_STREAMS_MAX,
            opens_per_second: caps::OPENS_PER_SECOND_MAX,
            header_timeout: caps::HEADER_TIMEOUT,
            handshake_timeout: caps::HANDSHAKE_TIMEOUT,
            join_timeout: caps::JOIN_TIMEOUT,
            join_message: caps::JOIN_MESSAGE_BYTES_MAX as u64,
            memory: caps::LINK_MEMORY_BYTES,
            connections: caps::CONNECTIONS_MAX,
            peers: caps::PEERS_MAX,
            drain_timeout: caps::DRAIN_TIMEOUT,
        }
    }
}

/// `[[grant]]`: who may see and use exports of this cluster. Patterns are text here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grant {
    /// `NAMESPACE/NAME` patterns of exports.
    pub exports: Vec<String>,
    /// Patterns of cluster ids.
    pub peers: Vec<String>,
    /// Patterns of SPIFFE IDs; empty means every caller of those peers.
    #[serde(default)]
    pub callers: Vec<String>,
    /// Whether it decides.
    #[serde(default)]
    pub mode: GrantMode,
}

/// `[[guardrail]]`: what no grant gives away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Guardrail {
    /// `NAMESPACE/NAME` patterns of exports.
    pub exports: Vec<String>,
    /// Patterns of the cluster ids that never get them.
    #[serde(default = "everybody")]
    pub peers: Vec<String>,
}

/// `[[egress]]`: who on this side may call a name of the clusterset.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Egress {
    /// `NAMESPACE/NAME` patterns.
    pub names: Vec<String>,
    /// Patterns of SPIFFE IDs, or of their paths below this cluster's trust domain.
    pub callers: Vec<String>,
}

/// What an import rule does with a name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ImportAction {
    /// It is taken.
    #[default]
    Allow,
    /// It is left out.
    Refuse,
}

/// `[[import]]`: which names this cluster takes from whom.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Import {
    /// `NAMESPACE/NAME` patterns.
    pub names: Vec<String>,
    /// Patterns of cluster ids.
    #[serde(default = "everybody")]
    pub peers: Vec<String>,
    /// What happens to them.
    #[serde(default)]
    pub action: ImportAction,
    /// `NAMESPACE/NAME` they get here; empty keeps theirs.
    #[serde(default)]
    pub alias: String,
    /// Whether they merge with exports of the same name elsewhere.
    #[serde(default = "yes")]
    pub merge: bool,
}

/// Which clusters come first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Affinity {
    /// This one.
    #[default]
    Local,
    /// The others; the word is the config format's.
    Remote,
    /// None before another.
    None,
}

/// `[[failover]]`: where connections to a name go, and when they come back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Failover {
    /// `NAMESPACE/NAME` patterns.
    pub names: Vec<String>,
    /// Which clusters come first.
    #[serde(default)]
    pub affinity: Affinity,
    /// Cluster ids or regions, best first; empty means by locality.
    #[serde(default)]
    pub order: Vec<String>,
    /// Good for this long before connections come back.
    #[serde(default = "hold", with = "duration")]
    pub hold: Duration,
    /// Shares by cluster id.
    #[serde(default)]
    pub weights: BTreeMap<String, u32>,
    /// Active checks; no keys in this release.
    #[serde(default, skip_serializing)]
    pub active: Empty,
}

/// `[[caller]]`: who a client is, by its address, on a plain host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Caller {
    /// Addresses of the client.
    #[serde(with = "text")]
    pub source: IpNet,
    /// Path below this cluster's trust domain: `ns/shop/sa/cart`.
    pub identity: String,
}

/// What an active check asks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CheckKind {
    /// Nothing: all endpoints count as ready.
    #[default]
    None,
    /// Whether the endpoint takes a connection.
    Tcp,
    /// Whether it answers `GET path`.
    Http,
}

/// `[export.port.health]`: active checks of a port's endpoints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Health {
    /// What is asked.
    pub check: CheckKind,
    /// What an HTTP check asks for.
    pub path: String,
    /// Pause between two checks of an endpoint.
    #[serde(with = "duration")]
    pub interval: Duration,
    /// Time for one.
    #[serde(with = "duration")]
    pub timeout: Duration,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            check: CheckKind::None,
            path: "/".to_owned(),
            interval: caps::CHECK_INTERVAL,
            timeout: caps::CHECK_TIMEOUT,
        }
    }
}

impl Health {
    /// The check the model knows.
    pub(super) fn check(&self) -> Option<HealthCheck> {
        let ask = match self.check {
            CheckKind::None => return None,
            CheckKind::Tcp => Ask::Tcp,
            CheckKind::Http => Ask::Http(self.path.clone()),
        };
        Some(HealthCheck { ask, interval: self.interval, timeout: self.timeout })
    }

    /// What is wrong with it, as the end of a sentence about its port.
    pub(super) fn problem(&self) -> Result<(), String> {
        const LEAST: Duration = Duration::from_millis(100);
        const MOST: Duration = Duration::from_secs(3_600);
        let plain = self.path.bytes().all(|byte| byte.is_ascii_graphic());
        if !self.path.starts_with('/') || !plain || self.path.len() > caps::CHECK_PATH_BYTES_MAX {
            return Err(format!("has a health.path that is none: {:?}", self.path));
        }
        for (key, value) in [("interval", self.interval), ("timeout", self.timeout)] {
            if value < LEAST || value > MOST {
                return Err(format!("has a health.{key} that is not from 100ms to 1h"));
            }
        }
        Ok(())
    }
}

/// A table that has no keys yet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Empty {}

fn everybody() -> Vec<String> {
    vec!["*".to_owned()]
}

fn yes() -> bool {
    true
}

fn hold() -> Duration {
    Duration::from_secs(5)
}
