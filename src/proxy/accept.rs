//! Takes the connections of one listening socket, on its shard.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{sync::oneshot, task::yield_now, time::sleep};
use tokio_util::sync::CancellationToken;

use super::{
    inbound::Site,
    outbound::{Chosen, Outbound, Visitor},
    route::Route,
    tcp::Tcp,
};
use crate::{
    ledger::Proxied,
    link::Lane,
    model::{code::Code, limits::ACCEPT_PAUSE},
    net::TcpListen,
};

/// One socket and what it stands for.
pub(super) struct Door {
    pub(super) listener: Box<dyn TcpListen>,
    pub(super) route: Arc<Route>,
    pub(super) shard: usize,
    pub(super) stop: CancellationToken,
    /// Dropped after the listener, so that its address is known to be free.
    pub(super) closed: oneshot::Sender<()>,
}

impl Door {
    /// Accepts until told to stop.
    pub(super) async fn serve(mut self, outbound: Arc<Outbound>) {
        let site = &outbound.planner.site;
        let mut rng = site.clock.rng();
        loop {
            let accepted = tokio::select! {
                biased;
                () = self.stop.cancelled() => break,
                accepted = self.listener.accept() => accepted,
            };
            let (stream, from) = match accepted {
                Ok((stream, from)) => (Tcp::new(stream), from),
                Err(error) => {
                    tracing::warn!(service = %self.route.service, %error, code = %Code::OPEN_FILES_LOW, "cannot accept");
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let Ok(permit) = site.connections.clone().try_acquire_owned() else {
                // Dropped, it is reset.
                let service = self.route.service.clone();
                site.ledger.count(Proxied { service, cluster: None, result: "limit" });
                continue;
            };
            let state = site.state.load();
            let Some(planned) = self.route.plan(&outbound.planner, &state) else { continue };
            let key = outbound.key(&self.route, &planned, from.ip());
            let picked = match key.as_slice() {
                [] => planned.plan.pick(&site.ledger, &mut rng),
                key => planned.plan.pick_for(key),
            };
            let chosen = picked.map(|candidate| Chosen {
                target: candidate.target.clone(),
                on_probation: candidate.on_probation(),
            });
            let mut chosen = chosen.collect();
            let now = site.clock.now();
            let lane = outbound.lane(&mut chosen, now);
            if let Some(lane) = &lane {
                wait_for_turn(site, lane, now).await;
            }
            let shard = lane.map_or(self.shard, |lane| lane.shard());
            let visitor = Visitor {
                tcp: stream,
                from: from.ip(),
                key,
                shard,
                route: self.route.clone(),
                planned,
                permit,
            };
            let carry = outbound.clone().carry(visitor, chosen, shard != self.shard);
            outbound.shards.spawn_transient(shard, "client", carry);
            // A queue of new clients is no reason for the others to wait until all of it is taken.
            yield_now().await;
        }
        drop(self.listener);
        drop(self.closed);
    }
}

/// Waits as long as the peer takes no more new clients. Those who come meanwhile wait in the listener's queue, and
/// since a door takes one turn at a time, a flood at one service costs the others a turn each.
async fn wait_for_turn(site: &Site, lane: &Lane, now: Instant) {
    let wait = lane.take_turn(now);
    if wait > Duration::ZERO {
        site.ledger.count_wait(&lane.key().cluster);
        sleep(wait).await;
    }
}
