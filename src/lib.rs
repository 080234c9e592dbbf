//! Tombolo joins Kubernetes clusters and plain hosts into one clusterset.
//!
//! This page is the map. Modules stand on floors and import only from lower ones (`docs/architecture.md`
//! holds the table, `tests/tidy` enforces it). Start with [`model`]: the product is understood from it.

// Floor 0: plain data and rules.
pub mod model;

// Floor 1: the outside world, each part of it once.
pub mod clock;
pub mod config;
pub mod files;
pub mod metrics;
pub mod net;
pub mod supervise;
pub mod wire;

// Floor 2: who we are, and what we hold to be true.
pub mod identity;
pub mod ledger;
pub mod store;

// Floor 3: connections to peers.
pub mod link;

// Floor 4: sources and sinks.
pub mod admin;
pub mod checks;
pub mod dns;
pub mod kubernetes;
pub mod peer;
pub mod proxy;

// Floor 5: the only place that constructs and wires.
pub mod daemon;

// Floor 6: the command line.
pub mod cli;
