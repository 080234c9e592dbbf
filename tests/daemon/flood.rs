//! More new clients than a peer takes: they have their turn, and nobody is refused.

use std::{
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use crate::{
    gateway::{Cluster, Gateway, Listens, until, until_active},
    names::{application, place, said_by},
};

/// What the peer takes in a second, and who comes at once.
const TAKEN: u32 = 40;
const CLIENTS: u32 = 120;

const WEB: &str = "web.shop.svc.clusterset.local.";

/// A gateway that takes no more than that in a second.
fn limited(cluster: &Cluster) -> Gateway {
    let config = cluster.file("c.toml", &format!("[limits]\nopens_per_second = {TAKEN}\n"));
    cluster.start_at(&Listens::free(), &["--config", &config])
}

fn export(cluster: &Cluster) {
    cluster.tombolo(&format!("export web.shop={} --port 8080", application(&cluster.id))).well();
}

/// What all of them hear who come at once.
fn heard(at: SocketAddr) -> Vec<Option<String>> {
    let clients: Vec<_> = (0..CLIENTS).map(|_| thread::spawn(move || said_by(at))).collect();
    clients.into_iter().map(|client| client.join().expect("it ends")).collect()
}

fn count(heard: &[Option<String>], words: &str) -> u32 {
    let count = heard.iter().filter(|heard| heard.as_deref() == Some(words)).count();
    u32::try_from(count).expect("few")
}

#[test]
fn more_new_clients_than_a_peer_takes_in_a_second_are_served_one_after_another() {
    let (east, west) = (Cluster::new("east", 198), Cluster::new("west", 199));
    let (first, _second) = (east.start(), limited(&west));
    export(&west);
    east.join(&west.token()).well();
    let at = until("the name is served", || place(first.dns(), WEB, 8080));
    until("traffic", || said_by(at));
    let begun = Instant::now();
    assert_eq!(count(&heard(at), "west"), CLIENTS, "the others were refused");
    // What comes within the first eighth of a second is taken at once.
    let least = Duration::from_secs(1) * (CLIENTS - TAKEN / 8 - 2) / TAKEN;
    assert!(begun.elapsed() >= least, "{:?} for {least:?}", begun.elapsed());
}

#[test]
fn a_queue_that_lasts_goes_on_to_the_next_cluster() {
    let [east, west, north] =
        [("east", 206), ("west", 207), ("north", 208)].map(|(id, number)| Cluster::new(id, number));
    let order = "[[failover]]\nnames = [\"*/*\"]\norder = [\"west\", \"north\"]\n";
    let config = east.file("c.toml", order);
    let first = east.start_at(&Listens::free(), &["--config", &config]);
    let (_second, _third) = (limited(&west), north.start());
    for other in [&west, &north] {
        export(other);
        east.join(&other.token()).well();
    }
    until_active(&east, &["north", "west"]);
    let at = until("the name is served", || place(first.dns(), WEB, 8080));
    until("the first cluster answers", || said_by(at).filter(|said| said == "west"));
    let heard = heard(at);
    let (west, north) = (count(&heard, "west"), count(&heard, "north"));
    assert_eq!(west + north, CLIENTS, "{heard:?}");
    assert!(west >= TAKEN && north > 0, "{west} and {north}");
}
