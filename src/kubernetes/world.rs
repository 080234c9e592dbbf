//! All that is known of the Kubernetes cluster, as one value that is cheap to clone.
//!
//! What was seen stays until the API server says otherwise: a list that is not complete, or that could not be
//! had, takes nothing away. Nothing is decided here.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use imbl::{OrdMap, OrdSet, ordmap::DiffItem};

use super::{
    importing::Kind,
    own::{Owned, SaidOwn},
    seen::{Derived, Key, Pod, Service, ServiceExport, Slice, Written},
};
use crate::model::ids::{Locality, ServiceName};

/// What was said about the objects of one kind. `None` stands for an object that does not count.
#[derive(Debug)]
pub(super) enum Change<T> {
    /// A list of all of them begins.
    Begin,
    /// One of the list.
    Listed(Key, Option<T>),
    /// The list is complete.
    Complete,
    /// One came or changed.
    Put(Key, Option<T>),
    /// One went.
    Gone(Key),
}

/// The objects of one kind.
#[derive(Debug, Clone)]
pub(super) struct Mirror<T> {
    objects: OrdMap<Key, Arc<T>>,
    listing: Option<OrdMap<Key, Arc<T>>>,
    complete: bool,
}

impl<T> Default for Mirror<T> {
    fn default() -> Self {
        Self { objects: OrdMap::new(), listing: None, complete: false }
    }
}

impl<T: PartialEq> Mirror<T> {
    /// Takes over what was said.
    pub(super) fn take(&mut self, change: Change<T>) {
        match change {
            Change::Begin => self.listing = Some(OrdMap::new()),
            Change::Listed(key, object) => {
                if let (Some(listing), Some(object)) = (&mut self.listing, object) {
                    // The same object keeps its pointer, so that nobody looks at it again.
                    let known = self.objects.get(&key).filter(|known| ***known == object).cloned();
                    listing.insert(key, known.unwrap_or_else(|| Arc::new(object)));
                }
            }
            Change::Complete => {
                if let Some(listing) = self.listing.take() {
                    self.objects = listing;
                    self.complete = true;
                }
            }
            Change::Put(key, Some(object)) => {
                if self.objects.get(&key).is_none_or(|known| **known != object) {
                    self.objects.insert(key, Arc::new(object));
                }
            }
            Change::Put(key, None) | Change::Gone(key) => {
                self.objects.remove(&key);
            }
        }
    }

    pub(super) fn get(&self, key: &Key) -> Option<&Arc<T>> {
        self.objects.get(key)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Key, &Arc<T>)> {
        self.objects.iter()
    }

    /// Whether all of them were seen once.
    pub(super) fn is_complete(&self) -> bool {
        self.complete
    }

    /// The keys of those that are not the same as in `old`.
    pub(super) fn changed_since(&self, old: &Self) -> BTreeSet<Key> {
        let key = |item: DiffItem<'_, '_, Key, Arc<T>>| match item {
            DiffItem::Add(key, _) | DiffItem::Remove(key, _) => key.clone(),
            DiffItem::Update { new, .. } => new.0.clone(),
        };
        old.objects.diff(&self.objects).map(key).collect()
    }
}

/// What was said about one kind.
#[derive(Debug)]
pub(super) enum Said {
    Services(Change<Service>),
    Slices(Change<Slice>),
    Exports(Change<ServiceExport>),
    Imports(Change<Written>),
    ImportSlices(Change<Written>),
    Derived(Change<Derived>),
    Namespaces(Change<()>),
    Hosts(Change<Locality>),
    Pods(Change<Pod>),
    Own(SaidOwn),
    /// The API server did not answer about that kind, and why; or it does again.
    Trouble(&'static str, Option<Trouble>),
}

/// Why a kind cannot be followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Trouble {
    pub(super) reason: String,
    /// The API server does not know the kind: its definition is not installed.
    pub(super) unknown: bool,
}

/// What the API server answered, or what came between, in words for people.
pub(super) fn spoken(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => format!("{} ({})", status.message.trim(), status.code),
        other => other.to_string(),
    }
}

/// What stands for everything that is written.
pub(super) const WRITES: &str = "writes";

/// What watches of rules are called.
pub(super) const RULES: [&str; 4] = ["ExportGrants", "ImportPolicies", "Guardrails", "FailoverPolicies"];

/// Everything.
#[derive(Debug, Clone, Default)]
pub(super) struct World {
    pub(super) services: Mirror<Service>,
    pub(super) slices: Mirror<Slice>,
    /// Namespace, service and slice.
    slices_of: OrdSet<(String, String, String)>,
    pub(super) exports: Mirror<ServiceExport>,
    pub(super) imports: Mirror<Written>,
    pub(super) import_slices: Mirror<Written>,
    pub(super) derived: Mirror<Derived>,
    /// Derived Services and slices of ours, by the name they stand for.
    ours: OrdSet<(ServiceName, Kind, Key)>,
    /// Ports that derived Services lead to, and how many of them do.
    entrance_ports: OrdMap<u16, usize>,
    pub(super) namespaces: Mirror<()>,
    pub(super) hosts: Mirror<Locality>,
    pub(super) pods: Mirror<Pod>,
    /// Whose pod each address is; more than one pod: nobody's.
    pods_by_address: OrdMap<IpAddr, OrdSet<Key>>,
    /// Kinds that cannot be watched now, with the reason.
    pub(super) trouble: OrdMap<&'static str, Trouble>,
    /// Tombolo's own custom resources.
    pub(super) own: Owned,
}

impl World {
    /// Takes over what was said.
    pub(super) fn take(&mut self, said: Said) {
        match said {
            Said::Services(change) => self.services.take(change),
            Said::Slices(change) => {
                let old = self.slices.clone();
                self.slices.take(change);
                self.index_slices(&old);
            }
            Said::Exports(change) => self.exports.take(change),
            Said::Imports(change) => self.imports.take(change),
            Said::ImportSlices(change) => {
                let old = self.import_slices.clone();
                self.import_slices.take(change);
                self.index_import_slices(&old);
            }
            Said::Derived(change) => {
                let old = self.derived.clone();
                self.derived.take(change);
                self.index_derived(&old);
            }
            Said::Namespaces(change) => self.namespaces.take(change),
            Said::Hosts(change) => self.hosts.take(change),
            Said::Pods(change) => {
                let old = self.pods.clone();
                self.pods.take(change);
                self.index_pods(&old);
            }
            Said::Own(said) => self.own.take(said),
            Said::Trouble(kind, Some(reason)) => {
                self.trouble.insert(kind, reason);
            }
            Said::Trouble(kind, None) => {
                self.trouble.remove(kind);
            }
        }
    }

    fn index_slices(&mut self, old: &Mirror<Slice>) {
        for key in self.slices.changed_since(old) {
            let entry = |slice: &Arc<Slice>| (key.namespace.clone(), slice.service.clone(), key.name.clone());
            if let Some(entry) = old.get(&key).map(entry) {
                self.slices_of.remove(&entry);
            }
            if let Some(entry) = self.slices.get(&key).map(entry) {
                self.slices_of.insert(entry);
            }
        }
    }

    fn index_import_slices(&mut self, old: &Mirror<Written>) {
        for key in self.import_slices.changed_since(old) {
            let entry = |slice: &Arc<Written>| Some((slice.slice_of(&key)?, Kind::Slice, key.clone()));
            if let Some(entry) = old.get(&key).and_then(entry) {
                self.ours.remove(&entry);
            }
            if let Some(entry) = self.import_slices.get(&key).and_then(entry) {
                self.ours.insert(entry);
            }
        }
    }

    fn index_derived(&mut self, old: &Mirror<Derived>) {
        for key in self.derived.changed_since(old) {
            let entry = |derived: &Derived| (derived.of.service().clone(), Kind::Service, key.clone());
            if let Some(before) = old.get(&key) {
                self.ours.remove(&entry(before));
                for port in &before.entrance.ports {
                    let count = self.entrance_ports.get(&port.listening).copied().unwrap_or(0);
                    if count > 1 {
                        self.entrance_ports.insert(port.listening, count - 1);
                    } else {
                        self.entrance_ports.remove(&port.listening);
                    }
                }
            }
            if let Some(now) = self.derived.get(&key).cloned() {
                self.ours.insert(entry(&now));
                for port in &now.entrance.ports {
                    *self.entrance_ports.entry(port.listening).or_default() += 1;
                }
            }
        }
    }

    /// Derived Services and slices of ours that stand for a name.
    pub(super) fn ours_of(&self, name: &ServiceName) -> impl Iterator<Item = (Kind, &Key)> {
        let first = (name.clone(), Kind::Service, Key::new("", ""));
        let own = self.ours.range(first..).take_while(move |(of, ..)| of == name);
        own.map(|(_, kind, key)| (*kind, key))
    }

    /// Whether a derived Service leads to that port.
    pub(super) fn is_entrance(&self, port: u16) -> bool {
        self.entrance_ports.contains_key(&port)
    }

    fn index_pods(&mut self, old: &Mirror<Pod>) {
        for key in self.pods.changed_since(old) {
            for ip in old.get(&key).iter().flat_map(|pod| &pod.addresses) {
                let mut owners = self.pods_by_address.get(ip).cloned().unwrap_or_default();
                owners.remove(&key);
                if owners.is_empty() {
                    self.pods_by_address.remove(ip);
                } else {
                    self.pods_by_address.insert(*ip, owners);
                }
            }
            for ip in self.pods.get(&key).iter().flat_map(|pod| &pod.addresses) {
                self.pods_by_address.entry(*ip).or_default().insert(key.clone());
            }
        }
    }

    /// The slices of a Service, all of them.
    pub(super) fn slices_of(&self, service: &Key) -> impl Iterator<Item = &Arc<Slice>> {
        let first = (service.namespace.clone(), service.name.clone(), String::new());
        let own =
            |entry: &&(String, String, String)| (&entry.0, &entry.1) == (&service.namespace, &service.name);
        self.slices_of
            .range(first..)
            .take_while(own)
            .filter_map(|(namespace, _, slice)| self.slices.get(&Key::new(namespace, slice)))
    }

    /// The only pod that has an address, if there is one.
    pub(super) fn pod_at(&self, ip: IpAddr) -> Option<(&Key, &Arc<Pod>)> {
        let owners = self.pods_by_address.get(&ip)?;
        let owner = owners.get_min().filter(|_| owners.len() == 1)?;
        self.pods.get_key_value(owner)
    }

    /// Whether everything that exports are made of was seen once; before that, a miss means nothing.
    pub(super) fn knows_exports(&self) -> bool {
        self.services.is_complete()
            && self.slices.is_complete()
            && self.exports.is_complete()
            && self.hosts.is_complete()
            && self.knows_rules()
    }

    /// Whether all rules were seen, or cannot be there: nothing may be offered that a rule keeps back.
    fn knows_rules(&self) -> bool {
        let unknown = |kind| self.trouble.get(kind).is_some_and(|trouble| trouble.unknown);
        self.own.knows_rules() || RULES.iter().any(|kind| unknown(*kind))
    }

    /// Whether everything that is written was seen once.
    pub(super) fn knows_what_is_written(&self) -> bool {
        self.derived.is_complete()
            && self.imports.is_complete()
            && self.import_slices.is_complete()
            && self.namespaces.is_complete()
    }

    /// The Services whose export may be another one than in `old`.
    pub(super) fn exports_changed_since(&self, old: &Self) -> BTreeSet<Key> {
        if !old.knows_exports() || !self.hosts.changed_since(&old.hosts).is_empty() {
            return self.exports.iter().chain(old.exports.iter()).map(|(key, _)| key.clone()).collect();
        }
        let mut changed = self.exports.changed_since(&old.exports);
        changed.extend(self.services.changed_since(&old.services));
        for key in self.slices.changed_since(&old.slices) {
            let slices = [old.slices.get(&key), self.slices.get(&key)];
            changed
                .extend(slices.into_iter().flatten().map(|slice| Key::new(&key.namespace, &slice.service)));
        }
        changed
    }
}

impl<T> Mirror<T> {
    fn get_key_value(&self, key: &Key) -> Option<(&Key, &Arc<T>)> {
        self.objects.get_key_value(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        Key::new("shop", name)
    }

    #[test]
    fn an_unfinished_list_takes_nothing_away_and_a_finished_one_does() {
        let mut mirror = Mirror::default();
        mirror.take(Change::Put(key("a"), Some(1)));
        mirror.take(Change::Begin);
        assert!(mirror.get(&key("a")).is_some() && !mirror.is_complete());
        mirror.take(Change::Listed(key("b"), Some(2)));
        assert!(mirror.get(&key("b")).is_none());
        // The connection broke; the next list begins anew.
        mirror.take(Change::Begin);
        mirror.take(Change::Listed(key("c"), Some(3)));
        mirror.take(Change::Complete);
        let held: Vec<_> = mirror.iter().map(|(key, value)| (key.name.as_str(), **value)).collect();
        assert_eq!(held, [("c", 3)]);
        assert!(mirror.is_complete());
    }

    #[test]
    fn what_the_api_server_answers_is_told_in_its_words() {
        let status = kube::core::Status::failure("Too many requests, please try again later.\n", "no JSON");
        let error = kube::Error::Api(Box::new(status.with_code(429)));
        assert_eq!(spoken(&error), "Too many requests, please try again later. (429)");
    }

    #[test]
    fn an_address_of_two_pods_is_nobodys() {
        let mut world = World::default();
        let ip: IpAddr = "10.244.0.7".parse().expect("an address");
        let pod = |since| {
            let account = "default".to_owned();
            Some(Pod { addresses: vec![ip], account, since: crate::model::ids::Timestamp(since) })
        };
        world.take(Said::Pods(Change::Put(key("one"), pod(1))));
        assert_eq!(world.pod_at(ip).map(|(key, _)| key.name.as_str()), Some("one"));
        world.take(Said::Pods(Change::Put(key("two"), pod(2))));
        assert!(world.pod_at(ip).is_none());
        world.take(Said::Pods(Change::Gone(key("one"))));
        assert_eq!(world.pod_at(ip).map(|(key, _)| key.name.as_str()), Some("two"));
    }

    #[test]
    fn a_slice_that_changes_its_service_leaves_the_old_one() {
        let mut world = World::default();
        let slice = |service: &str| {
            Some(Slice { service: service.to_owned(), ipv4: true, ports: Vec::new(), endpoints: Vec::new() })
        };
        world.take(Said::Slices(Change::Put(key("s1"), slice("web"))));
        world.take(Said::Slices(Change::Put(key("s2"), slice("web"))));
        assert_eq!(world.slices_of(&key("web")).count(), 2);
        world.take(Said::Slices(Change::Put(key("s1"), slice("db"))));
        assert_eq!((world.slices_of(&key("web")).count(), world.slices_of(&key("db")).count()), (1, 1));
    }
}
