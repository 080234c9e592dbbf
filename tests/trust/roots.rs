//! Roots that change: rotation with a peer there, away, and away for too long (K1 to K5); bundles that lie.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use crate::{
    authority::{Authority, Valid, know},
    gateway::{Cluster, Gateway, Listens, until, until_active},
    hostile::Hostile,
    names::{application, place, said_by},
    stranger::is_let_in,
};

/// A cluster whose rotations are quick.
fn start(cluster: &Cluster, listens: &Listens, more: &str) -> Gateway {
    let config = cluster.file("c.toml", &format!("[identity]\nretire_after = \"1s\"\n{more}"));
    cluster.start_at(listens, &["--config", &config])
}

fn phase(cluster: &Cluster) -> String {
    cluster.json("ca status")["phase"].as_str().expect("a word").to_owned()
}

fn sequence(cluster: &Cluster) -> u64 {
    cluster.json("ca status")["sequence"].as_u64().expect("a number")
}

fn fingerprint(cluster: &Cluster, of: &str) -> String {
    cluster.json(&format!("peers {of}"))["peers"][0]["fingerprint"].as_str().expect("text").to_owned()
}

/// An application that sends back what it gets.
fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    std::thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut buffer = [0; 1024];
                while let Ok(count @ 1..) = client.read(&mut buffer) {
                    if client.write_all(&buffer[..count]).is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

#[test]
fn k1_the_root_is_rotated_while_requests_and_a_long_stream_go_on() {
    let (east, west) = (Cluster::new("east", 234), Cluster::new("west", 235));
    let _first = start(&east, &Listens::free(), "");
    let second = start(&west, &Listens::free(), "");
    west.join(&east.token()).well();
    until_active(&east, &["west"]);
    east.tombolo(&format!("export web.shop={} --port 8080", application("east"))).well();
    east.tombolo(&format!("export echo.shop={} --port 8081", echo())).well();
    let web = "web.shop.svc.clusterset.local.";
    let at = until(web, || place(second.dns(), web, 8080));
    until(web, || said_by(at));
    let echo = "echo.shop.svc.clusterset.local.";
    let long = until(echo, || place(second.dns(), echo, 8081));
    let mut stream = TcpStream::connect(long).expect("connected");
    stream.set_read_timeout(Some(Duration::from_secs(10))).expect("set");
    let (stop, failed, made) =
        (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let load = {
        let (stop, failed, made) = (stop.clone(), failed.clone(), made.clone());
        std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                made.fetch_add(1, Ordering::Relaxed);
                if said_by(at).as_deref() != Some("east") {
                    failed.fetch_add(1, Ordering::Relaxed);
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        })
    };
    let before = fingerprint(&west, "east");
    let told = east.tombolo("ca rotate --watch").well();
    assert!(told.contains("west") && told.contains("settled: root 2 issues"), "{told}");
    assert_ne!(fingerprint(&west, "east"), before);
    for round in 0..20_u8 {
        stream.write_all(&[round]).expect("the stream lives");
        let mut back = [0];
        stream.read_exact(&mut back).expect("the stream lives");
        assert_eq!(back[0], round);
    }
    stop.store(true, Ordering::Relaxed);
    load.join().expect("ended");
    let (failed, made) = (failed.load(Ordering::Relaxed), made.load(Ordering::Relaxed));
    assert!(failed == 0 && made > 20, "{failed} of {made} failed");
    until("west says that it uses the new root", || {
        east.tombolo("peer verify west").well().contains("the same, said").then_some(())
    });
}

/// Long streams of the test of three clusters, from each to the next.
const STREAMS: usize = 20;

#[test]
fn three_clusters_rotate_at_once_and_no_stream_is_cut() {
    let clusters =
        [("east", 188), ("north", 189), ("west", 190)].map(|(id, number)| Cluster::new(id, number));
    let gateways = [0, 1, 2].map(|at: usize| start(&clusters[at], &Listens::free(), "svid_life = \"10s\"\n"));
    for joiner in &clusters[1..] {
        joiner.join(&clusters[0].token()).well();
    }
    until_active(&clusters[1], &["east", "west"]);
    until_active(&clusters[2], &["east", "north"]);
    for cluster in &clusters {
        cluster.tombolo(&format!("export {}.shop={} --port 8081", cluster.id, echo())).well();
    }
    let mut streams = Vec::new();
    for (at, gateway) in gateways.iter().enumerate() {
        let name = format!("{}.shop.svc.clusterset.local.", clusters[(at + 1) % 3].id);
        let place = until(&name, || place(gateway.dns(), &name, 8081));
        for _ in 0..STREAMS {
            let stream = TcpStream::connect(place).expect("connected");
            stream.set_read_timeout(Some(Duration::from_secs(10))).expect("set");
            streams.push(stream);
        }
    }
    let mut beat = |round: u8| {
        for stream in &mut streams {
            stream.write_all(&[round]).expect("the stream lives");
        }
        for stream in &mut streams {
            let mut back = [0];
            stream.read_exact(&mut back).expect("the stream lives");
            assert_eq!(back[0], round);
        }
    };
    beat(0);
    for cluster in &clusters {
        cluster.tombolo("ca rotate").well();
    }
    let mut round = 0_u8;
    until("all three are settled", || {
        round = round.wrapping_add(1);
        beat(round);
        clusters.iter().all(|cluster| phase(cluster) == "settled" && sequence(cluster) == 3).then_some(())
    });
    beat(255);
    for cluster in &clusters {
        assert_eq!(cluster.peers("active").len(), 2);
    }
}

#[test]
fn k2_a_peer_that_was_away_during_the_rotation_dials_with_the_new_root() {
    let (east, west) = (Cluster::new("east", 236), Cluster::new("west", 237));
    let first = start(&east, &Listens::free(), "");
    let second = start(&west, &Listens::free(), "");
    west.join(&east.token()).well();
    until_active(&east, &["west"]);
    let listens = second.stop();
    east.tombolo("ca rotate").well();
    let status = east.json("ca status");
    assert_eq!(
        (status["phase"].as_str(), status["peers"][0]["acked"].as_bool()),
        (Some("publishing"), Some(false))
    );
    // Killed in the middle, it goes on where it was.
    let own = first.kill();
    let _first = start(&east, &own, "");
    assert_eq!(phase(&east), "publishing");
    let _second = start(&west, &listens, "");
    until("the rotation ends", || (phase(&east) == "settled").then_some(()));
    until_active(&west, &["east"]);
    assert_eq!(sequence(&east), 3);
}

#[test]
fn k3_a_peer_that_was_away_for_the_life_of_a_root_comes_back_with_its_id() {
    let (east, west) = (Cluster::new("east", 238), Cluster::new("west", 239));
    let impatient = "rotation_patience = \"0s\"\n";
    let _first = start(&east, &Listens::free(), impatient);
    let second = start(&west, &Listens::free(), "");
    west.join(&east.token()).well();
    until_active(&east, &["west"]);
    let added = east.json("peers west")["peers"][0]["trust_domain"].clone();
    let listens = second.stop();
    east.tombolo("ca rotate --watch").well();
    let _second = start(&west, &listens, "");
    until("west is refused by what it knows", || {
        west.tombolo("peers east").out.contains("last dial").then_some(())
    });
    assert!(west.peers("active").is_empty());
    west.join(&east.token()).refused(1, "TMB-1213", "bound to other roots", "re-trust");
    west.call(&["peer", "re-trust", "-"], &east.token()).well();
    until_active(&east, &["west"]);
    until_active(&west, &["east"]);
    assert_eq!(east.json("peers west")["peers"][0]["trust_domain"], added);
}

#[test]
fn a_root_is_rotated_by_itself_before_it_ends() {
    let east = Cluster::new("east", 240);
    let gateway = start(&east, &Listens::free(), "svid_life = \"20s\"\nroot_life = \"60s\"\n");
    assert_eq!(sequence(&east), 1);
    // Two thirds of a minute are longer than the patience of `until`.
    std::thread::sleep(Duration::from_secs(32));
    until("a second root", || (sequence(&east) >= 3).then_some(()));
    assert!(gateway.log().contains("50 % of its life left"), "{}", gateway.log());
}

#[test]
fn lives_that_end_are_told_at_a_half_a_quarter_and_a_tenth() {
    let east = Cluster::new("east", 178);
    let peers =
        [("far", Valid(-1, 9)), ("half", Valid(-6, 4)), ("quarter", Valid(-8, 2)), ("tenth", Valid(-20, 2))];
    for (peer, life) in peers {
        know(&east, &Authority::valid(peer, life).as_peer(&[]));
    }
    let gateway = east.start();
    for (peer, percent, level) in [("half", 50, "INFO"), ("quarter", 25, "WARN"), ("tenth", 10, "ERROR")] {
        let said = format!("the root of {peer} has {percent} % of its life left");
        let line =
            until(&said, || gateway.log().lines().find(|line| line.contains(&said)).map(str::to_owned));
        assert!(line.contains(level), "{line}");
    }
    assert!(!gateway.log().contains("the root of far has"), "{}", gateway.log());
}

/// A gateway that knows two peers that are only keys.
fn with_peers(number: u8) -> (Cluster, Authority, Authority) {
    let (east, north, west) = (Cluster::new("east", number), Authority::new("north"), Authority::new("west"));
    know(&east, &north.as_peer(&[]));
    know(&east, &west.as_peer(&[]));
    (east, north, west)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn k4_an_empty_bundle_cuts_the_connection_within_a_second() {
    let (east, _north, west) = with_peers(241);
    let gateway = east.start();
    let to = &gateway.listens.quic;
    let hostile = Hostile::join(to, &west, 1).await.expect("a session");
    hostile.say(tombolo_bundle(2, Vec::new())).await;
    let took = hostile.cut_within(Duration::from_secs(5)).await.expect("it is cut");
    assert!(took < Duration::from_secs(1), "{took:?}");
    assert_eq!(east.peers("distrusted"), ["west"]);
    assert!(!is_let_in(to, west.leaf(|_| {})).await);
}

fn tombolo_bundle(sequence: u64, roots: Vec<Vec<u8>>) -> federation_proto::v1::ctl::Message {
    let bundle = federation_proto::v1::Bundle { sequence, roots, ..federation_proto::v1::Bundle::default() };
    federation_proto::v1::ctl::Message::Bundle(bundle)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn k5_an_older_bundle_is_refused() {
    let (east, _north, west) = with_peers(242);
    let gateway = east.start();
    let mut hostile = Hostile::join(&gateway.listens.quic, &west, 1).await.expect("a session");
    let (old, new) = (west.root.to_vec(), Authority::new("west").root.to_vec());
    assert_eq!(hostile.offer(5, vec![old.clone(), new]).await, "");
    for replayed in [4, 5] {
        let refused = hostile.offer(replayed, vec![old.clone()]).await;
        assert!(refused.contains("is not newer"), "{replayed}: {refused}");
    }
    assert!(gateway.log().contains("a bundle was refused"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_root_shared_between_domains_is_refused() {
    let (east, north, west) = with_peers(243);
    let gateway = east.start();
    let mut hostile = Hostile::join(&gateway.listens.quic, &west, 1).await.expect("a session");
    let refused = hostile.offer(2, vec![west.root.to_vec(), north.root.to_vec()]).await;
    assert!(refused.contains("shares the key"), "{refused}");
    assert!(!is_let_in(&gateway.listens.quic, north.leaf_for(&[&west.gateway()])).await);
}

#[test]
fn workloads_find_every_bundle_and_those_of_a_removed_peer_no_more() {
    let (east, west) = (Cluster::new("east", 193), Cluster::new("west", 194));
    let workloads = Authority::new("workloads");
    let pem = tombolo::model::trust::Bundle::parse(1, &[workloads.root.as_ref()]).expect("a bundle").to_pem();
    let file = west.file("workloads.pem", &pem);
    let _first = start(&east, &Listens::free(), "");
    let _second = start(&west, &Listens::free(), &format!("workload_roots = [\"{file}\"]\n"));
    west.join(&east.token()).well();
    until_active(&east, &["west"]);
    let domain = east.json("peers west")["peers"][0]["trust_domain"].as_str().expect("a domain").to_owned();
    let path = |form: &str| east.state().join(format!("bundles/{domain}.{form}"));
    until("west's roots and those of its workloads", || {
        let text = std::fs::read_to_string(path("json")).ok()?;
        let document: serde_json::Value = serde_json::from_str(&text).ok()?;
        (document["keys"].as_array()?.len() == 2).then_some(())
    });
    let text = std::fs::read_to_string(path("pem")).expect("PEM");
    assert!(text.contains(&pem) && text.matches("BEGIN CERTIFICATE").count() == 2, "{text}");
    // A rotation is seen by workloads, too.
    west.tombolo("ca rotate --watch").well();
    until("the new root", || {
        let text = std::fs::read_to_string(path("json")).ok()?;
        let document: serde_json::Value = serde_json::from_str(&text).ok()?;
        (document["spiffe_sequence"] == 3 && document["keys"].as_array()?.len() == 2).then_some(())
    });
    east.tombolo("peer remove west").well();
    until("they are gone", || (!path("json").exists() && !path("pem").exists()).then_some(()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_gateway_is_believed_by_a_root_of_workloads() {
    let (east, _north, west) = with_peers(192);
    let gateway = east.start();
    let hostile = Hostile::join(&gateway.listens.quic, &west, 1).await.expect("a session");
    let workloads = Authority::new("west");
    let bundle = federation_proto::v1::Bundle {
        sequence: 2,
        roots: vec![west.root.to_vec()],
        workload_roots: vec![workloads.root.to_vec()],
    };
    hostile.say(federation_proto::v1::ctl::Message::Bundle(bundle)).await;
    until("it is taken", || {
        let text = std::fs::read_to_string(east.state().join("bundles/west.test.pem")).ok()?;
        (text.matches("BEGIN CERTIFICATE").count() == 2).then_some(())
    });
    assert!(!is_let_in(&gateway.listens.quic, workloads.leaf(|_| {})).await);
    assert!(is_let_in(&gateway.listens.quic, west.leaf(|_| {})).await);
}
