//! The block of virtual IPs this daemon claims, and the newest state as the zone reads it.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use imbl::OrdMap;
use ipnet::Ipv4Net;

use crate::{
    ledger::Ledger,
    model::{
        catalog::Protocol,
        code::{Code, Problem},
        ids::{Namespace, ServiceLabel, ServiceName, Timestamp},
        import::Import,
        limits,
        state::{Peer, State},
        virtual_ip::{Binding, VipKey, VirtualIps, block_candidates, guard},
        zone::{ZoneName, ZoneSource, misses_are_final},
    },
    net::{Net, TcpListen},
};

/// A claimed block: as long as its guard socket stands, no other daemon of this host takes it.
pub(super) struct Block {
    pub(super) ips: VirtualIps,
    pub(super) guard: Box<dyn TcpListen>,
}

/// Claims the block held before, or the first free one of `range` (settled B9).
pub(super) fn claim_block(net: &dyn Net, range: Ipv4Net, held: Option<Ipv4Net>) -> Result<Block, Problem> {
    let none = |error: String| Problem::new(Code::NO_VIRTUAL_IP_RANGE, error);
    let candidates = block_candidates(range, limits::VIRTUAL_IP_BLOCK_PREFIX, held);
    let mut last = format!("{range} holds no block");
    for block in candidates.map_err(|error| none(error.to_string()))? {
        let address = SocketAddr::from((guard(block), limits::VIRTUAL_IP_GUARD_PORT));
        match net.tcp_listen(address, 1).map(|mut sockets| sockets.pop()) {
            Ok(Some(socket)) => {
                let ips = VirtualIps::new(block).map_err(|error| none(error.to_string()))?;
                return Ok(Block { ips, guard: socket });
            }
            Ok(None) => {}
            Err(error) => last = format!("{block}: {error}"),
        }
    }
    Err(none(format!("every block of {range} is in use by another daemon ({last})")))
}

/// When the process started, by both clocks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Started {
    pub(super) at: Instant,
    pub(super) wall: Timestamp,
}

/// What the zone's answers are made of at one moment.
pub(super) struct ZoneView {
    zone: ZoneName,
    ttl: Duration,
    started: Started,
    wall: Timestamp,
    state: Arc<State>,
    bindings: Arc<OrdMap<(Ipv4Addr, Protocol, u16), Binding>>,
}

impl ZoneView {
    pub(super) fn new(
        zone: ZoneName,
        ttl: Duration,
        started: Started,
        wall: Timestamp,
        state: Arc<State>,
        ledger: &Ledger,
    ) -> Self {
        Self { zone, ttl, started, wall, state, bindings: ledger.bindings() }
    }
}

impl ZoneSource for ZoneView {
    fn zone(&self) -> &ZoneName {
        &self.zone
    }

    fn ttl(&self) -> u32 {
        u32::try_from(self.ttl.as_secs()).unwrap_or(u32::MAX)
    }

    fn serial(&self) -> u32 {
        // Serial numbers wrap around by their own arithmetic (RFC 1982).
        (self.state.version & u64::from(u32::MAX)) as u32
    }

    fn synced(&self, now: Instant) -> bool {
        let missing = self.state.peers.values().filter(|peer| {
            let held = self.state.catalogs.get(&peer.cluster).is_some_and(|catalog| catalog.synced);
            peer.serves() && !held
        });
        // A peer that joined during this run has time of its own.
        let joined_here =
            |peer: &Arc<Peer>| (peer.added > self.started.wall).then(|| self.wall.since(peer.added));
        misses_are_final(true, now.saturating_duration_since(self.started.at), missing.map(joined_here))
    }

    fn import(&self, name: &ServiceName) -> Option<&Import> {
        self.state.imports.get(name).map(AsRef::as_ref)
    }

    fn holds(&self, namespace: &Namespace) -> bool {
        let Ok(lowest) = ServiceLabel::parse("0") else { return false };
        let first = ServiceName { namespace: namespace.clone(), name: lowest };
        self.state.imports.range(first..).next().is_some_and(|(name, _)| name.namespace == *namespace)
    }

    fn virtual_ip(&self, key: &VipKey) -> Option<Ipv4Addr> {
        self.state.address(key)
    }

    fn bound_port(&self, ip: Ipv4Addr, protocol: Protocol, port: u16) -> Option<u16> {
        // On Kubernetes a derived Service stands before the listener; only TCP is carried.
        if self.state.entrances.is_some() || protocol != Protocol::Tcp {
            return Some(port);
        }
        self.bindings.get(&(ip, protocol, port)).map(|binding| binding.bound_port)
    }
}
