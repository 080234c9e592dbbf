//! Joining when the path drops, relays or lies, and when those who join mean ill (J1 to J10).

use std::fs;

use tombolo::model::token::Token;

use crate::{
    authority::{Authority, know},
    gateway::{Cluster, Listens, until, until_active},
    joiner::{Answer, Joiner, exchange, send},
    names::{application, place, said_by},
    stranger::listen,
};

fn parsed(text: &str) -> Token {
    Token::parse(text).expect("a token")
}

fn state_of(cluster: &Cluster, token: &Token) -> String {
    let listed = cluster.json("token list");
    let rows = listed["tokens"].as_array().expect("rows").iter();
    let row = rows.into_iter().find(|row| row["id"] == token.id.to_string()).expect("the token");
    row["state"].as_str().expect("a word").to_owned()
}

fn peers_of(cluster: &Cluster) -> usize {
    cluster.json("peers")["peers"].as_array().expect("rows").len()
}

#[test]
fn j1_a_cluster_that_nobody_can_dial_joins_and_both_sides_reach_each_other() {
    let (east, west) = (Cluster::new("east", 219), Cluster::new("west", 220));
    // What west tells others leads nowhere, as an address behind a NAT does.
    let config = west.file("c.toml", "[advertise]\naddresses = [\"127.0.0.1:9\"]\n");
    let (first, second) = (east.start(), west.start_at(&Listens::free(), &["--config", &config]));
    west.join(&east.token()).well();
    until_active(&east, &["west"]);
    for (cluster, name) in [(&east, "web"), (&west, "api")] {
        cluster.tombolo(&format!("export {name}.shop={} --port 8080", application(&cluster.id))).well();
    }
    for (gateway, name, from) in [(&first, "api", "west"), (&second, "web", "east")] {
        let name = format!("{name}.shop.svc.clusterset.local.");
        let at = until(&name, || place(gateway.dns(), &name, 8080));
        assert_eq!(until(&name, || said_by(at)), from);
    }
    let shown = east.json("peers west");
    assert_eq!(shown["peers"][0]["link"]["dialled_by"], "them", "{shown}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn j2_a_lost_answer_is_given_again_and_counts_once() {
    let east = Cluster::new("east", 221);
    let gateway = east.start();
    let (token, west) = (parsed(&east.token()), Joiner::new("west"));
    let (endpoint, connection) = Joiner::connect(&token, &gateway.listens.quic).await.expect("connected");
    let request = west.request(&token, &connection);
    let _unread = send(&connection, &request).await.expect("sent");
    until("it was redeemed", || (state_of(&east, &token) == "redeemed").then_some(()));
    endpoint.close(0_u32.into(), b"");
    let first = west.join(&token, &gateway.listens.quic).await;
    assert!(matches!(first, Answer::Joined(_)), "{first:?}");
    assert_eq!(west.join(&token, &gateway.listens.quic).await, first, "the very same answer");
    assert_eq!((peers_of(&east), state_of(&east, &token).as_str()), (1, "redeemed"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn j3_two_clusters_race_one_token_and_one_wins() {
    let east = Cluster::new("east", 222);
    let gateway = east.start();
    let token = parsed(&east.token());
    let (west, north) = (Joiner::new("west"), Joiner::new("north"));
    let to = gateway.listens.quic.as_str();
    let answers = tokio::join!(west.join(&token, to), north.join(&token, to));
    let joined = [&answers.0, &answers.1].into_iter().filter(|it| matches!(it, Answer::Joined(_))).count();
    assert_eq!(joined, 1, "{answers:?}");
    let denied = Answer::Denied("TMB-1203".to_owned());
    assert!([answers.0, answers.1].contains(&denied));
    assert_eq!(peers_of(&east), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn j4_somebody_in_the_middle_is_found_out_and_the_token_is_unused() {
    let (east, west) = (Cluster::new("east", 223), Cluster::new("west", 224));
    let (endpoint, address) = listen(Authority::new("liar").leaf(|_| {}));
    let accepting = tokio::spawn(async move {
        while let Some(incoming) = endpoint.accept().await {
            let _ = incoming.await;
        }
    });
    let config = east.file("c.toml", &format!("[advertise]\naddresses = [\"{address}\"]\n"));
    let (_first, _second) = (east.start_at(&Listens::free(), &["--config", &config]), west.start());
    let text = east.token();
    let told = tokio::task::block_in_place(|| west.join(&text));
    told.refused(1, "TMB-1206", "does not hold the key", "make a new token");
    assert_eq!(state_of(&east, &parsed(&text)), "unused");
    assert_eq!(peers_of(&west), 0);
    accepting.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn j5_a_proof_that_is_relayed_to_another_session_is_worth_nothing() {
    let east = Cluster::new("east", 225);
    let gateway = east.start();
    let (token, west) = (parsed(&east.token()), Joiner::new("west"));
    let (_one, theirs) = Joiner::connect(&token, &gateway.listens.quic).await.expect("connected");
    let (_two, relayed) = Joiner::connect(&token, &gateway.listens.quic).await.expect("connected");
    let request = west.request(&token, &theirs);
    let answer = exchange(&relayed, &request).await;
    assert_eq!(answer, Answer::Denied("TMB-1207".to_owned()));
    assert_eq!((peers_of(&east), state_of(&east, &token).as_str()), (0, "unused"));
}

#[test]
fn j6_expired_revoked_cut_and_foreign_tokens_have_a_code_each() {
    let (east, west) = (Cluster::new("east", 226), Cluster::new("west", 227));
    let first = east.start();
    let _second = west.start();
    let revoked = east.token();
    east.tombolo(&format!("token revoke {}", parsed(&revoked).id)).well();
    west.join(&revoked).refused(1, "TMB-1204", "revoked", "a new one");
    let whole = east.token();
    west.join(&whole[..whole.len() - 5]).refused(1, "TMB-1202", "", "copy the whole line");
    west.join("kmb1_AAAA\n").refused(2, "TMB-1214", "begin with", "paste");
    // A token lives a minute at least: its record is aged by hand while the issuer is down.
    let old = east.token();
    let listens = first.stop();
    let path = format!("tokens/{}.json", parsed(&old).id);
    let folder = tombolo::files::Folder::open(east.state()).expect("a folder");
    let loaded = tombolo::files::Persist::load(&folder, &path).expect("readable").expect("there");
    let mut record: serde_json::Value = serde_json::from_slice(&loaded.bytes).expect("a record");
    record["expires"] = 1_000.into();
    tombolo::files::Persist::commit(&folder, &path, record.to_string().as_bytes()).expect("written");
    let _again = east.start_at(&listens, &[]);
    west.join(&old).refused(1, "TMB-1201", "expired", "a new one");
    assert_eq!(peers_of(&west), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn j7_an_issuer_that_dies_before_it_answers_gives_the_answer_after_it() {
    let east = Cluster::new("east", 228);
    let gateway = east.start();
    let (token, west) = (parsed(&east.token()), Joiner::new("west"));
    let (_endpoint, connection) = Joiner::connect(&token, &gateway.listens.quic).await.expect("connected");
    let _unread = send(&connection, &west.request(&token, &connection)).await.expect("sent");
    let peer = east.state().join("peers/west.json");
    until("it is on disk", || fs::exists(&peer).expect("readable").then_some(()));
    let listens = gateway.kill();
    let _again = east.start_at(&listens, &[]);
    let answer = west.join(&token, &listens.quic).await;
    assert!(matches!(answer, Answer::Joined(_)), "{answer:?}");
    assert_eq!((peers_of(&east), state_of(&east, &token).as_str()), (1, "redeemed"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn j8_a_trust_domain_that_is_another_s_is_refused_and_nothing_is_kept() {
    let east = Cluster::new("east", 229);
    know(&east, &Authority::new("north").as_peer(&[]));
    let gateway = east.start();
    let own = east.json("status")["trust_domain"].as_str().expect("a domain").to_owned();
    for domain in [own.as_str(), "north.test"] {
        let token = parsed(&east.token());
        let liar = Joiner::of_domain("west", Some(domain));
        let answer = liar.join(&token, &gateway.listens.quic).await;
        assert_eq!(answer, Answer::Denied("TMB-1213".to_owned()), "{domain}");
        assert_eq!((peers_of(&east), state_of(&east, &token).as_str()), (1, "unused"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn j9_a_bundle_that_shares_a_root_with_a_peer_is_refused() {
    let east = Cluster::new("east", 230);
    let north = Authority::new("north");
    know(&east, &north.as_peer(&[]));
    let gateway = east.start();
    let token = parsed(&east.token());
    let liar = Joiner { more_roots: vec![north.root.to_vec()], ..Joiner::new("west") };
    let answer = liar.join(&token, &gateway.listens.quic).await;
    assert_eq!(answer, Answer::Denied("TMB-1213".to_owned()));
    assert_eq!((peers_of(&east), state_of(&east, &token).as_str()), (1, "unused"));
}

#[test]
fn a_token_for_one_trust_domain_is_refused_to_others_and_both_operators_compare_the_same() {
    let (east, west) = (Cluster::new("east", 167), Cluster::new("west", 166));
    let (_first, _second) = (east.start(), west.start());
    let token = |domain: &str| {
        let line = format!("token create --allow-private --expect-trust-domain {domain}");
        east.json(&line)["token"].as_str().expect("a token").to_owned()
    };
    west.join(&token("north.test")).refused(1, "TMB-1212", "trust domain", "");
    assert_eq!((peers_of(&east), peers_of(&west)), (0, 0));
    let domain = west.json("status")["trust_domain"].as_str().expect("a domain").to_owned();
    west.join(&token(&domain)).well();
    until_active(&east, &["west"]);
    let prints = |of: &Cluster, whose: &str, peer: &str| {
        of.json(&format!("peer verify {peer}"))[whose]["fingerprints"].to_string()
    };
    assert_eq!(prints(&east, "own", "west"), prints(&west, "peer", "east"));
    assert_eq!(prints(&west, "own", "east"), prints(&east, "peer", "west"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn j10_a_token_of_one_gateway_is_redeemed_at_another() {
    let east = Cluster::new("east", 231);
    let first = east.start();
    let token = parsed(&east.token());
    let second = east.start_another(232);
    first.stop();
    let answer = Joiner::new("west").join(&token, &second.listens.quic).await;
    assert!(matches!(answer, Answer::Joined(_)), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_connections_do_not_keep_a_join_out() {
    let east = Cluster::new("east", 233);
    let gateway = east.start();
    let token = parsed(&east.token());
    let mut idle = Vec::new();
    for _ in 0..20 {
        idle.push(Joiner::connect(&token, &gateway.listens.quic).await);
    }
    let answer = Joiner::new("west").join(&token, &gateway.listens.quic).await;
    assert!(matches!(answer, Answer::Joined(_)), "{answer:?}");
}
