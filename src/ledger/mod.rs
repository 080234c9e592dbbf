//! Live figures that are not State: they change by themselves, die with the process and are asked for often.
//!
//! What keeps failing, what came back, how near and how busy clusters are, which listeners stand; and what
//! people are shown of sessions, connections and lately. The rules behind the figures are `model`'s, the links
//! themselves `link`'s. Plans are made of some of it: [`Ledger::health_epoch`] says when to make them anew.

mod busy;
mod shown;

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use imbl::OrdMap;
use rand::rngs::StdRng;
use tokio::sync::watch;

pub use self::{
    busy::InFlight,
    shown::{Noted, Proxied, SessionRow},
};
use self::{busy::Load, shown::Shown};
use crate::{
    clock::Clock,
    model::{
        bands::{Band, Bands},
        catalog::Protocol,
        failover::{Loads, Returns, Target},
        ids::{ClusterId, ServiceName},
        outlier::{Admission, Outcome, OutlierKey, Outliers, Standing},
        retry::{Refusals, Retry, RetryBudgets},
        virtual_ip::Binding,
    },
};

/// What the destination blames: one endpoint of one port of an export of ours.
pub type EndpointKey = (ServiceName, u16, SocketAddr);

/// The listeners of virtual IPs, by address, protocol and the service's port.
pub type Bindings = OrdMap<(Ipv4Addr, Protocol, u16), Binding>;

/// All live figures of this gateway; cheap to clone, clones are the same ledger. No lock is held for longer
/// than a map's operation.
#[derive(Debug, Clone)]
pub struct Ledger(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    clock: Clock,
    rng: Mutex<StdRng>,
    outliers: Mutex<Outliers<OutlierKey>>,
    endpoints: Mutex<Outliers<EndpointKey>>,
    returns: Mutex<Returns<OutlierKey>>,
    retries: Mutex<RetryBudgets>,
    bands: Mutex<BTreeMap<ClusterId, Bands>>,
    near: ArcSwap<BTreeMap<ClusterId, Band>>,
    loads: Mutex<BTreeMap<Target, Load>>,
    bindings: ArcSwap<Bindings>,
    epoch: watch::Sender<u64>,
    shown: Mutex<Shown>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that holds one of these locks leaves a figure half changed; a wrong figure is no reason to stop.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Ledger {
    /// An empty ledger, which takes the time from `clock`.
    #[must_use]
    pub fn new(clock: Clock) -> Self {
        Self(Arc::new(Inner {
            rng: Mutex::new(clock.rng()),
            clock,
            outliers: Mutex::default(),
            endpoints: Mutex::default(),
            returns: Mutex::default(),
            retries: Mutex::default(),
            bands: Mutex::default(),
            near: ArcSwap::default(),
            loads: Mutex::default(),
            bindings: ArcSwap::default(),
            epoch: watch::Sender::new(0),
            shown: Mutex::default(),
        }))
    }

    fn now(&self) -> Instant {
        self.0.clock.now()
    }

    /// Changes when anything did that plans are made of: a standing, a band, or what [`Self::touch`] told.
    #[must_use]
    pub fn health_epoch(&self) -> watch::Receiver<u64> {
        self.0.epoch.subscribe()
    }

    /// The epoch of this moment.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        *self.0.epoch.borrow()
    }

    /// Says that something changed elsewhere that plans are made of: the health of a link.
    pub fn touch(&self) {
        self.0.epoch.send_modify(|epoch| *epoch += 1);
    }

    // --- what keeps failing ---

    /// What is thought of a port of a service in a cluster.
    #[must_use]
    pub fn standing(&self, key: &OutlierKey, now: Instant) -> Standing {
        lock(&self.0.outliers).state(key, now)
    }

    /// Whether a connection may go there; asked for those on probation. [`Admission::Probe`] has to be followed
    /// by [`Self::observe`].
    #[must_use]
    pub fn admits(&self, key: &OutlierKey) -> Admission {
        lock(&self.0.outliers).admits(key, self.now())
    }

    /// Takes the outcome of one open, as the source saw it.
    pub fn observe(&self, key: &OutlierKey, outcome: Outcome) -> Option<Standing> {
        if !outcome.is_blamed() && lock(&self.0.outliers).is_empty() {
            return None;
        }
        let mut rng = lock(&self.0.rng);
        let change = lock(&self.0.outliers).observe(key, outcome, self.now(), &mut *rng);
        drop(rng);
        if let Some(standing) = change {
            self.note(
                "ejection",
                format!("{} port {} in {}: {standing}", key.service, key.port, key.cluster),
            );
            self.touch();
        }
        change
    }

    /// Everything that is ejected or on probation at the source.
    #[must_use]
    pub fn unhealthy(&self) -> Vec<(OutlierKey, Standing)> {
        let now = self.now();
        lock(&self.0.outliers).unhealthy(now).map(|(key, standing)| (key.clone(), standing)).collect()
    }

    /// Puts endpoints of a port of an export of ours in the order of trying them, see [`Outliers::line_up`].
    pub fn line_up(
        &self,
        (service, port): (&ServiceName, u16),
        endpoints: &mut Vec<SocketAddr>,
        unready: impl Fn(&SocketAddr) -> bool,
    ) {
        let key = |endpoint: &SocketAddr| (service.clone(), port, *endpoint);
        lock(&self.0.endpoints).line_up(endpoints, key, unready, self.now());
    }

    /// Takes the outcome of one connect to an endpoint of ours. Peers are not told: they see the service.
    pub fn observe_endpoint(&self, key: &EndpointKey, outcome: Outcome) -> Option<Standing> {
        if !outcome.is_blamed() && lock(&self.0.endpoints).is_empty() {
            return None;
        }
        let mut rng = lock(&self.0.rng);
        let change = lock(&self.0.endpoints).observe(key, outcome, self.now(), &mut *rng);
        drop(rng);
        if let Some(standing) = change {
            self.note("endpoint", format!("{} of {} port {}: {standing}", key.2, key.0, key.1));
        }
        change
    }

    /// What is thought of an endpoint of ours, and whether others come first because it cut a connection just now.
    #[must_use]
    pub fn endpoint_standing(&self, key: &EndpointKey) -> (Standing, bool) {
        let now = self.now();
        let endpoints = lock(&self.0.endpoints);
        (endpoints.state(key, now), endpoints.is_avoided(key, now))
    }

    /// The endpoints of ours that are ejected or on probation.
    #[must_use]
    pub fn unhealthy_endpoints(&self) -> Vec<(EndpointKey, Standing)> {
        let now = self.now();
        lock(&self.0.endpoints).unhealthy(now).map(|(key, standing)| (key.clone(), standing)).collect()
    }

    /// Forgets what is known of a service that is gone.
    pub fn forget(&self, service: &ServiceName) {
        lock(&self.0.outliers).retain(|key| key.service != *service);
        lock(&self.0.endpoints).retain(|key| key.0 != *service);
        lock(&self.0.returns).retain(|key| key.service != *service);
        lock(&self.0.retries).forget(service);
    }

    // --- what may be sent again ---

    /// Counts a connection to a service, which pays for what may be sent again.
    pub fn request(&self, service: &ServiceName) {
        lock(&self.0.retries).request(service, self.now());
    }

    /// Whether a connection's bytes may be sent again, while the first try may still be served or after an endpoint
    /// failed it; what is allowed is counted.
    #[must_use]
    pub fn may_retry(&self, service: &ServiceName) -> bool {
        let retry = lock(&self.0.retries).retry(service, self.now());
        if retry == (Retry::Refused { tell: true }) {
            self.note(
                "retry",
                format!("{service}: the retry budget is used up, nothing is sent twice for now"),
            );
        }
        retry == Retry::Paid
    }

    /// What was not sent again, by service.
    #[must_use]
    pub fn retries_refused(&self) -> Vec<(ServiceName, Refusals)> {
        lock(&self.0.retries).refused().map(|(service, refused)| (service.clone(), refused)).collect()
    }

    // --- what came back ---

    /// Says whether a cluster could serve a port now: link there, endpoints ready.
    pub fn observe_able(&self, key: &OutlierKey, able: bool, now: Instant) {
        lock(&self.0.returns).observe(key, able, now);
    }

    /// When it came back after it could not serve; none when it always could.
    #[must_use]
    pub fn returned(&self, key: &OutlierKey) -> Option<Instant> {
        lock(&self.0.returns).returned(key)
    }

    // --- how near ---

    /// Takes the smoothed round trip to a cluster.
    pub fn observe_rtt(&self, cluster: &ClusterId, rtt: Duration) {
        let mut bands = lock(&self.0.bands);
        if bands.entry(cluster.clone()).or_default().observe(rtt, self.now()).is_some() {
            let near = bands.iter().filter_map(|(cluster, bands)| Some((cluster.clone(), bands.band()?)));
            self.0.near.store(Arc::new(near.collect()));
            drop(bands);
            self.touch();
        }
    }

    /// The band of each cluster whose round trip was measured.
    #[must_use]
    pub fn bands(&self) -> Arc<BTreeMap<ClusterId, Band>> {
        self.0.near.load_full()
    }

    // --- how busy ---

    /// Counts a connection to a place for as long as the guard lives.
    #[must_use]
    pub fn begin(&self, target: &Target) -> InFlight {
        let now = self.now();
        lock(&self.0.loads).entry(target.clone()).or_insert_with(|| Load::new(now)).in_flight += 1;
        InFlight { ledger: self.clone(), target: target.clone() }
    }

    /// Takes the time from an open's start to its answer.
    pub fn observe_latency(&self, target: &Target, latency: Duration) {
        let now = self.now();
        let mut loads = lock(&self.0.loads);
        loads.entry(target.clone()).or_insert_with(|| Load::new(now)).latency.observe(latency, now);
    }

    /// Connections under way to a place.
    #[must_use]
    pub fn in_flight(&self, target: &Target) -> u32 {
        lock(&self.0.loads).get(target).map_or(0, |load| load.in_flight)
    }

    // --- listeners ---

    /// Every listener that stands or should.
    #[must_use]
    pub fn bindings(&self) -> Arc<Bindings> {
        self.0.bindings.load_full()
    }

    /// Publishes what became of a listener.
    pub fn bind(&self, binding: Binding) {
        let key = (binding.ip, binding.protocol, binding.port);
        if self.0.bindings.load().get(&key) != Some(&binding) {
            self.0.bindings.rcu(|bindings| bindings.update(key, binding));
        }
    }

    /// Forgets a listener that is no longer wanted.
    pub fn unbind(&self, ip: Ipv4Addr, protocol: Protocol, port: u16) {
        self.0.bindings.rcu(|bindings| bindings.without(&(ip, protocol, port)));
    }
}

impl Loads for Ledger {
    fn cost(&self, target: &Target) -> u64 {
        lock(&self.0.loads).get(target).map_or(0, |load| load.cost(self.now()))
    }
}

#[cfg(test)]
mod tests;
