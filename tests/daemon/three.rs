//! Three clusters with two joins: the third pair is introduced, and names lead everywhere.

use crate::{
    gateway::{Cluster, until, until_active},
    names::{application, code, dig, place, said_by},
};
use hickory_proto::{op::ResponseCode, rr::RecordType};

#[test]
fn two_joins_make_three_clusters_one_set() {
    let clusters =
        [("east", 185), ("west", 186), ("north", 187)].map(|(id, number)| Cluster::new(id, number));
    let gateways = [0, 1, 2].map(|at: usize| clusters[at].start());
    let [east, west, north] = &clusters;
    west.join(&east.token()).well();
    north.join(&east.token()).well();
    until_active(east, &["north", "west"]);
    until_active(west, &["east", "north"]);
    until_active(north, &["east", "west"]);
    let introduced = |cluster: &Cluster, peer: &str| {
        let shown = cluster.tombolo(&format!("peers {peer}")).well();
        assert!(shown.contains("introduced by"), "{shown}");
        cluster.json(&format!("peers {peer}"))["peers"][0]["introduced_by"].as_str().map(str::to_owned)
    };
    assert_eq!(introduced(west, "north").as_deref(), Some("east"));
    assert_eq!(introduced(north, "west").as_deref(), Some("east"));

    for cluster in &clusters {
        let app = application(&cluster.id);
        cluster.tombolo(&format!("export {}.shop={app} --port 8080", cluster.id)).well();
    }
    for gateway in &gateways {
        for cluster in &clusters {
            let name = format!("{}.shop.svc.clusterset.local.", cluster.id);
            let at = until(&name, || place(gateway.dns(), &name, 8080));
            assert_eq!(until(&name, || said_by(at)), cluster.id);
        }
    }
    // An export that is taken back is gone everywhere once the command has said so.
    let told = north.tombolo("unexport north.shop --wait").well();
    assert!(told.contains("every peer has confirmed"), "{told}");
    for gateway in &gateways[..2] {
        let answer = dig(gateway.dns(), "north.shop.svc.clusterset.local.", RecordType::A);
        assert_eq!(code(&answer), ResponseCode::NXDomain);
    }
    // One peer is away: the command says who has not confirmed, and the export is withdrawn all the same.
    let [_first, second, _third] = gateways;
    second.kill();
    let told = east.call(&["unexport", "east.shop", "--wait", "--timeout", "1s"], "");
    told.refused(4, "TMB-1011", "not confirmed within 1 s by west", "`tombolo peers west`");
}
