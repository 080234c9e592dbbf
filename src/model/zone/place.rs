//! Where in the zone a name stands, by its form alone: whether something is there is `answer`'s matter.

use std::str::FromStr;

use super::name::label;
use crate::model::{
    catalog::Protocol,
    ids::{ClusterId, Namespace, ServiceLabel, ServiceName},
};

/// A form that names of the zone have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place<'a> {
    /// The zone itself.
    Apex,
    /// `dns-version`.
    Version,
    /// `ns`, the name server.
    Server,
    /// `svc`.
    Services,
    /// `<ns>.svc`.
    Namespace(Namespace),
    /// `<svc>.<ns>.svc`.
    Service(ServiceName),
    /// `_<proto>.<svc>.<ns>.svc`.
    Transport(ServiceName, Protocol),
    /// `_<port>._<proto>.<svc>.<ns>.svc`, with the port's name as it was asked.
    Port(ServiceName, Protocol, &'a [u8]),
    /// `<cluster>.<svc>.<ns>.svc`: no record may stand here (rule 25).
    Cluster(ServiceName, ClusterId),
    /// `<hostname>.<cluster>.<svc>.<ns>.svc`.
    Endpoint(ServiceName, ClusterId, ServiceLabel),
}

impl<'a> Place<'a> {
    /// Reads the labels left of the zone, most specific first. `None` for a form no name of the zone has.
    pub(super) fn of(inside: &'a [&'a [u8]]) -> Option<Self> {
        let (top, below) = match inside {
            [] => return Some(Self::Apex),
            [below @ .., top] => (top, below),
        };
        if below.is_empty() && top.eq_ignore_ascii_case(b"dns-version") {
            return Some(Self::Version);
        }
        if below.is_empty() && top.eq_ignore_ascii_case(b"ns") {
            return Some(Self::Server);
        }
        if !top.eq_ignore_ascii_case(b"svc") {
            return None;
        }
        let (namespace, below) = match below {
            [] => return Some(Self::Services),
            [below @ .., namespace] => (parse(namespace)?, below),
        };
        let (name, below) = match below {
            [] => return Some(Self::Namespace(namespace)),
            [below @ .., name] => (ServiceName { namespace, name: parse(name)? }, below),
        };
        match below {
            [] => Some(Self::Service(name)),
            [one] => match protocol(one) {
                Some(protocol) => Some(Self::Transport(name, protocol)),
                None => Some(Self::Cluster(name, parse(one)?)),
            },
            [two, one] => match (protocol(one), two.strip_prefix(b"_")) {
                (Some(protocol), Some(port)) => Some(Self::Port(name, protocol, port)),
                _ => Some(Self::Endpoint(name, parse(one)?, parse(two)?)),
            },
            _ => None,
        }
    }
}

/// A label as one of our identifiers, which are lower case.
fn parse<T: FromStr>(label: &[u8]) -> Option<T> {
    std::str::from_utf8(label).ok()?.to_ascii_lowercase().parse().ok()
}

fn protocol(text: &[u8]) -> Option<Protocol> {
    [Protocol::Tcp, Protocol::Udp]
        .into_iter()
        .find(|protocol| text.eq_ignore_ascii_case(label(*protocol).as_bytes()))
}
