//! One control call with one gateway of a peer: what is said on it, and what follows from it.
//!
//! It carries progress, trust and introductions, and runs beside the taking of the peer's catalog. It never
//! moves traffic: that is the link clock's.

use std::sync::Arc;

use federation_proto::v1::{self, ctl::Message};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};
use tonic::Streaming;

use super::{
    Inner,
    importing::{Importing, ImportingEnd},
    sessions::{Turn, end_turn},
};
use crate::{
    ledger::SessionRow,
    link::Lane,
    model::{
        ids::{ClusterId, Timestamp},
        replication::ImporterProgress,
        session::{Heartbeat, Holding, Progress, SessionAction, SessionClock, SessionState},
        state::{Event, Standing},
    },
    wire,
};

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum SessionEnd {
    /// Its streams are to be opened anew, on the same lane.
    #[error("no progress: the streams are opened anew")]
    Reopen,
    /// The other side ended the call, or the lane broke.
    #[error("the call ended: {}", .0.message())]
    Status(#[from] tonic::Status),
    /// The lane ended, and every call on it.
    #[error("its link ended: {0}")]
    Lane(quinn::ConnectionError),
    /// The other side closed the call.
    #[error("the other side closed the call")]
    Closed,
    /// The other side opened its control call anew.
    #[error("a newer session with this gateway began")]
    Replaced,
    /// The other side does not read what it is told.
    #[error("the other side does not read what it is told")]
    Stalled,
    /// Taking its catalog ended.
    #[error(transparent)]
    Importing(#[from] ImportingEnd),
    /// It is no peer any more.
    #[error("it is no peer any more")]
    NoPeer,
}

/// A session whose `Hello`s are exchanged.
pub(super) struct Session {
    pub(super) peers: Arc<Inner>,
    pub(super) lane: Arc<Lane>,
    pub(super) out: mpsc::Sender<v1::Ctl>,
}

impl Session {
    /// Runs until it ends, and cleans up after itself.
    pub(super) async fn run(self, mut inbound: Streaming<v1::Ctl>) -> SessionEnd {
        let cluster = self.lane.key().cluster.clone();
        let replaced = self.peers.sessions.enter(self.lane.key(), self.out.clone());
        let mut turn = None;
        let exchange = self.exchange(&mut inbound, &cluster, &mut turn);
        let end = match replaced.run_until_cancelled(exchange).await {
            Some(Ok(never)) => match never {},
            Some(Err(end)) => self.said(end),
            None => SessionEnd::Replaced,
        };
        end_turn(&self.peers.store, &self.peers.ledger, &cluster, turn).await;
        if self.peers.sessions.leave(&cluster, &self.out) {
            self.peers.introductions.left(&cluster);
        }
        tracing::info!(peer = %cluster, gateway = %self.lane.key().gateway, reason = %end, "session ended");
        if matches!(end, SessionEnd::Replaced) && self.lane.is_retired() {
            self.outlive(&mut inbound, &cluster).await;
        }
        end
    }

    /// What gRPC and HTTP/2 say of a call whose lane has gone is no cause: the lane's end is.
    fn said(&self, end: SessionEnd) -> SessionEnd {
        match (&end, self.lane.end()) {
            (SessionEnd::Status(_) | SessionEnd::Closed | SessionEnd::Importing(_), Some(why)) => {
                SessionEnd::Lane(why)
            }
            _ => end,
        }
    }

    /// A retired lane may carry streams for days, while a later one does the talking: each new certificate is
    /// proved on it too, so that its streams do not end with the certificate it began with.
    async fn outlive(&self, inbound: &mut Streaming<v1::Ctl>, cluster: &ClusterId) {
        let mut svid_renewed = self.peers.svid_renewed.subscribe();
        // One that came while the session was being replaced was told to nobody.
        self.reauthenticate();
        loop {
            tokio::select! {
                biased;
                _ = self.lane.closed() => return,
                message = inbound.message() => match message.map(|told| told.map(|told| told.message)) {
                    Ok(Some(Some(Message::Reauth(reauth)))) => self.take_reauth(cluster, reauth),
                    Ok(Some(_)) => {}
                    Ok(None) | Err(_) => return,
                },
                _ = svid_renewed.changed() => self.reauthenticate(),
            }
        }
    }

    async fn exchange(
        &self,
        inbound: &mut Streaming<v1::Ctl>,
        cluster: &ClusterId,
        turn: &mut Option<Turn>,
    ) -> Result<std::convert::Infallible, SessionEnd> {
        let now = || self.peers.clock.now();
        let view = self.peers.views.of(cluster).ok_or(SessionEnd::NoPeer)?;
        let mut heads = view.changes();
        let (progress, mut imported) = watch::channel(None);
        let importing = self.importing(cluster, progress)?;
        let importing = importing.run(turn);
        tokio::pin!(importing);
        let mut clock = SessionClock::new(now());
        let mut active_since = None;
        let mut svid_renewed = self.peers.svid_renewed.subscribe();
        let mut roots_changed = self.peers.ours.identity.changes();
        // What changed while no session told it. In this order: a certificate is judged by the roots before.
        self.tell_roots()?;
        self.reauthenticate();
        let mut endpoints = self.peers.endpoints.clone();
        endpoints.mark_changed();
        let mut draining = self.peers.draining.subscribe();
        draining.mark_changed();
        loop {
            let held = imported.borrow_and_update().clone();
            let theirs = clock.peer(now()).map_or(0, |(beat, _)| beat.head_seq);
            let ours = self.progress(cluster, held.as_ref(), *heads.borrow_and_update(), theirs)?;
            match clock.poll(&ours, self.peers.clock.wall(), now()) {
                Some(SessionAction::Send(beat)) => self.send(heartbeat(beat))?,
                Some(SessionAction::Reopen) => return Err(SessionEnd::Reopen),
                None => {}
            }
            // Another session may be taking the catalog, and then speaks for the peer.
            if let Some(held) = &held {
                self.judge(cluster, &clock, held, &mut active_since);
            }
            let wake =
                clock.next_wake(now()).unwrap_or_else(|| now() + crate::model::limits::HEARTBEAT_INTERVAL);
            tokio::select! {
                biased;
                message = inbound.message() => {
                    let message = message?.ok_or(SessionEnd::Closed)?;
                    self.take(cluster, message, &mut clock).await?;
                }
                end = &mut importing => return Err(end.into()),
                _ = imported.changed() => {}
                _ = heads.changed() => {}
                _ = roots_changed.changed() => self.tell_roots()?,
                _ = svid_renewed.changed() => self.reauthenticate(),
                _ = draining.changed() => {
                    let told = draining.borrow_and_update().clone();
                    told.map_or(Ok(()), |drain| self.send(Message::Drain(drain)))?;
                }
                _ = endpoints.changed() => {
                    let addresses = endpoints.borrow_and_update().clone();
                    self.send(Message::Endpoints(v1::Endpoints { addresses }))?;
                }
                () = sleep_until(Instant::from_std(wake)) => {}
            }
        }
    }

    fn importing(
        &self,
        cluster: &ClusterId,
        progress: watch::Sender<Option<ImporterProgress>>,
    ) -> Result<Importing, SessionEnd> {
        Ok(Importing {
            peer: cluster.clone(),
            lane: self.lane.clone(),
            importer: self.peers.importer(cluster).ok_or(SessionEnd::NoPeer)?,
            quotas: self.peers.quotas,
            window: self.peers.ours.limits.http2_stream_window,
            store: self.peers.store.clone(),
            clock: self.peers.clock.clone(),
            progress,
        })
    }

    fn progress(
        &self,
        cluster: &ClusterId,
        held: Option<&ImporterProgress>,
        head_seq: u64,
        their_head: u64,
    ) -> Result<Progress, SessionEnd> {
        let state = self.peers.store.state();
        let peer = state.peers.get(cluster).ok_or(SessionEnd::NoPeer)?;
        Ok(Progress {
            head_seq,
            // Another session takes the catalog: this one has nothing to move.
            applied_seq: held.map_or(their_head, |held| held.applied),
            bundle_sequence: self.peers.ours.bundle().sequence(),
            peer_roots_sha256: peer.bundle.digest(),
            holding: match peer.standing {
                _ if peer.ruling.paused.is_some() => Some(Holding::Paused),
                Standing::Pending => Some(Holding::Pending),
                _ => None,
            },
        })
    }

    /// Publishes what can be believed of the session; once it is complete, introduces the peer.
    fn judge(
        &self,
        cluster: &ClusterId,
        clock: &SessionClock,
        held: &ImporterProgress,
        active_since: &mut Option<Timestamp>,
    ) {
        let state = clock.state(self.peers.clock.now());
        if held.synced && state == SessionState::Live && active_since.is_none() {
            *active_since = Some(self.peers.clock.wall());
            tracing::info!(peer = %cluster, "peer active: its catalog is current");
            self.peers.introduce(cluster);
        }
        let now = self.peers.clock.now();
        let peer = clock.peer(now);
        let heard = peer.and_then(|(_, age)| now.checked_sub(age));
        let before = self.peers.ledger.session(cluster).and_then(|row| row.holding);
        let holding = peer.and_then(|(beat, _)| beat.holding).map(|holding| match before {
            Some((same, since)) if same == holding => (holding, since),
            _ => (holding, self.peers.clock.wall()),
        });
        let row = SessionRow {
            gateway: self.lane.key().gateway.clone(),
            state,
            synced: *active_since,
            imported: held.rows,
            refusals: refusals(held),
            heartbeat: heard,
            holding,
        };
        self.peers.ledger.set_session(cluster.clone(), Some(row));
    }

    pub(super) fn send(&self, message: Message) -> Result<(), SessionEnd> {
        // The reader never waits for the writer (P3): a full queue means that nothing was read for long.
        self.out.try_send(v1::Ctl { message: Some(message) }).map_err(|_| SessionEnd::Stalled)
    }

    async fn take(
        &self,
        cluster: &ClusterId,
        message: v1::Ctl,
        clock: &mut SessionClock,
    ) -> Result<(), SessionEnd> {
        match message.message {
            Some(Message::Heartbeat(beat)) => {
                let facts = wire::heartbeat(&beat);
                let heartbeat = Heartbeat {
                    head_seq: facts.head,
                    applied_seq: facts.applied,
                    bundle_sequence: facts.bundle_sequence,
                    your_roots_sha256: facts.our_roots.unwrap_or_default(),
                    at: Timestamp(u64::try_from(facts.unix_ms).unwrap_or(0)),
                    holding: facts.holding,
                };
                clock.on_heartbeat(heartbeat, self.peers.clock.now());
                self.see_roots(cluster, facts.our_roots).await;
            }
            Some(Message::Bundle(bundle)) => {
                let ack = self.take_bundle(cluster, bundle).await;
                self.send(Message::BundleAck(ack))?;
            }
            Some(Message::Endpoints(endpoints)) => match wire::endpoints(endpoints.addresses) {
                Ok(list) if list.is_empty() => {}
                Ok(list) => {
                    let _ = self.peers.store.apply(Event::Endpoints(cluster.clone(), list)).await;
                }
                Err(error) => tracing::warn!(peer = %cluster, %error, "its endpoints were not taken"),
            },
            Some(Message::Introduce(introduce)) => self.peers.take_introduction(cluster, introduce).await,
            Some(Message::Reauth(reauth)) => self.take_reauth(cluster, reauth),
            Some(Message::Terminate(end)) => self.take_terminate(cluster, end).await?,
            Some(Message::BundleAck(ack)) if !ack.refused.is_empty() => {
                let (sequence, reason) = (ack.sequence, ack.refused);
                tracing::warn!(peer = %cluster, sequence, %reason, "the peer refused our roots");
            }
            Some(Message::BundleAck(ack)) => self.take_ack(cluster, ack.sequence).await,
            Some(Message::Drain(drain)) => {
                let gateway = &self.lane.key().gateway;
                self.peers.ledger.note("drain", format!("{gateway} of {cluster} drains: {}", drain.reason));
                self.peers.links.registry().note_draining(&self.lane);
            }
            // Whoever ends a peering waits for the link's end; the rest is of a later release (P26).
            Some(Message::TerminateAck(_) | Message::Hello(_)) | None => {}
        }
        Ok(())
    }
}

fn heartbeat(beat: Heartbeat) -> Message {
    Message::Heartbeat(v1::Heartbeat {
        head_seq: beat.head_seq,
        applied_seq: beat.applied_seq,
        bundle_sequence: beat.bundle_sequence,
        your_roots_sha256: beat.your_roots_sha256.to_vec(),
        unix_ms: i64::try_from(beat.at.0).unwrap_or(i64::MAX),
        holding: match beat.holding {
            None => v1::Holding::Unspecified,
            Some(Holding::Paused) => v1::Holding::Paused,
            Some(Holding::Pending) => v1::Holding::Pending,
        }
        .into(),
    })
}

fn refusals(held: &ImporterProgress) -> Vec<String> {
    held.refusals
        .iter()
        .map(|refusal| format!("TMB-{} {}: {}", refusal.code.number(), refusal.name, refusal.message))
        .collect()
}
