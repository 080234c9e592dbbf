//! Bundles as workloads read them: the SPIFFE bundle document (a JWK set), and PEM.
//!
//! The document does not name its trust domain (SPIFFE Trust Domain and Bundle, 4.1): the file's name does.

use std::time::Duration;

use data_encoding::{BASE64, BASE64URL_NOPAD};
use serde_json::{Value, json};
use x509_parser::{certificate::X509Certificate, prelude::FromDer as _, public_key::PublicKey};

use super::{Bundle, Root};

/// Characters of a line of PEM (RFC 7468).
const PEM_LINE: usize = 64;

impl Bundle {
    /// The SPIFFE bundle document. A root whose key has no JWK form is left out of it; PEM has it.
    #[must_use]
    pub fn to_spiffe(&self, refresh: Duration) -> String {
        let keys: Vec<Value> = self.every_root().filter_map(jwk).collect();
        let document = json!({
            "keys": keys,
            "spiffe_sequence": self.sequence(),
            "spiffe_refresh_hint": refresh.as_secs(),
        });
        format!("{document:#}\n")
    }

    /// Every root as PEM, one after the other.
    #[must_use]
    pub fn to_pem(&self) -> String {
        self.every_root().map(pem).collect()
    }
}

fn pem(root: &Root) -> String {
    let text = BASE64.encode(root.der());
    let mut lines = String::from("-----BEGIN CERTIFICATE-----\n");
    for line in text.as_bytes().chunks(PEM_LINE) {
        lines.extend(line.iter().copied().map(char::from));
        lines.push('\n');
    }
    lines + "-----END CERTIFICATE-----\n"
}

fn jwk(root: &Root) -> Option<Value> {
    let (_, certificate) = X509Certificate::from_der(root.der()).ok()?;
    let mut key = key_parameters(&certificate)?;
    key["use"] = "x509-svid".into();
    key["x5c"] = json!([BASE64.encode(root.der())]);
    Some(key)
}

/// RFC 7518, section 6.
fn key_parameters(certificate: &X509Certificate<'_>) -> Option<Value> {
    match certificate.public_key().parsed().ok()? {
        PublicKey::EC(point) => {
            let (form, halves) = point.data().split_first()?;
            let (curve, half) = match halves.len() {
                64 => ("P-256", 32),
                96 => ("P-384", 48),
                132 => ("P-521", 66),
                _ => return None,
            };
            let (x, y) = halves.split_at(half);
            let encode = |bytes| BASE64URL_NOPAD.encode(bytes);
            // 4: not compressed (SEC 1, 2.3.3).
            (*form == 4).then(|| json!({ "kty": "EC", "crv": curve, "x": encode(x), "y": encode(y) }))
        }
        PublicKey::RSA(key) => {
            let trimmed = |bytes: &[u8]| {
                let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
                BASE64URL_NOPAD.encode(&bytes[zeros..])
            };
            Some(json!({ "kty": "RSA", "n": trimmed(key.modulus), "e": trimmed(key.exponent) }))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::trust::tests::{bundle_of, root_of};

    #[test]
    fn a_bundle_reads_as_a_spiffe_document_and_as_pem() {
        let (own, workload) = (root_of("east.test").0, root_of("ca.east.test").0);
        let bundle = bundle_of(7, &[&own]).with_workload_roots(&[&workload]).expect("a bundle");
        let document: Value =
            serde_json::from_str(&bundle.to_spiffe(Duration::from_secs(300))).expect("JSON");
        assert_eq!(
            (&document["spiffe_sequence"], &document["spiffe_refresh_hint"]),
            (&7.into(), &300.into())
        );
        let keys = document["keys"].as_array().expect("keys");
        assert_eq!(keys.len(), 2);
        assert_eq!(
            (&keys[0]["kty"], &keys[0]["crv"], &keys[0]["use"]),
            (&"EC".into(), &"P-256".into(), &"x509-svid".into())
        );
        assert_eq!(keys[1]["x5c"][0], BASE64.encode(&workload));
        let text = bundle.to_pem();
        let read: Vec<_> = rustls_pki_types::pem::PemObject::pem_slice_iter(text.as_bytes())
            .map(|der: Result<rustls_pki_types::CertificateDer<'_>, _>| der.expect("PEM").to_vec())
            .collect();
        assert_eq!(read, [own, workload]);
    }

    #[test]
    fn a_workload_root_is_no_gateway_s_and_survives_the_disk() {
        let (own, workload) = (root_of("east.test").0, root_of("ca.east.test").0);
        let bundle = bundle_of(1, &[&own]).with_workload_roots(&[&workload]).expect("a bundle");
        assert!(bundle.roots().iter().all(|root| root.der().as_ref() == own.as_slice()));
        let text = serde_json::to_string(&bundle).expect("plain data");
        assert_eq!(serde_json::from_str::<Bundle>(&text).expect("the same"), bundle);
        assert!(bundle_of(1, &[&own]).with_workload_roots(&[&own]).is_err(), "one key, one use");
    }
}
