//! Objects of the admin API as text for people: a file for each kind, one for words they share.
//!
//! Every state is shown with its age and its cause; what a person should look at comes last, behind a `!`.
//! Nothing here prints.

mod authz;
mod ca;
mod code;
mod explanation;
mod peers;
mod resolution;
mod services;
mod status;
mod tokens;
mod words;

#[cfg(test)]
mod tests;

pub(crate) use self::{
    authz::authz,
    ca::{ca, ca_awaited, ca_line},
    code::code,
    explanation::explanation,
    peers::{peer, peers, verification},
    resolution::resolution,
    services::{service, services},
    status::status,
    tokens::{new_token, tokens},
    words::count,
};
