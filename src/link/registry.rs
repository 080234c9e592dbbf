//! Which lanes exist, and which of two duplicates lives.
//!
//! Both sides may dial at once. The duplicate is settled by `Hello` before any other stream, never by closing
//! a lane in use (B1): of two that are being settled, the one dialled by the smaller trust domain lives; one
//! that is up lives until the other gateway starts anew. Readers take a snapshot without a lock.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use arc_swap::ArcSwap;
use tokio::sync::watch;

use super::{
    codes::Close,
    lane::{Lane, LaneKey},
};
use crate::model::{
    ids::{ClusterId, Instance, TrustDomain},
    liveness::LinkState,
};

/// One gateway of a peer: a lane being settled, or one that is up.
#[derive(Debug, Clone)]
enum Slot {
    /// This side dialled and says `Hello`.
    Saying(Arc<Lane>),
    /// Settled, with the run of the process at the other end.
    Up(Arc<Lane>, Instance),
}

impl Slot {
    fn lane(&self) -> &Arc<Lane> {
        match self {
            Self::Saying(lane) | Self::Up(lane, _) => lane,
        }
    }
}

/// What becomes of a lane whose `Hello` was heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is up now.
    Accepted,
    /// Another one lives; close this with [`Close::Duplicate`].
    Duplicate,
}

type Snapshot = BTreeMap<ClusterId, Vec<Arc<Lane>>>;

/// All lanes of this gateway.
#[derive(Debug)]
pub struct Registry {
    own: TrustDomain,
    slots: Mutex<BTreeMap<LaneKey, Slot>>,
    up: ArcSwap<Snapshot>,
    changed: watch::Sender<u64>,
}

impl Registry {
    /// An empty registry of a gateway of trust domain `own`.
    #[must_use]
    pub fn new(own: TrustDomain) -> Self {
        Self { own, slots: Mutex::default(), up: ArcSwap::default(), changed: watch::Sender::new(0) }
    }

    fn with<R>(&self, change: impl FnOnce(&mut BTreeMap<LaneKey, Slot>) -> R) -> R {
        // Nothing below panics while it holds the lock; a poisoned map is still whole.
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let result = change(&mut slots);
        let mut snapshot = Snapshot::new();
        for (key, slot) in slots.iter() {
            if let Slot::Up(lane, _) = slot {
                snapshot.entry(key.cluster.clone()).or_default().push(lane.clone());
            }
        }
        self.up.store(Arc::new(snapshot));
        drop(slots);
        self.changed.send_modify(|version| *version += 1);
        result
    }

    /// Claims the slot for a lane this side dialled, before it says `Hello`. `false`: another one has it.
    pub fn claim(&self, lane: &Arc<Lane>) -> bool {
        self.with(|slots| {
            let free = slots.get(lane.key()).is_none_or(|slot| slot.lane().is_closed());
            if free {
                slots.insert(lane.key().clone(), Slot::Saying(lane.clone()));
            }
            free
        })
    }

    /// Settles a lane whose answer to our `Hello` arrived.
    pub fn settle(&self, lane: &Arc<Lane>, instance: Instance) -> Verdict {
        self.with(|slots| match slots.get(lane.key()) {
            // Its control call was opened anew: it is the lane that lives.
            Some(Slot::Up(settled, known)) if Arc::ptr_eq(settled, lane) && *known == instance => {
                Verdict::Accepted
            }
            Some(Slot::Saying(claimed)) if Arc::ptr_eq(claimed, lane) => {
                slots.insert(lane.key().clone(), Slot::Up(lane.clone(), instance));
                lane.mark_up();
                Verdict::Accepted
            }
            _ => Verdict::Duplicate,
        })
    }

    /// Settles a lane on which the other side said `Hello`.
    pub fn hear(&self, lane: &Arc<Lane>, instance: Instance) -> Verdict {
        let smaller_dials = *lane.identity().trust_domain() < self.own;
        self.with(|slots| {
            let superseded = match slots.get(lane.key()) {
                Some(Slot::Up(settled, _)) if Arc::ptr_eq(settled, lane) => None,
                Some(slot) if slot.lane().is_closed() => None,
                Some(Slot::Up(old, known)) if *known != instance => Some(old.clone()),
                Some(Slot::Up(..)) => return Verdict::Duplicate,
                Some(Slot::Saying(_)) if !smaller_dials => return Verdict::Duplicate,
                // The claimed dial loses; its own settling will find out.
                Some(Slot::Saying(_)) | None => None,
            };
            if let Some(old) = superseded {
                old.close(Close::Superseded);
            }
            slots.insert(lane.key().clone(), Slot::Up(lane.clone(), instance));
            lane.mark_up();
            Verdict::Accepted
        })
    }

    /// Forgets a lane that ended; a later one in its slot stays.
    pub fn remove(&self, lane: &Arc<Lane>) {
        self.with(|slots| {
            if slots.get(lane.key()).is_some_and(|slot| Arc::ptr_eq(slot.lane(), lane)) {
                slots.remove(lane.key());
            }
        });
    }

    /// Whether a lane to the peer is up or being settled.
    #[must_use]
    pub fn has(&self, cluster: &ClusterId) -> bool {
        let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots.iter().any(|(key, slot)| key.cluster == *cluster && !slot.lane().is_closed())
    }

    /// The lanes that are up, by peer.
    #[must_use]
    pub fn up(&self) -> Arc<Snapshot> {
        self.up.load_full()
    }

    /// All lanes there are, settled or not, for the sweep.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Lane>> {
        let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots.values().map(|slot| slot.lane().clone()).collect()
    }

    /// The lane a new stream to `cluster` should take: the healthiest, then the one with fewest streams.
    #[must_use]
    pub fn best(&self, cluster: &ClusterId) -> Option<Arc<Lane>> {
        let up = self.up.load();
        let usable =
            up.get(cluster)?.iter().filter(|lane| lane.health() != LinkState::Down && !lane.is_closed());
        usable.min_by_key(|lane| (lane.health(), lane.streams())).cloned()
    }

    /// Changes whenever a lane comes or goes.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }
}
