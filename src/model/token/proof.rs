//! What is signed at a join, and how: possession of the token's secret, bound to one TLS connection.
//!
//! Both signatures of a join request, this one and the one by the gateway's SVID, cover the same
//! [`transcript`], so a proof is worth nothing on another connection or beside an altered request.

use aws_lc_rs::{
    hkdf::{HKDF_SHA256, KeyType, Salt},
    signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey},
};
use zeroize::Zeroizing;

use super::TokenSecret;
use crate::model::trust::sha256;

/// The exporter label both ends of a join ask their TLS for; the context is the token id (RFC 8446 7.5).
pub const EXPORTER_LABEL: &[u8] = b"EXPORTER-tombolo-join-v1";
/// What the signed bytes begin with.
const CONTEXT: &[u8] = b"tombolo-join/1";
/// Fields of a `JoinRequest` that hold signatures, and so cannot be signed.
const SIGNATURE_FIELDS: [u64; 2] = [11, 12];

/// The bytes both signatures of a join cover. `exporter` is 32 bytes of [`EXPORTER_LABEL`] with the token id
/// as context; `unsigned_request` is the encoded `JoinRequest` without its signature fields.
#[must_use]
pub fn transcript(exporter: &[u8; 32], unsigned_request: &[u8]) -> Vec<u8> {
    [CONTEXT, exporter, &sha256(unsigned_request)].concat()
}

/// An encoded `JoinRequest` less its signature fields, byte for byte: what came is what is hashed, so fields
/// that a later version adds stay covered. `None` when the bytes are not a protobuf message.
#[must_use]
pub fn without_signatures(encoded: &[u8]) -> Option<Vec<u8>> {
    let mut kept = Vec::with_capacity(encoded.len());
    let mut rest = encoded;
    while !rest.is_empty() {
        let field = rest;
        let tag = varint(&mut rest)?;
        let length = match tag & 7 {
            0 => {
                varint(&mut rest)?;
                0
            }
            1 => 8,
            2 => usize::try_from(varint(&mut rest)?).ok()?,
            5 => 4,
            _ => return None,
        };
        rest = rest.get(length..)?;
        if !SIGNATURE_FIELDS.contains(&(tag >> 3)) {
            kept.extend_from_slice(&field[..field.len() - rest.len()]);
        }
    }
    Some(kept)
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f).checked_shl(shift)?;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// The public half of a token's key: all that the issuer keeps.
#[must_use]
pub fn public_key(secret: &TokenSecret) -> [u8; 32] {
    key_pair(secret).public_key().as_ref().try_into().expect("an Ed25519 key has 32 bytes")
}

/// Proves possession of the token (Ed25519, RFC 8032).
#[must_use]
pub fn sign_possession(secret: &TokenSecret, transcript: &[u8]) -> Vec<u8> {
    key_pair(secret).sign(transcript).as_ref().to_vec()
}

/// Whether `signature` is by the key whose public half this is.
#[must_use]
pub fn verify_possession(public_key: &[u8; 32], transcript: &[u8], signature: &[u8]) -> bool {
    UnparsedPublicKey::new(&ED25519, public_key).verify(transcript, signature).is_ok()
}

fn key_pair(secret: &TokenSecret) -> Ed25519KeyPair {
    struct Seed;
    impl KeyType for Seed {
        fn len(&self) -> usize {
            32
        }
    }
    let mut seed = Zeroizing::new([0; 32]);
    Salt::new(HKDF_SHA256, &[])
        .extract(&secret.0)
        .expand(&[b"tmb1 sign"], Seed)
        .and_then(|okm| okm.fill(seed.as_mut_slice()))
        .expect("32 bytes are within what HKDF-SHA256 gives");
    Ed25519KeyPair::from_seed_unchecked(seed.as_slice()).expect("any 32 bytes are an Ed25519 seed")
}
