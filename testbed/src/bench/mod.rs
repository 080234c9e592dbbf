//! `testbed bench`: the same works through Tombolo and through the proxies people use now, one after the
//! other, and what each cost. Every repetition starts every pair of gateways afresh; within it each work goes
//! round all pairs before the next work begins, so that a machine that is busy for a while is busy for all.

mod apart;
mod dns;
mod envoy;
mod fairness;
mod gauge;
mod haproxy;
mod install;
mod load;
mod misbehave;
mod open;
mod pair;
mod place;
mod questions;
mod raw_quinn;
mod table;
mod tombolo;
mod wan;

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use serde::Serialize;

pub(crate) use self::{
    apart::{Part, run as run_part},
    envoy::typed,
    pair::Certificates,
};
use self::{
    install::Program,
    pair::{Gateways, Pair},
    place::Site,
    table::{COREDNS, DIRECT, PEERS, QUINN, Row, Samples, TOMBOLO, work},
};
use crate::{interrupt, screen};

/// `testbed bench`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct BenchArgs {
    /// Shorter works and fewer idle connections
    #[arg(long)]
    quick: bool,
    /// The works of a WAN too, in network namespaces; needs root
    #[arg(long)]
    wan: bool,
    /// Names too, against CoreDNS, which is built with Go
    #[arg(long)]
    dns: bool,
    /// Small requests beside attacks on another service, each with a control; meant with --reps 5
    #[arg(long)]
    fairness: bool,
    /// Idle connections, if not 1,000 with --quick and 5,000 without
    #[arg(long, value_name = "N")]
    idle: Option<usize>,
    /// Repetitions
    #[arg(long, default_value_t = 3)]
    reps: usize,
    /// Only these, for trying something out: tombolo, a peer's name, coredns, direct, quinn; bars may be left empty
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    only: Vec<String>,
    /// Only works whose name contains one of these
    #[arg(long, value_delimiter = ',', value_name = "WORDS")]
    work: Vec<String>,
    /// Tombolo's `[link] congestion`, if not its default
    #[arg(long, value_name = "NAME")]
    congestion: Option<String>,
}

/// Envoy's binary, got when it is not here.
pub(crate) fn envoy_binary() -> Result<PathBuf> {
    let program = install::envoy()?;
    program.words.first().map(PathBuf::from).context("a program without words")
}

/// How much of each work there is.
#[derive(Debug, Clone, Copy)]
struct Amount {
    span: Duration,
    fresh: usize,
    span_wan: Duration,
    fresh_wan: usize,
    bulk: u64,
    idle: usize,
}

const QUICK: Amount = Amount {
    span: Duration::from_secs(3),
    fresh: 200,
    span_wan: Duration::from_secs(8),
    fresh_wan: 20,
    bulk: 1_000_000_000,
    idle: 1_000,
};
const WHOLE: Amount = Amount {
    span: Duration::from_secs(10),
    fresh: 500,
    span_wan: Duration::from_secs(20),
    fresh_wan: 50,
    bulk: 4_000_000_000,
    idle: 5_000,
};

/// How long a pair may take until the first request passes.
const PATIENCE: Duration = Duration::from_secs(20);
/// What a process has open beside idle connections.
const OTHER_FILES: usize = 1_000;
/// After the start of all, before anything is measured.
const SETTLE: Duration = Duration::from_secs(1);

/// A run and its outcome.
#[derive(Debug, Serialize)]
struct Report {
    schema: &'static str,
    command: String,
    commit: Option<String>,
    versions: BTreeMap<&'static str, String>,
    host: String,
    repetitions: usize,
    /// The load average of the machine at the beginning and at the end.
    load: (f64, f64),
    rows: Vec<Row>,
}

/// What a run has.
struct Bench {
    args: BenchArgs,
    amount: Amount,
    binary: PathBuf,
    programs: BTreeMap<&'static str, Program>,
    certificates: Certificates,
    folder: PathBuf,
    run: String,
    /// All on loopback, with a server.
    site: Site,
    server: SocketAddr,
    /// Two sides of a WAN, with a server on the far one.
    wan: Option<(Site, SocketAddr)>,
    began: Instant,
}

/// The folder of a run, removed with it.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        // What cannot be removed is in the folder for temporary files, where nobody expects it to last.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Runs it all and shows the table.
pub(crate) fn bench(binary: PathBuf, args: BenchArgs, json: bool) -> Result<()> {
    ensure!(args.reps > 0, "at least one repetition is needed");
    raise_open_files(args.idle.unwrap_or(0))?;
    let (reps, first_load) = (args.reps, gauge::load_average());
    let run = format!("bench-{:06x}", rand::random_range(0..1_u32 << 24));
    let folder = Folder(std::env::temp_dir().join(format!("tb-{run}")));
    fs::create_dir_all(&folder.0)?;
    let site = Site::loopback();
    let wan = if args.wan { Some(Site::wan(wan::shape(0.0))?) } else { None };
    let wan = wan.map(|site| load::serve(&site.far).map(|server| (site, server))).transpose()?;
    let bench = Bench {
        wan,
        amount: if args.quick { QUICK } else { WHOLE },
        programs: programs(&args)?,
        certificates: Certificates::make(&folder.0)?,
        folder: folder.0.clone(),
        server: load::serve(&site.far)?,
        site,
        began: Instant::now(),
        binary,
        run,
        args,
    };
    let mut samples = Samples::default();
    for repetition in 1..=reps {
        bench.repeat(repetition, &mut samples)?;
        bench.repeat_dns(repetition, &mut samples)?;
        bench.repeat_fairness(repetition, &mut samples)?;
        bench.repeat_wan(repetition, &mut samples)?;
    }
    let mut versions: BTreeMap<_, _> =
        bench.programs.iter().map(|(name, program)| (*name, program.version.clone())).collect();
    let own = said(&bench.binary.to_string_lossy(), &["--version"]);
    versions.insert(TOMBOLO, own.unwrap_or_else(|| "unknown".to_owned()));
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let report = Report {
        schema: "testbed/bench/1",
        command: std::env::args().collect::<Vec<_>>().join(" "),
        commit: said("git", &["rev-parse", "--short", "HEAD"]),
        versions,
        host: format!(
            "Linux {}, {cores} cores, kernel TCP {}, over a WAN {}",
            read("/proc/sys/kernel/osrelease"),
            read("/proc/sys/net/ipv4/tcp_congestion_control"),
            place::WAN_TCP
        ),
        repetitions: reps,
        load: (first_load, gauge::load_average()),
        rows: table::rows(&samples),
    };
    screen::say(&if json { serde_json::to_string_pretty(&report)? } else { report.text() });
    Ok(())
}

impl Report {
    fn text(&self) -> String {
        let mut text = table::text(&self.rows);
        let (first, last) = self.load;
        text.push_str(&format!(
            "\nmedians of {} repetitions, ± half the spread; CPU is of both gateways, of DNS of the server; a ratio is ours to AGAINST\n\
             {}, load average {first} to {last}, commit {}\n",
            self.repetitions,
            self.host,
            self.commit.as_deref().unwrap_or("unknown")
        ));
        let versions = self.versions.iter().map(|(name, version)| format!("{name}: {version}"));
        text.push_str(&versions.collect::<Vec<_>>().join("\n"));
        text
    }
}

fn said(command: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(command).args(arguments).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Servers, clients and gateways have a file for each connection at least; all of them inherit the bound.
fn raise_open_files(idle: usize) -> Result<()> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let needed = (idle + OTHER_FILES) as u64;
    ensure!(
        needed <= hard,
        "{idle} idle connections need {needed} open files in a process, and {hard} are the most it may have\n  \
         try: --idle {}, or a higher bound (ulimit -Hn)",
        hard.saturating_sub(OTHER_FILES as u64)
    );
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).context("the bound on open files cannot be raised")
}

/// The peers that are wanted, ready to start. One that cannot be had ends the run: a best of fewer is no best.
fn programs(args: &BenchArgs) -> Result<BTreeMap<&'static str, Program>> {
    let known = [TOMBOLO, COREDNS, DIRECT, QUINN];
    if let Some(name) = args.only.iter().find(|name| !known.iter().chain(&PEERS).any(|known| known == name)) {
        anyhow::bail!("nothing is called `{name}`\n  try: {}, {}", known.join(", "), PEERS.join(", "));
    }
    let mut programs = BTreeMap::new();
    let gateways = args.wan || work::ALL.into_iter().any(|work| args.does(work));
    for name in PEERS.into_iter().filter(|name| gateways && wanted(args, name)) {
        let program = if name == "haproxy" { install::haproxy()? } else { install::envoy()? };
        programs.insert(name, program);
    }
    if args.dns && args.does(work::DNS) && wanted(args, COREDNS) {
        programs.insert(COREDNS, install::coredns()?);
    }
    Ok(programs)
}

fn wanted(args: &BenchArgs, name: &str) -> bool {
    args.only.is_empty() || args.only.iter().any(|only| only == name)
}

impl BenchArgs {
    fn does(&self, work: &str) -> bool {
        self.work.is_empty() || self.work.iter().any(|word| work.contains(word.as_str()))
    }
}

impl Bench {
    fn note(&self, text: &str) {
        screen::note(&format!("{:5.0} s  {text}", self.began.elapsed().as_secs_f64()));
    }

    fn start(&self, site: &Site, server: SocketAddr, name: &'static str, repetition: usize) -> Result<Pair> {
        let folder = self.folder.join(format!("{repetition}-{name}"));
        fs::create_dir_all(&folder)?;
        let pair = if name == TOMBOLO {
            tombolo::pair(site, (&self.binary, self.args.congestion.as_deref()), server, &folder, &self.run)?
        } else {
            self.start_peer(site, server, name, &folder)?
        };
        let through = site.near.run(|| load::wait_through(pair.target, PATIENCE));
        through.with_context(|| format!("{name} lets nothing through: {}", pair.gateways.last_words()))?;
        Ok(pair)
    }

    fn start_peer(&self, site: &Site, server: SocketAddr, name: &str, folder: &Path) -> Result<Pair> {
        let program = &self.programs[name];
        let (ends, certificates) = (site.ends(server)?, &self.certificates);
        let arguments = match name {
            "envoy-mtls" => envoy::configure(envoy::Way::Mtls, ends, certificates, folder)?,
            "envoy-hbone" => envoy::configure(envoy::Way::Hbone, ends, certificates, folder)?,
            _ => haproxy::configure(ends, certificates, folder)?,
        };
        let mut gateways = Gateways::default();
        for (arguments, place) in arguments.into_iter().zip([&site.near, &site.far]) {
            let command = program.words.iter().cloned().chain(arguments).collect();
            gateways.start(place, command, folder, &self.run)?;
        }
        std::thread::sleep(SETTLE);
        let target = SocketAddr::from(([127, 0, 0, 1], ends.enter));
        Ok(Pair { target, empty_kib: gateways.largest_kib()?, gateways })
    }

    fn repeat(&self, repetition: usize, samples: &mut Samples) -> Result<()> {
        if !work::ALL.into_iter().any(|work| self.args.does(work)) {
            return Ok(());
        }
        let names = [TOMBOLO].into_iter().chain(PEERS).filter(|name| wanted(&self.args, name));
        let mut pairs = Vec::new();
        for name in names {
            interrupt::check()?;
            let started = self.start(&self.site, self.server, name, repetition);
            pairs.push((name, started.with_context(|| name.to_owned())?));
        }
        self.note(&format!("repetition {repetition}: {} pairs of gateways stand", pairs.len()));
        std::thread::sleep(SETTLE);
        for work in work::ALL.into_iter().filter(|work| self.args.does(work)) {
            // Nobody is always first.
            let mut order: Vec<_> = pairs.iter().collect();
            let turn = repetition % order.len().max(1);
            order.rotate_left(turn);
            for (name, pair) in order {
                interrupt::check()?;
                let seen = self.measure(work, name, pair.target, Some(pair), samples);
                let seen = seen.with_context(|| format!("{name}, {work}: {}", pair.gateways.last_words()))?;
                self.note(&format!("{work}: {name} {seen}"));
            }
            if wanted(&self.args, DIRECT) && !matches!(work, work::EMPTY | work::IDLE) {
                let seen = self.measure(work, DIRECT, self.server, None, samples)?;
                self.note(&format!("{work}: {DIRECT} {seen}"));
            }
            if work == work::BULK && wanted(&self.args, QUINN) {
                let size = self.amount.bulk;
                let (took, cost) = raw_quinn::bulk(&self.certificates, size)?;
                let seen = bulk_figures(QUINN, size, took, Some(cost), samples);
                self.note(&format!("{work}: {QUINN} {seen}"));
            }
        }
        Ok(())
    }

    /// What all gateways hold in memory while a process of its own has so many idle connections.
    fn idle(&self, target: SocketAddr, count: usize, gateways: &Gateways) -> Result<f64> {
        let mut clients = apart::Apart::start(&["hold", &target.to_string(), &count.to_string()])?;
        clients.hear()?;
        let seen = gateways.resident_kib()?;
        clients.tell()?;
        clients.end()?;
        Ok(seen)
    }

    /// Does one work through one pair, or straight to the server; returns what to tell people of it.
    fn measure(
        &self,
        work: &'static str,
        name: &'static str,
        target: SocketAddr,
        pair: Option<&Pair>,
        samples: &mut Samples,
    ) -> Result<String> {
        let spent = || pair.map_or(Ok(0.0), |pair| pair.gateways.processor_seconds());
        match (work, pair) {
            (work::EMPTY, Some(pair)) => {
                samples.add(work, table::RSS, name, pair.empty_kib / 1024.0);
                Ok(format!("{:.1} MiB", pair.empty_kib / 1024.0))
            }
            (work::IDLE, Some(pair)) => {
                let count = self.args.idle.unwrap_or(self.amount.idle);
                let before = pair.gateways.resident_kib()?;
                let after = self.idle(target, count, &pair.gateways)?;
                let each = (after - before) / 2.0 / count as f64;
                samples.add(work, table::IDLE_KIB, name, each);
                Ok(format!("{each:.2} KiB each"))
            }
            (work::FRESH, _) => {
                let took = load::first_byte(target, self.amount.fresh)?.as_secs_f64() * 1e3;
                samples.add(work, table::FIRST, name, took);
                Ok(format!("{took:.3} ms"))
            }
            (work::BULK, _) => {
                let (before, size) = (spent()?, self.amount.bulk);
                let took = load::bulk(target, size)?;
                let cost = spent()? - before;
                Ok(bulk_figures(name, size, took, pair.map(|_| cost), samples))
            }
            (work::KEEP_16 | work::KEEP_128 | work::EACH, _) => {
                let clients = if work == work::KEEP_128 { 128 } else { 16 };
                let keep = work != work::EACH;
                let seen = load::closed_loop(target, clients, keep, self.amount.span, spent)?;
                let rate = seen.requests as f64 / seen.span.as_secs_f64();
                samples.add(work, table::RATE, name, rate);
                samples.add(work, table::P99, name, seen.p99.as_secs_f64() * 1e3);
                let cost = seen.cost / seen.requests as f64 * 1e5;
                if pair.is_some() {
                    samples.add(work, table::COST, name, cost);
                }
                Ok(format!("{rate:.0}/s, {cost:.2} CPU s/100k"))
            }
            _ => Ok("has no gateway".to_owned()),
        }
    }
}

fn bulk_figures(
    name: &'static str,
    size: u64,
    took: Duration,
    cost: Option<f64>,
    samples: &mut Samples,
) -> String {
    let speed = size as f64 * 8.0 / 1e9 / took.as_secs_f64();
    samples.add(work::BULK, table::SPEED, name, speed);
    let cost = cost.map(|cost| cost / (size as f64 / 1e9));
    if let Some(cost) = cost {
        samples.add(work::BULK, table::BULK_COST, name, cost);
    }
    format!("{speed:.2} Gbit/s, {:.2} CPU s/GB", cost.unwrap_or(0.0))
}
