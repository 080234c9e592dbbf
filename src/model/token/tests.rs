//! Laws of the token's text, and the table of judgements.

use std::time::Duration;

use proptest::prelude::*;

use super::{proof::*, record::*, *};
use crate::model::ids::ClusterId;

const NOW: Timestamp = Timestamp(1_800_000_000_000);
const EXPORTER: [u8; 32] = [7; 32];

fn token_strategy() -> impl Strategy<Value = Token> {
    let addresses = proptest::collection::vec("[a-z0-9.]{1,40}:[1-9][0-9]{0,3}", 1..=8);
    let flags = any::<(bool, bool)>();
    let bytes = (any::<[u8; 10]>(), any::<[u8; 32]>(), any::<[u8; 32]>());
    (bytes, any::<u32>(), "[a-z0-9._-]{1,100}", addresses, flags).prop_map(
        |((id, seed, pin), seconds, issuer, addresses, (approval_required, domain_expected))| Token {
            id: TokenId(id),
            secret: TokenSecret::new(seed),
            pin,
            expires: Timestamp(u64::from(seconds) * 1_000),
            issuer: TrustDomain::parse(&issuer).expect("of the right characters"),
            addresses,
            approval_required,
            domain_expected,
        },
    )
}

proptest! {
    #[test]
    fn a_token_reads_back_as_it_was_written(token in token_strategy()) {
        let text = token.encode().expect("within bounds");
        prop_assert!(text.len() <= TOKEN_BYTES_MAX);
        prop_assert_eq!(&Token::parse(&text).expect("whole"), &token);
        prop_assert_eq!(&Token::parse(&format!("  {}\n", *text)).expect("trimmed"), &token);
        prop_assert_eq!(TokenId::parse(&token.id.to_string()).expect("an id"), token.id);
    }

    #[test]
    fn a_token_with_one_bit_flipped_is_refused(token in token_strategy(), at in any::<prop::sample::Index>(), bit in 0..8_u8) {
        let mut bytes = token.encode().expect("within bounds").as_bytes().to_vec();
        let at = at.index(bytes.len());
        bytes[at] ^= 1_u8 << bit;
        if let Ok(text) = std::str::from_utf8(&bytes) {
            prop_assert!(Token::parse(text).is_err());
        }
    }

    #[test]
    fn a_truncated_token_is_refused(token in token_strategy(), at in any::<prop::sample::Index>()) {
        let text = token.encode().expect("within bounds");
        let refused = Token::parse(&text[..at.index(text.len())]);
        prop_assert!(matches!(refused, Err(TokenError::Damaged | TokenError::WrongPrefix)));
    }

    #[test]
    fn reading_any_text_never_panics(text in "\\PC{0,300}", bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        drop(Token::parse(&text));
        drop(TokenId::parse(&text));
        drop(Token::parse(&format!("{PREFIX}{}", data_encoding::BASE64URL_NOPAD.encode(&bytes))));
        drop(without_signatures(&bytes));
    }

    #[test]
    fn signatures_leave_a_request_and_nothing_else_does(
        before in any::<u64>(), token_id in any::<[u8; 10]>(), signature in any::<[u8; 64]>(), after in any::<u64>(),
    ) {
        use prost::Message as _;
        let unsigned = federation_proto::v1::JoinRequest {
            proto_min: 1,
            token_id: token_id.to_vec(),
            nonce: before.to_be_bytes().to_vec(),
            generation: after,
            ..Default::default()
        };
        let mut signed = unsigned.clone();
        signed.sig_token = signature.to_vec();
        signed.sig_svid = signature.to_vec();
        prop_assert_eq!(without_signatures(&signed.encode_to_vec()), Some(unsigned.encode_to_vec()));
    }
}

fn token() -> Token {
    Token {
        id: TokenId([1; 10]),
        secret: TokenSecret::new([2; 32]),
        pin: [3; 32],
        expires: Timestamp(1_900_000_000_000),
        issuer: TrustDomain::parse("east.example").expect("a domain"),
        addresses: vec!["203.0.113.10:7443".to_owned(), "[2001:db8::1]:7443".to_owned()],
        approval_required: true,
        domain_expected: false,
    }
}

/// The text of `token()` with its body replaced and a checksum that fits.
fn with_body(change: impl FnOnce(&mut Vec<u8>)) -> String {
    let text = token().encode().expect("within bounds");
    let mut bytes = data_encoding::BASE64URL_NOPAD.decode(&text.as_bytes()[PREFIX.len()..]).expect("base64");
    bytes.truncate(bytes.len() - 4);
    change(&mut bytes);
    let checksum = crc::Crc::<u32>::new(&crc::CRC_32_ISCSI).checksum(&bytes);
    bytes.extend_from_slice(&checksum.to_be_bytes());
    format!("{PREFIX}{}", data_encoding::BASE64URL_NOPAD.encode(&bytes))
}

#[test]
fn the_format_and_the_key_derivation_never_change() {
    let text = token().encode().expect("within bounds");
    assert_eq!(
        text.as_str(),
        "tmb1_AQEBAQEBAQEBAQEBAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgIDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDA3E_swAMZWFzdC5leGFtcGxlAhEyMDMuMC4xMTMuMTA6NzQ0MxJbMjAwMTpkYjg6OjFdOjc0NDOB1Fzs"
    );
    let key = data_encoding::HEXLOWER.encode(&public_key(&token().secret));
    assert_eq!(key, "e80c9e8903a544266222461ff8b3f52a25dd947a8f7bec49e57c9f755eb1b06d");
}

#[test]
fn each_fault_of_a_text_has_its_own_error() {
    assert_eq!(Token::parse("ghp_abc"), Err(TokenError::WrongPrefix));
    assert_eq!(Token::parse(&format!("{PREFIX}!!!")), Err(TokenError::Damaged));
    assert_eq!(Token::parse(&format!("{PREFIX}{}", "A".repeat(TOKEN_BYTES_MAX))), Err(TokenError::TooLong));
    assert_eq!(Token::parse(&with_body(|body| body[0] = 2)), Err(TokenError::NewerVersion { version: 2 }));
    assert!(matches!(Token::parse(&with_body(|body| body.push(0))), Err(TokenError::Invalid(_))));
    assert!(matches!(Token::parse(&with_body(|body| body[1] = 0x80)), Err(TokenError::Invalid(_))));
    assert_eq!(Token::parse(&with_body(|_| ())), Ok(token()));
}

#[test]
fn addresses_of_a_token_are_dialable() {
    for good in ["10.0.0.1:7443", "east.example.org:1", "[::1]:65535"] {
        assert!(is_address(good), "{good} was refused");
    }
    for bad in ["", "host", "host:", ":1", "host:0", "host:65536", "host:+1", "::1:7443", "a b:1", "[x]:1"] {
        assert!(!is_address(bad), "{bad:?} was accepted");
    }
    let none = Token { addresses: Vec::new(), ..token() };
    assert!(none.encode().is_err());
    let long = Token { addresses: vec![format!("{}:1", "x".repeat(250)); 8], ..token() };
    assert_eq!(long.encode(), Err(TokenError::TooLong));
}

#[test]
fn the_secret_is_not_shown() {
    assert!(!format!("{:?}", token()).contains("2, 2, 2"));
    assert_eq!(TokenId([0xff; 10]).to_string(), "ZZZZZZZZZZZZZZZZ");
    assert_eq!(TokenId::parse("zzzzzzzzzzzzzzzz").expect("lower case"), TokenId([0xff; 10]));
}

fn cluster(id: &str) -> ClusterId {
    ClusterId::parse(id).expect("an id")
}

struct Redeemer {
    cluster: ClusterId,
    domain: TrustDomain,
    key: u8,
    secret: TokenSecret,
    exporter: [u8; 32],
}

fn west() -> Redeemer {
    let domain = TrustDomain::parse("west.example").expect("a domain");
    Redeemer {
        cluster: cluster("west"),
        domain,
        key: 1,
        secret: TokenSecret::new([2; 32]),
        exporter: EXPORTER,
    }
}

impl Redeemer {
    fn judged<'a>(&self, record: Option<&'a TokenRecord>, now: Timestamp) -> Verdict<'a> {
        let sig_token = sign_possession(&self.secret, &transcript(&self.exporter, b"request"));
        let facts = JoinFacts {
            request_key: [self.key; 32],
            cluster: &self.cluster,
            trust_domain: &self.domain,
            unsigned_request: b"request",
            sig_token: &sig_token,
        };
        judge(record, &facts, &EXPORTER, now)
    }

    fn redemption(&self, at: Timestamp) -> Redemption {
        Redemption {
            request_key: [self.key; 32],
            cluster: self.cluster.clone(),
            at,
            response: b"welcome".to_vec(),
        }
    }
}

fn record(terms: TokenTerms) -> TokenRecord {
    TokenRecord::issue(TokenId([1; 10]), &TokenSecret::new([2; 32]), terms, NOW).expect("within bounds")
}

const MINUTE: Duration = Duration::from_secs(60);

#[test]
fn a_fresh_token_is_accepted_once() {
    let fresh = record(TokenTerms::default());
    assert_eq!(west().judged(Some(&fresh), NOW), Verdict::Accept { pending_approval: false });
    let used = fresh.redeemed_by(west().redemption(NOW));
    let other = Redeemer { key: 2, cluster: cluster("thief"), ..west() };
    let reused = Denial::Reused { by: cluster("west"), ago: MINUTE };
    assert_eq!(other.judged(Some(&used), NOW.after(MINUTE)), Verdict::Deny(reused));
    let document = serde_json::to_string(&used).expect("serialised");
    assert_eq!(serde_json::from_str::<TokenRecord>(&document).expect("read back"), used);
}

#[test]
fn the_same_key_gets_the_same_answer_until_the_grace_ends() {
    let used = record(TokenTerms::default()).redeemed_by(west().redemption(NOW));
    for minutes in [0, 1, 14, 24] {
        let verdict = west().judged(Some(&used), NOW.after(minutes * MINUTE));
        assert!(matches!(verdict, Verdict::Replay(before) if before.response == b"welcome"), "{minutes} min");
    }
    let verdict = west().judged(Some(&used), NOW.after(26 * MINUTE));
    assert!(matches!(verdict, Verdict::Deny(Denial::Reused { .. })));
}

#[test]
fn who_did_not_prove_possession_learns_nothing() {
    let revoked = TokenRecord { revoked: Some(NOW), ..record(TokenTerms::default()) };
    let guesser = Redeemer { secret: TokenSecret::new([9; 32]), ..west() };
    let relayed = Redeemer { exporter: [8; 32], ..west() };
    for stranger in [&guesser, &relayed] {
        assert_eq!(stranger.judged(Some(&revoked), NOW), Verdict::Deny(Denial::Unproven));
        assert_eq!(stranger.judged(None, NOW), Verdict::Deny(Denial::Unproven));
    }
    assert_eq!(west().judged(None, NOW), Verdict::Deny(Denial::Unproven));
    assert_eq!(west().judged(Some(&revoked), NOW), Verdict::Deny(Denial::Revoked));
}

#[test]
fn expiry_and_bindings_are_told_to_who_proved_possession() {
    let fresh = record(TokenTerms::default());
    let expired = Denial::Expired { ago: MINUTE };
    assert_eq!(west().judged(Some(&fresh), NOW.after(16 * MINUTE)), Verdict::Deny(expired));
    let bound = record(TokenTerms { for_cluster: Some(cluster("north")), ..Default::default() });
    let denial = Denial::OtherCluster { expected: cluster("north"), found: cluster("west") };
    assert_eq!(west().judged(Some(&bound), NOW), Verdict::Deny(denial));
    let elsewhere = TrustDomain::parse("north.example").expect("a domain");
    let bound = record(TokenTerms { expect_trust_domain: Some(elsewhere.clone()), ..Default::default() });
    let denial = Denial::OtherTrustDomain { expected: elsewhere, found: west().domain };
    assert_eq!(west().judged(Some(&bound), NOW), Verdict::Deny(denial));
    let asks = record(TokenTerms { require_approval: true, ..Default::default() });
    assert_eq!(west().judged(Some(&asks), NOW), Verdict::Accept { pending_approval: true });
}

#[test]
fn two_uses_admit_two_clusters_and_no_third() {
    let twice = record(TokenTerms { uses: 2, ..Default::default() });
    let north = Redeemer { key: 2, cluster: cluster("north"), ..west() };
    let south = Redeemer { key: 3, cluster: cluster("south"), ..west() };
    let once_left = twice.redeemed_by(west().redemption(NOW));
    assert!(matches!(north.judged(Some(&once_left), NOW), Verdict::Accept { .. }));
    let none_left = once_left.redeemed_by(north.redemption(NOW));
    assert!(matches!(south.judged(Some(&none_left), NOW), Verdict::Deny(Denial::Reused { .. })));
    assert!(matches!(west().judged(Some(&none_left), NOW), Verdict::Replay(_)));
}

#[test]
fn terms_are_bounded() {
    let issue = |terms| TokenRecord::issue(TokenId([1; 10]), &TokenSecret::new([2; 32]), terms, NOW);
    for ttl in [Duration::ZERO, Duration::from_secs(59), Duration::from_secs(86_401)] {
        assert_eq!(issue(TokenTerms { ttl, ..Default::default() }), Err(TermsError::Ttl(ttl)));
    }
    for uses in [0, 33] {
        assert_eq!(issue(TokenTerms { uses, ..Default::default() }), Err(TermsError::Uses(uses)));
    }
}
