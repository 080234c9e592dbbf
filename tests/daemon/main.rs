//! Real gateways as separate processes on loopback, used by the clumsy, the hostile and the unlucky.
//!
//! Every test has clusters of its own: state folders, free ports, a range of virtual IPs. What is asserted is
//! what a person sees: codes, words, exit codes, answers on the wire, and what lies in the state folder.
#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "the tests stand outside of the program: they open sockets and spoil files by themselves"
)]

mod config;
mod dns;
mod exports;
mod flood;
mod gateway;
mod kills;
mod names;
mod replicas;
mod signals;
mod state;
mod three;
mod tokens;
