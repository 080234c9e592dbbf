//! What the admin API is made of: what it reads, and what it asks others to do.
//!
//! Its siblings (names, proxy, peers) are reached only through the functions and the trait that stand here;
//! whoever wires the gateway fills them in.

use std::{sync::Arc, time::Duration};

use tokio::sync::mpsc;

use super::api::{Addresses, JoinStep, JoinWish, NewToken, PortExplanation, TokenWish};
use crate::{
    clock::Clock,
    identity::{CurrentSvid, Identity},
    ledger::Ledger,
    link::Links,
    metrics::Metrics,
    model::{
        code::Problem,
        ids::{ClusterId, ServiceName, Timestamp},
        peering::Verb,
        zone::ZoneSource,
    },
    net::BoxFuture,
    store::Store,
    supervise::{Readiness, Tasks},
};

/// The newest view of the zone.
pub type NewestZone = Arc<dyn Fn() -> Arc<dyn ZoneSource> + Send + Sync>;
/// Where a new connection to each port of a service would go; none for a name that nobody exports.
pub type ExplainService = Arc<dyn Fn(&ServiceName) -> Option<Vec<PortExplanation>> + Send + Sync>;
/// Makes a token.
pub type IssueToken = Arc<dyn Fn(TokenWish) -> BoxFuture<'static, Result<NewToken, Problem>> + Send + Sync>;
/// Redeems a token and tells each step; the last one is `done` or has a problem. It goes on to its end also
/// when nobody hears it any more: what was begun at the other cluster must not be left half done.
pub type Join = Arc<dyn Fn(JoinWish, mpsc::Sender<JoinStep>) -> BoxFuture<'static, ()> + Send + Sync>;
/// Carries out a verb of a peer; `true`: without a word to it.
pub type ActOnPeer =
    Arc<dyn Fn(ClusterId, Verb, bool) -> BoxFuture<'static, Result<String, Problem>> + Send + Sync>;
/// Begins a rotation of the cluster's root, unless one is under way.
pub type BeginRotation = Arc<dyn Fn() -> BoxFuture<'static, Result<(), Problem>> + Send + Sync>;
/// Waits until every peer has confirmed that a service is gone, or the time is over; then tells who has not.
pub type Unconfirmed = Arc<dyn Fn(ServiceName, Duration) -> BoxFuture<'static, Vec<ClusterId>> + Send + Sync>;
/// What else a person should look at.
pub type Warnings = Arc<dyn Fn() -> Vec<Problem> + Send + Sync>;

/// Figures of peers that only the sessions with them know.
pub trait PeerFigures: Send + Sync {
    /// Changes of ours that the peer has not confirmed; none when it is not known.
    fn lag(&self, peer: &ClusterId) -> Option<u64>;
    /// Services the peer is told of.
    fn exported(&self, peer: &ClusterId) -> usize;
    /// Whether the peer uses the roots of ours that are in use now, and when it said so.
    fn roots_seen(&self, peer: &ClusterId) -> Option<(bool, Timestamp)>;
    /// Exports the peer cannot be told of because their record is too large, each with its code.
    fn too_large(&self, peer: &ClusterId) -> Vec<String>;
}

/// What does not change while the gateway runs.
#[derive(Debug, Clone)]
pub struct About {
    /// Release of the daemon.
    pub version: String,
    /// The state folder.
    pub state: String,
    /// Where it listens.
    pub addresses: Addresses,
    /// When it began to serve.
    pub started: std::time::Instant,
}

/// Everything the admin API needs.
#[derive(Clone)]
pub struct Parts {
    /// What is true.
    pub store: Store,
    /// Links to peers.
    pub links: Links,
    /// Live figures.
    pub ledger: Ledger,
    /// Metric families.
    pub metrics: Metrics,
    /// Time and randomness.
    pub clock: Clock,
    /// Runs the servers.
    pub tasks: Tasks,
    /// What is not ready yet.
    pub readiness: Readiness,
    /// This gateway's certificate.
    pub svid: Arc<CurrentSvid>,
    /// This cluster's roots.
    pub identity: Arc<Identity>,
    /// What does not change.
    pub about: About,
    /// The zone as it is answered.
    pub zone: NewestZone,
    /// For `explain`.
    pub explain: ExplainService,
    /// For the status of peers.
    pub peers: Arc<dyn PeerFigures>,
    /// For `token create`.
    pub issue_token: IssueToken,
    /// For `join`.
    pub join: Join,
    /// For `peer VERB`.
    pub act: ActOnPeer,
    /// For `ca rotate`.
    pub begin_rotation: BeginRotation,
    /// How long peers are waited for in a rotation, and how long the old root is believed after that.
    pub rotation_waits: (Duration, Duration),
    /// For `unexport --wait`.
    pub unconfirmed: Unconfirmed,
    /// For `status`.
    pub warnings: Warnings,
}

impl std::fmt::Debug for Parts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parts").field("about", &self.about).finish_non_exhaustive()
    }
}
