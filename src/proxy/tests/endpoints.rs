//! Endpoints that refuse, and endpoints that are silent, beside one that serves.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use quinn::AsyncUdpSocket;

use super::{
    super::endpoints::{Endpoints, Wanted},
    *,
};
use crate::{
    clock::Clock,
    ledger::Ledger,
    model::limits::{CONNECT_STAGGER, CONNECT_TIMEOUT},
    net::{BoxFuture, Net, QuicSocket},
};

/// The system's network, but those addresses answer nobody.
#[derive(Debug)]
struct Mute(Vec<SocketAddr>);

impl Net for Mute {
    fn quic_group(&self, addr: SocketAddr, shards: usize) -> io::Result<Vec<Box<dyn QuicSocket>>> {
        Os::default().quic_group(addr, shards)
    }
    fn quic_dial(&self, local: IpAddr) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        Os::default().quic_dial(local)
    }
    fn tcp_listen(&self, addr: SocketAddr, listeners: usize) -> io::Result<Vec<Box<dyn TcpListen>>> {
        Os::default().tcp_listen(addr, listeners)
    }
    fn tcp_connect(
        &self,
        addr: SocketAddr,
        timeout: Duration,
    ) -> BoxFuture<'static, io::Result<Box<dyn Stream>>> {
        if self.0.contains(&addr) {
            return Box::pin(async move {
                tokio::time::sleep(timeout).await;
                Err(io::ErrorKind::TimedOut.into())
            });
        }
        Os::default().tcp_connect(addr, timeout)
    }
    fn resolve(&self, host: &str, port: u16) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> {
        Os::default().resolve(host, port)
    }
}

fn endpoints(mute: &[SocketAddr]) -> Endpoints {
    let clock = Clock::system();
    Endpoints::new(Arc::new(Mute(mute.to_vec())), clock.clone(), Ledger::new(clock))
}

fn wanted(export: &Export) -> Wanted {
    Wanted { port: export.ports[0].port.number, ..Wanted::default() }
}

fn addresses(last_bytes: std::ops::Range<u8>) -> Vec<SocketAddr> {
    last_bytes.map(|byte| SocketAddr::from(([192, 0, 2, byte], 9))).collect()
}

#[tokio::test(start_paused = true)]
async fn silent_endpoints_get_company_and_cost_no_timeout() {
    let listeners = Os::default().tcp_listen("127.0.0.1:0".parse().expect("an address"), 1).expect("bound");
    let serves = listeners[0].local_addr().expect("bound");
    let mut all = addresses(1..3);
    let endpoints = endpoints(&all);
    all.push(serves);
    let export = export("default/three", &all);
    for _ in 0..6 {
        let began = endpoints.now();
        let connected = endpoints.connect(&export, &wanted(&export)).await.expect("one of them serves");
        assert_eq!(connected.address, serves);
        assert!(endpoints.now() - began <= CONNECT_STAGGER * 2, "{:?}", endpoints.now() - began);
    }
}

#[tokio::test(start_paused = true)]
async fn when_all_are_silent_the_last_of_them_has_its_whole_time() {
    let all = addresses(1..3);
    let (endpoints, export) = (endpoints(&all), export("default/mute", &all));
    let began = endpoints.now();
    let refusal = endpoints.connect(&export, &wanted(&export)).await.expect_err("nobody answers");
    assert_eq!(refusal.code, Code::ENDPOINT_TIMED_OUT);
    let took = endpoints.now() - began;
    assert!(took >= CONNECT_TIMEOUT && took <= CONNECT_TIMEOUT + CONNECT_STAGGER * 2, "{took:?}");
}

#[test]
fn a_client_that_is_kept_has_its_endpoint_and_one_that_goes_moves_nobody_else() {
    let all = addresses(1..9);
    let endpoints = endpoints(&[]);
    let mut met: BTreeMap<SocketAddr, Vec<u8>> = BTreeMap::new();
    let left: Vec<_> = all.iter().copied().filter(|address| *address != all[3]).collect();
    let (many, fewer) = (export("default/many", &all), export("default/many", &left));
    for client in 0..200 {
        let order =
            |export: &Export| endpoints.order(export, &Wanted { affinity: vec![client], ..wanted(export) });
        let (order, again, without) = (order(&many), order(&many), order(&fewer));
        assert_eq!(order, again, "whoever else was there in between");
        met.entry(order[0]).or_default().push(client);
        let expected: Vec<_> = order.into_iter().filter(|address| *address != all[3]).collect();
        assert_eq!(without, expected);
    }
    assert!(met.len() == all.len() && met.values().all(|clients| clients.len() < 60), "{met:?}");
}
