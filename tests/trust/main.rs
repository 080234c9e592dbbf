//! Trust as attackers and operators meet it: real gateways as processes, strangers and hostile peers of our own.
//!
//! A test for each row of the trust-domain confusion matrix, and for each scenario of joining (J), of roots (K)
//! and of the verbs (V). Long waits are made short by configured lifetimes.
#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "the tests stand outside of the program: they open sockets and write state by themselves"
)]

mod authority;
mod dead_peers;
mod gates;
#[path = "../daemon/gateway.rs"]
#[expect(dead_code, reason = "shared with the tests of the daemon, which use more of it")]
mod gateway;
mod hostile;
mod joiner;
mod joins;
mod limits;
mod matrix;
#[path = "../daemon/names.rs"]
#[expect(dead_code, reason = "shared with the tests of the daemon, which use more of it")]
mod names;
mod roots;
mod rules;
mod stranger;
mod verbs;
mod workloads;
