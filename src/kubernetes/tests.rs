//! What is followed while the API server misbehaves: expired versions, too many requests, silence, unknown
//! kinds. The API server is a script; time is paused.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use hyper::{Request, Response, StatusCode};
use kube::client::Body;
use serde_json::{Value, json};
use tokio::{
    sync::{mpsc, watch},
    time::timeout,
};

use super::{
    Parts,
    patience::Patience,
    seen::Key,
    watching,
    world::{Said, World},
};
use crate::{
    clock::Clock,
    files::Memory,
    model::{
        ids::{ClusterId, GatewayId, Locality, Timestamp, TrustDomain},
        state::{Me, Settings, State},
        virtual_ip::VirtualIps,
    },
    net::BoxFuture,
    store::Store,
    supervise::{Shutdown, Tasks},
};

/// One answer of the API server.
#[derive(Debug, Clone)]
enum Answer {
    /// A list of Services by name.
    List(&'static [&'static str]),
    /// A status instead.
    Refuse(u16),
    /// A watch that says this and ends.
    Says(Value),
    /// A watch that says nothing, ever.
    Silent,
}

/// An API server that answers about Services as it is told, has nothing of any other kind, and counts.
#[derive(Clone, Default)]
struct Server {
    services: Arc<Mutex<VecDeque<Answer>>>,
    asked: Arc<Mutex<BTreeMap<String, usize>>>,
}

impl Server {
    fn of(answers: &[Answer]) -> Self {
        Self { services: Arc::new(Mutex::new(answers.iter().cloned().collect())), ..Self::default() }
    }

    fn asked(&self, path: &str) -> usize {
        let asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.get(path).copied().unwrap_or(0)
    }

    fn answer(&self, path: &str, watching: bool) -> Answer {
        *self.asked.lock().expect("a count").entry(path.to_owned()).or_default() += 1;
        let mut script = self.services.lock().expect("a script");
        match (path, watching) {
            // The last answer is given again and again.
            ("/api/v1/services", _) if script.len() > 1 => script.pop_front().expect("more than one"),
            ("/api/v1/services", _) => script.front().cloned().unwrap_or(Answer::Silent),
            (_, true) => Answer::Silent,
            (_, false) => Answer::List(&[]),
        }
    }
}

fn service(name: &str) -> Value {
    let metadata = json!({ "name": name, "namespace": "shop", "uid": name, "resourceVersion": "1" });
    json!({ "metadata": metadata, "spec": { "clusterIP": "10.96.0.9", "ports": [] } })
}

impl tower_service::Service<Request<Body>> for Server {
    type Response = Response<Body>;
    type Error = std::convert::Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let watching = request.uri().query().unwrap_or_default().contains("watch=true");
        let answer = self.answer(request.uri().path(), watching);
        let (status, body) = match answer {
            Answer::List(names) => {
                let items: Vec<Value> = names.iter().map(|name| service(name)).collect();
                let list = json!({ "metadata": { "resourceVersion": "7" }, "items": items });
                (200, Some(list.to_string()))
            }
            Answer::Refuse(code) => {
                let status = json!({ "kind": "Status", "status": "Failure", "code": code,
                    "message": "no", "reason": "No", "metadata": {} });
                (code, Some(status.to_string()))
            }
            Answer::Says(event) => (200, Some(format!("{event}\n"))),
            Answer::Silent => (200, None),
        };
        Box::pin(async move {
            let Some(body) = body else { return std::future::pending().await };
            let status = StatusCode::from_u16(status).expect("a status");
            Ok(Response::builder().status(status).body(Body::from(body.into_bytes())).expect("a response"))
        })
    }
}

struct Following {
    said: mpsc::Receiver<Said>,
    world: World,
    renew: watch::Sender<u64>,
    /// It all ends with these.
    parts: Parts,
}

fn follow(server: &Server) -> Following {
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
    let parts = Parts {
        store,
        clock,
        tasks,
        namespace: "tombolo-system".to_owned(),
        selector: BTreeMap::new(),
        identity: "g1".to_owned(),
    };
    let client = kube::Client::new(server.clone(), "default");
    let (say, said) = mpsc::channel(64);
    let (renew, renewed) = watch::channel(0);
    watching::start(&client, &parts, &Patience::new(parts.clock.clone()), &say, &renewed);
    Following { said, world: World::default(), renew, parts }
}

impl Following {
    /// Takes over what is said until it is as wanted.
    async fn until(&mut self, wanted: impl Fn(&World) -> bool) {
        let seen = timeout(Duration::from_secs(300), async {
            while !wanted(&self.world) {
                let said = self.said.recv().await.expect("somebody speaks");
                self.world.take(said);
            }
        });
        seen.await.unwrap_or_else(|_| panic!("it never comes to that: {:?}", self.world.trouble));
    }
}

fn has(world: &World, name: &str) -> bool {
    world.services.get(&Key::new("shop", name)).is_some()
}

#[tokio::test(start_paused = true)]
async fn an_expired_version_is_listed_anew_and_nothing_is_lost_meanwhile() {
    let gone = json!({ "type": "ERROR", "object": { "kind": "Status", "status": "Failure", "code": 410,
        "message": "too old resource version", "reason": "Expired", "metadata": {} } });
    let server = Server::of(&[
        Answer::List(&["web"]),
        Answer::Says(gone),
        Answer::Refuse(503),
        Answer::List(&["web", "db"]),
        Answer::Silent,
    ]);
    let mut following = follow(&server);
    following.until(|world| has(world, "web")).await;
    following.until(|world| world.trouble.contains_key("Services")).await;
    assert!(has(&following.world, "web"), "what was known stays");
    following.until(|world| has(world, "db") && !world.trouble.contains_key("Services")).await;
    assert!(has(&following.world, "web"));
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_was_begun_again_is_no_trouble_even_when_it_says_nothing() {
    let server = Server::of(&[Answer::List(&["web"]), Answer::Refuse(503), Answer::Silent]);
    let mut following = follow(&server);
    following.until(|world| has(world, "web") && world.trouble.contains_key("Services")).await;
    let begun = following.parts.clock.now();
    following.until(|world| world.trouble.is_empty()).await;
    assert!(following.parts.clock.now() - begun < Duration::from_secs(30));
    assert_eq!(server.asked("/api/v1/services"), 3, "nothing is listed anew");
}

#[tokio::test(start_paused = true)]
async fn too_many_requests_are_answered_with_patience() {
    let server = Server::of(&[Answer::Refuse(429)]);
    let mut following = follow(&server);
    following.until(|world| world.trouble.contains_key("Services")).await;
    let begun = following.parts.clock.now();
    // Nothing more is said about it, so the time passes.
    let _ = timeout(Duration::from_secs(120), following.until(|_| false)).await;
    let minutes = (following.parts.clock.now() - begun).as_secs_f64() / 60.0;
    let asked = f64::from(u32::try_from(server.asked("/api/v1/services")).expect("few"));
    assert!(asked / minutes < 20.0, "{asked} requests in {minutes} minutes");
    *server.services.lock().expect("a script") = VecDeque::from([Answer::List(&["web"]), Answer::Silent]);
    following.until(|world| has(world, "web") && world.trouble.is_empty()).await;
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_hangs_is_begun_anew_when_the_api_server_answers_again() {
    let server = Server::of(&[Answer::List(&["web"]), Answer::Silent]);
    let mut following = follow(&server);
    following.until(|world| has(world, "web")).await;
    *server.services.lock().expect("a script") = VecDeque::from([Answer::List(&["db"]), Answer::Silent]);
    following.renew.send_modify(|times| *times += 1);
    following.until(|world| has(world, "db") && !has(world, "web")).await;
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_a_pause_to_end_when_the_api_server_answers_again() {
    let server = Server::of(&[Answer::Refuse(503)]);
    let mut following = follow(&server);
    // Long enough for pauses of many seconds.
    let _ = timeout(Duration::from_secs(240), following.until(|_| false)).await;
    *server.services.lock().expect("a script") = VecDeque::from([Answer::List(&["web"]), Answer::Silent]);
    let begun = following.parts.clock.now();
    following.renew.send_modify(|times| *times += 1);
    following.until(|world| has(world, "web")).await;
    assert!(following.parts.clock.now() - begun < Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn a_kind_that_is_not_installed_is_told_apart_from_one_that_is_refused() {
    let server = Server::of(&[Answer::Refuse(404)]);
    let mut following = follow(&server);
    following.until(|world| world.trouble.get("Services").is_some_and(|it| it.unknown)).await;
    *server.services.lock().expect("a script") = VecDeque::from([Answer::Refuse(403)]);
    following.until(|world| world.trouble.get("Services").is_some_and(|it| !it.unknown)).await;
}
