//! Clusters in one process: real identities, real links over loopback, real sockets; no daemon.

use std::{
    future::Future,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use quinn::AsyncUdpSocket;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    sync::{mpsc, watch},
    time::timeout,
};
use tonic::transport::server::Connected as _;

use super::super::*;
use crate::{
    clock::Clock,
    identity::{CurrentSvid, Identity, NewIdentity, Tls, Trust},
    ledger::Ledger,
    link::{
        self, Caller, Lane, LinkLimits, QUIC_KEYS_BYTES, QuicKeys, Target,
        stream::{CallStream, Kind, Reader, Writer},
    },
    model::{
        catalog::{Export, ExportPort, ExportSource, Port, Traffic},
        ids::{ClusterId, GatewayId, Incarnation, Instance, Locality, Timestamp},
        limits::{ROOT_LIFE, SVID_LIFE},
        replication::RowChange,
        state::{CatalogChange, Event, Me, Peer, Settings, Standing, export_row},
        trust::Bundle,
        virtual_ip::{BindingState, VirtualIps},
    },
    net::{BoxFuture, Net, Os, QuicSocket, Stream, TcpListen},
    supervise::{Shutdown, Tasks},
};

/// Everything here is over within this.
pub(super) const SOON: Duration = Duration::from_secs(20);

/// The system's network for a process that may not bind ports below 1024.
#[derive(Debug)]
pub(super) struct Unprivileged;

impl Net for Unprivileged {
    fn quic_group(&self, addr: SocketAddr, shards: usize) -> io::Result<Vec<Box<dyn QuicSocket>>> {
        Os::default().quic_group(addr, shards)
    }
    fn quic_dial(&self, local: IpAddr) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        Os::default().quic_dial(local)
    }
    fn tcp_listen(&self, addr: SocketAddr, listeners: usize) -> io::Result<Vec<Box<dyn TcpListen>>> {
        if addr.port() < 1_024 {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        Os::default().tcp_listen(addr, listeners)
    }
    fn tcp_connect(
        &self,
        addr: SocketAddr,
        timeout: Duration,
    ) -> BoxFuture<'static, io::Result<Box<dyn Stream>>> {
        Os::default().tcp_connect(addr, timeout)
    }
    fn resolve(&self, host: &str, port: u16) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> {
        Os::default().resolve(host, port)
    }
}

/// What a cluster's gateway may take.
#[derive(Default)]
pub(super) struct Limits {
    pub(super) proxy: ProxyLimits,
    pub(super) link: LinkLimits,
}

/// A gateway without its daemon.
pub(super) struct Cluster {
    pub(super) id: ClusterId,
    pub(super) identity: Arc<Identity>,
    pub(super) links: Links,
    pub(super) ledger: Ledger,
    pub(super) proxy: Proxy,
    pub(super) shards: Shards,
    bundle: Bundle,
    trust: Arc<Trust>,
    state: watch::Sender<Arc<State>>,
    dialled: mpsc::Receiver<Arc<Lane>>,
    calls: mpsc::Receiver<CallStream<Caller>>,
    tasks: Tasks,
}

fn identity(cluster: &ClusterId, clock: &Clock) -> Arc<Identity> {
    let export_secret = clock.random_bytes();
    let new = NewIdentity { cluster, trust_domain: None, root_life: ROOT_LIFE, export_secret };
    Arc::new(Identity::create(new, clock.wall()).expect("made").0)
}

fn virtual_ips() -> VirtualIps {
    static NEXT: AtomicU8 = AtomicU8::new(0);
    // A block of its own for every cluster of every test process that runs at the same time.
    let process = u8::try_from(100 + std::process::id() % 100).expect("below 200");
    let block = Ipv4Addr::new(127, process, NEXT.fetch_add(1, Ordering::Relaxed), 0);
    VirtualIps::new(ipnet::Ipv4Net::new(block, 24).expect("a prefix")).expect("large enough")
}

/// How the shards of a test run.
pub(super) enum Runtimes {
    Inline(usize),
    Threads(usize),
}

impl Cluster {
    pub(super) async fn start(name: &str) -> Self {
        Self::start_with(name, Arc::new(Os::default()), &Runtimes::Inline(2), 1_024).await
    }

    pub(super) async fn start_with(
        name: &str,
        net: Arc<dyn Net>,
        runtimes: &Runtimes,
        open_files: u64,
    ) -> Self {
        Self::start_within(name, (net, runtimes), open_files, Limits::default()).await
    }

    /// The same with limits of its own.
    pub(super) async fn start_within(
        name: &str,
        (net, runtimes): (Arc<dyn Net>, &Runtimes),
        open_files: u64,
        limits: Limits,
    ) -> Self {
        let (clock, tasks) = (Clock::system(), Tasks::new(Shutdown::new()));
        let shards = match *runtimes {
            Runtimes::Inline(count) => Shards::inline(count, &tasks, clock.now()),
            Runtimes::Threads(count) => Shards::threads(count, &tasks, clock.now()).expect("threads"),
        };
        let id = ClusterId::parse(name).expect("an id");
        let identity = identity(&id, &clock);
        let gateway = GatewayId::parse("g1").expect("an id");
        let svid = CurrentSvid::new(identity.issue(&gateway, SVID_LIFE, clock.wall()).expect("issued"));
        let trust = Trust::new();
        let wall = clock.clone();
        let tls = Tls::new(trust.clone(), svid, Arc::new(move || wall.wall()));
        let trust_domain = identity.trust_domain().clone();
        let me = Me {
            cluster: id.clone(),
            trust_domain: trust_domain.clone(),
            gateway,
            locality: Locality::default(),
        };
        let (state, receiver) = watch::channel(Arc::new(State::new(me, Settings::default(), virtual_ips())));
        let ledger = Ledger::new(clock.clone());
        let inbound = Inbound::new(InboundParts {
            state: receiver.clone(),
            ledger: ledger.clone(),
            net: net.clone(),
            clock: clock.clone(),
            tasks: tasks.clone(),
            identity: identity.clone(),
            limits: limits.proxy,
        });
        let ((tell_dialled, dialled), (tell_calls, calls)) = (mpsc::channel(4), mpsc::channel(4));
        let (tell_joins, _) = mpsc::channel(1);
        let parts = link::Parts {
            keys: QuicKeys::new(&clock.random_bytes::<QUIC_KEYS_BYTES>()),
            own: trust_domain,
            server: tls.server(identity.join_key()),
            tls,
            trust: trust.clone(),
            net,
            clock,
            tasks: tasks.clone(),
            shards: shards.clone(),
            dialled: tell_dialled,
            calls: tell_calls,
            joins: tell_joins,
            qlog: None,
            limits: limits.link,
            serve_tcp: inbound.serve_tcp(),
        };
        let links = Links::start(parts, (Ipv4Addr::LOCALHOST, 0).into()).await.expect("bound");
        let proxy = Proxy::start(Parts {
            inbound,
            state: receiver,
            links: links.clone(),
            shards: shards.clone(),
            attribute: Arc::new(|_| None),
            policies: Arc::new(|_| FailoverPolicy::default()),
            open_files,
        });
        let bundle = identity.bundle().as_ref().clone();
        Self { id, identity, links, ledger, proxy, shards, bundle, trust, state, dialled, calls, tasks }
    }

    pub(super) fn apply(&self, event: Event) {
        let mut state = (**self.state.borrow()).clone();
        state.apply(event, Timestamp(1));
        self.state.send_replace(Arc::new(state));
    }

    pub(super) fn state(&self) -> Arc<State> {
        self.state.borrow().clone()
    }

    fn knows(&self, other: &Self, endpoints: Vec<String>) {
        self.apply(Event::Peer(Peer {
            cluster: other.id.clone(),
            trust_domain: other.identity.trust_domain().clone(),
            bundle: other.bundle.clone(),
            endpoints,
            generation: 1,
            standing: Standing::Approved,
            introduced_by: None,
            issuer: false,
            added: Timestamp(1),
            ruling: Default::default(),
        }));
        let state = self.state();
        self.trust.replace(state.peers.values().map(|peer| (&peer.trust_domain, &peer.bundle)));
        let targets = state.peers.values().map(|peer| Target {
            cluster: peer.cluster.clone(),
            trust_domain: peer.trust_domain.clone(),
            endpoints: peer.endpoints.clone(),
        });
        self.links.set_peers(targets.collect());
    }

    /// Links this cluster to another, which it dials, as the session would.
    pub(super) async fn join(&mut self, other: &mut Self) {
        other.knows(self, Vec::new());
        let address = other.links.address().expect("bound");
        self.knows(other, vec![address.to_string()]);
        self.link(other).await;
    }

    /// The part of that which comes again after a link has ended.
    pub(super) async fn link(&mut self, other: &mut Self) {
        let here = timeout(SOON, self.dialled.recv()).await.expect("in time").expect("dialled");
        let (mut writer, reader) = here.open(Kind::Control).await.expect("opened");
        writer.write_chunk(vec![Kind::Control.number()].into()).await.expect("written");
        let call = timeout(SOON, other.calls.recv()).await.expect("in time").expect("a call");
        let there = call.connect_info().lane;
        other.links.registry().hear(&there, Instance([1; 16]), 0);
        self.links.registry().settle(&here, Instance([2; 16]));
        drop((writer, reader));
    }

    /// Exports a service and tells `importers` of it; returns the port clients use.
    pub(super) fn offer(&self, export: &Export, importers: &[&Self]) {
        self.apply(Event::Exported(export.clone()));
        for importer in importers {
            self.tell(export, importer);
        }
    }

    /// Tells an importer of an export, whether it exists or not.
    pub(super) fn tell(&self, export: &Export, importer: &Self) {
        let peer = importer.identity.trust_domain();
        let id = self.identity.export_id(peer, &export.name, export.incarnation);
        let row = export_row(export, &Locality::default(), id);
        let rows = vec![RowChange::Row(Arc::new(row))];
        importer.apply(Event::Catalog(CatalogChange {
            peer: self.id.clone(),
            position: None,
            rows,
            swept: Vec::new(),
        }));
    }

    /// Waits until the import's port is in that state and tells where it listens.
    pub(super) async fn binding(&self, export: &Export, state: BindingState) -> SocketAddr {
        self.binding_of(&VipKey::Service(export.name.clone()), export, state).await
    }

    pub(super) async fn binding_of(&self, key: &VipKey, export: &Export, state: BindingState) -> SocketAddr {
        let port = export.ports[0].port.number;
        let address = || {
            let ip = self.state().virtual_ips.get(key)?;
            let bindings = self.ledger.bindings();
            let binding = bindings.get(&(ip, Protocol::Tcp, port))?;
            (binding.state == state).then(|| (ip, binding.bound_port).into())
        };
        soon(async {
            loop {
                if let Some(address) = address() {
                    return address;
                }
                tokio::task::yield_now().await;
            }
        })
        .await
    }

    /// A client's connection to the import.
    pub(super) async fn call(&self, export: &Export) -> Box<dyn Stream> {
        let address = self.binding(export, BindingState::Listening).await;
        Os::default().tcp_connect(address, SOON).await.expect("connected")
    }

    /// Ends every lane, as a gateway that dies would. Nobody settles those that are dialled anew.
    pub(super) fn cut_links(&self) {
        for lane in self.links.registry().all() {
            lane.close(link::codes::Close::Terminated);
        }
    }

    pub(super) fn count(&self, result: &str) -> u64 {
        self.ledger.counts().iter().filter(|(row, _)| row.result == result).map(|(_, count)| count).sum()
    }

    pub(super) async fn end(self) {
        self.tasks.shutdown().stop("the test is over");
        self.links.shutdown().await;
        // Links end with their endpoints; what is left over is none of the proxy's.
        let grace = Duration::from_millis(50);
        let late = [self.shards.finish(grace).await, self.tasks.finish(grace).await].concat();
        let ours = ["listeners", "listener", "link health", "export index"];
        assert!(!late.iter().any(|name| ours.iter().any(|ours| name.starts_with(ours))), "{late:?}");
        assert_eq!((self.tasks.failed(), self.tasks.transient_panics()), (None, 0));
    }
}

/// What `future` gives, in good time.
pub(super) async fn soon<T>(future: impl Future<Output = T>) -> T {
    timeout(SOON, future).await.expect("in good time")
}

/// A listener of an application, and where it is.
pub(super) fn application() -> (Box<dyn TcpListen>, SocketAddr) {
    let listener = Os::default().tcp_listen((Ipv4Addr::LOCALHOST, 0).into(), 1).expect("bound").remove(0);
    let address = listener.local_addr().expect("bound");
    (listener, address)
}

/// An address at which nothing listens.
pub(super) fn nothing_there() -> SocketAddr {
    application().1
}

/// An export of a free port with these endpoints.
pub(super) fn export(name: &str, to: &[SocketAddr]) -> Export {
    export_of(name, nothing_there().port(), to)
}

pub(super) fn export_of(name: &str, number: u16, to: &[SocketAddr]) -> Export {
    let port = Port { name: "main".into(), number, protocol: Protocol::Tcp, app_protocol: "".into() };
    Export {
        name: ServiceName::parse(name).expect("a name"),
        ports: vec![ExportPort { port, to: to.to_vec(), health: None }],
        endpoints: Vec::new(),
        annotations: std::collections::BTreeMap::new(),
        labels: std::collections::BTreeMap::new(),
        idempotent: false,
        session_affinity: None,
        traffic: Traffic::default(),
        headless: false,
        created: Timestamp(1),
        incarnation: Incarnation([9; 16]),
        source: ExportSource::Flag,
    }
}

pub(super) async fn accept(listener: &mut Box<dyn TcpListen>) -> Box<dyn Stream> {
    soon(listener.accept()).await.expect("accepted").0
}

pub(super) async fn read(stream: &mut Box<dyn Stream>, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    soon(stream.read_exact(&mut bytes)).await.expect("read");
    bytes
}

pub(super) async fn read_to_end(stream: &mut Box<dyn Stream>) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    soon(stream.read_to_end(&mut bytes)).await?;
    Ok(bytes)
}

pub(super) async fn write(stream: &mut Box<dyn Stream>, bytes: &[u8]) {
    soon(stream.write_all(bytes)).await.expect("written");
}

/// A proxied stream opened by hand, and the answer to it.
pub(super) async fn ask(
    lane: &Arc<Lane>,
    header: &federation_proto::v1::StreamHeader,
) -> (Writer, Reader, federation_proto::v1::open_reply::Outcome) {
    let (mut writer, mut reader) = lane.open(Kind::Tcp).await.expect("opened");
    writer.write_chunk(vec![Kind::Tcp.number()].into()).await.expect("written");
    writer.write_message(header).await.expect("written");
    let reply: federation_proto::v1::OpenReply = soon(reader.read_message(1_024)).await.expect("answered");
    (writer, reader, reply.outcome.expect("an outcome"))
}
