//! `kill -9` of either side, and what is there again after a restart: all of it, without a token.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    time::{Duration, Instant},
};

use hickory_proto::{op::ResponseCode, rr::RecordType};

use crate::{
    gateway::{Cluster, until, until_active},
    names::{address, application, code, dig, place, said_by},
};

const WEB: &str = "web.shop.svc.clusterset.local.";

/// Traffic should flow again this soon after a start, on a host with nothing else to do.
const AGAIN: Duration = Duration::from_millis(1_500);

/// What must be the same after a restart.
fn identity(cluster: &Cluster) -> [String; 4] {
    let status = cluster.json("status");
    ["cluster", "gateway", "trust_domain", "fingerprint"].map(|key| status[key].to_string())
}

#[test]
fn a_killed_gateway_comes_back_as_itself_and_serves_what_it_knew() {
    let (east, west) = (Cluster::new("east", 181), Cluster::new("west", 182));
    let (first, second) = (east.start(), west.start());
    let app = application("east");
    east.tombolo(&format!("export web.shop={app} --port 8080")).well();
    west.join(&east.token()).well();
    let at = until("the name is served", || place(second.dns(), WEB, 8080));
    until("traffic", || said_by(at));
    // Catalogs are written every few seconds.
    until("the catalog is on disk", || {
        west.contents()
            .iter()
            .any(|(path, bytes)| {
                path.ends_with("catalog/east.snap") && String::from_utf8_lossy(bytes).contains("web")
            })
            .then_some(())
    });
    let before = (identity(&east), identity(&west));

    // The importer.
    let listens = second.kill();
    let begun = Instant::now();
    let second = west.start_at(&listens, &[]);
    let answer = dig(second.dns(), WEB, RecordType::A);
    assert_eq!((code(&answer), address(&answer).map(Into::into)), (ResponseCode::NoError, Some(at.ip())));
    until("traffic", || said_by(at));
    let importer = begun.elapsed();
    assert_eq!(identity(&west), before.1);

    // The exporter.
    let listens = first.kill();
    let begun = Instant::now();
    let first = east.start_at(&listens, &[]);
    until("traffic", || said_by(at));
    let exporter = begun.elapsed();
    assert_eq!(identity(&east), before.0);
    until_active(&west, &["east"]);
    until_active(&east, &["west"]);
    assert_eq!(east.json("token list")["tokens"].as_array().map(Vec::len), Some(1));
    println!("traffic again after: importer {importer:?}, exporter {exporter:?}");
    // Four times the figure: this runs beside other tests on a busy host. The figure itself is printed.
    assert!(importer < AGAIN * 4 && exporter < AGAIN * 4, "{importer:?} {exporter:?}");

    // Both, and only the importer comes back: it answers at once from what it kept.
    first.kill();
    let listens = second.kill();
    let second = west.start_at(&listens, &[]);
    assert_eq!(address(&dig(second.dns(), WEB, RecordType::A)).map(Into::into), Some(at.ip()));
    assert_eq!(west.json("peers")["peers"][0]["cluster"], "east");
}

/// An application that greets everybody and then keeps the connection; its address.
fn keeper() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    std::thread::spawn(move || {
        let mut kept = Vec::new();
        for mut client in listener.incoming().flatten() {
            let _ = client.write_all(b"east");
            kept.push(client);
        }
    });
    address
}

/// A connection that stands, through a gateway.
fn standing(at: SocketAddr) -> Option<TcpStream> {
    let mut stream = TcpStream::connect(at).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(10))).expect("set");
    let mut greeting = [0; 4];
    stream.read_exact(&mut greeting).ok()?;
    Some(stream)
}

/// Silence takes 3 s to be believed. That the host of a killed gateway says so too is believed sooner, whichever
/// side dialled.
#[test]
fn a_killed_gateway_whose_host_says_so_is_given_up_long_before_silence_would_be() {
    for (dialler, numbers) in [("east", (149, 154)), ("west", (155, 156))] {
        let (east, west) = (Cluster::new("east", numbers.0), Cluster::new("west", numbers.1));
        let (first, second) = (east.start(), west.start());
        east.tombolo(&format!("export web.shop={} --port 8080", keeper())).well();
        let (joiner, other) = if dialler == "west" { (&west, &east) } else { (&east, &west) };
        joiner.join(&other.token()).well();
        let at = until("the name is served", || place(second.dns(), WEB, 8080));
        let mut standing = until("a connection", || standing(at));
        first.kill();
        let begun = Instant::now();
        let ended = standing.read(&mut [0; 1]);
        let took = begun.elapsed();
        println!("dialled by {dialler}: reset after {took:?}");
        assert!(ended.is_err_and(|error| error.kind() == ErrorKind::ConnectionReset));
        assert!(took < Duration::from_secs(2), "{took:?}");
        let (state, cause) = link_of(&west, "east");
        assert!(state == "down" && cause.contains("nobody listens"), "{state}: {cause}");
    }
}

/// The state, the age and the cause of the link to `peer`, as people and programs are told.
fn link_of(cluster: &Cluster, peer: &str) -> (String, String) {
    let row = cluster.json(&format!("peers {peer}"))["peers"][0].clone();
    let link = if row["link"].is_null() { ("down", &row["link_down"]) } else { ("", &row["link"]) };
    let state = link.1["state"].as_str().unwrap_or(link.0).to_owned();
    (state, link.1["cause"].as_str().unwrap_or_default().to_owned())
}

#[test]
fn a_gateway_that_stands_still_is_told_as_suspect_and_then_as_down() {
    let (east, west) = (Cluster::new("east", 196), Cluster::new("west", 197));
    let (first, second) = (east.start(), west.start());
    let app = application("east");
    east.tombolo(&format!("export web.shop={app} --port 8080")).well();
    west.join(&east.token()).well();
    let at = until("the name is served", || place(second.dns(), WEB, 8080));
    until("traffic", || said_by(at));
    assert_eq!(link_of(&west, "east").0, "up");
    first.signal(nix::sys::signal::Signal::SIGSTOP);
    // While somebody waits, the lane is probed often.
    let _waiting = TcpStream::connect(at).expect("connected");
    let (_, cause) = until("suspect", || Some(link_of(&west, "east")).filter(|link| link.0 == "suspect"));
    assert!(cause.starts_with("no answer"), "{cause}");
    let table = west.tombolo("peers").well();
    assert!(table.contains("link to") && table.contains("suspect for"), "{table}");
    let (_, cause) = until("down", || Some(link_of(&west, "east")).filter(|link| link.0 == "down"));
    assert!(cause.starts_with("no answer"), "{cause}");
    first.signal(nix::sys::signal::Signal::SIGCONT);
    until("up again", || (link_of(&west, "east").0 == "up").then_some(()));
    let shown = west.tombolo("peers east").well();
    assert!(!shown.contains("last dial") && !shown.contains("another lane"), "{shown}");
}
