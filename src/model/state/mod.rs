//! Everything this gateway holds to be true, as one value, and the only function that changes it.
//!
//! Maps are persistent: cloning `State` is cheap, so each change publishes a new one and readers keep theirs
//! (settled M1). Figures that change by themselves (round trips, loads, ejections, sessions) are not State.
//! What is derived from it, such as imports and virtual IPs, is derived here and nowhere else.

mod apply;
mod diff;
mod event;
mod gates;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
};

use imbl::OrdMap;
use serde::{Deserialize, Serialize};

pub use self::{
    diff::Changes,
    event::{CatalogChange, Declared, Event, FailoverRule, Settings},
    gates::Admitted,
};
use super::{
    catalog::{Export, ExportPort, HeadlessEndpoint, Protocol, Row, ZoneReady},
    entrance::{Entrance, Entrances},
    ids::{
        ClusterId, Epoch, ExportId, GatewayId, Locality, Seq, ServiceLabel, ServiceName, Timestamp,
        TrustDomain,
    },
    import::{Freshness, Import},
    token::{TokenId, record::TokenRecord},
    trust::Bundle,
    virtual_ip::{VipKey, VirtualIps},
};

/// Who this gateway is; fixed at first start, but for the locality.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Me {
    /// This cluster.
    pub cluster: ClusterId,
    /// Its trust domain.
    pub trust_domain: TrustDomain,
    /// This replica.
    pub gateway: GatewayId,
    /// Where it runs.
    pub locality: Locality,
}

/// What was decided about a peer; what is observed of it is `peer_state`'s matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Standing {
    /// Joined by token, or approved.
    Approved,
    /// Introduced; waits for a person (B5).
    Pending,
    /// Sent an empty bundle, or none of its roots is usable (P23).
    Distrusted,
    /// One side ended the peering; the record is its tombstone, so that it is fenced until it joins anew.
    Terminated,
    /// Revoked here: as terminated, and its trust domain and keys are blocked until it is forgotten.
    Revoked,
}

/// What was decided about a peer beside its standing, and what it has confirmed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Ruling {
    /// Since when it is paused here: trust is kept, but there are no names and no streams.
    pub paused: Option<Timestamp>,
    /// Since when its standing is what it is, when somebody or something changed it.
    pub since: Option<Timestamp>,
    /// Why, for people.
    pub reason: String,
    /// A person approved it here, so it may introduce others as one that joined by token may.
    pub approved: bool,
    /// Keys its gateways proved with when it was revoked.
    pub blocked: Vec<BlockedKey>,
    /// The newest sequence of our own bundle that it has stored (P22).
    pub acked: u64,
}

/// A key that is believed no more, whatever certificate carries it: never a hash of a certificate, because
/// whoever holds the key can encode the same one anew (threat 15).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct BlockedKey {
    /// SHA-256 of its SubjectPublicKeyInfo, in hexadecimal digits.
    pub spki_sha256: String,
    /// The serial number of the certificate it was seen in, in hexadecimal digits.
    pub serial: String,
}

/// Another cluster of the clusterset, as it is kept on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Its cluster id.
    pub cluster: ClusterId,
    /// Its trust domain; never changes.
    pub trust_domain: TrustDomain,
    /// Whose certificates speak for it; used for verifying and dialling alike.
    pub bundle: Bundle,
    /// Its `host:port`s, at most eight.
    pub endpoints: Vec<String>,
    /// Number of this peering; an older one is fenced (P24).
    pub generation: u64,
    /// What was decided about it.
    pub standing: Standing,
    /// Who introduced it, if it did not join by token.
    #[serde(default)]
    pub introduced_by: Option<ClusterId>,
    /// Whether its token was redeemed by this cluster, so that its introductions are approved at once.
    #[serde(default)]
    pub issuer: bool,
    /// When it was added.
    pub added: Timestamp,
    /// What else was decided about it.
    #[serde(default)]
    pub ruling: Ruling,
}

impl Peer {
    /// Whether it is told of exports, and its own become imports.
    #[must_use]
    pub fn serves(&self) -> bool {
        self.standing == Standing::Approved && self.ruling.paused.is_none()
    }

    /// Whether a connection with it may be: its roots are believed.
    #[must_use]
    pub fn is_trusted(&self) -> bool {
        matches!(self.standing, Standing::Approved | Standing::Pending)
    }

    /// Whether the record only remembers a peering that is over.
    #[must_use]
    pub fn is_tombstone(&self) -> bool {
        matches!(self.standing, Standing::Terminated | Standing::Revoked)
    }
}

/// What is held of one peer's exports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerCatalog {
    /// Which state of the exporter the rows are, if they are one.
    pub position: Option<(Epoch, Seq)>,
    /// The rows by name.
    pub rows: OrdMap<ServiceName, Arc<Row>>,
    /// How far they can be trusted.
    pub freshness: Freshness,
    /// Since when no session makes progress; absent while one does.
    pub lost: Option<Timestamp>,
    /// Whether a whole snapshot was seen (in this life, or before the last write to disk).
    pub synced: bool,
}

impl PeerCatalog {
    /// What is held of a peer before anything came.
    #[must_use]
    pub fn empty() -> Self {
        Self { position: None, rows: OrdMap::new(), freshness: Freshness::Fresh, lost: None, synced: false }
    }
}

/// Endpoints that are not ready: the port clients connect to, and where they are.
pub type Unready = BTreeSet<(u16, SocketAddr)>;

/// All of it.
#[derive(Debug, Clone)]
pub struct State {
    /// Grows by one with each applied event that changed something.
    pub version: u64,
    /// Who we are.
    pub me: Arc<Me>,
    /// Policy that holds: the config file's, and what was declared beside it.
    pub settings: Arc<Settings>,
    /// What the config file says alone.
    configured: Arc<Settings>,
    /// What was declared beside the config file.
    pub declared: Arc<Declared>,
    /// What this cluster offers.
    pub exports: OrdMap<ServiceName, Arc<Export>>,
    /// Endpoints of ours that their checks find not ready, by service; not kept on disk.
    pub unready: OrdMap<ServiceName, Arc<Unready>>,
    /// Other clusters.
    pub peers: OrdMap<ClusterId, Arc<Peer>>,
    /// What they offer.
    pub catalogs: OrdMap<ClusterId, PeerCatalog>,
    /// Every name of the clusterset, merged.
    pub imports: OrdMap<ServiceName, Arc<Import>>,
    /// The address of every import on this host.
    pub virtual_ips: Arc<VirtualIps>,
    /// On Kubernetes, the derived Services by which clients come instead; none elsewhere.
    pub entrances: Option<Entrances>,
    /// Join tokens issued here.
    pub tokens: OrdMap<TokenId, Arc<TokenRecord>>,
}

impl State {
    /// The state of a gateway that knows nobody and offers nothing.
    #[must_use]
    pub fn new(me: Me, settings: Settings, virtual_ips: VirtualIps) -> Self {
        let settings = Arc::new(settings);
        Self {
            version: 0,
            me: Arc::new(me),
            configured: settings.clone(),
            settings,
            declared: Arc::default(),
            exports: OrdMap::new(),
            unready: OrdMap::new(),
            peers: OrdMap::new(),
            catalogs: OrdMap::new(),
            imports: OrdMap::new(),
            virtual_ips: Arc::new(virtual_ips),
            entrances: None,
            tokens: OrdMap::new(),
        }
    }

    /// The peer of a trust domain.
    #[must_use]
    pub fn peer_of(&self, domain: &TrustDomain) -> Option<&Arc<Peer>> {
        self.peers.values().find(|peer| peer.trust_domain == *domain)
    }

    /// Whether something is held of every peer that serves; before that, a miss is not yet an answer.
    #[must_use]
    pub fn synced(&self) -> bool {
        let mut serving = self.peers.values().filter(|peer| peer.serves());
        serving.all(|peer| self.catalogs.get(&peer.cluster).is_some_and(|catalog| catalog.synced))
    }

    /// The address that clients dial for a name: its derived Service's on Kubernetes, else its virtual IP.
    #[must_use]
    pub fn address(&self, key: &VipKey) -> Option<Ipv4Addr> {
        match &self.entrances {
            Some(entrances) => entrances.get(key).and_then(Entrance::ipv4),
            None => self.virtual_ips.get(key),
        }
    }

    /// Where this gateway listens for a name's port: what a derived Service leads to on Kubernetes, else the
    /// port itself on the virtual IP.
    #[must_use]
    pub fn listening(&self, key: &VipKey, protocol: Protocol, port: u16) -> Option<(Ipv4Addr, u16)> {
        match &self.entrances {
            Some(entrances) => {
                let entered = entrances.get(key)?.listening(protocol, port)?;
                Some((Ipv4Addr::UNSPECIFIED, entered))
            }
            None => self.virtual_ips.get(key).map(|ip| (ip, port)),
        }
    }

    /// This cluster's own export as a row beside the peers', for merging.
    fn own_row(&self, export: &Export) -> Row {
        Row { seq: 0, ..self.export_row(export, ExportId([0; 16])) }
    }

    /// The row a peer is told of an export: aggregates of what is ready, no address.
    #[must_use]
    pub fn export_row(&self, export: &Export, export_id: ExportId) -> Row {
        let nothing = Unready::new();
        let unready = self.unready.get(&export.name).map_or(&nothing, AsRef::as_ref);
        row_of(export, &self.me.locality, export_id, unready)
    }
}

/// The endpoints of a headless export: one a distinct address, named by it as the standard's system ids are
/// (`10.1.2.3` is `10-1-2-3`) unless somebody gave it a name.
fn headless_endpoints(export: &Export, locality: &Locality, unready: &Unready) -> Vec<HeadlessEndpoint> {
    let hostname = |ip| ServiceLabel::parse(&export.hostname(ip)).ok();
    let serves = |ip: IpAddr| !unready.iter().any(|(_, address)| address.ip() == ip);
    if !export.endpoints.is_empty() {
        let known = export.endpoints.iter().filter_map(|endpoint| {
            let (locality, ready) = (endpoint.locality.clone(), endpoint.ready && serves(endpoint.ip));
            Some(HeadlessEndpoint { hostname: hostname(endpoint.ip)?, locality, ready })
        });
        return known.collect();
    }
    let addresses: BTreeSet<_> =
        export.ports.iter().flat_map(|port| port.to.iter().map(SocketAddr::ip)).collect();
    let named = |ip| {
        Some(HeadlessEndpoint { hostname: hostname(ip)?, locality: locality.clone(), ready: serves(ip) })
    };
    addresses.into_iter().filter_map(named).collect()
}

/// How many endpoints an export has, by where they are.
fn zones(export: &Export, here: &Locality, unready: &Unready) -> Vec<ZoneReady> {
    if export.endpoints.is_empty() {
        // Ports may list different endpoints; a service is as able as its best port.
        let most = |count: &dyn Fn(&ExportPort) -> usize| {
            u32::try_from(export.ports.iter().map(count).max().unwrap_or(0)).unwrap_or(u32::MAX)
        };
        let is_ready = |port: &ExportPort, to: &SocketAddr| !unready.contains(&(port.port.number, *to));
        let ready = most(&|port| port.to.iter().filter(|to| is_ready(port, to)).count());
        return vec![ZoneReady { locality: here.clone(), ready, total: most(&|port| port.to.len()) }];
    }
    let serves = |ip: IpAddr| !unready.iter().any(|(_, address)| address.ip() == ip);
    let mut zones: BTreeMap<&Locality, (u32, u32)> = BTreeMap::new();
    for endpoint in &export.endpoints {
        let (ready, total) = zones.entry(&endpoint.locality).or_default();
        *ready = ready.saturating_add(u32::from(endpoint.ready && serves(endpoint.ip)));
        *total = total.saturating_add(1);
    }
    let zone =
        |(locality, (ready, total)): (&Locality, _)| ZoneReady { locality: locality.clone(), ready, total };
    zones.into_iter().map(zone).collect()
}

/// How an endpoint of a headless service is called when nobody gave it a name.
#[must_use]
pub fn endpoint_hostname(ip: IpAddr) -> String {
    let text = ip.to_string().replace(['.', ':'], "-");
    // `::1` begins with a colon, and a label may not begin or end with a hyphen.
    format!(
        "{}{text}{}",
        if text.starts_with('-') { "0" } else { "" },
        if text.ends_with('-') { "0" } else { "" }
    )
}

/// The row a peer is told of an export whose endpoints are all ready.
#[must_use]
pub fn export_row(export: &Export, locality: &Locality, export_id: ExportId) -> Row {
    row_of(export, locality, export_id, &Unready::new())
}

fn row_of(export: &Export, locality: &Locality, export_id: ExportId, unready: &Unready) -> Row {
    let endpoints = if export.headless { headless_endpoints(export, locality, unready) } else { Vec::new() };
    Row {
        name: export.name.clone(),
        seq: 0,
        export_id,
        ports: export.ports.iter().map(|port| port.port.clone()).collect(),
        zones: zones(export, locality, unready),
        labels: export.labels.clone(),
        annotations: export.annotations.clone(),
        created: export.created,
        headless: export.headless,
        idempotent: export.idempotent,
        session_affinity: export.session_affinity,
        traffic: export.traffic,
        endpoints,
    }
}
