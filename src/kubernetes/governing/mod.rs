//! Keeps Tombolo's own custom resources true: makes tokens, joins, carries out what is wanted of peers, and
//! writes what became of it. Only the gateway that leads does, and only what differs is written.

mod joining;
mod telling;
mod tokens;

use std::{
    collections::BTreeMap,
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams},
};
use serde_json::{Value, json};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use super::{
    MANAGED_BY, MANAGER,
    events::{Events, Subject},
    importing::contains,
    patience::Patience,
    policies,
    resources::{GROUP, JoinTokenSpec},
    seen::Key,
    world::World,
};
use crate::{
    clock::Clock,
    model::{
        code::Problem,
        ids::{ClusterId, Timestamp},
        limits,
        peering::Verb,
        state::State,
        token::TokenId,
    },
    net::BoxFuture,
    store::Store,
    supervise::Tasks,
};

const VERSION: &str = "v1alpha1";

/// The version as it stands in objects.
const API_VERSION: &str = "tombolo.dev/v1alpha1";

/// Makes a token.
pub type Issue =
    Arc<dyn Fn(JoinTokenSpec) -> BoxFuture<'static, Result<(TokenId, String), Problem>> + Send + Sync>;
/// Redeems a token; tells whose it was.
pub type Join = Arc<dyn Fn(String) -> BoxFuture<'static, Result<ClusterId, Problem>> + Send + Sync>;
/// Carries out a verb of a peer.
pub type Act = Arc<dyn Fn(ClusterId, Verb) -> BoxFuture<'static, Result<(), Problem>> + Send + Sync>;

/// What is asked of others; whoever wires the gateway fills it in.
#[derive(Clone)]
pub struct Hands {
    /// How every peer is.
    pub peers: Arc<dyn Fn() -> Vec<PeerView> + Send + Sync>,
    /// Digest of this cluster's newest root, and when that ends.
    pub root: Arc<dyn Fn() -> (String, Timestamp) + Send + Sync>,
    /// For JoinTokens.
    pub issue: Issue,
    /// For Peers with a token.
    pub join: Join,
    /// For Peers of which something is wanted.
    pub act: Act,
}

impl std::fmt::Debug for Hands {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hands(..)")
    }
}

/// How a peer is.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PeerView {
    /// Its cluster id.
    pub cluster: String,
    /// One of the ten states of the reference.
    pub state: String,
    /// Why.
    pub cause: String,
    /// Its trust domain.
    pub trust_domain: String,
    /// Digest of its newest root's key.
    pub fingerprint: String,
    /// Its addresses.
    pub endpoints: Vec<String>,
    /// up, suspect or down; none without a link.
    pub link: Option<String>,
    /// Why there is no link.
    pub link_cause: String,
    /// Round trip, in milliseconds.
    pub rtt_ms: Option<f64>,
    /// Services taken from it.
    pub imported: usize,
    /// Services it is told of.
    pub exported: usize,
    /// Whether what is held of it is current.
    pub in_sync: bool,
}

/// A condition without its times.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Condition {
    kind: &'static str,
    holds: bool,
    reason: String,
    message: String,
}

impl Condition {
    fn new(kind: &'static str, holds: bool, reason: &str, message: impl Into<String>) -> Self {
        Self { kind, holds, reason: reason.to_owned(), message: message.into() }
    }
}

/// The task that does it.
pub(super) struct Governing {
    client: Client,
    store: Store,
    clock: Clock,
    tasks: Tasks,
    namespace: String,
    hands: Hands,
    events: Events,
    patience: Patience,
    attempts: Arc<Mutex<BTreeMap<String, joining::Attempt>>>,
    /// When an object's figures were last written.
    told: BTreeMap<String, Instant>,
}

impl Governing {
    pub(super) fn new(
        client: Client,
        (store, clock, tasks): (Store, Clock, Tasks),
        namespace: String,
        hands: Hands,
        (events, patience): (Events, Patience),
    ) -> Self {
        Self {
            client,
            store,
            clock,
            tasks,
            namespace,
            hands,
            events,
            patience,
            attempts: Arc::default(),
            told: BTreeMap::new(),
        }
    }

    /// Follows the state and the world until shutdown.
    pub(super) async fn run(
        mut self,
        mut world: watch::Receiver<Arc<World>>,
        mut leads: watch::Receiver<bool>,
    ) {
        let mut soft = pin!(self.tasks.shutdown().soft());
        let mut states = self.store.watch();
        let mut waited = false;
        loop {
            let (newest, state) = (world.borrow_and_update().clone(), states.borrow_and_update().clone());
            let asked_for = self.patience.left();
            // Where one pause follows another, people are told of it all the same, after each.
            if *leads.borrow_and_update() && (asked_for.is_zero() || waited) {
                let began = tokio::select! {
                    biased;
                    () = &mut soft => return,
                    () = self.round(&newest, &state, asked_for.is_zero()) => self.clock.now(),
                };
                self.told.retain(|_, at| began < *at + limits::GOVERN_FIGURES_PAUSE);
            }
            tokio::select! {
                biased;
                () = &mut soft => return,
                () = sleep(limits::GOVERN_PAUSE.max(asked_for)) => waited = !asked_for.is_zero(),
            }
            tokio::select! {
                biased;
                () = &mut soft => return,
                changed = world.changed() => if changed.is_err() { return soft.await },
                changed = states.changed() => if changed.is_err() { return soft.await },
                changed = leads.changed() => if changed.is_err() { return soft.await },
                () = sleep(limits::GOVERN_LOOK) => {}
            }
        }
    }

    /// Looks at everything once, or at this cluster's own object only. What fails is tried again in the next round.
    async fn round(&mut self, world: &World, state: &State, everything: bool) {
        if everything {
            self.tell_rules(world).await;
            if world.own.tokens.is_complete() {
                self.tokens(world, state).await;
            }
            if world.own.peers.is_complete() {
                self.peers(world, state).await;
            }
        }
        if world.own.clustersets.is_complete() {
            self.clusterset(world, state).await;
        }
    }

    async fn tell_rules(&self, world: &World) {
        for (kind, key, told) in policies::verdicts(&world.own) {
            let condition = match &told.wrong {
                None => Condition::new("Accepted", true, "Accepted", "the rule holds"),
                Some(wrong) => Condition::new("Accepted", false, "Invalid", wrong.clone()),
            };
            let (kind, plural) = kind.names();
            let status = json!({ "conditions": self.dated(&[condition], told.generation, &told.status) });
            self.put_status((kind, plural), &key, &told.status, status).await;
        }
    }

    async fn clusterset(&self, world: &World, state: &State) {
        let key = Key::new("", "clusterset");
        let known = world.own.clustersets.get(&key);
        if known.is_none() && !self.make("Clusterset", "clustersets", &key).await {
            return;
        }
        let views = (self.hands.peers)();
        let (fingerprint, ends) = (self.hands.root)();
        let (mut status, conditions) = telling::clusterset(state, &views, &world.trouble, &fingerprint, ends);
        let (generation, held) = known.map_or((0, Value::Null), |it| (it.generation, it.status.clone()));
        status["conditions"] = self.dated(&conditions, generation, &held);
        self.put_status(("Clusterset", "clustersets"), &key, &held, status).await;
    }

    fn api(&self, kind: &str, plural: &str, namespace: &str) -> Api<DynamicObject> {
        let kind = GroupVersionKind::gvk(GROUP, VERSION, kind);
        let resource = ApiResource::from_gvk_with_plural(&kind, plural);
        if namespace.is_empty() {
            Api::all_with(self.client.clone(), &resource)
        } else {
            Api::namespaced_with(self.client.clone(), namespace, &resource)
        }
    }

    /// Makes an object that the gateway keeps; false when it could not.
    async fn make(&self, kind: &str, plural: &str, key: &Key) -> bool {
        let body = json!({
            "apiVersion": API_VERSION,
            "kind": kind,
            "metadata": { "name": key.name, "labels": { MANAGED_BY: MANAGER } },
            "spec": {},
        });
        let parameters = PatchParams::apply("tombolo");
        let api = self.api(kind, plural, &key.namespace);
        self.asked(kind, &key.name, api.patch(&key.name, &parameters, &Patch::Apply(&body))).await.is_some()
    }

    /// Writes a status unless it stands there already.
    async fn put_status(&self, (kind, plural): (&str, &str), key: &Key, held: &Value, status: Value) -> bool {
        if contains(held, &status) {
            return false;
        }
        let body = json!({
            "apiVersion": API_VERSION,
            "kind": kind,
            "metadata": { "name": key.name },
            "status": status,
        });
        let parameters = PatchParams::apply("tombolo-status").force();
        let api = self.api(kind, plural, &key.namespace);
        let patch = Patch::Apply(&body);
        self.asked(kind, &key.name, api.patch_status(&key.name, &parameters, &patch)).await.is_some()
    }

    /// One request; what fails is logged, and none.
    async fn asked<T>(
        &self,
        kind: &str,
        name: &str,
        request: impl Future<Output = kube::Result<T>>,
    ) -> Option<T> {
        match timeout(limits::API_SERVER_TIMEOUT, request).await {
            Ok(Ok(answer)) => Some(answer),
            Ok(Err(error)) => {
                tracing::warn!(kind, name, %error, "the API server refused");
                None
            }
            Err(_) => {
                tracing::warn!(kind, name, "the API server did not answer in time");
                None
            }
        }
    }

    /// Conditions with their times: one that says what it said keeps its own.
    fn dated(&self, conditions: &[Condition], generation: i64, held: &Value) -> Value {
        telling::dated(conditions, generation, held, self.clock.wall())
    }

    async fn tell(&self, kind: &'static str, key: &Key, uid: &str, (good, reason, note): (bool, &str, &str)) {
        let subject = Subject { api_version: API_VERSION, kind, key: key.clone(), uid: uid.to_owned() };
        self.events.tell(&subject, good, reason, note).await;
    }

    fn attempts(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, joining::Attempt>> {
        self.attempts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
