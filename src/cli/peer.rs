//! `tombolo peer VERB` and `authz explain`: ask the gateway, and say what it answered.

use super::{
    args::{PeerVerb, SharedArgs},
    client::{Client, REQUEST_TIMEOUT, encoded},
    join,
    output::{Printer, not_understood},
    render, verbs,
};
use crate::{
    admin::api::{AuthzExplanation, PeerWish, Verification},
    model::{code::Problem, ids::ClusterId},
};

/// `tombolo peer`.
pub(super) async fn run(verb: &PeerVerb, shared: &SharedArgs, printer: Printer) -> Result<(), Problem> {
    let (action, peer, force) = match verb {
        PeerVerb::ReTrust(args) => return join::re_trust(args, shared, printer).await,
        PeerVerb::Verify(named) => return verify(&named.peer, shared, printer).await,
        PeerVerb::Pause(named) => ("pause", &named.peer, false),
        PeerVerb::Resume(named) => ("resume", &named.peer, false),
        PeerVerb::Remove { peer, force } => ("remove", peer, *force),
        PeerVerb::Revoke(named) => ("revoke", &named.peer, true),
        PeerVerb::Forget(named) => ("forget", &named.peer, false),
        PeerVerb::Approve(named) => ("approve", &named.peer, false),
    };
    let client = Client::find(shared, REQUEST_TIMEOUT).await?;
    let body = client.post(&format!("/v1/peers/{peer}/{action}"), &PeerWish { force }).await?;
    verbs::done(&body, printer)
}

/// `tombolo authz explain`.
pub(super) async fn authz(
    from: &str,
    to: &str,
    shared: &SharedArgs,
    printer: Printer,
) -> Result<(), Problem> {
    let client = Client::find(shared, REQUEST_TIMEOUT).await?;
    let body = client.get(&format!("/v1/authz?from={}&to={}", encoded(from), encoded(to))).await?;
    printer.body(&body, |style| {
        let found: AuthzExplanation = serde_json::from_str(&body).map_err(not_understood)?;
        Ok(render::authz(&found, style))
    })
}

async fn verify(peer: &ClusterId, shared: &SharedArgs, printer: Printer) -> Result<(), Problem> {
    let client = Client::find(shared, REQUEST_TIMEOUT).await?;
    let body = client.post(&format!("/v1/peers/{peer}/verify"), &PeerWish::default()).await?;
    printer.body(&body, |style| {
        let verification: Verification = serde_json::from_str(&body).map_err(not_understood)?;
        Ok(render::verification(&verification, style))
    })
}
