//! Rules 18 to 33 as a table of questions and answers, and that no name, however odd, breaks anything.

use proptest::{collection, prelude::*, sample};

use super::{fixture::*, *};
use crate::model::{
    code::Code,
    ids::{ClusterId, ServiceLabel},
    testing::instant,
};

/// An answer as one line: rcode, `aa`, answers, `soa`, additionals.
fn line(answer: &Answer) -> String {
    let record = |record: &Record| {
        let owner = match &record.owner {
            Owner::Asked => String::new(),
            Owner::Named(name) => format!("{name} "),
        };
        let data = match &record.data {
            Data::A(ip) => format!("A {ip}"),
            Data::Srv { priority, weight, port, target } => {
                format!("SRV {priority} {weight} {port} {target}")
            }
            Data::Txt(text) => format!("TXT {text:?}"),
            Data::Ns(name) => format!("NS {name}"),
            Data::Soa(soa) => format!("SOA {} {} {} {}", soa.server, soa.contact, soa.serial, soa.minimum),
        };
        format!("{owner}{} {data}", record.ttl)
    };
    let mut parts = vec![format!("{:?}{}", answer.rcode, if answer.authoritative { " aa" } else { "" })];
    parts.extend(answer.answers.iter().map(record));
    parts.extend(answer.soa.iter().map(|_| "soa".to_owned()));
    parts.extend(answer.additionals.iter().map(|extra| format!("+ {}", record(extra))));
    parts.join(" | ")
}

fn check(maps: &Maps, kind: QueryType, name: &str, expected: &str) {
    assert_eq!(line(&maps.ask(name, kind, instant())), expected, "{} {name}", kind.label());
}

const ABSENT: &str = "NoError aa | soa";
const DENIED: &str = "NxDomain aa | soa";
const REFUSED: &str = "Refused";

fn service_ip(maps: &Maps, text: &str) -> Ipv4Addr {
    maps.virtual_ips.get(&VipKey::Service(name(text))).expect("assigned")
}

fn endpoint_ip(maps: &Maps, service: &str, cluster: &str, hostname: &str) -> Ipv4Addr {
    let label = ServiceLabel::parse(hostname).expect("label");
    let key = VipKey::Endpoint(name(service), ClusterId::parse(cluster).expect("id"), label);
    maps.virtual_ips.get(&key).expect("assigned")
}

#[test]
fn the_apex_and_the_version_are_as_the_standard_says() {
    let maps = Maps::sample();
    let soa = "NoError aa | 5 SOA ns.clusterset.local hostmaster.clusterset.local 7 5";
    check(&maps, QueryType::Soa, "clusterset.local.", soa);
    check(&maps, QueryType::Ns, "clusterset.local.", "NoError aa | 5 NS ns.clusterset.local");
    check(&maps, QueryType::A, "clusterset.local.", ABSENT);
    check(&maps, QueryType::Txt, "dns-version.clusterset.local.", "NoError aa | 28800 TXT \"1.0.0\"");
    check(&maps, QueryType::A, "dns-version.clusterset.local.", ABSENT);
    check(&maps, QueryType::A, "ns.clusterset.local.", ABSENT);
    let with_server = Maps { server: Some(Ipv4Addr::new(10, 0, 0, 53)), ..Maps::sample() };
    check(&with_server, QueryType::A, "ns.clusterset.local.", "NoError aa | 5 A 10.0.0.53");
}

#[test]
fn a_service_is_its_virtual_ip_and_has_no_ipv6() {
    let maps = Maps::sample();
    let web = service_ip(&maps, "shop/web");
    check(&maps, QueryType::A, "web.shop.svc.clusterset.local.", &format!("NoError aa | 5 A {web}"));
    check(&maps, QueryType::A, "WeB.sHoP.SVC.ClusterSet.LOCAL", &format!("NoError aa | 5 A {web}"));
    check(&maps, QueryType::Aaaa, "web.shop.svc.clusterset.local.", ABSENT);
    check(&maps, QueryType::Txt, "web.shop.svc.clusterset.local.", ABSENT);
    check(&maps, QueryType::Other(65), "web.shop.svc.clusterset.local.", ABSENT);
}

#[test]
fn srv_tells_named_ports_as_they_are_bound() {
    let maps = Maps::sample();
    let web = service_ip(&maps, "shop/web");
    let zone = "web.shop.svc.clusterset.local";
    let (http, metrics) = (format!("5 SRV 0 1 20080 {zone}"), format!("5 SRV 0 1 9090 {zone}"));
    let extra = format!("+ {zone} 5 A {web}");
    check(&maps, QueryType::Srv, &format!("_http._tcp.{zone}"), &format!("NoError aa | {http} | {extra}"));
    check(&maps, QueryType::Srv, &format!("_HTTP._TCP.{zone}"), &format!("NoError aa | {http} | {extra}"));
    check(&maps, QueryType::Srv, zone, &format!("NoError aa | {http} | {metrics} | {extra}"));
    check(&maps, QueryType::A, &format!("_http._tcp.{zone}"), ABSENT);
    check(&maps, QueryType::A, &format!("_tcp.{zone}"), ABSENT);
    check(&maps, QueryType::Srv, &format!("_tcp.{zone}"), ABSENT);
    for missing in ["_http._udp", "_udp", "_nope._tcp", "_._tcp", "http._tcp", "_http.tcp", "_sctp"] {
        check(&maps, QueryType::Srv, &format!("{missing}.{zone}"), DENIED);
    }
}

#[test]
fn srv_of_the_bare_name_lists_a_number_once_and_no_unnamed_port() {
    let maps = Maps::sample();
    let (ip, zone) = (service_ip(&maps, "shop/hello"), "hello.shop.svc.clusterset.local");
    let one = format!("NoError aa | 5 SRV 0 1 42 {zone} | + {zone} 5 A {ip}");
    check(&maps, QueryType::Srv, zone, &one);
    check(&maps, QueryType::Srv, &format!("_hello-udp._udp.{zone}"), &one);
}

#[test]
fn headless_names_are_their_ready_endpoints() {
    let maps = Maps::sample();
    let (east, west) =
        (endpoint_ip(&maps, "data/db", "east", "db-0"), endpoint_ip(&maps, "data/db", "west", "db-0"));
    let zone = "db.data.svc.clusterset.local";
    check(&maps, QueryType::A, zone, &format!("NoError aa | 5 A {east} | 5 A {west}"));
    check(&maps, QueryType::Aaaa, zone, ABSENT);
    check(&maps, QueryType::A, &format!("db-0.east.{zone}"), &format!("NoError aa | 5 A {east}"));
    check(&maps, QueryType::A, &format!("DB-0.West.{zone}"), &format!("NoError aa | 5 A {west}"));
    check(&maps, QueryType::Aaaa, &format!("db-0.west.{zone}"), ABSENT);
    check(&maps, QueryType::A, &format!("db-1.east.{zone}"), DENIED);
    check(&maps, QueryType::A, &format!("db-0.north.{zone}"), DENIED);
}

#[test]
fn headless_srv_is_one_record_for_each_endpoint_and_port_it_exposes() {
    let maps = Maps::sample();
    let (east, west) =
        (endpoint_ip(&maps, "data/db", "east", "db-0"), endpoint_ip(&maps, "data/db", "west", "db-0"));
    let zone = "db.data.svc.clusterset.local";
    let pg = |cluster: &str| format!("5 SRV 0 1 5432 db-0.{cluster}.{zone}");
    let metrics = format!("5 SRV 0 1 9090 db-0.west.{zone}");
    let extra = |cluster: &str, ip: Ipv4Addr| format!("+ db-0.{cluster}.{zone} 5 A {ip}");
    let (of_east, of_west) = (extra("east", east), extra("west", west));
    let all = format!("NoError aa | {} | {} | {metrics} | {of_east} | {of_west}", pg("east"), pg("west"));
    check(&maps, QueryType::Srv, zone, &all);
    let one = format!("NoError aa | {} | {} | {of_east} | {of_west}", pg("east"), pg("west"));
    check(&maps, QueryType::Srv, &format!("_pg._tcp.{zone}"), &one);
    let of_metrics = format!("NoError aa | {metrics} | {of_west}");
    check(&maps, QueryType::Srv, &format!("_metrics._tcp.{zone}"), &of_metrics);
    check(&maps, QueryType::Srv, &format!("db-0.east.{zone}"), ABSENT);
}

#[test]
fn a_headless_name_without_a_ready_endpoint_does_not_exist() {
    let maps = Maps::sample();
    for below in ["", "_pg._tcp.", "_tcp.", "idle-0.east.", "east."] {
        check(&maps, QueryType::A, &format!("{below}idle.data.svc.clusterset.local"), DENIED);
        check(&maps, QueryType::Srv, &format!("{below}idle.data.svc.clusterset.local"), DENIED);
    }
}

#[test]
fn forbidden_and_unknown_forms_have_no_records() {
    let maps = Maps::sample();
    for (below, expected) in [
        ("east.web.shop.svc", DENIED),
        ("x.east.web.shop.svc", DENIED),
        ("north.db.data.svc", DENIED),
        ("east.db.data.svc", ABSENT), // db-0.east.db.data.svc lies below it
        ("a.db-0.east.db.data.svc", DENIED),
        ("nope.shop.svc", DENIED),
        ("web.nope.svc", DENIED),
        ("nope.svc", DENIED),
        ("nope", DENIED),
        ("1.0.77.127.in-addr.arpa", DENIED),
        ("*.shop.svc", DENIED),
        ("a.dns-version", DENIED),
    ] {
        for kind in [QueryType::A, QueryType::Srv, QueryType::Other(12)] {
            check(&maps, kind, &format!("{below}.clusterset.local"), expected);
        }
    }
}

#[test]
fn empty_names_between_others_exist_without_records() {
    let maps = Maps::sample();
    for existing in ["svc", "shop.svc", "data.svc", "SHOP.svc"] {
        check(&maps, QueryType::A, &format!("{existing}.clusterset.local"), ABSENT);
    }
    check(&Maps::empty(), QueryType::A, "svc.clusterset.local", ABSENT);
    check(&Maps::empty(), QueryType::A, "shop.svc.clusterset.local", DENIED);
}

#[test]
fn before_the_catalogs_are_there_a_miss_is_not_denied() {
    let maps = Maps { synced: false, ..Maps::sample() };
    let web = service_ip(&maps, "shop/web");
    check(&maps, QueryType::A, "web.shop.svc.clusterset.local", &format!("NoError aa | 5 A {web}"));
    check(&maps, QueryType::Aaaa, "web.shop.svc.clusterset.local", ABSENT);
    let unknown =
        ["nope.shop.svc", "nope.svc", "db-9.east.db.data.svc", "idle.data.svc", "_x._tcp.web.shop.svc"];
    for below in unknown {
        check(&maps, QueryType::A, &format!("{below}.clusterset.local"), "ServFail");
    }
    check(&maps, QueryType::A, "no.name.of.ours.clusterset.local", DENIED);
}

#[test]
fn an_import_without_an_address_yet_is_not_denied() {
    let mut maps = Maps::sample();
    maps.virtual_ips = Maps::empty().virtual_ips;
    for below in ["web.shop.svc", "db.data.svc", "db-0.east.db.data.svc"] {
        check(&maps, QueryType::A, &format!("{below}.clusterset.local"), "ServFail");
    }
}

#[test]
fn other_zones_and_whole_zones_are_refused() {
    let maps = Maps::sample();
    for other in [
        "example.com",
        "local",
        "web.shop.svc.cluster.local",
        "xclusterset.local",
        "clusterset.local.example",
    ] {
        check(&maps, QueryType::A, other, REFUSED);
    }
    check(&maps, QueryType::Any, "web.shop.svc.clusterset.local", REFUSED);
    check(&maps, QueryType::Transfer, "clusterset.local", REFUSED);
    let root = answer(&Question { labels: &[], kind: QueryType::Ns }, &maps, instant());
    assert_eq!(root.rcode, Rcode::Refused);
}

#[test]
fn a_large_headless_service_answers_with_as_many_endpoints_as_fit() {
    let mut maps = Maps::empty();
    let hostnames: Vec<_> = (0..1_000).map(|i| format!("e{i}")).collect();
    let endpoints: Vec<_> = hostnames.iter().map(|hostname| (hostname.as_str(), true)).collect();
    let ports = [port("a", 1, Protocol::Tcp), port("b", 2, Protocol::Tcp)];
    maps.add("data/big", &[("east", row("data/big", &ports, &endpoints))]);
    let answers = |kind| maps.ask("big.data.svc.clusterset.local", kind, instant()).answers.len();
    assert_eq!(
        (answers(QueryType::A), answers(QueryType::Srv)),
        (limits::DNS_RECORDS_MAX, limits::DNS_RECORDS_MAX)
    );
    assert_eq!(maps.ask("e999.east.big.data.svc.clusterset.local", QueryType::A, instant()).answers.len(), 1);
}

#[test]
fn a_miss_is_final_when_every_missing_catalog_had_its_time() {
    let seconds = Duration::from_secs;
    assert!(misses_are_final(true, seconds(0), []));
    assert!(!misses_are_final(false, seconds(60), []));
    assert!(!misses_are_final(true, seconds(4), [None]));
    assert!(misses_are_final(true, seconds(5), [None]));
    assert!(!misses_are_final(true, seconds(100), [None, Some(seconds(29))]));
    assert!(misses_are_final(true, seconds(100), [None, Some(seconds(30))]));
}

#[test]
fn zones_are_parsed_strictly() {
    assert_eq!(ZoneName::parse("ClusterSet.Local.").expect("a zone").as_str(), "clusterset.local");
    for bad in ["", ".", "a..b", "-a.b", "a_b", "a b", &"x.".repeat(100)] {
        assert!(ZoneName::parse(bad).is_err(), "{bad:?} was accepted");
    }
}

#[test]
fn rows_whose_names_dns_cannot_carry_are_refused() {
    let zone = ZoneName::parse("clusterset.local").expect("a zone");
    let long = "x".repeat(63);
    let service = format!("{long}/{long}");
    let east = ClusterId::parse(&long).expect("id");
    assert_eq!(zone.check(&east, &row(&service, &[port("http", 80, Protocol::Tcp)], &[])), Ok(()));
    let error = zone.check(&east, &row(&service, &[], &[(&long, true)])).expect_err("five long labels");
    assert_eq!(error.code(), Code::NAME_TOO_LONG);
}

proptest! {
    #[test]
    fn no_labels_break_the_zone(
        below in collection::vec(collection::vec(any::<u8>(), 0..70), 0..8),
        inside in any::<bool>(),
        kind in any::<u16>(),
        synced in any::<bool>(),
    ) {
        let maps = Maps { synced, ..Maps::sample() };
        let mut labels: Vec<&[u8]> = below.iter().map(Vec::as_slice).collect();
        if inside {
            labels.extend([&b"svc"[..], b"clusterset", b"LOCAL"]);
        }
        let answer = answer(&Question { labels: &labels, kind: QueryType::from_number(kind) }, &maps, instant());
        prop_assert!(answer.soa.is_none() || answer.answers.is_empty());
        prop_assert_eq!(answer.authoritative, matches!(answer.rcode, Rcode::NoError | Rcode::NxDomain));
    }

    /// Whatever is asked near names that exist: case changes nothing, all answers are alike in form.
    #[test]
    fn case_never_matters(
        parts in collection::vec(
            sample::select(vec!["web", "shop", "svc", "db", "data", "east", "db-0", "_tcp", "_http", "_pg"]), 0..6),
        kind in sample::select(vec![QueryType::A, QueryType::Aaaa, QueryType::Srv, QueryType::Soa]),
        upper in any::<u64>(),
    ) {
        let maps = Maps::sample();
        let mut text = parts.join(".");
        text.push_str(if parts.is_empty() { "clusterset.local" } else { ".clusterset.local" });
        let mixed: String = text
            .chars()
            .enumerate()
            .map(|(i, c)| if upper >> (i % 64) & 1 == 1 { c.to_ascii_uppercase() } else { c })
            .collect();
        prop_assert_eq!(maps.ask(&mixed, kind, instant()), maps.ask(&text, kind, instant()));
    }

    /// RFC 8020: what is denied has nothing below it.
    #[test]
    fn nothing_lies_below_a_denied_name(
        parts in collection::vec(
            sample::select(vec!["web", "shop", "svc", "db", "data", "east", "db-0", "_tcp", "_http", "_pg"]), 1..6),
    ) {
        let maps = Maps::sample();
        let rcode = |parts: &[&str]| maps.ask(&format!("{}.clusterset.local", parts.join(".")), QueryType::A, instant()).rcode;
        if rcode(&parts[1..]) == Rcode::NxDomain && parts.len() > 1 {
            prop_assert_eq!(rcode(&parts), Rcode::NxDomain);
        }
    }
}

#[test]
fn a_name_is_not_answered_before_somebody_listens_there() {
    let (mut maps, now) = (Maps::sample(), instant());
    let asked = [
        ("hello.shop.svc.clusterset.local.", QueryType::A),
        ("hello.shop.svc.clusterset.local.", QueryType::Srv),
        ("_hello._tcp.hello.shop.svc.clusterset.local.", QueryType::Srv),
    ];
    let key = VipKey::Service(ServiceName::parse("shop/hello").expect("a name"));
    maps.opening = maps.virtual_ips.get(&key);
    for (name, kind) in asked {
        assert_eq!(maps.ask(name, kind, now).rcode, Rcode::ServFail, "{name}");
    }
    let other = maps.ask("web.shop.svc.clusterset.local.", QueryType::A, now);
    assert_eq!(other.answers.len(), 1);
    maps.opening = None;
    for (name, kind) in asked {
        assert!(!maps.ask(name, kind, now).answers.is_empty(), "{name}");
    }
}
