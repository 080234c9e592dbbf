//! Keeps a link to every gateway of each wanted peer: dials its endpoints while nothing that can be trusted
//! leads there.
//!
//! Either side may dial; whoever can, does. Each endpoint is kept by itself, so that a dead gateway never holds
//! up the others, and is dialled once even beside a link, to learn whose it is. A lane that is suspect is
//! dialled anew from a fresh socket (B3). Pauses grow with full jitter (P25), but after the other side reset or
//! closed a link the next dial comes at once: it has most likely just started; and for a minute after a link was
//! lost they stay short, so that a path that heals is found within a second or two.

use std::{collections::BTreeMap, future::pending, io, net::SocketAddr, sync::Arc};

use rand::RngExt;
use tokio::{
    sync::{oneshot, watch},
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{LinkError, Links, Target, codes::Close, lane::Lane};
use crate::model::{backoff::Backoff, ids::ClusterId, limits, liveness::LinkState, reach::may_dial};

/// Keeps every endpoint of one peer for as long as it is wanted; ends when `target` is dropped.
pub(super) async fn keep(links: Links, mut target: watch::Receiver<Target>) {
    let mut kept: BTreeMap<String, DropGuard> = BTreeMap::new();
    loop {
        let wanted = target.borrow_and_update().clone();
        let endpoints = || wanted.endpoints.iter().take(limits::PEER_ENDPOINTS_MAX);
        kept.retain(|endpoint, _| endpoints().any(|wanted| wanted == endpoint));
        for (place, endpoint) in endpoints().enumerate() {
            if kept.contains_key(endpoint) {
                continue;
            }
            let gone = CancellationToken::new();
            kept.insert(endpoint.clone(), gone.clone().drop_guard());
            let keeper = Keeper {
                links: links.clone(),
                target: target.clone(),
                cluster: wanted.cluster.clone(),
                endpoint: endpoint.clone(),
                place: u32::try_from(place).unwrap_or(u32::MAX),
                backoff: Backoff::new(),
                unanswered: false,
            };
            let task = async move {
                let _ = gone.run_until_cancelled_owned(keeper.run()).await;
            };
            links.0.tasks.spawn_transient("dial endpoint", task);
        }
        if wanted.endpoints.is_empty() {
            links.note_dial_failure(
                &wanted.cluster,
                &LinkError::NoEndpoint { cluster: wanted.cluster.clone() },
            );
        }
        if target.changed().await.is_err() {
            return;
        }
    }
}

/// Keeps a link to whichever gateway answers at one endpoint.
struct Keeper {
    links: Links,
    target: watch::Receiver<Target>,
    cluster: ClusterId,
    endpoint: String,
    /// Which of the peer's endpoints it is, from 0.
    place: u32,
    backoff: Backoff,
    /// The last dial heard nothing: something on the way may remember the port it came from.
    unanswered: bool,
}

impl Keeper {
    async fn run(mut self) {
        let mut changes = self.links.0.registry.changes();
        loop {
            // One after the other: another endpoint of the same gateway may have brought the link meanwhile.
            if self.is_wanted() && self.place > 0 {
                sleep(limits::DIAL_STAGGER * self.place).await;
            }
            if !self.is_wanted() {
                self.while_unwanted(&mut changes).await;
                continue;
            }
            self.backoff.dialled(self.links.0.clock.now());
            let dialled = self.dial().await;
            self.unanswered = matches!(dialled, Err(LinkError::NoAnswer { .. }));
            match dialled {
                Ok(()) => {
                    self.backoff.connected(self.links.0.clock.now());
                    self.links.forget_dial_failure(&self.cluster);
                }
                // The other lane lives, or was there a moment ago: that says nothing of the way.
                Err(error) if !self.is_wanted() || error.is_duplicate() => self.pause(&mut changes).await,
                Err(error) => {
                    self.links.note_dial_failure(&self.cluster, &error);
                    self.pause(&mut changes).await;
                }
            }
        }
    }

    /// Whether a dial is of use.
    fn is_wanted(&self) -> bool {
        let registry = &self.links.0.registry;
        let gateway = registry.gateway_at(&self.cluster, &self.endpoint);
        gateway.is_none_or(|gateway| registry.wants_dial(&self.cluster, &gateway))
    }

    /// Whether a lane to it, or to a gateway that may be it, is suspect.
    fn is_doubted(&self) -> bool {
        let registry = &self.links.0.registry;
        let gateway = registry.gateway_at(&self.cluster, &self.endpoint);
        let up = registry.up();
        let mut lanes = up.get(&self.cluster).into_iter().flatten();
        lanes.any(|lane| {
            lane.health() != LinkState::Up
                && gateway.as_ref().is_none_or(|gateway| lane.key().gateway == *gateway)
        })
    }

    /// Waits until the gateway has no lane, or only one that is doubted.
    async fn while_unwanted(&mut self, changes: &mut watch::Receiver<u64>) {
        let registry = &self.links.0.registry;
        while !self.is_wanted() {
            let gateway = registry.gateway_at(&self.cluster, &self.endpoint);
            let lane = gateway.and_then(|gateway| registry.lane(&self.cluster, &gateway));
            let doubted = async {
                match &lane {
                    Some(lane) => lane.suspect().await,
                    None => pending().await,
                }
            };
            tokio::select! {
                biased;
                _ = changes.changed() => {}
                () = doubted => {}
            }
        }
        self.backoff.lost(self.links.0.clock.now());
        // It was there: most likely it starts anew, and its own dial or ours will find it at once.
        let at = self.backoff.immediately(self.links.0.clock.now());
        sleep_until(Instant::from_std(at)).await;
    }

    /// Waits as long as failures demand, or until nothing is wanted any more. Other peers' links change nothing.
    async fn pause(&mut self, changes: &mut watch::Receiver<u64>) {
        let next = self.backoff.failed(self.links.0.clock.now(), &mut self.links.0.clock.rng());
        tokio::select! {
            biased;
            () = until(|| !self.is_wanted(), changes) => {}
            () = sleep_until(Instant::from_std(next)) => {}
        }
    }

    /// Dials once, and waits for the other side's word. The dialling side's handshake ends before the other
    /// side has judged its certificate, so only a settled lane is one.
    async fn dial(&self) -> Result<(), LinkError> {
        let lane = self.attempt().await?;
        // Settling may still find a duplicate; the registry then shows the lane that lives.
        if self.links.0.events.send(lane.clone()).await.is_err() {
            return Err(LinkError::Closed);
        }
        let error = tokio::select! {
            biased;
            () = lane.wait_up() => return Ok(()),
            error = lane.closed() => error,
        };
        Err(LinkError::Handshake { address: lane.address(), error })
    }

    /// Tries the addresses of the endpoint in order, each on a shard drawn at random.
    async fn attempt(&self) -> Result<Arc<Lane>, LinkError> {
        let (links, endpoint) = (&self.links, &self.endpoint);
        let mut last = LinkError::NoEndpoint { cluster: self.cluster.clone() };
        let resolved = match split_endpoint(endpoint) {
            Some((host, port)) => links.0.net.resolve(host, port).await,
            None => Err(io::Error::other("not of the form host:port")),
        };
        let addresses = resolved.map_err(|error| LinkError::Resolve { endpoint: endpoint.clone(), error })?;
        for address in addresses {
            if !may_dial(address.ip(), links.0.on_loopback) {
                last = LinkError::Denied { address };
                continue;
            }
            match self.dial_on_some_shard(address).await {
                Ok(lane) => {
                    links.0.registry.note_home(lane.key(), std::slice::from_ref(endpoint));
                    if links.0.registry.claim(&lane) {
                        return Ok(lane);
                    }
                    lane.close(Close::Duplicate);
                    last = LinkError::Duplicate;
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    async fn dial_on_some_shard(&self, address: SocketAddr) -> Result<Arc<Lane>, LinkError> {
        let links = self.links.clone();
        let shard = links.0.clock.rng().random_range(0..links.0.shards.count());
        let endpoints = links.endpoints(shard).ok_or(LinkError::Closed)?;
        let (reply, answer) = oneshot::channel();
        let domain = self.target.borrow().trust_domain.clone();
        // What is doubted may be a path that something on the way remembers by our port.
        let fresh = self.is_doubted() || self.unanswered;
        let lately = self.backoff.lost_lately(links.0.clock.now());
        let patience = if lately { limits::DIAL_CLOSE_TIMEOUT } else { links.0.limits.handshake_timeout };
        let there = links.clone();
        links.0.shards.spawn_transient(shard, "dial", async move {
            if fresh {
                endpoints.renew_socket(&there, shard);
            }
            let result = endpoints.dial(&there, shard, address, (&domain, patience)).await;
            // Nobody waits any more when the peer is no longer wanted: the lane is then closed by being dropped.
            let _ = reply.send(result);
        });
        answer.await.map_err(|_| LinkError::Closed)?
    }
}

/// Waits until something is so that changes with the registry.
async fn until(is_so: impl Fn() -> bool, changes: &mut watch::Receiver<u64>) {
    while !is_so() {
        if changes.changed().await.is_err() {
            // The registry is gone with the links; the pause is all there is to wait for.
            return pending().await;
        }
    }
}

/// `host:port` or `[v6]:port` in its parts.
pub(super) fn split_endpoint(endpoint: &str) -> Option<(&str, u16)> {
    let (host, port) = endpoint.rsplit_once(':')?;
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    Some((host, port.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_a_lane_of_the_peer_itself_ends_the_pause() {
        let (has_lane, registry) = (AtomicBool::new(false), watch::Sender::new(0));
        let mut changes = registry.subscribe();
        let waiting = until(|| has_lane.load(Ordering::Relaxed), &mut changes);
        tokio::pin!(waiting);
        let soon = std::time::Duration::from_millis(1);
        for _ in 0..3 {
            registry.send_modify(|version| *version += 1);
            assert!(tokio::time::timeout(soon, &mut waiting).await.is_err(), "another peer's lane ended it");
        }
        has_lane.store(true, Ordering::Relaxed);
        registry.send_modify(|version| *version += 1);
        waiting.await;
    }
}
