//! The faults there are, as written in scenarios and typed after `fault`. What they do is the backend's part.

use std::{fmt, str::FromStr};

use anyhow::{Result, bail, ensure};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use crate::{emulator::link::Change, quantity::Span, scenario::Scenario, server::Defect};

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
    /// The relay or emulator: stopped, it holds back everything between clusters.
    Wan,
}

/// What a block is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Protocol {
    /// The links of gateways.
    Udp,
    /// What they fall back to.
    Tcp,
}

/// Which packets a router keeps back, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Block {
    /// Only these; all when it is not said.
    pub(crate) protocol: Option<Protocol>,
    /// Only packets of more bytes, IP header included.
    pub(crate) longer_than: Option<u16>,
    /// The sender is told; else it hears nothing.
    pub(crate) reject: bool,
    /// It ends by itself.
    pub(crate) lasting: Option<Span>,
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
    /// Changes the shape of a link, both directions unless `one_way`; what is not named stays.
    Link {
        from: String,
        to: String,
        #[serde(default)]
        one_way: bool,
        shape: Change,
        #[serde(default, rename = "for", skip_serializing_if = "Option::is_none")]
        lasting: Option<Span>,
    },
    /// The routers drop or refuse packets between two clusters; a second block replaces the first.
    Block {
        from: String,
        to: String,
        #[serde(default)]
        one_way: bool,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        protocol: Option<Protocol>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        longer_than: Option<u16>,
        #[serde(default)]
        reject: bool,
        #[serde(default, rename = "for", skip_serializing_if = "Option::is_none")]
        lasting: Option<Span>,
    },
    /// Ends a block.
    Unblock { from: String, to: String },
    /// Runs a verb of `tombolo` in a cluster; again until its output has the words, for as long as that may take.
    Tombolo {
        cluster: String,
        run: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        says: Option<String>,
        #[serde(default)]
        within: Span,
    },
    /// Asks the DNS server of a cluster until a name has an address, or has none.
    Name {
        cluster: String,
        name: String,
        exists: bool,
        #[serde(default)]
        within: Span,
    },
    /// The cluster's NAT forgets its flows: they continue from new ports, or from a new address too.
    Rebind {
        cluster: String,
        #[serde(default)]
        address: bool,
    },
    /// Endpoints misbehave in these ways from now on; in none: they behave.
    Defect { target: Target, what: Vec<Defect> },
    /// What new connections to endpoints begin with vanishes.
    Mute { target: Target },
    /// Ends a mute.
    Unmute { target: Target },
    /// SIGTERM to gateways one after the other, each started again and waited for.
    Roll { target: Target },
}

impl Target {
    /// The cluster it is in; the WAN is in none.
    pub(crate) fn cluster(&self) -> Option<&str> {
        match self {
            Self::Cluster(name)
            | Self::Active(name)
            | Self::Endpoints(name)
            | Self::Gateway(name, _)
            | Self::Endpoint(name, _) => Some(name),
            Self::Wan => None,
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
            [] if cluster == "wan" => Some(Self::Wan),
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
            Self::Wan => f.write_str("wan"),
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
            | Self::Defect { target, .. }
            | Self::Mute { target }
            | Self::Unmute { target }
            | Self::Roll { target }
            | Self::Restart { target } => {
                let endpoints = matches!(target, Target::Endpoint(..) | Target::Endpoints(_));
                match self {
                    Self::Defect { .. } | Self::Mute { .. } | Self::Unmute { .. } => {
                        ensure!(
                            endpoints,
                            "{target} is no endpoint: write west/endpoint/1 or west/endpoints"
                        );
                    }
                    Self::Roll { .. } => ensure!(!endpoints, "{target} is no gateway: write west or west/1"),
                    _ => {}
                }
                let Some(cluster) = target.cluster() else {
                    let held = matches!(self, Self::Stop { .. } | Self::Cont { .. });
                    ensure!(held, "the WAN is only stopped and continued: its devices end with it");
                    return Ok(());
                };
                let cluster = &scenario.clusters[scenario.cluster(cluster)?];
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
            Self::Partition { from, to, .. }
            | Self::Heal { from, to }
            | Self::Link { from, to, .. }
            | Self::Block { from, to, .. }
            | Self::Unblock { from, to } => {
                ensure!(scenario.cluster(from)? != scenario.cluster(to)?, "`{from}` has no link to itself");
                Ok(())
            }
            Self::Rebind { cluster, .. } | Self::Tombolo { cluster, .. } | Self::Name { cluster, .. } => {
                scenario.cluster(cluster).map(|_| ())
            }
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
            Self::Block { from, to, one_way, protocol, longer_than, reject, .. } => {
                let arrow = if *one_way { "->" } else { "<->" };
                f.write_str(if *reject { "refuse" } else { "drop" })?;
                match protocol {
                    Some(Protocol::Udp) => f.write_str(" UDP")?,
                    Some(Protocol::Tcp) => f.write_str(" TCP")?,
                    None => {}
                }
                if let Some(bytes) = longer_than {
                    write!(f, " longer than {bytes}")?;
                }
                write!(f, " {from} {arrow} {to}")
            }
            Self::Unblock { from, to } => write!(f, "unblock {from} <-> {to}"),
            Self::Tombolo { cluster, run, says: None, .. } => write!(f, "tombolo {run} in {cluster}"),
            Self::Tombolo { cluster, run, says: Some(says), .. } => {
                write!(f, "tombolo {run} in {cluster} says `{says}`")
            }
            Self::Name { cluster, name, exists, .. } => {
                write!(f, "{name} has {} in {cluster}", if *exists { "an address" } else { "none" })
            }
            Self::Rebind { cluster, address: false } => write!(f, "rebind {cluster}"),
            Self::Rebind { cluster, .. } => write!(f, "rebind {cluster} to another address"),
            Self::Defect { target, what } if what.is_empty() => write!(f, "{target} behaves"),
            Self::Defect { target, what } => {
                write!(f, "{target} does")?;
                what.iter().try_for_each(|defect| write!(f, " {defect}"))
            }
            Self::Mute { target } => write!(f, "mute {target}"),
            Self::Unmute { target } => write!(f, "unmute {target}"),
            Self::Roll { target } => write!(f, "roll {target}"),
        }
    }
}
