//! What the admin API reads and asks for, made of the parts: the only place where siblings meet.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::sync::mpsc;

use super::core::Core;
use crate::{
    admin::{
        self, About,
        api::{
            Addresses, CandidateStatus, EndpointStatus, JoinStep, JoinWish, NewToken, PortExplanation,
            PortStatus, TokenWish, schema,
        },
    },
    kubernetes::Kubernetes,
    metrics::Metrics,
    model::{
        catalog::{ExportPort, Protocol},
        code::Problem,
        failover::Considered,
        ids::{ClusterId, ServiceName, Timestamp},
        limits,
        outlier::Standing,
        peering::Verb,
        token::record::TokenTerms,
        virtual_ip::BindingState,
    },
    peer::{Acted, Peers, Progress, issue},
    proxy::Explained,
    supervise::Readiness,
};

/// Everything the admin API needs.
pub(super) fn parts(
    core: &Arc<Core>,
    readiness: Readiness,
    metrics: Metrics,
    addresses: &Addresses,
) -> admin::Parts {
    let (zone, explain, tokens, joining) = (core.clone(), core.clone(), core.clone(), core.clone());
    let (peers, acting, rotation) = (core.peers.clone(), core.peers.clone(), core.rotation.clone());
    let kubernetes = core.kubernetes.clone();
    admin::Parts {
        store: core.store.clone(),
        links: core.links.clone(),
        ledger: core.ledger.clone(),
        metrics,
        clock: core.clock.clone(),
        tasks: core.tasks.clone(),
        readiness,
        svid: core.ours.svid.clone(),
        identity: core.ours.identity.clone(),
        about: About {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            state: core.home.place.clone(),
            addresses: addresses.clone(),
            started: core.started.at,
        },
        zone: Arc::new(move || zone.zone()),
        explain: Arc::new(move |name| {
            let explained = explain.proxy.explain(name)?;
            Some(explained.iter().map(|port| explanation(&explain, name, port)).collect())
        }),
        peers: Arc::new(Figures(core.peers.clone())),
        issue_token: Arc::new(move |wish| {
            let core = tokens.clone();
            Box::pin(async move { issue_token(&core, wish).await })
        }),
        join: Arc::new(move |wish, steps| {
            let core = joining.clone();
            Box::pin(async move { join(&core, wish, steps).await })
        }),
        act: Arc::new(move |peer, verb, force| {
            let acting = acting.clone();
            Box::pin(async move { act(&acting, peer, verb, force).await })
        }),
        begin_rotation: Arc::new(move || {
            let rotation = rotation.clone();
            Box::pin(async move { rotation.begin().await.map(|_| ()) })
        }),
        rotation_waits: (core.config.identity.rotation_patience, core.config.identity.retire_after),
        unconfirmed: Arc::new(move |name, patience: Duration| {
            let peers = peers.clone();
            Box::pin(async move { peers.unconfirmed(&name, patience).await })
        }),
        warnings: Arc::new(move || kubernetes.as_ref().map(Kubernetes::warnings).unwrap_or_default()),
    }
}

struct Figures(Peers);

impl admin::PeerFigures for Figures {
    fn lag(&self, peer: &ClusterId) -> Option<u64> {
        self.0.lag(peer)
    }

    fn exported(&self, peer: &ClusterId) -> usize {
        self.0.exported(peer)
    }

    fn roots_seen(&self, peer: &ClusterId) -> Option<(bool, Timestamp)> {
        self.0.roots_seen(peer)
    }

    fn too_large(&self, peer: &ClusterId) -> Vec<String> {
        self.0.too_large(peer)
    }
}

/// Carries out a verb of a peer; what was done, in words.
async fn act(peers: &Peers, peer: ClusterId, verb: Verb, force: bool) -> Result<String, Problem> {
    let acted = peers.act(&peer, verb, force).await?;
    let done = match (acted, verb) {
        (Acted::Already, _) => return Ok(format!("{peer}: nothing to {verb}, it is so already")),
        (_, Verb::Pause) => "is paused: trust stays, its names are gone and its streams are closed",
        (_, Verb::Resume) => "goes on",
        (Acted::Told, Verb::Remove) => "is removed, and it knows",
        (_, Verb::Remove) if force => "is removed; it was not told",
        (_, Verb::Remove) => "is removed; it could not be told, and finds out when it dials",
        (_, Verb::Revoke) => "is revoked: its trust domain and keys are blocked until it is forgotten",
        (_, Verb::Forget) => "is forgotten",
        (_, Verb::Approve) => "is approved",
    };
    Ok(format!("{peer} {done}"))
}

/// Joins, and passes each step on in the API's form.
pub(super) async fn join(core: &Core, wish: JoinWish, steps: mpsc::Sender<JoinStep>) {
    let (lines, mut told) = mpsc::channel::<Progress>(limits::CALL_QUEUE_MAX);
    let joining = async move {
        let peers = &core.peers;
        if wish.re_trust {
            peers.re_trust(&wish.token, &lines).await;
        } else {
            peers.join(&wish.token, &lines).await;
        }
    };
    let passing_on = async {
        while let Some(line) = told.recv().await {
            let step = JoinStep {
                schema: schema("join"),
                step: line.step.to_owned(),
                text: line.text,
                peer: line.peer,
                problem: line.problem,
            };
            // Joining goes on when nobody listens any more.
            let _ = steps.send(step).await;
        }
    };
    tokio::join!(joining, passing_on);
}

pub(super) async fn issue_token(core: &Core, wish: TokenWish) -> Result<NewToken, Problem> {
    let default = TokenTerms::default();
    let terms = TokenTerms {
        ttl: wish.ttl_seconds.map_or(default.ttl, Duration::from_secs),
        uses: wish.uses.unwrap_or(default.uses),
        for_cluster: wish.cluster,
        expect_trust_domain: wish.expect_trust_domain,
        require_approval: wish.require_approval,
        rejoin: wish.rejoin,
    };
    let made = issue::create(&core.ours, &core.store, terms, wish.allow_private).await?;
    Ok(NewToken {
        schema: schema("token"),
        id: made.record.id.to_string(),
        token: made.text.to_string(),
        expires_unix_ms: made.record.expires,
        uses: made.record.uses_left,
        addresses: made.addresses,
        trust_domain: core.ours.identity.trust_domain().clone(),
        fingerprint: core.ours.bundle().fingerprint().to_string(),
    })
}

fn explanation(core: &Core, service: &ServiceName, explained: &Explained) -> PortExplanation {
    let port = &explained.port.port;
    let (bound_port, state) = match &explained.binding {
        Some(binding) => (Some(binding.bound_port), binding_words(binding.state)),
        None => (None, "not listening".to_owned()),
    };
    PortExplanation {
        port: PortStatus {
            name: port.name.to_string(),
            protocol: port.protocol.to_string(),
            port: port.number,
            bound_port,
            state,
        },
        considered: explained.considered.iter().map(|considered| candidate(core, considered)).collect(),
        endpoints: endpoints(core, service, port.number),
    }
}

/// The endpoints of this cluster behind a port, and what speaks against them.
fn endpoints(core: &Core, service: &ServiceName, number: u16) -> Vec<EndpointStatus> {
    let (state, now) = (core.store.state(), core.clock.now());
    let unready = state.unready.get(service);
    let port = state.exports.get(service).and_then(|export| {
        let serves = |port: &&ExportPort| port.port.protocol == Protocol::Tcp && port.port.number == number;
        export.ports.iter().find(serves)
    });
    let told = |address: &SocketAddr| {
        let (standing, avoided) = core.ledger.endpoint_standing(&(service.clone(), number, *address));
        let fails_checks = unready.is_some_and(|unready| unready.contains(&(number, *address)));
        let state = match standing {
            _ if fails_checks => "not ready: its check fails, or Kubernetes says so".to_owned(),
            Standing::Ejected { until } => {
                let left = until.saturating_duration_since(now).as_millis();
                format!("left out for {left} ms more: connections to it failed again and again")
            }
            Standing::Probation => "on probation: the next connection decides".to_owned(),
            Standing::Healthy if avoided => "tried last: it reset a connection just now".to_owned(),
            Standing::Healthy => "ready".to_owned(),
        };
        EndpointStatus { address: *address, state }
    };
    port.map(|port| port.to.iter().map(told).collect()).unwrap_or_default()
}

fn binding_words(state: BindingState) -> String {
    match state {
        BindingState::Listening => "listening".to_owned(),
        BindingState::NoCandidate => "no candidate".to_owned(),
        BindingState::Failed(code) => format!("failed: {code}"),
    }
}

fn candidate(core: &Core, considered: &Considered) -> CandidateStatus {
    let lane = core.links.registry().best(&considered.cluster);
    CandidateStatus {
        cluster: considered.cluster.clone(),
        priority: considered.priority,
        share: considered.share_percent.into(),
        ready: u32::try_from(considered.ready).unwrap_or(u32::MAX),
        total: u32::try_from(considered.total).unwrap_or(u32::MAX),
        rtt_ms: lane.map(|lane| lane.figures().rtt.as_secs_f64() * 1e3),
        reason: format!("{}: {}", considered.verdict, considered.reason),
    }
}
