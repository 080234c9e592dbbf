//! What each peer may see of this cluster's exports, kept current as the state changes.
//!
//! One [`View`] a peer: a versioned log from which every gateway of that peer is fed. Policy is applied here,
//! before anything is sent: what a peer may not see is not in its log.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    clock::Clock,
    identity::Identity,
    model::{
        catalog::Row,
        ids::{ClusterId, Epoch, GatewayId, Seq, ServiceName},
        limits,
        policy::PeerView,
        replication::{CatalogLog, ExportTooLarge, Exporter},
        state::{Changes, Peer, State},
    },
};

/// One peer's view of our exports.
#[derive(Debug)]
pub(super) struct View {
    log: Mutex<CatalogLog>,
    head: watch::Sender<Seq>,
    /// The newest seq that peer has confirmed, by any of its gateways.
    acked: watch::Sender<Seq>,
    too_large: Mutex<BTreeMap<ServiceName, ExportTooLarge>>,
    /// How far each gateway of the peer is; kept across its streams.
    exporters: Mutex<BTreeMap<GatewayId, Exporter>>,
    /// The stream that feeds each gateway.
    fed: Mutex<BTreeMap<GatewayId, CancellationToken>>,
}

impl View {
    fn new(epoch: Epoch) -> Self {
        Self {
            log: Mutex::new(CatalogLog::new(epoch)),
            head: watch::Sender::new(0),
            acked: watch::Sender::new(0),
            too_large: Mutex::default(),
            exporters: Mutex::default(),
            fed: Mutex::default(),
        }
    }

    /// A stream begins to feed a gateway: one that did so before is told to end. The token says when this one is.
    pub(super) fn begin_feeding(&self, gateway: &GatewayId) -> CancellationToken {
        let token = CancellationToken::new();
        let mut fed = self.fed.lock().unwrap_or_else(PoisonError::into_inner);
        fed.retain(|_, token| !token.is_cancelled());
        if let Some(older) = fed.insert(gateway.clone(), token.clone()) {
            older.cancel();
        }
        token
    }

    /// Whether a gateway of the peer takes the catalog from this one.
    pub(super) fn is_fed(&self) -> bool {
        let fed = self.fed.lock().unwrap_or_else(PoisonError::into_inner);
        fed.values().any(|token| !token.is_cancelled())
    }

    /// Takes the exporter of a gateway for the life of a stream.
    pub(super) fn take_exporter(&self, gateway: &GatewayId) -> Option<Exporter> {
        self.exporters.lock().unwrap_or_else(PoisonError::into_inner).remove(gateway)
    }

    /// Gives it back for the next one.
    pub(super) fn keep_exporter(&self, gateway: GatewayId, exporter: Exporter) {
        let mut exporters = self.exporters.lock().unwrap_or_else(PoisonError::into_inner);
        if exporters.len() < limits::GATEWAYS_PER_PEER_MAX {
            exporters.insert(gateway, exporter);
        }
    }

    /// The log; never held across an await.
    pub(super) fn log(&self) -> MutexGuard<'_, CatalogLog> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes when the log grows.
    pub(super) fn changes(&self) -> watch::Receiver<Seq> {
        self.head.subscribe()
    }

    /// Notes what a gateway of the peer has confirmed.
    pub(super) fn confirm(&self, seq: Seq) {
        self.acked.send_if_modified(|acked| {
            let newer = seq > *acked;
            *acked = seq.max(*acked);
            newer
        });
    }

    /// Waits until the log no longer holds a service.
    pub(super) async fn withdrawn(&self, name: &ServiceName) {
        let mut head = self.head.subscribe();
        let _ = head.wait_for(|_| !self.log().rows().contains_key(name)).await;
    }

    /// Waits until everything up to `seq` is confirmed.
    pub(super) async fn confirmed(&self, seq: Seq) {
        let mut acked = self.acked.subscribe();
        let _ = acked.wait_for(|acked| *acked >= seq).await;
    }

    /// Changes the peer has not confirmed.
    pub(super) fn lag(&self) -> u64 {
        self.log().head().saturating_sub(*self.acked.borrow())
    }

    /// Exports that are too large to be sent.
    pub(super) fn too_large(&self) -> Vec<String> {
        let too_large = self.too_large.lock().unwrap_or_else(PoisonError::into_inner);
        too_large.values().map(ToString::to_string).collect()
    }
}

/// All views.
#[derive(Debug)]
pub(super) struct Views {
    identity: Arc<Identity>,
    clock: Clock,
    views: Mutex<BTreeMap<ClusterId, Arc<View>>>,
}

impl Views {
    pub(super) fn new(identity: Arc<Identity>, clock: Clock) -> Self {
        Self { identity, clock, views: Mutex::default() }
    }

    /// The view of a peer, if it is one.
    pub(super) fn of(&self, cluster: &ClusterId) -> Option<Arc<View>> {
        self.views.lock().unwrap_or_else(PoisonError::into_inner).get(cluster).cloned()
    }

    /// Every view.
    pub(super) fn all(&self) -> Vec<(ClusterId, Arc<View>)> {
        let views = self.views.lock().unwrap_or_else(PoisonError::into_inner);
        views.iter().map(|(cluster, view)| (cluster.clone(), view.clone())).collect()
    }

    /// Brings every view up to date with `state`.
    pub(super) fn update(&self, state: &State, changes: &Changes) {
        let mut views = self.views.lock().unwrap_or_else(PoisonError::into_inner);
        views.retain(|cluster, _| state.peers.contains_key(cluster));
        for (cluster, peer) in &state.peers {
            let new = !views.contains_key(cluster);
            let view = views
                .entry(cluster.clone())
                .or_insert_with(|| Arc::new(View::new(Epoch(self.clock.random_bytes()))))
                .clone();
            if new || changes.settings || changes.peers.contains(cluster) {
                let listed: Vec<ServiceName> = view.log().rows().keys().cloned().collect();
                self.refresh(&view, state, peer, listed.iter().chain(state.exports.keys()));
            } else {
                self.refresh(&view, state, peer, changes.exports.iter());
            }
        }
    }

    fn refresh<'a>(
        &self,
        view: &View,
        state: &State,
        peer: &Peer,
        names: impl Iterator<Item = &'a ServiceName>,
    ) {
        let mut log = view.log();
        let mut too_large = view.too_large.lock().unwrap_or_else(PoisonError::into_inner);
        for name in names {
            match log.replace(name, self.row(state, peer, name)) {
                Ok(_) => {
                    too_large.remove(name);
                }
                Err(error) => {
                    tracing::warn!(service = %name, peer = %peer.cluster, %error, "export not sent");
                    too_large.insert(name.clone(), error);
                }
            }
        }
        let head = log.head();
        drop(log);
        view.head.send_if_modified(|known| std::mem::replace(known, head) != head);
    }

    /// The row the peer is told, if it may see the service.
    fn row(&self, state: &State, peer: &Peer, name: &ServiceName) -> Option<Row> {
        let export = state.exports.get(name)?;
        let who =
            PeerView { cluster: &peer.cluster, trust_domain: &peer.trust_domain, approved: peer.serves() };
        if !state.settings.grants.visible(name, who).allowed {
            return None;
        }
        let export_id = self.identity.export_id(&peer.trust_domain, &export.name, export.incarnation);
        Some(state.export_row(export, export_id))
    }
}
