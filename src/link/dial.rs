//! Keeps one link to each wanted peer: dials its endpoints in turn while none is up.
//!
//! Either side may dial; whoever can, does. Pauses grow with full jitter (P25), but after the other side reset
//! or closed a link the next dial comes at once: it has most likely just started.

use std::{future::pending, io, net::SocketAddr, sync::Arc};

use rand::RngExt;
use tokio::{
    sync::{oneshot, watch},
    time::{Instant, sleep_until},
};

use super::{LinkError, Links, Target, codes::Close, lane::Lane};
use crate::model::{backoff::Backoff, limits, reach::may_dial};

/// Dials one peer for as long as it is wanted; ends when `target` is dropped.
pub(super) async fn keep(links: Links, mut target: watch::Receiver<Target>) {
    let mut backoff = Backoff::new();
    let mut changes = links.0.registry.changes();
    loop {
        let wanted = target.borrow_and_update().clone();
        if links.0.registry.has(&wanted.cluster) {
            tokio::select! {
                biased;
                ended = target.changed() => if ended.is_err() { return },
                _ = changes.changed() => {}
            }
            if !links.0.registry.has(&wanted.cluster) {
                // It was there: most likely it starts anew, and its own dial or ours will find it at once.
                let at = backoff.immediately(links.0.clock.now());
                sleep_until(Instant::from_std(at)).await;
            }
            continue;
        }
        backoff.dialled(links.0.clock.now());
        let dialled = match attempt(&links, &wanted).await {
            Ok(lane) => {
                // Settling may still find a duplicate; the registry then shows the lane that lives.
                if links.0.events.send(lane.clone()).await.is_err() {
                    return;
                }
                accepted(&lane).await
            }
            Err(error) => Err(error),
        };
        match dialled {
            Ok(()) => {
                backoff.connected(links.0.clock.now());
                links.forget_dial_failure(&wanted.cluster);
            }
            // Both dialled, and the other lane lives.
            Err(_) if links.0.registry.has(&wanted.cluster) => {}
            Err(error) => {
                links.note_dial_failure(&wanted.cluster, &error);
                let next = backoff.failed(links.0.clock.now(), &mut links.0.clock.rng());
                if !pause(&links, &mut target, &mut changes, Instant::from_std(next)).await {
                    return;
                }
            }
        }
    }
}

/// Waits for the other side's word. The dialling side's handshake ends before the other side has judged its
/// certificate, so only a settled lane is one.
async fn accepted(lane: &Lane) -> Result<(), LinkError> {
    let error = tokio::select! {
        biased;
        () = lane.wait_up() => return Ok(()),
        error = lane.closed() => error,
    };
    Err(LinkError::Handshake { address: lane.address(), error })
}

/// Waits until `next`, or until a link came about by other means, or the peer is to be dialled differently.
/// Other peers' links change nothing. `false` when the peer is no longer wanted.
async fn pause(
    links: &Links,
    target: &mut watch::Receiver<Target>,
    changes: &mut watch::Receiver<u64>,
    next: Instant,
) -> bool {
    let cluster = target.borrow().cluster.clone();
    tokio::select! {
        biased;
        ended = target.changed() => ended.is_ok(),
        () = linked(|| links.0.registry.has(&cluster), changes) => true,
        () = sleep_until(next) => true,
    }
}

/// Waits until the peer itself has a lane: lanes of others come and go without ending a pause.
async fn linked(has_lane: impl Fn() -> bool, changes: &mut watch::Receiver<u64>) {
    while !has_lane() {
        if changes.changed().await.is_err() {
            // The registry is gone with the links; the pause is all there is to wait for.
            return pending().await;
        }
    }
}

/// Tries the peer's endpoints once, in order, each on a shard drawn at random.
async fn attempt(links: &Links, target: &Target) -> Result<Arc<Lane>, LinkError> {
    let mut last = LinkError::NoEndpoint { cluster: target.cluster.clone() };
    for endpoint in target.endpoints.iter().take(limits::PEER_ENDPOINTS_MAX) {
        let resolved = match split_endpoint(endpoint) {
            Some((host, port)) => links.0.net.resolve(host, port).await,
            None => Err(io::Error::other("not of the form host:port")),
        };
        let addresses = match resolved {
            Ok(addresses) => addresses,
            Err(error) => {
                last = LinkError::Resolve { endpoint: endpoint.clone(), error };
                continue;
            }
        };
        for address in addresses {
            if !may_dial(address.ip(), links.0.on_loopback) {
                last = LinkError::Denied { address };
                continue;
            }
            match dial_on_some_shard(links, target, address).await {
                Ok(lane) if links.0.registry.claim(&lane) => return Ok(lane),
                Ok(lane) => {
                    lane.close(Close::Duplicate);
                    last = LinkError::Duplicate;
                }
                Err(error) => last = error,
            }
        }
    }
    Err(last)
}

/// `host:port` or `[v6]:port` in its parts.
pub(super) fn split_endpoint(endpoint: &str) -> Option<(&str, u16)> {
    let (host, port) = endpoint.rsplit_once(':')?;
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    Some((host, port.parse().ok()?))
}

async fn dial_on_some_shard(
    links: &Links,
    target: &Target,
    address: SocketAddr,
) -> Result<Arc<Lane>, LinkError> {
    let shard = links.0.clock.rng().random_range(0..links.0.shards.count());
    let endpoints = links.endpoints(shard).ok_or(LinkError::Closed)?;
    let (reply, answer) = oneshot::channel();
    let (links_there, domain) = (links.clone(), target.trust_domain.clone());
    links.0.shards.spawn_transient(shard, "dial", async move {
        let result = endpoints.dial(&links_there, shard, address, &domain).await;
        // Nobody waits any more when the peer is no longer wanted: the lane is then closed by being dropped.
        let _ = reply.send(result);
    });
    answer.await.map_err(|_| LinkError::Closed)?
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_a_lane_of_the_peer_itself_ends_the_pause() {
        let (has_lane, registry) = (AtomicBool::new(false), watch::Sender::new(0));
        let mut changes = registry.subscribe();
        let waiting = linked(|| has_lane.load(Ordering::Relaxed), &mut changes);
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
