//! Real packets over real sockets on loopback, built and read with hickory's codec.

use std::{
    collections::BTreeSet,
    net::Ipv4Addr,
    str::FromStr,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, Query, ResponseCode},
    rr::{DNSClass, Name, RData, RecordType},
};
use proptest::{collection, prelude::*};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use super::*;
use crate::{
    model::{
        catalog::Protocol,
        limits,
        testing::instant,
        zone::fixture::{Maps, port, row},
    },
    net::dns_sockets,
    supervise::{Shutdown, Tasks},
};

const PATIENCE: Duration = Duration::from_secs(10);

fn inputs(maps: Maps, seen: &Arc<Mutex<Vec<Observed>>>) -> Inputs {
    let (maps, seen): (Arc<Maps>, _) = (Arc::new(maps), Arc::clone(seen));
    let seeds = AtomicU64::new(1);
    Inputs {
        newest: Box::new(move || Arc::clone(&maps) as Arc<dyn ZoneSource>),
        now: Box::new(instant),
        seed: Box::new(move || seeds.fetch_add(1, Ordering::Relaxed)),
        observe: Box::new(move |one| seen.lock().expect("no panic").push(one)),
    }
}

struct Running {
    dns: Dns,
    /// Their tasks end with them.
    _shards: Shards,
    seen: Arc<Mutex<Vec<Observed>>>,
}

impl Running {
    /// Two sockets of UDP, as a gateway of two shards has them.
    async fn with(maps: Maps) -> Self {
        let (udp, tcp) = dns_sockets((Ipv4Addr::LOCALHOST, 0).into(), 2).expect("sockets");
        let shards = Shards::inline(2, &Tasks::new(Shutdown::new()), instant());
        let seen = Arc::default();
        let dns = Dns::start(udp, tcp, inputs(maps, &seen), &shards).expect("started");
        Self { dns, _shards: shards, seen }
    }

    #[expect(clippy::disallowed_types, reason = "a client's socket")]
    async fn udp(&self, packet: &[u8]) -> Vec<u8> {
        let socket = tokio::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("UDP");
        socket.send_to(packet, self.dns.addresses().udp[0]).await.expect("sent");
        let mut buffer = vec![0; 65_535];
        let length = timeout(PATIENCE, socket.recv(&mut buffer)).await.expect("in time").expect("received");
        buffer.truncate(length);
        buffer
    }

    #[expect(clippy::disallowed_types, reason = "a client's socket")]
    async fn connect(&self) -> tokio::net::TcpStream {
        tokio::net::TcpStream::connect(self.dns.addresses().tcp).await.expect("connected")
    }

    async fn tcp(&self, packet: &[u8]) -> Vec<u8> {
        let mut stream = self.connect().await;
        exchange(&mut stream, packet).await
    }

    async fn ask(&self, message: &Message) -> Message {
        decode(&self.udp(&message.to_vec().expect("encodes")).await)
    }
}

#[expect(clippy::disallowed_types, reason = "a client's socket")]
async fn exchange(stream: &mut tokio::net::TcpStream, packet: &[u8]) -> Vec<u8> {
    let length = u16::try_from(packet.len()).expect("small").to_be_bytes();
    stream.write_all(&[&length[..], packet].concat()).await.expect("sent");
    let length = timeout(PATIENCE, stream.read_u16()).await.expect("in time").expect("received");
    let mut reply = vec![0; length.into()];
    stream.read_exact(&mut reply).await.expect("whole");
    reply
}

fn decode(packet: &[u8]) -> Message {
    Message::from_vec(packet).expect("a message")
}

fn question(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(4_711, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).expect("a name"), kind));
    message
}

fn with_edns(mut message: Message, size: u16, version: u8) -> Message {
    let mut edns = Edns::new();
    edns.set_max_payload(size).set_version(version).set_dnssec_ok(true);
    message.set_edns(edns);
    message
}

/// A headless service with so many endpoints.
fn crowd(count: usize) -> Maps {
    let mut maps = Maps::empty();
    let hostnames: Vec<_> = (0..count).map(|i| format!("e{i}")).collect();
    let endpoints: Vec<_> = hostnames.iter().map(|hostname| (hostname.as_str(), true)).collect();
    maps.add("data/big", &[("east", row("data/big", &[port("pg", 5432, Protocol::Tcp)], &endpoints))]);
    maps
}

#[tokio::test]
async fn an_address_is_answered_with_authority_and_the_question_as_it_was_asked() {
    let running = Running::with(Maps::sample()).await;
    let asked = question("WeB.sHoP.svc.ClusterSet.Local.", RecordType::A);
    let reply = running.ask(&asked).await;
    assert_eq!((reply.metadata.id, reply.metadata.message_type), (4_711, MessageType::Response));
    assert_eq!(reply.metadata.response_code, ResponseCode::NoError);
    assert!(reply.metadata.authoritative && reply.metadata.recursion_desired);
    assert!(!reply.metadata.recursion_available && !reply.metadata.truncation);
    let original = &asked.queries[0].name;
    assert!(reply.queries[0].name.eq_case(original), "{}", reply.queries[0].name);
    assert!(reply.answers[0].name.eq_case(original), "{}", reply.answers[0].name);
    assert_eq!(reply.answers[0].ttl, 5);
    assert!(matches!(reply.answers[0].data, RData::A(ip) if ip.0.octets()[..2] == [127, 77]));
    assert_eq!((reply.answers.len(), reply.edns), (1, None));
}

#[tokio::test]
async fn an_absent_type_and_an_unknown_name_come_with_soa() {
    let running = Running::with(Maps::sample()).await;
    for (name, kind, rcode) in [
        ("web.shop.svc.clusterset.local.", RecordType::AAAA, ResponseCode::NoError),
        ("nope.shop.svc.clusterset.local.", RecordType::A, ResponseCode::NXDomain),
    ] {
        let reply = running.ask(&question(name, kind)).await;
        assert_eq!((reply.metadata.response_code, reply.answers.len()), (rcode, 0), "{name}");
        let RData::SOA(soa) = &reply.authorities[0].data else { panic!("no SOA for {name}") };
        assert_eq!((soa.minimum, reply.authorities[0].name.to_string().as_str()), (5, "clusterset.local."));
        assert!(reply.metadata.authoritative);
    }
}

#[tokio::test]
async fn srv_tells_the_bound_port_and_the_targets_address() {
    let running = Running::with(Maps::sample()).await;
    let reply = running.ask(&question("_http._tcp.web.shop.svc.clusterset.local.", RecordType::SRV)).await;
    let RData::SRV(srv) = &reply.answers[0].data else { panic!("no SRV") };
    assert_eq!((srv.port, srv.target.to_string().as_str()), (20_080, "web.shop.svc.clusterset.local."));
    assert_eq!(reply.additionals[0].name, srv.target);
    assert!(matches!(reply.additionals[0].data, RData::A(_)));
    let version = running.ask(&question("dns-version.clusterset.local.", RecordType::TXT)).await;
    assert_eq!((version.answers[0].data.to_string().as_str(), version.answers[0].ttl), ("1.0.0", 28_800));
}

#[tokio::test]
async fn other_zones_classes_and_whole_zones_are_refused() {
    let running = Running::with(Maps::sample()).await;
    let mut chaos = question("version.bind.", RecordType::TXT);
    chaos.queries[0].query_class = DNSClass::CH;
    for message in [
        question("example.com.", RecordType::A),
        question("web.shop.svc.clusterset.local.", RecordType::ANY),
        question("clusterset.local.", RecordType::AXFR),
        question(".", RecordType::NS),
        chaos,
    ] {
        let reply = running.ask(&message).await;
        assert_eq!(reply.metadata.response_code, ResponseCode::Refused, "{:?}", message.queries);
        assert!(!reply.metadata.authoritative && reply.authorities.is_empty());
    }
}

#[tokio::test]
async fn an_unsynced_gateway_does_not_deny() {
    let running = Running::with(Maps { synced: false, ..Maps::sample() }).await;
    let reply = running.ask(&question("nope.shop.svc.clusterset.local.", RecordType::A)).await;
    assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
    let known = running.ask(&question("web.shop.svc.clusterset.local.", RecordType::A)).await;
    assert_eq!(known.metadata.response_code, ResponseCode::NoError);
}

#[tokio::test]
async fn edns_is_answered_with_edns_and_a_newer_version_with_badvers() {
    let running = Running::with(Maps::sample()).await;
    let plain = question("web.shop.svc.clusterset.local.", RecordType::A);
    let edns = running.ask(&with_edns(plain.clone(), 4_096, 0)).await.edns.expect("an OPT record");
    assert_eq!((edns.max_payload(), edns.version(), edns.flags().dnssec_ok), (1_232, 0, true));
    let small = running.ask(&with_edns(plain.clone(), 100, 0)).await.edns.expect("an OPT record");
    assert_eq!(small.max_payload(), 512);

    let reply = running.udp(&with_edns(plain, 1_232, 1).to_vec().expect("encodes")).await;
    let message = decode(&reply);
    let edns = message.edns.expect("an OPT record");
    // BADVERS is 16: its low half is in the header, its high half in the OPT record.
    assert_eq!((reply[3] & 0x0f, edns.rcode_high(), edns.version(), message.answers.len()), (0, 1, 0, 0));
}

#[tokio::test]
async fn what_does_not_fit_is_cut_and_comes_whole_over_tcp() {
    let running = Running::with(crowd(200)).await;
    let plain = question("big.data.svc.clusterset.local.", RecordType::A);
    for (message, limit) in [
        (plain.clone(), 512),
        (with_edns(plain.clone(), 600, 0), 600),
        (with_edns(plain.clone(), 65_535, 0), 1_232),
    ] {
        let packet = running.udp(&message.to_vec().expect("encodes")).await;
        assert!(packet.len() <= limit && packet.len() > limit - 64, "{} of {limit}", packet.len());
        let reply = decode(&packet);
        assert!(reply.metadata.truncation);
        assert_eq!(reply.edns.is_some(), message.edns.is_some(), "the OPT record is never cut");
    }
    let whole = decode(&running.tcp(&plain.to_vec().expect("encodes")).await);
    assert_eq!((whole.answers.len(), whole.metadata.truncation), (200, false));
}

#[tokio::test]
async fn additional_records_that_do_not_fit_are_no_truncation() {
    let running = Running::with(crowd(12)).await;
    let message = with_edns(question("big.data.svc.clusterset.local.", RecordType::SRV), 1_232, 0);
    let few = running.ask(&message).await;
    assert_eq!((few.answers.len(), few.additionals.len(), few.metadata.truncation), (12, 12, false));
    let message = with_edns(question("big.data.svc.clusterset.local.", RecordType::SRV), 900, 0);
    let fewer = running.ask(&message).await;
    assert_eq!((fewer.answers.len(), fewer.metadata.truncation), (12, false));
    assert!(fewer.additionals.len() < 12 && fewer.edns.is_some());
}

#[tokio::test]
async fn answers_come_in_changing_order() {
    let running = Running::with(crowd(8)).await;
    let message = question("big.data.svc.clusterset.local.", RecordType::A);
    let mut orders = BTreeSet::new();
    for _ in 0..10 {
        let reply = running.ask(&message).await;
        orders.insert(reply.answers.iter().map(|record| record.data.to_string()).collect::<Vec<_>>());
    }
    assert!(orders.len() > 1);
    let sorted = |order: &Vec<String>| order.iter().cloned().collect::<BTreeSet<_>>();
    assert_eq!(orders.iter().map(sorted).collect::<BTreeSet<_>>().len(), 1);
}

#[tokio::test]
async fn only_one_question_of_opcode_query_is_answered() {
    let running = Running::with(Maps::sample()).await;
    let mut notify = question("clusterset.local.", RecordType::SOA);
    notify.metadata.op_code = OpCode::Notify;
    assert_eq!(running.ask(&notify).await.metadata.response_code, ResponseCode::NotImp);
    let none = Message::new(1, MessageType::Query, OpCode::Query);
    assert_eq!(running.ask(&none).await.metadata.response_code, ResponseCode::FormErr);
    let mut two = question("clusterset.local.", RecordType::SOA);
    two.add_query(Query::query(Name::from_str("clusterset.local.").expect("a name"), RecordType::NS));
    assert_eq!(running.ask(&two).await.metadata.response_code, ResponseCode::FormErr);
    let garbage = [&[0, 9, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0][..], &[0xff; 4]].concat();
    for reply in [running.udp(&garbage).await, running.tcp(&garbage).await] {
        assert_eq!((&reply[..2], reply[3] & 0x0f), (&[0, 9][..], 1));
    }
}

#[tokio::test]
async fn one_connection_carries_many_questions() {
    let running = Running::with(Maps::sample()).await;
    let mut stream = running.connect().await;
    let packet = question("web.shop.svc.clusterset.local.", RecordType::A).to_vec().expect("encodes");
    for _ in 0..3 {
        assert_eq!(decode(&exchange(&mut stream, &packet).await).answers.len(), 1);
    }
}

#[tokio::test]
async fn connections_beyond_the_cap_wait_for_their_turn() {
    let running = Running::with(Maps::sample()).await;
    let packet = question("web.shop.svc.clusterset.local.", RecordType::A).to_vec().expect("encodes");
    let mut open = Vec::new();
    for _ in 0..limits::DNS_TCP_CONNECTIONS_MAX {
        let mut stream = running.connect().await;
        exchange(&mut stream, &packet).await;
        open.push(stream);
    }
    let mut late = running.connect().await;
    let mut waiting = Box::pin(exchange(&mut late, &packet));
    assert!(timeout(Duration::from_millis(50), &mut waiting).await.is_err(), "answered beyond the cap");
    open.pop();
    assert_eq!(decode(&waiting.await).answers.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_is_closed() {
    let (client, server) = tokio::io::duplex(64);
    let responder = Responder::new(inputs(Maps::sample(), &Arc::default()));
    let mut conversation = Box::pin(tcp::converse(server, (Ipv4Addr::LOCALHOST, 1).into(), &responder));
    let almost = limits::DNS_TCP_TIMEOUT - Duration::from_millis(1);
    assert!(timeout(almost, &mut conversation).await.is_err(), "closed too soon");
    timeout(Duration::from_millis(2), conversation).await.expect("closed in time");
    drop(client);
}

#[tokio::test]
async fn shutdown_ends_everything_and_frees_the_addresses() {
    let running = Running::with(Maps::sample()).await;
    let addresses = running.dns.addresses().clone();
    let mut stream = running.connect().await;
    timeout(PATIENCE, running.dns.shutdown()).await.expect("in time").expect("no failure");
    let mut byte = [0];
    assert_eq!(stream.read(&mut byte).await.unwrap_or(0), 0, "the connection is closed");
    #[expect(clippy::disallowed_types, reason = "to see that the address is free")]
    tokio::net::UdpSocket::bind(addresses.udp[0]).await.expect("free again");
}

#[tokio::test]
async fn each_answer_is_observed() {
    let running = Running::with(Maps::sample()).await;
    running.ask(&question("web.shop.svc.clusterset.local.", RecordType::A)).await;
    running.tcp(&question("nope.clusterset.local.", RecordType::TXT).to_vec().expect("encodes")).await;
    running.ask(&with_edns(question("example.com.", RecordType::HTTPS), 1_232, 9)).await;
    let seen = running.seen.lock().expect("no panic");
    let seen: Vec<_> = seen.iter().map(|one| (one.kind, one.rcode)).collect();
    assert_eq!(seen, [("A", "NOERROR"), ("TXT", "NXDOMAIN"), ("other", "BADVERS")]);
}

#[tokio::test]
async fn a_failing_part_is_heard_of() {
    let mut running = Running::with(Maps::sample()).await;
    assert!(timeout(Duration::ZERO, running.dns.failed()).await.is_err(), "a healthy server does not fail");
    running.dns.stop.cancel();
    assert!(matches!(timeout(PATIENCE, running.dns.failed()).await, Ok(DnsError::Ended)));
}

fn any_packet() -> impl Strategy<Value = Vec<u8>> {
    let valid = question("_http._tcp.web.shop.svc.clusterset.local.", RecordType::SRV);
    let valid = with_edns(valid, 1_232, 0).to_vec().expect("encodes");
    let changed =
        collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6).prop_map(move |changes| {
            let mut packet = valid.clone();
            for (at, byte) in changes {
                let at = at.index(packet.len());
                packet[at] = byte;
            }
            packet
        });
    prop_oneof![collection::vec(any::<u8>(), 0..600), changed]
}

proptest! {
    #[test]
    fn no_packet_breaks_it_and_answers_are_messages(packet in any_packet(), over_tcp in any::<bool>()) {
        use hickory_server::net::xfer::Protocol::{Tcp, Udp};
        let responder = Responder::new(inputs(Maps::sample(), &Arc::default()));
        let from = (Ipv4Addr::LOCALHOST, 53).into();
        let reply = responder.reply_to_packet(packet.clone(), from, if over_tcp { Tcp } else { Udp });
        if let Some(reply) = reply {
            prop_assert_eq!(&reply[..2], &packet[..2]);
            prop_assert!(reply[2] & 0x80 != 0, "a response");
            prop_assert!(over_tcp || reply.len() <= 1_232);
        } else {
            prop_assert!(packet.len() < 12 || packet[2] & 0x80 != 0, "only those stay without an answer");
        }
    }
}
