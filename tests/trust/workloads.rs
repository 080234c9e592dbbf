//! Workloads of two clusters that trust each other's authorities, end to end through both gateways, which see only
//! ciphertext.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    sync::{
        Arc,
        mpsc::{Receiver, channel},
    },
    time::Duration,
};

use rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned,
    crypto::aws_lc_rs, server::WebPkiClientVerifier,
};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject as _};

use crate::{
    authority::{Authority, Presented},
    gateway::{Cluster, Listens, until, until_active},
    names::place,
};

const HOST: &str = "web.shop.svc.clusterset.local";
const PROTOCOL: &[u8] = b"shop/1";

/// What a server saw of a client it let in: the name and the protocol that were asked for, and the certificate.
type Seen = (Option<String>, Option<Vec<u8>>, Option<Vec<u8>>);

fn roots(bundle: &Path) -> Arc<RootCertStore> {
    let mut store = RootCertStore::empty();
    let text = std::fs::read(bundle).expect("a bundle");
    for root in CertificateDer::pem_slice_iter(&text) {
        store.add(root.expect("a certificate")).expect("a root");
    }
    Arc::new(store)
}

/// A server that lets in who is vouched for by the bundle; one handshake after another.
fn server(presented: Presented, bundle: PathBuf) -> (SocketAddr, Receiver<Seen>) {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let judge = WebPkiClientVerifier::builder_with_provider(roots(&bundle), provider.clone()).build();
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_client_cert_verifier(judge.expect("a verifier"))
        .with_single_cert(presented.chain, presented.key)
        .expect("a pair");
    config.alpn_protocols = vec![b"other".to_vec(), PROTOCOL.to_vec()];
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    let (tell, told) = channel();
    std::thread::spawn(move || {
        for tcp in listener.incoming().flatten() {
            let connection = ServerConnection::new(config.clone()).expect("a connection");
            let mut tls = StreamOwned::new(connection, tcp);
            let mut asked = [0; 4];
            if tls.read_exact(&mut asked).is_err() || tls.write_all(b"pong").is_err() {
                continue;
            }
            let leaf = tls.conn.peer_certificates().map(|chain| chain[0].to_vec());
            let seen = (
                tls.conn.server_name().map(str::to_owned),
                tls.conn.alpn_protocol().map(<[u8]>::to_vec),
                leaf,
            );
            if tell.send(seen).is_err() {
                return;
            }
        }
    });
    (address, told)
}

/// Asks at that place as a workload; what was answered.
fn ask(at: SocketAddr, presented: Presented, bundle: &Path) -> Result<String, String> {
    let words = |error: &dyn std::fmt::Display| error.to_string();
    let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots(bundle))
        .with_client_auth_cert(presented.chain, presented.key)
        .expect("a pair");
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    let name = ServerName::try_from(HOST).expect("a name");
    let connection = ClientConnection::new(Arc::new(config), name).expect("a connection");
    let tcp = TcpStream::connect_timeout(&at, Duration::from_secs(2)).map_err(|error| words(&error))?;
    tcp.set_read_timeout(Some(Duration::from_secs(10))).expect("set");
    let mut tls = StreamOwned::new(connection, tcp);
    tls.write_all(b"ping").map_err(|error| words(&error))?;
    let mut answer = [0; 4];
    tls.read_exact(&mut answer).map_err(|error| words(&error))?;
    assert_eq!(tls.conn.alpn_protocol(), Some(PROTOCOL));
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// A workload's certificate: its SPIFFE ID, and the name it is called by when it serves.
fn workload(authority: &Authority, path: &str, serves: bool) -> Presented {
    let id = format!("spiffe://{}/{path}", authority.domain);
    authority.leaf(|params| {
        let uri = rcgen::SanType::URI(id.as_str().try_into().expect("ASCII"));
        params.subject_alt_names = vec![uri];
        if serves {
            params.subject_alt_names.push(rcgen::SanType::DnsName(HOST.try_into().expect("ASCII")));
        }
    })
}

fn pem(authority: &Authority) -> String {
    tombolo::model::trust::Bundle::parse(1, &[authority.root.as_ref()]).expect("a bundle").to_pem()
}

#[test]
fn workloads_speak_tls_end_to_end_with_name_and_protocol_until_the_peer_leaves() {
    let (east, west) = (Cluster::new("east", 171), Cluster::new("west", 170));
    let (easts, wests) = (Authority::new("east-workloads"), Authority::new("west-workloads"));
    let start = |cluster: &Cluster, authority: &Authority| {
        let roots = cluster.file("workloads.pem", &pem(authority));
        let config = cluster.file("c.toml", &format!("[identity]\nworkload_roots = [\"{roots}\"]\n"));
        cluster.start_at(&Listens::free(), &["--config", &config])
    };
    let (_first, second) = (start(&east, &easts), start(&west, &wests));
    west.join(&east.token()).well();
    until_active(&east, &["west"]);
    let bundle = |of: &Cluster, peer: &str, authority: &Authority| {
        let domain = of.json(&format!("peers {peer}"))["peers"][0]["trust_domain"].clone();
        let path = of.state().join(format!("bundles/{}.pem", domain.as_str().expect("a domain")));
        let theirs = pem(authority);
        until("the peer's authority of workloads", || {
            std::fs::read_to_string(&path).ok()?.contains(&theirs).then_some(())
        });
        path
    };
    let (of_west, of_east) = (bundle(&east, "west", &wests), bundle(&west, "east", &easts));
    let (address, seen) = server(workload(&easts, "ns/shop/sa/web", true), of_west);
    east.tombolo(&format!("export web.shop={address} --port 8443")).well();
    let name = format!("{HOST}.");
    let at = until(&name, || place(second.dns(), &name, 8443));
    let cart = || workload(&wests, "ns/shop/sa/cart", false);
    assert_eq!(until("an answer", || ask(at, cart(), &of_east).ok()), "pong");
    let (host, protocol, leaf) = seen.recv_timeout(Duration::from_secs(10)).expect("a client");
    assert_eq!((host.as_deref(), protocol.as_deref()), (Some(HOST), Some(PROTOCOL)));
    let leaf = leaf.expect("a certificate");
    let id = format!("spiffe://{}/ns/shop/sa/cart", wests.domain);
    assert!(leaf.windows(id.len()).any(|part| part == id.as_bytes()), "the workload's own certificate");
    // Neither side believes an authority that it was not told of.
    let nobody = Authority::new("nobody");
    assert!(ask(at, workload(&nobody, "ns/shop/sa/cart", false), &of_east).is_err());
    let lying = west.file("lying.pem", &pem(&nobody));
    assert!(ask(at, cart(), Path::new(&lying)).expect_err("not verified").contains("certificate"));
    west.tombolo("peer remove east").well();
    until("east's bundle is gone", || (!of_east.exists()).then_some(()));
    let kept = west.file("kept.pem", &pem(&easts));
    assert!(ask(at, cart(), Path::new(&kept)).is_err(), "east has left, and is reached");
}
