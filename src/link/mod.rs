//! Links: one QUIC connection (a lane) per gateway of each peer, dialled or accepted, kept and judged.
//!
//! This floor knows who is at the other end and whether the path lives. What is said on the streams is not
//! its matter: it hands control and catalog calls, proxied streams and join exchanges to whoever was given to
//! it when it started. (One lane a gateway for now, and a second one while the first is doubted; `Hello` already
//! carries what several need.)

pub mod codes;
pub mod congestion;
mod connection_id;
mod dial;
mod endpoint;
mod lane;
mod life;
mod opens;
mod qlog;
mod registry;
mod room;
mod slot;
pub mod stream;
mod sweep;
mod transport;
mod windows;

use std::{
    collections::BTreeMap,
    future::Future,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

use arc_swap::ArcSwap;
use quinn::{
    ConnectError, Connection, ConnectionError,
    crypto::rustls::{QuicClientConfig, QuicServerConfig},
};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot, watch};

pub use self::{
    connection_id::{QUIC_KEYS_BYTES, QuicKeys},
    lane::{Lane, LaneFigures, LaneKey, Standing, StreamGuard},
    qlog::Qlog,
    registry::{Registry, Verdict},
    windows::LinkLimits,
};
use self::{
    endpoint::ShardEndpoints,
    stream::{CallStream, Kind, Reader, Writer},
};
use crate::{
    clock::Clock,
    identity::{Tls, Trust, TrustError},
    model::{
        ids::{ClusterId, SpiffeId, Timestamp, TrustDomain},
        liveness::LinkState,
    },
    net::Net,
    supervise::{Shards, Tasks},
};

/// Why a link could not be made.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// Nothing came back.
    #[error("no UDP answer from {address}")]
    NoAnswer {
        /// The address dialled.
        address: SocketAddr,
    },
    /// The other side refused, or showed a certificate that is not trusted.
    #[error("handshake with {address} failed: {error}")]
    Handshake {
        /// The address dialled.
        address: SocketAddr,
        /// What the transport reports.
        error: ConnectionError,
    },
    /// The address cannot be dialled from here.
    #[error("cannot dial: {0}")]
    Connect(#[from] ConnectError),
    /// A name could not be looked up.
    #[error("cannot resolve {endpoint:?}: {error}")]
    Resolve {
        /// `host:port` as the peer announced it.
        endpoint: String,
        /// What the resolver reports.
        error: io::Error,
    },
    /// The peer announced no endpoint: it can only dial us.
    #[error("{cluster} announced no address; waiting for it to dial")]
    NoEndpoint {
        /// The peer.
        cluster: ClusterId,
    },
    /// Certificates do not convince.
    #[error("not trusted: {0}")]
    Trust(#[from] TrustError),
    /// A gateway of a cluster that is no peer (any more).
    #[error("{domain} is not the trust domain of a peer")]
    Stranger {
        /// The trust domain it proved.
        domain: TrustDomain,
    },
    /// A workload's certificate where a gateway's is demanded.
    #[error("{identity} is not a gateway")]
    NotAGateway {
        /// The identity it proved.
        identity: SpiffeId,
    },
    /// A peer announced an address inside this host or on its wire.
    #[error("{address} is no address a peer may send us to")]
    Denied {
        /// The address.
        address: SocketAddr,
    },
    /// Another lane to the same gateway exists.
    #[error("another lane to this gateway exists")]
    Duplicate,
    /// The links are being shut down.
    #[error("shutting down")]
    Closed,
}

impl LinkError {
    /// Whether another lane to the same gateway lives: then nothing is wrong with the way.
    fn is_duplicate(&self) -> bool {
        let closed = |error: &ConnectionError| match error {
            ConnectionError::ApplicationClosed(close) => codes::Close::of(close.error_code),
            _ => None,
        };
        match self {
            Self::Duplicate => true,
            Self::Handshake { error, .. } => closed(error) == Some(codes::Close::Duplicate),
            _ => false,
        }
    }
}

/// A peer to keep a link to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The peer.
    pub cluster: ClusterId,
    /// Its trust domain; whoever answers must prove an identity in it.
    pub trust_domain: TrustDomain,
    /// Its `host:port`s, tried in order; empty when only it can dial.
    pub endpoints: Vec<String>,
}

/// What a call's server learns about its caller.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The lane the call came over.
    pub lane: Arc<Lane>,
    /// Control or catalog.
    pub kind: Kind,
    /// Its place among the calls of its lane, for as long as it lives.
    _place: Arc<OwnedSemaphorePermit>,
}

/// Serves one proxied stream, on its lane's shard. The kind has been read, the header has not.
pub type ServeTcp =
    Arc<dyn Fn(Arc<Lane>, Writer, Reader) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

/// What links need, and to whom they hand what arrives.
pub struct Parts {
    /// This gateway's keys for connection ids and resets.
    pub keys: QuicKeys,
    /// Our trust domain; decides which of two duplicates lives.
    pub own: TrustDomain,
    /// What dials present and whom they believe.
    pub tls: Tls,
    /// What the shared port presents.
    pub server: QuicServerConfig,
    /// Whom we trust.
    pub trust: Arc<Trust>,
    /// Sockets.
    pub net: Arc<dyn Net>,
    /// Time and randomness.
    pub clock: Clock,
    /// The control runtime.
    pub tasks: Tasks,
    /// The data runtimes.
    pub shards: Shards,
    /// Lanes this side dialled, which have to say `Hello`.
    pub dialled: mpsc::Sender<Arc<Lane>>,
    /// Control and catalog calls of the other sides.
    pub calls: mpsc::Sender<CallStream<Caller>>,
    /// Connections that came to join.
    pub joins: mpsc::Sender<Connection>,
    /// What links may take.
    pub limits: LinkLimits,
    /// Serves proxied streams.
    pub serve_tcp: ServeTcp,
    /// Where connections are recorded, if they are.
    pub qlog: Option<Qlog>,
}

/// Why the last dial of a peer failed, and when.
#[derive(Debug, Clone)]
pub struct DialFailure {
    /// For people.
    pub cause: String,
    /// When.
    pub at: Timestamp,
}

/// How the last link to a peer ended, and when.
#[derive(Debug, Clone)]
pub struct LinkEnd {
    /// For people.
    pub cause: String,
    /// When.
    pub at: Timestamp,
}

/// All links of this gateway; cheap to clone.
#[derive(Clone)]
pub struct Links(Arc<Inner>);

struct Inner {
    keys: QuicKeys,
    tls: Tls,
    trust: Arc<Trust>,
    net: Arc<dyn Net>,
    clock: Clock,
    tasks: Tasks,
    shards: Shards,
    events: mpsc::Sender<Arc<Lane>>,
    calls: mpsc::Sender<CallStream<Caller>>,
    joins: mpsc::Sender<Connection>,
    serve_tcp: ServeTcp,
    limits: LinkLimits,
    server: quinn::ServerConfig,
    qlog: Option<Qlog>,
    /// Peers may be on this very host only if this gateway can be reached there only.
    on_loopback: bool,
    registry: Registry,
    endpoints: OnceLock<Vec<ShardEndpoints>>,
    directory: ArcSwap<BTreeMap<TrustDomain, ClusterId>>,
    targets: Mutex<BTreeMap<ClusterId, watch::Sender<Target>>>,
    failures: Mutex<BTreeMap<ClusterId, DialFailure>>,
    ends: Mutex<BTreeMap<ClusterId, LinkEnd>>,
}

impl std::fmt::Debug for Links {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Links").field("registry", &self.0.registry).finish_non_exhaustive()
    }
}

impl Links {
    /// Opens the shared port on every shard and begins to accept.
    ///
    /// # Errors
    /// When the address is taken or may not be bound.
    pub async fn start(parts: Parts, address: SocketAddr) -> io::Result<Self> {
        let sockets = parts.net.quic_group(address, parts.shards.count())?;
        let server = transport::server(parts.server, &parts.limits);
        let links = Self(Arc::new(Inner {
            server: server.clone(),
            qlog: parts.qlog,
            keys: parts.keys,
            tls: parts.tls,
            trust: parts.trust,
            net: parts.net,
            clock: parts.clock,
            tasks: parts.tasks,
            shards: parts.shards,
            events: parts.dialled,
            calls: parts.calls,
            joins: parts.joins,
            serve_tcp: parts.serve_tcp,
            limits: parts.limits,
            on_loopback: address.ip().to_canonical().is_loopback(),
            registry: Registry::new(parts.own),
            endpoints: OnceLock::new(),
            directory: ArcSwap::default(),
            targets: Mutex::default(),
            failures: Mutex::default(),
            ends: Mutex::default(),
        }));
        let mut opened = Vec::with_capacity(sockets.len());
        for (shard, socket) in sockets.into_iter().enumerate() {
            let (reply, answer) = oneshot::channel();
            let (there, server) = (links.clone(), server.clone());
            links.0.shards.spawn_transient(shard, "open endpoint", async move {
                let _ = reply.send(ShardEndpoints::open(&there, shard, socket, server));
            });
            opened.push(answer.await.map_err(io::Error::other)??);
        }
        for (shard, endpoints) in opened.iter().enumerate() {
            links.0.shards.spawn(shard, "accept", endpoints.clone().accept(links.clone(), shard));
        }
        // Set exactly once, here.
        let _ = links.0.endpoints.set(opened);
        let sweeping = links.0.tasks.shutdown().cut(sweep::run(links.clone()));
        links.0.tasks.spawn("trust sweep", sweeping);
        let widening = links.0.tasks.shutdown().cut(windows::run(links.clone()));
        links.0.tasks.spawn("link windows", widening);
        Ok(links)
    }

    /// The address the shared port is bound to.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        self.endpoints(0)?.listen.local_addr().ok()
    }

    /// What the links may take, as configured.
    #[must_use]
    pub fn limits(&self) -> &LinkLimits {
        &self.0.limits
    }

    /// Which lanes exist.
    #[must_use]
    pub fn registry(&self) -> &Registry {
        &self.0.registry
    }

    /// Replaces the peers: whom to accept (all given), and whom to dial (those with an endpoint). Lanes of a
    /// peer that is gone are closed by the next sweep, which this starts at once.
    pub fn set_peers(&self, peers: Vec<Target>) {
        let directory = peers.iter().map(|peer| (peer.trust_domain.clone(), peer.cluster.clone())).collect();
        self.0.directory.store(Arc::new(directory));
        let mut targets = self.0.targets.lock().unwrap_or_else(PoisonError::into_inner);
        targets.retain(|cluster, _| peers.iter().any(|peer| peer.cluster == *cluster));
        self.0
            .failures
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|cluster, _| targets.contains_key(cluster));
        self.ends().retain(|cluster, _| targets.contains_key(cluster));
        for peer in peers {
            if let Some(known) = targets.get(&peer.cluster) {
                known.send_if_modified(|target| {
                    let changed = *target != peer;
                    *target = peer.clone();
                    changed
                });
                continue;
            }
            let cluster = peer.cluster.clone();
            let (sender, receiver) = watch::channel(peer);
            targets.insert(cluster, sender);
            self.0.tasks.spawn_transient("dial peer", dial::keep(self.clone(), receiver));
        }
        self.0.registry.retain(|cluster| targets.contains_key(cluster));
        drop(targets);
        sweep::now(self);
    }

    /// Makes one connection for a join exchange, from a shard drawn at random.
    ///
    /// # Errors
    /// [`LinkError`] when nobody answers or the pin does not match.
    pub async fn dial_join(
        &self,
        address: SocketAddr,
        tls: QuicClientConfig,
    ) -> Result<Connection, LinkError> {
        let endpoints = self.endpoints(0).ok_or(LinkError::Closed)?;
        let (reply, answer) = oneshot::channel();
        let (clock, limits) = (self.0.clock.clone(), self.0.limits);
        self.0.shards.spawn_transient(0, "dial join", async move {
            let _ = reply.send(endpoints.dial_join(address, tls, (&clock, &limits)).await);
        });
        answer.await.map_err(|_| LinkError::Closed)?
    }

    /// Why the peer could not be dialled last, if that was its last dial.
    #[must_use]
    pub fn dial_failure(&self, cluster: &ClusterId) -> Option<DialFailure> {
        self.0.failures.lock().unwrap_or_else(PoisonError::into_inner).get(cluster).cloned()
    }

    /// How the last link to a peer ended; of use while there is none.
    #[must_use]
    pub fn link_end(&self, cluster: &ClusterId) -> Option<LinkEnd> {
        self.ends().get(cluster).cloned()
    }

    fn ends(&self) -> MutexGuard<'_, BTreeMap<ClusterId, LinkEnd>> {
        self.0.ends.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A lane ended. If it was the last one that carried anything, it says why the peer has no link.
    fn note_end(&self, lane: &Lane, end: &ConnectionError) {
        let cluster = &lane.key().cluster;
        if !lane.was_up() || self.0.registry.has(cluster) || self.cluster_of_peer(lane).is_none() {
            return;
        }
        let judged = lane.standing();
        let cause = match judged.cause {
            Some(cause) if judged.state == LinkState::Down => cause.to_string(),
            _ => end.to_string(),
        };
        self.ends().insert(cluster.clone(), LinkEnd { cause, at: self.0.clock.wall() });
    }

    /// Closes every lane and both endpoints of every shard, and waits for the goodbyes to leave.
    pub async fn shutdown(&self) {
        self.0.targets.lock().unwrap_or_else(PoisonError::into_inner).clear();
        let endpoints = self.0.endpoints.get().map(Vec::as_slice).unwrap_or_default();
        let reason = codes::Close::Shutdown;
        for endpoint in endpoints.iter().flat_map(ShardEndpoints::all) {
            endpoint.close(reason.code(), reason.phrase().as_bytes());
            endpoint.wait_idle().await;
        }
    }

    fn endpoints(&self, shard: usize) -> Option<ShardEndpoints> {
        self.0.endpoints.get()?.get(shard).cloned()
    }

    fn cluster_of_peer(&self, lane: &Lane) -> Option<ClusterId> {
        self.cluster_of(lane.identity().trust_domain())
    }

    fn cluster_of(&self, domain: &TrustDomain) -> Option<ClusterId> {
        self.0.directory.load().get(domain).cloned()
    }

    fn note_dial_failure(&self, cluster: &ClusterId, error: &LinkError) {
        tracing::debug!(peer = %cluster, %error, "dial failed");
        let failure = DialFailure { cause: error.to_string(), at: self.0.clock.wall() };
        self.0.failures.lock().unwrap_or_else(PoisonError::into_inner).insert(cluster.clone(), failure);
    }

    /// The peer was reached.
    fn forget_dial_failure(&self, cluster: &ClusterId) {
        self.0.failures.lock().unwrap_or_else(PoisonError::into_inner).remove(cluster);
    }

    /// Starts what a new lane needs, on its shard.
    fn adopt(&self, lane: Arc<Lane>) -> Arc<Lane> {
        windows::widen(self, &lane);
        let shard = lane.shard();
        self.0.shards.spawn_transient(shard, "lane", life::run(self.clone(), lane.clone()));
        lane
    }
}
