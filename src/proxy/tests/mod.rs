//! Two clusters over loopback: real QUIC between them, real TCP at both ends.

mod awaited;
mod carry;
mod early;
mod endpoints;
mod race;
mod truncation;
mod world;
mod young;

use std::{io, sync::Arc};

use federation_proto::v1;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use self::world::{
    Cluster, Limits, Runtimes, SOON, Unprivileged, accept, application, ask, export, export_of,
    nothing_there, read, read_to_end, soon, write,
};
use super::*;
use crate::{
    model::{
        catalog::Export,
        code::Code,
        policy::{DefaultGrant, Grants, ImportAction, ImportRule, NamePattern, PeerPattern},
        state::{Event, Settings},
        virtual_ip::BindingState,
    },
    net::{Net as _, Os, Stream, TcpListen},
};

/// Two linked clusters: `west` exports a service with these endpoints, `east` imports it.
async fn pair(to: &[std::net::SocketAddr]) -> (Cluster, Cluster, Export) {
    let (mut east, mut west) = (Cluster::start("east").await, Cluster::start("west").await);
    east.join(&mut west).await;
    let export = export("default/web", to);
    west.offer(&export, &[&east]);
    (east, west, export)
}

#[tokio::test]
async fn bytes_travel_both_ways_and_a_half_close_leaves_the_other_way_open() {
    let (mut application, address) = application();
    let (east, west, export) = pair(&[address]).await;
    let mut client = east.call(&export).await;
    write(&mut client, b"hello").await;
    let mut served = accept(&mut application).await;
    assert_eq!(read(&mut served, 5).await, b"hello");
    client.shutdown().await.expect("half-closed");
    assert_eq!(read_to_end(&mut served).await.expect("a proper end"), b"");
    let large = vec![7; 3 * 1024 * 1024];
    let (sent, received) = tokio::join!(
        async {
            served.write_all(&large).await.expect("written");
            served.shutdown().await
        },
        read_to_end(&mut client)
    );
    sent.expect("ended");
    assert!(received.expect("a proper end") == large, "every byte, in order");
    assert_eq!((east.count("connected"), west.count("served")), (1, 1));
    east.end().await;
    west.end().await;
}

#[tokio::test]
async fn a_server_may_speak_first() {
    let (mut application, address) = application();
    let (east, west, export) = pair(&[address]).await;
    let mut client = east.call(&export).await;
    let mut served = accept(&mut application).await;
    write(&mut served, b"SSH-2.0").await;
    assert_eq!(read(&mut client, 7).await, b"SSH-2.0");
    write(&mut client, b"SSH-2.0-client").await;
    assert_eq!(read(&mut served, 14).await, b"SSH-2.0-client");
    east.end().await;
    west.end().await;
}

#[tokio::test]
async fn a_reset_arrives_as_a_reset_in_either_direction() {
    let (mut application, address) = application();
    let (east, west, export) = pair(&[address]).await;
    for client_resets in [true, false] {
        let mut client = east.call(&export).await;
        write(&mut client, b"x").await;
        let mut served = accept(&mut application).await;
        read(&mut served, 1).await;
        let (cut, mut other) = if client_resets { (client, served) } else { (served, client) };
        cut.reset_on_close().expect("set");
        drop(cut);
        let error = read_to_end(&mut other).await.expect_err("never a proper end");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "client resets: {client_resets}");
    }
    east.end().await;
    west.end().await;
}

#[tokio::test]
async fn a_link_that_ends_resets_what_it_carried() {
    let (mut application, address) = application();
    let (east, west, export) = pair(&[address]).await;
    let mut client = east.call(&export).await;
    write(&mut client, b"x").await;
    let mut served = accept(&mut application).await;
    read(&mut served, 1).await;
    west.cut_links();
    for end in [&mut client, &mut served] {
        let error = read_to_end(end).await.expect_err("never a proper end");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }
    east.end().await;
    west.end().await;
}

#[tokio::test]
async fn a_refusing_endpoint_is_passed_over_by_the_far_gateway() {
    let (mut application, address) = application();
    let (east, west, export) = pair(&[nothing_there(), address]).await;
    for _ in 0..8 {
        let mut client = east.call(&export).await;
        write(&mut client, b"x").await;
        assert_eq!(read(&mut accept(&mut application).await, 1).await, b"x");
    }
    assert_eq!((west.ledger.unhealthy_endpoints().len(), east.ledger.unhealthy().len()), (1, 0));
    east.end().await;
    west.end().await;
}

#[tokio::test]
async fn a_local_endpoint_comes_first_and_a_peer_takes_over_when_it_refuses() {
    let (mut far, far_address) = application();
    let (mut near, near_address) = application();
    let (east, west, export) = pair(&[far_address]).await;
    let mut own = export.clone();
    own.ports[0].to = vec![near_address];
    east.offer(&own, &[]);
    let mut client = east.call(&export).await;
    write(&mut client, b"near").await;
    assert_eq!(read(&mut accept(&mut near).await, 4).await, b"near");
    drop(near);
    let mut client = east.call(&export).await;
    write(&mut client, b"far").await;
    assert_eq!(read(&mut accept(&mut far).await, 3).await, b"far", "the same first bytes");
    let explained = east.proxy.explain(&export.name).expect("known");
    assert_eq!(explained[0].considered.len(), 2);
    assert_eq!(explained[0].considered[0].cluster, east.id);
    east.end().await;
    west.end().await;
}

#[tokio::test]
async fn when_all_refuse_the_client_is_reset() {
    let (east, west, export) = pair(&[nothing_there()]).await;
    let mut client = east.call(&export).await;
    let error = read_to_end(&mut client).await.expect_err("reset");
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    assert_eq!((east.count("refused"), west.count("refused")), (1, 1));
    east.end().await;
    west.end().await;
}

#[tokio::test]
async fn an_unknown_export_and_an_ungranted_one_get_the_same_answer() {
    let (_application, address) = application();
    let (east, west, export) = pair(&[address]).await;
    let lane = east.links.registry().best(&west.id).expect("up");
    let known = west.identity.export_id(east.identity.trust_domain(), &export.name, export.incarnation);
    let caller = |domain: &str| format!("spiffe://{domain}/ns/default/sa/unknown");
    let own = caller(east.identity.trust_domain().as_str());
    let header = |id: &[u8], caller: &str| v1::StreamHeader {
        export_id: id.to_vec(),
        port: export.ports[0].port.number.into(),
        caller: caller.to_owned(),
        ..v1::StreamHeader::default()
    };
    let (.., outcome) = ask(&lane, &header(&known.0, &own)).await;
    assert!(matches!(outcome, v1::open_reply::Outcome::Connected(_)));
    let (.., unknown) = ask(&lane, &header(&[3; 16], &own)).await;
    let foreign = caller(west.identity.trust_domain().as_str());
    let (.., of_another_domain) = ask(&lane, &header(&known.0, &foreign)).await;
    let grants = Grants { default: DefaultGrant::None, ..Grants::default() };
    west.apply(Event::Settings(Settings { grants, ..Settings::default() }));
    let ungranted = soon(async {
        loop {
            let (.., outcome) = ask(&lane, &header(&known.0, &own)).await;
            if !matches!(outcome, v1::open_reply::Outcome::Connected(_)) {
                return outcome;
            }
        }
    })
    .await;
    assert_eq!(unknown, ungranted);
    assert_eq!(unknown, of_another_domain);
    let v1::open_reply::Outcome::Refused(refused) = unknown else { panic!("refused") };
    assert_eq!((refused.origin(), refused.code.as_str()), (v1::Origin::Policy, "TMB-2402"));
    east.end().await;
    west.end().await;
}

/// A client's connection to `export` through `through` in the middle of a conversation, and its other end.
async fn talking(
    through: &Cluster,
    export: &Export,
    application: &mut Box<dyn TcpListen>,
) -> (Box<dyn Stream>, Box<dyn Stream>) {
    let mut client = through.call(export).await;
    write(&mut client, b"x").await;
    let mut served = accept(application).await;
    assert_eq!(read(&mut served, 1).await, b"x");
    (client, served)
}

#[tokio::test]
async fn the_only_endpoint_of_the_only_cluster_is_tried_although_it_is_ejected() {
    let address = nothing_there();
    let (east, west, export) = pair(&[address]).await;
    for _ in 0..4 {
        let mut client = east.call(&export).await;
        read_to_end(&mut client).await.expect_err("refused");
    }
    assert_eq!((east.ledger.unhealthy().len(), west.ledger.unhealthy_endpoints().len()), (1, 1));
    let mut application = Os::default().tcp_listen(address, 1).expect("the application is back").remove(0);
    let (client, served) = talking(&east, &export, &mut application).await;
    drop((client, served));
    east.end().await;
    west.end().await;
}

#[tokio::test]
async fn what_is_open_is_cut_when_its_export_its_grant_or_its_import_goes() {
    let (mut application, address) = application();
    let (east, west, export) = pair(&[address]).await;
    let is_reset = |error: io::Error| assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    let (mut client, mut served) = talking(&east, &export, &mut application).await;
    let other = Grants { default: DefaultGrant::Clusterset, ..Grants::default() };
    west.apply(Event::Settings(Settings { grants: other, introductions: true, ..Settings::default() }));
    write(&mut client, b"y").await;
    assert_eq!(read(&mut served, 1).await, b"y", "another setting cuts nothing");
    let grants = Grants { default: DefaultGrant::None, ..Grants::default() };
    west.apply(Event::Settings(Settings { grants, ..Settings::default() }));
    is_reset(read_to_end(&mut client).await.expect_err("the grant is gone"));
    is_reset(read_to_end(&mut served).await.expect_err("the grant is gone"));

    west.apply(Event::Settings(Settings::default()));
    let (mut client, mut served) = talking(&east, &export, &mut application).await;
    let rule = |peer: &str| ImportRule {
        names: vec![NamePattern::parse("*/*").expect("a pattern")],
        peers: vec![PeerPattern::parse(peer).expect("a pattern")],
        action: ImportAction::Deny,
        alias: None,
        merge: true,
    };
    let importing = |peer| Settings { imports: vec![rule(peer)], ..Settings::default() };
    east.apply(Event::Settings(importing("north")));
    write(&mut client, b"y").await;
    assert_eq!(read(&mut served, 1).await, b"y", "what is taken from another peer is no matter of this one");
    east.apply(Event::Settings(importing("west")));
    is_reset(read_to_end(&mut client).await.expect_err("it is imported no more"));
    is_reset(read_to_end(&mut served).await.expect_err("it is imported no more"));

    east.apply(Event::Settings(Settings::default()));
    let (mut client, mut served) = talking(&east, &export, &mut application).await;
    let (mut own, mut own_served) = talking(&west, &export, &mut application).await;
    west.apply(Event::Unexported(export.name.clone()));
    for end in [&mut client, &mut served, &mut own, &mut own_served] {
        is_reset(read_to_end(end).await.expect_err("the export is gone"));
    }
    east.end().await;
    west.end().await;
}

#[tokio::test]
async fn an_endpoint_of_a_headless_service_is_reached_by_its_own_address() {
    let (mut first, first_address) = application();
    let other = std::net::SocketAddr::new([127, 0, 0, 2].into(), first_address.port());
    let mut second = Os::default().tcp_listen(other, 1).expect("bound").remove(0);
    let (mut east, mut west) = (Cluster::start("east").await, Cluster::start("west").await);
    east.join(&mut west).await;
    let mut export = export("default/db", &[first_address, other]);
    export.headless = true;
    west.offer(&export, &[&east]);
    for (application, hostname) in [(&mut first, "127-0-0-1"), (&mut second, "127-0-0-2")] {
        let hostname = ServiceLabel::parse(hostname).expect("a label");
        let key = VipKey::Endpoint(export.name.clone(), west.id.clone(), hostname);
        let address = east.binding_of(&key, &export, BindingState::Listening).await;
        let mut client = Os::default().tcp_connect(address, SOON).await.expect("connected");
        write(&mut client, b"x").await;
        assert_eq!(read(&mut accept(application).await, 1).await, b"x");
    }
    east.end().await;
    west.end().await;
}

#[tokio::test]
async fn a_port_that_may_not_be_bound_moves_up() {
    let (mut application, address) = application();
    let east = Cluster::start_with("east", Arc::new(Unprivileged), &Runtimes::Inline(1), 1_024).await;
    let export = export_of("default/web", 80, &[address]);
    east.offer(&export, &[]);
    assert_eq!(east.binding(&export, BindingState::Listening).await.port(), 20_080);
    let mut client = east.call(&export).await;
    write(&mut client, b"x").await;
    assert_eq!(read(&mut accept(&mut application).await, 1).await, b"x");
    east.end().await;
}

#[tokio::test]
async fn an_import_that_nobody_can_serve_does_not_listen_until_somebody_can() {
    let (_application, address) = application();
    let (mut east, mut west) = (Cluster::start("east").await, Cluster::start("west").await);
    east.join(&mut west).await;
    let mut export = export("default/web", &[]);
    west.offer(&export, &[&east]);
    let silent = east.binding(&export, BindingState::NoCandidate).await;
    let error = Os::default().tcp_connect(silent, SOON).await.expect_err("nobody listens");
    assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    export.ports[0].to = vec![address];
    west.offer(&export, &[&east]);
    east.call(&export).await;
    west.cut_links();
    let gone = east.binding(&export, BindingState::NoCandidate).await;
    let error = Os::default().tcp_connect(gone, SOON).await.expect_err("nobody listens");
    assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    east.apply(Event::Catalog(crate::model::state::CatalogChange {
        peer: west.id.clone(),
        position: None,
        rows: Vec::new(),
        swept: vec![export.name.clone()],
    }));
    soon(async {
        while !east.ledger.bindings().is_empty() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    east.end().await;
    west.end().await;
}

#[tokio::test]
async fn a_taken_port_is_told_and_nothing_else_suffers() {
    let (_application, address) = application();
    let east = Cluster::start("east").await;
    let (first, second) = (export("default/first", &[address]), export("default/second", &[address]));
    let ip = {
        // Its address is chosen by its name, so it can be known before.
        let mut state = (*east.state()).clone();
        state.apply(Event::Exported(first.clone()), crate::model::ids::Timestamp(1));
        state.virtual_ips.get(&VipKey::Service(first.name.clone())).expect("assigned")
    };
    let _taken = Os::default().tcp_listen((ip, first.ports[0].port.number).into(), 1).expect("bound");
    east.offer(&first, &[]);
    east.offer(&second, &[]);
    east.binding(&second, BindingState::Listening).await;
    east.binding(&first, BindingState::Failed(Code::VIRTUAL_PORT_TAKEN)).await;
    assert!(east.ledger.noted(0).iter().any(|noted| noted.text.contains("TMB-2208")));
    east.end().await;
}

#[tokio::test]
async fn listeners_share_half_of_the_open_files_and_the_rest_is_told() {
    let (mut application, address) = application();
    // Three sockets for two shards: the second import makes the first give one back.
    let east = Cluster::start_with("east", Arc::new(Os::default()), &Runtimes::Inline(2), 6).await;
    let exports = ["a", "b", "c", "d"].map(|name| export(&format!("default/{name}"), &[address]));
    for export in &exports[..3] {
        east.offer(export, &[]);
        east.binding(export, BindingState::Listening).await;
    }
    east.offer(&exports[3], &[]);
    east.binding(&exports[3], BindingState::Failed(Code::LISTENER_LIMIT)).await;
    for export in &exports[..3] {
        let mut client = east.call(export).await;
        write(&mut client, b"x").await;
        assert_eq!(read(&mut accept(&mut application).await, 1).await, b"x");
    }
    east.end().await;
}

#[tokio::test]
async fn on_threads_a_connection_moves_to_the_shard_of_its_lane() {
    let (mut application, address) = application();
    let runtimes = Runtimes::Threads(2);
    let mut east = Cluster::start_with("east", Arc::new(Os::default()), &runtimes, 1_024).await;
    let mut west = Cluster::start_with("west", Arc::new(Os::default()), &runtimes, 1_024).await;
    east.join(&mut west).await;
    let export = export("default/web", &[address]);
    west.offer(&export, &[&east]);
    // The kernel spreads them over both shards; the lane lives on one.
    for round in 0..16u8 {
        let mut client = east.call(&export).await;
        write(&mut client, &[round]).await;
        let mut served = accept(&mut application).await;
        assert_eq!(read(&mut served, 1).await, [round]);
        write(&mut served, &[round, round]).await;
        assert_eq!(read(&mut client, 2).await, [round, round]);
        client.shutdown().await.expect("half-closed");
        assert_eq!(served.read(&mut [0; 8]).await.expect("an end"), 0);
    }
    east.end().await;
    west.end().await;
}

#[tokio::test]
async fn as_many_connections_are_carried_as_were_configured() {
    let (mut application, address) = application();
    let mut east = Cluster::start("east").await;
    let proxy = ProxyLimits { connections: 1, ..ProxyLimits::default() };
    let limits = Limits { proxy, ..Limits::default() };
    let mut west =
        Cluster::start_within("west", (Arc::new(Os::default()), &Runtimes::Inline(2)), 1_024, limits).await;
    east.join(&mut west).await;
    let export = export("default/web", &[address]);
    west.offer(&export, &[&east]);
    let first = talking(&east, &export, &mut application).await;
    assert_eq!((west.proxy.connections(), east.proxy.connections()), (1, 1));
    let mut second = east.call(&export).await;
    read_to_end(&mut second).await.expect_err("refused");
    drop(first);
    let third = soon(async {
        while west.proxy.connections() > 0 {
            tokio::task::yield_now().await;
        }
        talking(&east, &export, &mut application).await
    });
    drop(third.await);
    east.end().await;
    west.end().await;
}

#[tokio::test]
async fn shutting_down_lets_what_is_open_finish() {
    let (mut application, address) = application();
    let (east, west, export) = pair(&[address]).await;
    let mut client = east.call(&export).await;
    write(&mut client, b"x").await;
    let mut served = accept(&mut application).await;
    read(&mut served, 1).await;
    let listened = east.binding(&export, BindingState::Listening).await;
    let drained = async {
        soon(async {
            while let Ok(visitor) = Os::default().tcp_connect(listened, SOON).await {
                // Ended in peace it would wait for an answer of the application, which has none.
                visitor.reset_on_close().expect("a socket option");
                tokio::task::yield_now().await;
            }
        })
        .await;
        write(&mut served, b"done").await;
        served.shutdown().await.expect("ended");
        client.shutdown().await.expect("ended");
        read_to_end(&mut client).await
    };
    let (finished, ()) = tokio::join!(drained, east.proxy.shutdown());
    assert_eq!(finished.expect("a proper end"), b"done");
    assert_eq!(east.proxy.connections(), 0);
    east.end().await;
    west.end().await;
}

#[tokio::test]
async fn what_does_not_finish_while_draining_is_reset() {
    let (mut application, address) = application();
    let (east, west, export) = pair(&[address]).await;
    let mut client = east.call(&export).await;
    write(&mut client, b"x").await;
    let mut served = accept(&mut application).await;
    read(&mut served, 1).await;
    west.proxy.shutdown_within(Duration::ZERO).await;
    for end in [&mut client, &mut served] {
        let error = read_to_end(end).await.expect_err("never a proper end");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }
    east.end().await;
    west.end().await;
}
