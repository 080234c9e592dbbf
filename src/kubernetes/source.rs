//! Owns what is known of the cluster, and turns each change of it into events for the store.

use std::{pin::pin, sync::Arc};

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, watch};

use super::{
    exporting::export,
    policies::declared,
    seen::Key,
    world::{Said, World},
};
use crate::{
    model::{
        catalog::ExportSource,
        limits,
        state::{Event, State},
    },
    store::Store,
    supervise::Tasks,
};

/// The one task that changes the world.
pub(super) struct Source {
    pub(super) store: Store,
    pub(super) publish: watch::Sender<Arc<World>>,
    /// The same for whoever asks on a data path.
    pub(super) shared: Arc<ArcSwap<World>>,
}

impl Source {
    /// Runs until shutdown, or until nobody follows the API server any more.
    pub(super) async fn run(self, mut said: mpsc::Receiver<Said>, tasks: Tasks) {
        let mut soft = pin!(tasks.shutdown().soft());
        let mut world = World::default();
        // What the store was last told about.
        let mut told = World::default();
        let mut waiting = Vec::new();
        loop {
            let taken = tokio::select! {
                biased;
                () = &mut soft => return,
                taken = said.recv_many(&mut waiting, limits::API_EVENTS_BATCH_MAX) => taken,
            };
            if taken == 0 {
                return soft.await;
            }
            for said in waiting.drain(..) {
                world.take(said);
            }
            if self.tell(&told, &world).await {
                told = world.clone();
            }
            let newest = Arc::new(world.clone());
            self.shared.store(newest.clone());
            self.publish.send_replace(newest);
        }
    }

    /// Tells the store what differs; false when it was not taken, and has to be told again.
    async fn tell(&self, old: &World, new: &World) -> bool {
        let changed = new.exports_changed_since(old);
        let entrances: Vec<Event> = entrances(old, new);
        let exports_known = new.knows_exports();
        let first = exports_known && !old.knows_exports();
        let rules = (new.own.knows_rules() && !new.own.same_rules(&old.own)).then(|| declared(&new.own));
        if entrances.is_empty() && rules.is_none() && !(exports_known && (first || !changed.is_empty())) {
            return true;
        }
        let world = new.clone();
        let decided = self.store.transact(move |state, _| {
            // Rules first: nothing is offered that one of them keeps back.
            let mut events: Vec<Event> = rules.map(Event::Declared).into_iter().chain(entrances).collect();
            if exports_known {
                let mut keys = changed;
                if first {
                    keys.extend(declared_before(state));
                }
                events.extend(keys.iter().filter_map(|key| event(&world, state, key)));
            }
            Ok((events, ()))
        });
        match decided.await {
            Ok(()) => true,
            Err(problem) => {
                tracing::error!(code = %problem.code, error = %problem.message, "exports could not be kept");
                false
            }
        }
    }
}

/// Exports that were declared when this gateway last ran: their ServiceExports may have gone since.
fn declared_before(state: &State) -> Vec<Key> {
    let ours = state.exports.values().filter(|export| export.source == ExportSource::Kubernetes);
    ours.map(|export| Key::new(export.name.namespace.as_str(), export.name.name.as_str())).collect()
}

/// What a Service's export has become.
fn event(world: &World, state: &State, key: &Key) -> Option<Event> {
    let name = key.service().ok()?;
    let known = state.exports.get(&name);
    if known.is_some_and(|known| known.source != ExportSource::Kubernetes) {
        // A person declared it elsewhere, which `tombolo services` shows; it is not ours to change.
        return None;
    }
    match export(world, key, &state.me.locality) {
        Some(Ok(export)) => Some(Event::Exported(export)),
        Some(Err(_)) | None => known.map(|_| Event::Unexported(name)),
    }
}

/// Derived Services that came, went or changed; all of them when they were all seen for the first time.
fn entrances(old: &World, new: &World) -> Vec<Event> {
    if !new.derived.is_complete() {
        return Vec::new();
    }
    let changed = new.derived.changed_since(&old.derived);
    let event = |key: &Key| match (new.derived.get(key), old.derived.get(key)) {
        (Some(now), _) => Some(Event::Entrance(now.of.clone(), Some(now.entrance.clone()))),
        (None, Some(before)) => Some(Event::Entrance(before.of.clone(), None)),
        (None, None) => None,
    };
    changed.iter().filter_map(event).collect()
}
