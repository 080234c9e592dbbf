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
    let table = matches!(printer.form(), Output::Table);
    let mut told = render::ca_awaited(&seen);
    if table && seen.phase != Phase::Settled.as_str() {
        output::line(
            "\nThe gateway goes on by itself: this command only looks on, and may be left at any time.",
        );
    }
    while seen.phase != Phase::Settled.as_str() {
        sleep(LOOK_INTERVAL).await;
        let body = client.get("/v1/ca").await?;
        let newest = read(&body)?;
        let awaited = render::ca_awaited(&newest);
        if told != awaited {
            match table {
                true => output::line(&render::ca_line(&newest, Clock::system().wall())),
                false => printer.body(&body, |_| Ok(String::new()))?,
            }
        }
        (seen, told) = (newest, awaited);
    }
    Ok(())
}

fn read(body: &str) -> Result<CaStatus, Problem> {
    serde_json::from_str(body).map_err(not_understood)
}
