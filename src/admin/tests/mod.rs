//! The admin API over its real sockets: every path, every refusal, the shape of what it tells.

mod refusals;
mod world;

use std::time::Duration;

use hyper::{Method, StatusCode};
use serde_json::{Value, json};

use self::world::{START, World, cluster, name};
use super::api::{JoinStep, Status, Tokens};
use crate::{
    ledger::{Proxied, SessionRow},
    model::{
        catalog::Protocol,
        code::Code,
        ids::{GatewayId, Timestamp},
        policy::{ImportAction, ImportRule},
        session::SessionState,
        state::{Event, Settings, Standing},
        token::{
            TokenId, TokenSecret,
            record::{TokenRecord, TokenTerms},
        },
        virtual_ip::{Binding, BindingState, VipKey},
    },
    net::{Net as _, Os, unix_connect},
};

/// The JSON for comparison: what depends on the moment or on fresh keys is told by its kind only.
fn shape(mut value: Value) -> String {
    fn still(value: &mut Value) {
        match value {
            Value::Object(fields) => {
                for (key, value) in fields {
                    let moving = key.ends_with("_age_ms") || key.ends_with("_unix_ms") || key == "up_ms";
                    match value {
                        Value::Number(_) if moving => *value = "TIME".into(),
                        Value::String(_) if key == "fingerprint" => *value = "FINGERPRINT".into(),
                        _ => still(value),
                    }
                }
            }
            Value::Array(values) => values.iter_mut().for_each(still),
            _ => {}
        }
    }
    still(&mut value);
    serde_json::to_string_pretty(&value).expect("JSON")
}

fn session(state: SessionState) -> SessionRow {
    SessionRow {
        gateway: GatewayId::parse("g1").expect("an id"),
        state,
        synced: Some(START),
        imported: 1,
        refusals: vec!["TMB-2103 kube-system/dns: reserved".to_owned()],
        heartbeat: None,
        holding: None,
    }
}

async fn listening(world: &World, state: BindingState) {
    let key = VipKey::Service(name("shop/web"));
    let ip = world.store.state().virtual_ips.get(&key).expect("an address");
    world.ledger.bind(Binding { ip, protocol: Protocol::Tcp, port: 80, bound_port: 20_080, state });
}

#[tokio::test]
async fn status_has_everything_on_one_page() {
    let world = World::start().await.with_west().await.with_catalog().await;
    world.ledger.set_session(cluster("west"), Some(session(SessionState::Live)));
    let guard = world.readiness.register("listeners");
    let status = world.get("/v1/status").await;
    let read: Status = serde_json::from_value(status.clone()).expect("a status");
    assert!(!read.ready);
    assert!(read.svid_expires_unix_ms > START && read.root_expires_unix_ms > read.svid_expires_unix_ms);
    insta::assert_snapshot!(shape(status));
    drop(guard);
    assert_eq!(world.get("/v1/status").await["ready"], true);
}

#[tokio::test]
async fn a_verb_needs_no_body() {
    let world = World::start().await.with_west().await;
    for body in ["", "{}", r#"{"force":true}"#] {
        let (status, told) = world.send(Method::POST, "/v1/peers/west/pause", body).await;
        assert_eq!(status, StatusCode::OK, "{told}");
    }
    let asked = world.asked.lock().expect("not poisoned").clone();
    assert_eq!(asked, ["pause west, force false", "pause west, force false", "pause west, force true"]);
    let (status, told) = world.send(Method::POST, "/v1/exports", "").await;
    assert!(status.is_client_error() && told.contains("missing field"), "{told}");
}

#[tokio::test]
async fn a_peer_is_what_the_facts_make_it() {
    let world = World::start().await.with_west().await;
    let state = async || {
        let peers = world.get("/v1/peers").await;
        let peer = &peers["peers"][0];
        format!("{}: {}", peer["state"].as_str().expect("a word"), peer["cause"].as_str().expect("a cause"))
    };
    assert_eq!(state().await, "joining: no catalog yet: there is no session with it");
    let world = world.with_catalog().await;
    let state = async || world.get("/v1/peers").await["peers"][0]["state"].clone();
    world.ledger.set_session(cluster("west"), Some(session(SessionState::Live)));
    assert_eq!(state().await, "active");
    world.ledger.set_session(cluster("west"), None);
    world.apply(Event::SessionLost(cluster("west"))).await;
    assert_eq!(state().await, "stalled");
    world.apply(Event::Standing(cluster("west"), Standing::Pending)).await;
    assert_eq!(state().await, "pending");
    world.apply(Event::Standing(cluster("west"), Standing::Distrusted)).await;
    assert_eq!(state().await, "distrusted");
}

#[tokio::test]
async fn a_service_shows_every_cluster_and_the_port_that_is_bound() {
    let world = World::start().await.with_west().await.with_catalog().await;
    let port = async || world.get("/v1/services").await["services"][0]["ports"][0].clone();
    assert_eq!(port().await["state"], "not bound yet");
    listening(&world, BindingState::NoCandidate).await;
    assert_eq!(port().await["state"], "no candidate");
    listening(&world, BindingState::Failed(Code::PORT_NEEDS_PRIVILEGE)).await;
    assert_eq!(port().await["state"], "TMB-2203 port needs a privilege");
    assert_eq!(port().await.get("bound_port"), None, "a port is told only when it is bound");
    let warnings = &world.get("/v1/status").await["warnings"];
    assert_eq!(warnings[1]["code"], "TMB-2203");
    listening(&world, BindingState::Listening).await;
    let wish = json!({ "name": "shop/web", "to": ["127.0.0.1:80"], "port_name": "http" });
    let (status, body) = world.send(Method::POST, "/v1/exports", &wish.to_string()).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    insta::assert_snapshot!(shape(world.get("/v1/services").await));
}

#[tokio::test]
async fn a_cluster_lost_for_long_is_shown_as_withdrawn() {
    let world = World::start().await.with_west().await;
    let wish = json!({ "name": "shop/web", "to": ["127.0.0.1:80"] });
    world.send(Method::POST, "/v1/exports", &wish.to_string()).await;
    world
        .apply(Event::CatalogLoaded {
            peer: cluster("west"),
            position: None,
            rows: vec![world::row("shop/web", 2, 3)],
            current: Timestamp(START.0 - 3_600_000),
        })
        .await;
    let clusters = world.get("/v1/services").await["services"][0]["clusters"].clone();
    let told: Vec<(&str, &str)> = clusters
        .as_array()
        .expect("clusters")
        .iter()
        .map(|c| (c["cluster"].as_str().expect("id"), c["freshness"].as_str().expect("a word")))
        .collect();
    assert_eq!(told, [("east", "live"), ("west", "withdrawn")]);
}

#[tokio::test]
async fn resolve_gives_the_records_and_says_why() {
    let world = World::start().await;
    let resolve = async |world: &World, typed: &str| {
        let answer = world.get(&format!("/v1/resolve?name={typed}")).await;
        let lines: Vec<&str> =
            answer["answers"].as_array().expect("a list").iter().map(|l| l.as_str().expect("text")).collect();
        let text = |key: &str| answer[key].as_str().expect("text").to_owned();
        let ip = world.store.state().virtual_ips.get(&VipKey::Service(name("shop/web")));
        let ip = ip.map_or_else(|| "none".to_owned(), |ip| ip.to_string());
        format!("{} {}\n{}\n{}", text("name"), text("rcode"), lines.join("\n"), text("why"))
            .replace(&ip, "IP")
    };
    let unknown = resolve(&world, "web.shop").await;
    let world = world.with_west().await;
    let unsynced = resolve(&world, "web.shop").await;
    let world = world.with_catalog().await;
    let mut told = vec![unknown, unsynced];
    for typed in [
        "web.shop",
        "_http._tcp.web.shop",
        "WEB.shop.svc.clusterset.local.",
        "_none._tcp.web.shop",
        "shop.svc",
        "clusterset.local",
        "a.b.c.d.e.f.svc",
        "www.example.com",
    ] {
        told.push(resolve(&world, typed).await);
    }
    insta::assert_snapshot!(told.join("\n\n"));
}

#[tokio::test]
async fn resolve_names_what_keeps_an_export_out() {
    let world = World::start().await.with_west().await.with_catalog().await;
    let why = async || world.get("/v1/resolve?name=web.shop").await["why"].clone();
    world.apply(Event::Standing(cluster("west"), Standing::Pending)).await;
    assert_eq!(why().await, "west exports shop/web, but it is not taken here: the peer waits for approval");
    let rule = ImportRule {
        names: vec!["shop/*".parse().expect("a pattern")],
        peers: vec!["west".parse().expect("a pattern")],
        action: ImportAction::Deny,
        alias: None,
        merge: true,
    };
    world.apply(Event::Standing(cluster("west"), Standing::Approved)).await;
    world.apply(Event::Settings(Settings { imports: vec![rule], ..Settings::default() })).await;
    assert_eq!(why().await, "west exports shop/web, but it is not taken here: import rule 1 refuses it");
}

#[tokio::test]
async fn explain_shows_the_candidates_of_a_name_that_exists() {
    let world = World::start().await.with_west().await.with_catalog().await;
    let explanation = world.get("/v1/explain?name=web.shop").await;
    assert_eq!(
        (&explanation["name"], &explanation["schema"]),
        (&json!("shop/web"), &json!("tombolo/v1/explain"))
    );
    assert_eq!(explanation["dns_name"], "web.shop.svc.clusterset.local");
    assert!(explanation["virtual_ip"].as_str().is_some_and(|ip| ip.starts_with("127.77.")));
    assert_eq!(explanation["ports"][0]["considered"][0]["cluster"], "west");
}

#[tokio::test]
async fn events_are_those_after_the_one_that_is_known() {
    let world = World::start().await;
    for text in ["first", "second"] {
        world.ledger.note("test", text);
    }
    let all = world.get("/v1/events").await;
    assert_eq!(all["events"].as_array().map(Vec::len), Some(2));
    let later = world.get("/v1/events?after=1").await;
    insta::assert_snapshot!(shape(later), @r#"
    {
      "schema": "tombolo/v1/events",
      "events": [
        {
          "number": 2,
          "at_unix_ms": "TIME",
          "kind": "test",
          "text": "second"
        }
      ]
    }
    "#);
}

#[tokio::test]
async fn a_token_is_issued_listed_and_revoked() {
    let world = World::start().await;
    let (status, body) = world.send(Method::POST, "/v1/tokens", r#"{"cluster":"west"}"#).await;
    assert_eq!((status, world.asked()), (StatusCode::OK, vec![r#"token for Some("west")"#.to_owned()]));
    assert!(body.contains(r#""token":"tmb1_x""#), "{body}");
    let issue = |byte, terms| {
        TokenRecord::issue(TokenId([byte; 10]), &TokenSecret::new([byte; 32]), terms, START).expect("issued")
    };
    let unused = issue(1, TokenTerms::default());
    let id = unused.id.to_string();
    world.apply(Event::Token(unused)).await;
    world.apply(Event::Token(TokenRecord { uses_left: 0, ..issue(2, TokenTerms::default()) })).await;
    world.apply(Event::Token(TokenRecord { expires: START, ..issue(3, TokenTerms::default()) })).await;
    let words = async || {
        let tokens: Tokens = serde_json::from_value(world.get("/v1/tokens").await).expect("tokens");
        tokens.tokens.into_iter().map(|token| token.state).collect::<Vec<_>>()
    };
    assert_eq!(words().await, ["unused", "redeemed", "expired"]);
    for _ in 0..2 {
        let (status, body) = world.send(Method::DELETE, &format!("/v1/tokens/{id}"), "").await;
        assert_eq!(status, StatusCode::OK, "revoking twice is no error: {body}");
    }
    assert_eq!(words().await, ["revoked", "redeemed", "expired"]);
}

#[tokio::test]
async fn an_export_keeps_its_age_when_it_changes_and_is_gone_when_it_ends() {
    let world = World::start().await;
    let export = async |body: &str| {
        let (status, body) = world.send(Method::POST, "/v1/exports", body).await;
        assert_eq!(status, StatusCode::OK, "{body}");
        (body, world.store.state().exports.get(&name("shop/web")).expect("exported").clone())
    };
    let (told, first) = export(r#"{"name":"shop/web","to":["127.0.0.1:8080"],"port":80}"#).await;
    assert!(told.contains("as web.shop.svc.clusterset.local"), "{told}");
    let (_, second) = export(r#"{"name":"shop/web","to":["127.0.0.2:8080"],"idempotent":true}"#).await;
    assert_eq!((first.created, first.incarnation), (second.created, second.incarnation));
    assert_eq!((first.ports[0].port.number, second.ports[0].port.number), (80, 8080));
    assert!(second.idempotent);

    let (status, body) = world.send(Method::DELETE, "/v1/exports/web.shop?wait_ms=250", "").await;
    assert_eq!(status, StatusCode::OK);
    assert!(world.store.state().exports.is_empty());
    assert_eq!(world.asked(), ["wait 250 ms until shop/web is gone"]);
    assert!(body.contains(r#""unconfirmed":["west"]"#), "{body}");
    let (_, third) = export(r#"{"name":"shop/web","to":["127.0.0.1:8080"]}"#).await;
    assert_ne!(third.incarnation, first.incarnation, "a new life of the name");
}

#[tokio::test]
async fn a_join_tells_its_steps_and_always_how_it_ended() {
    let world = World::start().await;
    let join = async |token: &str| {
        let (status, body) =
            world.send(Method::POST, "/v1/join", &json!({ "token": token }).to_string()).await;
        assert_eq!(status, StatusCode::OK);
        let read = |line: &str| serde_json::from_str::<JoinStep>(line).expect("a step");
        body.lines().map(read).collect::<Vec<_>>()
    };
    let good = join("good").await;
    assert_eq!(good.iter().map(|step| step.step.as_str()).collect::<Vec<_>>(), ["token", "done"]);
    assert_eq!(good[1].peer, Some(cluster("west")));
    let bad = join("bad").await;
    assert_eq!(bad[1].problem.as_ref().map(|problem| problem.code.number()), Some(1201));
    let cut = join("cut").await;
    assert_eq!(cut[1].problem.as_ref().map(|problem| problem.code.number()), Some(1015));
}

#[tokio::test]
async fn the_tcp_address_tells_health_and_figures_and_nothing_else() {
    let world = World::start().await.with_west().await.with_catalog().await;
    world.ledger.count(Proxied {
        service: name("shop/web"),
        cluster: Some(cluster("west")),
        result: "served",
    });
    assert_eq!(world.send_tcp(Method::GET, "/livez").await, (StatusCode::OK, "ok\n".to_owned()));
    let guards = (world.readiness.register("links"), world.readiness.register("names"));
    let (status, body) = world.send_tcp(Method::GET, "/readyz").await;
    assert_eq!((status.as_u16(), body.as_str()), (503, "waits for links\nwaits for names\n"));
    drop(guards);
    assert_eq!(world.send_tcp(Method::GET, "/readyz").await.0, StatusCode::OK);
    let (_, figures) = world.send_tcp(Method::GET, "/metrics").await;
    for line in [
        r#"tombolo_peer_up{peer="west"} 0"#,
        r#"tombolo_peer_state{peer="west",state="stalled"} 1"#,
        r#"tombolo_catalog_services{peer="west",direction="in"} 1"#,
        r#"tombolo_connections_total{service="shop/web",dst_cluster="west",result="served"} 1"#,
        r#"tombolo_cert_expiry_seconds{kind="svid",cluster="east"}"#,
        "tombolo_start_time_seconds 1800000000",
    ] {
        assert!(figures.contains(line), "{line} is missing in\n{figures}");
    }
    for (method, path) in [
        (Method::GET, "/v1/status"),
        (Method::POST, "/metrics"),
        (Method::GET, "/"),
        (Method::POST, "/v1/join"),
    ] {
        let (status, _) = world.send_tcp(method, path).await;
        assert_eq!(status, StatusCode::NOT_FOUND, "{path}");
    }
}

#[tokio::test]
async fn after_shutdown_nobody_is_served() {
    let world = World::start().await;
    assert_eq!(world.send_tcp(Method::GET, "/livez").await.0, StatusCode::OK);
    world.tasks.shutdown().drain("test");
    assert_eq!(world.send_tcp(Method::GET, "/livez").await.0, StatusCode::OK, "a drain is still watched");
    let (socket, tcp) = world.addresses();
    let World { admin, tasks, .. } = world;
    admin.shutdown().await;
    assert!(unix_connect(&socket).await.is_err());
    assert!(Os::default().tcp_connect(tcp, Duration::from_secs(5)).await.is_err());
    assert!(tasks.failed().is_none());
}
