//! Backend `proc`: all clusters are processes on loopback addresses of their own, with a relay in front of
//! every gateway. No root, no namespaces, nothing to take away but processes.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};

use anyhow::{Context as _, Result, bail, ensure};

use super::{Ground, Listens, WanMedium};
use crate::{
    emulator::udp::Front,
    fault::{Block, Fault},
    scenario::Scenario,
    standing::Standing,
};

/// Each slot has 16 second octets from here on: gateways, fronts, endpoints, then virtual IPs.
const FIRST: u8 = 128;
/// Second octets of a slot.
const WIDTH: u8 = 16;
/// Slots there are.
const SLOTS: u8 = 7;
/// Second octets of virtual IPs in a slot, four /18 in each.
const VIRTUAL: usize = 12;

/// What is said when a router is asked for.
const NO_BLOCKS: &str = "backend proc has no routers, and so no blocks
  try: --backend netns, or `fault partition` and `fault link --mtu`";

/// The backend.
pub(super) struct Proc;

/// A slot whose relay address nobody holds, and a socket that keeps others off it until the relay runs.
pub(super) fn free_slot() -> Result<(u8, UdpSocket)> {
    let claim = |slot: u8| {
        let guard = UdpSocket::bind((address(slot, 1, 0, 0), 7444)).ok()?;
        UdpSocket::bind((address(slot, 1, 0, 0), 7443)).ok().map(|_| (slot, guard))
    };
    (0..SLOTS)
        .find_map(claim)
        .with_context(|| format!("{SLOTS} testbeds stand already\n  try: testbed down --dir ..."))
}

fn address(slot: u8, part: u8, cluster: usize, member: usize) -> IpAddr {
    let octet = |index: usize| u8::try_from(index + 1).expect("a scenario has few clusters and members");
    Ipv4Addr::new(127, FIRST + slot * WIDTH + part, octet(cluster), octet(member)).into()
}

impl Ground for Proc {
    fn check(&self, scenario: &Scenario) -> Result<()> {
        let gateways: usize = scenario.clusters.iter().map(|cluster| cluster.gateways).sum();
        ensure!(
            gateways <= VIRTUAL * 4,
            "proc has room for {} gateways, not {gateways}\n  try: --backend netns",
            VIRTUAL * 4
        );
        let blocks = |fault: &Fault| matches!(fault, Fault::Block { .. } | Fault::Unblock { .. });
        ensure!(!scenario.steps.iter().any(|step| blocks(&step.fault)), NO_BLOCKS);
        Ok(())
    }

    fn prepare(&self, _standing: &mut Standing) -> Result<()> {
        Ok(())
    }

    fn connect(&self, _standing: &Standing) -> Result<()> {
        Ok(())
    }

    fn medium(&self, standing: &Standing) -> WanMedium {
        let mut fronts = Vec::new();
        for (cluster, plan) in standing.scenario.clusters.iter().enumerate() {
            for gateway in 0..plan.gateways {
                let listens = self.listens(standing, cluster, gateway);
                fronts.push(Front { cluster, listen: listens.advertise, to: listens.quic });
            }
        }
        WanMedium::Relay(fronts)
    }

    fn listens(&self, standing: &Standing, cluster: usize, gateway: usize) -> Listens {
        let own = address(standing.slot, 0, cluster, gateway);
        let front = address(standing.slot, 1, cluster, gateway);
        let before: usize =
            standing.scenario.clusters[..cluster].iter().map(|cluster| cluster.gateways).sum();
        let number = before + gateway;
        let second = usize::from(FIRST + standing.slot * WIDTH) + 4 + number / 4;
        Listens {
            quic: SocketAddr::new(own, 7443),
            advertise: SocketAddr::new(front, 7443),
            dns: SocketAddr::new(own, 5533),
            admin: SocketAddr::new(own, 7070),
            virtual_ips: Some(format!("127.{second}.{}.0/18", (number % 4) * 64)),
        }
    }

    fn endpoint(&self, standing: &Standing, cluster: usize, endpoint: usize) -> IpAddr {
        address(standing.slot, 2, cluster, endpoint)
    }

    fn ports_below_1024(&self) -> bool {
        false
    }

    fn prefix(&self, _standing: &Standing, _cluster: usize) -> Vec<String> {
        Vec::new()
    }

    fn enter(&self, _standing: &Standing, _cluster: usize) -> Result<()> {
        Ok(())
    }

    fn mute(&self, _standing: &Standing, _cluster: usize, _endpoint: usize, mute: bool) -> Result<()> {
        ensure!(!mute, "endpoints are muted by nft rules in their namespace\n  try: --backend netns");
        Ok(())
    }

    fn rebind(&self, standing: &Standing, cluster: usize, address: bool) -> Result<()> {
        ensure!(!address, "on loopback there is one address to come from\n  try: --backend netns");
        let cluster = standing.scenario.clusters[cluster].name.clone();
        standing.wan().ask(&crate::emulator::control::Request::Rebind { cluster }).map(|_| ())
    }

    fn block(&self, _standing: &Standing, _from: usize, _to: usize, _block: &Block) -> Result<()> {
        bail!(NO_BLOCKS)
    }

    fn unblock(&self, _standing: &Standing, _from: usize, _to: usize) -> Result<()> {
        bail!(NO_BLOCKS)
    }

    fn blocks(&self, _standing: &Standing) -> Vec<String> {
        Vec::new()
    }

    fn remove(&self, _standing: &Standing) -> Result<()> {
        Ok(())
    }
}
