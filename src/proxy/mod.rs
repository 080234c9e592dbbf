//! The proxy: clients connect to virtual IPs, their bytes reach an endpoint in some cluster.
//!
//! A sink of the state and of the ledger's health. Which clusters come into question is `model::failover`'s
//! matter, what to do with an open `model::open`'s, and links carry the streams; here sockets are opened, the
//! rules are carried out, and bytes are copied. [`Inbound`] serves peers, [`Proxy`] is both halves.

mod accept;
mod allowed;
mod attempt;
mod cut;
mod endpoints;
mod health;
mod inbound;
mod index;
mod launcher;
mod listen;
mod open;
mod outbound;
mod pump;
mod route;
mod tcp;
mod young;

use std::{
    fmt,
    net::IpAddr,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::{sync::watch, time::timeout};
use tokio_util::sync::CancellationToken;

pub use self::inbound::{Inbound, InboundParts, ProxyLimits};
use self::{listen::Listeners, outbound::Outbound, route::Planner};
use crate::{
    link::Links,
    model::{
        catalog::Protocol,
        failover::{Considered, FailoverPolicy},
        ids::{Namespace, ServiceLabel, ServiceName, SpiffeId},
        import::ImportPort,
        limits::DRAIN_TIMEOUT,
        state::State,
        virtual_ip::{Binding, VipKey},
    },
    supervise::Shards,
};

/// What a person said about where an import's connections go. It is asked again when the settings of the
/// state change.
pub type Policies = Arc<dyn Fn(&ServiceName) -> FailoverPolicy + Send + Sync>;

/// Tells whose an address is, if that is certain.
pub type Attribute = Arc<dyn Fn(IpAddr) -> Option<SpiffeId> + Send + Sync>;

/// What the proxy needs, beside what [`Inbound`] has.
pub struct Parts {
    /// The half that links hand streams to.
    pub inbound: Inbound,
    /// Everything that is true.
    pub state: watch::Receiver<Arc<State>>,
    /// Links to peers.
    pub links: Links,
    /// The data runtimes.
    pub shards: Shards,
    /// Who a client is that the settings do not name.
    pub attribute: Attribute,
    /// Where connections go.
    pub policies: Policies,
    /// Files this process may open; half of them may be listeners.
    pub open_files: u64,
}

impl fmt::Debug for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parts").finish_non_exhaustive()
    }
}

/// What `tombolo explain` shows of one port.
#[derive(Debug, Clone)]
pub struct Explained {
    /// The port and who exposes it.
    pub port: ImportPort,
    /// What became of its listener; none for a headless service, whose endpoints listen.
    pub binding: Option<Binding>,
    /// The clusters that were considered, the best first.
    pub considered: Vec<Considered>,
}

/// The running proxy; cheap to clone.
#[derive(Clone)]
pub struct Proxy {
    outbound: Arc<Outbound>,
    stop: CancellationToken,
    closed: CancellationToken,
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxy").field("connections", &self.connections()).finish_non_exhaustive()
    }
}

/// The namespace and account of a client that nothing is known about.
fn unknown_caller(inbound: &Inbound) -> SpiffeId {
    let namespace = Namespace::parse("default").expect("a label");
    let account = ServiceLabel::parse("unknown").expect("a label");
    SpiffeId::workload(&inbound.0.state.load().me.trust_domain, &namespace, &account)
}

impl Proxy {
    /// Begins to listen for clients.
    #[must_use]
    pub fn start(parts: Parts) -> Self {
        let Parts { inbound, state, links, shards, attribute, policies, open_files } = parts;
        let unknown = unknown_caller(&inbound);
        let site = inbound.0;
        let tasks = site.tasks.clone();
        tasks.spawn("link health", health::run(site.clone(), links.clone()));
        let planner = Planner { site, links, policies };
        let outbound = Arc::new(Outbound { planner, shards, attribute, unknown });
        let (stop, closed) = (CancellationToken::new(), CancellationToken::new());
        let listeners = Listeners::new(outbound.clone(), state, open_files);
        tasks.spawn("listeners", listeners.run(stop.clone(), closed.clone()));
        Self { outbound, stop, closed }
    }

    /// Connections carried now, clients' and peers'.
    #[must_use]
    pub fn connections(&self) -> usize {
        let site = &self.outbound.planner.site;
        site.limits.connections - site.connections.available_permits()
    }

    /// Ends softly: closes the listeners, turns new streams away, lets what is open finish for
    /// [`DRAIN_TIMEOUT`], then resets the rest. Call it when new connections are no longer expected (M12).
    pub async fn shutdown(&self) {
        self.shutdown_within(DRAIN_TIMEOUT).await;
    }

    /// As [`Self::shutdown`], with another bound.
    pub async fn shutdown_within(&self, most: Duration) {
        let site = &self.outbound.planner.site;
        self.stop.cancel();
        let hard = site.tasks.shutdown().hard();
        tokio::select! {
            biased;
            () = self.closed.cancelled() => {}
            () = hard => {}
        }
        site.draining.store(true, Ordering::Relaxed);
        let all = u32::try_from(site.limits.connections).unwrap_or(u32::MAX);
        // The semaphore is never closed; what is waited for is the last connection's end.
        let idle = timeout(most, site.connections.acquire_many(all)).await.is_ok();
        if !idle {
            tracing::warn!(connections = self.connections(), "drained for long enough, resetting the rest");
        }
        site.cut.cut();
    }

    /// What is thought of each TCP port of an import; none when nobody exports the name.
    #[must_use]
    pub fn explain(&self, name: &ServiceName) -> Option<Vec<Explained>> {
        let planner = &self.outbound.planner;
        let state = planner.site.state.load_full();
        let import = state.imports.get(name)?;
        let bindings = planner.site.ledger.bindings();
        let key = VipKey::Service(name.clone());
        let binding = |number| {
            let (ip, port) = state.listening(&key, Protocol::Tcp, number)?;
            bindings.get(&(ip, Protocol::Tcp, port)).copied()
        };
        let now = planner.site.clock.now();
        let tcp = import.ports.iter().filter(|entry| entry.port.protocol == Protocol::Tcp);
        let explained = tcp.map(|entry| Explained {
            binding: binding(entry.port.number),
            considered: planner.plan(&state, import, entry.port.number, None, now).table().to_vec(),
            port: entry.clone(),
        });
        Some(explained.collect())
    }
}

#[cfg(test)]
mod tests;
