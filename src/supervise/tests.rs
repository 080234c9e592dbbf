//! What is promised of tasks, shards, shutdown and readiness.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::sync::oneshot;

use super::*;

const GRACE: Duration = Duration::from_secs(5);

#[expect(clippy::disallowed_methods, reason = "stands in for the clock, which is a sibling")]
fn now() -> std::time::Instant {
    tokio::time::Instant::now().into_std()
}

/// Sets its flag when dropped.
struct Dropped(Arc<AtomicBool>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[tokio::test]
async fn a_panic_in_a_task_stops_the_daemon_with_its_name() {
    let tasks = Tasks::new(Shutdown::new());
    tasks.spawn("store", async { panic!("row {} is gone", 7) });
    tasks.shutdown().hard().await;
    let failure = tasks.finish(GRACE).await;
    assert!(failure.is_empty());
    let failure = tasks.failed().expect("recorded");
    assert_eq!(failure.task, "store");
    assert_eq!(failure.cause, Cause::Panicked("row 7 is gone".to_owned()));
    assert_eq!(tasks.shutdown().reason().expect("given"), "task \"store\" panicked: row 7 is gone");
}

#[tokio::test]
async fn a_task_that_ends_early_stops_the_daemon_and_only_the_first_is_told() {
    let tasks = Tasks::new(Shutdown::new());
    tasks.spawn("dns", async {});
    tasks.shutdown().hard().await;
    tasks.spawn("late", async { panic!("consequence") });
    tasks.finish(GRACE).await;
    assert_eq!(tasks.failed(), Some(Failure { task: "dns".to_owned(), cause: Cause::Ended }));
}

#[tokio::test]
async fn ending_after_the_soft_signal_is_no_failure() {
    let tasks = Tasks::new(Shutdown::new());
    let soft = tasks.shutdown().soft();
    tasks.spawn("peer", soft);
    tasks.shutdown().drain("SIGTERM");
    assert!(tasks.finish(GRACE).await.is_empty());
    assert_eq!(tasks.failed(), None);
    assert!(tasks.shutdown().is_soft() && !tasks.shutdown().is_hard());
}

#[tokio::test]
async fn a_panic_in_a_transient_task_is_counted_and_nothing_else() {
    let tasks = Tasks::new(Shutdown::new());
    tasks.spawn_transient("connection", async { panic!("bad client") });
    tasks.finish(GRACE).await;
    assert_eq!(tasks.transient_panics(), 1);
    assert_eq!(tasks.failed(), None);
    assert!(!tasks.shutdown().is_soft());
}

#[tokio::test(start_paused = true)]
async fn tasks_that_do_not_end_in_time_are_dropped_and_named() {
    let tasks = Tasks::inline(Shutdown::new());
    let flag = Arc::new(AtomicBool::new(false));
    let held = Dropped(Arc::clone(&flag));
    tasks.spawn("stubborn", async move {
        let _held = held;
        std::future::pending::<()>().await;
    });
    tasks.spawn_transient("connection", std::future::pending());
    tasks.shutdown().stop("test");
    assert_eq!(tasks.finish(GRACE).await, ["stubborn", "1 transient"]);
    assert!(flag.load(Ordering::SeqCst));
    assert_eq!(tasks.failed(), None, "a task that was cut off did not fail");
}

#[tokio::test]
async fn blocking_work_returns_and_its_panic_reaches_the_caller() {
    for tasks in [Tasks::new(Shutdown::new()), Tasks::inline(Shutdown::new())] {
        assert_eq!(tasks.blocking(|| 41 + 1).await, 42);
        let inner = tasks.clone();
        tasks.spawn("writer", async move { inner.blocking(|| panic!("disk")).await });
        tasks.shutdown().hard().await;
        assert_eq!(tasks.failed().expect("recorded").cause, Cause::Panicked("disk".to_owned()));
    }
}

#[tokio::test]
async fn blocking_work_runs_on_the_caller_only_when_inline() {
    let here = std::thread::current().id();
    let threaded = Tasks::new(Shutdown::new());
    assert_ne!(threaded.blocking(|| std::thread::current().id()).await, here);
    let inline = Tasks::inline(Shutdown::new());
    assert_eq!(inline.blocking(|| std::thread::current().id()).await, here);
}

#[tokio::test]
async fn shards_run_their_tasks_on_their_threads() {
    let tasks = Tasks::new(Shutdown::new());
    let shards = Shards::threads(3, &tasks, now()).expect("threads");
    assert_eq!(shards.count(), 3);
    for index in 0..6 {
        let (tell, told) = oneshot::channel();
        shards.spawn_transient(index, "who", async move {
            // A timer proves that the runtime has a driver.
            tokio::time::sleep(Duration::from_millis(1)).await;
            let _ = tell.send(std::thread::current().name().map(str::to_owned));
        });
        assert_eq!(told.await.expect("told"), Some(format!("shard-{}", index % 3)));
    }
    assert!(shards.finish(GRACE).await.is_empty());
}

#[tokio::test]
async fn a_panic_on_a_shard_stops_the_daemon_with_its_name() {
    let tasks = Tasks::new(Shutdown::new());
    let shards = Shards::threads(2, &tasks, now()).expect("threads");
    shards.spawn_transient(0, "connection", async { panic!("one client") });
    shards.spawn(1, "lane driver", async { panic!("out of range") });
    tasks.shutdown().hard().await;
    assert!(shards.finish(GRACE).await.is_empty());
    assert_eq!(tasks.failed().expect("recorded").task, "lane driver");
    assert_eq!(tasks.transient_panics(), 1);
}

#[tokio::test]
async fn finishing_shards_drops_what_is_left_on_their_threads() {
    let tasks = Tasks::new(Shutdown::new());
    let shards = Shards::threads(2, &tasks, now()).expect("threads");
    let flag = Arc::new(AtomicBool::new(false));
    let held = Dropped(Arc::clone(&flag));
    shards.spawn(1, "listener", async move {
        let _held = held;
        std::future::pending::<()>().await;
    });
    tasks.shutdown().stop("test");
    assert_eq!(shards.finish(Duration::from_millis(20)).await, ["listener on shard-1"]);
    assert!(flag.load(Ordering::SeqCst));
}

#[tokio::test]
async fn a_thread_that_never_yields_is_named_and_left_behind() {
    let tasks = Tasks::new(Shutdown::new());
    let shards = Shards::threads(1, &tasks, now()).expect("threads");
    let (release, released) = std::sync::mpsc::sync_channel::<()>(1);
    let (entered, enter) = oneshot::channel();
    shards.spawn(0, "stuck", async move {
        let _ = entered.send(());
        let _ = released.recv();
    });
    enter.await.expect("entered");
    tasks.shutdown().stop("test");
    let late = shards.finish(Duration::from_millis(10)).await;
    assert_eq!(late, ["stuck on shard-0", "thread shard-0"]);
    drop(release);
}

#[tokio::test]
async fn a_stalled_shard_stops_ticking_and_the_others_go_on() {
    let tasks = Tasks::new(Shutdown::new());
    let shards = Shards::threads(2, &tasks, now()).expect("threads");
    let (release, released) = std::sync::mpsc::sync_channel::<()>(1);
    let (entered, enter) = oneshot::channel();
    shards.spawn_transient(0, "stuck", async move {
        let _ = entered.send(());
        let _ = released.recv();
    });
    enter.await.expect("entered");
    let (stalled, alive) = (shards.last_tick(0), shards.last_tick(1));
    let mut interval = tokio::time::interval(Duration::from_millis(10));
    while shards.last_tick(1) <= alive {
        interval.tick().await;
    }
    assert_eq!(shards.last_tick(0), stalled);
    drop(release);
    assert!(shards.finish(GRACE).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn inline_shards_live_on_a_paused_clock_and_one_thread() {
    let tasks = Tasks::inline(Shutdown::new());
    let start = now();
    let shards = Shards::inline(2, &tasks, start);
    let here = std::thread::current().id();
    let done = Arc::new(AtomicUsize::new(0));
    for shard in 0..2 {
        let done = Arc::clone(&done);
        shards.spawn_transient(shard, "slow", async move {
            tokio::time::sleep(Duration::from_secs(3_600)).await;
            assert_eq!(std::thread::current().id(), here);
            done.fetch_add(1, Ordering::SeqCst);
        });
    }
    assert!(shards.finish(Duration::from_secs(3_601)).await.is_empty());
    assert_eq!(done.load(Ordering::SeqCst), 2);
    assert!(shards.last_tick(1) - start >= Duration::from_secs(3_599));
    assert_eq!(tasks.transient_panics(), 0);
}

#[tokio::test(start_paused = true)]
async fn inline_shards_cut_off_what_does_not_end() {
    let tasks = Tasks::inline(Shutdown::new());
    let shards = Shards::inline(2, &tasks, now());
    let flag = Arc::new(AtomicBool::new(false));
    let held = Dropped(Arc::clone(&flag));
    shards.spawn(0, "listener", async move {
        let _held = held;
        std::future::pending::<()>().await;
    });
    tasks.shutdown().stop("test");
    assert_eq!(shards.finish(GRACE).await, ["listener on shard-0"]);
    tokio::task::yield_now().await;
    assert!(flag.load(Ordering::SeqCst));
}

#[tokio::test]
async fn the_first_reason_of_each_signal_stays() {
    let shutdown = Shutdown::new();
    assert_eq!(shutdown.reason(), None);
    shutdown.drain("SIGTERM");
    shutdown.drain("again");
    assert_eq!(shutdown.reason().as_deref(), Some("SIGTERM"));
    shutdown.clone().stop("drain took too long");
    shutdown.stop("again");
    shutdown.drain("too late");
    assert_eq!(shutdown.reason().as_deref(), Some("drain took too long"));
    shutdown.soft().await;
    shutdown.hard().await;
}

#[tokio::test]
async fn readiness_waits_for_every_guard() {
    let readiness = Readiness::new();
    assert!(readiness.is_ready());
    let (state, peers) = (readiness.register("state"), readiness.register("peers"));
    assert_eq!(readiness.pending(), ["state", "peers"]);
    drop(state);
    assert_eq!(readiness.pending(), ["peers"]);
    let ready = readiness.ready();
    drop(peers);
    ready.await;
    let _draining = readiness.register("draining");
    assert!(!readiness.is_ready());
}

#[test]
fn inline_tasks_and_shards_live_in_a_simulation() {
    let mut simulation = turmoil::Builder::new().build();
    simulation.client("gateway", async {
        let tasks = Tasks::inline(Shutdown::new());
        let start = now();
        let shards = Shards::inline(2, &tasks, start);
        let soft = tasks.shutdown().soft();
        shards.spawn(1, "listener", soft);
        tasks.spawn_transient("timer", tokio::time::sleep(Duration::from_secs(2)));
        assert_eq!(tasks.blocking(|| 7).await, 7);
        assert!(tasks.finish(GRACE).await.is_empty());
        tasks.shutdown().drain("test");
        assert!(shards.finish(GRACE).await.is_empty());
        assert!(shards.last_tick(0) - start >= Duration::from_millis(1_750));
        assert_eq!(tasks.failed(), None);
        Ok(())
    });
    simulation.run().expect("the simulation ends well");
}
