//! What may be typed, and which verb does it.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::{
    bench::{BenchArgs, Part},
    emulator::link::Change,
    fault::{Protocol, Target},
    ground::BackendName,
    kubernetes::KubernetesVerb,
    load::Kind,
    quantity::Span,
    scenario::Load,
    server::Defect,
    standing::Product,
    verb::failover::Kill,
};

/// Clusters on this machine, faults on demand, clients that keep count.
#[derive(Debug, Parser)]
#[command(name = "testbed", version, disable_help_subcommand = true)]
pub(crate) struct Cli {
    /// Folder of what stands
    #[arg(long, global = true, value_name = "DIR", env = "TESTBED_DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// The tombolo binary [default: beside this one]
    #[arg(long, global = true, value_name = "PATH", env = "TOMBOLO_BIN")]
    pub(crate) tombolo: Option<PathBuf>,
    /// Form of results
    #[arg(short, long, global = true, value_enum, default_value_t = Output::Table, value_name = "FORM")]
    pub(crate) output: Output,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// Forms of results.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people.
    Table,
    /// For programs.
    Json,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Bring clusters up; they stand until `down`
    Up(UpArgs),
    /// Show what stands
    Status,
    /// Break something, or mend it
    #[command(subcommand)]
    Fault(FaultVerb),
    /// Write the last packets offered to the WAN to a file (pcapng)
    Capture {
        /// The file
        file: PathBuf,
    },
    /// Run a load through what stands and account for every request
    Load(LoadArgs),
    /// Take something away under load, repeatedly, and measure what clients saw
    Failover(FailoverArgs),
    /// Run a scenario file: bring it up, do its steps under its load, hold its assertions, take it down
    Scenario {
        /// The file (TOML)
        file: PathBuf,
        /// Where it stands
        #[arg(long, value_enum, default_value_t = BackendName::Proc)]
        backend: BackendName,
        /// Repetitions [default: the file's]
        #[arg(long)]
        reps: Option<usize>,
        /// What stands between the clusters
        #[arg(long, value_enum, default_value_t = Product::Tombolo)]
        product: Product,
        /// Do the same to these too, and show both side by side
        #[arg(long, value_enum)]
        against: Option<Product>,
        #[command(flatten)]
        load: Box<LoadFlags>,
        #[command(flatten)]
        link: Change,
    },
    /// Take away what stands, all of it and nothing else
    Down,
    /// Kubernetes clusters, each with its own control plane
    #[command(subcommand)]
    Kubernetes(KubernetesVerb),
    /// The test server behind the sample service
    Backend(BackendArgs),
    /// Run the same works through Tombolo and other proxies, and show what each cost
    Bench(BenchArgs),
    /// The WAN emulator
    Emulator {
        /// Hold it against its claims (root, half a minute)
        #[arg(long, required = true)]
        measure: bool,
    },
    /// Parts of a testbed that are this program
    #[command(subcommand, hide = true)]
    Inner(InnerVerb),
}

/// `testbed up`.
#[derive(Debug, Args)]
pub(crate) struct UpArgs {
    /// How many clusters; the client's comes first and exports nothing
    #[arg(default_value_t = 3, conflicts_with = "scenario")]
    pub(crate) clusters: usize,
    /// Gateways of each
    #[arg(long, default_value_t = 1)]
    pub(crate) gateways: usize,
    /// Where they stand
    #[arg(long, value_enum, default_value_t = BackendName::Proc)]
    pub(crate) backend: BackendName,
    /// The clusters and links of a scenario file instead
    #[arg(long, value_name = "FILE")]
    pub(crate) scenario: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) link: Change,
}

/// `testbed fault`.
#[derive(Debug, Subcommand)]
pub(crate) enum FaultVerb {
    /// SIGKILL: west, west/1, west/active, west/endpoint/1, west/endpoints
    Kill { target: Target },
    /// SIGSTOP; also of wan, the relay or emulator
    Stop { target: Target },
    /// SIGCONT
    Cont { target: Target },
    /// Start what was killed
    Restart { target: Target },
    /// Let nothing pass between two clusters
    Partition {
        from: String,
        to: String,
        /// Only from the first to the second
        #[arg(long)]
        one_way: bool,
        /// Heal after this time
        #[arg(long = "for")]
        lasting: Option<Span>,
        /// Begin after this time
        #[arg(long)]
        after: Option<Span>,
    },
    /// End a partition
    Heal { from: String, to: String },
    /// Change a link; what is not named stays as it is
    Link {
        from: String,
        to: String,
        /// Only from the first to the second
        #[arg(long)]
        one_way: bool,
        /// Change it back after this time
        #[arg(long = "for")]
        lasting: Option<Span>,
        /// Change it after this time
        #[arg(long)]
        after: Option<Span>,
        #[command(flatten)]
        shape: Change,
    },
    /// Drop or refuse packets between two clusters in their routers, by nft rules (netns)
    Block {
        from: String,
        to: String,
        /// Only from the first to the second
        #[arg(long)]
        one_way: bool,
        /// Only this protocol
        #[arg(long, value_enum)]
        protocol: Option<Protocol>,
        /// Only packets of more bytes, IP header included
        #[arg(long, value_name = "BYTES")]
        longer_than: Option<u16>,
        /// Tell the sender: port unreachable for UDP, reset for TCP
        #[arg(long)]
        reject: bool,
        /// End it after this time
        #[arg(long = "for")]
        lasting: Option<Span>,
    },
    /// End a block
    Unblock { from: String, to: String },
    /// Make a cluster's NAT forget its flows: they go on from new ports
    Rebind {
        cluster: String,
        /// From a new address too (netns)
        #[arg(long)]
        address: bool,
    },
    /// Have endpoints misbehave: drop:N, stall:N, truncate:N, reset:N, error:N, slow:N:SPAN; nothing: behave
    Defect { target: Target, what: Vec<Defect> },
    /// Drop what new connections to endpoints begin with (netns)
    Mute { target: Target },
    /// End a mute
    Unmute { target: Target },
    /// SIGTERM to gateways one after the other, each started again and waited for
    Roll { target: Target },
}

/// `testbed load`.
#[derive(Debug, Args)]
pub(crate) struct LoadArgs {
    #[command(flatten)]
    pub(crate) load: LoadFlags,
    /// Send to this address instead of through what stands
    #[arg(long, value_name = "ADDR")]
    pub(crate) to: Option<std::net::SocketAddr>,
}

/// Requests per second of kinds `bulk` and `file`, when nothing else is said.
const BULK_RPS: f64 = 2.0;

/// The load itself.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Load")]
pub(crate) struct LoadFlags {
    /// What a request is
    #[arg(long, value_enum)]
    kind: Option<Kind>,
    /// Requests per second
    #[arg(long)]
    rps: Option<f64>,
    /// Connections opened before the first request
    #[arg(long)]
    connections: Option<usize>,
    /// How long requests are started
    #[arg(long = "for", value_name = "SPAN")]
    duration: Option<Span>,
    /// When a request is given up
    #[arg(long)]
    deadline: Option<Span>,
    /// When an answer is late
    #[arg(long)]
    late: Option<Span>,
    /// Size of a bulk body or a file
    #[arg(long)]
    bulk_bytes: Option<u64>,
    /// Long TCP streams beside the requests
    #[arg(long)]
    streams: Option<usize>,
    /// Bulk bodies fetched one after the other beside the requests, so many at a time
    #[arg(long)]
    downloads: Option<usize>,
}

impl LoadFlags {
    /// A load with what was typed put over it.
    pub(crate) fn over(&self, load: &Load) -> Load {
        let kind = self.kind.unwrap_or(load.kind);
        // A rate meant for small answers is no rate for bodies of 10 MB.
        let large = |kind| matches!(kind, Kind::Bulk | Kind::File);
        let rps = if large(kind) && !large(load.kind) { BULK_RPS } else { load.rps };
        Load {
            kind,
            from: load.from.clone(),
            rps: self.rps.unwrap_or(rps),
            connections: self.connections.unwrap_or(load.connections),
            duration: self.duration.unwrap_or(load.duration),
            deadline: self.deadline.unwrap_or(load.deadline),
            late: self.late.unwrap_or(load.late),
            bulk_bytes: self.bulk_bytes.unwrap_or(load.bulk_bytes),
            streams: self.streams.unwrap_or(load.streams),
            downloads: self.downloads.unwrap_or(load.downloads),
        }
    }
}

/// `testbed failover`.
#[derive(Debug, Args)]
pub(crate) struct FailoverArgs {
    /// What is taken away
    #[arg(long, value_enum, default_value_t = Kill::Gateway)]
    pub(crate) kill: Kill,
    /// Repetitions
    #[arg(long, default_value_t = 3)]
    pub(crate) reps: usize,
    /// What must hold, as 'gap_p99<1s failed==0'
    #[arg(long, default_value = "")]
    pub(crate) assert: String,
    /// Bring up clusters for this, and take them down after
    #[arg(long, value_enum)]
    pub(crate) backend: Option<BackendName>,
    /// Clusters brought up
    #[arg(long, default_value_t = 3)]
    pub(crate) clusters: usize,
    /// Gateways of each
    #[arg(long, default_value_t = 1)]
    pub(crate) gateways: usize,
    #[command(flatten)]
    pub(crate) load: LoadFlags,
    #[command(flatten)]
    pub(crate) link: Change,
}

/// `testbed backend`.
#[derive(Debug, Args)]
pub(crate) struct BackendArgs {
    /// The cluster named in answers
    #[arg(long, default_value = "testbed")]
    pub(crate) cluster: String,
    /// HTTP
    #[arg(long, value_name = "ADDR")]
    pub(crate) http: Option<std::net::SocketAddr>,
    /// Echo
    #[arg(long, value_name = "ADDR")]
    pub(crate) echo: Option<std::net::SocketAddr>,
    /// Greeting: the server speaks first
    #[arg(long, value_name = "ADDR")]
    pub(crate) greet: Option<std::net::SocketAddr>,
    /// drop:N, stall:N, truncate:N, reset:N, error:N, slow:N:SPAN at every Nth request; may be given several times
    #[arg(long)]
    pub(crate) defect: Vec<Defect>,
    /// A file with more defects, one a line, followed while it changes
    #[arg(long, value_name = "FILE")]
    pub(crate) follow: Option<PathBuf>,
    /// Write the id (header X-Request) of every HTTP request to this file
    #[arg(long, value_name = "FILE")]
    pub(crate) record: Option<PathBuf>,
}

/// Parts of a testbed.
#[derive(Debug, Subcommand)]
pub(crate) enum InnerVerb {
    /// Asks a DNS server for the address of a name.
    Name {
        /// The server.
        server: std::net::SocketAddr,
        /// The name.
        name: String,
    },
    /// The relay or emulator
    Wan { plan: PathBuf, socket: PathBuf },
    /// A part of a benchmark that is a process of its own
    #[command(subcommand)]
    Bench(Part),
    /// The client inside a cluster
    Client,
}
