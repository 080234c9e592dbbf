//! Connections of clients: who is calling, first bytes, an open way, then bytes.

use std::{
    collections::VecDeque,
    net::IpAddr,
    pin::pin,
    sync::{Arc, atomic::AtomicBool},
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use federation_proto::v1;
use tokio::{
    sync::{OwnedSemaphorePermit, watch},
    time::timeout,
};

use super::{
    Attribute,
    allowed::{Foothold, Ground},
    attempt::{self, Attempt, Judged, PeerWay, Way},
    endpoints::Wanted,
    open::{Client, Launch, NotOpened, Opened, open},
    pump,
    route::{Planned, Planner, Route},
    tcp::Tcp,
};
use crate::{
    ledger::{InFlight, Proxied},
    link::Lane,
    model::{
        code::Code,
        failover::Target,
        ids::{ClusterId, SpiffeId},
        limits::{FIRST_BYTES_WAIT, OPEN_TIMEOUT},
        open::{Origin, ResetReason, may_write_first_bytes},
        outlier::{Admission, OutlierKey},
        state::State,
    },
    net::BoxFuture,
    supervise::Shards,
};

/// The half of the proxy that serves this host's clients.
pub(super) struct Outbound {
    pub(super) planner: Planner,
    pub(super) shards: Shards,
    /// Who a client is that the settings do not name.
    pub(super) attribute: Attribute,
    /// Who a client is whose address says nothing.
    pub(super) unknown: SpiffeId,
}

/// A client that was accepted.
pub(super) struct Visitor {
    pub(super) tcp: Tcp,
    pub(super) from: IpAddr,
    /// Where it is carried, see [`Outbound::home`].
    pub(super) shard: usize,
    pub(super) route: Arc<Route>,
    pub(super) planned: Arc<Planned>,
    pub(super) permit: OwnedSemaphorePermit,
}

/// A candidate of one connection.
#[derive(Debug, Clone)]
pub(super) struct Chosen {
    pub(super) target: Target,
    pub(super) on_probation: bool,
}

impl Outbound {
    /// The shard that a connection with these candidates belongs on: that of the lane it will most likely
    /// take, so that no part of opening or carrying it crosses threads. None says nothing against where it is.
    pub(super) fn home(&self, chosen: &VecDeque<Chosen>) -> Option<usize> {
        match &chosen.front()?.target {
            Target::Local => None,
            Target::Peer(cluster) => Some(self.planner.links.registry().best(cluster)?.shard()),
        }
    }

    /// Carries one client's connection from its first byte to its last, on its shard; `moved` if it was
    /// accepted on another one.
    pub(super) async fn carry(self: Arc<Self>, mut visitor: Visitor, chosen: VecDeque<Chosen>, moved: bool) {
        if moved {
            match visitor.tcp.rehome() {
                Ok(tcp) => visitor.tcp = tcp,
                Err(error) => return tracing::warn!(%error, "a connection could not change its shard"),
            }
        }
        let cut = self.planner.site.cut.clone();
        // Dropped on the way, everything it holds is reset.
        let carried = pin!(self.open_and_pump(visitor, chosen));
        let _ = cut.run_until_cancelled(carried).await;
    }

    async fn open_and_pump(&self, visitor: Visitor, chosen: VecDeque<Chosen>) {
        let site = &self.planner.site;
        let Visitor { tcp, from, shard, route, planned, permit } = visitor;
        if !self.lets_out(&route, from) {
            // Dropped, its connection is reset.
            return;
        }
        let mut client = Client::new(tcp);
        if !client.take_what_is_there() {
            // A server may be the one that speaks first: nobody waits for long.
            let _ = timeout(FIRST_BYTES_WAIT, client.hear()).await;
        }
        let mut launcher = Launcher {
            outbound: self,
            route: &route,
            planned: &planned,
            chosen,
            tried: Vec::new(),
            changes: self.planner.links.registry().changes(),
            changed: None,
            from,
        };
        let opened = match open(&mut launcher, &mut client, &site.clock).await {
            Ok(opened) => opened,
            Err(failed) => return self.failed(&route, from, failed),
        };
        site.ledger.observe_latency(&opened.target, opened.took);
        let in_flight = site.ledger.begin(&opened.target);
        self.count(&route, Some(self.cluster(&opened.target)), "connected");
        self.pump(opened, client, (&route, from, shard), (permit, in_flight)).await;
    }

    /// Carries, on the shard that the stream's lane lives on.
    async fn pump(
        &self,
        opened: Opened,
        client: Client,
        (route, from, shard): (&Route, IpAddr, usize),
        counted: (OwnedSemaphorePermit, InFlight),
    ) {
        let Client { tcp, mut first, .. } = client;
        let left = first.split_off(opened.written.min(first.len())).freeze();
        // What was sent is not kept for as long as the connection lasts.
        drop(first);
        match opened.way {
            Way::Local(mut backend) => {
                let Some(foothold) = self.foothold(route, from, None) else { return };
                if tokio::io::AsyncWriteExt::write_all(&mut backend, &left).await.is_ok() {
                    // Dropped when it is allowed no more, both are reset.
                    let _ = foothold.cut.run_until_cancelled(pump::tcp_and_tcp(tcp, backend)).await;
                }
            }
            Way::Peer(PeerWay { lane, mut writer, reader, counted: stream }) => {
                let peer = lane.key().cluster.clone();
                let Some(foothold) = self.foothold(route, from, Some(peer)) else { return };
                if left.is_empty() {
                    drop(left);
                } else if writer.write_chunk(left).await.is_err() {
                    return;
                }
                let cut = self.planner.site.cut.clone();
                let moves = lane.shard() != shard;
                // Opening takes a moment and more memory than carrying, which may take days: it is given back.
                self.shards.spawn_transient(lane.shard(), "client", async move {
                    let _counted = (stream, counted);
                    let carried = pin!(async {
                        // The socket moves once, so that no byte of it crosses threads.
                        match if moves { tcp.rehome() } else { Ok(tcp) } {
                            Ok(tcp) => drop(pump::tcp_and_stream(tcp, writer, reader).await),
                            Err(error) => tracing::warn!(%error, "a connection could not change its shard"),
                        }
                    });
                    let _ = cut.run_until_cancelled(foothold.cut.run_until_cancelled(carried)).await;
                });
            }
        }
    }

    /// What a client of this cluster stands on, at an endpoint of a peer or of its own cluster; none when that
    /// has gone.
    fn foothold(&self, route: &Route, from: IpAddr, peer: Option<ClusterId>) -> Option<Foothold> {
        let site = &self.planner.site;
        let state = site.state.load();
        let (service, caller) = (route.service.clone(), self.caller(&state, from));
        let ground = match peer {
            None => {
                let incarnation = state.exports.get(&service)?.incarnation;
                Ground::Own { service, incarnation, caller }
            }
            Some(cluster) => Ground::Out { service, cluster, caller },
        };
        let foothold = site.allowed.enter(ground.clone());
        ground.holds(&site.state.load()).then_some(foothold)
    }

    /// Counts and tells why a client was reset; dropping its connection has reset it.
    fn failed(&self, route: &Route, from: IpAddr, failed: NotOpened) {
        let NotOpened::Reset(reason, said) = failed else {
            return self.count(route, None, "client_gone");
        };
        let code = match reason {
            ResetReason::NoCandidate => Code::NO_CANDIDATE,
            ResetReason::Refused(_) => Code::REFUSED_BY_ALL,
            ResetReason::Unanswered => Code::OPEN_UNANSWERED,
            ResetReason::Timeout => Code::OPEN_TIMED_OUT,
        };
        let (service, port) = (&route.service, route.port);
        tracing::debug!(%service, port, %from, %code, %reason, last = said, "client reset");
        self.count(route, None, reason.as_str());
    }

    fn count(&self, route: &Route, cluster: Option<ClusterId>, result: &'static str) {
        let service = route.service.clone();
        self.planner.site.ledger.count(Proxied { service, cluster, result });
    }

    fn cluster(&self, target: &Target) -> ClusterId {
        match target {
            Target::Local => self.planner.site.state.load().me.cluster.clone(),
            Target::Peer(cluster) => cluster.clone(),
        }
    }

    fn caller(&self, state: &State, from: IpAddr) -> SpiffeId {
        let named = state.settings.callers.iter().find(|(source, _)| source.contains(&from));
        let named = named.map(|(_, identity)| identity.clone());
        named.or_else(|| (self.attribute)(from)).unwrap_or_else(|| self.unknown.clone())
    }

    /// Whether the egress rules let this client call.
    fn lets_out(&self, route: &Route, from: IpAddr) -> bool {
        let state = self.planner.site.state.load();
        let decision = state.may_call_out(&route.service, &self.caller(&state, from));
        if !decision.allowed {
            tracing::debug!(service = %route.service, %from, reason = %decision.reason, "client not let out");
            self.count(route, None, "policy");
        }
        decision.allowed
    }
}

/// Starts the attempts of one connection.
struct Launcher<'a> {
    outbound: &'a Outbound,
    route: &'a Route,
    planned: &'a Planned,
    /// A cluster stays here while it may be asked another way: by another of its gateways, or by a lane that
    /// takes the place of one in doubt.
    chosen: VecDeque<Chosen>,
    tried: Vec<Arc<Lane>>,
    /// Tells of lanes that come or go, and waits for one.
    changes: watch::Receiver<u64>,
    changed: Option<BoxFuture<'static, watch::Receiver<u64>>>,
    from: IpAddr,
}

impl Launch for Launcher<'_> {
    fn has_more(&self) -> bool {
        self.chosen.iter().any(|chosen| match &chosen.target {
            Target::Local => true,
            Target::Peer(cluster) => self.lane(cluster).is_some(),
        })
    }

    fn launch(&mut self, first: Bytes, tried: usize, in_flight: usize) -> Option<Attempt> {
        let mut at = 0;
        while let Some(Chosen { target, on_probation }) = self.chosen.get_mut(at) {
            let (target, on_probation) = (target.clone(), std::mem::take(on_probation));
            let cluster = self.outbound.cluster(&target);
            let lane = match &target {
                Target::Local => None,
                Target::Peer(cluster) => {
                    let Some(lane) = self.lane(cluster) else {
                        at += 1;
                        continue;
                    };
                    Some(lane)
                }
            };
            let key = OutlierKey { cluster, service: self.route.service.clone(), port: self.route.port };
            let refused = on_probation && matches!(self.ledger().admits(&key), Admission::No { .. });
            // One request at a time is its probe; the others go on, unless it is all there is.
            if refused && self.chosen.len() > 1 {
                self.chosen.remove(at);
                continue;
            }
            match &lane {
                Some(lane) => self.tried.push(lane.clone()),
                None => drop(self.chosen.remove(at)),
            }
            return Some(self.start(target, lane, key, first, (tried, in_flight)));
        }
        None
    }

    fn refused(&mut self, target: &Target, origin: Origin) {
        // Another gateway has the same endpoints, but troubles and limits of its own.
        if !matches!(origin, Origin::Gateway | Origin::Limit) {
            self.chosen.retain(|chosen| chosen.target != *target);
        }
    }

    fn poll_changed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let changed = self.changed.get_or_insert_with(|| {
            let mut changes = self.changes.clone();
            Box::pin(async move {
                // The registry lives as long as the links, which the launcher borrows.
                let _ = changes.changed().await;
                changes
            })
        });
        let changes = ready!(changed.as_mut().poll(cx));
        (self.changes, self.changed) = (changes, None);
        Poll::Ready(())
    }
}

impl Launcher<'_> {
    fn ledger(&self) -> &crate::ledger::Ledger {
        &self.outbound.planner.site.ledger
    }

    /// The lane by which a cluster would be asked next.
    fn lane(&self, cluster: &ClusterId) -> Option<Arc<Lane>> {
        self.outbound.planner.links.registry().next_best(cluster, &self.tried)
    }

    fn start(
        &self,
        target: Target,
        lane: Option<Arc<Lane>>,
        key: OutlierKey,
        first: Bytes,
        (tried, in_flight): (usize, usize),
    ) -> Attempt {
        let planner = &self.outbound.planner;
        let part = self.planned.import.cluster(&key.cluster);
        let idempotent = part.is_some_and(|part| part.idempotent);
        let sent = Arc::new(AtomicBool::new(false));
        let hostname = self.route.endpoint.as_ref().map(|(_, name)| name.to_string()).unwrap_or_default();
        let mut bytes = 0;
        let ending: BoxFuture<'static, attempt::Ending> = match (&target, &lane, part) {
            (Target::Local, ..) => {
                let state = planner.site.state.load();
                let export = state.exports.get(&self.route.service).cloned();
                let unready = state.unready.get(&self.route.service).cloned();
                let wanted = Wanted { port: self.route.port, hostname, unready, ..Wanted::default() };
                attempt::local(planner.site.clone(), export, wanted)
            }
            (Target::Peer(_), Some(lane), Some(part)) => {
                let first = if may_write_first_bytes(idempotent, in_flight) { first } else { Bytes::new() };
                bytes = first.len();
                let header = v1::StreamHeader {
                    export_id: part.export_id.0.to_vec(),
                    port: self.route.port.into(),
                    caller: self.outbound.caller(&planner.site.state.load(), self.from).to_string(),
                    affinity: Vec::new(),
                    deadline_ms: u32::try_from(OPEN_TIMEOUT.as_millis()).unwrap_or(u32::MAX),
                    traceparent: String::new(),
                    replay: tried > 0,
                    hostname,
                };
                attempt::peer(lane.clone(), header, first, sent.clone())
            }
            // The link went, or the cluster withdrew it, since the plan was made.
            (Target::Peer(_), ..) => Box::pin(std::future::ready(attempt::Ending::Unsent)),
        };
        Attempt {
            judged: Judged::new(planner.site.ledger.clone(), key),
            started: planner.site.clock.now(),
            idempotent,
            bytes,
            suspect: lane.clone().map(attempt::suspect),
            road: lane.map(|lane| -> Arc<dyn attempt::Road> { lane }),
            over: None,
            ending,
            sent,
            target,
        }
    }
}
