//! What must hold after healing and some quiet, and what must never hold.
//!
//! Rules of every moment are [`super::truth`]'s.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    time::Duration,
};

use tombolo::model::{
    ids::{ClusterId, ServiceName},
    import::Freshness,
    session::SessionState,
    state::Standing,
    virtual_ip::VipKey,
    zone::Rcode,
};

use super::{
    gateway::Gateway,
    world::{MEMBERS, STRANGER, World},
};

/// The address of each name on each member.
pub(crate) type Addresses = BTreeMap<(usize, ServiceName), Ipv4Addr>;

fn same<T: Ord + std::fmt::Debug>(
    what: &str,
    seen: &BTreeSet<T>,
    wanted: &BTreeSet<T>,
) -> Result<(), String> {
    if seen == wanted { Ok(()) } else { Err(format!("{what} are {seen:?}, not {wanted:?}")) }
}

/// Every member runs, has a link and a live session with every other, and holds of it exactly what it exports.
pub(crate) fn converged(world: &World) -> Result<(), String> {
    for name in MEMBERS {
        let site = world.sites.iter().find(|site| site.name == name).expect("a member's site");
        let gateway = site.live().ok_or_else(|| format!("{name} is down"))?;
        member(world, &gateway).map_err(|why| format!("{name}: {why}"))?;
    }
    Ok(())
}

fn member(world: &World, gateway: &Gateway) -> Result<(), String> {
    let own = gateway.site.name;
    let state = gateway.core.store.state();
    let others: BTreeSet<String> =
        MEMBERS.iter().filter(|name| **name != own).map(ToString::to_string).collect();
    same("peers", &state.peers.keys().map(ToString::to_string).collect(), &others)?;
    for peer in state.peers.values() {
        let cluster = &peer.cluster;
        if peer.standing != Standing::Approved {
            return Err(format!("{cluster} is {:?}", peer.standing));
        }
        linked(gateway, cluster)?;
        let held = state.catalogs.get(cluster).ok_or_else(|| format!("no catalog of {cluster}"))?;
        if !held.synced || held.lost.is_some() || held.freshness != Freshness::Fresh {
            return Err(format!("the catalog of {cluster} is not current"));
        }
        let rows: BTreeSet<ServiceName> = held.rows.keys().cloned().collect();
        same(&format!("rows of {cluster}"), &rows, &world.truth.exports_of(cluster.as_str()))?;
    }
    let exports: BTreeSet<ServiceName> = state.exports.keys().cloned().collect();
    same("its own exports", &exports, &world.truth.exports_of(own))?;
    let mut wanted = BTreeMap::new();
    for name in world.truth.names() {
        let exporters = world.truth.exporters(&name);
        if !exporters.is_empty() {
            wanted.insert(name, exporters);
        }
    }
    let clusters = |import: &tombolo::model::import::Import| {
        import.clusters.iter().map(|part| part.cluster.to_string()).collect::<BTreeSet<_>>()
    };
    let seen = state.imports.iter().map(|(name, import)| (name.clone(), clusters(import))).collect();
    if wanted == seen { Ok(()) } else { Err(format!("names are {seen:?}, not {wanted:?}")) }
}

fn linked(gateway: &Gateway, cluster: &ClusterId) -> Result<(), String> {
    let links = &gateway.core.links;
    if links.registry().best(cluster).is_none() {
        let why = links.dial_failure(cluster).map(|failure| failure.cause).unwrap_or_default();
        return Err(format!("no link to {cluster} {why}"));
    }
    match gateway.core.ledger.session(cluster) {
        Some(row) if row.state == SessionState::Live && row.synced.is_some() => Ok(()),
        Some(row) => Err(format!("the session with {cluster} is {:?}", row.state)),
        None => Err(format!("no session with {cluster}")),
    }
}

/// Whoever is no member has seen nothing, and nobody has seen him.
pub(crate) fn stranger_sees_nothing(world: &World) -> Result<(), String> {
    let Some(stranger) = world.sites[STRANGER].live() else { return Err("the stranger is down".to_owned()) };
    let state = stranger.core.store.state();
    if let Some(name) = state.imports.keys().next() {
        return Err(format!("the stranger knows {name}"));
    }
    if state.catalogs.values().any(|held| !held.rows.is_empty() || held.synced) {
        return Err("the stranger holds a catalog".to_owned());
    }
    if !stranger.core.links.registry().up().is_empty() {
        return Err("the stranger has a link".to_owned());
    }
    let name = stranger.site.cluster();
    for gateway in world.sites[..STRANGER].iter().filter_map(|site| site.live()) {
        if gateway.core.store.state().peers.contains_key(&name) {
            return Err(format!("{} has the stranger as a peer", gateway.site.name));
        }
        if gateway.core.links.registry().all().iter().any(|lane| lane.key().cluster == name) {
            return Err(format!("{} has a link to the stranger", gateway.site.name));
        }
    }
    Ok(())
}

/// A link may look whole a moment before the side that missed most of it gives it up; then it is dialled anew.
const LINKS_SETTLE: Duration = Duration::from_secs(10);

/// Every name of the set leads every member to a cluster that serves it, whatever was ejected for failures of the
/// past; every other name is denied.
pub(crate) fn names_lead_somewhere(world: &mut World) -> Result<(), String> {
    for (who, own) in MEMBERS.into_iter().enumerate() {
        for name in world.truth.names() {
            if world.truth.exporters(&name).is_empty() {
                let answer = resolve(world, who, &name)?;
                if answer != Err(Rcode::NxDomain) {
                    return Err(format!("{own} answers {answer:?} for withdrawn {name}"));
                }
                continue;
            }
            reach(world, who, &name, LINKS_SETTLE)?;
        }
    }
    Ok(())
}

/// When a cluster's own application stops, its clients reach another cluster's by their first connection.
pub(crate) fn others_take_over(world: &mut World) -> Result<(), String> {
    for (who, own) in MEMBERS.into_iter().enumerate() {
        let exports = world.truth.exports_of(own);
        let Some(name) = exports.into_iter().find(|name| world.truth.exporters(name).len() > 1) else {
            continue;
        };
        world.serve(who, false);
        // The application looks every few milliseconds whether it is to stop.
        world.wait(Duration::from_millis(20))?;
        reach(world, who, &name, Duration::ZERO)?;
        world.serve(who, true);
        world.wait(Duration::from_millis(20))?;
    }
    Ok(())
}

fn resolve(world: &mut World, who: usize, name: &ServiceName) -> Result<Result<Ipv4Addr, Rcode>, String> {
    let service = name.clone();
    world.ask(who, "resolve", move |gateway| async move { gateway.resolve(&service) })
}

/// Requests a service until it answers; once only without patience.
fn reach(world: &mut World, who: usize, name: &ServiceName, patience: Duration) -> Result<(), String> {
    const PAUSE: Duration = Duration::from_millis(500);
    let began = world.now();
    loop {
        let service = name.clone();
        let answer =
            world.ask(who, "request", move |gateway| async move { gateway.request(&service).await })?;
        match answer {
            Ok(cluster) => {
                let took = (world.now() - began).as_millis();
                let what = format!("reaches {name} after {took} ms");
                world.trace.tell(world.now(), MEMBERS[who], &cluster, what);
                return Ok(());
            }
            Err(why) if world.now() > began + patience => {
                return Err(format!("{} cannot reach {name} in {patience:?}: {why}", MEMBERS[who]));
            }
            Err(_) => world.wait(PAUSE)?,
        }
    }
}

/// A name that is exported keeps its address on a host, also over a crash.
pub(crate) fn addresses_stay(world: &mut World, known: &mut Addresses) -> Result<(), String> {
    known.retain(|(_, name), _| !world.truth.exporters(name).is_empty());
    for (who, own) in MEMBERS.into_iter().enumerate() {
        let Some(gateway) = world.sites[who].live() else { continue };
        let state = gateway.core.store.state();
        for name in state.imports.keys() {
            let Some(ip) = state.virtual_ips.get(&VipKey::Service(name.clone())) else {
                return Err(format!("{own} has no address for {name}"));
            };
            let before = *known.entry((who, name.clone())).or_insert(ip);
            if before != ip {
                return Err(format!("{own} moved {name} from {before} to {ip}"));
            }
        }
    }
    Ok(())
}
