//! The verbs of a peer: removed, revoked, revived, renamed (V1 to V4), paused and approved.

use std::{
    fs,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use hickory_proto::{op::ResponseCode, rr::RecordType};

use crate::{
    authority::{Authority, know},
    gateway::{Cluster, Gateway, Listens, until, until_active},
    hostile::Hostile,
    joiner::{Answer, Joiner},
    names::{application, code, dig, place, said_by},
    stranger::is_let_in,
};

/// Services that west exports; a table each, so that they come in one snapshot.
const EXPORTS: usize = 200;

pub(crate) fn joined(numbers: (u8, u8), west_config: &str) -> (Cluster, Cluster, Gateway, Gateway) {
    let (east, west) = (Cluster::new("east", numbers.0), Cluster::new("west", numbers.1));
    let first = east.start();
    let config = west.file("c.toml", west_config);
    let second = west.start_at(&Listens::free(), &["--config", &config]);
    west.join(&east.token()).well();
    until_active(&east, &["west"]);
    (east, west, first, second)
}

pub(crate) fn exports() -> String {
    exports_of(EXPORTS)
}

fn exports_of(count: usize) -> String {
    let app = application("west");
    let table = |number: usize| {
        format!(
            "[[export]]\nname = \"s{number}\"\n[[export.port]]\nname = \"tcp-8080\"\nport = 8080\nto = [\"{app}\"]\n"
        )
    };
    (0..count).map(table).collect()
}

pub(crate) fn name(number: usize) -> String {
    format!("s{number}.default.svc.clusterset.local.")
}

pub(crate) fn state_of(cluster: &Cluster, peer: &str) -> String {
    cluster.json(&format!("peers {peer}"))["peers"][0]["state"].as_str().expect("a word").to_owned()
}

#[test]
fn v1_a_removed_peer_is_gone_from_names_and_streams_at_once() {
    let (east, west, first, second) = joined((244, 245), &exports());
    let at = until("the last name", || place(first.dns(), &name(EXPORTS - 1), 8080));
    until("it answers", || said_by(at));
    let told = east.tombolo("peer remove west").well();
    assert!(told.contains("is removed, and it knows"), "{told}");
    let begun = std::time::Instant::now();
    until("the names are gone", || {
        let answer = dig(first.dns(), &name(0), RecordType::A);
        (code(&answer) == ResponseCode::NXDomain).then_some(())
    });
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    assert_eq!(said_by(at), None, "a new connection was carried to a removed peer");
    assert_eq!(
        (state_of(&east, "west").as_str(), state_of(&west, "east").as_str()),
        ("terminated", "terminated")
    );
    // It survives a restart of either.
    let (one, two) = (first.stop(), second.stop());
    let (_first, _second) = (east.start_at(&one, &[]), west.start_at(&two, &[]));
    assert_eq!(state_of(&east, "west"), "terminated");
}

/// As many rows as a peer may have by default.
const ROWS: usize = 10_000;

#[test]
fn v1_a_removed_peer_with_ten_thousand_rows_is_gone_from_names_and_streams_at_once() {
    let (mut east, west) = (Cluster::new("east", 169), Cluster::new("west", 168));
    east.range = format!("127.169.{}.0/18", std::process::id() % 4 * 64);
    let first = east.start();
    let config = west.file("c.toml", &exports_of(ROWS));
    let _second = west.start_at(&Listens::free(), &["--config", &config]);
    west.join(&east.token()).well();
    until("all rows", || {
        (east.json("peers west")["peers"][0]["imported"].as_u64()? == u64::try_from(ROWS).ok()?).then_some(())
    });
    let at = until("the last name", || place(first.dns(), &name(ROWS - 1), 8080));
    until("it answers", || said_by(at));
    // Somebody connects anew all the while, and notes when that last went well.
    let (stop, tell) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(std::time::Instant::now())));
    let client = {
        let (stop, tell) = (stop.clone(), tell.clone());
        std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let asked = std::time::Instant::now();
                if said_by(at).is_some() {
                    *tell.lock().expect("not poisoned") = asked;
                }
            }
        })
    };
    let begun = std::time::Instant::now();
    east.tombolo("peer remove west").well();
    assert_eq!(said_by(at), None, "a new connection was carried to a removed peer");
    for number in [0, ROWS / 2, ROWS - 1] {
        until("the names are gone", || {
            let answer = dig(first.dns(), &name(number), RecordType::A);
            (code(&answer) == ResponseCode::NXDomain).then_some(())
        });
    }
    let unnamed = begun.elapsed();
    stop.store(true, Ordering::Relaxed);
    client.join().expect("ended");
    let refused = tell.lock().expect("not poisoned").saturating_duration_since(begun);
    until("the rows are gone", || (east.json("peers west")["peers"][0]["imported"] == 0).then_some(()));
    println!(
        "{ROWS} rows: refused after {refused:?}, names gone after {unnamed:?}, rows after {:?}",
        begun.elapsed()
    );
    assert!(refused < Duration::from_secs(1) && unnamed < Duration::from_secs(5), "{refused:?}, {unnamed:?}");
}

#[test]
fn v2_a_peer_that_is_dead_is_removed_by_force_and_forgotten() {
    let (east, _west, first, second) = joined((246, 247), &exports());
    until("a name", || place(first.dns(), &name(0), 8080));
    second.kill();
    let begun = std::time::Instant::now();
    let told = east.tombolo("peer remove west --force").well();
    assert!(told.contains("was not told") && begun.elapsed() < Duration::from_secs(2), "{told}");
    assert_eq!(code(&dig(first.dns(), &name(0), RecordType::A)), ResponseCode::NXDomain);
    east.tombolo("peer forget west").well();
    assert_eq!(east.json("peers")["peers"].as_array().expect("rows").len(), 0);
    east.tombolo("peer forget west").refused(1, "TMB-1228", "no peer", "tombolo peers");
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("readable") {
        let (path, name) = entry.map(|entry| (entry.path(), entry.file_name())).expect("an entry");
        if path.is_dir() {
            copy(&path, &to.join(name));
        } else if path.is_file() {
            fs::copy(&path, to.join(name)).expect("copied");
        }
    }
}

#[test]
fn v3_a_gateway_revived_with_the_state_of_an_older_peering_is_fenced() {
    let (east, west, _first, second) = joined((248, 249), "");
    let old = Cluster::new("west", 250);
    let listens = second.stop();
    copy(&west.state(), &old.state());
    let second = west.start_at(&listens, &[]);
    east.tombolo("peer remove west").well();
    west.join(&east.token()).well();
    until_active(&east, &["west"]);
    second.stop();
    // The one that knows the first peering only has the same keys, and is kept out all the same.
    let revived = old.start();
    until("it is refused", || {
        let shown = old.json("peers east");
        let why = shown["peers"][0]["dial_failure"].as_str().unwrap_or_default().to_owned();
        (why.contains("knows peering 1") && why.contains("join anew")).then_some(())
    });
    assert!(old.peers("active").is_empty() && east.peers("active").is_empty());
    drop(revived);
    let _second = west.start_at(&listens, &[]);
    until_active(&east, &["west"]);
}

#[test]
fn v4_a_new_alias_moves_the_name_and_cuts_nothing() {
    let (east, _west, first, _second) = joined((251, 252), &exports());
    until("a name", || place(first.dns(), &name(1), 8080));
    let listens = first.stop();
    let aliased = |alias: &str| {
        east.file("e.toml", &format!("[[import]]\nnames = [\"default/s1\"]\nalias = \"shop/{alias}\"\n"))
    };
    let config = aliased("one");
    let first = east.start_at(&listens, &["--config", &config]);
    let one = "one.shop.svc.clusterset.local.";
    let at = until(one, || place(first.dns(), one, 8080));
    until(one, || said_by(at));
    aliased("two");
    first.signal(nix::sys::signal::Signal::SIGHUP);
    let two = "two.shop.svc.clusterset.local.";
    let moved = until(two, || place(first.dns(), two, 8080));
    assert_eq!(until(two, || said_by(moved)), "west");
    assert_eq!(code(&dig(first.dns(), one, RecordType::A)), ResponseCode::NXDomain);
    assert_eq!(east.peers("active"), ["west"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_peer_stays_out_under_any_name_until_it_is_forgotten() {
    let east = Cluster::new("east", 253);
    let west = Authority::new("west");
    know(&east, &west.as_peer(&[]));
    let gateway = east.start();
    let to = gateway.listens.quic.clone();
    let hostile = Hostile::join(&to, &west, 1).await.expect("a session");
    let begun = std::time::Instant::now();
    east.tombolo("peer revoke west").well();
    assert!(hostile.cut_within(Duration::from_secs(5)).await.is_some());
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    assert!(!is_let_in(&to, west.leaf(|_| {})).await);
    let token = tombolo::model::token::Token::parse(&east.token()).expect("a token");
    let renamed = Joiner { more_roots: vec![west.root.to_vec()], ..Joiner::new("south") };
    assert_eq!(renamed.join(&token, &to).await, Answer::Denied("TMB-1313".to_owned()));
    let listens = gateway.stop();
    let gateway = east.start_at(&listens, &[]);
    assert!(!is_let_in(&gateway.listens.quic, west.leaf(|_| {})).await, "after a restart");
    east.tombolo("peer forget west").well();
    assert!(matches!(renamed.join(&token, &gateway.listens.quic).await, Answer::Joined(_)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_peering_is_fenced_in_its_hello() {
    let east = Cluster::new("east", 254);
    let west = Authority::new("west");
    know(&east, &tombolo::model::state::Peer { generation: 2, ..west.as_peer(&[]) });
    let gateway = east.start();
    assert!(Hostile::join(&gateway.listens.quic, &west, 1).await.is_none(), "the first peering is over");
    assert!(Hostile::join(&gateway.listens.quic, &west, 2).await.is_some());
}

#[test]
fn a_token_may_ask_for_a_person_and_a_pause_takes_names_away_for_a_while() {
    let (east, west) = (Cluster::new("east", 204), Cluster::new("west", 203));
    let first = east.start();
    let config = west.file("c.toml", &exports());
    let _second = west.start_at(&Listens::free(), &["--config", &config]);
    let token =
        east.json("token create --allow-private --require-approval")["token"].as_str().map(str::to_owned);
    west.join(&token.expect("a token")).refused(1, "TMB-1217", "has to approve", "peer approve west");
    assert_eq!(state_of(&east, "west"), "pending");
    until_it_says(&west, "east", "pending", "waits for approval by the peer's operator");
    assert_eq!(code(&dig(first.dns(), &name(0), RecordType::A)), ResponseCode::NXDomain);
    east.tombolo("peer approve west").well();
    until("its names are there", || place(first.dns(), &name(0), 8080));
    east.tombolo("peer pause west").well();
    assert_eq!(state_of(&east, "west"), "paused");
    until_it_says(&west, "east", "paused", "paused by the peer");
    until("its names are gone", || {
        (code(&dig(first.dns(), &name(0), RecordType::A)) == ResponseCode::NXDomain).then_some(())
    });
    east.tombolo("peer resume west").well();
    until("its names are back", || place(first.dns(), &name(0), 8080));
    until_active(&west, &["east"]);
}

/// Waits until a cluster shows a peer in this state, for this cause.
pub(crate) fn until_it_says(cluster: &Cluster, peer: &str, state: &str, cause: &str) {
    until(&format!("{state}: {cause}"), || {
        let shown = cluster.json(&format!("peers {peer}"))["peers"][0].clone();
        (shown["state"] == state && shown["cause"].as_str()?.contains(cause)).then_some(())
    });
}

#[test]
fn a_cluster_that_lost_its_state_comes_back_under_its_id() {
    let (east, west, _first, second) = joined((202, 198), "");
    second.stop();
    fs::remove_dir_all(west.state()).expect("lost");
    let _second = west.start();
    west.join(&east.token()).refused(1, "TMB-1208", "belongs to trust domain", "--rejoin");
    let token =
        east.json("token create --allow-private --for west --rejoin")["token"].as_str().map(str::to_owned);
    west.join(&token.expect("a token")).well();
    until_active(&east, &["west"]);
    until_active(&west, &["east"]);
}

#[test]
fn introductions_are_asked_about_or_refused_as_each_cluster_says() {
    let clusters = [("east", 184), ("north", 185), ("south", 186), ("west", 187)];
    let [east, north, south, west] = clusters.map(|(id, number)| Cluster::new(id, number));
    let asks = west.file("c.toml", "auto_approve = []\n");
    let refuses = south.file("c.toml", "introductions = \"refuse\"\n");
    let _gateways = [
        east.start(),
        north.start(),
        south.start_at(&Listens::free(), &["--config", &refuses]),
        west.start_at(&Listens::free(), &["--config", &asks]),
    ];
    for joiner in [&west, &south, &north] {
        joiner.join(&east.token()).well();
    }
    until("north is introduced to west", || {
        (west.peers("pending").contains(&"north".to_owned())).then_some(())
    });
    let shown = west.tombolo("peers north").well();
    assert!(shown.contains("introduced by east, waits for approval"), "{shown}");
    assert_eq!(west.peers("active"), ["east"]);
    west.tombolo("peer approve north").well();
    // North takes the introductions of the cluster whose token it redeemed.
    until("both are members", || {
        let there = west.peers("active").contains(&"north".to_owned());
        (there && north.peers("active").contains(&"west".to_owned())).then_some(())
    });
    let introducer = west.json("peers north")["peers"][0]["introduced_by"].clone();
    assert_eq!(introducer, "east");
    let known = south.json("peers")["peers"].as_array().expect("rows").len();
    assert_eq!(known, 1, "a cluster that refuses introductions knows whom it joined");
}

/// An application that sends for as long as somebody reads.
fn flood() -> std::net::SocketAddr {
    use std::io::Write as _;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    std::thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            std::thread::spawn(move || while client.write_all(&[7; 4_096]).is_ok() {});
        }
    });
    address
}

#[test]
fn revoked_under_load_a_peer_moves_no_byte_two_seconds_later() {
    use std::{io::Read as _, time::Instant};
    let (east, west, first, _second) = joined((180, 181), "");
    west.tombolo(&format!("export flood.shop={} --port 8080", flood())).well();
    let flood = "flood.shop.svc.clusterset.local.";
    let at = until(flood, || place(first.dns(), flood, 8080));
    let readers: Vec<_> = (0..20)
        .map(|_| {
            let mut stream = std::net::TcpStream::connect(at).expect("connected");
            stream.set_read_timeout(Some(Duration::from_secs(5))).expect("set");
            std::thread::spawn(move || {
                let (mut buffer, mut bytes, mut last) = ([0; 4_096], 0_usize, Instant::now());
                while let Ok(count @ 1..) = stream.read(&mut buffer) {
                    (bytes, last) = (bytes + count, Instant::now());
                }
                (bytes, last)
            })
        })
        .collect();
    std::thread::sleep(Duration::from_millis(500));
    let begun = Instant::now();
    east.tombolo("peer revoke west").well();
    for reader in readers {
        let (bytes, last) = reader.join().expect("ended");
        assert!(bytes > 0, "it never carried anything");
        let late = last.saturating_duration_since(begun);
        assert!(late < Duration::from_secs(2), "a byte came {late:?} after the revocation");
    }
    assert_eq!(said_by(at), None);
}
