//! The candidates of one connection, one attempt after another, and the wait for the first word of whoever
//! took it.

use std::{
    collections::VecDeque,
    future::poll_fn,
    net::IpAddr,
    sync::{Arc, atomic::AtomicBool},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use federation_proto::v1;
use tokio::sync::watch;

use super::{
    attempt::{self, Attempt, Judged, PeerWay, Way},
    endpoints::{Connected, Trial, Wanted},
    open::{Client, Launch, Opened},
    outbound::{Chosen, Outbound},
    pump::Left,
    route::{Planned, Route},
    tcp::Tcp,
    young::{self, Grown, Heard, Source as _},
};
use crate::{
    link::{Lane, codes::Reset},
    model::{
        failover::Target,
        ids::ClusterId,
        limits::OPEN_TIMEOUT,
        liveness::LinkState,
        open::{Origin, may_write_first_bytes},
        outlier::{Admission, OutlierKey},
        state::State,
    },
    net::BoxFuture,
};

/// A way that has the connection for good.
pub(super) enum Carried {
    Local(Tcp, Trial),
    Peer(PeerWay),
}

/// What came of the wait for a first word.
pub(super) enum Word {
    /// This way has it, with what is left to tell on either side.
    Carry(Carried, Left),
    /// It went without a word, and the same bytes may be sent another way.
    Another,
    /// It went without a word, and the retry budget is used up.
    OverBudget,
    /// The client went away.
    Gone,
}

/// What came over a stream.
enum PeersWord {
    /// The first bytes, or none when nothing is waited for any more; and what the peer was not told yet.
    Said(Left),
    /// It broke, or its lane is in doubt.
    Lost,
    /// The client went away.
    Gone,
}

/// Starts the attempts of one connection.
pub(super) struct Launcher<'a> {
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
    /// What the client is known by, where clients are kept; else empty.
    key: Vec<u8>,
    /// One that had connected went without a word.
    pub(super) replaying: bool,
}

/// Whether somebody is left to ask.
fn has_more(outbound: &Outbound, chosen: &VecDeque<Chosen>, tried: &[Arc<Lane>]) -> bool {
    chosen.iter().any(|chosen| match &chosen.target {
        Target::Local => true,
        Target::Peer(cluster) => next_lane(outbound, cluster, tried).is_some(),
    })
}

fn next_lane(outbound: &Outbound, cluster: &ClusterId, tried: &[Arc<Lane>]) -> Option<Arc<Lane>> {
    outbound.planner.links.registry().next_best(cluster, tried)
}

impl Launch for Launcher<'_> {
    fn has_more(&self) -> bool {
        has_more(self.outbound, &self.chosen, &self.tried)
    }

    fn awaits(&self) -> Option<Duration> {
        let now = self.outbound.planner.site.clock.now();
        let registry = self.outbound.planner.links.registry();
        let until = self.chosen.iter().filter_map(|chosen| match &chosen.target {
            Target::Peer(cluster) if registry.best(cluster).is_none() => registry.awaited(cluster, now),
            Target::Peer(_) | Target::Local => None,
        });
        until.max().map(|until| until.saturating_duration_since(now))
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

    fn may_hedge(&mut self) -> bool {
        self.may_retry()
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

impl<'a> Launcher<'a> {
    /// Nothing is tried yet.
    pub(super) fn new(
        outbound: &'a Outbound,
        (route, planned): (&'a Route, &'a Planned),
        chosen: VecDeque<Chosen>,
        (from, key): (IpAddr, Vec<u8>),
    ) -> Self {
        let changes = outbound.planner.links.registry().changes();
        let (tried, changed, replaying) = (Vec::new(), None, false);
        Self { outbound, route, planned, chosen, tried, changes, changed, from, key, replaying }
    }
}

impl Launcher<'_> {
    /// Waits for the first word of whoever took the connection, if its export is idempotent; passes on all that
    /// the client has said.
    pub(super) async fn first_word(&mut self, opened: Opened, client: &mut Client) -> Word {
        let Opened { target, way, written, .. } = opened;
        match way {
            Way::Local(connected) => {
                let site = &self.outbound.planner.site;
                let state = site.state.load_full();
                let Some(export) = state.exports.get(&self.route.service) else { return Word::Another };
                if !export.idempotent {
                    let Connected { tcp, trial, .. } = connected;
                    let left = Left { forth: client.first.split().freeze(), back: Bytes::new() };
                    return Word::Carry(Carried::Local(tcp, trial), left);
                }
                let wanted = self.wanted(&state);
                match young::grow(&site.endpoints, export, wanted, connected, client).await {
                    Grown::Carry { tcp, trial, answer, untold } => {
                        Word::Carry(Carried::Local(tcp, trial), Left { forth: untold, back: answer })
                    }
                    Grown::Gone => Word::Gone,
                    Grown::Nobody => self.another(true),
                }
            }
            Way::Peer(mut way) => {
                let part = self.planned.import.cluster(&self.outbound.cluster(&target));
                if !part.is_some_and(|part| part.idempotent) {
                    let forth = client.first.split_off(written.min(client.first.len())).freeze();
                    return Word::Carry(Carried::Peer(way), Left { forth, back: Bytes::new() });
                }
                let word = self.peers_word(&mut way, client, written).await;
                match word {
                    PeersWord::Said(left) => Word::Carry(Carried::Peer(way), left),
                    PeersWord::Gone => Word::Gone,
                    PeersWord::Lost => {
                        way.writer.reset(Reset::Superseded);
                        way.reader.stop(Reset::Superseded);
                        let endpoints_failed = way.lane.health() == LinkState::Up && !way.lane.is_closed();
                        if endpoints_failed {
                            // It was not the way: its own endpoints all went, and another gateway has the same.
                            self.chosen.retain(|chosen| chosen.target != target);
                        }
                        self.another(endpoints_failed)
                    }
                }
            }
        }
    }

    /// Goes on another way. Where endpoints have failed that is paid for; a way that died is no reason to fail
    /// what it carried.
    fn another(&mut self, endpoints_failed: bool) -> Word {
        if endpoints_failed && !self.may_retry() {
            return Word::OverBudget;
        }
        self.replaying = true;
        Word::Another
    }

    fn may_retry(&self) -> bool {
        self.ledger().may_retry(&self.route.service)
    }

    /// Waits for the first word over a stream; a lane in doubt is left when there is another way.
    async fn peers_word(&mut self, way: &mut PeerWay, client: &mut Client, mut written: usize) -> PeersWord {
        let PeerWay { lane, writer, reader, .. } = way;
        let mut suspect = attempt::suspect(lane.clone());
        let (mut enough, mut doubted) = (false, false);
        let mut pending = Bytes::new();
        poll_fn(|cx| {
            loop {
                let mut chunk = [Bytes::new()];
                match reader.poll_read_chunks(cx, &mut chunk) {
                    // The end is an answer too: whoever carries it meets it again. It may come before everything was
                    // told.
                    Poll::Ready(Ok(_)) => {
                        let told = written - pending.len();
                        let forth = Bytes::copy_from_slice(&client.said()[told..]);
                        return Poll::Ready(PeersWord::Said(Left {
                            forth,
                            back: std::mem::take(&mut chunk[0]),
                        }));
                    }
                    Poll::Ready(Err(_)) => return Poll::Ready(PeersWord::Lost),
                    Poll::Pending => {}
                }
                if pending.is_empty() && written < client.said().len() {
                    pending = Bytes::copy_from_slice(&client.said()[written..]);
                    written = client.said().len();
                }
                let told = match writer.poll_write(cx, &mut pending) {
                    Poll::Ready(Ok(())) => true,
                    Poll::Ready(Err(_)) => return Poll::Ready(PeersWord::Lost),
                    Poll::Pending => false,
                };
                if told && enough {
                    return Poll::Ready(PeersWord::Said(Left::default()));
                }
                if !doubted && suspect.as_mut().poll(cx).is_ready() {
                    doubted = true;
                    if has_more(self.outbound, &self.chosen, &self.tried) {
                        return Poll::Ready(PeersWord::Lost);
                    }
                }
                if enough {
                    return Poll::Pending;
                }
                match ready!(client.poll_hear(cx)) {
                    Heard::More => {}
                    Heard::Enough => enough = true,
                    Heard::Gone => return Poll::Ready(PeersWord::Gone),
                }
            }
        })
        .await
    }

    /// The endpoint of this cluster that is wanted.
    fn wanted(&self, state: &State) -> Wanted {
        let hostname = self.route.endpoint.as_ref().map(|(_, name)| name.to_string()).unwrap_or_default();
        let unready = state.unready.get(&self.route.service).cloned();
        let affinity = self.key.clone();
        Wanted { port: self.route.port, hostname, affinity, unready, ..Wanted::default() }
    }

    fn ledger(&self) -> &crate::ledger::Ledger {
        &self.outbound.planner.site.ledger
    }

    /// The lane by which a cluster would be asked next.
    fn lane(&self, cluster: &ClusterId) -> Option<Arc<Lane>> {
        next_lane(self.outbound, cluster, &self.tried)
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
                attempt::local(planner.site.clone(), export, self.wanted(&state))
            }
            (Target::Peer(_), Some(lane), Some(part)) => {
                let first = if may_write_first_bytes(idempotent, in_flight) { first } else { Bytes::new() };
                bytes = first.len();
                let header = v1::StreamHeader {
                    export_id: part.export_id.0.to_vec(),
                    port: self.route.port.into(),
                    caller: self.outbound.caller(&planner.site.state.load(), self.from).to_string(),
                    affinity: self.key.clone(),
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
            over_budget: false,
            road: lane.map(|lane| -> Arc<dyn attempt::Road> { lane }),
            over: None,
            ending,
            sent,
            target,
        }
    }
}
