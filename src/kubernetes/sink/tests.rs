//! How names are written: each object once, a few at a time, and with patience. The API server is a stand-in that
//! takes everything; time is paused.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll},
};

use http_body_util::BodyExt as _;
use hyper::{Request, Response};
use kube::client::{Body, ClientBuilder};
use serde_json::{Value, json};

use super::*;
use crate::{
    files::Memory,
    kubernetes::{
        events::Events,
        importing::Place,
        seen::{Key, Written},
        world::Change,
    },
    model::{
        catalog::{Export, ExportPort, ExportSource, Port, Protocol, Traffic},
        ids::{ClusterId, GatewayId, Incarnation, Locality, Timestamp, TrustDomain},
        state::{Event, Me, Settings},
        virtual_ip::VirtualIps,
    },
    net,
    supervise::Shutdown,
};

/// What was asked for, and whether it is given.
#[derive(Clone, Default)]
struct Server {
    /// Requests of each path.
    asked: Arc<Mutex<BTreeMap<String, usize>>>,
    objects: Arc<Mutex<BTreeMap<String, Value>>>,
    now: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
    /// Refuses everything, with that pause.
    refuses: Arc<Mutex<Option<u64>>>,
}

impl Server {
    fn total(&self) -> usize {
        self.asked.lock().expect("a count").values().sum()
    }
}

/// The object as it stands once it was asked for at a path.
fn answered(objects: &mut BTreeMap<String, Value>, path: &str, mut asked: Value) -> Value {
    if let Some(path) = path.strip_suffix("/status") {
        let object = objects.get_mut(path).expect("an object that stands");
        object["status"] = asked["status"].take();
        return object.clone();
    }
    if asked["kind"] == "Service" {
        asked["spec"]["clusterIPs"] = json!(["10.96.3.4"]);
    }
    objects.insert(path.to_owned(), asked.clone());
    asked
}

impl tower_service::Service<Request<Body>> for Server {
    type Response = Response<Body>;
    type Error = std::convert::Infallible;
    type Future = net::BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let it = self.clone();
        *it.asked.lock().expect("a count").entry(request.uri().path().to_owned()).or_default() += 1;
        Box::pin(async move {
            it.most.fetch_max(it.now.fetch_add(1, Relaxed) + 1, Relaxed);
            sleep(Duration::from_millis(30)).await;
            it.now.fetch_sub(1, Relaxed);
            let refuses = *it.refuses.lock().expect("a word");
            if let Some(pause) = refuses {
                let response = Response::builder().status(429).header("Retry-After", pause);
                return Ok(response.body(Body::from(b"slowly".to_vec())).expect("a response"));
            }
            let path = request.uri().path().to_owned();
            let bytes = request.into_body().collect().await.expect("a body").to_bytes();
            let asked = serde_json::from_slice(&bytes).expect("an object");
            let object = answered(&mut it.objects.lock().expect("objects"), &path, asked);
            Ok(Response::new(Body::from(object.to_string().into_bytes())))
        })
    }
}

fn export(name: &str) -> Export {
    let port = Port { name: "http".into(), number: 80, protocol: Protocol::Tcp, app_protocol: "".into() };
    Export {
        name: ServiceName::parse(name).expect("a name"),
        ports: vec![ExportPort { port, to: vec!["10.0.0.1:80".parse().expect("an address")], health: None }],
        endpoints: Vec::new(),
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
        idempotent: false,
        session_affinity: None,
        traffic: Traffic::default(),
        headless: false,
        created: Timestamp(1),
        incarnation: Incarnation([1; 16]),
        source: ExportSource::State,
    }
}

/// A sink over a cluster that has the namespace `shop`, and nothing of ours in it.
struct Writing {
    server: Server,
    store: Store,
    publish: watch::Sender<Arc<World>>,
    said: mpsc::Receiver<Said>,
    // It all ends with it.
    _leads: watch::Sender<bool>,
}

fn world() -> World {
    let mut world = World::default();
    world.take(Said::Derived(Change::Begin));
    world.take(Said::Derived(Change::Complete));
    for change in [Change::Begin, Change::Complete] {
        world.take(Said::Imports(change));
    }
    for change in [Change::Begin, Change::Complete] {
        world.take(Said::ImportSlices(change));
    }
    for change in [Change::Begin, Change::Listed(Key::new("", "shop"), Some(())), Change::Complete] {
        world.take(Said::Namespaces(change));
    }
    world
}

async fn begin(names: usize) -> Writing {
    let (clock, tasks) = (Clock::simulated(1, Timestamp(1)), Tasks::inline(Shutdown::new()));
    let me = Me {
        cluster: ClusterId::parse("east").expect("an id"),
        trust_domain: TrustDomain::parse("east.tombolo").expect("a domain"),
        gateway: GatewayId::parse("g1").expect("an id"),
        locality: Locality::default(),
    };
    let ips = VirtualIps::new("127.77.0.0/18".parse().expect("a network")).expect("large enough");
    let state = State::new(me, Settings::default(), ips);
    let store = Store::start(state, Arc::new(Memory::new()), "gateways/g1".to_owned(), clock.clone(), &tasks);
    let declared = (0..names).map(|at| Event::Exported(export(&format!("shop/s{at}")))).collect();
    store.transact(move |_, _| Ok((declared, ()))).await.expect("it is taken");
    let (server, patience) = (Server::default(), Patience::new(clock.clone()));
    let client = ClientBuilder::new(server.clone(), "default").with_layer(&patience).build();
    let (publish, newest) = watch::channel(Arc::new(world()));
    let (say, said) = mpsc::channel(64);
    let (leading, leads) = watch::channel(true);
    let place = Place { namespace: "tombolo-system".to_owned(), selector: BTreeMap::new() };
    let keeping = (store.clone(), clock.clone());
    let events = Events::new(client.clone(), "g1");
    let writer = Arc::new(Writer::new(client, keeping, place, events, newest.clone()));
    let sink = Sink { writer, store: store.clone(), clock, patience, say };
    tasks.spawn("sink", sink.run(newest, leads, tasks.clone()));
    Writing { server, store, publish, said, _leads: leading }
}

#[tokio::test(start_paused = true)]
async fn every_object_is_written_once_and_few_at_a_time() {
    let it = begin(100).await;
    sleep(Duration::from_secs(4)).await;
    // The derived Service, its slice, the import and the import's status.
    assert_eq!(it.server.total(), 100 * 4, "{:?}", it.server.asked.lock());
    assert_eq!(it.server.most.load(Relaxed), limits::API_WRITERS_MAX);
    // Something of all names changes, before any watch has brought back what was written.
    it.publish.send_modify(|world| {
        let mut next = World::clone(world);
        for at in 0..100 {
            let old = Written { labels: BTreeMap::new(), annotations: BTreeMap::new(), data: Value::Null };
            next.take(Said::Imports(Change::Put(Key::new("shop", &format!("s{at}")), Some(old))));
        }
        *world = Arc::new(next);
    });
    sleep(Duration::from_millis(900)).await;
    assert_eq!(it.server.total(), 100 * 4, "nothing is written a second time");
    // A new name does not wait for anything.
    it.store.apply(Event::Exported(export("shop/new"))).await.expect("it is taken");
    sleep(Duration::from_millis(500)).await;
    assert_eq!(it.server.total(), 101 * 4);
}

#[tokio::test(start_paused = true)]
async fn what_no_watch_brings_back_is_written_again() {
    let it = begin(1).await;
    sleep(Duration::from_secs(1)).await;
    assert_eq!(it.server.total(), 4);
    sleep(limits::API_ECHO_MAX + Duration::from_secs(2)).await;
    assert_eq!(it.server.total(), 8);
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_asks_for_patience_gets_it_and_people_are_told() {
    let mut it = begin(100).await;
    *it.server.refuses.lock().expect("a word") = Some(20);
    let told = it.said.recv().await;
    assert!(matches!(told, Some(Said::Trouble(WRITES, Some(why))) if why.reason.contains("slowly")));
    sleep(Duration::from_secs(15)).await;
    let first = it.server.total();
    assert!(first <= limits::API_WRITERS_MAX, "{first} requests");
    sleep(Duration::from_secs(60)).await;
    assert!(it.server.total() <= first + 4, "one tries, after each pause: {}", it.server.total());
    *it.server.refuses.lock().expect("a word") = None;
    assert!(matches!(it.said.recv().await, Some(Said::Trouble(WRITES, None))));
    sleep(Duration::from_secs(9)).await;
    assert!(it.server.total() >= 400 && it.server.total() < 400 + 40, "{}", it.server.total());
}
