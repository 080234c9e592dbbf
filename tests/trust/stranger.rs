//! Somebody with a certificate of any kind, on either end of a connection.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use quinn::{
    Connection, ConnectionError, Endpoint,
    crypto::rustls::{QuicClientConfig, QuicServerConfig},
};
use rustls::{
    DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature},
    version::TLS13,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::time::timeout;
use tombolo::identity::ALPN_PEER;

use crate::authority::Presented;

/// Long enough for a handshake on a busy machine.
const PATIENCE: Duration = Duration::from_secs(10);
/// A gateway that refuses does so within this; one that accepts says nothing.
const JUDGED_WITHIN: Duration = Duration::from_secs(2);

/// Believes everybody: only what the gateway under test believes matters.
#[derive(Debug)]
struct Gullible(Arc<CryptoProvider>);

impl ServerCertVerifier for Gullible {
    fn verify_server_cert(
        &self,
        _leaf: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::PeerIncompatible(rustls::PeerIncompatible::Tls13RequiredForQuic))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// Dials a gateway and presents this.
pub(crate) async fn dial(to: &str, presented: Presented) -> Result<(Endpoint, Connection), ConnectionError> {
    let provider = provider();
    let mut config = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&TLS13])
        .expect("TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Gullible(provider)))
        .with_client_auth_cert(presented.chain, presented.key)
        .expect("a pair");
    config.alpn_protocols = vec![ALPN_PEER.to_vec()];
    let endpoint = Endpoint::client("127.0.0.1:0".parse().expect("an address")).expect("a socket");
    let config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(config).expect("a suite")));
    let to: SocketAddr = to.parse().expect("an address");
    let connecting = endpoint.connect_with(config, to, "tombolo").expect("dialled");
    let connection = timeout(PATIENCE, connecting).await.expect("in time")?;
    Ok((endpoint, connection))
}

/// Whether a gateway lets this in; when it does not, not a byte of an answer comes on any stream.
pub(crate) async fn is_let_in(to: &str, presented: Presented) -> bool {
    let Ok((_endpoint, connection)) = dial(to, presented).await else { return false };
    let asked = async {
        let (mut send, mut receive) = connection.open_bi().await.ok()?;
        // A catalog call, and the beginning of HTTP/2.
        send.write_all(b"\x02PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.ok()?;
        let mut byte = [0; 1];
        receive.read(&mut byte).await.ok().flatten()
    };
    let (read, closed) =
        tokio::join!(timeout(JUDGED_WITHIN, asked), timeout(JUDGED_WITHIN, connection.closed()));
    if closed.is_ok() {
        assert!(!matches!(read, Ok(Some(_))), "a byte was read of a gateway that refused");
        return false;
    }
    true
}

/// Listens as a gateway that presents this.
pub(crate) fn listen(presented: Presented) -> (Endpoint, SocketAddr) {
    let mut config = rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .expect("TLS 1.3")
        .with_no_client_auth()
        .with_single_cert(presented.chain, presented.key)
        .expect("a pair");
    config.alpn_protocols = vec![ALPN_PEER.to_vec(), tombolo::identity::ALPN_JOIN.to_vec()];
    let config =
        quinn::ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(config).expect("a suite")));
    let endpoint = Endpoint::server(config, "127.0.0.1:0".parse().expect("an address")).expect("a socket");
    let address = endpoint.local_addr().expect("bound");
    (endpoint, address)
}

/// Whether the gateway that dials this endpoint goes through with it.
pub(crate) async fn is_believed(endpoint: &Endpoint) -> bool {
    let incoming = timeout(PATIENCE, endpoint.accept()).await.expect("it dials").expect("open");
    match timeout(PATIENCE, incoming).await.expect("in time") {
        Err(_) => false,
        Ok(connection) => {
            // The client's verdict comes after the server's handshake is complete.
            timeout(JUDGED_WITHIN, connection.closed()).await.is_err()
        }
    }
}
