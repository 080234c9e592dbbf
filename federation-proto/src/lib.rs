//! The wire contract between Tombolo gateways, generated from `proto/`. No logic lives here.

/// Package `tombolo.v1`.
#[expect(missing_docs, clippy::all, reason = "generated code")]
pub mod v1 {
    tonic::include_proto!("tombolo.v1");
}
