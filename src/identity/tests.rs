//! The confusion matrix of identities, and handshakes of two clusters over loopback.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use proptest::prelude::*;
use quinn::{
    Connection, ConnectionError, Endpoint,
    crypto::rustls::{HandshakeData, QuicClientConfig, QuicServerConfig},
};
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};
use rustls::{NamedGroup, server::ResolvesServerCert, sign::CertifiedKey};
use rustls_pki_types::CertificateDer;
use x509_parser::time::ASN1Time;

use super::*;
use crate::model::{
    code::Code,
    introduction::{ClusterRecord, check_record},
    limits::{CLOCK_SKEW_MAX, INTRODUCTION_LIFE, ROOT_LIFE, SVID_LIFE},
    token::proof::{EXPORTER_LABEL, transcript},
};

const NOW: Timestamp = Timestamp(1_800_000_000_000);
const HOUR: Duration = Duration::from_secs(3_600);

struct Cluster {
    identity: Identity,
    files: BTreeMap<String, Vec<u8>>,
    bundle: Bundle,
    svid: Svid,
}

fn gateway() -> GatewayId {
    GatewayId::parse("g1").expect("an id")
}

fn cluster(id: &str) -> Cluster {
    let id = ClusterId::parse(id).expect("an id");
    let new = NewIdentity { cluster: &id, trust_domain: None, root_life: ROOT_LIFE, export_secret: [7; 32] };
    let (identity, files) = Identity::create(new, NOW).expect("made");
    let files = files.into_iter().map(|(path, bytes)| (path, bytes.to_vec())).collect();
    let bundle = identity.bundle().as_ref().clone();
    let svid = identity.issue(&gateway(), SVID_LIFE, NOW).expect("issued");
    Cluster { identity, files, bundle, svid }
}

impl Cluster {
    fn domain(&self) -> &TrustDomain {
        self.identity.trust_domain()
    }

    /// Issues what the cluster's own code never would.
    fn forge(&self, change: impl FnOnce(&mut CertificateParams)) -> Vec<CertificateDer<'static>> {
        let text = |path: String| String::from_utf8(self.files[&path].clone()).expect("PEM");
        let key = KeyPair::from_pem(&text(root_key_file(1))).expect("a key");
        let root = Issuer::from_ca_cert_pem(&text(root_certificate_file(1)), key).expect("a root");
        let mut params = CertificateParams::default();
        valid(&mut params, NOW, NOW.after(SVID_LIFE));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.subject_alt_names = vec![uri(self.svid.id().as_str())];
        change(&mut params);
        let leaf = params.signed_by(&ca::generate_key().expect("a key"), &root).expect("signed");
        vec![leaf.der().clone()]
    }
}

fn valid(params: &mut CertificateParams, from: Timestamp, until: Timestamp) {
    let at = |time: Timestamp| ASN1Time::from_timestamp((time.0 / 1_000).cast_signed()).expect("in range");
    params.not_before = at(from).to_datetime();
    params.not_after = at(until).to_datetime();
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().expect("ASCII"))
}

fn trusting(clusters: &[&Cluster]) -> Arc<Trust> {
    let trust = Trust::new();
    trust.replace(clusters.iter().map(|it| (it.domain(), &it.bundle)));
    trust
}

fn before(ago: Duration) -> Timestamp {
    Timestamp(NOW.0 - u64::try_from(ago.as_millis()).expect("small"))
}

#[test]
fn an_identity_reads_back_as_it_was_made() {
    let east = cluster("east");
    let read = Identity::load(east.identity.cluster(), &east.files).expect("loaded");
    assert_eq!(read.trust_domain(), east.domain());
    assert!(east.domain().as_str().starts_with("east.") && east.domain().as_str().ends_with(".tombolo"));
    assert_eq!(read.bundle().as_ref().clone(), east.bundle);
    assert_eq!(read.join_key().pin(), east.identity.join_key().pin());
    let svid = read.issue(&gateway(), SVID_LIFE, NOW).expect("issued");
    let id = trusting(&[&east]).judge(svid.chain(), Role::Client, None, NOW).expect("believed");
    assert_eq!(id.gateway_id(), Some(gateway()));
}

#[test]
fn a_blocked_key_or_serial_is_refused_whatever_signed_it() {
    let east = cluster("east");
    let (trust, key) = (trusting(&[&east]), key_of(&east.svid.chain()[0]).expect("a certificate"));
    let judged = || trust.judge(east.svid.chain(), Role::Client, None, NOW);
    assert!(judged().is_ok());
    let keys = [key.spki_sha256].into();
    trust.block(Blocked { keys, ..Blocked::default() });
    assert_eq!(judged().expect_err("blocked").code(), Code::PEER_REVOKED);
    let serials = [(east.domain().clone(), key.serial.clone())].into();
    trust.block(Blocked { serials, ..Blocked::default() });
    assert_eq!(judged().expect_err("blocked").code(), Code::PEER_REVOKED);
    let elsewhere = [(cluster("west").domain().clone(), key.serial)].into();
    trust.block(Blocked { serials: elsewhere, ..Blocked::default() });
    assert!(judged().is_ok(), "a serial number means something in its own domain only");
}

#[test]
fn a_new_root_issues_only_when_the_set_says_so() {
    let east = cluster("east");
    let mut files = east.files.clone();
    let set = east.identity.root_set().with_number();
    let made = east.identity.make_root(set.made, ROOT_LIFE, NOW).expect("made");
    files.extend(made.into_iter().map(|(path, bytes)| (path, bytes.to_vec())));
    let set = set.with_made(NOW);
    east.identity.adopt(set.clone(), &files).expect("adopted");
    assert_eq!((east.identity.bundle().roots().len(), east.identity.bundle().sequence()), (2, 2));
    assert!(east.identity.issued(&east.svid, NOW), "the old root still issues");
    let set = set.with_newest_issuing(NOW);
    east.identity.adopt(set.clone(), &files).expect("adopted");
    assert!(!east.identity.issued(&east.svid, NOW));
    let renewed = east.identity.issue(&gateway(), SVID_LIFE, NOW).expect("issued");
    assert!(east.identity.issued(&renewed, NOW));
    let read = Identity::load(east.identity.cluster(), &files).expect("loaded");
    assert_eq!(read.root_set().published, [1], "without a set on disk there was no rotation");
    files.insert(
        ROOT_SET_FILE.to_owned(),
        serde_json::to_vec(&set.with_issuing_only(NOW)).expect("plain data"),
    );
    let read = Identity::load(east.identity.cluster(), &files).expect("loaded");
    assert_eq!((read.root_set().published, read.bundle().sequence()), (vec![2], 3));
}

#[test]
fn an_identity_with_a_missing_or_foreign_file_is_refused_by_name() {
    let (east, west) = (cluster("east"), cluster("west"));
    for path in east.files.keys() {
        let mut files = east.files.clone();
        files.remove(path);
        let error = Identity::load(east.identity.cluster(), &files).expect_err("missing");
        assert!(error.to_string().contains(path.as_str()), "{error}");
        files.insert(path.clone(), b"nonsense".to_vec());
        let error = Identity::load(east.identity.cluster(), &files).expect_err("nonsense");
        assert!(error.to_string().contains(path.as_str()), "{error}");
    }
    let mut files = east.files.clone();
    files.insert(root_key_file(1), west.files[&root_key_file(1)].clone());
    let error = Identity::load(east.identity.cluster(), &files).expect_err("another root's key");
    assert!(error.to_string().contains("is not the key of"), "{error}");
}

#[test]
fn an_svid_is_renewed_at_two_thirds_and_never_outlives_its_root() {
    let east = cluster("east");
    assert_eq!(east.svid.renew_at(), NOW.after(16 * HOUR));
    let (kept_key, kept_chain) = {
        let [(_, key), (_, chain)] = east.svid.files();
        (key, chain)
    };
    let kept = Svid::load(&kept_chain, &kept_key).expect("read back");
    assert_eq!((kept.id(), kept.spki_sha256()), (east.svid.id(), east.svid.spki_sha256()));
    let late = NOW.after(ROOT_LIFE - HOUR);
    let last = east.identity.issue(&gateway(), SVID_LIFE, late).expect("issued");
    assert_eq!(last.not_after(), east.bundle.newest().not_after());
    let refused = east.identity.issue(&gateway(), SVID_LIFE, NOW.after(ROOT_LIFE));
    assert!(matches!(refused, Err(IssueError::RootExpired { .. })));
}

#[test]
fn export_ids_depend_on_peer_name_and_incarnation_alone() {
    let (east, again) = (cluster("east"), cluster("other"));
    let name = |text| ServiceName::parse(text).expect("a name");
    let id = |of: &Cluster, peer: &Cluster, text, life| {
        of.identity.export_id(peer.domain(), &name(text), Incarnation([life; 16]))
    };
    let (west, north) = (cluster("west"), cluster("north"));
    let first = id(&east, &west, "shop/web", 1);
    assert_eq!(first, id(&again, &west, "shop/web", 1), "the secret decides, not who computes");
    for other in
        [id(&east, &north, "shop/web", 1), id(&east, &west, "shop/we", 1), id(&east, &west, "shop/web", 2)]
    {
        assert_ne!(first, other);
    }
}

#[test]
fn an_introduction_is_signed_by_the_newest_root() {
    let east = cluster("east");
    let record = ClusterRecord {
        cluster: east.identity.cluster().clone(),
        trust_domain: east.domain().clone(),
        bundle: east.bundle.clone(),
        generation: 1,
        endpoints: Vec::new(),
        issued: NOW,
        expires: NOW.after(INTRODUCTION_LIFE),
    };
    let signature = east.identity.sign_introduction(b"encoded").expect("signed");
    assert_eq!(check_record(&record, b"encoded", &signature, NOW), Ok(()));
}

#[test]
fn only_a_domains_own_roots_vouch_for_its_identities() {
    let (east, west) = (cluster("east"), cluster("west"));
    let both = trusting(&[&east, &west]);
    let judge = |trust: &Trust, chain: &[_]| trust.judge(chain, Role::Client, None, NOW);
    assert_eq!(judge(&both, east.svid.chain()).as_ref(), Ok(east.svid.id()));
    let claims_west = east.forge(|it| it.subject_alt_names = vec![uri(west.svid.id().as_str())]);
    assert_eq!(judge(&both, &claims_west), Err(TrustError::UnknownIssuer(west.svid.id().clone())));
    let only_east = trusting(&[&east]);
    assert_eq!(judge(&only_east, &claims_west), Err(TrustError::UnknownDomain(west.domain().clone())));
    let nowhere = east.forge(|it| it.subject_alt_names = vec![uri("spiffe://nowhere/gateway/g1")]);
    assert!(matches!(judge(&both, &nowhere), Err(TrustError::UnknownDomain(_))));
    let expected = both.judge(east.svid.chain(), Role::Client, Some(west.domain()), NOW);
    assert!(matches!(expected, Err(TrustError::OtherDomain { .. })));
    let mut with_root = claims_west.clone();
    with_root.push(CertificateDer::from(east.bundle.newest().der().to_vec()));
    assert!(judge(&both, &with_root).is_err(), "a root inside the chain changes nothing");
}

#[test]
fn a_leaf_is_what_an_svid_may_be_and_nothing_else() {
    let east = cluster("east");
    let trust = trusting(&[&east]);
    let judge = |chain: &[CertificateDer<'_>]| trust.judge(chain, Role::Client, None, NOW);
    let id = || east.svid.id().clone();
    let two = east.forge(|it| it.subject_alt_names.push(uri("spiffe://other/gateway/g2")));
    assert_eq!(judge(&two), Err(TrustError::NotOneUri(2)));
    let none = east.forge(|it| it.subject_alt_names.clear());
    assert_eq!(judge(&none), Err(TrustError::NotOneUri(0)));
    let authority = east.forge(|it| it.is_ca = IsCa::Ca(BasicConstraints::Unconstrained));
    assert_eq!(judge(&authority), Err(TrustError::Authority(id())));
    let signer = east.forge(|it| it.key_usages.push(KeyUsagePurpose::KeyCertSign));
    assert_eq!(judge(&signer), Err(TrustError::Authority(id())));
    let purpose = east.forge(|it| it.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning]);
    assert_eq!(judge(&purpose), Err(TrustError::Purpose(id())));
    let server_only = east.forge(|it| it.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]);
    assert_eq!(judge(&server_only), Err(TrustError::Purpose(id())));
    assert_eq!(trust.judge(&server_only, Role::Server, None, NOW), Ok(id()));
    let workload = format!("spiffe://{}/ns/shop/sa/cart", east.domain());
    let workload = east.forge(|it| it.subject_alt_names = vec![uri(&workload)]);
    assert!(matches!(judge(&workload), Err(TrustError::NotAGateway(_))));
    let root = [CertificateDer::from(east.bundle.newest().der().to_vec())];
    assert!(judge(&root).is_err(), "the root itself");
    assert_eq!(judge(&[]), Err(TrustError::NoCertificate));
    assert_eq!(judge(&vec![root[0].clone(); 5]), Err(TrustError::ChainTooLong(5)));
    assert_eq!(judge(&[CertificateDer::from(b"x".to_vec())]), Err(TrustError::Malformed));
}

proptest! {
    #[test]
    fn an_altered_chain_is_refused_not_panicked_over(at in any::<prop::sample::Index>(), bit in 0..8_u8) {
        let east = cluster("east");
        let mut leaf = east.svid.chain()[0].to_vec();
        let at = at.index(leaf.len());
        leaf[at] ^= 1 << bit;
        let judged = trusting(&[&east]).judge(&[CertificateDer::from(leaf)], Role::Client, None, NOW);
        prop_assert!(judged.is_err());
    }
}

#[test]
fn validity_is_judged_with_the_accepted_skew_and_roots_end_too() {
    let east = cluster("east");
    let trust = trusting(&[&east]);
    let judge = |chain: &[_], now| trust.judge(chain, Role::Server, None, now);
    let id = || east.svid.id().clone();
    let ends = east.svid.not_after();
    let second = Duration::from_secs(1);
    assert_eq!(judge(east.svid.chain(), ends.after(CLOCK_SKEW_MAX)), Ok(id()));
    assert_eq!(judge(east.svid.chain(), ends.after(CLOCK_SKEW_MAX + second)), Err(TrustError::Expired(id())));
    let exact = east.forge(|_| ());
    assert_eq!(judge(&exact, before(CLOCK_SKEW_MAX)), Ok(id()));
    assert_eq!(judge(&exact, before(CLOCK_SKEW_MAX + second)), Err(TrustError::NotYetValid(id())));
    let endless = east.forge(|it| valid(it, NOW, NOW.after(3 * ROOT_LIFE)));
    assert_eq!(judge(&endless, NOW.after(ROOT_LIFE - HOUR)), Ok(id()));
    let after_root = judge(&endless, NOW.after(ROOT_LIFE + HOUR));
    assert_eq!(after_root, Err(TrustError::RootExpired(east.domain().clone())));
}

#[test]
fn a_joiner_proves_a_gateway_under_the_roots_it_submits() {
    let (east, west) = (cluster("east"), cluster("west"));
    let message = transcript(&[1; 32], b"request");
    let signature = west.svid.sign(&message).expect("signed");
    let judge = |who: &Cluster, signature: &[u8], message: &[u8]| {
        judge_joiner((who.domain(), &who.bundle), west.svid.chain(), message, signature, NOW)
    };
    let proven = judge(&west, &signature, &message).expect("proven");
    assert_eq!((&proven.id, &proven.spki_sha256), (west.svid.id(), west.svid.spki_sha256()));
    assert!(matches!(judge(&east, &signature, &message), Err(TrustError::OtherDomain { .. })));
    let relayed = transcript(&[2; 32], b"request");
    assert_eq!(judge(&west, &signature, &relayed), Err(TrustError::BadProof(west.svid.id().clone())));
    let others = east.svid.sign(&message).expect("signed");
    assert_eq!(judge(&west, &others, &message), Err(TrustError::BadProof(west.svid.id().clone())));
}

#[test]
fn a_renewal_counts_for_the_links_own_peer_and_connection_only() {
    let (east, west) = (cluster("east"), cluster("west"));
    let trust = trusting(&[&east, &west]);
    let renewed = west.identity.issue(&gateway(), SVID_LIFE, NOW.after(HOUR)).expect("issued");
    let signature = sign_reauth(&renewed, &[1; 32]).expect("signed");
    let judge = |peer: &Svid, chain: &Svid, exporter: &[u8; 32]| {
        judge_reauth(&trust, (peer.id(), Role::Client), chain.chain(), &signature, exporter, NOW.after(HOUR))
    };
    assert_eq!(judge(&west.svid, &renewed, &[1; 32]).expect("renewed").id, *west.svid.id());
    assert!(matches!(judge(&west.svid, &renewed, &[2; 32]), Err(TrustError::BadProof(_))));
    assert!(matches!(judge(&east.svid, &renewed, &[1; 32]), Err(TrustError::OtherDomain { .. })));
    assert!(matches!(judge(&west.svid, &west.svid, &[1; 32]), Err(TrustError::BadProof(_))));
    let g2 = GatewayId::parse("g2").expect("an id");
    let sibling = west.identity.issue(&g2, SVID_LIFE, NOW).expect("issued");
    assert!(matches!(judge(&west.svid, &sibling, &[1; 32]), Err(TrustError::OtherPeer { .. })));
}

fn clock() -> WallClock {
    Arc::new(|| NOW)
}

struct Gateway {
    endpoint: Endpoint,
    tls: Tls,
    trust: Arc<Trust>,
    svid: Arc<CurrentSvid>,
}

fn listen(config: QuicServerConfig) -> Endpoint {
    let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
    Endpoint::server(quinn::ServerConfig::with_crypto(Arc::new(config)), any_port).expect("bound")
}

fn start(of: &Cluster, believed: &[&Cluster]) -> Gateway {
    let (trust, svid) = (trusting(believed), CurrentSvid::new(of.svid.clone()));
    let tls = Tls::new(Arc::clone(&trust), Arc::clone(&svid), clock());
    Gateway { endpoint: listen(tls.server(of.identity.join_key())), tls, trust, svid }
}

type Ends = (Result<Connection, ConnectionError>, Result<Connection, ConnectionError>);

/// Dials `to` from `from`; what the client and the server each came to. A client learns of the server's
/// refusal only after its own handshake, so it is asked once the server is done.
async fn meet(from: &Endpoint, to: &Endpoint, config: QuicClientConfig) -> Ends {
    let address = to.local_addr().expect("bound");
    let config = quinn::ClientConfig::new(Arc::new(config));
    let dial = async { from.connect_with(config, address, SERVER_NAME).expect("a valid name").await };
    let accept = async { to.accept().await.expect("not closed").await };
    let (client, server) = tokio::join!(dial, accept);
    match (client, &server) {
        (Ok(connection), Err(_)) => (Err(connection.closed().await), server),
        (client, _) => (client, server),
    }
}

fn protocol(connection: &Connection) -> Option<Vec<u8>> {
    connection.handshake_data()?.downcast::<HandshakeData>().ok()?.protocol
}

fn exporter(connection: &Connection, context: &[u8]) -> [u8; 32] {
    let mut bytes = [0; 32];
    connection.export_keying_material(&mut bytes, EXPORTER_LABEL, context).expect("short enough");
    bytes
}

#[tokio::test]
async fn two_clusters_meet_with_mutual_tls_and_share_an_exporter() {
    let (east, west) = (cluster("east"), cluster("west"));
    let (server, client) = (start(&east, &[&west]), start(&west, &[&east]));
    let ends = meet(&client.endpoint, &server.endpoint, client.tls.peer_client(east.domain())).await;
    let (dialled, accepted) = (ends.0.expect("dialled"), ends.1.expect("accepted"));
    let chain = presented_chain(accepted.peer_identity());
    assert_eq!(server.trust.judge(&chain, Role::Client, None, NOW).as_ref(), Ok(west.svid.id()));
    let chain = presented_chain(dialled.peer_identity());
    assert_eq!(client.trust.judge(&chain, Role::Server, None, NOW).as_ref(), Ok(east.svid.id()));
    assert_eq!(protocol(&accepted).as_deref(), Some(ALPN_PEER));
    assert_eq!(exporter(&dialled, b"token"), exporter(&accepted, b"token"));
    assert_ne!(exporter(&dialled, b"token"), exporter(&dialled, b"other"));
    server.trust.replace([]);
    let chain = presented_chain(accepted.peer_identity());
    let again = server.trust.judge(&chain, Role::Client, None, NOW);
    assert_eq!(again, Err(TrustError::UnknownDomain(west.domain().clone())), "the sweep would close it");
}

#[tokio::test]
async fn the_wrong_cluster_at_an_address_is_refused() {
    let (east, west, north) = (cluster("east"), cluster("west"), cluster("north"));
    let (server, client) = (start(&east, &[&west]), start(&west, &[&east, &north]));
    let ends = meet(&client.endpoint, &server.endpoint, client.tls.peer_client(north.domain())).await;
    assert_eq!(ends.0.err().as_ref().and_then(refusal_code), Some(Code::WRONG_GATEWAY));
    assert!(ends.1.is_err());
}

#[tokio::test]
async fn a_client_that_is_not_believed_is_refused_by_the_server() {
    let (east, west) = (cluster("east"), cluster("west"));
    let (server, client) = (start(&east, &[]), start(&west, &[&east]));
    let ends = meet(&client.endpoint, &server.endpoint, client.tls.peer_client(east.domain())).await;
    assert_eq!(ends.1.err().as_ref().and_then(refusal_code), Some(Code::CHAIN_NOT_TRUSTED));
    assert!(ends.0.is_err(), "the client hears of it");
}

#[tokio::test]
async fn nothing_is_resumed_so_removed_roots_count_at_once() {
    let (east, west) = (cluster("east"), cluster("west"));
    let (server, client) = (start(&east, &[&west]), start(&west, &[&east]));
    let config = client.tls.peer_client(east.domain());
    let config = quinn::ClientConfig::new(Arc::new(config));
    let address = server.endpoint.local_addr().expect("bound");
    for believed in [true, true, false] {
        if !believed {
            server.trust.replace([]);
        }
        let dial = client.endpoint.connect_with(config.clone(), address, SERVER_NAME).expect("a valid name");
        let dial = dial.into_0rtt().err().expect("there is nothing to resume from");
        let accept = async { server.endpoint.accept().await.expect("not closed").await };
        let (_, accepted) = tokio::join!(dial, accept);
        assert_eq!(accepted.is_ok(), believed);
    }
    client.trust.replace([]);
    server.trust.replace([(west.domain(), &west.bundle)]);
    let ends = meet(&client.endpoint, &server.endpoint, client.tls.peer_client(east.domain())).await;
    assert!(ends.0.is_err());
}

#[tokio::test]
async fn a_renewed_svid_is_presented_without_a_new_configuration() {
    let (east, west) = (cluster("east"), cluster("west"));
    let (server, client) = (start(&east, &[&west]), start(&west, &[&east]));
    let renewed = east.identity.issue(&gateway(), SVID_LIFE, NOW).expect("issued");
    server.svid.replace(renewed.clone());
    let ends = meet(&client.endpoint, &server.endpoint, client.tls.peer_client(east.domain())).await;
    let presented = presented_chain(ends.0.expect("dialled").peer_identity());
    assert_eq!(presented, renewed.chain());
}

#[tokio::test]
async fn a_joiner_meets_the_pinned_key_and_no_other() {
    let (east, west) = (cluster("east"), cluster("west"));
    let (server, client) = (start(&east, &[]), start(&west, &[]));
    let pinned = join_client(east.identity.join_key().pin(), &clock());
    let ends = meet(&client.endpoint, &server.endpoint, pinned).await;
    let (dialled, accepted) = (ends.0.expect("dialled"), ends.1.expect("accepted"));
    assert_eq!(protocol(&accepted).as_deref(), Some(ALPN_JOIN));
    assert!(presented_chain(accepted.peer_identity()).is_empty());
    assert_eq!(exporter(&dialled, b"token"), exporter(&accepted, b"token"));
    let wrong = join_client(west.identity.join_key().pin(), &clock());
    let ends = meet(&client.endpoint, &server.endpoint, wrong).await;
    let error = ends.0.expect_err("another key");
    assert!(error.to_string().contains("TMB-1206 the key of the dialled address"), "{error}");
    assert_eq!(refusal_code(&error), Some(TrustError::WrongPin.code()));
}

/// Remembers the key exchanges a client offered, in its order, and refuses it.
#[derive(Debug, Default)]
struct Recorder(Mutex<Vec<NamedGroup>>);

impl ResolvesServerCert for Recorder {
    fn resolve(&self, hello: rustls::server::ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        *self.0.lock().expect("not poisoned") = hello.named_groups().unwrap_or_default().to_vec();
        None
    }
}

#[tokio::test]
async fn the_post_quantum_group_is_offered_first() {
    let (east, west) = (cluster("east"), cluster("west"));
    let client = start(&west, &[&east]);
    let recorder = Arc::new(Recorder::default());
    let config = rustls::ServerConfig::builder_with_provider(tls::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_no_client_auth()
        .with_cert_resolver(Arc::clone(&recorder) as _);
    let server = listen(config.try_into().expect("for QUIC"));
    for config in [client.tls.peer_client(east.domain()), join_client([0; 32], &clock())] {
        let ends = meet(&client.endpoint, &server, config).await;
        assert!(ends.0.is_err());
        let offered = std::mem::take(&mut *recorder.0.lock().expect("not poisoned"));
        assert_eq!(offered.first(), Some(&NamedGroup::X25519MLKEM768));
    }
}
