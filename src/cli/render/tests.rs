//! Each page, from sample objects of the API.

use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::*;
use crate::{
    admin::api::{
        CaStatus, Explanation, NewToken, PeerStatus, Resolution, ServiceStatus, Status, TokenStatus,
    },
    cli::output::Style,
    model::{code::Code, ids::Timestamp},
};

const PLAIN: Style = Style { colour: false };
const DAY: u64 = 86_400_000;
const NOW: Timestamp = Timestamp(1_800_000_000_000);

fn object<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("a sample fits its type")
}

fn west() -> Value {
    json!({
        "cluster": "west", "state": "active", "state_age_ms": 240_000, "cause": "joined by token K7QM2T5W",
        "trust_domain": "west.abcdefghijkl.tombolo", "fingerprint": "81f0 03cc 5e1a 2290",
        "root_expires_unix_ms": NOW.0 + 364 * DAY, "endpoints": ["203.0.113.10:7443"],
        "link": {
            "state": "up", "gateway": "w1", "address": "203.0.113.10:7443", "dialled_by": "us", "rtt_ms": 3.12,
            "loss": 0.002, "inbound_age_ms": 120, "outbound_age_ms": 1_400, "streams": 1, "up_ms": 273_600_000,
        },
        "imported": 14, "exported": 9, "lag": 0, "catalog_age_ms": 0, "refusals": [],
    })
}

fn north() -> Value {
    json!({
        "cluster": "north", "state": "stale", "state_age_ms": 372_000, "cause": "nothing heard since 12:01:07Z",
        "trust_domain": "north.abcdefghijkl.tombolo", "fingerprint": "4c1e 9b02 77d1 aa30",
        "root_expires_unix_ms": NOW.0 + 12 * DAY, "introduced_by": "west", "endpoints": [],
        "dial_failure": "TMB-2001 no answer over UDP from 198.51.100.7:7443",
        "imported": 31, "exported": 12, "lag": 2, "catalog_age_ms": 372_000,
        "refusals": ["shop/api TMB-2101 export's record too large"],
    })
}

fn both() -> Vec<PeerStatus> {
    vec![object(north()), object(west())]
}

fn sample_status() -> Value {
    json!({
        "schema": "tombolo/v1/status", "version": "0.1.0", "cluster": "east", "gateway": "g-4kx2",
        "trust_domain": "east.abcdefghijkl.tombolo", "fingerprint": "4c1e 9b02 77d1 aa30",
        "locality": "eu/eu-1a", "up_ms": 273_600_000,
        "addresses": {
            "quic": "0.0.0.0:7443", "dns": "127.0.0.1:5533", "admin": "127.0.0.1:7070",
            "socket": "/var/lib/tombolo/gateways/g-4kx2/admin.sock",
        },
        "state": "/var/lib/tombolo", "ready": true, "pending": [],
        "svid_expires_unix_ms": NOW.0 + DAY - 7_200_000, "root_expires_unix_ms": NOW.0 + 364 * DAY,
        "peers": [north(), west()], "exported": 9, "imported": 17,
        "warnings": [{
            "code": "TMB-4005", "message": "1,024 open files are allowed",
            "fix": "raise the hard limit, as in `LimitNOFILE=65536`",
        }],
    })
}

fn sample_service() -> Value {
    json!({
        "name": "shop/web", "dns_name": "web.shop.svc.clusterset.local", "virtual_ip": "127.77.0.9",
        "headless": false,
        "ports": [
            { "name": "http", "protocol": "tcp", "port": 80, "bound_port": 20_080, "state": "listening" },
            { "name": "admin", "protocol": "tcp", "port": 9000, "state": "no candidate for 12s" },
        ],
        "clusters": [
            { "cluster": "east", "local": true, "ready": 2, "total": 3, "freshness": "live", "idempotent": true },
            { "cluster": "west", "local": false, "ready": 1, "total": 1, "freshness": "stale", "idempotent": false },
        ],
        "conflicts": ["west exports port http as udp; east's older export holds"],
    })
}

#[test]
fn status_shows_identity_peers_and_what_to_look_at() {
    let page: Status = object(sample_status());
    insta::assert_snapshot!(status(&page, NOW, PLAIN), @r"
    east   gateway g-4kx2   up 3d4h   v0.1.0   eu/eu-1a   ready
    trust domain  east.abcdefghijkl.tombolo   fingerprint 4c1e 9b02 77d1 aa30
    certificate   ends in 22h   root ends in 364d
    listens       peers 0.0.0.0:7443   dns 127.0.0.1:5533   admin 127.0.0.1:7070
    state         /var/lib/tombolo
    services      17 known, 9 exported by this cluster

    PEER   STATE        LINK  RTT    LOSS  SEEN      IN/OUT  CATALOG                           CAUSE
    north  stale 6m12s  -     -      -     -         31/12   6m12s old, 2 of ours unconfirmed  nothing heard since 12:01:07Z
    west   active 4m    up    3.1ms  0.2%  120ms/1s  14/9    current                           joined by token K7QM2T5W
    ! 1 peer cannot be dialled: see `tombolo peers`
    ! TMB-4005: 1,024 open files are allowed
      try: raise the hard limit, as in `LimitNOFILE=65536`
    ");
}

#[test]
fn a_link_in_trouble_is_told_beside_the_peers_state() {
    let lane = |gateway: &str, state: &str| {
        let mut lane = west()["link"].clone();
        (lane["gateway"], lane["state"], lane["state_age_ms"]) = (json!(gateway), json!(state), json!(2_000));
        lane["cause"] =
            if state == "up" { Value::Null } else { json!("no answer and not a word for 612 ms") };
        lane
    };
    let mut doubted = west();
    doubted["link"] = lane("w1", "suspect");
    let mut half = west();
    half["links"] = json!([lane("w1", "up"), lane("w2", "suspect")]);
    let mut gone = west();
    gone.as_object_mut().expect("an object").remove("link");
    gone["link_down"] = json!({ "age_ms": 12_000, "cause": "closed by peer: shutdown" });
    let rows: Vec<PeerStatus> = [doubted, half, gone].into_iter().map(object).collect();
    let table = peers::short_peers(&rows, PLAIN);
    let lines: Vec<&str> = table.lines().skip(1).collect();
    assert!(lines[0].contains(" suspect 2s ") && lines[0].contains("active"), "{table}");
    assert!(
        lines[0].ends_with("; link to w1 suspect for 2s: no answer and not a word for 612 ms"),
        "{table}"
    );
    assert!(lines[1].contains(" 1 up 1 suspect ") && lines[1].contains("link to w2 suspect"), "{table}");
    assert!(
        lines[2].contains(" down 12s ") && lines[2].contains("link down for 12s: closed by peer"),
        "{table}"
    );
    assert!(peer(&rows[1], NOW, PLAIN).contains("suspect for 2s (no answer"), "the second line of links");
}

#[test]
fn a_young_gateway_says_what_it_waits_for_and_how_to_go_on() {
    let mut sample = sample_status();
    sample["ready"] = json!(false);
    sample["pending"] = json!(["dns", "listeners"]);
    sample["peers"] = json!([]);
    sample["warnings"] = json!([]);
    let page: Status = object(sample);
    insta::assert_snapshot!(status(&page, NOW, PLAIN), @r"
    east   gateway g-4kx2   up 3d4h   v0.1.0   eu/eu-1a   not ready, waits for dns, listeners
    trust domain  east.abcdefghijkl.tombolo   fingerprint 4c1e 9b02 77d1 aa30
    certificate   ends in 22h   root ends in 364d
    listens       peers 0.0.0.0:7443   dns 127.0.0.1:5533   admin 127.0.0.1:7070
    state         /var/lib/tombolo
    services      17 known, 9 exported by this cluster

    No peers yet: `tombolo token create` here, `tombolo join -` there
    ");
}

#[test]
fn peers_have_states_with_ages_and_causes() {
    insta::assert_snapshot!(peers(&both(), NOW, PLAIN), @r"
    PEER   STATE        TRUST DOMAIN                RTT    IMPORT  EXPORT  LAG  DATA AGE  ROOT ENDS  CAUSE
    north  stale 6m12s  north.abcdefghijkl.tombolo  -      31      12      2    6m12s     12d (!)    nothing heard since 12:01:07Z
    west   active 4m    west.abcdefghijkl.tombolo   3.1ms  14      9       0    0s        364d       joined by token K7QM2T5W
    ! north: TMB-2001 no answer over UDP from 198.51.100.7:7443
    ! north: 1 row refused, see `tombolo peers north`
    ");
}

#[test]
fn one_peer_shows_all_there_is() {
    insta::assert_snapshot!(peer(&both()[0], NOW, PLAIN), @r"
    peer           north
    state          stale for 6m12s: nothing heard since 12:01:07Z
    trust domain   north.abcdefghijkl.tombolo
    fingerprint    4c1e 9b02 77d1 aa30
    root ends      12d (!)
    introduced by  west
    link           none
    last dial      TMB-2001 no answer over UDP from 198.51.100.7:7443
    services       31 taken from it, 12 told to it
    catalog        6m12s old, 2 of ours unconfirmed
    ! refused: shop/api TMB-2101 export's record too large
    ");
    insta::assert_snapshot!(peer(&both()[1], NOW, PLAIN), @r"
    peer           west
    state          active for 4m: joined by token K7QM2T5W
    trust domain   west.abcdefghijkl.tombolo
    fingerprint    81f0 03cc 5e1a 2290
    root ends      364d
    endpoints      203.0.113.10:7443
    link           up, made 3d4h ago, to gateway w1 at 203.0.113.10:7443, dialled by us; rtt 3.1ms, loss 0.2%, heard 120ms ago, hears us 1s ago, 1 stream
    services       14 taken from it, 9 told to it
    catalog        current
    ");
}

#[test]
fn services_show_where_they_are_and_which_port_is_bound() {
    let rows: Vec<ServiceStatus> = vec![object(sample_service())];
    insta::assert_snapshot!(services(&rows, PLAIN), @r"
    SERVICE   VIRTUAL IP  PORTS                                 CLUSTERS (READY)
    shop/web  127.77.0.9  http 80/tcp on 20080, admin 9000/tcp  east* 2/3, west 1/1 stale
    ! shop/web: west exports port http as udp; east's older export holds
    ! shop/web port admin: no candidate for 12s
    ");
    insta::assert_snapshot!(service(&rows[0], PLAIN), @r"
    service     shop/web
    dns name    web.shop.svc.clusterset.local
    virtual ip  127.77.0.9

    PORT   NUMBER    BOUND  STATE
    http   80/tcp    20080  listening
    admin  9000/tcp  -      no candidate for 12s

    CLUSTER          READY   CATALOG  REQUESTS MAY BE SENT TWICE
    east (this one)  2 of 3  live     yes
    west             1 of 1  stale    no
    ! shop/web: west exports port http as udp; east's older export holds
    ");
}

#[test]
fn a_rotation_says_whom_it_waits_for_and_how_long_at_most() {
    let at = |phase: &str, acked: bool, ends: Option<u64>| -> CaStatus {
        object(json!({
            "schema": "tombolo/v1/ca", "phase": phase, "phase_age_ms": 1_000, "phase_ends_unix_ms": ends,
            "sequence": 2, "svid_expires_unix_ms": NOW.0 + 3_600_000,
            "roots": [{ "number": 1, "fingerprint": "4c1e", "issuing": true, "expires_unix_ms": NOW.0 + 86_400_000 }],
            "peers": [{ "cluster": "west", "acked": acked, "state": "stale", "state_age_ms": 372_000 }],
        }))
    };
    let line = |phase, acked, ends| ca_line(&at(phase, acked, ends), NOW);
    let day = Some(NOW.0 + 86_340_000);
    insta::assert_snapshot!(
        [line("publishing", false, day), line("publishing", true, day), line("retiring", true, Some(NOW.0 + 540_000)),
         line("settled", true, None)].join("\n"),
        @r"
    publishing: waiting for west (stale 6m12s) to store the new root, for 23h at most; root 1 issues
    publishing: every peer has the new root; root 1 issues
    retiring: root 1 issues, the old root is still believed for 9m
    settled: root 1 issues, bundle sequence 2
    "
    );
    assert_eq!(ca_awaited(&at("publishing", false, day)), ca_awaited(&at("publishing", false, None)));
    assert_ne!(ca_awaited(&at("publishing", false, day)), ca_awaited(&at("publishing", true, day)));
}

#[test]
fn a_new_token_stands_alone_on_its_line() {
    let token: NewToken = object(json!({
        "schema": "tombolo/v1/token", "id": "K7QM2T5W9ZRX4C3B", "token": "tmb1_AQABx0",
        "expires_unix_ms": NOW.0 + 900_000, "uses": 1, "addresses": ["203.0.113.10:7443"],
        "trust_domain": "east.abcdefghijkl.tombolo", "fingerprint": "4c1e 9b02 77d1 aa30",
    }));
    let west = "west".parse().expect("id");
    insta::assert_snapshot!(new_token(&token, Some(&west), NOW, PLAIN), @r"
    Join token for cluster west
      id           K7QM2T5W9ZRX4C3B
      expires      08:15:00Z (in 15m)
      uses         1
      reach me at  203.0.113.10:7443
      my identity  east.abcdefghijkl.tombolo   fingerprint 4c1e 9b02 77d1 aa30
    On the other cluster run `tombolo join -` and paste this line; it is a secret, shown once:

    tmb1_AQABx0
    ");
}

#[test]
fn tokens_are_listed_without_secrets() {
    let rows: Vec<TokenStatus> = object(json!([
        { "id": "K7QM", "state": "unused", "expires_unix_ms": NOW.0 + 780_000, "uses_left": 1, "redeemed_by": [] },
        { "id": "Z2AB", "state": "redeemed", "expires_unix_ms": NOW.0 - 1, "uses_left": 0, "redeemed_by": ["west"] },
    ]));
    insta::assert_snapshot!(tokens(&rows, NOW, PLAIN), @r"
    ID    STATE     EXPIRES      USES LEFT  REDEEMED BY
    K7QM  unused    13m          1          -
    Z2AB  redeemed  in the past  0          west
    ");
}

#[test]
fn a_resolution_gives_records_and_the_reason() {
    let page: Resolution = object(json!({
        "schema": "tombolo/v1/resolve", "name": "web.shop.svc.clusterset.local.", "rcode": "NOERROR",
        "answers": ["web.shop.svc.clusterset.local. 5 IN A 127.77.0.9"], "why": "exported by east and west",
    }));
    insta::assert_snapshot!(resolution(&page, PLAIN), @r"
    web.shop.svc.clusterset.local.   NOERROR
      web.shop.svc.clusterset.local. 5 IN A 127.77.0.9
    why  exported by east and west
    ");
}

#[test]
fn an_explanation_names_every_cluster_that_was_considered() {
    let page: Explanation = object(json!({
        "schema": "tombolo/v1/explain", "name": "shop/web", "dns_name": "web.shop.svc.clusterset.local",
        "virtual_ip": "127.77.0.9",
        "ports": [{
            "port": { "name": "http", "protocol": "tcp", "port": 80, "bound_port": 80, "state": "listening" },
            "considered": [
                { "cluster": "east", "priority": 0, "share": 100, "ready": 2, "total": 3, "reason": "local" },
                { "cluster": "west", "priority": 1, "share": 0, "ready": 1, "total": 1, "rtt_ms": 38.2,
                  "reason": "same region; used when east has none ready" },
                { "cluster": "south", "share": 0, "ready": 0, "total": 2, "reason": "link down for 12s" },
            ],
        }],
    }));
    insta::assert_snapshot!(explanation(&page, PLAIN), @r"
    shop/web   web.shop.svc.clusterset.local -> 127.77.0.9

    http 80/tcp: listening
    CLUSTER  PRIORITY  SHARE  READY   RTT   REASON
    east     0         100%   2 of 3  -     local
    west     1         0%     1 of 1  38ms  same region; used when east has none ready
    south    -         0%     0 of 2  -     link down for 12s
    ");
}

#[test]
fn an_explanation_shows_what_speaks_against_endpoints_here_and_that_the_retry_budget_is_used_up() {
    let page: Explanation = object(json!({
        "schema": "tombolo/v1/explain", "name": "shop/web", "dns_name": "web.shop.svc.clusterset.local",
        "ports": [{
            "port": { "name": "http", "protocol": "tcp", "port": 80, "bound_port": 80, "state": "listening" },
            "considered": [
                { "cluster": "east", "priority": 0, "share": 100, "ready": 2, "total": 2, "reason": "local" },
            ],
            "endpoints": [
                { "address": "127.0.0.1:8081", "state": "on probation: the next connection decides" },
                { "address": "127.0.0.1:8082", "state": "ready" },
            ],
        }],
        "retries": "the retry budget refused 12 retries, the last one 3 s ago",
    }));
    insta::assert_snapshot!(explanation(&page, PLAIN), @r"
    shop/web   web.shop.svc.clusterset.local -> no virtual IP

    http 80/tcp: listening
    CLUSTER  PRIORITY  SHARE  READY   RTT  REASON
    east     0         100%   2 of 2  -    local

    ENDPOINT HERE   STATE
    127.0.0.1:8081  on probation: the next connection decides
    127.0.0.1:8082  ready

    ! the retry budget refused 12 retries, the last one 3 s ago
    ");
}

#[test]
fn a_code_is_explained_from_the_table() {
    insta::assert_snapshot!(code(Code::TOKEN_EXPIRED.info(), PLAIN), @r"
    TMB-1201 token expired

    A token is good for a short time, by the clock of the cluster that made it.

      try: make a new one there: `tombolo token create`
    ");
}

#[test]
fn colours_do_not_move_columns() {
    let plain = peers(&both(), NOW, PLAIN);
    let mut coloured = peers(&both(), NOW, Style { colour: true });
    assert!(coloured.contains("\u{1b}[33mstale 6m12s\u{1b}[0m"), "{coloured}");
    for code in ["\u{1b}[39m", "\u{1b}[33m", "\u{1b}[32m", "\u{1b}[31m", "\u{1b}[0m"] {
        coloured = coloured.replace(code, "");
    }
    assert_eq!(coloured, plain);
}

#[test]
fn durations_have_two_units_at_most() {
    let ages = [999, 12_000, 60_000, 372_000, 3_600_000, 11_100_000, 273_600_000, 400 * DAY];
    assert_eq!(ages.map(words::age), ["999ms", "12s", "1m", "6m12s", "1h", "3h5m", "3d4h", "400d"]);
    assert_eq!([0.312, 3.12, 38.4].map(words::round_trip), ["0.31ms", "3.1ms", "38ms"]);
}
