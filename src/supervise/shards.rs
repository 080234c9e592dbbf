//! The data path's runtimes: one thread and one current-thread runtime per shard, or none of either.
//!
//! Code that runs on a shard does not know which kind it is on. `inline` shards are names on the caller's
//! runtime, for simulation and paused clocks; nothing in that kind touches a thread.

use std::{
    future::Future,
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use tokio::{
    runtime::{Builder, Runtime},
    sync::oneshot,
    time::MissedTickBehavior,
};
use tokio_util::sync::CancellationToken;

use super::{
    Tasks,
    roster::{Crew, Roster},
};
use crate::model::limits::{SHARD_JOIN_TIMEOUT, SHARD_TICK_INTERVAL, SHARDS_MAX};

/// Where the data path runs. Cloning is cheap; it may be called from any thread.
#[derive(Debug, Clone)]
pub struct Shards(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    shards: Vec<Shard>,
    /// Ends the heartbeats, and with them the threads.
    quit: CancellationToken,
    threads: Mutex<Vec<Thread>>,
}

#[derive(Debug)]
struct Shard {
    crew: Crew,
    pulse: Pulse,
}

#[derive(Debug)]
struct Thread {
    handle: thread::JoinHandle<()>,
    /// Closes when the thread is at its end, so that joining it does not block.
    ended: oneshot::Receiver<()>,
}

/// When a shard last proved to be alive: milliseconds since `origin`.
#[derive(Debug, Clone)]
struct Pulse {
    origin: Instant,
    last_ms: Arc<AtomicU64>,
}

impl Pulse {
    fn new(origin: Instant) -> Self {
        Self { origin, last_ms: Arc::default() }
    }

    fn last(&self) -> Instant {
        self.origin + Duration::from_millis(self.last_ms.load(Ordering::Relaxed))
    }

    /// Beats for ever, on the runtime that is watched.
    async fn beat(self) {
        let mut interval = tokio::time::interval(SHARD_TICK_INTERVAL);
        // After a stall the next beat counts, not those that were missed.
        interval.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            let now = interval.tick().await.into_std();
            let ms = now.saturating_duration_since(self.origin).as_millis();
            self.last_ms.store(u64::try_from(ms).unwrap_or(u64::MAX), Ordering::Relaxed);
        }
    }
}

impl Shards {
    /// How many shards to have unless told otherwise: the cores, at most 16; 1 where the kernel cannot
    /// steer packets to them.
    #[must_use]
    pub fn count_default() -> usize {
        if !cfg!(target_os = "linux") {
            return 1;
        }
        thread::available_parallelism().map_or(1, usize::from).min(SHARDS_MAX)
    }

    /// `count` threads named `shard-0`, `shard-1`, ..., each with a runtime of its own; at least one.
    ///
    /// They fail together with `tasks`. `now` is the monotonic time.
    ///
    /// # Errors
    /// The system refuses a thread or the descriptors of a runtime.
    pub fn threads(count: usize, tasks: &Tasks, now: Instant) -> io::Result<Self> {
        let quit = CancellationToken::new();
        // Threads that were started end with `quit` when a later one cannot be.
        let guard = quit.clone().drop_guard();
        let (mut shards, mut threads) = (Vec::new(), Vec::new());
        for index in 0..count.max(1) {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            let crew = Crew::new(runtime.handle().clone(), None, Arc::clone(tasks.roster()));
            let shard = Shard { crew, pulse: Pulse::new(now) };
            threads.push(Thread::start(index, runtime, shard.pulse.clone(), quit.clone())?);
            shards.push(shard);
        }
        let quit = guard.disarm();
        Ok(Self(Arc::new(Inner { shards, quit, threads: Mutex::new(threads) })))
    }

    /// `count` shards in name only: their tasks run on the runtime of `tasks`; at least one.
    ///
    /// `now` is the monotonic time.
    #[must_use]
    pub fn inline(count: usize, tasks: &Tasks, now: Instant) -> Self {
        let quit = CancellationToken::new();
        let shards = (0..count.max(1)).map(|_| Shard::inline(tasks, &quit, now)).collect();
        Self(Arc::new(Inner { shards, quit, threads: Mutex::default() }))
    }

    /// How many shards there are; at least one.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.shards.len()
    }

    /// Starts a task on `shard` (modulo the count) that runs until shutdown, as [`Tasks::spawn`].
    pub fn spawn<F>(&self, shard: usize, name: impl Into<Arc<str>>, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.shard(shard).crew.spawn(name.into(), task);
    }

    /// Starts a task on `shard` (modulo the count) that ends by itself, as [`Tasks::spawn_transient`].
    pub fn spawn_transient<F>(&self, shard: usize, name: &'static str, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.shard(shard).crew.spawn_transient(name, task);
    }

    /// When `shard` (modulo the count) last beat, which it does every [`SHARD_TICK_INTERVAL`]. A beat is
    /// dated by its schedule, so it may look up to one interval older than it is.
    #[must_use]
    pub fn last_tick(&self, shard: usize) -> Instant {
        self.shard(shard).pulse.last()
    }

    /// Waits for all tasks to end, `grace` at most, then ends the threads with what is left on them and
    /// returns who that was.
    ///
    /// Call it once, from the control runtime, after the hard signal. A thread that does not yield within
    /// [`SHARD_JOIN_TIMEOUT`] is named and left to the end of the process.
    pub async fn finish(&self, grace: Duration) -> Vec<String> {
        let idle = async {
            for shard in &self.0.shards {
                shard.crew.idle().await;
            }
        };
        let in_time = tokio::time::timeout(grace, idle).await.is_ok();
        let mut late = if in_time { Vec::new() } else { self.still_running() };
        self.0.end();
        let threads = std::mem::take(&mut *self.0.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            late.extend(thread.join().await);
        }
        late
    }

    fn still_running(&self) -> Vec<String> {
        let tasks = |(index, shard): (usize, &Shard)| {
            let names = shard.crew.still_running().into_iter();
            names.map(move |name| format!("{name} on shard-{index}")).collect::<Vec<_>>()
        };
        self.0.shards.iter().enumerate().flat_map(tasks).collect()
    }

    fn shard(&self, index: usize) -> &Shard {
        &self.0.shards[index % self.0.shards.len()]
    }
}

impl Shard {
    fn inline(tasks: &Tasks, quit: &CancellationToken, now: Instant) -> Self {
        let roster: Arc<Roster> = Arc::clone(tasks.roster());
        let crew = Crew::new(tasks.runtime().clone(), Some(CancellationToken::new()), roster);
        let pulse = Pulse::new(now);
        // Beside the crew: the heartbeat goes on while the crew's tasks are waited for.
        tasks.runtime().spawn(quit.clone().run_until_cancelled_owned(pulse.clone().beat()));
        Self { crew, pulse }
    }
}

impl Inner {
    fn end(&self) {
        for shard in &self.shards {
            shard.crew.cut();
        }
        self.quit.cancel();
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.end();
    }
}

impl Thread {
    fn start(index: usize, runtime: Runtime, pulse: Pulse, quit: CancellationToken) -> io::Result<Self> {
        let (ending, ended) = oneshot::channel();
        let run = move || {
            let _ending = ending;
            // Tasks run while this thread is in here, and are dropped on it right after.
            runtime.block_on(quit.run_until_cancelled_owned(pulse.beat()));
            runtime.shutdown_background();
        };
        let handle = thread::Builder::new().name(format!("shard-{index}")).spawn(run)?;
        Ok(Self { handle, ended })
    }

    /// The name of the thread when it did not end well.
    async fn join(self) -> Option<String> {
        let name = self.handle.thread().name().unwrap_or("shard").to_owned();
        if tokio::time::timeout(SHARD_JOIN_TIMEOUT, self.ended).await.is_err() {
            return Some(format!("thread {name}"));
        }
        let ended = self.handle.join();
        ended.is_err().then(|| format!("thread {name}, whose tasks panicked when dropped"))
    }
}
