//! Everything that ends without a peer: each with its code, and with nothing changed on either side.

use std::time::Duration;

use prost::Message as _;

use super::fixture::{Gateway, denied, domain_of, gateway, gateway_within, id, steps};
use crate::{
    model::{
        code::Code,
        ids::{Timestamp, TrustDomain},
        limits,
        state::{Event, Peer, Standing},
        token::{
            Token, TokenSecret,
            record::{TokenRecord, TokenTerms},
        },
        trust::Bundle,
    },
    net::{Net as _, Os},
    peer::join::{PeerLimits, issue},
    wire::{self, JoinReply},
};

fn code_of(answer: &[u8]) -> String {
    let response = federation_proto::v1::JoinResponse::decode(answer).expect("a response");
    match wire::join_reply(response).expect("understood") {
        JoinReply::Denied { code, .. } => code,
        JoinReply::Joined(_) => "joined".to_owned(),
    }
}

/// Redeems at `west` what `change` made of a new token and its record; the code of the refusal.
async fn refused(east: &Gateway, west: &Gateway, change: impl FnOnce(&mut Token, &mut TokenRecord)) -> Code {
    let text = east.token(TokenTerms::default()).await;
    let mut token = Token::parse(&text).expect("whole");
    let mut record = east.record(&token);
    change(&mut token, &mut record);
    east.change(Event::Token(record.clone())).await;
    let before = (east.store.state().peers.clone(), west.store.state().peers.clone());
    let text = token.encode().expect("within bounds");
    let code = denied(west.redeemer().redeem(&text, &steps()).await);
    assert_eq!((&east.store.state().peers, &west.store.state().peers), (&before.0, &before.1));
    assert_eq!(east.store.state().tokens.get(&record.id).map(|it| (**it).clone()), Some(record));
    code
}

fn stranger(cluster: &str, domain: &str, bundle: &Bundle) -> Peer {
    Peer {
        cluster: id(cluster),
        trust_domain: TrustDomain::parse(domain).expect("a domain"),
        bundle: bundle.clone(),
        endpoints: Vec::new(),
        generation: 1,
        standing: Standing::Approved,
        introduced_by: None,
        issuer: false,
        added: Timestamp(1),
        ruling: Default::default(),
    }
}

#[tokio::test]
async fn what_is_wrong_with_a_token_is_told_to_whoever_holds_it() {
    let (east, west) = (gateway("east").await, gateway("west").await);
    let now = east.ours.clock.wall();
    let code = refused(&east, &west, |_, record| record.expires = Timestamp(now.0 - 60_000)).await;
    assert_eq!(code, Code::TOKEN_EXPIRED);
    let code = refused(&east, &west, |_, record| record.revoked = Some(now)).await;
    assert_eq!(code, Code::TOKEN_REVOKED);
    let code = refused(&east, &west, |_, record| record.for_cluster = Some(id("north"))).await;
    assert_eq!(code, Code::TOKEN_FOR_ANOTHER);
    let other = TrustDomain::parse("north.example").expect("a domain");
    let code = refused(&east, &west, |_, record| record.expect_trust_domain = Some(other)).await;
    assert_eq!(code, Code::TRUST_DOMAIN_MISMATCH);
}

#[tokio::test]
async fn a_token_that_another_redeemed_names_the_other() {
    let (east, west, north) = (gateway("east").await, gateway("west").await, gateway("north").await);
    let token = east.token(TokenTerms::default()).await;
    west.redeemer().redeem(&token, &steps()).await.expect("joined");
    let problem = north.redeemer().redeem(&token, &steps()).await.expect_err("used");
    assert_eq!(problem.code, Code::TOKEN_REDEEMED);
    assert!(problem.message.contains("\"west\""), "{problem}");
    assert!(north.peer("east").is_none() && east.peer("north").is_none());
}

#[tokio::test]
async fn without_the_tokens_secret_nothing_is_told() {
    let (east, west) = (gateway("east").await, gateway("west").await);
    let revoked = east.ours.clock.wall();
    let code = refused(&east, &west, |token, record| {
        token.secret = TokenSecret::new([1; 32]);
        record.revoked = Some(revoked);
    });
    assert_eq!(code.await, Code::JOIN_DENIED);
    let text = east.token(TokenTerms::default()).await;
    let token = Token::parse(&text).expect("whole");
    let unknown = Token { id: crate::model::token::TokenId([9; 10]), ..token.clone() };
    let wrong = Token { secret: TokenSecret::new([1; 32]), ..token };
    let mut answers = Vec::new();
    for token in [unknown, wrong] {
        let connection = west.dial(&east, &token).await;
        let request = west.redeemer().request(&connection, &token).expect("made");
        answers.push(Gateway::exchange(&connection, &request).await);
    }
    assert_eq!(answers[0], answers[1], "a stranger learns no token's id");
}

#[tokio::test]
async fn a_request_relayed_to_another_connection_proves_nothing() {
    let (east, west) = (gateway("east").await, gateway("west").await);
    let text = east.token(TokenTerms::default()).await;
    let token = Token::parse(&text).expect("whole");
    let (between, relayed) = (west.dial(&east, &token).await, west.dial(&east, &token).await);
    let request = west.redeemer().request(&between, &token).expect("made");
    assert_eq!(code_of(&Gateway::exchange(&relayed, &request).await), Code::JOIN_DENIED.to_string());
    assert_eq!(east.record(&token).uses_left, 1);
    assert_eq!(
        code_of(&Gateway::exchange(&between, &request).await),
        "joined",
        "where it was signed, it is good"
    );
}

#[tokio::test]
async fn an_altered_request_proves_nothing() {
    let (east, west) = (gateway("east").await, gateway("west").await);
    let text = east.token(TokenTerms::default()).await;
    let token = Token::parse(&text).expect("whole");
    let connection = west.dial(&east, &token).await;
    let request = west.redeemer().request(&connection, &token).expect("made");
    let mut altered = federation_proto::v1::JoinRequest::decode(request.as_slice()).expect("a request");
    altered.endpoints.push("203.0.113.66:7443".to_owned());
    let answer = Gateway::exchange(&connection, &altered.encode_to_vec()).await;
    assert_eq!(code_of(&answer), Code::JOIN_DENIED.to_string());
}

#[tokio::test]
async fn a_joiner_that_does_not_hold_its_gateways_key_is_refused() {
    let (east, west, north) = (gateway("east").await, gateway("west").await, gateway("north").await);
    let text = east.token(TokenTerms::default()).await;
    let token = Token::parse(&text).expect("whole");
    let connection = west.dial(&east, &token).await;
    let request = west.redeemer().request(&connection, &token).expect("made");
    let mut forged = federation_proto::v1::JoinRequest::decode(request.as_slice()).expect("a request");
    // The thief knows the token, and north's certificate, which is no secret.
    forged.sig_svid = north.ours.svid.get().sign(b"something else").expect("signed");
    let answer = Gateway::exchange(&connection, &forged.encode_to_vec()).await;
    assert_eq!(code_of(&answer), Code::PROOF_INVALID.to_string());
    assert_eq!(east.record(&token).uses_left, 1);
}

#[tokio::test]
async fn garbage_and_oversized_requests_get_the_strangers_answer() {
    let (east, west) = (gateway("east").await, gateway("west").await);
    let text = east.token(TokenTerms::default()).await;
    let token = Token::parse(&text).expect("whole");
    for garbage in [Vec::new(), b"GET / HTTP/1.1".to_vec(), vec![0xff; 300], vec![0x0a; 64]] {
        let connection = west.dial(&east, &token).await;
        let answer = Gateway::exchange(&connection, &garbage).await;
        assert_eq!(code_of(&answer), Code::JOIN_DENIED.to_string());
    }
    let connection = west.dial(&east, &token).await;
    let large = vec![0; limits::JOIN_MESSAGE_BYTES_MAX + 1];
    assert_eq!(code_of(&Gateway::exchange(&connection, &large).await), Code::JOIN_DENIED.to_string());
    assert_eq!(east.record(&token).uses_left, 1);
}

#[tokio::test]
async fn limits_are_those_that_were_configured() {
    let narrow =
        PeerLimits { join_message: 100, join_timeout: Duration::from_millis(200), ..PeerLimits::default() };
    let (east, west) = (gateway_within("east", narrow).await, gateway("west").await);
    let text = east.token(TokenTerms::default()).await;
    let token = Token::parse(&text).expect("whole");
    let connection = west.dial(&east, &token).await;
    assert_eq!(code_of(&Gateway::exchange(&connection, &[0; 101]).await), Code::JOIN_DENIED.to_string());
    let silent = west.dial(&east, &token).await;
    let begun = east.ours.clock.now();
    assert!(silent.closed().await.to_string().contains("too long"));
    let took = east.ours.clock.now().saturating_duration_since(begun);
    assert!(took < limits::JOIN_TIMEOUT, "{took:?}");
    let full = gateway_within("full", PeerLimits { peers: 0, ..PeerLimits::default() }).await;
    assert_eq!(refused(&full, &west, |_, _| {}).await, Code::PEERS_LIMIT);
}

#[tokio::test]
async fn a_cluster_id_or_a_root_belongs_to_one_cluster_only() {
    let (east, west) = (gateway("east").await, gateway("west").await);
    let twin = gateway("east").await;
    assert_eq!(refused(&east, &twin, |_, _| {}).await, Code::CLUSTER_ID_TAKEN);
    let north = gateway("north").await;
    east.change(Event::Peer(stranger("west", "west.elsewhere", north.ours.bundle().as_ref()))).await;
    assert_eq!(refused(&east, &west, |_, _| {}).await, Code::CLUSTER_ID_TAKEN);
    let second = gateway("east2").await;
    second.change(Event::Peer(stranger("copy", "copy.example", west.ours.bundle().as_ref()))).await;
    assert_eq!(refused(&second, &west, |_, _| {}).await, Code::TRUST_CONFLICT);
    let third = gateway("east3").await;
    let claimed = domain_of(&west).as_str().to_owned();
    third.change(Event::Peer(stranger("west", &claimed, north.ours.bundle().as_ref()))).await;
    assert_eq!(refused(&third, &west, |_, _| {}).await, Code::TRUST_CONFLICT);
}

#[tokio::test]
async fn a_cluster_does_not_join_itself() {
    let east = gateway("east").await;
    let token = east.token(TokenTerms::default()).await;
    assert_eq!(denied(east.redeemer().redeem(&token, &steps()).await), Code::TOKEN_IS_OURS);
}

#[tokio::test]
async fn another_key_at_the_tokens_address_is_not_the_issuer() {
    let (east, west) = (gateway("east").await, gateway("west").await);
    let code = refused(&east, &west, |token, _| token.pin = [7; 32]).await;
    assert_eq!(code, Code::TOKEN_PIN_MISMATCH);
}

#[tokio::test]
async fn another_trust_domain_than_the_tokens_is_not_stored() {
    let (east, west) = (gateway("east").await, gateway("west").await);
    let text = east.token(TokenTerms::default()).await;
    let mut token = Token::parse(&text).expect("whole");
    token.issuer = TrustDomain::parse("elsewhere.example").expect("a domain");
    let text = token.encode().expect("within bounds");
    assert_eq!(denied(west.redeemer().redeem(&text, &steps()).await), Code::TRUST_DOMAIN_MISMATCH);
    assert!(west.peer("east").is_none());
}

#[tokio::test]
async fn an_address_nobody_answers_at_is_named() {
    let (east, west) = (gateway("east").await, gateway("west").await);
    let text = east.token(TokenTerms::default()).await;
    let mut token = Token::parse(&text).expect("whole");
    // Held, so that nobody else takes the port, and never read.
    let socket = Os::default().quic_group(([127, 0, 0, 1], 0).into(), 1).expect("bound").remove(0);
    let dead = socket.local_addr().expect("bound").to_string();
    token.addresses = vec![dead.clone()];
    let text = token.encode().expect("within bounds");
    tokio::time::pause();
    let problem = west.redeemer().redeem(&text, &steps()).await.expect_err("nobody is there");
    assert_eq!(problem.code, Code::TOKEN_ISSUER_UNREACHABLE);
    assert!(problem.message.contains(&dead) && problem.message.contains("no answer over UDP"), "{problem}");
}

#[tokio::test]
async fn after_an_address_of_somebody_else_the_next_is_tried() {
    let (east, west, north) = (gateway("east").await, gateway("west").await, gateway("north").await);
    let text = east.token(TokenTerms::default()).await;
    let mut token = Token::parse(&text).expect("whole");
    token.addresses.insert(0, north.ours.endpoints[0].clone());
    let text = token.encode().expect("within bounds");
    let joined = west.redeemer().redeem(&text, &steps()).await.expect("the second address answers");
    assert_eq!(joined.endpoints, east.ours.endpoints);
}

#[tokio::test]
async fn damaged_and_foreign_texts_are_told_apart_without_asking_anybody() {
    let (east, west) = (gateway("east").await, gateway("west").await);
    let token = east.token(TokenTerms::default()).await;
    let cases = [
        (token[..token.len() - 5].to_owned(), Code::TOKEN_DAMAGED),
        (format!("{token}A"), Code::TOKEN_DAMAGED),
        ("ghp_something".to_owned(), Code::TOKEN_NOT_A_TOKEN),
        (String::new(), Code::TOKEN_NOT_A_TOKEN),
    ];
    for (text, code) in cases {
        assert_eq!(denied(west.redeemer().redeem(&text, &steps()).await), code, "{text}");
    }
}

#[tokio::test]
async fn no_token_is_made_that_nobody_could_use() {
    let east = gateway("east").await;
    let make = |terms, allow_private| issue::create(&east.ours, &east.store, terms, allow_private);
    assert_eq!(denied(make(TokenTerms::default(), false).await), Code::NO_ROUTABLE_ADDRESS);
    let ttl = Duration::from_secs(1);
    let short = TokenTerms { ttl, ..TokenTerms::default() };
    assert_eq!(denied(make(short, true).await), Code::TOKEN_LIFE_INVALID);
    let none = TokenTerms { uses: 0, ..TokenTerms::default() };
    assert_eq!(denied(make(none, true).await), Code::TOKEN_USES_INVALID);
    assert!(east.store.state().tokens.is_empty());
}
