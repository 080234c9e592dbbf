//! Writes what differs between two states: durable records before a change counts, catalogs in their own time.

use std::{
    collections::{BTreeMap, BTreeSet},
    pin::Pin,
    sync::Arc,
};

use imbl::{OrdMap, ordmap::DiffItem};
use serde::Serialize;

use super::{
    documents::{self, Exports, Snapshot},
    shared::Shared,
};
use crate::{
    files::{Persist, PersistError},
    model::{
        entrance::Entrances,
        ids::{ClusterId, Timestamp},
        state::{PeerCatalog, State},
        virtual_ip::VirtualIps,
    },
    supervise::Tasks,
};

/// One file to be written, or removed. It is encoded where it may take its time.
enum Change {
    Put(String, Box<dyn FnOnce() -> Vec<u8> + Send>),
    Remove(String),
}

impl Change {
    fn path(&self) -> &String {
        match self {
            Self::Put(path, _) | Self::Remove(path) => path,
        }
    }
}

/// Writing that is under way; nobody has to wait for it.
pub(super) type Writing = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Knows what is on disk.
pub(super) struct Writer {
    persist: Arc<dyn Persist>,
    folder: String,
    tasks: Tasks,
    catalogs: BTreeMap<ClusterId, PeerCatalog>,
    virtual_ips: Arc<VirtualIps>,
    shared: Shared,
    entrances: Option<Entrances>,
}

impl Writer {
    pub(super) fn new(
        shared: Shared,
        persist: Arc<dyn Persist>,
        folder: String,
        tasks: Tasks,
        state: &State,
    ) -> Self {
        let catalogs = state.catalogs.iter().map(|(cluster, held)| (cluster.clone(), held.clone())).collect();
        let (virtual_ips, entrances) = (state.virtual_ips.clone(), state.entrances.clone());
        Self { persist, folder, tasks, catalogs, virtual_ips, shared, entrances }
    }

    /// Writes the records that must last before the change counts: exports, declared rules, peers, tokens.
    pub(super) async fn write_durable(&self, old: &State, new: &State) -> Result<(), PersistError> {
        let mut changes = Vec::new();
        records(&mut changes, &old.peers, &new.peers, documents::peer);
        records(&mut changes, &old.tokens, &new.tokens, documents::token);
        exports(&mut changes, old, new);
        if !Arc::ptr_eq(&old.declared, &new.declared) {
            changes.push(put(documents::DECLARED.to_owned(), new.declared.clone()));
        }
        if changes.is_empty() {
            return Ok(());
        }
        let paths = changes.iter().map(Change::path).cloned().collect::<Vec<_>>();
        self.carry_out(changes).await?;
        let shared = self.shared.clone();
        self.tasks.blocking(move || shared.wrote(&paths)).await;
        Ok(())
    }

    /// Writes the catalogs and virtual IPs that changed since they were last written. A disk that fails costs
    /// nothing but a longer catch-up after a restart. The state may change while this is carried out; ask for
    /// the next writing when it is done, and carry each one out.
    pub(super) fn write_catalogs(&mut self, state: &State, now: Timestamp) -> Writing {
        let mut changes = Vec::new();
        for (cluster, held) in &state.catalogs {
            if self.catalogs.get(cluster).is_none_or(|written| differs(written, held)) {
                let rows = held.rows.values().cloned().collect();
                let snapshot = Snapshot { position: held.position, current: held.lost.unwrap_or(now), rows };
                changes.push(put(documents::catalog(&self.folder, cluster), snapshot));
                self.catalogs.insert(cluster.clone(), held.clone());
            }
        }
        let gone = self.catalogs.keys().filter(|cluster| !state.catalogs.contains_key(*cluster));
        for cluster in gone.cloned().collect::<Vec<_>>() {
            changes.push(Change::Remove(documents::catalog(&self.folder, &cluster)));
            self.catalogs.remove(&cluster);
        }
        if !Arc::ptr_eq(&self.virtual_ips, &state.virtual_ips) {
            self.virtual_ips = state.virtual_ips.clone();
            changes.push(put(documents::virtual_ips(&self.folder), state.virtual_ips.clone()));
        }
        if let Some(entrances) = &state.entrances
            && !self.entrances.as_ref().is_some_and(|written| written.is_same(entrances))
        {
            self.entrances = Some(entrances.clone());
            changes.push(put(documents::entrances(&self.folder), entrances.clone()));
        }
        let carried_out = self.carry_out(changes);
        Box::pin(async move {
            if let Err(error) = carried_out.await {
                tracing::warn!(%error, "catalogs could not be written; they are held in memory only");
            }
        })
    }

    /// Writes everything that is not on disk, with the time until which it was current.
    pub(super) async fn write_all(&mut self, state: &State, now: Timestamp) {
        self.catalogs.clear();
        self.write_catalogs(state, now).await;
    }

    fn carry_out(
        &self,
        changes: Vec<Change>,
    ) -> impl Future<Output = Result<(), PersistError>> + Send + 'static {
        let (persist, tasks) = (self.persist.clone(), self.tasks.clone());
        let nothing = changes.is_empty();
        let write = move || {
            for change in changes {
                match change {
                    Change::Put(path, encode) => persist.commit(&path, &encode()).map(|_| ())?,
                    Change::Remove(path) => persist.remove(&path).map(|_| ())?,
                }
            }
            Ok(())
        };
        async move { if nothing { Ok(()) } else { tasks.blocking(write).await } }
    }
}

/// Whether what is held is not what was written; the age alone is no reason to write.
fn differs(written: &PeerCatalog, held: &PeerCatalog) -> bool {
    written.position != held.position
        || written.lost.is_some() != held.lost.is_some()
        || !written.rows.ptr_eq(&held.rows)
}

/// The files of a map that changed.
fn records<K, V>(
    changes: &mut Vec<Change>,
    old: &OrdMap<K, Arc<V>>,
    new: &OrdMap<K, Arc<V>>,
    path: impl Fn(&K) -> String,
) where
    K: Ord + Clone,
    V: Serialize + PartialEq + Send + Sync + 'static,
{
    for item in old.diff(new) {
        changes.push(match item {
            DiffItem::Add(key, value) | DiffItem::Update { new: (key, value), .. } => {
                put(path(key), value.clone())
            }
            DiffItem::Remove(key, _) => Change::Remove(path(key)),
        });
    }
}

/// The files of exports in which something changed.
fn exports(changes: &mut Vec<Change>, old: &State, new: &State) {
    let changed = old.exports.diff(&new.exports).map(|item| {
        let (DiffItem::Add(name, _) | DiffItem::Update { new: (name, _), .. } | DiffItem::Remove(name, _)) =
            item;
        documents::export_file(name)
    });
    for file in changed.collect::<BTreeSet<_>>() {
        let (path, document) = (documents::exports(file), Exports::of(new, file));
        changes.push(if document.exports.is_empty() { Change::Remove(path) } else { put(path, document) });
    }
}

/// Not indented: exports and catalogs are long.
fn put(path: String, document: impl Serialize + Send + 'static) -> Change {
    let encode = move || {
        serde_json::to_vec(&document).expect("state documents have text keys and cannot fail to encode")
    };
    Change::Put(path, Box::new(encode))
}
