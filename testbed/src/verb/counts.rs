//! What gateways and endpoints counted during a repetition: changes of links, opens that were never answered,
//! requests delivered, and delivered twice.

use std::{collections::BTreeMap, fs};

use anyhow::{Context as _, Result};

use crate::{
    gateway,
    ground::ground,
    inside,
    standing::{IDS, Product, Standing},
};

/// The counter of proxied connections.
const CONNECTIONS: &str = "tombolo_connections_total";

/// What was counted before.
pub(super) struct Before {
    /// The newest event of each gateway, by its process: one that is started again counts from 1.
    events: BTreeMap<(usize, usize), (i32, u64)>,
    /// Opens of the client's gateway that were reset as unanswered.
    unanswered: u64,
}

impl Before {
    /// Looks, and has the endpoints begin with no ids.
    pub(super) fn of(standing: &Standing) -> Result<Self> {
        let mut events = BTreeMap::new();
        for at in gateways(standing).into_iter().filter(|_| standing.product == Product::Tombolo) {
            // One that tells no events is not counted.
            let told = gateway::admin(standing, at.0, at.1).and_then(|admin| admin.links_became(0, ""));
            if let Ok((newest, _)) = told {
                events.insert(at, (process(standing, at), newest));
            }
        }
        for (cluster, number) in standing.endpoints() {
            // Appended to, so that it may be emptied under the endpoint.
            let file = standing.endpoint_file(&cluster, number, IDS);
            fs::write(&file, "").with_context(|| file.display().to_string())?;
        }
        Ok(Self { events, unanswered: opens_unanswered(standing).unwrap_or(0) })
    }

    /// What has been counted since.
    pub(super) fn since(&self, standing: &Standing) -> Result<Vec<(&'static str, u64)>> {
        let (mut suspects, mut downs) = (0, 0);
        for (at, (before, newest)) in &self.events {
            let after = if process(standing, *at) == *before { *newest } else { 0 };
            // One that is dead or stands still tells nothing.
            let Ok(admin) = gateway::admin(standing, at.0, at.1) else { continue };
            suspects += admin.links_became(after, "is suspect").map_or(0, |(_, count)| count);
            downs += admin.links_became(after, "is down").map_or(0, |(_, count)| count);
        }
        let mut times: BTreeMap<String, u64> = BTreeMap::new();
        for (cluster, number) in standing.endpoints() {
            let text = fs::read_to_string(standing.endpoint_file(&cluster, number, IDS)).unwrap_or_default();
            for id in text.lines() {
                *times.entry(id.to_owned()).or_default() += 1;
            }
        }
        let twice = times.values().filter(|count| **count > 1).count() as u64;
        let mut all = Vec::new();
        if standing.product == Product::Tombolo {
            all.extend([("suspects", suspects), ("downs", downs)]);
        }
        all.extend([("delivered", times.len() as u64), ("delivered_twice", twice)]);
        if let Ok(unanswered) = opens_unanswered(standing) {
            all.push(("opens_unanswered", unanswered.saturating_sub(self.unanswered)));
        }
        Ok(all)
    }
}

fn gateways(standing: &Standing) -> Vec<(usize, usize)> {
    let clusters = standing.scenario.clusters.iter().enumerate();
    clusters.flat_map(|(index, cluster)| (0..cluster.gateways).map(move |number| (index, number))).collect()
}

fn process(standing: &Standing, (cluster, gateway): (usize, usize)) -> i32 {
    let name = &standing.scenario.clusters[cluster].name;
    let member = standing.gateway(name, gateway + 1).ok().and_then(|at| standing.members[at].identity);
    member.map_or(0, |identity| identity.pid)
}

/// Connections that the client's gateway reset because nobody knows whether they were served.
fn opens_unanswered(standing: &Standing) -> Result<u64> {
    let client = standing.scenario.client()?;
    let from = ground(standing.backend).listens(standing, client, 0).admin;
    let text = inside::get(standing, client, from, "/metrics")?;
    let lines =
        text.lines().filter(|line| line.starts_with(CONNECTIONS) && line.contains("result=\"unanswered\""));
    Ok(lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum())
}
