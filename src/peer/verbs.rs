//! The verbs of a peer, carried out: trust first, then connections, then names, then rows.
//!
//! What a verb means for the record is `model::peering`'s. Connections and names follow from the record, here
//! and at every other gateway of this cluster; a peer that is dead needs nothing else.

use std::{sync::PoisonError, time::Duration};

use federation_proto::v1::{self, ctl::Message};
use tokio::time::timeout;

use super::{Inner, Peers};
use crate::{
    identity::key_of,
    model::{
        code::{Code, Problem},
        ids::{ClusterId, Timestamp},
        peering::{Outcome, Verb, decide},
        state::{BlockedKey, Event, State},
    },
};

/// How long the other side may take to hear that the peering ends; what is promised of a removal is a second.
const GOODBYE_WAIT: Duration = Duration::from_millis(400);

/// What came of a verb.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Acted {
    /// It was so already.
    Already,
    /// Done.
    Done,
    /// Ended, and the peer knows.
    Told,
    /// Ended, and the peer could not be told.
    NotTold,
}

impl Peers {
    /// Carries out a verb. `force`: without a word to the peer.
    ///
    /// # Errors
    /// [`Code::NO_SUCH_PEER`], [`Code::PEER_NOT_FIT`], or no way to store it.
    pub async fn act(&self, cluster: &ClusterId, verb: Verb, force: bool) -> Result<Acted, Problem> {
        self.0.act(cluster, verb, force).await
    }

    /// What the peer has last said of our roots: whether it uses those of now, and when it said so.
    #[must_use]
    pub fn roots_seen(&self, cluster: &ClusterId) -> Option<(bool, Timestamp)> {
        let seen = self.0.seen_roots.lock().unwrap_or_else(PoisonError::into_inner);
        let (digest, at) = *seen.get(cluster)?;
        Some((digest == self.0.ours.bundle().digest(), at))
    }
}

impl Inner {
    async fn act(&self, cluster: &ClusterId, verb: Verb, force: bool) -> Result<Acted, Problem> {
        let state = self.store.state();
        let Some(peer) = state.peers.get(cluster) else { return Err(no_such_peer(cluster)) };
        let ends = verb == Verb::Remove && !peer.is_tombstone();
        let told = if ends && !force { self.say_goodbye(cluster, peer.generation).await } else { false };
        let keys = self.keys_of(cluster);
        let subject = cluster.clone();
        let changed = move |state: &State, now| {
            let Some(peer) = state.peers.get(&subject) else { return Err(no_such_peer(&subject)) };
            Ok(match decide(verb, peer, keys, now)? {
                Outcome::Nothing => (Vec::new(), false),
                Outcome::Changed(peer) => (vec![Event::Peer(*peer)], true),
                Outcome::Forgotten => (vec![Event::PeerForgotten(subject)], true),
            })
        };
        if !self.store.transact(changed).await? {
            return Ok(Acted::Already);
        }
        self.ledger.note("peer", format!("{verb} {cluster}"));
        if matches!(verb, Verb::Remove | Verb::Revoke) {
            // Trust, connections and names are gone; the rows are nobody's any more.
            let _ = self.store.apply(Event::CatalogDropped(cluster.clone())).await;
        }
        Ok(match (ends, told) {
            (false, _) => Acted::Done,
            (true, true) => Acted::Told,
            (true, false) => Acted::NotTold,
        })
    }

    /// Remembers which of our roots a peer uses.
    pub(super) fn note_roots(&self, cluster: &ClusterId, digest: [u8; 32]) {
        let at = self.clock.wall();
        self.seen_roots.lock().unwrap_or_else(PoisonError::into_inner).insert(cluster.clone(), (digest, at));
    }

    /// Tells a peer that the peering ends; whether it has heard it. It drops its trust, and with it the link.
    async fn say_goodbye(&self, cluster: &ClusterId, generation: u64) -> bool {
        let Some(lane) = self.links.registry().best(cluster) else { return false };
        let reason = "removed by its operator".to_owned();
        self.sessions.tell(cluster, Message::Terminate(v1::Terminate { generation, reason }));
        timeout(GOODBYE_WAIT, lane.closed()).await.is_ok()
    }

    /// The keys with which the peer's gateways prove themselves now.
    fn keys_of(&self, cluster: &ClusterId) -> Vec<BlockedKey> {
        let lanes = self.links.registry().all();
        let of_peer = lanes.iter().filter(|lane| lane.key().cluster == *cluster);
        let mut keys: Vec<_> = of_peer.filter_map(|lane| key_of(lane.chain().first()?)).collect();
        keys.sort();
        keys.dedup();
        keys
    }
}

fn no_such_peer(cluster: &ClusterId) -> Problem {
    Problem::new(Code::NO_SUCH_PEER, format!("this cluster has no peer {cluster}"))
}
