//! Tells the ledger what links say: each change of a lane's health, and how near its cluster is.

use std::{
    collections::BTreeMap,
    sync::{Arc, Weak},
};

use tokio::time::{MissedTickBehavior, interval};

use super::inbound::Site;
use crate::{
    link::{Lane, Links},
    model::{limits::RTT_INTERVAL, liveness::LinkState},
};

/// Runs until the hard shutdown.
pub(super) async fn run(site: Arc<Site>, links: Links) {
    let mut changes = links.registry().changes();
    // Lanes may be up already.
    changes.mark_changed();
    let mut followed: BTreeMap<usize, Weak<Lane>> = BTreeMap::new();
    let mut tick = interval(RTT_INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let hard = site.tasks.shutdown().hard();
    tokio::pin!(hard);
    loop {
        tokio::select! {
            biased;
            () = &mut hard => return,
            // The registry lives as long as `links`.
            _ = changes.changed() => {
                site.ledger.touch();
                followed.retain(|_, lane| lane.strong_count() > 0);
                for lane in links.registry().up().values().flatten() {
                    // A living weak reference keeps the address from being used again.
                    if followed.insert(Arc::as_ptr(lane).addr(), Arc::downgrade(lane)).is_none() {
                        site.tasks.spawn_transient("lane health", follow(site.clone(), lane.clone()));
                    }
                }
            }
            _ = tick.tick() => {
                for (cluster, lanes) in links.registry().up().iter() {
                    if let Some(rtt) = lanes.iter().map(|lane| lane.figures().rtt).min() {
                        site.ledger.observe_rtt(cluster, rtt);
                    }
                }
            }
        }
    }
}

/// Says each change of one lane's health, until it ends.
async fn follow(site: Arc<Site>, lane: Arc<Lane>) {
    let mut health = lane.health_changes();
    loop {
        tokio::select! {
            biased;
            _ = lane.closed() => break,
            changed = health.changed() => if changed.is_err() { break },
        }
        site.ledger.touch();
        if lane.health() == LinkState::Down {
            break;
        }
        let (cluster, gateway) = (&lane.key().cluster, &lane.key().gateway);
        site.ledger.note("link", format!("{cluster} by {gateway} is {}", lane.health()));
    }
    site.ledger.touch();
    // Its end comes with the verdict, and may be heard before it.
    if lane.health() == LinkState::Down {
        let (cluster, gateway) = (&lane.key().cluster, &lane.key().gateway);
        let cause = lane.standing().cause.map_or_else(String::new, |cause| format!(": {cause}"));
        site.ledger.note("link", format!("{cluster} by {gateway} is down{cause}"));
    }
}
