//! Connects to an endpoint of this cluster: for peers' streams and for clients of this host alike.
//!
//! It retries the export's own endpoints before it says no (M2), so that one bad backend is no bad gateway.

use std::{
    cmp::Reverse,
    future::{Future as _, pending, poll_fn},
    io,
    net::SocketAddr,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::Poll,
    time::{Duration, Instant},
};

use tokio::time::sleep;

use super::{
    pump::{Carried, Side},
    tcp::Tcp,
};
use crate::{
    clock::Clock,
    ledger::{EndpointKey, Ledger},
    model::{
        affinity::rank,
        catalog::{Export, Protocol},
        code::Code,
        limits::{CONNECT_STAGGER, CONNECT_TIMEOUT, CONNECTS_AT_ONCE_MAX, OPEN_TIMEOUT},
        open::Origin,
        outlier::Outcome,
        state::Unready,
    },
    net::{BoxFuture, Net, Stream},
};

/// Why a connection was refused, as the asking gateway is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) origin: Origin,
    pub(super) code: Code,
    pub(super) reason: String,
}

/// Which endpoint is wanted.
#[derive(Debug, Clone, Default)]
pub(super) struct Wanted {
    pub(super) port: u16,
    /// One endpoint of a headless service; empty: any.
    pub(super) hostname: String,
    /// Equal keys reach the same endpoint while it serves; empty: none.
    pub(super) affinity: Vec<u8>,
    /// Time for all endpoints together; zero: the limit of an open.
    pub(super) deadline: Duration,
    /// Endpoints that their checks find not ready: tried last.
    pub(super) unready: Option<Arc<Unready>>,
    /// Endpoints that have had their try.
    pub(super) except: Vec<SocketAddr>,
}

/// An endpoint that took a connection.
#[derive(Debug)]
pub(super) struct Connected {
    pub(super) tcp: Tcp,
    pub(super) address: SocketAddr,
    pub(super) trial: Trial,
}

/// Says to the ledger what became of a connection to an endpoint, in any case: a place on probation waits for it.
#[derive(Debug)]
pub(super) struct Trial {
    ledger: Ledger,
    key: EndpointKey,
    done: bool,
}

impl Trial {
    pub(super) fn new(ledger: Ledger, key: EndpointKey) -> Self {
        Self { ledger, key, done: false }
    }

    /// Says how a connection ended that was carried between its endpoint, on that side, and a client.
    pub(super) fn ended(&mut self, carried: &Carried, endpoint: Side) {
        let outcome = match carried.cut_by {
            Some(side) if side == endpoint => Outcome::Cut,
            None if carried.whole => Outcome::Whole,
            _ => return,
        };
        self.done |= outcome == Outcome::Cut;
        self.ledger.observe_endpoint(&self.key, outcome);
    }

    /// Only the first word counts.
    pub(super) fn observe(&mut self, outcome: Outcome) {
        if !std::mem::replace(&mut self.done, true) {
            self.ledger.observe_endpoint(&self.key, outcome);
        }
    }
}

impl Drop for Trial {
    fn drop(&mut self) {
        self.observe(Outcome::Unknown);
    }
}

/// A connection that is being made.
type Connecting = BoxFuture<'static, io::Result<Box<dyn Stream>>>;

/// Connections that are being made, the longest first.
#[derive(Default)]
struct Trying(Vec<(SocketAddr, Connecting)>);

impl Trying {
    /// The first of them that is made, or fails, and how many were begun before it; none when that takes longer
    /// than `patience`.
    async fn first(
        &mut self,
        patience: Option<Duration>,
    ) -> Option<(usize, SocketAddr, io::Result<Box<dyn Stream>>)> {
        let mut over = pin!(async {
            match patience {
                Some(patience) => sleep(patience).await,
                None => pending().await,
            }
        });
        poll_fn(|cx| {
            for at in 0..self.0.len() {
                if let Poll::Ready(tried) = self.0[at].1.as_mut().poll(cx) {
                    let (address, _) = self.0.remove(at);
                    return Poll::Ready(Some((at, address, tried)));
                }
            }
            over.as_mut().poll(cx).map(|()| None)
        })
        .await
    }
}

/// Opens connections to endpoints of this cluster.
#[derive(Debug)]
pub(super) struct Endpoints {
    net: Arc<dyn Net>,
    clock: Clock,
    ledger: Ledger,
    turn: AtomicUsize,
}

impl Endpoints {
    pub(super) fn new(net: Arc<dyn Net>, clock: Clock, ledger: Ledger) -> Self {
        Self { net, clock, ledger, turn: AtomicUsize::new(0) }
    }

    /// The time of the clock that this goes by.
    pub(super) fn now(&self) -> Instant {
        self.clock.now()
    }

    /// Whether the retry budget lets bytes be told to another endpoint.
    pub(super) fn may_retry(&self, export: &Export) -> bool {
        self.ledger.may_retry(&export.name)
    }

    /// Whether there is an endpoint to try.
    pub(super) fn has(&self, export: &Export, wanted: &Wanted) -> bool {
        Self::fitting(export, wanted).next().is_some()
    }

    /// Connects to the first endpoint that takes the connection. One that is silent is given company: a connection
    /// that says nothing may be made twice. Of an idempotent export the first answer tells whether that was a
    /// success, else the connection itself does: nobody waits for more.
    pub(super) async fn connect(&self, export: &Export, wanted: &Wanted) -> Result<Connected, Refusal> {
        let mut addresses = self.order(export, wanted).into_iter();
        let most = if wanted.deadline.is_zero() { OPEN_TIMEOUT } else { wanted.deadline.min(OPEN_TIMEOUT) };
        let until = self.clock.now() + most;
        let mut refusal = Refusal {
            origin: Origin::Refused,
            code: Code::ENDPOINT_REFUSED,
            reason: format!("{} has no endpoint for port {}", export.name, wanted.port),
        };
        let mut trying = Trying::default();
        loop {
            let left = until.saturating_duration_since(self.clock.now());
            match addresses.next() {
                Some(address) if !left.is_zero() => {
                    trying.0.push((address, self.net.tcp_connect(address, left.min(CONNECT_TIMEOUT))));
                }
                _ if trying.0.is_empty() => return Err(refusal),
                _ => {}
            }
            let alone = addresses.len() == 0 || trying.0.len() >= CONNECTS_AT_ONCE_MAX;
            let Some((at, address, tried)) = trying.first((!alone).then_some(CONNECT_STAGGER)).await else {
                continue;
            };
            let key = |address| (export.name.clone(), wanted.port, address);
            match tried {
                Ok(stream) => {
                    // Whoever was asked before and is silent still has failed as a connection that timed out has.
                    for (silent, _) in &trying.0[..at] {
                        self.ledger.observe_endpoint(&key(*silent), Outcome::Failure(Origin::Timeout));
                    }
                    let mut trial = Trial::new(self.ledger.clone(), key(address));
                    if !export.idempotent {
                        trial.observe(Outcome::Success);
                    }
                    return Ok(Connected { tcp: Tcp::new(stream), address, trial });
                }
                Err(error) => {
                    refusal = refused(address, &error);
                    self.ledger.observe_endpoint(&key(address), Outcome::Failure(refusal.origin));
                    tracing::debug!(export = %export.name, %address, %error, "endpoint not connected");
                }
            }
        }
    }

    fn fitting<'a>(export: &'a Export, wanted: &'a Wanted) -> impl Iterator<Item = SocketAddr> + 'a {
        let fits = |address: &SocketAddr| {
            (wanted.hostname.is_empty() || export.hostname(address.ip()) == wanted.hostname)
                && !wanted.except.contains(address)
        };
        let port = export
            .ports
            .iter()
            .find(|entry| entry.port.protocol == Protocol::Tcp && entry.port.number == wanted.port);
        port.into_iter().flat_map(|port| port.to.iter()).copied().filter(fits)
    }

    /// The endpoints in the order of trying: in turn, or as a client that is kept meets
    /// them; those that something speaks against last.
    pub(super) fn order(&self, export: &Export, wanted: &Wanted) -> Vec<SocketAddr> {
        let mut fit: Vec<SocketAddr> = Self::fitting(export, wanted).collect();
        if fit.len() > 1 {
            match wanted.affinity.as_slice() {
                [] => {
                    let first = self.turn.fetch_add(1, Ordering::Relaxed) % fit.len();
                    fit.rotate_left(first);
                }
                key => fit.sort_by_cached_key(|at| Reverse(rank(key, at.to_string().as_bytes()))),
            }
            let unready = |address: &SocketAddr| {
                wanted.unready.as_ref().is_some_and(|unready| unready.contains(&(wanted.port, *address)))
            };
            self.ledger.line_up((&export.name, wanted.port), &mut fit, unready);
        }
        fit
    }
}

fn refused(address: SocketAddr, error: &io::Error) -> Refusal {
    // Who is told this may be another cluster: it learns what happened, never where.
    let (origin, code, reason) = match error.kind() {
        io::ErrorKind::TimedOut | io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
            (Origin::Timeout, Code::ENDPOINT_TIMED_OUT, "no endpoint answered in time")
        }
        io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset => {
            (Origin::Refused, Code::ENDPOINT_REFUSED, "every endpoint refused the connection")
        }
        _ => {
            tracing::warn!(%address, %error, "cannot connect to an endpoint");
            (Origin::Gateway, Code::ENDPOINT_REFUSED, "the gateway cannot connect to its endpoints")
        }
    };
    Refusal { origin, code, reason: reason.to_owned() }
}
