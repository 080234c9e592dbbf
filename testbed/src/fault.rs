//! The faults there are, as written in scenarios and typed after `fault`. What they do is the backend's part.

use std::{fmt, str::FromStr};

use anyhow::{Result, bail, ensure};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use crate::{emulator::link::Shape, quantity::Span, scenario::Scenario};

/// What a signal goes to: `west`, `west/1` (a gateway), `west/endpoint/1`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    /// Everything of a cluster, its endpoints included.
    Cluster(String),
    /// One gateway, counted from 1.
    Gateway(String, usize),
    /// The gateway of a cluster that the client's gateway uses now.
    Active(String),
    /// One endpoint of the sample service, counted from 1.
    Endpoint(String, usize),
    /// All endpoints of a cluster; its gateways stay.
    Endpoints(String),
}

/// A fault, or the end of one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "fault", rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum Fault {
    /// SIGKILL.
    Kill { target: Target },
    /// SIGSTOP.
    Stop { target: Target },
    /// SIGCONT.
    Cont { target: Target },
    /// Starts what was killed.
    Restart { target: Target },
    /// Nothing passes between two clusters, or from the first to the second only.
    Partition {
        from: String,
        to: String,
        #[serde(default)]
        one_way: bool,
        #[serde(default, rename = "for", skip_serializing_if = "Option::is_none")]
        lasting: Option<Span>,
    },
    /// Ends a partition.
    Heal { from: String, to: String },
    /// Sets the shape of a link, both directions unless `one_way`.
    Link {
        from: String,
        to: String,
        #[serde(default)]
        one_way: bool,
        shape: Shape,
    },
    /// The cluster's NAT forgets its flows: they continue from new ports.
    Rebind { cluster: String },
}

impl Target {
    /// The cluster it is in.
    pub(crate) fn cluster(&self) -> &str {
        match self {
            Self::Cluster(name)
            | Self::Active(name)
            | Self::Endpoints(name)
            | Self::Gateway(name, _)
            | Self::Endpoint(name, _) => name,
        }
    }
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts: Vec<&str> = text.split('/').collect();
        let cluster = parts[0].to_owned();
        let number = |text: &str| text.parse::<usize>().ok().filter(|number| *number > 0);
        let found = match parts[1..] {
            [] if !cluster.is_empty() => Some(Self::Cluster(cluster)),
            ["active"] => Some(Self::Active(cluster)),
            ["endpoints"] => Some(Self::Endpoints(cluster)),
            [gateway] => number(gateway).map(|number| Self::Gateway(cluster, number)),
            ["endpoint", endpoint] => number(endpoint).map(|number| Self::Endpoint(cluster, number)),
            _ => None,
        };
        found.ok_or_else(|| {
            format!(
                "`{text}` is no target: write west, west/1, west/active, west/endpoint/1 or west/endpoints"
            )
        })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cluster(cluster) => f.write_str(cluster),
            Self::Gateway(cluster, number) => write!(f, "{cluster}/{number}"),
            Self::Active(cluster) => write!(f, "{cluster}/active"),
            Self::Endpoint(cluster, number) => write!(f, "{cluster}/endpoint/{number}"),
            Self::Endpoints(cluster) => write!(f, "{cluster}/endpoints"),
        }
    }
}

impl Serialize for Target {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Target {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

impl Fault {
    /// Whether everything it names is part of the scenario.
    pub(crate) fn check(&self, scenario: &Scenario) -> Result<()> {
        match self {
            Self::Kill { target }
            | Self::Stop { target }
            | Self::Cont { target }
            | Self::Restart { target } => {
                let cluster = &scenario.clusters[scenario.cluster(target.cluster())?];
                match target {
                    Target::Gateway(name, number) if *number > cluster.gateways => {
                        bail!("`{name}` has no gateway {number}, only {}", cluster.gateways)
                    }
                    Target::Endpoint(name, number) if *number > cluster.endpoints => {
                        bail!("`{name}` has no endpoint {number}, only {}", cluster.endpoints)
                    }
                    _ => Ok(()),
                }
            }
            Self::Partition { from, to, .. } | Self::Heal { from, to } | Self::Link { from, to, .. } => {
                ensure!(scenario.cluster(from)? != scenario.cluster(to)?, "`{from}` has no link to itself");
                Ok(())
            }
            Self::Rebind { cluster } => scenario.cluster(cluster).map(|_| ()),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kill { target } => write!(f, "kill {target}"),
            Self::Stop { target } => write!(f, "stop {target}"),
            Self::Cont { target } => write!(f, "continue {target}"),
            Self::Restart { target } => write!(f, "restart {target}"),
            Self::Partition { from, to, one_way: false, .. } => write!(f, "partition {from} <-> {to}"),
            Self::Partition { from, to, .. } => write!(f, "partition {from} -> {to}"),
            Self::Heal { from, to } => write!(f, "heal {from} <-> {to}"),
            Self::Link { from, to, .. } => write!(f, "change the link {from} - {to}"),
            Self::Rebind { cluster } => write!(f, "rebind {cluster}"),
        }
    }
}
