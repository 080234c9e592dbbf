//! Moves packets between a medium and the links, one thread, with timers finer than a millisecond.
//! It knows no devices and no sockets of its own but the control socket.

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::{UnixListener, UnixStream},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result};
use nix::{
    poll::{PollFd, PollFlags, ppoll},
    sys::time::TimeSpec,
};

use super::{
    capture::{Capture, start_of},
    control::{LinkStatus, Reply, Request, read_request, write_reply},
    link::{Link, Nanos, Shape},
};
use crate::monotonic;

/// Packets read from one port before the others have their turn.
const TURN: usize = 64;

/// An idle processor of a virtual machine wakes up to this late: the engine wakes early and stays awake.
const AWAKE: Nanos = 500_000;
/// At most this much of every second is spent so; a busy engine finds its processor awake anyway.
const AWAKE_PER_SECOND: Nanos = 200_000_000;

/// How much of the current second was spent awake without work.
#[derive(Debug, Default)]
struct Awake {
    second: u64,
    spent: Nanos,
}

impl Awake {
    fn affords(&mut self, now: Nanos) -> bool {
        if now / 1_000_000_000 != self.second {
            (self.second, self.spent) = (now / 1_000_000_000, 0);
        }
        self.spent < AWAKE_PER_SECOND
    }
}

/// The emulator's priority among threads with one.
const PRIORITY: u8 = 10;

/// Real-time priority for this thread, so that what is measured does not delay what delays it. Without the
/// right to it, or without `chrt`, it goes on as it is: less exact on a busy machine.
pub(super) fn ask_for_real_time(priority: u8) {
    if nix::unistd::geteuid().is_root() {
        let (priority, thread) = (priority.to_string(), nix::unistd::gettid().to_string());
        let _ = std::process::Command::new("chrt").args(["--fifo", "--pid", &priority, &thread]).output();
    }
}

/// A packet that a medium read.
pub(crate) struct Packet<R> {
    /// The cluster it comes from.
    pub(crate) from: usize,
    /// The cluster it goes to.
    pub(crate) to: usize,
    /// How the medium delivers it.
    pub(crate) route: R,
    /// Source and destination, for a packet that is the payload of a datagram.
    pub(crate) datagram: Option<(SocketAddr, SocketAddr)>,
    /// The packet.
    pub(crate) bytes: Vec<u8>,
}

/// Where packets come from and go to.
pub(crate) trait Medium {
    /// What `deliver` needs to know.
    type Route: Clone;
    /// The descriptors to wait on; an index into them is a port.
    fn ports(&self) -> Vec<BorrowedFd<'_>>;
    /// One packet of a port, or nothing when it has none that may pass.
    fn receive(&mut self, port: usize) -> io::Result<Option<Packet<Self::Route>>>;
    /// Sends a packet on; what cannot be sent is lost, as on a wire.
    fn deliver(&mut self, route: &Self::Route, packet: &[u8]);
    /// Told of every change of a direction; a medium that carries more than packets follows it.
    fn changed(&mut self, _from: usize, _to: usize, _shape: &Shape) {}
    /// Gives a cluster's flows new source ports, as a NAT that forgot them.
    fn rebind(&mut self, cluster: usize) -> io::Result<()>;
}

/// The engine: links between every two clusters over one medium.
pub(crate) struct Engine<M: Medium> {
    medium: M,
    names: Vec<String>,
    links: BTreeMap<(usize, usize), Link<M::Route>>,
    schedule: BTreeMap<(Nanos, u64), Request>,
    scheduled: u64,
    default: Shape,
    seed: u64,
    control: UnixListener,
    stopping: bool,
    awake: Awake,
    capture: Capture,
}

impl<M: Medium> Engine<M> {
    /// An engine whose links all have the shape `default` until told otherwise.
    pub(crate) fn new(
        medium: M,
        names: Vec<String>,
        default: Shape,
        seed: u64,
        control: UnixListener,
    ) -> Result<Self> {
        control.set_nonblocking(true)?;
        let (links, schedule) = (BTreeMap::new(), BTreeMap::new());
        Ok(Self {
            medium,
            names,
            links,
            schedule,
            scheduled: 0,
            default,
            seed,
            control,
            stopping: false,
            awake: Awake::default(),
            capture: Capture::default(),
        })
    }

    /// Runs until it is told to stop.
    pub(crate) fn run(&mut self) -> Result<()> {
        // The kernel's default lets timers of ordinary threads run 50 us late.
        nix::sys::prctl::set_timerslack(1).context("timers cannot be made precise")?;
        ask_for_real_time(PRIORITY);
        while !self.stopping {
            let now = monotonic::nanos();
            self.apply_schedule(now);
            self.deliver_due(now);
            let ready = self.wait()?;
            let (ports, control) = ready.split_at(ready.len() - 1);
            for (port, _) in ports.iter().enumerate().filter(|(_, ready)| **ready) {
                self.receive(port);
            }
            if control[0] {
                self.serve_control();
            }
        }
        Ok(())
    }

    /// Waits for a packet, a request or the next thing due; the last of the wait is spent awake.
    fn wait(&mut self) -> Result<Vec<bool>> {
        let next_link = self.links.values().filter_map(Link::due).min();
        let next_change = self.schedule.keys().next().map(|(at, _)| *at);
        let until = next_link.into_iter().chain(next_change).min().unwrap_or(Nanos::MAX);
        let now = monotonic::nanos();
        let early = if self.awake.affords(now) { AWAKE } else { 0 };
        let ready = self.poll(until.saturating_sub(now).saturating_sub(early))?;
        if ready.contains(&true) {
            return Ok(ready);
        }
        let from = monotonic::nanos();
        while monotonic::nanos() < until && until - from <= AWAKE {
            let ready = self.poll(0)?;
            if ready.contains(&true) {
                self.awake.spent += monotonic::nanos() - from;
                return Ok(ready);
            }
        }
        self.awake.spent += monotonic::nanos() - from;
        Ok(ready)
    }

    fn poll(&self, nanos: Nanos) -> Result<Vec<bool>> {
        let pause = Duration::from_nanos(nanos).min(Duration::from_secs(1));
        let mut fds: Vec<PollFd<'_>> =
            self.medium.ports().into_iter().map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        fds.push(PollFd::new(self.control.as_fd(), PollFlags::POLLIN));
        match ppoll(&mut fds, Some(TimeSpec::from_duration(pause)), None) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error).context("waiting for packets failed"),
        }
        Ok(fds.iter().map(|fd| fd.any().unwrap_or(true)).collect())
    }

    fn receive(&mut self, port: usize) {
        for _ in 0..TURN {
            match self.medium.receive(port) {
                Ok(Some(packet)) => {
                    let (now, start) = (monotonic::nanos(), start_of(&packet.bytes, packet.datagram));
                    let link = self.link(packet.from, packet.to);
                    let before = link.counts();
                    link.offer(now, packet.route, packet.bytes);
                    let after = link.counts();
                    self.capture.remember(now, (packet.from, packet.to), start, before, after);
                }
                Ok(None) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // An ICMP error on a UDP socket, or a device that went away: the next turn tells.
                Err(_) => break,
            }
        }
        self.deliver_due(monotonic::nanos());
    }

    fn deliver_due(&mut self, now: Nanos) {
        for link in self.links.values_mut() {
            while let Some((route, packet)) = link.take(now) {
                self.medium.deliver(&route, &packet);
            }
        }
    }

    fn link(&mut self, from: usize, to: usize) -> &mut Link<M::Route> {
        let (default, seed) = (self.default, self.seed);
        self.links
            .entry((from, to))
            .or_insert_with(|| Link::new(default, seed ^ ((from as u64) << 32) ^ ((to as u64) << 16)))
    }

    fn apply_schedule(&mut self, now: Nanos) {
        while let Some(entry) = self.schedule.first_entry() {
            if entry.key().0 > now {
                break;
            }
            let request = entry.remove();
            // A scheduled change was checked when it was accepted.
            let _ = self.obey(request);
        }
    }

    fn serve_control(&mut self) {
        while let Ok((stream, _)) = self.control.accept() {
            // A client that cannot be answered has gone; nobody is left to be told.
            let _ = self.answer(stream);
        }
    }

    fn answer(&mut self, stream: UnixStream) -> Result<()> {
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(Duration::from_millis(200)))?;
        let reply = match read_request(&stream).and_then(|request| self.obey(request)) {
            Ok(links) => Reply { problem: None, links },
            Err(error) => Reply { problem: Some(format!("{error:#}")), links: Vec::new() },
        };
        write_reply(&stream, &reply)
    }

    fn obey(&mut self, request: Request) -> Result<Vec<LinkStatus>> {
        match request {
            Request::Status => return Ok(self.status()),
            Request::Shape { from, to, shape } => {
                let (from, to) = (self.cluster(&from)?, self.cluster(&to)?);
                let link = self.link(from, to);
                // Of two things that are done to a link at a time, one must not end the other.
                let shape = Shape { up: link.shape().up, ..shape };
                link.reshape(shape);
            }
            Request::Cut { from, to, cut } => {
                let (from, to) = (self.cluster(&from)?, self.cluster(&to)?);
                let link = self.link(from, to);
                let shape = Shape { up: !cut, ..*link.shape() };
                link.reshape(shape);
                self.medium.changed(from, to, &shape);
            }
            Request::Rebind { cluster } => {
                let cluster = self.cluster(&cluster)?;
                self.medium.rebind(cluster)?;
            }
            Request::At { after, request } => {
                self.check(&request)?;
                self.scheduled += 1;
                let at = monotonic::nanos().saturating_add(after.nanos());
                self.schedule.insert((at, self.scheduled), *request);
            }
            Request::Forget => self.schedule.clear(),
            Request::ClearCapture => self.capture.clear(),
            Request::WriteCapture { to } => {
                let wall = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos();
                let epoch = u64::try_from(wall)?.saturating_sub(monotonic::nanos());
                let written = self.capture.write(&to, &self.names, epoch);
                written.with_context(|| format!("the capture cannot be written to {}", to.display()))?;
            }
            Request::Stop => self.stopping = true,
        }
        Ok(Vec::new())
    }

    fn check(&self, request: &Request) -> Result<()> {
        match request {
            Request::Shape { from, to, .. } | Request::Cut { from, to, .. } => {
                self.cluster(from).and_then(|_| self.cluster(to)).map(|_| ())
            }
            Request::Rebind { cluster } => self.cluster(cluster).map(|_| ()),
            Request::At { .. } => anyhow::bail!("a scheduled change cannot schedule another"),
            Request::Status
            | Request::Forget
            | Request::ClearCapture
            | Request::WriteCapture { .. }
            | Request::Stop => Ok(()),
        }
    }

    fn cluster(&self, name: &str) -> Result<usize> {
        self.names.iter().position(|known| known == name).with_context(|| {
            format!("no cluster is called `{name}` here; there are {}", self.names.join(", "))
        })
    }

    fn status(&self) -> Vec<LinkStatus> {
        let name = |index: usize| self.names.get(index).cloned().unwrap_or_else(|| "*".to_owned());
        let mut all = Vec::new();
        for from in 0..self.names.len() {
            for to in (0..self.names.len()).filter(|to| *to != from) {
                let link = self.links.get(&(from, to));
                let shape = link.map_or(self.default, |link| *link.shape());
                let counts = link.map_or_else(Default::default, Link::counts);
                all.push(LinkStatus { from: name(from), to: name(to), shape, counts });
            }
        }
        all
    }
}
