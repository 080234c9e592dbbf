//! The Kubernetes cluster this gateway belongs to: a source of exports and a sink of imports (KEP-1645).
//!
//! `source` follows the API server and turns its objects into the same events a config file makes;
//! `sink` writes what became of them. What an object means (`exporting`, `importing`, `conditions`) is pure
//! and asks nobody. Traffic needs none of this to go on: while the API server is away, all that was known
//! stays true.

mod conditions;
mod events;
mod exporting;
mod governing;
mod importing;
mod lead;
mod notes;
mod own;
mod patience;
mod policies;
mod queue;
pub mod resources;
mod seen;
mod sink;
mod source;
#[cfg(test)]
mod tests;
mod watching;
mod world;
mod writer;

use std::{collections::BTreeMap, fmt, net::IpAddr, sync::Arc};

use arc_swap::ArcSwap;
use kube::{Client, client::ClientBuilder};
use tokio::sync::{mpsc, watch};

pub use self::governing::{Act, Hands, Issue, Join, PeerView};
use self::{
    events::Events,
    governing::Governing,
    importing::Place,
    patience::Patience,
    world::{Trouble, WRITES, World},
    writer::Writer,
};
use crate::{
    clock::Clock,
    model::{
        code::{Code, Problem},
        ids::{Namespace, ServiceLabel, SpiffeId, TrustDomain},
        limits,
    },
    store::Store,
    supervise::Tasks,
};

/// Who keeps an object that this gateway writes.
const MANAGER: &str = "tombolo.dev";
/// The label that says so.
const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// The same on EndpointSlices.
const SLICE_MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
/// The Service that an EndpointSlice belongs to.
const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// The same of an EndpointSlice of the standard.
const SOURCE_SERVICE: &str = "multicluster.kubernetes.io/service-name";
/// The cluster whose endpoints it holds.
const SOURCE_CLUSTER: &str = "multicluster.kubernetes.io/source-cluster";
/// What a derived Service stands for.
const ENTRANCE_OF: &str = "tombolo.dev/entrance-of";
/// What was last asked of an object.
const APPLIED: &str = "tombolo.dev/applied";

/// What the parts of this module need.
pub struct Parts {
    /// Where events go, and the state comes from.
    pub store: Store,
    /// Time.
    pub clock: Clock,
    /// The control runtime.
    pub tasks: Tasks,
    /// The namespace of the gateways.
    pub namespace: String,
    /// The labels of their pods.
    pub selector: BTreeMap<String, String>,
    /// What this gateway is called among those that may write.
    pub identity: String,
}

impl fmt::Debug for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parts").field("namespace", &self.namespace).finish_non_exhaustive()
    }
}

/// The running connection to a cluster's API server; cheap to clone.
#[derive(Clone)]
pub struct Kubernetes {
    world: Arc<ArcSwap<World>>,
    clock: Clock,
    domain: TrustDomain,
    governing: Governable,
}

/// What keeping custom resources true needs, once there are hands for it.
#[derive(Clone)]
struct Governable {
    client: Client,
    store: Store,
    tasks: Tasks,
    namespace: String,
    events: Events,
    patience: Patience,
    newest: watch::Receiver<Arc<World>>,
    leads: watch::Receiver<bool>,
}

impl fmt::Debug for Kubernetes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kubernetes").field("trouble", &self.world.load().trouble).finish_non_exhaustive()
    }
}

impl Kubernetes {
    /// Begins to follow the API server, and to write. Nothing is waited for: an API server that is away is
    /// no reason not to serve.
    ///
    /// # Errors
    /// [`Code::KUBERNETES_CONFIG`] when neither a service account nor a kubeconfig says where it is.
    pub async fn start(parts: Parts) -> Result<Self, Problem> {
        let unusable = |error: &dyn fmt::Display| Problem::new(Code::KUBERNETES_CONFIG, error.to_string());
        let mut config = kube::Config::infer().await.map_err(|error| unusable(&error))?;
        config.connect_timeout = Some(limits::API_SERVER_TIMEOUT);
        config.write_timeout = Some(limits::API_SERVER_TIMEOUT);
        config.read_timeout = Some(limits::API_SILENCE_MAX);
        // Whoever asks decides when to ask again, and tells people meanwhile.
        config.default_retry = false;
        let patience = Patience::new(parts.clock.clone());
        let builder = ClientBuilder::try_from(config).map_err(|error| unusable(&error))?;
        let client = builder.with_layer(&patience).build();
        let domain = parts.store.state().me.trust_domain.clone();
        let world = Arc::new(ArcSwap::from_pointee(World::default()));
        let (say, said) = mpsc::channel(limits::API_EVENTS_QUEUE_MAX);
        let (publish, newest) = watch::channel(Arc::new(World::default()));
        let (renew, renewed) = watch::channel(0);
        watching::start(&client, &parts, &patience, &say, &renewed);
        let source = source::Source { store: parts.store.clone(), publish, shared: world.clone() };
        parts.tasks.spawn("kubernetes source", source.run(said, parts.tasks.clone()));
        let leads = lead::start(&client, &parts, say.clone(), renew);
        let events = Events::new(client.clone(), &parts.identity);
        let governing = Governable {
            client: client.clone(),
            store: parts.store.clone(),
            tasks: parts.tasks.clone(),
            namespace: parts.namespace.clone(),
            events: events.clone(),
            patience: patience.clone(),
            newest: newest.clone(),
            leads: leads.clone(),
        };
        let place = Place { namespace: parts.namespace, selector: parts.selector };
        let keeping = (parts.store.clone(), parts.clock.clone());
        let writer = Arc::new(Writer::new(client, keeping, place, events, newest.clone()));
        let sink =
            sink::Sink { writer, store: parts.store.clone(), clock: parts.clock.clone(), patience, say };
        parts.tasks.spawn("kubernetes sink", sink.run(newest, leads, parts.tasks.clone()));
        Ok(Self { world, clock: parts.clock, domain, governing })
    }

    /// Begins to keep Tombolo's own custom resources true.
    pub fn govern(&self, hands: Hands) {
        let Governable { client, store, tasks, namespace, events, patience, newest, leads } =
            self.governing.clone();
        let parts = (store, self.clock.clone(), tasks.clone());
        let governing = Governing::new(client, parts, namespace, hands, (events, patience));
        tasks.spawn("kubernetes custom resources", governing.run(newest, leads));
    }

    /// Whose pod an address is: only when one pod alone has it, for long enough that nobody else's packets
    /// can still be under way (M9).
    #[must_use]
    pub fn caller(&self, ip: IpAddr) -> Option<SpiffeId> {
        let world = self.world.load();
        let (key, pod) = world.pod_at(ip)?;
        if self.clock.wall().since(pod.since) < limits::POD_ADDRESS_SETTLED {
            return None;
        }
        let namespace = Namespace::parse(&key.namespace).ok()?;
        let account = ServiceLabel::parse(&pod.account).ok()?;
        Some(SpiffeId::workload(&self.domain, &namespace, &account))
    }

    /// What a person should know: which kinds of objects cannot be watched now, and why.
    #[must_use]
    pub fn warnings(&self) -> Vec<Problem> {
        let world = self.world.load();
        let line = |(kind, trouble): (&&str, &Trouble)| {
            let Trouble { reason, .. } = trouble;
            let text = match *kind {
                WRITES => format!("nothing can be written: {reason}"),
                kind => format!("{kind} cannot be followed: {reason}"),
            };
            Problem::new(Code::API_SERVER_AWAY, text)
        };
        world.trouble.iter().map(line).collect()
    }
}
