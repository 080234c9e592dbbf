//! What may be typed after `tombolo k8s`.

use std::time::Duration;

use clap::{Args, Subcommand};

use crate::{
    config::value::parse_duration,
    model::ids::{ClusterId, Locality},
};

/// `tombolo k8s`.
#[derive(Debug, Clone, Subcommand)]
pub enum K8sVerb {
    /// Install the gateway into a cluster, and have the cluster's DNS ask it
    Install(InstallArgs),
    /// Print what `install` applies
    Manifests(SettingArgs),
    /// Take the gateway out of a cluster, and its DNS back to what it was
    Uninstall(UninstallArgs),
    /// Check everything that can be wrong with the gateway in a cluster
    Check(ContextArgs),
    /// Have the gateway of a cluster make a join token, and print it
    Token(TokenArgs),
    /// Have the gateway of a cluster join another one, by its token
    Join(JoinArgs),
}

/// Which cluster.
#[derive(Debug, Clone, Default, Args)]
pub struct ContextArgs {
    /// Context of the kubeconfig [default: the current one]
    #[arg(long, value_name = "NAME")]
    pub context: Option<String>,
}

/// What a gateway is set to.
#[derive(Debug, Clone, Default, Args)]
pub struct SettingArgs {
    /// Id of the cluster in the clusterset, fixed at the first start [default: as it is installed]
    #[arg(long, value_name = "ID")]
    pub cluster: Option<ClusterId>,
    /// Where other clusters reach a host of this one: host:30443; may be given several times
    #[arg(long, value_name = "HOST:PORT")]
    pub advertise: Vec<String>,
    /// Where the cluster is
    #[arg(long, value_name = "REGION/ZONE", value_parser = Locality::parse)]
    pub locality: Option<Locality>,
    /// Image that holds this program
    #[arg(long, value_name = "IMAGE", default_value = "tombolo")]
    pub image: String,
}

/// `tombolo k8s install`.
#[derive(Debug, Clone, Default, Args)]
pub struct InstallArgs {
    /// Which cluster.
    #[command(flatten)]
    pub context: ContextArgs,
    /// What it is set to.
    #[command(flatten)]
    pub setting: SettingArgs,
    /// Leave the cluster's DNS alone
    #[arg(long)]
    pub no_dns: bool,
    /// Let the API server check everything, and change nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// `tombolo k8s uninstall`.
#[derive(Debug, Clone, Default, Args)]
pub struct UninstallArgs {
    /// Which cluster.
    #[command(flatten)]
    pub context: ContextArgs,
    /// Delete the custom resource definitions too, and with them every ServiceExport and ServiceImport
    #[arg(long)]
    pub definitions: bool,
    /// Delete the gateway's state too: a later installation is another member
    #[arg(long)]
    pub state_too: bool,
}

/// `tombolo k8s token`.
#[derive(Debug, Clone, Args)]
pub struct TokenArgs {
    /// Which cluster issues it.
    #[command(flatten)]
    pub context: ContextArgs,
    /// Only this cluster may redeem it
    #[arg(long = "for", value_name = "CLUSTER")]
    pub cluster: ClusterId,
    /// Its life, from 1m to 24h
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "15m")]
    pub ttl: Duration,
    /// Issue it although it names only addresses of this host or of private networks
    #[arg(long)]
    pub allow_private: bool,
}

/// `tombolo k8s join`.
#[derive(Debug, Clone, Args)]
pub struct JoinArgs {
    /// Which cluster joins.
    #[command(flatten)]
    pub context: ContextArgs,
    /// The cluster that issued the token
    #[arg(value_name = "CLUSTER")]
    pub peer: ClusterId,
    /// File with the token, or - for standard input [default: $TOMBOLO_TOKEN]
    #[arg(value_name = "-|FILE")]
    pub token: Option<String>,
}
