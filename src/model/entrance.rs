//! How clients of a Kubernetes cluster reach an import: through a derived Service that leads to the gateways,
//! on a port that belongs to the import (settled B8).
//!
//! The API server holds what was allocated, so that every gateway listens on the same ports; here it is only
//! read, compared and chosen. Who writes the Service, and how, is `kubernetes`' matter.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
    ops::RangeInclusive,
};

use imbl::{OrdMap, ordmap::DiffItem};
use serde::{Deserialize, Serialize};

use super::{catalog::Protocol, ids::ServiceName, virtual_ip::VipKey};

/// Ports that gateways listen on for imports: clear of Kubernetes' node ports (30000 to 32767), and below
/// the ephemeral ones where a kernel keeps its default.
pub const ENTRANCE_PORTS: RangeInclusive<u16> = 10_000..=29_999;

/// One port of a derived Service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct EntrancePort {
    /// Its transport.
    pub protocol: Protocol,
    /// The number clients connect to.
    pub number: u16,
    /// The number the gateways listen on.
    pub listening: u16,
}

/// A derived Service as this gateway needs it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entrance {
    /// Its cluster IPs, in the order of its families.
    pub addresses: Vec<IpAddr>,
    /// Its ports.
    pub ports: Vec<EntrancePort>,
}

impl Entrance {
    /// Its IPv4 address.
    #[must_use]
    pub fn ipv4(&self) -> Option<Ipv4Addr> {
        self.addresses.iter().find_map(|address| match address {
            IpAddr::V4(ip) => Some(*ip),
            IpAddr::V6(_) => None,
        })
    }

    /// Where the gateways listen for a port.
    #[must_use]
    pub fn listening(&self, protocol: Protocol, number: u16) -> Option<u16> {
        let found = self.ports.iter().find(|port| (port.protocol, port.number) == (protocol, number));
        found.map(|port| port.listening)
    }
}

/// All derived Services by what they stand for. Cloning costs nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "BTreeMap<VipKey, Entrance>", into = "BTreeMap<VipKey, Entrance>")]
pub struct Entrances(OrdMap<VipKey, Entrance>);

impl Entrances {
    /// The one of a name.
    #[must_use]
    pub fn get(&self, key: &VipKey) -> Option<&Entrance> {
        self.0.get(key)
    }

    /// Takes over what became of one; returns whether anything changed.
    pub fn set(&mut self, key: VipKey, entrance: Option<Entrance>) -> bool {
        match entrance {
            Some(entrance) if self.0.get(&key) == Some(&entrance) => false,
            Some(entrance) => {
                self.0.insert(key, entrance);
                true
            }
            None => self.0.remove(&key).is_some(),
        }
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&VipKey, &Entrance)> {
        self.0.iter()
    }

    /// Whether it is the very same map, which is cheap to know.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        self.0.ptr_eq(&other.0)
    }

    /// The services of those that came, went or changed.
    #[must_use]
    pub fn changed_since(&self, old: &Self) -> BTreeSet<ServiceName> {
        let key = |item: DiffItem<'_, '_, VipKey, Entrance>| match item {
            DiffItem::Add(key, _) | DiffItem::Remove(key, _) => key.service().clone(),
            DiffItem::Update { new, .. } => new.0.service().clone(),
        };
        old.0.diff(&self.0).map(key).collect()
    }
}

impl From<BTreeMap<VipKey, Entrance>> for Entrances {
    fn from(map: BTreeMap<VipKey, Entrance>) -> Self {
        Self(map.into_iter().collect())
    }
}

impl From<Entrances> for BTreeMap<VipKey, Entrance> {
    fn from(entrances: Entrances) -> Self {
        entrances.0.into_iter().collect()
    }
}

/// A free port for a name's port: its own by the hash of the name, or the next one that nobody has. The
/// hash makes a cluster that lost everything most often choose what it chose before.
#[must_use]
pub fn allocate(
    key: &VipKey,
    protocol: Protocol,
    number: u16,
    is_taken: impl Fn(u16) -> bool,
) -> Option<u16> {
    let (first, last) = (*ENTRANCE_PORTS.start(), *ENTRANCE_PORTS.end());
    let size = last - first + 1;
    let text = format!("{key}:{protocol}/{number}");
    let hash = crc::Crc::<u32>::new(&crc::CRC_32_ISCSI).checksum(text.as_bytes());
    let own = u16::try_from(hash % u32::from(size)).expect("below a u16");
    (0..size).map(|step| first + (own + step) % size).find(|port| !is_taken(*port))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> VipKey {
        text.parse().expect("a key")
    }

    #[test]
    fn a_port_is_stable_free_and_in_its_range_until_none_is_left() {
        let web = key("shop/web");
        let first = allocate(&web, Protocol::Tcp, 80, |_| false).expect("free");
        assert_eq!(allocate(&web, Protocol::Tcp, 80, |_| false), Some(first));
        let mut taken: BTreeSet<u16> = ENTRANCE_PORTS.filter(|port| port % 4_000 != 0).collect();
        while let Some(port) = allocate(&web, Protocol::Tcp, 80, |port| taken.contains(&port)) {
            assert!(ENTRANCE_PORTS.contains(&port) && taken.insert(port));
        }
        assert_eq!(taken.len(), ENTRANCE_PORTS.len());
    }

    #[test]
    fn a_change_names_its_service_and_no_change_is_none() {
        let old = Entrances::default();
        let mut new = old.clone();
        let entrance =
            Entrance { addresses: vec!["10.96.3.4".parse().expect("an address")], ports: Vec::new() };
        assert!(new.set(key("shop/web"), Some(entrance.clone())));
        assert!(!new.set(key("shop/web"), Some(entrance)));
        let changed: Vec<_> = new.changed_since(&old).iter().map(ToString::to_string).collect();
        assert_eq!(changed, ["shop/web"]);
        assert!(new.changed_since(&new.clone()).is_empty());
        assert!(new.set(key("shop/web"), None) && !new.set(key("shop/web"), None));
    }
}
