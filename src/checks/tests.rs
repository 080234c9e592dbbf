//! Against real sockets: who is asked how, and what the state says of it.

use std::{net::Ipv4Addr, time::Duration};

use super::*;
use crate::{
    files::Memory,
    model::{
        catalog::{Export, ExportPort, ExportSource, Port, Traffic},
        ids::{ClusterId, GatewayId, Incarnation, Locality, ServiceName, Timestamp, TrustDomain},
        state::{Me, Settings},
        virtual_ip::VirtualIps,
    },
    net::{Os, TcpListen},
    supervise::Shutdown,
};

const SOON: Duration = Duration::from_secs(20);

fn listen() -> (Box<dyn TcpListen>, SocketAddr) {
    let listener = Os::default().tcp_listen((Ipv4Addr::LOCALHOST, 0).into(), 1).expect("bound").remove(0);
    let address = listener.local_addr().expect("bound");
    (listener, address)
}

fn parts() -> Parts {
    let (clock, tasks) = (Clock::system(), Tasks::inline(Shutdown::new()));
    let me = Me {
        cluster: ClusterId::parse("east").expect("an id"),
        trust_domain: TrustDomain::parse("east.tombolo").expect("a domain"),
        gateway: GatewayId::parse("g1").expect("an id"),
        locality: Locality::default(),
    };
    let ips = VirtualIps::new("127.77.0.0/18".parse().expect("a network")).expect("large enough");
    let state = State::new(me, Settings::default(), ips);
    let persist = Arc::new(Memory::new());
    let store = Store::start(state, persist, "gateways/g1".to_owned(), clock.clone(), &tasks);
    Parts { store, ledger: Ledger::new(clock.clone()), net: Arc::new(Os::default()), clock, tasks }
}

fn export(to: &[SocketAddr], ask: Option<Ask>) -> Export {
    let interval = Duration::from_millis(20);
    let health = ask.map(|ask| HealthCheck { ask, interval, timeout: Duration::from_secs(5) });
    let (name, app_protocol) = ("http".into(), "".into());
    let port = Port { name, number: 80, protocol: Protocol::Tcp, app_protocol };
    Export {
        name: ServiceName::parse("default/web").expect("a name"),
        ports: vec![ExportPort { port, to: to.to_vec(), health }],
        endpoints: Vec::new(),
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
        idempotent: false,
        session_affinity: None,
        traffic: Traffic::default(),
        headless: false,
        created: Timestamp(1),
        incarnation: Incarnation([1; 16]),
        source: ExportSource::State,
    }
}

/// Waits until so many endpoints are ready in the import.
async fn ready(parts: &Parts, wanted: u32) {
    let name = ServiceName::parse("default/web").expect("a name");
    let mut states = parts.store.watch();
    let is_so = |state: &Arc<State>| {
        let zones =
            state.imports.get(&name).and_then(|import| import.clusters.first()).map(|part| &part.zones);
        zones.is_some_and(|zones| zones.iter().map(|zone| zone.ready).sum::<u32>() == wanted)
    };
    timeout(SOON, states.wait_for(is_so)).await.expect("in time").expect("the store runs");
}

#[tokio::test]
async fn an_endpoint_that_takes_no_connection_is_not_counted_until_it_does() {
    let parts = parts();
    start(parts.clone());
    let ((_up, up), (down, address)) = (listen(), listen());
    drop(down);
    parts.store.apply(Event::Exported(export(&[up, address], Some(Ask::Tcp)))).await.expect("stored");
    ready(&parts, 1).await;
    let back = Os::default().tcp_listen(address, 1).expect("bound again");
    ready(&parts, 2).await;
    drop(back);
    ready(&parts, 1).await;
    parts.store.apply(Event::Exported(export(&[up, address], None))).await.expect("stored");
    ready(&parts, 2).await;
    parts.tasks.shutdown().stop("the test is over");
}

#[tokio::test]
async fn http_is_asked_for_a_status_from_200_to_399() {
    let parts = parts();
    start(parts.clone());
    let (mut listener, address) = listen();
    let (say, mut said) = tokio::sync::watch::channel("HTTP/1.1 204 No Content\r\n\r\n");
    let serve = async move {
        loop {
            let (mut stream, _) = listener.accept().await.expect("accepted");
            let mut request = [0; 22];
            stream.read_exact(&mut request).await.expect("a request");
            assert_eq!(&request, b"GET /healthz HTTP/1.1\r");
            let answer = *said.borrow_and_update();
            // The check may have what it wants already.
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    };
    let asking = async {
        let http = Some(Ask::Http("/healthz".to_owned()));
        parts.store.apply(Event::Exported(export(&[address], http))).await.expect("stored");
        for (answer, count) in [
            ("HTTP/1.1 503 Service Unavailable\r\n\r\n", 0),
            ("HTTP/1.0 200 OK\r\n\r\n", 1),
            ("SSH-2.0-OpenSSH_10.0\r\n", 0),
            ("HTTP/1.1 301 Moved Permanently\r\n\r\n", 1),
        ] {
            say.send_replace(answer);
            ready(&parts, count).await;
        }
    };
    tokio::select! {
        biased;
        () = serve => {}
        () = asking => {}
    }
    parts.tasks.shutdown().stop("the test is over");
}
