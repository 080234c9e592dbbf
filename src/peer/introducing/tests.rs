//! Three clusters that introduce each other: real identities and stores, no network.

use std::time::Duration;

use super::*;
use crate::{
    clock::Clock,
    files::Memory,
    identity::{CurrentSvid, Identity, NewIdentity},
    model::{
        ids::{GatewayId, Locality},
        state::{Me, Settings},
        virtual_ip::VirtualIps,
    },
    peer::PeerLimits,
    supervise::{Shutdown, Tasks},
};

const START: Timestamp = Timestamp(1_800_000_000_000);

struct Member {
    ours: Arc<Ourselves>,
    store: Store,
    book: Introductions,
}

fn id(text: &str) -> ClusterId {
    ClusterId::parse(text).expect("an id")
}

/// A member whose paused wall clock begins at [`START`].
fn member(cluster: &str, auto_approve: &[&str]) -> Member {
    let clock = Clock::simulated(1, START);
    let (cluster, gateway) = (id(cluster), GatewayId::parse("g1").expect("an id"));
    let (root_life, export_secret) = (limits::ROOT_LIFE, [1; 32]);
    let new = NewIdentity { cluster: &cluster, trust_domain: None, root_life, export_secret };
    let (identity, _) = Identity::create(new, clock.wall()).expect("made");
    let svid = identity.issue(&gateway, limits::SVID_LIFE, clock.wall()).expect("issued");
    let me = Me {
        trust_domain: identity.trust_domain().clone(),
        locality: Locality::parse("eu/a").expect("a locality"),
        cluster,
        gateway,
    };
    let settings = Settings {
        introductions: true,
        auto_approve: auto_approve.iter().map(|it| (*it).to_owned()).collect(),
        ..Settings::default()
    };
    let virtual_ips = VirtualIps::new("127.77.0.0/18".parse().expect("a network")).expect("large enough");
    let state = State::new(me, settings, virtual_ips);
    let tasks = Tasks::inline(Shutdown::new());
    let store = Store::start(state, Arc::new(Memory::new()), "gateways/g1".to_owned(), clock.clone(), &tasks);
    let ours = Arc::new(Ourselves {
        endpoints: vec![format!("{}.example:7443", identity.cluster())],
        identity: Arc::new(identity),
        svid: CurrentSvid::new(svid),
        clock,
        limits: PeerLimits::default(),
    });
    Member { book: Introductions::new(ours.clone()), ours, store }
}

impl Member {
    fn as_peer(&self, issuer: bool) -> Peer {
        Peer {
            cluster: self.ours.identity.cluster().clone(),
            trust_domain: self.ours.identity.trust_domain().clone(),
            bundle: self.ours.bundle().as_ref().clone(),
            endpoints: self.ours.endpoints.clone(),
            generation: 1,
            standing: Standing::Approved,
            introduced_by: None,
            issuer,
            added: START,
            ruling: Default::default(),
        }
    }

    async fn knows(&self, peer: Peer) {
        self.store.apply(Event::Peer(peer)).await.expect("stored");
    }

    async fn take(&self, from: &Self, introduce: v1::Introduce) -> Result<Taken, Problem> {
        self.book.take(from.ours.identity.cluster(), introduce, &self.store).await
    }

    async fn tell_of(&self, from: &Self, about: &Self) -> Result<Taken, Problem> {
        self.take(from, about.book.own().expect("signed")).await
    }

    fn peer(&self, cluster: &str) -> Option<Arc<Peer>> {
        self.store.state().peers.get(&id(cluster)).cloned()
    }
}

/// West redeemed a token of east's; north is unknown to west.
async fn set(auto_approve: &[&str]) -> (Member, Member, Member) {
    let (east, west, north) = (member("east", &[]), member("west", auto_approve), member("north", &[]));
    west.knows(east.as_peer(true)).await;
    for joined in [&west, &north] {
        east.knows(joined.as_peer(false)).await;
    }
    (east, west, north)
}

#[tokio::test(start_paused = true)]
async fn what_the_issuer_introduces_is_approved_at_once() {
    let (east, west, north) = set(&["@issuer"]).await;
    let met = west.tell_of(&east, &north).await.expect("taken");
    assert_eq!(met, Taken::Met { cluster: id("north"), pending: false });
    let peer = west.peer("north").expect("stored");
    assert_eq!((peer.standing, peer.introduced_by.as_ref()), (Standing::Approved, Some(&id("east"))));
    assert_eq!((&peer.bundle, &peer.endpoints), (north.ours.bundle().as_ref(), &north.ours.endpoints));
    assert_eq!(west.tell_of(&east, &north).await, Ok(Taken::Nothing), "it is known now");
}

#[tokio::test(start_paused = true)]
async fn what_others_introduce_waits_for_a_person() {
    let (east, west, north) = set(&["south"]).await;
    let met = west.tell_of(&east, &north).await.expect("taken");
    assert_eq!(met, Taken::Met { cluster: id("north"), pending: true });
    assert_eq!(west.peer("north").expect("stored").standing, Standing::Pending);
}

#[tokio::test(start_paused = true)]
async fn a_peers_own_record_is_passed_on_unchanged_to_all_others_once() {
    let (east, west, north) = set(&["@issuer"]).await;
    let own = north.book.own().expect("signed");
    let taken = east.take(&north, own.clone()).await.expect("taken");
    assert_eq!(taken, Taken::PassOn(vec![(id("west"), own.clone())]));
    assert_eq!(east.take(&north, own.clone()).await, Ok(Taken::Nothing), "nothing new");
    let told = east.book.greet(&id("west"), &east.store.state());
    assert_eq!(told, [east.book.own().expect("signed"), own.clone()]);
    let back = east.book.greet(&id("north"), &east.store.state());
    assert_eq!(back.len(), 1, "nobody is introduced to itself");
    assert!(matches!(west.take(&east, told[1].clone()).await, Ok(Taken::Met { pending: false, .. })));
    east.book.left(&id("north"));
    assert_eq!(east.book.greet(&id("west"), &east.store.state()).len(), 1, "its session is over");
}

#[tokio::test(start_paused = true)]
async fn pending_peers_neither_introduce_nor_are_introduced() {
    let (east, west, north) = set(&["@issuer"]).await;
    east.knows(Peer { standing: Standing::Pending, ..north.as_peer(false) }).await;
    assert_eq!(east.tell_of(&north, &north).await, Ok(Taken::PassOn(Vec::new())));
    assert_eq!(east.book.greet(&id("west"), &east.store.state()).len(), 1);
    let south = member("south", &[]);
    let refused = east.tell_of(&north, &south).await.expect_err("refused");
    assert_eq!(refused.code, Code::INTRODUCTION_REFUSED);
    assert!(west.peer("south").is_none() && east.peer("south").is_none());
}

#[tokio::test(start_paused = true)]
async fn who_was_only_introduced_introduces_nobody() {
    let (east, west, north) = set(&["@issuer", "north"]).await;
    west.tell_of(&east, &north).await.expect("taken");
    let south = member("south", &[]);
    let refused = west.tell_of(&north, &south).await.expect_err("one step only");
    assert_eq!(refused.code, Code::INTRODUCTION_REFUSED);
    assert!(west.peer("south").is_none());
}

#[tokio::test(start_paused = true)]
async fn a_known_id_or_domain_with_other_roots_is_a_conflict() {
    let (east, west, north) = set(&["@issuer"]).await;
    west.tell_of(&east, &north).await.expect("taken");
    let before = west.peer("north");
    let impostor = member("north", &[]);
    let refused = west.tell_of(&east, &impostor).await.expect_err("the id is taken");
    assert_eq!(refused.code, Code::CLUSTER_ID_TAKEN);
    let forged = |member: &Member, bundle: &Member, cluster: &str| {
        let record = wire::cluster_record_proto(&ClusterRecord {
            cluster: id(cluster),
            trust_domain: member.ours.identity.trust_domain().clone(),
            bundle: bundle.ours.bundle().as_ref().clone(),
            generation: 1,
            endpoints: Vec::new(),
            issued: START,
            expires: START.after(limits::INTRODUCTION_LIFE),
        })
        .encode_to_vec();
        let signature = bundle.ours.identity.sign_introduction(&record).expect("signed");
        v1::Introduce { record, signature }
    };
    let refused = west.take(&east, forged(&north, &impostor, "north")).await.expect_err("other roots");
    assert_eq!(refused.code, Code::TRUST_CONFLICT);
    let refused = west.take(&east, forged(&impostor, &north, "south")).await.expect_err("a shared root");
    assert_eq!(refused.code, Code::TRUST_CONFLICT);
    let refused =
        west.take(&east, forged(&east, &impostor, "east")).await.expect_err("its own, with others' roots");
    assert_eq!(refused.code, Code::TRUST_CONFLICT);
    assert_eq!(west.peer("north"), before);
}

#[tokio::test(start_paused = true)]
async fn altered_garbage_and_expired_records_are_refused() {
    let (east, west, north) = set(&["@issuer"]).await;
    let own = north.book.own().expect("signed");
    let mut altered = own.clone();
    altered.signature[10] ^= 1;
    let large = v1::Introduce { record: vec![0; limits::INTRODUCTION_BYTES_MAX + 1], signature: Vec::new() };
    for bad in [altered, large, v1::Introduce::default()] {
        assert_eq!(west.take(&east, bad).await.expect_err("refused").code, Code::INTRODUCTION_REFUSED);
    }
    tokio::time::advance(limits::INTRODUCTION_LIFE + Duration::from_secs(1)).await;
    let late = west.take(&east, own).await.expect_err("expired");
    assert!(late.message.contains("expired"), "{late}");
    assert!(west.peer("north").is_none());
}

#[tokio::test(start_paused = true)]
async fn our_own_record_is_made_anew_at_half_its_life_and_ignored_when_it_comes_back() {
    let (east, west, _) = set(&[]).await;
    assert!(west.book.renew_at() <= START, "at once");
    let first = west.book.own().expect("signed");
    assert_eq!(west.book.renew_at(), START.after(limits::INTRODUCTION_LIFE / 2));
    assert_eq!(west.book.own().expect("signed"), first);
    assert_eq!(west.take(&east, first.clone()).await, Ok(Taken::Nothing));
    tokio::time::advance(limits::INTRODUCTION_LIFE / 2).await;
    let second = west.book.own().expect("signed");
    assert_ne!(second, first);
    assert!(matches!(east.take(&west, second).await, Ok(Taken::PassOn(_))));
    assert_eq!(east.take(&west, first).await, Ok(Taken::Nothing), "an older one says nothing new");
}

#[tokio::test(start_paused = true)]
async fn a_cluster_that_takes_no_introductions_stores_none() {
    let (east, west, north) = set(&["@issuer"]).await;
    let settings = Settings { introductions: false, ..(*west.store.state().settings).clone() };
    west.store.apply(Event::Settings(settings)).await.expect("stored");
    assert_eq!(west.tell_of(&east, &north).await, Ok(Taken::Nothing));
    assert!(west.peer("north").is_none());
}
