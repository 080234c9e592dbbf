//! The messages of the control call, to the wire and back.

use federation_proto::v1;

use super::{WireError, at_most, row};
use crate::model::{
    ids::{ClusterId, GatewayId, Instance, Locality, Seq},
    limits,
    session::Holding,
};

/// The protocol versions this release speaks.
pub const PROTO_VERSION: u32 = 1;

/// The first message of either side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Greeting {
    /// Oldest and newest protocol version it speaks.
    pub versions: (u32, u32),
    /// What it calls its cluster.
    pub cluster: ClusterId,
    /// Its gateway.
    pub gateway: GatewayId,
    /// The run of its process.
    pub instance: Instance,
    /// How many shards it has.
    pub shards: u32,
    /// Number of this lane among those to the gateway; a higher one takes the place of a lower one.
    pub lane: u32,
    /// Generation of the peering as it knows it.
    pub generation: u64,
    /// Where it runs.
    pub locality: Locality,
    /// Where it can be dialled.
    pub endpoints: Vec<String>,
    /// New streams it takes on this lane in a second; 0 if it does not say.
    pub opens_per_second: u32,
}

impl Greeting {
    /// The version both sides speak, if there is one.
    #[must_use]
    pub fn common_version(&self) -> Option<u32> {
        let (oldest, newest) = self.versions;
        (oldest..=newest).contains(&PROTO_VERSION).then_some(PROTO_VERSION)
    }

    /// As the wire has it.
    #[must_use]
    pub fn to_proto(&self) -> v1::Hello {
        v1::Hello {
            proto_min: self.versions.0,
            proto_max: self.versions.1,
            features: Vec::new(),
            cluster: self.cluster.to_string(),
            gateway: self.gateway.to_string(),
            instance: self.instance.0.to_vec(),
            shards: self.shards,
            lane: self.lane,
            lanes_wanted: 1,
            generation: self.generation,
            locality: Some(row::locality_proto(&self.locality)),
            endpoints: self.endpoints.clone(),
            opens_per_second: self.opens_per_second,
        }
    }
}

/// Reads a `Hello`.
///
/// # Errors
/// [`WireError`].
pub fn hello(hello: v1::Hello) -> Result<Greeting, WireError> {
    Ok(Greeting {
        versions: (hello.proto_min, hello.proto_max),
        cluster: ClusterId::parse(&hello.cluster).map_err(WireError::id("cluster"))?,
        gateway: GatewayId::parse(&hello.gateway).map_err(WireError::id("gateway"))?,
        instance: Instance::from_slice(&hello.instance).map_err(WireError::id("instance"))?,
        shards: hello.shards,
        lane: hello.lane,
        generation: hello.generation,
        locality: row::locality(hello.locality)?,
        endpoints: endpoints(hello.endpoints)?,
        opens_per_second: hello.opens_per_second,
    })
}

/// Reads a list of `host:port`s; whether they may be dialled is for others to judge.
///
/// # Errors
/// [`WireError::TooMany`], or [`WireError::Range`] for one that is no address.
pub fn endpoints(addresses: Vec<String>) -> Result<Vec<String>, WireError> {
    at_most("endpoints", addresses.len(), limits::PEER_ENDPOINTS_MAX)?;
    if addresses.iter().all(|address| crate::model::token::is_address(address)) {
        Ok(addresses)
    } else {
        Err(WireError::Range("endpoints"))
    }
}

/// Progress, as the other side reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeartbeatFacts {
    /// Newest seq of its catalog.
    pub head: Seq,
    /// Newest seq of ours that it applied.
    pub applied: Seq,
    /// Sequence of its bundle.
    pub bundle_sequence: u64,
    /// Digest of our roots as it uses them, if it told.
    pub our_roots: Option<[u8; 32]>,
    /// Its wall clock.
    pub unix_ms: i64,
    /// Why it neither serves us nor takes our exports; a reason of a later release is none.
    pub holding: Option<Holding>,
}

/// Reads a heartbeat; total.
#[must_use]
pub fn heartbeat(beat: &v1::Heartbeat) -> HeartbeatFacts {
    HeartbeatFacts {
        head: beat.head_seq,
        applied: beat.applied_seq,
        bundle_sequence: beat.bundle_sequence,
        our_roots: beat.your_roots_sha256.as_slice().try_into().ok(),
        unix_ms: beat.unix_ms,
        holding: match beat.holding() {
            v1::Holding::Unspecified => None,
            v1::Holding::Paused => Some(Holding::Paused),
            v1::Holding::Pending => Some(Holding::Pending),
        },
    }
}
