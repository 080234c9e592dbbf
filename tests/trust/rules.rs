//! Rules that change while streams run: what they allow no more is cut within a second, on whichever side they are.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::mpsc::{Receiver, channel},
    time::{Duration, Instant},
};

use crate::{
    gateway::{Cluster, Gateway, Listens, until, until_active},
    names::place,
};

/// Within this a changed rule has to hold.
const AT_ONCE: Duration = Duration::from_secs(1);
const NAME: &str = "web.shop.svc.clusterset.local.";

/// An application that hands its connections to the test.
fn application() -> (SocketAddr, Receiver<TcpStream>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    let (give, take) = channel();
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            if give.send(client).is_err() {
                return;
            }
        }
    });
    (address, take)
}

/// East, which exports, and west, which has a client in the middle of a conversation.
struct Talk {
    east: (Cluster, Gateway),
    west: (Cluster, Gateway),
    served: Receiver<TcpStream>,
    at: SocketAddr,
}

const OPEN: &str = "[[caller]]\nsource = \"127.0.0.0/8\"\nidentity = \"ns/shop/sa/cart\"\n";

/// What gives east's export to west, when nobody gets it by default.
fn given(default: &str) -> String {
    let grant = "[[grant]]\nexports = [\"shop/*\"]\npeers = [\"west\"]\n";
    format!("default_grant = \"{default}\"\n{}", if default == "none" { grant } else { "" })
}

impl Talk {
    fn new(numbers: (u8, u8), default: &str) -> Self {
        let (east, west) = (Cluster::new("east", numbers.0), Cluster::new("west", numbers.1));
        let config = |cluster: &Cluster, rules: &str| cluster.file("c.toml", rules);
        let (address, served) = application();
        let first = east.start_at(&Listens::free(), &["--config", &config(&east, &given(default))]);
        let second = west.start_at(&Listens::free(), &["--config", &config(&west, OPEN)]);
        west.join(&east.token()).well();
        until_active(&east, &["west"]);
        east.tombolo(&format!("export web.shop={address} --port 8080")).well();
        let at = until(NAME, || place(second.dns(), NAME, 8080));
        Self { east: (east, first), west: (west, second), served, at }
    }

    /// Both ends of a conversation.
    fn streams(&self) -> [TcpStream; 2] {
        let pair = until("a conversation", || {
            let mut client = TcpStream::connect(self.at).ok()?;
            client.write_all(b"x").ok()?;
            let mut served = self.served.recv_timeout(AT_ONCE).ok()?;
            served.set_read_timeout(Some(AT_ONCE)).ok()?;
            served.read_exact(&mut [0]).ok()?;
            Some([client, served])
        });
        for stream in &pair {
            stream.set_read_timeout(Some(Duration::from_secs(20))).expect("set");
        }
        pair
    }

    /// Under this rule both ends are cut within a second, and no other is let in; under the old ones they are again.
    /// Returns how long that took.
    fn cut_by(&self, (cluster, gateway): &(Cluster, Gateway), rules: &str, old: &str) -> Duration {
        let reload = |rules: &str| {
            cluster.file("c.toml", rules);
            gateway.signal(nix::sys::signal::Signal::SIGHUP);
        };
        let mut streams = self.streams();
        let begun = Instant::now();
        reload(rules);
        for stream in &mut streams {
            let end = stream.read(&mut [0]).map_err(|error| error.kind());
            assert_eq!(end, Err(std::io::ErrorKind::ConnectionReset), "{rules}");
        }
        let took = begun.elapsed();
        assert!(took < AT_ONCE, "{rules} took {took:?}");
        let mut late = TcpStream::connect(self.at).map(|stream| (stream, [0; 1]));
        if let Ok((stream, byte)) = &mut late {
            let _ = stream.write_all(b"x");
            assert!(!matches!(stream.read(byte), Ok(1..)), "a new one was let in");
        }
        while self.served.try_recv().is_ok() {}
        reload(old);
        drop(self.streams());
        took
    }
}

/// Tries every rule; how long each took.
fn every_rule_cuts(numbers: (u8, u8), default: &str) -> Vec<Duration> {
    let talk = Talk::new(numbers, default);
    let old = given(default);
    let callers = "callers = [\"spiffe://nobody.test/ns/shop/sa/pay\"]";
    let exporter = [
        "default_grant = \"none\"\n[[grant]]\nexports = [\"shop/*\"]\npeers = [\"north\"]\n".to_owned(),
        format!(
            "default_grant = \"{default}\"\n[[grant]]\nexports = [\"shop/*\"]\npeers = [\"west\"]\n{callers}\n"
        ),
        format!("{old}[[guardrail]]\nexports = [\"shop/*\"]\npeers = [\"west\"]\n"),
    ];
    let mut took: Vec<_> = exporter.iter().map(|rules| talk.cut_by(&talk.east, rules, &old)).collect();
    let importer = [
        format!("{OPEN}[[egress]]\nnames = [\"shop/*\"]\ncallers = [\"ns/pay/sa/*\"]\n"),
        format!("{OPEN}[[import]]\nnames = [\"shop/*\"]\npeers = [\"east\"]\naction = \"refuse\"\n"),
    ];
    took.extend(importer.iter().map(|rules| talk.cut_by(&talk.west, rules, OPEN)));
    took
}

#[test]
fn a_changed_rule_cuts_what_runs_within_a_second_on_both_sides_where_nothing_is_granted_by_default() {
    println!("cut after {:?}", every_rule_cuts((177, 176), "none"));
}

#[test]
fn a_changed_rule_cuts_what_runs_within_a_second_on_both_sides_in_a_clusterset() {
    println!("cut after {:?}", every_rule_cuts((175, 174), "clusterset"));
}

#[test]
fn a_pause_cuts_what_runs_and_a_grant_in_audit_mode_cuts_nothing() {
    let talk = Talk::new((173, 172), "clusterset");
    let mut streams = talk.streams();
    let audit = "[[grant]]\nexports = [\"shop/*\"]\npeers = [\"north\"]\nmode = \"audit\"\n";
    talk.east.0.file("c.toml", &format!("{}{audit}", given("clusterset")));
    talk.east.1.signal(nix::sys::signal::Signal::SIGHUP);
    until("the grant is there", || {
        let domain = talk.east.0.json("peers west")["peers"][0]["trust_domain"].as_str()?.to_owned();
        let told = talk
            .east
            .0
            .tombolo(&format!("authz explain --from spiffe://{domain}/ns/shop/sa/cart --to web.shop"));
        told.well().contains("audit").then_some(())
    });
    let [client, served] = &mut streams;
    client.write_all(b"y").expect("it lives");
    served.read_exact(&mut [0]).expect("it lives");
    let begun = Instant::now();
    talk.west.0.tombolo("peer pause east").well();
    for stream in &mut streams {
        let end = stream.read(&mut [0]).map_err(|error| error.kind());
        assert_eq!(end, Err(std::io::ErrorKind::ConnectionReset));
    }
    assert!(begun.elapsed() < AT_ONCE * 2, "{:?}", begun.elapsed());
    talk.west.0.tombolo("peer resume east").well();
    drop(talk.streams());
}
