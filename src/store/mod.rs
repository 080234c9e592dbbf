//! Owns the [`State`]: takes events, writes what must last, applies them, publishes the result.
//!
//! One task owns it, so a decision made inside [`Store::transact`] is made on the newest state and nobody
//! comes between the decision and its effect. What must outlive the process is on disk before anybody is told
//! that it happened; catalogs, which can be had again, are written every few seconds. What several gateways of a
//! cluster share is changed by one of them at a time, and followed by the others. No rule is decided here.

mod documents;
mod load;
mod shared;
mod writer;

use std::sync::Arc;

use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, sleep_until},
};

pub use self::load::{Loaded, held_block, load};
use self::{
    shared::{Found, Shared},
    writer::{Writer, Writing},
};
use crate::{
    clock::Clock,
    files::{Exclusive, Persist, PersistError},
    model::{
        code::{Code, Problem},
        ids::Timestamp,
        limits,
        state::{Event, State},
    },
    supervise::Tasks,
};

/// Why an event was not taken.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// What must last could not be written; nothing was changed.
    #[error("the state could not be written: {0}")]
    Write(#[from] PersistError),
    /// The process is shutting down.
    #[error("the store has stopped")]
    Stopped,
}

impl StoreError {
    /// For people.
    #[must_use]
    pub fn problem(&self) -> Problem {
        match self {
            Self::Write(error) => Problem::new(Code::STATE_NOT_WRITABLE, error.to_string()),
            Self::Stopped => Problem::new(Code::NO_DAEMON, self.to_string()),
        }
    }
}

/// Decides on the newest state what is to happen.
type Decision = Box<dyn FnOnce(&State, Timestamp) -> Vec<Event> + Send>;

struct Command {
    decide: Decision,
    /// It may change what the gateways of the cluster share.
    shared: bool,
    done: oneshot::Sender<Result<(), StoreError>>,
}

/// The way to the state; cheap to clone.
#[derive(Debug, Clone)]
pub struct Store {
    commands: mpsc::Sender<Command>,
    state: watch::Receiver<Arc<State>>,
}

impl Store {
    /// Takes over a loaded state. `folder` is this gateway's own folder inside the state folder.
    #[must_use]
    pub fn start(
        state: State,
        persist: Arc<dyn Persist>,
        folder: String,
        clock: Clock,
        tasks: &Tasks,
    ) -> Self {
        let (commands, queue) = mpsc::channel(limits::STORE_QUEUE_MAX);
        let (publish, newest) = watch::channel(Arc::new(state.clone()));
        let shared = Shared::new(persist.clone());
        let writer = Writer::new(shared.clone(), persist, folder, tasks.clone(), &state);
        let owner = Owner { state, publish, writer, shared, clock, tasks: tasks.clone() };
        tasks.spawn("store", owner.run(queue, tasks.clone()));
        Self { commands, state: newest }
    }

    /// The newest state.
    #[must_use]
    pub fn state(&self) -> Arc<State> {
        self.state.borrow().clone()
    }

    /// Yields each newer state; some in between may be skipped.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Arc<State>> {
        self.state.clone()
    }

    /// Applies one event, durably where it must last.
    ///
    /// # Errors
    /// [`StoreError`]; then nothing was changed.
    pub async fn apply(&self, event: Event) -> Result<(), StoreError> {
        let shared = event.is_shared();
        self.send(Box::new(move |_, _| vec![event]), shared).await
    }

    /// Decides on the newest state and applies what was decided, with nothing in between: the
    /// compare-and-swap of everything that may happen once.
    ///
    /// # Errors
    /// What `decide` refuses, or a [`StoreError`] as a problem; then nothing was changed.
    pub async fn transact<T: Send + 'static>(
        &self,
        decide: impl FnOnce(&State, Timestamp) -> Result<(Vec<Event>, T), Problem> + Send + 'static,
    ) -> Result<T, Problem> {
        let (tell, told) = oneshot::channel();
        let decide = move |state: &State, now| match decide(state, now) {
            Ok((events, result)) => {
                // The receiver waits below, unless its caller has given up.
                let _ = tell.send(Ok(result));
                events
            }
            Err(problem) => {
                let _ = tell.send(Err(problem));
                Vec::new()
            }
        };
        self.send(Box::new(decide), true).await.map_err(|error| error.problem())?;
        told.await.map_err(|_| StoreError::Stopped.problem())?
    }

    async fn send(&self, decide: Decision, shared: bool) -> Result<(), StoreError> {
        let (done, answer) = oneshot::channel();
        self.commands.send(Command { decide, shared, done }).await.map_err(|_| StoreError::Stopped)?;
        answer.await.map_err(|_| StoreError::Stopped)?
    }
}

/// The one task that changes the state.
struct Owner {
    state: State,
    publish: watch::Sender<Arc<State>>,
    writer: Writer,
    shared: Shared,
    clock: Clock,
    tasks: Tasks,
}

impl Owner {
    async fn run(mut self, mut queue: mpsc::Receiver<Command>, tasks: Tasks) {
        let stop = tasks.shutdown().hard();
        tokio::pin!(stop);
        let mut next_tick = self.clock.now();
        let mut next_look = next_tick + limits::SHARED_LOOK_INTERVAL;
        let mut waiting = Vec::new();
        let mut writing: Option<Writing> = None;
        loop {
            let written = async {
                match &mut writing {
                    Some(writing) => writing.await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = &mut stop => break,
                taken = queue.recv_many(&mut waiting, limits::STORE_BATCH_MAX) => {
                    if taken == 0 {
                        break;
                    }
                    self.take(&mut waiting).await;
                }
                () = written => writing = None,
                () = sleep_until(Instant::from_std(next_look)) => {
                    self.look().await;
                    next_look = self.clock.now() + limits::SHARED_LOOK_INTERVAL;
                }
                () = sleep_until(Instant::from_std(next_tick)) => {
                    next_tick = self.clock.now() + limits::STORE_TICK;
                    self.state.apply(Event::Tick, self.clock.wall());
                    self.publish();
                    // Changes do not wait for the disk, and one writing waits for the one before.
                    if writing.is_none() {
                        writing = Some(self.writer.write_catalogs(&self.state, self.clock.wall()));
                    }
                }
            }
        }
        if let Some(writing) = writing {
            writing.await;
        }
        self.writer.write_all(&self.state, self.clock.wall()).await;
    }

    /// Looks whether another gateway of the cluster changed what they share.
    async fn look(&mut self) {
        let shared = self.shared.clone();
        match self.tasks.blocking(move || shared.look()).await {
            Ok(found) => self.accept(found),
            Err(error) => tracing::warn!(%error, "what the gateways share cannot be looked at"),
        }
        self.publish();
    }

    /// Takes over what another gateway has decided and written.
    fn accept(&mut self, found: Vec<Found>) {
        let now = self.clock.wall();
        for event in shared::events(&self.state, found) {
            self.state.apply(event, now);
        }
    }

    /// Takes the right to change what is shared, and what was changed before.
    async fn begin(&mut self) -> Result<Exclusive, PersistError> {
        let shared = self.shared.clone();
        let (exclusive, found) = self.tasks.blocking(move || shared.begin()).await?;
        self.accept(found);
        Ok(exclusive)
    }

    /// Applies what waits, publishes once, then answers.
    async fn take(&mut self, waiting: &mut Vec<Command>) {
        let mut answers = Vec::with_capacity(waiting.len());
        let mut exclusive = None;
        for command in waiting.drain(..) {
            if command.shared && exclusive.is_none() {
                match self.begin().await {
                    Ok(held) => exclusive = Some(held),
                    Err(error) => {
                        answers.push((command.done, Err(error.into())));
                        continue;
                    }
                }
            }
            let now = self.clock.wall();
            let events = (command.decide)(&self.state, now);
            let result = self.change(events, now).await;
            answers.push((command.done, result));
        }
        drop(exclusive);
        self.publish();
        for (done, result) in answers {
            // Whoever asked may have gone; the change stands.
            let _ = done.send(result);
        }
    }

    async fn change(&mut self, events: Vec<Event>, now: Timestamp) -> Result<(), StoreError> {
        let mut next = self.state.clone();
        let mut changed = false;
        for event in events {
            changed |= next.apply(event, now);
        }
        if changed {
            self.writer.write_durable(&self.state, &next).await?;
            self.state = next;
        }
        Ok(())
    }

    fn publish(&self) {
        self.publish.send_if_modified(|published| {
            let newer = published.version != self.state.version;
            if newer {
                *published = Arc::new(self.state.clone());
            }
            newer
        });
    }
}

#[cfg(test)]
mod tests;
