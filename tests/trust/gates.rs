//! The gates as a joined peer meets them: what is not granted cannot be told from what is not there.

use std::time::Duration;

use crate::{
    authority::{Authority, know},
    gateway::{Cluster, Listens, until, until_active},
    hostile::Hostile,
    names::{application, place, said_by},
};

/// Tries of each kind; interleaved, so that a busy moment hits both.
const TRIES: usize = 1_000;
/// Medians of the two kinds differ by less than this, or by less than 5 %.
const DIFFER_MAX: Duration = Duration::from_micros(200);

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_export_without_a_grant_cannot_be_told_from_one_that_is_not_there() {
    let medians = nothing_is_told_apart(201, "none").await;
    println!("medians of {TRIES} tries, not granted and not there: {medians:?}");
}

/// A grant that names others takes an export away from those whom the default would give it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nor_under_the_default_of_the_clusterset_one_that_a_grant_gives_to_others() {
    let medians = nothing_is_told_apart(179, "clusterset").await;
    println!("medians of {TRIES} tries, not granted and not there: {medians:?}");
}

/// Tries both kinds; the medians of their times.
async fn nothing_is_told_apart(number: u8, default: &str) -> [Duration; 2] {
    let east = Cluster::new("east", number);
    let (north, west) = (Authority::new("north"), Authority::new("west"));
    know(&east, &north.as_peer(&[]));
    know(&east, &west.as_peer(&[]));
    // The tries follow each other faster than a peer may open streams.
    let rules = format!(
        "default_grant = \"{default}\"\n[limits]\nopens_per_second = 100000\n\
         [[grant]]\nexports = [\"shop/*\"]\npeers = [\"north\"]\n"
    );
    let config = east.file("c.toml", &rules);
    let gateway = east.start_at(&Listens::free(), &["--config", &config]);
    east.tombolo(&format!("export web.shop={} --port 80", application("east"))).well();
    let hostile = Hostile::join(&gateway.listens.quic, &west, 1).await.expect("a session");
    let caller = format!("spiffe://{}/ns/shop/sa/cart", west.domain);
    let foreign = format!("spiffe://{}/ns/shop/sa/cart", north.domain);
    // What the gateway calls the export for west, and what it calls it for north.
    let id = |peer: &Authority| export_id(&east, &peer.domain);
    let (ungranted, another_peers, never_given) = (id(&west), id(&north), vec![9; 16]);
    let (mut known, mut unknown) = (Vec::new(), Vec::new());
    let (first, _) = hostile.open(never_given.clone(), &caller).await;
    let first = first.expect("an answer");
    for _ in 0..TRIES {
        for (id, times) in [(&ungranted, &mut known), (&never_given, &mut unknown)] {
            let (answer, took) = hostile.open(id.clone(), &caller).await;
            assert_eq!(answer.expect("an answer"), first);
            times.push(took);
        }
    }
    for (id, caller) in [(&another_peers, &caller), (&ungranted, &foreign)] {
        let (answer, _) = hostile.open(id.clone(), caller).await;
        assert_eq!(answer.expect("an answer"), first);
    }
    let (known, unknown) = (median(known), median(unknown));
    assert!(known.abs_diff(unknown) < DIFFER_MAX.max(unknown / 20), "{known:?} and {unknown:?}");
    east.tombolo("unexport web.shop").well();
    let (answer, _) = hostile.open(ungranted, &caller).await;
    assert_eq!(answer.expect("an answer"), first, "an old id");
    east.tombolo(&format!("export web.shop={} --port 80", application("east"))).well();
    let told = east.tombolo(&format!("authz explain --from {caller} --to shop/web")).well();
    assert!(
        told.contains("refused") && told.contains("grant 1 selects it and does not name the peer"),
        "{told}"
    );
    [known, unknown]
}

/// What a cluster calls its export `shop/web` for a peer: computed from its secret, as its gateways do.
fn export_id(cluster: &Cluster, peer: &tombolo::model::ids::TrustDomain) -> Vec<u8> {
    use tombolo::{files::Persist as _, identity::Identity, model::ids::ClusterId};
    let folder = tombolo::files::Folder::open(cluster.state()).expect("a folder");
    let load = |path: &str| folder.load(path).expect("readable").expect("there").bytes;
    let mut files = std::collections::BTreeMap::new();
    for name in folder.list("identity").expect("listed") {
        let path = format!("identity/{name}");
        files.insert(path.clone(), load(&path));
    }
    let identity = Identity::load(&ClusterId::parse(&cluster.id).expect("an id"), &files).expect("whole");
    let exports = folder.list("exports").expect("listed");
    let [file] = exports.as_slice() else { panic!("one export stands in one file: {exports:?}") };
    let exports: serde_json::Value =
        serde_json::from_slice(&load(&format!("exports/{file}"))).expect("exports");
    let export: tombolo::model::catalog::Export =
        serde_json::from_value(exports["exports"][0].clone()).expect("an export");
    identity.export_id(peer, &export.name, export.incarnation).0.to_vec()
}

#[test]
fn callers_are_told_apart_by_the_exporter_and_rules_reload() {
    let (east, west) = (Cluster::new("east", 200), Cluster::new("west", 199));
    let first = east.start();
    let second = west.start();
    west.join(&east.token()).well();
    until_active(&east, &["west"]);
    east.tombolo(&format!("export web.shop={} --port 8080", application("east"))).well();
    let (one, two) = (first.stop(), second.stop());
    let domain = |cluster: &Cluster| {
        let text = std::fs::read_to_string(cluster.state().join("cluster.json")).expect("a file");
        let body = text.split_once('\n').expect("a frame").1.to_owned();
        let document: serde_json::Value = serde_json::from_str(&body).expect("a document");
        document["trust_domain"].as_str().expect("a domain").to_owned()
    };
    let grant = format!(
        "default_grant = \"none\"\n[[grant]]\nexports = [\"shop/web\"]\npeers = [\"west\"]\ncallers = [\"spiffe://{}/ns/shop/sa/cart\"]\n",
        domain(&west)
    );
    let east_config = east.file("e.toml", &grant);
    let caller = |identity: &str| {
        west.file("w.toml", &format!("[[caller]]\nsource = \"127.0.0.0/8\"\nidentity = \"{identity}\"\n"))
    };
    let west_config = caller("ns/shop/sa/other");
    let _first = east.start_at(&one, &["--config", &east_config]);
    let second = west.start_at(&two, &["--config", &west_config]);
    let web = "web.shop.svc.clusterset.local.";
    let at = until(web, || place(second.dns(), web, 8080));
    assert_eq!(said_by(at), None, "another caller was let in");
    caller("ns/shop/sa/cart");
    second.signal(nix::sys::signal::Signal::SIGHUP);
    assert_eq!(until(web, || said_by(at)), "east");
    // Who may call out is west's own to say.
    std::fs::write(
        &west_config,
        "[[caller]]\nsource = \"127.0.0.0/8\"\nidentity = \"ns/shop/sa/cart\"\n[[egress]]\nnames = [\"shop/*\"]\ncallers = [\"ns/pay/sa/*\"]\n",
    )
    .expect("written");
    second.signal(nix::sys::signal::Signal::SIGHUP);
    until("it is not let out", || said_by(at).is_none().then_some(()));
    let told = west.tombolo("authz explain --from ns/shop/sa/cart --to web.shop").well();
    assert!(told.contains("egress rule 1 selects it and does not name the caller"), "{told}");
}
