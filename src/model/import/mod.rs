//! What a name means in the whole clusterset: the merge of every cluster's export of it (KEP-1645).
//!
//! A pure function of a set of rows: order, repetition and who asks change nothing. Which cluster serves a
//! connection is `failover`'s matter, which address clients dial `virtual_ip`'s, what DNS says `zone`'s.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use super::{
    catalog::{ClientIp, HeadlessEndpoint, Port, Protocol, Row, Traffic, ZoneReady},
    ids::{ClusterId, ExportId, ServiceLabel, ServiceName, Timestamp},
};

/// How far a peer's rows can be trusted, by the age of its catalog (rule P15).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Freshness {
    /// Its session lives.
    Fresh,
    /// Its session is gone for a while; the rows still count.
    Stale,
    /// Gone for so long that its rows count for nothing; kept only so that they can come back.
    Withdrawn,
}

/// One port of an import, and who serves it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImportPort {
    /// As its oldest exporter declares it.
    #[serde(flatten)]
    pub port: Port,
    /// The clusters that expose it, oldest export first; its traffic goes to no other.
    pub clusters: Vec<ClusterId>,
}

/// One cluster's part of an import.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImportCluster {
    /// Who exports.
    pub cluster: ClusterId,
    /// When it began to; the oldest wins conflicts.
    pub created: Timestamp,
    /// How a stream header names the export there.
    pub export_id: ExportId,
    /// Capacity by locality.
    pub zones: Vec<ZoneReady>,
    /// Fresh or stale; withdrawn clusters are not part of an import.
    pub freshness: Freshness,
    /// Requests may be sent to this cluster twice.
    pub idempotent: bool,
    /// Its endpoints by host name, each name once; empty unless the import is headless.
    pub endpoints: Vec<HeadlessEndpoint>,
    /// The ports it declares itself.
    pub ports: Vec<Port>,
}

impl ImportCluster {
    /// Ready endpoints of all its zones together.
    #[must_use]
    pub fn ready(&self) -> u32 {
        self.zones.iter().fold(0, |sum, zone| sum.saturating_add(zone.ready))
    }

    /// The endpoint of that host name.
    #[must_use]
    pub fn endpoint(&self, hostname: &ServiceLabel) -> Option<&HeadlessEndpoint> {
        let at = self.endpoints.binary_search_by(|endpoint| endpoint.hostname.cmp(hostname)).ok()?;
        self.endpoints.get(at)
    }
}

/// What exporters disagree on: the reasons of `ServiceExport`'s condition `Conflict`. Each concerns all
/// constituent exports and changes no traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ConflictReason {
    /// Their sets of ports differ.
    PortConflict,
    /// Some are headless, some are not.
    TypeConflict,
    /// Their labels differ.
    LabelsConflict,
    /// Their annotations differ.
    AnnotationsConflict,
    /// Some keep clients with an endpoint, some do not.
    SessionAffinityConflict,
    /// They keep clients for different times.
    SessionAffinityConfigConflict,
    /// Some reach endpoints on the client's machine only, some do not.
    InternalTrafficPolicyConflict,
    /// They prefer different endpoints.
    TrafficDistributionConflict,
}

impl fmt::Display for ConflictReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// One disagreement, in words that name the clusters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conflict {
    /// What they disagree on.
    pub reason: ConflictReason,
    /// Who disagrees with whom, and what holds.
    pub message: String,
}

/// A service of the clusterset: all exports of one name as one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Import {
    /// Its name, the same in every cluster.
    pub name: ServiceName,
    /// Clients address endpoints one by one.
    pub headless: bool,
    /// The union of all ports, without a name or a (protocol, number) twice.
    pub ports: Vec<ImportPort>,
    /// Its exporters, oldest first.
    pub clusters: Vec<ImportCluster>,
    /// The oldest exporter's labels.
    pub labels: BTreeMap<String, String>,
    /// The oldest exporter's annotations.
    pub annotations: BTreeMap<String, String>,
    /// Whether clients are kept with an endpoint, as the oldest exporter has it.
    pub session_affinity: Option<ClientIp>,
    /// What the oldest exporter says of the way to its endpoints.
    pub traffic: Traffic,
    /// What the exporters disagree on, by reason.
    pub conflicts: Vec<Conflict>,
}

impl Import {
    /// That cluster's part, if it exports the name.
    #[must_use]
    pub fn cluster(&self, id: &ClusterId) -> Option<&ImportCluster> {
        self.clusters.iter().find(|part| part.cluster == *id)
    }

    /// The port of that protocol and number.
    #[must_use]
    pub fn port(&self, protocol: Protocol, number: u16) -> Option<&ImportPort> {
        self.ports.iter().find(|entry| entry.port.protocol == protocol && entry.port.number == number)
    }

    /// Every ready endpoint with its cluster, oldest exporter first; none unless headless.
    pub fn ready_endpoints(&self) -> impl Iterator<Item = (&ImportCluster, &HeadlessEndpoint)> {
        self.clusters.iter().flat_map(|part| {
            part.endpoints.iter().filter(|endpoint| endpoint.ready).map(move |endpoint| (part, endpoint))
        })
    }

    /// The reason of the condition `Conflict`: the reasons joined by commas, or `NoConflicts`.
    #[must_use]
    pub fn conflict_reason(&self) -> String {
        if self.conflicts.is_empty() {
            return "NoConflicts".to_owned();
        }
        self.conflicts.iter().map(|conflict| conflict.reason.to_string()).collect::<Vec<_>>().join(",")
    }
}

/// Merges every cluster's export of one name, this cluster's own included; `None` when nobody exports it.
///
/// Withdrawn rows do not count. The oldest creation time wins what can hold only once, the smaller cluster
/// id breaks a tie. Rows of another name than the oldest's are not part of the merge.
#[must_use]
pub fn merge(offers: &[(ClusterId, &Row, Freshness)]) -> Option<Import> {
    let offers = by_age(offers);
    let (oldest, rest) = offers.split_first()?;
    let first = oldest.row;
    let conflicts = conflicts(oldest, rest);
    Some(Import {
        name: first.name.clone(),
        headless: first.headless,
        ports: union_of_ports(&offers),
        clusters: offers.iter().map(|offer| part(offer, first.headless)).collect(),
        labels: first.labels.clone(),
        annotations: first.annotations.clone(),
        session_affinity: first.session_affinity,
        traffic: first.traffic,
        conflicts,
    })
}

/// One cluster's row that counts.
struct Offer<'a> {
    cluster: &'a ClusterId,
    row: &'a Row,
    freshness: Freshness,
}

/// The rows that count, one a cluster (its newest), oldest export first.
fn by_age<'a>(offers: &'a [(ClusterId, &'a Row, Freshness)]) -> Vec<Offer<'a>> {
    let mut newest: BTreeMap<&ClusterId, Offer<'_>> = BTreeMap::new();
    for (cluster, row, freshness) in offers {
        let offer = Offer { cluster, row, freshness: *freshness };
        let rank = |offer: &Offer<'_>| (offer.row.seq, offer.row.created, offer.row.export_id);
        let newer = newest.get(cluster).is_none_or(|known| {
            (rank(&offer), known.freshness) > (rank(known), offer.freshness) // the fresher of equals
        });
        if newer && offer.freshness != Freshness::Withdrawn {
            newest.insert(cluster, offer);
        }
    }
    let mut sorted: Vec<_> = newest.into_values().collect();
    sorted.sort_by(|a, b| (a.row.created, a.cluster).cmp(&(b.row.created, b.cluster)));
    if let Some(name) = sorted.first().map(|oldest| &oldest.row.name) {
        sorted.retain(|offer| offer.row.name == *name);
    }
    sorted
}

fn part(offer: &Offer<'_>, headless: bool) -> ImportCluster {
    let row = offer.row;
    let mut endpoints = if headless { row.endpoints.clone() } else { Vec::new() };
    // Ready ones first among equals, so that a name listed twice is ready when either is.
    endpoints.sort_by(|a, b| (&a.hostname, !a.ready, &a.locality).cmp(&(&b.hostname, !b.ready, &b.locality)));
    endpoints.dedup_by(|later, kept| later.hostname == kept.hostname);
    ImportCluster {
        cluster: offer.cluster.clone(),
        created: row.created,
        export_id: row.export_id,
        zones: row.zones.clone(),
        freshness: offer.freshness,
        idempotent: row.idempotent,
        endpoints,
        ports: row.ports.clone(),
    }
}

/// The union of ports, merged by name first, then by (protocol, number).
///
/// A port whose name means another number to an older exporter is left out: clients of the older one's
/// number must never reach this cluster. A port whose number has another name keeps the older name.
fn union_of_ports(offers: &[Offer<'_>]) -> Vec<ImportPort> {
    let mut ports: Vec<ImportPort> = Vec::new();
    let mut by_name: BTreeMap<Arc<str>, usize> = BTreeMap::new();
    let mut by_number: BTreeMap<(Protocol, u16), usize> = BTreeMap::new();
    for offer in offers {
        for port in &offer.row.ports {
            let number = (port.protocol, port.number);
            match (by_name.get(&port.name), by_number.get(&number)) {
                (Some(named), numbered) if numbered != Some(named) => {}
                (_, Some(&at)) => {
                    let clusters = &mut ports[at].clusters;
                    if clusters.last() != Some(offer.cluster) {
                        clusters.push(offer.cluster.clone());
                    }
                }
                (_, None) => {
                    by_name.insert(port.name.clone(), ports.len());
                    by_number.insert(number, ports.len());
                    ports.push(ImportPort { port: port.clone(), clusters: vec![offer.cluster.clone()] });
                }
            }
        }
    }
    ports
}

/// The oldest export beside the others, and what they disagree on so far.
struct Comparison<'a> {
    oldest: &'a Offer<'a>,
    rest: &'a [Offer<'a>],
    found: Vec<Conflict>,
}

impl Comparison<'_> {
    /// Notes who `differs` from the oldest in `what`, and what `holds`.
    fn check(&mut self, reason: ConflictReason, what: &str, differs: impl Fn(&Row) -> bool, holds: &str) {
        let others: Vec<_> =
            self.rest.iter().filter(|other| differs(other.row)).map(|other| other.cluster.as_str()).collect();
        if let Some((last, before)) = others.split_last() {
            let comma = if before.is_empty() { "" } else { " and " };
            let others = format!("{}{comma}{last}", before.join(", "));
            let cluster = self.oldest.cluster;
            let message =
                format!("{what} of {others} differ from those of {cluster}, the oldest export; {holds}");
            self.found.push(Conflict { reason, message });
        }
    }
}

fn conflicts(oldest: &Offer<'_>, rest: &[Offer<'_>]) -> Vec<Conflict> {
    let mut comparison = Comparison { oldest, rest, found: Vec::new() };
    conflicts_of_shape(&mut comparison);
    conflicts_of_ways(&mut comparison);
    comparison.found
}

/// In what the service is.
fn conflicts_of_shape(comparison: &mut Comparison<'_>) {
    let first = comparison.oldest.row;
    let ports = |row: &Row| row.ports.iter().cloned().collect::<BTreeSet<_>>();
    let first_ports = ports(first);
    comparison.check(
        ConflictReason::PortConflict,
        "the ports",
        |row| ports(row) != first_ports,
        "each port is served by the clusters that expose it",
    );
    comparison.check(
        ConflictReason::TypeConflict,
        "the types (headless or not)",
        |row| row.headless != first.headless,
        if first.headless { "the name is headless" } else { "the name is not headless" },
    );
    comparison.check(
        ConflictReason::LabelsConflict,
        "the labels",
        |row| row.labels != first.labels,
        "the oldest's hold",
    );
    comparison.check(
        ConflictReason::AnnotationsConflict,
        "the annotations",
        |row| row.annotations != first.annotations,
        "the oldest's hold",
    );
}

/// In which endpoints clients are to meet.
fn conflicts_of_ways(comparison: &mut Comparison<'_>) {
    let first = comparison.oldest.row;
    comparison.check(
        ConflictReason::SessionAffinityConflict,
        "the session affinities",
        |row| row.session_affinity.is_some() != first.session_affinity.is_some(),
        if first.session_affinity.is_some() {
            "clients are kept with an endpoint"
        } else {
            "clients are not kept with an endpoint"
        },
    );
    comparison.check(
        ConflictReason::SessionAffinityConfigConflict,
        "the timeouts of session affinity",
        |row| matches!((row.session_affinity, first.session_affinity), (Some(a), Some(b)) if a != b),
        "the oldest's holds",
    );
    let policy = first.traffic.internal_policy;
    comparison.check(
        ConflictReason::InternalTrafficPolicyConflict,
        "the internal traffic policies",
        |row| row.traffic.internal_policy != policy,
        &format!("the ServiceImport says {policy}"),
    );
    let distribution = first.traffic.distribution;
    comparison.check(
        ConflictReason::TrafficDistributionConflict,
        "the traffic distributions",
        |row| row.traffic.distribution != distribution,
        &match distribution {
            Some(distribution) => format!("the ServiceImport says {distribution}"),
            None => "the ServiceImport says none".to_owned(),
        },
    );
}

#[cfg(test)]
mod tests;
