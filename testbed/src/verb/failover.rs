//! `testbed failover` and `testbed scenario`: repetitions of a load with faults in it, and what was seen
//! from the client and from the gateways on both sides.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;

use super::{counts::Before, fault, load, up};
use crate::{
    admin::{Admin, Peer},
    emulator::control::Request,
    fault::{Fault, Target},
    gateway,
    ground::ground,
    interrupt, kept, monotonic,
    process::Role,
    quantity::Span,
    report::Repetition,
    scenario::{self, Assertion, Step},
    screen,
    standing::{Lock, Product, Standing},
};

/// What `failover --kill` takes away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Kill {
    /// The gateway that the client's gateway uses.
    Gateway,
    /// The cluster that answers, all of it.
    Cluster,
    /// One endpoint of the cluster that answers.
    Endpoint,
    /// The link to the cluster that answers.
    Link,
}

/// When the fault of `failover` comes.
const FAULT_AT: Span = Span::from_millis(2_000);
/// How long gateways may take to stand as before.
const PATIENCE: Duration = Duration::from_secs(30);

/// The one step of `failover`.
fn steps_of(standing: &Standing, kill: Kill) -> Result<Vec<Step>> {
    let (cluster, _) = answering(standing)?;
    let fault = match kill {
        Kill::Gateway => Fault::Kill { target: Target::Active(cluster) },
        Kill::Cluster => Fault::Kill { target: Target::Cluster(cluster) },
        Kill::Endpoint => Fault::Kill { target: Target::Endpoint(cluster, 1) },
        Kill::Link => {
            let from = standing.scenario.clusters[standing.scenario.client()?].name.clone();
            Fault::Partition { from, to: cluster, one_way: false, lasting: None }
        }
    };
    Ok(vec![Step { at: FAULT_AT, every: None, fault }])
}

/// Waits until the cluster answers again that did at first, all of it: what came back is held back for a while,
/// and a fault in a place that nobody uses would measure nothing.
fn settle(standing: &Standing, used: &mut Option<(String, bool)>) -> Result<()> {
    let until = Instant::now() + PATIENCE;
    loop {
        interrupt::check()?;
        let (now, alone) = answering(standing)?;
        let (first, first_alone) = used.get_or_insert_with(|| (now.clone(), alone));
        // When several shared the load from the start, there is none to wait for.
        if !*first_alone || (*first == now && alone) {
            return Ok(());
        }
        ensure!(
            Instant::now() < until,
            "{first} does not answer again {PATIENCE:?} after it came back: {now} does"
        );
        std::thread::sleep(Duration::from_millis(500));
    }
}

/// The cluster that answers most of a short load, and whether it answers all of it.
fn answering(standing: &Standing) -> Result<(String, bool)> {
    let mut probe = load::plan(standing, &standing.scenario.load)?;
    (probe.rps, probe.connections, probe.duration) = (100.0, 20, Span::from_millis(200));
    probe.bulk_bytes = probe.bulk_bytes.min(1_000);
    let outcome = load::Running::start(standing, &probe)?.finish()?;
    let most = outcome.account.clusters.iter().max_by_key(|(_, count)| **count);
    let most = most.context("no cluster answers the client\n  try: testbed status")?.0.clone();
    Ok((most, outcome.account.clusters.len() == 1))
}

/// Runs the repetitions: of the scenario's steps, or of one kill.
/// The moment of one that breaks an assertion by itself is kept.
pub(crate) fn repeat(
    standing: &mut Standing,
    kill: Option<Kill>,
    reps: usize,
    assertions: &[Assertion],
) -> Result<Vec<Repetition>> {
    let folder = standing.folder.clone();
    let _lock = Lock::take(&folder)?;
    let mut all = Vec::new();
    let mut used = None;
    for number in 1..=reps {
        interrupt::check()?;
        restore(standing)?;
        settle(standing, &mut used)?;
        let steps = match kill {
            Some(kill) => steps_of(standing, kill)?,
            None => standing.scenario.steps.clone(),
        };
        standing.wan().ask(&Request::ClearCapture)?;
        let rep = repetition(standing, number, &steps);
        if rep.as_ref().map_or_else(|_| !interrupt::asked(), |rep| rep.breaks(assertions)) {
            kept::moment(standing, &format!("rep-{number}"))?;
        }
        let healed = if standing.scenario.once { Ok(()) } else { restore(standing) };
        let rep = rep?;
        healed?;
        let near = rep.detected_near_ms.map_or_else(|| "-".to_owned(), |ms| format!("{ms:.0} ms"));
        let what = rep.faults.iter().map(|(_, text)| text.as_str()).collect::<Vec<_>>().join("; ");
        screen::note(&format!(
            "rep {number}/{reps}: {what}: detected {near}, gap {:.0} ms, wait {:.0} ms, failed {}, reset {}, unanswered {}",
            rep.gap_ms, rep.wait_ms, rep.account.failed, rep.account.reset, rep.account.unanswered
        ));
        all.push(rep);
    }
    Ok(all)
}

fn repetition(standing: &mut Standing, number: usize, steps: &[Step]) -> Result<Repetition> {
    let plan = load::plan(standing, &standing.scenario.load)?;
    let stop = Arc::new(AtomicBool::new(false));
    let schedule = scenario::schedule(steps, plan.duration);
    let watched = schedule.first().filter(|_| standing.product == Product::Tombolo);
    let watches = watched.map(|(_, fault)| watches(standing, fault, &stop)).transpose()?;
    let before = Before::of(standing)?;
    let running = load::Running::start(standing, &plan)?;
    let started = running.started;
    let mut faults = Vec::new();
    let mut first = None;
    let mut last = started;
    let mut trouble = Ok(());
    for (due, fault) in schedule {
        interrupt::sleep_until(started + due.nanos());
        if interrupt::asked() {
            break;
        }
        let at = monotonic::nanos();
        match fault::inflict(standing, fault, None) {
            Ok(done) => faults.push(((at - started) as f64 / 1e6, done)),
            Err(error) => {
                trouble = Err(error);
                break;
            }
        }
        first.get_or_insert(at);
        last = at;
    }
    let outcome = running.finish();
    stop.store(true, Ordering::Relaxed);
    let detected =
        watches.map(|watches| watches.map(|watch| watch.and_then(|watch| watch.join().ok().flatten())));
    trouble?;
    let first = first.unwrap_or(started);
    let outcome = outcome?;
    let mut rep = Repetition::of(number, &outcome, first, plan.deadline);
    rep.resumed(&outcome, last);
    rep.faults = faults;
    rep.beside.extend(before.since(standing)?);
    if let Some([near, far]) = detected {
        let after = |at: u64| at.saturating_sub(first) as f64 / 1e6;
        rep.detected_near_ms = near.map(after);
        rep.detected_far_ms = far.map(after);
    }
    Ok(rep)
}

type Watch = JoinHandle<Option<u64>>;

/// Watches the faulted peer from the client's gateway and from one elsewhere. Far is the other end of a
/// cut link, else a gateway of a third cluster; for endpoints nobody is watched.
fn watches(standing: &Standing, fault: &Fault, stop: &Arc<AtomicBool>) -> Result<[Option<Watch>; 2]> {
    let client = standing.scenario.client()?;
    let (peer, far, far_peer) = match fault {
        Fault::Kill { target } | Fault::Stop { target } => {
            let Some(peer) = target.cluster().map(str::to_owned) else { return Ok([None, None]) };
            if matches!(target, Target::Endpoint(..) | Target::Endpoints(_)) {
                return Ok([None, None]);
            }
            let third = standing.scenario.clusters.iter().enumerate();
            let third = third.map(|(at, c)| (at, &c.name)).find(|(at, name)| *at != client && **name != peer);
            (peer.clone(), third.map(|(at, _)| at), peer)
        }
        Fault::Partition { from, to, .. } | Fault::Link { from, to, .. } | Fault::Block { from, to, .. } => {
            let (near, far) = if standing.scenario.cluster(to)? == client { (to, from) } else { (from, to) };
            (far.clone(), Some(standing.scenario.cluster(far)?), near.clone())
        }
        _ => return Ok([None, None]),
    };
    let near = watch(gateway::admin(standing, client, 0)?, peer, stop)?;
    let far = match far {
        Some(far) => watch(gateway::admin(standing, far, 0)?, far_peer, stop)?,
        None => None,
    };
    Ok([near, far])
}

/// A thread that asks a gateway every 10 ms until it shows the peer otherwise than now.
fn watch(admin: Admin, peer: String, stop: &Arc<AtomicBool>) -> Result<Option<Watch>> {
    let find = |peers: Vec<Peer>, name: &str| peers.into_iter().find(|peer| peer.cluster == name);
    let Some(before) = find(admin.peers()?, &peer) else { return Ok(None) };
    let stop = Arc::clone(stop);
    Ok(Some(std::thread::spawn(move || {
        while !stop.load(Ordering::Relaxed) {
            let asked = monotonic::nanos();
            // A gateway that cannot be asked tells nothing of its peer.
            if let Ok(peers) = admin.peers()
                && find(peers, &peer).as_ref().is_none_or(|now| now.shown() != before.shown())
            {
                return Some(monotonic::nanos());
            }
            monotonic::sleep_until(asked + 10_000_000);
        }
        None
    })))
}

/// Starts what was killed, continues what was stopped, mends all links, and waits until all stands.
pub(crate) fn restore(standing: &mut Standing) -> Result<()> {
    for member in standing.members.iter().filter(|member| member.role == Role::Wan) {
        let identity = member.identity.context("a process that was never started")?;
        identity.signal(Signal::SIGCONT)?;
    }
    standing.wan().ask(&Request::Forget)?;
    let clusters = &standing.scenario.clusters;
    let (ground, shape) = (ground(standing.backend), standing.scenario.link);
    let blocked = !ground.blocks(standing).is_empty();
    for (index, from) in clusters.iter().enumerate() {
        for (other, to) in clusters.iter().enumerate().filter(|(other, _)| *other != index) {
            if standing.wan().shape(&from.name, &to.name)? != shape {
                let (from, to) = (from.name.clone(), to.name.clone());
                standing.wan().ask(&Request::Cut { from: from.clone(), to: to.clone(), cut: !shape.up })?;
                standing.wan().ask(&Request::Shape { from, to, shape })?;
            }
            if blocked {
                ground.unblock(standing, index, other)?;
            }
        }
    }
    for (cluster, number) in standing.endpoints() {
        fault::misbehave(standing, &cluster, number, &[])?;
        if standing.scenario.steps.iter().any(|step| matches!(step.fault, Fault::Mute { .. })) {
            ground.mute(standing, standing.scenario.cluster(&cluster)?, number - 1, false)?;
        }
    }
    for at in 0..standing.members.len() {
        if !standing.members[at].alive() {
            standing.relaunch(at)?;
        } else if let Some(identity) = standing.members[at].identity {
            identity.signal(Signal::SIGCONT)?;
        }
    }
    let gateways: Vec<(String, usize)> = standing
        .members
        .iter()
        .filter_map(|member| match member.role {
            Role::Gateway(number) => Some((member.cluster.clone(), number)),
            _ => None,
        })
        .collect();
    for (cluster, number) in gateways {
        gateway::wait_ready(standing, standing.scenario.cluster(&cluster)?, number - 1, PATIENCE)?;
    }
    up::wait_peers(standing, PATIENCE)
}
