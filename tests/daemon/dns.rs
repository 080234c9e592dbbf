//! DNS by packets: every form of question a client or a curious person sends.

use hickory_proto::{op::ResponseCode, rr::RecordType};

use crate::{
    gateway::{Cluster, Listens, until, until_active},
    names::{address, application, code, dig, dig_tcp, place, port, said_by},
};

const WEB: &str = "web.shop.svc.clusterset.local.";

#[test]
fn every_form_of_question_gets_its_answer() {
    let (east, west) = (Cluster::new("east", 165), Cluster::new("west", 166));
    let (_first, second) = (east.start(), west.start());
    let app = application("east");
    east.tombolo(&format!("export web.shop={app} --port 8080")).well();
    west.join(&east.token()).well();
    let server = second.dns();
    until("the name is served", || place(server, WEB, 8080));
    let a = dig(server, WEB, RecordType::A);
    let ip = address(&a).expect("an address");
    assert!(
        code(&a) == ResponseCode::NoError && a.metadata.authoritative && ip.octets()[..2] == [127, 166],
        "{a}"
    );
    assert_eq!(a.answers[0].ttl, 5);
    // No data is not an error, and says for how long that holds.
    let aaaa = dig(server, WEB, RecordType::AAAA);
    assert!(
        code(&aaaa) == ResponseCode::NoError && aaaa.answers.is_empty() && aaaa.authorities.len() == 1,
        "{aaaa}"
    );
    let srv = dig(server, &format!("_tcp-8080._tcp.{WEB}"), RecordType::SRV);
    assert_eq!((code(&srv), port(&srv)), (ResponseCode::NoError, Some(8080)));
    assert_eq!(address(&dig(server, &WEB.to_uppercase(), RecordType::A)), Some(ip));
    assert_eq!(address(&dig_tcp(server, WEB, RecordType::A)), Some(ip));
    let unknown = dig(server, "nope.shop.svc.clusterset.local.", RecordType::A);
    assert!(code(&unknown) == ResponseCode::NXDomain && unknown.authorities.len() == 1, "{unknown}");
    assert_eq!(code(&dig(server, "www.example.org.", RecordType::A)), ResponseCode::Refused);
    assert_eq!(code(&dig_tcp(server, "www.example.org.", RecordType::A)), ResponseCode::Refused);
    // A name is answered as soon as it is known, its listener stands a moment later.
    let said = until("a connection is carried", || said_by((ip, 8080).into()));
    assert_eq!(said, "east");
}

#[test]
fn before_a_known_peer_was_ever_heard_a_miss_is_no_final_answer() {
    let (east, west) = (Cluster::new("east", 167), Cluster::new("west", 168));
    let (first, second) = (east.start(), west.start());
    west.join(&east.token()).well();
    until_active(&west, &["east"]);
    first.kill();
    let listens = second.kill();
    // Nothing of the peer is cached, as after a first start whose cache was lost.
    for place in std::fs::read_dir(west.state().join("gateways")).expect("places") {
        let _ = std::fs::remove_dir_all(place.expect("an entry").path().join("catalog"));
    }
    let second = west.start_at(&Listens { quic: listens.quic, ..Listens::free() }, &[]);
    assert_eq!(code(&dig(second.dns(), WEB, RecordType::A)), ResponseCode::ServFail);
    until("the miss is final", || {
        (code(&dig(second.dns(), WEB, RecordType::A)) == ResponseCode::NXDomain).then_some(())
    });
}

/// Port 80 may not be bound by everybody: the service stands on 20080 and every door says so.
#[test]
fn a_port_that_needs_a_privilege_moves_up_and_says_so() {
    let east = Cluster::new("east", 169);
    let app = application("east");
    let export = format!("web.shop={app}");
    if nix::unistd::geteuid().is_root() {
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::create_dir(east.state()).expect("a folder");
        std::os::unix::fs::chown(east.state(), Some(65_534), Some(65_534)).expect("given away");
        std::fs::set_permissions(east.folder(), std::fs::Permissions::from_mode(0o711)).expect("open");
    }
    let config = east.file(
        "c.toml",
        &format!(
            "[[export]]\nnamespace = \"shop\"\nname = \"web\"\n[[export.port]]\nport = 80\nto = [\"{app}\"]\n"
        ),
    );
    let first_free =
        std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap_or_default();
    if first_free.trim().parse::<u16>().is_ok_and(|port| port <= 80) {
        // This system lets everybody have port 80: there is nothing to move.
        return;
    }
    let gateway = if nix::unistd::geteuid().is_root() {
        east.start_as_nobody(&["--config", &config])
    } else {
        east.start_at(&Listens::free(), &["--config", &config])
    };
    let at = until("the name is served", || place(gateway.dns(), WEB, 80).filter(|at| at.port() != 80));
    assert_eq!(at.port(), 20_080, "{export}");
    assert_eq!(until("a connection is carried", || said_by(at)), "east");
    let status = east.tombolo("status").well();
    assert!(status.contains("TMB-2") && status.contains("20080 serves it"), "{status}");
}
