//! Decides which names have to be looked at, and when: those whose state or objects have changed, a few at a time,
//! never one of them twice at a time, and none while the API server asks for patience. What is written is
//! `writer`'s matter.

use std::{collections::BTreeSet, pin::pin, sync::Arc, time::Instant};

use futures_util::{StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use tokio::{
    sync::{mpsc, watch},
    time::{Duration, sleep},
};

use super::{
    patience::Patience,
    queue::Queue,
    world::{Said, Trouble, WRITES, World},
    writer::{Failure, Writer},
};
use crate::{
    clock::Clock,
    model::{backoff::Backoff, ids::ServiceName, limits, state::State},
    store::Store,
    supervise::Tasks,
};

type Settled = (ServiceName, Result<Option<Instant>, Failure>);

/// The only task that writes objects.
pub(super) struct Sink {
    pub(super) writer: Arc<Writer>,
    pub(super) store: Store,
    pub(super) clock: Clock,
    pub(super) patience: Patience,
    /// Where it is told that nothing can be written.
    pub(super) say: mpsc::Sender<Said>,
}

/// What was last looked at.
struct Looked {
    state: Arc<State>,
    world: Arc<World>,
    /// When all names were.
    all: Instant,
}

/// Whether the API server takes what is written.
#[derive(Default)]
struct Refusal {
    backoff: Backoff,
    until: Option<Instant>,
    told: bool,
}

impl Sink {
    /// Follows the state and the world until shutdown, and writes while this gateway leads.
    pub(super) async fn run(
        self,
        mut world: watch::Receiver<Arc<World>>,
        mut leads: watch::Receiver<bool>,
        tasks: Tasks,
    ) {
        let mut soft = pin!(tasks.shutdown().soft());
        let mut states = self.store.watch();
        let mut looked: Option<Looked> = None;
        let mut queue = Queue::default();
        let mut refusal = Refusal::default();
        let mut running: FuturesUnordered<BoxFuture<'static, Settled>> = FuturesUnordered::new();
        loop {
            let newest = (states.borrow_and_update().clone(), world.borrow_and_update().clone());
            if *leads.borrow_and_update() && newest.1.knows_what_is_written() {
                looked = Some(self.look(looked, newest, &mut queue));
                self.begin(&mut queue, &mut running, &refusal);
            } else if looked.is_some() {
                // Whoever writes meanwhile may leave anything.
                (looked, queue) = (None, Queue::default());
                running.clear();
                self.writer.forget_all();
                self.taken_again(&mut refusal).await;
            }
            let pause = self.pause(looked.as_ref(), &queue, &refusal);
            tokio::select! {
                biased;
                () = &mut soft => return,
                changed = states.changed() => if changed.is_err() { return soft.await },
                changed = world.changed() => if changed.is_err() { return soft.await },
                changed = leads.changed() => if changed.is_err() { return soft.await },
                Some((name, result)) = running.next() => self.note(name, result, &mut queue, &mut refusal).await,
                () = sleep(pause) => {}
            }
        }
    }

    /// Puts the names into the queue whose objects may have to be written.
    fn look(
        &self,
        looked: Option<Looked>,
        (state, world): (Arc<State>, Arc<World>),
        queue: &mut Queue,
    ) -> Looked {
        let now = self.clock.now();
        let last = looked.filter(|looked| now < looked.all + limits::API_IDLE_LOOK);
        let Some(Looked { state: old_state, world: old, all }) = last else {
            all_names(&state, &world).into_iter().for_each(|name| queue.push(name));
            return Looked { state, world, all: now };
        };
        if state.synced() && !old_state.synced() {
            // Only now it is sure what is superfluous.
            all_names(&state, &world).into_iter().for_each(|name| queue.push(name));
        } else {
            changed_names((&old_state, &state), (&old, &world)).into_iter().for_each(|name| queue.push(name));
        }
        Looked { state, world, all }
    }

    /// Begins with as many names as may be looked at at once.
    fn begin(
        &self,
        queue: &mut Queue,
        running: &mut FuturesUnordered<BoxFuture<'static, Settled>>,
        refusal: &Refusal,
    ) {
        let now = self.clock.now();
        // After a refusal, one name tries whether it is over.
        let most = if refusal.backoff.failures() > 0 { 1 } else { limits::API_WRITERS_MAX };
        while running.len() < most && refusal.until.is_none_or(|until| until <= now) {
            let Some(name) = queue.next(now) else { return };
            let writer = self.writer.clone();
            running.push(Box::pin(async move {
                let result = writer.settle(&name).await;
                (name, result)
            }));
        }
    }

    /// How long there is nothing to do, if nothing happens.
    fn pause(&self, looked: Option<&Looked>, queue: &Queue, refusal: &Refusal) -> Duration {
        let Some(looked) = looked else { return limits::API_IDLE_LOOK };
        let now = self.clock.now();
        let all = Some(looked.all + limits::API_IDLE_LOOK);
        let refused = refusal.until.filter(|until| *until > now);
        // While nothing may be begun, names that are due wait for that.
        let due = queue.next_due().filter(|_| refused.is_none());
        let next = [all, due, refused].into_iter().flatten().min();
        next.map_or(limits::API_IDLE_LOOK, |at| at.saturating_duration_since(now))
    }

    /// Remembers what became of a name.
    async fn note(
        &self,
        name: ServiceName,
        result: Result<Option<Instant>, Failure>,
        queue: &mut Queue,
        refusal: &mut Refusal,
    ) {
        let now = self.clock.now();
        match result {
            Err(failure) if failure.overloaded => {
                queue.push(name.clone());
                queue.done(name, None);
                return self.refused(failure, refusal).await;
            }
            Err(failure) => {
                tracing::warn!(%name, error = %failure.text, "not written to the API server");
                queue.failed(name, |backoff| {
                    backoff.dialled(now);
                    backoff.failed(now, &mut self.clock.rng())
                });
            }
            Ok(again) => queue.done(name, again),
        }
        self.taken_again(refusal).await;
    }

    async fn refused(&self, failure: Failure, refusal: &mut Refusal) {
        let now = self.clock.now();
        // Those that were under way at the first refusal are no further ones.
        if refusal.until.is_none_or(|until| until <= now) {
            refusal.backoff.dialled(now);
            refusal.until = Some(refusal.backoff.failed(now, &mut self.clock.rng()));
        }
        refusal.until = refusal.until.max(Some(now + self.patience.left()));
        if !refusal.told {
            tracing::warn!(error = %failure.text, "the API server takes nothing that is written");
            let trouble = Trouble { reason: failure.text, unknown: false };
            refusal.told = self.say.send(Said::Trouble(WRITES, Some(trouble))).await.is_ok();
        }
    }

    async fn taken_again(&self, refusal: &mut Refusal) {
        if refusal.told {
            tracing::info!("the API server takes what is written again");
            // Nobody listens any more at the end.
            let _ = self.say.send(Said::Trouble(WRITES, None)).await;
        }
        *refusal = Refusal::default();
    }
}

/// Names of which something is not as it was.
fn changed_names(
    (old_state, state): (&State, &State),
    (old, world): (&World, &World),
) -> BTreeSet<ServiceName> {
    let changes = state.changes_since(old_state);
    let mut names: BTreeSet<ServiceName> = changes.imports.into_iter().collect();
    names.extend(changes.entrances);
    names.extend(changes.exports);
    let mut keys = world.imports.changed_since(&old.imports);
    keys.extend(world.exports_changed_since(old));
    names.extend(keys.iter().filter_map(|key| key.service().ok()));
    for key in world.derived.changed_since(&old.derived) {
        let both = [old.derived.get(&key), world.derived.get(&key)];
        names.extend(both.into_iter().flatten().map(|derived| derived.of.service().clone()));
    }
    for key in world.import_slices.changed_since(&old.import_slices) {
        let both = [old.import_slices.get(&key), world.import_slices.get(&key)];
        names.extend(both.into_iter().flatten().filter_map(|slice| slice.slice_of(&key)));
    }
    let namespaces = world.namespaces.changed_since(&old.namespaces);
    if !namespaces.is_empty() {
        let namespaces: BTreeSet<&str> = namespaces.iter().map(|key| key.name.as_str()).collect();
        let all = all_names(state, world).into_iter();
        names.extend(all.filter(|name| namespaces.contains(name.namespace.as_str())));
    }
    names
}

/// Every name that has, or may need, an object.
fn all_names(state: &State, world: &World) -> BTreeSet<ServiceName> {
    let mut names: BTreeSet<ServiceName> = state.imports.keys().cloned().collect();
    let keys = world.imports.iter().map(|(key, _)| key).chain(world.exports.iter().map(|(key, _)| key));
    names.extend(keys.filter_map(|key| key.service().ok()));
    names.extend(world.derived.iter().map(|(_, derived)| derived.of.service().clone()));
    names.extend(world.import_slices.iter().filter_map(|(key, slice)| slice.slice_of(key)));
    names
}

#[cfg(test)]
mod tests;
