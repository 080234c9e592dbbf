//! Named tasks of the control runtime, and work that blocks.
//!
//! A task started with [`Tasks::spawn`] is expected to run until shutdown; per-connection work is
//! [`Tasks::spawn_transient`]. The data path's tasks belong on `Shards`, not here.

use std::{future::Future, sync::Arc, time::Duration};

use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::{
    Failure, Shutdown,
    roster::{Crew, Roster},
};

/// Starts tasks on the control runtime. Cloning is cheap; it may be called from any thread.
#[derive(Debug, Clone)]
pub struct Tasks {
    crew: Crew,
    roster: Arc<Roster>,
    threads: bool,
}

impl Tasks {
    /// Tasks on the calling runtime, which becomes the control runtime; blocking work gets threads.
    ///
    /// # Panics
    /// When called outside a tokio runtime.
    #[must_use]
    pub fn new(shutdown: Shutdown) -> Self {
        Self::build(shutdown, true)
    }

    /// As [`Tasks::new`], but blocking work runs in place: no threads, for simulation.
    ///
    /// # Panics
    /// When called outside a tokio runtime.
    #[must_use]
    pub fn inline(shutdown: Shutdown) -> Self {
        Self::build(shutdown, false)
    }

    fn build(shutdown: Shutdown, threads: bool) -> Self {
        let roster = Roster::new(shutdown);
        let crew = Crew::new(Handle::current(), Some(CancellationToken::new()), Arc::clone(&roster));
        Self { crew, roster, threads }
    }

    /// Starts a task that runs until shutdown. A panic, or an end before soft shutdown, stops the daemon.
    pub fn spawn<F>(&self, name: impl Into<Arc<str>>, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.crew.spawn(name.into(), task);
    }

    /// Starts a task that ends when its work is done. A panic is logged and counted, no more.
    pub fn spawn_transient<F>(&self, name: &'static str, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.crew.spawn_transient(name, task);
    }

    /// Runs `work` where it may block, and gives its result. A panic in it goes on in the caller.
    ///
    /// Dropping the future does not stop `work`.
    pub async fn blocking<T, F>(&self, work: F) -> T
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        if !self.threads {
            return work();
        }
        match self.crew.runtime().spawn_blocking(work).await {
            Ok(value) => value,
            Err(error) => match error.try_into_panic() {
                Ok(payload) => std::panic::resume_unwind(payload),
                // The runtime is going down and never ran it: so does the caller.
                Err(_) => std::future::pending().await,
            },
        }
    }

    /// The signals these tasks obey and, when one fails, raise.
    #[must_use]
    pub fn shutdown(&self) -> &Shutdown {
        &self.roster.shutdown
    }

    /// The first task, here or on a shard, that panicked or ended early.
    #[must_use]
    pub fn failed(&self) -> Option<Failure> {
        self.roster.failed()
    }

    /// Panics of transient tasks so far, shards included.
    #[must_use]
    pub fn transient_panics(&self) -> u64 {
        self.roster.transient_panics()
    }

    /// Waits for all tasks to end, `grace` at most, then drops the rest and returns who that was.
    ///
    /// Raise [`Shutdown::stop`] first, or drain: this only waits. Not from a task of its own.
    pub async fn finish(&self, grace: Duration) -> Vec<String> {
        if tokio::time::timeout(grace, self.crew.idle()).await.is_ok() {
            return Vec::new();
        }
        let late = self.crew.still_running();
        self.crew.cut();
        // A task is dropped at its next wake-up; one that never yields would hold us up forever.
        let _ = tokio::time::timeout(grace, self.crew.idle()).await;
        late
    }

    pub(super) fn roster(&self) -> &Arc<Roster> {
        &self.roster
    }

    pub(super) fn runtime(&self) -> &Handle {
        self.crew.runtime()
    }
}
