//! Whole daemons in simulation: the same seed gives the same run, so a failure can be had again.
//!
//! `cargo test --test sim` runs `TOMBOLO_SIM_SEEDS` seeds (20) or, given `TOMBOLO_SIM_SECONDS`, as many as fit;
//! `cargo test --test sim -- --seed N` runs one and prints its events. A failing run's events are drawn as a
//! sequence diagram; with `RUST_LOG` the daemons' own log goes to standard error. There is no harness: turmoil is one thread, and a seed is not known when tests are built.
#![expect(clippy::print_stdout, reason = "a test program reports on standard output")]

mod checkers;
mod gateway;
mod links;
mod net;
mod observe;
mod scenario;
mod trace;
mod truth;
mod world;

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use trace::Entry;

/// Seeds that are run twice, to see that both runs are the same.
const TWICE: u64 = 3;
const SEEDS_DEFAULT: u64 = 20;
/// Says what was seen, or what was wrong.
type Test = fn() -> Result<String, String>;

/// What is tested of links alone.
const LINK_TESTS: [(&str, Test); 3] = [
    ("links_meet_again", links_meet_again),
    ("refusals_are_taken", refusals_are_taken),
    ("forgotten_paths_are_dialled_anew", forgotten_paths_are_dialled_anew),
];

/// What the command line and the environment ask for.
#[derive(Debug, Default)]
struct Asked {
    seed: Option<u64>,
    /// Run every seed twice.
    twice: bool,
    list: bool,
    exact: bool,
    filter: Option<String>,
    seeds: Option<u64>,
    seconds: Option<u64>,
}

impl Asked {
    /// Takes what is meant for this program; flags of the usual harness are no errors.
    fn read(mut args: impl Iterator<Item = String>) -> Self {
        let number = |text: Option<String>| text.and_then(|text| text.parse().ok());
        let mut asked = Self {
            seeds: number(std::env::var("TOMBOLO_SIM_SEEDS").ok()),
            seconds: number(std::env::var("TOMBOLO_SIM_SECONDS").ok()),
            ..Self::default()
        };
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--seed" => asked.seed = number(args.next()),
                "--twice" => asked.twice = true,
                "--list" => asked.list = true,
                "--exact" => asked.exact = true,
                "--format" | "--test-threads" | "--skip" | "--color" => drop(args.next()),
                flag if flag.starts_with('-') => {}
                name => asked.filter = Some(name.to_owned()),
            }
        }
        asked
    }

    fn wants(&self, name: &str) -> bool {
        match &self.filter {
            Some(filter) if self.exact => filter == name,
            Some(filter) => name.contains(filter.as_str()),
            None => true,
        }
    }
}

fn main() -> ExitCode {
    let ignored = std::env::args().any(|arg| arg == "--ignored");
    let asked = Asked::read(std::env::args().skip(1));
    let seeds = match (asked.seconds, asked.seeds) {
        (_, Some(seeds)) => seeds,
        (Some(_), None) => u64::MAX,
        (None, None) => SEEDS_DEFAULT,
    };
    if asked.list {
        // The tests that another program may run by name, one process each.
        let names = LINK_TESTS
            .iter()
            .map(|(name, _)| (*name).to_owned())
            .chain((0..seeds.min(SEEDS_DEFAULT)).map(name));
        names.filter(|_| !ignored).for_each(|name| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .without_time()
        .init();
    let began = now();
    let mut sum = Sum::default();
    if let Some(seed) = asked.seed {
        sum.count(&name(seed), one(seed, true, true));
    } else {
        for (name, test) in LINK_TESTS.into_iter().filter(|(name, _)| asked.wants(name)) {
            sum.count(name, test());
        }
        let in_time = || asked.seconds.is_none_or(|most| began.elapsed() < Duration::from_secs(most));
        for seed in (0..seeds).take_while(|_| in_time()).filter(|seed| asked.wants(&name(*seed))) {
            sum.count(&name(seed), one(seed, asked.twice || seed < TWICE, false));
        }
    }
    let word = if sum.failed == 0 { "ok" } else { "FAILED" };
    let (passed, failed, seconds) = (sum.passed, sum.failed, began.elapsed().as_secs_f64());
    println!(
        "\ntest result: {word}. {passed} passed; {failed} failed; 0 ignored; 0 measured; 0 filtered out; \
         finished in {seconds:.2}s\n"
    );
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

#[expect(clippy::disallowed_methods, reason = "how long the real run takes is no part of the simulated one")]
fn now() -> Instant {
    Instant::now()
}

fn name(seed: u64) -> String {
    format!("seed_{seed}")
}

#[derive(Debug, Default)]
struct Sum {
    passed: u64,
    failed: u64,
}

impl Sum {
    fn count(&mut self, name: &str, result: Result<String, String>) {
        match result {
            Ok(said) => {
                println!("test {name} ... ok ({said})");
                self.passed += 1;
            }
            Err(wrong) => {
                println!("test {name} ... FAILED\n{wrong}");
                self.failed += 1;
            }
        }
    }
}

fn message(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("no message").to_owned()
}

/// Runs a seed, twice if asked to, and tells what was wrong.
fn one(seed: u64, twice: bool, show: bool) -> Result<String, String> {
    let began = now();
    let caught = |seed| {
        let run = AssertUnwindSafe(|| scenario::run(seed));
        catch_unwind(run).map_err(|panic| fail(seed, &format!("panicked: {}", message(&*panic)), &[]))
    };
    let first = caught(seed)?;
    if show {
        first.trace.iter().for_each(|entry| println!("{entry}"));
    }
    first.verdict.map_err(|wrong| fail(seed, &wrong, &first.trace))?;
    let took = began.elapsed();
    if twice {
        let second = caught(seed)?;
        if let Some(difference) = trace::difference(&first.trace, &second.trace) {
            return Err(fail(seed, &format!("two runs differ: {difference}"), &first.trace));
        }
    }
    let (simulated, events) = (first.simulated.as_secs_f64(), first.trace.len());
    Ok(format!("{simulated:.1} s simulated in {:.2} s, {events} events", took.as_secs_f64()))
}

/// Draws what happened and says how to see it again.
#[expect(clippy::disallowed_methods, reason = "a report, not state")]
fn fail(seed: u64, wrong: &str, trace: &[Entry]) -> String {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("sim");
    let path = folder.join(format!("{seed}.md"));
    let drawn = std::fs::create_dir_all(&folder)
        .and_then(|()| std::fs::write(&path, trace::diagram(seed, wrong, trace)))
        .map_or_else(|error| format!("not drawn: {error}"), |()| path.display().to_string());
    let last = trace.iter().rev().take(12).rev().map(|entry| format!("  {entry}\n")).collect::<String>();
    format!("{wrong}\n{last}seed={seed} replay: cargo test --test sim -- --seed {seed}\nevents: {drawn}")
}

/// A client that asks meanwhile has its answer by the new lane, long before the old one is down.
fn forgotten_paths_are_dialled_anew() -> Result<String, String> {
    const SOON: Duration = Duration::from_secs(2);
    match scenario::forgotten_paths(1)? {
        took if took < SOON => Ok(format!("an answer after {} ms", took.as_millis())),
        took => Err(format!("an answer after {} ms only", took.as_millis())),
    }
}

fn refusals_are_taken() -> Result<String, String> {
    const DIALS_MAX: u64 = 15;
    match links::refused_dials(1) {
        dials @ 3..=DIALS_MAX => Ok(format!("{dials} dials in a minute")),
        dials => Err(format!("a side that is not trusted dials {dials} times in a minute")),
    }
}

fn links_meet_again() -> Result<String, String> {
    let (first, second) = (links::run(1), links::run(1));
    if first != second {
        return Err(format!("two runs differ: {first:?} and {second:?}"));
    }
    // A try begins every two seconds at the latest, and sends again after one.
    const AGAIN_MAX: u128 = 2_000;
    match first.as_slice() {
        [_, _, whole, again] if again - whole <= AGAIN_MAX => {
            Ok(format!("up, down, network whole and up again at {first:?} ms"))
        }
        other => Err(format!("up, down, network whole and up again at {other:?} ms")),
    }
}
