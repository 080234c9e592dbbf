//! Connections that are open, by what allows them: when an export or a grant goes, what it allowed is cut.
//!
//! Judged again only when exports, grants or peers change, and once for all that stand on the same ground.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::cut::Cut;
use crate::model::{
    ids::{ClusterId, Incarnation, ServiceName, SpiffeId},
    state::{Admitted, Changes, State},
};

/// What a connection stands on.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Ground {
    /// A peer's stream that was let in.
    In(Admitted),
    /// A client of this cluster at one of its own endpoints.
    Own {
        /// What it reaches.
        service: ServiceName,
        /// Which life of that export.
        incarnation: Incarnation,
        /// Who calls.
        caller: SpiffeId,
    },
    /// A client of this cluster that was let out to a peer.
    Out {
        /// What it reaches.
        service: ServiceName,
        /// Whose export that is.
        cluster: ClusterId,
        /// Who calls.
        caller: SpiffeId,
    },
}

impl Ground {
    /// Whether it still holds.
    pub(super) fn holds(&self, state: &State) -> bool {
        match self {
            Self::In(stream) => state.still_allows(stream),
            Self::Own { service, incarnation, caller } => {
                let export = state.exports.get(service);
                export.is_some_and(|export| export.incarnation == *incarnation)
                    && state.may_call_out(service, caller).allowed
            }
            Self::Out { service, cluster, caller } => {
                state.still_takes(service, cluster) && state.may_call_out(service, caller).allowed
            }
        }
    }
}

type Grounds = BTreeMap<Arc<Ground>, (usize, Cut)>;

/// The grounds on which something is open.
#[derive(Debug, Clone, Default)]
pub(super) struct Allowed(Arc<Mutex<Grounds>>);

/// One open connection; counts until it is dropped.
#[derive(Debug)]
pub(super) struct Foothold {
    allowed: Allowed,
    ground: Arc<Ground>,
    pub(super) cut: Cut,
}

impl Allowed {
    fn grounds(&self) -> MutexGuard<'_, Grounds> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection stands on this from now on.
    pub(super) fn enter(&self, ground: Ground) -> Foothold {
        let mut grounds = self.grounds();
        let known = grounds.get_key_value(&ground).map(|(ground, _)| ground.clone());
        let ground = known.unwrap_or_else(|| Arc::new(ground));
        let (count, cut) = grounds.entry(ground.clone()).or_default();
        *count += 1;
        Foothold { allowed: self.clone(), ground, cut: cut.clone() }
    }

    /// Cuts what no longer stands on anything.
    pub(super) fn follow(&self, changes: &Changes, state: &State) {
        if changes.exports.is_empty() && changes.peers.is_empty() && !changes.settings {
            return;
        }
        self.grounds().retain(|ground, (_, cut)| {
            let holds = ground.holds(state);
            if !holds {
                tracing::info!(?ground, "what was open is cut: it is allowed no more");
                cut.cut();
            }
            holds
        });
    }
}

impl Drop for Foothold {
    fn drop(&mut self) {
        let mut grounds = self.allowed.grounds();
        // One that was cut is gone, and another may stand in its place.
        if self.cut.is_cut() {
            return;
        }
        if let Some((count, _)) = grounds.get_mut(&self.ground) {
            *count -= 1;
            if *count == 0 {
                grounds.remove(&self.ground);
            }
        }
    }
}
