//! `testbed`: clusters on one machine, faults on demand, clients that keep count. It drives Tombolo only
//! through its binary, its files and its sockets.

mod admin;
mod bench;
mod cli;
mod emulator;
mod envoy;
mod fault;
mod gateway;
mod ground;
mod inside;
mod interrupt;
mod kept;
mod kubernetes;
mod load;
mod monotonic;
mod process;
mod quantity;
mod report;
mod scenario;
mod screen;
mod server;
mod standing;
mod verb;

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result, ensure};
use clap::Parser as _;

use cli::{BackendArgs, Cli, FailoverArgs, FaultVerb, InnerVerb, LoadArgs, Output, Verb};
use fault::Fault;
use scenario::{Assertion, Load, Scenario};
use server::{Manners, Speech};
use standing::{Lock, Product, Standing};

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            screen::note(&format!("testbed: {error:#}"));
            ExitCode::from(2)
        }
    }
}

/// Does what was typed; false when it was done and an assertion or claim does not hold.
fn run(cli: Cli) -> Result<bool> {
    let json = cli.output == Output::Json;
    let folder = cli.dir.clone().unwrap_or_else(default_folder);
    let tombolo = cli.tombolo.as_deref();
    match cli.verb {
        Verb::Up(args) => {
            interrupt::note_signals()?;
            let mut scenario = match &args.scenario {
                Some(file) => Scenario::read(file)?,
                None => Scenario::plain(args.clusters, args.gateways)?,
            };
            scenario.link = args.link.over(scenario.link);
            let standing = verb::up::up(
                &folder,
                args.backend,
                gateway::binary_of(Product::Tombolo, tombolo)?,
                scenario,
            )?;
            verb::status::status(&standing, json)?;
        }
        Verb::Status => verb::status::status(&Standing::find(&folder)?, json)?,
        Verb::Fault(fault) => {
            let mut standing = Standing::find(&folder)?;
            let _lock = Lock::take(&folder)?;
            let (fault, after) = typed_fault(fault);
            screen::say(&verb::fault::inflict(&mut standing, &fault, after)?);
        }
        Verb::Capture { file } => {
            let to = std::path::absolute(file)?;
            Standing::find(&folder)?.wan().ask(&emulator::control::Request::WriteCapture { to })?;
        }
        Verb::Load(args) => run_load(&folder, &args, json)?,
        Verb::Failover(args) => return run_failover(&folder, tombolo, &args, json),
        Verb::Scenario { file, backend, reps, product, against, load, link } => {
            interrupt::note_signals()?;
            let mut scenario = Scenario::read(&file)?;
            scenario.load = load.over(&scenario.load);
            scenario.link = link.over(scenario.link);
            // A shorter load ends before what was to come later.
            scenario.steps.retain(|step| step.at <= scenario.load.duration);
            scenario.reps = reps.unwrap_or(scenario.reps);
            let run =
                |product| run_scenario(&folder, backend, gateway::binary_of(product, tombolo)?, &scenario);
            let (report, pass) = run(product)?;
            let text = if json { serde_json::to_string_pretty(&report)? } else { report.table() };
            screen::say(&text);
            let Some(against) = against else { return Ok(pass) };
            // The other one is held against nothing: it is shown.
            let (other, _) = run(against)?;
            let text = if json { serde_json::to_string_pretty(&other)? } else { other.table() };
            screen::say(&format!("\n{text}"));
            if !json {
                screen::say(&format!("\n{}", report::side_by_side(&report, &other)));
            }
            return Ok(pass);
        }
        Verb::Down => {
            let standing = verb::down::down(&folder)?;
            screen::say(&format!("run {} is down: nothing of it is left", standing.run));
        }
        Verb::Kubernetes(verb) => return kubernetes::run(&verb, &folder, tombolo, json),
        Verb::Backend(args) => serve(args)?,
        Verb::Bench(args) => {
            interrupt::note_signals()?;
            bench::bench(gateway::find_binary(tombolo)?, args, json)?;
        }
        Verb::Emulator { .. } => return emulator(json),
        Verb::Inner(InnerVerb::Wan { plan, socket }) => verb::inner::wan(&plan, &socket)?,
        Verb::Inner(InnerVerb::Name { server, name }) => verb::ask::lookup(server, &name)?,
        Verb::Inner(InnerVerb::Bench(part)) => bench::run_part(&part)?,
        Verb::Inner(InnerVerb::Client) => verb::inner::client()?,
    }
    Ok(true)
}

fn default_folder() -> PathBuf {
    let base = std::env::var_os("XDG_RUNTIME_DIR").map_or_else(|| PathBuf::from("/tmp"), PathBuf::from);
    base.join("tombolo-testbed")
}

/// The fault, and how much later it is to begin.
fn typed_fault(typed: FaultVerb) -> (Fault, Option<quantity::Span>) {
    let fault = match typed {
        FaultVerb::Kill { target } => Fault::Kill { target },
        FaultVerb::Stop { target } => Fault::Stop { target },
        FaultVerb::Cont { target } => Fault::Cont { target },
        FaultVerb::Restart { target } => Fault::Restart { target },
        FaultVerb::Partition { from, to, one_way, lasting, after } => {
            return (Fault::Partition { from, to, one_way, lasting }, after);
        }
        FaultVerb::Heal { from, to } => Fault::Heal { from, to },
        FaultVerb::Link { from, to, one_way, lasting, after, shape } => {
            return (Fault::Link { from, to, one_way, shape, lasting }, after);
        }
        FaultVerb::Block { from, to, one_way, protocol, longer_than, reject, lasting } => {
            Fault::Block { from, to, one_way, protocol, longer_than, reject, lasting }
        }
        FaultVerb::Unblock { from, to } => Fault::Unblock { from, to },
        FaultVerb::Rebind { cluster, address } => Fault::Rebind { cluster, address },
        FaultVerb::Defect { target, what } => Fault::Defect { target, what },
        FaultVerb::Mute { target } => Fault::Mute { target },
        FaultVerb::Unmute { target } => Fault::Unmute { target },
        FaultVerb::Roll { target } => Fault::Roll { target },
    };
    (fault, None)
}

fn run_load(folder: &std::path::Path, args: &LoadArgs, json: bool) -> Result<()> {
    let outcome = if let Some(target) = args.to {
        ensure!(target.ip().is_loopback(), "a load goes to loopback or into a testbed, not to {target}");
        let load = args.load.over(&Load::default());
        let plan = load::Plan {
            kind: load.kind,
            target,
            rps: load.rps,
            connections: load.connections,
            duration: load.duration,
            deadline: load.deadline,
            late: load.late,
            bulk_bytes: load.bulk_bytes,
            // The other port of a server of its own is not known.
            streams: 0,
            stream_target: None,
            downloads: load.downloads,
            nonce: rand::random(),
        };
        verb::inner::runtime()?.block_on(load::run(plan, |_| {}))?
    } else {
        interrupt::note_signals()?;
        let standing = Standing::find(folder)?;
        let plan = verb::load::plan(&standing, &args.load.over(&standing.scenario.load))?;
        verb::load::Running::start(&standing, &plan)?.finish()?
    };
    let text = if json {
        serde_json::to_string_pretty(&outcome.account)?
    } else {
        verb::load::table(&outcome.account)
    };
    screen::say(&text);
    Ok(())
}

fn run_failover(
    folder: &std::path::Path,
    tombolo: Option<&std::path::Path>,
    args: &FailoverArgs,
    json: bool,
) -> Result<bool> {
    interrupt::note_signals()?;
    let assertions = Assertion::parse_all(&args.assert).map_err(anyhow::Error::msg)?;
    let mut standing = match args.backend {
        Some(backend) => {
            let mut scenario = Scenario::plain(args.clusters, args.gateways)?;
            scenario.link = args.link.over(scenario.link);
            verb::up::up(folder, backend, gateway::binary_of(Product::Tombolo, tombolo)?, scenario)?
        }
        None => Standing::find(folder)?,
    };
    standing.scenario.load = args.load.over(&standing.scenario.load);
    let own = args.backend.is_some();
    let (report, pass) = reported(&mut standing, Some(args.kill), args.reps, assertions, own)?;
    screen::say(&if json { serde_json::to_string_pretty(&report)? } else { report.table() });
    Ok(pass)
}

/// Runs the repetitions, keeps what there is of a failure, and takes down what it brought up.
fn reported(
    standing: &mut Standing,
    kill: Option<verb::failover::Kill>,
    reps: usize,
    assertions: Vec<Assertion>,
    own: bool,
) -> Result<(report::Report, bool)> {
    let command = kept::command_line();
    let result = verb::failover::repeat(standing, kill, reps, &assertions);
    let report = result.map(|reps| report::Report::new(standing, reps, assertions, command.clone()));
    let pass = report.as_ref().is_ok_and(|report| report.pass);
    if !pass && !interrupt::asked() {
        let json = report.as_ref().ok().map(serde_json::to_string_pretty).transpose()?;
        let kept = match kept::failure(standing, &command, json.as_deref()) {
            Ok(kept) => kept.display().to_string(),
            Err(error) => format!("nothing: {error:#}"),
        };
        screen::note(&format!("kept: {kept}\nrepeat: {command}"));
    }
    if own {
        verb::down::take_down(standing)?;
    }
    Ok((report?, pass))
}

/// Brings a scenario up, does it, and takes it down.
fn run_scenario(
    folder: &std::path::Path,
    backend: ground::BackendName,
    binary: (Product, PathBuf),
    scenario: &Scenario,
) -> Result<(report::Report, bool)> {
    let mut standing = verb::up::up(folder, backend, binary, scenario.clone())?;
    reported(&mut standing, None, scenario.reps, scenario.assertions.clone(), true)
}

fn serve(args: BackendArgs) -> Result<()> {
    let ports = [(args.http, Speech::Http), (args.echo, Speech::Echo), (args.greet, Speech::Greet)];
    ensure!(
        ports.iter().any(|(address, _)| address.is_some()),
        "nothing to serve\n  try: --http 127.0.0.1:8080"
    );
    let append = |path: &PathBuf| {
        let file = std::fs::File::options().create(true).append(true).open(path);
        file.with_context(|| path.display().to_string())
    };
    let ids = args.record.as_ref().map(append).transpose()?;
    let manners = Manners::recording(args.cluster, args.defect, ids);
    verb::inner::runtime()?.block_on(async {
        let mut tasks = tokio::task::JoinSet::new();
        if let Some(file) = args.follow {
            let manners = std::sync::Arc::clone(&manners);
            tasks.spawn(async move { server::follow(&file, &manners).await });
        }
        for (address, speech) in ports {
            let Some(address) = address else { continue };
            let listener = server::listen(address).await?;
            screen::say(&format!("serving {speech:?} on {}", listener.local_addr()?));
            tasks.spawn(server::serve(listener, speech, std::sync::Arc::clone(&manners)));
        }
        tasks.join_next().await.context("nothing to serve")?.context("a listener ended")
    })
}

fn emulator(json: bool) -> Result<bool> {
    let claims = emulator::measure::measure()?;
    let pass = claims.iter().all(|claim| claim.holds);
    if json {
        screen::say(&serde_json::to_string_pretty(&claims)?);
        return Ok(pass);
    }
    let row = |claim: &emulator::measure::Claim| {
        let verdict = if claim.holds { "PASS" } else { "FAIL" };
        vec![claim.claim.clone(), claim.seen.clone(), verdict.to_owned()]
    };
    let rows: Vec<Vec<String>> = claims.iter().map(row).collect();
    screen::say(&screen::table(&["CLAIM", "SEEN", ""], &rows));
    Ok(pass)
}
