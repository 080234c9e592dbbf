//! What may be typed: the tree of verbs, and nothing of what they do.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use super::k8s::args::K8sVerb;
use crate::{
    config::{SessionAffinity, value::parse_duration},
    model::ids::{ClusterId, Locality, TrustDomain},
};

/// Joins Kubernetes clusters and plain hosts into one clusterset.
#[derive(Debug, Parser)]
#[command(name = "tombolo", version, disable_help_subcommand = true)]
pub struct Cli {
    /// Flags of every verb.
    #[command(flatten)]
    pub shared: SharedArgs,
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// Flags of every verb.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Flags of every command")]
pub struct SharedArgs {
    /// Form of the output
    #[arg(short, long, global = true, value_enum, default_value_t, value_name = "FORM")]
    pub output: Output,
    /// Socket of the gateway to talk to [default: the only one in the state folder]
    #[arg(long, global = true, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// State folder [default: /var/lib/tombolo for root, else $XDG_STATE_HOME/tombolo]
    #[arg(long, global = true, value_name = "DIR", env = "TOMBOLO_STATE")]
    pub state: Option<PathBuf>,
    /// How long to wait for the gateway [default: 10s, `join` 30s]
    #[arg(long, global = true, value_name = "TIME", value_parser = parse_duration)]
    pub timeout: Option<Duration>,
    /// No colours; NO_COLOR in the environment does the same
    #[arg(long, global = true)]
    pub no_color: bool,
}

/// Forms of output.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    #[default]
    Table,
    /// The bodies of the admin API, unchanged.
    Json,
    /// The same as YAML.
    Yaml,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Run a gateway in the foreground
    Run(Box<RunArgs>),
    /// Show the main job on this host: three clusters, one name, two faults
    Demo(DemoArgs),
    /// Create, list or revoke join tokens
    #[command(subcommand)]
    Token(TokenVerb),
    /// Join another cluster with its token
    Join(JoinArgs),
    /// Show this gateway: identity, addresses, peers, warnings
    Status,
    /// Show the peers, or one of them in full
    Peers {
        /// Only this cluster
        name: Option<ClusterId>,
    },
    /// Pause, remove, revoke, approve or verify a peer
    #[command(subcommand)]
    Peer(PeerVerb),
    /// Say which rules let a caller reach a service, or keep it from it
    #[command(subcommand)]
    Authz(AuthzVerb),
    /// Show or rotate this cluster's root
    #[command(subcommand)]
    Ca(CaVerb),
    /// Show the services of the clusterset, or one of them in full
    Services {
        /// Only this one: NAME, NAME.NAMESPACE or its DNS name
        name: Option<String>,
    },
    /// Export a service to the clusterset
    Export(ExportArgs),
    /// Take an export back
    Unexport(UnexportArgs),
    /// End this gateway after what it carries: peers are told first
    Drain,
    /// Look a name up as this gateway's DNS answers it, and say why
    Resolve {
        /// NAME, NAME.NAMESPACE or a DNS name
        name: String,
    },
    /// Say where connections to a name would go and why, or what a code means
    Explain {
        /// NAME, NAME.NAMESPACE, a DNS name, or a code such as TMB-1201
        #[arg(value_name = "NAME|CODE")]
        subject: String,
    },
    /// Check, describe or show the configuration
    #[command(subcommand)]
    Config(ConfigVerb),
    /// Install the gateway into a Kubernetes cluster, check it, join it, take it out
    #[command(subcommand)]
    K8s(K8sVerb),
    /// Print the release of this program, and of the gateway that runs
    Version,
    /// Print completions for a shell
    Completions {
        /// Which shell
        shell: Shell,
    },
}

/// `tombolo run`.
#[derive(Debug, Clone, Default, Args)]
pub struct RunArgs {
    /// Config file (TOML)
    #[arg(long, value_name = "FILE", env = "TOMBOLO_CONFIG")]
    pub config: Option<PathBuf>,
    /// Id of this cluster, fixed at first start [default: the host name's first label]
    #[arg(long, value_name = "ID")]
    pub cluster: Option<ClusterId>,
    /// Where this gateway runs
    #[arg(long, value_name = "REGION/ZONE", value_parser = Locality::parse)]
    pub locality: Option<Locality>,
    /// Address for peers, over UDP [default: 0.0.0.0:7443]
    #[arg(long, value_name = "ADDR")]
    pub listen: Option<SocketAddr>,
    /// Address for DNS, over UDP and TCP [default: 127.0.0.1:5533]
    #[arg(long, value_name = "ADDR")]
    pub dns: Option<SocketAddr>,
    /// Address for health and metrics, over HTTP [default: 127.0.0.1:7070]
    #[arg(long, value_name = "ADDR")]
    pub admin: Option<SocketAddr>,
    /// Range of virtual IPs [default: 127.77.0.0/16]
    #[arg(long, value_name = "CIDR")]
    pub virtual_ips: Option<ipnet::Ipv4Net>,
    /// Export a service; may be given several times
    #[arg(long, value_name = "NAME[.NAMESPACE]=ADDR[,ADDR]")]
    pub export: Vec<String>,
    /// Mark the services of --export: their requests may be sent twice
    #[arg(long, requires = "export")]
    pub idempotent: bool,
    /// What keeps a client of the services of --export with an endpoint
    #[arg(long, requires = "export", value_enum, default_value_t, value_name = "WHAT")]
    pub session_affinity: AffinityArg,
    /// Join with the token in FILE, or on standard input, once ready
    #[arg(long, value_name = "-|FILE")]
    pub join: Option<String>,
    /// End when the process that started this one ends
    #[arg(long, hide = true)]
    pub exit_with_parent: bool,
}

/// `tombolo demo`.
#[derive(Debug, Clone, Args)]
pub struct DemoArgs {
    /// End after the summary instead of serving on
    #[arg(long)]
    pub once: bool,
}

/// `tombolo token`.
#[derive(Debug, Subcommand)]
pub enum TokenVerb {
    /// Create a token for another cluster to join with; it is shown once
    Create(TokenCreateArgs),
    /// List the tokens, without their secrets
    List,
    /// Revoke a token
    Revoke {
        /// Its id, as `token list` shows it
        id: String,
    },
}

/// `tombolo token create`.
#[derive(Debug, Clone, Default, Args)]
pub struct TokenCreateArgs {
    /// Only this cluster may redeem it
    #[arg(long = "for", value_name = "CLUSTER")]
    pub cluster: Option<ClusterId>,
    /// Its life, from 1m to 24h [default: 15m]
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub ttl: Option<Duration>,
    /// Only a cluster of this trust domain may redeem it
    #[arg(long, value_name = "DOMAIN", value_parser = TrustDomain::parse)]
    pub expect_trust_domain: Option<TrustDomain>,
    /// How many clusters may redeem it [default: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub uses: Option<u32>,
    /// Whoever redeems it waits for `tombolo peer approve` here
    #[arg(long)]
    pub require_approval: bool,
    /// The cluster of --for may come with new roots, in the place of the peer of its id
    #[arg(long, requires = "cluster")]
    pub rejoin: bool,
    /// Issue it although it names only addresses of this host or of private networks
    #[arg(long)]
    pub allow_private: bool,
}

/// `tombolo join`.
#[derive(Debug, Clone, Args)]
pub struct JoinArgs {
    /// File with the token, or - for standard input [default: $TOMBOLO_TOKEN]
    #[arg(value_name = "-|FILE")]
    pub token: Option<String>,
}

/// `tombolo peer`.
#[derive(Debug, Clone, Subcommand)]
pub enum PeerVerb {
    /// Keep the trust, and stop names and streams both ways
    Pause(PeerArg),
    /// End a pause
    Resume(PeerArg),
    /// End the peering: tell the peer, drop its trust and its names, keep a tombstone
    Remove {
        /// The peer
        peer: ClusterId,
        /// Do not try to tell it
        #[arg(long)]
        force: bool,
    },
    /// End the peering without a word, and block its trust domain and keys until it is forgotten
    Revoke(PeerArg),
    /// Drop what is remembered of a removed or revoked peer
    Forget(PeerArg),
    /// Let a peer that waits for approval be a member
    Approve(PeerArg),
    /// Show the fingerprints that two operators compare
    Verify(PeerArg),
    /// Join a known peer again with its new roots, and keep its id
    ReTrust(JoinArgs),
}

/// `tombolo authz`.
#[derive(Debug, Clone, Subcommand)]
pub enum AuthzVerb {
    /// Print the deciding rule of every gate on this side
    Explain {
        /// The caller: a SPIFFE ID, or a path below this trust domain as ns/shop/sa/cart
        #[arg(long, value_name = "ID")]
        from: String,
        /// The service: NAME, NAME.NAMESPACE or NAMESPACE/NAME
        #[arg(long, value_name = "SVC")]
        to: String,
    },
}

/// `tombolo ca`.
#[derive(Debug, Clone, Copy, Subcommand)]
pub enum CaVerb {
    /// Show the roots, and which peers have stored them
    Status,
    /// Replace the root: tell every peer the new one, issue under it, retire the old one
    Rotate {
        /// Stay until the old root is retired, and tell each step
        #[arg(long)]
        watch: bool,
    },
}

/// A peer.
#[derive(Debug, Clone, Args)]
pub struct PeerArg {
    /// Its cluster id
    pub peer: ClusterId,
}

/// `tombolo export`.
#[derive(Debug, Clone, Args)]
pub struct ExportArgs {
    /// The name and where it runs, as in web.shop=127.0.0.1:8080
    #[arg(value_name = "NAME[.NAMESPACE]=ADDR[,ADDR]")]
    pub export: String,
    /// The port clients connect to [default: the first address's]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub port: Option<u16>,
    /// The port's name [default: tcp-N or udp-N]
    #[arg(long, value_name = "NAME")]
    pub port_name: Option<String>,
    /// A UDP service
    #[arg(long)]
    pub udp: bool,
    /// Its requests may be sent twice
    #[arg(long)]
    pub idempotent: bool,
    /// What keeps a client with an endpoint
    #[arg(long, value_enum, default_value_t, value_name = "WHAT")]
    pub session_affinity: AffinityArg,
}

/// What keeps a client with an endpoint.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum AffinityArg {
    /// Nothing: each connection goes where there is most room.
    #[default]
    None,
    /// Its address.
    ClientIp,
}

impl From<AffinityArg> for SessionAffinity {
    fn from(arg: AffinityArg) -> Self {
        match arg {
            AffinityArg::None => Self::None,
            AffinityArg::ClientIp => Self::ClientIp,
        }
    }
}

/// `tombolo unexport`.
#[derive(Debug, Clone, Args)]
pub struct UnexportArgs {
    /// NAME or NAME.NAMESPACE
    pub name: String,
    /// Wait until every peer has confirmed it
    #[arg(long)]
    pub wait: bool,
}

/// `tombolo config`.
#[derive(Debug, Clone, Subcommand)]
pub enum ConfigVerb {
    /// Check a config file and say what is wrong with it
    Validate {
        /// The file
        file: PathBuf,
    },
    /// Print the JSON Schema of the config file
    Schema,
    /// Print the settings that would hold, defaults included
    Show {
        /// The file
        file: Option<PathBuf>,
    },
}
