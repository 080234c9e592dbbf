//! What is refused, with which status, and in which words.

use hyper::Method;
use serde_json::json;

use super::world::{World, name};
use crate::model::{
    catalog::{Export, ExportSource, Traffic},
    ids::{Incarnation, Timestamp},
    limits::ADMIN_BODY_BYTES_MAX,
    state::Event,
};

#[tokio::test]
async fn requests_that_are_no_requests_are_refused_in_words() {
    let world = World::start().await;
    let long = format!("{{\"token\":\"{}\"}}", "x".repeat(ADMIN_BODY_BYTES_MAX));
    let mut told = Vec::new();
    for (method, path, body) in [
        (Method::GET, "/v2/status", ""),
        (Method::PUT, "/v1/status", ""),
        (Method::GET, "/v1/join", ""),
        (Method::POST, "/v1/tokens", "no JSON"),
        (Method::POST, "/v1/tokens", r#"{"uses":1,"usses":2}"#),
        (Method::POST, "/v1/exports", r#"{"name":"web","to":[]}"#),
        (Method::POST, "/v1/join", long.as_str()),
        (Method::GET, "/v1/resolve", ""),
        (Method::GET, "/v1/resolve?name=a&kind=A", ""),
        (Method::GET, "/v1/resolve?name=a..b", ""),
        (Method::GET, "/v1/explain?name=not_a_name", ""),
        (Method::GET, "/v1/events?after=x", ""),
        (Method::DELETE, "/v1/exports/web?wait=1s", ""),
    ] {
        told.push(world.refused(method, path, body).await);
    }
    insta::assert_snapshot!(told.join("\n"));
}

#[tokio::test]
async fn what_is_not_there_is_named() {
    let world = World::start().await;
    let mut told = Vec::new();
    for (method, path) in [
        (Method::GET, "/v1/explain?name=web.shop"),
        (Method::DELETE, "/v1/exports/web.shop"),
        (Method::DELETE, "/v1/tokens/K8"),
        (Method::DELETE, "/v1/tokens/0000000000000000"),
    ] {
        told.push(world.refused(method, path, "").await);
    }
    insta::assert_snapshot!(told.join("\n"));
}

#[tokio::test]
async fn exports_that_may_not_be_are_refused_and_change_nothing() {
    let world = World::start().await;
    let declared = |text: &str, source| {
        Event::Exported(Export {
            name: name(text),
            ports: Vec::new(),
            endpoints: Vec::new(),
            annotations: std::collections::BTreeMap::new(),
            labels: std::collections::BTreeMap::new(),
            idempotent: false,
            session_affinity: None,
            traffic: Traffic::default(),
            headless: false,
            created: Timestamp(1),
            incarnation: Incarnation([1; 16]),
            source,
        })
    };
    world.apply(declared("shop/file", ExportSource::File)).await;
    world.apply(declared("shop/flag", ExportSource::Flag)).await;
    let before = world.store.state().version;
    let export = async |text: &str, to: &[&str]| {
        let wish = json!({ "name": text, "to": to });
        world.refused(Method::POST, "/v1/exports", &wish.to_string()).await
    };
    let here = ["127.0.0.1:80"];
    let told = [
        export("shop/file", &here).await,
        export("shop/flag", &here).await,
        export("kube-system/dns", &here).await,
        export("shop/web", &[]).await,
        export("shop/web", &["127.0.0.1:0"]).await,
        world.refused(Method::DELETE, "/v1/exports/file.shop", "").await,
        world.refused(Method::DELETE, "/v1/exports/flag.shop", "").await,
        world.refused(Method::POST, "/v1/tokens", r#"{"uses":0}"#).await,
    ];
    insta::assert_snapshot!(told.join("\n"));
    assert_eq!(world.store.state().version, before);
}
