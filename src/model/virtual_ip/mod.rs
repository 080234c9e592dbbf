//! Which address stands for a name on this host: stable, remembered, never lent out too soon.
//!
//! Pure bookkeeping: nothing is bound here. The address of a name is chosen by a hash of the name, so that
//! even a gateway that lost its state most often agrees with what clients still remember.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::Ipv4Addr,
    str::FromStr,
};

use imbl::OrdMap;
use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use super::{
    code::Code,
    ids::{ClusterId, IdError, ServiceLabel, ServiceName, Timestamp},
    import::Import,
    limits,
};

mod binding;
mod block;

pub use binding::{Binding, BindingState, listen_port};
pub use block::{block_candidates, guard};

/// Why there is no virtual IP.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VipError {
    /// Every address stands for a name, or did within the last 24 h.
    #[error("all {capacity} virtual IPs of {range} are taken")]
    Exhausted {
        /// The range of this gateway.
        range: Ipv4Net,
        /// How many names it holds.
        capacity: u32,
    },
    /// The range leaves no address beside network, guard and broadcast.
    #[error("{range} is too small for virtual IPs: the prefix may be at most /{}", MAX_PREFIX)]
    RangeTooSmall {
        /// The range that was asked for.
        range: Ipv4Net,
    },
    /// Saved assignments contradict each other or their range.
    #[error("saved virtual IPs are not usable: {problem}")]
    Corrupt {
        /// What is wrong, with the address or key.
        problem: String,
    },
}

impl VipError {
    /// Its row of the table of codes.
    #[must_use]
    pub const fn code(&self) -> Code {
        match self {
            Self::Exhausted { .. } => Code::VIRTUAL_IPS_EXHAUSTED,
            Self::RangeTooSmall { .. } => Code::NO_VIRTUAL_IP_RANGE,
            Self::Corrupt { .. } => Code::STATE_CORRUPT,
        }
    }
}

/// Longest prefix that leaves an address to give away.
pub const MAX_PREFIX: u8 = 29;

/// What a virtual IP stands for. Its text form is a path: `ns/name` or `ns/name/cluster/hostname`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum VipKey {
    /// A service as a whole.
    Service(ServiceName),
    /// One endpoint of a headless service.
    Endpoint(ServiceName, ClusterId, ServiceLabel),
}

impl VipKey {
    /// What an import needs addresses for: the service, or each endpoint (ready or not) when headless.
    #[must_use]
    pub fn of(import: &Import) -> Vec<Self> {
        if !import.headless {
            return vec![Self::Service(import.name.clone())];
        }
        let endpoints = import.clusters.iter().flat_map(|part| part.endpoints.iter().map(move |e| (part, e)));
        endpoints
            .map(|(part, e)| Self::Endpoint(import.name.clone(), part.cluster.clone(), e.hostname.clone()))
            .collect()
    }

    /// The service it belongs to.
    #[must_use]
    pub fn service(&self) -> &ServiceName {
        match self {
            Self::Service(name) | Self::Endpoint(name, ..) => name,
        }
    }
}

impl fmt::Display for VipKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service(name) => name.fmt(f),
            Self::Endpoint(name, cluster, hostname) => write!(f, "{name}/{cluster}/{hostname}"),
        }
    }
}

impl FromStr for VipKey {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        let mut slashes = text.match_indices('/').map(|(at, _)| at);
        let Some(second) = slashes.nth(1) else { return ServiceName::parse(text).map(Self::Service) };
        let rest = &text[second + 1..];
        let (cluster, hostname) = rest.split_once('/').unwrap_or((rest, ""));
        let name = ServiceName::parse(&text[..second])?;
        Ok(Self::Endpoint(name, ClusterId::parse(cluster)?, ServiceLabel::parse(hostname)?))
    }
}

impl TryFrom<String> for VipKey {
    type Error = IdError;
    fn try_from(text: String) -> Result<Self, IdError> {
        text.parse()
    }
}

impl From<VipKey> for String {
    fn from(key: VipKey) -> Self {
        key.to_string()
    }
}

/// One assignment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assigned {
    /// The address.
    pub ip: Ipv4Addr,
    /// When it was given.
    pub since: Timestamp,
    /// When the last export of its name went away; absent while there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub released: Option<Timestamp>,
}

/// What [`VirtualIps::reconcile`] did, for whoever binds the addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reconciled {
    /// Names that have an address now and had none, or got back the one they had.
    pub assigned: Vec<(VipKey, Ipv4Addr)>,
    /// Names whose last export went; their addresses are kept but serve nothing.
    pub released: Vec<(VipKey, Ipv4Addr)>,
    /// Names whose addresses are free again.
    pub freed: Vec<(VipKey, Ipv4Addr)>,
    /// Names that got no address, and why.
    pub failed: Vec<(VipKey, VipError)>,
}

impl Reconciled {
    /// Whether the saved state is out of date.
    #[must_use]
    pub fn changed(&self) -> bool {
        !(self.assigned.is_empty() && self.released.is_empty() && self.freed.is_empty())
    }
}

/// The addresses of one gateway's block and what they stand for. Cloning costs nothing, as with all of `State`:
/// readers keep theirs while one name comes or goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Saved", into = "Saved")]
pub struct VirtualIps {
    range: Ipv4Net,
    assigned: OrdMap<VipKey, Assigned>,
    by_ip: OrdMap<Ipv4Addr, VipKey>,
}

impl VirtualIps {
    /// No assignments yet, out of `range`.
    ///
    /// # Errors
    /// [`VipError::RangeTooSmall`].
    pub fn new(range: Ipv4Net) -> Result<Self, VipError> {
        let range = range.trunc();
        if range.prefix_len() > MAX_PREFIX {
            return Err(VipError::RangeTooSmall { range });
        }
        Ok(Self { range, assigned: OrdMap::new(), by_ip: OrdMap::new() })
    }

    /// The same names in another block; those whose address is outside of it get a new one when next asked.
    ///
    /// # Errors
    /// [`VipError::RangeTooSmall`].
    pub fn moved_to(self, range: Ipv4Net) -> Result<Self, VipError> {
        let mut moved = Self::new(range)?;
        for (key, entry) in self.assigned {
            if moved.may_assign(entry.ip) {
                moved.by_ip.insert(entry.ip, key.clone());
                moved.assigned.insert(key, entry);
            }
        }
        Ok(moved)
    }

    /// The block the addresses come from.
    #[must_use]
    pub fn range(&self) -> Ipv4Net {
        self.range
    }

    /// How many names the block holds: all its addresses but network, guard and broadcast.
    #[must_use]
    pub fn capacity(&self) -> u32 {
        (u32::from(self.range.broadcast()) - u32::from(self.range.network())) - 2
    }

    /// The address of a name, also of one that is only kept.
    #[must_use]
    pub fn get(&self, key: &VipKey) -> Option<Ipv4Addr> {
        self.assigned.get(key).map(|entry| entry.ip)
    }

    /// What an address stands for.
    #[must_use]
    pub fn key(&self, ip: Ipv4Addr) -> Option<&VipKey> {
        self.by_ip.get(&ip)
    }

    /// All assignments, kept ones included, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&VipKey, &Assigned)> {
        self.assigned.iter()
    }

    /// The address of a name that is exported: the one it has, or a free one by the hash of the name.
    ///
    /// # Errors
    /// [`VipError::Exhausted`] when even after [`Self::expire`] none is free. A kept address is never taken
    /// from its name early: a client that remembers it would reach another service.
    pub fn assign(&mut self, key: &VipKey, now: Timestamp) -> Result<Ipv4Addr, VipError> {
        if let Some(entry) = self.assigned.get_mut(key) {
            entry.released = None;
            return Ok(entry.ip);
        }
        let ip = self.free_address(key)?;
        self.by_ip.insert(ip, key.clone());
        self.assigned.insert(key.clone(), Assigned { ip, since: now, released: None });
        Ok(ip)
    }

    /// Notes that the last export of a name went. Its address is kept for 24 h.
    pub fn release(&mut self, key: &VipKey, now: Timestamp) {
        if let Some(entry) = self.assigned.get_mut(key) {
            entry.released.get_or_insert(now);
        }
    }

    /// Frees what was released [`limits::VIRTUAL_IP_KEPT`] ago or earlier, and tells what it was.
    pub fn expire(&mut self, now: Timestamp) -> Vec<(VipKey, Ipv4Addr)> {
        let over = |entry: &Assigned| {
            entry.released.is_some_and(|released| now.since(released) >= limits::VIRTUAL_IP_KEPT)
        };
        let freed: Vec<_> = self
            .assigned
            .iter()
            .filter(|(_, entry)| over(entry))
            .map(|(key, entry)| (key.clone(), entry.ip))
            .collect();
        for (key, ip) in &freed {
            self.assigned.remove(key);
            self.by_ip.remove(ip);
        }
        freed
    }

    /// Makes the assignments those of exactly `wanted`: frees what is over, releases what is not wanted,
    /// then assigns in the order of the names, so that gateways that start empty agree.
    pub fn reconcile(&mut self, wanted: impl IntoIterator<Item = VipKey>, now: Timestamp) -> Reconciled {
        let wanted: BTreeSet<VipKey> = wanted.into_iter().collect();
        let mut done = Reconciled::default();
        for (key, entry) in &self.assigned {
            let change = (key.clone(), entry.ip);
            match (entry.released, wanted.contains(key)) {
                (None, false) => done.released.push(change),
                (Some(_), true) => done.assigned.push(change),
                _ => {}
            }
        }
        for (list, released) in [(&done.released, Some(now)), (&done.assigned, None)] {
            for (key, _) in list {
                if let Some(entry) = self.assigned.get_mut(key) {
                    entry.released = released;
                }
            }
        }
        done.freed = self.expire(now);
        for key in wanted {
            if self.assigned.contains_key(&key) {
                continue;
            }
            match self.assign(&key, now) {
                Ok(ip) => done.assigned.push((key, ip)),
                Err(error) => done.failed.push((key, error)),
            }
        }
        done
    }

    fn may_assign(&self, ip: Ipv4Addr) -> bool {
        ip > guard(self.range) && ip < self.range.broadcast()
    }

    /// Starts at the name's own place in the block and takes the first free address from there on.
    fn free_address(&self, key: &VipKey) -> Result<Ipv4Addr, VipError> {
        let capacity = self.capacity();
        let taken = u32::try_from(self.by_ip.len()).unwrap_or(u32::MAX);
        if taken < capacity {
            let first = u32::from(guard(self.range)) + 1;
            let place = u32::try_from(hash(&key.to_string()) % u64::from(capacity)).expect("below a u32");
            let own = Ipv4Addr::from(first + place);
            let last = Ipv4Addr::from(first + (capacity - 1));
            let free = |ip: &Ipv4Addr| !self.by_ip.contains_key(ip);
            let mut after = (u32::from(own)..=u32::from(last)).map(Ipv4Addr::from);
            let mut before = (first..u32::from(own)).map(Ipv4Addr::from);
            if let Some(ip) = after.find(free).or_else(|| before.find(free)) {
                return Ok(ip);
            }
        }
        Err(VipError::Exhausted { range: self.range, capacity })
    }
}

/// FNV-1a, finished by a multiply and shift so that all bits count. Part of what is promised: gateways of
/// different versions must agree, so this must never change.
fn hash(text: &str) -> u64 {
    let folded = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let mixed = (folded ^ (folded >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    mixed ^ (mixed >> 33)
}

/// The form on disk.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Saved {
    range: String,
    assigned: BTreeMap<VipKey, Assigned>,
}

impl From<VirtualIps> for Saved {
    fn from(ips: VirtualIps) -> Self {
        Self { range: ips.range.to_string(), assigned: ips.assigned.into_iter().collect() }
    }
}

impl TryFrom<Saved> for VirtualIps {
    type Error = VipError;
    fn try_from(saved: Saved) -> Result<Self, VipError> {
        let corrupt = |problem: String| VipError::Corrupt { problem };
        let range = saved.range.parse().map_err(|_| corrupt(format!("{:?} is not a range", saved.range)))?;
        let mut ips = Self::new(range)?;
        for (key, entry) in saved.assigned {
            if !ips.may_assign(entry.ip) {
                return Err(corrupt(format!("{} of {key} lies outside of {range}", entry.ip)));
            }
            if let Some(other) = ips.by_ip.insert(entry.ip, key.clone()) {
                return Err(corrupt(format!("{} belongs to both {other} and {key}", entry.ip)));
            }
            ips.assigned.insert(key, entry);
        }
        Ok(ips)
    }
}

#[cfg(test)]
mod tests;
