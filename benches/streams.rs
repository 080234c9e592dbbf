//! Two gateways as processes and very many connections through them, a QUIC stream each: what standing costs.
//!
//! `cargo bench --bench streams -- [--streams N] [-o json]`. The gateways are whole but for their front doors; QUIC
//! runs over UDP of this machine, and TCP is memory, so that no bound on open files matters. Clients are in the
//! process of one gateway and endpoints in that of the other: their memory counts.
#![expect(clippy::print_stdout, reason = "a program whose output is its purpose")]
#![expect(
    clippy::disallowed_methods,
    reason = "it stands outside of the gateways, and its network is the kernel"
)]

mod memory;
mod usage;

use std::{
    future::Future,
    io::{BufRead as _, BufReader, Lines, Write as _},
    net::{Ipv4Addr, SocketAddr},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, ensure};
use clap::{Parser, ValueEnum};
use serde_json::{Value, json};
use tokio::{sync::mpsc, task::JoinSet};
use tombolo::{
    clock::Clock,
    config::{Config, ExportFlags, ExportSpec},
    daemon::{
        Home,
        core::{Core, Launch},
    },
    files,
    model::{
        catalog::ExportSource,
        ids::{ClusterId, GatewayId, Incarnation},
        state::Event,
        token::record::TokenTerms,
        zone::{Data, QueryType, Question, answer},
    },
    peer::issue,
    supervise::{Shards, Shutdown, Tasks},
};

use memory::{Memory, ask};
use usage::Usage;

/// The most memory that either gateway may take, in MiB.
const BOUND_MIB: u64 = 2_048;
/// Connections opened at once.
const OPENING: usize = 256;
/// Until whatever was freed after the opening is given back.
const SETTLE: Duration = Duration::from_secs(3);
/// Time for whatever is waited for.
const PATIENCE: Duration = Duration::from_secs(120);
/// The service and its port.
const SERVICE: &str = "echo.bench";
const PORT: u16 = 80;

#[derive(Parser)]
struct Wanted {
    /// Connections through the two gateways
    #[arg(long, default_value_t = 100_000)]
    streams: usize,
    /// Form of the output
    #[arg(short, long, value_enum, default_value = "table")]
    output: Output,
    /// Which of the two gateways this process is
    #[arg(long, value_enum, hide = true)]
    side: Option<Side>,
    /// What cargo says when it is `cargo bench`
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Table,
    Json,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Side {
    /// With the clients.
    Near,
    /// With the endpoints.
    Far,
}

fn main() -> Result<()> {
    let wanted = Wanted::parse();
    if let Some(side) = wanted.side {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        return runtime.block_on(be(side, wanted.streams));
    }
    if !wanted.bench {
        return Ok(()); // `cargo test --benches`: it is enough that it builds
    }
    let figures = measure(wanted.streams)?;
    match (wanted.output, &figures) {
        (Output::Table, Value::Object(fields)) => {
            fields.iter().for_each(|(name, value)| println!("{name:<12} {value}"));
        }
        _ => println!("{figures}"),
    }
    ensure!(figures["holds"] == true, "a gateway took more than {BOUND_MIB} MiB");
    Ok(())
}

/// Both gateways, looked at from outside.
fn measure(streams: usize) -> Result<Value> {
    let mut far = Process::start(Side::Far, streams)?;
    let mut near = Process::start(Side::Near, streams)?;
    let token = far.hear()?;
    near.tell(&token)?;
    ensure!(near.hear()? == "joined", "the gateways are not joined");
    let empty = [near.usage()?, far.usage()?];
    let began = Instant::now();
    near.tell("open")?;
    ensure!(near.hear()? == "open", "not all connections stand");
    let opening = began.elapsed();
    let full = [near.usage()?, far.usage()?];
    near.tell("ask")?;
    ensure!(near.hear()? == "answered", "not all connections were good");
    let holds = full.iter().all(|usage| usage.rss_kib <= BOUND_MIB * 1_024);
    let side = |at: usize| {
        let grown = full[at].rss_kib.saturating_sub(empty[at].rss_kib) as f64;
        let each = (grown / streams as f64 * 100.0).round() / 100.0;
        json!({ "empty": empty[at].json(), "full": full[at].json(), "kib_each": each })
    };
    Ok(json!({
        "streams": streams,
        "opened_in_s": opening.as_secs_f64(),
        "near": side(0),
        "far": side(1),
        "bound_mib": BOUND_MIB,
        "holds": holds,
    }))
}

/// A gateway as a process of its own; dropping it kills it.
struct Process {
    child: Child,
    tell: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Process {
    fn start(side: Side, streams: usize) -> Result<Self> {
        let name = side.to_possible_value().context("a side without a name")?;
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["--side", name.get_name(), "--streams", &streams.to_string()]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let tell = child.stdin.take().context("a pipe that was asked for")?;
        let lines = child.stdout.take().context("a pipe that was asked for")?;
        Ok(Self { child, tell, lines: BufReader::new(lines).lines() })
    }

    fn hear(&mut self) -> Result<String> {
        Ok(self.lines.next().context("a gateway ended")??)
    }

    fn tell(&mut self, line: &str) -> Result<()> {
        Ok(writeln!(self.tell, "{line}")?)
    }

    fn usage(&self) -> Result<Usage> {
        Usage::of(self.child.id())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself; there is nobody to tell.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One of the gateways, until nobody has more to say to it.
async fn be(side: Side, streams: usize) -> Result<()> {
    let net = Arc::new(Memory::default());
    let (core, clock) = start(side, streams, net.clone()).await?;
    match side {
        Side::Far => {
            let nowhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 9));
            let flags = ExportFlags { port: Some(PORT), ..ExportFlags::default() };
            let spec = ExportSpec::from_flag(&format!("{SERVICE}={nowhere}"), &flags, "")?;
            let export = spec.to_export(clock.wall(), Incarnation(clock.random_bytes()), ExportSource::State);
            core.store.apply(Event::Exported(export)).await.map_err(|error| error.problem())?;
            let token = issue::create(&core.ours, &core.store, TokenTerms::default(), true).await?;
            println!("{}", token.text.as_str());
            // The other side's end is this one's.
            heard().await.map(drop).or(Ok(()))
        }
        Side::Near => {
            join(&core, heard().await?).await?;
            let target = within(|| async { address(&core, &clock).context("no address") }).await?;
            within(|| async { Ok(net.visit(target).await?) }).await?;
            println!("joined");
            heard().await?;
            let mut held = Vec::with_capacity(streams);
            while held.len() < streams {
                let mut opening = JoinSet::new();
                for _ in 0..OPENING.min(streams - held.len()) {
                    let net = net.clone();
                    opening.spawn(async move {
                        let mut stream = net.visit(target).await?;
                        ask(&mut stream).await?;
                        anyhow::Ok(stream)
                    });
                }
                while let Some(opened) = opening.join_next().await {
                    held.push(opened.context("a client panicked")?.context("opening")?);
                }
            }
            tokio::time::sleep(SETTLE).await;
            println!("open");
            heard().await?;
            for stream in &mut held {
                ask(stream).await.context("a connection that stood")?;
            }
            println!("answered");
            Ok(())
        }
    }
}

/// A line from who started this.
async fn heard() -> Result<String> {
    let line = tokio::task::spawn_blocking(|| std::io::stdin().lines().next()).await?;
    Ok(line.context("nobody is there any more")??)
}

async fn start(side: Side, streams: usize, net: Arc<Memory>) -> Result<(Core, Clock)> {
    let name = if side == Side::Near { "near" } else { "far" };
    let clock = Clock::system();
    let tasks = Tasks::new(Shutdown::new());
    let shards = Shards::threads(Shards::count_default(), &tasks, clock.now())?;
    let mut config = Config { cluster: Some(ClusterId::parse(name)?), ..Config::default() };
    config.listen.quic = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    config.limits.bidi_streams = u32::try_from(streams + 1_000)?;
    config.limits.connections = streams + 1_000;
    config.limits.opens_per_second = 1_000_000;
    let core = Core::start(Launch {
        config,
        home: Home {
            persist: Arc::new(files::Memory::new()),
            gateway: GatewayId::parse("gw-1")?,
            place: "memory".to_owned(),
            lock: None,
        },
        net,
        clock: clock.clone(),
        tasks,
        shards,
        host_name: name.to_owned(),
        interfaces: vec![Ipv4Addr::LOCALHOST.into()],
        // Of which connections take none here.
        open_files: u64::MAX,
        qlog: None,
    });
    Ok((core.await?, clock))
}

async fn join(core: &Core, token: String) -> Result<()> {
    let (lines, mut told) = mpsc::channel(64);
    let joining = async {
        core.peers.join(&token, &lines).await;
        drop(lines);
    };
    let telling = async {
        let mut end = Err(anyhow!("the join said nothing"));
        while let Some(line) = told.recv().await {
            end = match line.problem {
                Some(problem) => Err(problem.into()),
                None => Ok(()),
            };
        }
        end
    };
    tokio::join!(joining, telling).1
}

/// Where clients reach the service, once it is known.
fn address(core: &Core, clock: &Clock) -> Option<SocketAddr> {
    let full = format!("{SERVICE}.svc.clusterset.local");
    let labels: Vec<&[u8]> = full.split('.').map(str::as_bytes).collect();
    let question = Question { labels: &labels, kind: QueryType::A };
    let found = answer(&question, &*core.zone(), clock.now());
    found.answers.iter().find_map(|record| match record.data {
        Data::A(ip) => Some(SocketAddr::from((ip, PORT))),
        _ => None,
    })
}

/// Tries until it succeeds.
async fn within<T, F: Future<Output = Result<T>>>(mut attempt: impl FnMut() -> F) -> Result<T> {
    let began = Instant::now();
    loop {
        match attempt().await {
            Ok(found) => return Ok(found),
            Err(error) if began.elapsed() > PATIENCE => return Err(error),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}
