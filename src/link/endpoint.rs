//! The QUIC endpoints of each shard: one that listens, one that dials; and what becomes of a handshake.
//!
//! The listening sockets share one port and are steered by connection id; the dialling socket is ephemeral, and
//! gives way to a fresh one when a lane is doubted (B3: nothing is ever rebound). Every connection is judged once more after its handshake, because TLS alone
//! does not know whether joining or peering was meant (ecosystem note 2b).

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use quinn::{
    Connection, Endpoint, EndpointConfig, Incoming, TokioRuntime,
    crypto::rustls::{HandshakeData, QuicClientConfig},
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use super::{
    LinkError, Links,
    codes::Close,
    lane::{Authenticated, Lane, LaneKey},
    transport,
    windows::LinkLimits,
};
use crate::{
    clock::Clock,
    identity::{ALPN_JOIN, ALPN_PEER, Role, SERVER_NAME, presented_chain},
    model::{code::Code, ids::TrustDomain, limits},
    net::QuicSocket,
};

/// The endpoints of one shard.
#[derive(Debug, Clone)]
pub(super) struct ShardEndpoints {
    pub(super) listen: Endpoint,
    dialling: Arc<Mutex<Dialling>>,
}

/// The sockets a shard dials from.
#[derive(Debug)]
struct Dialling {
    v4: Endpoint,
    /// A host without IPv6 dials IPv4 only.
    v6: Option<Endpoint>,
    made: Instant,
    /// Those that were replaced and still carry connections.
    older: Vec<Endpoint>,
}

impl Dialling {
    fn open(links: &Links, shard: usize) -> io::Result<Self> {
        let dial = |local: IpAddr| -> io::Result<Endpoint> {
            let socket = links.0.net.quic_dial(local)?;
            Endpoint::new_with_abstract_socket(settings(links, shard), None, socket, Arc::new(TokioRuntime))
        };
        Ok(Self {
            v4: dial(Ipv4Addr::UNSPECIFIED.into())?,
            v6: dial(Ipv6Addr::UNSPECIFIED.into()).ok(),
            made: links.0.clock.now(),
            older: Vec::new(),
        })
    }

    fn all(&self) -> impl Iterator<Item = &Endpoint> {
        [Some(&self.v4), self.v6.as_ref()].into_iter().flatten().chain(&self.older)
    }

    /// Puts sockets in place whose ports nothing on the way remembers.
    fn renew(&mut self, links: &Links, shard: usize) -> io::Result<()> {
        if links.0.clock.now() < self.made + limits::FRESH_SOCKET_INTERVAL {
            return Ok(());
        }
        let fresh = Self::open(links, shard)?;
        let mut older = std::mem::replace(self, fresh);
        older.older.extend([Some(older.v4), older.v6].into_iter().flatten());
        older.older.retain(|endpoint| endpoint.open_connections() > 0);
        self.older = older.older;
        Ok(())
    }
}

fn settings(links: &Links, shard: usize) -> EndpointConfig {
    let narrow = |count: usize| u8::try_from(count).unwrap_or(u8::MAX);
    let (shard, shards) = (narrow(shard), narrow(links.0.shards.count()));
    transport::endpoint(&links.0.keys, shard, shards, links.0.clock.random_bytes())
}

impl ShardEndpoints {
    /// Takes the sockets into service; runs on the shard's own runtime.
    pub(super) fn open(
        links: &Links,
        shard: usize,
        socket: Box<dyn QuicSocket>,
        server: quinn::ServerConfig,
    ) -> io::Result<Self> {
        let listen = Endpoint::new_with_abstract_socket(
            settings(links, shard),
            Some(server),
            socket.wrap()?,
            Arc::new(TokioRuntime),
        )?;
        Ok(Self { listen, dialling: Arc::new(Mutex::new(Dialling::open(links, shard)?)) })
    }

    fn dialling(&self) -> MutexGuard<'_, Dialling> {
        // A panic while it is held would leave whole endpoints.
        self.dialling.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn towards(&self, address: SocketAddr) -> Endpoint {
        let dialling = self.dialling();
        match (&dialling.v6, address) {
            (Some(dial), SocketAddr::V6(_)) => dial.clone(),
            _ => dialling.v4.clone(),
        }
    }

    /// Every endpoint of the shard.
    pub(super) fn all(&self) -> Vec<Endpoint> {
        std::iter::once(&self.listen).chain(self.dialling().all()).cloned().collect()
    }

    /// From now on the shard dials from a fresh socket; connections over the old one stay. Runs on the shard's
    /// own runtime.
    pub(super) fn renew_socket(&self, links: &Links, shard: usize) {
        if let Err(error) = self.dialling().renew(links, shard) {
            tracing::warn!(%error, "no fresh socket to dial from");
        }
    }

    /// Dials, shakes hands and authenticates a gateway of `domain`; runs on the shard's own runtime.
    pub(super) async fn dial(
        &self,
        links: &Links,
        shard: usize,
        address: SocketAddr,
        (domain, patience): (&TrustDomain, Duration),
    ) -> Result<Arc<Lane>, LinkError> {
        let qlog = links.0.qlog.as_ref().and_then(|qlog| qlog.record("to", address, &links.0.clock));
        let client =
            transport::client(links.0.tls.peer_client(domain), &links.0.clock, (&links.0.limits, qlog));
        let connecting = self.towards(address).connect_with(client, address, SERVER_NAME)?;
        let connection = timeout(patience, connecting)
            .await
            .map_err(|_| LinkError::NoAnswer { address })?
            .map_err(|error| LinkError::Handshake { address, error })?;
        let who = authenticate(links, &connection, Role::Server, Some(domain)).inspect_err(|_| {
            connection.close(Close::Unauthenticated.code(), b"");
        })?;
        Ok(links.adopt(Lane::new(connection, who, true, shard, links.0.clock.now())))
    }

    /// Dials a joining exchange on a pinned server; runs on the shard's own runtime.
    pub(super) async fn dial_join(
        &self,
        address: SocketAddr,
        tls: QuicClientConfig,
        (clock, limits): (&Clock, &LinkLimits),
    ) -> Result<Connection, LinkError> {
        let client = transport::client(tls, clock, (limits, None));
        let connecting = self.towards(address).connect_with(client, address, SERVER_NAME)?;
        timeout(limits.handshake_timeout, connecting)
            .await
            .map_err(|_| LinkError::NoAnswer { address })?
            .map_err(|error| LinkError::Handshake { address, error })
    }

    /// Accepts until the endpoint is closed.
    pub(super) async fn accept(self, links: Links, shard: usize) {
        let half_open_max = (limits::HALF_OPEN_MAX / links.0.shards.count()).max(1);
        let retry_above = limits::HALF_OPEN_RETRY_ABOVE / links.0.shards.count();
        let half_open = Arc::new(Semaphore::new(half_open_max));
        while let Some(incoming) = self.listen.accept().await {
            let unfinished = half_open_max - half_open.available_permits();
            let demands_retry =
                unfinished > retry_above && !incoming.remote_address_validated() && incoming.may_retry();
            if demands_retry {
                // A sender that cannot receive at its address gets no further.
                let _ = incoming.retry();
                continue;
            }
            let Ok(permit) = half_open.clone().try_acquire_owned() else {
                tracing::debug!(address = %incoming.remote_address(), code = %Code::HANDSHAKES_LIMIT, "refused");
                incoming.refuse();
                continue;
            };
            let shards = links.0.shards.clone();
            let welcomed = welcome(links.clone(), shard, incoming, permit);
            shards.spawn_transient(shard, "handshake", welcomed);
        }
    }
}

/// Brings one incoming handshake to its end and hands the connection to whom it concerns. It counts as half
/// open until `Hello` is settled, or a joiner's request is waiting to be heard.
async fn welcome(links: Links, shard: usize, incoming: Incoming, _half_open: OwnedSemaphorePermit) {
    let address = incoming.remote_address();
    let connecting = match accept(&links, incoming) {
        Ok(connecting) => connecting,
        Err(error) => return tracing::debug!(%address, %error, "handshake refused"),
    };
    let connection = match timeout(links.0.limits.handshake_timeout, connecting).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => return tracing::debug!(%address, %error, "handshake failed"),
        Err(_) => return tracing::debug!(%address, "handshake timed out"),
    };
    match protocol(&connection).as_deref() {
        Some(protocol) if protocol == ALPN_JOIN => {
            if links.0.joins.try_send(connection.clone()).is_err() {
                connection.close(Close::Shutdown.code(), b"too many joins at once");
            }
        }
        Some(protocol) if protocol == ALPN_PEER => {
            match authenticate(&links, &connection, Role::Client, None) {
                Ok(who) => {
                    let lane = links.adopt(Lane::new(connection, who, false, shard, links.0.clock.now()));
                    tokio::select! {
                        biased;
                        // One that says nothing is closed after a while.
                        _ = lane.closed() => {}
                        () = lane.wait_up() => {}
                    }
                }
                Err(error) => {
                    tracing::warn!(%address, %error, "a connection was refused");
                    connection.close(Close::Unauthenticated.code(), b"");
                }
            }
        }
        _ => connection.close(Close::Protocol.code(), b"unknown protocol"),
    }
}

/// Begins the handshake; it gets settings of its own only when it is to be recorded.
fn accept(links: &Links, incoming: Incoming) -> Result<quinn::Connecting, quinn::ConnectionError> {
    let address = incoming.remote_address();
    let qlog = links.0.qlog.as_ref().and_then(|qlog| qlog.record("from", address, &links.0.clock));
    if qlog.is_none() {
        return incoming.accept();
    }
    let mut server = links.0.server.clone();
    server.transport_config(Arc::new(transport::transport(&links.0.limits, qlog)));
    incoming.accept_with(Arc::new(server))
}

fn protocol(connection: &Connection) -> Option<Vec<u8>> {
    let data = connection.handshake_data()?.downcast::<HandshakeData>().ok()?;
    data.protocol
}

/// Judges the other side's chain against the trust of this very moment.
fn authenticate(
    links: &Links,
    connection: &Connection,
    role: Role,
    expected: Option<&TrustDomain>,
) -> Result<Authenticated, LinkError> {
    let chain = presented_chain(connection.peer_identity());
    let identity = links.0.trust.judge(&chain, role, expected, links.0.clock.wall())?;
    let domain = identity.trust_domain();
    let cluster = links.cluster_of(domain).ok_or_else(|| LinkError::Stranger { domain: domain.clone() })?;
    let gateway =
        identity.gateway_id().ok_or_else(|| LinkError::NotAGateway { identity: identity.clone() })?;
    Ok(Authenticated { key: LaneKey { cluster, gateway }, identity, chain })
}
