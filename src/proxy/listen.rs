//! One listener for each port of each import, on its virtual IP, as long as somebody can serve it.
//!
//! An import whose plan has no candidate stops listening, so that a check by TCP does not lie (B9). Ports the
//! process may not bind move up (B10). What became of each listener is published in the ledger.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::Ipv4Addr,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    sync::{oneshot, watch},
    task::yield_now,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{accept::Door, outbound::Outbound, route::Route};
use crate::{
    model::{
        catalog::Protocol,
        code::Code,
        ids::ServiceName,
        limits::{LISTEN_RETRY, PLAN_SWEEP_INTERVAL_MIN},
        state::State,
        virtual_ip::{Binding, BindingState, listen_port},
    },
    net::TcpListen,
};

/// A listener is waited for no longer than this when it closes; its accept loop does nothing that lasts.
const CLOSE_WAIT: Duration = Duration::from_secs(1);
/// A plan that has no end of its own is looked at again after this at the latest.
const LOOK_AGAIN: Duration = Duration::from_secs(3_600);

/// Listeners looked at before others have their turn: opening one takes a few system calls.
const LOOKS_IN_A_ROW: usize = 64;

type Address = (Ipv4Addr, u16);

/// One socket of a listener.
struct Socket {
    shard: usize,
    stop: CancellationToken,
    closed: oneshot::Receiver<()>,
}

/// A listener that stands or should.
struct Entry {
    route: Arc<Route>,
    sockets: Vec<Socket>,
    bound_port: u16,
    /// After a failure.
    retry_at: Option<Instant>,
}

/// All listeners of this gateway.
pub(super) struct Listeners {
    outbound: Arc<Outbound>,
    state: watch::Receiver<Arc<State>>,
    /// Sockets that may be open at once: half of what the process may open.
    sockets_max: usize,
    entries: BTreeMap<Address, Entry>,
    by_service: BTreeMap<ServiceName, Vec<Address>>,
    open: usize,
    /// There were too many listeners for a socket on each shard.
    narrow: bool,
    /// Stops every socket at once.
    stop: CancellationToken,
}

/// What all plans were made of when every listener was last looked at, and when that is over.
struct Looked {
    state: Arc<State>,
    epoch: u64,
    again_at: Instant,
}

impl Looked {
    /// Whether a plan may be another one although its import is the same.
    fn is_over(&self, state: &State, epoch: u64, now: Instant) -> bool {
        epoch != self.epoch
            || now >= self.again_at
            || !Arc::ptr_eq(&state.settings, &self.state.settings)
            || !Arc::ptr_eq(&state.me, &self.state.me)
    }
}

impl Listeners {
    pub(super) fn new(outbound: Arc<Outbound>, state: watch::Receiver<Arc<State>>, open_files: u64) -> Self {
        let sockets_max = usize::try_from(open_files / 2).unwrap_or(usize::MAX);
        Self {
            outbound,
            state,
            sockets_max,
            entries: BTreeMap::new(),
            by_service: BTreeMap::new(),
            open: 0,
            narrow: false,
            stop: CancellationToken::new(),
        }
    }

    /// Follows state and health until told to stop; then closes everything, says so, and waits for the end.
    pub(super) async fn run(mut self, stop: CancellationToken, closed: CancellationToken) {
        let site = self.outbound.planner.site.clone();
        let hard = site.tasks.shutdown().hard();
        tokio::pin!(hard);
        let mut epoch = site.ledger.health_epoch();
        let mut seen: Option<Looked> = None;
        loop {
            let health = *epoch.borrow_and_update();
            let newest = self.state.borrow_and_update().clone();
            let touched = self.follow(seen.as_ref().map(|seen| &*seen.state), &newest).await;
            let now = site.clock.now();
            let kept = seen.take().filter(|seen| !seen.is_over(&newest, health, now));
            let mut again_at = now + self.look(&newest, kept.is_some().then_some(touched)).await;
            if let Some(kept) = kept {
                again_at = again_at.min(kept.again_at);
            }
            seen = Some(Looked { state: newest, epoch: health, again_at });
            let wait = again_at.saturating_duration_since(site.clock.now());
            tokio::select! {
                biased;
                () = &mut hard => return self.stop.cancel(),
                () = stop.cancelled() => break,
                changed = self.state.changed() => if changed.is_err() { break },
                _ = epoch.changed() => sleep(PLAN_SWEEP_INTERVAL_MIN).await,
                () = sleep(wait) => {}
            }
        }
        let all: Vec<Address> = self.entries.keys().copied().collect();
        for address in all {
            self.forget(address).await;
        }
        closed.cancel();
        hard.await;
    }

    /// Takes over which listeners are wanted; returns those whose import is not what it was.
    async fn follow(&mut self, old: Option<&State>, new: &State) -> Vec<Address> {
        let changed: BTreeSet<ServiceName> = match old {
            Some(old) => {
                let changes = new.changes_since(old);
                changes.imports.union(&changes.entrances).cloned().collect()
            }
            None => new.imports.keys().cloned().collect(),
        };
        let mut wanted: BTreeMap<Address, Route> = BTreeMap::new();
        let mut gone: BTreeSet<Address> = BTreeSet::new();
        for name in changed {
            gone.extend(self.by_service.remove(&name).unwrap_or_default());
            let routes: Vec<(Address, Route)> = Route::of(new, &name);
            if routes.is_empty() {
                self.outbound.planner.site.ledger.forget(&name);
                continue;
            }
            self.by_service.insert(name, routes.iter().map(|(address, _)| *address).collect());
            wanted.extend(routes);
        }
        // Closed before anything is opened: an address may change its owner.
        for address in gone {
            let same = |entry: &Entry| {
                wanted.get(&address).is_some_and(|route| {
                    (&route.service, route.port, &route.endpoint)
                        == (&entry.route.service, entry.route.port, &entry.route.endpoint)
                })
            };
            if !self.entries.get(&address).is_some_and(same) {
                self.forget(address).await;
            }
        }
        let touched = wanted.keys().copied().collect();
        for (address, route) in wanted {
            self.entries.entry(address).or_insert_with(|| Entry {
                bound_port: address.1,
                route: Arc::new(route),
                sockets: Vec::new(),
                retry_at: None,
            });
        }
        touched
    }

    /// Opens and closes by what the plans say, of all listeners unless told of which; returns when to look
    /// again at the latest.
    async fn look(&mut self, state: &State, which: Option<Vec<Address>>) -> Duration {
        let shards = self.outbound.shards.count();
        let on_all_shards = self.entries.len().saturating_mul(shards) <= self.sockets_max;
        if !on_all_shards && !self.narrow {
            self.narrow().await;
        }
        self.narrow = !on_all_shards;
        let addresses = which.unwrap_or_else(|| self.entries.keys().copied().collect());
        let mut wait = LOOK_AGAIN;
        for (number, address) in addresses.into_iter().enumerate() {
            if number % LOOKS_IN_A_ROW == LOOKS_IN_A_ROW - 1 {
                yield_now().await;
            }
            let now = self.outbound.planner.site.clock.now();
            let Some(entry) = self.entries.get_mut(&address) else { continue };
            let planned = entry.route.plan(&self.outbound.planner, state);
            let servable = planned.is_some_and(|planned| !planned.plan.is_empty());
            let due = entry.retry_at.is_none_or(|at| at <= now);
            match (servable, entry.sockets.is_empty()) {
                (true, true) if due => self.open(address, on_all_shards),
                (false, _) => {
                    entry.retry_at = None;
                    self.close(address).await;
                    self.publish(address, BindingState::NoCandidate);
                }
                (true, _) => {}
            }
            let Some(entry) = self.entries.get(&address) else { continue };
            let retry = entry.retry_at.map(|at| at.saturating_duration_since(now));
            wait = [entry.route.refresh_in(now), retry].into_iter().flatten().fold(wait, Duration::min);
        }
        // A plan that is due at this very moment was made a moment too early: timers count milliseconds.
        wait.max(Duration::from_millis(1))
    }

    /// Which shard serves a listener that has only one socket.
    fn home(&self, (ip, port): Address) -> usize {
        (u32::from(ip) as usize).wrapping_add(usize::from(port)) % self.outbound.shards.count()
    }

    /// Leaves each listener one socket, so that there are enough for all.
    async fn narrow(&mut self) {
        let addresses: Vec<Address> = self.entries.keys().copied().collect();
        let mut spare = Vec::new();
        for address in addresses {
            let home = self.home(address);
            let Some(entry) = self.entries.get_mut(&address).filter(|entry| entry.sockets.len() > 1) else {
                continue;
            };
            let (kept, others): (Vec<_>, Vec<_>) =
                std::mem::take(&mut entry.sockets).into_iter().partition(|socket| socket.shard == home);
            entry.sockets = kept;
            spare.extend(others);
        }
        self.open -= spare.len();
        shut(spare).await;
    }

    fn open(&mut self, address: Address, on_all_shards: bool) {
        let shards = self.outbound.shards.count();
        let home = self.home(address);
        let places: Vec<usize> = if on_all_shards { (0..shards).collect() } else { vec![home] };
        let Some(entry) = self.entries.get_mut(&address) else { return };
        let opened = if self.open + places.len() > self.sockets_max {
            Err(Code::LISTENER_LIMIT)
        } else {
            listen(&self.outbound, address, places.len())
        };
        let (bound_port, listeners) = match opened {
            Ok(opened) => opened,
            Err(code) => {
                let site = &self.outbound.planner.site;
                if entry.retry_at.is_none() {
                    let (ip, port) = address;
                    let text = format!("{} {ip}:{port} cannot listen: {code}", entry.route.service);
                    site.ledger.note("listener", text);
                }
                entry.retry_at = Some(site.clock.now() + LISTEN_RETRY);
                return self.publish(address, BindingState::Failed(code));
            }
        };
        entry.bound_port = bound_port;
        entry.retry_at = None;
        for (shard, listener) in places.into_iter().zip(listeners) {
            let (closed, is_closed) = oneshot::channel();
            let stop = self.stop.child_token();
            let door = Door { listener, route: entry.route.clone(), shard, stop: stop.clone(), closed };
            entry.sockets.push(Socket { shard, stop, closed: is_closed });
            self.outbound.shards.spawn_transient(shard, "listener", door.serve(self.outbound.clone()));
        }
        self.open += entry.sockets.len();
        self.publish(address, BindingState::Listening);
    }

    /// Closes a listener and waits until its address is free.
    async fn close(&mut self, address: Address) {
        let Some(entry) = self.entries.get_mut(&address) else { return };
        let sockets = std::mem::take(&mut entry.sockets);
        self.open -= sockets.len();
        shut(sockets).await;
    }

    async fn forget(&mut self, address: Address) {
        self.close(address).await;
        self.entries.remove(&address);
        self.outbound.planner.site.ledger.unbind(address.0, Protocol::Tcp, address.1);
    }

    fn publish(&self, (ip, port): Address, state: BindingState) {
        let Some(entry) = self.entries.get(&(ip, port)) else { return };
        let binding = Binding { ip, protocol: Protocol::Tcp, port, bound_port: entry.bound_port, state };
        self.outbound.planner.site.ledger.bind(binding);
    }
}

async fn shut(sockets: Vec<Socket>) {
    for socket in &sockets {
        socket.stop.cancel();
    }
    for socket in sockets {
        // A shard that stands still closes it when it goes on.
        let _ = timeout(CLOSE_WAIT, socket.closed).await;
    }
}

/// Binds the port, or the one that stands in for it, and tells which.
fn listen(
    outbound: &Outbound,
    (ip, port): Address,
    sockets: usize,
) -> Result<(u16, Vec<Box<dyn TcpListen>>), Code> {
    let net = &outbound.planner.site.net;
    let mut bound_port = port;
    loop {
        match net.tcp_listen((ip, bound_port).into(), sockets) {
            Ok(listeners) => return Ok((bound_port, listeners)),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                let stand_in = listen_port(port, false);
                if bound_port == stand_in {
                    return Err(Code::PORT_NEEDS_PRIVILEGE);
                }
                bound_port = stand_in;
            }
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                return Err(Code::VIRTUAL_PORT_TAKEN);
            }
            Err(error) => {
                tracing::warn!(%ip, port = bound_port, %error, "cannot listen");
                return Err(Code::LISTENER_LIMIT);
            }
        }
    }
}
