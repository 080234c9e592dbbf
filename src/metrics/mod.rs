//! What is measured: typed metric families, made once and handed down; there is no global registry.
//!
//! The names, kinds and labels stand in one table, [`FAMILIES`], from which `docs/reference/metrics.md` is
//! printed. Parts count through the methods here; figures that mirror the status are set by whoever serves
//! the scrape, just before [`Metrics::encode`]. Nothing here decides what a figure means for traffic.

mod families;
mod labels;

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError, atomic::AtomicU64},
    time::Duration,
};

use prometheus_client::{
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
        info::Info,
    },
    registry::Registry,
};

use self::{families as family, labels::OTHER_SERVICE};
pub use self::{
    families::{FAMILIES, FamilyInfo, Kind, reference_page},
    labels::Certificate,
};
use crate::model::{
    ids::{ClusterId, ServiceName, Timestamp},
    limits::METRIC_SERVICES_MAX,
};

/// A gauge of seconds or a share.
type Figure = Gauge<f64, AtomicU64>;

/// What one peer's figures are at the moment of a scrape.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PeerFigures {
    /// The word of its state.
    pub state: &'static str,
    /// Services taken from it.
    pub imported: usize,
    /// Services it is told of.
    pub exported: usize,
    /// How old what is held of it may be; absent when nothing was ever held.
    pub catalog_age: Option<Duration>,
    /// The lane in use.
    pub lane: Option<LaneFigures>,
    /// Time left until its newest root ends.
    pub root_ends_in: Duration,
}

/// One lane's figures at the moment of a scrape.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct LaneFigures {
    /// Whether it may take new streams.
    pub up: bool,
    /// Smoothed round trip.
    pub rtt: Duration,
    /// Share of datagrams lost, 0 to 1.
    pub loss: f64,
    /// Since anything arrived.
    pub inbound_age: Duration,
    /// Proxied streams open now.
    pub streams: usize,
}

/// Every family of this process; cheap to clone.
#[derive(Debug, Clone)]
pub struct Metrics(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    registry: Registry,
    started: Gauge,
    gauges: Gauges,
    counters: Counters,
    /// The services that have a label value of their own; those that come later are counted as one.
    services: Mutex<BTreeSet<ServiceName>>,
}

/// Figures that mirror the status; written anew for each scrape.
#[derive(Debug, Default)]
struct Gauges {
    peer_up: Family<labels::Peer, Gauge>,
    peer_state: Family<labels::PeerState, Gauge>,
    peer_rtt: Family<labels::Peer, Figure>,
    peer_loss: Family<labels::Peer, Figure>,
    peer_last_seen: Family<labels::Peer, Figure>,
    peer_streams: Family<labels::Peer, Gauge>,
    catalog_services: Family<labels::Catalog, Gauge>,
    catalog_age: Family<labels::Peer, Figure>,
    cert_expiry: Family<labels::Expiry, Figure>,
    /// Held while the gauges are rewritten and read, so that two scrapes do not mix.
    scrape: Mutex<()>,
}

#[derive(Debug)]
struct Counters {
    connections: Family<labels::Connection, Counter>,
    opens_waited: Family<labels::Peer, Counter>,
    retries_refused: Family<labels::Service, Counter>,
    dns_queries: Family<labels::Query, Counter>,
    dns_duration: Histogram,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            connections: Family::default(),
            opens_waited: Family::default(),
            retries_refused: Family::default(),
            dns_queries: Family::default(),
            // 10 us to 0.16 s: an answer is a few map look-ups.
            dns_duration: Histogram::new(exponential_buckets(0.000_01, 4.0, 8)),
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Every family, empty.
    #[must_use]
    pub fn new() -> Self {
        let (gauges, counters, started) = (Gauges::default(), Counters::default(), Gauge::default());
        let mut registry = Registry::with_prefix("tombolo");
        let build = Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]);
        family::BUILD.register(&mut registry, build);
        family::STARTED.register(&mut registry, started.clone());
        family::PEER_UP.register(&mut registry, gauges.peer_up.clone());
        family::PEER_STATE.register(&mut registry, gauges.peer_state.clone());
        family::PEER_RTT.register(&mut registry, gauges.peer_rtt.clone());
        family::PEER_LOSS.register(&mut registry, gauges.peer_loss.clone());
        family::PEER_LAST_SEEN.register(&mut registry, gauges.peer_last_seen.clone());
        family::PEER_STREAMS.register(&mut registry, gauges.peer_streams.clone());
        family::CATALOG_SERVICES.register(&mut registry, gauges.catalog_services.clone());
        family::CATALOG_AGE.register(&mut registry, gauges.catalog_age.clone());
        family::CERT_EXPIRY.register(&mut registry, gauges.cert_expiry.clone());
        family::CONNECTIONS.register(&mut registry, counters.connections.clone());
        family::OPENS_WAITED.register(&mut registry, counters.opens_waited.clone());
        family::RETRIES_REFUSED.register(&mut registry, counters.retries_refused.clone());
        family::DNS_QUERIES.register(&mut registry, counters.dns_queries.clone());
        family::DNS_DURATION.register(&mut registry, counters.dns_duration.clone());
        let services = Mutex::default();
        Self(Arc::new(Inner { registry, started, gauges, counters, services }))
    }

    /// Notes when the process began to serve.
    pub fn started(&self, at: Timestamp) {
        self.0.started.set(i64::try_from(at.0 / 1_000).unwrap_or(i64::MAX));
    }

    /// A DNS question was answered; both words are out of fixed sets.
    pub fn dns(&self, kind: &'static str, rcode: &'static str, took: Duration) {
        self.0.counters.dns_queries.get_or_create(&labels::Query { r#type: kind, rcode }).inc();
        self.0.counters.dns_duration.observe(took.as_secs_f64());
    }

    /// All families in the text form of OpenMetrics 1.0. The figures that mirror the status are those that
    /// `refresh` sets; what the last scrape set is gone.
    #[must_use]
    pub fn encode_with(&self, refresh: impl FnOnce(&Scrape<'_>)) -> String {
        let gauges = &self.0.gauges;
        let _whole = gauges.scrape.lock().unwrap_or_else(PoisonError::into_inner);
        gauges.clear();
        self.0.counters.connections.clear();
        self.0.counters.opens_waited.clear();
        self.0.counters.retries_refused.clear();
        refresh(&Scrape { metrics: self });
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.0.registry)
            .expect("writing to a string does not fail");
        text
    }

    /// All families, without figures that mirror the status.
    #[must_use]
    pub fn encode(&self) -> String {
        self.encode_with(|_| {})
    }

    /// The label value of a service: its name, or one for all once there are too many.
    fn service(&self, name: &ServiceName) -> String {
        let mut known = self.0.services.lock().unwrap_or_else(PoisonError::into_inner);
        if !known.contains(name) {
            if known.len() >= METRIC_SERVICES_MAX {
                return OTHER_SERVICE.to_owned();
            }
            known.insert(name.clone());
        }
        name.to_string()
    }
}

impl Gauges {
    fn clear(&self) {
        self.peer_up.clear();
        self.peer_state.clear();
        self.peer_rtt.clear();
        self.peer_loss.clear();
        self.peer_last_seen.clear();
        self.peer_streams.clear();
        self.catalog_services.clear();
        self.catalog_age.clear();
        self.cert_expiry.clear();
    }
}

/// Sets the figures of one scrape.
#[derive(Debug)]
pub struct Scrape<'a> {
    metrics: &'a Metrics,
}

impl Scrape<'_> {
    /// One peer's figures.
    pub fn peer(&self, peer: &ClusterId, figures: &PeerFigures) {
        let gauges = &self.metrics.0.gauges;
        let label = labels::Peer { peer: peer.to_string() };
        gauges.peer_up.get_or_create(&label).set(i64::from(figures.lane.is_some_and(|lane| lane.up)));
        let state = labels::PeerState { peer: peer.to_string(), state: figures.state };
        gauges.peer_state.get_or_create(&state).set(1);
        if let Some(lane) = figures.lane {
            gauges.peer_rtt.get_or_create(&label).set(lane.rtt.as_secs_f64());
            gauges.peer_loss.get_or_create(&label).set(lane.loss);
            gauges.peer_last_seen.get_or_create(&label).set(lane.inbound_age.as_secs_f64());
            gauges.peer_streams.get_or_create(&label).set(count(lane.streams));
        }
        for (direction, services) in [("in", figures.imported), ("out", figures.exported)] {
            let label = labels::Catalog { peer: peer.to_string(), direction };
            gauges.catalog_services.get_or_create(&label).set(count(services));
        }
        if let Some(age) = figures.catalog_age {
            gauges.catalog_age.get_or_create(&label).set(age.as_secs_f64());
        }
        self.certificate(Certificate::Root, peer, figures.root_ends_in);
    }

    /// Connections of clients to `service` so far, by the cluster that served them and by result, a word out of
    /// a fixed set. They are counted elsewhere, and only told here.
    pub fn connections(
        &self,
        service: &ServiceName,
        to: Option<&ClusterId>,
        result: &'static str,
        total: u64,
    ) {
        let dst_cluster = to.map_or_else(String::new, ToString::to_string);
        let label = labels::Connection { service: self.metrics.service(service), dst_cluster, result };
        self.metrics.0.counters.connections.get_or_create(&label).inc_by(total);
    }

    /// How many connections have waited so far until `peer` would take them; likewise only told here.
    pub fn opens_waited(&self, peer: &ClusterId, total: u64) {
        let label = labels::Peer { peer: peer.to_string() };
        self.metrics.0.counters.opens_waited.get_or_create(&label).inc_by(total);
    }

    /// How often the retry budget of `service` has refused so far; likewise only told here.
    pub fn retries_refused(&self, service: &ServiceName, total: u64) {
        let label = labels::Service { service: self.metrics.service(service) };
        self.metrics.0.counters.retries_refused.get_or_create(&label).inc_by(total);
    }

    /// Time left until a certificate of `cluster` ends; zero when it has ended.
    pub fn certificate(&self, kind: Certificate, cluster: &ClusterId, ends_in: Duration) {
        let label = labels::Expiry { kind, cluster: cluster.to_string() };
        self.metrics.0.gauges.cert_expiry.get_or_create(&label).set(ends_in.as_secs_f64());
    }
}

fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
