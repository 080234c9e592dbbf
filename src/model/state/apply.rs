//! How an event changes the state. Pure: the same events at the same times give the same state.

use std::{borrow::Cow, collections::BTreeSet, sync::Arc};

use super::{Declared, Event, Me, Peer, PeerCatalog, Settings, State, Unready, event::CatalogChange};
use crate::model::{
    catalog::Row,
    ids::{ClusterId, Epoch, Seq, ServiceName, Timestamp},
    import::{Freshness, Import, merge},
    limits::{CATALOG_FORGOTTEN_AFTER, CATALOG_STALE_AFTER, CATALOG_WITHDRAWN_AFTER, VIRTUAL_IP_KEPT},
    policy::{aliases_of, sources_of},
    replication::RowChange,
    virtual_ip::VipKey,
};

impl State {
    /// Applies one event. Returns whether anything changed; then `version` is one more.
    pub fn apply(&mut self, event: Event, now: Timestamp) -> bool {
        let only = match &event {
            Event::Catalog(change) => Some(change.peer.clone()),
            _ => None,
        };
        let touched = self.change(event, now);
        let Some(mut touched) = touched else { return false };
        let rules = &self.settings.imports;
        let aliases: Vec<_> = touched.iter().flat_map(|name| aliases_of(rules, name)).cloned().collect();
        touched.extend(aliases);
        // What stands aside for others is not in the import: then everybody is asked.
        let only = only.filter(|_| rules.iter().all(|rule| rule.merge && rule.alias.is_none()));
        for name in &touched {
            self.merge_import(name, only.as_ref(), now);
        }
        self.version += 1;
        self.check_invariants();
        true
    }

    /// Makes the change itself; `None` when there is none, else the names whose merge may differ.
    fn change(&mut self, event: Event, now: Timestamp) -> Option<BTreeSet<ServiceName>> {
        let nothing = BTreeSet::new();
        match event {
            Event::Exported(export) => {
                let name = export.name.clone();
                let same = self.exports.get(&name).is_some_and(|known| **known == export);
                (!same).then(|| {
                    self.exports.insert(name.clone(), Arc::new(export));
                    BTreeSet::from([name])
                })
            }
            Event::Unexported(name) => {
                self.unready.remove(&name);
                self.exports.remove(&name).map(|_| BTreeSet::from([name]))
            }
            Event::Readiness(name, unready) => self.note_readiness(name, unready),
            Event::Peer(peer) => self.put_peer(peer),
            Event::Standing(cluster, standing) => self.edit_peer(&cluster, |peer| peer.standing = standing),
            Event::PeerForgotten(cluster) => {
                let touched = self.names_of(&cluster);
                self.catalogs.remove(&cluster);
                self.peers.remove(&cluster).map(|_| touched)
            }
            Event::CatalogDropped(cluster) => {
                let touched = self.names_of(&cluster);
                self.catalogs.remove(&cluster).map(|_| touched)
            }
            Event::Acked(cluster, sequence) => self.edit_peer(&cluster, |peer| peer.ruling.acked = sequence),
            Event::Bundle(cluster, bundle) => self.edit_peer(&cluster, |peer| peer.bundle = bundle),
            Event::Endpoints(cluster, list) => self.edit_peer(&cluster, |peer| peer.endpoints = list),
            Event::Token(record) => {
                self.tokens.insert(record.id, Arc::new(record));
                Some(nothing)
            }
            Event::TokenForgotten(id) => self.tokens.remove(&id).map(|_| nothing),
            Event::Catalog(change) => self.change_catalog(change),
            Event::CatalogSynced(cluster, position) => self.synced_with(cluster, position),
            Event::CatalogLoaded { peer, position, rows, current } => {
                self.peers.get(&peer)?;
                let rows = rows.into_iter().map(|row| (row.name.clone(), Arc::new(row))).collect();
                let catalog =
                    PeerCatalog { position, rows, lost: Some(current), synced: true, ..PeerCatalog::empty() };
                let touched = catalog.rows.keys().cloned().collect();
                self.catalogs.insert(peer, catalog);
                self.age_catalogs(now);
                Some(touched)
            }
            Event::SessionLost(cluster) => {
                let catalog = self.catalogs.get(&cluster).filter(|catalog| catalog.lost.is_none())?;
                self.catalogs.insert(cluster, PeerCatalog { lost: Some(now), ..catalog.clone() });
                Some(nothing)
            }
            Event::Tick => self.tick(now),
            Event::Settings(settings) => self.rule(Arc::new(settings), self.declared.clone()),
            Event::Declared(declared) => self.rule(self.configured.clone(), Arc::new(declared)),
            Event::Entrance(key, entrance) => {
                let entrances = self.entrances.get_or_insert_default();
                entrances.set(key, entrance).then_some(nothing)
            }
            Event::Locality(locality) => (self.me.locality != locality).then(|| {
                self.me = Arc::new(Me { locality, ..(*self.me).clone() });
                self.exports.keys().cloned().collect()
            }),
        }
    }

    /// Takes over what a person says, wherever they said it.
    fn rule(&mut self, configured: Arc<Settings>, declared: Arc<Declared>) -> Option<BTreeSet<ServiceName>> {
        if *self.configured == *configured && *self.declared == *declared {
            return None;
        }
        self.settings = Arc::new(configured.with(&declared));
        (self.configured, self.declared) = (configured, declared);
        Some(self.all_names())
    }

    fn note_readiness(&mut self, name: ServiceName, unready: Unready) -> Option<BTreeSet<ServiceName>> {
        let unready = if self.exports.contains_key(&name) { unready } else { Unready::new() };
        let known = self.unready.get(&name).map(AsRef::as_ref);
        if known.map_or_else(|| unready.is_empty(), |known| *known == unready) {
            return None;
        }
        if unready.is_empty() {
            self.unready.remove(&name);
        } else {
            self.unready.insert(name.clone(), Arc::new(unready));
        }
        Some(BTreeSet::from([name]))
    }

    fn put_peer(&mut self, peer: Peer) -> Option<BTreeSet<ServiceName>> {
        let cluster = peer.cluster.clone();
        if self.peers.get(&cluster).is_some_and(|known| **known == peer) {
            return None;
        }
        self.peers.insert(cluster.clone(), Arc::new(peer));
        Some(self.names_of(&cluster))
    }

    fn edit_peer(
        &mut self,
        cluster: &ClusterId,
        edit: impl FnOnce(&mut Peer),
    ) -> Option<BTreeSet<ServiceName>> {
        let mut peer = (**self.peers.get(cluster)?).clone();
        edit(&mut peer);
        self.put_peer(peer)
    }

    fn change_catalog(&mut self, change: CatalogChange) -> Option<BTreeSet<ServiceName>> {
        // Rows of a cluster that is no peer (any more) are nobody's.
        self.peers.get(&change.peer)?;
        let mut catalog = self.catalogs.get(&change.peer).cloned().unwrap_or_else(PeerCatalog::empty);
        let mut touched = BTreeSet::new();
        for row in change.rows {
            let name = row.name().clone();
            match row {
                RowChange::Row(row) => catalog.rows.insert(name.clone(), row),
                RowChange::Tombstone { .. } => catalog.rows.remove(&name),
                // The importer has refused it; what was held of the name stays.
                RowChange::Unreadable { .. } => continue,
            };
            touched.insert(name);
        }
        for name in change.swept {
            catalog.rows.remove(&name);
            touched.insert(name);
        }
        catalog.position = change.position;
        self.catalogs.insert(change.peer, catalog);
        Some(touched)
    }

    fn synced_with(&mut self, cluster: ClusterId, position: (Epoch, Seq)) -> Option<BTreeSet<ServiceName>> {
        self.peers.get(&cluster)?;
        let held = self.catalogs.get(&cluster).cloned().unwrap_or_else(PeerCatalog::empty);
        let touched =
            if held.freshness == Freshness::Fresh { BTreeSet::new() } else { self.names_of(&cluster) };
        let position = Some(position);
        let catalog = PeerCatalog { position, freshness: Freshness::Fresh, lost: None, synced: true, ..held };
        self.catalogs.insert(cluster, catalog);
        Some(touched)
    }

    fn tick(&mut self, now: Timestamp) -> Option<BTreeSet<ServiceName>> {
        let mut touched = self.age_catalogs(now);
        let over = |released: Option<Timestamp>| released.is_some_and(|at| now.since(at) >= VIRTUAL_IP_KEPT);
        let freed = self.virtual_ips.iter().any(|(_, entry)| over(entry.released));
        if freed {
            Arc::make_mut(&mut self.virtual_ips).expire(now);
        }
        let forgotten: Vec<ClusterId> = self
            .catalogs
            .iter()
            .filter(|(_, catalog)| {
                catalog.lost.is_some_and(|lost| now.since(lost) >= CATALOG_FORGOTTEN_AFTER)
            })
            .map(|(cluster, _)| cluster.clone())
            .collect();
        for cluster in &forgotten {
            touched.extend(self.names_of(cluster));
            self.catalogs.remove(cluster);
        }
        (freed || !touched.is_empty() || !forgotten.is_empty()).then_some(touched)
    }

    /// Judges the age of every catalog without a session (P15).
    fn age_catalogs(&mut self, now: Timestamp) -> BTreeSet<ServiceName> {
        let mut touched = BTreeSet::new();
        for (cluster, catalog) in self.catalogs.clone() {
            let Some(lost) = catalog.lost else { continue };
            let age = now.since(lost);
            let freshness = if age >= CATALOG_WITHDRAWN_AFTER {
                Freshness::Withdrawn
            } else if age >= CATALOG_STALE_AFTER {
                Freshness::Stale
            } else {
                Freshness::Fresh
            };
            if freshness != catalog.freshness {
                touched.extend(self.names_of(&cluster));
                self.catalogs.insert(cluster, PeerCatalog { freshness, ..catalog });
            }
        }
        touched
    }

    fn names_of(&self, cluster: &ClusterId) -> BTreeSet<ServiceName> {
        self.catalogs.get(cluster).map(|catalog| catalog.rows.keys().cloned().collect()).unwrap_or_default()
    }

    fn all_names(&self) -> BTreeSet<ServiceName> {
        let held = self.catalogs.values().flat_map(|catalog| catalog.rows.keys());
        // Those of now, too: under the new rules they may have another name, or none.
        self.exports.keys().chain(held).chain(self.imports.keys()).cloned().collect()
    }

    /// What a peer offers under a name here, if it counts, and whether it merges with others of that name.
    fn offer(&self, name: &ServiceName, cluster: &ClusterId) -> Option<(Cow<'_, Row>, Freshness, bool)> {
        let catalog = self.catalogs.get(cluster)?;
        if !self.peers.get(cluster)?.serves() {
            return None;
        }
        let taken = |source: &ServiceName| self.takes(name, source, cluster);
        if let Some((row, merge)) = catalog.rows.get(name).zip(taken(name)) {
            return Some((Cow::Borrowed(row.as_ref()), catalog.freshness, merge));
        }
        let aliased = sources_of(&self.settings.imports, name)
            .find_map(|source| catalog.rows.get(&source).zip(taken(&source)));
        let (row, merge) = aliased?;
        let row = Row { name: name.clone(), ..row.as_ref().clone() };
        Some((Cow::Owned(row), catalog.freshness, merge))
    }

    /// Merges one name anew and gives it, or takes away, its virtual IPs. When only the rows of one peer
    /// changed, whoever else offers the name stands in its import: then nobody else is asked.
    fn merge_import(&mut self, name: &ServiceName, only: Option<&ClusterId>, now: Timestamp) {
        let own = self.exports.get(name).map(|export| self.own_row(export));
        let peers: BTreeSet<&ClusterId> = match only {
            None => self.catalogs.keys().collect(),
            Some(changed) => {
                let known = self.imports.get(name).into_iter().flat_map(|import| &import.clusters);
                known.map(|part| &part.cluster).chain([changed]).collect()
            }
        };
        let found: Vec<_> = peers
            .into_iter()
            .filter_map(|cluster| Some((cluster.clone(), self.offer(name, cluster)?)))
            .collect();
        let all = found.iter().map(|(cluster, (row, freshness, merges))| {
            (*merges, (cluster.clone(), row.as_ref(), *freshness))
        });
        let mine = own.as_ref().map(|row| (true, (self.me.cluster.clone(), row, Freshness::Fresh)));
        let merged = merge(&together(all.chain(mine).collect()));
        let keys = |import: Option<&Import>| -> BTreeSet<VipKey> {
            import.map(VipKey::of).unwrap_or_default().into_iter().collect()
        };
        let old_keys = keys(self.imports.get(name).map(AsRef::as_ref));
        let new_keys = keys(merged.as_ref());
        if old_keys != new_keys {
            let virtual_ips = Arc::make_mut(&mut self.virtual_ips);
            for key in old_keys.difference(&new_keys) {
                virtual_ips.release(key, now);
            }
            for key in &new_keys {
                // A full range leaves the import without an address; `tombolo status` says so.
                let _ = virtual_ips.assign(key, now);
            }
        }
        match merged {
            Some(import) if self.imports.get(name).is_some_and(|known| **known == import) => {}
            Some(import) => {
                self.imports.insert(name.clone(), Arc::new(import));
            }
            None => {
                self.imports.remove(name);
            }
        }
    }

    fn check_invariants(&self) {
        debug_assert!(
            self.catalogs.keys().all(|cluster| self.peers.contains_key(cluster)),
            "a catalog outlived its peer"
        );
    }
}

type Offer<'a> = (ClusterId, &'a Row, Freshness);

/// The offers that make one import: those that merge, or one that does not when it is alone.
fn together(offers: Vec<(bool, Offer<'_>)>) -> Vec<Offer<'_>> {
    let (merging, apart): (Vec<_>, Vec<_>) = offers.into_iter().partition(|(merges, _)| *merges);
    let kept = if merging.is_empty() { apart.into_iter().take(1).collect() } else { merging };
    kept.into_iter().map(|(_, offer)| offer).collect()
}
