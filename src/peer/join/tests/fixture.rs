//! A gateway for tests of joining: real identity, store and links, files in memory, all on loopback.

use std::{net::SocketAddr, sync::Arc};

use tokio::sync::mpsc;

use crate::{
    clock::Clock,
    files::Memory,
    identity::{CurrentSvid, Identity, NewIdentity, Tls, Trust, WallClock, join_client},
    link::{
        LinkLimits, Links, Parts, QUIC_KEYS_BYTES, QuicKeys,
        stream::{Reader, Writer},
    },
    model::{
        code::{Code, Problem},
        ids::{ClusterId, GatewayId, Locality, TrustDomain},
        limits,
        state::{Event, Me, Peer, Settings, State},
        token::{
            Token,
            record::{TokenRecord, TokenTerms},
        },
        virtual_ip::VirtualIps,
    },
    net::{Net, Os},
    peer::join::{
        Joins, Ourselves, PeerLimits, issue, length_prefixed, read_bytes,
        redeem::{Redeemer, Step},
    },
    store::Store,
    supervise::{Shards, Shutdown, Tasks},
};

pub(super) struct Gateway {
    pub(super) ours: Arc<Ourselves>,
    pub(super) store: Store,
    links: Links,
    net: Arc<dyn Net>,
    wall: WallClock,
}

pub(super) fn id(text: &str) -> ClusterId {
    ClusterId::parse(text).expect("an id")
}

pub(super) fn domain_of(gateway: &Gateway) -> &TrustDomain {
    gateway.ours.identity.trust_domain()
}

pub(super) fn denied<T>(result: Result<T, Problem>) -> Code {
    result.err().expect("refused").code
}

/// Nobody listens.
pub(super) fn steps() -> mpsc::Sender<Step> {
    mpsc::channel(1).0
}

pub(super) async fn gateway(cluster: &str) -> Gateway {
    gateway_within(cluster, PeerLimits::default()).await
}

/// The same with limits of its own.
pub(super) async fn gateway_within(cluster: &str, own: PeerLimits) -> Gateway {
    let clock = Clock::system();
    let (cluster, gateway) = (id(cluster), GatewayId::parse("g1").expect("an id"));
    let new = NewIdentity {
        cluster: &cluster,
        trust_domain: None,
        root_life: limits::ROOT_LIFE,
        export_secret: clock.random_bytes(),
    };
    let (identity, _) = Identity::create(new, clock.wall()).expect("made");
    let svid = identity.issue(&gateway, limits::SVID_LIFE, clock.wall()).expect("issued");
    let (svid, trust) = (CurrentSvid::new(svid), Trust::new());
    let there = clock.clone();
    let wall: WallClock = Arc::new(move || there.wall());
    let tls = Tls::new(trust.clone(), svid.clone(), wall.clone());
    let tasks = Tasks::new(Shutdown::new());
    let net: Arc<dyn Net> = Arc::new(Os::default());
    let (joins, arrived) = mpsc::channel(limits::JOINS_IN_FLIGHT_MAX);
    let parts = Parts {
        keys: QuicKeys::new(&clock.random_bytes::<QUIC_KEYS_BYTES>()),
        own: identity.trust_domain().clone(),
        server: tls.server(identity.join_key()),
        tls,
        trust,
        net: net.clone(),
        clock: clock.clone(),
        tasks: tasks.clone(),
        shards: Shards::inline(1, &tasks, clock.now()),
        dialled: mpsc::channel(1).0,
        calls: mpsc::channel(1).0,
        joins,
        qlog: None,
        limits: LinkLimits::default(),
        serve_tcp: Arc::new(|_, _, _| Box::pin(async {})),
    };
    let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
    let links = Links::start(parts, any_port).await.expect("bound");
    let address = links.address().expect("bound");
    let me = Me {
        cluster,
        trust_domain: identity.trust_domain().clone(),
        gateway,
        locality: Locality::parse("eu/a").expect("a locality"),
    };
    let virtual_ips = VirtualIps::new("127.77.0.0/18".parse().expect("a network")).expect("large enough");
    let state = State::new(me, Settings::default(), virtual_ips);
    let store = Store::start(state, Arc::new(Memory::new()), "gateways/g1".to_owned(), clock.clone(), &tasks);
    let endpoints = vec![address.to_string()];
    let ours = Arc::new(Ourselves { identity: Arc::new(identity), svid, endpoints, clock, limits: own });
    serve(Joins::new(ours.clone(), store.clone()), arrived, &tasks);
    Gateway { ours, store, links, net, wall }
}

fn serve(joins: Joins, mut arrived: mpsc::Receiver<quinn::Connection>, tasks: &Tasks) {
    let inner = tasks.clone();
    tasks.spawn_transient("joins", async move {
        while let Some(connection) = arrived.recv().await {
            inner.spawn_transient("join", joins.clone().serve(connection));
        }
    });
}

impl Gateway {
    pub(super) async fn token(&self, terms: TokenTerms) -> String {
        let made = issue::create(&self.ours, &self.store, terms, true).await.expect("made");
        made.text.to_string()
    }

    pub(super) fn redeemer(&self) -> Redeemer {
        let (ours, store) = (self.ours.clone(), self.store.clone());
        Redeemer { ours, store, links: self.links.clone(), net: self.net.clone(), re_trust: false }
    }

    pub(super) fn peer(&self, cluster: &str) -> Option<Arc<Peer>> {
        self.store.state().peers.get(&id(cluster)).cloned()
    }

    pub(super) fn record(&self, token: &Token) -> TokenRecord {
        (**self.store.state().tokens.get(&token.id).expect("known")).clone()
    }

    pub(super) async fn change(&self, event: Event) {
        self.store.apply(event).await.expect("stored");
    }

    /// Dials `issuer` as a joiner would, and says nothing yet.
    pub(super) async fn dial(&self, issuer: &Self, token: &Token) -> quinn::Connection {
        let address = issuer.links.address().expect("bound");
        self.links.dial_join(address, join_client(token.pin, &self.wall)).await.expect("answered")
    }

    /// Sends these bytes as a request; the bytes of the answer.
    pub(super) async fn exchange(connection: &quinn::Connection, request: &[u8]) -> Vec<u8> {
        let (send, receive) = connection.open_bi().await.expect("open");
        let (mut writer, mut reader) = (Writer::new(send), Reader::new(receive));
        writer.write_chunk(length_prefixed(request)).await.expect("sent");
        writer.finish();
        read_bytes(&mut reader, limits::JOIN_MESSAGE_BYTES_MAX).await.expect("answered")
    }
}
