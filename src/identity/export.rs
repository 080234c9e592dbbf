//! The secret behind export ids: every replica computes the same id, and nobody else can (B7).

use std::net::IpAddr;

use aws_lc_rs::hmac::{Context, HMAC_SHA256, Key};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::IdentityError;
use crate::model::ids::{ExportId, Incarnation, ServiceName, TrustDomain};

#[derive(Zeroize, ZeroizeOnDrop)]
pub(super) struct ExportSecret([u8; 32]);

impl ExportSecret {
    pub(super) fn new(secret: [u8; 32]) -> Self {
        Self(secret)
    }

    pub(super) fn load(path: &str, bytes: &[u8]) -> Result<Self, IdentityError> {
        let secret = bytes.try_into().map_err(|_| IdentityError::unusable(path, "does not hold 32 bytes"))?;
        Ok(Self(secret))
    }

    pub(super) fn to_file(&self) -> Zeroizing<Vec<u8>> {
        self.0.to_vec().into()
    }

    /// The first 16 bytes of HMAC-SHA256 over peer, namespace, name and incarnation. None of the texts may
    /// hold a zero byte, so zero bytes part them without ambiguity.
    pub(super) fn id(&self, peer: &TrustDomain, name: &ServiceName, incarnation: Incarnation) -> ExportId {
        let mut context = Context::with_key(&Key::new(HMAC_SHA256, &self.0));
        for text in [peer.as_str(), name.namespace.as_str(), name.name.as_str()] {
            context.update(text.as_bytes());
            context.update(&[0]);
        }
        context.update(&incarnation.0);
        let tag = context.sign();
        let (first, _) = tag.as_ref().split_first_chunk().expect("32 is more than 16");
        ExportId(*first)
    }

    /// What stands for a client of a service in front of other clusters: the same in every gateway of this one, and
    /// nobody else finds the address behind it. The first part is no trust domain, so it is no export's id.
    pub(super) fn client(&self, service: &ServiceName, from: IpAddr) -> [u8; 16] {
        let mut context = Context::with_key(&Key::new(HMAC_SHA256, &self.0));
        for text in ["a client", service.namespace.as_str(), service.name.as_str()] {
            context.update(text.as_bytes());
            context.update(&[0]);
        }
        match from.to_canonical() {
            IpAddr::V4(ip) => context.update(&ip.octets()),
            IpAddr::V6(ip) => context.update(&ip.octets()),
        }
        let tag = context.sign();
        *tag.as_ref().first_chunk().expect("32 is more than 16")
    }
}
