//! Two gateways as real processes, one with many exports: how long the other takes to learn them all, how
//! long one change takes to reach a DNS answer there, and what holding them costs.
//!
//! `cargo bench --bench catalog -- [--exports N] [--changes N] [-o json]`. Times are taken outside of both
//! processes: from the request on one gateway's admin socket to the answer of the other gateway's DNS.
#![expect(clippy::print_stdout, reason = "a program whose output is its purpose")]
#![expect(clippy::disallowed_methods, clippy::disallowed_types, reason = "it stands outside of the gateway")]

mod figures;
mod gateway;
mod usage;

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use clap::{Parser, ValueEnum};
use serde_json::{Value, json};

use figures::{Samples, Unit, lines};

const MILLISECONDS: Unit = Unit { name: "ms", in_a_second: 1e3 };
use gateway::{Gateway, finish, wait};

/// The namespace of all services here.
const NAMESPACE: &str = "bench";
/// The service that comes and goes.
const PROBE: &str = "probe";
/// Between two changes; no divisor of the store's interval, so that its writing falls between and upon them.
const PAUSE: Duration = Duration::from_millis(23);

/// Files that an empty gateway may have had open for a moment: connections of whoever asked.
const PASSING_FILES: usize = 8;

#[derive(Parser)]
struct Wanted {
    /// Services that one gateway exports
    #[arg(long, default_value_t = 10_000)]
    exports: usize,
    /// Changes of one service, after the first sync; half of them make it appear
    #[arg(long, default_value_t = 400)]
    changes: usize,
    /// The binary, if it is another one than this build's
    #[arg(long, default_value = env!("CARGO_BIN_EXE_tombolo"))]
    tombolo: PathBuf,
    /// Form of the output
    #[arg(short, long, value_enum, default_value = "table")]
    output: Output,
    /// What cargo says when it is `cargo bench`
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Table,
    Json,
}

fn main() -> Result<()> {
    let wanted = Wanted::parse();
    if !wanted.bench {
        return Ok(()); // `cargo test --benches`: it is enough that it builds
    }
    ensure!(wanted.exports > 0, "at least one export is needed");
    let folder = tempfile::tempdir()?;
    let figures = measure(&wanted, folder.path())?;
    match wanted.output {
        Output::Json => println!("{figures}"),
        Output::Table => lines("", &figures).iter().for_each(|line| println!("{line}")),
    }
    Ok(())
}

fn measure(wanted: &Wanted, folder: &Path) -> Result<Value> {
    let begun = Instant::now();
    // The last of all is exported by command, since only such an export can come and go.
    let exporter = Gateway::start(&wanted.tombolo, folder, "east", &declared(wanted.exports - 1))?;
    let exporter_ready = begun.elapsed();
    finish(export(&exporter)?)?;
    let mut importer = Gateway::start(&wanted.tombolo, folder, "west", "")?;
    let empty = importer.usage()?;

    let token = exporter.token()?;
    let begun = Instant::now();
    let mut joining = importer.join(&token)?;
    let last = if wanted.exports > 1 { service(wanted.exports - 2) } else { PROBE.to_owned() };
    wait("the last name in DNS", || importer.has(&dns_name(&last)))?;
    let last_name = begun.elapsed();
    let imported = |status: &Value| status["imported"].as_u64() == Some(wanted.exports as u64);
    wait("every export", || Ok(imported(&importer.get("/v1/status")?)))?;
    let imported = begun.elapsed();
    ensure!(joining.wait()?.success(), "`tombolo join` failed");
    let joined = begun.elapsed();
    let files = (empty.files + wanted.exports).saturating_sub(PASSING_FILES);
    wait("a listener each", || Ok(importer.usage()?.files >= files))?;
    let listening = begun.elapsed();
    sleep(Duration::from_secs(6)); // until what was learnt is written to disk
    let synced = importer.usage()?;

    let (appear, vanish, answered) = changes(wanted.changes, &exporter, &mut importer)?;
    let after = importer.usage()?;
    Ok(json!({
        "exports": wanted.exports,
        "first_sync": {
            "last_name_in_dns_ms": MILLISECONDS.of(last_name),
            "all_imported_ms": MILLISECONDS.of(imported),
            "join_says_done_ms": MILLISECONDS.of(joined),
            "all_listening_ms": MILLISECONDS.of(listening),
        },
        "one_change": {
            "until_it_resolves": appear.json(MILLISECONDS),
            "until_it_is_denied": vanish.json(MILLISECONDS),
            "until_the_admin_api_answers": answered.json(MILLISECONDS),
        },
        "importer": { "empty": empty.json(), "synced": synced.json(), "after_changes": after.json() },
        "exporter": { "ready_ms": MILLISECONDS.of(exporter_ready), "after_changes": exporter.usage()?.json() },
    }))
}

/// Takes the probe back and exports it again, many times; times each until the importer's DNS says so.
fn changes(count: usize, exporter: &Gateway, importer: &mut Gateway) -> Result<(Samples, Samples, Samples)> {
    let (mut appear, mut vanish, mut answered) = (Vec::new(), Vec::new(), Vec::new());
    let name = dns_name(PROBE);
    for change in 0..count {
        sleep(PAUSE);
        let comes = change % 2 == 1;
        let begun = Instant::now();
        let request = if comes { export(exporter)? } else { unexport(exporter)? };
        wait("a change", || Ok(importer.has(&name)? == comes))?;
        let took = begun.elapsed();
        if comes {
            appear.push(took)
        } else {
            vanish.push(took)
        }
        finish(request)?;
        answered.push(begun.elapsed());
    }
    Ok((Samples::from_iter(appear), Samples::from_iter(vanish), Samples::from_iter(answered)))
}

fn export(exporter: &Gateway) -> Result<std::os::unix::net::UnixStream> {
    let wish = json!({ "name": format!("{NAMESPACE}/{PROBE}"), "to": ["127.0.0.1:9"], "port": 8080 });
    exporter.begin("POST", "/v1/exports", Some(&wish))
}

fn unexport(exporter: &Gateway) -> Result<std::os::unix::net::UnixStream> {
    exporter.begin("DELETE", &format!("/v1/exports/{PROBE}.{NAMESPACE}"), None)
}

fn service(number: usize) -> String {
    format!("service-{number:06}")
}

fn dns_name(service: &str) -> String {
    format!("{service}.{NAMESPACE}.svc.clusterset.local.")
}

/// `[[export]]` tables of services with one port and one endpoint each, which nobody connects to.
fn declared(count: usize) -> String {
    let mut text = String::new();
    for number in 0..count {
        let name = service(number);
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "[[export]]\nnamespace = \"{NAMESPACE}\"\nname = \"{name}\"\n\
             [[export.port]]\nname = \"http\"\nport = 8080\nto = [\"127.0.0.1:9\"]\n"
        );
    }
    text
}
