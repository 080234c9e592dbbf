//! The tasks of one runtime and how they ended: the shared half of [`super::Tasks`] and [`super::Shards`].
//!
//! A [`Crew`] starts tasks on one runtime and knows who still runs; the [`Roster`] is one per daemon and
//! keeps the first failure. Which runtime a task belongs on is decided elsewhere.

use std::{
    any::Any,
    collections::BTreeMap,
    fmt,
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::Poll,
};

use tokio::runtime::Handle;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::Instrument as _;

use super::Shutdown;

/// How a task ended that should not have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cause {
    /// It returned before shutdown was asked for.
    Ended,
    /// It panicked with this message.
    Panicked(String),
}

/// The first task that brought the daemon down.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Failure {
    /// The name it was started with.
    pub task: String,
    /// What happened to it.
    pub cause: Cause,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.cause {
            Cause::Ended => write!(f, "task {:?} ended before shutdown", self.task),
            Cause::Panicked(message) => write!(f, "task {:?} panicked: {message}", self.task),
        }
    }
}

/// What all runtimes of one daemon share.
#[derive(Debug)]
pub(super) struct Roster {
    pub(super) shutdown: Shutdown,
    failure: OnceLock<Failure>,
    transient_panics: AtomicU64,
}

impl Roster {
    pub(super) fn new(shutdown: Shutdown) -> Arc<Self> {
        Arc::new(Self { shutdown, failure: OnceLock::new(), transient_panics: AtomicU64::new(0) })
    }

    pub(super) fn failed(&self) -> Option<Failure> {
        self.failure.get().cloned()
    }

    pub(super) fn transient_panics(&self) -> u64 {
        self.transient_panics.load(Ordering::Relaxed)
    }

    /// Judges the end of a task that was to run until shutdown.
    fn ended(&self, task: &str, outcome: Result<(), String>) {
        let cause = match outcome {
            Ok(()) if self.shutdown.is_soft() => return,
            Ok(()) => Cause::Ended,
            Err(message) => Cause::Panicked(message),
        };
        let failure = Failure { task: task.to_owned(), cause };
        tracing::error!(%failure, "a task failed, stopping");
        let reason = failure.to_string();
        // The first failure is the one to tell: later ones are mostly its consequence. It is there before
        // the signal, so that whoever sees the signal finds it.
        let _ = self.failure.set(failure);
        self.shutdown.stop(reason);
    }

    fn transient_ended(&self, task: &str, outcome: Result<(), String>) {
        if let Err(message) = outcome {
            self.transient_panics.fetch_add(1, Ordering::Relaxed);
            tracing::error!(task, message, "a connection's task panicked; the others go on");
        }
    }
}

/// The tasks of one runtime.
#[derive(Debug, Clone)]
pub(super) struct Crew {
    runtime: Handle,
    tracker: TaskTracker,
    /// Cuts tasks off; None where dropping the runtime does, which spares each task the waiting for it.
    cut: Option<CancellationToken>,
    running: Arc<Mutex<BTreeMap<u64, Arc<str>>>>,
    roster: Arc<Roster>,
}

/// Takes a name off the list of running tasks, however its task ends.
struct Running {
    list: Arc<Mutex<BTreeMap<u64, Arc<str>>>>,
    key: u64,
}

impl Drop for Running {
    fn drop(&mut self) {
        lock(&self.list).remove(&self.key);
    }
}

impl Crew {
    pub(super) fn new(runtime: Handle, cut: Option<CancellationToken>, roster: Arc<Roster>) -> Self {
        Self { runtime, tracker: TaskTracker::new(), cut, running: Arc::default(), roster }
    }

    pub(super) fn runtime(&self) -> &Handle {
        &self.runtime
    }

    pub(super) fn spawn<F>(&self, name: Arc<str>, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let running = self.enter(Arc::clone(&name));
        let span = tracing::info_span!("task", name = &*name);
        let (roster, cut) = (Arc::clone(&self.roster), self.cut.clone());
        let run = async move {
            let _running = running;
            if let Some(outcome) = uncut(cut, caught(task)).await {
                roster.ended(&name, outcome);
            }
        };
        self.tracker.spawn_on(run.instrument(span), &self.runtime);
    }

    pub(super) fn spawn_transient<F>(&self, name: &'static str, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let span = tracing::debug_span!("task", name);
        let (roster, cut) = (Arc::clone(&self.roster), self.cut.clone());
        // Each future around it would hold it twice, as what it was given and as what it runs, and there is
        // one for each connection: behind a pointer it is kept once.
        let task = Box::pin(task);
        let run = async move {
            if let Some(outcome) = uncut(cut, caught(task)).await {
                roster.transient_ended(name, outcome);
            }
        };
        self.tracker.spawn_on(run.instrument(span), &self.runtime);
    }

    /// Done when no task is left; tasks may still be started, and are then waited for too.
    pub(super) async fn idle(&self) {
        self.tracker.close();
        self.tracker.wait().await;
    }

    /// Drops the tasks that still run, where that is this crew's to do.
    pub(super) fn cut(&self) {
        if let Some(cut) = &self.cut {
            cut.cancel();
        }
    }

    /// Who still runs, by name; transient tasks only by their number.
    pub(super) fn still_running(&self) -> Vec<String> {
        let mut names: Vec<String> = lock(&self.running).values().map(ToString::to_string).collect();
        let transient = self.tracker.len().saturating_sub(names.len());
        if transient > 0 {
            names.push(format!("{transient} transient"));
        }
        names
    }

    fn enter(&self, name: Arc<str>) -> Running {
        let mut list = lock(&self.running);
        let key = list.last_key_value().map_or(0, |(last, _)| last + 1);
        list.insert(key, name);
        Running { list: Arc::clone(&self.running), key }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs `task` to its end, or until it is cut off: None.
async fn uncut<T>(cut: Option<CancellationToken>, task: impl Future<Output = T>) -> Option<T> {
    match cut {
        Some(cut) => cut.run_until_cancelled_owned(task).await,
        None => Some(task.await),
    }
}

/// Runs `task` and turns a panic into its message.
async fn caught(task: impl Future<Output = ()>) -> Result<(), String> {
    let mut task = pin!(task);
    std::future::poll_fn(|cx| {
        // The task is not polled again after a panic, so nobody sees what it left half done; what it
        // shared sits behind locks and channels, whose own poisoning applies.
        catch_unwind(AssertUnwindSafe(|| task.as_mut().poll(cx)))
            .map_or_else(|payload| Poll::Ready(Err(panic_message(&*payload))), |poll| poll.map(Ok))
    })
    .await
}

fn panic_message(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_owned())
}
