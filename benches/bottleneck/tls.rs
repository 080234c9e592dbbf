//! Certificates and settings of the simulated endpoints. Their sizes never vary, so that runs repeat.

use std::sync::Arc;

use quinn_proto::{
    AckFrequencyConfig, ClientConfig, EndpointConfig, ServerConfig, TransportConfig, VarInt,
    congestion::ControllerFactory,
    crypto::rustls::{QuicClientConfig, QuicServerConfig},
};
use rcgen::{CertificateParams, KeyPair, PKCS_ED25519};
use rustls::{RootCertStore, pki_types::PrivatePkcs8KeyDer};

/// The name in the certificate.
pub(crate) const NAME: &str = "bottleneck";

/// Packets that may come without an acknowledgement of their own, as in the product.
const UNACKNOWLEDGED: u32 = 4;

/// A congestion controller's maker.
pub(crate) type Maker = Arc<dyn ControllerFactory + Send + Sync>;

/// TLS of both sides.
#[derive(Clone)]
pub(crate) struct Tls {
    server: Arc<QuicServerConfig>,
    client: Arc<QuicClientConfig>,
}

impl Tls {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate_for(&PKCS_ED25519).expect("the algorithm is built in");
        let params = CertificateParams::new(vec![NAME.to_owned()]).expect("the name is ASCII");
        let certificate = params.self_signed(&key).expect("the key is its own");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(certificate.der().clone()).expect("a certificate made just now");
        let mut server = rustls::ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("the provider knows TLS 1.3")
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
            )
            .expect("key and certificate belong together");
        server.send_tls13_tickets = 0;
        let client = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("the provider knows TLS 1.3")
            .with_root_certificates(roots)
            .with_no_client_auth();
        Self {
            server: Arc::new(server.try_into().expect("TLS 1.3 has a suite for QUIC")),
            client: Arc::new(client.try_into().expect("TLS 1.3 has a suite for QUIC")),
        }
    }

    pub(crate) fn server(&self, controller: &Maker, window: u64) -> Arc<ServerConfig> {
        let mut config = ServerConfig::with_crypto(self.server.clone());
        config.transport_config(Arc::new(transport(controller, window)));
        Arc::new(config)
    }

    pub(crate) fn client(&self, controller: &Maker, window: u64) -> ClientConfig {
        let mut config = ClientConfig::new(self.client.clone());
        config.transport_config(Arc::new(transport(controller, window)));
        config
    }
}

fn transport(controller: &Maker, window: u64) -> TransportConfig {
    let mut config = TransportConfig::default();
    let mut acknowledgements = AckFrequencyConfig::default();
    acknowledgements.ack_eliciting_threshold(VarInt::from_u32(UNACKNOWLEDGED));
    config
        .ack_frequency_config(Some(acknowledgements))
        .congestion_controller_factory(controller.clone())
        .stream_receive_window(VarInt::from_u64(window).expect("a window is far below 2^62"))
        .send_window(64 << 20);
    config
}

/// Settings of an endpoint.
pub(crate) fn endpoint(seed: u8) -> Arc<EndpointConfig> {
    let mut config = EndpointConfig::default();
    config.rng_seed(Some([seed; 32]));
    Arc::new(config)
}
