//! What goes wrong and what people change, drawn from the seed.

use rand::{RngExt, seq::IndexedRandom};
use tombolo::model::{
    ids::ServiceName,
    policy::{DefaultGrant, Grant, Grants, NamePattern, PeerPattern},
};

use crate::{
    cluster::Export,
    world::{Event, SECOND, World},
};

/// Services a cluster may export.
const NAMES: usize = 10;

fn name(number: usize) -> ServiceName {
    let namespace = ["shop", "bank"][number % 2];
    ServiceName::parse(&format!("{namespace}/service-{number}")).expect("valid")
}

/// One thing happens to one cluster.
pub(crate) fn strike(world: &mut World) {
    let victim = world.rng.random_range(0..world.clusters.len());
    match world.rng.random_range(0..100) {
        0..55 => change_export(world, victim),
        55..70 => withdraw_export(world, victim),
        70..80 => change_grants(world, victim),
        80..85 => change_approval(world, victim),
        85..97 => partition(world, victim),
        _ => crash(world, victim),
    }
}

fn change_export(world: &mut World, victim: usize) {
    let reserved = world.clusters[victim].hostile && world.rng.random_ratio(1, 4);
    let name = if reserved {
        ServiceName::parse("kube-system/dns").expect("valid")
    } else {
        name(world.rng.random_range(0..NAMES))
    };
    let export = Export { version: world.rng.random_range(0..100), crowded: world.rng.random_ratio(1, 20) };
    world.clusters[victim].exports.insert(name.clone(), export);
    world.published(victim, &name);
}

fn withdraw_export(world: &mut World, victim: usize) {
    let names: Vec<ServiceName> = world.clusters[victim].exports.keys().cloned().collect();
    if let Some(name) = names.choose(&mut world.rng) {
        world.clusters[victim].exports.remove(name);
        world.published(victim, name);
    }
}

fn change_grants(world: &mut World, victim: usize) {
    let default = if world.rng.random_ratio(1, 3) { DefaultGrant::None } else { DefaultGrant::Clusterset };
    let mut grants = Vec::new();
    if world.rng.random_bool(0.5) {
        let peers = (0..world.clusters.len()).filter(|peer| *peer % 3 == world.rng.random_range(0..3));
        let pattern = |peer: usize| PeerPattern::parse(world.clusters[peer].id.as_str()).expect("valid");
        grants.push(Grant {
            exports: vec![NamePattern::parse("bank/*").expect("valid")],
            peers: peers.map(pattern).collect(),
            ..Grant::default()
        });
    }
    world.clusters[victim].grants = Grants { default, grants, guardrails: Vec::new() };
    world.policy_changed(victim);
}

fn change_approval(world: &mut World, victim: usize) {
    let peer = world.rng.random_range(0..world.clusters.len());
    if peer != victim {
        let side = world.side_mut(victim, peer);
        side.approved = !side.approved;
        world.policy_changed(victim);
    }
}

fn partition(world: &mut World, victim: usize) {
    let peer = world.rng.random_range(0..world.clusters.len());
    if peer != victim {
        let lasts = world.rng.random_range(SECOND / 10..10 * SECOND);
        world.cut(victim, peer);
        world.after(lasts, Event::Heal { a: victim.min(peer), b: victim.max(peer) });
    }
}

fn crash(world: &mut World, victim: usize) {
    if world.clusters[victim].up {
        let lasts = world.rng.random_range(SECOND / 10..10 * SECOND);
        world.crash(victim);
        world.after(lasts, Event::Restart { cluster: victim });
    }
}
