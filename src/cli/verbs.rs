//! The verbs that ask a gateway one thing and print its answer.

use std::time::Duration;

use serde_json::{Value, json};

use super::{
    args::{ExportArgs, SharedArgs, TokenVerb, UnexportArgs},
    client::{Client, REQUEST_TIMEOUT, encoded},
    output::{Printer, not_understood},
    render,
};
use crate::{
    admin::api::{
        Done, Explanation, ExportWish, NewToken, Peers, Resolution, Services, Status, TokenWish, Tokens,
        schema,
    },
    clock::Clock,
    config::{ExportFlags, ExportSpec},
    model::{
        code::{Code, Problem},
        ids::{ClusterId, ServiceName},
    },
};

/// The zone in which spoken names are understood; the gateway knows its own.
const SPOKEN_ZONE: &str = "clusterset.local";
/// How long `version` waits for a gateway that may not run.
const VERSION_TIMEOUT: Duration = Duration::from_secs(1);

/// Reads a body as what it should be.
fn parsed<T: serde::de::DeserializeOwned>(body: &str) -> Result<T, Problem> {
    serde_json::from_str(body).map_err(not_understood)
}

/// `tombolo status`.
pub(super) async fn status(shared: &SharedArgs, printer: Printer) -> Result<(), Problem> {
    let body = Client::find(shared, REQUEST_TIMEOUT).await?.get("/v1/status").await?;
    printer.body(&body, |style| {
        let status: Status = parsed(&body)?;
        Ok(render::status(&status, Clock::system().wall(), style))
    })
}

/// `tombolo peers [NAME]`.
pub(super) async fn peers(
    name: Option<&ClusterId>,
    shared: &SharedArgs,
    printer: Printer,
) -> Result<(), Problem> {
    let mut body = Client::find(shared, REQUEST_TIMEOUT).await?.get("/v1/peers").await?;
    if let Some(name) = name {
        body = only(&body, "peers", |peer| peer["cluster"] == name.as_str())?.ok_or_else(|| {
            let message = format!("this cluster has no peer {name}");
            Problem::new(Code::NO_SUCH_PEER, message).with_fix("list them with `tombolo peers`")
        })?;
    }
    printer.body(&body, |style| {
        let peers: Peers = parsed(&body)?;
        let now = Clock::system().wall();
        Ok(match (name, peers.peers.first()) {
            (Some(_), Some(peer)) => render::peer(peer, now, style),
            _ => render::peers(&peers.peers, now, style),
        })
    })
}

/// `tombolo services [NAME]`.
pub(super) async fn services(
    name: Option<&str>,
    shared: &SharedArgs,
    printer: Printer,
) -> Result<(), Problem> {
    let mut body = Client::find(shared, REQUEST_TIMEOUT).await?.get("/v1/services").await?;
    if let Some(name) = name {
        let service = spoken(name)?.to_string();
        body = only(&body, "services", |row| row["name"] == service.as_str())?.ok_or_else(|| {
            let message = format!("no cluster exports {service}, as far as this gateway knows");
            Problem::new(Code::NO_SUCH_NAME, message).with_fix("list what there is with `tombolo services`")
        })?;
    }
    printer.body(&body, |style| {
        let services: Services = parsed(&body)?;
        Ok(match (name, services.services.first()) {
            (Some(_), Some(service)) => render::service(service, style),
            _ => render::services(&services.services, style),
        })
    })
}

/// The body with only the matching rows of one list; none when no row matches.
fn only(body: &str, list: &str, keep: impl Fn(&Value) -> bool) -> Result<Option<String>, Problem> {
    let mut value: Value = parsed(body)?;
    let Some(rows) = value[list].as_array_mut() else { return Ok(None) };
    rows.retain(|row| keep(row));
    let found = !rows.is_empty();
    Ok(found.then(|| value.to_string()))
}

/// `tombolo token create|list|revoke`.
pub(super) async fn token(verb: TokenVerb, shared: &SharedArgs, printer: Printer) -> Result<(), Problem> {
    let client = Client::find(shared, REQUEST_TIMEOUT).await?;
    match verb {
        TokenVerb::Create(args) => {
            let wish = TokenWish {
                ttl_seconds: args.ttl.map(|ttl| ttl.as_secs()),
                cluster: args.cluster,
                expect_trust_domain: args.expect_trust_domain,
                uses: args.uses,
                require_approval: args.require_approval,
                rejoin: args.rejoin,
                allow_private: args.allow_private,
            };
            let body = client.post("/v1/tokens", &wish).await?;
            printer.body(&body, |style| {
                let token: NewToken = parsed(&body)?;
                Ok(render::new_token(&token, wish.cluster.as_ref(), Clock::system().wall(), style))
            })
        }
        TokenVerb::List => {
            let body = client.get("/v1/tokens").await?;
            printer.body(&body, |style| {
                let tokens: Tokens = parsed(&body)?;
                Ok(render::tokens(&tokens.tokens, Clock::system().wall(), style))
            })
        }
        TokenVerb::Revoke { id } => {
            let body = client.delete(&format!("/v1/tokens/{}", encoded(&id))).await?;
            done(&body, printer)
        }
    }
}

/// `tombolo export`.
pub(super) async fn export(args: &ExportArgs, shared: &SharedArgs, printer: Printer) -> Result<(), Problem> {
    let wish = export_wish(args)?;
    let body = Client::find(shared, REQUEST_TIMEOUT).await?.post("/v1/exports", &wish).await?;
    done(&body, printer)
}

/// What `tombolo export` asks for.
pub(super) fn export_wish(args: &ExportArgs) -> Result<ExportWish, Problem> {
    let flags = ExportFlags {
        port: args.port,
        port_name: args.port_name.clone(),
        udp: args.udp,
        idempotent: args.idempotent,
        session_affinity: args.session_affinity.into(),
    };
    let spec = ExportSpec::from_flag(&args.export, &flags, SPOKEN_ZONE)?;
    Ok(ExportWish {
        name: spec.service_name(),
        to: spec.ports.iter().flat_map(|port| port.to.iter().copied()).collect(),
        port: args.port,
        port_name: args.port_name.clone(),
        udp: args.udp,
        idempotent: args.idempotent,
        session_affinity: args.session_affinity.into(),
    })
}

/// `tombolo unexport`. With `--wait` the gateway answers when all peers confirmed, or says who has not.
pub(super) async fn unexport(
    args: &UnexportArgs,
    shared: &SharedArgs,
    printer: Printer,
) -> Result<(), Problem> {
    let timeout = shared.timeout.unwrap_or(REQUEST_TIMEOUT);
    // A second more than the gateway waits, so that it can still say who has not confirmed.
    let client = Client::find(
        &SharedArgs { timeout: Some(timeout + Duration::from_secs(1)), ..shared.clone() },
        REQUEST_TIMEOUT,
    )
    .await?;
    let name = spoken(&args.name)?;
    let wait = if args.wait { format!("?wait_ms={}", timeout.as_millis()) } else { String::new() };
    let body = client.delete(&format!("/v1/exports/{}.{}{wait}", name.name, name.namespace)).await?;
    done(&body, printer)?;
    let Done { unconfirmed, elsewhere, .. } = parsed::<Done>(&body)?;
    if !args.wait || unconfirmed.is_empty() {
        return Ok(());
    }
    let peers: Vec<&str> = unconfirmed.iter().map(ClusterId::as_str).collect();
    let message = format!("not confirmed within {} s by {}", timeout.as_secs_f64(), peers.join(", "));
    let fix = match elsewhere.first() {
        Some(peer) => format!(
            "look at `tombolo peers {peer}`: it is away, and told as soon as it is back, or takes the catalog from \
             another gateway of this cluster, where `tombolo --socket SOCKET peers {peer}` shows LAG 0 when it has"
        ),
        None => format!("look at `tombolo peers {}`; it is told as soon as it is back", peers[0]),
    };
    Err(Problem::new(Code::COMMAND_TIMED_OUT, message).with_fix(fix))
}

/// `tombolo drain`.
pub(super) async fn drain(shared: &SharedArgs, printer: Printer) -> Result<(), Problem> {
    let body = Client::find(shared, REQUEST_TIMEOUT).await?.post("/v1/drain", &json!({})).await?;
    done(&body, printer)
}

/// `tombolo resolve`.
pub(super) async fn resolve(name: &str, shared: &SharedArgs, printer: Printer) -> Result<(), Problem> {
    let client = Client::find(shared, REQUEST_TIMEOUT).await?;
    let body = client.get(&format!("/v1/resolve?name={}", encoded(name))).await?;
    printer.body(&body, |style| {
        let resolution: Resolution = parsed(&body)?;
        Ok(render::resolution(&resolution, style))
    })
}

/// `tombolo explain NAME|CODE`. Codes need no gateway.
pub(super) async fn explain(subject: &str, shared: &SharedArgs, printer: Printer) -> Result<(), Problem> {
    let digits = subject.len() == 4 && subject.bytes().all(|byte| byte.is_ascii_digit());
    if digits || subject.get(..4).is_some_and(|prefix| prefix.eq_ignore_ascii_case("TMB-")) {
        let code = Code::parse(subject).map_err(|error| {
            Problem::new(Code::FLAG_INVALID, error.to_string())
                .with_fix("compare `tombolo version` with the release that printed the code")
        })?;
        let info = code.info();
        let body = json!({
            "schema": schema("code"), "code": code, "title": info.title, "cause": info.cause, "fix": info.fix,
        });
        return printer.body(&body.to_string(), |style| Ok(render::code(info, style)));
    }
    let client = Client::find(shared, REQUEST_TIMEOUT).await?;
    let body = client.get(&format!("/v1/explain?name={}", encoded(subject))).await?;
    printer.body(&body, |style| {
        let explanation: Explanation = parsed(&body)?;
        Ok(render::explanation(&explanation, style))
    })
}

/// `tombolo version`: this program's, and the gateway's when one answers.
pub(super) async fn version(shared: &SharedArgs, printer: Printer) -> Result<(), Problem> {
    let status = async {
        let client = Client::find(shared, VERSION_TIMEOUT).await.ok()?;
        client.read::<Status>("/v1/status").await.ok()
    };
    let gateway = status.await.map(|status| status.version);
    let ours = env!("CARGO_PKG_VERSION");
    let body = json!({ "schema": schema("version"), "version": ours, "gateway": gateway });
    printer.body(&body.to_string(), |_| {
        let running = gateway.map(|theirs| format!("\ngateway {theirs}")).unwrap_or_default();
        Ok(format!("tombolo {ours}{running}"))
    })
}

pub(super) fn done(body: &str, printer: Printer) -> Result<(), Problem> {
    printer.body(body, |_| Ok(parsed::<Done>(body)?.text))
}

fn spoken(name: &str) -> Result<ServiceName, Problem> {
    let zone_or_slash = if name.contains('/') {
        ServiceName::parse(name)
    } else {
        ServiceName::parse_spoken(name, SPOKEN_ZONE)
    };
    zone_or_slash.map_err(|error| {
        Problem::new(Code::FLAG_INVALID, error.to_string())
            .with_fix("write NAME or NAME.NAMESPACE, as in web.shop")
    })
}
