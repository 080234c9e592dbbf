//! The table of all families: what each is called, counts and is told apart by.

use std::fmt::Write as _;

use prometheus_client::registry::{Metric, Registry};

/// How a family's values behave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Facts that do not change while the process runs; the value is always 1.
    Info,
    /// Goes up and down.
    Gauge,
    /// Only grows; 0 at each start.
    Counter,
    /// Counts values by size.
    Histogram,
}

impl Kind {
    /// The word of the exposition format.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Gauge => "gauge",
            Self::Counter => "counter",
            Self::Histogram => "histogram",
        }
    }
}

/// One family.
#[derive(Debug, Clone, Copy)]
pub struct FamilyInfo {
    /// Its name, without the prefix `tombolo_` and the ending that its kind adds.
    pub name: &'static str,
    /// How its values behave.
    pub kind: Kind,
    /// What its values are told apart by.
    pub labels: &'static [&'static str],
    /// What it says, without a full stop.
    pub help: &'static str,
}

impl FamilyInfo {
    pub(super) fn register(&self, registry: &mut Registry, family: impl Metric) {
        registry.register(self.name, self.help, family);
    }

    /// The name as it is scraped.
    #[must_use]
    pub fn full_name(&self) -> String {
        let ending = match self.kind {
            Kind::Info => "_info",
            Kind::Counter => "_total",
            Kind::Gauge | Kind::Histogram => "",
        };
        format!("tombolo_{}{ending}", self.name)
    }
}

/// Declares the families: each is a constant and an entry of [`FAMILIES`].
macro_rules! families {
    ($($constant:ident = $kind:ident $name:literal [$($label:literal),*] $help:literal;)*) => {
        $(pub(super) const $constant: FamilyInfo =
            FamilyInfo { name: $name, kind: Kind::$kind, labels: &[$($label),*], help: $help };)*

        /// Every family of this release, in the order in which it is scraped.
        pub const FAMILIES: &[FamilyInfo] = &[$($constant),*];
    };
}

families! {
    BUILD = Info "build" ["version"] "The release that runs";
    STARTED = Gauge "start_time_seconds" [] "When the process began to serve, in Unix seconds";
    PEER_UP = Gauge "peer_up" ["peer"] "Whether a link to the peer may take new connections, 1 or 0";
    PEER_STATE = Gauge "peer_state" ["peer", "state"] "1 for the state the peer is in; other states have no value";
    PEER_RTT = Gauge "peer_rtt_seconds" ["peer"] "Smoothed round trip of the link to the peer";
    PEER_LOSS = Gauge "peer_loss_ratio" ["peer"] "Share of datagrams to the peer that were lost, 0 to 1";
    PEER_LAST_SEEN = Gauge "peer_last_seen_seconds" ["peer"] "How long ago anything arrived over the link to the peer";
    PEER_STREAMS = Gauge "peer_streams" ["peer"] "Proxied connections open over the link to the peer, both directions";
    CATALOG_SERVICES = Gauge "catalog_services" ["peer", "direction"] "Services taken from the peer (in) or told to it (out)";
    CATALOG_AGE = Gauge "catalog_age_seconds" ["peer"] "How old what is held of the peer may be; 0 while its session makes progress";
    CERT_EXPIRY = Gauge "cert_expiry_seconds" ["kind", "cluster"] "Time left until the certificate ends: kind svid or root; 0 when it has ended";
    CONNECTIONS = Counter "connections" ["service", "dst_cluster", "result"] "Connections of clients, by the cluster that served them, if any, and by result";
    OPENS_WAITED = Counter "opens_waited" ["peer"] "Connections of clients that waited at this gateway for a turn, because the peer takes no more new ones a second";
    RETRIES_REFUSED = Counter "retries_refused" ["service"] "Times that the retry budget kept bytes from being sent again, at this gateway";
    DNS_QUERIES = Counter "dns_queries" ["type", "rcode"] "DNS questions answered";
    DNS_DURATION = Histogram "dns_duration_seconds" [] "Time from a decoded DNS question to its answer, without the network";
}

/// The page `docs/reference/metrics.md`, as Markdown.
#[must_use]
pub fn reference_page() -> String {
    let mut page = String::from(
        "# Metrics\n\n\
         `GET /metrics` at the admin address gives these in the text form of OpenMetrics 1.0. Times are in\n\
         seconds. Label values are bounded: peers as `[limits]` bounds them, and 500 services; those that come\n\
         later count as `service=\"other\"`. Gauges are read when they are asked for.\n\n\
         <!-- Printed from src/metrics; TOMBOLO_BLESS=1 cargo test --test reference writes it anew. -->\n\n\
         | name | kind | labels | what it says |\n|---|---|---|---|\n",
    );
    for family in FAMILIES {
        let labels = family.labels.iter().map(|label| format!("`{label}`")).collect::<Vec<_>>().join(", ");
        let (name, kind) = (family.full_name(), family.kind.as_str());
        let _ = writeln!(page, "| `{name}` | {kind} | {labels} | {} |", family.help);
    }
    page
}
