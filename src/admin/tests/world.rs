//! A gateway as far as its admin API sees it: a real store, ledger and links, a zone read from the state, and
//! the rest of the gateway played.

use std::{
    net::Ipv4Addr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use axum::body::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Method, Request, StatusCode, client::conn::http1};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::mpsc,
};

use super::super::{
    About, Admin, Parts, PeerFigures,
    api::{Addresses, CandidateStatus, JoinStep, NewToken, PortExplanation, PortStatus, schema},
};
use crate::{
    clock::Clock,
    files::Memory,
    identity::{CurrentSvid, Identity, NewIdentity, Svid, Tls, Trust},
    ledger::Ledger,
    link::{self, Links, QuicKeys},
    metrics::Metrics,
    model::{
        catalog::{Port, Protocol, Row, Traffic, ZoneReady},
        code::{Code, Problem},
        ids::{ClusterId, Epoch, ExportId, GatewayId, Locality, Namespace, ServiceName, Timestamp},
        import::Import,
        limits::{ROOT_LIFE, SVID_LIFE},
        replication::RowChange,
        state::{CatalogChange, Event, Me, Peer, Settings, Standing, State},
        trust::Bundle,
        virtual_ip::{VipKey, VirtualIps},
        zone::{ZoneName, ZoneSource},
    },
    net::{Net as _, Os, unix_connect, unix_listen},
    store::Store,
    supervise::{Readiness, Shards, Shutdown, Tasks},
};

pub(super) const START: Timestamp = Timestamp(1_800_000_000_000);

/// A running admin API and everything around it.
pub(super) struct World {
    pub(super) store: Store,
    pub(super) ledger: Ledger,
    pub(super) readiness: Readiness,
    pub(super) tasks: Tasks,
    /// What the rest of the gateway was asked to do.
    pub(super) asked: Arc<Mutex<Vec<String>>>,
    pub(super) admin: Admin,
    folder: tempfile::TempDir,
    tcp: std::net::SocketAddr,
}

/// The zone of a state, synced or not.
struct StateZone {
    zone: ZoneName,
    state: Arc<State>,
}

impl ZoneSource for StateZone {
    fn zone(&self) -> &ZoneName {
        &self.zone
    }
    fn ttl(&self) -> u32 {
        5
    }
    fn serial(&self) -> u32 {
        7
    }
    fn synced(&self, _now: Instant) -> bool {
        self.state.synced()
    }
    fn import(&self, name: &ServiceName) -> Option<&Import> {
        self.state.imports.get(name).map(AsRef::as_ref)
    }
    fn holds(&self, namespace: &Namespace) -> bool {
        self.state.imports.keys().any(|name| name.namespace == *namespace)
    }
    fn virtual_ip(&self, key: &VipKey) -> Option<Ipv4Addr> {
        self.state.virtual_ips.get(key)
    }
    fn bound_port(&self, _ip: Ipv4Addr, _protocol: Protocol, port: u16) -> Option<u16> {
        Some(port)
    }
}

/// Sessions, as far as they are told here.
struct Sessions;

impl PeerFigures for Sessions {
    fn lag(&self, _peer: &ClusterId) -> Option<u64> {
        Some(2)
    }
    fn exported(&self, _peer: &ClusterId) -> usize {
        1
    }
    fn roots_seen(&self, _peer: &ClusterId) -> Option<(bool, Timestamp)> {
        Some((true, START))
    }
    fn too_large(&self, _peer: &ClusterId) -> Vec<String> {
        vec!["TMB-2101 shop/huge: too large".to_owned()]
    }
}

pub(super) fn cluster(id: &str) -> ClusterId {
    ClusterId::parse(id).expect("an id")
}

pub(super) fn name(text: &str) -> ServiceName {
    ServiceName::parse(text).expect("a name")
}

struct Keys {
    identity: Identity,
    bundle: Bundle,
    svid: Svid,
}

/// Keys are made anew each time, so nothing that is compared may hold a part of them.
fn keys(id: &str) -> Keys {
    let cluster = cluster(id);
    let trust_domain = Some(format!("{id}.test.tombolo").parse().expect("a trust domain"));
    let new = NewIdentity { cluster: &cluster, trust_domain, root_life: ROOT_LIFE, export_secret: [7; 32] };
    let (identity, _) = Identity::create(new, START).expect("made");
    let bundle = identity.bundle().as_ref().clone();
    let gateway = GatewayId::parse("g1").expect("an id");
    let svid = identity.issue(&gateway, SVID_LIFE, START).expect("issued");
    Keys { identity, bundle, svid }
}

impl World {
    pub(super) async fn start() -> Self {
        let (own, clock) = (keys("east"), Clock::simulated(1, START));
        let tasks = Tasks::inline(Shutdown::new());
        let me = Me {
            cluster: cluster("east"),
            trust_domain: own.identity.trust_domain().clone(),
            gateway: GatewayId::parse("g1").expect("an id"),
            locality: Locality::parse("eu/eu-1").expect("a locality"),
        };
        let range = "127.77.0.0/18".parse().expect("a range");
        let state = State::new(me, Settings::default(), VirtualIps::new(range).expect("large"));
        let store =
            Store::start(state, Arc::new(Memory::new()), "gateways/g1".to_owned(), clock.clone(), &tasks);
        let folder = tempfile::tempdir().expect("folder");
        let socket = unix_listen(&folder.path().join("admin.sock")).expect("socket");
        let listen = Os::default().tcp_listen("127.0.0.1:0".parse().expect("an address"), 1);
        let listener = listen.expect("listener").pop().expect("one");
        let tcp = listener.local_addr().expect("an address");
        let svid = CurrentSvid::new(own.svid);
        let links = links(&own.identity, svid.clone(), &clock, &tasks).await;
        let ledger = Ledger::new(clock.clone());
        let (readiness, asked) = (Readiness::new(), Arc::new(Mutex::new(Vec::new())));
        let zone_store = store.clone();
        let zone = ZoneName::parse("clusterset.local").expect("a zone");
        let parts = Parts {
            store: store.clone(),
            links,
            ledger: ledger.clone(),
            metrics: Metrics::new(),
            clock: clock.clone(),
            tasks: tasks.clone(),
            readiness: readiness.clone(),
            svid,
            identity: Arc::new(own.identity),
            about: about(&clock),
            zone: Arc::new(move || Arc::new(StateZone { zone: zone.clone(), state: zone_store.state() })),
            explain: Arc::new(|_| Some(vec![explained()])),
            peers: Arc::new(Sessions),
            issue_token: {
                let asked = asked.clone();
                Arc::new(move |wish| {
                    note(&asked, format!("token for {:?}", wish.cluster.map(|id| id.to_string())));
                    Box::pin(async move { issued(wish.uses) })
                })
            },
            join: Arc::new(|wish, tell| Box::pin(joined(wish.token, tell))),
            act: {
                let asked = asked.clone();
                Arc::new(move |peer, verb, force| {
                    note(&asked, format!("{verb} {peer}, force {force}"));
                    Box::pin(async move { Ok(format!("{peer}: {verb} done")) })
                })
            },
            begin_rotation: Arc::new(|| Box::pin(async { Ok(()) })),
            rotation_waits: (Duration::from_secs(3_600), Duration::from_secs(60)),
            unconfirmed: {
                let asked = asked.clone();
                Arc::new(move |name, wait| {
                    note(&asked, format!("wait {} ms until {name} is gone", wait.as_millis()));
                    Box::pin(async move { vec![cluster("west")] })
                })
            },
            warnings: Arc::new(|| vec![Problem::new(Code::OPEN_FILES_LOW, "256 open files are allowed")]),
        };
        let admin = Admin::start(parts, socket, listener);
        Self { store, ledger, readiness, tasks, asked, admin, folder, tcp }
    }

    pub(super) async fn apply(&self, event: Event) {
        self.store.apply(event).await.expect("applied");
    }

    /// West is a peer, and exports `shop/web` with two of three endpoints ready.
    pub(super) async fn with_west(self) -> Self {
        let west = keys("west");
        self.apply(Event::Peer(Peer {
            cluster: cluster("west"),
            trust_domain: west.identity.trust_domain().clone(),
            bundle: west.bundle,
            endpoints: vec!["192.0.2.7:7443".to_owned()],
            generation: 1,
            standing: Standing::Approved,
            introduced_by: None,
            issuer: false,
            added: START,
            ruling: Default::default(),
        }))
        .await;
        self
    }

    /// What west exports has arrived.
    pub(super) async fn with_catalog(self) -> Self {
        let rows = vec![RowChange::Row(Arc::new(row("shop/web", 2, 3)))];
        let peer = cluster("west");
        let swept = Vec::new();
        self.apply(Event::Catalog(CatalogChange { peer: peer.clone(), position: None, rows, swept })).await;
        self.apply(Event::CatalogSynced(peer, (Epoch([1; 16]), 1))).await;
        self
    }

    /// The socket and the TCP address.
    pub(super) fn addresses(&self) -> (std::path::PathBuf, std::net::SocketAddr) {
        (self.folder.path().join("admin.sock"), self.tcp)
    }

    pub(super) fn asked(&self) -> Vec<String> {
        self.asked.lock().expect("lock").clone()
    }

    /// One request to the socket; the body as it came.
    pub(super) async fn send(&self, method: Method, path: &str, body: &str) -> (StatusCode, String) {
        let stream = unix_connect(&self.folder.path().join("admin.sock")).await.expect("connected");
        exchange(stream, method, path, body).await
    }

    /// One request to the TCP address.
    pub(super) async fn send_tcp(&self, method: Method, path: &str) -> (StatusCode, String) {
        let stream = Os::default().tcp_connect(self.tcp, Duration::from_secs(5)).await.expect("connected");
        exchange(stream, method, path, "").await
    }

    /// `GET`, which must succeed.
    pub(super) async fn get(&self, path: &str) -> Value {
        let (status, body) = self.send(Method::GET, path, "").await;
        assert_eq!(status, StatusCode::OK, "{body}");
        serde_json::from_str(&body).expect("JSON")
    }

    /// A request that must be refused: its status, code, message and advice.
    pub(super) async fn refused(&self, method: Method, path: &str, body: &str) -> String {
        let (status, body) = self.send(method, path, body).await;
        assert!(!status.is_success(), "{body}");
        let refusal: super::super::api::Refusal = serde_json::from_str(&body).expect("a refusal");
        assert_eq!(refusal.schema, "tombolo/v1/error");
        format!("{} {}", status.as_u16(), refusal.error)
    }
}

async fn links(identity: &Identity, svid: Arc<CurrentSvid>, clock: &Clock, tasks: &Tasks) -> Links {
    let trust = Trust::new();
    let wall = clock.clone();
    let tls = Tls::new(trust.clone(), svid, Arc::new(move || wall.wall()));
    let parts = link::Parts {
        keys: QuicKeys::new(&[3; 64]),
        own: identity.trust_domain().clone(),
        server: tls.server(identity.join_key()),
        tls,
        trust,
        net: Arc::new(Os::default()),
        clock: clock.clone(),
        tasks: tasks.clone(),
        shards: Shards::inline(1, tasks, clock.now()),
        dialled: mpsc::channel(1).0,
        calls: mpsc::channel(1).0,
        joins: mpsc::channel(1).0,
        qlog: None,
        limits: link::LinkLimits::default(),
        serve_tcp: Arc::new(|_, _, _| Box::pin(std::future::ready(()))),
    };
    Links::start(parts, "127.0.0.1:0".parse().expect("an address")).await.expect("links")
}

fn about(clock: &Clock) -> About {
    About {
        version: "0.1.0".to_owned(),
        state: "/var/lib/tombolo".to_owned(),
        addresses: Addresses {
            quic: "0.0.0.0:7443".to_owned(),
            dns: "127.0.0.1:5533".to_owned(),
            admin: "127.0.0.1:7070".to_owned(),
            socket: "/var/lib/tombolo/gateways/g1/admin.sock".to_owned(),
        },
        started: clock.now(),
    }
}

pub(super) fn row(text: &str, ready: u32, total: u32) -> Row {
    let port = Port { name: "http".into(), number: 80, protocol: Protocol::Tcp, app_protocol: "".into() };
    Row {
        name: name(text),
        seq: 1,
        export_id: ExportId([1; 16]),
        ports: vec![port],
        zones: vec![ZoneReady { locality: Locality::default(), ready, total }],
        labels: std::collections::BTreeMap::new(),
        annotations: std::collections::BTreeMap::new(),
        created: Timestamp(1),
        headless: false,
        idempotent: true,
        session_affinity: None,
        traffic: Traffic::default(),
        endpoints: Vec::new(),
    }
}

fn explained() -> PortExplanation {
    PortExplanation {
        endpoints: Vec::new(),
        port: PortStatus {
            name: "http".to_owned(),
            protocol: "tcp".to_owned(),
            port: 80,
            bound_port: Some(80),
            state: "listening".to_owned(),
        },
        considered: vec![CandidateStatus {
            cluster: cluster("west"),
            priority: Some(1),
            share: 100,
            ready: 2,
            total: 3,
            rtt_ms: Some(38.0),
            reason: "its link is up".to_owned(),
        }],
    }
}

fn note(asked: &Mutex<Vec<String>>, what: String) {
    asked.lock().expect("lock").push(what);
}

fn issued(uses: Option<u32>) -> Result<NewToken, Problem> {
    if uses == Some(0) {
        return Err(Problem::new(Code::TOKEN_LIFE_INVALID, "a token has 1 to 32 uses, not 0"));
    }
    Ok(NewToken {
        schema: schema("token"),
        id: "0000000000000001".to_owned(),
        token: "tmb1_x".to_owned(),
        expires_unix_ms: START,
        uses: uses.unwrap_or(1),
        addresses: vec!["192.0.2.1:7443".to_owned()],
        trust_domain: "east.test.tombolo".parse().expect("a trust domain"),
        fingerprint: "4c1e".to_owned(),
    })
}

/// Ends as the token says: well, with a problem, or not at all.
async fn joined(token: String, tell: mpsc::Sender<JoinStep>) {
    let step = |step: &str| JoinStep {
        schema: schema("join"),
        step: step.to_owned(),
        text: format!("{step} is good"),
        peer: None,
        problem: None,
    };
    let last = match token.as_str() {
        "good" => Some(JoinStep { peer: Some(cluster("west")), ..step("done") }),
        "bad" => {
            let problem = Problem::new(Code::TOKEN_EXPIRED, "it expired 3 minutes ago");
            Some(JoinStep { problem: Some(problem), ..step("exchange") })
        }
        _ => None,
    };
    for step in std::iter::once(step("token")).chain(last) {
        let _ = tell.send(step).await;
    }
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    method: Method,
    path: &str,
    body: &str,
) -> (StatusCode, String) {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.expect("a connection");
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "tombolo")
        .body(Full::new(Bytes::from(body.to_owned())))
        .expect("a request");
    let answer = async {
        let answer = sender.send_request(request).await.expect("an answer");
        let status = answer.status();
        let bytes = answer.into_body().collect().await.expect("a body").to_bytes();
        (status, String::from_utf8(bytes.into()).expect("text"))
    };
    tokio::pin!(answer, connection);
    tokio::select! {
        biased;
        answered = &mut answer => answered,
        _ = &mut connection => answer.await,
    }
}
