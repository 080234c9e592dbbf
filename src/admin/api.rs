//! The bodies of the admin API, the same types for the server and for the command line.
//!
//! Times are Unix milliseconds (`*_unix_ms`) or ages in milliseconds (`*_age_ms`); fields are only added.
//! Every top-level object carries its schema.

use serde::{Deserialize, Serialize};

use crate::model::{
    code::Problem,
    ids::{ClusterId, GatewayId, Locality, ServiceName, Timestamp, TrustDomain},
};

pub use super::api_trust::{
    AuthzExplanation, CaStatus, GateDecision, PeerWish, RootAck, RootStatus, Verification, VerifiedRoots,
};

/// The schema of an object of this API.
#[must_use]
pub fn schema(name: &str) -> String {
    format!("tombolo/v1/{name}")
}

/// Where this gateway listens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Addresses {
    /// Peers, over UDP.
    pub quic: String,
    /// DNS, over UDP and TCP.
    pub dns: String,
    /// Health and metrics, over HTTP.
    pub admin: String,
    /// This API, a Unix socket.
    pub socket: String,
}

/// `GET /v1/status`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Status {
    /// `tombolo/v1/status`.
    pub schema: String,
    /// Release of the daemon.
    pub version: String,
    /// This cluster.
    pub cluster: ClusterId,
    /// This gateway.
    pub gateway: GatewayId,
    /// This cluster's trust domain.
    pub trust_domain: TrustDomain,
    /// First bytes of its newest root's key digest, for people to compare.
    pub fingerprint: String,
    /// Where this gateway runs.
    pub locality: Locality,
    /// How long the process runs.
    pub up_ms: u64,
    /// Where it listens.
    pub addresses: Addresses,
    /// Its state folder.
    pub state: String,
    /// Whether it serves.
    pub ready: bool,
    /// What it still waits for.
    pub pending: Vec<String>,
    /// When its SVID ends.
    pub svid_expires_unix_ms: Timestamp,
    /// When its newest root ends.
    pub root_expires_unix_ms: Timestamp,
    /// Its peers.
    pub peers: Vec<PeerStatus>,
    /// Services this cluster exports.
    pub exported: usize,
    /// Services known in the clusterset.
    pub imported: usize,
    /// What a person should look at.
    pub warnings: Vec<Problem>,
}

/// `GET /v1/peers`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Peers {
    /// `tombolo/v1/peers`.
    pub schema: String,
    /// By cluster id.
    pub peers: Vec<PeerStatus>,
}

/// One peer, with the age and the cause of its state.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PeerStatus {
    /// Its cluster id.
    pub cluster: ClusterId,
    /// One of the ten states of the reference.
    pub state: String,
    /// How long it has been in it.
    pub state_age_ms: u64,
    /// Why, for people.
    pub cause: String,
    /// Its trust domain.
    pub trust_domain: TrustDomain,
    /// First bytes of its newest root's key digest.
    pub fingerprint: String,
    /// When its newest root ends.
    pub root_expires_unix_ms: Timestamp,
    /// Who introduced it, if it did not join by token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub introduced_by: Option<ClusterId>,
    /// Its `host:port`s.
    pub endpoints: Vec<String>,
    /// The lane in use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<LinkStatus>,
    /// Every lane that takes new streams, one a gateway of the peer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub links: Vec<LinkStatus>,
    /// Since when and why there is no lane, if there was one in this run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link_down: Option<LinkDown>,
    /// Why the last dial failed, while no lane is up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dial_failure: Option<String>,
    /// Services taken from it.
    pub imported: usize,
    /// Services it is told of.
    pub exported: usize,
    /// Changes of ours it has not yet confirmed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag: Option<u64>,
    /// How old what we hold of it may be; zero while its session makes progress.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub catalog_age_ms: Option<u64>,
    /// Rows refused by either side, with the code.
    pub refusals: Vec<String>,
}

/// Why there is no lane.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LinkDown {
    /// How long ago the last one ended.
    pub age_ms: u64,
    /// How it ended, for people.
    pub cause: String,
}

/// One lane.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LinkStatus {
    /// up, suspect or down.
    pub state: String,
    /// How long it has been so.
    #[serde(default)]
    pub state_age_ms: u64,
    /// The gateway at the other end drains: it is not chosen.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub draining: bool,
    /// Why it is not up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// The gateway at the other end.
    pub gateway: GatewayId,
    /// Its address.
    pub address: String,
    /// `us` or `them`.
    pub dialled_by: String,
    /// Smoothed round trip.
    pub rtt_ms: f64,
    /// Share of datagrams lost.
    pub loss: f64,
    /// Since anything arrived.
    pub inbound_age_ms: u64,
    /// Since the other side proved that it hears us.
    pub outbound_age_ms: u64,
    /// Proxied streams open now.
    pub streams: usize,
    /// How long it has lived.
    pub up_ms: u64,
}

/// `GET /v1/services`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Services {
    /// `tombolo/v1/services`.
    pub schema: String,
    /// By name.
    pub services: Vec<ServiceStatus>,
}

/// One service of the clusterset as this gateway sees it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ServiceStatus {
    /// Namespace and name.
    pub name: ServiceName,
    /// The name clients look up.
    pub dns_name: String,
    /// Its virtual IP here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub virtual_ip: Option<String>,
    /// Whether clients address its endpoints one by one.
    pub headless: bool,
    /// Its ports.
    pub ports: Vec<PortStatus>,
    /// Where it is exported.
    pub clusters: Vec<ServiceCluster>,
    /// Where exports differ, by the standard's reasons.
    pub conflicts: Vec<String>,
}

/// One port of a service.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PortStatus {
    /// Its name.
    pub name: String,
    /// tcp or udp.
    pub protocol: String,
    /// Its number.
    pub port: u16,
    /// The number really bound on the virtual IP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bound_port: Option<u16>,
    /// listening, no candidate, or what went wrong.
    pub state: String,
}

/// A service in one cluster.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ServiceCluster {
    /// The cluster.
    pub cluster: ClusterId,
    /// Whether it is this one.
    pub local: bool,
    /// Endpoints that can serve.
    pub ready: u32,
    /// Endpoints there are.
    pub total: u32,
    /// live, stale or withdrawn.
    pub freshness: String,
    /// Whether requests may be sent twice.
    pub idempotent: bool,
}

/// `GET /v1/resolve?name=`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Resolution {
    /// `tombolo/v1/resolve`.
    pub schema: String,
    /// The name that was looked up, in full.
    pub name: String,
    /// NOERROR, NXDOMAIN, SERVFAIL, REFUSED.
    pub rcode: String,
    /// The records, in zone file form.
    pub answers: Vec<String>,
    /// Why this answer.
    pub why: String,
}

/// `GET /v1/explain?name=`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Explanation {
    /// `tombolo/v1/explain`.
    pub schema: String,
    /// The service.
    pub name: ServiceName,
    /// The name clients look up.
    pub dns_name: String,
    /// Its virtual IP here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub virtual_ip: Option<String>,
    /// Where a new connection to each port would go.
    pub ports: Vec<PortExplanation>,
    /// What keeps a client with an endpoint; absent when nothing does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_affinity: Option<String>,
    /// What this gateway's retry budget refused, and when last; absent when nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retries: Option<String>,
}

/// The candidates of one port.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PortExplanation {
    /// The port.
    pub port: PortStatus,
    /// Every cluster that was considered, best first.
    pub considered: Vec<CandidateStatus>,
    /// This cluster's own endpoints.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<EndpointStatus>,
}

/// One endpoint of this cluster, as this gateway thinks of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct EndpointStatus {
    /// Where it is.
    pub address: std::net::SocketAddr,
    /// `ready`, or what speaks against it.
    pub state: String,
}

/// One cluster that was considered, and what was decided of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CandidateStatus {
    /// The cluster.
    pub cluster: ClusterId,
    /// Its priority; absent when it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<u8>,
    /// Share of new connections, in percent.
    pub share: u32,
    /// Endpoints that can serve, of how many.
    pub ready: u32,
    /// How many there are.
    pub total: u32,
    /// Round trip of its link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rtt_ms: Option<f64>,
    /// Why it is in or out.
    pub reason: String,
}

/// `GET /v1/events`, or `GET /v1/events?after=NUMBER` for what came after one that is known.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Events {
    /// `tombolo/v1/events`.
    pub schema: String,
    /// What happened lately, oldest first.
    pub events: Vec<EventStatus>,
}

/// Something that happened.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct EventStatus {
    /// Counts from 1 in each run of the gateway.
    pub number: u64,
    /// When.
    pub at_unix_ms: Timestamp,
    /// One word.
    pub kind: String,
    /// What, for people.
    pub text: String,
}

/// `POST /v1/tokens`: what is asked of a new token.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TokenWish {
    /// Life in seconds; the default is 15 minutes.
    pub ttl_seconds: Option<u64>,
    /// Only this cluster may redeem it.
    pub cluster: Option<ClusterId>,
    /// Only a cluster of this trust domain may redeem it.
    pub expect_trust_domain: Option<TrustDomain>,
    /// How many clusters may redeem it.
    pub uses: Option<u32>,
    /// Whoever redeems it waits for a person here.
    pub require_approval: bool,
    /// The cluster it is for may come with new roots, in the place of the peer of its id.
    pub rejoin: bool,
    /// Issue it although no address is routable.
    pub allow_private: bool,
}

/// A new token. The only place it is ever shown.
#[derive(Clone, Serialize, Deserialize)]
pub struct NewToken {
    /// `tombolo/v1/token`.
    pub schema: String,
    /// Its public id.
    pub id: String,
    /// The token itself: a secret.
    pub token: String,
    /// When it ends.
    pub expires_unix_ms: Timestamp,
    /// How many clusters may redeem it.
    pub uses: u32,
    /// Where it sends the joiner.
    pub addresses: Vec<String>,
    /// This cluster's trust domain.
    pub trust_domain: TrustDomain,
    /// This cluster's fingerprint.
    pub fingerprint: String,
}

/// `GET /v1/tokens`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Tokens {
    /// `tombolo/v1/tokens`.
    pub schema: String,
    /// Outstanding and recently used ones.
    pub tokens: Vec<TokenStatus>,
}

/// One token, without its secret.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TokenStatus {
    /// Its public id.
    pub id: String,
    /// unused, redeemed, expired or revoked.
    pub state: String,
    /// When it ends.
    pub expires_unix_ms: Timestamp,
    /// Uses left.
    pub uses_left: u32,
    /// Who redeemed it.
    pub redeemed_by: Vec<ClusterId>,
}

/// `POST /v1/join`.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JoinWish {
    /// The token: a secret.
    pub token: String,
    /// The cluster that made it may be a known one with other roots (`peer re-trust`).
    #[serde(default)]
    pub re_trust: bool,
}

/// One line of the answer to `POST /v1/join`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct JoinStep {
    /// `tombolo/v1/join`.
    pub schema: String,
    /// token, connect, exchange, link, catalog, done.
    pub step: String,
    /// What was done, for people.
    pub text: String,
    /// The peer, once it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<ClusterId>,
    /// Why it failed; the last line then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<Problem>,
}

/// `POST /v1/exports`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExportWish {
    /// Namespace and name.
    pub name: ServiceName,
    /// Where it runs, `host:port`.
    pub to: Vec<std::net::SocketAddr>,
    /// The port clients connect to; that of the first address otherwise.
    #[serde(default)]
    pub port: Option<u16>,
    /// The port's name.
    #[serde(default)]
    pub port_name: Option<String>,
    /// Over UDP.
    #[serde(default)]
    pub udp: bool,
    /// Requests may be sent twice.
    #[serde(default)]
    pub idempotent: bool,
    /// What keeps a client with an endpoint.
    #[serde(default)]
    pub session_affinity: crate::config::SessionAffinity,
}

/// The answer to a change: what was done, for people.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Done {
    /// `tombolo/v1/done`.
    pub schema: String,
    /// What was done.
    pub text: String,
    /// Peers that have not confirmed it yet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unconfirmed: Vec<ClusterId>,
    /// Those of them that do not take the catalog from this gateway: from another of this cluster, or from none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub elsewhere: Vec<ClusterId>,
}

impl Done {
    /// Something that nobody has to confirm.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self { schema: schema("done"), text: text.into(), unconfirmed: Vec::new(), elsewhere: Vec::new() }
    }
}

/// The body of every refusal.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Refusal {
    /// `tombolo/v1/error`.
    pub schema: String,
    /// What went wrong.
    pub error: Problem,
}

impl std::fmt::Debug for NewToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewToken").field("id", &self.id).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for JoinWish {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("JoinWish(..)")
    }
}
