//! The running gateway: the only place that constructs parts and connects them.
//!
//! [`core`] holds what makes a gateway; this file adds its front doors (DNS, admin), what it says when it is
//! ready, and the order in which it ends.

mod bundles;
mod check;
pub mod core;
mod exports;
mod front;
mod home;
mod kubernetes;
mod names;
mod reload;
mod renewal;
mod replicas;
mod reports;
mod rotation;
mod settings;

use std::{io, net::SocketAddr, path::PathBuf, sync::Arc};

use self::front::Front;
pub use self::{
    check::check,
    core::{Core, Launch},
    home::Home,
};
use crate::{
    admin::api::{JoinStep, JoinWish},
    config::Config,
    model::{
        code::{Code, Problem},
        ids::{ClusterId, GatewayId, TrustDomain},
        limits::GOODBYE_TIMEOUT,
        trust::Fingerprint,
    },
    supervise::Readiness,
};

/// A gateway that serves.
pub struct Daemon {
    core: Arc<Core>,
    front: Front,
    readiness: Readiness,
}

/// What a started gateway says of itself, once.
#[derive(Debug, Clone)]
pub struct Summary {
    /// This cluster.
    pub cluster: ClusterId,
    /// This gateway.
    pub gateway: GatewayId,
    /// Its trust domain.
    pub trust_domain: TrustDomain,
    /// Its newest root, for people to compare.
    pub fingerprint: Fingerprint,
    /// Where it listens.
    pub addresses: crate::admin::api::Addresses,
    /// Where it keeps what must last.
    pub state: String,
    /// Whether the identity was made just now.
    pub first_start: bool,
    /// How many peers were loaded.
    pub peers: usize,
    /// How many services are exported.
    pub exports: usize,
    /// Age of the oldest loaded catalog.
    pub catalog_age: Option<std::time::Duration>,
}

impl std::fmt::Debug for Daemon {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Daemon").field("core", &self.core).finish_non_exhaustive()
    }
}

impl Daemon {
    /// Starts everything; `socket` is where the admin API listens.
    ///
    /// # Errors
    /// A [`Problem`] with what to do about it; nothing is left running.
    pub async fn start(launch: Launch, socket: PathBuf) -> Result<Self, Problem> {
        let readiness = Readiness::new();
        let starting = readiness.register("start");
        let core = Arc::new(Core::start(launch).await?);
        let opened = Front::open(core.clone(), readiness.clone(), socket).await;
        // Told before the parts are dropped: what ends now ends because of this.
        let front = opened.inspect_err(|_| core.tasks.shutdown().stop("not started"))?;
        drop(starting);
        Ok(Self { core, front, readiness })
    }

    /// What it says of itself.
    #[must_use]
    pub fn summary(&self) -> Summary {
        let core = &self.core;
        let state = core.store.state();
        let now = core.clock.wall();
        let ages = state.catalogs.values().filter_map(|held| held.lost).map(|lost| now.since(lost));
        Summary {
            cluster: state.me.cluster.clone(),
            gateway: state.me.gateway.clone(),
            trust_domain: state.me.trust_domain.clone(),
            fingerprint: core.ours.bundle().fingerprint(),
            addresses: self.front.addresses().clone(),
            state: core.home.place.clone(),
            first_start: core.first_start,
            peers: state.peers.len(),
            exports: state.exports.len(),
            catalog_age: ages.max(),
        }
    }

    /// Joins the cluster that issued `token`; tells each step.
    pub async fn join(&self, token: String, steps: tokio::sync::mpsc::Sender<JoinStep>) {
        reports::join(&self.core, JoinWish { token, re_trust: false }, steps).await;
    }

    /// Takes a newly read config where it may change while running.
    ///
    /// # Errors
    /// [`Code::RELOAD_REFUSED`]; the old settings stay.
    pub async fn reload(&self, config: Config) -> Result<Vec<String>, Problem> {
        reload::apply(&self.core, config).await
    }

    /// Serves until shutdown is asked for or a part fails, then ends in order.
    ///
    /// # Errors
    /// [`Code::PART_FAILED`] names the part that ended by itself.
    pub async fn run(&self) -> Result<(), Problem> {
        let core = &self.core;
        let shutdown = core.tasks.shutdown().clone();
        shutdown.soft().await;
        tracing::info!(reason = shutdown.reason().unwrap_or_default(), "shutting down");
        let _unready = self.readiness.register("draining");
        tokio::select! {
            biased;
            () = shutdown.hard() => {}
            () = core.shutdown() => {}
        }
        shutdown.stop("drained");
        // What does not end in time has nothing left to say: it is cut.
        let _ = tokio::time::timeout(GOODBYE_TIMEOUT, core.links.shutdown()).await;
        let left =
            [core.shards.finish(GOODBYE_TIMEOUT).await, core.tasks.finish(GOODBYE_TIMEOUT).await].concat();
        if !left.is_empty() {
            tracing::warn!(tasks = ?left, "these tasks did not end in time");
        }
        match core.tasks.failed() {
            Some(failure) => Err(Problem::new(Code::PART_FAILED, failure.to_string())),
            None => Ok(()),
        }
    }
}

/// Why an address could not be taken, as a problem that names the key to change.
fn address_problem(listener: &str, address: SocketAddr, error: &io::Error) -> Problem {
    let code = match error.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::AddrNotAvailable => Code::ADDRESS_NOT_ALLOWED,
        _ => Code::ADDRESS_IN_USE,
    };
    let fix = match error.kind() {
        io::ErrorKind::PermissionDenied => {
            format!("choose a port from 1024 on: listen.{listener} in the config file")
        }
        io::ErrorKind::AddrNotAvailable => {
            format!("choose an address of this host, or 0.0.0.0: listen.{listener} in the config file")
        }
        _ => format!("stop what holds it, or choose another address: listen.{listener} in the config file"),
    };
    Problem::new(code, format!("{listener} cannot listen on {address}: {error}")).with_fix(fix)
}
