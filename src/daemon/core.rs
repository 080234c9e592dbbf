//! The parts that make a gateway, constructed and connected: state, identity, links, sessions, proxy.
//!
//! No DNS or admin socket here, so that a simulation can run many of these in one process.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    sync::{Arc, Mutex},
};

use quinn::Connection;
use tokio::sync::{mpsc, watch};

use super::{
    bundles::{self, Publishing},
    exports,
    home::{Home, Opened},
    kubernetes,
    names::{self, Started, ZoneView},
    renewal::Renewal,
    replicas::Replicas,
    rotation::{self, Rotation},
    settings,
};
use crate::{
    checks,
    clock::Clock,
    config::Config,
    files::PublicFolder,
    identity::{CurrentSvid, Identity, Tls, Trust, WallClock},
    kubernetes::Kubernetes,
    ledger::Ledger,
    link::{self, Caller, Lane, Links, QuicKeys, stream::CallStream},
    model::{
        code::{Code, Problem},
        ids::{Instance, ServiceName},
        limits,
        state::{Me, State},
        zone::{ZoneName, ZoneSource},
    },
    net::{Net, TcpListen},
    peer::{self, Ourselves, Peers},
    proxy::{self, Proxy},
    store::{self, Store},
    supervise::{Shards, Tasks},
};

/// What a gateway is started with.
pub struct Launch {
    /// What was configured.
    pub config: Config,
    /// Where it keeps what must last.
    pub home: Home,
    /// The network.
    pub net: Arc<dyn Net>,
    /// Time and randomness.
    pub clock: Clock,
    /// The control runtime.
    pub tasks: Tasks,
    /// The data runtimes.
    pub shards: Shards,
    /// This host's name, for the default cluster id.
    pub host_name: String,
    /// This host's addresses, for tokens and peers.
    pub interfaces: Vec<IpAddr>,
    /// Sockets this process may have open.
    pub open_files: u64,
    /// Where QUIC connections are recorded, if they are.
    pub qlog: Option<link::Qlog>,
}

/// A running gateway without its front doors.
pub struct Core {
    /// The state.
    pub store: Store,
    /// The links.
    pub links: Links,
    /// Live figures.
    pub ledger: Ledger,
    /// The sessions.
    pub peers: Peers,
    /// The proxy.
    pub proxy: Proxy,
    /// The Kubernetes cluster this gateway belongs to, if it is in one.
    pub kubernetes: Option<Kubernetes>,
    pub(super) config: Config,
    pub(super) clock: Clock,
    pub(super) tasks: Tasks,
    pub(super) shards: Shards,
    pub(super) net: Arc<dyn Net>,
    pub(super) home: Arc<Home>,
    /// This cluster and gateway, as others meet it.
    pub ours: Arc<Ourselves>,
    pub(super) rotation: Rotation,
    pub(super) zone: ZoneName,
    pub(super) started: Started,
    pub(super) first_start: bool,
    pub(super) replicas: Replicas,
    /// What the config declares now.
    pub(super) declared: watch::Sender<BTreeSet<ServiceName>>,
    /// Keeps the block of virtual IPs ours.
    _guard: Mutex<Box<dyn TcpListen>>,
}

impl std::fmt::Debug for Core {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Core").field("home", &self.home).finish_non_exhaustive()
    }
}

/// The trust of a gateway, and what its TLS presents.
struct Security {
    identity: Arc<Identity>,
    svid: Arc<CurrentSvid>,
    svid_renewed: watch::Sender<u64>,
    trust: Arc<Trust>,
    tls: Tls,
}

/// What every part stands on.
struct Ground {
    config: Config,
    home: Arc<Home>,
    net: Arc<dyn Net>,
    clock: Clock,
    tasks: Tasks,
    shards: Shards,
    security: Security,
    store: Store,
    ledger: Ledger,
    replicas: Replicas,
    kubernetes: Option<Kubernetes>,
}

/// What links hand to sessions.
struct Arrivals {
    dialled: mpsc::Receiver<Arc<Lane>>,
    calls: mpsc::Receiver<CallStream<Caller>>,
    joins: mpsc::Receiver<Connection>,
}

impl Core {
    /// Starts every part; nothing is served before all could start.
    ///
    /// # Errors
    /// A [`Problem`]: state folder, config, or an address.
    pub async fn start(launch: Launch) -> Result<Self, Problem> {
        let Launch { config, home, net, clock, tasks, shards, host_name, interfaces, open_files, qlog } =
            launch;
        let started = Started { at: clock.now(), wall: clock.wall() };
        let home = Arc::new(home);
        let opened = home.open(&config, &host_name, &clock)?;
        let first_start = opened.first_start;
        let quic_keys = opened.quic_keys.clone();
        let security = security(opened, &clock)?;
        bundles::take_workload_roots(&config.identity, &security.identity)?;
        let zone = ZoneName::parse(&config.names.zone)
            .map_err(|error| Problem::new(Code::CONFIG_VALUE_INVALID, format!("names.zone: {error}")))?;
        let replicas =
            Replicas::new(home.persist.clone(), home.gateway.clone(), clock.clone(), tasks.clone());
        let (store, guard) = open_store(&config, &home, &*net, &security, &replicas, &clock, &tasks).await?;
        let ledger = Ledger::new(clock.clone());
        let declared = watch::Sender::new(exports::declared(&config));
        let kubernetes = kubernetes::start(&config, &home, &store, &clock, &tasks)
            .await
            .inspect_err(|_| tasks.shutdown().stop("not started"))?;
        let ground =
            Ground { config, home, net, clock, tasks, shards, security, store, ledger, replicas, kubernetes };
        let inbound = ground.inbound();
        let opened = ground.open_links(quic_keys, qlog, &inbound).await;
        // Told before the parts are dropped: what ends now ends because of this.
        let (links, arrivals) = opened.inspect_err(|_| ground.tasks.shutdown().stop("not started"))?;
        let ours = ground.ours(&links, &interfaces);
        let endpoints = ground.follow_replicas(&ours, declared.subscribe());
        let peers = ground.start_peers(&links, ours.clone(), arrivals, endpoints);
        let proxy = ground.start_proxy(&links, inbound, open_files);
        ground.renew_svid();
        let rotation = ground.rotate_roots();
        ground.publish_bundles();
        ground.check_endpoints();
        let Ground { config, home, net, clock, tasks, shards, store, ledger, replicas, kubernetes, .. } =
            ground;
        Ok(Self {
            store,
            links,
            ledger,
            peers,
            proxy,
            kubernetes,
            config,
            clock,
            tasks,
            shards,
            net,
            home,
            ours,
            rotation,
            zone,
            started,
            first_start,
            replicas,
            declared,
            _guard: Mutex::new(guard),
        })
    }

    /// The zone as it is answered now.
    #[must_use]
    pub fn zone(&self) -> Arc<dyn ZoneSource> {
        Arc::new(ZoneView::new(
            self.zone.clone(),
            self.config.names.ttl,
            self.started,
            self.clock.wall(),
            self.store.state(),
            &self.ledger,
        ))
    }

    /// Tells the peers, stops taking new work, lets what runs finish, and says goodbye (settled M12).
    pub async fn shutdown(&self) {
        let reason = self.tasks.shutdown().reason().unwrap_or_default();
        self.peers.drain(self.config.limits.drain_timeout, &reason).await;
        self.proxy.shutdown_within(self.config.limits.drain_timeout).await;
        self.links.shutdown().await;
    }
}

impl Ground {
    fn inbound(&self) -> proxy::Inbound {
        proxy::Inbound::new(proxy::InboundParts {
            state: self.store.watch(),
            identity: self.security.identity.clone(),
            ledger: self.ledger.clone(),
            net: self.net.clone(),
            clock: self.clock.clone(),
            tasks: self.tasks.clone(),
            limits: settings::proxy_limits(&self.config),
        })
    }

    async fn open_links(
        &self,
        keys: QuicKeys,
        qlog: Option<link::Qlog>,
        inbound: &proxy::Inbound,
    ) -> Result<(Links, Arrivals), Problem> {
        let (dialled, greetings) = mpsc::channel(self.config.limits.peers.min(limits::PEERS_MAX));
        let (calls, incoming_calls) = mpsc::channel(limits::CALLS_WAITING_MAX);
        let (joins, incoming_joins) = mpsc::channel(limits::JOINS_IN_FLIGHT_MAX);
        let identity = &self.security.identity;
        let parts = link::Parts {
            keys,
            own: identity.trust_domain().clone(),
            tls: self.security.tls.clone(),
            server: self.security.tls.server(identity.join_key()),
            trust: self.security.trust.clone(),
            net: self.net.clone(),
            clock: self.clock.clone(),
            tasks: self.tasks.clone(),
            shards: self.shards.clone(),
            dialled,
            calls,
            joins,
            qlog,
            limits: settings::link_limits(&self.config),
            serve_tcp: inbound.serve_tcp(),
        };
        let address = self.config.listen.quic;
        let links = Links::start(parts, address)
            .await
            .map_err(|error| super::address_problem("quic", address, &error))?;
        let arrivals = Arrivals { dialled: greetings, calls: incoming_calls, joins: incoming_joins };
        Ok((links, arrivals))
    }

    fn ours(&self, links: &Links, interfaces: &[IpAddr]) -> Arc<Ourselves> {
        let bound: Vec<_> = links.address().into_iter().collect();
        Arc::new(Ourselves {
            identity: self.security.identity.clone(),
            svid: self.security.svid.clone(),
            endpoints: peer::issue::advertised(&self.config.advertise.addresses, &bound, interfaces),
            clock: self.clock.clone(),
            limits: settings::peer_limits(&self.config),
        })
    }

    /// Where all gateways of this cluster are.
    fn follow_replicas(
        &self,
        ours: &Ourselves,
        declares: watch::Receiver<BTreeSet<ServiceName>>,
    ) -> watch::Receiver<Vec<String>> {
        let (all, endpoints) = watch::channel(ours.endpoints.clone());
        let run = self.replicas.clone().run(ours.endpoints.clone(), declares, all);
        self.tasks.spawn_transient("replicas", run);
        endpoints
    }

    fn start_peers(
        &self,
        links: &Links,
        ours: Arc<Ourselves>,
        arrivals: Arrivals,
        endpoints: watch::Receiver<Vec<String>>,
    ) -> Peers {
        Peers::start(peer::Parts {
            store: self.store.clone(),
            links: links.clone(),
            ledger: self.ledger.clone(),
            ours,
            endpoints,
            net: self.net.clone(),
            svid_renewed: self.security.svid_renewed.clone(),
            trust: self.security.trust.clone(),
            clock: self.clock.clone(),
            tasks: self.tasks.clone(),
            instance: Instance(self.clock.random_bytes()),
            shards: u32::try_from(self.shards.count()).unwrap_or(u32::MAX),
            quotas: settings::quotas(&self.config),
            dialled: arrivals.dialled,
            calls: arrivals.calls,
            joins: arrivals.joins,
        })
    }

    fn start_proxy(&self, links: &Links, inbound: proxy::Inbound, open_files: u64) -> Proxy {
        let kubernetes = self.kubernetes.clone();
        Proxy::start(proxy::Parts {
            inbound,
            state: self.store.watch(),
            policies: policies(&self.store),
            links: links.clone(),
            shards: self.shards.clone(),
            attribute: Arc::new(move |ip| kubernetes.as_ref()?.caller(ip)),
            open_files,
        })
    }

    fn check_endpoints(&self) {
        checks::start(checks::Parts {
            store: self.store.clone(),
            ledger: self.ledger.clone(),
            net: self.net.clone(),
            clock: self.clock.clone(),
            tasks: self.tasks.clone(),
        });
    }

    fn renew_svid(&self) {
        let renewal = Renewal {
            home: self.home.clone(),
            life: self.config.identity.svid_life,
            identity: self.security.identity.clone(),
            svid: self.security.svid.clone(),
            renewed: self.security.svid_renewed.clone(),
            clock: self.clock.clone(),
            tasks: self.tasks.clone(),
        };
        self.tasks.spawn("svid renewal", renewal.run());
    }
}

impl Ground {
    /// For workloads; a home in memory has no folder unless one is configured.
    fn publish_bundles(&self) {
        let configured = &self.config.identity.bundles;
        let folder = match (configured.is_empty(), &self.home.lock) {
            (false, _) => PublicFolder::at(configured),
            (true, Some(_)) => PublicFolder::at(std::path::Path::new(&self.home.place).join("bundles")),
            (true, None) => return,
        };
        let publishing = Publishing {
            folder,
            identity: self.security.identity.clone(),
            store: self.store.clone(),
            tasks: self.tasks.clone(),
        };
        self.tasks.spawn("bundles", publishing.run());
    }

    fn rotate_roots(&self) -> Rotation {
        let rotation = Rotation::new(rotation::Parts {
            home: self.home.clone(),
            lives: self.config.identity.clone(),
            identity: self.security.identity.clone(),
            store: self.store.clone(),
            ledger: self.ledger.clone(),
            clock: self.clock.clone(),
            tasks: self.tasks.clone(),
            wake: tokio::sync::Notify::new(),
        });
        self.tasks.spawn("root rotation", rotation.clone().run());
        rotation
    }
}

/// Where a person said that connections go, by the newest settings.
fn policies(store: &Store) -> proxy::Policies {
    let store = store.clone();
    Arc::new(move |name| store.state().settings.failover(name))
}

fn security(opened: Opened, clock: &Clock) -> Result<Security, Problem> {
    let identity = Arc::new(opened.identity);
    let svid = CurrentSvid::new(opened.svid);
    let trust = Trust::new();
    let wall: WallClock = {
        let clock = clock.clone();
        Arc::new(move || clock.wall())
    };
    let tls = Tls::new(trust.clone(), svid.clone(), wall);
    Ok(Security { identity, svid, svid_renewed: watch::Sender::new(0), trust, tls })
}

/// Loads the state, claims its virtual IPs, and brings in what the config file declares.
async fn open_store(
    config: &Config,
    home: &Home,
    net: &dyn Net,
    security: &Security,
    replicas: &Replicas,
    clock: &Clock,
    tasks: &Tasks,
) -> Result<(Store, Box<dyn TcpListen>), Problem> {
    let me = Me {
        cluster: security.identity.cluster().clone(),
        trust_domain: security.identity.trust_domain().clone(),
        gateway: home.gateway.clone(),
        locality: config.locality.clone(),
    };
    let rules = settings::settings(config, &me.trust_domain)?;
    let held =
        store::held_block(&home.persist, &home.folder()).map_err(|error| super::home::problem(&error))?;
    let block = names::claim_block(net, config.names.virtual_ips, held)?;
    let loaded = store::load(&home.persist, &home.folder(), me, rules, block.ips, clock.wall())
        .map_err(|error| super::home::problem(&error))?;
    for warning in &loaded.warnings {
        match super::home::problem(warning) {
            problem if problem.code == Code::STATE_RECOVERED => {
                tracing::warn!(code = %problem.code, error = %warning, "a state file was damaged");
            }
            problem => {
                tracing::error!(code = %problem.code, error = %warning, "a state file is left aside: what it held is lost");
            }
        }
    }
    let mut state = loaded.state;
    state.entrances = config.kubernetes.enabled.then(|| state.entrances.take().unwrap_or_default());
    let store = Store::start(state, home.persist.clone(), home.folder(), clock.clone(), tasks);
    let (config, replicas, clock) = (config.clone(), replicas.clone(), clock.clone());
    // In one piece: each piece is written to disk before it counts.
    let declare =
        move |state: &State, _| Ok((exports::events(&config, state, &replicas.declared(), &clock)?, ()));
    // Told before the store is dropped: it ends because of this.
    store.transact(declare).await.inspect_err(|_: &Problem| tasks.shutdown().stop("not started"))?;
    Ok((store, block.guard))
}
