//! A cluster that exists only as keys: its authority signs whatever a test asks for.

use std::time::SystemTime;

use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, SanType,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tombolo::{
    files::{Folder, Persist as _},
    model::{
        ids::{ClusterId, Timestamp, TrustDomain},
        state::{Peer, Standing},
        trust::Bundle,
    },
};
use x509_parser::time::ASN1Time;

use crate::gateway::Cluster;

/// A key and what it signs.
pub(crate) struct Authority {
    pub(crate) cluster: ClusterId,
    pub(crate) domain: TrustDomain,
    pub(crate) root: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

/// What a stranger presents.
pub(crate) struct Presented {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: PrivateKeyDer<'static>,
}

/// Hours from now, into the past and into the future.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Valid(pub(crate) i32, pub(crate) i32);

fn valid(params: &mut CertificateParams, hours: Valid) {
    let at = |hours: i32| {
        let seconds = i64::try_from(now().0 / 1_000).expect("in range") + i64::from(hours) * 3_600;
        ASN1Time::from_timestamp(seconds).expect("in range").to_datetime()
    };
    params.not_before = at(hours.0);
    params.not_after = at(hours.1);
}

fn key() -> KeyPair {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key")
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().expect("ASCII"))
}

fn private(key: &KeyPair) -> PrivateKeyDer<'static> {
    PrivatePkcs8KeyDer::from(key.serialize_der()).into()
}

pub(crate) fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
    Timestamp(u64::try_from(since.as_millis()).expect("in range"))
}

impl Authority {
    pub(crate) fn new(cluster: &str) -> Self {
        Self::valid(cluster, Valid(-48, 48))
    }

    pub(crate) fn valid(cluster: &str, hours: Valid) -> Self {
        let domain = TrustDomain::parse(&format!("{cluster}.test")).expect("a trust domain");
        let mut params = CertificateParams::default();
        valid(&mut params, hours);
        // Deep enough for chains that no cluster of ours would make.
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.subject_alt_names = vec![uri(&format!("spiffe://{domain}"))];
        let key = key();
        let root = params.self_signed(&key).expect("signed").der().clone();
        let cluster = ClusterId::parse(cluster).expect("an id");
        Self { cluster, domain, root, issuer: Issuer::new(params, key) }
    }

    /// The SPIFFE ID of a gateway of a cluster.
    pub(crate) fn gateway(&self) -> String {
        format!("spiffe://{}/gateway/g1", self.domain)
    }

    /// A leaf as a gateway of this cluster has it, but for what `change` does to it.
    pub(crate) fn leaf(&self, change: impl FnOnce(&mut CertificateParams)) -> Presented {
        let key = key();
        let leaf = Self::params(&[&self.gateway()], change).signed_by(&key, &self.issuer).expect("signed");
        Presented { chain: vec![leaf.der().clone()], key: private(&key) }
    }

    /// A leaf for another identity.
    pub(crate) fn leaf_for(&self, ids: &[&str]) -> Presented {
        self.leaf(|params| params.subject_alt_names = ids.iter().map(|id| uri(id)).collect())
    }

    fn params(ids: &[&str], change: impl FnOnce(&mut CertificateParams)) -> CertificateParams {
        let mut params = CertificateParams::default();
        valid(&mut params, Valid(-1, 1));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.subject_alt_names = ids.iter().map(|id| uri(id)).collect();
        change(&mut params);
        params
    }

    /// A leaf that is out of its validity.
    pub(crate) fn leaf_valid(&self, hours: Valid) -> Presented {
        self.leaf(|params| valid(params, hours))
    }

    /// A leaf behind so many intermediate authorities.
    pub(crate) fn deep(&self, depth: usize) -> Presented {
        let mut chain = Vec::new();
        let mut above: Option<Issuer<'static, KeyPair>> = None;
        for number in 0..depth {
            let mut params = CertificateParams::default();
            valid(&mut params, Valid(-1, 1));
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
            params.distinguished_name.push(rcgen::DnType::CommonName, format!("step {number}"));
            let key = key();
            let made = params.signed_by(&key, above.as_ref().unwrap_or(&self.issuer)).expect("signed");
            chain.insert(0, made.der().clone());
            above = Some(Issuer::new(params, key));
        }
        let key = key();
        let leaf = Self::params(&[&self.gateway()], |_| {});
        let leaf = leaf.signed_by(&key, above.as_ref().unwrap_or(&self.issuer)).expect("signed");
        chain.insert(0, leaf.der().clone());
        Presented { chain, key: private(&key) }
    }

    pub(crate) fn bundle(&self, sequence: u64) -> Bundle {
        Bundle::parse(sequence, &[self.root.as_ref()]).expect("a bundle")
    }

    /// This cluster as a peer that joined long ago.
    pub(crate) fn as_peer(&self, endpoints: &[String]) -> Peer {
        Peer {
            cluster: self.cluster.clone(),
            trust_domain: self.domain.clone(),
            bundle: self.bundle(1),
            endpoints: endpoints.to_vec(),
            generation: 1,
            standing: Standing::Approved,
            introduced_by: None,
            issuer: false,
            added: Timestamp(1),
            ruling: Default::default(),
        }
    }
}

/// Writes a peer into the state folder of a cluster that does not run.
pub(crate) fn know(cluster: &Cluster, peer: &Peer) {
    let folder = Folder::open(cluster.state()).expect("a state folder");
    let document = serde_json::to_vec(peer).expect("plain data");
    folder.commit(&format!("peers/{}.json", peer.cluster), &document).expect("written");
}
