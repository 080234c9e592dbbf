//! Records signed by real roots, and the table of decisions.

use rcgen::{KeyPair, SigningKey as _};

use super::*;
use crate::model::trust::tests::{NOW, bundle_of, domain, root_of};

struct Cluster {
    record: ClusterRecord,
    key: KeyPair,
}

/// Stands for the wire's encoding, which is another module's matter.
fn encoded(record: &ClusterRecord) -> Vec<u8> {
    serde_json::to_vec(record).expect("serialised")
}

fn cluster(id: &str) -> Cluster {
    let (root, key) = root_of(id);
    let record = ClusterRecord {
        cluster: ClusterId::parse(id).expect("an id"),
        trust_domain: domain(id),
        bundle: bundle_of(1, &[&root]),
        generation: 1,
        endpoints: vec!["127.0.0.1:7443".to_owned()],
        issued: NOW,
        expires: NOW.after(INTRODUCTION_LIFE),
    };
    Cluster { record, key }
}

impl Cluster {
    fn checked(&self, record: &ClusterRecord, now: Timestamp) -> Result<(), RecordRefusal> {
        let bytes = encoded(record);
        let signature = self.key.sign(&signed_bytes(&bytes)).expect("signed");
        check_record(record, &bytes, &signature, now)
    }

    fn known(&self) -> KnownPeer<'_> {
        let ClusterRecord { cluster, trust_domain, bundle, .. } = &self.record;
        KnownPeer { cluster, trust_domain, bundle }
    }
}

#[test]
fn a_record_signed_by_its_newest_root_is_genuine_for_a_day() {
    let west = cluster("west");
    assert_eq!(west.checked(&west.record, NOW), Ok(()));
    let thief = cluster("thief");
    let forged = thief.checked(&west.record, NOW);
    assert_eq!(forged, Err(RecordRefusal::BadSignature(west.record.cluster.clone())));
    let late = west.checked(&west.record, NOW.after(INTRODUCTION_LIFE + Duration::from_secs(1)));
    assert!(matches!(late, Err(RecordRefusal::Expired { .. })));
}

#[test]
fn an_altered_record_is_not_believed() {
    let west = cluster("west");
    let mut bytes = encoded(&west.record);
    let signature = west.key.sign(&signed_bytes(&bytes)).expect("signed");
    bytes[10] ^= 1;
    let refused = check_record(&west.record, &bytes, &signature, NOW);
    assert!(matches!(refused, Err(RecordRefusal::BadSignature(_))));
    let bare = west.key.sign(&encoded(&west.record)).expect("signed");
    assert!(check_record(&west.record, &encoded(&west.record), &bare, NOW).is_err(), "without the context");
}

#[test]
fn a_record_of_impossible_times_or_endpoints_is_refused() {
    let west = cluster("west");
    let with = |change: fn(&mut ClusterRecord)| {
        let mut record = west.record.clone();
        change(&mut record);
        west.checked(&record, NOW)
    };
    let too_long = with(|record| record.expires = NOW.after(2 * INTRODUCTION_LIFE));
    let backwards = with(|record| record.expires = Timestamp(record.issued.0 - 1));
    let ahead = with(|record| record.issued = NOW.after(Duration::from_secs(3_600)));
    for refused in [too_long, backwards, ahead] {
        assert!(matches!(refused, Err(RecordRefusal::Times(_))), "{refused:?}");
    }
    let many = with(|record| record.endpoints = vec!["127.0.0.1:1".to_owned(); 9]);
    let odd = with(|record| record.endpoints = vec!["nowhere".to_owned()]);
    for refused in [many, odd] {
        assert!(matches!(refused, Err(RecordRefusal::Endpoints(_))), "{refused:?}");
    }
}

struct Scene {
    own: Cluster,
    east: Cluster,
    auto_approve: Vec<Approver>,
    introductions: Introductions,
}

fn scene() -> Scene {
    Scene {
        own: cluster("own"),
        east: cluster("east"),
        auto_approve: vec![Approver::Issuer],
        introductions: Introductions::Ask,
    }
}

impl Scene {
    fn introducer(&self) -> Introducer<'_> {
        Introducer {
            cluster: &self.east.record.cluster,
            admitted_directly: true,
            is_issuer: true,
            introduced: 0,
        }
    }

    fn decided(&self, record: &ClusterRecord, introducer: Introducer<'_>) -> Decision {
        let rules = IntroductionRules {
            introductions: self.introductions,
            auto_approve: &self.auto_approve,
            own: self.own.known(),
        };
        decide(record, introducer, &rules, std::iter::once(self.east.known()))
    }
}

#[test]
fn the_issuers_introductions_are_approved_and_others_wait() {
    let (scene, west) = (scene(), cluster("west"));
    assert_eq!(scene.decided(&west.record, scene.introducer()), Decision::Approve);
    let member = Introducer { is_issuer: false, ..scene.introducer() };
    assert_eq!(scene.decided(&west.record, member), Decision::AskPerson);
    let named = Scene { auto_approve: vec!["east".to_owned().try_into().expect("an id")], ..scene };
    let member = Introducer { is_issuer: false, ..named.introducer() };
    assert_eq!(named.decided(&west.record, member), Decision::Approve);
}

#[test]
fn what_is_known_is_never_changed_by_an_introduction() {
    let scene = scene();
    assert_eq!(scene.decided(&scene.east.record, scene.introducer()), Decision::AlreadyKnown);
    assert_eq!(scene.decided(&scene.own.record, scene.introducer()), Decision::AlreadyKnown);
    let mut second_root = cluster("west").record;
    second_root.trust_domain = domain("east");
    let conflict = BundleRefusal::TrustConflict(domain("east"));
    let decision = scene.decided(&second_root, scene.introducer());
    assert_eq!(decision, Decision::Refuse(conflict.into()));
    let renamed = ClusterRecord { cluster: second_root.cluster.clone(), ..scene.east.record.clone() };
    let decision = scene.decided(&renamed, scene.introducer());
    assert!(matches!(decision, Decision::Refuse(IntroductionRefusal::Bundle(_))));
}

#[test]
fn an_introduction_may_not_claim_what_is_ours_or_anothers() {
    let scene = scene();
    let mut claims_own = cluster("west").record;
    claims_own.trust_domain = domain("own");
    let own = BundleRefusal::OwnDomain(domain("own"));
    assert_eq!(scene.decided(&claims_own, scene.introducer()), Decision::Refuse(own.into()));
    let mut shares = cluster("west").record;
    shares.bundle = scene.east.record.bundle.clone();
    let decision = scene.decided(&shares, scene.introducer());
    let shared = |it: &Decision| {
        matches!(it, Decision::Refuse(IntroductionRefusal::Bundle(BundleRefusal::SharedKey { .. })))
    };
    assert!(shared(&decision), "{decision:?}");
    let mut same_id = cluster("west").record;
    same_id.cluster = scene.east.record.cluster.clone();
    let taken =
        IntroductionRefusal::ClusterIdTaken { cluster: same_id.cluster.clone(), holder: domain("east") };
    assert_eq!(scene.decided(&same_id, scene.introducer()), Decision::Refuse(taken));
}

#[test]
fn introductions_have_depth_one_a_limit_and_a_switch() {
    let (scene, west) = (scene(), cluster("west"));
    let east = scene.east.record.cluster.clone();
    let introduced = Introducer { admitted_directly: false, ..scene.introducer() };
    let deep = IntroductionRefusal::TooDeep(east.clone());
    assert_eq!(scene.decided(&west.record, introduced), Decision::Refuse(deep));
    let busy = Introducer { introduced: INTRODUCTIONS_PER_PEER_MAX, ..scene.introducer() };
    assert_eq!(scene.decided(&west.record, busy), Decision::Refuse(IntroductionRefusal::TooMany(east)));
    let off = Scene { introductions: Introductions::Refuse, ..scene };
    let decision = off.decided(&west.record, off.introducer());
    assert_eq!(decision, Decision::Refuse(IntroductionRefusal::Disabled));
}
