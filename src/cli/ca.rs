//! `tombolo ca`: shows the cluster's roots, and rotates them.

use std::time::Duration;

use tokio::time::sleep;

use super::{
    args::{CaVerb, Output, SharedArgs},
    client::{Client, REQUEST_TIMEOUT},
    output::{self, Printer, not_understood},
    render,
};
use crate::{
    admin::api::CaStatus,
    clock::Clock,
    model::{code::Problem, rotation::Phase},
};

/// How often a rotation is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// `tombolo ca`.
pub(super) async fn run(verb: CaVerb, shared: &SharedArgs, printer: Printer) -> Result<(), Problem> {
    let client = Client::find(shared, REQUEST_TIMEOUT).await?;
    let body = match verb {
        CaVerb::Status => client.get("/v1/ca").await?,
        CaVerb::Rotate { .. } => client.post("/v1/ca/rotate", &serde_json::json!({})).await?,
    };
    let now = Clock::system().wall();
    printer.body(&body, |style| Ok(render::ca(&read(&body)?, now, style)))?;
    match verb {
        CaVerb::Rotate { watch: true } => watch(&client, printer, read(&body)?).await,
        _ => Ok(()),
    }
}

/// Tells each change until the old root is retired. Whoever goes away stops nothing.
async fn watch(client: &Client, printer: Printer, mut seen: CaStatus) -> Result<(), Problem> {
    while seen.phase != Phase::Settled.as_str() {
        sleep(LOOK_INTERVAL).await;
        let body = client.get("/v1/ca").await?;
        let newest = read(&body)?;
        let (before, after) = (render::ca_line(&seen), render::ca_line(&newest));
        if before != after {
            match printer.form() {
                Output::Table => output::line(&after),
                _ => printer.body(&body, |_| Ok(String::new()))?,
            }
        }
        seen = newest;
    }
    Ok(())
}

fn read(body: &str) -> Result<CaStatus, Problem> {
    serde_json::from_str(body).map_err(not_understood)
}
