//! Sessions with the gateways of peers: what is said on a link besides traffic.
//!
//! For each lane there is one control call, opened by the side that dialled, and one catalog call each way,
//! opened by the importer. The rules stand in `model` (replication, session, trust, introduction); here they
//! meet streams, timers and the store.

mod call;
mod exporting;
mod follow;
mod importing;
mod introducing;
mod join;
mod joining;
mod serve;
mod session;
mod session_trust;
mod sessions;
mod verbs;
mod views;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use federation_proto::v1::{self, ctl::Message};
use quinn::Connection;
use tokio::sync::{mpsc, watch};

use self::{
    importing::fresh,
    introducing::{Introductions, Taken},
    sessions::Sessions,
    views::Views,
};
use crate::{
    clock::Clock,
    identity::Trust,
    ledger::Ledger,
    link::{Caller, Lane, Links, stream::CallStream},
    model::{
        ids::{ClusterId, Instance, ServiceName, Timestamp},
        limits,
        replication::{Importer, Quotas},
        state::State,
    },
    net::Net,
    store::Store,
    supervise::Tasks,
};

pub use self::{
    join::{Ourselves, PeerLimits, issue},
    joining::Progress,
    verbs::Acted,
};

/// What sessions need.
pub struct Parts {
    /// The state.
    pub store: Store,
    /// The links.
    pub links: Links,
    /// Live figures.
    pub ledger: Ledger,
    /// This cluster and gateway, as others meet it.
    pub ours: Arc<Ourselves>,
    /// Where all gateways of this cluster can be dialled.
    pub endpoints: watch::Receiver<Vec<String>>,
    /// The network.
    pub net: Arc<dyn Net>,
    /// Changes when the SVID was renewed.
    pub svid_renewed: watch::Sender<u64>,
    /// Whom we believe.
    pub trust: Arc<Trust>,
    /// Time and randomness.
    pub clock: Clock,
    /// The control runtime.
    pub tasks: Tasks,
    /// This run of the process.
    pub instance: Instance,
    /// How many shards it has.
    pub shards: u32,
    /// What is taken from one peer.
    pub quotas: Quotas,
    /// Lanes this side dialled.
    pub dialled: mpsc::Receiver<Arc<Lane>>,
    /// Calls of the other sides.
    pub calls: mpsc::Receiver<CallStream<Caller>>,
    /// Connections that came to join.
    pub joins: mpsc::Receiver<Connection>,
}

/// All sessions of this gateway; cheap to clone.
#[derive(Clone)]
pub struct Peers(Arc<Inner>);

impl std::fmt::Debug for Peers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Peers(..)")
    }
}

struct Inner {
    store: Store,
    links: Links,
    ledger: Ledger,
    ours: Arc<Ourselves>,
    endpoints: watch::Receiver<Vec<String>>,
    net: Arc<dyn Net>,
    svid_renewed: watch::Sender<u64>,
    trust: Arc<Trust>,
    clock: Clock,
    tasks: Tasks,
    instance: Instance,
    shards: u32,
    quotas: Quotas,
    views: Views,
    introductions: Introductions,
    /// What peers are told once this gateway drains.
    draining: watch::Sender<Option<v1::Drain>>,
    importers: Mutex<BTreeMap<ClusterId, Arc<tokio::sync::Mutex<Importer>>>>,
    /// The digest of our roots as each peer uses them, and when it said so.
    seen_roots: Mutex<BTreeMap<ClusterId, ([u8; 32], Timestamp)>>,
    sessions: Sessions,
}

impl Peers {
    /// Follows the state, greets dialled lanes, serves calls and joins.
    #[must_use]
    pub fn start(parts: Parts) -> Self {
        let views = Views::new(parts.ours.identity.clone(), parts.clock.clone());
        let introductions = Introductions::new(parts.ours.clone());
        let joins = join::Joins::new(parts.ours.clone(), parts.store.clone());
        let inner = Arc::new(Inner {
            store: parts.store,
            links: parts.links,
            ledger: parts.ledger,
            ours: parts.ours,
            endpoints: parts.endpoints,
            net: parts.net,
            svid_renewed: parts.svid_renewed,
            trust: parts.trust,
            clock: parts.clock,
            tasks: parts.tasks.clone(),
            instance: parts.instance,
            shards: parts.shards,
            quotas: parts.quotas,
            views,
            introductions,
            draining: watch::Sender::new(None),
            importers: Mutex::default(),
            seen_roots: Mutex::default(),
            sessions: Sessions::default(),
        });
        let tasks = parts.tasks;
        let hard = tasks.shutdown();
        tasks.spawn("peer calls", hard.cut(serve::calls(inner.clone(), parts.calls)));
        tasks.spawn("peer joins", hard.cut(serve::joins(inner.clone(), joins, parts.joins)));
        tasks.spawn("peer greetings", hard.cut(serve::greetings(inner.clone(), parts.dialled)));
        tasks.spawn("peer follow", hard.cut(follow::run(inner.clone())));
        tasks.spawn("peer introductions", hard.cut(inner.clone().renew_introductions()));
        Self(inner)
    }

    /// Changes of ours that the peer has not confirmed; nothing while it takes our catalog from another gateway.
    #[must_use]
    pub fn lag(&self, cluster: &ClusterId) -> Option<u64> {
        self.0.views.of(cluster).filter(|view| view.is_fed()).map(|view| view.lag())
    }

    /// Exports of ours that the peer is told of.
    #[must_use]
    pub fn exported(&self, cluster: &ClusterId) -> usize {
        self.0.views.of(cluster).map_or(0, |view| view.log().rows().len())
    }

    /// Exports that are too large to be told.
    #[must_use]
    pub fn too_large(&self, cluster: &ClusterId) -> Vec<String> {
        self.0.views.of(cluster).map(|view| view.too_large()).unwrap_or_default()
    }

    /// Waits until every peer has confirmed that a service is no longer exported, or `patience` is over (P28).
    /// Returns who has not.
    pub async fn unconfirmed(&self, name: &ServiceName, patience: Duration) -> Vec<ClusterId> {
        let deadline = tokio::time::Instant::from_std(self.0.clock.now() + patience);
        let mut missing = Vec::new();
        for (cluster, view) in self.0.views.all() {
            view.withdrawn(name).await;
            let head = view.log().head();
            if tokio::time::timeout_at(deadline, view.confirmed(head)).await.is_err() {
                missing.push(cluster);
            }
        }
        missing
    }

    /// Tells every peer that this gateway takes nothing new and ends after `most`, and waits until they can have
    /// acted on it: two round trips of the slowest link, at most a second.
    pub async fn drain(&self, most: Duration, reason: &str) {
        let deadline_ms = u32::try_from(most.as_millis()).unwrap_or(u32::MAX);
        self.0.draining.send_replace(Some(v1::Drain { deadline_ms, reason: reason.to_owned() }));
        let up = self.0.links.registry().up();
        let slowest = up.values().flatten().map(|lane| lane.figures().rtt).max();
        if let Some(rtt) = slowest {
            let settled = limits::DRAIN_SETTLE_MIN.max(rtt * 2).min(limits::DRAIN_SETTLE_MAX);
            tokio::time::sleep(settled).await;
        }
    }

    /// Joins the cluster that issued `token`, and waits until it is usable. Tells each step as it is done.
    pub async fn join(&self, token: &str, lines: &mpsc::Sender<Progress>) {
        joining::run(&self.0, (token, false), lines).await;
    }

    /// The same, and the issuer may be a known peer that comes with other roots (`peer re-trust`).
    pub async fn re_trust(&self, token: &str, lines: &mpsc::Sender<Progress>) {
        joining::run(&self.0, (token, true), lines).await;
    }
}

impl Inner {
    /// The importer of a peer; made from what was held when the process started.
    fn importer(&self, cluster: &ClusterId) -> Option<Arc<tokio::sync::Mutex<Importer>>> {
        let state = self.store.state();
        let peer = state.peers.get(cluster)?;
        let mut importers = self.importers.lock().unwrap_or_else(PoisonError::into_inner);
        let importer = importers.entry(cluster.clone()).or_insert_with(|| {
            let importer = fresh(&state, peer, self.quotas, self.clock.now());
            Arc::new(tokio::sync::Mutex::new(importer))
        });
        Some(importer.clone())
    }

    /// Drops what belongs to clusters that are no peers any more.
    fn forget_strangers(&self, state: &State) {
        let mut importers = self.importers.lock().unwrap_or_else(PoisonError::into_inner);
        importers.retain(|cluster, _| state.peers.contains_key(cluster));
    }

    /// Tells every peer our own record before the one it holds runs out.
    async fn renew_introductions(self: Arc<Self>) {
        let mut roots = self.ours.identity.changes();
        loop {
            let due = self.introductions.renew_at().since(self.clock.wall());
            tokio::select! {
                biased;
                // Peers have to know the roots of a record before the record.
                _ = roots.changed() => tokio::time::sleep(limits::INTRODUCTION_RETRY).await,
                () = tokio::time::sleep(due.max(limits::INTRODUCTION_RETRY)) => {}
            }
            match self.introductions.own() {
                Ok(own) => {
                    for cluster in &self.sessions.clusters() {
                        self.sessions.tell(cluster, Message::Introduce(own.clone()));
                    }
                }
                Err(error) => tracing::error!(%error, "our own record could not be signed"),
            }
        }
    }

    /// A peer's session is complete: it is told of the others, and who we are.
    fn introduce(&self, cluster: &ClusterId) {
        for introduce in self.introductions.greet(cluster, &self.store.state()) {
            self.sessions.tell(cluster, Message::Introduce(introduce));
        }
    }

    /// A record arrived: a peer's own is passed on to the others, another's may make a new peer.
    async fn take_introduction(&self, from: &ClusterId, introduce: v1::Introduce) {
        match self.introductions.take(from, introduce, &self.store).await {
            Ok(Taken::PassOn(telling)) => {
                for (cluster, introduce) in telling {
                    self.sessions.tell(&cluster, Message::Introduce(introduce));
                }
            }
            Ok(Taken::Met { cluster, pending }) => {
                let word = if pending { "waits for approval" } else { "approved" };
                self.ledger.note("introduced", format!("{from} introduced {cluster}: {word}"));
                tracing::info!(peer = %cluster, by = %from, pending, "introduced");
            }
            Ok(Taken::Nothing) => {}
            Err(problem) => tracing::warn!(peer = %from, error = %problem, "an introduction was refused"),
        }
    }
}
