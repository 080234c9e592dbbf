//! The event queue, and what each event does to the machines. Streams are ordered until they are cut; a cut
//! loses everything on its way.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    fmt,
    hash::{DefaultHasher, Hash, Hasher},
    time::{Duration, Instant},
};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use tombolo::model::{
    ids::ServiceName,
    replication::{Action, ExporterMessage, ImporterMessage, RowChange, Ticket},
};

use crate::{
    chaos, check,
    cluster::{Cluster, Side},
};

/// Simulated time is counted in microseconds.
pub(crate) const SECOND: u64 = 1_000_000;
/// So long things go wrong.
const CHAOS: u64 = 45 * SECOND;
/// So long they then have to come to rest: lost refusals and digests take two intervals of 60 s.
const REST: u64 = 200 * SECOND;

/// Something that will happen.
#[derive(Debug)]
pub(crate) enum Event {
    Strike,
    Heal { a: usize, b: usize },
    Restart { cluster: usize },
    Save { cluster: usize },
    ToImporter { to: usize, from: usize, session: u64, message: ExporterMessage },
    ToExporter { to: usize, from: usize, session: u64, message: ImporterMessage },
    Applied { at: usize, of: usize, life: u8, ticket: Ticket },
    Wake { at: usize, with: usize },
}

/// An event in the queue; of two at one time the earlier made goes first.
struct Due {
    at: u64,
    number: u64,
    event: Event,
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}
impl Eq for Due {}
impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Due {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

/// The pairing of two clusters as the network sees it.
#[derive(Default)]
struct Link {
    partitions: u32,
    /// Grows with each stream; messages of earlier ones are lost.
    session: u64,
    open: bool,
    latency: u64,
}

/// What a run came to.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Report {
    pub(crate) trace: u64,
    pub(crate) events: u64,
    pub(crate) rows: u64,
    pub(crate) cuts: u64,
    pub(crate) crashes: u64,
    pub(crate) refused: u64,
    pub(crate) snapshots: u64,
}

impl Report {
    pub(crate) fn add(&mut self, other: &Self) {
        self.events += other.events;
        self.rows += other.rows;
        self.cuts += other.cuts;
        self.crashes += other.crashes;
        self.refused += other.refused;
        self.snapshots += other.snapshots;
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { trace, events, rows, cuts, crashes, refused, snapshots } = self;
        write!(f, "{events} events, {rows} rows sent, {snapshots} snapshots, {refused} rows refused, ")?;
        write!(f, "{cuts} cuts, {crashes} crashes")?;
        // A sum of runs has none.
        if *trace == 0 { Ok(()) } else { write!(f, ", trace {trace:016x}") }
    }
}

/// All clusters, all links, and the time.
pub(crate) struct World {
    pub(crate) rng: StdRng,
    pub(crate) clusters: Vec<Cluster>,
    /// `sides[a * n + b]` is a's half of its pairing with b.
    sides: Vec<Side>,
    links: Vec<Link>,
    queue: BinaryHeap<Reverse<Due>>,
    start: Instant,
    time: u64,
    made: u64,
    trace: DefaultHasher,
    report: Report,
}

#[expect(
    clippy::disallowed_methods,
    reason = "the zero of simulated time; an Instant cannot be made otherwise"
)]
fn zero() -> Instant {
    Instant::now()
}

impl World {
    pub(crate) fn new(seed: u64, size: usize) -> Self {
        let start = zero();
        let clusters: Vec<Cluster> = (0..size).map(|number| Cluster::new(number, number == 0)).collect();
        let sides = (0..size * size).map(|at| Side::new(&clusters[at / size], at / size, start)).collect();
        let mut world = Self {
            rng: StdRng::seed_from_u64(seed),
            clusters,
            sides,
            links: (0..size * size).map(|_| Link::default()).collect(),
            queue: BinaryHeap::new(),
            start,
            time: 0,
            made: 0,
            trace: DefaultHasher::new(),
            report: Report::default(),
        };
        for a in 0..size {
            for b in a + 1..size {
                world.links[a * size + b].latency = world.rng.random_range(1_000..100_000);
                world.connect(a, b);
            }
            let at = world.rng.random_range(0..5 * SECOND);
            world.after(at, Event::Save { cluster: a });
        }
        world.after(0, Event::Strike);
        world
    }

    pub(crate) fn now(&self) -> Instant {
        self.start + Duration::from_micros(self.time)
    }

    pub(crate) fn side(&self, at: usize, with: usize) -> &Side {
        &self.sides[at * self.clusters.len() + with]
    }

    pub(crate) fn side_mut(&mut self, at: usize, with: usize) -> &mut Side {
        let size = self.clusters.len();
        &mut self.sides[at * size + with]
    }

    fn link(&mut self, a: usize, b: usize) -> &mut Link {
        let size = self.clusters.len();
        &mut self.links[a.min(b) * size + a.max(b)]
    }

    pub(crate) fn report(&self) -> Report {
        let snapshots = self.sides.iter().map(|side| side.exporter.progress(&side.log).snapshots).sum();
        Report { trace: self.trace.finish(), snapshots, ..self.report.clone() }
    }

    pub(crate) fn after(&mut self, pause: u64, event: Event) {
        self.made += 1;
        self.queue.push(Reverse(Due { at: self.time + pause, number: self.made, event }));
    }

    /// Runs until everything has had time to come to rest.
    pub(crate) fn run(&mut self) -> Result<(), String> {
        while let Some(Reverse(due)) = self.queue.pop() {
            if due.at > CHAOS + REST {
                break;
            }
            self.time = due.at;
            self.report.events += 1;
            self.happen(due.event)?;
        }
        Ok(())
    }

    fn happen(&mut self, event: Event) -> Result<(), String> {
        self.note(&event);
        match event {
            Event::Strike => {
                chaos::strike(self);
                let pause = self.rng.random_range(1..SECOND / 8);
                if self.time + pause < CHAOS {
                    self.after(pause, Event::Strike);
                }
            }
            Event::Heal { a, b } => {
                self.link(a, b).partitions -= 1;
                self.connect(a, b);
            }
            Event::Restart { cluster } => self.restart(cluster),
            Event::Save { cluster } => {
                for peer in (0..self.clusters.len()).filter(|peer| *peer != cluster) {
                    let side = self.side_mut(cluster, peer);
                    side.saved = (side.importer.position(), side.rows.clone());
                }
                self.after(5 * SECOND, Event::Save { cluster });
            }
            Event::ToImporter { to, from, session, message } => {
                if self.link(to, from).session == session {
                    let now = self.now();
                    let actions = self.side_mut(to, from).importer.on_message(message, now);
                    let actions = actions.map_err(|broken| format!("{to} from {from}: {broken}"))?;
                    self.act(to, from, actions)?;
                }
            }
            Event::ToExporter { to, from, session, message } => {
                if self.link(to, from).session == session {
                    let now = self.now();
                    let side = self.side_mut(to, from);
                    let taken = side.exporter.on_message(&side.log, message, now);
                    taken.map_err(|broken| format!("{to} from {from}: {broken}"))?;
                    self.pump(to, from)?;
                }
            }
            Event::Applied { at, of, life, ticket } => {
                if self.clusters[at].up && self.clusters[at].life == life {
                    let now = self.now();
                    let actions = self.side_mut(at, of).importer.applied(ticket, now);
                    self.act(at, of, actions)?;
                }
            }
            Event::Wake { at, with } => {
                let (now, time) = (self.now(), self.time);
                let side = self.side_mut(at, with);
                if side.wake == Some(time) {
                    side.wake = None;
                    let actions = side.importer.poll(now);
                    self.act(at, with, actions)?;
                    self.pump(at, with)?;
                }
            }
        }
        Ok(())
    }

    /// Does what `at` decided about the catalog of `of`.
    fn act(&mut self, at: usize, of: usize, actions: Vec<Action>) -> Result<(), String> {
        for action in actions {
            let side = self.side_mut(at, of);
            match action {
                Action::Apply { ticket, changes } => {
                    for change in changes {
                        match change {
                            RowChange::Row(row) => drop(side.rows.insert(row.name.clone(), row)),
                            RowChange::Tombstone { name, .. } => drop(side.rows.remove(&name)),
                            RowChange::Unreadable { .. } => {
                                return Err(format!("{at} applies what it cannot read"));
                            }
                        }
                    }
                    self.confirm_later(at, of, ticket);
                }
                Action::Sweep { ticket, names } => {
                    for name in names {
                        side.rows.remove(&name);
                    }
                    self.confirm_later(at, of, ticket);
                }
                Action::Send(message) => {
                    if let ImporterMessage::Nack { rows, .. } = &message {
                        self.report.refused += rows.len() as u64;
                    }
                    self.answer(at, of, message);
                }
                Action::Synced => {}
            }
        }
        self.set_timer(at, of);
        Ok(())
    }

    fn confirm_later(&mut self, at: usize, of: usize, ticket: Ticket) {
        let slow = self.rng.random_ratio(1, 50);
        let pause = self.rng.random_range(0..if slow { 2 * SECOND } else { 5_000 });
        let life = self.clusters[at].life;
        self.after(pause, Event::Applied { at, of, life, ticket });
    }

    /// Sends what the exporter of `from` has for `to`.
    fn pump(&mut self, from: usize, to: usize) -> Result<(), String> {
        let now = self.now();
        let (open, session) = (self.link(from, to).open, self.link(from, to).session);
        if !open {
            return Ok(());
        }
        loop {
            let side = self.side_mut(from, to);
            let Some(message) = side.exporter.next(&side.log, now) else { break };
            check::outgoing(self, from, to, &message)?;
            if let ExporterMessage::Batch { rows, .. } = &message {
                self.report.rows += rows.len() as u64;
            }
            let pause = self.arrival(from, to);
            self.after(pause, Event::ToImporter { to, from, session, message });
        }
        self.set_timer(from, to);
        Ok(())
    }

    fn answer(&mut self, from: usize, to: usize, message: ImporterMessage) {
        let (open, session) = (self.link(from, to).open, self.link(from, to).session);
        if open {
            let pause = self.arrival(from, to);
            self.after(pause, Event::ToExporter { to, from, session, message });
        }
    }

    /// How long a message of `from` takes to `to`; none overtakes another.
    fn arrival(&mut self, from: usize, to: usize) -> u64 {
        let latency = self.link(from, to).latency;
        let time = self.time;
        let jitter = self.rng.random_range(0..=latency / 4);
        let side = self.side_mut(from, to);
        side.last_arrival = side.last_arrival.max(time + latency + jitter);
        side.last_arrival - time
    }

    fn set_timer(&mut self, at: usize, with: usize) {
        let (start, time, open) = (self.start, self.time, self.link(at, with).open);
        let side = self.side_mut(at, with);
        let Some(wake) = side.next_wake().filter(|_| open) else { return };
        let micros = u64::try_from(wake.saturating_duration_since(start).as_micros()).expect("minutes");
        // Timers go off a little late, never early.
        let due = (micros + 1).max(time + 1);
        if side.wake.is_none_or(|set| due < set || set < time) {
            side.wake = Some(due);
            self.after(due - time, Event::Wake { at, with });
        }
    }

    /// An export of a cluster changed: every peer's log follows, and so do the streams.
    pub(crate) fn published(&mut self, cluster: usize, name: &ServiceName) {
        let size = self.clusters.len();
        for peer in (0..size).filter(|peer| *peer != cluster) {
            let (owner, other) = (&self.clusters[cluster], &self.clusters[peer]);
            self.sides[cluster * size + peer].publish(name, owner, other);
        }
        self.pump_all(cluster);
    }

    /// Who may see what changed in a cluster.
    pub(crate) fn policy_changed(&mut self, cluster: usize) {
        let size = self.clusters.len();
        for peer in (0..size).filter(|peer| *peer != cluster) {
            let (owner, other) = (&self.clusters[cluster], &self.clusters[peer]);
            self.sides[cluster * size + peer].publish_all(owner, other);
        }
        self.pump_all(cluster);
    }

    fn pump_all(&mut self, cluster: usize) {
        // A gateway that is down learns of it when it starts.
        for peer in (0..self.clusters.len()).filter(|peer| *peer != cluster) {
            let soon = self.time + 1;
            self.side_mut(cluster, peer).wake = Some(soon);
            self.after(1, Event::Wake { at: cluster, with: peer });
        }
    }

    /// Nothing passes between the two from now on; several causes may hold it down.
    pub(crate) fn cut(&mut self, a: usize, b: usize) {
        self.report.cuts += 1;
        let link = self.link(a, b);
        link.partitions += 1;
        link.open = false;
        link.session += 1;
    }

    /// Opens the pair's streams when nothing stands against it.
    fn connect(&mut self, a: usize, b: usize) {
        let up = self.clusters[a].up && self.clusters[b].up;
        let now = self.now();
        let link = self.link(a, b);
        if !up || link.partitions > 0 || link.open {
            return;
        }
        link.open = true;
        link.session += 1;
        for (importer, exporter) in [(a, b), (b, a)] {
            self.side_mut(exporter, importer).exporter.open(now);
            let hello = self.side_mut(importer, exporter).importer.subscribe();
            self.answer(importer, exporter, hello);
        }
    }

    pub(crate) fn crash(&mut self, victim: usize) {
        self.report.crashes += 1;
        self.clusters[victim].up = false;
        for peer in (0..self.clusters.len()).filter(|peer| *peer != victim) {
            let link = self.link(victim, peer);
            link.open = false;
            link.session += 1;
        }
    }

    fn restart(&mut self, victim: usize) {
        let (size, now) = (self.clusters.len(), self.now());
        self.clusters[victim].up = true;
        self.clusters[victim].life += 1;
        for peer in (0..size).filter(|peer| *peer != victim) {
            let (owner, other) = (&self.clusters[victim], &self.clusters[peer]);
            let side = &mut self.sides[victim * size + peer];
            side.restart(owner, victim, now);
            side.publish_all(owner, other);
            self.connect(victim, peer);
        }
    }

    /// Writes an event into the trace that two runs of one seed share.
    fn note(&mut self, event: &Event) {
        let trace = &mut self.trace;
        (self.time, std::mem::discriminant(event)).hash(trace);
        match event {
            Event::Strike => {}
            Event::Heal { a, b } => (a, b).hash(trace),
            Event::Restart { cluster } | Event::Save { cluster } => cluster.hash(trace),
            Event::Wake { at, with } => (at, with).hash(trace),
            Event::Applied { at, of, life, .. } => (at, of, life).hash(trace),
            Event::ToExporter { to, from, session, message } => {
                (to, from, session).hash(trace);
                match message {
                    ImporterMessage::Subscribe { acked_seq: seq, .. }
                    | ImporterMessage::Ack { seq }
                    | ImporterMessage::Nack { seq, .. } => seq.hash(trace),
                    ImporterMessage::WantSnapshot { reason } => reason.hash(trace),
                }
            }
            Event::ToImporter { to, from, session, message } => {
                (to, from, session).hash(trace);
                match message {
                    ExporterMessage::SnapshotBegin { rows, .. } => rows.hash(trace),
                    ExporterMessage::Batch { seq, rows, .. } => {
                        seq.hash(trace);
                        for change in rows {
                            (change.name(), change.seq()).hash(trace);
                        }
                    }
                    ExporterMessage::SnapshotEnd { seq, digest }
                    | ExporterMessage::Digest { seq, digest } => (seq, digest).hash(trace),
                }
            }
        }
    }
}
