//! `testbed fault`: does a fault to what stands. The scenario runner and `failover` use the same.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;

use super::up;
use crate::{
    emulator::control::Request,
    fault::{Block, Fault, Target},
    gateway,
    ground::ground,
    interrupt,
    process::{Identity, Member, Role},
    quantity::Span,
    server::Defect,
    standing::{DEFECTS, Product, Standing},
    verb::ask,
};

/// How long a gateway that is told to end may take, and to come back.
const LONGEST_DRAIN: Duration = Duration::from_secs(40);

/// Does it, a change of the WAN by its schedule when it is to come later; returns what it was done to.
pub(crate) fn inflict(standing: &mut Standing, fault: &Fault, after: Option<Span>) -> Result<String> {
    fault.check(&standing.scenario)?;
    let ground = ground(standing.backend);
    match fault {
        Fault::Kill { target } => return signal(standing, target, Signal::SIGKILL),
        Fault::Stop { target } => return signal(standing, target, Signal::SIGSTOP),
        Fault::Cont { target } => return signal(standing, target, Signal::SIGCONT),
        Fault::Restart { target } => return restart(standing, target),
        Fault::Partition { from, to, one_way, lasting } => {
            for (from, to) in directions(from, to, *one_way) {
                let cut = |cut| Request::Cut { from: from.to_owned(), to: to.to_owned(), cut };
                change(standing, after, *lasting, cut(true), || cut(false))?;
            }
        }
        Fault::Heal { from, to } => {
            for (from, to) in directions(from, to, false) {
                standing.wan().ask(&Request::Cut { from: from.to_owned(), to: to.to_owned(), cut: false })?;
            }
        }
        Fault::Link { from, to, one_way, shape, lasting } => {
            for (from, to) in directions(from, to, *one_way) {
                let now = standing.wan().shape(from, to)?;
                let set = |shape| Request::Shape { from: from.to_owned(), to: to.to_owned(), shape };
                change(standing, after, *lasting, set(shape.over(now)), || set(now))?;
            }
        }
        Fault::Block { from, to, one_way, protocol, longer_than, reject, lasting } => {
            let block =
                Block { protocol: *protocol, longer_than: *longer_than, reject: *reject, lasting: *lasting };
            for (from, to) in directions(from, to, *one_way) {
                let (from, to) = (standing.scenario.cluster(from)?, standing.scenario.cluster(to)?);
                ground.block(standing, from, to, &block)?;
            }
        }
        Fault::Unblock { from, to } => {
            for (from, to) in directions(from, to, false) {
                let (from, to) = (standing.scenario.cluster(from)?, standing.scenario.cluster(to)?);
                ground.unblock(standing, from, to)?;
            }
        }
        Fault::Tombolo { .. } | Fault::Name { .. } => return ask::ask(standing, fault),
        Fault::Rebind { cluster, address } => {
            ground.rebind(standing, standing.scenario.cluster(cluster)?, *address)?;
        }
        Fault::Defect { target, what } => {
            for (cluster, number) in endpoints(standing, target)? {
                misbehave(standing, &cluster, number, what)?;
            }
        }
        Fault::Mute { target } | Fault::Unmute { target } => {
            for (cluster, number) in endpoints(standing, target)? {
                let mute = matches!(fault, Fault::Mute { .. });
                ground.mute(standing, standing.scenario.cluster(&cluster)?, number - 1, mute)?;
            }
        }
        Fault::Roll { target } => return roll(standing, target),
    }
    let later = after.map_or_else(String::new, |after| format!(", in {after}"));
    Ok(format!("{fault}{later}"))
}

/// The endpoints that a target names.
fn endpoints(standing: &Standing, target: &Target) -> Result<Vec<(String, usize)>> {
    let named = hit(standing, target)?.into_iter().filter_map(|at| match standing.members[at].role {
        Role::Endpoint(number) => Some((standing.members[at].cluster.clone(), number)),
        _ => None,
    });
    Ok(named.collect())
}

/// Tells an endpoint what to do wrong from now on; it looks every 20 ms.
pub(super) fn misbehave(standing: &Standing, cluster: &str, number: usize, what: &[Defect]) -> Result<()> {
    let text: String = what.iter().map(|defect| format!("{defect}\n")).collect();
    let (file, new) = (
        standing.endpoint_file(cluster, number, DEFECTS),
        standing.endpoint_file(cluster, number, "defects.new"),
    );
    std::fs::write(&new, text).with_context(|| new.display().to_string())?;
    std::fs::rename(&new, &file).with_context(|| file.display().to_string())
}

/// Has each gateway end as its operator would, and start again before the next one is told.
fn roll(standing: &mut Standing, target: &Target) -> Result<String> {
    let gateways: Vec<usize> = hit(standing, target)?
        .into_iter()
        .filter(|at| matches!(standing.members[*at].role, Role::Gateway(_)))
        .collect();
    let mut said = Vec::new();
    for at in gateways {
        let (cluster, role) = (standing.members[at].cluster.clone(), standing.members[at].role.clone());
        let Role::Gateway(number) = role else { continue };
        let identity = standing.members[at].identity.context("a process that was never started")?;
        let began = Instant::now();
        identity.signal(Signal::SIGTERM)?;
        while identity.alive() {
            interrupt::check()?;
            ensure!(
                began.elapsed() < LONGEST_DRAIN,
                "{cluster}/{number} does not end {LONGEST_DRAIN:?} after SIGTERM"
            );
            std::thread::sleep(Duration::from_millis(2));
        }
        let ended = began.elapsed();
        standing.relaunch(at)?;
        let index = standing.scenario.cluster(&cluster)?;
        gateway::wait_ready(standing, index, number - 1, LONGEST_DRAIN)?;
        up::wait_links(standing, index, number - 1, LONGEST_DRAIN)?;
        let whole = began.elapsed();
        said.push(format!(
            "{cluster}/{number} ended in {} ms, back in {} ms",
            ended.as_millis(),
            whole.as_millis()
        ));
    }
    Ok(format!("rolled {}", said.join(", ")))
}

/// Asks for a change now or later, and for its end when it is to last only a while.
fn change(
    standing: &Standing,
    after: Option<Span>,
    lasting: Option<Span>,
    begin: Request,
    end: impl FnOnce() -> Request,
) -> Result<()> {
    let wan = standing.wan();
    let at = |after: Span, request: Request| Request::At { after, request: Box::new(request) };
    wan.ask(&match after {
        Some(after) => at(after, begin),
        None => begin,
    })?;
    if let Some(lasting) = lasting {
        wan.ask(&at(Span(after.unwrap_or_default().0 + lasting.0), end()))?;
    }
    Ok(())
}

fn directions<'a>(from: &'a str, to: &'a str, one_way: bool) -> Vec<(&'a str, &'a str)> {
    if one_way { vec![(from, to)] } else { vec![(from, to), (to, from)] }
}

/// Positions of the processes that a target names.
fn hit(standing: &Standing, target: &Target) -> Result<Vec<usize>> {
    let target = match target {
        Target::Active(cluster) => &Target::Gateway(cluster.clone(), active(standing, cluster)?),
        other => other,
    };
    let wanted = |member: &Member| match (target, &member.role) {
        (Target::Cluster(cluster), Role::Gateway(_) | Role::Endpoint(_)) => member.cluster == *cluster,
        (Target::Wan, Role::Wan) => true,
        (Target::Endpoints(cluster), Role::Endpoint(_)) => member.cluster == *cluster,
        (Target::Gateway(cluster, wanted), Role::Gateway(number))
        | (Target::Endpoint(cluster, wanted), Role::Endpoint(number)) => {
            member.cluster == *cluster && wanted == number
        }
        _ => false,
    };
    let hit: Vec<usize> =
        standing.members.iter().enumerate().filter(|(_, m)| wanted(m)).map(|(at, _)| at).collect();
    ensure!(!hit.is_empty(), "{target} names no process");
    Ok(hit)
}

fn signal(standing: &Standing, target: &Target, signal: Signal) -> Result<String> {
    let (mut names, mut hurt) = (Vec::new(), Vec::new());
    for at in hit(standing, target)? {
        let member = &standing.members[at];
        let identity = member.identity.context("a process that was never started")?;
        if identity.signal(signal)? {
            names.push(format!("{} {:?} (pid {})", member.cluster, member.role, identity.pid));
            hurt.push(identity);
        }
    }
    if signal == Signal::SIGKILL {
        // One that is still dying would be found alive by a restart that follows at once.
        hurt.into_iter().try_for_each(Identity::kill)?;
    }
    ensure!(!names.is_empty(), "nothing of {target} runs");
    Ok(format!("{signal} to {}", names.join(", ")))
}

fn restart(standing: &mut Standing, target: &Target) -> Result<String> {
    let mut names = Vec::new();
    for at in hit(standing, target)? {
        if !standing.members[at].alive() {
            standing.relaunch(at)?;
            names.push(format!("{} {:?}", standing.members[at].cluster, standing.members[at].role));
        }
    }
    Ok(format!(
        "started {}",
        if names.is_empty() { "nothing: all of it runs".to_owned() } else { names.join(", ") }
    ))
}

/// The gateway of a cluster that the client's gateway has its link to, counted from 1.
pub(crate) fn active(standing: &Standing, cluster: &str) -> Result<usize> {
    if standing.product == Product::Envoy {
        // All of them are used in turn.
        return Ok(1);
    }
    let client = standing.scenario.client()?;
    let peers = gateway::admin(standing, client, 0)?.peers()?;
    let peer = peers.iter().find(|peer| peer.cluster == cluster);
    let peer = peer.with_context(|| format!("the client's gateway has no peer `{cluster}`"))?;
    let index = standing.scenario.cluster(cluster)?;
    for gateway in 0..standing.scenario.clusters[index].gateways {
        let status = gateway::admin(standing, index, gateway).and_then(|admin| admin.status());
        if status.is_ok_and(|status| status["gateway"] == peer.gateway.as_str()) {
            return Ok(gateway + 1);
        }
    }
    let ground = ground(standing.backend);
    for gateway in 0..standing.scenario.clusters[index].gateways {
        let listens = ground.listens(standing, index, gateway);
        if [listens.quic, listens.advertise].iter().any(|address| address.to_string() == peer.address) {
            return Ok(gateway + 1);
        }
    }
    Ok(1)
}
