//! Tests of the bundle rules, and the roots that other tests of `model` sign with.

use std::time::Duration;

use proptest::prelude::*;
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, IsCa, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, SanType,
};
use x509_parser::time::ASN1Time;

use super::*;

/// Noon of some day, in the middle of the validity of [`root_of`].
pub(in crate::model) const NOW: Timestamp = Timestamp(1_800_000_000_000);
const DAY: Duration = Duration::from_secs(86_400);

pub(in crate::model) fn domain(text: &str) -> TrustDomain {
    TrustDomain::parse(text).expect("a trust domain")
}

fn params(domain: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    let at = |seconds: u64| ASN1Time::from_timestamp(seconds.cast_signed()).expect("in range").to_datetime();
    params.not_before = at(NOW.0 / 1_000 - DAY.as_secs());
    params.not_after = at(NOW.0 / 1_000 + DAY.as_secs());
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let uri = format!("spiffe://{domain}").try_into().expect("ASCII");
    params.subject_alt_names = vec![SanType::URI(uri)];
    params
}

fn signed(params: &CertificateParams, key: &KeyPair) -> Vec<u8> {
    params.self_signed(key).expect("self-signed").der().to_vec()
}

fn key() -> KeyPair {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key")
}

/// A root with its key, valid a day around [`NOW`].
pub(in crate::model) fn root_of(domain: &str) -> (Vec<u8>, KeyPair) {
    let key = key();
    (signed(&params(domain), &key), key)
}

pub(in crate::model) fn bundle_of(sequence: u64, roots: &[&Vec<u8>]) -> Bundle {
    Bundle::checked(sequence, roots, NOW).expect("a good bundle")
}

const NOBODY: [(&TrustDomain, &Bundle); 0] = [];

fn problem_of(change: impl Fn(&mut CertificateParams)) -> BundleRefusal {
    let mut params = params("a");
    change(&mut params);
    Bundle::checked(1, &[signed(&params, &key())], NOW).expect_err("refused")
}

#[test]
fn a_root_must_be_an_authority_that_may_sign_and_is_valid_now() {
    let refusal = problem_of(|params| params.is_ca = IsCa::ExplicitNoCa);
    assert_eq!(refusal, BundleRefusal::Root { index: 0, problem: RootProblem::NotAnAuthority });
    let refusal = problem_of(|params| params.key_usages = vec![KeyUsagePurpose::DigitalSignature]);
    assert_eq!(refusal, BundleRefusal::Root { index: 0, problem: RootProblem::MayNotSign });
    let refusal = problem_of(|params| params.not_after = params.not_before);
    assert_eq!(refusal, BundleRefusal::Root { index: 0, problem: RootProblem::Expired { ago: DAY } });
    let refusal = problem_of(|params| params.not_before = params.not_after);
    assert_eq!(refusal, BundleRefusal::Root { index: 0, problem: RootProblem::NotYetValid { ahead: DAY } });
    let refusal = Bundle::checked(1, &[b"not a certificate"], NOW).expect_err("refused");
    assert_eq!(refusal, BundleRefusal::Root { index: 0, problem: RootProblem::Malformed });
}

#[test]
fn a_root_with_uri_name_constraints_is_refused_with_that_reason() {
    // permittedSubtrees { uniformResourceIdentifier "a" }
    let constraint = vec![0x30, 0x07, 0xa0, 0x05, 0x30, 0x03, 0x86, 0x01, b'a'];
    let refusal = problem_of(|params| {
        let mut extension = CustomExtension::from_oid_content(&[2, 5, 29, 30], constraint.clone());
        extension.set_criticality(true);
        params.custom_extensions = vec![extension];
    });
    assert_eq!(refusal, BundleRefusal::Root { index: 0, problem: RootProblem::UriNameConstraints });
}

#[test]
fn a_bundle_is_bounded_and_has_each_key_once() {
    let (root, _) = root_of("a");
    assert_eq!(Bundle::checked(1, &[] as &[Vec<u8>], NOW), Err(BundleRefusal::Empty));
    let many = vec![root.clone(); 17];
    assert_eq!(Bundle::checked(1, &many, NOW), Err(BundleRefusal::TooManyRoots { count: 17 }));
    let large = vec![vec![0; BUNDLE_BYTES_MAX]; 2];
    assert!(matches!(Bundle::checked(1, &large, NOW), Err(BundleRefusal::TooLarge { .. })));
    assert_eq!(Bundle::checked(1, &[&root, &root], NOW), Err(BundleRefusal::DuplicateKey));
}

#[test]
fn fingerprints_name_the_newest_key_and_digests_the_set() {
    let ((first, _), (second, _)) = (root_of("a"), root_of("a"));
    let (one, both) = (bundle_of(1, &[&first]), bundle_of(2, &[&first, &second]));
    assert_eq!(both.fingerprint(), bundle_of(1, &[&second]).fingerprint());
    assert_ne!(one.digest(), both.digest());
    assert_eq!(both.digest(), bundle_of(9, &[&second, &first]).digest());
    assert_eq!(Fingerprint([0x4c, 0x1e, 0x9b, 2, 0x77, 0xd1, 0xaa, 0x30]).to_string(), "4c1e 9b02 77d1 aa30");
    let stored = serde_json::to_string(&both).expect("serialised");
    assert_eq!(serde_json::from_str::<Bundle>(&stored).expect("read back"), both);
}

#[test]
fn the_default_trust_domain_vouches_for_the_first_key() {
    let cluster = ClusterId::parse("east").expect("an id");
    assert_eq!(default_trust_domain(&cluster, &sha256(b"")).as_str(), "east.4oymiquy7qob.tombolo");
}

#[test]
fn a_domain_is_bound_once_and_a_key_speaks_for_one_domain() {
    let [(own, _), (north, _), (new, _)] = ["east", "north", "west"].map(root_of);
    let (own, north, new) = (bundle_of(1, &[&own]), bundle_of(1, &[&north]), bundle_of(1, &[&new]));
    let [east, north_domain, west] = ["east", "north", "west"].map(domain);
    let check = |name: &TrustDomain, bundle: &Bundle, peers: &[(&TrustDomain, &Bundle)]| {
        check_new_domain(Known { own: (&east, &own), peers: peers.iter().copied() }, name, bundle)
    };
    let peers = [(&north_domain, &north)];
    assert_eq!(check(&west, &new, &peers), Ok(()));
    assert_eq!(check(&east, &new, &peers), Err(BundleRefusal::OwnDomain(east.clone())));
    assert_eq!(check(&north_domain, &new, &peers), Err(BundleRefusal::TrustConflict(north_domain.clone())));
    assert_eq!(check(&north_domain, &north, &peers), Ok(()), "the same roots again");
    for (bundle, owner) in [(&north, &north_domain), (&own, &east)] {
        let shared = BundleRefusal::SharedKey { domain: owner.clone(), key: bundle.fingerprint() };
        assert_eq!(check(&west, bundle, &peers), Err(shared));
    }
}

#[test]
fn an_update_must_be_newer_and_an_empty_one_distrusts() {
    let [(own, _), (old, _), (new, _)] = ["east", "west", "west"].map(root_of);
    let (own, current) = (bundle_of(1, &[&own]), bundle_of(5, &[&old]));
    let (east, west) = (domain("east"), domain("west"));
    let update = |sequence, roots: &[Vec<u8>], now| {
        let known = Known { own: (&east, &own), peers: [(&west, &current)] };
        accept_update(known, &Offer { domain: &west, current: &current, sequence, roots }, now)
    };
    let both = [old.clone(), new.clone()];
    assert_eq!(update(6, &both, NOW), Ok(BundleUpdate::Replace(bundle_of(6, &[&old, &new]))));
    for stale in [0, 4, 5] {
        let refused = Err(BundleRefusal::StaleSequence { current: 5, offered: stale });
        assert_eq!(update(stale, &both, NOW), refused);
        assert_eq!(update(stale, &[], NOW), refused, "an old empty bundle distrusts nobody");
    }
    assert_eq!(update(6, &[], NOW), Ok(BundleUpdate::Distrust { sequence: 6 }));
    assert_eq!(update(6, &both, NOW.after(2 * DAY)), Ok(BundleUpdate::Distrust { sequence: 6 }));
    let stolen = [own.newest().der().to_vec()];
    assert!(matches!(update(6, &stolen, NOW), Err(BundleRefusal::SharedKey { .. })));
}

#[test]
fn an_expired_root_beside_a_valid_one_is_dropped_not_refused() {
    let [(own, _), (new, _)] = ["east", "west"].map(root_of);
    let mut ended = params("west");
    ended.not_after = ended.not_before;
    let ended = signed(&ended, &key());
    let (own, current) = (bundle_of(1, &[&own]), Bundle::parse(1, &[&ended]).expect("parsed"));
    let (east, west) = (domain("east"), domain("west"));
    let offer = Offer { domain: &west, current: &current, sequence: 2, roots: &[ended, new.clone()] };
    let update = accept_update(Known { own: (&east, &own), peers: NOBODY }, &offer, NOW);
    assert_eq!(update, Ok(BundleUpdate::Replace(bundle_of(2, &[&new]))));
}

proptest! {
    #[test]
    fn roots_of_any_bytes_are_refused_not_panicked_over(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        prop_assert!(Root::parse(&bytes).is_err());
    }

    #[test]
    fn an_altered_root_never_panics(at in any::<prop::sample::Index>(), bit in 0..8_u8) {
        let mut der = root_of("a").0;
        let at = at.index(der.len());
        der[at] ^= 1_u8 << bit;
        drop(Root::parse(&der).map(|root| root.uris()));
    }
}
