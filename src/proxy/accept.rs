//! Takes the connections of one listening socket, on its shard.

use std::sync::Arc;

use tokio::{sync::oneshot, task::yield_now, time::sleep};
use tokio_util::sync::CancellationToken;

use super::{
    outbound::{Chosen, Outbound, Visitor},
    route::Route,
    tcp::Tcp,
};
use crate::{
    ledger::Proxied,
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
            let chosen = chosen.collect();
            let shard = outbound.home(&chosen).unwrap_or(self.shard);
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
