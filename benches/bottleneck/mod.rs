//! Connections of quinn-proto through one bottleneck, in virtual time: a rate, a delay, a queue, losses.
//!
//! Nothing here waits and nothing is random beyond its seed, so a run repeats itself. The real parts are
//! quinn-proto, TLS and the congestion controllers; sockets, threads and the kernel are not there.

mod party;
mod tls;
mod way;

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use quinn_proto::{ConnectionError, Endpoint};

pub(crate) use tls::{Maker, Tls};
pub(crate) use way::{Noise, Road};

use party::Party;
use way::{Packet, Way};

/// Pause between two looks at queue and progress.
pub(crate) const LOOK: Duration = Duration::from_millis(10);
/// Timers of tokio fire at whole milliseconds.
const TICK: Duration = Duration::from_millis(1);

/// A connection and what runs over it.
#[derive(Clone)]
pub(crate) struct Flow {
    /// The sender's congestion controller.
    pub(crate) controller: Maker,
    /// Bytes of a stream's window.
    pub(crate) window: u64,
    /// When it dials.
    pub(crate) from: Duration,
    /// When its bulk begins, and when it ends if that is before the run's end.
    pub(crate) bulk: Option<Duration>,
    /// Requests per second.
    pub(crate) requests: u32,
    /// Bytes of an answer.
    pub(crate) answer: usize,
}

/// What changes on the way.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Change {
    /// Bits per second.
    Rate(f64),
    /// One-way delay of the direction that carries the bulk.
    Delay(Duration),
}

/// A run.
#[derive(Clone)]
pub(crate) struct Scene {
    pub(crate) road: Road,
    pub(crate) flows: Vec<Flow>,
    pub(crate) changes: Vec<(Duration, Change)>,
    pub(crate) lasts: Duration,
    /// How late a host looks at its socket and its timers; it then takes all there is.
    pub(crate) noise: Noise,
    pub(crate) seed: u64,
}

/// What was seen every [`LOOK`].
#[derive(Debug, Clone)]
pub(crate) struct Look {
    /// Bulk bytes arrived, of each flow.
    pub(crate) received: Vec<u64>,
    /// How long the queue is.
    pub(crate) backlog: Duration,
}

/// What a run showed.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) looks: Vec<Look>,
    /// When each request was asked, counted from the start, and how long it took (at least, if unanswered).
    pub(crate) requests: Vec<(Duration, Duration)>,
    /// Datagrams the queue dropped.
    pub(crate) overflowed: u64,
    /// Connections that ended by themselves, and why.
    pub(crate) ended: Vec<ConnectionError>,
}

#[derive(Debug)]
enum Happening {
    Served(usize),
    Arrives(Packet),
    Timer(usize, u64),
    Dials(usize),
    Opens(usize),
    Bulk(usize),
    Asks(usize, u64),
    Changes(Change),
    Look,
}

struct Entry(Duration, u64, Happening);

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        (self.0, self.1) == (other.0, other.1)
    }
}
impl Eq for Entry {}
impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.0, self.1).cmp(&(other.0, other.1))
    }
}

struct Network<'a> {
    scene: &'a Scene,
    tls: &'a Tls,
    origin: Instant,
    now: Duration,
    happenings: BinaryHeap<Reverse<Entry>>,
    number: u64,
    ways: [Way; 2],
    /// Even: the side that sends the bulk; odd: the one that asked for it.
    parties: Vec<Party>,
    seen: Seen,
}

/// Plays `scene` from its start to its end. `origin` is any instant: the clock of the run begins there.
pub(crate) fn play(scene: &Scene, tls: &Tls, origin: Instant) -> Seen {
    let back = Road { queue: 16 << 20, ..scene.road };
    let mut network = Network {
        scene,
        tls,
        origin,
        now: Duration::ZERO,
        happenings: BinaryHeap::new(),
        number: 0,
        ways: [Way::new(scene.road, scene.seed), Way::new(back, scene.seed ^ 0xffff)],
        parties: Vec::new(),
        seen: Seen { looks: Vec::new(), requests: Vec::new(), overflowed: 0, ended: Vec::new() },
    };
    for (number, flow) in scene.flows.iter().enumerate() {
        let address = |side| SocketAddr::from((Ipv4Addr::new(10, 0, number as u8, side), 4433));
        let server = tls.server(&flow.controller, flow.window);
        let seed = (scene.seed as u8).wrapping_add(number as u8 * 2);
        let sends = Endpoint::new(tls::endpoint(seed), Some(server), true, None);
        let asks = Endpoint::new(tls::endpoint(seed + 1), None, true, None);
        network.parties.push(Party::new(sends, address(1), number * 2 + 1, flow.answer));
        network.parties.push(Party::new(asks, address(2), number * 2, flow.answer));
        network.at(flow.from, Happening::Dials(number));
    }
    for (at, change) in &scene.changes {
        network.at(*at, Happening::Changes(*change));
    }
    network.at(LOOK, Happening::Look);
    network.run();
    network.finish()
}

impl Network<'_> {
    fn at(&mut self, at: Duration, happening: Happening) {
        self.number += 1;
        self.happenings.push(Reverse(Entry(at, self.number, happening)));
    }

    fn instant(&self) -> Instant {
        self.origin + self.now
    }

    fn run(&mut self) {
        while let Some(Reverse(Entry(at, _, happening))) = self.happenings.pop() {
            if at > self.scene.lasts {
                break;
            }
            self.now = at;
            self.happen(happening);
        }
    }

    fn happen(&mut self, happening: Happening) {
        let now = self.instant();
        match happening {
            Happening::Served(way) => {
                let (sent, next) = self.ways[way].served(self.now);
                if let Some((packet, arrives)) = sent {
                    let heard = self.ways[way].heard(arrives, self.scene.noise);
                    self.at(heard, Happening::Arrives(packet));
                }
                if let Some(next) = next {
                    self.at(self.now + next, Happening::Served(way));
                }
            }
            Happening::Arrives(packet) => {
                let to = packet.to;
                let from = self.parties[self.parties[to].peer].address;
                if let Some(answer) = self.parties[to].receive(now, from, &packet.bytes) {
                    self.send(to, answer);
                }
                self.drive(to);
            }
            Happening::Timer(party, set) => {
                if self.parties[party].timer_set == set {
                    self.parties[party].timer = None;
                    if let Some((_, connection)) = &mut self.parties[party].connection {
                        connection.handle_timeout(now);
                    }
                    self.drive(party);
                }
            }
            Happening::Dials(flow) => self.dial(flow),
            Happening::Opens(flow) => self.open(flow),
            Happening::Bulk(flow) => {
                self.parties[flow * 2 + 1].ask_bulk();
                self.drive(flow * 2 + 1);
            }
            Happening::Asks(flow, number) => {
                self.parties[flow * 2 + 1].ask(now, number);
                self.drive(flow * 2 + 1);
                let pause = Duration::from_secs(1) / self.scene.flows[flow].requests;
                self.at(self.now + pause, Happening::Asks(flow, number + 1));
            }
            Happening::Changes(Change::Rate(rate)) => {
                self.ways.iter_mut().for_each(|way| way.road.rate = rate)
            }
            Happening::Changes(Change::Delay(delay)) => self.ways[0].road.delay = delay,
            Happening::Look => self.look(),
        }
    }

    fn dial(&mut self, flow: usize) {
        let (now, asks) = (self.instant(), flow * 2 + 1);
        let to = self.parties[flow * 2].address;
        let Flow { controller, window, from, bulk, .. } = self.scene.flows[flow].clone();
        let config = self.tls.client(&controller, window);
        self.parties[asks].connection = self.parties[asks].endpoint.connect(now, config, to, tls::NAME).ok();
        self.drive(asks);
        // Long enough for a handshake, whatever is lost.
        self.at(from + Duration::from_millis(900), Happening::Opens(flow));
        if let Some(bulk) = bulk {
            self.at(from + bulk.max(Duration::from_secs(1)), Happening::Bulk(flow));
        }
    }

    fn open(&mut self, flow: usize) {
        self.parties[flow * 2 + 1].open();
        if self.scene.flows[flow].requests > 0 {
            self.at(self.now + Duration::from_millis(100), Happening::Asks(flow, 0));
        }
    }

    fn look(&mut self) {
        let received = self.parties.iter().skip(1).step_by(2).map(|party| party.received).collect();
        self.seen.looks.push(Look { received, backlog: self.ways[0].backlog() });
        self.at(self.now + LOOK, Happening::Look);
    }

    fn send(&mut self, from: usize, bytes: Vec<u8>) {
        let way = from % 2;
        let to = self.parties[from].peer;
        if let Some(takes) = self.ways[way].offer(Packet { to, bytes }) {
            self.at(self.now + takes, Happening::Served(way));
        }
    }

    fn drive(&mut self, party: usize) {
        let now = self.instant();
        let before = self.parties[party].timer;
        let mut out = Vec::new();
        self.parties[party].drive(now, |datagram| out.push(datagram));
        for datagram in out {
            self.send(party, datagram);
        }
        let timer = self.parties[party].timer;
        if timer != before {
            self.parties[party].timer_set += 1;
            let set = self.parties[party].timer_set;
            if let Some(timer) = timer {
                let wanted = timer.saturating_duration_since(self.origin);
                let ticks = wanted.as_nanos().div_ceil(TICK.as_nanos());
                let fires = Duration::from_nanos((ticks * TICK.as_nanos()) as u64).max(self.now);
                let noticed = self.ways[party % 2].noticed(fires, self.scene.noise);
                self.at(noticed, Happening::Timer(party, set));
            }
        }
    }

    fn finish(mut self) -> Seen {
        let (origin, end) = (self.origin, self.instant());
        for party in self.parties.iter().skip(1).step_by(2) {
            let answered = party.answered.iter().map(|(asked, took)| (*asked, *took));
            let unanswered = party.unanswered().map(|asked| (asked, end - asked));
            self.seen.requests.extend(answered.chain(unanswered).map(|(asked, took)| (asked - origin, took)));
        }
        self.seen.ended = self.parties.iter().filter_map(|party| party.ended.clone()).collect();
        self.seen.overflowed = self.ways[0].overflowed;
        self.seen
    }
}
