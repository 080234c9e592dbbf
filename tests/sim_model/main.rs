//! The replication machines of `model` alone, many clusters at once, on an event queue: no sockets, no
//! threads, no clock but the queue's. Everything that happens follows from one seed.
//!
//! `TOMBOLO_SEEDS=200` runs as many seeds (default 20), `TOMBOLO_SEED=7` replays one,
//! `TOMBOLO_SIM_CLUSTERS=100` sets the size (default 20). Whole daemons are simulated in `tests/sim`.

mod chaos;
mod check;
mod cluster;
mod world;

use std::{
    num::NonZero,
    str::FromStr,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use world::{Report, World};

fn setting<T: FromStr>(name: &str) -> Option<T> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
}

fn clusters() -> usize {
    setting("TOMBOLO_SIM_CLUSTERS").unwrap_or(20)
}

/// Runs one seed to the end, or fails with the line that replays it.
fn run(seed: u64, clusters: usize) -> Report {
    let replay = format!("TOMBOLO_SEED={seed} TOMBOLO_SIM_CLUSTERS={clusters} cargo test --test sim-model");
    let run = || {
        let mut world = World::new(seed, clusters);
        world.run().and_then(|()| check::converged(&world))?;
        Ok(world.report())
    };
    match std::panic::catch_unwind(run) {
        Ok(Ok(report)) => report,
        Ok(Err(problem)) => {
            let problem: String = problem;
            panic!("seed {seed}: {problem}\nreplay: {replay}")
        }
        Err(_) => panic!("seed {seed}: a machine panicked\nreplay: {replay}"),
    }
}

#[test]
fn catalogs_converge_through_partitions_crashes_and_changes_of_policy() {
    let seeds: Vec<u64> = setting("TOMBOLO_SEED")
        .map_or_else(|| (0..setting("TOMBOLO_SEEDS").unwrap_or(20)).collect(), |seed| vec![seed]);
    let next = AtomicUsize::new(0);
    let sum = Mutex::new(Report::default());
    let threads = std::thread::available_parallelism().map_or(1, NonZero::get).min(seeds.len());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(seed) = seeds.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let report = run(*seed, clusters());
                    println!("seed {seed}: {report}");
                    sum.lock().expect("no seed failed").add(&report);
                }
            });
        }
    });
    let sum = sum.into_inner().expect("no seed failed");
    println!("{} seeds, {} clusters: {sum}", seeds.len(), clusters());
    assert!(sum.cuts > 0 && sum.crashes > 0 && sum.refused > 0 && sum.snapshots > 0, "nothing was tried");
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    let seed = setting("TOMBOLO_SEED").unwrap_or(1);
    let (first, second) = (run(seed, 6), run(seed, 6));
    assert_eq!(first, second, "seed {seed}");
    assert_ne!(first.trace, run(seed + 1, 6).trace);
}

#[test]
fn the_checkers_notice_what_they_are_for() {
    let mut world = World::new(3, 4);
    world.run().expect("a run that passes");
    assert_eq!(check::converged(&world), Ok(()));
    let (exporter, importer) = check::somebody_with_rows(&world).expect("something was exported");

    let whole = world.side(importer, exporter).rows.clone();
    let name = whole.keys().next().expect("rows").clone();
    world.side_mut(importer, exporter).rows.remove(&name);
    assert!(check::converged(&world).is_err(), "a missing row");
    world.side_mut(importer, exporter).rows = whole;

    world.clusters[exporter].exports.remove(&name);
    assert!(check::converged(&world).is_err(), "an export that was withdrawn and stayed");
}
