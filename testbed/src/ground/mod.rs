//! The seam between what a testbed is and what it stands on. A backend gives addresses and places; all
//! else is the same on each.

mod conntrack;
mod netns;
mod nft;
mod proc;

use std::net::{IpAddr, SocketAddr, UdpSocket};

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::{
    emulator::{tun::Side, udp::Front},
    fault::Block,
    scenario::Scenario,
    standing::Standing,
};

/// What a testbed can stand on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum BackendName {
    /// Processes on 127.0.0.0/8, a relay between them; no root.
    Proc,
    /// A network namespace per cluster, routers with NAT, the WAN emulator; root.
    Netns,
}

/// Where a gateway listens.
#[derive(Debug, Clone)]
pub(crate) struct Listens {
    /// For peers.
    pub(crate) quic: SocketAddr,
    /// What peers are told.
    pub(crate) advertise: SocketAddr,
    /// For names.
    pub(crate) dns: SocketAddr,
    /// For health and metrics.
    pub(crate) admin: SocketAddr,
    /// For the imports of this gateway; nothing: the default.
    pub(crate) virtual_ips: Option<String>,
}

/// What the relay or emulator is told at its start.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct WanPlan {
    /// Names of the clusters, in order.
    pub(crate) clusters: Vec<String>,
    /// The shape of every link.
    pub(crate) shape: crate::emulator::link::Shape,
    /// Of all that is random.
    pub(crate) seed: u64,
    /// The medium.
    pub(crate) medium: WanMedium,
}

/// The medium of a WAN.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum WanMedium {
    /// UDP on loopback.
    Relay(Vec<Front>),
    /// TUN devices.
    Tun(Vec<Side>),
}

/// A backend. Clusters, gateways and endpoints are counted from 0 here.
pub(crate) trait Ground {
    /// Says why it cannot be used here, and what to do about it.
    fn check(&self, scenario: &Scenario) -> Result<()>;
    /// Makes what must stand before the WAN.
    fn prepare(&self, standing: &mut Standing) -> Result<()>;
    /// Makes what needs the WAN's devices.
    fn connect(&self, standing: &Standing) -> Result<()>;
    /// The medium of the WAN.
    fn medium(&self, standing: &Standing) -> WanMedium;
    /// Where a gateway listens.
    fn listens(&self, standing: &Standing, cluster: usize, gateway: usize) -> Listens;
    /// Where an endpoint listens.
    fn endpoint(&self, standing: &Standing, cluster: usize, endpoint: usize) -> IpAddr;
    /// Whether gateways may listen on ports below 1024.
    fn ports_below_1024(&self) -> bool;
    /// What a command in that cluster must be preceded by.
    fn prefix(&self, standing: &Standing, cluster: usize) -> Vec<String>;
    /// Moves the calling thread into a cluster, for good.
    fn enter(&self, standing: &Standing, cluster: usize) -> Result<()>;
    /// Makes the cluster's NAT forget its flows, and take another address for those to come.
    fn rebind(&self, standing: &Standing, cluster: usize, address: bool) -> Result<()>;
    /// Drops what new connections to an endpoint begin with, or no longer.
    fn mute(&self, standing: &Standing, cluster: usize, endpoint: usize, mute: bool) -> Result<()>;
    /// Keeps packets from one cluster to another back at the sender's router, in place of an earlier block.
    fn block(&self, standing: &Standing, from: usize, to: usize, block: &Block) -> Result<()>;
    /// Ends a block, also where there is none.
    fn unblock(&self, standing: &Standing, from: usize, to: usize) -> Result<()>;
    /// The blocks that hold now, for people, each with its count.
    fn blocks(&self, standing: &Standing) -> Vec<String>;
    /// Takes away what `prepare` made, also half of it, also twice.
    fn remove(&self, standing: &Standing) -> Result<()>;
}

/// The backend of that name.
pub(crate) fn ground(name: BackendName) -> Box<dyn Ground> {
    match name {
        BackendName::Proc => Box::new(proc::Proc),
        BackendName::Netns => Box::new(netns::Netns),
    }
}

/// A range of loopback addresses that nobody uses, held by the socket until its relay runs.
pub(crate) fn free_slot() -> Result<(u8, UdpSocket)> {
    proc::free_slot()
}
