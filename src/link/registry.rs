//! Which lanes exist, and which of them take new streams.
//!
//! Both sides may dial at once, and either may dial anew when it doubts a lane: `slot` has the rules, carried
//! out here. A lane in use is never closed because a later one took its place (B1): it retires, and ends when
//! what it carries has ended. Readers take a snapshot without a lock.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use arc_swap::ArcSwap;
use tokio::sync::watch;

use super::{
    codes::Close,
    lane::{Lane, LaneKey},
    slot::{Known, Life, Settling, Slot},
};
use crate::model::{
    ids::{ClusterId, GatewayId, Instance, TrustDomain},
    limits,
    liveness::LinkState,
};

/// A lane, compared by being the same one.
#[derive(Debug, Clone)]
struct Handle(Arc<Lane>);

impl PartialEq for Handle {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Known for Handle {
    fn life(&self) -> Life {
        if self.0.is_closed() {
            Life::Over
        } else if self.0.health() == LinkState::Up {
            Life::Trusted
        } else {
            Life::Doubted
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
    /// It has retired: it has nothing more to say, and is left to what it carries.
    Retired,
    /// The peer has more gateways than are told apart; close this with [`Close::Limit`].
    TooMany,
}

type Snapshot = BTreeMap<ClusterId, Vec<Arc<Lane>>>;

#[derive(Debug, Default)]
struct Lanes {
    slots: BTreeMap<ClusterId, BTreeMap<GatewayId, Slot<Handle>>>,
    /// Lanes whose place was taken, the oldest first.
    retired: Vec<Arc<Lane>>,
    /// When the last lane of a peer that has none ended.
    lost: BTreeMap<ClusterId, Instant>,
    /// Where gateways said that they can be dialled.
    homes: BTreeMap<ClusterId, BTreeMap<String, GatewayId>>,
}

impl Lanes {
    /// The slot of a gateway; none when the peer has too many. One without a lane gives way to a new one.
    fn slot(&mut self, key: &LaneKey) -> Option<&mut Slot<Handle>> {
        let gateways = self.slots.entry(key.cluster.clone()).or_default();
        if !gateways.contains_key(&key.gateway) && gateways.len() >= limits::GATEWAYS_PER_PEER_MAX {
            let empty = gateways.iter().find(|(_, slot)| slot.is_empty()).map(|(gateway, _)| gateway.clone());
            gateways.remove(&empty?);
        }
        Some(gateways.entry(key.gateway.clone()).or_default())
    }

    fn known(&self, cluster: &ClusterId, gateway: &GatewayId) -> Option<&Slot<Handle>> {
        self.slots.get(cluster)?.get(gateway)
    }

    fn is_retired(&self, lane: &Arc<Lane>) -> bool {
        self.retired.iter().any(|retired| Arc::ptr_eq(retired, lane))
    }

    /// Carries out what was settled of a lane.
    fn carry_out(&mut self, lane: &Arc<Lane>, settling: Settling<Handle>) -> (Verdict, Option<Arc<Lane>>) {
        let retires = match settling {
            Settling::Duplicate => return (Verdict::Duplicate, None),
            Settling::Accepted => None,
            Settling::Supersedes(old) => {
                old.0.close(Close::Superseded);
                None
            }
            Settling::Retires(old) => Some(old.0),
        };
        if let Some(old) = &retires {
            self.retired.push(old.clone());
            let of_this = |retired: &&Arc<Lane>| retired.key() == old.key();
            if self.retired.iter().filter(of_this).count() > limits::RETIRED_LANES_MAX
                && let Some(oldest) = self.retired.iter().find(of_this)
            {
                oldest.close(Close::Superseded);
            }
        }
        lane.mark_up();
        (Verdict::Accepted, retires)
    }
}

/// All lanes of this gateway.
#[derive(Debug)]
pub struct Registry {
    own: TrustDomain,
    lanes: Mutex<Lanes>,
    up: ArcSwap<Snapshot>,
    changed: watch::Sender<u64>,
    turn: AtomicUsize,
}

impl Registry {
    /// An empty registry of a gateway of trust domain `own`.
    #[must_use]
    pub fn new(own: TrustDomain) -> Self {
        Self {
            own,
            lanes: Mutex::default(),
            up: ArcSwap::default(),
            changed: watch::Sender::new(0),
            turn: AtomicUsize::new(0),
        }
    }

    fn with<R>(&self, change: impl FnOnce(&mut Lanes) -> R) -> R {
        // Nothing below panics while it holds the lock; a poisoned map is still whole.
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        let result = change(&mut lanes);
        let mut snapshot = Snapshot::new();
        for (cluster, gateways) in &lanes.slots {
            let up: Vec<_> =
                gateways.values().filter_map(|slot| slot.up().map(|lane| lane.0.clone())).collect();
            if !up.is_empty() {
                snapshot.insert(cluster.clone(), up);
            }
        }
        self.up.store(Arc::new(snapshot));
        drop(lanes);
        self.touch();
        result
    }

    fn read<R>(&self, look: impl FnOnce(&Lanes) -> R) -> R {
        look(&self.lanes.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Says that a lane is not what it was, to whoever follows [`Self::changes`].
    pub(super) fn touch(&self) {
        self.changed.send_modify(|version| *version += 1);
    }

    /// Claims the slot for a lane this side dialled, before it says `Hello`. `false`: another one has it, or
    /// the peer has too many gateways.
    pub fn claim(&self, lane: &Arc<Lane>) -> bool {
        let number = self.with(|lanes| lanes.slot(lane.key())?.claim(&Handle(lane.clone())));
        if let Some(number) = number {
            lane.set_number(number);
        }
        number.is_some()
    }

    /// Settles a lane whose answer to our `Hello` arrived.
    pub fn settle(&self, lane: &Arc<Lane>, instance: Instance) -> Verdict {
        self.decide(lane, |slot| slot.settle(&Handle(lane.clone()), instance))
    }

    /// Settles a lane on which the other side said `Hello`, with the number it gave the lane.
    pub fn hear(&self, lane: &Arc<Lane>, instance: Instance, number: u32) -> Verdict {
        let smaller_dials = *lane.identity().trust_domain() < self.own;
        lane.set_number(number);
        self.decide(lane, |slot| slot.hear(&Handle(lane.clone()), instance, number, smaller_dials))
    }

    fn decide(
        &self,
        lane: &Arc<Lane>,
        settle: impl FnOnce(&mut Slot<Handle>) -> Settling<Handle>,
    ) -> Verdict {
        let (verdict, retires) = self.with(|lanes| {
            if lanes.is_retired(lane) {
                return (Verdict::Retired, None);
            }
            let Some(slot) = lanes.slot(lane.key()) else { return (Verdict::TooMany, None) };
            let settling = settle(slot);
            lanes.carry_out(lane, settling)
        });
        if let Some(old) = retires {
            old.retire();
        }
        verdict
    }

    /// Forgets a lane that ended at `now`; a later one in its slot stays.
    pub fn remove(&self, lane: &Arc<Lane>, now: Instant) {
        self.with(|lanes| {
            lanes.retired.retain(|retired| !Arc::ptr_eq(retired, lane));
            let key = lane.key();
            let Some(gateways) = lanes.slots.get_mut(&key.cluster) else { return };
            let Some(slot) = gateways.get_mut(&key.gateway) else { return };
            let was_up = slot.up().is_some();
            slot.remove(&Handle(lane.clone()));
            if was_up && gateways.values().all(|slot| slot.up().is_none()) {
                lanes.lost.insert(key.cluster.clone(), now);
            }
        });
    }

    /// Forgets what is remembered of clusters that are no peers, but for lanes that have yet to end.
    pub(super) fn retain(&self, is_peer: impl Fn(&ClusterId) -> bool) {
        self.with(|lanes| {
            lanes.slots.retain(|cluster, gateways| {
                is_peer(cluster) || gateways.values().any(|slot| !slot.is_empty())
            });
            lanes.homes.retain(|cluster, _| is_peer(cluster));
            lanes.lost.retain(|cluster, _| is_peer(cluster));
        });
    }

    /// A gateway said, or showed by answering there, where it can be dialled.
    pub fn note_home(&self, key: &LaneKey, endpoints: &[String]) {
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        let homes = lanes.homes.entry(key.cluster.clone()).or_default();
        for endpoint in endpoints.iter().take(limits::PEER_ENDPOINTS_MAX) {
            if homes.len() < limits::PEER_ENDPOINTS_KNOWN_MAX || homes.contains_key(endpoint) {
                homes.insert(endpoint.clone(), key.gateway.clone());
            }
        }
        drop(lanes);
        self.touch();
    }

    /// The gateway that answers at an endpoint of a peer, as far as is known.
    #[must_use]
    pub fn gateway_at(&self, cluster: &ClusterId, endpoint: &str) -> Option<GatewayId> {
        self.read(|lanes| lanes.homes.get(cluster)?.get(endpoint).cloned())
    }

    /// Whether a dial of that gateway is of use: it has no lane, or only one that is doubted.
    pub(super) fn wants_dial(&self, cluster: &ClusterId, gateway: &GatewayId) -> bool {
        self.read(|lanes| lanes.known(cluster, gateway).is_none_or(Slot::wants_dial))
    }

    /// The lane to one gateway of a peer that takes new streams.
    #[must_use]
    pub fn lane(&self, cluster: &ClusterId, gateway: &GatewayId) -> Option<Arc<Lane>> {
        self.up.load().get(cluster)?.iter().find(|lane| lane.key().gateway == *gateway).cloned()
    }

    /// Whether a lane to the peer is up or being settled.
    #[must_use]
    pub fn has(&self, cluster: &ClusterId) -> bool {
        self.read(|lanes| {
            let mut slots = lanes.slots.get(cluster).into_iter().flat_map(BTreeMap::values);
            slots.any(|slot| slot.living().next().is_some())
        })
    }

    /// Until when a peer without a lane for new streams is waited for, as one that lost its last lane a moment ago is.
    #[must_use]
    pub fn awaited(&self, cluster: &ClusterId, now: Instant) -> Option<Instant> {
        self.read(|lanes| {
            // What ends has not yet been removed.
            let ends = lanes.slots.get(cluster)?.values().any(|slot| slot.up().is_some());
            let lost = if ends { Some(now) } else { lanes.lost.get(cluster).copied() };
            lost.map(|lost| lost + limits::LINK_RETURN_WAIT).filter(|until| now < *until)
        })
    }

    /// The lanes that are up, by peer.
    #[must_use]
    pub fn up(&self) -> Arc<Snapshot> {
        self.up.load_full()
    }

    /// All lanes there are, settled or not, retired ones too, for the sweep.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Lane>> {
        self.read(|lanes| {
            let slots = lanes.slots.values().flat_map(BTreeMap::values);
            let living = slots.flat_map(|slot| slot.living().map(|lane| lane.0.clone()));
            living.chain(lanes.retired.iter().cloned()).collect()
        })
    }

    /// The gateway at the other end of a lane drains: others are chosen from now on.
    pub fn note_draining(&self, lane: &Lane) {
        lane.set_draining();
        self.touch();
    }

    /// The lane a new stream to `cluster` should take: the healthiest, then the one with fewest streams; one whose
    /// gateway drains only when there is no other.
    #[must_use]
    pub fn best(&self, cluster: &ClusterId) -> Option<Arc<Lane>> {
        self.next_best(cluster, &[])
    }

    /// The same without those in `tried`. Once a lane of the cluster was tried, only one that is up will do.
    #[must_use]
    pub fn next_best(&self, cluster: &ClusterId, tried: &[Arc<Lane>]) -> Option<Arc<Lane>> {
        let worst = if tried.iter().any(|lane| lane.key().cluster == *cluster) {
            LinkState::Up
        } else {
            LinkState::Suspect
        };
        let up = self.up.load();
        let usable = up.get(cluster)?.iter().filter(|lane| {
            lane.health() <= worst
                && !lane.is_closed()
                && !tried.iter().any(|tried| Arc::ptr_eq(tried, lane))
                && (worst == LinkState::Suspect || !lane.is_draining())
        });
        let ranked: Vec<_> =
            usable.map(|lane| ((lane.is_draining(), lane.health(), lane.streams()), lane)).collect();
        let best = ranked.iter().map(|(rank, _)| *rank).min()?;
        let equal = || ranked.iter().filter(|(rank, _)| *rank == best);
        // Equals take turns, scattered so that whoever asks twice a connection does not meet the same one always.
        let turn = self.turn.fetch_add(1, Ordering::Relaxed).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        equal().nth(turn % equal().count()).map(|(_, lane)| (*lane).clone())
    }

    /// Changes whenever a lane comes, goes, or is found to lead elsewhere than was thought.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }
}
