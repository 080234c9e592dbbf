//! The QUIC endpoints of each shard: one that listens, one that dials; and what becomes of a handshake.
//!
//! The listening sockets share one port and are steered by connection id; the dialling socket is ephemeral
//! (B3: nothing is ever rebound). Every connection is judged once more after its handshake, because TLS alone
//! does not know whether joining or peering was meant (ecosystem note 2b).

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use quinn::{
    Connection, Endpoint, Incoming, TokioRuntime,
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
    pub(super) dial_v4: Endpoint,
    pub(super) dial_v6: Option<Endpoint>,
}

impl ShardEndpoints {
    /// Takes the sockets into service; runs on the shard's own runtime.
    pub(super) fn open(
        links: &Links,
        shard: usize,
        socket: Box<dyn QuicSocket>,
        server: quinn::ServerConfig,
    ) -> io::Result<Self> {
        let inner = &links.0;
        let narrow = |count: usize| u8::try_from(count).unwrap_or(u8::MAX);
        let config = || {
            transport::endpoint(
                &inner.keys,
                narrow(shard),
                narrow(inner.shards.count()),
                inner.clock.random_bytes(),
            )
        };
        let listen = Endpoint::new_with_abstract_socket(
            config(),
            Some(server),
            socket.wrap()?,
            Arc::new(TokioRuntime),
        )?;
        let dial = |local: IpAddr| -> io::Result<Endpoint> {
            let socket = inner.net.quic_dial(local)?;
            Endpoint::new_with_abstract_socket(config(), None, socket, Arc::new(TokioRuntime))
        };
        let dial_v4 = dial(Ipv4Addr::UNSPECIFIED.into())?;
        // A host without IPv6 dials IPv4 only.
        let dial_v6 = dial(Ipv6Addr::UNSPECIFIED.into()).ok();
        Ok(Self { listen, dial_v4, dial_v6 })
    }

    fn towards(&self, address: SocketAddr) -> &Endpoint {
        match (&self.dial_v6, address) {
            (Some(dial), SocketAddr::V6(_)) => dial,
            _ => &self.dial_v4,
        }
    }

    /// Dials, shakes hands and authenticates a gateway of `domain`; runs on the shard's own runtime.
    pub(super) async fn dial(
        &self,
        links: &Links,
        shard: usize,
        address: SocketAddr,
        domain: &TrustDomain,
    ) -> Result<Arc<Lane>, LinkError> {
        let client = transport::client(links.0.tls.peer_client(domain), &links.0.clock);
        let connecting = self.towards(address).connect_with(client, address, SERVER_NAME)?;
        let connection = timeout(limits::HANDSHAKE_TIMEOUT, connecting)
            .await
            .map_err(|_| LinkError::NoAnswer { address })?
            .map_err(|error| LinkError::Handshake { address, error })?;
        let who = authenticate(links, &connection, Role::Server, Some(domain)).inspect_err(|_| {
            connection.close(Close::Unauthenticated.code(), b"");
        })?;
        transport::widen(&connection);
        Ok(links.adopt(Lane::new(connection, who, true, shard, links.0.clock.now())))
    }

    /// Dials a joining exchange on a pinned server; runs on the shard's own runtime.
    pub(super) async fn dial_join(
        &self,
        address: SocketAddr,
        tls: QuicClientConfig,
        clock: &Clock,
    ) -> Result<Connection, LinkError> {
        let client = transport::client(tls, clock);
        let connecting = self.towards(address).connect_with(client, address, SERVER_NAME)?;
        timeout(limits::HANDSHAKE_TIMEOUT, connecting)
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
    let connecting = match incoming.accept() {
        Ok(connecting) => connecting,
        Err(error) => return tracing::debug!(%address, %error, "handshake refused"),
    };
    let connection = match timeout(limits::HANDSHAKE_TIMEOUT, connecting).await {
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
                    transport::widen(&connection);
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
