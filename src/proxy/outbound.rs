//! Connections of clients: who is calling, first bytes, an open way, then bytes.

use std::{collections::VecDeque, net::IpAddr, pin::pin, sync::Arc, time::Instant};

use tokio::{sync::OwnedSemaphorePermit, time::timeout};

use super::{
    Attribute,
    allowed::{Foothold, Ground},
    attempt::PeerWay,
    launcher::{Carried, Launcher, Word},
    open::{Client, NotOpened, open},
    pump::{self, Left, Side},
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
        limits::{FIRST_BYTES_WAIT, REPLAYS_MAX},
        open::ResetReason,
        state::State,
    },
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
    /// What it is known by, where clients are kept; else empty.
    pub(super) key: Vec<u8>,
    /// Where it is carried, see [`Outbound::lane`].
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
    /// The lane that a connection with these candidates will most likely take. It belongs on the lane's shard, so
    /// that no part of opening or carrying it crosses threads; without a lane nothing is against where it is. Where
    /// new clients have waited for long, the next candidate that takes some goes first.
    pub(super) fn lane(&self, chosen: &mut VecDeque<Chosen>, now: Instant) -> Option<Arc<Lane>> {
        let first = self.best_lane(&chosen.front()?.target)?;
        if !first.is_crowded(now) {
            return Some(first);
        }
        for at in 1..chosen.len() {
            let target = &chosen.get(at)?.target;
            let lane = self.best_lane(target);
            let takes = lane.as_ref().map_or(*target == Target::Local, |lane| !lane.is_crowded(now));
            if takes {
                let next = chosen.remove(at)?;
                chosen.push_front(next);
                return lane;
            }
        }
        Some(first)
    }

    fn best_lane(&self, target: &Target) -> Option<Arc<Lane>> {
        match target {
            Target::Local => None,
            Target::Peer(cluster) => self.planner.links.registry().best(cluster),
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
        let _ = cut.unless(carried).await;
    }

    /// What a client is known by, where the service keeps clients; else empty.
    pub(super) fn key(&self, route: &Route, planned: &Planned, from: IpAddr) -> Vec<u8> {
        match planned.import.session_affinity {
            Some(_) => self.planner.site.identity.client_key(&route.service, from).to_vec(),
            None => Vec::new(),
        }
    }

    async fn open_and_pump(&self, visitor: Visitor, chosen: VecDeque<Chosen>) {
        let site = &self.planner.site;
        let Visitor { tcp, from, key, shard, route, planned, permit } = visitor;
        if !self.lets_out(&route, from) {
            // Dropped, its connection is reset.
            return;
        }
        let mut client = Client::new(tcp);
        if !client.take_what_is_there() {
            // A server may be the one that speaks first: nobody waits for long.
            let _ = timeout(FIRST_BYTES_WAIT, client.hear()).await;
        }
        site.ledger.request(&route.service);
        let mut launcher = Launcher::new(self, (&route, &planned), chosen, (from, key));
        let mut counted = Some(permit);
        for _ in 0..=REPLAYS_MAX {
            let opened = match open(&mut launcher, &mut client, &site.clock).await {
                Ok(opened) => opened,
                // What a first one was told may not be lost in silence.
                Err(NotOpened::Reset(_, said)) if launcher.replaying => {
                    let lost = NotOpened::Reset(ResetReason::Unanswered, said);
                    return self.failed(&route, from, lost);
                }
                Err(failed) => return self.failed(&route, from, failed),
            };
            site.ledger.observe_latency(&opened.target, opened.took);
            let in_flight = site.ledger.begin(&opened.target);
            self.count(&route, Some(self.cluster(&opened.target)), "connected");
            let peer = match &opened.target {
                Target::Local => None,
                Target::Peer(cluster) => Some(cluster.clone()),
            };
            let Some(foothold) = self.foothold(&route, from, peer) else { return };
            let word = {
                let word = pin!(launcher.first_word(opened, &mut client));
                foothold.cut.unless(word).await
            };
            match word {
                Some(Word::Carry(way, left)) => {
                    let Some(permit) = counted.take() else { return };
                    let counted = (permit, in_flight);
                    // What was sent is not kept for as long as the connection lasts.
                    let Client { tcp, .. } = client;
                    return self.pump(way, (tcp, left), foothold, shard, counted).await;
                }
                Some(Word::Another) => {}
                Some(Word::OverBudget) => {
                    let said = "the retry budget is used up".to_owned();
                    return self.failed(&route, from, NotOpened::Reset(ResetReason::Unanswered, said));
                }
                Some(Word::Gone) => return self.failed(&route, from, NotOpened::ClientGone),
                // It is allowed no more: dropped, both are reset.
                None => return,
            }
        }
        self.failed(&route, from, NotOpened::Reset(ResetReason::Unanswered, String::new()));
    }

    /// Carries, on the shard that the stream's lane lives on.
    async fn pump(
        &self,
        way: Carried,
        (tcp, left): (Tcp, Left),
        foothold: Foothold,
        shard: usize,
        counted: (OwnedSemaphorePermit, InFlight),
    ) {
        match way {
            // Dropped when it is allowed no more, both are reset.
            Carried::Local(backend, mut trial) => {
                let carried = pin!(pump::tcp_and_tcp(tcp, backend, left));
                if let Some(carried) = foothold.cut.unless(carried).await {
                    trial.ended(&carried, Side::Second);
                }
            }
            Carried::Peer(PeerWay { lane, writer, reader, counted: stream }) => {
                let cut = self.planner.site.cut.clone();
                let moves = lane.shard() != shard;
                // Opening takes a moment and more memory than carrying, which may take days: it is given back.
                self.shards.spawn_transient(lane.shard(), "client", async move {
                    let _counted = (stream, counted);
                    let carried = pin!(async {
                        // The socket moves once, so that no byte of it crosses threads.
                        match if moves { tcp.rehome() } else { Ok(tcp) } {
                            Ok(tcp) => drop(pump::tcp_and_stream(tcp, (writer, reader), left).await),
                            Err(error) => tracing::warn!(%error, "a connection could not change its shard"),
                        }
                    });
                    let carried = pin!(foothold.cut.unless(carried));
                    let _ = cut.unless(carried).await;
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

    pub(super) fn cluster(&self, target: &Target) -> ClusterId {
        match target {
            Target::Local => self.planner.site.state.load().me.cluster.clone(),
            Target::Peer(cluster) => cluster.clone(),
        }
    }

    pub(super) fn caller(&self, state: &State, from: IpAddr) -> SpiffeId {
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
