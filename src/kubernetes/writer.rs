//! Writes the objects of one name: ServiceImport, EndpointSlices, derived Services, and the conditions of a
//! ServiceExport, as far as they differ from what was seen or was just written. Which names, and when, is
//! `sink`'s matter.

use std::{
    collections::BTreeSet,
    net::Ipv4Addr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

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
    conditions,
    events::{Events, Subject},
    exporting::export,
    importing::{self, Given, Kind, Object, Place, contains},
    notes::Notes,
    seen::{Derived, Key, Written},
    watching::{plain, standard},
    world::{World, spoken},
};
use crate::{
    clock::Clock,
    model::{entrance::Entrance, ids::ServiceName, import::Import, limits, state::State, virtual_ip::VipKey},
    store::Store,
};

/// Why a name is not as it should be.
#[derive(Debug, Clone)]
pub(super) struct Failure {
    pub(super) text: String,
    /// The API server has too much to do, or does not answer: no other write would fare better.
    pub(super) overloaded: bool,
    gone: bool,
}

impl Failure {
    fn of(error: &kube::Error) -> Self {
        let (overloaded, gone) = match error {
            kube::Error::Api(status) => (matches!(status.code, 429 | 503 | 504), status.code == 404),
            // It was not reached, or went away meanwhile.
            kube::Error::Service(_) | kube::Error::HyperError(_) => (true, false),
            _ => (false, false),
        };
        Self { text: spoken(error), overloaded, gone }
    }
}

/// What names are settled with; shared by all that are at it.
pub(super) struct Writer {
    client: Client,
    store: Store,
    clock: Clock,
    place: Place,
    events: Events,
    world: watch::Receiver<Arc<World>>,
    notes: Mutex<Notes>,
}

impl Writer {
    pub(super) fn new(
        client: Client,
        (store, clock): (Store, Clock),
        place: Place,
        events: Events,
        world: watch::Receiver<Arc<World>>,
    ) -> Self {
        Self { client, store, clock, place, events, world, notes: Mutex::default() }
    }

    /// Makes the objects of one name what they should be, as far as that differs from what was seen.
    /// Tells when to look again, should nothing call for it.
    pub(super) async fn settle(&self, name: &ServiceName) -> Result<Option<Instant>, Failure> {
        // The newest of now: ports that others have taken since stand in it, or in the notes.
        let (state, world) = (&*self.store.state(), &*self.world.borrow().clone());
        self.forget(name, world);
        let mut failed: Option<Failure> = None;
        let mut wanted = self.entrances(name, state, world);
        for object in &wanted {
            noted(&mut failed, self.put(name, object, world).await)?;
        }
        let no_family = failed.as_ref().is_some_and(|it| importing::lacks_family(&it.text));
        // These show the addresses that those were given.
        let rest = self.wanted(name, no_family, state, world);
        for object in &rest {
            noted(&mut failed, self.put(name, object, world).await)?;
        }
        wanted.extend(rest);
        // Nothing goes before it is sure that it has to: what no peer has told yet may still come.
        if state.synced() {
            for (kind, key) in superfluous(name, &wanted, world) {
                noted(&mut failed, self.delete(name, kind, &key, world).await)?;
            }
        }
        noted(&mut failed, self.tell_exporter(name, state, world).await)?;
        let newest = self.world.borrow().clone();
        failed.map_or_else(|| Ok(self.forget(name, &newest)), Err)
    }

    /// What nobody has written since is only what is seen.
    pub(super) fn forget_all(&self) {
        *self.notes() = Notes::default();
    }

    fn notes(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was written and has been seen since needs no notes.
    fn forget(&self, name: &ServiceName, world: &World) -> Option<Instant> {
        let place = &self.place.namespace;
        let entrance_seen = |key: &VipKey, entrance: &Entrance| {
            let seen = world.derived.get(&Key::new(place, &importing::entrance_name(key)));
            seen.is_some_and(|derived| derived.entrance.ports == entrance.ports)
        };
        let object_seen = |at: &(Kind, Key), answered: &Written| match at {
            (Kind::Export, key) => world.exports.get(key).is_none_or(|seen| {
                answered.data["status"]["conditions"] == Value::Array(seen.conditions.clone())
            }),
            (kind, key) => written(*kind, key, world).is_some_and(|seen| seen == answered),
        };
        self.notes().forget(name, self.clock.now(), entrance_seen, object_seen)
    }

    /// An object as it was answered lately, else as it was seen.
    fn held(&self, name: &ServiceName, at: &(Kind, Key), world: &World) -> Option<Written> {
        let noted = self.notes().object_at(name, at).cloned();
        noted.or_else(|| written(at.0, &at.1, world).cloned())
    }

    fn note(&self, name: &ServiceName, at: (Kind, Key), answered: Written) {
        let until = self.clock.now() + limits::API_ECHO_MAX;
        self.notes().object(name, at, answered, until);
    }

    /// What is known of the derived Service of a name: as it was written, else as it was seen.
    fn entrance(&self, key: &VipKey, world: &World) -> Option<Entrance> {
        let written = self.notes().entrance_of(key).cloned();
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
        let mut wanted: Vec<Object> = Vec::new();
        for (key, known) in keys.iter().zip(known) {
            let is_taken = |port: u16| world.is_entrance(port) || notes.is_entrance(port);
            let ports = importing::entrance_ports(key, import, known.as_ref(), is_taken);
            // A Service without ports is refused by the API server.
            if !ports.is_empty() {
                wanted.push(importing::entrance(key, import, &ports, &self.place));
                if known.as_ref().is_none_or(|known| known.ports != ports) {
                    let addresses = known.map(|known| known.addresses).unwrap_or_default();
                    notes.entrance(key.clone(), Entrance { addresses, ports });
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
    async fn put(&self, name: &ServiceName, object: &Object, world: &World) -> Result<(), Failure> {
        let at = (object.kind, object.key.clone());
        let mut held = self.held(name, &at, world);
        if !held.as_ref().is_some_and(|held| object.stands_as(held)) {
            let parameters = PatchParams::apply("tombolo").force();
            let api = self.api(object.kind, &object.key.namespace);
            let answer =
                self.paced(api.patch(&object.key.name, &parameters, &Patch::Apply(&object.body))).await?;
            if let Some(derived) = Derived::of(&answer).filter(|_| object.kind == Kind::Service) {
                self.notes().entrance(derived.of, derived.entrance);
            }
            let answered = Written::of(&answer);
            self.note(name, at.clone(), answered.clone());
            held = Some(answered);
        }
        let Some(status) =
            object.status.as_ref().filter(|_| !held.as_ref().is_some_and(|held| object.has_status(held)))
        else {
            return Ok(());
        };
        let known = held.and_then(|held| held.data["status"]["conditions"].as_array().cloned());
        let status = dated(status, &known.unwrap_or_default(), &conditions::time(self.clock.wall()));
        let answer = self.put_status(object.kind, &object.key, &object.body, &status).await?;
        self.note(name, at, Written::of(&answer));
        Ok(())
    }

    async fn put_status(
        &self,
        kind: Kind,
        key: &Key,
        like: &Value,
        status: &Value,
    ) -> Result<DynamicObject, Failure> {
        let body = json!({
            "apiVersion": like["apiVersion"],
            "kind": like["kind"],
            "metadata": { "name": key.name, "namespace": key.namespace },
            "status": status,
        });
        let parameters = PatchParams::apply("tombolo-status").force();
        let api = self.api(kind, &key.namespace);
        self.paced(api.patch_status(&key.name, &parameters, &Patch::Apply(&body))).await
    }

    async fn delete(&self, name: &ServiceName, kind: Kind, key: &Key, world: &World) -> Result<(), Failure> {
        let api = self.api(kind, &key.namespace);
        match self.paced(api.delete(&key.name, &DeleteParams::default())).await {
            Err(failure) if !failure.gone => Err(failure),
            _ => {
                let of = world.derived.get(key).filter(|_| kind == Kind::Service).map(|derived| &derived.of);
                self.notes().deleted(name, &(kind, key.clone()), of);
                Ok(())
            }
        }
    }

    /// Writes the conditions of this cluster's ServiceExport of a name, if there is one.
    async fn tell_exporter(&self, name: &ServiceName, state: &State, world: &World) -> Result<(), Failure> {
        let key = importing::import_key(name);
        let Some(declared) = world.exports.get(&key).filter(|_| world.knows_exports()) else { return Ok(()) };
        let meant = export(world, &key, &state.me.locality);
        let invalid = meant.and_then(Result::err);
        // Offered, once the state says so.
        let import = state.imports.get(name).filter(|_| state.exports.contains_key(name));
        let not_carried = world.services.get(&key).map_or(&[][..], |service| &service.not_carried);
        let at = (Kind::Export, key.clone());
        let noted = self.notes().object_at(name, &at).map(|noted| noted.data["status"]["conditions"].clone());
        let held = noted.and_then(|noted| noted.as_array().cloned());
        let held = held.unwrap_or_else(|| declared.conditions.clone());
        let conditions = conditions::of_export(
            invalid.as_ref(),
            import.map(AsRef::as_ref),
            not_carried,
            declared.generation,
            &held,
            self.clock.wall(),
        );
        if contains(&Value::Array(held.clone()), &Value::Array(conditions.clone())) {
            return Ok(());
        }
        let like = json!({ "apiVersion": "multicluster.x-k8s.io/v1beta1", "kind": "ServiceExport" });
        match self.put_status(Kind::Export, &key, &like, &json!({ "conditions": conditions })).await {
            // It went while this was being written.
            Err(failure) if failure.gone => return Ok(()),
            result => self.note(name, at, Written::of(&result?)),
        }
        let subject = Subject {
            api_version: "multicluster.x-k8s.io/v1beta1",
            kind: "ServiceExport",
            key,
            uid: declared.uid.clone(),
        };
        for (good, reason, note) in conditions::news(&held, &conditions) {
            self.events.tell(&subject, good, reason, note).await;
        }
        Ok(())
    }

    fn api(&self, kind: Kind, namespace: &str) -> Api<DynamicObject> {
        let resource = match kind {
            Kind::Service => plain("", "Service", "services"),
            Kind::Slice => plain("discovery.k8s.io", "EndpointSlice", "endpointslices"),
            Kind::Import => standard("ServiceImport", "serviceimports"),
            Kind::Export => standard("ServiceExport", "serviceexports"),
        };
        Api::namespaced_with(self.client.clone(), namespace, &resource)
    }

    /// One request, ended when it takes too long, and a pause after it.
    async fn paced<T>(&self, request: impl Future<Output = kube::Result<T>>) -> Result<T, Failure> {
        let answer = timeout(limits::API_SERVER_TIMEOUT, request).await;
        sleep(limits::API_WRITE_PAUSE).await;
        match answer {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(Failure::of(&error)),
            Err(_) => {
                let text = format!("no answer within {:?}", limits::API_SERVER_TIMEOUT);
                Err(Failure { text, overloaded: true, gone: false })
            }
        }
    }
}

/// Keeps the first failure, and goes on unless nothing else would fare better.
fn noted(failed: &mut Option<Failure>, result: Result<(), Failure>) -> Result<(), Failure> {
    match result {
        Err(failure) if failure.overloaded => return Err(failure),
        Err(failure) if failed.is_none() => *failed = Some(failure),
        _ => {}
    }
    Ok(())
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
        Kind::Export => None,
    }
}

/// Objects of ours that stand for a name and should not.
fn superfluous(name: &ServiceName, wanted: &[Object], world: &World) -> Vec<(Kind, Key)> {
    let wanted: BTreeSet<(Kind, &Key)> = wanted.iter().map(|object| (object.kind, &object.key)).collect();
    let import = importing::import_key(name);
    let import = world.imports.get(&import).map(|_| (Kind::Import, &import));
    let there = world.ours_of(name).chain(import).filter(|at| !wanted.contains(at));
    there.map(|(kind, key)| (kind, key.clone())).collect()
}
