//! Active checks of this cluster's own endpoints: asks them, and tells the state who is ready.
//!
//! Only exports that say how are checked. Peers learn the counts by the catalog; what real connections meet is
//! the proxy's to see.

use std::{collections::BTreeMap, io, net::SocketAddr, sync::Arc};

use rand::RngExt as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    sync::mpsc,
    time::{sleep, timeout},
};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{
    clock::Clock,
    ledger::Ledger,
    model::{
        catalog::Protocol,
        check::{Ask, Checked, HealthCheck},
        ids::ServiceName,
        limits,
        state::{Event, State, Unready},
    },
    net::Net,
    store::Store,
    supervise::Tasks,
};

/// What checking needs.
#[derive(Debug, Clone)]
pub struct Parts {
    /// The state.
    pub store: Store,
    /// Where changes are told to people.
    pub ledger: Ledger,
    /// Sockets.
    pub net: Arc<dyn Net>,
    /// Time and randomness.
    pub clock: Clock,
    /// The control runtime.
    pub tasks: Tasks,
}

/// One endpoint that is checked.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Subject {
    service: ServiceName,
    port: u16,
    address: SocketAddr,
}

/// A check that runs.
struct Running {
    check: HealthCheck,
    _stop: DropGuard,
}

/// Says whether an endpoint is ready now, and why not.
type Told = (Subject, Result<(), String>);

/// Checks for the life of the process.
pub fn start(parts: Parts) {
    let run = parts.tasks.shutdown().cut(run(parts.clone()));
    parts.tasks.spawn("health checks", run);
}

async fn run(parts: Parts) {
    let mut states = parts.store.watch();
    let (tell, mut told) = mpsc::channel::<Told>(limits::CHECKS_QUEUE_MAX);
    let mut running: BTreeMap<Subject, Running> = BTreeMap::new();
    let mut unready: BTreeMap<ServiceName, Unready> = BTreeMap::new();
    let mut seen: Option<Arc<State>> = None;
    states.mark_changed();
    loop {
        tokio::select! {
            biased;
            changed = states.changed() => if changed.is_err() { return },
            subject = told.recv() => {
                let Some((subject, result)) = subject else { return };
                take(&parts, &running, &mut unready, subject, result).await;
                continue;
            }
        }
        let state = states.borrow_and_update().clone();
        if seen.as_ref().is_none_or(|seen| !seen.exports.ptr_eq(&state.exports)) {
            follow(&parts, &state, &tell, &mut running);
            let gone: Vec<ServiceName> = prune(&running, &mut unready);
            for service in gone {
                publish(&parts, &service, unready.get(&service)).await;
            }
        }
        seen = Some(state);
    }
}

/// Starts and stops checks by what is exported.
fn follow(parts: &Parts, state: &State, tell: &mpsc::Sender<Told>, running: &mut BTreeMap<Subject, Running>) {
    let mut wanted = BTreeMap::new();
    for export in state.exports.values() {
        for port in export.ports.iter().filter(|port| port.port.protocol == Protocol::Tcp) {
            let Some(check) = &port.health else { continue };
            for address in &port.to {
                let (service, port) = (export.name.clone(), port.port.number);
                wanted.insert(Subject { service, port, address: *address }, check.clone());
            }
        }
    }
    running.retain(|subject, running| wanted.get(subject) == Some(&running.check));
    for (subject, check) in wanted {
        if running.contains_key(&subject) || running.len() >= limits::CHECKS_MAX {
            continue;
        }
        let stop = CancellationToken::new();
        let checking = keep(parts.clone(), subject.clone(), check.clone(), tell.clone());
        let checking = stop.clone().run_until_cancelled_owned(checking);
        parts.tasks.spawn_transient("health check", async move {
            let _ = checking.await;
        });
        running.insert(subject, Running { check, _stop: stop.drop_guard() });
    }
}

/// Forgets what was found of endpoints that are not checked any more; returns the services it concerns.
fn prune(
    running: &BTreeMap<Subject, Running>,
    unready: &mut BTreeMap<ServiceName, Unready>,
) -> Vec<ServiceName> {
    let mut changed = Vec::new();
    unready.retain(|service, endpoints| {
        let before = endpoints.len();
        endpoints.retain(|(port, address)| {
            let subject = Subject { service: service.clone(), port: *port, address: *address };
            running.contains_key(&subject)
        });
        if endpoints.len() != before {
            changed.push(service.clone());
        }
        !endpoints.is_empty()
    });
    changed
}

/// An endpoint became ready or unready.
async fn take(
    parts: &Parts,
    running: &BTreeMap<Subject, Running>,
    unready: &mut BTreeMap<ServiceName, Unready>,
    subject: Subject,
    result: Result<(), String>,
) {
    if !running.contains_key(&subject) {
        return;
    }
    let Subject { service, port, address } = subject;
    let word = match &result {
        Ok(()) => "ready".to_owned(),
        Err(why) => format!("not ready: {why}"),
    };
    parts.ledger.note("health", format!("{address} of {service} port {port}: {word}"));
    let endpoints = unready.entry(service.clone()).or_default();
    if result.is_ok() {
        endpoints.remove(&(port, address));
    } else {
        endpoints.insert((port, address));
    }
    publish(parts, &service, unready.get(&service)).await;
}

async fn publish(parts: &Parts, service: &ServiceName, unready: Option<&Unready>) {
    let event = Event::Readiness(service.clone(), unready.cloned().unwrap_or_default());
    // The store is gone only when the process ends.
    let _ = parts.store.apply(event).await;
}

/// Checks one endpoint until it is stopped.
async fn keep(parts: Parts, subject: Subject, check: HealthCheck, tell: mpsc::Sender<Told>) {
    let mut checked = Checked::default();
    loop {
        let asked = timeout(check.timeout, ask(&*parts.net, subject.address, &check)).await;
        let result = match asked {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("no answer within {} ms", check.timeout.as_millis())),
        };
        if checked.observe(result.is_ok()).is_some() && tell.send((subject.clone(), result)).await.is_err() {
            return;
        }
        // A tenth more or less, so that many checks do not stay together.
        let jitter = parts.clock.rng().random_range(0.9..=1.1);
        sleep(check.interval.mul_f64(jitter)).await;
    }
}

/// Asks one endpoint once.
async fn ask(net: &dyn Net, address: SocketAddr, check: &HealthCheck) -> io::Result<()> {
    let mut stream = net.tcp_connect(address, check.timeout).await?;
    let Ask::Http(path) = &check.ask else { return Ok(()) };
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nUser-Agent: tombolo-health\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut head = [0; limits::CHECK_STATUS_BYTES];
    stream.read_exact(&mut head).await?;
    match status(&head) {
        Some(200..=399) => Ok(()),
        Some(status) => Err(io::Error::other(format!("status {status}"))),
        None => Err(io::Error::other("no answer of HTTP/1")),
    }
}

/// The status in `HTTP/1.x NNN`.
fn status(head: &[u8; limits::CHECK_STATUS_BYTES]) -> Option<u16> {
    let text = std::str::from_utf8(head).ok()?;
    let (version, status) = text.split_once(' ')?;
    version.starts_with("HTTP/1.").then(|| status.get(..3)?.parse().ok()).flatten()
}

#[cfg(test)]
mod tests;
