//! What a control call says of trust: roots and their acknowledgement, renewed certificates, the end.
//!
//! Each word is judged by the rules of `model::trust`, `model::peering` and `identity`; what is accepted is on
//! disk before it is acknowledged.

use federation_proto::v1::{self, ctl::Message};

use super::session::{Session, SessionEnd};
use crate::{
    identity::{REAUTH_EXPORTER_LABEL, judge_reauth, sign_reauth},
    model::{
        ids::{ClusterId, Timestamp},
        peering::terminated_by_peer,
        state::{Event, Peer, Ruling, Standing, State},
        trust::{Bundle, BundleUpdate, Known, Offer, Root, accept_update, check_own_keys},
    },
};

impl Session {
    /// Tells the other side our roots. It acknowledges those it has already, too.
    pub(super) fn tell_roots(&self) -> Result<(), SessionEnd> {
        let identity = &self.peers.ours.identity;
        // Those of the workloads were checked when they were set.
        let bundle = identity.published().unwrap_or_else(|_| Bundle::clone(&identity.bundle()));
        let ders = |roots: &[Root]| roots.iter().map(|root| root.der().to_vec()).collect();
        let (roots, workload_roots) = (ders(bundle.roots()), ders(bundle.workload_roots()));
        self.send(Message::Bundle(v1::Bundle { sequence: bundle.sequence(), roots, workload_roots }))
    }

    /// The other side told the roots of ours that it uses.
    pub(super) async fn see_roots(&self, cluster: &ClusterId, digest: Option<[u8; 32]>) {
        let Some(digest) = digest else { return };
        let own = self.peers.ours.bundle();
        self.peers.note_roots(cluster, digest);
        if digest == own.digest() {
            // Its acknowledgement may have been lost with the session it came on.
            self.note_ack(cluster, own.sequence()).await;
        }
    }

    /// The other side says that it has stored our roots of this sequence.
    pub(super) async fn take_ack(&self, cluster: &ClusterId, sequence: u64) {
        let own = self.peers.ours.bundle();
        if sequence == own.sequence() {
            self.peers.note_roots(cluster, own.digest());
        }
        self.note_ack(cluster, sequence).await;
    }

    /// The other side has stored our roots of this sequence.
    pub(super) async fn note_ack(&self, cluster: &ClusterId, sequence: u64) {
        let state = self.peers.store.state();
        let known = state.peers.get(cluster).map_or(0, |peer| peer.ruling.acked);
        if sequence > known && sequence <= self.peers.ours.bundle().sequence() {
            // A disk that fails loses a note that the next heartbeat makes again.
            let _ = self.peers.store.apply(Event::Acked(cluster.clone(), sequence)).await;
        }
    }

    pub(super) async fn take_bundle(&self, cluster: &ClusterId, bundle: v1::Bundle) -> v1::BundleAck {
        let sequence = bundle.sequence;
        let (subject, own) = (cluster.clone(), self.peers.ours.bundle());
        let decide = move |state: &State, now| {
            let Some(peer) = state.peers.get(&subject) else { return Ok((Vec::new(), String::new())) };
            Ok(judge_bundle(state, peer, &own, &bundle, now))
        };
        let refused = match self.peers.store.transact(decide).await {
            Ok(refused) => refused,
            Err(problem) => problem.to_string(),
        };
        if !refused.is_empty() {
            tracing::warn!(peer = %cluster, sequence, reason = %refused, "a bundle was refused");
        }
        v1::BundleAck { sequence, refused }
    }

    /// The other side ended the peering: its trust goes first, and the link with it.
    pub(super) async fn take_terminate(
        &self,
        cluster: &ClusterId,
        end: v1::Terminate,
    ) -> Result<(), SessionEnd> {
        self.send(Message::TerminateAck(v1::TerminateAck { generation: end.generation }))?;
        let subject = cluster.clone();
        let decide = move |state: &State, now| {
            let peer = state.peers.get(&subject);
            let ended = peer.and_then(|peer| terminated_by_peer(peer, end.generation, &end.reason, now));
            let happened = ended.is_some();
            Ok((ended.map(Event::Peer).into_iter().collect(), happened))
        };
        if matches!(self.peers.store.transact(decide).await, Ok(true)) {
            self.peers.ledger.note("peer", format!("{cluster} ended the peering"));
            let _ = self.peers.store.apply(Event::CatalogDropped(cluster.clone())).await;
        }
        Ok(())
    }

    /// Tells the other side our newest SVID, so that the link outlives the one of its handshake.
    pub(super) fn reauthenticate(&self) {
        let svid = self.peers.ours.svid.get();
        let signed = self
            .lane
            .exporter(REAUTH_EXPORTER_LABEL, b"")
            .and_then(|exporter| sign_reauth(&svid, &exporter).ok());
        let Some(signature) = signed else { return };
        let chain = svid.chain().iter().map(|certificate| certificate.to_vec()).collect();
        let _ = self.send(Message::Reauth(v1::Reauth { chain, signature }));
    }

    pub(super) fn take_reauth(&self, cluster: &ClusterId, reauth: v1::Reauth) {
        let Some(exporter) = self.lane.exporter(REAUTH_EXPORTER_LABEL, b"") else { return };
        let chain: Vec<_> = reauth.chain.into_iter().map(Into::into).collect();
        let who = (self.lane.identity(), self.lane.role());
        let now = self.peers.clock.wall();
        match judge_reauth(&self.peers.trust, who, &chain, &reauth.signature, &exporter, now) {
            Ok(_) => self.lane.renew_chain(chain),
            Err(error) => tracing::warn!(peer = %cluster, %error, "a renewed certificate was refused"),
        }
    }
}

/// What follows from a peer's roots; the text says why not.
fn judge_bundle(
    state: &State,
    peer: &Peer,
    own: &Bundle,
    offered: &v1::Bundle,
    now: Timestamp,
) -> (Vec<Event>, String) {
    let same = |known: &[Root], offered: &[Vec<u8>]| {
        known.iter().map(|root| root.der().as_ref()).eq(offered.iter().map(Vec::as_slice))
    };
    let known = || {
        let others = state.peers.values().map(|peer| (&peer.trust_domain, &peer.bundle));
        Known { own: (&state.me.trust_domain, own), peers: others }
    };
    let (sequence, roots) = (offered.sequence, offered.roots.as_slice());
    let update = if sequence == peer.bundle.sequence() && same(peer.bundle.roots(), roots) {
        if same(peer.bundle.workload_roots(), &offered.workload_roots) {
            return (Vec::new(), String::new());
        }
        // The link's own session says so, and no gateway is believed by these.
        Ok(BundleUpdate::Replace(peer.bundle.clone()))
    } else {
        let offer = Offer { domain: &peer.trust_domain, current: &peer.bundle, sequence, roots };
        accept_update(known(), &offer, now)
    };
    let whole = |bundle: Bundle| {
        let bundle = bundle.with_workload_roots(&offered.workload_roots)?;
        check_own_keys(known(), &peer.trust_domain, &bundle).map(|()| bundle)
    };
    match update {
        Ok(BundleUpdate::Replace(bundle)) => match whole(bundle) {
            Ok(bundle) => (vec![Event::Bundle(peer.cluster.clone(), bundle)], String::new()),
            Err(refusal) => (Vec::new(), refusal.to_string()),
        },
        Ok(BundleUpdate::Distrust { .. }) => {
            let reason = "it withdrew all its roots, or none of them can be used".to_owned();
            let ruling = Ruling { since: Some(now), reason, ..peer.ruling.clone() };
            let distrusted = Peer { standing: Standing::Distrusted, ruling, ..peer.clone() };
            (vec![Event::Peer(distrusted)], String::new())
        }
        Err(refusal) => (Vec::new(), refusal.to_string()),
    }
}
