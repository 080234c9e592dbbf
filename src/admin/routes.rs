//! The paths of the admin API. Whoever may connect to the Unix socket may do everything.

use std::{sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::{Path, Request, State},
    http::Uri,
    response::{IntoResponse as _, Response},
    routing::{delete, get, post},
};
use serde::Deserialize;

use super::{
    Parts,
    api::{
        AuthzExplanation, CaStatus, Done, EventStatus, Events, Explanation, NewToken, PeerWish, Peers,
        Resolution, Services, Status, TokenWish, Tokens, schema,
    },
    authz, ca, exports, join,
    peers::{self, Moment},
    refusal::{self, Refused, no_such_method, no_such_path, service},
    resolve, services, status, tokens,
};
use crate::model::{
    code::{Code, Problem},
    peering::Verb,
};

type Shared = State<Arc<Parts>>;

/// Everything the socket serves.
pub(super) fn router(parts: Arc<Parts>) -> Router {
    Router::new()
        .route("/v1/status", get(show_status))
        .route("/v1/peers", get(show_peers))
        .route("/v1/peers/{id}/{action}", post(act_on_peer))
        .route("/v1/authz", get(explain_authz))
        .route("/v1/ca", get(show_ca))
        .route("/v1/ca/rotate", post(rotate_ca))
        .route("/v1/services", get(show_services))
        .route("/v1/resolve", get(show_resolution))
        .route("/v1/explain", get(show_explanation))
        .route("/v1/events", get(show_events))
        .route("/v1/tokens", get(show_tokens).post(issue_token))
        .route("/v1/tokens/{id}", delete(revoke_token))
        .route("/v1/exports", post(export))
        .route("/v1/exports/{name}", delete(unexport))
        .route("/v1/join", post(join::join))
        .route("/v1/drain", post(drain))
        .fallback(no_such_path)
        .method_not_allowed_fallback(no_such_method)
        .with_state(parts)
}

/// `?name=`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Named {
    name: String,
}

/// `?from=&to=`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FromTo {
    from: String,
    to: String,
}

/// `?after=`: the number of the last event that is known already.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct After {
    #[serde(default)]
    after: u64,
}

/// `?wait_ms=`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wait {
    wait_ms: Option<u64>,
}

async fn show_status(State(parts): Shared) -> Json<Status> {
    Json(status::status(&parts))
}

async fn show_peers(State(parts): Shared) -> Json<Peers> {
    let peers = peers::all(&parts, &parts.store.state(), Moment::of(&parts));
    Json(Peers { schema: schema("peers"), peers })
}

async fn act_on_peer(
    State(parts): Shared,
    Path((id, action)): Path<(String, String)>,
    request: Request,
) -> Result<Response, Refused> {
    let peer = peers::named(&parts, &id)?;
    if action == "verify" {
        return Ok(Json(peers::verify(&parts, &peer)).into_response());
    }
    let Some(verb) = Verb::parse(&action) else {
        let message = format!("{action:?} is nothing that can be done with a peer");
        return Err(Problem::new(Code::REQUEST_INVALID, message).into());
    };
    let wish: PeerWish = refusal::body(request).await?;
    let text = (parts.act)(peer.cluster.clone(), verb, wish.force).await?;
    Ok(Json(Done::new(text)).into_response())
}

async fn explain_authz(State(parts): Shared, uri: Uri) -> Result<Json<AuthzExplanation>, Refused> {
    let asked: FromTo = refusal::query(&uri)?;
    let name = service(&asked.to, (parts.zone)().zone().as_str())?;
    Ok(Json(authz::explain(&parts, &asked.from, name)?))
}

async fn show_ca(State(parts): Shared) -> Json<CaStatus> {
    Json(ca::status(&parts))
}

async fn rotate_ca(State(parts): Shared) -> Result<Json<CaStatus>, Refused> {
    (parts.begin_rotation)().await?;
    Ok(Json(ca::status(&parts)))
}

async fn show_services(State(parts): Shared) -> Json<Services> {
    let (state, zone) = (parts.store.state(), (parts.zone)());
    let services = services::all(&state, zone.zone(), &parts.ledger.bindings());
    Json(Services { schema: schema("services"), services })
}

async fn show_resolution(State(parts): Shared, uri: Uri) -> Result<Json<Resolution>, Refused> {
    let named: Named = refusal::query(&uri)?;
    let (state, zone) = (parts.store.state(), (parts.zone)());
    Ok(Json(resolve::resolve(&named.name, zone.as_ref(), &state, parts.clock.now())?))
}

async fn show_explanation(State(parts): Shared, uri: Uri) -> Result<Json<Explanation>, Refused> {
    let named: Named = refusal::query(&uri)?;
    let (state, zone) = (parts.store.state(), (parts.zone)());
    let name = service(&named.name, zone.zone().as_str())?;
    let found = state.imports.get(&name).zip((parts.explain)(&name));
    let (import, ports) = found.ok_or_else(|| {
        let message = format!("no cluster exports {name}, as far as this gateway knows");
        Problem::new(Code::NO_SUCH_NAME, message)
    })?;
    let now = parts.clock.now();
    let refused = parts.ledger.retries_refused().into_iter().find(|(service, _)| *service == name);
    let retries = refused.map(|(_, refused)| {
        let ago = now.saturating_duration_since(refused.at).as_secs();
        format!("the retry budget refused {} retries, the last one {ago} s ago", refused.times)
    });
    let session_affinity = import.session_affinity.map(|_| {
        let text = "a client's connections go to one cluster and one endpoint, as long as it serves";
        text.to_owned()
    });
    Ok(Json(Explanation {
        schema: schema("explain"),
        session_affinity,
        retries,
        dns_name: zone.zone().service(&name).to_string(),
        virtual_ip: services::virtual_ip(import, &state),
        name,
        ports,
    }))
}

async fn show_events(State(parts): Shared, uri: Uri) -> Result<Json<Events>, Refused> {
    let after: After = refusal::query(&uri)?;
    let events = parts.ledger.noted(after.after).into_iter().map(|noted| EventStatus {
        number: noted.number,
        at_unix_ms: noted.at,
        kind: noted.kind.to_owned(),
        text: noted.text,
    });
    Ok(Json(Events { schema: schema("events"), events: events.collect() }))
}

async fn show_tokens(State(parts): Shared) -> Json<Tokens> {
    Json(tokens::list(&parts.store.state(), parts.clock.wall()))
}

async fn issue_token(State(parts): Shared, request: Request) -> Result<Json<NewToken>, Refused> {
    let wish: TokenWish = refusal::body(request).await?;
    Ok(Json((parts.issue_token)(wish).await?))
}

async fn revoke_token(State(parts): Shared, Path(id): Path<String>) -> Result<Json<Done>, Refused> {
    Ok(Json(tokens::revoke(&parts, &id).await?))
}

async fn drain(State(parts): Shared) -> Json<Done> {
    let shutdown = parts.tasks.shutdown();
    let text = if shutdown.is_soft() {
        "draining already"
    } else {
        shutdown.drain("tombolo drain");
        "draining: peers are told, what is open may finish, then the gateway ends"
    };
    Json(Done::new(text))
}

async fn export(State(parts): Shared, request: Request) -> Result<Json<Done>, Refused> {
    let wish = refusal::body(request).await?;
    Ok(Json(exports::export(&parts, wish).await?))
}

async fn unexport(State(parts): Shared, Path(name): Path<String>, uri: Uri) -> Result<Json<Done>, Refused> {
    let wait: Wait = refusal::query(&uri)?;
    Ok(Json(exports::unexport(&parts, &name, wait.wait_ms.map(Duration::from_millis)).await?))
}
