//! The medium of the `netns` backend: one TUN device per cluster, in the namespace of its router.
//! Packets are routed by their IPv4 destination; devices vanish with this process.

use std::{
    fs::File,
    io,
    net::Ipv4Addr,
    os::fd::{AsFd as _, BorrowedFd},
    path::Path,
};

use anyhow::{Context as _, Result};
use nix::sched::{CloneFlags, setns};
use serde::{Deserialize, Serialize};
use tun_rs::{DeviceBuilder, SyncDevice};

use super::engine::{Medium, Packet};

/// The longest packet a device hands over.
const LONGEST: usize = 65_536;

/// Packets that a device holds while the emulator waits for a processor: 50 ms of 1 Gbit/s.
pub(crate) const DEVICE_QUEUE: usize = 5_000;

/// One side of the WAN.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Side {
    /// The namespace the device is made in, by its name under `/run/netns`.
    pub(crate) namespace: String,
    /// The device's name.
    pub(crate) device: String,
    /// Everything to this /24 goes to this side.
    pub(crate) network: Ipv4Addr,
}

/// The devices, in the order of the clusters.
pub(crate) struct Devices {
    devices: Vec<SyncDevice>,
    networks: Vec<[u8; 3]>,
    buffer: Vec<u8>,
}

impl Devices {
    /// Makes the devices. The calling thread ends up in the last namespace.
    pub(crate) fn open(sides: &[Side], mtu: u16) -> Result<Self> {
        let mut devices = Vec::new();
        for side in sides {
            enter(&side.namespace)?;
            let device = DeviceBuilder::new()
                .name(side.device.clone())
                .mtu(mtu)
                .enable(true)
                .build_sync()
                .with_context(|| format!("TUN device {} in {}", side.device, side.namespace))?;
            device.set_nonblocking(true)?;
            devices.push(device);
        }
        let networks = sides.iter().map(|side| first_three(side.network.octets())).collect();
        Ok(Self { devices, networks, buffer: vec![0; LONGEST] })
    }
}

/// Moves this thread into a network namespace: one that `ip netns` made, or one of an absolute path.
pub(crate) fn enter(namespace: &str) -> Result<()> {
    let path = Path::new("/run/netns").join(namespace);
    let file = File::open(&path).with_context(|| format!("namespace {namespace} is not there"))?;
    setns(file.as_fd(), CloneFlags::CLONE_NEWNET).with_context(|| format!("entering namespace {namespace}"))
}

const fn first_three(octets: [u8; 4]) -> [u8; 3] {
    [octets[0], octets[1], octets[2]]
}

impl Medium for Devices {
    type Route = usize;

    fn ports(&self) -> Vec<BorrowedFd<'_>> {
        self.devices.iter().map(|device| device.as_fd()).collect()
    }

    fn receive(&mut self, port: usize) -> io::Result<Option<Packet<usize>>> {
        let length = self.devices[port].recv(&mut self.buffer)?;
        let packet = &self.buffer[..length];
        let Some(&[a, b, c, _]) = packet.get(16..20).filter(|_| packet[0] >> 4 == 4) else {
            return Ok(None);
        };
        let Some(to) = self.networks.iter().position(|network| *network == [a, b, c]) else {
            return Ok(None);
        };
        Ok(Some(Packet { from: port, to, route: to, datagram: None, bytes: packet.to_vec() }))
    }

    fn deliver(&mut self, route: &usize, packet: &[u8]) {
        // The device's queue is full or it is down: lost, as on a wire.
        let _ = self.devices[*route].send(packet);
    }

    fn rebind(&mut self, _cluster: usize) -> io::Result<()> {
        Err(io::Error::new(io::ErrorKind::Unsupported, "in namespaces the router's NAT is flushed instead"))
    }
}
