//! The TLS configurations: one server for both protocols, one client per peer, one client per token.
//!
//! TLS 1.3 only, post-quantum key exchange first, no tickets, no stored sessions, no early data: a resumed
//! connection would skip both verifiers. Whoever accepts a connection still has to ask for its protocol and,
//! on [`ALPN_PEER`], for [`super::presented_chain`] and [`Trust::judge`]: a client may present nothing.

use std::{fmt, sync::Arc, time::Duration};

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::{
    ClientConfig, ServerConfig,
    client::{Resumption, danger::ServerCertVerifier},
    crypto::{CryptoProvider, aws_lc_rs},
    server::{ClientHello, NoServerSessionStorage, ResolvesServerCert},
    sign::CertifiedKey,
    time_provider::TimeProvider,
    version::TLS13,
};
use rustls_pki_types::UnixTime;

use super::{
    CurrentSvid, JoinKey,
    handshake::{PeerVerifier, PinVerifier},
    verifier::Trust,
};
use crate::model::ids::{Timestamp, TrustDomain};

/// Protocol of established peers.
pub const ALPN_PEER: &[u8] = b"tombolo/1";
/// Protocol of first contact.
pub const ALPN_JOIN: &[u8] = b"tombolo-join/1";
/// What dialling says as server name; nobody looks at it, but TLS wants one.
pub const SERVER_NAME: &str = "tombolo";

/// Where TLS takes the time from.
pub type WallClock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// What the configurations of one gateway are made of. Renewing the SVID and replacing trust act on
/// configurations that exist already, so each is made once.
#[derive(Clone)]
pub struct Tls {
    provider: Arc<CryptoProvider>,
    clock: WallClock,
    trust: Arc<Trust>,
    svid: Arc<CurrentSvid>,
}

impl Tls {
    /// Of whom is believed, what is presented, and the time.
    #[must_use]
    pub fn new(trust: Arc<Trust>, svid: Arc<CurrentSvid>, clock: WallClock) -> Self {
        Self { provider: provider(), clock, trust, svid }
    }

    /// Accepts both protocols: the SVID answers for [`ALPN_PEER`], the join key for [`ALPN_JOIN`]. A client
    /// certificate is asked for and judged when there is one, but not demanded.
    #[must_use]
    pub fn server(&self, join_key: &JoinKey) -> QuicServerConfig {
        let verifier = PeerVerifier {
            trust: Arc::clone(&self.trust),
            expected: None,
            algorithms: self.provider.signature_verification_algorithms,
        };
        let by_protocol = ByProtocol { svid: Arc::clone(&self.svid), join: Arc::clone(join_key.certified()) };
        let mut config = ServerConfig::builder_with_details(Arc::clone(&self.provider), self.time())
            .with_protocol_versions(&[&TLS13])
            .expect("the provider has suites of TLS 1.3")
            .with_client_cert_verifier(Arc::new(verifier))
            .with_cert_resolver(Arc::new(by_protocol));
        config.alpn_protocols = vec![ALPN_PEER.to_vec(), ALPN_JOIN.to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config.max_early_data_size = 0;
        config.try_into().expect("the provider has the suite of QUIC's first packets")
    }

    /// Dials a gateway of `domain`, and of no other.
    #[must_use]
    pub fn peer_client(&self, domain: &TrustDomain) -> QuicClientConfig {
        let verifier = PeerVerifier {
            trust: Arc::clone(&self.trust),
            expected: Some(domain.clone()),
            algorithms: self.provider.signature_verification_algorithms,
        };
        let config = client(&self.provider, self.time(), Arc::new(verifier));
        let mut config = config.with_client_cert_resolver(Arc::clone(&self.svid) as _);
        config.alpn_protocols = vec![ALPN_PEER.to_vec()];
        finish(config)
    }

    fn time(&self) -> Arc<dyn TimeProvider> {
        Arc::new(ClockTime(Arc::clone(&self.clock)))
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("trust", &self.trust).field("svid", &self.svid).finish_non_exhaustive()
    }
}

/// Dials the issuer of a token: its join key has to be the pinned one, and nothing is presented.
#[must_use]
pub fn join_client(pin: [u8; 32], clock: &WallClock) -> QuicClientConfig {
    let provider = provider();
    let algorithms = provider.signature_verification_algorithms;
    let time = Arc::new(ClockTime(Arc::clone(clock)));
    let config = client(&provider, time, Arc::new(PinVerifier { pin, algorithms }));
    let mut config = config.with_no_client_auth();
    config.alpn_protocols = vec![ALPN_JOIN.to_vec()];
    finish(config)
}

type WantsClientCert = rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>;

fn client(
    provider: &Arc<CryptoProvider>,
    time: Arc<dyn TimeProvider>,
    verifier: Arc<dyn ServerCertVerifier>,
) -> WantsClientCert {
    ClientConfig::builder_with_details(Arc::clone(provider), time)
        .with_protocol_versions(&[&TLS13])
        .expect("the provider has suites of TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(verifier)
}

fn finish(mut config: ClientConfig) -> QuicClientConfig {
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    config.enable_sni = false;
    config.try_into().expect("the provider has the suite of QUIC's first packets")
}

/// aws-lc-rs, preferring the hybrid of X25519 and ML-KEM-768: traffic recorded today stays secret from a
/// later quantum computer.
pub(super) fn provider() -> Arc<CryptoProvider> {
    let mut provider = aws_lc_rs::default_provider();
    provider.kx_groups = vec![
        aws_lc_rs::kx_group::X25519MLKEM768,
        aws_lc_rs::kx_group::X25519,
        aws_lc_rs::kx_group::SECP256R1,
    ];
    Arc::new(provider)
}

/// Our clock in rustls' terms.
struct ClockTime(WallClock);

impl TimeProvider for ClockTime {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_millis((self.0)().0)))
    }
}

impl fmt::Debug for ClockTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClockTime")
    }
}

/// Chooses the certificate by the protocol the client offers.
#[derive(Debug)]
struct ByProtocol {
    svid: Arc<CurrentSvid>,
    join: Arc<CertifiedKey>,
}

impl ResolvesServerCert for ByProtocol {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let offers = |protocol| hello.alpn().is_some_and(|mut offered| offered.any(|it| it == protocol));
        // The same preference as `alpn_protocols`, so certificate and protocol always belong together.
        if offers(ALPN_PEER) {
            Some(self.svid.certified())
        } else {
            offers(ALPN_JOIN).then(|| Arc::clone(&self.join))
        }
    }
}
