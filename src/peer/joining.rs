//! `tombolo join` from end to end: redeem the token, then wait until the peer is really usable.
//!
//! Usable means: a link is up, the session lives, and the first catalog is whole on this side.

use std::time::Duration;

use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout_at},
};

use super::{
    Inner,
    join::redeem::{Joined, Redeemer, Step},
};
use crate::model::{
    code::{Code, Problem},
    ids::ClusterId,
    limits,
    session::SessionState,
};

/// One line of what a person is told while joining.
#[derive(Debug, Clone)]
pub struct Progress {
    /// token, connect, exchange, link, catalog, done.
    pub step: &'static str,
    /// What was done.
    pub text: String,
    /// The peer, once it is known.
    pub peer: Option<ClusterId>,
    /// Why it failed; the last line then.
    pub problem: Option<Problem>,
}

/// How often the link and the catalog are looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// Joins, telling each step; ends with `done` or with a problem.
pub(super) async fn run(peers: &Inner, (token, re_trust): (&str, bool), lines: &mpsc::Sender<Progress>) {
    let mut peer = None;
    if let Err(problem) = join(peers, (token, re_trust), lines, &mut peer).await {
        let failed = Progress { step: "failed", text: problem.message.clone(), peer, problem: Some(problem) };
        // Whoever asked may have gone.
        let _ = lines.send(failed).await;
    }
}

async fn join(
    peers: &Inner,
    wish: (&str, bool),
    lines: &mpsc::Sender<Progress>,
    peer: &mut Option<ClusterId>,
) -> Result<(), Problem> {
    let joined = redeem(peers, wish, lines).await?;
    *peer = Some(joined.peer.clone());
    let tell = async |step, text| {
        let _ = lines.send(Progress { step, text, peer: Some(joined.peer.clone()), problem: None }).await;
    };
    if joined.pending_approval {
        let message = format!("{} has to approve this cluster first", joined.peer);
        let own = peers.ours.identity.cluster();
        return Err(Problem::new(Code::APPROVAL_PENDING, message).with_fix(format!(
            "ask there for `tombolo peer approve {own}`; nothing else is to be done here"
        )));
    }
    let deadline = Instant::from_std(peers.clock.now() + limits::JOIN_USABLE_TIMEOUT);
    let link = timeout_at(deadline, link_up(peers, &joined.peer)).await;
    tell("link", link.map_err(|_| not_usable(peers, &joined))?).await;
    let catalog = timeout_at(deadline, catalog_whole(peers, &joined.peer)).await;
    tell("catalog", catalog.map_err(|_| not_usable(peers, &joined))?).await;
    tell(
        "done",
        format!("joined {} ({}, fingerprint {})", joined.peer, joined.trust_domain, joined.fingerprint),
    )
    .await;
    Ok(())
}

async fn redeem(
    peers: &Inner,
    (token, re_trust): (&str, bool),
    lines: &mpsc::Sender<Progress>,
) -> Result<Joined, Problem> {
    let (steps, mut told) = mpsc::channel::<Step>(limits::CALL_QUEUE_MAX);
    let redeemer = Redeemer {
        ours: peers.ours.clone(),
        store: peers.store.clone(),
        links: peers.links.clone(),
        net: peers.net.clone(),
        re_trust,
    };
    let redeeming = async move { redeemer.redeem(token, &steps).await };
    let telling = async {
        while let Some(step) = told.recv().await {
            let name = match step {
                Step::Token { .. } => "token",
                Step::Connect { .. } => "connect",
                Step::Exchange { .. } => "exchange",
            };
            let line = Progress { step: name, text: step.to_string(), peer: None, problem: None };
            let _ = lines.send(line).await;
        }
    };
    tokio::join!(redeeming, telling).0
}

async fn link_up(peers: &Inner, cluster: &ClusterId) -> String {
    loop {
        if let Some(lane) = peers.links.registry().best(cluster) {
            let figures = lane.figures();
            let by = if lane.dialled() { "dialled by us" } else { "dialled by them" };
            let rtt = figures.rtt.as_secs_f64() * 1e3;
            return format!("mTLS up with {} at {}, {by}, rtt {rtt:.1} ms", lane.identity(), lane.address());
        }
        sleep(LOOK_INTERVAL).await;
    }
}

async fn catalog_whole(peers: &Inner, cluster: &ClusterId) -> String {
    loop {
        let session = peers.ledger.session(cluster);
        if let Some(row) = session.filter(|row| row.synced.is_some() && row.state == SessionState::Live) {
            let refused = row.refusals.len();
            let refused = if refused == 0 { String::new() } else { format!(", {refused} refused") };
            let services = if row.imported == 1 { "service" } else { "services" };
            return format!("{} {services} imported{refused}, digest equal", row.imported);
        }
        sleep(LOOK_INTERVAL).await;
    }
}

fn not_usable(peers: &Inner, joined: &Joined) -> Problem {
    let why = peers.links.dial_failure(&joined.peer).map(|failure| format!(": {}", failure.cause));
    let seconds = limits::JOIN_USABLE_TIMEOUT.as_secs();
    let message = format!("{} is not usable after {seconds} s{}", joined.peer, why.unwrap_or_default());
    Problem::new(Code::JOIN_TIMED_OUT, message)
}
