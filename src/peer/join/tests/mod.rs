//! Clusters that join over loopback, each with its own store, links and identity.

mod fixture;
mod refusals;

use std::net::{IpAddr, SocketAddr};

use tokio::sync::mpsc;

use self::fixture::{Gateway, denied, domain_of, gateway, id, steps};
use super::{issue, redeem::Step};
use crate::model::{
    code::Code,
    state::{Event, Standing},
    token::{Token, record::TokenTerms},
};

#[tokio::test]
async fn a_token_makes_each_side_the_others_peer() {
    let (east, west) = (gateway("east").await, gateway("west").await);
    let token = east.token(TokenTerms::default()).await;
    let (tell, mut told) = mpsc::channel(8);
    let joined = west.redeemer().redeem(&token, &tell).await.expect("joined");
    assert_eq!((&joined.peer, joined.generation), (&id("east"), 1));
    assert_eq!(joined.fingerprint, east.ours.bundle().fingerprint());
    assert_eq!(joined.endpoints, east.ours.endpoints, "the address that answered is named once");
    assert!(!joined.pending_approval);
    let (here, there) = (west.peer("east").expect("stored"), east.peer("west").expect("stored"));
    assert_eq!((here.standing, here.issuer), (Standing::Approved, true));
    assert_eq!((there.standing, there.issuer), (Standing::Approved, false));
    assert_eq!((&here.trust_domain, &here.bundle), (domain_of(&east), east.ours.bundle().as_ref()));
    assert_eq!((&there.trust_domain, &there.bundle), (domain_of(&west), west.ours.bundle().as_ref()));
    assert_eq!(there.endpoints, west.ours.endpoints);
    drop(tell);
    let mut lines = Vec::new();
    while let Some(step) = told.recv().await {
        lines.push(step.to_string());
    }
    assert!(lines[0].contains("issued by east.") && lines[0].ends_with(" left"), "{lines:?}");
    assert!(lines[1].contains(" ms, pin matches"), "{lines:?}");
    let fingerprint = east.ours.bundle().fingerprint().to_string();
    assert!(lines[2].contains("sent 1 root (west.") && lines[2].contains(&fingerprint), "{lines:?}");
}

#[tokio::test]
async fn after_a_lost_answer_the_same_gateway_gets_the_same_answer() {
    let (east, west) = (gateway("east").await, gateway("west").await);
    let text = east.token(TokenTerms::default()).await;
    let token = Token::parse(&text).expect("whole");
    let connection = west.dial(&east, &token).await;
    let request = west.redeemer().request(&connection, &token).expect("made");
    let first = Gateway::exchange(&connection, &request).await;
    assert!(west.peer("east").is_none(), "the answer was lost");
    let connection = west.dial(&east, &token).await;
    let request = west.redeemer().request(&connection, &token).expect("made");
    assert_eq!(Gateway::exchange(&connection, &request).await, first);
    for _ in 0..2 {
        let joined = west.redeemer().redeem(&text, &steps()).await.expect("the same answer");
        assert_eq!(joined.generation, 1);
    }
    assert_eq!(east.peer("west").expect("stored").generation, 1);
    assert_eq!(east.record(&token).redeemed.len(), 1, "one use");
}

#[tokio::test]
async fn of_two_clusters_that_race_for_one_token_exactly_one_wins() {
    let (east, west, north) = (gateway("east").await, gateway("west").await, gateway("north").await);
    let token = east.token(TokenTerms::default()).await;
    let (here, there) = (west.redeemer(), north.redeemer());
    let (steps, also) = (steps(), steps());
    let (first, second) = tokio::join!(here.redeem(&token, &steps), there.redeem(&token, &also));
    let (winner, loser) = if first.is_ok() { ("west", second) } else { ("north", first) };
    let problem = loser.expect_err("one token, one use");
    assert_eq!(problem.code, Code::TOKEN_REDEEMED);
    assert!(problem.message.contains(winner), "{problem}");
    assert_eq!(east.store.state().peers.keys().collect::<Vec<_>>(), [&id(winner)]);
}

#[tokio::test]
async fn a_token_with_several_uses_serves_as_many_clusters() {
    let (east, west, north) = (gateway("east").await, gateway("west").await, gateway("north").await);
    let token = east.token(TokenTerms { uses: 2, ..TokenTerms::default() }).await;
    west.redeemer().redeem(&token, &steps()).await.expect("the first");
    north.redeemer().redeem(&token, &steps()).await.expect("the second");
    assert_eq!(east.store.state().peers.len(), 2);
}

#[tokio::test]
async fn joining_anew_begins_the_next_peering() {
    let (east, west) = (gateway("east").await, gateway("west").await);
    for generation in 1..=2 {
        let token = east.token(TokenTerms::default()).await;
        let joined = west.redeemer().redeem(&token, &steps()).await.expect("joined");
        assert_eq!(joined.generation, generation);
        assert_eq!(east.peer("west").expect("stored").generation, generation);
    }
}

#[tokio::test]
async fn where_a_person_has_to_approve_the_issuer_waits() {
    let (east, west) = (gateway("east").await, gateway("west").await);
    let token = east.token(TokenTerms { require_approval: true, ..TokenTerms::default() }).await;
    let joined = west.redeemer().redeem(&token, &steps()).await.expect("joined");
    assert!(joined.pending_approval);
    assert_eq!(east.peer("west").expect("stored").standing, Standing::Pending);
    assert_eq!(west.peer("east").expect("stored").standing, Standing::Approved);
}

#[tokio::test]
async fn an_expired_token_is_said_to_be_so_and_tried_all_the_same() {
    let (east, west) = (gateway("east").await, gateway("west").await);
    let text = east.token(TokenTerms::default()).await;
    let mut token = Token::parse(&text).expect("whole");
    token.expires = crate::model::ids::Timestamp(1_000);
    let (tell, mut told) = mpsc::channel(8);
    let text = token.encode().expect("within bounds");
    west.redeemer().redeem(&text, &tell).await.expect("the issuer's clock decides");
    assert!(matches!(told.recv().await, Some(Step::Token { left: None, .. })));
}

#[tokio::test]
async fn tokens_are_listed_and_taken_back() {
    let east = gateway("east").await;
    let text = east.token(TokenTerms::default()).await;
    let token = Token::parse(&text).expect("whole");
    let now = east.ours.clock.wall();
    assert_eq!(issue::list(&east.store.state(), now).len(), 1);
    let revoked = issue::revoke(&east.store, token.id).await.expect("there");
    let again = issue::revoke(&east.store, token.id).await.expect("no error");
    assert_eq!(revoked, again);
    let unknown = issue::revoke(&east.store, crate::model::token::TokenId([0; 10])).await;
    assert_eq!(denied(unknown), Code::NO_SUCH_TOKEN);
    let long_over = record_ended(&east, &token);
    east.store.apply(Event::Token(long_over)).await.expect("stored");
    assert!(issue::list(&east.store.state(), now).is_empty());
    east.token(TokenTerms::default()).await;
    assert_eq!(east.store.state().tokens.len(), 1, "what means nothing any more is forgotten");
}

fn record_ended(east: &Gateway, token: &Token) -> crate::model::token::record::TokenRecord {
    crate::model::token::record::TokenRecord {
        expires: crate::model::ids::Timestamp(1_000),
        ..east.record(token)
    }
}

#[test]
fn a_wildcard_stands_for_the_hosts_addresses_routable_ones_first() {
    let ips = |texts: &[&str]| -> Vec<IpAddr> { texts.iter().map(|it| it.parse().expect("an IP")).collect() };
    let bound = |text: &str| -> SocketAddr { text.parse().expect("an address") };
    let host = ips(&["127.0.0.1", "10.0.0.5", "203.0.113.7", "169.254.1.1", "fe80::1", "2001:db8::7", "::1"]);
    let all = issue::advertised(&[], &[bound("[::]:7443")], &host);
    assert_eq!(all, ["203.0.113.7:7443", "[2001:db8::7]:7443", "10.0.0.5:7443"]);
    let v4 = issue::advertised(&[], &[bound("0.0.0.0:7443")], &host);
    assert_eq!(v4, ["203.0.113.7:7443", "10.0.0.5:7443"]);
    let alone = issue::advertised(&[], &[bound("0.0.0.0:7443")], &ips(&["127.0.0.1"]));
    assert_eq!(alone, ["127.0.0.1:7443"], "a demo has nothing else");
    let configured = issue::advertised(&["gw.example:443".to_owned()], &[bound("[::]:7443")], &host);
    assert_eq!(configured, ["gw.example:443"]);
}

#[test]
fn addresses_no_other_network_reaches_are_told_apart() {
    for bad in [
        "127.0.0.1",
        "0.0.0.0",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.0.1",
        "100.64.0.1",
        "::1",
        "::",
        "fd00::1",
        "fe80::1",
        "::ffff:10.0.0.1",
        "224.0.0.1",
    ] {
        assert!(!issue::is_routable(bad.parse().expect("an IP")), "{bad}");
    }
    for good in ["203.0.113.7", "100.128.0.1", "172.32.0.1", "2001:db8::1", "::ffff:203.0.113.7"] {
        assert!(issue::is_routable(good.parse().expect("an IP")), "{good}");
    }
}
