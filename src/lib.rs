//! Tombolo joins Kubernetes clusters and plain hosts into one clusterset.
//!
//! This page is the map. Modules stand on floors and import only from lower ones (`docs/architecture.md`
//! holds the table, `tests/tidy` enforces it). Start with [`model`]: the product is understood from it.

// Floor 0: plain data and rules.
pub mod model;

// Floor 1: typed seams to the world.
pub mod clock;
pub mod files;
pub mod net;
pub mod supervise;
// Floor 1: the outside world, each part of it once.
pub mod config;
// Floor 2.
pub mod identity;
// Floor 4: sinks and sources.
pub mod dns;
