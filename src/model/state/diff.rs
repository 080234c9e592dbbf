//! What differs between two states, found by comparing pointers: unchanged parts are shared (settled M1).

use std::{collections::BTreeSet, sync::Arc};

use imbl::{OrdMap, ordmap::DiffItem};

use super::State;
use crate::model::{
    entrance::Entrances,
    ids::{ClusterId, ServiceName},
};

/// What changed from one state to a later one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// Exports that came, went or changed, or whose endpoints became ready or unready.
    pub exports: BTreeSet<ServiceName>,
    /// Peers that came, went or changed.
    pub peers: BTreeSet<ClusterId>,
    /// Imports that came, went or changed.
    pub imports: BTreeSet<ServiceName>,
    /// Whether policy changed.
    pub settings: bool,
    /// Whether any virtual IP changed.
    pub virtual_ips: bool,
    /// Names whose derived Service came, went or changed.
    pub entrances: BTreeSet<ServiceName>,
}

impl Changes {
    /// Whether nothing a sink reads is different.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl State {
    /// What a sink that has seen `old` must look at again.
    #[must_use]
    pub fn changes_since(&self, old: &Self) -> Changes {
        Changes {
            exports: &changed(&old.exports, &self.exports) | &changed(&old.unready, &self.unready),
            peers: changed(&old.peers, &self.peers),
            imports: changed(&old.imports, &self.imports),
            settings: !Arc::ptr_eq(&old.settings, &self.settings) || !Arc::ptr_eq(&old.me, &self.me),
            virtual_ips: !Arc::ptr_eq(&old.virtual_ips, &self.virtual_ips),
            entrances: match (&old.entrances, &self.entrances) {
                (Some(old), Some(new)) => new.changed_since(old),
                (None, Some(new)) => new.changed_since(&Entrances::default()),
                (_, None) => BTreeSet::new(),
            },
        }
    }
}

/// The keys whose values are not the very same object.
fn changed<K: Ord + Clone, V>(old: &OrdMap<K, Arc<V>>, new: &OrdMap<K, Arc<V>>) -> BTreeSet<K>
where
    V: PartialEq,
{
    let key = |item: DiffItem<'_, '_, K, Arc<V>>| match item {
        DiffItem::Add(key, _) | DiffItem::Remove(key, _) => key.clone(),
        DiffItem::Update { new, .. } => new.0.clone(),
    };
    old.diff(new).map(key).collect()
}
