//! The verbs against a gateway's admin API that stands in a test, and the words for what goes wrong.

use std::{
    path::Path,
    sync::{Arc, Mutex},
};

use axum::{
    Json, Router,
    extract::{Query, State},
    http::{StatusCode, Uri},
    routing::{delete, get, post},
};
use clap::CommandFactory as _;
use serde_json::{Value, json};

use super::{
    args::{ConfigVerb, JoinArgs, RunArgs, TokenCreateArgs, TokenVerb, UnexportArgs},
    *,
};
use crate::net::unix_listen;

type Seen = Arc<Mutex<Vec<String>>>;

/// What the API was asked, and the state folder it stands in.
struct Gateway {
    folder: tempfile::TempDir,
    seen: Seen,
    _shut: tokio_util::sync::DropGuard,
}

impl Gateway {
    fn start() -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let (seen, token) = (Seen::default(), tokio_util::sync::CancellationToken::new());
        serve_in(folder.path(), "g1", seen.clone(), token.clone());
        Self { folder, seen, _shut: token.drop_guard() }
    }

    fn shared(&self) -> SharedArgs {
        SharedArgs { state: Some(self.folder.path().to_owned()), ..SharedArgs::default() }
    }

    fn seen(&self) -> Vec<String> {
        self.seen.lock().expect("lock").clone()
    }
}

fn serve_in(state: &Path, gateway: &str, seen: Seen, until: tokio_util::sync::CancellationToken) {
    let folder = state.join("gateways").join(gateway);
    std::fs::create_dir_all(&folder).expect("folder");
    let listener = unix_listen(&folder.join("admin.sock")).expect("socket");
    let router = Router::new()
        .route("/v1/tokens", post(created))
        .route("/v1/tokens/{id}", delete(no_such_token))
        .route("/v1/exports", post(noted))
        .route("/v1/exports/{name}", delete(unexported))
        .route("/v1/peers", get(|| async { Json(json!({ "schema": "tombolo/v1/peers", "peers": [] })) }))
        .route("/v1/resolve", get(resolved))
        .route("/v1/status", get(std::future::pending::<()>))
        .route("/v1/services", get(|| async { (StatusCode::BAD_GATEWAY, "who knows") }))
        .route("/v1/join", post(joined))
        .with_state(seen);
    let tasks = crate::supervise::Tasks::new(crate::supervise::Shutdown::new());
    tasks.spawn_transient("api", async move {
        until.run_until_cancelled(axum::serve(listener, router).into_future()).await;
    });
}

fn note(seen: &Seen, what: String) {
    seen.lock().expect("lock").push(what);
}

async fn created(State(seen): State<Seen>, Json(wish): Json<Value>) -> Json<Value> {
    note(&seen, wish.to_string());
    Json(json!({
        "schema": "tombolo/v1/token", "id": "K7", "token": "tmb1_x", "expires_unix_ms": 0, "uses": 1,
        "addresses": [], "trust_domain": "east.abc.tombolo", "fingerprint": "4c1e", "later": "field",
    }))
}

async fn noted(State(seen): State<Seen>, Json(wish): Json<Value>) -> Json<Value> {
    note(&seen, wish.to_string());
    Json(json!({ "schema": "tombolo/v1/done", "text": "done" }))
}

async fn no_such_token() -> (StatusCode, Json<Value>) {
    let problem = Problem::new(Code::NO_SUCH_TOKEN, "there is no token K8");
    (StatusCode::NOT_FOUND, Json(json!({ "schema": "tombolo/v1/error", "error": problem })))
}

async fn unexported(State(seen): State<Seen>, uri: Uri) -> Json<Value> {
    note(&seen, uri.to_string());
    let mut done = json!({ "schema": "tombolo/v1/done", "text": "gone", "unconfirmed": ["north", "south"] });
    if uri.path().contains("db.") {
        done["elsewhere"] = json!(["south"]);
    }
    Json(done)
}

async fn resolved(
    State(seen): State<Seen>,
    Query(query): Query<std::collections::BTreeMap<String, String>>,
) -> Json<Value> {
    note(&seen, query["name"].clone());
    Json(json!({
        "schema": "tombolo/v1/resolve", "name": query["name"], "rcode": "NXDOMAIN", "answers": [], "why": "unknown",
    }))
}

/// Two good steps, then what the token says: nothing more, the end, or a problem.
async fn joined(State(seen): State<Seen>, Json(wish): Json<Value>) -> String {
    note(&seen, wish.to_string());
    let step = |step: &str| json!({ "schema": "tombolo/v1/join", "step": step, "text": "done" });
    let mut lines = vec![step("token"), step("connect")];
    match wish["token"].as_str() {
        Some("tmb1_good") => lines.push(step("done")),
        Some("tmb1_bad") => {
            let problem = Problem::new(Code::TOKEN_REDEEMED, "the token was redeemed by west at 12:03:11Z");
            lines.push(
                json!({ "schema": "tombolo/v1/join", "step": "exchange", "text": "", "problem": problem }),
            );
        }
        _ => {}
    }
    lines.iter().map(|line| format!("{line}\n")).collect()
}

fn printer() -> Printer {
    Printer::new(&SharedArgs::default())
}

async fn join_with(gateway: &Gateway, token: &str) -> Result<(), Problem> {
    let file = gateway.folder.path().join("token");
    std::fs::OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .open(&file)
        .and_then(|mut file| std::io::Write::write_all(&mut file, token.as_bytes()))
        .expect("file");
    let args = JoinArgs { token: Some(file.to_str().expect("text").to_owned()) };
    join::run(&args, &gateway.shared(), printer()).await
}

#[tokio::test]
async fn a_wish_reaches_the_gateway_and_fields_may_be_added() {
    let gateway = Gateway::start();
    let args = TokenCreateArgs {
        ttl: Some(std::time::Duration::from_secs(300)),
        cluster: Some("west".parse().expect("id")),
        ..TokenCreateArgs::default()
    };
    verbs::token(TokenVerb::Create(args), &gateway.shared(), printer()).await.expect("created");
    let wish: crate::admin::api::TokenWish = serde_json::from_str(&gateway.seen()[0]).expect("a wish");
    assert_eq!((wish.ttl_seconds, wish.cluster.expect("id").as_str()), (Some(300), "west"));
}

#[tokio::test]
async fn a_refusal_of_the_gateway_is_told_unchanged() {
    let gateway = Gateway::start();
    let revoke = TokenVerb::Revoke { id: "K8".to_owned() };
    let problem = verbs::token(revoke, &gateway.shared(), printer()).await.unwrap_err();
    insta::assert_snapshot!(output::problem_text(&problem), @r"
    error TMB-1224: there is no token K8
      try: list them: `tombolo token list`
    ");
    assert_eq!(problem.code.exit_code(), 1);
}

#[tokio::test]
async fn an_answer_that_is_no_refusal_is_still_explained() {
    let gateway = Gateway::start();
    let problem = verbs::services(None, &gateway.shared(), printer()).await.unwrap_err();
    insta::assert_snapshot!(output::problem_text(&problem), @r"
    error TMB-1014: the gateway answered 502 Bad Gateway to /v1/services
      try: compare `tombolo version` with the release that runs
    ");
}

#[tokio::test]
async fn a_gateway_that_does_not_answer_ends_in_a_timeout() {
    let gateway = Gateway::start();
    let shared = SharedArgs { timeout: Some(std::time::Duration::from_millis(50)), ..gateway.shared() };
    let problem = verbs::status(&shared, printer()).await.unwrap_err();
    insta::assert_snapshot!(output::problem_text(&problem), @r"
    error TMB-1011: the gateway did not finish status within 0.05 s
      try: look at `tombolo status`, then try again with a longer `--timeout`
    ");
    assert_eq!(problem.code.exit_code(), 4);
}

#[tokio::test]
async fn unexport_with_wait_names_who_has_not_confirmed() {
    let gateway = Gateway::start();
    let args = UnexportArgs { name: "web.shop".to_owned(), wait: true };
    let problem = verbs::unexport(&args, &gateway.shared(), printer()).await.unwrap_err();
    insta::assert_snapshot!(output::problem_text(&problem), @r"
    error TMB-1011: not confirmed within 10 s by north, south
      try: look at `tombolo peers north`; it is told as soon as it is back
    ");
    assert_eq!(problem.code.exit_code(), 4);
    let quick = UnexportArgs { wait: false, ..args };
    verbs::unexport(&quick, &gateway.shared(), printer()).await.expect("gone, confirmed or not");
    assert_eq!(gateway.seen(), ["/v1/exports/web.shop?wait_ms=10000", "/v1/exports/web.shop"]);
    let other = UnexportArgs { name: "db.shop".to_owned(), wait: true };
    let problem = verbs::unexport(&other, &gateway.shared(), printer()).await.unwrap_err();
    let fix = "look at `tombolo peers south`: it is away, and told as soon as it is back, or takes the catalog from another";
    assert!(problem.fix.starts_with(fix), "{}", problem.fix);
}

#[tokio::test]
async fn names_arrive_as_they_were_typed() {
    let gateway = Gateway::start();
    verbs::resolve("a b&c=ü", &gateway.shared(), printer()).await.expect("answered");
    assert_eq!(gateway.seen(), ["a b&c=ü"]);
}

#[tokio::test]
async fn a_peer_that_is_none_is_a_problem() {
    let gateway = Gateway::start();
    let name = "west".parse().expect("id");
    let problem = verbs::peers(Some(&name), &gateway.shared(), printer()).await.unwrap_err();
    assert_eq!(problem.code, Code::NO_SUCH_PEER);
}

#[tokio::test]
async fn a_join_ends_well_only_when_it_says_so() {
    let gateway = Gateway::start();
    join_with(&gateway, "tmb1_good\n").await.expect("joined");
    let refused = join_with(&gateway, "tmb1_bad\n").await.unwrap_err();
    insta::assert_snapshot!(output::problem_text(&refused), @r"
    error TMB-1203: the token was redeemed by west at 12:03:11Z
      try: make a new one: `tombolo token create`; look at `tombolo token list` for who redeemed this one
    ");
    let cut = join_with(&gateway, "tmb1_cut\n").await.unwrap_err();
    insta::assert_snapshot!(output::problem_text(&cut), @r"
    error TMB-1008: the gateway broke off before the join was done
      try: look at `tombolo peers`; the same token may be used again by this cluster
    ");
    let missing = join_with(&gateway, "no such thing").await.unwrap_err();
    assert_eq!((missing.code, missing.code.exit_code()), (Code::TOKEN_NOT_A_TOKEN, 2));
    assert_eq!(gateway.seen().len(), 3, "what is no token is not sent");
}

#[tokio::test]
async fn without_a_gateway_the_folder_is_named() {
    let folder = tempfile::tempdir().expect("folder");
    let shared = SharedArgs { state: Some(folder.path().to_owned()), ..SharedArgs::default() };
    let problem = verbs::status(&shared, printer()).await.unwrap_err();
    let text = output::problem_text(&problem).replace(&folder.path().display().to_string(), "STATE");
    insta::assert_snapshot!(text, @r"
    error TMB-1008: no gateway answers in the state folder STATE
      try: start one with `tombolo run`, or name its state folder with `--state`
    ");

    let shared = SharedArgs { socket: Some("/nonexistent/admin.sock".into()), ..SharedArgs::default() };
    let problem = verbs::status(&shared, printer()).await.unwrap_err();
    insta::assert_snapshot!(output::problem_text(&problem), @r"
    error TMB-1008: no gateway answers: there is no socket /nonexistent/admin.sock
      try: start one with `tombolo run`, or name its state folder with `--state`
    ");
}

#[tokio::test]
async fn a_killed_gateways_socket_is_nobody_and_two_live_ones_are_too_many() {
    let folder = tempfile::tempdir().expect("folder");
    let shared = SharedArgs { state: Some(folder.path().to_owned()), ..SharedArgs::default() };
    let dead = folder.path().join("gateways/g0");
    std::fs::create_dir_all(&dead).expect("folder");
    drop(unix_listen(&dead.join("admin.sock")).expect("socket"));
    let problem = verbs::status(&shared, printer()).await.unwrap_err();
    assert_eq!(problem.code, Code::NO_DAEMON);

    let until = tokio_util::sync::CancellationToken::new();
    serve_in(folder.path(), "g1", Seen::default(), until.clone());
    verbs::peers(None, &shared, printer()).await.expect("the one that lives is asked");
    serve_in(folder.path(), "g2", Seen::default(), until.clone());
    let problem = verbs::peers(None, &shared, printer()).await.unwrap_err();
    let text = output::problem_text(&problem).replace(&folder.path().display().to_string(), "STATE");
    insta::assert_snapshot!(text, @r"
    error TMB-1004: 2 gateways answer in the state folder STATE
      try: name one with `--socket STATE/gateways/g1/admin.sock`
    ");
    until.cancel();
}

#[tokio::test]
async fn codes_are_explained_without_a_gateway() {
    for code in ["TMB-1201", "tmb-1201", "1201"] {
        verbs::explain(code, &SharedArgs::default(), printer()).await.expect("explained");
    }
    let problem = verbs::explain("TMB-9999", &SharedArgs::default(), printer()).await.unwrap_err();
    insta::assert_snapshot!(output::problem_text(&problem), @r#"
    error TMB-1004: "TMB-9999" is not a code of this release: codes look like TMB-1201
      try: compare `tombolo version` with the release that printed the code
    "#);
}

#[test]
fn the_tree_of_verbs_is_sound() {
    Cli::command().debug_assert();
    #[derive(clap::Parser)]
    struct Later {
        #[command(flatten)]
        shared: SharedArgs,
        #[command(flatten)]
        run: RunArgs,
        #[command(subcommand)]
        config: Option<ConfigVerb>,
    }
    Later::command().debug_assert();
    let line = "tombolo --state /tmp/x --cluster eu-1 --locality eu/eu-1 --listen 127.0.0.1:0 \
                --virtual-ips 127.80.0.0/16 --export web.demo=127.0.0.1:80 --export api=127.0.0.1:81 \
                --idempotent --exit-with-parent";
    let later = Later::try_parse_from(line.split_whitespace()).expect("parsed");
    assert_eq!(later.run.export, ["web.demo=127.0.0.1:80", "api=127.0.0.1:81"]);
    assert_eq!(later.run.cluster.expect("id").as_str(), "eu-1");
    assert_eq!((later.shared.state, later.config.is_none()), (Some("/tmp/x".into()), true));
}

fn misuse(line: &str) -> String {
    let error = Cli::try_parse_from(line.split_whitespace()).unwrap_err();
    output::problem_text(&usage_problem(&error.render().to_string()))
}

#[test]
fn wrong_usage_has_a_code_and_a_next_step() {
    insta::assert_snapshot!(misuse("tombolo statsu"), @r"
    error TMB-1004: unrecognized subcommand 'statsu'
      try: a similar subcommand exists: 'status'
    ");
    insta::assert_snapshot!(misuse("tombolo export"), @r"
    error TMB-1004: the following required arguments were not provided: <NAME[.NAMESPACE]=ADDR[,ADDR]>
      try: `tombolo export <NAME[.NAMESPACE]=ADDR[,ADDR]>`, or `--help`
    ");
    insta::assert_snapshot!(misuse("tombolo peers West"), @r#"
    error TMB-1004: invalid value 'West' for '[NAME]': cluster id "West" may hold only lower-case letters, digits and '-'
      try: read the command's `--help`
    "#);
    insta::assert_snapshot!(misuse("tombolo token create --ttl 15"), @r#"
    error TMB-1004: invalid value '15' for '--ttl <TIME>': "15" is not a duration: write a number and a unit (ms, s, m, h, d), as in "5s" or "1h30m"
      try: read the command's `--help`
    "#);
}

#[test]
fn what_is_said_beside_the_exports_of_a_run_holds_for_all_of_them() {
    let exports = |flags: &str| {
        let line = format!("tombolo run --export web.demo=127.0.0.1:80 --export api=127.0.0.1:81 {flags}");
        let cli = Cli::try_parse_from(line.split_whitespace()).expect("parsed");
        let Verb::Run(args) = cli.verb else { panic!("another verb") };
        let said = |spec: &crate::config::ExportSpec| (spec.idempotent, spec.session_affinity.client_ip());
        run::read_config(&args).expect("a config").exports.iter().map(said).collect::<Vec<_>>()
    };
    assert_eq!(exports(""), [(false, None); 2]);
    let kept = Some(crate::model::catalog::ClientIp::default());
    assert_eq!(exports("--session-affinity client-ip --idempotent"), [(true, kept); 2]);
    let alone = misuse("tombolo run --session-affinity client-ip");
    assert!(alone.contains("TMB-1004") && alone.contains("--export"), "{alone}");
}

#[test]
fn an_export_is_checked_before_a_gateway_is_asked() {
    let args = |export: &str| args::ExportArgs {
        export: export.to_owned(),
        port: Some(80),
        port_name: None,
        udp: false,
        idempotent: true,
        session_affinity: args::AffinityArg::ClientIp,
    };
    let wish = verbs::export_wish(&args("web.shop=127.0.0.1:8080,127.0.0.2:8080")).expect("wish");
    assert_eq!((wish.name.to_string().as_str(), wish.to.len(), wish.port), ("shop/web", 2, Some(80)));
    let problem = verbs::export_wish(&args("web.shop=localhost:8080")).unwrap_err();
    assert_eq!(problem.code, Code::FLAG_INVALID);
}
