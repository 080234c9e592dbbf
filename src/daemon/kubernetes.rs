//! The connection to the Kubernetes cluster this gateway belongs to, as it is configured.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::{core::Core, home::Home, reports};
use crate::{
    admin::{
        self,
        api::{JoinWish, PeerStatus, TokenWish},
    },
    clock::Clock,
    config::{Config, value::parse_duration},
    kubernetes::{Hands, Kubernetes, Parts, PeerView, resources::JoinTokenSpec},
    model::{
        code::{Code, Problem},
        ids::{ClusterId, TrustDomain},
        limits,
        token::TokenId,
    },
    store::Store,
    supervise::Tasks,
};

/// Starts it; none where no cluster is configured.
pub(super) async fn start(
    config: &Config,
    home: &Home,
    store: &Store,
    clock: &Clock,
    tasks: &Tasks,
) -> Result<Option<Kubernetes>, Problem> {
    if !config.kubernetes.enabled {
        return Ok(None);
    }
    let parts = Parts {
        store: store.clone(),
        clock: clock.clone(),
        tasks: tasks.clone(),
        namespace: config.kubernetes.namespace.clone(),
        selector: config.kubernetes.selector.clone(),
        identity: home.gateway.to_string(),
    };
    Kubernetes::start(parts).await.map(Some)
}

/// Has the custom resources of the cluster kept true, if the gateway belongs to one.
pub(super) fn govern(core: &Arc<Core>, admin: &admin::Parts) {
    let Some(kubernetes) = &core.kubernetes else { return };
    let (reading, rooted, issuing) = (admin.clone(), core.clone(), core.clone());
    let (joining, acting) = (core.clone(), core.clone());
    kubernetes.govern(Hands {
        peers: Arc::new(move || admin::peers_now(&reading).into_iter().map(view).collect()),
        root: Arc::new(move || {
            let bundle = rooted.ours.bundle();
            (bundle.fingerprint().to_string(), bundle.newest().not_after())
        }),
        issue: Arc::new(move |spec| {
            let core = issuing.clone();
            Box::pin(async move { issue(&core, spec).await })
        }),
        join: Arc::new(move |token| {
            let core = joining.clone();
            Box::pin(async move { join(&core, token).await })
        }),
        act: Arc::new(move |cluster, verb| {
            let core = acting.clone();
            Box::pin(async move { core.peers.act(&cluster, verb, false).await.map(|_| ()) })
        }),
    });
}

fn view(peer: PeerStatus) -> PeerView {
    let down = peer.dial_failure.or_else(|| peer.link_down.map(|down| down.cause));
    PeerView {
        cluster: peer.cluster.to_string(),
        state: peer.state,
        cause: peer.cause,
        trust_domain: peer.trust_domain.to_string(),
        fingerprint: peer.fingerprint,
        endpoints: peer.endpoints,
        rtt_ms: peer.link.as_ref().map(|link| link.rtt_ms),
        link: peer.link.map(|link| link.state),
        link_cause: down.unwrap_or_else(|| "there is no link".to_owned()),
        imported: peer.imported,
        exported: peer.exported,
        in_sync: peer.catalog_age_ms == Some(0),
    }
}

async fn issue(core: &Core, spec: JoinTokenSpec) -> Result<(TokenId, String), Problem> {
    let wrong = |error: &dyn std::fmt::Display| {
        Problem::new(Code::CONFIG_VALUE_INVALID, format!("JoinToken: {error}"))
    };
    let ttl = parse_duration(&spec.ttl).map_err(|error| wrong(&error))?;
    let cluster = spec.cluster.as_deref().map(ClusterId::parse).transpose();
    let domain = spec.expect_trust_domain.as_deref().map(TrustDomain::parse).transpose();
    let wish = TokenWish {
        cluster: cluster.map_err(|error| wrong(&error))?,
        ttl_seconds: Some(ttl.as_secs()),
        expect_trust_domain: domain.map_err(|error| wrong(&error))?,
        uses: Some(u32::try_from(spec.uses).map_err(|error| wrong(&error))?),
        require_approval: spec.require_approval,
        allow_private: spec.allow_private,
        ..TokenWish::default()
    };
    let made = reports::issue_token(core, wish).await?;
    let id = TokenId::parse(&made.id).map_err(|error| wrong(&error))?;
    Ok((id, made.token))
}

/// Joins; whose token it was.
async fn join(core: &Core, token: String) -> Result<ClusterId, Problem> {
    let (tell, mut steps) = mpsc::channel(limits::JOIN_STEPS_QUEUE_MAX);
    let last = async {
        let mut last = None;
        while let Some(step) = steps.recv().await {
            last = Some(step);
        }
        last
    };
    let ((), last) = tokio::join!(reports::join(core, JoinWish { token, re_trust: false }, tell), last);
    let broke_off = || Problem::new(Code::PART_FAILED, "the join broke off without telling why");
    let last = last.ok_or_else(broke_off)?;
    match (last.problem, last.peer) {
        (Some(problem), _) => Err(problem),
        (None, Some(peer)) => Ok(peer),
        (None, None) => Err(broke_off()),
    }
}
