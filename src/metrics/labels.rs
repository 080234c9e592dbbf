//! The labels of the families, each value out of a set that is bounded: names of peers, of at most
//! [`METRIC_SERVICES_MAX`](crate::model::limits::METRIC_SERVICES_MAX) services, and words.

use std::fmt::{self, Write as _};

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};

/// The value of `service` for all services beyond the bound.
pub(super) const OTHER_SERVICE: &str = "other";

/// Which certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Certificate {
    /// This gateway's own.
    Svid,
    /// A cluster's newest root.
    Root,
}

/// Words as label values.
macro_rules! words {
    ($($kind:ident { $($case:ident = $word:literal),* })*) => {
        $(impl $kind {
            /// The word in metrics.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$case => $word,)* }
            }
        }

        impl EncodeLabelValue for $kind {
            fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
                encoder.write_str(self.as_str())
            }
        })*
    };
}

words! {
    Certificate { Svid = "svid", Root = "root" }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Peer {
    pub(super) peer: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct PeerState {
    pub(super) peer: String,
    pub(super) state: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Catalog {
    pub(super) peer: String,
    pub(super) direction: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Expiry {
    pub(super) kind: Certificate,
    pub(super) cluster: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Connection {
    pub(super) service: String,
    pub(super) dst_cluster: String,
    pub(super) result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Service {
    pub(super) service: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Query {
    pub(super) r#type: &'static str,
    pub(super) rcode: &'static str,
}
