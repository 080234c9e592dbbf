//! `tombolo k8s token` and `join`, by custom resources; and what is left of imports when the gateway goes.

use std::time::Duration;

use data_encoding::BASE64;
use kube::{
    Api,
    api::{ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams},
};
use serde_json::json;

use super::{
    api::{Server, refused},
    args::{JoinArgs, TokenArgs},
    check::condition,
    late,
    manifests::NAMESPACE,
};
use crate::{
    cli::{join, output},
    model::code::{Code, Problem},
};

const API_VERSION: &str = "tombolo.dev/v1alpha1";

/// Makes a JoinToken and prints what the gateway put into its Secret.
pub(super) async fn token(args: &TokenArgs, limit: Duration) -> Result<(), Problem> {
    let server = Server::of(&args.context).await?;
    // Never one that was made before: that may be used, or over.
    let name = format!("for-{}-{:x}", args.cluster, server.wall().0);
    let spec = json!({
        "for": args.cluster.as_str(),
        "ttl": format!("{}s", args.ttl.as_secs()),
        "allowPrivate": args.allow_private,
    });
    let metadata = json!({ "name": name, "namespace": NAMESPACE });
    let object =
        json!({ "apiVersion": API_VERSION, "kind": "JoinToken", "metadata": metadata, "spec": spec });
    server.apply(&object, false).await?;
    let made = server.until(limit, || issued(&server, &name)).await?;
    let made = made.ok_or_else(|| no_gateway("makes the token", limit))?;
    if let Err(reason) = made {
        server.delete(&object).await?;
        return Err(Problem::new(Code::KUBERNETES_REFUSED, format!("the gateway made no token: {reason}")));
    }
    let secret = server.get(("v1", "Secret"), NAMESPACE, &name).await?.unwrap_or_default();
    let text = secret["data"]["token"].as_str().and_then(|text| BASE64.decode(text.as_bytes()).ok());
    let text = text.and_then(|bytes| String::from_utf8(bytes).ok());
    let missing = || Problem::new(Code::KUBERNETES_REFUSED, format!("the Secret {name} holds no token"));
    output::line(&text.ok_or_else(missing)?);
    Ok(())
}

/// What came of a JoinToken, once something did.
async fn issued(server: &Server, name: &str) -> Result<Option<Result<(), String>>, Problem> {
    let token = server.get((API_VERSION, "JoinToken"), NAMESPACE, name).await?.unwrap_or_default();
    Ok(condition(&token, "Ready").map(|(holds, message)| if holds { Ok(()) } else { Err(message) }))
}

/// Gives the gateway a token to redeem, and waits until the peer is ready.
pub(super) async fn join(args: &JoinArgs, limit: Duration) -> Result<(), Problem> {
    let server = Server::of(&args.context).await?;
    let token = join::read(args.token.as_deref()).await?;
    let (peer, name) = (args.peer.as_str(), format!("from-{}", args.peer));
    let secret = json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": { "name": name, "namespace": NAMESPACE },
        "data": { "token": BASE64.encode(token.as_bytes()) },
    });
    server.apply(&secret, false).await?;
    let object = json!({
        "apiVersion": API_VERSION,
        "kind": "Peer",
        "metadata": { "name": peer },
        "spec": { "tokenSecretRef": { "name": name } },
    });
    server.apply(&object, false).await?;
    let ended = server.until(limit, || joined(&server, peer)).await?;
    match ended {
        Some(Ok(state)) => output::line(&format!("{peer} is a peer: {state}")),
        Some(Err(reason)) => return Err(Problem::new(Code::KUBERNETES_REFUSED, reason)),
        None => return Err(no_gateway(&format!("joins {peer}"), limit)),
    }
    // It has served its purpose.
    server.delete(&secret).await.map(drop)
}

/// How joining ended, once it did.
async fn joined(server: &Server, peer: &str) -> Result<Option<Result<String, String>>, Problem> {
    let object = server.get((API_VERSION, "Peer"), "", peer).await?.unwrap_or_default();
    let state = object["status"]["state"].as_str().unwrap_or_default().to_owned();
    let reason = object["status"]["reason"].as_str().unwrap_or_default().to_owned();
    Ok(match condition(&object, "Joined") {
        Some((true, _)) if state == "active" || state == "pending" => Some(Ok(format!("{state}, {reason}"))),
        Some((false, message)) if message.contains("TMB-") => Some(Err(message)),
        _ => None,
    })
}

fn no_gateway(does: &str, limit: Duration) -> Problem {
    late(&format!("no gateway {does}"), limit).with_fix("`tombolo k8s check`")
}

/// Deletes what stands for imports; without a gateway it leads nowhere. How many objects that were.
pub(super) async fn remove_imports(server: &Server) -> Result<usize, Problem> {
    let mut gone = 0;
    for (group, version, kind, plural, label) in [
        (
            "multicluster.x-k8s.io",
            "v1beta1",
            "ServiceImport",
            "serviceimports",
            "app.kubernetes.io/managed-by",
        ),
        (
            "discovery.k8s.io",
            "v1",
            "EndpointSlice",
            "endpointslices",
            "endpointslice.kubernetes.io/managed-by",
        ),
        ("", "v1", "Service", "services", "app.kubernetes.io/managed-by"),
    ] {
        let resource =
            ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), plural);
        let all: Api<DynamicObject> = Api::all_with(server.client.clone(), &resource);
        let ours = ListParams::default().labels(&format!("{label}=tombolo.dev"));
        let list = match all.list(&ours).await {
            Ok(list) => list,
            Err(kube::Error::Api(status)) if status.code == 404 => continue,
            Err(error) => return Err(refused(plural, &error)),
        };
        for object in list {
            let metadata = serde_json::to_value(&object.metadata).unwrap_or_default();
            let namespace = metadata["namespace"].as_str().unwrap_or_default().to_owned();
            let name = metadata["name"].as_str().unwrap_or_default().to_owned();
            let api: Api<DynamicObject> = Api::namespaced_with(server.client.clone(), &namespace, &resource);
            match api.delete(&name, &DeleteParams::default()).await {
                Ok(_) => gone += 1,
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                Err(error) => return Err(refused(&name, &error)),
            }
        }
    }
    Ok(gone)
}
