//! The confusion of trust domains: whatever is wrong with a certificate is refused in the handshake, and not a
//! byte of a catalog is read.

use rcgen::{BasicConstraints, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose};

use crate::{
    authority::{Authority, Presented, Valid, know},
    gateway::{Cluster, Gateway},
    stranger::{is_believed, is_let_in, listen},
};

/// A gateway that knows `north` and `west`, which are only keys.
struct World {
    north: Authority,
    west: Authority,
    cluster: Cluster,
}

impl World {
    fn new(number: u8, north: Authority) -> Self {
        let (cluster, west) = (Cluster::new("east", number), Authority::new("west"));
        know(&cluster, &north.as_peer(&[]));
        know(&cluster, &west.as_peer(&[]));
        Self { north, west, cluster }
    }

    /// North's own certificate is let in, and this one is not.
    async fn refuses(&self, presented: Presented) {
        let gateway = self.cluster.start();
        let to = gateway.listens.quic.clone();
        assert!(!is_let_in(&to, presented).await, "it was let in");
        self.lets_in(&gateway).await;
    }

    async fn lets_in(&self, gateway: &Gateway) {
        let right = self.west.leaf(|_| {});
        assert!(is_let_in(&gateway.listens.quic, right).await, "a right certificate was refused");
    }
}

/// The gateway dials `dialled`, and somebody who presents `presented` answers.
async fn dials(number: u8, dialled: &Authority, known: &[&Authority], presented: Presented) -> bool {
    let cluster = Cluster::new("east", number);
    let (endpoint, address) = listen(presented);
    for authority in known {
        let endpoints =
            if authority.cluster == dialled.cluster { vec![address.to_string()] } else { Vec::new() };
        know(&cluster, &authority.as_peer(&endpoints));
    }
    let _gateway = cluster.start();
    is_believed(&endpoint).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_id_of_b_signed_by_a_is_refused_on_an_unknown_connection() {
    let world = World::new(205, Authority::new("north"));
    world.refuses(world.north.leaf_for(&[&world.west.gateway()])).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_id_of_b_signed_by_a_is_refused_on_the_way_to_a() {
    let (a, b) = (Authority::new("north"), Authority::new("west"));
    let forged = a.leaf_for(&[&b.gateway()]);
    assert!(!dials(206, &a, &[&a, &b], forged).await);
    assert!(dials(207, &a, &[&a, &b], a.leaf(|_| {})).await, "its own id is believed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_id_of_b_signed_by_a_is_refused_on_the_way_to_b() {
    let (a, b) = (Authority::new("north"), Authority::new("west"));
    let forged = a.leaf_for(&[&b.gateway()]);
    assert!(!dials(208, &b, &[&a, &b], forged).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_id_of_a_is_refused_on_the_way_to_b() {
    let (a, b) = (Authority::new("north"), Authority::new("west"));
    let right_but_not_asked_for = a.leaf(|_| {});
    assert!(!dials(209, &b, &[&a, &b], right_but_not_asked_for).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_uri_names_are_refused() {
    let world = World::new(210, Authority::new("north"));
    world.refuses(world.north.leaf_for(&[&world.north.gateway(), &world.west.gateway()])).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_authority_as_a_leaf_is_refused() {
    let world = World::new(211, Authority::new("north"));
    let authority = world.north.leaf(|params| {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign];
    });
    world.refuses(authority).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_expired_root_is_refused() {
    let world = World::new(212, Authority::valid("north", Valid(-48, -1)));
    world.refuses(world.north.leaf(|_| {})).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_expired_leaf_is_refused() {
    let world = World::new(213, Authority::new("north"));
    world.refuses(world.north.leaf_valid(Valid(-24, -1))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leaf_that_is_not_yet_valid_is_refused() {
    let world = World::new(214, Authority::new("north"));
    world.refuses(world.north.leaf_valid(Valid(1, 24))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_root_that_is_not_yet_valid_is_refused() {
    let world = World::new(215, Authority::valid("north", Valid(1, 48)));
    world.refuses(world.north.leaf(|_| {})).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_extended_key_usage_is_refused() {
    let world = World::new(216, Authority::new("north"));
    let server_only = |params: &mut rcgen::CertificateParams| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    };
    world.refuses(world.north.leaf(server_only)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chain_of_a_hundred_is_refused() {
    let world = World::new(217, Authority::new("north"));
    world.refuses(world.north.deep(100)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_workload_is_no_gateway() {
    let world = World::new(218, Authority::new("north"));
    let workload = format!("spiffe://{}/ns/shop/sa/cart", world.north.domain);
    world.refuses(world.north.leaf_for(&[&workload])).await;
}
