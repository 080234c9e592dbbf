//! One simulated cluster: what it exports and to whom, and its half of the pairing with each other one.

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use imbl::OrdMap;
use tombolo::model::{
    catalog::{Port, Protocol, Row, Traffic, ZoneReady},
    ids::{ClusterId, Epoch, ExportId, Locality, Seq, ServiceName, Timestamp, TrustDomain},
    limits,
    policy::{self, Grants, PeerView},
    replication::{CatalogLog, Exporter, Importer, Quotas},
};

/// An export as its owner declares it; everything of its row follows from this.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Export {
    pub(crate) version: u32,
    /// So many ports that nobody takes it.
    pub(crate) crowded: bool,
}

/// A cluster with one gateway.
pub(crate) struct Cluster {
    pub(crate) id: ClusterId,
    pub(crate) trust_domain: TrustDomain,
    pub(crate) up: bool,
    /// Lives of its gateway's process so far.
    pub(crate) life: u8,
    pub(crate) exports: BTreeMap<ServiceName, Export>,
    pub(crate) grants: Grants,
    /// It exports reserved names too, which an honest one does not.
    pub(crate) hostile: bool,
}

/// A peer's rows.
pub(crate) type Rows = OrdMap<ServiceName, Arc<Row>>;

/// One cluster's half of a pairing.
pub(crate) struct Side {
    pub(crate) log: CatalogLog,
    pub(crate) exporter: Exporter,
    pub(crate) importer: Importer,
    /// The peer's rows in this cluster's `State`.
    pub(crate) rows: Rows,
    /// What of them is on disk.
    pub(crate) saved: (Option<(Epoch, Seq)>, Rows),
    /// This cluster approved the peer.
    pub(crate) approved: bool,
    /// When its timers were last set for.
    pub(crate) wake: Option<u64>,
    /// When its newest message will arrive: streams keep their order.
    pub(crate) last_arrival: u64,
}

impl Cluster {
    pub(crate) fn new(number: usize, hostile: bool) -> Self {
        Self {
            id: ClusterId::parse(&format!("c{number}")).expect("a label"),
            trust_domain: TrustDomain::parse(&format!("c{number}.tombolo")).expect("a domain"),
            up: true,
            life: 0,
            exports: BTreeMap::new(),
            grants: Grants::default(),
            hostile,
        }
    }

    fn epoch(&self, number: usize) -> Epoch {
        let mut bytes = [self.life; 16];
        bytes[..8].copy_from_slice(&(number as u64).to_be_bytes());
        Epoch(bytes)
    }

    /// What `peer` may see of an export, if anything.
    pub(crate) fn row_for(&self, name: &ServiceName, peer: &Self, approved: bool) -> Option<Row> {
        let export = self.exports.get(name)?;
        let view = PeerView { cluster: &peer.id, trust_domain: &peer.trust_domain, approved };
        let visible = self.grants.visible(name, view).allowed && policy::may_export(name).allowed;
        let smuggled = self.hostile && policy::is_reserved(name);
        (visible || smuggled).then(|| row(name, *export))
    }
}

impl Side {
    /// The half of cluster `number`, whose gateway begins its life now; rows come from disk.
    pub(crate) fn new(cluster: &Cluster, number: usize, now: Instant) -> Self {
        Self {
            log: CatalogLog::new(cluster.epoch(number)),
            exporter: Exporter::new(0, now),
            importer: Importer::new(0, Quotas::default(), None, [], now),
            rows: OrdMap::new(),
            saved: (None, OrdMap::new()),
            approved: true,
            wake: None,
            last_arrival: 0,
        }
    }

    /// The gateway's process ended: what was not on disk is gone.
    pub(crate) fn restart(&mut self, cluster: &Cluster, number: usize, now: Instant) {
        let (position, rows) = self.saved.clone();
        let held = rows.values().map(AsRef::as_ref);
        *self = Self {
            importer: Importer::new(0, Quotas::default(), position, held, now),
            saved: (position, rows.clone()),
            rows,
            approved: self.approved,
            ..Self::new(cluster, number, now)
        };
    }

    /// Brings the log up to what the peer may see now.
    pub(crate) fn publish(&mut self, name: &ServiceName, cluster: &Cluster, peer: &Cluster) {
        let row = cluster.row_for(name, peer, self.approved);
        self.log.replace(name, row).expect("simulated rows are small");
    }

    /// Brings the whole log up to what the peer may see now.
    pub(crate) fn publish_all(&mut self, cluster: &Cluster, peer: &Cluster) {
        let rows = cluster.exports.keys().filter_map(|name| cluster.row_for(name, peer, self.approved));
        assert!(self.log.replace_all(rows).is_empty(), "simulated rows are small");
    }

    /// When one of its machines wants to be asked again.
    pub(crate) fn next_wake(&self) -> Option<Instant> {
        self.importer.next_wake().into_iter().chain(self.exporter.next_wake(&self.log)).min()
    }
}

/// The row of an export, without its seq.
pub(crate) fn row(name: &ServiceName, export: Export) -> Row {
    let ports = if export.crowded { limits::PORTS_PER_SERVICE_MAX + 1 } else { 1 };
    let port = Port { name: "".into(), number: 80, protocol: Protocol::Tcp, app_protocol: "".into() };
    let zone = ZoneReady { locality: Locality::default(), ready: export.version, total: export.version };
    Row {
        name: name.clone(),
        seq: 0,
        export_id: ExportId([0; 16]),
        ports: vec![port; ports],
        zones: vec![zone],
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
        created: Timestamp(0),
        headless: false,
        idempotent: false,
        session_affinity: None,
        traffic: Traffic::default(),
        endpoints: Vec::new(),
    }
}
