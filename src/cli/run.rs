//! `tombolo run`: a gateway in the foreground, until it is told to stop.
//!
//! Reads the config, takes the state folder, starts the daemon, says once what was started, and passes the
//! system's signals on: SIGTERM and SIGINT drain, a second one stops, SIGHUP reads the config anew.

use std::{path::Path, sync::Arc};

use nix::sys::signal::{SigSet, Signal as NixSignal};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
};

use super::{
    args::{RunArgs, SharedArgs},
    client::state_folder,
    config, join, output,
    render::count,
};
use crate::{
    clock::Clock,
    config::{Config, ExportFlags, ExportSpec, Overrides},
    daemon::{self, Daemon, Home, Launch, Summary},
    link,
    model::{
        code::{Code, Problem},
        limits,
    },
    net,
    supervise::{Shards, Shutdown, Tasks},
};

/// Runs until the end of the gateway.
pub(super) async fn run(args: &RunArgs, shared: &SharedArgs) -> Result<(), Problem> {
    if args.exit_with_parent {
        end_with_parent()?;
    }
    start_logging();
    let config = read_config(args)?;
    let token = match &args.join {
        Some(source) => Some(join::read(Some(source)).await?),
        None => None,
    };
    let (_, open_files) = net::raise_open_files()
        .map_err(|error| Problem::new(Code::PART_FAILED, format!("the limit of open files: {error}")))?;
    let clock = Clock::system();
    let state = state_folder(shared.state.as_deref());
    daemon::check(&config, &net::Os::default(), &state)?;
    let home = Home::claim(&state, &clock)?;
    let socket = Path::new(&home.place).join(home.folder()).join("admin.sock");
    let shutdown = Shutdown::new();
    let tasks = Tasks::new(shutdown.clone());
    let shards = Shards::threads(Shards::count_default(), &tasks, clock.now())
        .map_err(|error| Problem::new(Code::PART_FAILED, format!("no threads could be started: {error}")))?;
    // From here on a signal is kept until the gateway can follow it; before, it simply ends us.
    let signals = Signals::catch()?;
    let launch = Launch {
        qlog: recording()?,
        config,
        home,
        net: Arc::new(net::Os::default()),
        clock,
        tasks: tasks.clone(),
        shards,
        host_name: host_name(),
        interfaces: net::interfaces(),
        open_files,
    };
    let daemon = Arc::new(Daemon::start(launch, socket).await?);
    tasks.spawn_transient("signals", follow_signals(signals, shutdown, daemon.clone(), args.clone()));
    announce(&daemon.summary(), token.is_some());
    if let Some(token) = token {
        tasks.spawn_transient("join", tell_join(daemon.clone(), token));
    }
    daemon.run().await
}

/// SIGTERM for us when whoever started us ends, however it ends.
fn end_with_parent() -> Result<(), Problem> {
    let failed = |error| Problem::new(Code::SYSTEM_UNSUPPORTED, format!("--exit-with-parent: {error}"));
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGTERM).map_err(failed)?;
    if nix::unistd::getppid().as_raw() == 1 {
        return Err(Problem::new(Code::PART_FAILED, "whoever started this gateway has ended"));
    }
    Ok(())
}

/// Logs to standard error; `TOMBOLO_LOG` says how much, as a filter of targets and levels.
fn start_logging() {
    const QUIET: &str = "info,hickory_server=warn,hickory_proto=warn,quinn=warn,quinn_proto=warn,h2=warn";
    let filter = std::env::var("TOMBOLO_LOG").unwrap_or_else(|_| QUIET.to_owned());
    let filter = tracing_subscriber::EnvFilter::try_new(filter)
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(QUIET));
    // A second subscriber is refused: the first one is ours then too.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .try_init();
}

/// Where QUIC connections are to be recorded: the folder that `TOMBOLO_QLOG` names.
fn recording() -> Result<Option<link::Qlog>, Problem> {
    let Some(folder) = std::env::var_os("TOMBOLO_QLOG").filter(|folder| !folder.is_empty()) else {
        return Ok(None);
    };
    link::Qlog::into_folder(Path::new(&folder)).map(Some).map_err(|error| {
        Problem::new(Code::CONFIG_VALUE_INVALID, format!("TOMBOLO_QLOG={}: {error}", folder.display()))
            .with_fix("name a folder that this gateway may write to, or unset it")
    })
}

fn host_name() -> String {
    nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()).unwrap_or_default()
}

/// The config file, the environment and the flags as one.
pub(super) fn read_config(args: &RunArgs) -> Result<Config, Problem> {
    let overrides = Overrides {
        cluster: args.cluster.as_ref().map(ToString::to_string),
        locality: args.locality.as_ref().map(ToString::to_string),
        listen: args.listen.map(|address| address.to_string()),
        dns: args.dns.map(|address| address.to_string()),
        admin: args.admin.map(|address| address.to_string()),
        virtual_ips: args.virtual_ips.map(|range| range.to_string()),
        exports: Vec::new(),
    };
    let mut config = config::load(args.config.as_deref(), &overrides)?;
    for text in &args.export {
        let flags = ExportFlags {
            idempotent: args.idempotent,
            session_affinity: args.session_affinity.into(),
            ..ExportFlags::default()
        };
        let spec = ExportSpec::from_flag(text, &flags, &config.names.zone)?;
        let name = spec.service_name();
        if let Some(place) = config.place_of_export(&name) {
            return Err(ExportSpec::declared_twice(&name, place, &spec.place));
        }
        config.exports.push(spec);
    }
    Ok(config)
}

/// Says once what was started, and what to type next.
fn announce(summary: &Summary, joining: bool) {
    let addresses = &summary.addresses;
    let made = if summary.first_start { "  (new)" } else { "" };
    output::line(&format!("cluster       {}{made}   gateway {}", summary.cluster, summary.gateway));
    output::line(&format!("trust domain  {}   fingerprint {}", summary.trust_domain, summary.fingerprint));
    output::line(&format!("peers         udp {}", addresses.quic));
    output::line(&format!("dns           {}", addresses.dns));
    output::line(&format!("admin         http://{}", addresses.admin));
    output::line(&format!("socket        {}", addresses.socket));
    let age = summary.catalog_age.map(|age| format!(", catalog {} s old", age.as_secs())).unwrap_or_default();
    output::line(&format!(
        "state         {}   {}, {}{age}",
        summary.state,
        count(summary.peers, "peer"),
        count(summary.exports, "export")
    ));
    let state = &summary.state;
    output::line(&match (joining, summary.peers) {
        (true, _) => "joining ...".to_owned(),
        (false, 0) => {
            format!("next          tombolo --state {state} token create{}", allowing(&addresses.quic))
        }
        (false, _) => format!("next          tombolo --state {state} status"),
    });
}

/// What a token needs to be issued by a gateway that only this host can reach.
fn allowing(quic: &str) -> &'static str {
    let here = quic.parse::<std::net::SocketAddr>().is_ok_and(|address| address.ip().is_loopback());
    if here { " --allow-private" } else { "" }
}

async fn tell_join(daemon: Arc<Daemon>, token: String) {
    let (steps, mut told) = mpsc::channel(limits::CALL_QUEUE_MAX);
    let joining = daemon.join(token, steps);
    let telling = async {
        while let Some(step) = told.recv().await {
            match step.problem {
                Some(problem) => output::warning(&problem),
                None => output::line(&format!(" ok  {:<9} {}", step.step, step.text)),
            }
        }
    };
    tokio::join!(joining, telling);
}

async fn follow_signals(mut signals: Signals, shutdown: Shutdown, daemon: Arc<Daemon>, args: RunArgs) {
    let hard = shutdown.hard();
    tokio::pin!(hard);
    loop {
        let name = tokio::select! {
            biased;
            () = &mut hard => return,
            name = signals.next() => name,
        };
        match name {
            "SIGHUP" => reload(&daemon, &args).await,
            name if shutdown.is_soft() => shutdown.stop(format!("{name} again")),
            name => shutdown.drain(name),
        }
    }
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Signals {
    fn catch() -> Result<Self, Problem> {
        // Whoever started us may have held them back for itself, and we would have inherited that.
        let mut ours = SigSet::empty();
        [NixSignal::SIGTERM, NixSignal::SIGINT, NixSignal::SIGHUP]
            .into_iter()
            .for_each(|signal| ours.add(signal));
        // The call refuses nothing that is a signal.
        let _ = ours.thread_unblock();
        let catch = |kind| {
            signal(kind).map_err(|error| {
                Problem::new(Code::PART_FAILED, format!("a signal cannot be caught: {error}"))
            })
        };
        Ok(Self {
            terminate: catch(SignalKind::terminate())?,
            interrupt: catch(SignalKind::interrupt())?,
            hang_up: catch(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            biased;
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.hang_up.recv() => "SIGHUP",
        }
    }
}

async fn reload(daemon: &Daemon, args: &RunArgs) {
    let read = read_config(args);
    let result = match read {
        Ok(config) => daemon.reload(config).await,
        Err(problem) => Err(Problem::new(Code::RELOAD_REFUSED, problem.message).with_fix(problem.fix)),
    };
    match result {
        Ok(waiting) if waiting.is_empty() => tracing::info!("config read anew"),
        Ok(waiting) => {
            tracing::warn!(code = %Code::RESTART_NEEDED, keys = ?waiting, "config read anew; these keys wait for a restart");
        }
        Err(problem) => tracing::error!(code = %problem.code, error = %problem, "config not taken"),
    }
}
