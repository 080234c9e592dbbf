//! Where the two sides of a pair are: both on loopback, or on the two sides of a WAN made for this run. What is
//! measured there is not known here.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use anyhow::{Context as _, Result, ensure};

use super::pair::free_ports;
use crate::emulator::{
    link::Shape,
    pair::{Wan, address, set},
    tun::enter,
};

/// The kernel's congestion control of TCP over a WAN.
pub(super) const WAN_TCP: &str = "cubic";

/// One side: the network of this process, or a namespace.
#[derive(Debug, Clone)]
pub(super) struct Place {
    namespace: Option<String>,
    /// By which the other side reaches it.
    pub(super) address: IpAddr,
}

impl Place {
    /// Runs something there; what it starts stays there.
    pub(super) fn run<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let Some(namespace) = &self.namespace else { return work() };
        // A thread of its own, because nobody comes back from a namespace.
        std::thread::scope(|scope| {
            let ran = scope.spawn(|| {
                enter(namespace)?;
                work()
            });
            ran.join().map_err(|_| anyhow::anyhow!("work in a namespace panicked"))?
        })
    }
}

/// Both sides.
pub(super) struct Site {
    /// The clients'.
    pub(super) near: Place,
    /// The server's.
    pub(super) far: Place,
    wan: Option<Wan>,
}

/// What a pair of gateways needs to know of the ways to it, through it and out of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ends {
    /// Where clients enter, on loopback.
    pub(super) enter: u16,
    /// Where the far gateway waits for the near one.
    pub(super) between: SocketAddr,
    /// The server.
    pub(super) server: SocketAddr,
}

impl Site {
    /// Everything on loopback.
    pub(super) fn loopback() -> Self {
        let place = Place { namespace: None, address: Ipv4Addr::LOCALHOST.into() };
        Self { near: place.clone(), far: place, wan: None }
    }

    /// On the sides of a WAN, which is made now; needs root.
    pub(super) fn wan(shape: Shape) -> Result<Self> {
        ensure!(
            nix::unistd::geteuid().is_root(),
            "a WAN is made of network namespaces, which needs root\n  try: sudo testbed bench --wan, or without --wan"
        );
        let wan = Wan::start(shape)?;
        let place = |at| Place { namespace: Some(wan.pair.name(at)), address: address(at).into() };
        let (near, far) = (place(0), place(1));
        for place in [&near, &far] {
            // Not the machine's own: the bars are meant beside this one.
            let set = || Ok(fs::write("/proc/sys/net/ipv4/tcp_congestion_control", WAN_TCP)?);
            place.run(set).with_context(|| {
                format!(
                    "TCP in a namespace cannot be {WAN_TCP}\n  \
                     try: adding it to /proc/sys/net/ipv4/tcp_allowed_congestion_control, and again"
                )
            })?;
        }
        Ok(Self { near, far, wan: Some(wan) })
    }

    /// Gives the WAN another shape.
    pub(super) fn shape(&self, shape: Shape) -> Result<()> {
        self.wan.as_ref().map_or(Ok(()), |wan| set(&wan.control, shape))
    }

    /// Free ports for a pair that leads to a server.
    pub(super) fn ends(&self, server: SocketAddr) -> Result<Ends> {
        let [enter] = self.near.run(free_ports)?;
        let [between] = self.far.run(free_ports)?;
        Ok(Ends { enter, between: SocketAddr::new(self.far.address, between), server })
    }
}
