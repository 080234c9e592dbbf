//! What the zone says: a pure function from a question to an answer, by KEP-1645's DNS specification.
//!
//! The zone is never built: a question is looked up in the imports, so an answer costs a few map look-ups
//! however many services there are. Packets, EDNS and truncation are `dns`'s matter. "Rule" means the
//! numbered rules of that specification as the names' documentation lists them (18 to 33).

use std::{
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use super::{
    catalog::Protocol,
    ids::{Namespace, ServiceName},
    import::Import,
    limits,
    virtual_ip::VipKey,
};

mod answer;
mod name;
mod place;

#[cfg(test)]
pub(crate) mod fixture;

pub use answer::answer;
pub use name::{DnsName, NAME_BYTES_MAX, NameError, ZoneName};

/// The version of the DNS schema this zone follows (rule 18).
pub const DNS_VERSION: &str = "1.0.0";
/// Seconds the version may be cached (rule 18).
pub const DNS_VERSION_TTL: u32 = 28_800;

/// The newest state as the zone needs it. Every method is a look-up, O(log n) at most.
pub trait ZoneSource: Send + Sync {
    /// The zone that is answered for.
    fn zone(&self) -> &ZoneName;
    /// Seconds an answer, also a negative one, may be cached.
    fn ttl(&self) -> u32;
    /// Grows with each change; the serial of the SOA record.
    fn serial(&self) -> u32;
    /// Whether a miss is final; see [`misses_are_final`].
    fn synced(&self, now: Instant) -> bool;
    /// The import of that name, while somebody exports it.
    fn import(&self, name: &ServiceName) -> Option<&Import>;
    /// Whether any import lies in the namespace.
    fn holds(&self, namespace: &Namespace) -> bool;
    /// The address that stands for a service or an endpoint on this host.
    fn virtual_ip(&self, key: &VipKey) -> Option<Ipv4Addr>;
    /// The port that is bound for a service's port: `Binding::bound_port`. None until its listener has been
    /// opened once: who were told of it would be refused, or come to a port that another one stands in for.
    fn bound_port(&self, ip: Ipv4Addr, protocol: Protocol, port: u16) -> Option<u16>;
    /// The address of the name server `ns.<zone>`, where there is one to tell.
    fn server(&self) -> Option<Ipv4Addr> {
        None
    }
}

/// Whether what is not known may be denied (NXDOMAIN) or only not answered yet (SERVFAIL, rule 29).
///
/// `listed`: our own sources have been read once. `up`: time since start. `missing`: for each known peer
/// without a catalog, how long ago it joined during this run, or `None` when it was known at start.
#[must_use]
pub fn misses_are_final(
    listed: bool,
    up: Duration,
    missing: impl IntoIterator<Item = Option<Duration>>,
) -> bool {
    let given_up = |joined: Option<Duration>| match joined {
        Some(ago) => ago >= limits::UNSYNCED_GRACE_AFTER_JOIN,
        None => up >= limits::UNSYNCED_GRACE,
    };
    listed && missing.into_iter().all(given_up)
}

/// The type of a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum QueryType {
    /// IPv4 address.
    A,
    /// IPv6 address; never any, since virtual IPs are IPv4.
    Aaaa,
    /// Port and target.
    Srv,
    /// Text.
    Txt,
    /// Start of authority.
    Soa,
    /// Name server.
    Ns,
    /// Everything at once; refused (RFC 8482).
    Any,
    /// AXFR, IXFR and their kin; refused.
    Transfer,
    /// Any other type: no name has one.
    Other(u16),
}

impl QueryType {
    /// From the number on the wire.
    #[must_use]
    pub fn from_number(number: u16) -> Self {
        match number {
            1 => Self::A,
            2 => Self::Ns,
            6 => Self::Soa,
            16 => Self::Txt,
            28 => Self::Aaaa,
            33 => Self::Srv,
            251..=254 => Self::Transfer,
            255 => Self::Any,
            other => Self::Other(other),
        }
    }

    /// A word of a small set, for metrics.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::A => "A",
            Self::Aaaa => "AAAA",
            Self::Srv => "SRV",
            Self::Txt => "TXT",
            Self::Soa => "SOA",
            Self::Ns => "NS",
            Self::Any => "ANY",
            Self::Transfer => "AXFR",
            Self::Other(_) => "other",
        }
    }
}

/// One question of class IN.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    /// The name's labels as they were sent, most specific first, without the root.
    pub labels: &'a [&'a [u8]],
    /// What is asked.
    pub kind: QueryType,
}

/// How an answer ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rcode {
    /// The name exists; without answers, not with that type.
    NoError,
    /// Nothing has that name.
    NxDomain,
    /// Not known yet: ask again.
    ServFail,
    /// Not ours to answer.
    Refused,
}

/// Whose record it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Owner {
    /// The name that was asked, in the case it was asked (rule 27).
    Asked,
    /// Another name.
    Named(DnsName),
}

/// One record of class IN.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Whose it is.
    pub owner: Owner,
    /// Seconds it may be cached.
    pub ttl: u32,
    /// What it says.
    pub data: Data,
}

/// What a record says.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Data {
    /// An address.
    A(Ipv4Addr),
    /// Where a port is served; priority and weight are those of RFC 2782.
    Srv {
        /// Always 0: all targets are alike.
        priority: u16,
        /// Always 1: all targets are alike.
        weight: u16,
        /// The port that is bound.
        port: u16,
        /// The service, or one endpoint of a headless one.
        target: DnsName,
    },
    /// One string.
    Txt(&'static str),
    /// The name server.
    Ns(DnsName),
    /// Start of authority.
    Soa(Soa),
}

/// A start of authority (RFC 1035 section 3.3.13). All times in seconds.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Soa {
    /// The name server.
    pub server: DnsName,
    /// The mailbox, written as a name.
    pub contact: DnsName,
    /// Grows with each change.
    pub serial: u32,
    /// For secondaries, of which there are none.
    pub refresh: u32,
    /// For secondaries.
    pub retry: u32,
    /// For secondaries.
    pub expire: u32,
    /// How long a miss may be cached (RFC 2308).
    pub minimum: u32,
}

/// What is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// How it ends.
    pub rcode: Rcode,
    /// Whether it is said with authority: for all that lies in the zone and is known.
    pub authoritative: bool,
    /// What was asked for.
    pub answers: Vec<Record>,
    /// For the authority section of a miss or of an absent type.
    pub soa: Option<Record>,
    /// What the client would ask for next.
    pub additionals: Vec<Record>,
}

#[cfg(test)]
mod tests;
