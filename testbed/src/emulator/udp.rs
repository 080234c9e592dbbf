//! The medium of the `proc` backend: a relay on loopback in front of every gateway, for UDP, and by `tcp` for
//! TCP. Each sender gets a socket of its own towards the gateway, which sees an address as behind a NAT.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
    os::fd::{AsFd as _, BorrowedFd},
    sync::Arc,
};

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::process::owner_of_udp;

use super::{
    engine::{Medium, Packet},
    link::Shape,
    tcp::{self, Gate},
};

/// Senders remembered; the oldest is forgotten first.
const SESSIONS: usize = 512;

/// One gateway and the address under which others reach it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Front {
    /// Index of the gateway's cluster.
    pub(crate) cluster: usize,
    /// Where the relay listens.
    pub(crate) listen: SocketAddr,
    /// Where the gateway listens.
    pub(crate) to: SocketAddr,
}

struct Session {
    serial: u64,
    front: usize,
    source: SocketAddr,
    from: usize,
    socket: UdpSocket,
}

/// Where the relay delivers a packet: a session by its serial number, and the direction.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Route {
    session: u64,
    back: bool,
}

/// The relay's sockets.
pub(crate) struct Relay {
    fronts: Vec<(Front, UdpSocket)>,
    sessions: VecDeque<Session>,
    serial: u64,
    clusters: Vec<String>,
    run: String,
    known: BTreeMap<IpAddr, usize>,
    buffer: Vec<u8>,
    gate: Arc<Gate>,
}

impl Relay {
    /// Opens the fronts; only loopback addresses are accepted.
    pub(crate) fn open(fronts: Vec<Front>, clusters: &[String], run: &str) -> Result<Self> {
        let mut open = Vec::new();
        let (gate, outside) = (Arc::new(Gate::default()), clusters.len());
        let known = fronts.iter().map(|front| (front.to.ip(), front.cluster)).collect::<BTreeMap<_, _>>();
        for front in fronts {
            ensure!(
                front.listen.ip().is_loopback() && front.to.ip().is_loopback(),
                "the relay serves loopback only, not {} -> {}",
                front.listen,
                front.to
            );
            let socket = UdpSocket::bind(front.listen)
                .with_context(|| format!("the relay cannot listen on {}", front.listen))?;
            socket.set_nonblocking(true)?;
            let (known, to) = (known.clone(), (front.cluster, front.to));
            tcp::serve(front.listen, to, &gate, move |source| cluster_of(&known, source.ip(), outside))?;
            open.push((front, socket));
        }
        let (sessions, buffer) = (VecDeque::new(), vec![0; 65_536]);
        let (clusters, run) = (clusters.to_vec(), run.to_owned());
        Ok(Self { fronts: open, sessions, serial: 0, clusters, run, known, buffer, gate })
    }

    fn session(&mut self, front: usize, source: SocketAddr) -> io::Result<&Session> {
        let known = self.sessions.iter().position(|s| s.front == front && s.source == source);
        if let Some(known) = known {
            return Ok(&self.sessions[known]);
        }
        if self.sessions.len() >= SESSIONS {
            self.sessions.pop_front();
        }
        let from = match self.known.get(&source.ip()) {
            Some(known) => *known,
            None => self.ask_kernel(source.port()).unwrap_or(self.clusters.len()),
        };
        let socket = dial(&self.fronts[front].0)?;
        self.serial += 1;
        self.sessions.push_back(Session { serial: self.serial, front, source, from, socket });
        Ok(&self.sessions[self.sessions.len() - 1])
    }

    /// The cluster whose process has that port.
    fn ask_kernel(&self, port: u16) -> Option<usize> {
        let owner = owner_of_udp(&self.run, port)?;
        self.clusters.iter().position(|name| *name == owner)
    }

    fn by_serial(&self, serial: u64) -> Option<&Session> {
        self.sessions.iter().find(|session| session.serial == serial)
    }
}

/// The cluster a sender belongs to: the one whose gateway has that address, else "outside".
fn cluster_of(known: &BTreeMap<IpAddr, usize>, source: IpAddr, outside: usize) -> usize {
    known.get(&source).copied().unwrap_or(outside)
}

fn dial(front: &Front) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind((front.listen.ip(), 0))?;
    socket.connect(front.to)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

impl Medium for Relay {
    type Route = Route;

    fn ports(&self) -> Vec<BorrowedFd<'_>> {
        let fronts = self.fronts.iter().map(|(_, socket)| socket.as_fd());
        fronts.chain(self.sessions.iter().map(|session| session.socket.as_fd())).collect()
    }

    fn receive(&mut self, port: usize) -> io::Result<Option<Packet<Route>>> {
        if let Some((front, socket)) = self.fronts.get(port) {
            let (to, listen) = (front.cluster, front.listen);
            let (length, source) = socket.recv_from(&mut self.buffer)?;
            let bytes = self.buffer[..length].to_vec();
            let session = self.session(port, source)?;
            let route = Route { session: session.serial, back: false };
            let datagram = Some((source, listen));
            return Ok(Some(Packet { from: session.from, to, route, datagram, bytes }));
        }
        let Some(session) = self.sessions.get(port - self.fronts.len()) else {
            return Err(io::ErrorKind::WouldBlock.into());
        };
        let length = session.socket.recv(&mut self.buffer)?;
        let route = Route { session: session.serial, back: true };
        let front = &self.fronts[session.front].0;
        let (from, to, datagram) = (front.cluster, session.from, Some((front.listen, session.source)));
        Ok(Some(Packet { from, to, route, datagram, bytes: self.buffer[..length].to_vec() }))
    }

    fn deliver(&mut self, route: &Route, packet: &[u8]) {
        let Some(session) = self.by_serial(route.session) else { return };
        // Refused or full: lost, as on a wire.
        let _ = if route.back {
            self.fronts[session.front].1.send_to(packet, session.source)
        } else {
            session.socket.send(packet)
        };
    }

    fn changed(&mut self, from: usize, to: usize, shape: &Shape) {
        self.gate.set(from, to, shape.up);
    }

    fn rebind(&mut self, cluster: usize) -> io::Result<()> {
        for session in &mut self.sessions {
            if session.from == cluster {
                session.socket = dial(&self.fronts[session.front].0)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn socket() -> UdpSocket {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        socket
    }

    fn pump(relay: &mut Relay, port: usize) {
        let packet = loop {
            match relay.receive(port) {
                Ok(Some(packet)) => break packet,
                Ok(None) => {}
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
            }
        };
        relay.deliver(&packet.route, &packet.bytes);
    }

    #[test]
    fn packets_pass_both_ways_and_a_rebind_changes_the_port_the_gateway_sees() {
        let (gateway, client) = (socket(), socket());
        let to = gateway.local_addr().unwrap();
        // A port that is free for UDP may be taken for TCP, or by the time it is used.
        let open = |_| {
            let front = Front { cluster: 1, listen: socket().local_addr().unwrap(), to };
            Relay::open(vec![front], &["a".to_owned(), "b".to_owned()], "unit").ok()
        };
        let mut relay = (0..20).find_map(open).unwrap();
        let listen = relay.fronts[0].0.listen;
        let mut buffer = [0; 16];
        client.send_to(b"ping", listen).unwrap();
        pump(&mut relay, 0);
        let (_, first) = gateway.recv_from(&mut buffer).unwrap();
        gateway.send_to(b"pong", first).unwrap();
        pump(&mut relay, 1);
        assert_eq!(client.recv_from(&mut buffer).unwrap(), (4, listen));
        let from = relay.sessions[0].from;
        relay.rebind(from).unwrap();
        client.send_to(b"ping", listen).unwrap();
        pump(&mut relay, 0);
        let (_, second) = gateway.recv_from(&mut buffer).unwrap();
        assert_ne!(first.port(), second.port());
    }

    #[test]
    fn an_address_outside_loopback_is_never_served() {
        let front = Front {
            cluster: 0,
            listen: "127.0.0.1:0".parse().unwrap(),
            to: "192.0.2.1:7443".parse().unwrap(),
        };
        assert!(Relay::open(vec![front], &["a".to_owned()], "unit").is_err());
    }
}
