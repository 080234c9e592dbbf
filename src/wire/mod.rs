//! Between the wire's messages and the model's types, both ways; nothing else.
//!
//! What comes in is foreign: each conversion is total, keeps to the caps of `model::limits`, and names the
//! field it refuses. What goes out cannot fail.

mod control;
mod join;
mod replication;
mod row;

use crate::model::{ids::IdError, trust::BundleRefusal};

pub use self::{
    control::{Greeting, HeartbeatFacts, PROTO_VERSION, endpoints, heartbeat, hello},
    join::{
        JoinAsk, JoinGrant, JoinReply, OfferedBundle, cluster_record, cluster_record_proto, join_ask,
        join_reply, join_request_proto, join_response_proto,
    },
    replication::{exporter_message, exporter_proto, importer_message, importer_proto},
    row::{locality, locality_proto},
};

/// A message that does not mean what it should.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// A field that must be there is not.
    #[error("the field {0} is missing")]
    Missing(&'static str),
    /// A field that is not what its name says.
    #[error("the field {field} is wrong: {error}")]
    Id {
        /// Which.
        field: &'static str,
        /// Why.
        error: IdError,
    },
    /// A number or text outside its range.
    #[error("the field {0} is out of range")]
    Range(&'static str),
    /// More of something than is taken.
    #[error("{field} holds {found}, at most {limit} are taken")]
    TooMany {
        /// Which.
        field: &'static str,
        /// How many came.
        found: usize,
        /// How many are taken.
        limit: usize,
    },
    /// A bundle that cannot be one.
    #[error("the bundle is refused: {0}")]
    Bundle(#[from] BundleRefusal),
    /// A kind of message this release does not know.
    #[error("a message of an unknown kind")]
    Unknown,
}

impl WireError {
    fn id(field: &'static str) -> impl FnOnce(IdError) -> Self {
        move |error| Self::Id { field, error }
    }
}

fn at_most(field: &'static str, found: usize, limit: usize) -> Result<(), WireError> {
    if found > limit { Err(WireError::TooMany { field, found, limit }) } else { Ok(()) }
}
