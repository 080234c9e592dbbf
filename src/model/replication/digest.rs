//! A digest of a set of rows that does not depend on their order, so that it can be kept up to date row by
//! row: the sum, modulo 2^256, of the rows' SHA-256 (P14).
//!
//! It finds what went wrong between two honest gateways. It is no proof against an exporter, who may say
//! what it likes of its own catalog anyway.

use aws_lc_rs::digest::{Context, SHA256};

use crate::model::{catalog::Row, ids::Locality};

/// Sum of row hashes; [`Digest::EMPTY`] for no row. Its limbs are little-endian, the lowest first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Digest([u64; 4]);

impl Digest {
    /// The digest of no rows.
    pub const EMPTY: Self = Self([0; 4]);

    /// The hash of one row: name, seq and content.
    ///
    /// What is hashed is fixed for `tombolo.v1`: fields that later releases add to a row stay outside, or
    /// two releases would for ever disagree.
    #[must_use]
    pub fn of(row: &Row) -> Self {
        let mut hash = RowHash(Context::new(&SHA256));
        hash.text("tombolo/row/1");
        hash.text(row.name.namespace.as_str());
        hash.text(row.name.name.as_str());
        hash.number(row.seq);
        hash.bytes(&row.export_id.0);
        hash.count(row.ports.len());
        for port in &row.ports {
            hash.text(&port.name);
            hash.number(port.number.into());
            hash.text(&port.protocol.to_string());
            hash.text(&port.app_protocol);
        }
        hash.count(row.zones.len());
        for zone in &row.zones {
            hash.locality(&zone.locality);
            hash.number(zone.ready.into());
            hash.number(zone.total.into());
        }
        for texts in [&row.labels, &row.annotations] {
            hash.count(texts.len());
            for (key, value) in texts {
                hash.text(key);
                hash.text(value);
            }
        }
        hash.number(row.created.0);
        hash.number(u64::from(row.headless) | u64::from(row.idempotent) << 1);
        hash.count(row.endpoints.len());
        for endpoint in &row.endpoints {
            hash.text(endpoint.hostname.as_str());
            hash.locality(&endpoint.locality);
            hash.number(endpoint.ready.into());
        }
        Self::from_bytes(hash.0.finish().as_ref().try_into().expect("SHA-256 has 32 bytes"))
    }

    /// With the rows of `other` added.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        let mut carry = false;
        Self(std::array::from_fn(|limb| {
            let (sum, over) = self.0[limb].overflowing_add(other.0[limb]);
            let (sum, over_again) = sum.overflowing_add(u64::from(carry));
            carry = over || over_again;
            sum
        }))
    }

    /// With the rows of `other` taken out.
    #[must_use]
    pub fn minus(self, other: Self) -> Self {
        let mut borrow = false;
        Self(std::array::from_fn(|limb| {
            let (rest, under) = self.0[limb].overflowing_sub(other.0[limb]);
            let (rest, under_again) = rest.overflowing_sub(u64::from(borrow));
            borrow = under || under_again;
            rest
        }))
    }

    /// The form on the wire.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 32] {
        let mut bytes = [0; 32];
        for (chunk, limb) in bytes.chunks_exact_mut(8).zip(self.0) {
            chunk.copy_from_slice(&limb.to_le_bytes());
        }
        bytes
    }

    /// Reads the form on the wire.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(std::array::from_fn(|limb| {
            u64::from_le_bytes(std::array::from_fn(|byte| bytes[limb * 8 + byte]))
        }))
    }
}

impl std::iter::Sum for Digest {
    fn sum<I: Iterator<Item = Self>>(rows: I) -> Self {
        rows.fold(Self::EMPTY, Self::plus)
    }
}

/// Feeds fields so that no two rows give the same bytes: every text goes with its length.
struct RowHash(Context);

impl RowHash {
    fn number(&mut self, number: u64) {
        self.0.update(&number.to_be_bytes());
    }

    fn count(&mut self, count: usize) {
        self.number(count as u64);
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.count(bytes.len());
        self.0.update(bytes);
    }

    fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }

    fn locality(&mut self, locality: &Locality) {
        self.text(&locality.region);
        self.text(&locality.zone);
    }
}
