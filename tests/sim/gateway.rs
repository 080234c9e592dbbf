//! One gateway's host: what outlives its crashes, how it starts, what can be asked of it.
//!
//! The daemon is whole but for its front doors: the zone is asked directly, and the admin API's verbs are the
//! calls they stand for.

use std::{
    cell::{Cell, RefCell},
    future::Future,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    pin::Pin,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    sync::mpsc,
    time::{sleep, timeout},
};
use tombolo::{
    clock::Clock,
    config::{Config, ExportFlags, ExportSpec},
    daemon::{
        Home,
        core::{Core, Launch},
    },
    files::Memory,
    model::{
        catalog::ExportSource,
        code::Problem,
        ids::{ClusterId, GatewayId, Incarnation, Locality, ServiceName, Timestamp, TrustDomain},
        state::Event,
        token::record::TokenTerms,
        zone::{Data, QueryType, Question, Rcode, answer},
    },
    net::{Net as _, Stream},
    peer::issue,
    supervise::{Shards, Shutdown, Tasks},
};

use super::{
    net::{HostNet, Internet},
    observe,
    trace::Trace,
    truth::Truth,
};

/// When the simulated world begins: 2026-01-01.
pub(crate) const START: Timestamp = Timestamp(1_767_225_600_000);
/// The port of every service.
pub(crate) const SERVICE_PORT: u16 = 80;
/// No request may take longer, whatever fails.
const REQUEST_PATIENCE: Duration = Duration::from_secs(15);
/// The mean pause of the client that every host runs.
const CLIENT_PAUSE_MS: u64 = 800;

type Order = Box<dyn FnOnce(Rc<Gateway>) -> Pin<Box<dyn Future<Output = ()>>>>;

/// What outlives the crashes of one gateway.
pub(crate) struct Site {
    /// Host, cluster and trust domain in one word.
    pub(crate) name: &'static str,
    pub(crate) seed: u64,
    pub(crate) internet: Internet,
    pub(crate) trace: Trace,
    pub(crate) truth: Truth,
    pub(crate) memory: Memory,
    starts: Cell<u64>,
    orders: RefCell<Option<mpsc::Sender<Order>>>,
    live: RefCell<Option<Rc<Gateway>>>,
}

impl Site {
    pub(crate) fn new(
        name: &'static str,
        seed: u64,
        internet: &Internet,
        trace: &Trace,
        truth: &Truth,
    ) -> Self {
        Self {
            name,
            seed,
            internet: internet.clone(),
            trace: trace.clone(),
            truth: truth.clone(),
            memory: Memory::new(),
            starts: Cell::new(0),
            orders: RefCell::default(),
            live: RefCell::default(),
        }
    }

    pub(crate) fn cluster(&self) -> ClusterId {
        ClusterId::parse(self.name).expect("hosts are named like clusters")
    }

    pub(crate) fn trust_domain(&self) -> TrustDomain {
        TrustDomain::parse(&format!("{}.test", self.name)).expect("a trust domain")
    }

    /// The running gateway.
    pub(crate) fn live(&self) -> Option<Rc<Gateway>> {
        self.live.borrow().clone()
    }

    /// Lets go of the gateway, so that a crash is the end of it.
    pub(crate) fn forget(&self) {
        self.live.take();
        self.orders.take();
    }

    /// Has something done on the host; the result appears in the cell.
    pub(crate) fn order<T: 'static, F: Future<Output = T> + 'static>(
        &self,
        work: impl FnOnce(Rc<Gateway>) -> F + 'static,
    ) -> Rc<RefCell<Option<T>>> {
        let cell = Rc::new(RefCell::new(None));
        let done = cell.clone();
        let order: Order = Box::new(move |gateway| {
            Box::pin(async move {
                let result = work(gateway).await;
                done.replace(Some(result));
            })
        });
        let orders = self.orders.borrow();
        // Nobody is there to take it while the host is down: the asker waits until it has had enough.
        let _ = orders.as_ref().map(|orders| orders.try_send(order));
        cell
    }

    fn config(&self) -> Config {
        Config {
            cluster: Some(self.cluster()),
            trust_domain: Some(self.trust_domain()),
            locality: Locality::parse(&format!("region/{}", self.name)).expect("a locality"),
            ..Config::default()
        }
    }
}

/// A running gateway.
pub(crate) struct Gateway {
    pub(crate) core: Core,
    pub(crate) site: Rc<Site>,
    pub(crate) tasks: Tasks,
    pub(crate) clock: Clock,
    net: Arc<HostNet>,
}

/// The software of a gateway's host, from start to crash.
pub(crate) async fn software(site: Rc<Site>, addresses: Vec<IpAddr>) -> turmoil::Result {
    let (sender, mut orders) = mpsc::channel(64);
    let gateway = Rc::new(Gateway::start(&site, addresses).await?);
    site.live.replace(Some(gateway.clone()));
    site.orders.replace(Some(sender));
    tokio::task::spawn_local(observe::run(gateway.clone()));
    tokio::task::spawn_local(client(gateway.clone()));
    while let Some(order) = orders.recv().await {
        tokio::task::spawn_local(order(gateway.clone()));
    }
    Ok(())
}

impl Gateway {
    async fn start(site: &Rc<Site>, interfaces: Vec<IpAddr>) -> Result<Self, Problem> {
        let start = site.starts.get();
        site.starts.set(start + 1);
        let salt = site.name.bytes().fold(start, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
        let wall = START.after(turmoil::sim_elapsed().unwrap_or_default());
        let clock = Clock::simulated(site.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ salt, wall);
        let tasks = Tasks::inline(Shutdown::new());
        let shards = Shards::inline(2, &tasks, clock.now());
        let net = HostNet::new(&site.internet);
        let home = Home {
            persist: Arc::new(site.memory.clone()),
            gateway: GatewayId::parse("gw-1").expect("a gateway id"),
            place: format!("memory of {}", site.name),
            lock: None,
        };
        let core = Core::start(Launch {
            qlog: None,
            config: site.config(),
            home,
            net: net.clone(),
            clock: clock.clone(),
            tasks: tasks.clone(),
            shards,
            host_name: site.name.to_owned(),
            interfaces,
            open_files: 4096,
        })
        .await?;
        Ok(Self { core, site: site.clone(), tasks, clock, net })
    }

    /// Notes an event of this host.
    pub(crate) fn note(&self, what: impl Into<String>) {
        self.site.trace.note(turmoil::sim_elapsed().unwrap_or_default(), self.site.name, what);
    }

    /// Notes an event of this host about another.
    pub(crate) fn tell(&self, whom: &str, what: impl Into<String>) {
        self.site.trace.tell(turmoil::sim_elapsed().unwrap_or_default(), self.site.name, whom, what);
    }

    /// `token create`.
    pub(crate) async fn issue(&self) -> Result<String, Problem> {
        let terms = TokenTerms::default();
        let token = issue::create(&self.core.ours, &self.core.store, terms, true).await?;
        self.note("token created");
        Ok(token.text.to_string())
    }

    /// `join`, with its lines in the trace.
    pub(crate) async fn join(self: &Rc<Self>, token: String) -> Result<(), String> {
        let (lines, mut told) = mpsc::channel(64);
        let joining = async {
            self.core.peers.join(&token, &lines).await;
            drop(lines);
        };
        let telling = async {
            let mut end = Err("said nothing".to_owned());
            while let Some(line) = told.recv().await {
                self.note(format!("join: {}", line.step));
                end = match line.problem {
                    Some(problem) => Err(problem.to_string()),
                    None if line.step == "done" => Ok(()),
                    None => end,
                };
            }
            end
        };
        tokio::join!(joining, telling).1
    }

    /// `export`.
    pub(crate) async fn export(&self, name: &ServiceName, to: SocketAddr) -> Result<(), Problem> {
        let flags = ExportFlags { port: Some(SERVICE_PORT), idempotent: true, ..ExportFlags::default() };
        let spec = ExportSpec::from_flag(&format!("{}.{}={to}", name.name, name.namespace), &flags, "")?;
        let incarnation = Incarnation(self.clock.random_bytes());
        let export = spec.to_export(self.clock.wall(), incarnation, ExportSource::State);
        self.core.store.apply(Event::Exported(export)).await.map_err(|error| error.problem())
    }

    /// `unexport --wait`: who has not confirmed it within `patience`.
    pub(crate) async fn unexport(
        &self,
        name: &ServiceName,
        patience: Duration,
    ) -> Result<Vec<ClusterId>, Problem> {
        let gone = Event::Unexported(name.clone());
        self.core.store.apply(gone).await.map_err(|error| error.problem())?;
        Ok(self.core.peers.unconfirmed(name, patience).await)
    }

    /// What the zone answers to an A question.
    pub(crate) fn resolve(&self, name: &ServiceName) -> Result<Ipv4Addr, Rcode> {
        let full = format!("{}.{}.svc.clusterset.local", name.name, name.namespace);
        let labels: Vec<&[u8]> = full.split('.').map(str::as_bytes).collect();
        let question = Question { labels: &labels, kind: QueryType::A };
        let answer = answer(&question, &*self.core.zone(), self.clock.now());
        let address = answer.answers.iter().find_map(|record| match record.data {
            Data::A(ip) => Some(ip),
            _ => None,
        });
        address.ok_or(answer.rcode)
    }

    /// What stands before this host forgets where it dialled from.
    pub(crate) fn forget_ports(&self) {
        self.note("its address translation forgets");
        self.net.forget_ports();
    }

    /// Looks a name up and asks who is there; the cluster that answered.
    pub(crate) async fn request(&self, name: &ServiceName) -> Result<String, String> {
        let ip = self.resolve(name).map_err(|rcode| format!("{rcode:?}"))?;
        let began = turmoil::sim_elapsed().unwrap_or_default();
        let exchange = timeout(REQUEST_PATIENCE, self.exchange(ip)).await;
        let ended = turmoil::sim_elapsed().unwrap_or_default();
        let result = match exchange {
            Ok(result) => result.map_err(|error| error.kind().to_string()),
            Err(_) => {
                let wrong = format!("{} waited more than {REQUEST_PATIENCE:?} for {name}", self.site.name);
                self.site.truth.accuse(wrong);
                Err("no end".to_owned())
            }
        };
        if let Ok(cluster) = &result {
            self.site.truth.judge_answer(self.site.name, name, cluster, began, ended);
        }
        result
    }

    async fn exchange(&self, ip: Ipv4Addr) -> io::Result<String> {
        let mut stream = self.net.tcp_connect((ip, SERVICE_PORT).into(), REQUEST_PATIENCE).await?;
        stream.write_all(b"who?\n").await?;
        stream.shutdown().await?;
        let mut reply = String::new();
        stream.read_to_string(&mut reply).await?;
        match reply.strip_suffix('\n') {
            Some(cluster) => Ok(cluster.to_owned()),
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

/// Requests names that this gateway knows, one after the other, for as long as the host runs.
async fn client(gateway: Rc<Gateway>) {
    let mut rng = StdRng::seed_from_u64(gateway.clock.rng().random());
    loop {
        sleep(Duration::from_millis(rng.random_range(1..2 * CLIENT_PAUSE_MS))).await;
        let imports = gateway.core.store.state().imports.clone();
        if imports.is_empty() {
            continue;
        }
        let Some(name) = imports.keys().nth(rng.random_range(0..imports.len())) else { continue };
        match gateway.request(name).await {
            Ok(cluster) => gateway.tell(&cluster, format!("answers for {}", name.name)),
            Err(error) => gateway.note(format!("no answer for {}: {error}", name.name)),
        }
    }
}

/// A service of one cluster: says who it is to whoever asks, while it is up.
pub(crate) async fn application(internet: Internet, name: &'static str, port: u16, up: Rc<Cell<bool>>) {
    const LOOK: Duration = Duration::from_millis(5);
    let net = HostNet::new(&internet);
    loop {
        while !up.get() {
            sleep(LOOK).await;
        }
        let listeners = net.tcp_listen((Ipv4Addr::UNSPECIFIED, port).into(), 1);
        let mut listener = listeners.expect("the port is free").pop().expect("one was asked for");
        while up.get() {
            if let Ok(Ok((stream, _))) = timeout(LOOK, listener.accept()).await {
                tokio::task::spawn_local(serve(stream, name));
            }
        }
    }
}

async fn serve(mut stream: Box<dyn Stream>, name: &'static str) -> io::Result<()> {
    let mut asked = [0; 5];
    stream.read_exact(&mut asked).await?;
    stream.write_all(format!("{name}\n").as_bytes()).await?;
    stream.shutdown().await
}
