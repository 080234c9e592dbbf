//! A small clusterset for the tests of the zone and of `dns`.

use std::{collections::BTreeMap, net::Ipv4Addr, time::Instant};

use super::{QueryType, Question, ZoneName, ZoneSource};
use crate::model::{
    catalog::{HeadlessEndpoint, Port, Protocol, Row, Traffic},
    ids::{ClusterId, ExportId, Locality, Namespace, ServiceLabel, ServiceName, Timestamp},
    import::{Freshness, Import, merge},
    virtual_ip::{Binding, BindingState, VipKey, VirtualIps, listen_port},
};

/// A zone of plain maps.
pub(crate) struct Maps {
    pub(crate) zone: ZoneName,
    pub(crate) synced: bool,
    pub(crate) server: Option<Ipv4Addr>,
    pub(crate) imports: BTreeMap<ServiceName, Import>,
    pub(crate) virtual_ips: VirtualIps,
    pub(crate) bindings: BTreeMap<(Ipv4Addr, Protocol, u16), Binding>,
    /// Whose listeners are not open yet; all others are, at the port itself unless bound elsewhere.
    pub(crate) opening: Option<Ipv4Addr>,
}

impl ZoneSource for Maps {
    fn zone(&self) -> &ZoneName {
        &self.zone
    }
    fn ttl(&self) -> u32 {
        5
    }
    fn serial(&self) -> u32 {
        7
    }
    fn synced(&self, _now: Instant) -> bool {
        self.synced
    }
    fn import(&self, name: &ServiceName) -> Option<&Import> {
        self.imports.get(name)
    }
    fn holds(&self, namespace: &Namespace) -> bool {
        // "0" is the least label there is.
        let least =
            ServiceName { namespace: namespace.clone(), name: ServiceLabel::parse("0").expect("a label") };
        self.imports.range(least..).next().is_some_and(|(name, _)| name.namespace == *namespace)
    }
    fn virtual_ip(&self, key: &VipKey) -> Option<Ipv4Addr> {
        self.virtual_ips.get(key)
    }
    fn bound_port(&self, ip: Ipv4Addr, protocol: Protocol, port: u16) -> Option<u16> {
        let bound = || self.bindings.get(&(ip, protocol, port)).map_or(port, |binding| binding.bound_port);
        (self.opening != Some(ip)).then(bound)
    }
    fn server(&self) -> Option<Ipv4Addr> {
        self.server
    }
}

impl Maps {
    /// A synced zone without a service.
    pub(crate) fn empty() -> Self {
        Self {
            zone: ZoneName::parse("clusterset.local").expect("a zone"),
            synced: true,
            server: None,
            imports: BTreeMap::new(),
            virtual_ips: VirtualIps::new("127.77.0.0/18".parse().expect("a range")).expect("large"),
            bindings: BTreeMap::new(),
            opening: None,
        }
    }

    /// `shop/web` with TCP 80 (bound 20 000 higher) and 9090, `shop/hello` with 42 on TCP and UDP and an
    /// unnamed port, headless `data/db` in east (db-0 ready, db-1 not) and west (db-0 ready, metrics too),
    /// headless `data/idle` with nobody ready.
    pub(crate) fn sample() -> Self {
        let mut maps = Self::empty();
        let (http, metrics) = (port("http", 80, Protocol::Tcp), port("metrics", 9090, Protocol::Tcp));
        maps.add("shop/web", &[("east", row("shop/web", &[http, metrics.clone()], &[]))]);
        let hello = [
            port("hello", 42, Protocol::Tcp),
            port("hello-udp", 42, Protocol::Udp),
            port("", 7, Protocol::Tcp),
        ];
        maps.add("shop/hello", &[("west", row("shop/hello", &hello, &[]))]);
        let pg = port("pg", 5432, Protocol::Tcp);
        let east = row("data/db", std::slice::from_ref(&pg), &[("db-0", true), ("db-1", false)]);
        let west = row("data/db", &[pg.clone(), metrics], &[("db-0", true)]);
        maps.add("data/db", &[("east", east), ("west", west)]);
        maps.add("data/idle", &[("east", row("data/idle", &[pg], &[("idle-0", false)]))]);
        let web = maps.virtual_ips.get(&VipKey::Service(name("shop/web"))).expect("assigned");
        let binding = Binding {
            ip: web,
            protocol: Protocol::Tcp,
            port: 80,
            bound_port: listen_port(80, false),
            state: BindingState::Listening,
        };
        maps.bindings.insert((web, Protocol::Tcp, 80), binding);
        maps
    }

    /// Adds the merge of those rows, with virtual IPs.
    pub(crate) fn add(&mut self, name_text: &str, rows: &[(&str, Row)]) {
        let offers: Vec<_> = rows
            .iter()
            .map(|(cluster, row)| (ClusterId::parse(cluster).expect("an id"), row, Freshness::Fresh))
            .collect();
        let import = merge(&offers).expect("somebody exports");
        for key in VipKey::of(&import) {
            self.virtual_ips.assign(&key, Timestamp(1)).expect("free");
        }
        self.imports.insert(name(name_text), import);
    }

    /// `<name> A`, asked at any time.
    pub(crate) fn ask(&self, text: &str, kind: QueryType, now: Instant) -> super::Answer {
        let text = text.strip_suffix('.').unwrap_or(text);
        let labels: Vec<&[u8]> = text.split('.').map(str::as_bytes).collect();
        super::answer(&Question { labels: &labels, kind }, self, now)
    }
}

pub(crate) fn name(text: &str) -> ServiceName {
    ServiceName::parse(text).expect("a name")
}

pub(crate) fn port(name: &str, number: u16, protocol: Protocol) -> Port {
    Port { name: name.into(), number, protocol, app_protocol: "".into() }
}

/// A row; headless when it has endpoints.
pub(crate) fn row(name_text: &str, ports: &[Port], endpoints: &[(&str, bool)]) -> Row {
    let endpoint = |(hostname, ready): &(&str, bool)| HeadlessEndpoint {
        hostname: ServiceLabel::parse(hostname).expect("a label"),
        locality: Locality::default(),
        ready: *ready,
    };
    Row {
        name: name(name_text),
        seq: 1,
        export_id: ExportId([1; 16]),
        ports: ports.to_vec(),
        zones: Vec::new(),
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
        created: Timestamp(1),
        headless: !endpoints.is_empty(),
        idempotent: false,
        session_affinity: None,
        traffic: Traffic::default(),
        endpoints: endpoints.iter().map(endpoint).collect(),
    }
}
