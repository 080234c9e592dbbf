//! The roots a cluster has at one moment, with their keys: what others are told, and which of them issues.

use std::{collections::BTreeMap, sync::Arc};

use super::{IdentityError, ca::Authority, root_certificate_file, root_key_file};
use crate::model::{ids::TrustDomain, rotation::RootSet, trust::Bundle};

/// All of them, oldest first; never empty.
pub(super) struct Roots {
    pub(super) set: RootSet,
    pub(super) bundle: Arc<Bundle>,
    authorities: Vec<Arc<Authority>>,
    issuing: Arc<Authority>,
}

impl Roots {
    /// `authorities` are those that the set publishes, in its order.
    pub(super) fn of(set: RootSet, authorities: Vec<Arc<Authority>>) -> Result<Self, IdentityError> {
        let numbered = || set.published.iter().zip(&authorities);
        let issuing = numbered().find(|(number, _)| **number == set.issuing).map(|(_, root)| root.clone());
        let issuing = issuing.ok_or_else(|| IdentityError::Missing(root_certificate_file(set.issuing)))?;
        let ders: Vec<_> = authorities.iter().map(|root| root.certificate_der()).collect();
        let bundle = Bundle::parse(set.sequence, &ders)
            .map_err(|refusal| IdentityError::unusable(super::ROOT_SET_FILE, refusal))?;
        Ok(Self { bundle: Arc::new(bundle), set, authorities, issuing })
    }

    /// Reads the roots of a set; other roots in the folder are left aside.
    pub(super) fn load(set: RootSet, files: &BTreeMap<String, Vec<u8>>) -> Result<Self, IdentityError> {
        let get = |path: &str| {
            files.get(path).map(Vec::as_slice).ok_or_else(|| IdentityError::Missing(path.to_owned()))
        };
        let mut authorities = Vec::new();
        for number in &set.published {
            let (certificate, key) = (root_certificate_file(*number), root_key_file(*number));
            let root = Authority::load((&certificate, get(&certificate)?), (&key, get(&key)?))?;
            authorities.push(Arc::new(root));
        }
        let roots = Self::of(set, authorities)?;
        let first = roots.trust_domain();
        if let Some(other) = roots.authorities.iter().find(|root| root.trust_domain() != first) {
            let (first, second) = (first.clone(), other.trust_domain().clone());
            return Err(IdentityError::TwoTrustDomains { first, second });
        }
        Ok(roots)
    }

    pub(super) fn trust_domain(&self) -> &TrustDomain {
        self.issuing.trust_domain()
    }

    pub(super) fn issuing(&self) -> &Authority {
        &self.issuing
    }

    /// The one whose key signs introductions, as every reader of the bundle expects.
    pub(super) fn newest(&self) -> &Authority {
        self.authorities.last().unwrap_or(&self.issuing)
    }
}
