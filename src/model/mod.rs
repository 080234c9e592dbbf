//! What Tombolo is, as plain data and rules: read this folder first.
//!
//! Nothing here is async, does IO, reads a clock, draws a random number by itself, logs, or depends on
//! hash order: `now` and `rng` are arguments, and decisions are returned as data with their reason.

pub mod affinity;
pub mod backoff;
pub mod bands;
pub mod catalog;
pub mod check;
pub mod code;
pub mod congestion;
pub mod entrance;
pub mod failover;
pub mod ids;
pub mod import;
pub mod introduction;
pub mod limits;
pub mod liveness;
pub mod open;
pub mod outlier;
pub mod peer_state;
pub mod peering;
pub mod policy;
pub mod reach;
pub mod replication;
pub mod retry;
pub mod rotation;
pub mod session;
pub mod state;
pub mod token;
pub mod trust;
pub mod virtual_ip;
pub mod zone;

#[cfg(test)]
pub(crate) mod testing;
