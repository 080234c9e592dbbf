//! Writes what imports have become: ServiceImports, EndpointSlices, derived Services, and the conditions of
//! ServiceExports. Only what differs is written, a few names at a time and never faster than a limit.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use futures_util::{StreamExt as _, stream};
use kube::{
    Api, Client,
    api::{DeleteParams, DynamicObject, Patch, PatchParams},
};
use serde_json::{Value, json};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use super::{
    SOURCE_SERVICE, conditions,
    events::{Events, Subject},
    exporting::{export, service_name},
    importing::{self, Given, Kind, Object, Place, contains},
    seen::{Derived, Key, Written},
    watching::{plain, standard},
    world::World,
};
use crate::{
    clock::Clock,
    model::{
        backoff::Backoff, entrance::Entrance, ids::ServiceName, import::Import, limits, state::State,
        virtual_ip::VipKey,
    },
    store::Store,
    supervise::Tasks,
};

/// The only task that writes objects.
pub(super) struct Sink {
    client: Client,
    store: Store,
    clock: Clock,
    place: Place,
    events: Events,
    /// Derived Services that were written, or are just being, and were not yet seen: their ports are taken.
    written: Mutex<BTreeMap<VipKey, Entrance>>,
    /// Names to look at again, since a write was refused or did not arrive.
    again: BTreeMap<ServiceName, (Backoff, Instant)>,
}

/// What was last looked at.
#[derive(Default)]
struct Looked {
    state: Option<Arc<State>>,
    world: Option<Arc<World>>,
}

impl Sink {
    pub(super) fn new(client: Client, store: Store, clock: Clock, place: Place, events: Events) -> Self {
        Self { client, store, clock, place, events, written: Mutex::default(), again: BTreeMap::new() }
    }

    /// Follows the state and the world until shutdown, and writes while this gateway leads.
    pub(super) async fn run(
        mut self,
        mut world: watch::Receiver<Arc<World>>,
        mut leads: watch::Receiver<bool>,
        tasks: Tasks,
    ) {
        let mut soft = pin!(tasks.shutdown().soft());
        let mut states = self.store.watch();
        let mut looked = Looked::default();
        loop {
            let newest = (states.borrow_and_update().clone(), world.borrow_and_update().clone());
            let may_write = *leads.borrow_and_update() && newest.1.knows_what_is_written();
            if may_write {
                let names = self.touched(&looked, &newest.0, &newest.1);
                let settled = {
                    let (sink, state, world) = (&self, &*newest.0, &*newest.1);
                    let each = stream::iter(names).map(|name| async move {
                        let result = sink.settle(&name, state, world).await;
                        (name, result)
                    });
                    let all = each.buffer_unordered(limits::API_WRITERS_MAX).collect::<Vec<_>>();
                    tokio::select! {
                        biased;
                        () = &mut soft => return,
                        settled = all => settled,
                    }
                };
                self.note(settled);
                looked = Looked { state: Some(newest.0), world: Some(newest.1) };
            } else {
                // Whoever wrote meanwhile may have left anything.
                looked = Looked::default();
                self.notes().clear();
            }
            let next = self.again.values().map(|(_, at)| *at).min();
            let pause =
                next.map_or(limits::API_IDLE_LOOK, |at| at.saturating_duration_since(self.clock.now()));
            tokio::select! {
                biased;
                () = &mut soft => return,
                changed = states.changed() => if changed.is_err() { return soft.await },
                changed = world.changed() => if changed.is_err() { return soft.await },
                changed = leads.changed() => if changed.is_err() { return soft.await },
                () = sleep(pause) => {}
            }
        }
    }

    /// The names whose objects may have to be written.
    fn touched(&mut self, looked: &Looked, state: &State, world: &World) -> BTreeSet<ServiceName> {
        let now = self.clock.now();
        let mut names: BTreeSet<ServiceName> =
            self.again.iter().filter(|(_, (_, at))| *at <= now).map(|(name, _)| name.clone()).collect();
        let (Some(old_state), Some(old)) = (&looked.state, &looked.world) else {
            names.extend(all_names(state, world));
            return names;
        };
        let changes = state.changes_since(old_state);
        names.extend(changes.imports);
        names.extend(changes.entrances);
        names.extend(changes.exports);
        let mut keys = world.imports.changed_since(&old.imports);
        keys.extend(world.exports_changed_since(old));
        names.extend(keys.iter().filter_map(|key| service_name(key).ok()));
        for key in world.derived.changed_since(&old.derived) {
            let both = [old.derived.get(&key), world.derived.get(&key)];
            names.extend(both.into_iter().flatten().map(|derived| derived.of.service().clone()));
        }
        for key in world.import_slices.changed_since(&old.import_slices) {
            let both = [old.import_slices.get(&key), world.import_slices.get(&key)];
            names.extend(both.into_iter().flatten().filter_map(|slice| slice_service(&key, slice)));
        }
        if !world.namespaces.changed_since(&old.namespaces).is_empty() {
            names.extend(all_names(state, world));
        }
        names
    }

    /// Makes the objects of one name what they should be, as far as that differs from what was seen.
    async fn settle(&self, name: &ServiceName, state: &State, world: &World) -> Result<(), String> {
        self.forget_seen(name, world);
        let mut failed = None;
        let mut wanted = self.entrances(name, state, world);
        for object in &wanted {
            let result = self.put(object, world).await;
            failed = failed.or_else(|| result.err());
        }
        let no_family = failed.as_deref().is_some_and(importing::lacks_family);
        // These show the addresses that those were given.
        let rest = self.wanted(name, no_family, state, world);
        for object in &rest {
            let result = self.put(object, world).await;
            failed = failed.or_else(|| result.err());
        }
        wanted.extend(rest);
        // Nothing goes before it is sure that it has to: what no peer has told yet may still come.
        if state.synced() {
            for (kind, key) in superfluous(name, &wanted, world) {
                let result = self.delete(kind, &key).await;
                failed = failed.or_else(|| result.err());
            }
        }
        let result = self.tell_exporter(name, state, world).await;
        failed = failed.or_else(|| result.err());
        failed.map_or(Ok(()), Err)
    }

    /// Remembers which names have to be looked at again, and when.
    fn note(&mut self, settled: Vec<(ServiceName, Result<(), String>)>) {
        for (name, result) in settled {
            let known = self.again.remove(&name).map(|(backoff, _)| backoff);
            if let Err(error) = result {
                tracing::warn!(%name, %error, "not written to the API server");
                let (now, mut rng) = (self.clock.now(), self.clock.rng());
                let mut backoff = known.unwrap_or_default();
                backoff.dialled(now);
                let at = backoff.failed(now, &mut rng);
                self.again.insert(name, (backoff, at));
            }
        }
    }

    fn notes(&self) -> MutexGuard<'_, BTreeMap<VipKey, Entrance>> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was written and has been seen since needs no notes; its addresses are what is seen.
    fn forget_seen(&self, name: &ServiceName, world: &World) {
        let place = &self.place.namespace;
        self.notes().retain(|key, entrance| {
            let seen = || world.derived.get(&Key::new(place, &importing::entrance_name(key)));
            key.service() != name || seen().is_none_or(|derived| derived.entrance.ports != entrance.ports)
        });
    }

    /// What is known of the derived Service of a name: as it was written, else as it was seen.
    fn entrance(&self, key: &VipKey, world: &World) -> Option<Entrance> {
        let written = self.notes().get(key).cloned();
        let object = Key::new(&self.place.namespace, &importing::entrance_name(key));
        written.or_else(|| world.derived.get(&object).map(|derived| derived.entrance.clone()))
    }

    /// An import that has its namespace here; without one it has no objects (rule 3).
    fn import<'a>(name: &ServiceName, state: &'a State, world: &World) -> Option<&'a Arc<Import>> {
        world.namespaces.get(&Key::new("", name.namespace.as_str()))?;
        state.imports.get(name)
    }

    /// The derived Services of a name. Their ports are theirs from now on, also for those settled beside it.
    fn entrances(&self, name: &ServiceName, state: &State, world: &World) -> Vec<Object> {
        let Some(import) = Self::import(name, state, world) else { return Vec::new() };
        let (keys, _) = importing::entrances_of(import);
        let known: Vec<Option<Entrance>> = keys.iter().map(|key| self.entrance(key, world)).collect();
        let mut notes = self.notes();
        let seen = world.derived.iter().flat_map(|(_, derived)| &derived.entrance.ports);
        let written = notes.values().flat_map(|entrance| &entrance.ports);
        let mut taken: BTreeSet<u16> = seen.chain(written).map(|port| port.listening).collect();
        let mut wanted: Vec<Object> = Vec::new();
        for (key, known) in keys.iter().zip(known) {
            let ports = importing::entrance_ports(key, import, known.as_ref(), &mut taken);
            // A Service without ports is refused by the API server.
            if !ports.is_empty() {
                wanted.push(importing::entrance(key, import, &ports, &self.place));
                if known.as_ref().is_none_or(|known| known.ports != ports) {
                    let addresses = known.map(|known| known.addresses).unwrap_or_default();
                    notes.insert(key.clone(), Entrance { addresses, ports });
                }
            }
        }
        wanted
    }

    /// The objects of a name beside its derived Services.
    fn wanted(&self, name: &ServiceName, no_family: bool, state: &State, world: &World) -> Vec<Object> {
        let Some(import) = Self::import(name, state, world) else { return Vec::new() };
        let (_, beyond) = importing::entrances_of(import);
        let address = |key: &VipKey| -> Option<Ipv4Addr> { self.entrance(key, world)?.ipv4() };
        let mut wanted: Vec<Object> =
            import.clusters.iter().filter_map(|part| importing::slice(import, part, &address)).collect();
        let own = self.entrance(&VipKey::Service(name.clone()), world);
        let addresses = own.map(|entrance| entrance.addresses).unwrap_or_default();
        let given = Given { addresses: &addresses, beyond, no_family };
        wanted.push(importing::service_import(import, given));
        wanted
    }

    /// Writes an object if it is not there as it should be, and its status likewise.
    async fn put(&self, object: &Object, world: &World) -> Result<(), String> {
        let seen = written(object.kind, &object.key, world);
        if !seen.is_some_and(|seen| object.stands_as(seen)) {
            let parameters = PatchParams::apply("tombolo").force();
            let api = self.api(object.kind, &object.key.namespace);
            let answer =
                self.paced(api.patch(&object.key.name, &parameters, &Patch::Apply(&object.body))).await?;
            if let Some(derived) = Derived::of(&answer).filter(|_| object.kind == Kind::Service) {
                self.notes().insert(derived.of, derived.entrance);
            }
        }
        let Some(status) =
            object.status.as_ref().filter(|_| !seen.is_some_and(|seen| object.has_status(seen)))
        else {
            return Ok(());
        };
        let known = seen.and_then(|seen| seen.data["status"]["conditions"].as_array().cloned());
        let status = dated(status, &known.unwrap_or_default(), &conditions::time(self.clock.wall()));
        self.put_status(object.kind, &object.key, &object.body, &status).await
    }

    async fn put_status(&self, kind: Kind, key: &Key, like: &Value, status: &Value) -> Result<(), String> {
        let body = json!({
            "apiVersion": like["apiVersion"],
            "kind": like["kind"],
            "metadata": { "name": key.name, "namespace": key.namespace },
            "status": status,
        });
        let parameters = PatchParams::apply("tombolo-status").force();
        let api = self.api(kind, &key.namespace);
        self.paced(api.patch_status(&key.name, &parameters, &Patch::Apply(&body))).await.map(drop)
    }

    async fn delete(&self, kind: Kind, key: &Key) -> Result<(), String> {
        let api = self.api(kind, &key.namespace);
        let deleted = self.paced(api.delete(&key.name, &DeleteParams::default())).await;
        match deleted {
            Err(error) if !error.contains("NotFound") => Err(error),
            _ => {
                self.notes().retain(|of, _| importing::entrance_name(of) != key.name);
                Ok(())
            }
        }
    }

    /// Writes the conditions of this cluster's ServiceExport of a name, if there is one.
    async fn tell_exporter(&self, name: &ServiceName, state: &State, world: &World) -> Result<(), String> {
        let key = importing::import_key(name);
        let Some(declared) = world.exports.get(&key).filter(|_| world.knows_exports()) else { return Ok(()) };
        let meant = export(world, &key, &state.me.locality);
        let invalid = meant.and_then(Result::err);
        // Offered, once the state says so.
        let import = state.imports.get(name).filter(|_| state.exports.contains_key(name));
        let conditions = conditions::of_export(
            invalid.as_ref(),
            import.map(AsRef::as_ref),
            declared.generation,
            &declared.conditions,
            self.clock.wall(),
        );
        if contains(&Value::Array(declared.conditions.clone()), &Value::Array(conditions.clone())) {
            return Ok(());
        }
        let like = json!({ "apiVersion": "multicluster.x-k8s.io/v1beta1", "kind": "ServiceExport" });
        let api: Api<DynamicObject> = Api::namespaced_with(
            self.client.clone(),
            &key.namespace,
            &standard("ServiceExport", "serviceexports"),
        );
        let body = json!({
            "apiVersion": like["apiVersion"],
            "kind": like["kind"],
            "metadata": { "name": key.name, "namespace": key.namespace },
            "status": { "conditions": conditions },
        });
        let parameters = PatchParams::apply("tombolo-status").force();
        match self.paced(api.patch_status(&key.name, &parameters, &Patch::Apply(&body))).await {
            // It went while this was being written.
            Err(error) if error.contains("NotFound") => return Ok(()),
            result => result.map(drop)?,
        }
        let subject = Subject {
            api_version: "multicluster.x-k8s.io/v1beta1",
            kind: "ServiceExport",
            key,
            uid: declared.uid.clone(),
        };
        for (good, reason, note) in conditions::news(&declared.conditions, &conditions) {
            self.events.tell(&subject, good, reason, note).await;
        }
        Ok(())
    }

    fn api(&self, kind: Kind, namespace: &str) -> Api<DynamicObject> {
        let resource = match kind {
            Kind::Service => plain("", "Service", "services"),
            Kind::Slice => plain("discovery.k8s.io", "EndpointSlice", "endpointslices"),
            Kind::Import => standard("ServiceImport", "serviceimports"),
        };
        Api::namespaced_with(self.client.clone(), namespace, &resource)
    }

    /// One request, ended when it takes too long, and a pause after it.
    async fn paced<T>(&self, request: impl Future<Output = kube::Result<T>>) -> Result<T, String> {
        let answer = timeout(limits::API_SERVER_TIMEOUT, request).await;
        sleep(limits::API_WRITE_PAUSE).await;
        match answer {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("no answer within {:?}", limits::API_SERVER_TIMEOUT)),
        }
    }
}

/// Conditions that say what they said keep their time.
fn dated(status: &Value, known: &[Value], now: &str) -> Value {
    let mut status = status.clone();
    for condition in status["conditions"].as_array_mut().into_iter().flatten() {
        let same =
            |known: &&Value| known["type"] == condition["type"] && known["status"] == condition["status"];
        let since = known.iter().find(same).map(|known| known["lastTransitionTime"].clone());
        condition["lastTransitionTime"] = since.unwrap_or_else(|| now.into());
    }
    status
}

fn written<'a>(kind: Kind, key: &Key, world: &'a World) -> Option<&'a Written> {
    match kind {
        Kind::Service => world.derived.get(key).map(|derived| &derived.written),
        Kind::Slice => world.import_slices.get(key).map(AsRef::as_ref),
        Kind::Import => world.imports.get(key).map(AsRef::as_ref),
    }
}

/// The service that a slice of ours belongs to.
fn slice_service(key: &Key, slice: &Written) -> Option<ServiceName> {
    let service = slice.labels.get(SOURCE_SERVICE)?;
    service_name(&Key::new(&key.namespace, service)).ok()
}

/// Objects of ours that stand for a name and should not.
fn superfluous(name: &ServiceName, wanted: &[Object], world: &World) -> Vec<(Kind, Key)> {
    let is_wanted =
        |kind: Kind, key: &Key| wanted.iter().any(|object| object.kind == kind && object.key == *key);
    let mut found = Vec::new();
    for (key, derived) in world.derived.iter() {
        if derived.of.service() == name && !is_wanted(Kind::Service, key) {
            found.push((Kind::Service, key.clone()));
        }
    }
    for (key, slice) in world.import_slices.iter() {
        if slice_service(key, slice).as_ref() == Some(name) && !is_wanted(Kind::Slice, key) {
            found.push((Kind::Slice, key.clone()));
        }
    }
    let key = importing::import_key(name);
    if world.imports.get(&key).is_some() && !is_wanted(Kind::Import, &key) {
        found.push((Kind::Import, key));
    }
    found
}

/// Every name that has, or may need, an object.
fn all_names(state: &State, world: &World) -> BTreeSet<ServiceName> {
    let mut names: BTreeSet<ServiceName> = state.imports.keys().cloned().collect();
    let keys = world.imports.iter().map(|(key, _)| key).chain(world.exports.iter().map(|(key, _)| key));
    names.extend(keys.filter_map(|key| service_name(key).ok()));
    names.extend(world.derived.iter().map(|(_, derived)| derived.of.service().clone()));
    names.extend(world.import_slices.iter().filter_map(|(key, slice)| slice_service(key, slice)));
    names
}
